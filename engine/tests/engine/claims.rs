//! Claims against one warehouse and against several: limits, idempotency, states.

use doorbuster_engine::domain::claims::ClaimOutcome;
use doorbuster_engine::domain::ids::{Serial, VariantNumber};
use doorbuster_engine::flows::LiveDrop;
use futures_util::future::join_all;

use crate::harness::{World, buyer, claim, is_on_cluster, taken};

#[tokio::test(flavor = "multi_thread")]
async fn stock_is_sold_exactly_and_then_refused() {
    let world = World::new().await;
    let live = world.open(&[37], 5, 1).await;
    let outcomes = join_all((0..200).map(|who| world.claim_until_answered(&live, who, "k", 0, 1))).await;
    let mut serials = outcomes.iter().filter_map(|outcome| match outcome {
        ClaimOutcome::Taken { serials } => Some(serials[0].0),
        ClaimOutcome::SoldOut => None,
        other => panic!("{other:?}"),
    });
    let mut sold = serials.by_ref().collect::<Vec<_>>();
    sold.sort_unstable();
    assert_eq!(sold, (1..=37).collect::<Vec<_>>(), "every serial once");
    assert_eq!(world.free_in_redis(&live).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_key_gets_the_same_answer_also_after_the_sell_out() {
    let world = World::new().await;
    let live = world.open(&[3], 2, 3).await;
    let first = taken(world.claim_until_answered(&live, 1, "k", 0, 2).await);
    taken(world.claim_until_answered(&live, 2, "k", 0, 1).await);
    assert_eq!(world.claim_until_answered(&live, 3, "k", 0, 1).await, ClaimOutcome::SoldOut);
    assert_eq!(world.claim_until_answered(&live, 1, "k", 0, 2).await, ClaimOutcome::Replayed { serials: first });
    assert_eq!(world.claim_until_answered(&live, 1, "k", 0, 1).await, ClaimOutcome::KeyReused);
}

#[tokio::test(flavor = "multi_thread")]
async fn claims_of_one_buyer_in_one_batch_see_each_other() {
    let world = World::new().await;
    let live = world.open(&[50, 50], 1, 3).await;
    let one = buyer(1);
    let home = live.home_of(&one);
    let batch = [
        claim(&live, &one, "a", 0, 2),
        claim(&live, &one, "a", 0, 2),
        claim(&live, &one, "b", 1, 2),
        claim(&live, &one, "c", 1, 1),
        claim(&live, &one, "d", 0, 1),
    ];
    use doorbuster_engine::tokens::store::Outcome;
    let outcomes = live.store(home).claim(0, &batch).await.unwrap();
    let Outcome::Taken(first) = &outcomes[0] else { panic!("{outcomes:?}") };
    assert_eq!(first, &[Serial(50), Serial(49)]);
    assert_eq!(outcomes[1], Outcome::Replayed(first.clone()));
    assert_eq!(outcomes[2], Outcome::OverLimit { held: 2 }, "the limit holds across variants");
    assert_eq!(outcomes[3], Outcome::Taken(vec![Serial(100)]));
    assert_eq!(outcomes[4], Outcome::OverLimit { held: 3 });
}

#[tokio::test(flavor = "multi_thread")]
async fn refusals_write_nothing() {
    let world = World::new().await;
    let live = world.open(&[1], 1, 1).await;
    taken(world.claim_until_answered(&live, 1, "k", 0, 1).await);
    let before = format!("{:?}", world.dumps(&live).await);
    for who in 1..100 {
        let outcome = world.claim_until_answered(&live, who, "other", 0, 1).await;
        assert!(matches!(outcome, ClaimOutcome::SoldOut | ClaimOutcome::OverLimit { .. }), "{outcome:?}");
    }
    assert_eq!(format!("{:?}", world.dumps(&live).await), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drop_sells_only_while_it_is_open_and_answers_known_claims_always() {
    let world = World::new().await;
    world.engine.create_drop(&world.new_drop(&[5], 2, 1), 42).await.unwrap().unwrap();
    let live = world.live().await;
    let unloaded = world.claim(&live, 1, "k", 0, 1).await.unwrap_err();
    assert!(unloaded.is_fenced(), "a drop that was never loaded is not sold out: {unloaded}");
    world.engine.open_drop(&world.drop).await.unwrap().unwrap();
    let live = world.live().await;
    let serials = taken(world.claim_until_answered(&live, 1, "k", 0, 1).await);
    world.engine.close_drop(&world.drop).await.unwrap().unwrap();
    assert_eq!(world.claim_until_answered(&live, 2, "k", 0, 1).await, ClaimOutcome::Closed);
    assert_eq!(world.claim_until_answered(&live, 1, "k", 0, 1).await, ClaimOutcome::Replayed { serials });
}

#[tokio::test(flavor = "multi_thread")]
async fn odd_shapes_of_stock_limit_and_warehouses_work() {
    // One unit, a limit above the stock, more warehouses than units.
    for (stock, warehouses, limit) in [(1_u32, 1, 1), (2, 1, 100), (3, 16, 2)] {
        let world = World::new().await;
        let live = world.open(&[stock], warehouses, limit).await;
        let outcomes = join_all((0..8).map(|who| world.claim_until_answered(&live, who, "k", 0, 1))).await;
        let sold = outcomes.iter().filter(|outcome| matches!(outcome, ClaimOutcome::Taken { .. })).count();
        assert_eq!(sold as u32, stock, "{stock} units in {warehouses} warehouses");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn more_than_is_left_is_not_enough_with_the_number_that_is() {
    let world = World::new().await;
    let live = world.open(&[3], 2, 10).await;
    assert_eq!(world.claim_until_answered(&live, 1, "k", 0, 5).await, ClaimOutcome::NotEnough { available: 3 });
    assert_eq!(taken(world.claim_until_answered(&live, 1, "k2", 0, 3).await).len(), 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn scripts_that_the_server_forgot_are_loaded_again() {
    let (world, redis) = World::with_own_redis().await;
    let live = world.open(&[2], 1, 1).await;
    let mut connection = redis::Client::open(redis.url()).unwrap().get_multiplexed_async_connection().await.unwrap();
    redis::cmd("SCRIPT").arg("FLUSH").query_async::<()>(&mut connection).await.unwrap();
    taken(world.claim_until_answered(&live, 1, "k", 0, 1).await);
}

/// Who waits is answered first.
async fn until_the_reading_is_kept(live: &LiveDrop) {
    while !live.is_known_to_be_gone(VariantNumber(0)) {
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lease_answers_strangers_without_redis_and_holders_with_their_stored_answer() {
    let (world, redis) = World::with_own_redis().await;
    let live = world.open(&[2], 2, 2).await;
    let serials = taken(world.claim_until_answered(&live, 1, "k", 0, 2).await);
    assert_eq!(world.claim_until_answered(&live, 2, "k", 0, 1).await, ClaimOutcome::SoldOut);
    until_the_reading_is_kept(&live).await;
    let mut connection = redis::Client::open(redis.url()).unwrap().get_multiplexed_async_connection().await.unwrap();
    redis::cmd("CONFIG").arg("RESETSTAT").query_async::<()>(&mut connection).await.unwrap();
    let started = std::time::Instant::now();
    for who in 10..200 {
        assert_eq!(world.claim(&live, who, "k", 0, 1).await.unwrap(), ClaimOutcome::SoldOut);
    }
    let in_lease = started.elapsed() < std::time::Duration::from_millis(500);
    let stats: String = redis::cmd("INFO").arg("commandstats").query_async(&mut connection).await.unwrap();
    assert!(!in_lease || !stats.contains("cmdstat_evalsha"), "strangers were refused by asking Redis: {stats}");
    assert_eq!(world.claim(&live, 1, "k", 0, 2).await.unwrap(), ClaimOutcome::Replayed { serials });
    assert_eq!(world.claim(&live, 1, "k", 0, 1).await.unwrap(), ClaimOutcome::KeyReused);
}

#[tokio::test(flavor = "multi_thread")]
async fn claims_that_waited_too_long_are_shed_before_they_are_sent() {
    let (world, redis) = World::with_own_redis().await;
    let live = world.open(&[4_000], 1, 1).await;
    taken(world.claim_until_answered(&live, 0, "k", 0, 1).await);
    redis.pause();
    let calls = (1..2_400).map(|who| world.claim(&live, who, "k", 0, 1));
    let (outcomes, ()) = tokio::join!(join_all(calls), async {
        tokio::time::sleep(std::time::Duration::from_millis(2_600)).await;
        redis.resume();
    });
    // The first round was on its way; what waited behind it for over two seconds was not sent.
    let shed = outcomes
        .iter()
        .filter(|outcome| outcome.as_ref().is_err_and(|error| error.to_string().contains("too many")))
        .count();
    assert!(shed > 0, "{:?}", outcomes.last());
    // Replayed: the round was sent again after Redis had been silent, and the first sending had been executed.
    let is_sold =
        |outcome: &ClaimOutcome| matches!(outcome, ClaimOutcome::Taken { .. } | ClaimOutcome::Replayed { .. });
    assert!(outcomes.iter().flatten().all(is_sold));
    let sold = outcomes.iter().flatten().count();
    assert_eq!(world.free_in_redis(&live).await + sold + 1, 4_000, "what was shed took nothing");
}

#[tokio::test(flavor = "multi_thread")]
async fn holders_are_read_again_when_their_variant_has_changed_and_only_then() {
    let (world, redis) = World::with_own_redis().await;
    let live = world.open(&[2, 50], 1, 3).await;
    let mut connection = redis::Client::open(redis.url()).unwrap().get_multiplexed_async_connection().await.unwrap();
    let mut readings = async || {
        let stats: String = redis::cmd("INFO").arg("commandstats").query_async(&mut connection).await.unwrap();
        let line = stats.lines().find_map(|line| line.strip_prefix("cmdstat_hscan:calls=")).unwrap_or("0,").to_owned();
        line.split(',').next().unwrap().parse::<u32>().unwrap()
    };
    assert_eq!(world.claim_until_answered(&live, 1, "k", 0, 3).await, ClaimOutcome::NotEnough { available: 2 });
    let first = readings().await;
    // His record is newer than the first proof.
    let serials = taken(world.claim_until_answered(&live, 2, "k", 0, 2).await);
    assert_eq!(world.claim_until_answered(&live, 3, "k", 0, 1).await, ClaimOutcome::SoldOut);
    until_the_reading_is_kept(&live).await;
    let replayed = ClaimOutcome::Replayed { serials };
    assert_eq!(world.claim_until_answered(&live, 2, "k", 0, 2).await, replayed, "a holder under a lease");
    let second = readings().await;
    assert!(second > first);
    // The other variant sells until the lease is over, and the next proof is made.
    let proved_at = std::time::Instant::now();
    let mut who = 10;
    while proved_at.elapsed() < std::time::Duration::from_millis(1_100) {
        if who < 30 {
            taken(world.claim_until_answered(&live, who, "k", 1, 1).await);
        }
        who += 1;
        assert_eq!(world.claim_until_answered(&live, 1_000 + who, "k", 0, 1).await, ClaimOutcome::SoldOut);
    }
    assert_eq!(world.claim_until_answered(&live, 2, "k", 0, 2).await, replayed);
    assert_eq!(readings().await, second, "nothing has happened to the variant that is asked for");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drop_usually_has_two_warehouses_for_each_primary() {
    let world = World::new().await;
    let primaries = if is_on_cluster() { 3 } else { 1 };
    assert_eq!(world.engine.usual_warehouses().await.unwrap(), 2 * primaries);
    let live = world.open(&[60], 2 * primaries, 1).await;
    taken(world.claim_until_answered(&live, 1, "k", 0, 1).await);
}
