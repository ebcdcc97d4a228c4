//! Standby: a buyer who was refused and chose to wait has a place in the line of his variant.
//!
//! `WAITING → AWARDED → TAKEN`, or `REFUSED` by his home, `LEFT` by himself, `EXPIRED` with the drop. A place is all or
//! nothing: units that come back go to the first in line whose quantity they cover.

use jiff::Timestamp;
use serde::Serialize;

use super::claims::Quantity;
use super::ids::{ClaimId, VariantNumber};
use super::rest::Evidence;

/// Places that may wait for one variant. Who joins behind so many would hope in vain, and counting who is ahead of a buyer
/// goes through all of them: some milliseconds at the most.
pub const MAX_LINE_PLACES: u32 = 10_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum PlaceState {
    Waiting,
    /// Units are on their way to him, and nobody else can have them.
    Awarded,
    /// They are his: an order was made.
    Taken,
    /// His home refused the award, since he holds as many units as he may.
    Refused,
    Left,
    /// The drop closed first.
    Expired,
}

impl PlaceState {
    pub const ALL: [Self; 6] = [Self::Waiting, Self::Awarded, Self::Taken, Self::Refused, Self::Left, Self::Expired];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "WAITING",
            Self::Awarded => "AWARDED",
            Self::Taken => "TAKEN",
            Self::Refused => "REFUSED",
            Self::Left => "LEFT",
            Self::Expired => "EXPIRED",
        }
    }

    /// It may still come to something.
    pub fn is_live(self) -> bool {
        matches!(self, Self::Waiting | Self::Awarded)
    }
}

/// A buyer's place, as he sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    pub variant: VariantNumber,
    pub quantity: Quantity,
    pub state: PlaceState,
    /// Places before his; only while he waits.
    pub ahead: Option<u32>,
    /// He goes before those who merely wait: a claim of his was answered and then lost.
    pub is_first: bool,
    /// What the award makes of it: a claim, and its order.
    pub claim: Option<ClaimId>,
    pub joined_at: Timestamp,
}

/// Units that a buyer holds: of each of their claims the quantity, and whether it still holds its units.
pub fn held_units(claims: impl Iterator<Item = (Quantity, bool)>) -> u32 {
    claims.filter(|(_, holds)| *holds).map(|(quantity, _)| quantity.units()).sum()
}

/// Whether who wants so many units could buy them now instead of waiting. What is granted is on sale in a moment. Of a drop
/// whose warehouses did not all answer, only what was seen counts.
pub fn could_buy(evidence: &Evidence, quantity: Quantity) -> bool {
    evidence.free >= quantity.units() || (evidence.is_granted && evidence.is_whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_waits_for_what_they_could_buy() {
        let whole = Evidence { is_whole: true, ..Evidence::default() };
        let cases = [
            ("nothing is left", whole, 1, false),
            ("one is free", Evidence { free: 1, ..whole }, 1, true),
            ("one is free, of two", Evidence { free: 1, ..whole }, 2, false),
            ("one is granted", Evidence { is_granted: true, ..whole }, 1, true),
            ("granted where nobody answers", Evidence { is_granted: true, is_whole: false, ..whole }, 1, false),
            ("free, though a warehouse is away", Evidence { free: 1, is_whole: false, ..whole }, 1, true),
            ("on its way to somebody else", Evidence { is_leaving: true, ..whole }, 1, false),
        ];
        for (what, evidence, wanted, expected) in cases {
            assert_eq!(could_buy(&evidence, Quantity::new(wanted).unwrap()), expected, "{what}");
        }
    }

    #[test]
    fn claims_that_are_over_hold_nothing() {
        let two = Quantity::new(2).unwrap();
        assert_eq!(held_units([(two, true), (two, false)].into_iter()), 2);
    }
}
