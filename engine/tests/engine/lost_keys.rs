//! Redis loses one key of a warehouse, by an eviction policy that somebody switched on, or by hand. That is noticed whatever
//! the key holds, nothing is sold from what is left, and the warehouse is rebuilt from Postgres and what there is.

use std::collections::HashMap;

use doorbuster_engine::domain::claims::ClaimOutcome;
use doorbuster_engine::domain::drops::NewDrop;
use doorbuster_engine::domain::ids::{DropName, VariantNumber, WarehouseNumber};
use doorbuster_engine::flows::EngineError;
use doorbuster_engine::tokens::TokenError;
use doorbuster_engine::tokens::keys::WarehouseKeys;
use redis::aio::MultiplexedConnection;

use crate::harness::{World, buyer, taken};

/// Every key that a warehouse of one variant has.
fn keys_of(drop: &DropName) -> Vec<String> {
    let keys = WarehouseKeys::new(drop, WarehouseNumber(0), 1);
    let fixed = ["meta", "buyers", "claims", "out"].map(|name| keys.fixed(name));
    let of_variant = ["tokens", "spare"].map(|name| keys.of_variant(name, VariantNumber(0)));
    fixed.into_iter().chain(of_variant).collect()
}

async fn delete(redis: &mut MultiplexedConnection, key: &str) {
    let deleted: i64 = redis::cmd("DEL").arg(key).query_async(redis).await.unwrap();
    assert_eq!(deleted, 1, "{key} was there");
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_key_is_lost_the_warehouse_is_rebuilt_and_every_answer_stays_as_it_was() {
    const STOCK: u32 = 40;
    let world = World::new().await;
    let mut live = world.open(&[STOCK], 1, 1).await;
    let keys = keys_of(&world.drop);
    let mut redis = world.server_with(&keys[0]).await;
    let mut told = HashMap::new();
    for (round, key) in keys.iter().enumerate() {
        let first = 10 * round as u32;
        for who in first..first + 4 {
            told.insert(who, taken(world.claim_until_answered(&live, who, "k", 0, 1).await));
            if who == first + 1 {
                world.settle().await;
            }
        }
        delete(&mut redis, key).await;

        // Those that a claim touches stop it at once; the others are seen by who looks at the whole.
        if !key.contains(":out") && !key.contains(":spare") {
            let error = world.claim(&live, first + 9, "k", 0, 1).await.unwrap_err();
            assert!(error.is_fenced(), "without {key}: {error}");
        }
        let report = world.engine.audit(None).await.unwrap();
        let rules = report.violations.iter().map(|violation| violation.rule).collect::<Vec<_>>();
        assert_eq!(rules, ["warehouse_not_loaded"], "without {key}: {:#?}", report.violations);
        let lost = live.store(&live.drop.warehouses[0]).lost_keys().await.unwrap();
        assert_eq!(lost, [key.as_str()]);

        assert_eq!(world.engine.rebuild_fenced().await.unwrap(), 1, "without {key}");
        live = world.live().await;
        for (who, serials) in &told {
            let again = world.claim_until_answered(&live, *who, "k", 0, 1).await;
            assert_eq!(again, ClaimOutcome::Replayed { serials: serials.clone() }, "buyer {who}, without {key}");
            let more = world.claim_until_answered(&live, *who, "another-click", 0, 1).await;
            assert_eq!(more, ClaimOutcome::OverLimit { held: 1, limit: 1 }, "buyer {who}, without {key}");
        }
        assert_eq!(world.free_in_redis(&live).await, STOCK as usize - told.len());
        let report = world.engine.audit(None).await.unwrap();
        assert!(report.is_clean(), "after {key}: {:#?}", report.violations);
    }
    world.settle().await;
    assert_eq!(world.count("select count(*) from orders").await, told.len() as i64);
    assert_eq!(world.count("select count(*) from rejected_claims").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_for_records_that_are_lost_hears_that_nobody_knows_and_not_that_there_are_none() {
    let world = World::new().await;
    let live = world.open(&[4], 1, 1).await;
    taken(world.claim_until_answered(&live, 1, "k", 0, 1).await);
    let claim = crate::harness::claim(&live, &buyer(1), "k", 0, 1);
    let key = &keys_of(&world.drop)[1];
    delete(&mut world.server_with(key).await, key).await;
    let error = world.engine.claim_of(&buyer(1), claim.id).await.unwrap_err();
    assert!(error.is_fenced(), "{error}");
    let holders = live.store(&live.drop.warehouses[0]).holders().await;
    assert!(matches!(holders, Err(TokenError::NotLoaded)), "{holders:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_warehouse_that_cannot_be_read_does_not_keep_other_drops_from_their_audit() {
    let world = World::new().await;
    world.open(&[4], 1, 1).await;
    let first = keys_of(&world.drop);
    let other = NewDrop { name: format!("{}-b", world.drop).parse().unwrap(), ..world.new_drop(&[3], 1, 1) };
    let mut variants = other.variants.clone();
    variants[0].sku += "-b";
    let other = NewDrop { variants, ..other };
    world.engine.create_drop(&other, 7).await.unwrap().unwrap();
    world.engine.open_drop(&other.name).await.unwrap().unwrap();

    let mut redis = world.server_with(&first[4]).await;
    redis::cmd("SET").arg(&first[4]).arg("no number").query_async::<()>(&mut redis).await.unwrap();
    for key in [None, Some(&first[3])] {
        if let Some(key) = key {
            redis::cmd("SET").arg(key).arg("no hash").query_async::<()>(&mut redis).await.unwrap();
        }
        let report = world.engine.audit(None).await.unwrap();
        let [violation] = &report.violations[..] else { panic!("{:#?}", report.violations) };
        assert_eq!((violation.rule, violation.drop.as_str()), ("drop_unreadable", world.drop.as_str()));
        assert!(!report.is_clean());
        let audit = report.drops.iter().find(|drop| drop.drop == other.name.as_str()).expect("the other drop");
        assert_eq!((audit.is_quiet, audit.free), (true, 3), "{audit:?}");
    }

    // What Redis does not answer is no finding: the audit could not be made.
    let away = World::with_own_redis().await;
    away.0.open(&[1], 1, 1).await;
    away.1.kill();
    let error = away.0.engine.audit(None).await.unwrap_err();
    assert!(matches!(error, EngineError::Tokens(_)), "{error}");
}
