//! Claims become orders, once, whoever settles and however often.

use doorbuster_engine::domain::claims::ClaimOutcome;
use doorbuster_engine::flows::claim::ClaimProgress;
use doorbuster_engine::flows::settle::CLAIMS_PER_TRANSACTION;
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
    let total = 14_900 * 2 + (14_900 * 2 * 19) / 100 + 490;
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
    assert_eq!(world.engine.settle(&backlog).await.unwrap().settled, 0);
    assert_eq!(world.count("select count(*) from orders").await, 0);
}
