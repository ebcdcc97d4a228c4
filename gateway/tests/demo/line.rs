//! The demo of a line: clean after an honest one, and red for every way in which it can be wrong.

use doorbuster::demo::{DemoOptions, LineDemo, LineReport, Screen};
use doorbuster_engine::domain::drops::Admission;
use doorbuster_sandbox::crowd::Told;
use jiff::SignedDuration;
use tokio_postgres::{Client, NoTls};

use super::options;

fn line_options(admission: Admission) -> DemoOptions {
    DemoOptions { admission, buyers: 200, stock: 20, ..options() }
}

async fn held(options: DemoOptions) -> LineDemo {
    let screen = Screen::silent();
    let mut demo = LineDemo::open(options, &screen).await.unwrap();
    demo.run(&screen).await.unwrap();
    demo
}

async fn sql(demo: &LineDemo) -> Client {
    let (client, connection) = tokio_postgres::connect(&demo.database_url, NoTls).await.unwrap();
    tokio::spawn(connection);
    client
}

/// Gives in what is published, to another rank, what one was given in the first round.
const MOVE_AWARD: &str = "
    update line_chunks c set awarded = array_replace(c.awarded, $1, $2)
    where c.chunk = (select min(chunk) from line_chunks where cardinality(awarded) > 0)";

async fn clean_report(demo: &LineDemo) -> LineReport {
    let report = demo.report().await.unwrap();
    assert!(report.is_clean(), "{report:#?}");
    report
}

#[tokio::test(flavor = "multi_thread")]
async fn an_honest_line_is_clean_and_each_doctored_one_is_red() {
    let mut demo = held(line_options(Admission::Draw)).await;
    let honest = clean_report(&demo).await;
    assert_eq!((honest.line.joined, honest.confirmed + honest.units_free), (200, 20), "{honest:#?}");
    let in_line = 200 - honest.line.left;
    assert!(u64::from(honest.sealed) + honest.behind as u64 >= in_line, "{honest:#?}");
    assert!(honest.awarded > 0 && honest.rounds > 1 && honest.line.watchers > 0, "{honest:#?}");
    let json = serde_json::to_value(&honest).unwrap();
    for field in [
        "stock",
        "waiters",
        "joined",
        "joins_per_s",
        "left",
        "awarded",
        "confirmed",
        "oversold",
        "inversions",
        "looks_that_reached_a_store",
        "waits_that_rose",
        "in_vain",
        "draw_verified",
        "audit_violations",
        "mails_delivered",
        "mails_missing",
        "captures_per_order_max",
        "profiles_s",
        "joining_s",
        "reveal_s",
        "rounds_s",
    ] {
        assert!(json.get(field).is_some(), "the report has no {field}");
    }

    // Somebody was told that they had left, and has an order.
    let sql = sql(&demo).await;
    let buyer: String = sql.query_one("select buyer from orders limit 1", &[]).await.unwrap().get(0);
    let visit = demo.log.visits.iter_mut().find(|visit| visit.buyer == buyer).unwrap();
    let before = visit.left.replace(Told::Done);
    let report = demo.report().await.unwrap();
    assert_eq!((report.line.given_after_leaving, report.is_clean()), (1, false));
    demo.log.visits.iter_mut().find(|visit| visit.buyer == buyer).unwrap().left = before;

    // The orders are as they were, and what is published is not: the first of all got nothing, and the last did.
    let first = "select awarded[1] from line_chunks where cardinality(awarded) > 0 order by chunk limit 1";
    let given: i32 = sql.query_one(first, &[]).await.unwrap().get(0);
    let later = i32::try_from(honest.sealed).unwrap() - 1;
    assert_eq!(sql.execute(MOVE_AWARD, &[&given, &later]).await.unwrap(), 1);
    let report = demo.report().await.unwrap();
    assert!(!report.draw_verified && report.inversions > 0 && report.awards_that_differ > 0, "{report:#?}");
    assert!(!report.is_clean());
    assert_eq!(sql.execute(MOVE_AWARD, &[&later, &given]).await.unwrap(), 1);
    clean_report(&demo).await;

    // What is published is as it was, and the order is somebody else's, who stood behind them.
    const SWAP: &str = "
        with given as (select number, claim_id, ended_at from line_entries where state = 'AWARDED' limit 1),
             other as (select number from line_entries where state is null limit 1)
        update line_entries e
        set state = case e.number when o.number then 'AWARDED' end,
            claim_id = case e.number when o.number then g.claim_id end,
            ended_at = case e.number when o.number then g.ended_at end
        from given g, other o where e.number in (g.number, o.number)";
    assert_eq!(sql.execute(SWAP, &[]).await.unwrap(), 2);
    let report = demo.report().await.unwrap();
    assert_eq!((report.awards_that_differ, report.is_clean()), (2, false), "{report:#?}");
    assert!(demo.shop.stop().await);
}

#[tokio::test]
async fn lines_that_cannot_be_held_are_refused_before_anything_starts() {
    let line = || line_options(Admission::Queue);
    let refused = [
        DemoOptions { stock: 2, ..line() },
        DemoOptions { buyers: 0, ..line() },
        DemoOptions { round_every: SignedDuration::from_millis(500), ..line() },
        DemoOptions { reveal_after: SignedDuration::ZERO, ..line() },
        DemoOptions { per_round: Some(2_000_000), ..line() },
    ];
    for options in refused {
        let shown = format!("{options:?}");
        assert!(LineDemo::open(options, &Screen::silent()).await.is_err(), "{shown}");
    }
}
