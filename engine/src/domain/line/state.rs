//! A line as it stands: what its row says.

use std::fmt;

use jiff::{SignedDuration, Timestamp};
use serde::Serialize;

use super::hex::Digest;
use super::rounds::{Phase, Position, Rank, bound, rounds_left};
use super::terms::LineTerms;

/// The life of a line: `planned → open → sealed → rooted → drawn → closed`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum LineState {
    /// Its drop is a draft.
    Planned,
    /// Who joins now is in the list that will be shuffled.
    Open,
    /// The list is complete. Who joins now stands behind it.
    Sealed,
    /// The root of the list is written down and final; the beacon has not spoken yet.
    Rooted,
    /// Everybody's rank is known. Rounds are held from the opening on.
    Drawn,
    Closed,
}

impl LineState {
    pub const ALL: [Self; 6] = [Self::Planned, Self::Open, Self::Sealed, Self::Rooted, Self::Drawn, Self::Closed];

    /// As Postgres has it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Planned => "PLANNED",
            Self::Open => "OPEN",
            Self::Sealed => "SEALED",
            Self::Rooted => "ROOTED",
            Self::Drawn => "DRAWN",
            Self::Closed => "CLOSED",
        }
    }

    /// As the board has it.
    pub fn word(self) -> &'static str {
        match self {
            Self::Planned => "planned",
            Self::Open => "open",
            Self::Sealed => "sealed",
            Self::Rooted => "rooted",
            Self::Drawn => "drawn",
            Self::Closed => "closed",
        }
    }

    /// Whether the list is complete.
    pub fn is_sealed(self) -> bool {
        !matches!(self, Self::Planned | Self::Open)
    }
}

impl fmt::Display for LineState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// What becomes of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum EntryState {
    /// In line. Whether a round has passed it over says its rank.
    Waiting,
    /// Left before the seal: it is not in the list.
    Left,
    /// Left later: it keeps its rank, and gets nothing.
    Withdrawn,
    /// Another entry with the same card stands for it.
    Merged,
    /// Units are its buyer's: its order exists.
    Awarded,
}

impl EntryState {
    /// As Postgres has it: null while it waits.
    pub fn as_column(self) -> Option<&'static str> {
        match self {
            Self::Waiting => None,
            Self::Left => Some("LEFT"),
            Self::Withdrawn => Some("WITHDRAWN"),
            Self::Merged => Some("MERGED"),
            Self::Awarded => Some("AWARDED"),
        }
    }

    pub fn of_column(text: Option<&str>) -> Option<Self> {
        [Self::Waiting, Self::Left, Self::Withdrawn, Self::Merged, Self::Awarded]
            .into_iter()
            .find(|state| state.as_column() == text)
    }

    pub fn has_left(self) -> bool {
        matches!(self, Self::Left | Self::Withdrawn)
    }
}

/// The list as it was sealed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sealed {
    /// The last number that may be in it.
    pub number: u32,
    pub count: u32,
    pub at: Timestamp,
}

/// What the beacon made of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Drawn {
    pub seed: Digest,
    pub answer: Vec<u8>,
    pub at: Timestamp,
}

/// A line's row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    pub terms: LineTerms,
    pub rules: Option<String>,
    pub state: LineState,
    pub sealed: Option<Sealed>,
    pub root: Option<Digest>,
    /// The round of the beacon that decides.
    pub beacon_round: Option<u64>,
    pub rooted_at: Option<Timestamp>,
    /// When the root was found written down.
    pub root_seen_at: Option<Timestamp>,
    pub drawn: Option<Drawn>,
    /// The round that was begun last, from 0.
    pub round: Option<u32>,
    pub position: Position,
    /// The number of the last chunk.
    pub chunk: u32,
    /// The drop's time is over, and the round for what came back at last has begun.
    pub last_round_begun: bool,
    pub paused_at: Option<Timestamp>,
    /// For how long rounds were not held, all pauses together that have ended.
    pub paused: SignedDuration,
    pub message: Option<String>,
    /// When somebody has ended it before its drop's time.
    pub ends_at: Option<Timestamp>,
    pub version: u64,
}

impl Line {
    /// Whether the round that was begun last has more to decide, as far as its row says.
    pub fn is_in_round(&self) -> bool {
        let Position { phase, served, end_of_round, .. } = self.position;
        matches!(phase, Phase::StandingBy { .. }) || served < end_of_round
    }

    /// How many rounds there are, counted from the first one, until a rank is decided at the latest. It never rises, also
    /// when the pace does.
    pub fn decided_by(&self, rank: Rank) -> u32 {
        let from_the_first = bound(rank, self.terms.per_round);
        let Some(round) = self.round else { return from_the_first };
        let (begun, end) = (round.saturating_add(1), self.position.end_of_round);
        match rounds_left(rank, end, self.terms.per_round) {
            0 => from_the_first.min(begun),
            left => begun.saturating_add(left),
        }
    }

    /// When a round is due, while nothing is paused.
    pub fn round_due_at(&self, opens_at: Timestamp, round: u32) -> Timestamp {
        let every = self.terms.round_every.checked_mul(i32::try_from(round).unwrap_or(i32::MAX));
        let wait = every.and_then(|every| every.checked_add(self.paused)).unwrap_or(SignedDuration::MAX);
        opens_at.checked_add(wait).unwrap_or(Timestamp::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::super::schedule::tests::line;
    use super::*;

    #[test]
    fn a_rank_is_never_decided_later_than_was_said() {
        // Ten ranks a round; from the third round on twenty.
        let at = |round: Option<u32>, end_of_round: u32, per_round: u32| {
            line(LineState::Drawn, |line| {
                (line.round, line.terms.per_round) = (round, per_round);
                (line.position.served, line.position.end_of_round) = (end_of_round, end_of_round);
            })
        };
        let course =
            [at(None, 0, 10), at(Some(0), 10, 10), at(Some(1), 20, 10), at(Some(1), 20, 20), at(Some(2), 40, 20)];
        for (rank, expected) in
            [(0, [1, 1, 1, 1, 1]), (19, [2, 2, 2, 1, 1]), (20, [3, 3, 3, 3, 2]), (99, [10, 10, 10, 6, 6])]
        {
            assert_eq!(course.each_ref().map(|line| line.decided_by(rank)), expected, "rank {rank}");
        }
        // Who comes behind a line that has been decided, rounds after the last, is decided in the next one.
        assert_eq!(at(Some(7), 20, 10).decided_by(20), 9);
    }
}
