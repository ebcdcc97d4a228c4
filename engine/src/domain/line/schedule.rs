//! What a line needs next, by the clock. The worker asks, does it in one transaction, and asks again.

use jiff::Timestamp;

use super::state::{Line, LineState};
use crate::domain::drops::DropState;

/// What a line needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Nothing before this time; `None`: nothing until somebody does something.
    Wait(Option<Timestamp>),
    /// Its drop stops being a draft, and buyers may join.
    Open,
    Seal,
    /// The root of the sealed list is written down, in time before the beacon's round.
    Root,
    /// The root is written down: that it is there before the beacon's round is noted.
    Confirm,
    /// It is too late for the root, and the beacon has not spoken: a later round of it decides.
    Postpone {
        round: u64,
    },
    /// The beacon has spoken, and there was no root: this round counts for nothing.
    Void {
        round: u64,
    },
    /// The beacon's round is due.
    Reveal,
    BeginRound {
        round: u32,
    },
    /// The drop's time is over: who stands by gets what came back since the last round.
    BeginLastRound,
    /// The round that was begun last goes on.
    GoOn,
    /// A round is due and has nothing to decide.
    Skip {
        to: u32,
    },
    /// What is left is sold to who claims first.
    ThenOpen,
    /// The drop's time is over, or somebody has ended it, and nothing of its line is under way.
    Close,
}

/// What is known beside the line's row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Around {
    pub drop: DropState,
    pub opens_at: Timestamp,
    pub closes_at: Option<Timestamp>,
    /// Ranks that no round has decided.
    pub undecided: u32,
    /// Nobody holds some unit of the drop.
    pub has_free_units: bool,
}

pub fn next_step(line: &Line, around: Around, now: Timestamp) -> Step {
    let terms = &line.terms;
    let due = |at: Timestamp, step: Step| if at <= now { step } else { Step::Wait(Some(at)) };
    let is_over = [around.closes_at, line.ends_at].into_iter().flatten().any(|at| at <= now);
    if around.drop == DropState::Lining && is_over {
        return match line.state {
            LineState::Drawn if line.is_in_round() => Step::GoOn,
            LineState::Drawn if around.has_free_units && !line.last_round_begun => Step::BeginLastRound,
            _ => Step::Close,
        };
    }
    match line.state {
        LineState::Planned if around.drop == DropState::Draft => due(terms.line_opens_at, Step::Open),
        _ if around.drop != DropState::Lining => Step::Wait(None),
        LineState::Planned | LineState::Closed => Step::Wait(None),
        LineState::Open => due(terms.seal_at, Step::Seal),
        LineState::Sealed => match line.beacon_round {
            // It has no rounds, or the round before counts for nothing: the root comes first.
            None => Step::Root,
            Some(round) if now <= terms.root_until(round) => Step::Root,
            Some(round) if now < terms.postpone_until(round) => Step::Postpone { round },
            Some(round) => due(terms.time_of(Some(round)), Step::Void { round }),
        },
        LineState::Rooted => match (line.root_seen_at, line.beacon_round) {
            // A root that nobody saw in time might have been chosen once the beacon had spoken.
            (None, Some(round)) if now >= terms.time_of(Some(round)) => Step::Void { round },
            (None, _) => Step::Confirm,
            (Some(_), round) => due(terms.time_of(round), Step::Reveal),
        },
        LineState::Drawn => round_step(line, around, now),
    }
}

fn round_step(line: &Line, around: Around, now: Timestamp) -> Step {
    // A pause never cuts a round.
    if line.is_in_round() {
        return Step::GoOn;
    }
    let is_decided = line.round.is_some() && around.undecided == 0;
    if line.terms.then_open && is_decided && !line.position.free.is_nothing() {
        return Step::ThenOpen;
    }
    if line.paused_at.is_some() {
        return Step::Wait(None);
    }
    let next = line.round.map_or(0, |round| round + 1);
    let due_at = line.round_due_at(around.opens_at, next);
    if now < due_at {
        return Step::Wait(Some(due_at));
    }
    if around.undecided > 0 {
        return Step::BeginRound { round: next };
    }
    let every = line.terms.round_every.as_secs().max(1);
    let late = u32::try_from(now.duration_since(due_at).as_secs() / every).unwrap_or_default();
    let latest = next.saturating_add(late);
    if around.has_free_units { Step::BeginRound { round: latest } } else { Step::Skip { to: latest } }
}

/// Ranks that have a place in a line and that no round has decided, of so many in the sealed list and behind it.
pub fn undecided(line: &Line, last_number: u32) -> u32 {
    let Some(sealed) = line.sealed else { return 0 };
    (sealed.count + last_number.saturating_sub(sealed.number)).saturating_sub(line.position.served)
}

#[cfg(test)]
pub(super) mod tests {
    use jiff::SignedDuration;

    use super::*;
    use crate::domain::drops::Admission;
    use crate::domain::line::beacon::Chain;
    use crate::domain::line::hex::Hex;
    use crate::domain::line::rounds::{Free, Phase, Position};
    use crate::domain::line::rules::Beacon;
    use crate::domain::line::state::{Drawn, Sealed};
    use crate::domain::line::terms::LineTerms;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_692_803_367 + second).unwrap()
    }

    /// Opens at 0, is sealed at 60; round 61 of the beacon is due at 180. The drop opens at 300 and closes at 900.
    pub(in crate::domain::line) fn line(state: LineState, change: impl FnOnce(&mut Line)) -> Line {
        let free = Free::default();
        let mut line = Line {
            terms: LineTerms {
                admission: Admission::Queue,
                line_opens_at: at(0),
                seal_at: at(60),
                reveal_after: SignedDuration::from_secs(120),
                round_every: SignedDuration::from_secs(30),
                per_round: 10,
                capacity: 100,
                requires_card: false,
                then_open: false,
                beacon: Beacon::Drand(Chain::quicknet()),
            },
            rules: None,
            state,
            sealed: state.is_sealed().then(|| Sealed { number: 20, count: 20, at: at(60) }),
            root: None,
            beacon_round: state.is_sealed().then_some(61),
            rooted_at: None,
            root_seen_at: None,
            drawn: (state == LineState::Drawn).then(|| Drawn { seed: Hex([0; 32]), answer: Vec::new(), at: at(181) }),
            round: None,
            position: Position { phase: Phase::Next, served: 0, end_of_round: 0, free },
            chunk: 0,
            last_round_begun: false,
            paused_at: None,
            paused: SignedDuration::ZERO,
            message: None,
            ends_at: None,
            version: 0,
        };
        change(&mut line);
        line
    }

    #[test]
    fn each_step_has_its_time() {
        use LineState::{Closed, Drawn, Open, Planned, Rooted, Sealed};
        let wait = |second: i64| Step::Wait(Some(at(second)));
        let same = |_: &mut Line| ();
        let seen = |line: &mut Line| line.root_seen_at = Some(at(70));
        let again = |line: &mut Line| line.beacon_round = None;
        let first = |line: &mut Line| line.round = Some(0);
        let in_round = |line: &mut Line| {
            (line.round, line.position.served, line.position.end_of_round) = (Some(0), 3, 10);
        };
        let paused = |line: &mut Line| (line.round, line.paused_at) = (Some(0), Some(at(310)));
        let last = |line: &mut Line| line.last_round_begun = true;
        let ended = |line: &mut Line| (line.round, line.ends_at) = (Some(0), Some(at(500)));
        let then_open = |line: &mut Line| {
            (line.round, line.terms.then_open) = (Some(0), true);
            line.position.free = Free::try_from(vec![1]).unwrap();
        };
        type Case = (&'static str, LineState, fn(&mut Line), i64, u32, bool, Step);
        let cases: [Case; 25] = [
            ("too early", Planned, same, -1, 0, true, wait(0)),
            ("opens", Planned, same, 0, 0, true, Step::Open),
            ("before the seal", Open, same, 59, 0, true, wait(60)),
            ("the seal", Open, same, 60, 0, true, Step::Seal),
            ("the root at once", Sealed, same, 61, 20, true, Step::Root),
            ("the last second for it", Sealed, same, 150, 20, true, Step::Root),
            ("too late for it", Sealed, same, 151, 20, true, Step::Postpone { round: 61 }),
            ("too late for that", Sealed, same, 171, 20, true, wait(180)),
            ("the beacon has spoken", Sealed, same, 180, 20, true, Step::Void { round: 61 }),
            ("behind a void round", Sealed, again, 500, 20, true, Step::Root),
            ("written, not seen", Rooted, same, 179, 20, true, Step::Confirm),
            ("not seen in time", Rooted, same, 180, 20, true, Step::Void { round: 61 }),
            ("seen, and waited for", Rooted, seen, 179, 20, true, wait(180)),
            ("revealed", Rooted, seen, 180, 20, true, Step::Reveal),
            ("before the opening", Drawn, same, 299, 20, true, wait(300)),
            ("the first round", Drawn, same, 300, 20, true, Step::BeginRound { round: 0 }),
            ("the next one, though late", Drawn, first, 500, 10, true, Step::BeginRound { round: 1 }),
            ("goes on", Drawn, in_round, 305, 17, true, Step::GoOn),
            ("paused", Drawn, paused, 500, 10, true, Step::Wait(None)),
            ("nothing to decide", Drawn, first, 395, 0, false, Step::Skip { to: 3 }),
            ("what is left goes on sale", Drawn, then_open, 310, 0, true, Step::ThenOpen),
            ("what came back at last", Drawn, first, 900, 0, true, Step::BeginLastRound),
            ("ended before its time", Drawn, ended, 500, 0, true, Step::BeginLastRound),
            ("the end", Drawn, last, 900, 0, true, Step::Close),
            ("over", Closed, same, 500, 0, true, Step::Wait(None)),
        ];
        for (what, state, change, second, undecided, has_free_units, expected) in cases {
            let drop = if state == Planned { DropState::Draft } else { DropState::Lining };
            let (opens_at, closes_at) = (at(300), Some(at(900)));
            let around = Around { drop, opens_at, closes_at, undecided, has_free_units };
            assert_eq!(next_step(&line(state, change), around, at(second)), expected, "{what}");
        }
    }
}
