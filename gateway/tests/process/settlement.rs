//! What settlement had to set aside, shown, settled and dismissed at the command line.

use doorbuster_engine::domain::claims::{Claim, ClaimOutcome, Quantity};
use doorbuster_engine::tokens::keys::WarehouseKeys;
use doorbuster_engine::workers::settle_all;
use doorbuster_sandbox::shared;
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use super::program::{configured, output};
use crate::support::{Sale, count, engine, make_drop, new_database};

/// Sends Redis one command without blanks in its arguments, and reads the first line of its answer.
async fn tell_redis(command: &str) -> String {
    let url = shared::redis_url().await;
    let mut stream = BufReader::new(TcpStream::connect(url.trim_start_matches("redis://")).await.unwrap());
    stream.write_all(format!("{command}\r\n").as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_line(&mut answer).await.unwrap();
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn w8_what_was_set_aside_is_shown_settled_and_dismissed_at_the_command_line() {
    let (database_url, drop) = new_database().await;
    let engine = engine(&database_url).await;
    let sale = make_drop(&engine, &drop, &Sale::default()).await;
    let live = engine.live_drop(&drop.parse().unwrap()).await.unwrap().unwrap();
    let (sql, connection) = tokio_postgres::connect(&database_url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    sql.batch_execute("alter table orders add constraint refused check (buyer <> 'ada')").await.unwrap();

    let claim_of = |name: &str| {
        let key = "k".parse().unwrap();
        Claim::new(live.drop.id, name.parse().unwrap(), &key, live.drop.variants[0].number, Quantity::new(1).unwrap())
    };
    for name in ["ada", "bob"] {
        let outcome = engine.claim(&live, &claim_of(name)).await.unwrap().outcome;
        assert!(matches!(outcome, ClaimOutcome::Taken { .. }), "{outcome:?}");
    }
    let warehouses = &sale.warehouses;
    let log = WarehouseKeys::new(&drop.parse().unwrap(), warehouses[0].number, warehouses.len()).fixed("claims");
    let answer = tell_redis(&format!("XADD {log} * x damaged")).await;
    assert!(answer.starts_with('$'), "{answer}");
    settle_all(&engine).await.unwrap();
    assert_eq!(count(&database_url, "select count(*) from orders").await, 1, "bob's is settled all the same");

    let run = async |arguments: &[&str]| {
        let arguments = [&["settlement"], arguments].concat();
        let output = output(configured(&arguments, &database_url).await).await;
        (output.status.code(), String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (code, shown, _) = run(&["show"]).await;
    assert_eq!((code, shown.lines().last()), (Some(0), Some("2 set aside")), "{shown}");
    let (code, shown, error) = run(&["show", &drop, "--json"]).await;
    assert_eq!(code, Some(0), "{error}");
    let rows: Vec<Value> = serde_json::from_str(&shown).unwrap();
    let (claims, entries): (Vec<_>, Vec<_>) = rows.iter().partition(|row| row["claim_id"].is_string());
    assert_eq!((claims[0]["buyer"].as_str(), claims[0]["serials"].as_array().unwrap().len()), (Some("ada"), 1));
    let (claim, entry) = (claims[0]["id"].to_string(), entries[0]["id"].to_string());

    // A claim holds a unit, so that it can only be settled; an entry that says nothing can only be dismissed.
    let (code, _, error) = run(&["dismiss", &claim]).await;
    assert_eq!((code, error.contains("holds units")), (Some(1), true), "{error}");
    let (code, said, error) = run(&["retry"]).await;
    assert_eq!((code, error.contains("could not be settled")), (Some(1), true), "{said}{error}");
    sql.batch_execute("alter table orders drop constraint refused").await.unwrap();
    let (code, said, _) = run(&["retry", &drop, "--json"]).await;
    let report: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((code, &report["settled"], report["left"].as_array().unwrap().len()), (Some(1), &json!(1), 1), "{said}");
    let (code, _, error) = run(&["dismiss", &entry]).await;
    assert_eq!(code, Some(0), "{error}");
    let (code, shown, _) = run(&["show"]).await;
    assert_eq!((code, &*shown), (Some(0), "0 set aside\n"));
    assert_eq!(count(&database_url, "select count(*) from orders").await, 2);
    let (code, said, _) = run(&["retry"]).await;
    assert_eq!((code, &*said), (Some(0), "0 settled, 0 rejected, 0 known before, 0 left\n"));
}
