//! The fake payment provider on its own: its flags.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::time::Duration;

use clap::Args;
use doorbuster_sandbox::provider::{FakeProviderOptions, WebhookOptions};

#[derive(Args)]
pub(crate) struct Provider {
    #[arg(long, default_value = "127.0.0.1:12111")]
    listen: SocketAddr,
    #[arg(long, default_value = "sk_test_doorbuster")]
    secret_key: String,
    /// The same seed does the same to the same requests.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// A request takes up to this long.
    #[arg(long, value_name = "MS", default_value_t = 0)]
    delay_ms: u64,
    /// 429 for what comes faster.
    #[arg(long, value_name = "N")]
    requests_per_second: Option<NonZeroU32>,
    /// 429 for what one endpoint is sent faster.
    #[arg(long, value_name = "N")]
    requests_per_second_of_endpoint: Option<NonZeroU32>,
    /// When late successes, processing charges and pending refunds end by themselves.
    #[arg(long, value_name = "MS", default_value_t = 2_000)]
    settles_after_ms: u64,
    /// A payment method that was used without a customer is used up.
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    one_off_methods_once: bool,
    /// Nobody is led to their bank by a link unless a return_url was sent.
    #[arg(long, value_name = "BOOL", default_value_t = true, action = clap::ArgAction::Set)]
    links_need_return_url: bool,
    #[command(flatten)]
    rates: Rates,
    /// Where events are posted.
    #[arg(long, requires = "webhook_secret")]
    webhook_url: Option<String>,
    /// Signs them; given twice, both sign.
    #[arg(long)]
    webhook_secret: Vec<String>,
    #[command(flatten)]
    webhook_rates: WebhookRates,
    /// Answer at once, without faults, this many times.
    #[arg(long, value_name = "REQUESTS")]
    bench: Option<u64>,
}

#[derive(Args)]
#[command(next_help_heading = "Faults of the API, each a probability")]
struct Rates {
    #[arg(long, value_parser = rate, default_value = "0")]
    decline_rate: f64,
    #[arg(long, value_parser = rate, default_value = "0")]
    late_success_rate: f64,
    #[arg(long, value_parser = rate, default_value = "0")]
    requires_action_rate: f64,
    #[arg(long, value_parser = rate, default_value = "0")]
    processing_rate: f64,
    #[arg(long, value_parser = rate, default_value = "0")]
    success_before_cancel_rate: f64,
    #[arg(long, value_parser = rate, default_value = "0")]
    refund_pending_rate: f64,
    #[arg(long, value_parser = rate, default_value = "0")]
    refund_fails_rate: f64,
    #[arg(long, value_parser = rate, default_value = "0")]
    lost_request_rate: f64,
    #[arg(long, value_parser = rate, default_value = "0")]
    lost_answer_rate: f64,
    #[arg(long, value_parser = rate, default_value = "0")]
    error_500_rate: f64,
    #[arg(long, value_parser = rate, default_value = "0")]
    error_500_executed_rate: f64,
    #[arg(long, value_parser = rate, default_value = "0")]
    unavailable_rate: f64,
    #[arg(long, value_parser = rate, default_value = "0")]
    rate_limited_rate: f64,
    #[arg(long, value_parser = rate, default_value = "0")]
    lock_timeout_rate: f64,
    #[arg(long, value_parser = rate, default_value = "0")]
    key_held_rate: f64,
    #[arg(long, value_parser = rate, default_value = "0")]
    lagging_list_rate: f64,
    #[arg(long, value_parser = rate, default_value = "0")]
    bare_decline_rate: f64,
    #[arg(long, value_parser = rate, default_value = "0")]
    capture_after_500_rate: f64,
}

#[derive(Args)]
#[command(next_help_heading = "Faults of webhooks, each a probability, 1 at most together")]
struct WebhookRates {
    #[arg(long, value_parser = rate, default_value = "0")]
    webhook_first_rate: f64,
    #[arg(long, value_parser = rate, default_value = "0")]
    webhook_twice_rate: f64,
    #[arg(long, value_parser = rate, default_value = "0")]
    webhook_late_rate: f64,
    #[arg(long, value_parser = rate, default_value = "0")]
    webhook_reordered_rate: f64,
    #[arg(long, value_parser = rate, default_value = "0")]
    webhook_never_rate: f64,
    #[arg(long, value_parser = rate, default_value = "0")]
    webhook_badly_signed_rate: f64,
    #[arg(long, value_parser = rate, default_value = "0")]
    webhook_old_timestamp_rate: f64,
}

fn rate(text: &str) -> Result<f64, String> {
    match text.parse() {
        Ok(rate) if (0.0..=1.0).contains(&rate) => Ok(rate),
        _ => Err("a probability is a number from 0 to 1".to_owned()),
    }
}

impl Provider {
    pub(crate) fn options(self) -> FakeProviderOptions {
        let (rates, webhook_rates) = (self.rates, self.webhook_rates);
        let webhooks = self.webhook_url.map(|url| WebhookOptions {
            secrets: self.webhook_secret,
            first_rate: webhook_rates.webhook_first_rate,
            twice_rate: webhook_rates.webhook_twice_rate,
            late_rate: webhook_rates.webhook_late_rate,
            reordered_rate: webhook_rates.webhook_reordered_rate,
            never_rate: webhook_rates.webhook_never_rate,
            badly_signed_rate: webhook_rates.webhook_badly_signed_rate,
            old_timestamp_rate: webhook_rates.webhook_old_timestamp_rate,
            ..WebhookOptions::new(&url, "")
        });
        FakeProviderOptions {
            listen: self.listen,
            secret_key: self.secret_key,
            seed: self.seed,
            delay: Duration::ZERO..Duration::from_millis(self.delay_ms),
            requests_per_second_max: self.requests_per_second,
            requests_per_second_of_endpoint_max: self.requests_per_second_of_endpoint,
            one_off_methods_once: self.one_off_methods_once,
            links_need_return_url: self.links_need_return_url,
            settles_after: Some(Duration::from_millis(self.settles_after_ms)),
            decline_rate: rates.decline_rate,
            late_success_rate: rates.late_success_rate,
            requires_action_rate: rates.requires_action_rate,
            processing_rate: rates.processing_rate,
            success_before_cancel_rate: rates.success_before_cancel_rate,
            refund_pending_rate: rates.refund_pending_rate,
            refund_fails_rate: rates.refund_fails_rate,
            lost_request_rate: rates.lost_request_rate,
            lost_answer_rate: rates.lost_answer_rate,
            error_500_rate: rates.error_500_rate,
            error_500_executed_rate: rates.error_500_executed_rate,
            unavailable_rate: rates.unavailable_rate,
            rate_limited_rate: rates.rate_limited_rate,
            lock_timeout_rate: rates.lock_timeout_rate,
            key_held_rate: rates.key_held_rate,
            lagging_list_rate: rates.lagging_list_rate,
            bare_decline_rate: rates.bare_decline_rate,
            capture_after_500_rate: rates.capture_after_500_rate,
            webhooks,
            bench_requests_max: self.bench,
            ..FakeProviderOptions::default()
        }
    }
}
