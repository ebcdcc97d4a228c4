//! What a result proves. A pure function of status, headers and body; the client adds what happened without an answer.
//!
//! The rule behind the table: `Declined`, `Rejected` and `NotSent` free the order for something else, so they need
//! proof. Proof is an error object written by the provider itself; a bare 400 or 402 may come from something in
//! between, after the request went through. Everything that is not proven is `Unknown`: read the intent back.

use std::time::Duration;

use reqwest::StatusCode;
use reqwest::header::{HeaderMap, RETRY_AFTER};
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::intent::Intent;

/// The result of one request that is answered by a `T`: an intent, or a [`Refund`](super::Refund).
#[must_use = "every result moves the attempt to another state"]
#[derive(Debug, Clone, PartialEq, Eq)]
#[expect(clippy::large_enum_variant, reason = "an outcome lives as long as one call, and there are as many as calls")]
pub enum Outcome<T = Intent> {
    /// The provider carried it out, now or when the key was first seen. Success is in the intent's status, and only for
    /// the intent, order and amount we asked about: settling compares them.
    Answered(T),
    Declined(Decline),
    /// Proven: no byte reached the provider. The same key again, after a pause.
    NotSent {
        reason: String,
    },
    /// It may have been carried out, may still be, or may never be. Read the intent back; never a new key.
    Unknown {
        reason: String,
    },
    /// Not carried out. `None` when the provider did not say how long to wait.
    RateLimited {
        retry_after: Option<Duration>,
    },
    /// The provider will not carry this out, however often it is repeated. The intent may still have moved under
    /// another key (`payment_intent_unexpected_state`), so this says nothing about the money.
    Rejected {
        code: String,
        message: String,
    },
    /// Our credential is wrong: no request can pass until somebody corrects it.
    Misconfigured {
        status: u16,
    },
}

/// The buyer's bank said no; the intent is open for another payment method.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decline {
    pub code: String,
    pub decline_code: Option<String>,
    pub message: String,
    /// The intent after the decline, when the answer carried a readable one.
    pub intent: Option<Intent>,
}

/// What an answer proves.
pub fn classify<T: DeserializeOwned>(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> Outcome<T> {
    match status.as_u16() {
        200 => match serde_json::from_slice(body) {
            Ok(object) => Outcome::Answered(object),
            Err(error) => unknown(format!("200 without a readable object: {error}")),
        },
        401 | 403 => Outcome::Misconfigured { status: status.as_u16() },
        402 => match serde_json::from_slice::<WireAnswer>(body) {
            Ok(WireAnswer { error }) => Outcome::Declined(error.into_decline()),
            Err(error) => unknown(format!("402 without a readable error: {error}")),
        },
        429 => Outcome::RateLimited { retry_after: retry_after(headers) },
        // In use by a running request (409), timed out (408), not attempted yet (425), failed further behind (424).
        408 | 409 | 424 | 425 => unknown(format!("the provider answered {status}")),
        400..=499 => match serde_json::from_slice::<WireAnswer>(body) {
            Ok(WireAnswer { error }) => {
                Outcome::Rejected { code: error.code.unwrap_or(error.kind), message: error.message }
            }
            Err(error) => unknown(format!("{status} without a readable error: {error}")),
        },
        _ => unknown(format!("the provider answered {status}")),
    }
}

#[derive(Deserialize)]
struct WireAnswer {
    error: WireError,
}

#[derive(Deserialize)]
struct WireError {
    #[serde(rename = "type")]
    kind: String,
    code: Option<String>,
    decline_code: Option<String>,
    #[serde(default)]
    message: String,
    payment_intent: Option<serde_json::Value>,
}

impl WireError {
    fn into_decline(self) -> Decline {
        Decline {
            code: self.code.unwrap_or(self.kind),
            decline_code: self.decline_code,
            message: self.message,
            // The refusal stands without it; a half-read intent would be worse than none.
            intent: self.payment_intent.and_then(|object| serde_json::from_value(object).ok()),
        }
    }
}

fn unknown<T>(reason: String) -> Outcome<T> {
    Outcome::Unknown { reason }
}

/// Seconds only: the provider sends no dates.
fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    headers.get(RETRY_AFTER)?.to_str().ok()?.trim().parse().ok().map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::provider::IntentStatus;

    const INTENT: &str = r#"{"object":"payment_intent","id":"pi_1","status":"succeeded","amount":14900,
        "amount_received":14900,"currency":"eur","metadata":{"order_id":"o-1"},"livemode":false,
        "latest_charge":"ch_1","last_payment_error":null,"created":1795773600}"#;

    fn class(status: u16, body: &str) -> String {
        let outcome: Outcome = classify(StatusCode::from_u16(status).unwrap(), &HeaderMap::new(), body.as_bytes());
        format!("{outcome:?}").split([' ', '(', '{']).next().unwrap().to_owned()
    }

    #[test]
    fn only_an_answer_written_by_the_provider_is_more_than_unknown() {
        let error = |kind| format!(r#"{{"error":{{"type":"{kind}","message":"no"}}}}"#);
        let invalid = error("invalid_request_error");
        let table: &[(u16, &str, &str)] = &[
            (200, INTENT, "Answered"),
            (200, "", "Unknown"),
            (200, "<html>", "Unknown"),
            (200, &INTENT[..INTENT.len() - 1], "Unknown"),
            (200, &INTENT.replace("payment_intent", "charge"), "Unknown"),
            (200, &INTENT.replace("\"eur\"", "\"euro\""), "Unknown"),
            (200, &INTENT.replace("14900", "-1"), "Unknown"),
            (200, &INTENT.replace("14900", "149.00"), "Unknown"),
            (200, &INTENT.replace("pi_1", "pi_1/cancel?"), "Unknown"),
            (200, &INTENT.replace("\"livemode\":false,", ""), "Unknown"),
            (201, INTENT, "Unknown"),
            (302, INTENT, "Unknown"),
            (400, &invalid, "Rejected"),
            (400, &error("idempotency_error"), "Rejected"),
            (400, "<html>Bad Request", "Unknown"),
            (401, "", "Misconfigured"),
            (402, &error("card_error"), "Declined"),
            (402, "<html>Payment Required", "Unknown"),
            (403, &invalid, "Misconfigured"),
            (404, &invalid, "Rejected"),
            (404, "<html>", "Unknown"),
            (408, &invalid, "Unknown"),
            (409, &error("idempotency_error"), "Unknown"),
            (424, &invalid, "Unknown"),
            (429, &invalid, "RateLimited"),
            (500, &error("api_error"), "Unknown"),
            (500, INTENT, "Unknown"),
            (502, "", "Unknown"),
            (503, "", "Unknown"),
            (504, "", "Unknown"),
        ];
        for (status, body, expected) in table {
            assert_eq!(class(*status, body), *expected, "{status} {body}");
        }
    }

    #[test]
    fn an_intent_is_read_whole() {
        let Outcome::<Intent>::Answered(intent) = classify(StatusCode::OK, &HeaderMap::new(), INTENT.as_bytes()) else {
            panic!("a complete intent is an answer");
        };
        assert_eq!(intent.id.0, "pi_1");
        assert_eq!(intent.status, IntentStatus::Succeeded);
        assert_eq!(intent.amount.to_string(), "149.00 EUR");
        assert_eq!(intent.amount_received, intent.amount);
        assert_eq!(intent.order_id.as_deref(), Some("o-1"));
        assert_eq!(intent.latest_charge.as_deref(), Some("ch_1"));

        let other = INTENT.replace("succeeded", "requires_patience");
        let Outcome::<Intent>::Answered(intent) = classify(StatusCode::OK, &HeaderMap::new(), other.as_bytes()) else {
            panic!("an unknown status is still an answer");
        };
        assert_eq!(intent.status, IntentStatus::Other("requires_patience".to_owned()));
    }

    #[test]
    fn a_failed_payment_whose_error_has_no_code_has_failed_all_the_same() {
        for (error, name) in [
            ("null", None),
            (r#"{"code":"card_declined"}"#, Some("card_declined")),
            (r#"{"code":null,"decline_code":"fraudulent"}"#, Some("fraudulent")),
            (r#"{"type":"card_error"}"#, Some("card_error")),
            ("{}", Some("declined")),
        ] {
            let body = INTENT.replace(r#""last_payment_error":null"#, &format!(r#""last_payment_error":{error}"#));
            let outcome: Outcome = classify(StatusCode::OK, &HeaderMap::new(), body.as_bytes());
            let Outcome::Answered(intent) = outcome else { panic!("{error}: {outcome:?}") };
            assert_eq!(intent.last_payment_error.as_deref(), name, "{error}");
        }
    }

    #[test]
    fn a_decline_keeps_the_codes_and_stands_without_its_intent() {
        let body = |intent: &str| {
            format!(
                r#"{{"error":{{"type":"card_error","code":"card_declined","decline_code":"generic_decline",
                "message":"Your card was declined.","payment_intent":{intent}}}}}"#
            )
        };
        for (intent, carried) in [(INTENT, true), ("{}", false), ("null", false)] {
            let outcome: Outcome = classify(StatusCode::PAYMENT_REQUIRED, &HeaderMap::new(), body(intent).as_bytes());
            let Outcome::Declined(decline) = outcome else { panic!("402 with an error is a decline: {outcome:?}") };
            assert_eq!(decline.code, "card_declined");
            assert_eq!(decline.decline_code.as_deref(), Some("generic_decline"));
            assert_eq!(decline.intent.is_some(), carried);
        }
    }

    #[test]
    fn retry_after_is_read_in_seconds_and_optional() {
        for (header, expected) in [("7", Some(Duration::from_secs(7))), ("soon", None)] {
            let headers = HeaderMap::from_iter([(RETRY_AFTER, header.parse().unwrap())]);
            let outcome: Outcome = classify(StatusCode::TOO_MANY_REQUESTS, &headers, b"");
            assert_eq!(outcome, Outcome::RateLimited { retry_after: expected });
        }
    }
}
