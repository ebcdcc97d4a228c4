//! `--json`: an answer that a program reads, and nothing beside it.

use futures_util::future::join_all;
use serde_json::Value;

use super::program::{configured, output};
use crate::support::{Sale, engine, make_drop, new_database};

#[tokio::test]
async fn with_json_every_answer_is_one_json_text_and_lists_say_where_they_go_on() {
    let (database_url, name) = new_database().await;
    make_drop(&engine(&database_url).await, &name, &Sale::default()).await;
    let folder = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str| {
        let path = folder.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let products =
        file("products.csv", "product,sku,title,price_minor,currency\nCup,cup-s,Small,500,EUR\nJug,jug,Jug,900,EUR\n");
    let stock = file("stock.csv", "sku,warehouse,quantity,reason\ncup-s,berlin,4,delivery\njug,berlin,5,delivery\n");
    let rates =
        file("rates.json", r#"[{"country":"DE","currency":"EUR","tax_basis_points":1900,"shipping_minor":490}]"#);
    // What is asked, and a pointer to something in the answer.
    let changes: &[(&[&str], &str)] = &[
        (&["migrate"], "/applied"),
        (&["warehouse", "make", "berlin"], "/is_new"),
        (&["product", "import", &products], "/created"),
        (&["stock", "import", &stock], "/id"),
        (&["rates", "import", &rates], "/rates"),
        (&["finance", "seller", "--name", "Shop", "--address", "1 Road", "--country", "DE"], "/seller/name"),
        (&["drop", "pause", &name], "/state"),
        (&["buyer", "erase", "ada"], "/kept_by_drops"),
        (&["settlement", "retry"], "/settled"),
        (&["outbox", "retry-mails"], "/due"),
    ];
    let reads: &[(&[&str], &str)] = &[
        (&["token", "--buyer", "ada"], "/token"),
        (&["warehouse", "list"], "/warehouses/0/code"),
        (&["product", "list", "--limit", "1"], "/next_after"),
        (&["product", "list", "--limit", "1", "--after", "1"], "/products/0/variants/0/price/amount_minor"),
        (&["stock", "show", "cup-s"], "/stock/0/available"),
        (&["stock", "history", "--limit", "1"], "/next_after"),
        (&["stock", "history", "cup-s"], "/adjustments/0/delta"),
        (&["rates", "show"], "/0/country"),
        (&["drop", "list"], "/drops/0/name"),
        (&["drop", "show", &name], "/waiting/standby"),
        (&["order", "list"], "/orders"),
        (&["order", "review", "list"], "/findings"),
        (&["buyer", "export", "ada"], "/orders"),
        (&["finance", "drop", &name], "/accounts"),
        (&["finance", "days"], "/days"),
        (&["finance", "vat", "--from", "2026-11", "--to", "2026-12"], "/rows"),
        (&["finance", "seller"], "/seller/name"),
        (&["settlement", "show"], ""),
        (&["outbox", "show"], "/counts"),
        (&["audit"], "/drops/0/stock"),
        (&["check-config"], "/checks/0/verdict"),
    ];
    let check = async |(arguments, pointer): &(&[&str], &str)| {
        let output = output(configured(&[arguments, &["--json"][..]].concat(), &database_url).await).await;
        let (text, error) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
        assert_eq!((output.status.code(), error.as_str()), (Some(0), ""), "{arguments:?}: {text}");
        let answer: Value = serde_json::from_str(&text).unwrap_or_else(|why| panic!("{arguments:?}: {why}: {text}"));
        assert!(answer.pointer(pointer).is_some_and(|found| !found.is_null()), "{arguments:?} {pointer}: {text}");
    };
    // What changes something goes first, and one after the other.
    for change in changes {
        check(change).await;
    }
    join_all(reads.iter().map(check)).await;
}
