//! What happens to an order after it was paid: how it travels, and what comes back of it.

use serde::{Deserialize, Serialize};

use super::credits::RefundOf;
use super::ids::{InvalidId, Serial};
use super::money::Money;

/// Carriers' own numbers have up to 40 characters; their names are shorter.
const TRACKING_CHARACTERS_MAX: usize = 64;
/// A reason stands in a history, and is no letter.
pub const REASON_CHARACTERS_MAX: usize = 500;

/// Where a parcel can be asked after. Plain texts: they go into a mail and into a page, so no control character is in them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tracking {
    pub carrier: String,
    #[serde(rename = "tracking_number")]
    pub number: String,
}

impl Tracking {
    pub fn new(carrier: &str, number: &str) -> Result<Self, InvalidId> {
        let rule = "1 to 64 characters, without control characters and without spaces around them";
        for (what, text) in [("carrier", carrier), ("tracking_number", number)] {
            if !is_plain(text, TRACKING_CHARACTERS_MAX) {
                return Err(InvalidId { what, rule });
            }
        }
        Ok(Self { carrier: carrier.to_owned(), number: number.to_owned() })
    }

    /// For tests and tables.
    pub fn sample() -> Self {
        Self { carrier: "DHL".to_owned(), number: "00340434161094015902".to_owned() }
    }
}

/// One line of an order of which goods came back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReturnedLine {
    pub line: u32,
    pub quantity: u32,
    /// The units of a drop, by number; the lowest ones that are still out where nobody says which.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub serials: Vec<Serial>,
    /// They can be sold again.
    pub restock: bool,
}

/// What is asked of a return; the same under the same id, or it is another return.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewReturn {
    pub lines: Vec<ReturnedLine>,
    /// How much goes back to the buyer with it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refund: Option<Money>,
    /// Instead of an amount: what these goods are worth goes back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refund_of: Option<RefundOf>,
}

/// Why a return is none, whatever the order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidReturn {
    #[error("a return names at least one line")]
    Empty,
    #[error("line {0} is named twice")]
    LineTwice(u32),
    #[error("of line {0} at least one unit comes back")]
    NoUnits(u32),
    #[error("line {0} names other units than it counts, or one of them twice")]
    Serials(u32),
}

impl NewReturn {
    pub fn check(&self) -> Result<(), InvalidReturn> {
        if self.lines.is_empty() {
            return Err(InvalidReturn::Empty);
        }
        for (position, line) in self.lines.iter().enumerate() {
            if self.lines[..position].iter().any(|other| other.line == line.line) {
                return Err(InvalidReturn::LineTwice(line.line));
            }
            if line.quantity == 0 {
                return Err(InvalidReturn::NoUnits(line.line));
            }
            let mut serials = line.serials.clone();
            serials.sort_unstable();
            serials.dedup();
            let is_named = !line.serials.is_empty();
            if is_named && (serials.len() != line.serials.len() || serials.len() != line.quantity as usize) {
                return Err(InvalidReturn::Serials(line.line));
            }
        }
        Ok(())
    }
}

/// A text of people for people: something is in it, and nothing that a terminal or a header could take for an order.
pub fn is_plain(text: &str, characters_max: usize) -> bool {
    (1..=characters_max).contains(&text.chars().count())
        && text.trim() == text
        && !text.chars().any(|character| character.is_control())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tracking_is_plain_text() {
        assert_eq!(Tracking::new("DHL", "00340434161094015902"), Ok(Tracking::sample()));
        assert!(Tracking::new("Österreichische Post", "RR 123 AT").is_ok());
        for bad in ["", " ", " a", "a ", "a\nBcc: x", "a\0", "\u{85}", &"x".repeat(65)] {
            assert_eq!(Tracking::new(bad, "1").unwrap_err().what, "carrier", "{bad:?}");
            assert_eq!(Tracking::new("DHL", bad).unwrap_err().what, "tracking_number", "{bad:?}");
        }
    }

    #[test]
    fn a_return_that_cannot_be_is_refused() {
        let line = |line, quantity, serials: &[u32]| ReturnedLine {
            line,
            quantity,
            serials: serials.iter().copied().map(Serial).collect(),
            restock: true,
        };
        let check = |lines: &[ReturnedLine]| NewReturn { lines: lines.to_vec(), refund: None, refund_of: None }.check();
        assert_eq!(check(&[line(1, 1, &[]), line(2, 2, &[7, 4])]), Ok(()));
        assert_eq!(check(&[]), Err(InvalidReturn::Empty));
        assert_eq!(check(&[line(1, 1, &[]), line(1, 1, &[])]), Err(InvalidReturn::LineTwice(1)));
        assert_eq!(check(&[line(3, 0, &[])]), Err(InvalidReturn::NoUnits(3)));
        assert_eq!(check(&[line(1, 2, &[7])]), Err(InvalidReturn::Serials(1)));
        assert_eq!(check(&[line(1, 2, &[7, 7])]), Err(InvalidReturn::Serials(1)));
    }
}
