//! Carts: what a buyer, or somebody not yet known, means to order. Prices in it are what he was shown, not what he will pay.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;

use super::ids::{BuyerId, IdempotencyKey, InvalidId, VariantId};
use super::money::Money;
use super::versions::Version;

/// Units of one line: it fits into two bytes and into every stock.
pub const MAX_LINE_QUANTITY: u16 = 999;
/// Lines of one cart: a change rewrites and answers all of them, which stays below 0.1 ms with so many.
pub const MAX_LINES: u16 = 100;

/// How large a cart may become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CartLimits {
    pub lines: u16,
    pub quantity: u16,
}

impl Default for CartLimits {
    fn default() -> Self {
        Self { lines: MAX_LINES, quantity: MAX_LINE_QUANTITY }
    }
}

/// Whose cart it is.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum CartOwner {
    Buyer(BuyerId),
    Guest(CartSession),
}

/// A guest's session: whoever knows it has the cart, so it is made of chance and never logged.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct CartSession(String);

impl CartSession {
    /// 144 bits of chance: nobody finds a cart by trying.
    pub const RANDOM_BYTES: usize = 18;
    /// Of its text.
    pub const TEXT_BYTES: usize = 24;

    pub fn from_random(bytes: [u8; Self::RANDOM_BYTES]) -> Self {
        Self(URL_SAFE_NO_PAD.encode(bytes))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for CartSession {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let allowed = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if text.len() == Self::TEXT_BYTES && text.bytes().all(allowed) {
            return Ok(Self(text.to_owned()));
        }
        Err(InvalidId { what: "a cart session", rule: "24 of A-Z, a-z, 0-9, - and _, as it was given out" })
    }
}

impl fmt::Debug for CartSession {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("CartSession(…)")
    }
}

/// Grows with every change of a cart and never comes again, not even after the cart has been emptied or has expired. A cart
/// that is not there has [`CartVersion::NONE`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct CartVersion(pub u64);

impl CartVersion {
    pub const NONE: Self = Self(0);
}

impl From<CartVersion> for Version {
    fn from(version: CartVersion) -> Self {
        // Made of milliseconds since 1970: far below.
        Self(i64::try_from(version.0).unwrap_or(i64::MAX))
    }
}

/// A cart as it was at one instant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cart {
    pub version: CartVersion,
    /// In the order of the variants' ids.
    pub lines: Vec<CartLine>,
}

impl Cart {
    /// Of an owner who has none.
    pub const fn none() -> Self {
        Self { version: CartVersion::NONE, lines: Vec::new() }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CartLine {
    pub variant_id: VariantId,
    pub quantity: u32,
    /// What the buyer was shown when the line came into the cart; it stays while the line does, so that he is told of
    /// every change before he pays.
    pub price_at_add: Money,
}

/// Units that a line is given: at least one. How many it may have at most is the cart's to say.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct LineQuantity(u16);

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("quantity must be 1 to {MAX_LINE_QUANTITY}")]
pub struct InvalidLineQuantity;

impl LineQuantity {
    pub fn new(units: i64) -> Result<Self, InvalidLineQuantity> {
        match u16::try_from(units) {
            Ok(units) if (1..=MAX_LINE_QUANTITY).contains(&units) => Ok(Self(units)),
            _ => Err(InvalidLineQuantity),
        }
    }

    pub fn units(self) -> u16 {
        self.0
    }
}

/// Units to be added, at today's price.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Addition {
    pub variant_id: VariantId,
    pub quantity: LineQuantity,
    pub price: Money,
    /// The same key with the same variant and quantity adds once.
    pub key: IdempotencyKey,
}

/// How a change of a cart ended. All of these are answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CartChange {
    Done(Cart),
    /// The same request was done before; the cart as it is now.
    Replayed(Cart),
    /// The key stood for another request.
    KeyReused,
    /// It is not the version that was expected.
    Stale,
    /// It has as many lines as it may have.
    Full {
        limit: u16,
    },
    /// The line would have more units than it may have.
    OverLimit {
        limit: u16,
    },
    /// The cart has no such line.
    NoSuchLine,
    /// A guest has no cart yet, and so many have begun this second that no other may.
    TooManyBegin,
}

/// How a guest's cart came into a buyer's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CartMerged {
    pub cart: Cart,
    /// Lines that got fewer units than the guest's cart had: the limit.
    pub clamped: Vec<VariantId>,
    /// Lines for which the cart had no place. They stay in the guest's cart.
    pub left_out: Vec<VariantId>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_session_is_what_was_given_out_and_nothing_else() {
        let session = CartSession::from_random([255; CartSession::RANDOM_BYTES]);
        assert_eq!(session.as_str().parse::<CartSession>().unwrap(), session);
        assert_eq!(session.as_str().len(), 24);
        for bad in ["", "short", &"a".repeat(25), &format!("{}}}", "a".repeat(23)), &"é".repeat(12)] {
            assert!(bad.parse::<CartSession>().is_err(), "{bad:?}");
        }
        assert!(!format!("{session:?}").contains(session.as_str()), "a session is a secret");
    }

    #[test]
    fn a_line_has_one_unit_or_more() {
        for (units, is_good) in [(0, false), (1, true), (999, true), (1000, false), (-1, false), (65_537, false)] {
            assert_eq!(LineQuantity::new(units).is_ok(), is_good, "{units}");
        }
    }
}
