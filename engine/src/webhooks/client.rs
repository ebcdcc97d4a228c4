//! One POST a delivery: no retry, no redirect, no proxy from the environment.

use std::fmt;
use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use reqwest::header::{CONTENT_TYPE, RETRY_AFTER};
use reqwest::{StatusCode, Url};

use super::event::Event;
use super::reach::{self, CONNECT_TIMEOUT, NotReached};
use super::secret::{WebhookSecret, signatures};

/// Bounds the whole call. The specification's 15 to 30 s, at its lower end: a worker that is told to stop waits for it.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(15);
/// However long an endpoint asks us to wait.
const RETRY_AFTER_MAX: SignedDuration = SignedDuration::from_hours(1);
const NAME_MAX: usize = 32;

/// Where to send events, as it is configured.
#[derive(Clone)]
pub struct WebhookEndpoint {
    /// 1 to 32 of a-z, 0-9, _ and -: what the endpoint is called in the outbox, in logs and in metrics.
    pub name: String,
    pub url: String,
    /// The newest first. All of them sign.
    pub secrets: Vec<WebhookSecret>,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct UnusableEndpoint(&'static str);

/// Sends events to one endpoint. Cloning shares the connections.
#[derive(Clone)]
pub struct WebhookClient {
    http: reqwest::Client,
    name: String,
    url: Url,
    secrets: Vec<WebhookSecret>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WebhookOutcome {
    Delivered,
    /// Anything but 2xx, or no answer: again, later.
    Failed {
        error: String,
        retry_after: Option<SignedDuration>,
    },
    /// The endpoint could not be reached at all.
    Unreachable(String),
    /// 410: it wants no more of this.
    Gone,
}

impl fmt::Debug for WebhookEndpoint {
    /// The address may hold a token.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebhookEndpoint").field("name", &self.name).finish_non_exhaustive()
    }
}

impl fmt::Debug for WebhookClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WebhookClient").field("name", &self.name).finish_non_exhaustive()
    }
}

impl WebhookClient {
    pub fn new(endpoint: WebhookEndpoint) -> Result<Self, UnusableEndpoint> {
        let is_name = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_' || byte == b'-';
        if !(1..=NAME_MAX).contains(&endpoint.name.len()) || !endpoint.name.bytes().all(is_name) {
            return Err(UnusableEndpoint("an endpoint's name is 1 to 32 of a-z, 0-9, _ and -"));
        }
        if endpoint.secrets.is_empty() {
            return Err(UnusableEndpoint("an endpoint without a secret: nothing is sent unsigned"));
        }
        let url = Url::parse(&endpoint.url).map_err(|_| UnusableEndpoint("an endpoint's address is not a URL"))?;
        let is_usable = matches!(url.scheme(), "http" | "https")
            && url.username().is_empty()
            && url.password().is_none()
            && url.fragment().is_none();
        if !is_usable {
            return Err(UnusableEndpoint(
                "an endpoint's address is http or https, without user, password and fragment",
            ));
        }
        let http = reqwest::Client::builder()
            .user_agent(concat!("doorbuster/", env!("CARGO_PKG_VERSION")))
            .redirect(reqwest::redirect::Policy::none())
            .retry(reqwest::retry::never())
            .no_proxy()
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(ANSWER_TIMEOUT)
            .build()
            .map_err(|_| UnusableEndpoint("TLS cannot be used on this machine"))?;
        Ok(Self { http, name: endpoint.name, url, secrets: endpoint.secrets })
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether anybody on the way can read what is sent.
    pub fn is_plain(&self) -> bool {
        self.url.scheme() == "http"
    }

    /// The machine that events are sent to. The rest of the address may hold a token.
    pub fn host(&self) -> &str {
        self.url.host_str().unwrap_or_default()
    }

    /// How many secrets sign: two while they rotate.
    pub fn secrets(&self) -> usize {
        self.secrets.len()
    }

    /// Whether somebody is there who would take events, without sending anything that the endpoint would notice.
    pub async fn reach(&self) -> Result<(), NotReached> {
        reach::reach(&self.url).await
    }

    /// Sends an event once, signed as of now.
    pub async fn send(&self, event: &Event, now: Timestamp) -> WebhookOutcome {
        let timestamp_s = now.as_second();
        let call = self
            .http
            .post(self.url.clone())
            .header(CONTENT_TYPE, "application/json")
            .header("webhook-id", &event.id)
            .header("webhook-timestamp", timestamp_s)
            .header("webhook-signature", signatures(&self.secrets, &event.id, timestamp_s, &event.body))
            .body(event.body.clone());
        // The body of the answer is nobody's business and is not read.
        match call.send().await {
            Ok(answer) if answer.status().is_success() => WebhookOutcome::Delivered,
            Ok(answer) if answer.status() == StatusCode::GONE => WebhookOutcome::Gone,
            Ok(answer) => {
                let seconds = answer.headers().get(RETRY_AFTER).and_then(|value| value.to_str().ok()?.parse().ok());
                let retry_after =
                    seconds.map(|seconds: u32| SignedDuration::from_secs(seconds.into()).min(RETRY_AFTER_MAX));
                WebhookOutcome::Failed { error: format!("answered with {}", answer.status().as_u16()), retry_after }
            }
            Err(error) if error.is_connect() => WebhookOutcome::Unreachable(chain(error)),
            Err(error) => WebhookOutcome::Failed { error: chain(error), retry_after: None },
        }
    }
}

/// The whole chain, without the address, which may hold a token.
fn chain(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut source = std::error::Error::source(&error);
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

    fn endpoint(name: &str, url: &str) -> WebhookEndpoint {
        let secret = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz".parse().unwrap();
        WebhookEndpoint { name: name.to_owned(), url: url.to_owned(), secrets: vec![secret] }
    }

    #[test]
    fn endpoints_that_cannot_work_are_refused_and_secrets_are_not_printed() {
        let client = WebhookClient::new(endpoint("shop", "https://shop.example/hooks?token=hidden")).unwrap();
        assert!(!format!("{client:?} {:?}", endpoint("shop", "https://x/?token=hidden")).contains("hidden"));
        for (name, url) in [
            ("", "https://shop.example"),
            ("Shop", "https://shop.example"),
            ("shop", "shop.example"),
            ("shop", "ftp://shop.example"),
            ("shop", "https://user:hidden@shop.example"),
        ] {
            let error = WebhookClient::new(endpoint(name, url)).unwrap_err();
            assert!(!error.to_string().contains("hidden"), "{error}");
        }
        let unsigned = WebhookEndpoint { secrets: Vec::new(), ..endpoint("shop", "https://shop.example") };
        assert!(WebhookClient::new(unsigned).is_err());
    }
}
