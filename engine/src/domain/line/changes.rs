//! What may still be changed about a line whose rules are published: its pace may rise, and those who wait may be told
//! something.

use super::state::{Line, LineState};
use super::terms::PER_ROUND_MAX;

/// As the board shows it.
pub const MESSAGE_CHARACTERS_MAX: usize = 280;

/// What an operator asks for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LineChange {
    /// What the board says to everybody; `Some(None)` takes it back.
    pub message: Option<Option<String>>,
    /// Ranks that a round decides from the next one on.
    pub per_round: Option<u32>,
}

/// Why a line stays as it is, in a sentence that says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeRefused {
    #[error("its line is over")]
    Closed,
    #[error(
        "a round decides {now} ranks, and the buyers were promised no fewer: its pace may only rise. `drop pause` holds no \
         rounds for a while"
    )]
    Slower { now: u32 },
    #[error("a round decides 1 to {PER_ROUND_MAX} ranks; {0} were given")]
    PerRound(u32),
    #[error("a message has at most {MESSAGE_CHARACTERS_MAX} characters; this one has {0}")]
    LongMessage(usize),
    #[error("a message is one line without control characters")]
    ControlCharacter,
}

/// Whether a line may be changed so.
pub fn may_change(line: &Line, change: &LineChange) -> Result<(), ChangeRefused> {
    if line.state == LineState::Closed {
        return Err(ChangeRefused::Closed);
    }
    if let Some(Some(message)) = &change.message {
        let characters = message.chars().count();
        if characters > MESSAGE_CHARACTERS_MAX {
            return Err(ChangeRefused::LongMessage(characters));
        }
        if message.chars().any(char::is_control) {
            return Err(ChangeRefused::ControlCharacter);
        }
    }
    let Some(per_round) = change.per_round else { return Ok(()) };
    if !(1..=PER_ROUND_MAX).contains(&per_round) {
        return Err(ChangeRefused::PerRound(per_round));
    }
    let now = line.terms.per_round;
    // Before its line opens nobody has been promised anything.
    if per_round < now && line.state != LineState::Planned {
        return Err(ChangeRefused::Slower { now });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::schedule::tests::line;
    use super::*;

    #[test]
    fn the_pace_may_only_rise_and_a_message_is_one_short_line() {
        let pace = |per_round| LineChange { per_round: Some(per_round), ..LineChange::default() };
        let says = |text: &str| LineChange { message: Some(Some(text.to_owned())), ..LineChange::default() };
        let silent = LineChange { message: Some(None), ..LineChange::default() };
        let cases = [
            ("as it is", LineState::Drawn, pace(10), Ok(())),
            ("faster", LineState::Drawn, pace(11), Ok(())),
            ("slower", LineState::Drawn, pace(9), Err(ChangeRefused::Slower { now: 10 })),
            ("slower than was published", LineState::Open, pace(9), Err(ChangeRefused::Slower { now: 10 })),
            ("of a draft", LineState::Planned, pace(9), Ok(())),
            ("none", LineState::Planned, pace(0), Err(ChangeRefused::PerRound(0))),
            ("more than there can be", LineState::Drawn, pace(1_000_001), Err(ChangeRefused::PerRound(1_000_001))),
            ("over", LineState::Closed, pace(11), Err(ChangeRefused::Closed)),
            ("a message", LineState::Open, says("We are looking into it."), Ok(())),
            ("none any more", LineState::Open, silent, Ok(())),
            ("the longest one", LineState::Open, says(&"ä".repeat(280)), Ok(())),
            ("too long", LineState::Open, says(&"ä".repeat(281)), Err(ChangeRefused::LongMessage(281))),
            ("two lines", LineState::Open, says("a\nb"), Err(ChangeRefused::ControlCharacter)),
        ];
        for (what, state, change, expected) in cases {
            assert_eq!(may_change(&line(state, |_| ()), &change), expected, "{what}");
        }
    }
}
