//! A claim: tokens of one variant taken by one buyer in one call, all or nothing.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::countries::Country;
use super::drops::MAX_BUYER_LIMIT;
use super::ids::{BuyerId, ClaimId, DropId, IdempotencyKey, Serial, VariantNumber};
use super::money::Money;

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("quantity must be 1 to {MAX_BUYER_LIMIT}")]
pub struct InvalidQuantity;

/// Units asked for in one call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Quantity(u8);

impl Quantity {
    pub fn new(units: i64) -> Result<Self, InvalidQuantity> {
        match u8::try_from(units) {
            Ok(units) if (1..=MAX_BUYER_LIMIT).contains(&u32::from(units)) => Ok(Self(units)),
            _ => Err(InvalidQuantity),
        }
    }

    pub const MAX: Self = Self(MAX_BUYER_LIMIT as u8);

    pub fn units(self) -> u32 {
        u32::from(self.0)
    }

    pub fn as_byte(self) -> u8 {
        self.0
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    pub id: ClaimId,
    pub buyer: BuyerId,
    pub variant: VariantNumber,
    pub quantity: Quantity,
    /// `None`: its buyer did not ask what it costs.
    pub told: Option<ToldTotal>,
}

/// What a buyer was told that a claim costs, sent to a country: in the currency of its drop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ToldTotal {
    pub country: Country,
    pub total_minor: i64,
}

impl Claim {
    pub fn new(drop: DropId, buyer: BuyerId, key: &IdempotencyKey, variant: VariantNumber, quantity: Quantity) -> Self {
        Self { id: ClaimId::new(drop, &buyer, key), buyer, variant, quantity, told: None }
    }

    /// The same claim of a buyer who was told what it costs.
    pub fn told(self, country: Country, total: Money) -> Self {
        Self { told: Some(ToldTotal { country, total_minor: total.amount_minor }), ..self }
    }
}

/// How safe a claim is when its buyer is told. A drop says which it must be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Acknowledgement {
    /// Applied on the Redis primary.
    Accepted,
    /// All replicas of the primary have it too: a failover that promotes one of them does not forget it.
    Replicated,
    /// Committed in Postgres: the order exists.
    Settled,
}

impl Acknowledgement {
    pub const ALL: [Self; 3] = [Self::Accepted, Self::Replicated, Self::Settled];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Replicated => "replicated",
            Self::Settled => "settled",
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an acknowledgement is accepted, replicated or settled")]
pub struct UnknownAcknowledgement;

impl FromStr for Acknowledgement {
    type Err = UnknownAcknowledgement;

    fn from_str(text: &str) -> Result<Self, UnknownAcknowledgement> {
        Self::ALL.into_iter().find(|level| level.as_str() == text).ok_or(UnknownAcknowledgement)
    }
}

/// How a claim ended. All of these are answers; not to know is an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ClaimOutcome {
    Taken {
        serials: Vec<Serial>,
    },
    /// The same key and body were answered before: the same answer again.
    Replayed {
        serials: Vec<Serial>,
    },
    /// The claim with this key was taken once and has been released since.
    Released,
    /// The key was used for another variant or quantity.
    KeyReused,
    OverLimit {
        held: u32,
        limit: u32,
    },
    /// At one instant after the call arrived no warehouse had a free token and none was moving.
    SoldOut,
    /// As above, with fewer left than asked for.
    NotEnough {
        available: u32,
    },
    NotOpen,
    Closed,
    /// Its buyers stand in line: rounds give them units, and a claim does not.
    LineOnly,
    /// This buyer has given back, or not paid, so many claims of the drop that they get no more of it.
    TooManyReleased,
    /// It costs another total than its buyer was told; nothing was taken.
    PriceChanged {
        total: Money,
    },
    /// The drop sends nothing to the country that the claim names; nothing was taken.
    NotServed,
}
