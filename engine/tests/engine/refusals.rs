//! Stores that say no: what they refuse was not done, and everybody is told so. What only looks like a refusal stays
//! unknown.

use std::time::{Duration, Instant};

use doorbuster_engine::carts::CartError;
use doorbuster_engine::domain::carts::{Addition, CartOwner};
use doorbuster_engine::domain::claims::ClaimOutcome;
use doorbuster_engine::domain::clock::Clock;
use doorbuster_engine::domain::ids::IdempotencyKey;
use doorbuster_engine::flows::{Engine, EngineError};
use doorbuster_engine::ledger::{Ledger, LedgerError};
use doorbuster_engine::tokens::TokenError;
use doorbuster_engine::tokens::store::{Refusal, TokenStore};
use redis::aio::MultiplexedConnection;
use tokio::net::TcpListener;

use crate::harness::{World, buyer, taken};
use crate::wire::Wire;

async fn tell(server: &mut MultiplexedConnection, words: &[&str]) {
    let (name, arguments) = words.split_first().unwrap();
    redis::cmd(name).arg(arguments).query_async::<()>(server).await.unwrap();
}

fn refusal(outcome: Result<ClaimOutcome, EngineError>) -> Option<Refusal> {
    match outcome.unwrap_err() {
        EngineError::Tokens(error) => match *error {
            TokenError::Refused { why, .. } => Some(why),
            _ => None,
        },
        other => panic!("{other}"),
    }
}

fn addition() -> Addition {
    let key: IdempotencyKey = "k".parse().unwrap();
    Addition {
        variant_id: doorbuster_engine::domain::ids::VariantId(1),
        quantity: doorbuster_engine::domain::carts::LineQuantity::new(1).unwrap(),
        price: doorbuster_engine::domain::money::Money { amount_minor: 100, currency: "EUR".parse().unwrap() },
        key,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_redis_refuses_is_not_done_and_is_told_as_refused() {
    let (world, redis) = World::with_own_redis().await;
    let live = world.open(&[10], 1, 1).await;
    let mut server = world.server_with_url(&redis.url()).await;
    let folder: Vec<String> = redis::cmd("CONFIG").arg("GET").arg("dir").query_async(&mut server).await.unwrap();
    // A snapshot cannot take the place of a folder.
    std::fs::create_dir(format!("{}/dump.rdb", folder[1])).unwrap();
    let set: fn(&'static str, &'static str) -> Vec<&'static str> = |name, value| vec!["CONFIG", "SET", name, value];
    let cases = [
        (Refusal::OutOfMemory, vec![set("maxmemory", "1")], vec![set("maxmemory", "0")]),
        (Refusal::TooFewReplicas, vec![set("min-replicas-to-write", "1")], vec![set("min-replicas-to-write", "0")]),
        (Refusal::DiskFailed, vec![set("save", "3600 1000000"), vec!["BGSAVE"]], vec![set("save", "")]),
        (Refusal::Replica, vec![vec!["REPLICAOF", "127.0.0.1", "1"]], vec![vec!["REPLICAOF", "NO", "ONE"]]),
    ];
    let owner = CartOwner::Buyer(buyer(1));
    for (why, fault, cure) in cases {
        assert_eq!(world.engine.tokens.reach().await.unwrap().answering, 1, "before {why:?}");
        for command in &fault {
            tell(&mut server, command).await;
        }
        let began = Instant::now();
        let reach = loop {
            let reach = world.engine.tokens.reach().await.unwrap();
            // A snapshot fails a moment after it was asked for.
            if reach.answering == 0 || began.elapsed() > Duration::from_secs(10) {
                break reach;
            }
            tokio::task::yield_now().await;
        };
        assert_eq!((reach.answering, reach.refusing.len()), (0, 1), "{why:?}: {reach:?}");
        assert!(reach.refusing[0].contains(why.sentence()), "{reach:?}");
        assert_eq!(refusal(world.claim(&live, 1, "k", 0, 1).await), Some(why));
        let cart = world.engine.carts.add(&owner, &addition()).await.unwrap_err();
        assert!(matches!(cart, CartError::Refused { why: told, .. } if told == why), "{cart}");
        assert!(EngineError::from(cart).is_retryable());
        for command in &cure {
            tell(&mut server, command).await;
        }
    }
    let began = Instant::now();
    // The end of a history, and the beginning of another one.
    while world.engine.rebuild_fenced().await.is_err() || world.live().await.drop.warehouses == live.drop.warehouses {
        assert!(began.elapsed() < Duration::from_secs(10));
        tokio::task::yield_now().await;
    }
    let live = world.live().await;
    assert_eq!(world.free_in_redis(&live).await, 10, "nothing was taken");
    assert!(world.engine.carts.read(&owner).await.unwrap().is_none(), "nothing was put in");
    taken(world.claim_until_answered(&live, 1, "k", 0, 1).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn while_redis_cannot_be_reached_claims_are_refused_and_none_is_unknown() {
    let (world, redis) = World::with_own_redis().await;
    let live = world.open(&[10], 1, 1).await;
    redis.kill();
    // Who sends while it dies may have been heard.
    while refusal(world.claim(&live, 1, "k", 0, 1).await).is_none() {}
    let again = world.claim(&live, 2, "k", 0, 1).await;
    let said = again.as_ref().unwrap_err().to_string();
    assert!(said.contains(&format!("127.0.0.1:{}", redis.port())) && said.contains("refused"), "{said}");
    assert_eq!(refusal(again), Some(Refusal::NotConnected));
}

/// A proxy in front of Redis takes connections and ends them when there is no primary.
#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_ends_before_anything_was_sent_is_a_refusal() {
    let world = World::new().await;
    let live = world.open(&[10], 1, 1).await;
    let proxy = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
    let url = format!("redis://127.0.0.1:{}", proxy.local_addr().unwrap().port());
    tokio::spawn(async move { while proxy.accept().await.is_ok() {} });
    let ledger = Ledger::new(&world.database, 2).unwrap();
    let engine = Engine::new(ledger, TokenStore::open(&url).unwrap(), Clock::System);
    let there = engine.refresh(&live.drop.name).await.unwrap().unwrap();
    let outcome = engine.claim(&there, &crate::harness::claim(&there, &buyer(1), "k", 0, 1)).await;
    assert_eq!(refusal(outcome.map(|answered| answered.outcome)), Some(Refusal::NotConnected));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_that_follows_a_lost_answer_proves_nothing() {
    let (world, redis) = World::with_own_redis().await;
    let wire = Wire::before(redis.port()).await;
    let live = world.open(&[10], 1, 1).await;
    let ledger = Ledger::new(&world.database, 2).unwrap();
    let through = TokenStore::connect(&format!("redis://127.0.0.1:{}", wire.port)).await.unwrap();
    let engine = Engine::new(ledger, through, Clock::System);
    let there = engine.refresh(&live.drop.name).await.unwrap().unwrap();
    let claim = crate::harness::claim(&there, &buyer(1), "k", 0, 1);
    // A script that the server does not know is not run; this one makes it known.
    taken(world.claim(&live, 2, "k", 0, 1).await.unwrap());
    let mut server = world.server_with_url(&redis.url()).await;
    let mut full = server.clone();
    wire.lose_next_answer(async move { tell(&mut full, &["CONFIG", "SET", "maxmemory", "1"]).await }).await;
    let outcome = engine.claim(&there, &claim).await.map(|answered| answered.outcome);
    assert!(wire.has_lost_it().await);
    assert_eq!(refusal(outcome), None, "it was taken, and nobody heard of it");
    tell(&mut server, &["CONFIG", "SET", "maxmemory", "0"]).await;
    let answered = engine.claim(&there, &claim).await.unwrap();
    assert!(matches!(answered.outcome, ClaimOutcome::Replayed { .. }), "{answered:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_postgres_that_takes_no_writes_or_no_connections_refuses() {
    let world = World::new().await;
    let refused = async |ledger: &Ledger, said: &str| {
        let error = ledger.ping().await.unwrap_err();
        assert!(error.is_refusal() && error.is_retryable(), "{error}");
        assert_eq!(error.to_string().matches(said).count(), 1, "{error}");
    };
    let read_only = "do $$ begin
        execute format('alter database %I set default_transaction_read_only = on', current_database()); end $$";
    world.sql.batch_execute(read_only).await.unwrap();
    let reader = Ledger::new(&world.database, 2).unwrap();
    refused(&reader, "default_transaction_read_only").await;
    let error = reader.migrate().await.unwrap_err();
    assert!(!error.is_about_the_rows(), "{error}");
    let profile = doorbuster_engine::ledger::profiles::CheckoutProfile {
        payment_method: Some("pm_card_visa".parse().unwrap()),
        email: "a@example.test".to_owned(),
        ship_to: serde_json::json!({ "name": "A", "country": "DE" }),
    };
    let error = reader.save_profile(&buyer(1), &profile, Clock::System.now()).await.unwrap_err();
    assert!(matches!(&error, LedgerError::Database(_)) && error.is_refusal() && error.is_retryable(), "{error}");

    let role = format!("nobody_{}", world.number);
    world.sql.batch_execute(&format!("create role {role} login connection limit 0")).await.unwrap();
    let (scheme, rest) = world.database.split_once("://").unwrap();
    let host = rest.rsplit_once('@').map_or(rest, |(_, host)| host);
    let crowded = Ledger::new(&format!("{scheme}://{role}@{host}"), 2).unwrap();
    refused(&crowded, "53300").await;
    refused(&Ledger::new("postgres://nobody@127.0.0.1:1/nothing", 2).unwrap(), "Connection refused").await;
}
