//! Sends events to the merchant, signed as `Stripe-Signature` is, and does to them what networks and forgers do.
//!
//! The signature is computed here from the provider's documentation, apart from the engine's verification.

use std::collections::HashMap;
use std::io;
use std::sync::Mutex;
use std::time::Duration;

use hmac::{Hmac, KeyInit as _, Mac as _};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use sha2::Sha256;
use tokio::sync::watch;

use super::FakeClock;
use super::faults::mix;
use super::options::WebhookOptions;
use super::store::FakeEvent;

/// How long a receiver may take; the provider's own figure is of the same kind.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

/// What went wrong with deliveries so far: a test whose faults never happened has shown nothing.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WebhookCounts {
    /// Events that had somewhere to go.
    pub events: u64,
    /// HTTP requests, repetitions included.
    pub sent: u64,
    /// Of those, answered by 2xx.
    pub accepted: u64,
    /// Of those, sent again after another answer than 2xx, or none.
    pub retried: u64,
    /// Events given up after all their repetitions.
    pub given_up: u64,
    pub first: u64,
    pub twice: u64,
    pub late: u64,
    /// Really overtaken by a later event of the same intent.
    pub reordered: u64,
    pub never: u64,
    pub badly_signed: u64,
    pub old_timestamp: u64,
    /// Badly signed or old, and answered by 2xx: has to stay 0.
    pub accepted_wrongly: u64,
}

/// How a delivery was signed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signature {
    Good,
    /// By a secret nobody has.
    Wrong,
    /// Rightly, but with a time long past.
    Old,
}

/// One HTTP request to the merchant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    pub event_id: String,
    pub kind: &'static str,
    pub intent_id: String,
    pub signature: Signature,
    /// `None` without an answer.
    pub status: Option<u16>,
}

/// Whether the API's answer waits for a delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Timing {
    First,
    After,
}

/// What chance has made of one event.
#[derive(Debug)]
pub(crate) struct Planned {
    event: FakeEvent,
    fault: Fault,
    /// Counts events, to tell which of two is the later one.
    number: u64,
    options: WebhookOptions,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    First,
    Twice,
    Late,
    Reordered,
    Never,
    BadlySigned,
    OldTimestamp,
}

#[derive(Debug)]
pub(crate) struct Sender {
    seed: u64,
    clock: FakeClock,
    http: reqwest::Client,
    state: Mutex<State>,
    /// By intent, the newest event delivered: those that let themselves be overtaken wait for it to move.
    newest: watch::Sender<HashMap<String, u64>>,
}

#[derive(Debug, Default)]
struct State {
    options: Option<WebhookOptions>,
    events_numbered: u64,
    /// By kind and order, so that the same seed does the same to the same event whatever its id.
    drawn: HashMap<String, u64>,
    counts: WebhookCounts,
    deliveries: Vec<Delivery>,
}

impl Sender {
    pub(crate) fn new(seed: u64, clock: FakeClock, options: Option<WebhookOptions>) -> io::Result<Self> {
        let http = reqwest::Client::builder()
            .timeout(ANSWER_TIMEOUT)
            .redirect(reqwest::redirect::Policy::none())
            .no_proxy()
            .build()
            .map_err(io::Error::other)?;
        let state = Mutex::new(State { options, ..State::default() });
        Ok(Self { seed, clock, http, state, newest: watch::Sender::default() })
    }

    pub(crate) fn set_options(&self, options: Option<WebhookOptions>) {
        self.state().options = options;
    }

    pub(crate) fn counts(&self) -> WebhookCounts {
        self.state().counts
    }

    pub(crate) fn deliveries(&self) -> Vec<Delivery> {
        self.state().deliveries.clone()
    }

    /// Draws each event's fault; nothing without an address.
    pub(crate) fn plan(&self, events: &[FakeEvent]) -> Vec<Planned> {
        let mut state = self.state();
        let Some(options) = state.options.clone() else { return Vec::new() };
        let plan = |event: &FakeEvent| {
            let name = format!("{} {}", event.kind, event.order_id.as_deref().unwrap_or_default());
            let attempt = state.drawn.entry(name.clone()).or_default();
            *attempt += 1;
            let fault = draw(&options, mix(self.seed, *attempt, &name));
            state.counts.events += 1;
            state.events_numbered += 1;
            Planned { event: event.clone(), fault, number: state.events_numbered, options: options.clone() }
        };
        events.iter().map(plan).collect()
    }

    /// Delivers an event again, rightly, as an operator of the provider can.
    pub(crate) fn plan_again(&self, event: &FakeEvent) -> Option<Planned> {
        let state = self.state();
        let options = state.options.clone()?;
        Some(Planned { event: event.clone(), fault: Fault::None, number: state.events_numbered, options })
    }

    pub(crate) async fn carry_out(&self, planned: Planned) {
        match planned.fault {
            Fault::Never => return self.count(|counts| counts.never += 1),
            Fault::First => self.count(|counts| counts.first += 1),
            Fault::Late => {
                tokio::time::sleep(planned.options.late_by).await;
                self.count(|counts| counts.late += 1);
            }
            Fault::Reordered => self.let_pass(&planned).await,
            Fault::Twice => {
                self.deliver(&planned, Signature::Good).await;
                self.count(|counts| counts.twice += 1);
            }
            Fault::BadlySigned => {
                self.count(|counts| counts.badly_signed += 1);
                return self.deliver_after(&planned, Signature::Wrong).await;
            }
            Fault::OldTimestamp => {
                self.count(|counts| counts.old_timestamp += 1);
                return self.deliver_after(&planned, Signature::Old).await;
            }
            Fault::None => {}
        }
        self.deliver(&planned, Signature::Good).await;
    }

    /// A delivery that has to be refused, and then the real one.
    async fn deliver_after(&self, planned: &Planned, signature: Signature) {
        if self.send(planned, signature).await {
            self.count(|counts| counts.accepted_wrongly += 1);
        }
        self.deliver(planned, Signature::Good).await;
    }

    /// Waits until a later event of the same intent was delivered.
    async fn let_pass(&self, planned: &Planned) {
        let mut newest = self.newest.subscribe();
        let overtaken = newest
            .wait_for(|newest| newest.get(&planned.event.intent_id).is_some_and(|number| *number > planned.number));
        match tokio::time::timeout(planned.options.late_by, overtaken).await {
            Ok(_) => self.count(|counts| counts.reordered += 1),
            Err(_) => self.count(|counts| counts.late += 1),
        }
    }

    /// Sends until it is accepted or the repetitions are used up.
    async fn deliver(&self, planned: &Planned, signature: Signature) {
        let mut pause = planned.options.retry_pause;
        for attempt in 0..=planned.options.retries_max {
            if attempt > 0 {
                tokio::time::sleep(pause).await;
                pause = pause.saturating_mul(2);
                self.count(|counts| counts.retried += 1);
            }
            if self.send(planned, signature).await {
                self.newest.send_modify(|newest| {
                    let number = newest.entry(planned.event.intent_id.clone()).or_default();
                    *number = planned.number.max(*number);
                });
                return;
            }
        }
        self.count(|counts| counts.given_up += 1);
    }

    /// One HTTP request; whether it was answered by 2xx.
    async fn send(&self, planned: &Planned, signature: Signature) -> bool {
        let (event, options) = (&planned.event, &planned.options);
        let body = event.to_json().to_string();
        let now = self.clock.now();
        let header = match signature {
            Signature::Good => header(&options.secrets, now, &body),
            Signature::Wrong => header(&["whsec_of_somebody_else".to_owned()], now, &body),
            Signature::Old => {
                let ago = i64::try_from(options.old_by.as_secs()).unwrap_or(i64::MAX);
                header(&options.secrets, now.saturating_sub(ago), &body)
            }
        };
        self.count(|counts| counts.sent += 1);
        let request = self.http.post(&options.url).header("stripe-signature", header);
        let answer = request.header("content-type", "application/json; charset=utf-8").body(body).send().await;
        let status = answer.ok().map(|answer| answer.status());
        let accepted = status.is_some_and(|status| status.is_success());
        let mut state = self.state();
        state.counts.accepted += u64::from(accepted);
        state.deliveries.push(Delivery {
            event_id: event.event_id.clone(),
            kind: event.kind,
            intent_id: event.intent_id.clone(),
            signature,
            status: status.map(|status| status.as_u16()),
        });
        accepted
    }

    fn count(&self, count: impl FnOnce(&mut WebhookCounts)) {
        count(&mut self.state().counts);
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().expect("nobody panics while holding the deliveries")
    }
}

impl Planned {
    pub(crate) fn timing(&self) -> Timing {
        if self.fault == Fault::First { Timing::First } else { Timing::After }
    }
}

fn draw(options: &WebhookOptions, seed: u64) -> Fault {
    let mut chance = StdRng::seed_from_u64(seed).random::<f64>();
    let rates = [
        (options.first_rate, Fault::First),
        (options.twice_rate, Fault::Twice),
        (options.late_rate, Fault::Late),
        (options.reordered_rate, Fault::Reordered),
        (options.never_rate, Fault::Never),
        (options.badly_signed_rate, Fault::BadlySigned),
        (options.old_timestamp_rate, Fault::OldTimestamp),
    ];
    for (rate, fault) in rates {
        if chance < rate {
            return fault;
        }
        chance -= rate;
    }
    Fault::None
}

/// `t=…,v1=…`, one `v1` a secret. Source: docs.stripe.com/webhooks, "verify manually".
fn header(secrets: &[String], now: i64, body: &str) -> String {
    let mut header = format!("t={now}");
    for secret in secrets {
        let mut mac = Hmac::<Sha256>::new_from_slice(secret.as_bytes()).expect("HMAC takes keys of any length");
        mac.update(format!("{now}.{body}").as_bytes());
        let digits: String = mac.finalize().into_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        header.push_str(",v1=");
        header.push_str(&digits);
    }
    header
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_header_carries_one_signature_a_secret() {
        // Computed apart from this program, by Python's hmac.
        let expected = "t=1795773600,\
            v1=bd6d4b783ee3f67761c4cdb297092c94b20854e8d82810bdd53b5da18181312b,\
            v1=4b889fd92ce66544448ee41e7965a23174cae57b201d891ba2364290a4184f01";
        let secrets = ["whsec_golden_1", "whsec_golden_2"].map(str::to_owned);
        assert_eq!(header(&secrets, 1_795_773_600, r#"{"id":"evt_1"}"#), expected);
    }

    #[test]
    fn each_fault_comes_as_often_as_its_rate_says() {
        let options = WebhookOptions {
            first_rate: 0.1,
            twice_rate: 0.1,
            late_rate: 0.1,
            reordered_rate: 0.1,
            never_rate: 0.1,
            badly_signed_rate: 0.1,
            old_timestamp_rate: 0.1,
            ..WebhookOptions::new("http://127.0.0.1:1", "whsec")
        };
        let drawn: Vec<Fault> = (0..10_000).map(|seed| draw(&options, seed)).collect();
        let count = |fault| drawn.iter().filter(|drawn| **drawn == fault).count();
        for fault in [Fault::First, Fault::Twice, Fault::Late, Fault::Reordered, Fault::Never] {
            assert!((800..1_200).contains(&count(fault)), "{fault:?}: {}", count(fault));
        }
        for fault in [Fault::BadlySigned, Fault::OldTimestamp] {
            assert!((800..1_200).contains(&count(fault)), "{fault:?}: {}", count(fault));
        }
        assert!((2_600..3_400).contains(&count(Fault::None)));
    }
}
