//! Claims become orders, once, whoever settles and however often.

use std::time::{Duration, Instant};

use doorbuster_engine::domain::claims::ClaimOutcome;
use doorbuster_engine::domain::settlement::lane_of;
use doorbuster_engine::flows::LiveDrop;
use doorbuster_engine::flows::claim::ClaimProgress;
use doorbuster_engine::flows::settle::CLAIMS_PER_TRANSACTION;
use doorbuster_engine::ledger::refunds::OrderCancelled;
use doorbuster_engine::tokens::store::StreamId;
use futures_util::future::join_all;

use crate::harness::{World, buyer, claim, taken};

#[tokio::test(flavor = "multi_thread")]
async fn every_claim_becomes_one_order_with_its_units() {
    let world = World::new().await;
    let live = world.open(&[20, 10], 3, 2).await;
    for who in 0..10 {
        world.save_profile(who, "pm_card_visa").await;
        taken(world.claim_until_answered(&live, who, "k", 0, 2).await);
    }
    taken(world.claim_until_answered(&live, 99, "k", 1, 1).await);
    assert_eq!(world.settle().await, 11);
    assert_eq!(world.settle().await, 0, "the mark has moved");
    assert_eq!(world.count("select count(*) from orders where status = 'PENDING_PAYMENT'").await, 11);
    assert_eq!(world.count("select count(*) from tokens where order_id is not null").await, 21);
    assert_eq!(world.count("select count(*) from holdings").await, 21);
    assert_eq!(world.count("select sum(quantity_reserved) from inventory").await, 21);
    assert_eq!(world.count("select sum(quantity_available) from inventory").await, 30);
    assert_eq!(world.count("select count(*) from payments where state = 'IN_FLIGHT'").await, 10);
    assert_eq!(world.count("select count(*) from payments where state = 'REQUIRED'").await, 1, "no profile");
    let total = 14_900 * 2 + (14_900 * 2 * 19) / 100 + 490 + 93;
    assert_eq!(world.count("select max(total_minor) from orders").await, total);
    let id = claim(&live, &buyer(99), "k", 1, 1).id;
    let view = world.engine.claim_of(&buyer(99), id).await.unwrap().unwrap();
    assert_eq!((view.progress, view.order), (ClaimProgress::Settled, Some(id.order_id())));
    assert_eq!(world.engine.claim_of(&buyer(98), id).await.unwrap(), None, "not his");
}

#[tokio::test(flavor = "multi_thread")]
async fn l20_a_worker_that_died_before_moving_the_mark_settles_nothing_twice() {
    let world = World::new().await;
    let live = world.open(&[10], 2, 1).await;
    for who in 0..6 {
        taken(world.claim_until_answered(&live, who, "k", 0, 1).await);
    }
    let backlog = world.engine.backlog(&world.drop).await.unwrap().unwrap();
    let first = world.engine.settle(&backlog).await.unwrap();
    let second = world.engine.settle(&backlog).await.unwrap();
    assert_eq!((first.settled, second.settled, second.duplicates), (6, 0, 6));
    assert_eq!(world.count("select count(*) from orders").await, 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_read_at_once_is_settled_in_transactions_of_a_bounded_size() {
    const BUYERS: u32 = 2 * CLAIMS_PER_TRANSACTION as u32 + 100;
    let world = World::new().await;
    let live = world.open(&[BUYERS], 1, 1).await;
    join_all((0..BUYERS).map(|who| world.claim_until_answered(&live, who, "k", 0, 1))).await;
    let backlog = world.engine.backlog(&world.drop).await.unwrap().unwrap();
    assert_eq!(backlog.claims(), BUYERS as usize);
    assert_eq!(world.engine.settle(&backlog).await.unwrap().settled, BUYERS as usize);
    let largest = "select max(n) from (select count(*) as n from orders group by xmin::text) transactions";
    assert_eq!(world.count(largest).await, CLAIMS_PER_TRANSACTION as i64);
    assert_eq!(world.settle().await, 0, "the mark has moved");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_workers_at_once_are_harmless() {
    let world = World::new().await;
    let live = world.open(&[200], 4, 2).await;
    for round in 0..5 {
        join_all((0..40).map(|who| world.claim_until_answered(&live, round * 40 + who, "k", 0, 1))).await;
        let mut workers = Vec::new();
        for _ in 0..4 {
            workers.push(world.another_engine().await);
        }
        let settled = join_all(workers.iter().map(doorbuster_engine::workers::settle_all)).await;
        let settled = settled.into_iter().map(|outcome| outcome.unwrap()).sum::<usize>();
        assert_eq!(settled, 40, "each claim counted once");
    }
    assert_eq!(world.count("select count(*) from orders").await, 200);
    assert_eq!(world.count("select count(*) from order_items").await, 200);
    assert_eq!(world.count("select sum(quantity_reserved) from inventory").await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn l12_a_claim_on_a_unit_that_another_order_holds_is_rejected_and_its_rest_granted_back() {
    let world = World::new().await;
    let live = world.open(&[10], 1, 4).await;
    let mine = taken(world.claim_until_answered(&live, 1, "k", 0, 3).await);
    // Another order holds one of these units: as if Redis had forgotten that claim and issued the serial again.
    taken(world.claim_until_answered(&live, 2, "k", 0, 1).await);
    let other = claim(&live, &buyer(2), "k", 0, 1);
    let stolen = mine[0].0 as i32;
    let store = live.store(&live.drop.warehouses[0]);
    let entries = store.unsettled(10).await.unwrap();
    let mut to_settle = Vec::new();
    let now = world.engine.clock.now();
    for entry in entries {
        for mut logged in entry.claims {
            if logged.claim.id == other.id {
                logged.serials = vec![doorbuster_engine::domain::ids::Serial(stolen as u32)];
                to_settle.push(doorbuster_engine::ledger::settlements::ClaimToSettle {
                    claim: logged.claim,
                    serials: logged.serials,
                    warehouse: live.drop.warehouses[0],
                    epoch: entry.epoch,
                    taken_at: now,
                    entry: entry.id,
                });
            }
        }
    }
    use doorbuster_engine::ledger::settlements::{Rejection, Settling};
    world.engine.ledger.settle(&live.drop, &to_settle, Settling::Live, now).await.unwrap();
    world.settle().await;
    assert_eq!(world.count("select count(*) from orders").await, 1);
    assert_eq!(world.count("select count(*) from rejected_claims where reason = 'token_held'").await, 1);
    world.apply_all_grants().await;
    let first = claim(&live, &buyer(1), "k", 0, 3);
    let view = world.engine.claim_of(&buyer(1), first.id).await.unwrap().unwrap();
    assert_eq!(view.progress, ClaimProgress::Failed);
    assert_eq!(world.claim_until_answered(&live, 1, "k", 0, 3).await, ClaimOutcome::Released);
    assert_eq!(taken(world.claim_until_answered(&live, 1, "new", 0, 4).await).len(), 4, "his limit came back once");
    let again = world.engine.ledger.settle(&live.drop, &to_settle, Settling::Live, now).await.unwrap();
    assert_eq!((again.duplicates, again.rejected.len()), (1, 0), "{:?}", Rejection::TokenHeld);
    world.engine.rebuild_drop(&world.drop).await.unwrap().unwrap();
    assert_eq!(world.claim_until_answered(&live, 1, "k", 0, 3).await, ClaimOutcome::Released, "a rebuild remembers it");
}

#[tokio::test(flavor = "multi_thread")]
async fn claims_of_an_older_epoch_are_left_to_the_rebuild() {
    let world = World::new().await;
    let live = world.open(&[10], 1, 1).await;
    taken(world.claim_until_answered(&live, 1, "k", 0, 1).await);
    let backlog = world.engine.backlog(&world.drop).await.unwrap().unwrap();
    let home = &live.drop.warehouses[0];
    world.engine.ledger.begin_load(home.id, home.epoch).await.unwrap().unwrap();
    // Redis has not been fenced yet, so it would take a mark.
    assert_eq!(world.engine.settle(&backlog).await.unwrap().settled, 0);
    assert_eq!(world.count("select count(*) from orders").await, 0);
    assert_eq!(live.store(home).settled_mark().await.unwrap(), StreamId::ZERO, "what was left alone is not settled");
    world.engine.rebuild_drop(&world.drop).await.unwrap().unwrap();
    assert_eq!(world.count("select count(*) from orders").await, 1);
}

/// So many buyers whose claims the second of two lanes settles, then the first one's.
fn buyers_of_lanes(live: &LiveDrop, of_second: usize, of_first: usize) -> (Vec<u32>, Vec<u32>) {
    let of = |lane, count| (0..).filter(move |who| lane_of(&live.drop, &buyer(*who), 2) == lane).take(count);
    (of(1, of_second).collect(), of(0, of_first).collect())
}

async fn wait_for_count(world: &World, sql: &str, expected: i64) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while world.count(sql).await != expected {
        assert!(Instant::now() < deadline, "{sql} is not {expected}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// From now on Postgres is too busy for the orders of this buyer: no fault of his claim's.
async fn too_busy_for(world: &World, who: u32) {
    let sql = format!(
        "create function too_busy() returns trigger language plpgsql as $$ begin
             raise exception 'too busy' using errcode = '55P03';
         end $$;
         create trigger too_busy before insert on orders for each row when (new.buyer = '{}') execute function too_busy()",
        buyer(who)
    );
    world.sql.batch_execute(&sql).await.unwrap();
}

async fn busy_no_more(world: &World) {
    world.sql.batch_execute("drop trigger too_busy on orders; drop function too_busy").await.unwrap();
}

async fn assert_clean(world: &World) {
    let report = world.engine.audit(None).await.unwrap();
    assert!(report.is_clean(), "{:#?}", report.violations);
}

const ORDERS: &str = "select count(*) from orders";

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_that_dies_between_two_lanes_of_one_warehouse_loses_no_claim_and_settles_none_twice() {
    let world = World::new().await;
    let live = world.open(&[30], 1, 2).await;
    let store = live.store(&live.drop.warehouses[0]);
    let (second, first) = buyers_of_lanes(&live, 6, 4);
    let slow = taken(world.claim_until_answered(&live, first[0], "k", 0, 1).await);
    for who in second.iter().chain(&first[1..]) {
        taken(world.claim_until_answered(&live, *who, "k", 0, 1).await);
    }
    taken(world.claim_until_answered(&live, first[0], "again", 0, 1).await);
    // The first lane waits for this unit.
    world.sql.batch_execute("begin").await.unwrap();
    world.sql.execute("select from tokens where serial = $1 for update", &[&(slow[0].0 as i32)]).await.unwrap();
    let worker = world.another_engine().await;
    let dies = tokio::spawn(async move { doorbuster_engine::workers::settle_all(&worker).await });
    wait_for_count(&world, ORDERS, 6).await;
    assert_eq!(store.settled_mark().await.unwrap(), StreamId::ZERO, "a lane that is ahead moves no mark");
    dies.abort();
    assert!(dies.await.unwrap_err().is_cancelled());
    assert_clean(&world).await;
    world.sql.batch_execute("rollback").await.unwrap();

    assert_eq!(world.settle().await, 5, "both claims of the buyer who was first are one lane's");
    assert_eq!(world.count(ORDERS).await, 11);
    assert_eq!(world.count("select sum(quantity_reserved) from inventory").await, 11);
    assert_eq!(world.settle().await, 0, "the mark has moved");
    assert_eq!(store.unsettled(1).await.unwrap().len(), 0);
    assert_clean(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mark_stops_before_what_a_lane_could_not_settle_and_what_was_settled_above_is_not_settled_again() {
    let world = World::new().await;
    let live = world.open(&[12], 1, 1).await;
    let store = live.store(&live.drop.warehouses[0]);
    let (second, first) = buyers_of_lanes(&live, 5, 3);
    for who in [&second[..2], &first[..1], &second[2..], &first[1..]].concat() {
        taken(world.claim_until_answered(&live, who, "k", 0, 1).await);
    }
    too_busy_for(&world, first[0]).await;
    let entries = store.unsettled(20).await.unwrap();
    assert!(doorbuster_engine::workers::settle_all(&world.engine).await.is_err());
    assert_eq!((world.count(ORDERS).await, store.settled_mark().await.unwrap()), (5, entries[1].id));
    assert_clean(&world).await;

    // Above the gap an order ends and its unit is sold again, to somebody whose claim stands behind it in the same log.
    let ended = claim(&live, &buyer(second[4]), "k", 0, 1).id.order_id();
    let now = world.engine.clock.now();
    let cancelled = world.engine.ledger.cancel_order(ended, None, ("operator", "a test"), now).await.unwrap();
    assert_eq!(cancelled, OrderCancelled::Now);
    world.apply_all_grants().await;
    for who in 500..505 {
        taken(world.claim_until_answered(&live, who, "k", 0, 1).await);
    }
    assert!(doorbuster_engine::workers::settle_all(&world.engine).await.is_err());
    assert_eq!(store.settled_mark().await.unwrap(), entries[1].id, "the gap is still there");
    busy_no_more(&world).await;
    world.settle().await;
    assert_eq!(world.count(ORDERS).await, 13, "twelve units, one of them sold twice");
    assert_eq!(world.count("select count(*) from rejected_claims").await, 0);
    assert_eq!(world.count("select count(*) from orders where status = 'CANCELLED'").await, 1);
    assert_eq!(world.settle().await, 0, "the mark has moved");
    assert_clean(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_brings_back_what_was_settled_above_a_gap_and_settles_the_gap_if_the_log_is_there() {
    for log_is_lost in [false, true] {
        let (world, redis) = World::with_own_redis().await;
        let live = world.open(&[10], 1, 1).await;
        let (second, first) = buyers_of_lanes(&live, 4, 2);
        for who in first.iter().chain(&second) {
            taken(world.claim_until_answered(&live, *who, "k", 0, 1).await);
        }
        too_busy_for(&world, first[0]).await;
        assert!(doorbuster_engine::workers::settle_all(&world.engine).await.is_err());
        assert_eq!(world.count(ORDERS).await, 4);
        busy_no_more(&world).await;
        if log_is_lost {
            let mut connection = world.server_with_url(&redis.url()).await;
            redis::cmd("FLUSHALL").query_async::<()>(&mut connection).await.unwrap();
        }
        world.engine.rebuild_drop(&world.drop).await.unwrap().unwrap();
        let live = world.live().await;
        let kept = if log_is_lost { 4 } else { 6 };
        assert_eq!((world.count(ORDERS).await, world.free_in_redis(&live).await), (kept, 10 - kept as usize));
        for who in &second {
            let again = world.claim_until_answered(&live, *who, "k", 0, 1).await;
            assert!(matches!(again, ClaimOutcome::Replayed { .. }), "{again:?}");
        }
        // What nobody has any more is free, for the same click as for any other.
        for who in &first {
            let again = world.claim_until_answered(&live, *who, "k", 0, 1).await;
            assert_eq!(matches!(again, ClaimOutcome::Taken { .. }), log_is_lost, "{again:?}");
        }
        world.settle().await;
        assert_eq!(world.count(ORDERS).await, 6);
        assert_eq!(world.count("select count(*) from rejected_claims").await, 0);
        assert_clean(&world).await;
    }
}
