//! What can be neither settled nor rejected is set aside with its units held, and keeps nothing else from being settled.

use doorbuster_engine::domain::claims::ClaimOutcome;
use doorbuster_engine::domain::ids::Serial;
use doorbuster_engine::flows::claim::ClaimProgress;
use doorbuster_engine::flows::open_drop::DropRefused;
use doorbuster_engine::ledger::poison::Poisoned;
use doorbuster_engine::tokens::keys::WarehouseKeys;
use futures_util::future::join_all;

use crate::harness::{World, buyer, claim, taken};

/// From now on Postgres refuses orders of these buyers, as it would impossible data.
async fn refuse(world: &World, who: &[u32]) {
    let buyers = who.iter().map(|who| format!("'{}'", buyer(*who))).collect::<Vec<_>>().join(", ");
    let sql = format!("alter table orders add constraint refused check (buyer not in ({buyers}))");
    world.sql.batch_execute(&sql).await.unwrap();
}

async fn refuse_nobody(world: &World) {
    world.sql.batch_execute("alter table orders drop constraint refused").await.unwrap();
}

async fn poisoned_units(world: &World) -> usize {
    let report = world.engine.audit(None).await.unwrap();
    assert!(report.is_clean(), "{:#?}", report.violations);
    let drop = &report.drops[0];
    assert_eq!(
        drop.stock,
        drop.free + drop.moving + drop.resting + drop.claimed + drop.poisoned + drop.reserved + drop.sold
    );
    drop.poisoned
}

#[tokio::test(flavor = "multi_thread")]
async fn w8_a_claim_that_postgres_refuses_is_set_aside_and_the_rest_is_settled() {
    let world = World::new().await;
    let live = world.open(&[400], 2, 2).await;
    join_all((0..150).map(|who| world.claim_until_answered(&live, who, "k", 0, 2))).await;
    refuse(&world, &[7, 8, 140]).await;
    assert_eq!(world.settle().await, 147, "one bad claim stops nobody else");
    assert_eq!(world.count("select count(*) from orders").await, 147);
    assert_eq!(world.count("select count(*) from tokens where poisoned_claim is not null").await, 6);
    assert_eq!(poisoned_units(&world).await, 6, "held, and explained");
    let rows = world.engine.ledger.poisoned(Some(&world.drop)).await.unwrap();
    assert_eq!(rows.len(), 3);
    assert!(rows.iter().all(|row| row.error.contains("refused") && row.tries == 1), "{rows:?}");

    // What comes after is settled as ever, and the bad ones are not tried again and again.
    taken(world.claim_until_answered(&live, 200, "k", 0, 1).await);
    assert_eq!(world.settle().await, 1);
    assert_eq!(world.engine.ledger.poisoned(None).await.unwrap().len(), 3);
    let id = claim(&live, &buyer(7), "k", 0, 2).id;
    let view = world.engine.claim_of(&buyer(7), id).await.unwrap().unwrap();
    assert_eq!((view.progress, view.serials.len()), (ClaimProgress::Accepted, 2), "his all the same");
}

#[tokio::test(flavor = "multi_thread")]
async fn w8_an_operator_brings_back_what_was_set_aside_once_its_cause_is_mended() {
    let world = World::new().await;
    let live = world.open(&[20], 1, 2).await;
    let units = taken(world.claim_until_answered(&live, 1, "k", 0, 2).await);
    taken(world.claim_until_answered(&live, 2, "k", 0, 1).await);
    refuse(&world, &[1, 2]).await;
    assert_eq!(world.settle().await, 0);
    let report = world.engine.retry_poisoned(None).await.unwrap();
    assert_eq!((report.settled, report.left.len()), (0, 2), "nothing is mended yet");
    assert!(world.engine.ledger.poisoned(None).await.unwrap().iter().all(|row| row.tries == 2));
    assert!(!world.engine.ledger.dismiss_poisoned(report.left[0].0, world.engine.clock.now()).await.unwrap());
    world.engine.close_drop(&world.drop).await.unwrap().unwrap();
    let refused = world.engine.archive_drop(&world.drop).await.unwrap().unwrap_err();
    assert!(matches!(refused, DropRefused::NotDrained(left) if left.poisoned_claims == 2), "{refused:?}");

    refuse_nobody(&world).await;
    let report = world.engine.retry_poisoned(Some(&world.drop)).await.unwrap();
    assert_eq!((report.settled, report.rejected, report.left.len()), (2, 0, 0));
    assert_eq!(world.count("select count(*) from orders").await, 2);
    let held = world.sql.query("select serials from order_items where quantity = 2", &[]).await.unwrap();
    let mut expected = units.iter().map(|serial| serial.0 as i32).collect::<Vec<_>>();
    let mut held: Vec<i32> = held[0].get(0);
    expected.sort_unstable();
    held.sort_unstable();
    assert_eq!(held, expected, "the very units that he was given");
    assert_eq!(world.engine.retry_poisoned(None).await.unwrap().settled, 0, "once");
    assert_eq!(poisoned_units(&world).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn w8_a_rebuild_does_not_put_poisoned_units_back_on_sale() {
    let world = World::new().await;
    let live = world.open(&[10], 2, 2).await;
    let held = taken(world.claim_until_answered(&live, 1, "k", 0, 2).await);
    refuse(&world, &[1, 2]).await;
    assert_eq!(world.settle().await, 0);
    // And one that only the rebuild itself finds in the log.
    let late = taken(world.claim_until_answered(&live, 2, "k", 0, 2).await);
    world.engine.rebuild_drop(&world.drop).await.unwrap().unwrap();
    let live = world.live().await;
    assert_eq!(poisoned_units(&world).await, 4);
    assert_eq!(world.free_in_redis(&live).await, 6);
    assert_eq!(world.claim_until_answered(&live, 1, "k", 0, 2).await, ClaimOutcome::Replayed { serials: held.clone() });
    assert!(matches!(world.claim_until_answered(&live, 1, "more", 0, 1).await, ClaimOutcome::OverLimit { .. }));
    let mut sold = Vec::new();
    for who in 10..20 {
        match world.claim_until_answered(&live, who, "k", 0, 1).await {
            ClaimOutcome::Taken { serials } => sold.extend(serials),
            ClaimOutcome::SoldOut => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(sold.len(), 6);
    assert!(sold.iter().all(|serial| !held.contains(serial) && !late.contains(serial)), "{sold:?}");
    refuse_nobody(&world).await;
    assert_eq!(world.engine.retry_poisoned(None).await.unwrap().settled, 2);
    assert_eq!(world.settle().await, 6);
    assert_eq!(world.count("select count(*) from tokens where order_id is not null").await, 10);
    assert_eq!(poisoned_units(&world).await, 0);
}

/// Replaces the newest entry of a warehouse's log by one with other bytes.
async fn damage_last_entry(world: &World, warehouses: usize, home: doorbuster_engine::domain::ids::WarehouseNumber) {
    let key = WarehouseKeys::new(&world.drop, home, warehouses).fixed("claims");
    let mut redis = world.server_with(&key).await;
    type Entry = (String, Vec<(String, Vec<u8>)>);
    let last: Vec<Entry> =
        redis::cmd("XREVRANGE").arg(&key).arg("+").arg("-").arg("COUNT").arg(1).query_async(&mut redis).await.unwrap();
    let (id, fields) = &last[0];
    let mut add = redis::cmd("XADD");
    add.arg(&key).arg("*");
    for (name, value) in fields {
        let cut = if name == "s" { value.len() - 3 } else { value.len() };
        add.arg(name).arg(&value[..cut]);
    }
    redis::cmd("XDEL").arg(&key).arg(id).query_async::<()>(&mut redis).await.unwrap();
    add.query_async::<()>(&mut redis).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn w8_an_entry_that_cannot_be_read_keeps_its_buyers_units_and_hides_nothing_behind_it() {
    let world = World::new().await;
    let live = world.open(&[10], 1, 3).await;
    let home = live.drop.warehouses[0].number;
    let held = taken(world.claim_until_answered(&live, 1, "k", 0, 3).await);
    damage_last_entry(&world, 1, home).await;
    taken(world.claim_until_answered(&live, 2, "k", 0, 1).await);
    assert_eq!(world.settle().await, 1, "what stands behind it is settled");
    let rows = world.engine.ledger.poisoned(None).await.unwrap();
    assert_eq!(rows.len(), 1);
    let Poisoned::Claim { claim: found, serials, raw } = &rows[0].what else { panic!("{rows:?}") };
    assert_eq!((found.id, serials), (claim(&live, &buyer(1), "k", 0, 3).id, &held), "made out from his own record");
    assert!(raw.is_some() && rows[0].error.contains("too early"), "{rows:?}");
    assert_eq!(poisoned_units(&world).await, 3);
    world.engine.rebuild_drop(&world.drop).await.unwrap().unwrap();
    assert_eq!(poisoned_units(&world).await, 3, "after a rebuild too");
    assert_eq!(world.engine.retry_poisoned(None).await.unwrap().settled, 1);
    assert_eq!(poisoned_units(&world).await, 0);
    assert_eq!(world.count("select count(*) from orders").await, 2);

    // Rubbish of which no record knows anything holds no units, is shown, and can be dismissed.
    let key = WarehouseKeys::new(&world.drop, home, 1).fixed("claims");
    let mut redis = world.server_with(&key).await;
    redis::cmd("XADD").arg(&key).arg("*").arg("x").arg("y").query_async::<()>(&mut redis).await.unwrap();
    assert_eq!(world.settle().await, 0);
    let rows = world.engine.ledger.poisoned(None).await.unwrap();
    assert!(matches!(&rows[..], [row] if row.what == Poisoned::Entry { raw: b"xy".to_vec() }), "{rows:?}");
    assert_eq!(world.engine.retry_poisoned(None).await.unwrap().left.len(), 1, "still not readable");
    assert!(world.engine.ledger.dismiss_poisoned(rows[0].id, world.engine.clock.now()).await.unwrap());
    assert_eq!(poisoned_units(&world).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn w8_where_most_claims_are_bad_each_round_gets_further_and_the_good_ones_are_settled() {
    let world = World::new().await;
    let live = world.open(&[300], 1, 1).await;
    join_all((0..300).map(|who| world.claim_until_answered(&live, who, "k", 0, 1))).await;
    let bad = (0..300).filter(|who| who % 3 != 0).collect::<Vec<_>>();
    refuse(&world, &bad).await;
    let mut workers = Vec::new();
    for _ in 0..2 {
        workers.push(world.another_engine().await);
    }
    let settled = join_all(workers.iter().map(doorbuster_engine::workers::settle_all)).await;
    let settled = settled.into_iter().map(|settled| settled.unwrap()).sum::<usize>();
    assert_eq!(settled, 100, "two workers at once, each order once");
    assert_eq!(world.engine.ledger.poisoned(None).await.unwrap().len(), 200);
    assert_eq!(poisoned_units(&world).await, 200);
    let units: Vec<Serial> = world.dumps(&live).await[0].free.iter().flat_map(|(_, serials)| serials.clone()).collect();
    assert!(units.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_cannot_take_orders_at_all_poisons_nothing() {
    let world = World::new().await;
    let live = world.open(&[5], 1, 1).await;
    taken(world.claim_until_answered(&live, 1, "k", 0, 1).await);
    world.sql.batch_execute("alter table order_items rename to order_items_gone").await.unwrap();
    assert!(doorbuster_engine::workers::settle_all(&world.engine).await.is_err());
    assert!(world.engine.ledger.poisoned(None).await.unwrap().is_empty(), "not the claim is bad, the schema is");
    world.sql.batch_execute("alter table order_items_gone rename to order_items").await.unwrap();
    assert_eq!(world.settle().await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_was_set_aside_gives_back_only_what_was_held_for_it() {
    let world = World::new().await;
    let live = world.open(&[4], 1, 2).await;
    let named = taken(world.claim_until_answered(&live, 1, "k", 0, 2).await);
    refuse(&world, &[1]).await;
    world.settle().await;
    // One of its units was somebody's when it was set aside, and is on sale again since.
    let others = named[1].0 as i32;
    world.sql.execute("update tokens set poisoned_claim = null where serial = $1", &[&others]).await.unwrap();
    world.engine.rebuild_drop(&world.drop).await.unwrap().unwrap();
    let live = world.live().await;
    assert_eq!(world.free_in_redis(&live).await, 3, "two that nobody wanted, and that one");
    refuse_nobody(&world).await;
    let report = world.engine.retry_poisoned(None).await.unwrap();
    assert_eq!((report.settled, report.rejected), (0, 1));
    world.apply_all_grants().await;
    let mut free: Vec<Serial> = world.dumps(&live).await[0].free.iter().flat_map(|(_, free)| free.clone()).collect();
    free.sort_unstable();
    let (all, awarded) = (free.len(), world.count("select count(*) from tokens where awarded_claim is not null").await);
    free.dedup();
    assert_eq!(
        (all, free.len(), awarded),
        (4, 4, 0),
        "each unit once: the claim was for two, and they go first in line"
    );
    assert_eq!(poisoned_units(&world).await, 0);
}
