//! The line: nobody's place is lost or doubled, rounds give units in the order of the draw, and what is freed goes to those
//! who were passed over.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use doorbuster_engine::beacon::BeaconClient;
use doorbuster_engine::domain::claims::{ClaimOutcome, Quantity};
use doorbuster_engine::domain::clock::Clock;
use doorbuster_engine::domain::drops::{Admission, DropState, NewDrop, SaleDrop};
use doorbuster_engine::domain::ids::{OrderId, VariantNumber};
use doorbuster_engine::domain::line::beacon::{Chain, commitment};
use doorbuster_engine::domain::line::bundle::verify;
use doorbuster_engine::domain::line::changes::{ChangeRefused, LineChange};
use doorbuster_engine::domain::line::draw::Timing;
use doorbuster_engine::domain::line::joining::{JoinRefused, PlaceKept};
use doorbuster_engine::domain::line::rules::Beacon;
use doorbuster_engine::domain::line::state::{EntryState, LineState};
use doorbuster_engine::domain::line::terms::{LineTerms, NewLine, REVEAL_AFTER};
use doorbuster_engine::domain::standby::PlaceState;
use doorbuster_engine::flows::Engine;
use doorbuster_engine::flows::line::{JoinAsked, LineJoined, LineMemory, RevealRefused, RevealTaken, Revealing, Where};
use doorbuster_engine::flows::open_drop::DropRefused;
use doorbuster_engine::ledger::line::{Changed, Choice, Joined, LeftPlace, LineEntry};
use doorbuster_engine::ledger::restocks::RestockDecided;
use doorbuster_sandbox::beacon::{Beacon as FakeBeacon, BeaconFault, BeaconOptions};
use doorbuster_sandbox::provider::FakeClock;
use futures_util::future::join_all;
use jiff::SignedDuration;
use jiff::tz::TimeZone;

use crate::harness::{World, buyer};

const SECRET: [u8; 32] = [7; 32];
pub(crate) const SEAL_AFTER: SignedDuration = SignedDuration::from_secs(60);
pub(crate) const EVERY: SignedDuration = SignedDuration::from_secs(30);

/// A drop with a line, and its worker.
pub(crate) struct Line {
    pub(crate) world: World,
    pub(crate) beacon: BeaconClient,
    pub(crate) memory: LineMemory,
}

impl Line {
    /// With its line open, in a time that stands still.
    pub(crate) async fn open(
        admission: Admission,
        stocks: &[u32],
        per_round: u32,
        change: impl FnOnce(NewDrop) -> NewDrop,
    ) -> Self {
        let mut world = World::new().await;
        world.engine.clock = Clock::manual(Clock::System.now());
        let now = world.engine.clock.now();
        let opens_at = now + SEAL_AFTER + opening_after_seal();
        let terms = LineTerms {
            admission,
            line_opens_at: now,
            seal_at: now + SEAL_AFTER,
            reveal_after: REVEAL_AFTER,
            round_every: EVERY,
            per_round,
            capacity: 1_000,
            requires_card: false,
            then_open: false,
            beacon: Beacon::None { commitment: commitment(&SECRET) },
        };
        let new = NewDrop {
            opens_at: Some(opens_at),
            closes_at: Some(opens_at + SignedDuration::from_hours(1)),
            pay_by: opens_at + SignedDuration::from_hours(24),
            line: Some(NewLine { terms, secret: Some(SECRET) }),
            ..world.new_drop(stocks, 3, 2)
        };
        world.engine.create_drop(&change(new), 42).await.unwrap().unwrap();
        let mut line = Self { world, beacon: BeaconClient::default(), memory: LineMemory::default() };
        line.run().await;
        line
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.world.engine
    }

    pub(crate) async fn drop(&self) -> SaleDrop {
        self.engine().ledger.drop_by_name(&self.world.drop).await.unwrap().unwrap()
    }

    /// Lets the worker do all that is due.
    pub(crate) async fn run(&mut self) -> usize {
        let mut awarded = 0;
        loop {
            let report = self.world.engine.run_lines(&self.beacon, &mut self.memory).await.unwrap();
            awarded += report.awarded;
            if report.steps == 0 {
                return awarded;
            }
        }
    }

    pub(crate) async fn after(&mut self, wait: SignedDuration) -> usize {
        self.engine().clock.advance(wait);
        self.run().await
    }

    /// Seals, draws, and holds the first round.
    pub(crate) async fn until_first_round(&mut self) -> usize {
        self.after(SEAL_AFTER).await;
        self.after(REVEAL_AFTER).await;
        self.after(opening_after_seal() - REVEAL_AFTER).await
    }

    pub(crate) fn asked(who: u32, key: &str, choices: &[u8], units: i64) -> JoinAsked {
        let choice = |variant: &u8| Choice { variant: VariantNumber(*variant), accepted_minor: None };
        JoinAsked {
            buyer: buyer(who),
            key: key.parse().unwrap(),
            quantity: Quantity::new(units).unwrap(),
            choices: choices.iter().map(choice).collect(),
            country: "DE".parse().unwrap(),
        }
    }

    pub(crate) async fn ask(&self, asked: &JoinAsked) -> Joined {
        match self.engine().join_line(&self.drop().await, asked).await.unwrap() {
            LineJoined::Answered(joined) => joined,
            LineJoined::NoCard => panic!("this line asks for no card"),
        }
    }

    pub(crate) async fn join(&self, who: u32, choices: &[u8], units: i64) -> LineEntry {
        match self.ask(&Self::asked(who, "k", choices, units)).await {
            Joined::Now(entry) => entry,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn entry(&self, who: u32) -> LineEntry {
        self.engine().ledger.line_entry(self.drop().await.id, &buyer(who)).await.unwrap().unwrap()
    }

    pub(crate) async fn row(&self) -> doorbuster_engine::domain::line::state::Line {
        self.engine().ledger.line(self.drop().await.id).await.unwrap().unwrap()
    }

    /// Who was given which variant, by buyer.
    pub(crate) async fn given(&self) -> BTreeMap<String, i16> {
        let sql = "select o.buyer, dv.number from orders o join order_items i using (order_id)
                   join drop_variants dv on dv.drop_id = o.drop_id and dv.variant_id = i.variant_id
                   where o.status in ('PENDING_PAYMENT', 'CONFIRMED')";
        let rows = self.world.sql.query(sql, &[]).await.unwrap();
        rows.iter().map(|row| (row.get(0), row.get(1))).collect()
    }

    pub(crate) async fn rank(&self, who: u32) -> u32 {
        let place = self.engine().place_of(&self.drop().await, &buyer(who)).await.unwrap().unwrap();
        match place.place {
            Where::At { rank, .. } => rank,
            other => panic!("{other:?}"),
        }
    }

    pub(crate) async fn audit(&self) {
        if let Ok(bundle) = self.engine().line_bundle(&self.world.drop).await.unwrap() {
            let proven = verify(&bundle, None).unwrap_or_else(|wrong| panic!("{wrong}: {:#?}", bundle.chunks));
            let awards = self.world.count("select count(*) from line_entries where state = 'AWARDED'").await;
            assert_eq!(i64::from(proven.awards), awards, "everybody can compute who was given something");
        }
        let report = self.engine().audit(None).await.unwrap();
        assert!(report.violations.is_empty(), "{:#?}", report.violations);
        let places =
            "select count(*) from line_entries where state is null group by drop_id, buyer having count(*) > 1";
        assert_eq!(self.world.sql.query(places, &[]).await.unwrap().len(), 0, "two places of one buyer");
        let awards = "select count(*) from line_entries e left join orders o on o.order_id = e.claim_id
                      where e.claim_id is not null and o.order_id is null";
        assert_eq!(self.world.count(awards).await, 0, "an award without an order");
    }

    /// Ends an order that nobody has paid.
    pub(crate) async fn expire(&self, who: u32) {
        let order = OrderId(self.entry(who).await.claim.unwrap().0);
        self.engine().ledger.expire_unpaid(&[order], self.engine().clock.now()).await.unwrap();
    }
}

pub(crate) fn opening_after_seal() -> SignedDuration {
    Timing::new(REVEAL_AFTER).seal_before_opening()
}

pub(crate) fn same(new: NewDrop) -> NewDrop {
    new
}

pub(crate) fn with_terms(change: impl FnOnce(&mut LineTerms)) -> impl FnOnce(NewDrop) -> NewDrop {
    |mut new: NewDrop| {
        change(&mut new.line.as_mut().unwrap().terms);
        new
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_line_is_sealed_drawn_and_served_in_rounds() {
    let mut line = Line::open(Admission::Queue, &[6, 4], 8, same).await;
    assert_eq!((line.drop().await.state, line.row().await.state), (DropState::Lining, LineState::Open));
    for who in 1..=20 {
        line.join(who, if who.is_multiple_of(2) { &[0, 1] } else { &[1] }, 1).await;
    }
    // Nothing is given before the opening, and nothing is in Redis.
    assert_eq!(line.after(SEAL_AFTER).await, 0);
    assert_eq!((line.row().await.state, line.row().await.sealed.unwrap().count), (LineState::Rooted, 20));
    assert_eq!(line.after(REVEAL_AFTER).await, 0);
    assert_eq!(line.row().await.state, LineState::Drawn);
    let ranks = join_all((1..=20).map(|who| line.rank(who))).await;
    assert_eq!(ranks.iter().collect::<HashSet<_>>().len(), 20, "{ranks:?}");
    let first = line.after(opening_after_seal() - REVEAL_AFTER).await;
    let given = line.given().await;
    assert_eq!(given.len(), first);
    // The first eight ranks were decided, whatever that gave, and nobody else.
    let is_served = |who: u32| given.contains_key(buyer(who).as_str());
    for (who, rank) in (1..=20).zip(&ranks) {
        assert!(*rank < 8 || !is_served(who), "{who} has rank {rank}");
    }
    line.audit().await;
    let mut awarded = first;
    for _ in 0..3 {
        awarded += line.after(EVERY).await;
    }
    assert_eq!(awarded, 10, "all units have gone");
    // Who wants both sizes gets the first while it lasts, and nobody is passed by a later rank.
    let mut free = [6, 4];
    for rank in 0..20_u32 {
        let who = 1 + ranks.iter().position(|other| *other == rank).unwrap() as u32;
        let wish: &[usize] = if who.is_multiple_of(2) { &[0, 1] } else { &[1] };
        let expected = wish.iter().find(|variant| free[**variant] > 0).copied();
        if let Some(variant) = expected {
            free[variant] -= 1;
        }
        let got = line.given().await.get(buyer(who).as_str()).map(|variant| *variant as usize);
        assert_eq!(got, expected, "rank {rank}");
    }
    line.audit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_joins_at_once_through_two_gateways_has_one_place_each() {
    let line = Line::open(Admission::Draw, &[5], 5, same).await;
    let (drop, other) = (line.drop().await, line.world.another_engine().await);
    let join = async |engine: &Engine, who: u32| {
        let asked = Line::asked(who, "k", &[0], 1);
        match engine.join_line(&drop, &asked).await.unwrap() {
            LineJoined::Answered(Joined::Now(entry)) => (true, entry.number),
            LineJoined::Answered(Joined::Before(entry)) => (false, entry.number),
            unexpected => panic!("{unexpected:?}"),
        }
    };
    let both = (0..300).flat_map(|who| [join(line.engine(), who), join(&other, who)]);
    let answers = join_all(both).await;
    let new = answers.iter().filter(|(is_new, _)| *is_new).map(|(_, number)| *number).collect::<HashSet<_>>();
    assert_eq!(new, (1..=300).collect(), "numbers have no gap and are given once");
    let told = answers.chunks(2).all(|pair| pair[0].1 == pair[1].1);
    assert!(told, "both devices are told the same place");
    let counters = line.world.sql.query_one("select next, joined from line_counters", &[]).await.unwrap();
    assert_eq!((counters.get::<_, i32>(0), counters.get::<_, i32>(1)), (301, 300));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_repeated_request_changes_nothing_and_a_key_that_left_joins_no_more() {
    let line = Line::open(Admission::Queue, &[5, 5], 5, same).await;
    let first = line.join(1, &[0], 1).await;
    // Another device, and another wish: the place stays as it is.
    assert_eq!(line.ask(&Line::asked(1, "laptop", &[1], 2)).await, Joined::InLine(first.clone()));
    let changed = Line::asked(1, "any", &[1, 0], 1);
    let drop = line.drop().await;
    let stale = line.engine().change_place(&drop, &changed, 9).await.unwrap();
    assert_eq!(stale, Changed::Kept(PlaceKept::Changed { revision: 1 }));
    let Changed::Now(second) = line.engine().change_place(&drop, &changed, 1).await.unwrap() else { panic!() };
    assert_eq!((second.number, second.revision, second.choices.len()), (first.number, 2, 2));
    // The network repeats the phone's first request: it is answered with the place, which has not gone back.
    assert_eq!(line.ask(&Line::asked(1, "k", &[0], 1)).await, Joined::Before(second));
    assert_eq!(line.ask(&Line::asked(1, "k", &[1], 1)).await, Joined::Refused(JoinRefused::KeyReused));
    for _ in 0..2 {
        assert_eq!(line.engine().leave_line(&drop, &buyer(1), None).await.unwrap(), LeftPlace::Left);
    }
    assert_eq!(line.ask(&Line::asked(1, "k", &[0], 1)).await, Joined::Refused(JoinRefused::HasLeft));
    let Joined::Now(again) = line.ask(&Line::asked(1, "again", &[0], 1)).await else { panic!() };
    assert_eq!(again.number, 2, "behind everybody");
    assert_eq!(line.engine().leave_line(&drop, &buyer(2), None).await.unwrap(), LeftPlace::NoPlace);
    line.audit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_was_long_on_its_way_does_not_touch_the_place_taken_since() {
    let line = Line::open(Admission::Queue, &[5, 5], 5, same).await;
    let first = line.join(1, &[0], 1).await;
    let drop = line.drop().await;
    assert_eq!(line.engine().leave_line(&drop, &buyer(1), Some(first.revision)).await.unwrap(), LeftPlace::Left);
    let Joined::Now(second) = line.ask(&Line::asked(1, "again", &[0], 1)).await else { panic!() };
    // Both were sent while the first place was there.
    let change = Line::asked(1, "any", &[1], 2);
    let kept = PlaceKept::Changed { revision: second.revision };
    assert_eq!(line.engine().change_place(&drop, &change, first.revision).await.unwrap(), Changed::Kept(kept));
    let late = line.engine().leave_line(&drop, &buyer(1), Some(first.revision)).await.unwrap();
    assert_eq!(late, LeftPlace::Kept(kept));
    assert_eq!(line.entry(1).await, second);
    line.audit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn behind_the_seal_the_list_stays_and_who_comes_stands_behind() {
    let mut line = Line::open(Admission::Draw, &[2], 10, same).await;
    for who in 1..=4 {
        line.join(who, &[0], 1).await;
    }
    let drop = line.drop().await;
    line.engine().leave_line(&drop, &buyer(4), None).await.unwrap();
    line.after(SEAL_AFTER).await;
    let sealed = line.row().await.sealed.unwrap();
    assert_eq!((sealed.number, sealed.count), (4, 3));
    let late = line.join(5, &[0], 1).await;
    assert_eq!(late.number, 5);
    let change = line.engine().change_place(&drop, &Line::asked(1, "c", &[0], 2), 1).await.unwrap();
    assert_eq!(change, Changed::Kept(PlaceKept::Sealed));
    line.engine().leave_line(&drop, &buyer(3), None).await.unwrap();
    assert_eq!(line.entry(3).await.state, EntryState::Withdrawn);
    for who in [3, 4] {
        let back = line.ask(&Line::asked(who, "back", &[0], 1)).await;
        assert_eq!(back, Joined::Refused(JoinRefused::DrawIsSealed), "{who}");
    }
    line.after(REVEAL_AFTER).await;
    assert_eq!(line.rank(5).await, 3, "behind the three of the list");
    assert_eq!(line.after(opening_after_seal() - REVEAL_AFTER).await, 2);
    let given = line.given().await;
    assert!(given.contains_key(buyer(1).as_str()) && given.contains_key(buyer(2).as_str()), "{given:?}");
    assert_eq!(line.engine().leave_line(&drop, &buyer(1), None).await.unwrap(), LeftPlace::Kept(PlaceKept::Awarded));
    line.audit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_comes_back_goes_to_the_first_who_was_passed_over() {
    let mut line = Line::open(Admission::Queue, &[1, 1], 10, same).await;
    for who in 1..=6 {
        line.join(who, &[u8::from(who % 2 == 0)], 1).await;
    }
    assert_eq!(line.until_first_round().await, 2);
    let given = line.given().await;
    let ranks = join_all((1..=6).map(|who| line.rank(who))).await;
    for parity in 0..2 {
        let mut of_variant = (1..=6).filter(|who| who % 2 == parity).collect::<Vec<u32>>();
        of_variant.sort_by_key(|who| ranks[*who as usize - 1]);
        assert!(given.contains_key(buyer(of_variant[0]).as_str()), "the first of each size has it");
        line.expire(of_variant[0]).await;
        line.audit().await;
    }
    // Not at once: it belongs to the next round.
    assert_eq!((line.run().await, line.given().await.len()), (0, 0));
    let live = line.world.live().await;
    let restocked = line
        .engine()
        .ledger
        .restock(
            &live.drop,
            doorbuster_engine::domain::ids::RestockId(uuid::Uuid::new_v4()),
            VariantNumber(0),
            1,
            line.engine().clock.now(),
        )
        .await;
    assert_eq!(restocked.unwrap(), RestockDecided::Added);
    assert_eq!(line.after(EVERY).await, 3);
    let given = line.given().await;
    for parity in 0..2 {
        let mut of_variant = (1..=6).filter(|who| who % 2 == parity).collect::<Vec<u32>>();
        of_variant.sort_by_key(|who| ranks[*who as usize - 1]);
        assert!(!given.contains_key(buyer(of_variant[0]).as_str()), "who had it and did not pay is not next");
        assert!(given.contains_key(buyer(of_variant[1]).as_str()));
    }
    assert_eq!(
        line.world.count("select count(*) from grants where kind <> 'first_load'").await,
        0,
        "Redis has no part in it"
    );
    line.audit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn two_workers_at_once_give_every_unit_once() {
    let mut line = Line::open(Admission::Draw, &[40, 40], 1_000, same).await;
    for part in 0..4 {
        join_all((0..30).map(|who| line.join(part * 30 + who, &[0, 1], 1))).await;
    }
    line.after(SEAL_AFTER).await;
    line.after(REVEAL_AFTER).await;
    line.engine().clock.advance(opening_after_seal() - REVEAL_AFTER);
    let other = line.world.another_engine().await;
    let (mut mine, mut theirs) = (LineMemory::default(), LineMemory::default());
    let (one, two) = futures_util::join!(
        line.world.engine.run_lines(&line.beacon, &mut mine),
        other.run_lines(&line.beacon, &mut theirs),
    );
    assert_eq!(one.unwrap().awarded + two.unwrap().awarded, 80);
    assert_eq!(line.given().await.len(), 80);
    line.audit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drop_in_line_takes_no_claims_and_closes_without_ever_having_been_in_redis() {
    let mut line = Line::open(Admission::Queue, &[3], 10, same).await;
    line.join(1, &[0], 1).await;
    let live = line.world.live().await;
    assert_eq!(line.world.claim(&live, 9, "k", 0, 1).await.unwrap(), ClaimOutcome::LineOnly);
    assert_eq!(line.engine().rebuild_fenced().await.unwrap(), 0);
    assert_eq!(line.until_first_round().await, 1);
    line.after(SignedDuration::from_hours(1)).await;
    assert_eq!((line.drop().await.state, line.row().await.state), (DropState::Closed, LineState::Closed));
    let live = line.world.live().await;
    assert_eq!(line.world.claim(&live, 9, "k", 0, 1).await.unwrap(), ClaimOutcome::Closed);
    assert_eq!(line.ask(&Line::asked(9, "k", &[0], 1)).await, Joined::Refused(JoinRefused::Closed));
    assert_eq!(line.engine().rebuild_fenced().await.unwrap(), 0);
    line.audit().await;
    line.expire(1).await;
    line.audit().await;
    assert_eq!(line.engine().left_to_do(&live.drop).await.unwrap(), Default::default());
    line.engine().archive_drop(&line.world.drop).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_draft_with_a_line_is_opened_by_nobody_but_the_clock() {
    let later = with_terms(|terms| terms.line_opens_at = terms.seal_at - SignedDuration::from_secs(1));
    let mut line = Line::open(Admission::Queue, &[3], 10, later).await;
    assert_eq!(line.engine().open_drop(&line.world.drop).await.unwrap(), Err(DropRefused::HasLine));
    assert_eq!(line.ask(&Line::asked(1, "k", &[0], 1)).await, Joined::Refused(JoinRefused::NotOpenYet));
    // At the time of its opening as well.
    line.engine().run_schedule().await.unwrap();
    assert_eq!(line.drop().await.state, DropState::Draft);
    line.after(SEAL_AFTER - SignedDuration::from_secs(1)).await;
    assert_eq!(line.drop().await.state, DropState::Lining);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pause_holds_rounds_and_moves_those_behind_it() {
    let mut line = Line::open(Admission::Queue, &[9], 1, same).await;
    for who in 1..=4 {
        line.join(who, &[0], 1).await;
    }
    assert_eq!(line.until_first_round().await, 1);
    line.engine().pause_drop(&line.world.drop).await.unwrap().unwrap();
    assert_eq!(line.after(SignedDuration::from_mins(5)).await, 0);
    line.engine().resume_drop(&line.world.drop).await.unwrap().unwrap();
    assert_eq!(line.run().await, 0, "the next round is due when it would have been, so much later");
    assert_eq!(line.after(EVERY).await, 1);
    // A worker that was away runs all that are due.
    assert_eq!(line.after(EVERY * 5).await, 2);
    line.audit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_pace_rises_and_the_board_says_what_the_operator_has_to_say() {
    let mut line = Line::open(Admission::Queue, &[9], 2, same).await;
    for who in 1..=9 {
        line.join(who, &[0], 1).await;
    }
    assert_eq!(line.until_first_round().await, 2);
    let change =
        async |line: &Line, change: &LineChange| line.engine().change_line(&line.world.drop, change).await.unwrap();
    let pace = |per_round| LineChange { per_round: Some(per_round), ..LineChange::default() };
    let slower = change(&line, &pace(1)).await;
    assert_eq!(slower, Err(DropRefused::Line(ChangeRefused::Slower { now: 2 })));
    change(&line, &pace(4)).await.unwrap();
    let said = LineChange { message: Some(Some("We are faster now.".to_owned())), per_round: None };
    change(&line, &said).await.unwrap();
    assert_eq!(line.row().await.message.as_deref(), Some("We are faster now."));
    assert_eq!(line.after(EVERY).await, 4);
    line.engine().pause_drop(&line.world.drop).await.unwrap().unwrap();
    assert!(line.row().await.message.is_some(), "a pause leaves it");
    line.engine().resume_drop(&line.world.drop).await.unwrap().unwrap();
    assert_eq!(line.row().await.message, None, "what was said of a pause is over with it");
    assert_eq!(line.world.count("select count(*) from line_changes where what = 'per_round' and value = 4").await, 1);
    // The bundle, which the audit verifies, has both paces.
    line.audit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_ends_a_line_before_its_time_gives_first_what_came_back() {
    let mut line = Line::open(Admission::Queue, &[1], 10, same).await;
    for who in 1..=3 {
        line.join(who, &[0], 1).await;
    }
    assert_eq!(line.until_first_round().await, 1);
    let holder = line.given().await.keys().next().unwrap().clone();
    let who = (1..=3).find(|who| buyer(*who).as_str() == holder).unwrap();
    line.expire(who).await;
    let closed = line.engine().close_drop(&line.world.drop).await.unwrap().unwrap();
    assert_eq!((closed.state, line.row().await.state), (DropState::Closed, LineState::Closed));
    assert_eq!(line.given().await.len(), 1, "one of those who stood by has it");
    line.audit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_line_leaves_goes_on_sale() {
    let mut line = Line::open(Admission::Queue, &[3, 3], 10, with_terms(|terms| terms.then_open = true)).await;
    for who in 1..=4 {
        line.join(who, &[0], 1).await;
    }
    assert_eq!(line.until_first_round().await, 3);
    line.run().await;
    assert_eq!((line.drop().await.state, line.row().await.state), (DropState::Open, LineState::Closed));
    let given = line.given().await;
    let live = line.world.live().await;
    let outcome = line.world.claim_until_answered(&live, 9, "k", 1, 1).await;
    assert!(matches!(outcome, ClaimOutcome::Taken { .. }), "{outcome:?}");
    line.world.settle().await;
    line.audit().await;
    // The fourth stood by, and stands by on: what one of the others gives back is theirs.
    let fourth = (1..=4).find(|who| !given.contains_key(buyer(*who).as_str())).unwrap();
    let place = &line.engine().ledger.standby_of(line.drop().await.id, &buyer(fourth)).await.unwrap()[0];
    assert_eq!((place.state, place.variant, place.ahead), (PlaceState::Waiting, VariantNumber(0), Some(0)));
    line.expire((1..=4).find(|who| *who != fourth).unwrap()).await;
    let place = &line.engine().ledger.standby_of(line.drop().await.id, &buyer(fourth)).await.unwrap()[0];
    assert_eq!(place.state, PlaceState::Awarded);
    line.audit().await;
}

/// A line that a beacon of drand's decides: ours, whose rounds come by the line's time.
async fn with_drand() -> (Line, FakeBeacon, Arc<AtomicI64>) {
    let now = Clock::System.now();
    let clock = Arc::new(AtomicI64::new(now.as_second()));
    let read = Arc::clone(&clock);
    let told = FakeClock::unix_seconds(move || read.load(Ordering::SeqCst));
    let beacon = FakeBeacon::start(BeaconOptions::new(now.as_second() - 600, told)).await.unwrap();
    let chain = Chain::from_info(&beacon.info()).unwrap();
    let mut line = Line::open(Admission::Draw, &[1], 5, with_terms(|terms| terms.beacon = Beacon::Drand(chain))).await;
    line.beacon = BeaconClient::new(vec![beacon.url().parse().unwrap()]).unwrap();
    for who in 1..=3 {
        line.join(who, &[0], 1).await;
    }
    (line, beacon, clock)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_public_beacon_decides_once_its_signature_holds() {
    let (mut line, beacon, clock) = Box::pin(with_drand()).await;
    line.after(SEAL_AFTER).await;
    let row = line.row().await;
    let round = row.beacon_round.unwrap();
    assert_eq!(row.terms.time_of(Some(round)).duration_since(row.terms.seal_at).as_secs() / 3, 40, "120 seconds on");
    line.engine().clock.advance(REVEAL_AFTER + SignedDuration::from_secs(3));
    // The beacon has not said anything yet, or says what is not its own: everybody waits.
    for fault in [BeaconFault::None, BeaconFault::Missing, BeaconFault::Forged, BeaconFault::Foreign] {
        if fault != BeaconFault::None {
            clock.store(line.engine().clock.now().as_second(), Ordering::SeqCst);
        }
        beacon.set_fault(fault);
        line.run().await;
        assert_eq!(line.row().await.state, LineState::Rooted, "{fault:?}");
    }
    beacon.set_fault(BeaconFault::None);
    line.run().await;
    assert_eq!(line.row().await.state, LineState::Drawn);
    assert_eq!(line.after(opening_after_seal() - REVEAL_AFTER).await, 1);
    line.audit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_root_that_is_late_puts_the_round_off_and_one_that_comes_behind_it_counts_for_nothing() {
    let (mut line, beacon, clock) = Box::pin(with_drand()).await;
    line.after(SEAL_AFTER).await;
    let first = line.row().await.beacon_round.unwrap();
    // As if no worker had come further than the seal.
    let unrooted = "delete from line_draws;
        update lines set state = 'SEALED', root = null, rooted_at = null, root_seen_at = null";
    line.world.sql.batch_execute(unrooted).await.unwrap();
    line.after(REVEAL_AFTER - SignedDuration::from_secs(20)).await;
    let row = line.row().await;
    assert_eq!((row.state, row.beacon_round), (LineState::Rooted, Some(first + 100)), "put off, then in time");
    // And once more, until the beacon has spoken.
    line.world
        .sql
        .batch_execute("update lines set root_seen_at = null; delete from line_draws where kind = 'rooted'")
        .await
        .unwrap();
    line.engine().clock.advance(SignedDuration::from_secs(400));
    let before = line.engine().clock.now();
    line.run().await;
    let row = line.row().await;
    let again = row.beacon_round.unwrap();
    assert!(row.state == LineState::Rooted && row.terms.time_of(Some(again)) >= before + REVEAL_AFTER * 5, "{row:?}");
    let sql = "select string_agg(kind, ' ' order by try) from line_draws";
    let kinds: String = line.world.sql.query_one(sql, &[]).await.unwrap().get(0);
    assert_eq!(kinds, "postponed void rooted");
    line.engine().clock.advance(REVEAL_AFTER * 6);
    clock.store(line.engine().clock.now().as_second(), Ordering::SeqCst);
    beacon.set_fault(BeaconFault::None);
    assert_eq!(line.run().await, 1);
    // All of it stands in the bundle, and follows.
    line.audit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_result_has_one_spelling_and_two_people_have_typed_it() {
    let day = (Clock::System.now() + SignedDuration::from_hours(24)).to_zoned(TimeZone::UTC).date();
    let manual = |new: NewDrop| {
        let pattern = "[0-9]{2}-[0-9]{2}".to_owned();
        let source = "the lottery of that day".to_owned();
        let beacon = Beacon::Manual { source, date: day, pattern, commitment: commitment(&SECRET) };
        let closes_at = new.opens_at.map(|at| at + SignedDuration::from_hours(72));
        let pay_by = new.pay_by + SignedDuration::from_hours(96);
        with_terms(|terms| terms.beacon = beacon)(NewDrop { closes_at, pay_by, ..new })
    };
    let mut line = Line::open(Admission::Draw, &[2], 10, manual).await;
    for who in 1..=4 {
        line.join(who, &[0], 1).await;
    }
    let reveal = async |line: &Line, by: &str, result: &str| {
        let given = Revealing::Result { by: by.to_owned(), result: result.to_owned() };
        line.engine().reveal_draw(&line.world.drop, &given).await.unwrap()
    };
    assert_eq!(reveal(&line, "ada", "07-11").await, Err(RevealRefused::TooEarly), "there is no root yet");
    line.after(SEAL_AFTER).await;
    line.after(REVEAL_AFTER).await;
    assert_eq!(reveal(&line, "ada", "07-11").await, Err(RevealRefused::BeforeItsDay(day)));
    line.after(SignedDuration::from_hours(25)).await;
    for other_spelling in ["7-11", "07-11 ", "07 - 11", "07-110"] {
        assert_eq!(reveal(&line, "ada", other_spelling).await, Err(RevealRefused::Form), "{other_spelling:?}");
    }
    for (by, result, taken) in [
        ("ada", "07-11", RevealTaken::OneOfTwo),
        ("ada", "07-11", RevealTaken::OneOfTwo),
        ("bob", "07-12", RevealTaken::OneOfTwo),
        ("bob", "07-11", RevealTaken::Agreed),
    ] {
        assert_eq!(reveal(&line, by, result).await, Ok(taken), "{by}: {result}");
    }
    assert_eq!(line.run().await, 2, "drawn, and the round that was due is held");
    assert_eq!(reveal(&line, "eve", "01-01").await, Ok(RevealTaken::Before), "what stands cannot be changed");
    line.audit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn who_looks_sees_the_last_board_while_postgres_gives_no_answer() {
    let line = Line::open(Admission::Queue, &[2], 10, same).await;
    let drop = line.drop().await;
    line.join(1, &[0], 1).await;
    let seen = line.engine().board(&drop).await.unwrap().unwrap();
    line.world.sql.batch_execute("alter table line_counters rename to gone").await.unwrap();
    let fresh = line.world.another_engine().await;
    assert!(fresh.board(&drop).await.is_err(), "a process that has none shows none");
    tokio::time::sleep(std::time::Duration::from_millis(1_050)).await;
    let shown = line.engine().board(&drop).await.unwrap().unwrap();
    assert_eq!((shown.read_at, shown.row.in_line), (seen.read_at, 1), "it says how old it is");
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_given_what_costs_more_than_they_accepted() {
    let mut line = Line::open(Admission::Queue, &[2, 2], 10, same).await;
    // 149.00 and shipping of 4.90, both with 19 %.
    let choice = |variant: u8, minor: i64| Choice { variant: VariantNumber(variant), accepted_minor: Some(minor) };
    let accepting = |who: u32, choices: Vec<Choice>| JoinAsked { choices, ..Line::asked(who, "k", &[0], 1) };
    for asked in [
        accepting(1, vec![choice(0, 18_313), choice(1, 18_314)]),
        accepting(2, vec![choice(0, 18_313)]),
        accepting(3, vec![choice(0, 18_314)]),
    ] {
        assert!(matches!(line.ask(&asked).await, Joined::Now(_)));
    }
    assert_eq!(line.until_first_round().await, 2);
    let given = line.given().await;
    assert_eq!(given.get(buyer(1).as_str()), Some(&1), "the first choice is too dear");
    assert_eq!((given.get(buyer(2).as_str()), given.get(buyer(3).as_str())), (None, Some(&0)));
    let agreed = "select count(*) from orders where accepted_total_minor = total_minor";
    assert_eq!(line.world.count(agreed).await, 2, "what was accepted is what is charged at most");
    line.audit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn at_the_end_what_came_back_last_goes_to_who_stands_by() {
    let mut line = Line::open(Admission::Queue, &[1], 10, same).await;
    for who in 1..=3 {
        line.join(who, &[0], 1).await;
    }
    assert_eq!(line.until_first_round().await, 1);
    // The rounds of an hour had nothing to decide: they leave no trace.
    line.after(SignedDuration::from_hours(1) - SignedDuration::from_secs(10)).await;
    let holder = join_all((1..=3).map(|who| line.entry(who))).await;
    let holder = 1 + holder.iter().position(|entry| entry.state == EntryState::Awarded).unwrap() as u32;
    line.expire(holder).await;
    assert_eq!(line.after(SignedDuration::from_secs(10)).await, 1, "one more round, then it is over");
    assert_eq!(line.row().await.state, LineState::Closed);
    assert!(!line.given().await.contains_key(buyer(holder).as_str()));
    assert_eq!(line.world.count("select count(distinct round) from line_chunks").await, 2);
    line.audit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_forgotten_leaves_the_line_and_is_given_nothing() {
    let mut line = Line::open(Admission::Queue, &[5], 10, same).await;
    for who in 1..=2 {
        line.join(who, &[0], 1).await;
    }
    line.after(SEAL_AFTER).await;
    line.engine().ledger.erase_buyer(&buyer(1), line.engine().clock.now()).await.unwrap();
    assert_eq!(line.entry(1).await.state, EntryState::Withdrawn);
    line.after(REVEAL_AFTER).await;
    assert_eq!(line.after(opening_after_seal() - REVEAL_AFTER).await, 1);
    line.audit().await;
    line.after(SignedDuration::from_hours(1)).await;
    line.expire(2).await;
    line.engine().archive_drop(&line.world.drop).await.unwrap().unwrap();
    let named = format!("select count(*) from line_entries where buyer = '{}'", buyer(1));
    assert_eq!(line.world.count(&named).await, 0, "the archive forgets them");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_audit_finds_a_line_that_was_doctored() {
    let mut line = Line::open(Admission::Draw, &[2], 2, same).await;
    for who in 1..=4 {
        line.join(who, &[0], 1).await;
    }
    line.until_first_round().await;
    line.audit().await;
    for (what, doctored, rule) in [
        ("a second place", "insert into line_entries (drop_id, number, buyer, nth, entry_id, key_hash, body_hash, quantity,
            choice1, joined_at) select drop_id, 9, buyer, 1, decode(repeat('07', 16), 'hex'), key_hash, body_hash, 1, 0, now()
            from line_entries where state is null limit 1", "line_differs"),
        ("a place that is gone", "delete from line_entries where number = 4", "line_differs"),
        ("an award moved to a later rank", "update line_chunks set awarded = '{0,3}'", "draw_differs"),
        ("a root replaced", "update lines set root = decode(repeat('07', 32), 'hex')", "draw_differs"),
        ("stock that was held back", "update line_chunks set free = '{1}'", "draw_differs"),
    ] {
        line.world.sql.batch_execute("begin").await.unwrap();
        let before = "create temp table if not exists kept_entries as select * from line_entries;
            create temp table if not exists kept_chunks as select * from line_chunks;
            create temp table if not exists kept_lines as select * from lines";
        line.world.sql.batch_execute(before).await.unwrap();
        line.world.sql.batch_execute(doctored).await.unwrap();
        line.world.sql.batch_execute("commit").await.unwrap();
        let report = line.engine().audit(None).await.unwrap();
        assert!(report.violations.iter().any(|violation| violation.rule == rule), "{what}: {:#?}", report.violations);
        let back = "delete from line_entries; insert into line_entries select * from kept_entries;
            delete from line_chunks; insert into line_chunks select * from kept_chunks;
            update lines l set root = k.root from kept_lines k where k.drop_id = l.drop_id";
        line.world.sql.batch_execute(back).await.unwrap();
    }
    line.audit().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_card_has_one_place_and_a_buyer_who_saved_it_twice_keeps_theirs() {
    let mut line = Line::open(Admission::Queue, &[10], 10, with_terms(|terms| terms.requires_card = true)).await;
    const PROFILE: &str = "insert into checkout_profiles
        values ($1, 'pm_card_visa', 'a@example.test', '{\"country\": \"DE\"}', now())";
    const CARD: &str = "insert into cards (buyer, given, state, method_id, fingerprint, updated_at)
        values ($1, $2, 'SAVED', $2, sha256($3::text::bytea), now())";
    // Who has which cards, each under a name of its own.
    for (who, cards) in [(1, ["a", "a"]), (2, ["b", "b"]), (3, ["a", "b"]), (4, ["c", "d"]), (5, ["e", "d"])] {
        line.world.sql.execute(PROFILE, &[&buyer(who).as_str()]).await.unwrap();
        for (given, card) in ["pm_1", "pm_2"].iter().zip(cards) {
            line.world.sql.execute(CARD, &[&buyer(who).as_str(), given, &card]).await.unwrap();
        }
        line.join(who, &[0], 1).await;
    }
    line.after(SEAL_AFTER).await;
    let sealed = line.row().await.sealed.expect("the line is sealed");
    assert_eq!(sealed.count, 3);
    let mut into = BTreeMap::new();
    for who in 1..=5 {
        let entry = line.entry(who).await;
        into.insert(entry.number, entry.merged_into);
    }
    assert_eq!(into.into_values().collect::<Vec<_>>(), [None, None, Some(1), None, Some(4)]);
    line.audit().await;
}
