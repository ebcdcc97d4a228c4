//! The buyers' side of the HTTP contract: one request, and what its answer means.
//!
//! It must never take silence for a refusal: what was not answered in full is [`CallOutcome::Unknown`].

use std::time::Duration;

use rand::RngExt as _;
use rand::rngs::StdRng;
use reqwest::header::RETRY_AFTER;
use reqwest::{Client, RequestBuilder, Response, StatusCode};
use serde::Deserialize;
use serde_json::json;

use super::log::CallOutcome;
use super::plan::Buyer;
use super::{CrowdOptions, Mint};

/// Waits without a Retry-After double from here …
const BACKOFF_FIRST: Duration = Duration::from_millis(50);
/// … to here: ten tries span 0.05 + 0.1 + … + 1.6 + 2 + 2 + 2 = 9 s, in which a gateway has restarted.
const BACKOFF_MAX: Duration = Duration::from_secs(2);
/// A Retry-After beyond this is cut: nobody waits a minute before a shop window.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(5);

/// A shop that many buyers call over kept-alive connections.
pub(super) struct Shop {
    http: Client,
    profile_url: String,
    claims_url: String,
    mint: Mint,
}

pub(super) struct Answer {
    pub(super) outcome: CallOutcome,
    pub(super) retry_after: Option<Duration>,
}

pub(super) struct ProfileFailure {
    pub(super) reason: String,
    pub(super) is_final: bool,
    pub(super) retry_after: Option<Duration>,
}

/// A claim that is ready to be sent.
pub(super) struct ClaimRequest(RequestBuilder);

#[derive(Deserialize)]
struct Accepted {
    claim_id: String,
    serials: Vec<u32>,
}

#[derive(Default, Deserialize)]
struct Problem {
    #[serde(default)]
    code: String,
    #[serde(default)]
    available: u32,
}

impl Shop {
    pub(super) fn new(options: &CrowdOptions) -> reqwest::Result<Self> {
        let http = Client::builder()
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .no_proxy()
            .pool_max_idle_per_host(options.connections)
            .timeout(options.answer_timeout)
            .build()?;
        let base_url = options.base_url.trim_end_matches('/');
        Ok(Self {
            http,
            profile_url: format!("{base_url}/v1/me/checkout-profile"),
            claims_url: format!("{base_url}/v1/drops/{}/claims", options.drop),
            mint: options.mint.clone(),
        })
    }

    pub(super) async fn save_profile(&self, buyer: &Buyer) -> Result<(), ProfileFailure> {
        let request = self.http.put(&self.profile_url).bearer_auth((self.mint)(&buyer.id)).json(&buyer.profile);
        let answer = request.send().await.map_err(|error| ProfileFailure {
            reason: sentence(&error),
            is_final: false,
            retry_after: None,
        })?;
        let (status, retry_after) = (answer.status(), retry_after(&answer));
        let body = answer.text().await.unwrap_or_default();
        if status.is_success() {
            return Ok(());
        }
        let is_final = status.is_client_error() && status != StatusCode::TOO_MANY_REQUESTS;
        Err(ProfileFailure { reason: format!("{status} {body}"), is_final, retry_after })
    }

    pub(super) fn claim(&self, buyer: &Buyer) -> ClaimRequest {
        let request = self.http.post(&self.claims_url).bearer_auth((self.mint)(&buyer.id));
        let body = json!({ "sku": buyer.sku, "quantity": buyer.quantity });
        ClaimRequest(request.header("Idempotency-Key", &buyer.key).json(&body))
    }
}

impl ClaimRequest {
    pub(super) async fn send(self) -> Answer {
        let response = match self.0.send().await {
            Ok(response) => response,
            Err(error) => return Answer { outcome: CallOutcome::Unknown(sentence(&error)), retry_after: None },
        };
        let retry_after = retry_after(&response);
        let status = response.status();
        let replayed = response.headers().get("Idempotent-Replayed").is_some_and(|value| value == "true");
        let outcome = match response.bytes().await {
            Ok(body) => read_outcome(status.as_u16(), replayed, &body),
            // A status without its body is half an answer, and a refusal is decided by its code.
            Err(error) => CallOutcome::Unknown(format!("{status}, then {}", sentence(&error))),
        };
        Answer { outcome, retry_after }
    }
}

/// How long to wait before the same key is sent again.
pub(super) fn wait_before_retry(retry_after: Option<Duration>, tries: u32, chance: &mut StdRng) -> Duration {
    let doubled = BACKOFF_FIRST.saturating_mul(1 << (tries - 1).min(16)).min(BACKOFF_MAX);
    // Not before the time we were told, nor all at that time.
    match retry_after {
        Some(told) => told.min(RETRY_AFTER_MAX) + doubled.mul_f64(chance.random()),
        None => doubled.mul_f64(chance.random_range(0.5..1.5)),
    }
}

/// What an answer to a claim means. `replayed` is what its header says.
pub fn read_outcome(status: u16, replayed: bool, body: &[u8]) -> CallOutcome {
    if matches!(status, 200 | 201) {
        return match serde_json::from_slice(body) {
            Ok(Accepted { claim_id, serials }) => CallOutcome::Accepted { claim_id, serials, replayed },
            Err(error) => CallOutcome::Unknown(format!("{status} with a body that is no claim: {error}")),
        };
    }
    let problem: Problem = serde_json::from_slice(body).unwrap_or_default();
    match (status, problem.code.as_str()) {
        (202, _) => CallOutcome::Unknown("202: the shop does not know yet".to_owned()),
        (429 | 503, _) => CallOutcome::Overloaded,
        (409, "sold_out") => CallOutcome::SoldOut,
        (409, "not_enough") => CallOutcome::NotEnough { available: problem.available },
        (409, "limit_exceeded") => CallOutcome::LimitExceeded,
        (409, "not_open" | "paused") => CallOutcome::NotOpen,
        (409, "claim_released") => CallOutcome::Released,
        (410, _) => CallOutcome::Closed,
        (422, "key_reused") => CallOutcome::KeyReused,
        (status, _) => CallOutcome::Error { status, code: problem.code },
    }
}

pub(super) fn retry_after(response: &Response) -> Option<Duration> {
    let seconds = response.headers().get(RETRY_AFTER)?.to_str().ok()?.parse().ok()?;
    Some(Duration::from_secs(seconds))
}

/// reqwest says what it did; why it failed is in the sources.
pub(super) fn sentence(error: &reqwest::Error) -> String {
    let mut sentence = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        sentence = format!("{sentence}: {cause}");
        source = cause.source();
    }
    sentence
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_answer_of_the_contract_has_its_outcome() {
        let table = [
            (409, r#"{"code":"sold_out"}"#, CallOutcome::SoldOut),
            (409, r#"{"code":"not_enough","available":2}"#, CallOutcome::NotEnough { available: 2 }),
            (409, r#"{"code":"limit_exceeded"}"#, CallOutcome::LimitExceeded),
            (409, r#"{"code":"not_open"}"#, CallOutcome::NotOpen),
            (409, r#"{"code":"claim_released"}"#, CallOutcome::Released),
            (410, r#"{"code":"closed"}"#, CallOutcome::Closed),
            (422, r#"{"code":"key_reused"}"#, CallOutcome::KeyReused),
            (422, r#"{"code":"bad_sku"}"#, CallOutcome::Error { status: 422, code: "bad_sku".to_owned() }),
            (429, "", CallOutcome::Overloaded),
            (503, r#"{"code":"fenced"}"#, CallOutcome::Overloaded),
            (500, "oops", CallOutcome::Error { status: 500, code: String::new() }),
        ];
        for (status, body, expected) in table {
            assert_eq!(read_outcome(status, false, body.as_bytes()), expected, "{status} {body}");
        }
        let accepted = br#"{"claim_id":"c","serials":[4,5],"sku":"s"}"#;
        let expected = CallOutcome::Accepted { claim_id: "c".to_owned(), serials: vec![4, 5], replayed: true };
        assert_eq!(read_outcome(201, true, accepted), expected);
        // A claim that cannot be read may still have been taken.
        assert!(matches!(read_outcome(201, false, b"{}"), CallOutcome::Unknown(_)));
        assert!(matches!(read_outcome(202, false, b"{}"), CallOutcome::Unknown(_)));
    }
}
