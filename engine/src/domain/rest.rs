//! Rest: a unit that comes back is on sale again after a short wait, so that no refusal overlaps a unit that is on sale.
//!
//! Whoever is refused is refused by a *reading*: one look at every warehouse, then one query to Postgres. A reading that is kept
//! for later calls is a *lease*. While a unit rests it is in no warehouse and in no log, and buyers may be refused; so a unit
//! rests for longer than any lease can last that was begun before it came back, and a lease that is begun while it rests ends
//! before its rest does.
//!
//! | clock | what it measures |
//! |---|---|
//! | of the worker, monotonic | how long a unit has rested, from when this worker saw it first: after the commit |
//! | of Postgres | how old the oldest resting unit is at a reading's query, while that clock runs evenly |
//! | of the gateway, monotonic | a lease, from before the reading's first look |

use std::collections::HashMap;
use std::time::{Duration, Instant};

use jiff::{SignedDuration, Timestamp};

use super::ids::DropId;

/// How long a unit rests, counted from when a worker saw it first.
pub const REST: Duration = Duration::from_millis(1500);

/// A lease is good for this long at the most.
pub const LEASE_MAX: Duration = Duration::from_secs(1);

/// A lease ends so long before the oldest unit may be on sale again: for clocks that tick at different speeds.
const LEASE_MARGIN: Duration = Duration::from_millis(300);

/// What rests for longer is kept from sale by a fault: its buyers are told to ask again, and not that it is sold out.
const REST_TOO_LONG: SignedDuration = SignedDuration::from_secs(5);

/// Units that one transaction has laid to rest, as a worker reads them.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RestingUnits {
    pub drop: DropId,
    /// By the clock of Postgres.
    pub rested_at: Timestamp,
    /// The transaction: two may have read the same time, and the later commit must not be taken for the earlier one's.
    pub transaction: String,
}

/// The oldest unit of a variant that rests, as a reading sees it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OldestRest {
    /// By the clock of Postgres.
    pub age: SignedDuration,
    /// That clock has run evenly since before the rest began.
    pub is_measured: bool,
}

/// What a reading found of one variant.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Evidence {
    /// In all warehouses together.
    pub free: u32,
    /// Units are set aside for another warehouse.
    pub is_leaving: bool,
    /// Postgres has granted units that a warehouse had not applied when it was looked at. Awards do not count: they are for
    /// one buyer, and never on sale.
    pub is_granted: bool,
    /// Every warehouse answered, under the epoch that Postgres has.
    pub is_whole: bool,
    pub oldest_rest: Option<OldestRest>,
}

/// What follows from it, for every call that had arrived before the reading began.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// At one instant no more than this was on sale anywhere.
    NoMoreThan(u32),
    /// Units are between places; nothing can be said yet.
    Moving,
}

impl Evidence {
    /// Only grants put units into a warehouse. So where none was pending behind a look, each warehouse had at the time of the
    /// query at most what it had at its look; and what is set aside nowhere and granted nowhere is nowhere else.
    pub fn verdict(&self) -> Verdict {
        let rests_too_long = self.oldest_rest.is_some_and(|oldest| oldest.age > REST_TOO_LONG);
        if !self.is_whole || self.is_leaving || self.is_granted || rests_too_long {
            return Verdict::Moving;
        }
        Verdict::NoMoreThan(self.free)
    }
}

/// How long a reading may be kept, from before its first look. `None`: not at all.
pub fn lease(oldest: Option<OldestRest>) -> Option<Duration> {
    let Some(oldest) = oldest else { return Some(LEASE_MAX) };
    let age = Duration::try_from(oldest.age).ok().filter(|_| oldest.is_measured)?;
    let left = REST.checked_sub(age)?.checked_sub(LEASE_MARGIN)?;
    (!left.is_zero()).then(|| left.min(LEASE_MAX))
}

/// Since when a worker has seen units rest.
#[derive(Debug, Default)]
pub struct RestWatch {
    seen: HashMap<RestingUnits, Instant>,
}

/// Which units have rested.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Rested {
    pub units: Vec<RestingUnits>,
    /// When the next ones will have.
    pub next: Option<Instant>,
}

impl RestWatch {
    /// Looks at all that rests. `now` is an instant behind the answer of Postgres: so what is in it was committed before.
    pub fn look(&mut self, resting: Vec<RestingUnits>, now: Instant) -> Rested {
        let mut rested = Rested::default();
        // What does not rest any more is forgotten.
        let before = std::mem::take(&mut self.seen);
        for units in resting {
            let since = before.get(&units).copied().unwrap_or(now);
            self.seen.insert(units.clone(), since);
            let due = since + REST;
            if due <= now {
                rested.units.push(units);
            } else {
                rested.next = Some(rested.next.map_or(due, |next: Instant| next.min(due)));
            }
        }
        rested
    }
}

/// How far two measurements of the same clock may lie apart before it counts as set.
const CLOCK_TOLERANCE: SignedDuration = SignedDuration::from_millis(100);

/// Watches whether the clock of Postgres runs evenly: it may be set, and after a failover it is another one. Ages by a clock that
/// was set since say nothing.
#[derive(Debug, Default)]
pub struct ClockWatch {
    known: Option<KnownClock>,
}

#[derive(Debug, Clone, Copy)]
struct KnownClock {
    /// One instant, and between which times the clock was then.
    at: Instant,
    between: (Timestamp, Timestamp),
    even_since: Timestamp,
}

impl ClockWatch {
    /// `clock` is what it said at some instant between `sent` and `received`. Answers since when, by itself, it has run evenly.
    pub fn see(&mut self, sent: Instant, received: Instant, clock: Timestamp) -> Timestamp {
        let took = SignedDuration::try_from(received - sent).unwrap_or(SignedDuration::MAX);
        let now = (clock, clock.checked_add(took).unwrap_or(Timestamp::MAX));
        let fresh = KnownClock { at: received, between: now, even_since: clock };
        let Some(known) = self.known else {
            self.known = Some(fresh);
            return clock;
        };
        let passed = SignedDuration::try_from(received.saturating_duration_since(known.at)).unwrap_or_default();
        let expected = |time: Timestamp| time.checked_add(passed).unwrap_or(Timestamp::MAX);
        let (earliest, latest) = (expected(known.between.0).max(now.0), expected(known.between.1).min(now.1));
        let is_even = earliest.duration_since(latest) <= CLOCK_TOLERANCE;
        // What both measurements allow. Where they only nearly agree, the new one counts.
        let between = if earliest <= latest { (earliest, latest) } else { now };
        self.known = Some(match is_even {
            true => KnownClock { at: received, between, even_since: known.even_since },
            // Later than anything that it said before it was set.
            false => KnownClock { even_since: clock.max(expected(known.between.1)), ..fresh },
        });
        self.known.map_or(clock, |known| known.even_since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn age(milliseconds: i64) -> Option<OldestRest> {
        Some(OldestRest { age: SignedDuration::from_millis(milliseconds), is_measured: true })
    }

    #[test]
    fn a_reading_refuses_only_where_nothing_is_on_sale_or_on_its_way() {
        let nothing = Evidence { is_whole: true, ..Evidence::default() };
        let moving = [
            Evidence { is_leaving: true, ..nothing },
            Evidence { is_granted: true, ..nothing },
            Evidence { is_whole: false, ..nothing },
            Evidence { oldest_rest: age(5_001), ..nothing },
        ];
        for evidence in moving {
            assert_eq!(evidence.verdict(), Verdict::Moving, "{evidence:?}");
        }
        assert_eq!(nothing.verdict(), Verdict::NoMoreThan(0));
        assert_eq!(Evidence { free: 3, ..nothing }.verdict(), Verdict::NoMoreThan(3));
        assert_eq!(Evidence { oldest_rest: age(5_000), ..nothing }.verdict(), Verdict::NoMoreThan(0), "it rests");
    }

    #[test]
    fn a_lease_ends_before_the_oldest_unit_may_be_on_sale() {
        let cases = [
            (None, Some(1_000)),
            (age(0), Some(1_000)),
            (age(200), Some(1_000)),
            (age(201), Some(999)),
            (age(1_000), Some(200)),
            (age(1_199), Some(1)),
            (age(1_200), None),
            (age(1_500), None),
            (age(60_000), None),
            // The clock was set back.
            (age(-1), None),
            (Some(OldestRest { age: SignedDuration::ZERO, is_measured: false }), None),
        ];
        for (oldest, milliseconds) in cases {
            assert_eq!(lease(oldest), milliseconds.map(Duration::from_millis), "{oldest:?}");
        }
    }

    #[test]
    fn each_unit_rests_from_when_it_was_seen_first_whatever_rests_before_it() {
        let start = Instant::now();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        let units = |transaction: &str| RestingUnits {
            drop: DropId(1),
            rested_at: Timestamp::from_second(10).unwrap(),
            transaction: transaction.to_owned(),
        };
        let mut watch = RestWatch::default();
        let (first, second) = (units("1"), units("2"));
        let none = |next| Rested { units: vec![], next };
        assert_eq!(watch.look(vec![first.clone()], at(0)), none(Some(at(1_500))));
        // Of the same microsecond, and seen later: another transaction, which was committed later.
        let both = vec![first.clone(), second.clone()];
        assert_eq!(watch.look(both.clone(), at(1_000)), none(Some(at(1_500))));
        assert_eq!(watch.look(both, at(1_500)), Rested { units: vec![first.clone()], next: Some(at(2_500)) });
        // What was gone for a look rests anew.
        assert_eq!(watch.look(vec![second], at(1_600)), none(Some(at(2_500))));
        assert_eq!(watch.look(vec![first], at(1_700)), none(Some(at(3_200))));
        assert_eq!(watch.look(vec![], at(1_800)), none(None));
    }

    #[test]
    fn a_clock_that_was_set_measures_no_rest_from_before() {
        let start = Instant::now();
        let at = |milliseconds| start + Duration::from_millis(milliseconds);
        let clock = |milliseconds: i64| Timestamp::from_millisecond(1_000_000 + milliseconds).unwrap();
        let mut watch = ClockWatch::default();
        assert_eq!(watch.see(at(0), at(2), clock(1)), clock(1), "known since it was seen first");
        // Slow answers say less, and nothing against it.
        assert_eq!(watch.see(at(1_000), at(1_002), clock(1_001)), clock(1));
        assert_eq!(watch.see(at(2_000), at(3_000), clock(2_900)), clock(1));
        assert_eq!(watch.see(at(2_000), at(3_000), clock(2_001)), clock(1));
        // Within the tolerance.
        assert_eq!(watch.see(at(4_000), at(4_002), clock(3_950)), clock(1));
        // Set back and set forward.
        let set_back = watch.see(at(5_000), at(5_002), clock(4_600));
        assert!(set_back >= clock(4_952), "later than what the clock of before has said: {set_back}");
        assert_eq!(watch.see(at(6_000), at(6_002), clock(5_601)), set_back);
        assert_eq!(watch.see(at(7_000), at(7_002), clock(7_001)), clock(7_001));
    }
}
