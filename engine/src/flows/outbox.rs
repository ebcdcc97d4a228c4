//! The outbox, delivered: mails to buyers, events to the shop's systems.
//!
//! Each destination is a lane of its own with its own leases, so that one that is down delays nobody else. A delivery is leased,
//! made with no transaction open, and recorded. What is between these three steps when a worker dies is made again, under the same
//! Message-ID or event id: at least once, and that is all that SMTP and HTTP allow.

use std::sync::atomic::{AtomicBool, Ordering};

use futures_util::StreamExt as _;
use futures_util::stream;
use jiff::{SignedDuration, Timestamp};
use rand::RngExt as _;
use sha2::{Digest as _, Sha256};
use tokio_util::sync::CancellationToken;

use crate::domain::notices::MailLane;
use crate::ledger::outbox::{DeliveryState, Destination, LeasedDelivery};
use crate::mail::{MailOutcome, Mailer, NotMailable};
use crate::steps;
use crate::webhooks::{Event, WebhookClient, WebhookOutcome};

use super::engine::{Engine, EngineError};

/// Events that become deliveries in one transaction.
const FAN_OUT_BATCH: i64 = 500;
/// The first wait after a failed attempt; three times as long each time: 5 s, 15 s … 20 min, 1 h, 3 h, 8 h.
const FIRST_BACKOFF: SignedDuration = SignedDuration::from_secs(5);
const LONGEST_BACKOFF: SignedDuration = SignedDuration::from_hours(8);
/// RFC 5321, 4.5.4.1: the give-up time of mail is at least four to five days.
const MAIL_PATIENCE: SignedDuration = SignedDuration::from_hours(5 * 24);
const WEBHOOK_PATIENCE: SignedDuration = SignedDuration::from_hours(3 * 24);
/// A mail for every state of a dozen orders within one hour.
pub const MAILS_PER_ADDRESS: u32 = 100;
const HOUR: SignedDuration = SignedDuration::from_hours(1);

/// How long a lane rests when nobody is there, and when its settings are wrong.
const UNREACHABLE_REST: SignedDuration = SignedDuration::from_secs(5);
const MISCONFIGURED_REST: SignedDuration = SignedDuration::from_secs(60);

/// One destination, with what reaches it.
#[derive(Debug, Clone)]
pub enum Lane {
    Mail(MailLane, Mailer),
    Webhook(WebhookClient),
}

/// How the outbox is worked off.
#[derive(Debug, Clone, Copy)]
pub struct DeliverySettings {
    /// Deliveries of one lane at the same time.
    pub concurrency: usize,
    /// Leased in one go: what a worker that dies delays.
    pub batch: i64,
    /// How long the deliveries of a worker that died wait. What is not begun when it ends is left to others.
    pub lease: SignedDuration,
    /// Mails that one address gets within a clock hour, at most. What comes on top waits for the next one.
    pub mails_per_address: u32,
}

impl Default for DeliverySettings {
    /// A batch takes at most four times the 20 s of one mail, so a lease ends only when its worker is gone.
    fn default() -> Self {
        Self { concurrency: 8, batch: 32, lease: SignedDuration::from_secs(120), mails_per_address: MAILS_PER_ADDRESS }
    }
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DeliveryReport {
    pub leased: usize,
    pub sent: usize,
    pub refused: usize,
    pub skipped: usize,
    /// Come again.
    pub later: usize,
    pub dead: usize,
    /// Leased and given back untried: the lane rests, or the worker stops.
    pub untried: usize,
    /// The endpoint, by this batch: 410.
    pub disabled: usize,
    /// Mails put off, for their address has had so many within the hour.
    pub put_off: usize,
    /// How long this lane should be left alone.
    pub rest: Option<SignedDuration>,
}

/// How one attempt ended, whatever the destination.
enum Told {
    Sent,
    Refused(String),
    Skipped(String),
    Failed {
        error: String,
        retry_after: Option<SignedDuration>,
    },
    /// As failed, and it may have arrived.
    Unknown(String),
    Down {
        error: String,
        rest: SignedDuration,
    },
    Gone,
    /// Not tried: its address has had its share of this hour.
    PutOff {
        until: Timestamp,
        bound: u32,
    },
}

impl Lane {
    /// The lanes of a mail server.
    pub fn mails(mailer: &Mailer) -> [Self; 3] {
        MailLane::ALL.map(|lane| Self::Mail(lane, mailer.clone()))
    }

    fn destination(&self) -> Destination {
        match self {
            Self::Mail(lane, _) => Destination::Mail(*lane),
            Self::Webhook(client) => Destination::Webhook(client.name().to_owned()),
        }
    }

    /// For logs and metrics.
    pub fn name(&self) -> String {
        match self {
            Self::Mail(lane, _) => lane.as_str().to_owned(),
            Self::Webhook(client) => format!("webhook:{}", client.name()),
        }
    }

    /// The name of the endpoint, if it is one.
    pub fn endpoint(&self) -> Option<&str> {
        match self {
            Self::Mail(..) => None,
            Self::Webhook(client) => Some(client.name()),
        }
    }

    fn patience(&self) -> SignedDuration {
        match self {
            Self::Mail(..) => MAIL_PATIENCE,
            Self::Webhook(_) => WEBHOOK_PATIENCE,
        }
    }

    async fn tell(&self, delivery: &LeasedDelivery, now: Timestamp) -> Told {
        let notice = match &delivery.notice {
            Ok(notice) => notice,
            Err(error) => return Told::Failed { error: error.to_string(), retry_after: None },
        };
        match self {
            Self::Mail(_, mailer) => match mailer.compose(&delivery.subject, notice, delivery.created_at) {
                Err(NotMailable::NoAddress) => Told::Skipped(NotMailable::NoAddress.to_string()),
                Err(reason) => Told::Refused(reason.to_string()),
                Ok(mail) => match mailer.send(&mail).await {
                    MailOutcome::Sent => Told::Sent,
                    MailOutcome::Refused(why) => Told::Refused(why),
                    MailOutcome::NotSent(error) => Told::Failed { error, retry_after: None },
                    MailOutcome::Unknown(error) => Told::Unknown(error),
                    MailOutcome::Unreachable(error) => Told::Down { error, rest: UNREACHABLE_REST },
                    MailOutcome::Misconfigured(error) => {
                        tracing::error!(%error, "the mail server does not want us, no mail is sent: {error}");
                        Told::Down { error, rest: MISCONFIGURED_REST }
                    }
                },
            },
            Self::Webhook(client) => {
                let event = Event::new(&delivery.subject, notice, delivery.created_at);
                match client.send(&event, now).await {
                    WebhookOutcome::Delivered => Told::Sent,
                    WebhookOutcome::Failed { error, retry_after } => Told::Failed { error, retry_after },
                    WebhookOutcome::Unreachable(error) => Told::Down { error, rest: UNREACHABLE_REST },
                    WebhookOutcome::Gone => Told::Gone,
                }
            }
        }
    }
}

impl Engine {
    /// Makes deliveries of what has happened, for all endpoints that any worker is configured with. Answers how many events
    /// there were.
    pub async fn fan_out_events(&self, endpoints: &[String]) -> Result<u64, EngineError> {
        self.ledger.register_endpoints(endpoints, self.clock.now()).await?;
        let mut events = 0;
        loop {
            let made = self.ledger.fan_out(self.clock.now(), FAN_OUT_BATCH).await?;
            events += made;
            if made > 0 {
                steps::passed("events.fanned_out");
            }
            if made < FAN_OUT_BATCH.cast_unsigned() {
                return Ok(events);
            }
        }
    }

    /// Makes the deliveries of one lane that are due, a batch of them. After `stop` none is begun.
    pub async fn deliver_due(
        &self,
        lane: &Lane,
        settings: DeliverySettings,
        stop: &CancellationToken,
    ) -> Result<DeliveryReport, EngineError> {
        let destination = lane.destination();
        let leased =
            self.ledger.lease_deliveries(&destination, self.clock.now(), settings.lease, settings.batch).await?;
        if !leased.is_empty() {
            steps::passed("outbox.leased");
        }
        let mut report = DeliveryReport { leased: leased.len(), ..DeliveryReport::default() };
        let rests = &AtomicBool::new(false);
        let attempts = stream::iter(leased).map(|delivery| async move {
            let now = self.clock.now();
            // Past its lease somebody else may be at it.
            let is_left = stop.is_cancelled() || rests.load(Ordering::Relaxed) || now >= delivery.leased_until;
            let told = if is_left { None } else { Some(self.tell(lane, &delivery, settings, now).await) };
            if told.is_some() {
                steps::passed(if matches!(lane, Lane::Mail(..)) { "mail.sent" } else { "webhook.sent" });
            }
            if matches!(told, Some(Ok(Told::Down { .. } | Told::Gone))) {
                rests.store(true, Ordering::Relaxed);
            }
            (delivery, told)
        });
        let mut attempts = std::pin::pin!(attempts.buffer_unordered(settings.concurrency));
        let mut untried = Vec::new();
        while let Some((delivery, told)) = attempts.next().await {
            let told = match told {
                None => {
                    untried.push(delivery);
                    continue;
                }
                Some(Err(error)) => {
                    tracing::warn!(%error, "a mail waits, for nobody knows how many its address has had: {error}");
                    untried.push(delivery);
                    continue;
                }
                Some(Ok(told)) => told,
            };
            self.record(lane, &delivery, told, &mut report).await;
        }
        report.untried = untried.len();
        if !untried.is_empty() {
            self.ledger.release_deliveries(&untried).await?;
        }
        Ok(report)
    }

    /// Makes one delivery. A mail takes a turn of its address first, and gives it back unless it may have arrived.
    async fn tell(
        &self,
        lane: &Lane,
        delivery: &LeasedDelivery,
        settings: DeliverySettings,
        now: Timestamp,
    ) -> Result<Told, EngineError> {
        let address = delivery.subject.email().filter(|_| matches!(lane, Lane::Mail(..)));
        let Some(address) = address else { return Ok(lane.tell(delivery, now).await) };
        let (recipient, hour) = (Sha256::digest(address.to_lowercase()), hour_of(now));
        if !self.ledger.take_mail_turn(&recipient, hour, settings.mails_per_address).await? {
            let next = hour.checked_add(HOUR).unwrap_or(Timestamp::MAX);
            return Ok(Told::PutOff { until: next, bound: settings.mails_per_address });
        }
        let told = lane.tell(delivery, now).await;
        if !matches!(told, Told::Sent | Told::Unknown(_)) {
            self.ledger.give_back_mail_turn(&recipient, hour).await?;
        }
        Ok(told)
    }

    /// Shows how many deliveries wait, by destination. Mails may wait without a lane for them.
    pub async fn count_waiting_deliveries(&self, lanes: &[Lane]) -> Result<(), EngineError> {
        self.ledger.forget_mail_turns(hour_of(self.clock.now())).await?;
        let mut waiting = self.ledger.waiting_deliveries().await?;
        let lanes = lanes.iter().map(Lane::name).chain(MailLane::ALL.map(|lane| lane.as_str().to_owned()));
        for lane in lanes {
            waiting.entry(lane).or_default();
        }
        for (destination, count) in waiting {
            metrics::gauge!("doorbuster_outbox_waiting", "destination" => destination).set(count as f64);
        }
        Ok(())
    }

    /// Writes down how an attempt ended. If that cannot be done the lease runs out and the delivery is made again: an error here
    /// must not cut off the deliveries beside it.
    async fn record(&self, lane: &Lane, delivery: &LeasedDelivery, told: Told, report: &mut DeliveryReport) {
        let now = self.clock.now();
        let outcome = label(&told);
        if let Told::Gone = told {
            let Destination::Webhook(name) = lane.destination() else { return };
            match self.ledger.disable_endpoint(&name, now).await {
                Ok(false) => {}
                Ok(true) => {
                    report.disabled += 1;
                    tracing::error!(
                        endpoint = name,
                        "the endpoint {name} answered 410 and is disabled: see `doorbuster outbox`"
                    );
                }
                Err(error) => tracing::warn!(%error, "the endpoint {name} could not be disabled: {error}"),
            }
        }
        if let Told::Down { rest, .. } = told {
            report.rest = report.rest.max(Some(rest));
        }
        if let Told::PutOff { until, bound } = told {
            report.put_off += 1;
            let why = format!("{bound} mails went to this address within the hour: it waits for the next one");
            if let Err(error) = self.ledger.put_off_delivery(delivery, until, &why).await {
                // Its lease runs out, and it is looked at again.
                tracing::warn!(%error, "a mail could not be put off: {error}");
            }
            count(lane, outcome);
            return;
        }
        let state = state_after(told, delivery, lane.patience(), now);
        match &state {
            DeliveryState::Sent => report.sent += 1,
            DeliveryState::Refused(_) => report.refused += 1,
            DeliveryState::Skipped(_) => report.skipped += 1,
            DeliveryState::Dead(_) => report.dead += 1,
            DeliveryState::Again { .. } => report.later += 1,
        }
        if let DeliveryState::Refused(_) | DeliveryState::Dead(_) = &state {
            // Without the other side's words, which may name the buyer; `outbox show` has them.
            let (order, lane) = (delivery.subject.id(), lane.name());
            tracing::warn!(%order, lane, "a notice about order {order} will not arrive by {lane}: see `doorbuster outbox`");
        }
        let recorded = self.ledger.record_delivery(delivery, &state, now).await;
        steps::passed("outbox.recorded");
        let outcome = match recorded {
            Ok(true) if matches!(state, DeliveryState::Dead(_)) => "dead",
            Ok(true) => outcome,
            Ok(false) => "overtaken",
            Err(error) => {
                let order = delivery.subject.id();
                tracing::warn!(%order, %error, "a delivery about order {order} is made again, its end could not be recorded: {error}");
                "unrecorded"
            }
        };
        count(lane, outcome);
    }
}

fn count(lane: &Lane, outcome: &'static str) {
    metrics::counter!("doorbuster_outbox_deliveries_total", "destination" => lane.name(), "outcome" => outcome)
        .increment(1);
}

/// When the clock hour of an instant began.
fn hour_of(at: Timestamp) -> Timestamp {
    Timestamp::from_second(at.as_second() - at.as_second().rem_euclid(HOUR.as_secs())).unwrap_or(at)
}

fn label(told: &Told) -> &'static str {
    match told {
        Told::Sent => "sent",
        Told::Refused(_) => "refused",
        Told::Skipped(_) => "skipped",
        Told::Failed { .. } => "failed",
        Told::Unknown(_) => "unknown",
        Told::Down { .. } => "unreachable",
        Told::Gone => "gone",
        Told::PutOff { .. } => "put_off",
    }
}

fn state_after(told: Told, delivery: &LeasedDelivery, patience: SignedDuration, now: Timestamp) -> DeliveryState {
    let (error, asked) = match told {
        Told::Sent => return DeliveryState::Sent,
        Told::Refused(why) => return DeliveryState::Refused(why),
        Told::Skipped(why) => return DeliveryState::Skipped(why),
        // The endpoint is disabled; should it be enabled, this comes again.
        Told::Gone => return DeliveryState::Again { at: now, error: "answered with 410".to_owned() },
        Told::PutOff { until, .. } => return DeliveryState::Again { at: until, error: "put off".to_owned() },
        Told::Failed { error, retry_after } => (error, retry_after),
        Told::Unknown(error) | Told::Down { error, .. } => (error, None),
    };
    let give_up = delivery.queued_at.checked_add(patience).unwrap_or(Timestamp::MAX);
    if now >= give_up {
        return DeliveryState::Dead(error);
    }
    let wait = asked.unwrap_or_default().max(backoff(delivery.attempts));
    // The last try comes when time is up, and not before.
    let at = now.checked_add(wait).unwrap_or(give_up).min(give_up);
    DeliveryState::Again { at, error }
}

/// Half of it is chance, so that what failed together does not come back together.
fn backoff(attempts: i32) -> SignedDuration {
    let steps = attempts.clamp(1, 9).cast_unsigned() - 1;
    let full = (FIRST_BACKOFF * 3_i32.pow(steps)).min(LONGEST_BACKOFF);
    full.mul_f64(rand::rng().random_range(0.5..1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn backoff_grows_to_hours_and_is_never_the_whole_of_itself() {
        let seconds = (1..12).map(|attempts| backoff(attempts).as_secs()).collect::<Vec<_>>();
        assert!((2..5).contains(&seconds[0]) && (7..15).contains(&seconds[1]), "{seconds:?}");
        assert!(seconds[8..].iter().all(|wait| (4 * 3600..8 * 3600).contains(wait)), "{seconds:?}");
    }
}
