//! The life of a drop between its opening and the archive.

use std::time::{Duration, Instant};

use doorbuster_engine::domain::claims::ClaimOutcome;
use doorbuster_engine::domain::drops::{DropState, Warehouse};
use doorbuster_engine::domain::ids::RestockId;
use doorbuster_engine::flows::open_drop::DropRefused;
use doorbuster_sandbox::RedisOptions;
use uuid::Uuid;

use crate::harness::{World, provider, taken};

#[tokio::test(flavor = "multi_thread")]
async fn a_paused_drop_answers_what_it_knows_and_sells_again_when_it_is_resumed() {
    let world = World::new().await;
    let live = world.open(&[5], 2, 1).await;
    let serials = taken(world.claim_until_answered(&live, 1, "k", 0, 1).await);
    world.engine.pause_drop(&world.drop).await.unwrap().unwrap();
    assert_eq!(world.claim_until_answered(&live, 2, "k", 0, 1).await, ClaimOutcome::NotOpen);
    assert_eq!(world.claim_until_answered(&live, 1, "k", 0, 1).await, ClaimOutcome::Replayed { serials });
    assert_eq!(world.settle().await, 1);
    world.engine.resume_drop(&world.drop).await.unwrap().unwrap();
    taken(world.claim_until_answered(&live, 2, "k", 0, 1).await);
    world.engine.close_drop(&world.drop).await.unwrap().unwrap();
    let refused = world.engine.resume_drop(&world.drop).await.unwrap().unwrap_err();
    assert_eq!(refused, DropRefused::State(DropState::Closed), "a closed drop stays closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_opening_is_left_to_whoever_is_at_it_and_gone_on_with_when_he_is_not() {
    let world = World::new().await;
    let drop = world.engine.create_drop(&world.new_drop(&[10], 2, 1), 42).await.unwrap().unwrap();
    assert!(world.engine.ledger.move_drop(drop.id, &[DropState::Draft], DropState::Opening).await.unwrap());
    let epochs = async || {
        let drop = world.engine.ledger.drop_by_name(&world.drop).await.unwrap().unwrap();
        drop.warehouses.iter().map(|warehouse| warehouse.epoch).collect::<Vec<_>>()
    };
    assert_eq!(world.engine.run_schedule().await.unwrap(), 0);
    let began = Instant::now();
    let (first, second) = (drop.warehouses[0], drop.warehouses[1]);
    world.engine.ledger.begin_load(first.id, first.epoch).await.unwrap().unwrap();
    let before = epochs().await;
    assert_eq!(world.engine.run_schedule().await.unwrap(), 0, "its warehouses are being loaded");
    assert_eq!(epochs().await, before, "a load of ours would undo his");
    assert_eq!(before[1], second.epoch);
    while world.engine.run_schedule().await.unwrap() == 0 {
        assert!(began.elapsed() < Duration::from_secs(30), "nobody goes on with it");
        tokio::time::sleep(Duration::from_millis(500)).await;
    }
    let live = world.live().await;
    assert_eq!(live.drop.state, DropState::Open);
    taken(world.claim_until_answered(&live, 1, "k", 0, 1).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drop_is_paused_while_a_warehouse_is_loaded_which_hears_of_it_at_the_end() {
    let world = World::new().await;
    let live = world.open(&[10], 2, 1).await;
    let first = live.drop.warehouses[0];
    let epoch = world.engine.ledger.begin_load(first.id, first.epoch).await.unwrap().unwrap();
    world.engine.tokens.warehouse(&live.drop, &Warehouse { epoch, ..first }).fence().await.unwrap();
    let paused = world.engine.pause_drop(&world.drop).await.unwrap().unwrap();
    assert_eq!(paused.state, DropState::Paused);
    world.engine.rebuild_drop(&world.drop).await.unwrap().unwrap();
    let live = world.live().await;
    for who in 0..8 {
        assert_eq!(world.claim_until_answered(&live, who, "k", 0, 1).await, ClaimOutcome::NotOpen);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restock_while_open_is_sold_to_the_last_unit() {
    let world = World::new().await;
    let live = world.open(&[3, 1], 4, 1).await;
    for who in 0..3 {
        taken(world.claim_until_answered(&live, who, "k", 0, 1).await);
    }
    assert_eq!(world.claim_until_answered(&live, 3, "k", 0, 1).await, ClaimOutcome::SoldOut);
    let sku = live.drop.variants[0].sku.clone();
    let restock = async |id: u128, sku: &str, units| {
        world.engine.restock_drop(&world.drop, RestockId(Uuid::from_u128(id)), sku, units).await.unwrap()
    };
    let restocked = restock(1, &sku, 2_503).await.unwrap();
    assert_eq!((restocked.drop.variants[0].stock_units, restocked.is_new), (2_506, true));
    world.apply_all_grants().await;
    let live = world.live().await;
    assert_eq!(world.free_in_redis(&live).await, 2_504);
    for who in 3..40 {
        taken(world.claim_until_answered(&live, who, "k", 0, 1).await);
    }
    world.settle().await;
    let report = world.engine.audit(None).await.unwrap();
    assert!(report.is_clean(), "{:#?}", report.violations);
    let refused = restock(2, "no-such", 1).await.unwrap_err();
    assert_eq!(refused, DropRefused::UnknownSku("no-such".to_owned()));
    world.engine.close_drop(&world.drop).await.unwrap().unwrap();
    let refused = restock(2, &sku, 1).await.unwrap_err();
    assert_eq!(refused, DropRefused::State(DropState::Closed));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restock_that_is_repeated_adds_once() {
    let world = World::new().await;
    let live = world.open(&[3, 1], 2, 1).await;
    let [sku, other] = [0, 1].map(|number: usize| live.drop.variants[number].sku.clone());
    let restock = async |id: u128, sku: &str, units| {
        world.engine.restock_drop(&world.drop, RestockId(Uuid::from_u128(id)), sku, units).await.unwrap()
    };
    // An operator who loses his patience five times at once.
    let done = futures_util::future::join_all((0..5).map(|_| restock(1, &sku, 10))).await;
    let done = done.into_iter().map(Result::unwrap).collect::<Vec<_>>();
    assert_eq!(done.iter().filter(|restocked| restocked.is_new).count(), 1);
    assert!(done.iter().all(|restocked| restocked.drop.variants[0].stock_units == 13), "{done:?}");
    for (sku, units) in [(&sku, 11), (&other, 10)] {
        let refused = restock(1, sku, units).await.unwrap_err();
        assert_eq!(refused, DropRefused::RestockDiffers(RestockId(Uuid::from_u128(1))));
    }
    assert!(restock(2, &sku, 10).await.unwrap().is_new, "another id is another restock");
    assert_eq!(world.count("select count(*) from tokens").await, 24);
    world.apply_all_grants().await;
    assert_eq!(world.free_in_redis(&live).await, 24);
    world.engine.close_drop(&world.drop).await.unwrap().unwrap();
    assert!(!restock(2, &sku, 10).await.unwrap().is_new, "what is done is done, though the sale is over");
    let report = world.engine.audit(None).await.unwrap();
    assert!(report.is_clean(), "{:#?}", report.violations);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_stock_is_written_in_pieces_that_leave_no_gap() {
    let world = World::new().await;
    // Pieces of 100,000 rows: their bounds lie within warehouses, and one run is longer than a piece.
    let live = world.open(&[150_001, 3, 60_001], 2, 1).await;
    assert_eq!(world.free_in_redis(&live).await, 210_005);
    let count_of = "select count(distinct serial) from tokens where serial between 1 and";
    assert_eq!(world.count(&format!("{count_of} 210005")).await, 210_005);
    for (variant, units) in [(0, 150_001), (1, 3), (2, 60_001)] {
        let of_variant = format!("select count(*) from tokens where variant_number = {variant}");
        assert_eq!(world.count(&of_variant).await, units);
    }
    let sku = &live.drop.variants[1].sku;
    world.engine.restock_drop(&world.drop, RestockId(Uuid::from_u128(1)), sku, 200_002).await.unwrap().unwrap();
    assert_eq!(world.count(&format!("{count_of} 410007")).await, 410_007);
    // Redis may need longer for so large a warehouse than an answer may take, on a machine that is busy.
    let deadline = Instant::now() + Duration::from_secs(60);
    let report = loop {
        match world.engine.audit(None).await {
            Err(error) if error.is_retryable() && Instant::now() < deadline => {}
            report => break report.unwrap(),
        }
    };
    assert!(report.is_clean(), "{:#?}", report.violations);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drop_is_archived_only_when_nothing_of_it_is_on_its_way() {
    let world = World::new().await;
    let (_fake, client) = provider(Default::default()).await;
    let live = world.open(&[5], 2, 1).await;
    world.save_profile(1, "pm_card_visa").await;
    taken(world.claim_until_answered(&live, 1, "k", 0, 1).await);
    let refused = world.engine.archive_drop(&world.drop).await.unwrap().unwrap_err();
    assert_eq!(refused, DropRefused::State(DropState::Open));
    world.engine.close_drop(&world.drop).await.unwrap().unwrap();
    let refused = world.engine.archive_drop(&world.drop).await.unwrap().unwrap_err();
    assert!(matches!(refused, DropRefused::NotDrained(left) if left.unsettled_claims == 1), "{refused:?}");
    world.settle().await;
    let refused = world.engine.archive_drop(&world.drop).await.unwrap().unwrap_err();
    assert!(matches!(refused, DropRefused::NotDrained(left) if left.unpaid_orders == 1), "{refused:?}");
    world.engine.charge_due(&client, 10, 4).await.unwrap();
    for _ in 0..2 {
        let drop = world.engine.archive_drop(&world.drop).await.unwrap().unwrap();
        assert_eq!(drop.state, DropState::Archived);
    }
    assert!(live.store(&live.drop.warehouses[0]).dump().await.unwrap().is_none(), "Redis holds nothing of it");
    assert_eq!(world.engine.rebuild_fenced().await.unwrap(), 0, "and nobody brings it back");
    let report = world.engine.audit(Some(&client)).await.unwrap();
    assert!(report.is_clean(), "what an archived drop sold is no capture without an order: {:?}", report.violations);
    assert_eq!(world.count("select count(*) from orders where status = 'CONFIRMED'").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_by_hand_changes_nothing_that_anybody_can_see() {
    let world = World::new().await;
    let live = world.open(&[50], 3, 1).await;
    let mut before = Vec::new();
    for who in 0..20 {
        before.push(taken(world.claim_until_answered(&live, who, "k", 0, 1).await));
    }
    world.engine.rebuild_drop(&world.drop).await.unwrap().unwrap();
    for (who, serials) in (0..20).zip(before) {
        assert_eq!(world.claim_until_answered(&live, who, "k", 0, 1).await, ClaimOutcome::Replayed { serials });
    }
    let live = world.live().await;
    assert_eq!(world.free_in_redis(&live).await, 30);
    assert_eq!(world.count("select count(*) from orders").await, 20, "what was not settled yet, the rebuild settled");
    let report = world.engine.audit(None).await.unwrap();
    assert!(report.is_clean(), "{:#?}", report.violations);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drop_refuses_to_open_on_a_redis_that_may_forget() {
    for (setting, value) in [("maxmemory-policy", "allkeys-lru"), ("appendonly", "no"), ("appendfsync", "no")] {
        let world = World::with_redis(RedisOptions::default().setting(setting, value)).await;
        world.engine.create_drop(&world.new_drop(&[5], 1, 1), 42).await.unwrap().unwrap();
        let refused = world.engine.open_drop(&world.drop).await.unwrap().unwrap_err();
        let DropRefused::Configuration(problems) = refused else { panic!("{refused:?}") };
        assert!(problems.iter().any(|problem| problem.contains(setting)), "{setting}: {problems:?}");
        assert_eq!(world.live().await.drop.state, DropState::Draft);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drop_that_is_archived_while_it_is_rebuilt_stays_archived() {
    let (world, redis) = World::with_own_redis().await;
    let live = world.open(&[1], 3, 1).await;
    taken(world.claim_until_answered(&live, 1, "k", 0, 1).await);
    // A proof is out, so that the rebuild waits before it opens.
    assert_eq!(world.claim_until_answered(&live, 2, "k", 0, 1).await, ClaimOutcome::SoldOut);
    world.settle().await;
    world.sql.execute("update drops set pay_by = now() - interval '1 second'", &[]).await.unwrap();
    world.engine.expire_unpaid(10).await.unwrap();
    world.apply_all_grants().await;
    redis.kill();
    redis.restart().await.unwrap();
    let rebuilding = tokio::spawn({
        let engine = world.another_engine().await;
        async move { engine.rebuild_fenced().await }
    });
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    // The warehouses are fenced and cannot be told; Postgres is.
    let _ = world.engine.close_drop(&world.drop).await;
    world.engine.archive_drop(&world.drop).await.unwrap().unwrap();
    rebuilding.await.unwrap().unwrap();
    let archived = world.live().await;
    assert_eq!(archived.drop.state, DropState::Archived);
    let outcome = world.claim(&archived, 3, "k", 0, 1).await;
    assert!(outcome.is_err(), "nothing is sold of an archived drop: {outcome:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_to_do_is_counted_however_much_is_left_of_other_drops() {
    let world = World::new().await;
    world.open(&[5], 1, 1).await;
    let mut second = world.new_drop(&[5], 1, 1);
    second.name = format!("{}-2", world.drop).parse().unwrap();
    second.variants[0].sku += "-2";
    world.engine.create_drop(&second, 42).await.unwrap().unwrap();
    let drop = world.engine.open_drop(&second.name).await.unwrap().unwrap();
    // 1,500 grants of the first drop and 1,200 of the second wait for Redis.
    for (number, count) in [(&world.drop, 1_500), (&second.name, 1_200)] {
        let grants = "insert into grants (warehouse_id, number, kind, serials)
            select w.warehouse_id, n, 'restock', '{}' from warehouses w join drops d using (drop_id), generate_series(2, 1 + $2::int) n
            where d.name = $1";
        world.sql.execute(grants, &[&number.as_str(), &count]).await.unwrap();
    }
    assert_eq!(world.engine.left_to_do(&drop).await.unwrap().pending_grants, 1_200);
}
