//! Receipts: what a buyer was told about his claim, signed, so that he and support can show it later.
//!
//! A receipt is a JSON Web Signature (RFC 7515, compact, HS256) whose header names the key. It is evidence, never
//! authority: nothing is allocated, kept or released for one. Whoever is shown a receipt looks the claim up by its id; of a
//! claim that is lost it puts its buyer first in line (routes/standby.rs), which takes a unit from nobody.

use doorbuster_engine::domain::claims::Acknowledgement;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::auth::use_crypto;
use crate::config::{BadConfig, Secret};

/// A buyer's bearer token has another type, and other keys.
const TYPE: &str = "receipt+jwt";
/// As strong as HMAC-SHA256 gets.
const SECRET_BYTES_MIN: usize = 32;

/// One signing key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReceiptKey {
    id: String,
    secret: Secret,
}

/// What a receipt says.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Receipt {
    /// The claim.
    pub jti: Uuid,
    /// The buyer.
    pub sub: String,
    pub drop: String,
    pub sku: String,
    pub serials: Vec<u32>,
    /// How far the claim had got.
    pub acknowledgement: Acknowledgement,
    /// How often the warehouse had been loaded: what was claimed before a rebuild is told from what came after it.
    pub epoch: i64,
    /// When it was told, in seconds since 1970.
    pub iat: i64,
}

/// Why a receipt proves nothing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadReceipt {
    #[error("this is no receipt of ours: it is not a signed token of the type {TYPE}")]
    Malformed,
    #[error("it was signed with the key {0:?}, which is not among the given ones")]
    UnknownKey(String),
    #[error("its signature does not fit: it was forged or changed")]
    Forged,
}

/// Signs with the first key, verifies with all of them: a new key goes in front, an old one stays as long as its receipts
/// are to be believed.
pub struct Receipts {
    header: Header,
    signing: EncodingKey,
    verifying: Vec<(String, DecodingKey)>,
}

impl ReceiptKey {
    pub(crate) fn id(&self) -> &str {
        &self.id
    }

    /// `ID=SECRET,ID=SECRET…`
    pub fn parse_list(text: &Secret) -> Result<Vec<Self>, BadConfig> {
        let bad = |what: String| BadConfig(format!("--receipt-keys (DOORBUSTER_RECEIPT_KEYS): {what}"));
        let mut keys: Vec<Self> = Vec::new();
        for (index, part) in text.expose().split(',').enumerate() {
            let Some((id, secret)) = part.split_once('=') else {
                return Err(bad(format!("key {} is not ID=SECRET", index + 1)));
            };
            let is_good =
                (1..=32).contains(&id.len()) && id.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-');
            if !is_good {
                return Err(bad(format!("the id of key {} must be 1 to 32 letters, digits and hyphens", index + 1)));
            }
            if secret.len() < SECRET_BYTES_MIN {
                return Err(bad(format!("the secret of {id} must be at least {SECRET_BYTES_MIN} bytes long")));
            }
            if keys.iter().any(|key| key.id == id) {
                return Err(bad(format!("the id {id} occurs twice")));
            }
            keys.push(Self { id: id.to_owned(), secret: Secret::from(secret.to_owned()) });
        }
        Ok(keys)
    }

    pub fn has_secret(&self, secret: &Secret) -> bool {
        self.secret == *secret
    }
}

impl Receipts {
    /// `None`: there is no key.
    pub fn new(keys: &[ReceiptKey]) -> Option<Self> {
        use_crypto();
        let first = keys.first()?;
        let mut header = Header::new(Algorithm::HS256);
        header.typ = Some(TYPE.to_owned());
        header.kid = Some(first.id.clone());
        let verifying =
            keys.iter().map(|key| (key.id.clone(), DecodingKey::from_secret(key.secret.expose().as_bytes())));
        Some(Self {
            header,
            signing: EncodingKey::from_secret(first.secret.expose().as_bytes()),
            verifying: verifying.collect(),
        })
    }

    pub fn sign(&self, receipt: &Receipt) -> String {
        jsonwebtoken::encode(&self.header, receipt, &self.signing).expect("texts and numbers can be signed by HMAC")
    }

    pub fn verify(&self, text: &str) -> Result<Receipt, BadReceipt> {
        let header = jsonwebtoken::decode_header(text).map_err(|_| BadReceipt::Malformed)?;
        if header.typ.as_deref() != Some(TYPE) {
            return Err(BadReceipt::Malformed);
        }
        let id = header.kid.ok_or(BadReceipt::Malformed)?;
        let Some((_, key)) = self.verifying.iter().find(|(known, _)| *known == id) else {
            return Err(BadReceipt::UnknownKey(id));
        };
        let mut validation = Validation::new(Algorithm::HS256);
        // Evidence does not expire.
        validation.validate_exp = false;
        validation.required_spec_claims.clear();
        // The library compares signatures in constant time.
        let receipt = jsonwebtoken::decode::<Receipt>(text, key, &validation).map_err(|_| BadReceipt::Forged)?;
        Ok(receipt.claims)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys(text: &str) -> Vec<ReceiptKey> {
        ReceiptKey::parse_list(&Secret::from(text.to_owned())).unwrap()
    }

    fn receipt() -> Receipt {
        Receipt {
            jti: Uuid::from_u128(7),
            sub: "ada".to_owned(),
            drop: "shoe".to_owned(),
            sku: "shoe-42".to_owned(),
            serials: vec![1, 2],
            acknowledgement: Acknowledgement::Replicated,
            epoch: 3,
            iat: 1_795_000_000,
        }
    }

    const OLD: &str = "2026a=0123456789abcdef0123456789abcdef";
    const NEW: &str = "2026b=fedcba9876543210fedcba9876543210";

    #[test]
    fn receipts_outlive_a_rotation_and_end_with_their_key() {
        let before = Receipts::new(&keys(OLD)).unwrap();
        let rotated = Receipts::new(&keys(&format!("{NEW},{OLD}"))).unwrap();
        let after = Receipts::new(&keys(NEW)).unwrap();
        let (old, new) = (before.sign(&receipt()), rotated.sign(&receipt()));
        assert_eq!(rotated.verify(&old), Ok(receipt()));
        assert_eq!(rotated.verify(&new), Ok(receipt()));
        assert_eq!(after.verify(&new), Ok(receipt()), "the new key signs from the first day");
        assert_eq!(after.verify(&old), Err(BadReceipt::UnknownKey("2026a".to_owned())));
    }

    #[test]
    fn a_changed_receipt_is_forged_and_a_bearer_token_is_none() {
        let receipts = Receipts::new(&keys(OLD)).unwrap();
        let good = receipts.sign(&receipt());
        let (head, signature) = good.rsplit_once('.').unwrap();
        let (head, _) = head.split_once('.').unwrap();
        let other = receipts.sign(&Receipt { serials: vec![1, 2, 3], ..receipt() });
        let body = other.split('.').nth(1).unwrap();
        assert_eq!(receipts.verify(&format!("{head}.{body}.{signature}")), Err(BadReceipt::Forged));
        // Another secret under the same name.
        let impostor = Receipts::new(&keys("2026a=ffffffffffffffffffffffffffffffff")).unwrap();
        assert_eq!(receipts.verify(&impostor.sign(&receipt())), Err(BadReceipt::Forged));
        let secret = Secret::from("0123456789abcdef0123456789abcdef".to_owned());
        let token = crate::auth::mint(
            &secret,
            &"ada".parse().unwrap(),
            jiff::Timestamp::UNIX_EPOCH,
            jiff::SignedDuration::from_hours(1),
        );
        assert_eq!(receipts.verify(&token), Err(BadReceipt::Malformed));
        assert_eq!(receipts.verify("nonsense"), Err(BadReceipt::Malformed));
    }

    #[test]
    fn keys_that_cannot_be_used_are_named_without_their_secrets() {
        for (text, word) in [
            ("", "key 1 is not"),
            ("a=short", "secret of a"),
            ("a b=0123456789abcdef0123456789abcdef", "id of key 1"),
            (&*format!("{OLD},{OLD}"), "twice"),
            (&*format!("{OLD},"), "key 2 is not"),
        ] {
            let BadConfig(sentence) = ReceiptKey::parse_list(&Secret::from(text.to_owned())).unwrap_err();
            assert!(sentence.contains(word), "{text}: {sentence}");
            assert!(!sentence.contains("0123456789"), "{sentence}");
        }
    }
}
