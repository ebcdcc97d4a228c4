//! How units of a product are held for an order that is not paid yet: four ways, one result.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// The way that units of a product are reserved. docs/RESERVATIONS.md says when to take which.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReservationWay {
    /// Buyers stand in line at the lock of the stock's rows.
    RowLock,
    /// The stock lies in several rows, and a buyer takes one that nobody holds.
    Warehouses,
    /// The row is read first, and taken only if nobody has changed it since.
    Optimistic,
    /// A drop: its tokens were taken in Redis before.
    Tokens,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a way to reserve is row_lock, warehouses, optimistic or tokens")]
pub struct UnknownReservationWay;

impl ReservationWay {
    pub const ALL: [Self; 4] = [Self::RowLock, Self::Warehouses, Self::Optimistic, Self::Tokens];

    pub fn as_str(self) -> &'static str {
        match self {
            Self::RowLock => "row_lock",
            Self::Warehouses => "warehouses",
            Self::Optimistic => "optimistic",
            Self::Tokens => "tokens",
        }
    }
}

impl FromStr for ReservationWay {
    type Err = UnknownReservationWay;

    fn from_str(text: &str) -> Result<Self, UnknownReservationWay> {
        Self::ALL.into_iter().find(|way| way.as_str() == text).ok_or(UnknownReservationWay)
    }
}
