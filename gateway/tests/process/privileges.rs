//! The program with no more rights in Postgres than docs/PRIVILEGES.md grants.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use doorbuster_sandbox::provider::{FakeProvider, FakeProviderOptions};
use doorbuster_sandbox::shared;
use serde_json::Value;
use tokio_postgres::NoTls;

use super::program::{Running, configured, output, with_provider};
use crate::support::{client, empty_database, token, until};

#[tokio::test]
async fn a_role_with_the_documented_grants_sells_and_charges_and_cannot_change_the_schema() {
    let (url, unique) = (empty_database().await, shared::unique());
    let [make_roles, grant] = blocks().try_into().expect("two blocks of SQL: roles, and their grants");
    let (owner, app) = (format!("owner_{unique}"), format!("app_{unique}"));
    let named = |sql: &str| sql.replace("doorbuster_owner", &owner).replace("doorbuster_app", &app);
    sql(&url, &named(&make_roles)).await;
    let as_role = |role: &str| url.replacen("://doorbuster@", &format!("://{role}@"), 1);
    assert_ne!(as_role(&app), url);

    let run = async |role: &str, arguments: &[&str]| {
        let output = output(configured(arguments, &as_role(role)).await).await;
        let said = String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap();
        (output.status.code(), said)
    };
    let (code, said) = run(&app, &["serve", "--no-migrate"]).await;
    assert!(code == Some(1) && said.contains("doorbuster migrate"), "the database is empty: {said}");
    assert_eq!(run(&owner, &["migrate"]).await.0, Some(0));
    sql(&as_role(&owner), &named(&grant)).await;

    let drop = format!("drop-{unique}");
    let create = ["drop", "create", "--name", &drop, "--product", "Shoe", "--price-minor", "9900", "--stock", "5"];
    let (code, said) = run(&app, &create).await;
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = run(&app, &["drop", "open", &drop]).await;
    assert_eq!(code, Some(0), "{said}");

    let provider = FakeProvider::start(FakeProviderOptions::default()).await.unwrap();
    let mut serve = configured(&["serve", "--no-migrate", "--with-workers"], &as_role(&app)).await;
    let shop = Running::start(with_provider(&mut serve, &provider)).await;
    let (http, base) = (client(), format!("http://{}/v1", shop.public_addr));
    let profile = r#"{"payment_method":"pm_card_visa","email":"ada@example.com","ship_to":{"name":"Ada","line1":"1 Road",
        "city":"Köln","postal_code":"50667","country":"DE"}}"#;
    let put = http.put(format!("{base}/me/checkout-profile")).bearer_auth(token("ada")).body(profile);
    let put = put.header("content-type", "application/json").send().await.unwrap();
    assert!(put.status().is_success(), "{}", put.text().await.unwrap());
    let claim = http.post(format!("{base}/drops/{drop}/claims")).bearer_auth(token("ada")).body(r#"{"quantity":1}"#);
    let claim = claim.header("content-type", "application/json").header("idempotency-key", "first").send().await;
    assert_eq!(claim.unwrap().status(), 201);
    until("the order is charged", async || {
        let (_, said) = run(&app, &["order", "list", "--json"]).await;
        let shown: Value = serde_json::from_str(&said).unwrap();
        shown["orders"][0]["status"] == "CONFIRMED"
    })
    .await;
    assert_eq!(provider.captures().len(), 1);
    let (code, said) = run(&app, &["audit"]).await;
    assert!(code == Some(0) && said.contains("0 violations"), "{said}");
    shop.kill().await;

    let (code, said) = run(&app, &["migrate"]).await;
    assert!(code == Some(1) && said.contains("permission denied"), "{said}");
    for forbidden in ["update journal set amount_minor = 1", "delete from journal", "drop table orders"] {
        let (role, connection) = tokio_postgres::connect(&as_role(&app), NoTls).await.unwrap();
        let driver = tokio::spawn(connection);
        let refused = role.batch_execute(forbidden).await.expect_err(forbidden);
        assert_eq!(refused.code().map(tokio_postgres::error::SqlState::code), Some("42501"), "{forbidden}: {refused}");
        std::mem::drop(role);
        driver.await.unwrap().unwrap();
    }
}

/// Read from the statements themselves: a new one without its grant would fail on some rare day.
#[test]
fn the_grants_are_those_that_the_statements_need_and_no_others() {
    let mut sources = Vec::new();
    collect(&root().join("engine/src/ledger"), &mut sources);
    let text = sources.iter().map(|path| fs::read_to_string(path).unwrap()).collect::<String>();
    // Some statements stand on one line with their names, as `"-- name\nselect …"`.
    let text = text.replace("\\n", " ");
    let words = text.split_whitespace().map(|word| word.trim_matches(['"', ';', '(', ')'])).collect::<Vec<_>>();
    let tables = tables();
    let mut needed = BTreeSet::new();
    let mut inserted = None;
    for at in 0..words.len() - 2 {
        let table = |offset: usize| {
            let word = words[at + offset].split(['(', ' ', ';', '\\', '"']).next().unwrap_or_default();
            tables.get(word).cloned()
        };
        match (words[at], words[at + 1]) {
            ("insert", "into") => {
                inserted = table(2).inspect(|table| {
                    needed.insert(("insert", table.clone()));
                })
            }
            ("delete", "from") => needed.extend(table(2).map(|table| ("delete", table))),
            ("do", "update") => needed.extend(inserted.clone().map(|table| ("update", table))),
            ("update", _) => needed.extend(table(1).map(|table| ("update", table))),
            _ => {}
        }
    }
    let [_, grant] = blocks().try_into().expect("two blocks of SQL");
    let granted = grant.split(';').filter_map(|statement| {
        let (verb, rest) = statement.trim().strip_prefix("grant ")?.split_once(" on ")?;
        let verb = ["insert", "update", "delete"].into_iter().find(|known| *known == verb)?;
        let (named, _) = rest.split_once(" to ")?;
        Some(named.split(',').map(|table| (verb, table.trim().to_owned())).collect::<Vec<_>>())
    });
    let granted = granted.flatten().collect::<BTreeSet<_>>();
    assert!(needed.len() > 60, "only {} were found", needed.len());
    let missing = needed.difference(&granted).collect::<Vec<_>>();
    let unused = granted.difference(&needed).collect::<Vec<_>>();
    assert!(missing.is_empty() && unused.is_empty(), "not granted: {missing:?}\nnot needed: {unused:?}");
}

fn tables() -> BTreeSet<String> {
    let mut files = Vec::new();
    collect(&root().join("migrations"), &mut files);
    let text = files.iter().map(|path| fs::read_to_string(path).unwrap()).collect::<String>();
    let words = text.split_whitespace().collect::<Vec<_>>();
    let made = words.windows(3).filter(|three| three[0] == "create" && three[1] == "table");
    made.map(|three| three[2].trim_end_matches('(').to_owned()).collect()
}

fn collect(folder: &Path, files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() {
            collect(&entry, files);
        } else {
            files.push(entry);
        }
    }
}

fn blocks() -> Vec<String> {
    let document = fs::read_to_string(root().join("docs/PRIVILEGES.md")).unwrap();
    let blocks = document.split("```sql\n").skip(1);
    blocks.map(|block| block.split("```").next().unwrap().to_owned()).collect()
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap().to_owned()
}

async fn sql(database_url: &str, sql: &str) {
    let (client, connection) = tokio_postgres::connect(database_url, NoTls).await.unwrap();
    let driver = tokio::spawn(connection);
    client.batch_execute(sql).await.unwrap();
    drop(client);
    driver.await.unwrap().unwrap();
}
