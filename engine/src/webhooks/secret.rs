//! Signing secrets: `whsec_` and base64, as Standard Webhooks serializes them. Several may be good at once, for a rotation.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use hmac::{Hmac, KeyInit as _, Mac as _};
use sha2::Sha256;

const PREFIX: &str = "whsec_";
/// Of the specification: at least 192 bits, at most 512.
const BYTES_MIN: usize = 24;
const BYTES_MAX: usize = 64;

/// A key; it cannot be printed.
#[derive(Clone, PartialEq, Eq)]
pub struct WebhookSecret(Vec<u8>);

/// Does not repeat what was given.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a webhook secret is whsec_ and the base64 of 24 to 64 random bytes")]
pub struct InvalidSecret;

impl FromStr for WebhookSecret {
    type Err = InvalidSecret;

    fn from_str(text: &str) -> Result<Self, InvalidSecret> {
        let key = STANDARD.decode(text.strip_prefix(PREFIX).ok_or(InvalidSecret)?).map_err(|_| InvalidSecret)?;
        if (BYTES_MIN..=BYTES_MAX).contains(&key.len()) { Ok(Self(key)) } else { Err(InvalidSecret) }
    }
}

impl fmt::Debug for WebhookSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("WebhookSecret(redacted)")
    }
}

impl WebhookSecret {
    fn signature(&self, id: &str, timestamp_s: i64, body: &str) -> String {
        let mut mac = Hmac::<Sha256>::new_from_slice(&self.0).expect("HMAC takes keys of every length");
        // The id has no full stop, see domain/notices.rs, so that no other id and timestamp give the same text.
        mac.update(format!("{id}.{timestamp_s}.{body}").as_bytes());
        format!("v1,{}", STANDARD.encode(mac.finalize().into_bytes()))
    }
}

/// One signature by each secret: whoever has any of them can verify.
pub(super) fn signatures(secrets: &[WebhookSecret], id: &str, timestamp_s: i64, body: &str) -> String {
    let all = secrets.iter().map(|secret| secret.signature(id, timestamp_s, body));
    all.collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Computed with openssl: `printf 'evt_1.1700000000.{"a":1}' | openssl dgst -sha256 -mac HMAC -macopt hexkey:… -binary | base64`.
    #[test]
    fn signatures_are_those_that_others_compute() {
        let secret = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz".parse::<WebhookSecret>().unwrap();
        let signature = secret.signature("evt_1", 1_700_000_000, r#"{"a":1}"#);
        assert_eq!(signature, "v1,BxWq5hDE4oJpmlA6yFD+Td2wyDINU37QU9XkDOet/Bc=");
        let both = signatures(&[secret.clone(), secret], "evt_1", 1_700_000_000, r#"{"a":1}"#);
        assert_eq!(both, format!("{signature} {signature}"));
    }

    #[test]
    fn secrets_that_are_short_or_no_secrets_are_refused() {
        for bad in ["", "whsec_", "whsec_c2hvcnQ=", "MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz", "whsec_%%%"] {
            assert!(bad.parse::<WebhookSecret>().is_err(), "{bad}");
        }
    }
}
