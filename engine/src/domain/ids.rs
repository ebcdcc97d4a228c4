//! Every identifier has a type of its own. An id is made in one place, and its bytes never change meaning.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use uuid::Uuid;

/// A text that cannot be the id it was meant to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} must be {rule}")]
pub struct InvalidId {
    pub what: &'static str,
    pub rule: &'static str,
}

/// The public name of a drop, as in `/v1/drops/{name}`. Its alphabet keeps it from changing a Redis hash tag.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct DropName(String);

impl DropName {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for DropName {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        match text.len() {
            1..=32 if text.bytes().all(allowed) => Ok(Self(text.to_owned())),
            _ => Err(InvalidId { what: "a drop's name", rule: "1 to 32 of a-z, 0-9 and -" }),
        }
    }
}

impl fmt::Display for DropName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A drop's number: key of its rows in Postgres and the first four bytes of its claim ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct DropId(pub i32);

impl DropId {
    /// Under which the events about a whole drop stand beside those about orders. No claim has this id.
    pub fn event_subject(self) -> OrderId {
        let mut hash = Sha256::new();
        hash.update(b"doorbuster drop 1");
        hash.update(self.0.to_be_bytes());
        ClaimId::from_hash(self, hash).order_id()
    }
}

/// A virtual warehouse's key in Postgres, unique over all drops.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct WarehouseId(pub i32);

/// A virtual warehouse's number inside its drop, `0..W`: the part of the Redis hash tag behind the colon.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct WarehouseNumber(pub u16);

/// A variant's number inside its drop, `0..variants`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct VariantNumber(pub u8);

/// One SKU, whatever sells it: key of its row in Postgres.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct VariantId(pub i32);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ProductId(pub i32);

/// A pre-sold unit's number inside its drop, `1..=stock`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Serial(pub u32);

/// Whose life of a warehouse: raised by every load and rebuild.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Epoch(pub i64);

/// A grant's number inside its warehouse, without gaps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct GrantNumber(pub i64);

impl GrantNumber {
    pub const fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

/// The buyer: the `sub` of a verified credential, opaque, compared byte by byte.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct BuyerId(String);

impl BuyerId {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for BuyerId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        match text.len() {
            // As long as OpenID Connect lets a `sub` be.
            1..=255 if text.bytes().all(|byte| byte.is_ascii_graphic()) => Ok(Self(text.to_owned())),
            _ => Err(InvalidId { what: "a buyer's id", rule: "1 to 255 visible ASCII characters" }),
        }
    }
}

impl fmt::Display for BuyerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The client's name for one intention, as in the header `Idempotency-Key`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct IdempotencyKey(String);

impl IdempotencyKey {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for IdempotencyKey {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        match text.len() {
            1..=255 if text.bytes().all(|byte| byte.is_ascii_graphic()) => Ok(Self(text.to_owned())),
            _ => Err(InvalidId { what: "an idempotency key", rule: "1 to 255 visible ASCII characters" }),
        }
    }
}

/// A claim, and the order made from it: the same id from the click to the bank.
///
/// A UUID of version 8 (RFC 9562): four bytes drop number, then 90 bits of SHA-256 over drop, buyer and idempotency
/// key. The drop's number in front tells where to look for a claim of which nothing else is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ClaimId(pub Uuid);

impl ClaimId {
    /// Bytes of a claim id that Redis stores: all but the drop's number, which the key names already.
    pub const TAIL_BYTES: usize = 12;

    pub fn new(drop: DropId, buyer: &BuyerId, key: &IdempotencyKey) -> Self {
        let mut hash = Sha256::new();
        hash.update(b"doorbuster claim 1");
        hash.update(drop.0.to_be_bytes());
        // The length in front keeps (buyer "ab", key "c") apart from (buyer "a", key "bc").
        hash.update((buyer.0.len() as u32).to_be_bytes());
        hash.update(buyer.0.as_bytes());
        hash.update(key.0.as_bytes());
        Self::from_hash(drop, hash)
    }

    /// The claim that an award makes of a place in standby. No key of a buyer's makes the same one.
    pub fn of_place(drop: DropId, buyer: &BuyerId, place: PlaceId) -> Self {
        let mut hash = Sha256::new();
        hash.update(b"doorbuster award 1");
        hash.update(drop.0.to_be_bytes());
        hash.update(place.0.to_be_bytes());
        hash.update(buyer.0.as_bytes());
        Self::from_hash(drop, hash)
    }

    /// The claim that an award makes of an entry in a line. No key of a buyer's and no place makes the same one.
    pub fn of_entry(drop: DropId, buyer: &BuyerId, number: u32) -> Self {
        let mut hash = Sha256::new();
        hash.update(b"doorbuster entry 1");
        hash.update(drop.0.to_be_bytes());
        hash.update(number.to_be_bytes());
        hash.update(buyer.0.as_bytes());
        Self::from_hash(drop, hash)
    }

    fn from_hash(drop: DropId, hash: Sha256) -> Self {
        let digest = hash.finalize();
        let mut bytes = [0_u8; 16];
        bytes[..4].copy_from_slice(&drop.0.to_be_bytes());
        bytes[4..].copy_from_slice(&digest[..Self::TAIL_BYTES]);
        Self(uuid::Builder::from_custom_bytes(bytes).into_uuid())
    }

    pub fn from_tail(drop: DropId, tail: [u8; Self::TAIL_BYTES]) -> Self {
        let mut bytes = [0_u8; 16];
        bytes[..4].copy_from_slice(&drop.0.to_be_bytes());
        bytes[4..].copy_from_slice(&tail);
        Self(Uuid::from_bytes(bytes))
    }

    pub fn tail(&self) -> [u8; Self::TAIL_BYTES] {
        let mut tail = [0_u8; Self::TAIL_BYTES];
        tail.copy_from_slice(&self.0.as_bytes()[4..]);
        tail
    }

    pub fn drop_id(&self) -> DropId {
        let bytes = self.0.as_bytes();
        DropId(i32::from_be_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]))
    }

    pub fn order_id(&self) -> OrderId {
        OrderId(self.0)
    }
}

impl fmt::Display for ClaimId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An order: for a drop the id of its claim, for a cart a UUID of version 7.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct OrderId(pub Uuid);

impl fmt::Display for OrderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A cart that was ordered: a UUID of version 7.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct CheckoutId(pub Uuid);

impl fmt::Display for CheckoutId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// An id of a claim stream: milliseconds and a counter. May repeat after a failover, so nothing is recognised by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct StreamId {
    pub ms: u64,
    pub seq: u64,
}

impl StreamId {
    pub const ZERO: Self = Self { ms: 0, seq: 0 };

    pub fn parse(text: &str) -> Option<Self> {
        let (ms, seq) = text.split_once('-')?;
        Some(Self { ms: ms.parse().ok()?, seq: seq.parse().ok()? })
    }
}

impl fmt::Display for StreamId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.ms, self.seq)
    }
}

/// A place in a line of standby; of two in one line, the lower number came first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct PlaceId(pub i64);

/// The number of one thing that settlement has set aside.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct PoisonId(pub i64);

/// One pull of tokens from one warehouse to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct TransferId(pub Uuid);

/// One addition to a drop's stock, so that it is made once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct RestockId(pub Uuid);

/// The provider's name of a buyer's stored means of payment (`pm_…`).
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct PaymentMethodId(String);

impl PaymentMethodId {
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl PaymentMethodId {
    /// A card number instead of the provider's name for the card: it must never be stored, sent or logged.
    pub fn is_card_number(&self) -> bool {
        (12..=19).contains(&self.0.len()) && self.0.bytes().all(|byte| byte.is_ascii_digit())
    }
}

impl FromStr for PaymentMethodId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        match text.len() {
            1..=255 if text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') => {
                Ok(Self(text.to_owned()))
            }
            _ => Err(InvalidId { what: "a payment method", rule: "1 to 255 of A-Z, a-z, 0-9 and _" }),
        }
    }
}

/// The provider's name of a payment intent (`pi_…`).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct IntentId(pub String);

/// The provider's name of a customer (`cus_…`): whose a saved card is.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
#[serde(transparent)]
pub struct CustomerId(pub String);

/// One refund of ours, made before the provider is asked: its row's key and the end of its idempotency key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RefundId(pub Uuid);

impl fmt::Display for RefundId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Goods that came back once, and the refund that goes with them: the same id names both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct ReturnId(pub Uuid);

impl ReturnId {
    pub fn refund_id(self) -> RefundId {
        RefundId(self.0)
    }
}

impl fmt::Display for ReturnId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The provider's name of a refund (`re_…`).
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct ProviderRefundId(pub String);

/// The provider's name of an event (`evt_…`): the same for every delivery of it.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct EventId(pub String);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn claim_ids_depend_on_drop_buyer_and_key_and_carry_the_drop() {
        let id =
            |drop, buyer: &str, key: &str| ClaimId::new(DropId(drop), &buyer.parse().unwrap(), &key.parse().unwrap());
        let claim = id(7, "ab", "c");
        assert_eq!(claim, id(7, "ab", "c"));
        assert_ne!(claim, id(7, "a", "bc"));
        assert_ne!(claim, id(8, "ab", "c"));
        assert_eq!(claim.drop_id(), DropId(7));
        assert_eq!(claim.0.get_version_num(), 8);
        assert_eq!(ClaimId::from_tail(DropId(7), claim.tail()), claim);
    }

    #[test]
    fn names_that_could_change_a_hash_tag_are_refused() {
        for bad in ["", "a{b}", "Shoe", "a b", "a:b", &"x".repeat(33)] {
            assert!(bad.parse::<DropName>().is_err(), "{bad:?}");
        }
        assert!("shoe-2026".parse::<DropName>().is_ok());
    }
}
