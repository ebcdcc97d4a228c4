//! Money: whole minor units of one currency, checked arithmetic, no floats anywhere.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// An ISO 4217 code, three capital letters (`EUR`).
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Currency([u8; 3]);

impl Currency {
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("a currency is made of ASCII capitals only")
    }

    /// Digits behind the decimal point. What the provider does not take is shown with two, and never sold.
    pub fn exponent(&self) -> u32 {
        super::charges::exponent(*self).unwrap_or(2)
    }
}

/// A text that is not a currency code.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a currency is three capital letters of ISO 4217, such as EUR, not {0:?}")]
pub struct InvalidCurrency(pub String);

impl FromStr for Currency {
    type Err = InvalidCurrency;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text.as_bytes() {
            [a, b, c] if [a, b, c].iter().all(|letter| letter.is_ascii_uppercase()) => Ok(Self([*a, *b, *c])),
            _ => Err(InvalidCurrency(text.to_owned())),
        }
    }
}

impl fmt::Display for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Currency {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl Serialize for Currency {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

impl<'de> Deserialize<'de> for Currency {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

/// An amount in minor units (cents for EUR, yen for JPY).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Money {
    pub amount_minor: i64,
    pub currency: Currency,
}

/// Two amounts that cannot be added: other currencies, or a sum that does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum MoneyError {
    #[error("amounts in {0} and {1} cannot be added")]
    CurrencyMismatch(Currency, Currency),
    #[error("the amount does not fit into 64 bits of minor units")]
    Overflow,
}

impl Money {
    pub const fn new(amount_minor: i64, currency: Currency) -> Self {
        Self { amount_minor, currency }
    }

    pub const fn zero(currency: Currency) -> Self {
        Self::new(0, currency)
    }

    pub fn plus(self, other: Self) -> Result<Self, MoneyError> {
        if self.currency != other.currency {
            return Err(MoneyError::CurrencyMismatch(self.currency, other.currency));
        }
        let sum = self.amount_minor.checked_add(other.amount_minor).ok_or(MoneyError::Overflow)?;
        Ok(Self::new(sum, self.currency))
    }

    pub fn times(self, count: u32) -> Result<Self, MoneyError> {
        let product = self.amount_minor.checked_mul(i64::from(count)).ok_or(MoneyError::Overflow)?;
        Ok(Self::new(product, self.currency))
    }

    /// `149.00`, `149`: a decimal number without its currency, for columns that have it beside them.
    pub fn decimal(self) -> String {
        let exponent = self.currency.exponent();
        let sign = if self.amount_minor < 0 { "-" } else { "" };
        let unit = 10_u64.pow(exponent);
        let (whole, rest) = (self.amount_minor.unsigned_abs() / unit, self.amount_minor.unsigned_abs() % unit);
        match exponent {
            0 => format!("{sign}{whole}"),
            width => format!("{sign}{whole}.{rest:0width$}", width = width as usize),
        }
    }
}

impl fmt::Display for Money {
    /// `149.00 EUR`, `149 JPY`: for people; machines read `amount_minor`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.decimal(), self.currency)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn money(amount_minor: i64, code: &str) -> Money {
        Money::new(amount_minor, code.parse().unwrap())
    }

    #[test]
    fn amounts_print_with_the_currencys_own_decimals() {
        assert_eq!(money(14_900, "EUR").to_string(), "149.00 EUR");
        assert_eq!(money(14_900, "JPY").to_string(), "14900 JPY");
        assert_eq!(money(-1_005, "KWD").to_string(), "-1.005 KWD");
        assert_eq!((money(-5, "EUR").decimal(), money(7, "JPY").decimal()), ("-0.05".to_owned(), "7".to_owned()));
    }

    #[test]
    fn sums_refuse_other_currencies_and_overflow() {
        assert!(matches!(money(1, "EUR").plus(money(1, "USD")), Err(MoneyError::CurrencyMismatch(..))));
        assert_eq!(money(i64::MAX, "EUR").plus(money(1, "EUR")), Err(MoneyError::Overflow));
        assert_eq!(money(i64::MAX, "EUR").times(2), Err(MoneyError::Overflow));
        assert!("eur".parse::<Currency>().is_err());
    }
}
