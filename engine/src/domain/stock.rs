//! Ordinary stock: places with a code, what lies there, and every change of it that is no sale.
//!
//! Two numbers a place: `available` is what has not been sold, `reserved` how much of that unpaid orders hold. So what can
//! be bought is the one less the other.

use std::fmt;
use std::str::FromStr;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::catalog::is_sku;
use super::ids::{DropName, InvalidId};

/// Units in one place: far above any real shelf, and sums over all places stay far below 64 bits.
pub const PLACE_UNITS_MAX: i64 = 1_000_000_000;
/// A reason is a sentence.
const REASON_CHARACTERS_MAX: usize = 200;

/// A place's name for people and files: `berlin`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct WarehouseCode(String);

impl WarehouseCode {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for WarehouseCode {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        // The alphabet of a drop's name, so that the two can be named in one place.
        let invalid = InvalidId { what: "a warehouse's code", rule: "1 to 32 of a-z, 0-9 and -" };
        text.parse::<DropName>().map(|_| Self(text.to_owned())).map_err(|_| invalid)
    }
}

impl TryFrom<String> for WarehouseCode {
    type Error = InvalidId;

    fn try_from(text: String) -> Result<Self, InvalidId> {
        text.parse()
    }
}

impl From<WarehouseCode> for String {
    fn from(code: WarehouseCode) -> Self {
        code.0
    }
}

impl fmt::Display for WarehouseCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How units of a product are reserved at checkout; docs/CHECKOUT.md says when to take which.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum StockWay {
    /// Every place of the variant is locked, then looked at.
    RowLock,
    /// One place serves one buyer while the others serve others.
    Warehouses,
    /// Looked at without a lock, and taken if nobody changed it meanwhile.
    Optimistic,
    /// Sold by drops alone.
    Tokens,
}

impl StockWay {
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

/// A text that is no way to reserve.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be one of {names}", names = StockWay::ALL.map(StockWay::as_str).join(", "))]
pub struct NotAStockWay;

impl FromStr for StockWay {
    type Err = NotAStockWay;

    fn from_str(text: &str) -> Result<Self, NotAStockWay> {
        Self::ALL.into_iter().find(|way| way.as_str() == text).ok_or(NotAStockWay)
    }
}

/// A change of stock that somebody wants.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct NewAdjustment {
    pub sku: String,
    pub warehouse: WarehouseCode,
    /// Units that came, or below zero those that are gone.
    pub delta: i64,
    pub reason: String,
}

/// A change of stock that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Adjustment {
    pub id: i64,
    pub sku: String,
    pub warehouse: WarehouseCode,
    pub delta: i64,
    pub reason: String,
    pub actor: String,
    /// As they were once it was made.
    pub available: i64,
    pub reserved: i64,
    pub at: Timestamp,
}

/// Where stock lies.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Place {
    Warehouse(WarehouseCode),
    /// All virtual warehouses of a drop together.
    Drop(DropName),
}

/// What lies of one variant in one place.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Stock {
    pub sku: String,
    pub place: Place,
    pub available: i64,
    pub reserved: i64,
}

/// Why a change of stock was not made, in a sentence that says what to do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StockRefused {
    #[error("there is no SKU {0}: make its product first")]
    UnknownSku(String),
    #[error("there is no warehouse {0}: make it first")]
    UnknownWarehouse(WarehouseCode),
    #[error("{0} is a drop, whose stock is changed by `doorbuster drop restock {0}` alone")]
    OfDrop(WarehouseCode),
    #[error(
        "{available} units are there and {reserved} of them reserved by unpaid orders: at most {} can go, not {}",
        available - reserved,
        delta.unsigned_abs()
    )]
    BelowReserved { available: i64, reserved: i64, delta: i64 },
    #[error("{available} units are there; {delta} more are above the {PLACE_UNITS_MAX} that one place may have")]
    TooMany { available: i64, delta: i64 },
    #[error("a change of nothing is none: delta must not be 0")]
    Nothing,
    #[error("the reason must be 1 to {REASON_CHARACTERS_MAX} characters, without control characters")]
    Reason,
    #[error("this request's id or key was used for something else: take a new one")]
    IdReused,
}

impl NewAdjustment {
    pub fn check(&self) -> Result<(), StockRefused> {
        check_reason(&self.reason)?;
        if !is_sku(&self.sku) {
            return Err(StockRefused::UnknownSku(self.sku.clone()));
        }
        match self.delta {
            0 => Err(StockRefused::Nothing),
            delta if delta.unsigned_abs() > PLACE_UNITS_MAX.unsigned_abs() => {
                Err(StockRefused::TooMany { available: 0, delta })
            }
            _ => Ok(()),
        }
    }
}

/// Says what a place holds after a change, if that can be.
pub fn changed(available: i64, reserved: i64, delta: i64) -> Result<i64, StockRefused> {
    match available + delta {
        after if after < reserved => Err(StockRefused::BelowReserved { available, reserved, delta }),
        after if after > PLACE_UNITS_MAX => Err(StockRefused::TooMany { available, delta }),
        after => Ok(after),
    }
}

pub fn check_reason(reason: &str) -> Result<(), StockRefused> {
    let fits = (1..=REASON_CHARACTERS_MAX).contains(&reason.chars().count());
    let is_good = fits && reason.trim() == reason && !reason.chars().any(char::is_control);
    if is_good { Ok(()) } else { Err(StockRefused::Reason) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stock_never_goes_below_what_is_reserved_or_above_what_fits() {
        assert_eq!(changed(10, 4, -6), Ok(4));
        let refused = changed(10, 4, -7).unwrap_err();
        assert_eq!(refused, StockRefused::BelowReserved { available: 10, reserved: 4, delta: -7 });
        assert!(refused.to_string().contains("at most 6 can go, not 7"), "{refused}");
        assert_eq!(changed(0, 0, PLACE_UNITS_MAX), Ok(PLACE_UNITS_MAX));
        assert!(matches!(changed(1, 0, PLACE_UNITS_MAX), Err(StockRefused::TooMany { .. })));
        for bad in ["", " ", "a\nb", " a", &"x".repeat(201)] {
            assert_eq!(check_reason(bad), Err(StockRefused::Reason), "{bad:?}");
        }
    }
}
