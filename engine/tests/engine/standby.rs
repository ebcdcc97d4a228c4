//! Standby: units that come back go to whoever waits, in the order of the line, and never look free to anybody meanwhile.

use std::collections::HashSet;

use doorbuster_engine::domain::claims::{ClaimOutcome, Quantity};
use doorbuster_engine::domain::ids::{OrderId, VariantNumber};
use doorbuster_engine::domain::standby::{Place, PlaceState};
use doorbuster_engine::flows::standby::Queued;
use doorbuster_engine::ledger::erasures::Erasure;
use doorbuster_engine::ledger::standby::{Joined, LeftLine, NewPlace};
use doorbuster_sandbox::provider::FakeProviderOptions;
use futures_util::future::join_all;
use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};

use crate::harness::{World, buyer, claim, provider, taken};

fn place(who: u32, units: i64, key: &str) -> NewPlace {
    NewPlace {
        buyer: buyer(who),
        variant: VariantNumber(0),
        quantity: Quantity::new(units).unwrap(),
        key: key.parse().unwrap(),
        lost: None,
    }
}

async fn join(world: &World, who: u32, units: i64) -> Place {
    let live = world.live().await;
    let now = world.engine.clock.now();
    match world.engine.ledger.join_standby(&live.drop, &place(who, units, "wait"), now).await.unwrap() {
        Joined::Now(place) => place,
        other => panic!("{other:?}"),
    }
}

async fn place_of(world: &World, who: u32) -> Place {
    let live = world.live().await;
    world.engine.ledger.standby_of(live.drop.id, &buyer(who)).await.unwrap().remove(0)
}

/// Ends an order whose buyer gave no payment method, as its deadline does.
async fn expire(world: &World, order: OrderId) {
    world.engine.ledger.expire_unpaid(&[order], world.engine.clock.now()).await.unwrap();
}

async fn audit(world: &World) {
    let report = world.engine.audit(None).await.unwrap();
    assert!(report.is_clean(), "{:#?}", report.violations);
}

/// Orders that live, as (buyer, units).
async fn live_orders(world: &World) -> Vec<(String, Vec<i32>)> {
    let sql = "select o.buyer, i.serials from orders o join order_items i using (order_id)
        where o.status in ('PENDING_PAYMENT', 'CONFIRMED') order by o.buyer";
    let rows = world.sql.query(sql, &[]).await.unwrap();
    rows.iter().map(|row| (row.get(0), row.get(1))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_unit_that_comes_back_goes_to_the_first_in_line_and_is_charged() {
    let world = World::new().await;
    let (fake, client) = provider(FakeProviderOptions::default()).await;
    let live = world.open(&[1], 3, 1).await;
    world.save_profile(1, "pm_card_chargeDeclined").await;
    world.save_profile(2, "pm_card_visa").await;
    let units = taken(world.claim_until_answered(&live, 1, "k", 0, 1).await);
    assert_eq!(world.claim_until_answered(&live, 2, "k", 0, 1).await, ClaimOutcome::SoldOut);
    assert_eq!((join(&world, 2, 1).await.ahead, join(&world, 3, 1).await.ahead), (Some(0), Some(1)));
    world.settle().await;
    for _ in 0..3 {
        world.engine.charge_due(&client, 10, 4).await.unwrap();
    }
    let awarded = place_of(&world, 2).await;
    assert_eq!(awarded.state, PlaceState::Awarded);
    // On its way, it is nobody else's: neither in Redis, nor for a pull, nor for a claim.
    assert_eq!(world.claim_until_answered(&live, 4, "k", 0, 1).await, ClaimOutcome::SoldOut);
    audit(&world).await;
    assert_eq!(world.engine.apply_grants().await.unwrap().left, 0, "an award frees nothing, so no proof holds it up");
    assert_eq!(world.free_in_redis(&live).await, 0);
    audit(&world).await;
    assert_eq!(world.settle().await, 1);
    world.engine.charge_due(&client, 10, 4).await.unwrap();

    let order = awarded.claim.unwrap().order_id();
    let view = world.engine.ledger.order(order).await.unwrap().unwrap();
    assert_eq!((view.buyer.as_str(), view.status.as_str()), (buyer(2).as_str(), "CONFIRMED"));
    let serials = units.iter().map(|serial| serial.0 as i32).collect::<Vec<_>>();
    assert_eq!(live_orders(&world).await, [(buyer(2).as_str().to_owned(), serials)], "the very unit that came back");
    assert_eq!(fake.captures().len(), 1);
    assert_eq!((place_of(&world, 2).await.state, place_of(&world, 3).await.ahead), (PlaceState::Taken, Some(0)));
    assert_eq!(world.count("select count(*) from outbox where kind = 'standby_awarded'").await, 1);
    // The declined buyer's limit is free again, exactly once.
    assert_eq!(world.count("select count(*) from holdings").await, 1);
    assert_eq!(world.claim_until_answered(&live, 1, "k", 0, 1).await, ClaimOutcome::Released);
    assert_eq!(world.claim_until_answered(&live, 1, "again", 0, 1).await, ClaimOutcome::SoldOut);
    audit(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_holds_his_limit_is_passed_over_and_the_next_one_gets_the_unit() {
    let world = World::new().await;
    let live = world.open(&[2], 2, 1).await;
    for who in [1, 2] {
        taken(world.claim_until_answered(&live, who, "k", 0, 1).await);
    }
    // He has one and waits for another, which the home finds out.
    join(&world, 2, 1).await;
    join(&world, 3, 1).await;
    world.settle().await;
    expire(&world, claim(&live, &buyer(1), "k", 0, 1).id.order_id()).await;
    assert_eq!(place_of(&world, 2).await.state, PlaceState::Awarded);
    world.apply_all_grants().await;
    assert_eq!(place_of(&world, 2).await.state, PlaceState::Refused);
    world.apply_all_grants().await;
    world.settle().await;
    assert_eq!(place_of(&world, 3).await.state, PlaceState::Taken);
    let buyers = live_orders(&world).await.into_iter().map(|(buyer, _)| buyer).collect::<Vec<_>>();
    assert_eq!(buyers, [buyer(2).as_str(), buyer(3).as_str()]);
    audit(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_is_all_or_nothing_and_a_smaller_one_behind_it_is_served_meanwhile() {
    let world = World::new().await;
    let live = world.open(&[3], 2, 3).await;
    for who in 1..=3 {
        taken(world.claim_until_answered(&live, who, "k", 0, 1).await);
    }
    join(&world, 10, 2).await;
    join(&world, 11, 1).await;
    world.settle().await;
    let order = |who: u32| claim(&live, &buyer(who), "k", 0, 1).id.order_id();
    expire(&world, order(1)).await;
    assert_eq!(
        (place_of(&world, 10).await.state, place_of(&world, 11).await.state),
        (PlaceState::Waiting, PlaceState::Awarded)
    );
    expire(&world, order(2)).await;
    // Nobody's quantity is covered by one unit any more: it goes on sale.
    assert_eq!(place_of(&world, 10).await.state, PlaceState::Waiting);
    world.apply_all_grants().await;
    assert_eq!(world.free_in_redis(&live).await, 1);
    // New units cover it.
    let sku = live.drop.variants[0].sku.clone();
    let restock = doorbuster_engine::domain::ids::RestockId(uuid::Uuid::from_u128(7));
    world.engine.restock_drop(&world.drop, restock, &sku, 3).await.unwrap().unwrap();
    assert_eq!(place_of(&world, 10).await.state, PlaceState::Awarded);
    world.apply_all_grants().await;
    world.settle().await;
    assert_eq!(place_of(&world, 10).await.state, PlaceState::Taken);
    assert_eq!(world.free_in_redis(&live).await, 2);
    audit(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn joining_again_is_the_same_place_and_leaving_gives_it_up() {
    let world = World::new().await;
    let live = world.open(&[1], 1, 2).await;
    let (ledger, now) = (&world.engine.ledger, world.engine.clock.now());
    let first = join(&world, 1, 1).await;
    let again = ledger.join_standby(&live.drop, &place(1, 1, "wait"), now).await.unwrap();
    assert_eq!(again, Joined::Before(first));
    assert_eq!(ledger.join_standby(&live.drop, &place(1, 2, "wait"), now).await.unwrap(), Joined::KeyReused);
    assert_eq!(ledger.join_standby(&live.drop, &place(1, 1, "other"), now).await.unwrap(), Joined::InLine);
    assert_eq!(ledger.leave_standby(live.drop.id, &buyer(1), None, now).await.unwrap(), LeftLine::Left);
    assert_eq!(place_of(&world, 1).await.state, PlaceState::Left);
    // The same request is not made twice by a retry; a new one joins at the end.
    join(&world, 2, 1).await;
    let Joined::Now(later) = ledger.join_standby(&live.drop, &place(1, 1, "again"), now).await.unwrap() else {
        panic!()
    };
    assert_eq!(later.ahead, Some(1));
    for round in 0..5 {
        ledger.leave_standby(live.drop.id, &buyer(1), None, now).await.unwrap();
        let key = format!("round-{round}");
        assert!(matches!(ledger.join_standby(&live.drop, &place(1, 1, &key), now).await.unwrap(), Joined::Now(_)));
    }
    let rows = format!("select count(*) from standby_places where buyer = '{}'", buyer(1));
    assert_eq!(world.count(&rows).await, 1, "whoever joins and leaves has one row");
    world.engine.close_drop(&world.drop).await.unwrap().unwrap();
    assert_eq!(
        (place_of(&world, 1).await.state, place_of(&world, 2).await.state),
        (PlaceState::Expired, PlaceState::Expired)
    );
    let late = ledger.join_standby(&live.drop, &place(3, 1, "late"), now).await.unwrap();
    assert!(matches!(late, Joined::NotSelling(_)), "{late:?}");
}

/// An award that was committed and not applied, or applied and not recorded, when Redis forgets everything.
#[tokio::test(flavor = "multi_thread")]
async fn a_rebuild_neither_loses_nor_doubles_an_award() {
    for (is_applied, is_marked) in [(false, false), (true, false), (true, true)] {
        let world = World::new().await;
        let live = world.open(&[2], 2, 1).await;
        for who in [1, 2] {
            taken(world.claim_until_answered(&live, who, "k", 0, 1).await);
        }
        join(&world, 3, 1).await;
        world.settle().await;
        expire(&world, claim(&live, &buyer(1), "k", 0, 1).id.order_id()).await;
        if is_applied {
            world.apply_all_grants().await;
        }
        if !is_marked {
            // Whoever applied it died before he could write it down.
            world.sql.execute("update grants set applied_at = null where kind = 'award'", &[]).await.unwrap();
        }
        world.engine.rebuild_drop(&world.drop).await.unwrap().unwrap();
        world.apply_all_grants().await;
        world.settle().await;
        let place = place_of(&world, 3).await;
        assert_eq!(place.state, PlaceState::Taken, "applied {is_applied}, marked {is_marked}");
        assert_eq!(live_orders(&world).await.len(), 2);
        assert_eq!(world.claim_until_answered(&*world.live().await, 4, "k", 0, 1).await, ClaimOutcome::SoldOut);
        assert_eq!(world.count("select count(*) from tokens where awarded_claim is not null").await, 0);
        audit(&world).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refusal_that_was_not_written_down_is_told_again() {
    let world = World::new().await;
    let live = world.open(&[2], 1, 1).await;
    for who in [1, 2] {
        taken(world.claim_until_answered(&live, who, "k", 0, 1).await);
    }
    join(&world, 2, 1).await;
    world.settle().await;
    expire(&world, claim(&live, &buyer(1), "k", 0, 1).id.order_id()).await;
    // Redis has refused it, and the worker died before it told Postgres.
    let pending = world.engine.ledger.pending_grants().await.unwrap();
    for grant in &pending {
        let store = live.store(live.drop.warehouse_by_id(grant.warehouse).unwrap());
        match &grant.award {
            Some(claim) => {
                let serials = grant.tokens.iter().flat_map(|(_, serials)| serials).copied().collect::<Vec<_>>();
                store.award(grant.number, 1, claim, &serials).await.unwrap();
            }
            None => {
                let released =
                    grant.released.as_ref().map(|released| doorbuster_engine::tokens::store::ReleasedClaim {
                        id: released.claim,
                        buyer: released.buyer.clone(),
                        variant: released.variant,
                        units: released.units,
                    });
                store.grant(grant.number, &grant.tokens, released.as_ref()).await.unwrap();
            }
        }
    }
    audit(&world).await;
    world.apply_all_grants().await;
    assert_eq!(place_of(&world, 2).await.state, PlaceState::Refused);
    assert_eq!(world.count("select count(*) from rejected_claims").await, 1);
    world.apply_all_grants().await;
    assert_eq!(world.free_in_redis(&live).await, 1, "nobody else waits: it is on sale");
    audit(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_redis_forgot_puts_its_buyer_first_and_tells_him() {
    let world = World::new().await;
    let live = world.open(&[1], 1, 1).await;
    let units = taken(world.claim_until_answered(&live, 1, "k", 0, 1).await);
    join(&world, 5, 1).await;
    // Another one's claim holds the unit when the first one is settled, as after a failover that lost his.
    let held = "update tokens set poisoned_claim = gen_random_uuid() where serial = $1";
    world.sql.execute(held, &[&(units[0].0 as i32)]).await.unwrap();
    world.settle().await;
    let first = place_of(&world, 1).await;
    assert!(first.is_first && first.ahead == Some(0), "{first:?}");
    assert_eq!(place_of(&world, 5).await.ahead, Some(1));
    assert_eq!(world.count("select count(*) from outbox where kind = 'claim_lost' and destination = 'mail'").await, 1);
    assert_eq!(world.count("select count(*) from order_events where kind = 'claim_lost'").await, 1);
    let lost = claim(&live, &buyer(1), "k", 0, 1).id;
    let again = NewPlace { lost: Some(lost), ..place(1, 1, "receipt") };
    let again = world.engine.ledger.join_standby(&live.drop, &again, world.engine.clock.now()).await.unwrap();
    assert!(matches!(again, Joined::Before(_)), "once for each lost claim: {again:?}");
}

/// Hundreds of buyers, half of whom do not pay, and a line longer than the stock: all of it is sold in the end, in the order of
/// the line, and two workers at once change nothing.
#[tokio::test(flavor = "multi_thread")]
async fn in_a_race_of_returns_the_line_keeps_its_order_and_everything_is_sold() {
    const STOCK: u32 = 60;
    const LINE: u32 = 80;
    for seed in 1..=2 {
        let world = World::new().await;
        let other = world.another_engine().await;
        let live = world.open(&[STOCK], 3, 1).await;
        let mut chance = StdRng::seed_from_u64(seed);
        join_all((0..STOCK).map(|who| world.claim_until_answered(&live, who, "k", 0, 1))).await;
        world.settle().await;
        let waiting = 1_000..1_000 + LINE;
        for who in waiting.clone() {
            join(&world, who, 1).await;
        }
        let gone = (0..STOCK).filter(|_| chance.random::<f64>() < 0.5).collect::<Vec<_>>();
        let orders = gone.iter().map(|who| claim(&live, &buyer(*who), "k", 0, 1).id.order_id());
        let ends = join_all(orders.map(|order| expire(&world, order)));
        let applies = async |engine: &doorbuster_engine::flows::Engine| {
            for _ in 0..8 {
                engine.apply_grants().await.unwrap();
            }
        };
        tokio::join!(ends, applies(&world.engine), applies(&other));
        world.apply_all_grants().await;
        world.settle().await;
        audit(&world).await;
        let served = world.count("select count(*) from standby_places where state = 'TAKEN'").await;
        assert_eq!(served, gone.len() as i64, "seed {seed}");
        let first = "select count(*) from (select state from standby_places order by place_id limit $1) p where state = 'TAKEN'";
        let first = world.sql.query_one(first, &[&served]).await.unwrap().get::<_, i64>(0);
        assert_eq!(first, served, "the first in line, and nobody behind them");
        let orders = live_orders(&world).await;
        let units = orders.iter().flat_map(|(_, units)| units).collect::<HashSet<_>>();
        assert_eq!((orders.len(), units.len()), (STOCK as usize, STOCK as usize), "every unit has one order");
        assert_eq!(world.free_in_redis(&live).await, 0);
        // What is claimed is claimed once: a second settlement finds nothing.
        assert_eq!(world.settle().await, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn who_lost_a_claim_is_first_for_what_he_lost_and_not_for_more() {
    let world = World::new().await;
    let live = world.open(&[1], 2, 2).await;
    join(&world, 2, 1).await;
    join(&world, 1, 2).await;
    let lost = claim(&live, &buyer(1), "lost", 0, 1).id;
    let first = NewPlace { lost: Some(lost), ..place(1, 1, "receipt") };
    let now = world.engine.clock.now();
    let Joined::Now(place) = world.engine.ledger.join_standby(&live.drop, &first, now).await.unwrap() else { panic!() };
    assert_eq!((place.is_first, place.ahead, place.quantity.units()), (true, Some(0), 1));
    let again = world.engine.ledger.join_standby(&live.drop, &first, now).await.unwrap();
    assert_eq!(again, Joined::Before(place));
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_awarded_units_leaves_no_line_and_is_not_forgotten() {
    let world = World::new().await;
    let live = world.open(&[1, 1], 2, 2).await;
    let now = world.engine.clock.now();
    join(&world, 1, 1).await;
    let other = NewPlace { variant: VariantNumber(1), ..place(1, 1, "other") };
    assert!(matches!(world.engine.ledger.join_standby(&live.drop, &other, now).await.unwrap(), Joined::Now(_)));
    // Somebody is just deciding that the first place gets units.
    let (client, connection) = tokio_postgres::connect(&world.database, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    let award = "begin; update standby_places set state = 'AWARDED', claim_id = gen_random_uuid(), awarded_at = now()
                 where variant_number = 0";
    client.batch_execute(award).await.unwrap();
    let him = buyer(1);
    let erase = world.engine.ledger.erase_buyer(&him, now);
    let leave = world.engine.ledger.leave_standby(live.drop.id, &him, None, now);
    let decided = async {
        tokio::time::sleep(std::time::Duration::from_millis(300)).await;
        client.batch_execute("commit").await.unwrap();
    };
    let (erased, left, ()) = tokio::join!(erase, leave, decided);
    assert!(matches!(erased.unwrap(), Erasure::Open(_)));
    assert_eq!(left.unwrap(), LeftLine::Awarded);
    assert_eq!(
        world.count("select count(*) from standby_places where state = 'WAITING'").await,
        1,
        "both lines, or none"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_waits_for_what_they_could_buy_or_may_not_have() {
    let world = World::new().await;
    let live = world.open(&[2], 2, 1).await;
    let ask = async |who, units| world.engine.join_standby(&live, &place(who, units, "wait")).await.unwrap();
    assert_eq!(ask(1, 1).await, Queued::OnSale, "two are free");
    taken(world.claim_until_answered(&live, 2, "k", 0, 1).await);
    assert_eq!(ask(1, 1).await, Queued::OnSale, "one is free");
    taken(world.claim_until_answered(&live, 3, "k", 0, 1).await);
    assert_eq!(ask(3, 1).await, Queued::OverLimit { held: 1, limit: 1 }, "their claim is no order yet");
    assert_eq!(world.count("select count(*) from standby_places").await, 0);
    assert!(matches!(ask(1, 1).await, Queued::Joined(Joined::Now(_))));
    assert!(matches!(ask(1, 1).await, Queued::Joined(Joined::Before(_))));
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_joins_while_units_rest_gets_one_of_them() {
    let world = World::new().await;
    let live = world.open(&[1], 1, 1).await;
    taken(world.claim_until_answered(&live, 2, "k", 0, 1).await);
    world.settle().await;
    expire(&world, claim(&live, &buyer(2), "k", 0, 1).id.order_id()).await;
    let joined = world.engine.join_standby(&live, &place(1, 1, "wait")).await.unwrap();
    assert!(matches!(joined, Queued::Joined(Joined::Now(_))), "{joined:?}");
    world.apply_all_grants().await;
    world.settle().await;
    assert_eq!(place_of(&world, 1).await.state, PlaceState::Taken);
    audit(&world).await;
}
