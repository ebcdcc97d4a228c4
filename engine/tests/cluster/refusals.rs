//! What a cluster refuses: the client sends again by itself, so the sends are counted.

use doorbuster_engine::domain::claims::ClaimOutcome;
use doorbuster_engine::domain::clock::Clock;
use doorbuster_engine::flows::{Engine, EngineError};
use doorbuster_engine::ledger::Ledger;
use doorbuster_engine::tokens::TokenError;
use doorbuster_engine::tokens::store::{Refusal, TokenStore};
use doorbuster_sandbox::{RedisClusterOptions, RedisOptions};

use crate::harness::{World, buyer, claim, servers};
use crate::wire::Wire;

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_refuses_only_what_no_send_of_its_client_may_have_done() {
    let servers = servers().await;
    // A node that has never met another one does not know its own address.
    let known = RedisOptions::default().setting("cluster-announce-ip", "127.0.0.1");
    let options = RedisClusterOptions::default().primaries(1).replicas_of_each(0).redis(known);
    let cluster = servers.sandbox.redis_cluster(options).await.unwrap();
    let node = &cluster.nodes()[0];
    let wire = Wire::before(node.port()).await;
    let world = World::on(cluster.url(), &servers.postgres).await;
    let live = world.open(&[10], 1, 1).await;
    // From now on whoever asks for the slots is sent through the wire.
    let mut server = world.server_with_url(&node.url()).await;
    let set = |name: &'static str, value: String| redis::cmd("CONFIG").arg("SET").arg(name).arg(value).take();
    set("cluster-announce-port", wire.port.to_string()).query_async::<()>(&mut server).await.unwrap();

    let ledger = Ledger::new(&world.database, 2).unwrap();
    let through = TokenStore::connect(&format!("redis-cluster://127.0.0.1:{}", wire.port)).await.unwrap();
    let engine = Engine::new(ledger, through, Clock::System);
    let there = engine.refresh(&live.drop.name).await.unwrap().unwrap();
    let make = async |who: u32| match engine.claim(&there, &claim(&there, &buyer(who), "k", 0, 1)).await {
        Ok(answered) => Ok(answered.outcome),
        Err(EngineError::Tokens(error)) => match *error {
            TokenError::Refused { why, .. } => Err(Some(why)),
            TokenError::Redis(_) => Err(None),
            ref other => panic!("{other}"),
        },
        Err(other) => panic!("{other}"),
    };
    assert!(matches!(make(1).await, Ok(ClaimOutcome::Taken { .. })));
    set("maxmemory", "1".to_owned()).query_async::<()>(&mut server).await.unwrap();
    assert_eq!(make(2).await, Err(Some(Refusal::OutOfMemory)));
    let reach = engine.tokens.reach().await.unwrap();
    assert_eq!((reach.answering, reach.refusing.len()), (0, 1), "{reach:?}");

    set("maxmemory", "0".to_owned()).query_async::<()>(&mut server).await.unwrap();
    let (mut full, fill) = (server.clone(), set("maxmemory", "1".to_owned()));
    wire.lose_next_answer(async move { fill.query_async::<()>(&mut full).await.unwrap() }).await;
    assert_eq!(make(3).await, Err(None), "the first send has taken a unit, the second was refused");
    assert!(wire.has_lost_it().await);
    set("maxmemory", "0".to_owned()).query_async::<()>(&mut server).await.unwrap();
    assert!(matches!(make(3).await, Ok(ClaimOutcome::Replayed { .. })));
}
