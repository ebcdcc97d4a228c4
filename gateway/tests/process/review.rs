//! Many payments that wait for a person are ended by one command, which does nothing until it is told yes.

use doorbuster_engine::domain::claims::{Claim, Quantity};
use doorbuster_engine::workers::settle_all;
use serde_json::Value;

use super::program::{configured, output};
use crate::support::{Sale, engine, make_drop, new_database};

#[tokio::test(flavor = "multi_thread")]
async fn all_reviews_of_a_drop_or_of_a_reason_end_together_once_somebody_says_yes() {
    let (database_url, drop) = new_database().await;
    let engine = engine(&database_url).await;
    make_drop(&engine, &drop, &Sale { limit: 1, ..Sale::default() }).await;
    let live = engine.live_drop(&drop.parse().unwrap()).await.unwrap().unwrap();
    for name in ["ada", "bob", "eve"] {
        let (key, variant) = ("k".parse().unwrap(), live.drop.variants[0].number);
        let claim = Claim::new(live.drop.id, name.parse().unwrap(), &key, variant, Quantity::new(1).unwrap());
        engine.claim(&live, &claim).await.unwrap();
    }
    settle_all(&engine).await.unwrap();
    let (sql, connection) = tokio_postgres::connect(&database_url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    let in_review = "update payments p set state = 'MANUAL_REVIEW',
            failure = case buyer when 'eve' then 'another intent' else 'the amount differs' end
        from orders o where o.order_id = p.order_id";
    sql.batch_execute(in_review).await.unwrap();
    let waiting = async || {
        let sql_text = "select count(*) from payments where state = 'MANUAL_REVIEW'";
        sql.query_one(sql_text, &[]).await.unwrap().get::<_, i64>(0)
    };
    let run = async |arguments: &[&str]| {
        let resolve = ["order", "review", "resolve", "--as", "failed", "--reason", "no money came", "--by", "grace"];
        let output = output(configured(&[&resolve[..], arguments].concat(), &database_url).await).await;
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        (output.status.code(), said)
    };

    for which in [&[][..], &["--because", "amount", "--drop", &drop], &["--because", " "]] {
        let (code, said) = run(which).await;
        assert!(code != Some(0) && waiting().await == 3, "{which:?}: {said}");
    }
    let (code, said) = run(&["--because", "AMOUNT differs"]).await;
    assert_eq!((code, said.matches("waits for --yes").count(), waiting().await), (Some(1), 2, 3), "{said}");
    assert!(said.contains("say --yes to end the review of 2 payments"), "{said}");
    let (code, said) = run(&["--because", "AMOUNT differs", "--yes"]).await;
    assert_eq!((code, said.matches("the review has ended").count(), waiting().await), (Some(0), 2, 1), "{said}");
    assert!(said.contains("reviews ended: 2 of 2 payments"), "{said}");
    // Again: nothing of it is left.
    let (code, said) = run(&["--because", "AMOUNT differs", "--yes"]).await;
    assert_eq!((code, said.contains("reviews ended: 0 of 0 payments")), (Some(0), true), "{said}");
    let (code, said) = run(&["--drop", &drop, "--yes", "--json"]).await;
    let shown: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((code, &shown["reviews"][0]["is_resolved"]), (Some(0), &Value::Bool(true)), "{said}");
    let notes = "select count(*) from order_history where actor = 'grace' and reason = 'review: no money came'";
    assert_eq!(sql.query_one(notes, &[]).await.unwrap().get::<_, i64>(0), 3);
    let ended = "select count(*) from orders where status = 'PAYMENT_FAILED'";
    assert_eq!(sql.query_one(ended, &[]).await.unwrap().get::<_, i64>(0), 3);
}
