//! Claims that were answered and that Redis forgot before settlement: their buyers are told once and go first in line, and never
//! end with a unit too many, whenever they ask again.

use std::sync::Arc;
use std::time::{Duration, Instant};

use doorbuster_engine::domain::claims::{ClaimOutcome, Quantity};
use doorbuster_engine::domain::clock::Clock;
use doorbuster_engine::domain::ids::{ClaimId, VariantNumber};
use doorbuster_engine::domain::notices::{MailLane, Subject};
use doorbuster_engine::domain::standby::{Place, PlaceState};
use doorbuster_engine::flows::LiveDrop;
use doorbuster_engine::flows::lost::AnswerWatch;
use doorbuster_engine::ledger::outbox::Destination;
use doorbuster_engine::ledger::standby::{Joined, NewPlace};
use jiff::SignedDuration;
use tokio_postgres::NoTls;

use crate::harness::{World, buyer, claim, taken};

fn id(live: &LiveDrop, who: u32) -> ClaimId {
    claim(live, &buyer(who), "k", 0, 1).id
}

/// Redis loses everything it had of the drop, and a worker rebuilds it.
async fn lose_redis(world: &World) -> Arc<LiveDrop> {
    let live = world.live().await;
    for warehouse in &live.drop.warehouses {
        live.store(warehouse).forget().await.unwrap();
    }
    assert_eq!(world.engine.rebuild_fenced().await.unwrap(), live.drop.warehouses.len());
    world.live().await
}

/// The claims that one process finds lost.
async fn look(world: &World, watch: &mut AnswerWatch) -> Vec<ClaimId> {
    world.engine.look_after_answers(watch).await.unwrap().lost
}

async fn places_of(world: &World, who: u32) -> Vec<Place> {
    let live = world.live().await;
    world.engine.ledger.standby_of(live.drop.id, &buyer(who)).await.unwrap()
}

async fn told(world: &World) -> (i64, i64) {
    let mails = "select count(*) from outbox where kind = 'claim_lost' and destination = 'mail'";
    let events = "select count(*) from order_events where kind = 'claim_lost'";
    (world.count(mails).await, world.count(events).await)
}

/// Units of orders that live, of this buyer.
async fn units_of(world: &World, who: u32) -> i64 {
    let sql = "select coalesce(sum(i.quantity), 0) from orders o join order_items i using (order_id)
        where o.buyer = $1 and o.status in ('PENDING_PAYMENT', 'CONFIRMED')";
    world.sql.query_one(sql, &[&buyer(who).as_str()]).await.unwrap().get(0)
}

async fn expire(world: &World, live: &LiveDrop, who: u32) {
    world.engine.ledger.expire_unpaid(&[id(live, who).order_id()], world.engine.clock.now()).await.unwrap();
}

async fn audit(world: &World) {
    let report = world.engine.audit(None).await.unwrap();
    assert!(report.is_clean(), "{:#?}", report.violations);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_nobody_has_any_more_puts_its_buyer_first_and_tells_them_once() {
    let world = World::new().await;
    let other = world.another_engine().await;
    let live = world.open(&[8], 2, 1).await;
    world.save_profile(2, "pm_card_visa").await;
    // Settled, released and rejected claims are not lost.
    for who in [1, 4, 5] {
        taken(world.claim_until_answered(&live, who, "k", 0, 1).await);
    }
    // Another claim holds the unit of one of them.
    let serials = world.claim_until_answered(&live, 5, "k", 0, 1).await;
    let ClaimOutcome::Replayed { serials } = serials else { panic!("{serials:?}") };
    let serial = serials[0].0 as i32;
    world
        .sql
        .execute("update tokens set poisoned_claim = gen_random_uuid() where serial = $1", &[&serial])
        .await
        .unwrap();
    world.settle().await;
    assert_eq!(told(&world).await, (1, 1), "settlement has told them");
    world.sql.execute("update tokens set poisoned_claim = null", &[]).await.unwrap();
    world.engine.ledger.leave_standby(live.drop.id, &buyer(5), None, world.engine.clock.now()).await.unwrap();
    expire(&world, &live, 4).await;
    world.apply_all_grants().await;
    taken(world.claim_until_answered(&live, 2, "k", 0, 1).await);
    let at_home = world.engine.claim_at_home(&live, &claim(&live, &buyer(3), "k", 0, 1)).await.unwrap().unwrap();
    taken(at_home.outcome);
    // Another process has answered one of them too.
    let again = other.claim(&live, &claim(&live, &buyer(2), "k", 0, 1)).await.unwrap();
    assert!(matches!(again.outcome, ClaimOutcome::Replayed { .. }));
    let (mut watch, mut watch_of_other) = (AnswerWatch::default(), AnswerWatch::default());
    assert_eq!(look(&world, &mut watch).await, []);

    let live = lose_redis(&world).await;
    world.sql.execute("update warehouses set state = 'rebuilding' where drop_id is not null", &[]).await.unwrap();
    assert_eq!(look(&world, &mut watch).await, [], "a rebuild that goes on may still settle them");
    world.sql.execute("update warehouses set state = 'ready' where drop_id is not null", &[]).await.unwrap();
    let mut lost = look(&world, &mut watch).await;
    lost.sort();
    let mut expected = [id(&live, 2), id(&live, 3)];
    expected.sort();
    assert_eq!(lost, expected);
    assert_eq!(look(&world, &mut watch).await, []);
    let of_other = other.look_after_answers(&mut watch_of_other).await.unwrap();
    assert_eq!((of_other.lost, of_other.remembered), (vec![], 0), "once, whoever says so");

    for who in [2, 3] {
        let place = &places_of(&world, who).await[0];
        assert!(place.is_first && place.state == PlaceState::Waiting && place.quantity.units() == 1, "{place:?}");
    }
    for who in [1, 4] {
        assert_eq!(places_of(&world, who).await, []);
    }
    assert_eq!(told(&world).await, (3, 3));
    let now = world.engine.clock.now();
    let minute = SignedDuration::from_mins(1);
    let mails =
        world.engine.ledger.lease_deliveries(&Destination::Mail(MailLane::Orders), now, minute, 100).await.unwrap();
    let mail = mails.iter().find(|mail| mail.subject.id() == id(&live, 2).order_id()).unwrap();
    let Subject::Order(claim) = &mail.subject else { panic!("about no claim: {mail:?}") };
    assert_eq!((&claim.buyer, claim.email.as_deref()), (&buyer(2), Some("b2@example.test")));
    assert_eq!((claim.items.len(), claim.items[0].quantity), (1, 1));
    // The next unit that comes back is theirs, before anybody else's.
    expire(&world, &live, 1).await;
    let states = [&places_of(&world, 2).await[0], &places_of(&world, 3).await[0]].map(|place| place.state);
    assert_eq!(states.iter().filter(|state| **state == PlaceState::Awarded).count(), 1, "{states:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_again_before_the_loss_is_found_keeps_their_units_and_is_told_nothing() {
    let world = World::new().await;
    let live = world.open(&[4], 1, 2).await;
    taken(world.claim_until_answered(&live, 1, "k", 0, 1).await);
    let mut watch = AnswerWatch::default();
    look(&world, &mut watch).await;
    let live = lose_redis(&world).await;
    // Through another process, which dies: this one must remember that the claim is held again.
    let dies = world.another_engine().await;
    let again = dies.claim(&live, &claim(&live, &buyer(1), "k", 0, 1)).await.unwrap();
    taken(again.outcome);
    let report = world.engine.look_after_answers(&mut watch).await.unwrap();
    assert_eq!((report.lost, report.taken_again, report.remembered), (vec![], 1, 1));
    assert_eq!((told(&world).await, places_of(&world, 1).await), ((0, 0), vec![]));
    // Lost once more, and not asked for again.
    let live = lose_redis(&world).await;
    assert_eq!(look(&world, &mut watch).await, [id(&live, 1)]);
    assert_eq!(told(&world).await, (1, 1));
    audit(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_claim_that_comes_back_leaves_nobody_in_line_for_it() {
    let world = World::new().await;
    let live = world.open(&[6], 1, 2).await;
    let now = world.engine.clock.now();
    // One of them had joined the line by themselves.
    let joined = NewPlace {
        buyer: buyer(2),
        variant: VariantNumber(0),
        quantity: Quantity::new(1).unwrap(),
        key: "wait".parse().unwrap(),
        lost: None,
    };
    assert!(matches!(world.engine.ledger.join_standby(&live.drop, &joined, now).await.unwrap(), Joined::Now(_)));
    for who in [1, 2] {
        taken(world.claim_until_answered(&live, who, "k", 0, 1).await);
    }
    let mut watch = AnswerWatch::default();
    look(&world, &mut watch).await;
    let live = lose_redis(&world).await;
    assert_eq!(look(&world, &mut watch).await.len(), 2);
    for who in [1, 2] {
        assert!(places_of(&world, who).await[0].is_first);
        taken(world.claim_until_answered(&live, who, "k", 0, 1).await);
    }
    world.settle().await;
    assert_eq!(places_of(&world, 1).await[0].state, PlaceState::Left);
    let own = &places_of(&world, 2).await[0];
    assert!(own.state == PlaceState::Waiting && !own.is_first, "they wait on as everybody does: {own:?}");
    assert_eq!((units_of(&world, 1).await, units_of(&world, 2).await), (1, 1));
    assert_eq!(told(&world).await, (2, 2));
    let receipt = NewPlace { buyer: buyer(1), key: "receipt".parse().unwrap(), lost: Some(id(&live, 1)), ..joined };
    let again = world.engine.ledger.join_standby(&live.drop, &receipt, now).await.unwrap();
    assert!(matches!(again, Joined::Before(place) if place.state == PlaceState::Left), "once for each lost claim");
    audit(&world).await;
}

/// In which order a buyer's second click, the award to their place in line, and settlement come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Order {
    ClickThenAward,
    ClickIsSettledWhileTheAwardIsOnItsWay,
    AwardIsSettledThenClick,
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_lost_claim_and_the_award_in_its_place_its_buyer_gets_one_in_every_order() {
    for (order, limit) in [
        (Order::ClickThenAward, 2),
        (Order::ClickThenAward, 1),
        (Order::ClickIsSettledWhileTheAwardIsOnItsWay, 2),
        (Order::ClickIsSettledWhileTheAwardIsOnItsWay, 1),
        (Order::AwardIsSettledThenClick, 2),
        (Order::AwardIsSettledThenClick, 1),
    ] {
        let world = World::new().await;
        let live = world.open(&[2], 1, limit).await;
        taken(world.claim_until_answered(&live, 9, "k", 0, 1).await);
        world.settle().await;
        taken(world.claim_until_answered(&live, 1, "k", 0, 1).await);
        let mut watch = AnswerWatch::default();
        look(&world, &mut watch).await;
        let live = lose_redis(&world).await;
        assert_eq!(look(&world, &mut watch).await, [id(&live, 1)]);
        expire(&world, &live, 9).await;
        assert_eq!(places_of(&world, 1).await[0].state, PlaceState::Awarded);
        let click = async || world.claim_until_answered(&live, 1, "k", 0, 1).await;
        match order {
            Order::ClickThenAward => {
                taken(click().await);
                world.apply_all_grants().await;
            }
            Order::ClickIsSettledWhileTheAwardIsOnItsWay => {
                taken(click().await);
                assert_eq!(world.settle().await, 1);
                world.apply_all_grants().await;
            }
            Order::AwardIsSettledThenClick => {
                world.apply_all_grants().await;
                assert_eq!(world.settle().await, 1);
                let clicked = click().await;
                if limit == 1 {
                    assert_eq!(clicked, ClaimOutcome::OverLimit { held: 1, limit });
                } else {
                    taken(clicked);
                }
            }
        }
        for _ in 0..2 {
            world.settle().await;
            world.apply_all_grants().await;
        }
        assert_eq!(units_of(&world, 1).await, 1, "{order:?}, limit {limit}");
        assert_eq!(world.free_in_redis(&live).await, 1, "{order:?}, limit {limit}");
        let expected = match order {
            Order::AwardIsSettledThenClick => PlaceState::Taken,
            _ => PlaceState::Refused,
        };
        assert_eq!(places_of(&world, 1).await[0].state, expected, "{order:?}, limit {limit}");
        let made_good = world.count("select count(*) from rejected_claims where reason = 'made_good'").await;
        assert_eq!(made_good, i64::from(limit - 1), "{order:?}, limit {limit}: with limit 1 their home says no");
        audit(&world).await;
    }
}

/// Settlement holds the claim's warehouse for share until it has committed.
#[tokio::test(flavor = "multi_thread")]
async fn a_claim_that_is_just_being_settled_is_waited_for_and_not_lost() {
    let world = World::new().await;
    let live = world.open(&[2], 1, 1).await;
    taken(world.claim_until_answered(&live, 1, "k", 0, 1).await);
    let mut watch = AnswerWatch::default();
    look(&world, &mut watch).await;
    let live = lose_redis(&world).await;
    let (settling, connection) = tokio_postgres::connect(&world.database, NoTls).await.unwrap();
    tokio::spawn(connection);
    let hold = "begin; select 1 from warehouses where drop_id is not null for share";
    settling.batch_execute(hold).await.unwrap();
    let reject = "insert into rejected_claims (claim_id, drop_id, buyer, reason, serials, settled_at)
                  values ($1, $2, $3, 'over_limit', '{1}', now())";
    settling.execute(reject, &[&id(&live, 1).0, &live.drop.id.0, &buyer(1).as_str()]).await.unwrap();
    let committed = async {
        let waits = "select count(*) from pg_stat_activity
                     where datname = current_database() and wait_event_type = 'Lock' and query like '%lost.lock_warehouse%'";
        let deadline = Instant::now() + Duration::from_secs(3);
        // Without the wait it has ended by then, and the claim is found lost.
        while world.count(waits).await == 0 && Instant::now() < deadline {
            tokio::task::yield_now().await;
        }
        settling.batch_execute("commit").await.unwrap();
    };
    let (lost, ()) = tokio::join!(look(&world, &mut watch), committed);
    assert_eq!((lost, told(&world).await), (vec![], (0, 0)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drop_that_sells_no_more_tells_its_buyer_and_gives_no_place() {
    let world = World::new().await;
    let live = world.open(&[2], 1, 1).await;
    taken(world.claim_until_answered(&live, 1, "k", 0, 1).await);
    let mut watch = AnswerWatch::default();
    look(&world, &mut watch).await;
    world.engine.close_drop(&world.drop).await.unwrap().unwrap();
    let live = lose_redis(&world).await;
    assert_eq!(look(&world, &mut watch).await, [id(&live, 1)]);
    assert_eq!((places_of(&world, 1).await, told(&world).await), (vec![], (1, 1)));
    audit(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_postgres_has_is_forgotten_after_a_minute_and_what_it_never_gets_after_an_hour() {
    let mut world = World::new().await;
    world.engine.clock = Clock::manual(world.engine.clock.now());
    let live = world.open(&[4], 2, 1).await;
    let mut watch = AnswerWatch::default();
    let remembered = async |watch: &mut AnswerWatch| world.engine.look_after_answers(watch).await.unwrap().remembered;
    taken(world.claim_until_answered(&live, 1, "k", 0, 1).await);
    world.settle().await;
    taken(world.claim_until_answered(&live, 2, "k", 0, 1).await);
    for _ in 0..3 {
        world.claim_until_answered(&live, 2, "k", 0, 1).await;
    }
    assert_eq!(world.claim_until_answered(&live, 2, "more", 0, 1).await, ClaimOutcome::OverLimit { held: 1, limit: 1 });
    assert_eq!(remembered(&mut watch).await, 2, "repeats and refusals are not remembered");
    world.engine.clock.advance(SignedDuration::from_secs(59));
    assert_eq!(remembered(&mut watch).await, 2);
    world.engine.clock.advance(SignedDuration::from_secs(2));
    assert_eq!(remembered(&mut watch).await, 1);
    world.engine.clock.advance(SignedDuration::from_mins(30));
    assert_eq!(remembered(&mut watch).await, 1, "it may still be settled, or lost");
    world.engine.clock.advance(SignedDuration::from_mins(31));
    assert_eq!(remembered(&mut watch).await, 0);
    assert_eq!(world.count("select count(*) from lost_claims").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_dead_process_had_answered_is_told_by_another_one() {
    let mut world = World::new().await;
    world.engine.clock = Clock::manual(world.engine.clock.now());
    let live = world.open(&[8], 2, 2).await;
    let mut dies = world.another_engine().await;
    dies.clock = world.engine.clock.clone();
    let click = async |who| taken(dies.claim(&live, &claim(&live, &buyer(who), "k", 0, 1)).await.unwrap().outcome);
    click(1).await;
    world.settle().await;
    for who in [2, 3, 4] {
        click(who).await;
    }
    assert_eq!(dies.look_after_answers(&mut AnswerWatch::default()).await.unwrap().remembered, 4);
    drop(dies);
    let notes = async |sql: &str| world.count(&format!("select {sql} from answered_claims")).await;
    assert_eq!(notes("coalesce(sum(cardinality(claim_ids)), 0)").await, 4);

    let live = lose_redis(&world).await;
    // One of them asks again, through a process that dies before it notes anything.
    let dies = world.another_engine().await;
    taken(dies.claim(&live, &claim(&live, &buyer(4), "k", 0, 1)).await.unwrap().outcome);
    let mut watch = AnswerWatch::default();
    assert_eq!(look(&world, &mut watch).await, [], "a process that lives looks after its own answers first");
    world.engine.clock.advance(SignedDuration::from_secs(6));
    let report = world.engine.look_after_answers(&mut watch).await.unwrap();
    let mut lost = report.lost;
    lost.sort();
    let mut expected = [id(&live, 2), id(&live, 3)];
    expected.sort();
    assert_eq!((&lost[..], report.taken_again), (&expected[..], 1));
    // What was taken again is remembered and noted from now on.
    assert_eq!(look(&world, &mut watch).await, []);
    assert_eq!(notes("count(*)").await, 1, "its own, of the claim that was taken again");
    for who in [2, 3] {
        let place = &places_of(&world, who).await[0];
        assert!(place.is_first && place.state == PlaceState::Waiting, "{place:?}");
    }
    for who in [1, 4] {
        assert_eq!(places_of(&world, who).await, []);
    }
    assert_eq!(told(&world).await, (2, 2));
    audit(&world).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn notes_of_answers_end_with_what_they_are_about_and_those_of_the_dead_after_an_hour() {
    let mut world = World::new().await;
    world.engine.clock = Clock::manual(world.engine.clock.now());
    let live = world.open(&[4], 2, 1).await;
    let notes = async || world.count("select count(*) from answered_claims").await;
    let mut watch = AnswerWatch::default();
    for who in [1, 2] {
        taken(world.claim_until_answered(&live, who, "k", 0, 1).await);
        look(&world, &mut watch).await;
        look(&world, &mut watch).await;
        assert_eq!(notes().await, i64::from(who), "one for what is new");
    }
    world.settle().await;
    world.engine.clock.advance(SignedDuration::from_secs(61));
    look(&world, &mut watch).await;
    assert_eq!(notes().await, 0);

    taken(world.claim_until_answered(&live, 3, "k", 0, 1).await);
    look(&world, &mut watch).await;
    let mut another = AnswerWatch::default();
    world.engine.clock.advance(SignedDuration::from_mins(59));
    look(&world, &mut another).await;
    assert_eq!(notes().await, 1, "it may be lost yet");
    world.engine.clock.advance(SignedDuration::from_mins(2));
    look(&world, &mut another).await;
    assert_eq!((notes().await, told(&world).await), (0, (0, 0)));
}
