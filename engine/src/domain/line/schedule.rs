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
    /// The drop's time is over, and nothing of its line is under way.
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
    if around.drop == DropState::Lining && around.closes_at.is_some_and(|at| at <= now) {
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
