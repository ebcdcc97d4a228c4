//! Events the provider sends by itself: whether one is really from it, and what it is about.
//!
//! The signature is over the bytes as they arrived, so they are checked before anything reads them. Even a good event is
//! only a hint: it may be old, repeated or out of order, so money is read back from the provider.
//!
//! Header: `Stripe-Signature: t=1795773600,v1=5257…,v1=98aa…,v0=…`. Each `v1` is the HMAC-SHA256 of `{t}.{body}`, one for
//! each secret that is in force while secrets rotate. Source: docs.stripe.com/webhooks, "verify manually".

use hmac::{Hmac, KeyInit, Mac};
use jiff::Timestamp;
use serde::Deserialize;
use sha2::Sha256;

use crate::domain::ids::{EventId, IntentId};

use super::client::SecretKey;
use super::intent::{UnreadableObject, check_id, check_kind, is_provider_id};

/// As HTTP servers spell it: in small letters.
pub const SIGNATURE_HEADER: &str = "stripe-signature";

/// The provider's own figure, in both directions: a replay has to come quickly, and two clocks are never the same.
const TOLERANCE_SECONDS: u64 = 300;

/// During a rotation the provider signs with two secrets; a header with more than this is not one of its own.
const SIGNATURES_MAX: usize = 16;

/// Checks signatures against the secrets in force: one, or two while they rotate.
#[derive(Debug, Clone)]
pub struct WebhookVerifier {
    secrets: Vec<SecretKey>,
}

/// What happened at the provider, as far as an event can be believed.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "WireEvent")]
pub struct Event {
    /// The same for every delivery of this event: stored once.
    pub id: EventId,
    /// `payment_intent.succeeded`, `charge.refunded`, and so on, in the provider's words.
    pub kind: String,
    /// When it happened, not when it was sent.
    pub created: Timestamp,
    pub livemode: bool,
    /// `payment_intent`, `charge`, `refund`, `dispute`, and so on.
    pub object: String,
    pub object_id: String,
    /// The intent it is about: the object itself, or the one it names.
    pub intent: Option<IntentId>,
    /// `metadata[order_id]` of the object, as text.
    pub order_id: Option<String>,
}

/// Why a delivery is refused. It names no secret and no expected signature.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum WebhookError {
    #[error("the delivery is not signed as it should be: {0}")]
    Signature(#[from] SignatureError),
    /// Signed by the provider, yet nothing we can read: somebody has to look.
    #[error("the event is signed but cannot be read: {0}")]
    Unreadable(String),
}

/// What is wrong with a signature.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SignatureError {
    #[error("the header {SIGNATURE_HEADER} is missing")]
    Missing,
    #[error("the header {SIGNATURE_HEADER} has {0}")]
    Malformed(&'static str),
    #[error("none of {signatures} signatures fits one of {secrets} secrets")]
    NoMatch { signatures: usize, secrets: usize },
    #[error("it was signed {age_seconds} s ago, over the {TOLERANCE_SECONDS} s that are tolerated")]
    TooOld { age_seconds: u64 },
    #[error("it is signed {ahead_seconds} s ahead of our clock, over the {TOLERANCE_SECONDS} s that are tolerated")]
    TooNew { ahead_seconds: u64 },
}

impl WebhookVerifier {
    /// `None` without a secret, or with an empty one: anybody could sign with that.
    pub fn new(secrets: Vec<SecretKey>) -> Option<Self> {
        let usable = !secrets.is_empty() && secrets.iter().all(|secret| !secret.expose().is_empty());
        usable.then_some(Self { secrets })
    }

    /// Whether the body behind this header may be read at all: the header has the form that the provider gives it, and a
    /// time within the tolerance around `now`. Anybody can write such a header; [`Self::verify`] believes none.
    pub fn check_header(&self, header: Option<&str>, now: Timestamp) -> Result<(), SignatureError> {
        SignedHeader::parse(header.ok_or(SignatureError::Missing)?)?.check_time(now)
    }

    /// The event in `body`, if the provider signed these very bytes within the tolerance around `now`.
    pub fn verify(&self, header: Option<&str>, body: &[u8], now: Timestamp) -> Result<Event, WebhookError> {
        self.check(header, body, now)?;
        serde_json::from_slice(body).map_err(|error| WebhookError::Unreadable(error.to_string()))
    }

    fn check(&self, header: Option<&str>, body: &[u8], now: Timestamp) -> Result<(), SignatureError> {
        let signed = SignedHeader::parse(header.ok_or(SignatureError::Missing)?)?;
        let fits = self.secrets.iter().any(|secret| {
            let mac = mac_of(secret, signed.time_text, body);
            // In constant time: how long a comparison takes says nothing about how much of it was right.
            signed.signatures.iter().any(|signature| mac.clone().verify_slice(signature).is_ok())
        });
        if !fits {
            return Err(SignatureError::NoMatch { signatures: signed.signatures.len(), secrets: self.secrets.len() });
        }
        // After the signature: before it, the time is only what somebody claims.
        signed.check_time(now)
    }
}

struct SignedHeader<'a> {
    /// As it stands in the header, because that is what was signed.
    time_text: &'a str,
    time: i64,
    signatures: Vec<[u8; 32]>,
}

impl<'a> SignedHeader<'a> {
    fn parse(header: &'a str) -> Result<Self, SignatureError> {
        let (mut time_text, mut signatures) = (None, Vec::new());
        for element in header.split(',') {
            match element.trim().split_once('=') {
                Some(("t", text)) if time_text.is_none() => time_text = Some(text),
                Some(("t", _)) => return Err(SignatureError::Malformed("two times")),
                // One that is not a SHA-256 in hexadecimal cannot fit; another one still can.
                Some(("v1", text)) => signatures.extend(decode_hex(text)),
                // `v0` is for the provider's own tests, and later schemes are not ours to judge.
                _ => {}
            }
        }
        let time_text = time_text.ok_or(SignatureError::Malformed("no time"))?;
        let time = time_text.parse().map_err(|_| SignatureError::Malformed("a time that is no number"))?;
        match signatures.len() {
            0 => Err(SignatureError::Malformed("no signature of the scheme v1")),
            1..=SIGNATURES_MAX => Ok(Self { time_text, time, signatures }),
            _ => Err(SignatureError::Malformed("too many signatures")),
        }
    }

    fn check_time(&self, now: Timestamp) -> Result<(), SignatureError> {
        let (now, signed_at) = (now.as_second(), self.time);
        let distance = now.abs_diff(signed_at);
        match distance > TOLERANCE_SECONDS {
            true if signed_at < now => Err(SignatureError::TooOld { age_seconds: distance }),
            true => Err(SignatureError::TooNew { ahead_seconds: distance }),
            false => Ok(()),
        }
    }
}

fn mac_of(secret: &SecretKey, time_text: &str, body: &[u8]) -> Hmac<Sha256> {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret.expose().as_bytes()).expect("HMAC takes keys of any length");
    for part in [time_text.as_bytes(), b".", body] {
        mac.update(part);
    }
    mac
}

fn decode_hex(text: &str) -> Option<[u8; 32]> {
    let digits = text.as_bytes();
    let mut bytes = [0; 32];
    if digits.len() != 2 * bytes.len() {
        return None;
    }
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        let digit = |place: usize| char::from(pair[place]).to_digit(16);
        *byte = u8::try_from(digit(0)? * 16 + digit(1)?).ok()?;
    }
    Some(bytes)
}

#[derive(Deserialize)]
struct WireEvent {
    object: String,
    id: String,
    #[serde(rename = "type")]
    kind: String,
    created: i64,
    livemode: bool,
    data: WireData,
}

#[derive(Deserialize)]
struct WireData {
    object: WireObject,
}

#[derive(Deserialize)]
struct WireObject {
    object: String,
    id: String,
    payment_intent: Option<serde_json::Value>,
    metadata: Option<WireMetadata>,
}

#[derive(Deserialize)]
struct WireMetadata {
    order_id: Option<String>,
}

impl TryFrom<WireEvent> for Event {
    type Error = UnreadableObject;

    fn try_from(wire: WireEvent) -> Result<Self, UnreadableObject> {
        check_kind(wire.object, "event")?;
        check_id(&wire.id)?;
        let object = wire.data.object;
        check_id(&object.id)?;
        let intent = match object.object.as_str() {
            "payment_intent" => Some(object.id.clone()),
            // Events of kinds we never use may carry anything here; those we use carry the id as text.
            _ => object.payment_intent.and_then(|named| named.as_str().map(str::to_owned)),
        };
        Ok(Self {
            id: EventId(wire.id),
            kind: wire.kind,
            created: Timestamp::from_second(wire.created)?,
            livemode: wire.livemode,
            object: object.object,
            object_id: object.id,
            intent: intent.filter(|id| is_provider_id(id)).map(IntentId),
            order_id: object.metadata.and_then(|metadata| metadata.order_id),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    // Computed apart from this program, by Python's hmac, over `1795773600.` and BODY.
    const SIGNED_AT: &str = "2026-11-27T10:00:00Z";
    const OLD_SECRET: &str = "whsec_golden_1";
    const NEW_SECRET: &str = "whsec_golden_2";
    const BY_OLD: &str = "3a04328d4d869fcd191c7e4d979c9fcb4b14e4dc0022a8470e793b791803b8f1";
    const BY_NEW: &str = "dd4017872abcbe81c7c806f76f0f9cdac0f960f7676aff8b97d454c8f63221f4";
    const BODY: &str = r#"{"id":"evt_1","object":"event","type":"charge.refunded","created":1795773598,"livemode":false,
        "data":{"object":{"id":"ch_1","object":"charge","payment_intent":"pi_1","metadata":{"order_id":"o-1"}}}}"#;

    fn check(header: &str, body: &str, seconds_later: i64) -> Result<Event, WebhookError> {
        let now: Timestamp = SIGNED_AT.parse().unwrap();
        let now = Timestamp::from_second(now.as_second() + seconds_later).unwrap();
        verifier(&[OLD_SECRET, NEW_SECRET]).verify(Some(header), body.as_bytes(), now)
    }

    fn verifier(secrets: &[&str]) -> WebhookVerifier {
        WebhookVerifier::new(secrets.iter().map(|secret| SecretKey::from((*secret).to_owned())).collect()).unwrap()
    }

    fn header(signatures: &[&str]) -> String {
        let signatures: String = signatures.iter().map(|signature| format!(",v1={signature}")).collect();
        format!("t=1795773600{signatures}")
    }

    #[test]
    fn golden_signatures_of_either_secret_are_accepted_wherever_they_stand() {
        let wrong = "0".repeat(64);
        for signatures in [
            &[BY_OLD][..],
            &[BY_NEW],
            &[BY_OLD, BY_NEW],
            &[&wrong, BY_NEW],
            &[BY_NEW, &wrong],
            &["not hexadecimal", &wrong, BY_OLD],
            &[&BY_OLD.to_uppercase()],
        ] {
            assert!(check(&header(signatures), BODY, 0).is_ok(), "{signatures:?}");
        }
        assert!(check(&format!("v0=abc, t=1795773600, v2=x, v1={BY_NEW}"), BODY, 0).is_ok());
    }

    #[test]
    fn the_event_says_what_it_is_about() {
        let event = check(&header(&[BY_NEW]), BODY, 0).unwrap();
        assert_eq!((event.id.0.as_str(), event.kind.as_str()), ("evt_1", "charge.refunded"));
        assert_eq!((event.object.as_str(), event.object_id.as_str()), ("charge", "ch_1"));
        assert_eq!(event.intent, Some(IntentId("pi_1".to_owned())));
        assert_eq!(event.order_id.as_deref(), Some("o-1"));
        assert_eq!(event.created.to_string(), "2026-11-27T09:59:58Z");
        assert!(!event.livemode);
    }

    #[test]
    fn a_forged_changed_or_unsigned_delivery_is_refused() {
        use SignatureError::{Malformed, Missing, NoMatch};
        let good = header(&[BY_NEW]);
        let no_match = |signatures| NoMatch { signatures, secrets: 2 };
        let no_v1 = Malformed("no signature of the scheme v1");
        let changed = BODY.replace("ch_1", "ch_2");
        let table: &[(&str, &str, SignatureError)] = &[
            (&good, &changed, no_match(1)),
            (&good, &format!("{BODY} "), no_match(1)),
            (&good, "", no_match(1)),
            (&good.replace("1795773600", "1795773601"), BODY, no_match(1)),
            (&good.replace("1795773600", "+1795773600"), BODY, no_match(1)),
            (&header(&[&"0".repeat(64), &"f".repeat(64)]), BODY, no_match(2)),
            (&good.replace("v1=", "v0="), BODY, no_v1.clone()),
            (&header(&[&BY_NEW[..63]]), BODY, no_v1.clone()),
            (&header(&[""]), BODY, no_v1.clone()),
            ("t=1795773600", BODY, no_v1),
            (&good.replace("t=", "u="), BODY, Malformed("no time")),
            (&good.replace("1795773600", "now"), BODY, Malformed("a time that is no number")),
            (&good.replace("1795773600", "99999999999999999999"), BODY, Malformed("a time that is no number")),
            (&format!("t=1,{good}"), BODY, Malformed("two times")),
            (&header(&[BY_NEW; 17]), BODY, Malformed("too many signatures")),
            ("", BODY, Malformed("no time")),
        ];
        for (header, body, error) in table {
            assert_eq!(check(header, body, 0), Err(error.clone().into()), "{header}");
        }
        let unsigned = verifier(&[NEW_SECRET]).verify(None, BODY.as_bytes(), SIGNED_AT.parse().unwrap());
        assert_eq!(unsigned, Err(Missing.into()));
        let rotated_out =
            verifier(&["whsec_golden_3"]).verify(Some(&good), BODY.as_bytes(), SIGNED_AT.parse().unwrap());
        assert_eq!(rotated_out, Err(NoMatch { signatures: 1, secrets: 1 }.into()));
    }

    #[test]
    fn a_header_is_worth_a_body_when_its_form_and_its_time_are_right() {
        use SignatureError::{Malformed, Missing, TooNew, TooOld};
        let (forged, no_v1) = (header(&[&"0".repeat(64)]), Malformed("no signature of the scheme v1"));
        let table = [
            (Some(forged.as_str()), 0, Ok(())),
            (Some(&forged), 300, Ok(())),
            (Some(&forged), -300, Ok(())),
            (Some(&forged), 301, Err(TooOld { age_seconds: 301 })),
            (Some(&forged), -301, Err(TooNew { ahead_seconds: 301 })),
            (Some("t=1795773600,v1=00"), 0, Err(no_v1)),
            (Some("v1=00"), 0, Err(Malformed("no time"))),
            (None, 0, Err(Missing)),
        ];
        let signed_at: Timestamp = SIGNED_AT.parse().unwrap();
        for (header, seconds_later, expected) in table {
            let now = Timestamp::from_second(signed_at.as_second() + seconds_later).unwrap();
            assert_eq!(verifier(&[NEW_SECRET]).check_header(header, now), expected, "{header:?} {seconds_later}");
        }
    }

    #[test]
    fn three_hundred_seconds_are_tolerated_in_both_directions() {
        let good = header(&[BY_NEW]);
        for seconds in [-300, 0, 300] {
            assert!(check(&good, BODY, seconds).is_ok(), "{seconds}");
        }
        assert_eq!(check(&good, BODY, 301), Err(SignatureError::TooOld { age_seconds: 301 }.into()));
        assert_eq!(check(&good, BODY, -301), Err(SignatureError::TooNew { ahead_seconds: 301 }.into()));
        // What is not signed is told nothing about the clock.
        let forged = header(&[&"0".repeat(64)]);
        assert!(matches!(check(&forged, BODY, 301), Err(WebhookError::Signature(SignatureError::NoMatch { .. }))));
    }

    #[test]
    fn signed_bytes_that_are_no_event_are_unreadable_and_not_a_wrong_signature() {
        // Signed here: whether the signature is computed rightly is the golden vectors' to say.
        let signed = |body: &str| {
            let mac = mac_of(&SecretKey::from(NEW_SECRET.to_owned()), "1795773600", body.as_bytes());
            let signature = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect::<String>();
            check(&header(&[&signature]), body, 0)
        };
        assert!(signed(BODY).is_ok());
        for body in [
            "",
            "{}",
            "\u{0}",
            &BODY.replace("\"event\"", "\"charge\""),
            &BODY.replace("evt_1", "evt 1"),
            &BODY.replace("ch_1", "ch/1"),
            &BODY.replace("\"livemode\":false,", ""),
        ] {
            assert!(matches!(signed(body), Err(WebhookError::Unreadable(_))), "{body}");
        }
        // Another kind of object may carry what it likes where ours carry an intent's id.
        let other = signed(&BODY.replace("\"pi_1\"", "{\"id\":1}")).unwrap();
        assert_eq!(other.intent, None);
    }

    #[test]
    fn without_a_usable_secret_there_is_no_verifier() {
        assert!(WebhookVerifier::new(Vec::new()).is_none());
        assert!(WebhookVerifier::new(vec![NEW_SECRET.to_owned().into(), String::new().into()]).is_none());
    }
}
