//! An entry as it is published: an id that says nothing about the buyer, and what they want.

use std::fmt;
use std::str::FromStr;

use hmac::{Hmac, KeyInit as _, Mac as _};
use serde::{Deserialize, Serialize};
use sha2::Sha256;

use super::hex::{Hex, InvalidHex};
use super::rounds::{Choices, Wish};
use crate::domain::claims::Quantity;
use crate::domain::ids::BuyerId;

/// The first half of an HMAC-SHA256 over number and buyer, with a key that the drop keeps to itself: nobody can try out
/// buyers.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct EntryId(pub Hex<16>);

impl EntryId {
    pub fn new(entry_key: &[u8; 32], number: u32, buyer: &BuyerId) -> Self {
        let mut mac = Hmac::<Sha256>::new_from_slice(entry_key).expect("HMAC takes keys of every length");
        mac.update(&number.to_be_bytes());
        mac.update(buyer.as_str().as_bytes());
        let hash = mac.finalize().into_bytes();
        let mut id = [0; 16];
        id.copy_from_slice(&hash[..16]);
        Self(Hex(id))
    }
}

impl FromStr for EntryId {
    type Err = InvalidHex;

    fn from_str(text: &str) -> Result<Self, InvalidHex> {
        text.parse().map(Self)
    }
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// One entry of a list; as JSON `["<entry id>", quantity, [choices]]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "(EntryId, Units, Choices)", into = "(EntryId, Units, Choices)")]
pub struct Entry {
    pub id: EntryId,
    pub wish: Wish,
}

/// A quantity that is checked when it is read.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(try_from = "i64", into = "u8")]
struct Units(Quantity);

impl TryFrom<i64> for Units {
    type Error = crate::domain::claims::InvalidQuantity;

    fn try_from(units: i64) -> Result<Self, Self::Error> {
        Quantity::new(units).map(Self)
    }
}

impl From<Units> for u8 {
    fn from(units: Units) -> Self {
        units.0.as_byte()
    }
}

impl From<(EntryId, Units, Choices)> for Entry {
    fn from((id, quantity, choices): (EntryId, Units, Choices)) -> Self {
        Self { id, wish: Wish { quantity: quantity.0, choices } }
    }
}

impl From<Entry> for (EntryId, Units, Choices) {
    fn from(entry: Entry) -> Self {
        (entry.id, Units(entry.wish.quantity), entry.wish.choices)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `printf '\0\0\0\7buyer-1' | openssl dgst -sha256 -mac HMAC -macopt hexkey:0101…`, its first 16 bytes.
    #[test]
    fn an_entry_id_depends_on_key_number_and_buyer() {
        let buyer = "buyer-1".parse().unwrap();
        let id = EntryId::new(&[1; 32], 7, &buyer);
        assert_eq!(id.to_string(), "7e8e089726701a50707b433738a20388");
        assert_ne!(id, EntryId::new(&[2; 32], 7, &buyer));
        assert_ne!(id, EntryId::new(&[1; 32], 8, &buyer));
        assert_ne!(id, EntryId::new(&[1; 32], 7, &"buyer-2".parse().unwrap()));
    }

    #[test]
    fn an_entry_is_read_as_it_is_written_and_checked() {
        let text = r#"["000102030405060708090a0b0c0d0e0f",2,[1,0]]"#;
        let entry: Entry = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&entry).unwrap(), text);
        for bad in [
            text.replace(",2,", ",0,"),
            text.replace(",2,", ",101,"),
            text.replace("[1,0]", "[1,1]"),
            text.replace('f', "F"),
        ] {
            assert!(serde_json::from_str::<Entry>(&bad).is_err(), "{bad}");
        }
    }
}
