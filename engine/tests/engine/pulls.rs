//! Tokens that travel: pulls, their crashes, and the proof of "sold out".

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use doorbuster_engine::domain::claims::ClaimOutcome;
use doorbuster_engine::domain::ids::{TransferId, VariantNumber};
use doorbuster_engine::domain::rest::REST;
use doorbuster_engine::flows::{EngineError, LiveDrop};
use doorbuster_engine::ledger::grants::Transfer;
use doorbuster_engine::ledger::readings::STANDING_SQL;
use doorbuster_engine::ledger::rest::RESTING_SQL;
use futures_util::future::join_all;
use futures_util::{StreamExt as _, stream};
use tokio_postgres::types::ToSql;

use crate::harness::{World, buyer, rows_read, taken};

/// A buyer whose home is the warehouse of this number.
fn at_home(live: &LiveDrop, number: u16, from: u32) -> u32 {
    (from..).find(|who| live.home_of(&buyer(*who)).number.0 == number).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn one_home_sells_the_stock_of_all_warehouses() {
    let world = World::new().await;
    let live = world.open(&[40], 8, 1).await;
    let mut who = 0;
    for _ in 0..40 {
        who = at_home(&live, 3, who + 1);
        taken(world.claim_until_answered(&live, who, "k", 0, 1).await);
    }
    who = at_home(&live, 3, who + 1);
    assert_eq!(world.claim_until_answered(&live, who, "k", 0, 1).await, ClaimOutcome::SoldOut);
    assert!(world.count("select count(*) from grants where kind = 'transfer'").await > 0);
    let spread = "select count(*) from inventory i join warehouses w using (warehouse_id) where w.number = 3 and i.quantity_available = 40";
    assert_eq!(world.count(spread).await, 1, "the inventory moved with the units");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_that_died_after_setting_aside_is_finished_by_the_next_search() {
    let world = World::new().await;
    let live = world.open(&[4], 2, 1).await;
    let source = &live.drop.warehouses[0];
    let destination = live.drop.warehouses[1].number;
    let transfer = TransferId(uuid::Uuid::now_v7());
    let moved = live.store(source).pull(VariantNumber(0), transfer, destination, 2).await.unwrap();
    let again = live.store(source).pull(VariantNumber(0), transfer, destination, 2).await.unwrap();
    assert_eq!((moved.len(), &moved), (2, &again), "the same transfer sets aside once");
    let outcomes = join_all((0..10).map(|who| world.claim_until_answered(&live, who, "k", 0, 1))).await;
    let sold = outcomes.iter().filter(|outcome| matches!(outcome, ClaimOutcome::Taken { .. })).count();
    assert_eq!(sold, 4, "what was on the way is sold before anyone is refused: {outcomes:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_that_died_after_its_commit_is_finished_by_the_next_search() {
    let world = World::new().await;
    let live = world.open(&[4], 2, 1).await;
    let (source, destination) = (&live.drop.warehouses[0], &live.drop.warehouses[1]);
    let transfer = TransferId(uuid::Uuid::now_v7());
    let moved = live.store(source).pull(VariantNumber(0), transfer, destination.number, 2).await.unwrap();
    let ledger = &world.engine.ledger;
    for _ in 0..2 {
        let moved = moved.clone();
        let transfer =
            Transfer { source: *source, destination: destination.id, variant: VariantNumber(0), id: transfer, moved };
        ledger.grant_transfers(&live.drop, &[transfer]).await.unwrap();
    }
    assert_eq!(world.count("select count(*) from grants where kind = 'transfer'").await, 1, "granted once");
    let outcomes = join_all((0..10).map(|who| world.claim_until_answered(&live, who, "k", 0, 1))).await;
    let sold = outcomes.iter().filter(|outcome| matches!(outcome, ClaimOutcome::Taken { .. })).count();
    assert_eq!(sold, 4, "{outcomes:?}");
}

/// A sale of one unit, which has been sold and whose order has ended: the unit rests.
async fn sale_with_a_resting_unit(world: &World) -> Arc<LiveDrop> {
    let live = world.open(&[1], 2, 1).await;
    taken(world.claim_until_answered(&live, 1, "k", 0, 1).await);
    world.settle().await;
    // It ends for want of a payment method.
    world.sql.execute("update drops set pay_by = now() - interval '1 second'", &[]).await.unwrap();
    assert_eq!(world.engine.expire_unpaid(10).await.unwrap(), 1);
    live
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unit_that_rests_is_sold_out_and_its_buyers_limit_is_back_at_once() {
    let world = World::new().await;
    let live = sale_with_a_resting_unit(&world).await;
    let report = world.engine.apply_grants().await.unwrap();
    assert_eq!((report.applied, report.left, report.resting), (1, 0, 1), "the claim has ended, the unit rests");
    assert_eq!(world.claim(&live, 1, "k", 0, 1).await.unwrap(), ClaimOutcome::Released);
    for who in 1..4 {
        assert_eq!(world.claim(&live, who, "again", 0, 1).await.unwrap(), ClaimOutcome::SoldOut);
    }
    let report = world.engine.audit(None).await.unwrap();
    assert!(report.is_clean(), "{:#?}", report.violations);
    assert_eq!((report.drops[0].resting, report.drops[0].free, report.drops[0].moving), (1, 0, 0));
    world.apply_all_grants().await;
    assert_eq!(world.count("select count(*) from grants where kind = 'rested'").await, 1);
    taken(world.claim_until_answered(&live, 1, "again", 0, 1).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unit_that_is_granted_but_not_yet_in_redis_is_waited_for_and_never_called_sold_out() {
    let world = World::new().await;
    let live = sale_with_a_resting_unit(&world).await;
    // A worker has ended its rest, and has died before it told Redis.
    let resting = world.engine.ledger.resting_units().await.unwrap();
    world.engine.ledger.end_rest(&live.drop, &resting, world.engine.clock.now()).await.unwrap();
    let claim = world.claim(&live, 3, "k", 0, 1);
    let applies = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        world.apply_all_grants().await;
    };
    let (outcome, ()) = tokio::join!(claim, applies);
    assert!(matches!(outcome, Ok(ClaimOutcome::Taken { .. })), "{outcome:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_does_not_put_a_resting_unit_on_sale() {
    let world = World::new().await;
    sale_with_a_resting_unit(&world).await;
    world.engine.rebuild_drop(&world.drop).await.unwrap().unwrap();
    let live = world.live().await;
    assert_eq!(world.free_in_redis(&live).await, 0);
    // However long the rebuild took, its rest has not been ended.
    assert_eq!(world.engine.ledger.resting_units().await.unwrap().len(), 1);
    world.apply_all_grants().await;
    assert_eq!(world.free_in_redis(&live).await, 1, "once");
    let report = world.engine.audit(None).await.unwrap();
    assert!(report.is_clean(), "{:#?}", report.violations);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_archived_drop_gives_back_waits_for_no_redis() {
    let world = World::new().await;
    let live = world.open(&[2], 2, 1).await;
    for who in [1, 2] {
        taken(world.claim_until_answered(&live, who, "k", 0, 1).await);
    }
    world.settle().await;
    world.engine.close_drop(&world.drop).await.unwrap().unwrap();
    assert!(world.engine.ledger.archive_drop(live.drop.id, world.engine.clock.now()).await.unwrap());
    let order = crate::harness::claim(&live, &buyer(1), "k", 0, 1).id.order_id();
    world.engine.ledger.cancel_order(order, None, ("test", "late"), world.engine.clock.now()).await.unwrap();
    world.apply_all_grants().await;
    assert_eq!(world.count("select count(*) from grants where applied_at is null").await, 0);
    assert_eq!(world.count("select count(*) from tokens where rested_at is not null").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unit_that_rests_for_too_long_is_a_fault_and_nobody_is_told_that_it_is_sold_out() {
    let world = World::new().await;
    let live = sale_with_a_resting_unit(&world).await;
    world.sql.execute("update tokens set rested_at = rested_at - interval '6 seconds'", &[]).await.unwrap();
    let answered = world.claim(&live, 3, "k", 0, 1).await;
    assert!(matches!(answered, Err(EngineError::Moving)), "{answered:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_units_that_come_back_at_once_are_on_sale_together() {
    const UNITS: u32 = 100;
    let world = World::new().await;
    let live = world.open(&[UNITS], 6, 1).await;
    join_all((0..UNITS).map(|who| world.claim_until_answered(&live, who, "k", 0, 1))).await;
    world.settle().await;
    let ends = (0..UNITS).map(|who| {
        let order = crate::harness::claim(&live, &buyer(who), "k", 0, 1).id.order_id();
        let now = world.engine.clock.now();
        let ledger = &world.engine.ledger;
        async move { ledger.cancel_order(order, None, ("test", "all of them"), now).await.unwrap() }
    });
    // As many at once as there are connections.
    stream::iter(ends).buffer_unordered(6).for_each(async |_| {}).await;
    let first = world.engine.apply_grants().await.unwrap();
    assert!(first.resting > 0 && first.left == 0, "{first:?}");
    // However many rest, none waits for another: a look after the wait of one finds them all.
    tokio::time::sleep_until((Instant::now() + REST).into()).await;
    let second = world.engine.apply_grants().await.unwrap();
    assert!(second.is_done(), "{second:?}");
    assert_eq!(world.free_in_redis(&live).await, UNITS as usize);
    let report = world.engine.audit(None).await.unwrap();
    assert!(report.is_clean(), "{:#?}", report.violations);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_click_three_times_at_once_gets_one_answer() {
    for units in [1, 2] {
        let world = World::new().await;
        let live = world.open(&[units], 3, units).await;
        // Whose home has nothing: the last unit, or one of the last two, lies elsewhere.
        let empty = live.free_units().await.unwrap().iter().position(|free| *free == 0).unwrap();
        let who = at_home(&live, empty as u16, 1);
        let clicks = (0..3).map(|_| world.claim(&live, who, "k", 0, i64::from(units)));
        let mut serials = Vec::new();
        for outcome in join_all(clicks).await {
            match outcome.unwrap() {
                ClaimOutcome::Taken { serials: of } | ClaimOutcome::Replayed { serials: of } => serials.push(of),
                other => panic!("{units} units: {other:?}"),
            }
        }
        assert!(serials.iter().all(|of| *of == serials[0]), "{serials:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transfer_that_cannot_be_keeps_no_other_from_its_home() {
    let world = World::new().await;
    let live = world.open(&[4, 4], 2, 1).await;
    let (source, destination) = (&live.drop.warehouses[0], live.drop.warehouses[1].number);
    for variant in [0, 1] {
        let transfer = TransferId(uuid::Uuid::now_v7());
        live.store(source).pull(VariantNumber(variant), transfer, destination, 1).await.unwrap();
    }
    // Another warehouse has the units of one variant, as far as Postgres knows.
    let lost = "update tokens set warehouse_id = $1 where variant_number = 0";
    world.sql.execute(lost, &[&live.drop.warehouses[1].id.0]).await.unwrap();
    let finished = world.engine.finish_transfers(&live).await;
    assert!(finished.is_err_and(|error| error.to_string().contains("move_tokens")), "what is wrong is said");
    let leaving = live.store(source).look().await.unwrap().leaving;
    assert_eq!(leaving.iter().map(|leaving| leaving.variant.0).collect::<Vec<_>>(), [0], "the other one is home");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_look_for_resting_units_reads_those_and_no_others() {
    let mut world = World::new().await;
    let live = sale_with_a_resting_unit(&world).await;
    // As after the making of a large drop: nothing knows yet what is in the table.
    let many = "set session_replication_role = replica;
        insert into tokens (drop_id, serial, variant_number, warehouse_id)
        select drop_id, n, 0, 1 from drops, generate_series(2, 50000) n";
    world.sql.batch_execute(many).await.unwrap();
    let (drop, granted) = (live.drop.id.0, vec![0_i64, 0]);
    let statements: [(&str, &[&(dyn ToSql + Sync)]); 2] = [(RESTING_SQL, &[]), (STANDING_SQL, &[&drop, &granted])];
    let tx = world.sql.transaction().await.unwrap();
    for (sql, arguments) in statements {
        let explain = format!("explain (analyze, buffers off, format json) {sql}");
        let explained: serde_json::Value = tx.query_one(&explain, arguments).await.unwrap().get(0);
        let read = rows_read(&explained[0]["Plan"], "tokens");
        // The second one also reads the unit that the first load has granted.
        assert!(read <= 2.0, "{read} rows were read to find one: {explained:#}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grant_comes_in_once_however_often_and_by_whomever_it_is_applied() {
    use doorbuster_engine::domain::ids::GrantNumber;
    use doorbuster_engine::tokens::TokenError;
    use doorbuster_engine::tokens::store::GrantApplied;
    let world = World::new().await;
    let live = world.open(&[2], 1, 1).await;
    let store = live.store(&live.drop.warehouses[0]);
    let serials = [(VariantNumber(0), vec![doorbuster_engine::domain::ids::Serial(77)])];
    let gap = store.grant(GrantNumber(3), &serials, None).await.unwrap_err();
    assert!(matches!(gap, TokenError::Gap), "number 2 comes before number 3: {gap}");
    assert_eq!(store.grant(GrantNumber(2), &serials, None).await.unwrap(), GrantApplied::Now);
    for number in [1, 2] {
        assert_eq!(store.grant(GrantNumber(number), &serials, None).await.unwrap(), GrantApplied::Before);
    }
    assert_eq!(world.free_in_redis(&live).await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pull_that_is_executed_again_after_its_transfer_is_over_strands_nothing() {
    let world = World::new().await;
    let live = world.open(&[6], 2, 1).await;
    let (source, destination) = (&live.drop.warehouses[0], live.drop.warehouses[1].number);
    let transfer = TransferId(uuid::Uuid::now_v7());
    let store = live.store(source);
    let first = store.pull(VariantNumber(0), transfer, destination, 1).await.unwrap();
    // Somebody else finishes it, to the end.
    world.engine.finish_transfers(&live).await.unwrap();
    // The client sends the call again, for it saw no answer: other tokens leave under a name that Postgres knows.
    let second = store.pull(VariantNumber(0), transfer, destination, 1).await.unwrap();
    assert_ne!(first, second);
    world.engine.finish_transfers(&live).await.unwrap();
    world.apply_all_grants().await;
    assert_eq!(world.free_in_redis(&live).await, 6);
    let report = world.engine.audit(None).await.unwrap();
    assert!(report.is_clean(), "{:#?}", report.violations);
    let outcomes = join_all((0..10).map(|who| world.claim_until_answered(&live, who, "k", 0, 1))).await;
    assert_eq!(outcomes.iter().filter(|outcome| matches!(outcome, ClaimOutcome::Taken { .. })).count(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sold_out_variant_is_refused_at_once_while_another_sells() {
    const PROOFS: u32 = 20;
    let world = World::new().await;
    let live = world.open(&[3, 50_000], 4, 1).await;
    for who in 0..3 {
        taken(world.claim_until_answered(&live, who, "k", 0, 1).await);
    }
    let is_over = AtomicBool::new(false);
    let sold = AtomicU32::new(0);
    let sells = async |seller: u32| {
        let mut who = 1_000_000 * (seller + 1);
        while !is_over.load(Ordering::Relaxed) {
            taken(world.claim_until_answered(&live, who, "k", 1, 1).await);
            sold.fetch_add(1, Ordering::Relaxed);
            who += 1;
        }
    };
    let asks = async {
        let (mut took, mut among_sales) = (Vec::new(), 0);
        for proof in 0..PROOFS {
            // One that has proved nothing yet.
            let other = world.another_engine().await;
            let elsewhere = other.refresh(&world.drop).await.unwrap().unwrap();
            let sold_before = sold.load(Ordering::Relaxed);
            let began = Instant::now();
            let claim = crate::harness::claim(&live, &buyer(100 + proof), "k", 0, 1);
            assert_eq!(other.claim(&elsewhere, &claim).await.unwrap().outcome, ClaimOutcome::SoldOut, "proof {proof}");
            took.push(began.elapsed());
            among_sales += u32::from(sold.load(Ordering::Relaxed) > sold_before);
        }
        is_over.store(true, Ordering::Relaxed);
        // A proof may be over before a slow disk has acknowledged anybody's claim.
        assert!(among_sales >= PROOFS / 4, "the other variant sells meanwhile: {among_sales} of {PROOFS}");
        took.sort_unstable();
        took[took.len() / 2]
    };
    let (median, _) = tokio::join!(asks, join_all((0..16).map(sells)));
    // A proof takes some milliseconds; one that must be begun again first pauses for 50, then for 100, and so on. Of a machine that
    // has much else to do, a single one says nothing.
    assert!(median < Duration::from_secs(1), "half of the refusals took longer than {median:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_moves_of_another_variant_holds_up_no_refusal() {
    let world = World::new().await;
    let live = world.open(&[1, 6], 2, 1).await;
    taken(world.claim_until_answered(&live, 1, "k", 0, 1).await);
    let (source, destination) = (&live.drop.warehouses[0], &live.drop.warehouses[1]);
    let transfer = || TransferId(uuid::Uuid::now_v7());
    let granted = transfer();
    let store = live.store(source);
    // One move is granted and not applied, another is only set aside, and nobody goes on with either.
    let moved = store.pull(VariantNumber(1), granted, destination.number, 1).await.unwrap();
    let ledger = &world.engine.ledger;
    let granted =
        Transfer { source: *source, destination: destination.id, variant: VariantNumber(1), id: granted, moved };
    ledger.grant_transfers(&live.drop, &[granted]).await.unwrap();
    store.pull(VariantNumber(1), transfer(), destination.number, 1).await.unwrap();
    assert_eq!(world.claim(&live, 2, "k", 0, 1).await.unwrap(), ClaimOutcome::SoldOut);
    let pending = ledger.pending_grants_of(&[destination.id]).await.unwrap();
    assert_eq!((pending.len(), store.look().await.unwrap().leaving.len()), (1, 2), "still on the move");
    // For its own variant what moves is brought home first, whichever number its grant has.
    let sold = join_all((10..20).map(|who| world.claim_until_answered(&live, who, "k", 1, 1))).await;
    assert_eq!(sold.iter().filter(|outcome| matches!(outcome, ClaimOutcome::Taken { .. })).count(), 6);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_for_a_closed_drop_hears_soon_that_it_is_closed_however_many_ask() {
    let world = World::new().await;
    let live = world.open(&[1], 2, 1).await;
    taken(world.claim_until_answered(&live, 1, "k", 0, 1).await);
    assert_eq!(world.claim_until_answered(&live, 2, "k", 0, 1).await, ClaimOutcome::SoldOut);
    world.engine.close_drop(&world.drop).await.unwrap().unwrap();
    // So many that what a gateway remembers of the sale is asked for again before it runs out.
    let deadline = Instant::now() + Duration::from_secs(5);
    while world.claim_until_answered(&live, 3, "k", 0, 1).await != ClaimOutcome::Closed {
        assert!(Instant::now() < deadline, "a closed drop is called sold out");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
