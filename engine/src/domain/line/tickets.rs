//! A ticket: what a buyer keeps of having joined. It is evidence against the shop as well, if the entry is missing in
//! the list, so it is signed with a key whose public half stands in the published rules. It is no credential: it says
//! what was joined, not who asks.

use std::str::FromStr;

use aws_lc_rs::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use sha2::{Digest as _, Sha256};

use super::entries::EntryId;
use super::hex::Hex;
use crate::domain::ids::DropId;

const VERSION: &str = "v1";
/// Key id, drop, number, entry id, time.
const PAYLOAD_BYTES: usize = 4 + 4 + 4 + 16 + 8;

/// An Ed25519 public key.
pub type TicketKey = Hex<32>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ticket {
    pub drop: DropId,
    /// The entry's number in the line.
    pub number: u32,
    pub entry: EntryId,
    /// In milliseconds.
    pub joined_at: Timestamp,
}

/// A ticket as its buyer has it; whether it is genuine, [`SignedTicket::verify`] says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SignedTicket {
    ticket: Ticket,
    key_id: [u8; 4],
    signed: String,
    signature: [u8; 64],
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum InvalidTicket {
    #[error("this is no ticket: one begins with v1. and has two more parts")]
    NotATicket,
    #[error("the ticket was signed with another key than the one in the rules")]
    AnotherKey,
    #[error("the ticket's signature is wrong: the shop has not signed this")]
    BadSignature,
}

/// The key of one drop's tickets.
#[derive(Debug)]
pub struct TicketSigner {
    key: Ed25519KeyPair,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the cryptographic library refuses this key of tickets")]
pub struct RefusedKey;

impl TicketSigner {
    /// `seed`: 32 bytes that only the shop knows.
    pub fn new(seed: &[u8; 32]) -> Result<Self, RefusedKey> {
        Ed25519KeyPair::from_seed_unchecked(seed).map(|key| Self { key }).map_err(|_| RefusedKey)
    }

    pub fn public_key(&self) -> TicketKey {
        let mut key = [0; 32];
        key.copy_from_slice(self.key.public_key().as_ref());
        Hex(key)
    }

    pub fn sign(&self, ticket: &Ticket) -> String {
        let mut payload = Vec::with_capacity(PAYLOAD_BYTES);
        payload.extend(key_id(&self.public_key()));
        payload.extend(ticket.drop.0.to_be_bytes());
        payload.extend(ticket.number.to_be_bytes());
        payload.extend(ticket.entry.0.0);
        payload.extend(ticket.joined_at.as_millisecond().to_be_bytes());
        let signed = format!("{VERSION}.{}", URL_SAFE_NO_PAD.encode(payload));
        let signature = URL_SAFE_NO_PAD.encode(self.key.sign(signed.as_bytes()));
        format!("{signed}.{signature}")
    }
}

/// Says which key signed, should a shop change it: the beginning of its SHA-256.
fn key_id(key: &TicketKey) -> [u8; 4] {
    let hash = Sha256::digest(key.0);
    [hash[0], hash[1], hash[2], hash[3]]
}

impl FromStr for SignedTicket {
    type Err = InvalidTicket;

    fn from_str(text: &str) -> Result<Self, InvalidTicket> {
        let parsed = || {
            let (signed, signature) = text.rsplit_once('.')?;
            let payload = URL_SAFE_NO_PAD.decode(signed.strip_prefix(VERSION)?.strip_prefix('.')?).ok()?;
            let signature = URL_SAFE_NO_PAD.decode(signature).ok()?.try_into().ok()?;
            let (key_id, payload) = payload.split_first_chunk::<4>()?;
            let (drop, payload) = payload.split_first_chunk::<4>()?;
            let (number, payload) = payload.split_first_chunk::<4>()?;
            let (entry, payload) = payload.split_first_chunk::<16>()?;
            let joined_at = i64::from_be_bytes(payload.try_into().ok()?);
            let ticket = Ticket {
                drop: DropId(i32::from_be_bytes(*drop)),
                number: u32::from_be_bytes(*number),
                entry: EntryId(Hex(*entry)),
                joined_at: Timestamp::from_millisecond(joined_at).ok()?,
            };
            Some(Self { ticket, key_id: *key_id, signed: signed.to_owned(), signature })
        };
        parsed().ok_or(InvalidTicket::NotATicket)
    }
}

impl SignedTicket {
    /// What it says, if this key has signed it.
    pub fn verify(&self, key: &TicketKey) -> Result<Ticket, InvalidTicket> {
        if self.key_id != key_id(key) {
            return Err(InvalidTicket::AnotherKey);
        }
        let key = UnparsedPublicKey::new(&ED25519, key.0);
        key.verify(self.signed.as_bytes(), &self.signature).map_err(|_| InvalidTicket::BadSignature)?;
        Ok(self.ticket)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticket() -> Ticket {
        Ticket {
            drop: DropId(7),
            number: 41,
            entry: EntryId(Hex([5; 16])),
            joined_at: Timestamp::from_millisecond(1_795_773_600_123).unwrap(),
        }
    }

    fn verified(text: &str, key: &TicketKey) -> Result<Ticket, InvalidTicket> {
        text.parse::<SignedTicket>()?.verify(key)
    }

    #[test]
    fn a_ticket_says_what_was_signed() {
        // The key and its public half are those of test 1 in RFC 8032.
        let seed: Hex<32> = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60".parse().unwrap();
        let signer = TicketSigner::new(&seed.0).unwrap();
        let key = signer.public_key();
        assert_eq!(key.to_string(), "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a");
        let text = signer.sign(&ticket());
        assert_eq!(verified(&text, &key), Ok(ticket()));
        assert_eq!(text.len(), 3 + 48 + 1 + 86, "{text}");
    }

    #[test]
    fn nothing_else_is_a_ticket() {
        let (ours, theirs) = (TicketSigner::new(&[1; 32]).unwrap(), TicketSigner::new(&[2; 32]).unwrap());
        let key = ours.public_key();
        let text = ours.sign(&ticket());
        let other = ours.sign(&Ticket { number: 42, ..ticket() });
        let (signed, _) = text.rsplit_once('.').unwrap();
        let (_, signature) = other.rsplit_once('.').unwrap();
        assert_eq!(verified(&format!("{signed}.{signature}"), &key), Err(InvalidTicket::BadSignature));
        assert_eq!(verified(&theirs.sign(&ticket()), &key), Err(InvalidTicket::AnotherKey));
        for bad in [
            "",
            "v1",
            "v1..",
            &text[..text.len() - 1],
            &text.replace("v1.", "v2."),
            &format!("{text}A"),
            &format!("{text}."),
        ] {
            assert_eq!(verified(bad, &key), Err(InvalidTicket::NotATicket), "{bad}");
        }
    }
}
