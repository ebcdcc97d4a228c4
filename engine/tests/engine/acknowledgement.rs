//! When a buyer is told that units are his: on the primary, on all its replicas, or committed.

use std::sync::Arc;
use std::time::{Duration, Instant};

use doorbuster_engine::domain::claims::{Acknowledgement, ClaimOutcome};
use doorbuster_engine::domain::drops::NewDrop;
use doorbuster_engine::flows::LiveDrop;
use doorbuster_engine::flows::acknowledge::Acknowledged;
use doorbuster_engine::flows::claim::AnsweredClaim;
use doorbuster_engine::flows::open_drop::DropRefused;
use doorbuster_engine::tokens::TokenError;
use doorbuster_engine::workers::{self, WorkerSettings};
use doorbuster_sandbox::provider::FakeProviderOptions;
use doorbuster_sandbox::{Redis, RedisOptions};
use tokio_util::sync::CancellationToken;

use crate::harness::{World, buyer, claim, provider, servers};

const ACCEPTED: Acknowledged = Acknowledged::Reached(Acknowledgement::Accepted);
const REPLICATED: Acknowledged = Acknowledged::Reached(Acknowledgement::Replicated);
const SETTLED: Acknowledged = Acknowledged::Reached(Acknowledgement::Settled);

async fn world_with_replicas(replicas: usize) -> (World, Redis, Vec<Redis>) {
    let servers = servers().await;
    let (primary, replicas) = servers.sandbox.redis_with_replicas(RedisOptions::default(), replicas).await.unwrap();
    (World::on(primary.url(), &servers.postgres).await, primary, replicas)
}

fn answered_when(level: Acknowledgement, replicas: u8, new: NewDrop) -> NewDrop {
    NewDrop { acknowledgement: level, replicas, ..new }
}

async fn open(world: &World, new: NewDrop) -> Arc<LiveDrop> {
    world.engine.create_drop(&new, 42).await.unwrap().unwrap();
    world.engine.open_drop(&world.drop).await.unwrap().unwrap();
    world.live().await
}

async fn make(world: &World, live: &LiveDrop, who: u32) -> AnsweredClaim {
    world.engine.claim(live, &claim(live, &buyer(who), "k", 0, 1)).await.unwrap()
}

/// Buyers with a record on this server, whichever warehouse.
async fn buyers_on(server: &Redis) -> Vec<Vec<u8>> {
    let client = redis::Client::open(server.url()).unwrap();
    let mut connection = client.get_multiplexed_async_connection().await.unwrap();
    let keys: Vec<String> = redis::cmd("KEYS").arg("*:buyers").query_async(&mut connection).await.unwrap();
    let mut buyers = Vec::new();
    for key in keys {
        let fields: Vec<Vec<u8>> = redis::cmd("HKEYS").arg(key).query_async(&mut connection).await.unwrap();
        buyers.extend(fields.into_iter().filter(|field| !field.is_empty()));
    }
    buyers
}

#[tokio::test(flavor = "multi_thread")]
async fn l2_what_was_answered_as_replicated_is_on_every_replica_when_the_primary_dies() {
    let (world, primary, replicas) = world_with_replicas(2).await;
    let live = open(&world, answered_when(Acknowledgement::Replicated, 2, world.new_drop(&[5_000], 4, 1))).await;
    let (engine, drop) = (world.engine.clone(), Arc::clone(&live));
    let claiming = (0..32_u32).map(|line| {
        let (engine, live) = (engine.clone(), Arc::clone(&drop));
        tokio::spawn(async move {
            let mut told = Vec::new();
            for who in (0..).map(|step| step * 32 + line) {
                match engine.claim(&live, &claim(&live, &buyer(who), "k", 0, 1)).await {
                    Ok(AnsweredClaim { acknowledged: REPLICATED, .. }) => told.push(buyer(who)),
                    Ok(_) | Err(_) => return told,
                }
            }
            told
        })
    });
    let claiming = claiming.collect::<Vec<_>>();
    tokio::time::sleep(Duration::from_millis(400)).await;
    primary.kill();
    let mut told = Vec::new();
    for task in claiming {
        told.extend(task.await.unwrap());
    }
    assert!(told.len() > 100, "{} claims were answered before the end", told.len());
    for replica in &replicas {
        let held = buyers_on(replica).await.into_iter().collect::<std::collections::HashSet<_>>();
        let lost = told.iter().filter(|buyer| !held.contains(buyer.as_str().as_bytes())).count();
        assert_eq!(lost, 0, "of {} claims answered as replicated", told.len());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_replica_leaves_claims_pending_and_they_get_there_when_it_wakes() {
    let (world, _primary, replicas) = world_with_replicas(1).await;
    let live = open(&world, answered_when(Acknowledgement::Replicated, 1, world.new_drop(&[10], 2, 1))).await;
    assert_eq!(make(&world, &live, 1).await.acknowledged, REPLICATED);
    replicas[0].pause();
    let began = Instant::now();
    let pending = make(&world, &live, 2).await;
    assert!(matches!(pending.outcome, ClaimOutcome::Taken { .. }), "never failed: {pending:?}");
    assert_eq!(pending.acknowledged, ACCEPTED, "and not called more than it is");
    assert!(began.elapsed() < Duration::from_secs(4), "{:?}", began.elapsed());
    assert_eq!(make(&world, &live, 1).await.acknowledged, ACCEPTED, "a replay is no safer than the claim is now");
    replicas[0].resume();
    let again = make(&world, &live, 2).await;
    assert!(matches!(again.outcome, ClaimOutcome::Replayed { .. }), "{again:?}");
    assert_eq!(again.acknowledged, REPLICATED);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_warehouse_of_another_history_proves_nothing_about_replicas() {
    let (world, primary, _replicas) = world_with_replicas(1).await;
    let live = open(&world, answered_when(Acknowledgement::Replicated, 1, world.new_drop(&[10], 1, 1))).await;
    let store = live.store(&live.drop.warehouses[0]);
    assert_eq!(store.replicated(1).await.unwrap(), 1);
    primary.kill();
    primary.restart().await.unwrap();
    let error = until_connected(&live).await;
    assert!(matches!(*error, TokenError::Fenced), "its replication id is another: {error}");
    world.engine.rebuild_fenced().await.unwrap();
    let error = store.replicated(1).await.unwrap_err();
    assert!(matches!(*error, TokenError::Fenced), "its epoch is another: {error}");
    // The replica that comes back to a restarted primary makes it begin another history once more.
    let began = Instant::now();
    loop {
        let live = world.live().await;
        match live.store(&live.drop.warehouses[0]).replicated(1).await {
            Ok(1) => return,
            other => assert!(began.elapsed() < Duration::from_secs(10), "{other:?}"),
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
        let _ = world.engine.rebuild_fenced().await;
    }
}

async fn until_connected(live: &LiveDrop) -> Arc<TokenError> {
    let began = Instant::now();
    loop {
        match live.store(&live.drop.warehouses[0]).replicated(1).await {
            Err(error)
                if matches!(*error, TokenError::Redis(_) | TokenError::Refused { .. } | TokenError::Overloaded) =>
            {
                assert!(began.elapsed() < Duration::from_secs(10), "{error}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            other => return other.unwrap_err(),
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drop_that_waits_for_replicas_opens_only_with_just_those() {
    let (world, _primary, _replicas) = world_with_replicas(1).await;
    for (wanted, sentence) in [(2, "has 1 replicas online"), (1, "")] {
        let new = NewDrop {
            name: format!("{}-{wanted}", world.drop).parse().unwrap(),
            ..answered_when(Acknowledgement::Replicated, wanted, world.new_drop(&[10], 2, 1))
        };
        world.engine.create_drop(&new, 42).await.unwrap().unwrap();
        match world.engine.open_drop(&new.name).await.unwrap() {
            Ok(_) => assert_eq!(wanted, 1),
            Err(DropRefused::Configuration(problems)) => {
                assert!(problems.iter().any(|problem| problem.contains(sentence)), "{problems:?}");
                assert_eq!(wanted, 2);
            }
            Err(other) => panic!("{other:?}"),
        }
    }
    let (world, _primary, _replicas) = world_with_replicas(2).await;
    let new = answered_when(Acknowledgement::Replicated, 1, world.new_drop(&[10], 2, 1));
    world.engine.create_drop(&new, 42).await.unwrap().unwrap();
    let refused = world.engine.open_drop(&new.name).await.unwrap();
    let Err(DropRefused::Configuration(problems)) = refused else { panic!("{refused:?}") };
    assert!(problems[0].contains("has 2 replicas"), "the one not waited for could be promoted: {problems:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drop_that_is_settled_at_once_answers_with_the_order() {
    let world = World::new().await;
    let live = open(&world, answered_when(Acknowledgement::Settled, 0, world.new_drop(&[40], 2, 1))).await;
    let (_fake, client) = provider(FakeProviderOptions::default()).await;
    let stop = CancellationToken::new();
    let working = tokio::spawn(workers::run(world.engine.clone(), client, WorkerSettings::default(), stop.clone()));
    let claims = (0..30).map(|who| make(&world, &live, who));
    for answered in futures_util::future::join_all(claims).await {
        assert!(matches!(answered.outcome, ClaimOutcome::Taken { .. }), "{answered:?}");
        assert_eq!(answered.acknowledged, SETTLED);
    }
    assert_eq!(world.count("select count(*) from orders").await, 30, "although settlement is every 30 s");
    assert_eq!(make(&world, &live, 3).await.acknowledged, SETTLED, "a replay is as settled as the claim");
    stop.cancel();
    working.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_worker_a_claim_is_pending_and_what_cannot_be_settled_is_rejected() {
    let world = World::new().await;
    let live = open(&world, answered_when(Acknowledgement::Settled, 0, world.new_drop(&[40], 2, 1))).await;
    let pending = make(&world, &live, 1).await;
    assert!(matches!(pending.outcome, ClaimOutcome::Taken { .. }), "{pending:?}");
    assert_eq!(pending.acknowledged, ACCEPTED);
    world.settle().await;
    assert_eq!(make(&world, &live, 1).await.acknowledged, SETTLED);

    let claim = claim(&live, &buyer(2), "k", 0, 1);
    const REJECTED: &str = "insert into rejected_claims values ($1, $2, $3, 'token_held', '{1}', now())";
    world.sql.execute(REJECTED, &[&claim.id.0, &live.drop.id.0, &claim.buyer.as_str()]).await.unwrap();
    assert_eq!(world.engine.claim(&live, &claim).await.unwrap().acknowledged, Acknowledged::Rejected);
}
