//! Searches for tokens while Postgres is slow, silent or refuses: a claim ends in time, and what it began is finished.

use std::time::{Duration, Instant};

use doorbuster_engine::domain::claims::ClaimOutcome;
use doorbuster_engine::flows::LiveDrop;
use futures_util::future::join_all;

use crate::harness::{World, buyer, taken};

/// The search's three seconds, and what a busy machine adds.
const CALL_MAX: Duration = Duration::from_secs(6);

/// Two warehouses of two units each; those of the first are sold, so that its next buyers need a pull.
async fn sale_with_an_empty_home(world: &World) -> (std::sync::Arc<LiveDrop>, Vec<u32>) {
    let live = world.open(&[4], 2, 1).await;
    let at_home = (0..).filter(|who| live.home_of(&buyer(*who)).number.0 == 0).take(30).collect::<Vec<_>>();
    for who in &at_home[..2] {
        taken(world.claim(&live, *who, "k", 0, 1).await.unwrap());
    }
    (live, at_home[2..].to_vec())
}

/// The two units that are left are sold, each once, and everybody else is refused.
async fn sell_the_rest(world: &World, live: &LiveDrop, buyers: &[u32]) {
    let outcomes = join_all(buyers.iter().map(|who| world.claim_until_answered(live, *who, "k", 0, 1))).await;
    let sold = outcomes.iter().filter(|outcome| matches!(outcome, ClaimOutcome::Taken { .. })).count();
    assert_eq!(sold, 2, "{outcomes:?}");
    assert!(outcomes.iter().all(|outcome| matches!(outcome, ClaimOutcome::Taken { .. } | ClaimOutcome::SoldOut)));
    world.settle().await;
    world.apply_all_grants().await;
    let report = world.engine.audit(None).await.unwrap();
    assert!(report.is_clean(), "{:#?}", report.violations);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_ends_in_time_while_postgres_is_silent_and_its_transfer_is_finished() {
    let (world, postgres) = World::with_own_postgres().await;
    let (live, buyers) = sale_with_an_empty_home(&world).await;
    postgres.pause();
    for crowd in buyers.chunks(6).take(2) {
        let calls = crowd.iter().map(|who| async {
            let sent = Instant::now();
            let outcome = tokio::time::timeout(2 * CALL_MAX, world.claim(&live, *who, "k", 0, 1)).await;
            (outcome, sent.elapsed())
        });
        for (outcome, took) in join_all(calls).await {
            let error = outcome.expect("an answer, while Postgres gives none").unwrap_err();
            assert!(error.is_retryable(), "{error}");
            assert!(took < CALL_MAX, "{took:?}: {error}");
        }
    }
    postgres.resume();
    // Every connection of the pool is as good as before.
    for ping in join_all((0..16).map(|_| tokio::time::timeout(CALL_MAX, world.engine.ledger.ping()))).await {
        ping.expect("a connection that answers").unwrap();
    }
    sell_the_rest(&world, &live, &buyers).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn those_who_waited_behind_a_search_that_failed_share_its_error() {
    let world = World::new().await;
    let (live, buyers) = sale_with_an_empty_home(&world).await;
    // What a sequence has counted stays counted when its transaction is undone.
    let stall = "create sequence tried;
        create function stall() returns trigger language plpgsql as $$ begin
            perform nextval('tried');
            perform pg_sleep(0.3);
            raise exception 'no room' using errcode = '53100';
        end $$;
        create trigger stall before insert on grants for each row execute function stall()";
    world.sql.batch_execute(stall).await.unwrap();
    let outcomes = join_all(buyers.iter().map(|who| world.claim(&live, *who, "k", 0, 1))).await;
    for outcome in outcomes {
        let error = outcome.unwrap_err();
        assert!(error.is_retryable() && error.to_string().contains("no room"), "{error}");
    }
    // The first claim finds the queue empty; all others are behind it, and the first of those searches for the rest.
    let tried = world.count("select last_value from tried").await;
    assert!(tried <= 4, "{} claims ran into the same stall {tried} times", buyers.len());
    world.sql.batch_execute("drop trigger stall on grants").await.unwrap();
    sell_the_rest(&world, &live, &buyers).await;
}
