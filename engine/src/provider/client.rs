//! One HTTP round trip per call, with no retry, no redirect and no proxy from the environment.
//!
//! A future of `send` that is dropped half way leaves an unknown result behind, like a timeout does.

use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use reqwest::header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderName, HeaderValue};
use reqwest::{RequestBuilder, StatusCode};
use serde::de::DeserializeOwned;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::outcome::{Outcome, classify};
use super::refund::Refund;
use super::request::{Format, INTENTS_PATH, Operation, ProviderRequest};
use super::throttle::{Admits, Endpoint, NoTurn, RateLimit, Throttle, Turn};

const VERSION_HEADER: HeaderName = HeaderName::from_static("stripe-version");
/// The version in which we read, whatever we write in: without one the account's own setting would choose.
const READ_VERSION: &str = Format::First.api_version();

/// A page of 100 intents is about 300 KiB; an answer over this is not one of ours, and memory is ours.
const ANSWER_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Shorter than the 60 s and more after which servers drop idle connections: a request written into a connection
/// that is just being closed has an unknown outcome, and each costs a read back.
const IDLE_CONNECTION: Duration = Duration::from_secs(20);

/// 25 requests a second of up to 2 s each keep 50 connections busy.
const IDLE_CONNECTIONS_MAX: usize = 64;

/// A credential: it cannot be printed.
#[derive(Clone)]
pub struct SecretKey(String);

/// How to reach the provider.
#[derive(Debug, Clone)]
pub struct ProviderSettings {
    /// `https://api.stripe.com`, or a fake one's address.
    pub base_url: String,
    pub secret_key: SecretKey,
    /// Bounds name lookup, TCP and TLS; when it runs out, nothing was sent. Must be below `answer_timeout`.
    pub connect_timeout: Duration,
    /// Bounds the whole call, from waiting for a connection to the last byte of the answer.
    pub answer_timeout: Duration,
}

/// The provider's client. Cloning shares the connections, the limit and the circuit.
#[derive(Debug, Clone)]
pub struct ProviderClient {
    http: reqwest::Client,
    base_url: String,
    is_live: bool,
    throttle: Arc<Throttle>,
    /// From then on there are no more turns.
    stop: CancellationToken,
}

/// Why something could not be read. Reading changes nothing, so every error may be tried again later; see
/// `is_retryable` for those that may pass by themselves.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProviderError {
    #[error("the provider's settings are wrong: {0}")]
    Settings(String),
    #[error("the provider could not be asked: {0}")]
    Unreachable(String),
    #[error("the provider asks us to slow down")]
    RateLimited { retry_after: Option<Duration> },
    #[error("the provider knows no such object")]
    NotFound,
    #[error("the provider refused: {code}: {message}")]
    Rejected { code: String, message: String },
    #[error("the provider refused our credential with {status}")]
    Misconfigured { status: u16 },
    #[error("the provider's answer cannot be read: {0}")]
    Unreadable(String),
    #[error(transparent)]
    NotAsked(#[from] NoTurn),
}

impl ProviderError {
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::RateLimited { .. } | Self::NotAsked(_))
    }
}

impl SecretKey {
    pub(super) fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for SecretKey {
    fn from(key: String) -> Self {
        Self(key)
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey(redacted)")
    }
}

impl ProviderClient {
    pub fn new(settings: ProviderSettings) -> Result<Self, ProviderError> {
        let wrong = |what: &str| ProviderError::Settings(what.to_owned());
        let url = reqwest::Url::parse(&settings.base_url).map_err(|_| wrong("base_url is not a URL"))?;
        if !matches!(url.scheme(), "http" | "https") || url.query().is_some() || url.fragment().is_some() {
            return Err(wrong("base_url must be http or https, without query and fragment"));
        }
        if url.scheme() == "http" && !is_this_machine(&url) {
            return Err(wrong(
                "base_url is http:// to another machine: our key would be read on the way; use https://",
            ));
        }
        if settings.connect_timeout >= settings.answer_timeout {
            // Otherwise a connection that never stood would be reported as unknown instead of not sent.
            return Err(wrong("connect_timeout must be below answer_timeout"));
        }
        let mut authorization = HeaderValue::try_from(format!("Bearer {}", settings.secret_key.0))
            .map_err(|_| wrong("secret_key has characters that no header can carry"))?;
        authorization.set_sensitive(true);
        let headers = HeaderMap::from_iter([
            (AUTHORIZATION, authorization),
            (VERSION_HEADER, HeaderValue::from_static(READ_VERSION)),
        ]);
        let http = reqwest::Client::builder()
            .default_headers(headers)
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .no_proxy()
            .connect_timeout(settings.connect_timeout)
            .timeout(settings.answer_timeout)
            .pool_idle_timeout(IDLE_CONNECTION)
            .pool_max_idle_per_host(IDLE_CONNECTIONS_MAX)
            .build()
            .map_err(|error| ProviderError::Settings(chain(&error)))?;
        let is_live = settings.secret_key.0.contains("_live_");
        let base_url = settings.base_url.trim_end_matches('/').to_owned();
        let throttle = Arc::new(Throttle::new(RateLimit::default()));
        Ok(Self { http, base_url, is_live, throttle, stop: CancellationToken::new() })
    }

    /// The same client with a limit, and a circuit, of its own.
    pub fn limited_to(mut self, limit: RateLimit) -> Self {
        self.throttle = Arc::new(Throttle::new(limit));
        self
    }

    /// The same, with another pause between the probes of an open circuit: a minute is long for a test.
    pub fn probed_every(mut self, pause: Duration) -> Self {
        self.throttle = Arc::new(Throttle::new(self.limit()).probed_every(pause));
        self
    }

    /// The same client for a worker: once it is told to stop, nothing waits for a turn any more. Calls under way go on.
    pub fn until(&self, stop: &CancellationToken) -> Self {
        Self { stop: stop.clone(), ..self.clone() }
    }

    pub fn is_stopping(&self) -> bool {
        self.stop.is_cancelled()
    }

    pub fn limit(&self) -> RateLimit {
        self.throttle.limit()
    }

    /// Whether the circuit lets payments be leased.
    pub fn admits(&self) -> Admits {
        self.throttle.admits()
    }

    /// The right to make one call: waits for the limit, but neither for a credential nor past the end of its worker.
    pub async fn turn(&self, endpoint: Endpoint) -> Result<Turn, NoTurn> {
        self.stop.run_until_cancelled(self.throttle.turn(endpoint)).await.unwrap_or(Err(NoTurn::Stopping))
    }

    /// Whether a charge waits for its turn just now.
    pub fn has_charges_waiting(&self) -> bool {
        self.throttle.has_charges_waiting()
    }

    /// The same, once no charge waits for its own.
    pub async fn turn_behind_charges(&self, endpoint: Endpoint) -> Result<Turn, NoTurn> {
        let turn = self.throttle.turn_behind_charges(endpoint);
        self.stop.run_until_cancelled(turn).await.unwrap_or(Err(NoTurn::Stopping))
    }

    /// Asks, once a minute while the circuit is open, whether our credential is good again. Moves no money.
    pub async fn probe_if_due(&self) {
        if !self.throttle.takes_probe(Instant::now()) {
            return;
        }
        let call = self.http.get(format!("{}{INTENTS_PATH}", self.base_url)).query(&[("limit", "1")]);
        match exchange(call).await {
            Ok(answer) if answer.status == StatusCode::OK => {
                tracing::info!("the payment provider takes our credential again: one payment goes first");
                self.throttle.probe_passed();
            }
            Ok(answer) => {
                let status = answer.status.as_u16();
                tracing::error!(status, "the payment provider still answers {status} to our credential: check the key");
            }
            // Away says nothing about the credential.
            Err(_) => {}
        }
    }

    /// Whether our key moves real money, as its prefix says: an intent of the other mode is not ours.
    pub fn is_live(&self) -> bool {
        self.is_live
    }

    /// Sends these bytes once, when it is their turn.
    pub async fn send(&self, request: &ProviderRequest) -> Outcome {
        match self.turn(request.operation.endpoint()).await {
            Ok(turn) => self.send_in_turn(request, turn).await,
            Err(why) => Outcome::NotSent { reason: why.to_string() },
        }
    }

    /// Sends these bytes once. The attempt must be committed as dispatched before.
    pub async fn send_in_turn(&self, request: &ProviderRequest, turn: Turn) -> Outcome {
        assert!(request.operation != Operation::Refund, "a refund is answered by a refund: use send_refund");
        self.post(request, turn).await
    }

    /// Sends these bytes once, when it is their turn. `Answered` is not yet success: see
    /// [`RefundStatus`](super::RefundStatus).
    pub async fn send_refund(&self, request: &ProviderRequest) -> Outcome<Refund> {
        match self.turn(Endpoint::Refund).await {
            Ok(turn) => self.send_refund_in_turn(request, turn).await,
            Err(why) => Outcome::NotSent { reason: why.to_string() },
        }
    }

    /// The same. The refund must be committed as dispatched before.
    pub async fn send_refund_in_turn(&self, request: &ProviderRequest, turn: Turn) -> Outcome<Refund> {
        assert!(request.operation == Operation::Refund, "{:?} is answered by an intent: use send", request.operation);
        self.post(request, turn).await
    }

    /// Sends what is about a customer or a card, once.
    pub async fn send_card_in_turn<T: DeserializeOwned>(&self, request: &ProviderRequest, turn: Turn) -> Outcome<T> {
        let is_about_cards = matches!(request.operation, Operation::Customer | Operation::Card);
        assert!(is_about_cards, "{:?} is about money: use send", request.operation);
        self.post(request, turn).await
    }

    /// Deletes an object. The same each time: the second is told that there is none.
    pub(super) async fn delete<T: DeserializeOwned>(&self, path: &str) -> Outcome<T> {
        match self.turn_behind_charges(Endpoint::Customer).await {
            Ok(turn) => self.conclude(turn, exchange(self.http.delete(format!("{}{path}", self.base_url))).await),
            Err(why) => Outcome::NotSent { reason: why.to_string() },
        }
    }

    async fn post<T: DeserializeOwned>(&self, request: &ProviderRequest, turn: Turn) -> Outcome<T> {
        let call = self
            .http
            .post(format!("{}{}", self.base_url, request.path))
            .header("idempotency-key", &request.idempotency_key)
            .header(VERSION_HEADER, request.format.api_version())
            .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
            .body(request.body.clone());
        self.conclude(turn, exchange(call).await)
    }

    /// What an answer, or its absence, proves; the limit and the circuit learn of it.
    fn conclude<T: DeserializeOwned>(&self, turn: Turn, answer: Result<Answer, WithoutAnswer>) -> Outcome<T> {
        let outcome = match answer {
            Ok(answer) => classify(answer.status, &answer.headers, &answer.body),
            Err(without) => without.into(),
        };
        self.learn(turn.endpoint, &outcome);
        if matches!(outcome, Outcome::Answered(_) | Outcome::Declined(_) | Outcome::Rejected { .. })
            && self.throttle.passed()
        {
            tracing::info!("the circuit is closed: the payment provider takes our calls");
        }
        outcome
    }

    /// The limit and the circuit follow what the provider answers, whoever asked.
    fn learn<T>(&self, endpoint: Endpoint, outcome: &Outcome<T>) {
        match outcome {
            Outcome::RateLimited { retry_after } => {
                let rest = self.throttle.slow(endpoint, *retry_after);
                tracing::warn!(
                    ?endpoint,
                    ?rest,
                    "the payment provider asks us to slow down: {endpoint:?} rests {rest:?}"
                );
            }
            Outcome::Misconfigured { status } if self.throttle.open(Instant::now()) => {
                tracing::error!(
                    status,
                    "the circuit is open: the payment provider refuses our credential with {status}; check the secret key"
                );
            }
            _ => {}
        }
    }

    /// One page or object. `path` is one of ours; values are escaped.
    pub(super) async fn get<T: DeserializeOwned>(
        &self,
        path: &str,
        query: &[(&str, String)],
    ) -> Result<T, ProviderError> {
        self.read(self.http.get(format!("{}{path}", self.base_url)).query(query)).await
    }

    /// The same, of what is about a customer or a card.
    pub(super) async fn get_card<T: DeserializeOwned>(&self, path: &str) -> Result<T, ProviderError> {
        self.read_at(Endpoint::Card, self.http.get(format!("{}{path}", self.base_url))).await
    }

    async fn read<T: DeserializeOwned>(&self, call: RequestBuilder) -> Result<T, ProviderError> {
        self.read_at(Endpoint::Read, call).await
    }

    async fn read_at<T: DeserializeOwned>(&self, endpoint: Endpoint, call: RequestBuilder) -> Result<T, ProviderError> {
        let turn = self.turn(endpoint).await?;
        let outcome = match exchange(call).await {
            Ok(answer) if answer.status == StatusCode::OK => {
                return serde_json::from_slice(&answer.body)
                    .map_err(|error| ProviderError::Unreadable(error.to_string()));
            }
            Ok(answer) => match classify(answer.status, &answer.headers, &answer.body) {
                Outcome::Rejected { .. } if answer.status == StatusCode::NOT_FOUND => {
                    return Err(ProviderError::NotFound);
                }
                outcome => outcome,
            },
            Err(without) => Outcome::<T>::from(without),
        };
        self.learn(turn.endpoint, &outcome);
        Err(match outcome {
            Outcome::NotSent { reason } | Outcome::Unknown { reason } => ProviderError::Unreachable(reason),
            Outcome::RateLimited { retry_after } => ProviderError::RateLimited { retry_after },
            Outcome::Rejected { code, message } => ProviderError::Rejected { code, message },
            Outcome::Misconfigured { status } => ProviderError::Misconfigured { status },
            Outcome::Answered(_) | Outcome::Declined(_) => {
                ProviderError::Unreadable("a read was answered like a charge".to_owned())
            }
        })
    }
}

/// Fakes of the provider run here, without a certificate.
fn is_this_machine(url: &reqwest::Url) -> bool {
    let name = url.host_str().unwrap_or_default();
    // An address of IPv6 stands in brackets.
    let address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    name == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

struct Answer {
    status: StatusCode,
    headers: HeaderMap,
    body: Vec<u8>,
}

/// What a request without a complete answer proves.
enum WithoutAnswer {
    Unsendable(String),
    NotSent(String),
    Unknown(String),
}

impl<T> From<WithoutAnswer> for Outcome<T> {
    fn from(without: WithoutAnswer) -> Self {
        match without {
            // Never built, so never sent, and no repetition will change that: somebody has to look.
            WithoutAnswer::Unsendable(message) => Self::Rejected { code: "unsendable_request".to_owned(), message },
            WithoutAnswer::NotSent(reason) => Self::NotSent { reason },
            WithoutAnswer::Unknown(reason) => Self::Unknown { reason },
        }
    }
}

impl From<&reqwest::Error> for WithoutAnswer {
    fn from(error: &reqwest::Error) -> Self {
        match error {
            error if error.is_builder() => Self::Unsendable(chain(error)),
            // Name lookup, TCP and TLS end before the first byte of a request is written. Nothing else proves it.
            error if error.is_connect() => Self::NotSent(chain(error)),
            error => Self::Unknown(chain(error)),
        }
    }
}

/// One round trip.
async fn exchange(call: RequestBuilder) -> Result<Answer, WithoutAnswer> {
    let mut response = call.send().await.map_err(|error| WithoutAnswer::from(&error))?;
    let (status, headers) = (response.status(), response.headers().clone());
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| WithoutAnswer::Unknown(chain(&error)))? {
        if body.len() + chunk.len() > ANSWER_BYTES_MAX {
            return Err(WithoutAnswer::Unknown(format!("the answer is over {ANSWER_BYTES_MAX} bytes")));
        }
        body.extend_from_slice(&chunk);
    }
    Ok(Answer { status, headers, body })
}

/// The whole chain: `error sending request` alone says nothing about why.
fn chain(error: &reqwest::Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(base_url: &str, secret_key: &str) -> ProviderSettings {
        ProviderSettings {
            base_url: base_url.to_owned(),
            secret_key: secret_key.to_owned().into(),
            connect_timeout: Duration::from_secs(1),
            answer_timeout: Duration::from_secs(2),
        }
    }

    #[test]
    fn the_secret_key_is_never_printed() {
        let settings = settings("http://127.0.0.1:1", "sk_live_secret");
        let client = ProviderClient::new(settings.clone()).unwrap();
        assert!(!format!("{settings:?} {client:?}").contains("sk_live"));
    }

    #[test]
    fn settings_that_cannot_work_are_refused() {
        for (base_url, secret_key) in
            [("", "sk"), ("ftp://127.0.0.1", "sk"), ("http://127.0.0.1?a=b", "sk"), ("http://127.0.0.1", "s\nk")]
        {
            let error = ProviderClient::new(settings(base_url, secret_key)).unwrap_err();
            assert!(matches!(error, ProviderError::Settings(_)), "{base_url} {secret_key}");
        }
        for here in ["http://127.0.0.1:12111", "http://localhost", "http://[::1]:80/base", "https://api.stripe.com"] {
            assert!(ProviderClient::new(settings(here, "sk")).is_ok(), "{here}");
        }
        for elsewhere in ["http://api.stripe.com", "http://10.0.0.7", "http://localhost.example", "http://[fe80::1]"] {
            let error = ProviderClient::new(settings(elsewhere, "sk")).unwrap_err().to_string();
            assert!(error.contains("use https://"), "{elsewhere}: {error}");
        }
        let slow = ProviderSettings { connect_timeout: Duration::from_secs(2), ..settings("http://127.0.0.1", "sk") };
        assert!(ProviderClient::new(slow).is_err());
    }
}
