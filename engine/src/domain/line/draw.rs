//! The draw: when the root must stand, which round of the beacon decides, and the seed that follows from both.
//!
//! The order of times is all there is to it. The list is sealed, its root is published, and only then does the beacon
//! say what nobody could know before. Where the root is late, the round is put off, and this too is decided before the
//! round is out. After that the shop could have computed the result, so the try is void: the next one publishes the
//! root first and takes a round that is ten minutes away.

use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::beacon::Chain;
use super::hex::Digest;
use super::shuffle::Seed;

/// Rounds by which a try is put off.
pub const POSTPONED_BY: u64 = 100;

/// The times of a draw, all of which follow from one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Timing {
    /// From the seal to the beacon's round: to sort and hash the list, and for everybody to see its root.
    pub seal_to_beacon: SignedDuration,
    /// The root stands so long before its round.
    pub root_before_beacon: SignedDuration,
    /// From the root of another try to its round.
    pub retry_after: SignedDuration,
}

impl Timing {
    pub fn new(seal_to_beacon: SignedDuration) -> Self {
        Self { seal_to_beacon, root_before_beacon: seal_to_beacon / 4, retry_after: seal_to_beacon * 5 }
    }

    /// The shortest time between a seal and the first round: for the beacon, and a quarter more for it to arrive.
    pub fn seal_before_opening(&self) -> SignedDuration {
        self.seal_to_beacon + self.root_before_beacon
    }
}

/// What a seed is made of, beside chance.
#[derive(Debug, Clone, Copy)]
pub struct Sealed<'a> {
    pub drop: &'a str,
    pub rules: Digest,
    pub count: u32,
    pub root: Digest,
}

/// Where the chance comes from.
#[derive(Debug, Clone, Copy)]
pub enum Chance<'a> {
    Drand { chain: &'a Digest, round: u64, randomness: &'a Digest },
    Manual { result: &'a str, secret: &'a [u8] },
    None { secret: &'a [u8] },
}

/// SHA-256 over all parts, each behind its length, so that no part can pass for another.
pub fn seed(sealed: &Sealed<'_>, chance: &Chance<'_>) -> Seed {
    let mut hash = Sha256::new();
    let mut part = |bytes: &[u8]| {
        hash.update((bytes.len() as u32).to_be_bytes());
        hash.update(bytes);
    };
    part(b"doorbuster/draw/2/seed");
    part(sealed.drop.as_bytes());
    part(&sealed.rules.0);
    part(&sealed.count.to_be_bytes());
    part(&sealed.root.0);
    match chance {
        Chance::Drand { chain, round, randomness } => {
            part(&chain.0);
            part(&round.to_be_bytes());
            part(&randomness.0);
        }
        Chance::Manual { result, secret } => {
            part(b"manual");
            part(result.as_bytes());
            part(secret);
        }
        Chance::None { secret } => {
            part(b"none");
            part(secret);
        }
    }
    hash.finalize().into()
}

/// The round of the first try.
pub fn plan_beacon(seal_at: Timestamp, chain: &Chain, timing: Timing) -> u64 {
    chain.round_at(after(seal_at, timing.seal_to_beacon))
}

/// The round of another try, whose root is recorded now.
pub fn retry_round(now: Timestamp, chain: &Chain, timing: Timing) -> u64 {
    chain.round_at(after(now, timing.retry_after))
}

fn after(time: Timestamp, duration: SignedDuration) -> Timestamp {
    time.checked_add(duration).unwrap_or(Timestamp::MAX)
}

/// When a day begins, UTC.
pub fn beginning_of(date: Date) -> Option<Timestamp> {
    date.to_zoned(TimeZone::UTC).ok().map(|day| day.timestamp())
}

/// A draw that has no root yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Try {
    /// It waits for this round.
    Planned(u64),
    /// The try before is void: root first, round afterwards.
    AfterVoid,
}

/// What has been recorded on the way to a draw, in its order. It is published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "what", rename_all = "snake_case", deny_unknown_fields)]
pub enum Step {
    /// The list was not hashed in time; this was recorded before `round` was out.
    Postponed { round: u64, to: u64, at: Timestamp },
    /// Neither root nor postponement came before `round`. `late_root`: what the root was by then, if there was one.
    Void { round: u64, at: Timestamp, late_root: Option<Digest> },
    /// Root and round, final for ever. Without a beacon's rounds, `round` is 0.
    Rooted { round: u64, at: Timestamp },
}

/// What is wrong with the way to a draw.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum WrongSteps {
    #[error("it is not the round that follows from the seal and the steps before")]
    AnotherRound,
    #[error("the round was put off after it was out")]
    LatePostponement,
    #[error("the root is younger than it may be before its round")]
    LateRoot,
    #[error("the root is older than the seal, or a step is older than the one before")]
    OutOfOrder,
    #[error("there is no root, or something follows it")]
    NotRooted,
}

/// Goes through the steps of a draw with drand: the round that decides it, and when its root was recorded.
pub fn follow(
    seal_at: Timestamp,
    chain: &Chain,
    timing: Timing,
    steps: &[Step],
) -> Result<(u64, Timestamp), WrongSteps> {
    let mut state = Try::Planned(plan_beacon(seal_at, chain, timing));
    let mut last = seal_at;
    for (number, step) in steps.iter().enumerate() {
        let (Step::Postponed { round, at, .. } | Step::Void { round, at, .. } | Step::Rooted { round, at }) = *step;
        let expected = match state {
            Try::Planned(round) => round,
            Try::AfterVoid => retry_round(at, chain, timing),
        };
        if at < last {
            return Err(WrongSteps::OutOfOrder);
        }
        last = at;
        let due = chain.time_of(expected).unwrap_or(Timestamp::MAX);
        let (is_postponed_to, is_rooted) = match *step {
            Step::Postponed { to, .. } => (Some(to), false),
            Step::Void { .. } => (None, false),
            Step::Rooted { .. } => (None, true),
        };
        let is_void = is_postponed_to.is_none() && !is_rooted;
        // A void try ends a planned one; nothing can be put off or void before the next root.
        if round != expected || (state == Try::AfterVoid && !is_rooted) {
            return Err(WrongSteps::AnotherRound);
        }
        if let Some(to) = is_postponed_to {
            if at >= due {
                return Err(WrongSteps::LatePostponement);
            }
            if to != round + POSTPONED_BY {
                return Err(WrongSteps::AnotherRound);
            }
            state = Try::Planned(to);
        } else if is_void {
            // A round that is not out yet cannot be given up: the shop must not choose among rounds.
            if at < due {
                return Err(WrongSteps::OutOfOrder);
            }
            state = Try::AfterVoid;
        } else {
            if at.duration_until(due) < timing.root_before_beacon {
                return Err(WrongSteps::LateRoot);
            }
            return if number + 1 == steps.len() { Ok((round, at)) } else { Err(WrongSteps::NotRooted) };
        }
    }
    Err(WrongSteps::NotRooted)
}

/// The same without rounds of a beacon: one root after the seal, and before `result_from` where there is a result of a
/// day.
pub fn follow_without_rounds(
    seal_at: Timestamp,
    result_from: Option<Timestamp>,
    steps: &[Step],
) -> Result<Timestamp, WrongSteps> {
    match *steps {
        [Step::Rooted { round: 0, at }] if at < seal_at => Err(WrongSteps::OutOfOrder),
        [Step::Rooted { round: 0, at }] if result_from.is_some_and(|from| at >= from) => Err(WrongSteps::LateRoot),
        [Step::Rooted { round: 0, at }] => Ok(at),
        [Step::Rooted { .. }] => Err(WrongSteps::AnotherRound),
        _ => Err(WrongSteps::NotRooted),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::line::hex::Hex;

    const SEAL: i64 = 1_692_803_367 + 3_000;

    fn timing() -> Timing {
        Timing::new(SignedDuration::from_secs(120))
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(SEAL + second).unwrap()
    }

    /// Round 1041: 120 seconds after the seal.
    const ROUND: u64 = 1_041;

    #[test]
    fn the_round_is_the_first_one_120_seconds_after_the_seal() {
        let chain = Chain::quicknet();
        for (second, round) in [(0, ROUND), (1, ROUND + 1), (3, ROUND + 1), (4, ROUND + 2)] {
            assert_eq!(plan_beacon(at(second), &chain, timing()), round, "{second}");
        }
    }

    #[test]
    fn steps_that_nobody_may_take_are_found() {
        let rooted = |round, second| Step::Rooted { round, at: at(second) };
        let postponed = |round, to, second| Step::Postponed { round, to, at: at(second) };
        let void = |round, second| Step::Void { round, at: at(second), late_root: None };
        let retried = 1 + (3_000 + 500 + 600_u64).div_ceil(3);
        let cases = [
            ("in time", vec![rooted(ROUND, 90)], Ok((ROUND, at(90)))),
            ("put off", vec![postponed(ROUND, ROUND + 100, 119), rooted(ROUND + 100, 390)], Ok((ROUND + 100, at(390)))),
            ("tried again", vec![void(ROUND, 300), rooted(retried, 500)], Ok((retried, at(500)))),
            ("nothing", vec![], Err(WrongSteps::NotRooted)),
            ("put off for ever", vec![postponed(ROUND, ROUND + 100, 119)], Err(WrongSteps::NotRooted)),
            ("two roots", vec![rooted(ROUND, 80), rooted(ROUND, 90)], Err(WrongSteps::NotRooted)),
            ("late", vec![rooted(ROUND, 91)], Err(WrongSteps::LateRoot)),
            (
                "put off after the round",
                vec![postponed(ROUND, ROUND + 100, 120), rooted(ROUND + 100, 390)],
                Err(WrongSteps::LatePostponement),
            ),
            (
                "put off to another",
                vec![postponed(ROUND, ROUND + 101, 119), rooted(ROUND + 101, 390)],
                Err(WrongSteps::AnotherRound),
            ),
            ("another round", vec![rooted(ROUND + 1, 90)], Err(WrongSteps::AnotherRound)),
            ("before the seal", vec![rooted(ROUND, -1)], Err(WrongSteps::OutOfOrder)),
            ("given up too early", vec![void(ROUND, 119), rooted(retried, 500)], Err(WrongSteps::OutOfOrder)),
            (
                "tried again, another round",
                vec![void(ROUND, 300), rooted(retried + 1, 500)],
                Err(WrongSteps::AnotherRound),
            ),
            ("void twice", vec![void(ROUND, 300), void(retried, 500)], Err(WrongSteps::AnotherRound)),
            (
                "older than the step before",
                vec![postponed(ROUND, ROUND + 100, 119), rooted(ROUND + 100, 80)],
                Err(WrongSteps::OutOfOrder),
            ),
        ];
        for (what, steps, expected) in cases {
            assert_eq!(follow(at(0), &Chain::quicknet(), timing(), &steps), expected, "{what}");
        }
    }

    #[test]
    fn without_rounds_there_is_one_root_between_seal_and_result() {
        let rooted = |round, second| Step::Rooted { round, at: at(second) };
        let cases = [
            ("in time", vec![rooted(0, 5)], Some(at(10)), Ok(at(5))),
            ("without a result", vec![rooted(0, 5)], None, Ok(at(5))),
            ("when the result may be known", vec![rooted(0, 10)], Some(at(10)), Err(WrongSteps::LateRoot)),
            ("before the seal", vec![rooted(0, -1)], None, Err(WrongSteps::OutOfOrder)),
            ("with a round", vec![rooted(1, 5)], None, Err(WrongSteps::AnotherRound)),
            ("two roots", vec![rooted(0, 5), rooted(0, 6)], None, Err(WrongSteps::NotRooted)),
            ("no root", vec![], None, Err(WrongSteps::NotRooted)),
        ];
        for (what, steps, result_from, expected) in cases {
            assert_eq!(follow_without_rounds(at(0), result_from, &steps), expected, "{what}");
        }
    }

    #[test]
    fn every_part_changes_the_seed() {
        let (chain, other) = (Hex([3; 32]), Hex([4; 32]));
        let sealed = Sealed { drop: "shoe", rules: Hex([1; 32]), count: 7, root: Hex([2; 32]) };
        let drand = Chance::Drand { chain: &chain, round: 9, randomness: &chain };
        let seeds = [
            seed(&sealed, &drand),
            seed(&Sealed { drop: "shoes", ..sealed }, &drand),
            seed(&Sealed { rules: other, ..sealed }, &drand),
            seed(&Sealed { count: 8, ..sealed }, &drand),
            seed(&Sealed { root: other, ..sealed }, &drand),
            seed(&sealed, &Chance::Drand { chain: &other, round: 9, randomness: &chain }),
            seed(&sealed, &Chance::Drand { chain: &chain, round: 10, randomness: &chain }),
            seed(&sealed, &Chance::Drand { chain: &chain, round: 9, randomness: &other }),
            seed(&sealed, &Chance::Manual { result: "1", secret: b"2" }),
            seed(&sealed, &Chance::Manual { result: "12", secret: b"" }),
            seed(&sealed, &Chance::None { secret: b"12" }),
        ];
        for (at, one) in seeds.iter().enumerate() {
            assert!(!seeds[..at].contains(one), "{at}");
        }
        // Computed with Python's hashlib, from the list of parts in docs/DRAW.md.
        assert_eq!(Hex(seeds[0]).to_string(), "64b4c079960cb45b7a4f90674fcfb88ef25589536344339831d2b4e2332f6b78");
    }
}
