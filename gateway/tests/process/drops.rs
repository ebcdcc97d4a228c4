//! Drops by hand: a draft is changed and deleted, drops are listed in pages, shown and watched.

use std::process::Stdio;
use std::time::Duration;

use doorbuster_engine::ledger::rates::RateRow;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};

use super::program::{PATIENCE, configured, output};
use crate::http::shop::shop;
use crate::support::{Sale, count, engine, execute, make_drop, new_database, until};

async fn run(database_url: &str, arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = output(configured(arguments, database_url).await).await;
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code(), text(output.stdout), text(output.stderr))
}

fn json(text: &str) -> Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[tokio::test]
async fn a_draft_is_changed_and_deleted_and_what_was_opened_is_not() {
    let (database_url, name) = new_database().await;
    let engine = engine(&database_url).await;
    make_drop(&engine, &name, &Sale { is_open: false, ..Sale::default() }).await;
    let later = ["drop", "update", &name, "--opens-at", "2030-01-01T00:00:00Z"];
    let (code, _, error) = run(&database_url, &later).await;
    assert!(code == Some(1) && error.contains("buyers need at least ten minutes to pay"), "{error}");
    let terms = ["--price", "shoe-42=9900", "--limit", "1", "--pay-by", "2030-01-02T00:00:00Z"];
    let update = [&later[..], &terms].concat();
    let (code, said, error) = run(&database_url, &[&update[..], &["--json"]].concat()).await;
    assert_eq!(code, Some(0), "{error}");
    let shown = json(&said);
    assert_eq!((&shown["limit"], &shown["opens_at"]), (&1.into(), &"2030-01-01T00:00:00Z".into()));
    assert_eq!(shown["variants"][0]["price"]["amount_minor"], 9_900);
    let (code, said, _) = run(&database_url, &["drop", "update", &name, "--opens-at", "by-hand"]).await;
    assert!(code == Some(0) && said.contains("opens by hand") && said.contains("99.00"), "{said}");
    let (code, _, error) = run(&database_url, &["drop", "update", &name]).await;
    assert_eq!(code, Some(2), "{error}");
    let (code, _, error) = run(&database_url, &["drop", "update", &name, "--price-minor=-1"]).await;
    assert!(code == Some(1) && error.contains("cannot be negative"), "{error}");

    engine.open_drop(&name.parse().unwrap()).await.unwrap().unwrap();
    for arguments in [&["drop", "delete", &name][..], &["drop", "update", &name, "--limit", "3"]] {
        let (code, _, error) = run(&database_url, arguments).await;
        assert!(code == Some(1) && error.contains("is open: only a draft can be changed or deleted"), "{error}");
    }

    let other = format!("{name}-b");
    let create = ["drop", "create", "--name", &other, "--product", "Boot", "--stock", "1", "--price-minor", "100"];
    let (code, said, _) = run(&database_url, &create).await;
    assert!(code == Some(0) && said.contains("1 unit in 2 warehouses"), "{said}");
    assert_eq!(run(&database_url, &["drop", "delete", &other]).await.1, format!("{other} is deleted\n"));
    assert_eq!(count(&database_url, "select count(*) from drops").await, 1);
    let (code, _, error) = run(&database_url, &["drop", "delete", &other]).await;
    assert!(code == Some(1) && error.contains("there is no drop named"), "{error}");
}

#[tokio::test]
async fn drops_are_listed_in_pages_the_newest_first() {
    let (database_url, name) = new_database().await;
    let engine = engine(&database_url).await;
    let (empty, said, _) = run(&database_url, &["drop", "list"]).await;
    assert_eq!((empty, said.lines().count()), (Some(0), 1), "a header, and nothing below it");
    for (number, is_open) in [(1, true), (2, false), (3, false)] {
        let variants = vec![(["sku-1", "sku-2", "sku-3"][number - 1], 20)];
        make_drop(&engine, &format!("{name}-{number}"), &Sale { variants, is_open, ..Sale::default() }).await;
    }
    let (_, first, _) = run(&database_url, &["drop", "list", "--limit", "2"]).await;
    let lines = first.lines().collect::<Vec<_>>();
    assert!(lines[0].starts_with("NAME") && lines[1].contains("-3") && lines[2].contains("-2"), "{first}");
    assert_eq!(lines[3..], [format!("more: --after {name}-2")], "{first}");
    let after = format!("{name}-2");
    let (_, second, _) = run(&database_url, &["drop", "list", "--limit", "2", "--after", &after, "--json"]).await;
    let second = json(&second);
    let drops = second["drops"].as_array().unwrap();
    assert_eq!((drops.len(), &second["next_after"]), (1, &Value::Null), "{second}");
    assert_eq!((&drops[0]["state"], &drops[0]["stock_units"]), (&"open".into(), &20.into()), "{second}");
    let (_, drafts, _) = run(&database_url, &["drop", "list", "--state", "draft", "--json"]).await;
    assert_eq!(json(&drafts)["drops"].as_array().unwrap().len(), 2);
    let (code, _, error) = run(&database_url, &["drop", "list", "--after", "nothing"]).await;
    assert!(code == Some(1) && error.contains("there is no drop named nothing"), "{error}");
}

#[tokio::test]
async fn a_drop_is_shown_with_its_units_by_size_and_unknown_is_not_zero() {
    let (database_url, name) = new_database().await;
    let sale = Sale { variants: vec![("shoe-42", 20), ("shoe-43", 7)], ..Sale::default() };
    make_drop(&engine(&database_url).await, &name, &sale).await;
    let (code, said, error) = run(&database_url, &["drop", "show", &name]).await;
    assert_eq!(code, Some(0), "{error}");
    for expected in [&["shoe-43", "149.00", "EUR", "7", "7", "0", "0", "0"][..], &["all", "27", "27", "0", "0", "0"]] {
        assert!(said.lines().any(|line| line.split_whitespace().eq(expected.iter().copied())), "{expected:?}:\n{said}");
    }
    assert!(said.contains("no orders yet"), "{said}");
    let (_, said, _) = run(&database_url, &["drop", "show", &name, "--json"]).await;
    let shown = json(&said);
    assert_eq!(shown["units"][0]["left_units"], 20, "{said}");
    assert_eq!(shown["account"]["orders"], serde_json::json!({}), "{said}");

    let mut blind = configured(&["drop", "watch", &name, "--once", "--json"], &database_url).await;
    blind.env("DOORBUSTER_REDIS_URL", "redis://127.0.0.1:1");
    let blind = output(blind).await;
    let shown = json(&String::from_utf8(blind.stdout).unwrap());
    assert_eq!((blind.status.code(), &shown["variants"][0]["left_units"]), (Some(0), &Value::Null), "{shown}");
    assert_eq!(
        (&shown["variants"][0]["sold_units"], shown["unread"].as_array().unwrap().len()),
        (&0.into(), 1),
        "{shown}"
    );
}

#[tokio::test]
async fn watching_goes_on_until_it_is_interrupted() {
    let (database_url, name) = new_database().await;
    make_drop(&engine(&database_url).await, &name, &Sale::default()).await;
    let mut command = configured(&["drop", "watch", &name, "--json"], &database_url).await;
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let line = tokio::time::timeout(PATIENCE, lines.next_line()).await.expect("it looks").unwrap().unwrap();
    assert_eq!(json(&line)["variants"][0]["left_units"], 20, "{line}");
    let second = tokio::time::timeout(PATIENCE, lines.next_line()).await.expect("it looks again").unwrap();
    assert!(second.is_some());
    let pid = child.id().expect("nobody has waited for it yet");
    kill(Pid::from_raw(pid.cast_signed()), Signal::SIGINT).unwrap();
    let ended = tokio::time::timeout(Duration::from_secs(10), child.wait()).await.expect("it ends").unwrap();
    assert_eq!(ended.code(), Some(0));
}

#[tokio::test]
async fn a_table_of_rates_without_any_row_is_taken_only_by_who_says_so() {
    let (database_url, _) = new_database().await;
    let folder = tempfile::tempdir().unwrap();
    let import = async |table: &str, flags: &[&str]| {
        let file = folder.path().join("rates.json");
        std::fs::write(&file, table).unwrap();
        run(&database_url, &[&["rates", "import", file.to_str().unwrap()], flags].concat()).await
    };
    let rate = r#"[{"country":"DE","currency":"EUR","tax_basis_points":1900,"shipping_minor":490}]"#;
    assert_eq!(import(rate, &[]).await.0, Some(0));
    let (code, _, error) = import("[]", &[]).await;
    assert!(code == Some(1) && error.contains("--none"), "{error}");
    let (code, _, error) = import(&rate.replace("DE", "UK"), &[]).await;
    assert!(code == Some(1) && error.contains("for UK that is GB"), "{error}");
    assert_eq!(count(&database_url, "select count(*) from rates where country = 'DE'").await, 1);
    assert_eq!(import("[]", &["--none"]).await.0, Some(0));
    assert_eq!(count(&database_url, "select count(*) from rates").await, 0);
}

#[tokio::test]
async fn when_a_command_has_moved_a_drop_every_click_is_answered_so() {
    let shop = shop(Sale { is_open: false, variants: vec![("shoe-42", 1)], limit: 1, ..Sale::default() }).await;
    execute(&shop.database_url, "update drops set opens_at = now() + interval '1 day'").await;
    until("the gateway knows it as a draft", async || shop.claim("eve", "k", 1).await.status == 409).await;
    assert_eq!(run(&shop.database_url, &["drop", "open", &shop.drop]).await.0, Some(0));
    assert_eq!(shop.claim("ada", "k", 1).await.status, 201);
    // The gateway keeps this refusal for a second.
    shop.claim("bob", "k", 1).await.is_problem(409, "sold_out");
    assert_eq!(run(&shop.database_url, &["drop", "close", &shop.drop]).await.0, Some(0));
    shop.claim("carl", "k", 1).await.is_problem(410, "closed");
}

#[tokio::test]
async fn a_drop_at_the_shops_rates_shows_what_it_costs_in_each_country() {
    let (database_url, name) = new_database().await;
    let rate = |country: &str, tax_basis_points, shipping_minor| RateRow {
        country: country.to_owned(),
        currency: "EUR".parse().unwrap(),
        tax_basis_points,
        shipping_tax_basis_points: None,
        shipping_minor,
        free_shipping_from_minor: None,
    };
    let engine = engine(&database_url).await;
    engine.ledger.replace_rates(&[rate("DE", 1_900, 500), rate("*", 0, 2_000)]).await.unwrap();
    let create = ["drop", "create", "--name", &name, "--product", "Boot", "--stock", "1", "--price-minor", "11900"];
    let (code, _, error) = run(&database_url, &[&create[..], &["--price-includes-tax"]].concat()).await;
    assert_eq!(code, Some(0), "{error}");
    let (_, said, _) = run(&database_url, &["drop", "show", &name]).await;
    assert!(said.contains("prices include tax; the shop's rates, as they will be when it opens"), "{said}");
    let lines = [
        format!("DE {name} 100.00 EUR 19.95 EUR 5.00 EUR 124.95 EUR"),
        format!("all others {name} 119.00 EUR 0.00 EUR 20.00 EUR 139.00 EUR"),
    ];
    for expected in lines {
        assert!(said.lines().any(|line| line.split_whitespace().eq(expected.split(' '))), "{expected}:\n{said}");
    }
    let (_, said, _) = run(&database_url, &["drop", "update", &name, "--shipping-minor", "0", "--json"]).await;
    let shown = json(&said);
    assert_eq!((&shown["rates_of_shop"], &shown["price_includes_tax"]), (&false.into(), &true.into()), "{shown}");
    assert_eq!(shown["prices"].as_array().unwrap().len(), 1, "the same in every country: {shown}");
    assert_eq!(
        (&shown["prices"][0]["country"], &shown["prices"][0]["total"]["amount_minor"]),
        (&"*".into(), &11_900.into())
    );
}
