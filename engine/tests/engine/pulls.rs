//! Tokens that travel: pulls, their crashes, and the proof of "sold out".

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use doorbuster_engine::domain::claims::ClaimOutcome;
use doorbuster_engine::domain::ids::{TransferId, VariantNumber};
use doorbuster_engine::flows::EngineError;
use futures_util::future::join_all;

use crate::harness::{World, buyer, taken};

/// A buyer whose home is the warehouse of this number.
fn at_home(live: &doorbuster_engine::flows::LiveDrop, number: u16, from: u32) -> u32 {
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
        ledger.grant_transfer(&live.drop, source, destination.id, VariantNumber(0), transfer, &moved).await.unwrap();
    }
    assert_eq!(world.count("select count(*) from grants where kind = 'transfer'").await, 1, "granted once");
    let outcomes = join_all((0..10).map(|who| world.claim_until_answered(&live, who, "k", 0, 1))).await;
    let sold = outcomes.iter().filter(|outcome| matches!(outcome, ClaimOutcome::Taken { .. })).count();
    assert_eq!(sold, 4, "{outcomes:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unit_that_is_granted_but_not_yet_in_redis_is_waited_for_and_never_called_sold_out() {
    let world = World::new().await;
    let live = world.open(&[1], 3, 1).await;
    taken(world.claim_until_answered(&live, 1, "k", 0, 1).await);
    assert_eq!(world.claim_until_answered(&live, 2, "k", 0, 1).await, ClaimOutcome::SoldOut);
    world.settle().await;
    // The order ends for want of a payment method; the grant of its unit is committed and waits, for a proof is out.
    world.sql.execute("update drops set pay_by = now() - interval '1 second'", &[]).await.unwrap();
    assert_eq!(world.engine.expire_unpaid(10).await.unwrap(), 1);
    assert_eq!(world.engine.apply_grants().await.unwrap().left, 1);
    // Another gateway holds no proof. Its buyer waits until the unit arrives; on a busy machine they are asked to come again.
    let other = world.another_engine().await;
    let elsewhere = other.refresh(&world.drop).await.unwrap().unwrap();
    let claim = crate::harness::claim(&live, &buyer(3), "k", 0, 1);
    let deadline = Instant::now() + Duration::from_secs(20);
    let answered = loop {
        match other.claim(&elsewhere, &claim).await {
            Err(EngineError::Moving) if Instant::now() < deadline => {}
            answered => break answered.unwrap(),
        }
    };
    assert!(matches!(answered.outcome, ClaimOutcome::Taken { .. }), "{answered:?}");
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
    ledger.grant_transfer(&live.drop, source, destination.id, VariantNumber(1), granted, &moved).await.unwrap();
    store.pull(VariantNumber(1), transfer(), destination.number, 1).await.unwrap();
    assert_eq!(world.claim(&live, 2, "k", 0, 1).await.unwrap(), ClaimOutcome::SoldOut);
    let pending = ledger.pending_grants_of(destination.id).await.unwrap();
    assert_eq!((pending.len(), store.look().await.unwrap().leaving.len()), (1, 2), "still on the move");
    // For its own variant what moves is brought home first, whichever number its grant has.
    let sold = join_all((10..20).map(|who| world.claim_until_answered(&live, who, "k", 1, 1))).await;
    assert_eq!(sold.iter().filter(|outcome| matches!(outcome, ClaimOutcome::Taken { .. })).count(), 6);
}
