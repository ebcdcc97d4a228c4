//! What decides a draw, brought by hand.

use std::fmt;

use jiff::civil::Date;

use crate::beacon::check;
use crate::domain::ids::DropName;
use crate::domain::line::beacon::Pattern;
use crate::domain::line::draw::beginning_of;
use crate::domain::line::rules::Beacon;
use crate::domain::line::state::{Line, LineState};
use crate::flows::engine::{Engine, EngineError};

use super::steps::Answer;

/// What somebody brings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Revealing {
    /// A round of drand, as its addresses answer it.
    Round(String),
    /// The result that a manual draw waits for, typed by somebody.
    Result { result: String, by: String },
}

/// What became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RevealTaken {
    Drawn,
    /// It was drawn before, with the same.
    Before,
    /// Somebody else has to type the same.
    OneOfTwo,
    /// Two people have typed the same: the worker draws within a second.
    Agreed,
}

impl fmt::Display for RevealTaken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Drawn => "it is drawn: everybody's rank is known",
            Self::Before => "it was drawn before",
            Self::OneOfTwo => "somebody else has to type the same",
            Self::Agreed => "two people have typed the same: the worker draws it within a second",
        })
    }
}

/// Why it was not taken, in a sentence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RevealRefused {
    #[error("there is no drop of this name with a line")]
    NoLine,
    #[error("its root is not written down yet, so nothing may decide it")]
    TooEarly,
    #[error("its rules fix another kind of beacon")]
    OtherKind,
    #[error("this is not the round that decides: {0}")]
    NotThisRound(String),
    #[error("the result is of {0}, as the rules fix it: nobody can know it before that day")]
    BeforeItsDay(Date),
    #[error("the result does not have the form that the rules fix")]
    Form,
}

impl Engine {
    /// The line of a drop, and how many stand in it.
    pub async fn line_of(&self, name: &DropName) -> Result<Option<(Line, u32)>, EngineError> {
        let Some(drop) = self.ledger.drop_by_name(name).await? else { return Ok(None) };
        let board = self.ledger.line_board(drop.id).await?;
        Ok(board.map(|board| (board.line, board.in_line)))
    }

    /// Takes what decides a draw from somebody's hand. A round of drand is checked as the worker would; a result counts
    /// once two people have typed it alike.
    pub async fn reveal_draw(
        &self,
        name: &DropName,
        given: &Revealing,
    ) -> Result<Result<RevealTaken, RevealRefused>, EngineError> {
        let Some(drop) = self.ledger.drop_by_name(name).await? else { return Ok(Err(RevealRefused::NoLine)) };
        let Some(line) = self.ledger.line(drop.id).await? else { return Ok(Err(RevealRefused::NoLine)) };
        if line.drawn.is_some() {
            return Ok(Ok(RevealTaken::Before));
        }
        if line.state != LineState::Rooted || line.root_seen_at.is_none() {
            return Ok(Err(RevealRefused::TooEarly));
        }
        match (given, &line.terms.beacon) {
            (Revealing::Round(text), Beacon::Drand(chain)) => {
                let Some(round) = line.beacon_round else { return Ok(Err(RevealRefused::TooEarly)) };
                let pulse = match check(chain, round, text) {
                    Ok(pulse) => pulse,
                    Err(why) => return Ok(Err(RevealRefused::NotThisRound(why))),
                };
                let is_drawn = self.draw(&drop, &line, &Answer::Pulse(pulse)).await?;
                Ok(Ok(if is_drawn { RevealTaken::Drawn } else { RevealTaken::Before }))
            }
            (Revealing::Result { result, by }, Beacon::Manual { pattern, date, .. }) => {
                if beginning_of(*date).is_none_or(|from| self.clock.now() < from) {
                    return Ok(Err(RevealRefused::BeforeItsDay(*date)));
                }
                if !Pattern::new(pattern).is_ok_and(|pattern| pattern.matches(result)) {
                    return Ok(Err(RevealRefused::Form));
                }
                self.ledger.type_result(drop.id, by, result, self.clock.now()).await?;
                let agreed = self.ledger.agreed_result(drop.id).await?;
                Ok(Ok(if agreed.is_some() { RevealTaken::Agreed } else { RevealTaken::OneOfTwo }))
            }
            _ => Ok(Err(RevealRefused::OtherKind)),
        }
    }
}
