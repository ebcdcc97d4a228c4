//! Standby: a buyer who was refused and chose to wait has a place in the line of his variant.
//!
//! `WAITING → AWARDED → TAKEN`, or `REFUSED` by his home, `LEFT` by himself, `EXPIRED` with the drop. A place is all or
//! nothing: units that come back go to the first in line whose quantity they cover.

use jiff::Timestamp;
use serde::Serialize;

use super::claims::Quantity;
use super::ids::{ClaimId, VariantNumber};

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
