//! How the provider behaves, and how it reports what happened.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::ops::Range;
use std::time::Duration;

use super::FakeClock;

/// How the provider behaves. The default is quick, reliable and deterministic. A rate is a probability, 0 to 1.
#[derive(Debug, Clone)]
pub struct FakeProviderOptions {
    /// Port 0: any free one.
    pub listen: SocketAddr,
    pub secret_key: String,
    /// The same seed loses the same requests: each draw depends on seed, idempotency key and attempt.
    pub seed: u64,
    /// How long a request takes, between the idempotency check and its execution.
    pub delay: Range<Duration>,
    /// Executed, then the connection is closed without an answer.
    pub lost_answer_rate: f64,
    /// The connection is closed and nothing is executed.
    pub lost_request_rate: f64,
    /// Nothing is executed, but the 500 is stored under the key and replayed.
    pub error_500_rate: f64,
    /// The same, yet it is executed: only a read back tells the two apart.
    pub error_500_executed_rate: f64,
    /// 503, nothing executed, nothing stored.
    pub unavailable_rate: f64,
    /// 429 by chance, nothing executed, nothing stored.
    pub rate_limited_rate: f64,
    /// 429 because another request holds the object; nothing executed, nothing stored.
    pub lock_timeout_rate: f64,
    /// Executed, then the connection is closed, and for `key_held_for` repeats are told that the first request runs.
    pub key_held_rate: f64,
    /// By the provider's clock, in whole seconds.
    pub key_held_for: Duration,
    /// A list or search leaves out what is younger than `lists_lag_by`. Harsher than the real provider, which promises
    /// this lag for searches only.
    pub lagging_list_rate: f64,
    /// By the provider's clock, in whole seconds.
    pub lists_lag_by: Duration,
    /// 429 for what the account sends faster than this, reads included.
    pub requests_per_second_max: Option<NonZeroU32>,
    /// 429 for what one endpoint is sent faster than this, whichever object it is about.
    pub requests_per_second_of_endpoint_max: Option<NonZeroU32>,
    /// What a 429 asks to wait, in seconds.
    pub retry_after_seconds: u64,
    /// A good card is declined.
    pub decline_rate: f64,
    /// A declined charge succeeds after all, `settles_after` later.
    pub late_success_rate: f64,
    /// A decline says nothing about its intent: only a read tells where that stands.
    pub bare_decline_rate: f64,
    /// A confirm is answered by a 500, which is stored, and its money lands `settles_after` later.
    pub capture_after_500_rate: f64,
    /// A good card's buyer has to authenticate.
    pub requires_action_rate: f64,
    /// A good card's bank takes its time.
    pub processing_rate: f64,
    /// A cancel comes an instant too late: what waited for its bank or buyer has just succeeded.
    pub success_before_cancel_rate: f64,
    /// A refund is pending at first.
    pub refund_pending_rate: f64,
    /// A refund is pending at first and fails in the end.
    pub refund_fails_rate: f64,
    /// When late successes, processing charges, captures after a 500 and pending refunds end by themselves. `None`:
    /// when the test says so; late successes then follow their decline at once.
    pub settles_after: Option<Duration>,
    /// A payment method that was used without a customer is used up, as with the real provider. Tokens such as `pm_card_visa` make a new method each time and are never used up.
    pub one_off_methods_once: bool,
    /// Each use of a test card's token is a card with a number of its own, as those of different buyers are. Otherwise
    /// one token is one number, whoever types it in.
    pub every_card_is_another: bool,
    /// `requires_action` leads to the bank's page only where a `return_url` was sent, as with the real provider; else
    /// the answer is for its script in the buyer's browser.
    pub links_need_return_url: bool,
    /// Where events are sent; [`FakeProvider::send_webhooks`](super::FakeProvider::send_webhooks) sets it later.
    pub webhooks: Option<WebhookOptions>,
    /// When objects are made and signatures signed.
    pub clock: FakeClock,
    /// For benches: no faults, no delay, no events, and after this many requests nothing but 503, so that memory is
    /// bounded.
    pub bench_requests_max: Option<u64>,
}

impl FakeProviderOptions {
    /// Answers at once, `requests_max` times: about 3 KiB are kept of each.
    pub fn bench(requests_max: u64) -> Self {
        Self { bench_requests_max: Some(requests_max), ..Self::default() }
    }
}

impl Default for FakeProviderOptions {
    fn default() -> Self {
        Self {
            listen: SocketAddr::from(([127, 0, 0, 1], 0)),
            secret_key: "sk_test_doorbuster".to_owned(),
            seed: 1,
            delay: Duration::ZERO..Duration::ZERO,
            lost_answer_rate: 0.0,
            lost_request_rate: 0.0,
            error_500_rate: 0.0,
            error_500_executed_rate: 0.0,
            unavailable_rate: 0.0,
            rate_limited_rate: 0.0,
            lock_timeout_rate: 0.0,
            key_held_rate: 0.0,
            key_held_for: Duration::from_secs(60),
            lagging_list_rate: 0.0,
            lists_lag_by: Duration::from_secs(60),
            requests_per_second_max: None,
            requests_per_second_of_endpoint_max: None,
            retry_after_seconds: 1,
            decline_rate: 0.0,
            late_success_rate: 0.0,
            bare_decline_rate: 0.0,
            capture_after_500_rate: 0.0,
            requires_action_rate: 0.0,
            processing_rate: 0.0,
            success_before_cancel_rate: 0.0,
            refund_pending_rate: 0.0,
            refund_fails_rate: 0.0,
            settles_after: None,
            one_off_methods_once: true,
            every_card_is_another: false,
            links_need_return_url: true,
            webhooks: None,
            clock: FakeClock::system(),
            bench_requests_max: None,
        }
    }
}

/// Where events go, and what goes wrong on the way. Each event has one fault at most, drawn in the order below; the
/// rates add up to 1 at most.
#[derive(Debug, Clone)]
pub struct WebhookOptions {
    pub url: String,
    /// Each signs every delivery: two while a secret is rotated.
    pub secrets: Vec<String>,
    /// Delivered before the API answers the request that caused it.
    pub first_rate: f64,
    /// Delivered twice.
    pub twice_rate: f64,
    /// Delivered `late_by` later.
    pub late_rate: f64,
    /// Delivered after the next event of the same intent, or `late_by` later if there is none.
    pub reordered_rate: f64,
    pub never_rate: f64,
    /// Delivered with a wrong signature first, and rightly after that is refused.
    pub badly_signed_rate: f64,
    /// Delivered with a true signature of `old_by` ago first, and rightly after that is refused.
    pub old_timestamp_rate: f64,
    pub late_by: Duration,
    pub old_by: Duration,
    /// How often a delivery that is not answered by 2xx is repeated.
    pub retries_max: u32,
    /// Before the first repetition; twice as long before each further one.
    pub retry_pause: Duration,
}

impl WebhookOptions {
    /// One secret, no faults.
    pub fn new(url: &str, secret: &str) -> Self {
        Self {
            url: url.to_owned(),
            secrets: vec![secret.to_owned()],
            first_rate: 0.0,
            twice_rate: 0.0,
            late_rate: 0.0,
            reordered_rate: 0.0,
            never_rate: 0.0,
            badly_signed_rate: 0.0,
            old_timestamp_rate: 0.0,
            late_by: Duration::from_millis(200),
            old_by: Duration::from_secs(301),
            retries_max: 5,
            retry_pause: Duration::from_millis(100),
        }
    }
}
