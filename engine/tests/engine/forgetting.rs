//! Redis forgets: the warehouse issues nothing until it has been rebuilt from Postgres.

use std::time::Duration;

use doorbuster_engine::domain::claims::ClaimOutcome;
use doorbuster_engine::ledger::settlements::{ClaimToSettle, Settling};

use crate::harness::{World, buyer, taken};

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_fences_every_warehouse_and_the_rebuild_loses_nothing() {
    let (world, redis) = World::with_own_redis().await;
    let live = world.open(&[6], 2, 2).await;
    let settled = taken(world.claim_until_answered(&live, 1, "k", 0, 1).await);
    world.settle().await;
    let unsettled = taken(world.claim_until_answered(&live, 2, "k", 0, 1).await);
    redis.kill();
    redis.restart().await.unwrap();
    let error = wait_for_answer(&world, &live).await;
    assert!(error.is_fenced(), "{error}");
    assert_eq!(world.engine.rebuild_fenced().await.unwrap(), 2);
    let live = world.live().await;
    assert_eq!(world.claim_until_answered(&live, 1, "k", 0, 1).await, ClaimOutcome::Replayed { serials: settled });
    assert_eq!(world.claim_until_answered(&live, 2, "k", 0, 1).await, ClaimOutcome::Replayed { serials: unsettled });
    let mut sold = 2;
    for who in 10..30 {
        match world.claim_until_answered(&live, who, "k", 0, 1).await {
            ClaimOutcome::Taken { .. } => sold += 1,
            ClaimOutcome::SoldOut => {}
            other => panic!("{other:?}"),
        }
    }
    assert_eq!(sold, 6);
    world.settle().await;
    assert_eq!(world.count("select count(*) from orders").await, 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn l5_an_emptied_server_is_not_sold_out_and_what_was_settled_comes_back() {
    let (world, redis) = World::with_own_redis().await;
    let live = world.open(&[4], 2, 1).await;
    let kept = taken(world.claim_until_answered(&live, 1, "k", 0, 1).await);
    world.settle().await;
    taken(world.claim_until_answered(&live, 2, "k", 0, 1).await);
    let mut connection = redis::Client::open(redis.url()).unwrap().get_multiplexed_async_connection().await.unwrap();
    redis::cmd("FLUSHALL").query_async::<()>(&mut connection).await.unwrap();
    let error = world.claim(&live, 3, "k", 0, 1).await.unwrap_err();
    assert!(error.is_fenced(), "{error}");
    assert_eq!(world.engine.rebuild_fenced().await.unwrap(), 2);
    let live = world.live().await;
    assert_eq!(world.claim_until_answered(&live, 1, "k", 0, 1).await, ClaimOutcome::Replayed { serials: kept });
    assert_eq!(world.free_in_redis(&live).await, 3, "a claim that Redis alone knew is forgotten, its unit is free");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rejected_claim_stays_over_after_a_rebuild() {
    let world = World::new().await;
    let live = world.open(&[10], 1, 4).await;
    let home = live.drop.warehouses[0];
    let mine = taken(world.claim_until_answered(&live, 1, "k", 0, 1).await);
    taken(world.claim_until_answered(&live, 2, "k", 0, 1).await);
    // As if Redis had forgotten the first claim and issued its unit again: the second one's order holds it.
    let mut to_settle = Vec::new();
    let now = world.engine.clock.now();
    for entry in live.store(&home).unsettled(10).await.unwrap() {
        let of_second = entry.claims.into_iter().filter(|logged| logged.claim.buyer == buyer(2));
        to_settle.extend(of_second.map(|logged| ClaimToSettle {
            claim: logged.claim,
            serials: mine.clone(),
            warehouse: home,
            epoch: entry.epoch,
            taken_at: now,
            entry: entry.id,
        }));
    }
    world.engine.ledger.settle(&live.drop, &to_settle, Settling::Live, now).await.unwrap();
    world.settle().await;
    assert_eq!(world.count("select count(*) from rejected_claims").await, 1);
    world.apply_all_grants().await;
    assert_eq!(world.claim_until_answered(&live, 1, "k", 0, 1).await, ClaimOutcome::Released);

    world.engine.rebuild_drop(&world.drop).await.unwrap().unwrap();
    let live = world.live().await;
    // Taken, it would never be settled: its id has been seen.
    assert_eq!(world.claim_until_answered(&live, 1, "k", 0, 1).await, ClaimOutcome::Released);
    assert_eq!(world.free_in_redis(&live).await, 9);
}

/// The first error that comes from the server itself, once it answers again.
async fn wait_for_answer(
    world: &World,
    live: &doorbuster_engine::flows::LiveDrop,
) -> doorbuster_engine::flows::EngineError {
    for _ in 0..200 {
        match world.claim(live, 9, "probe", 0, 1).await {
            Err(error) if error.is_fenced() => return error,
            Err(_) => tokio::time::sleep(Duration::from_millis(25)).await,
            Ok(outcome) => panic!("a fenced warehouse answered {outcome:?}"),
        }
    }
    panic!("no answer");
}
