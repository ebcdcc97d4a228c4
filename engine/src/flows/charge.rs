//! Charging: one intent an order, created, stored, confirmed; or canceled after a decline.
//!
//! Two calls to the provider for an order that pays, three for one that is declined; before them those of `cards`, should its
//! card not have been saved yet. Before each call its key and exact bytes are committed as dispatched; no transaction is
//! open while we wait. What a crash leaves behind is an open attempt that may have been executed: it is read back, or
//! repeated under the same key. Nothing here decides that an unknown outcome is a failure.
//!
//! An order that pays costs three transactions after its lease: *create begins*; *create has ended, its intent is stored,
//! confirm begins*; *confirm has ended, the order is confirmed*. Why create and confirm stay two calls is written in
//! ARCHITECTURE.md, "Two calls for a charge".
//!
//! A payment is leased only when somebody is free to work on it, and gives its lease back when there is no turn for its
//! next call: because the worker is told to stop, or because the circuit has opened.

use std::pin::pin;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use futures_util::stream::FuturesUnordered;
use futures_util::{FutureExt, StreamExt};
use jiff::{SignedDuration, Timestamp};
use tokio::sync::futures::Notified;

use crate::domain::cards::CardFacts;
use crate::domain::ids::{BuyerId, CustomerId, IdempotencyKey, IntentId, OrderId, PaymentMethodId};
use crate::domain::payments::{AttemptState, PaymentEvent, PaymentState, ProviderReport, Verdict, ask_again};
use crate::domain::turns::{self, Desk};
use crate::ledger::LedgerError;
use crate::ledger::attempts::{Attempt, AttemptEnd, LeasedPayment, NotLeased, PaymentLease};
use crate::ledger::news::BuyerAction;
use crate::ledger::payments::{MethodGiven, PaymentSettled};
use crate::ledger::refunds::RefundSettled;
use crate::provider::{
    Admits, Format, Intent, IntentStatus, Operation, Outcome, Presence, ProviderClient, ProviderError, ProviderRequest,
    RateLimit, Turn,
};
use crate::steps;

use super::engine::{Engine, EngineError};
use super::refund::given_up;

/// Longer than the calls of one payment can take together, so that a lease runs out only when its worker is gone.
pub const CHARGE_LEASE: SignedDuration = SignedDuration::from_secs(120);
/// The first wait after a call without an answer; doubled each time.
const FIRST_BACKOFF: SignedDuration = SignedDuration::from_secs(1);
const LONGEST_BACKOFF: SignedDuration = SignedDuration::from_secs(60);
/// A create without an answer is repeated under its own key so often before another key is taken.
const CREATE_REPEATS: i32 = 3;
/// How long one payment rests whose call found our credential refused; the circuit holds the others back.
pub(super) const MISCONFIGURED_REST: SignedDuration = SignedDuration::from_secs(60);
/// However long the provider wants one payment to wait after a 429; its bucket rests for everybody.
pub(super) const RATE_LIMITED_REST_MAX: SignedDuration = SignedDuration::from_secs(60);
/// While slow calls are under way, what has fallen due meanwhile is looked for so often.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// Payments that fall due are looked for so often while others are under way, once fewer were due than there is room for.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// Calls of one kind that a payment may need before its lease ends: reads, before and after a lost answer.
const CALLS_OF_A_KIND: f64 = 2.0;
/// Half of the lease is for the calls themselves, half for waiting for a turn.
const LEASE_SHARE_TO_WAIT: f64 = 0.5;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ChargeReport {
    pub leased: usize,
    pub confirmed: usize,
    pub released: usize,
    /// Refunds that arrived.
    pub refunded: usize,
    /// The outcome is unknown, or the provider did not take the call: they come again.
    pub later: usize,
    pub review: usize,
}

/// A lease that could not be given back, because Postgres was away. Kept until it runs out; there are no more of them
/// than were leased in that time.
pub(super) struct OwedLease {
    lease: PaymentLease,
    until: Timestamp,
}

/// What came of a call.
enum Sent {
    /// An answer that moves the payment, and how the attempt ended; nothing of it is written yet.
    Answered(Box<Intent>, AttemptEnd),
    /// All is written.
    Ended(Step),
}

pub(super) enum Step {
    Settled(PaymentSettled),
    Refunded(RefundSettled),
    Later,
}

impl ChargeReport {
    fn count(&mut self, order: OrderId, step: Result<Step, EngineError>) {
        match step {
            Ok(Step::Settled(PaymentSettled::Confirmed)) => self.confirmed += 1,
            Ok(Step::Settled(PaymentSettled::Released)) => self.released += 1,
            Ok(Step::Settled(PaymentSettled::Review(_))) => self.review += 1,
            Ok(Step::Refunded(RefundSettled::Succeeded)) => self.refunded += 1,
            Ok(Step::Settled(_) | Step::Refunded(_)) => {}
            Ok(Step::Later) => self.later += 1,
            // It comes again, and the attempt that was left open is taken up.
            Err(error) => {
                tracing::warn!(%order, %error, "charging order {order} was interrupted: {error}");
                self.later += 1;
            }
        }
    }
}

/// How many payments may be under way at once just now.
fn admitted(provider: &ProviderClient) -> usize {
    let admits = provider.admits();
    metrics::gauge!("doorbuster_provider_circuit_open").set(f64::from(u8::from(admits == Admits::Nothing)));
    match admits {
        _ if provider.is_stopping() => 0,
        Admits::All => usize::MAX,
        Admits::One => 1,
        Admits::Nothing => 0,
    }
}

/// How many payments can have their calls within a lease: the last of them waits for its turn behind all the others.
/// With 25 a second and two minutes, 750.
fn fits_lease(limit: RateLimit, lease: SignedDuration) -> usize {
    let calls = f64::from(limit.per_second) * lease.as_secs_f64() * LEASE_SHARE_TO_WAIT;
    ((calls / CALLS_OF_A_KIND) as usize).max(1)
}

impl Engine {
    /// Charges up to `limit` payments that are due, `concurrency` at a time.
    pub async fn charge_due(
        &self,
        provider: &ProviderClient,
        limit: i64,
        concurrency: usize,
    ) -> Result<ChargeReport, EngineError> {
        self.charge_due_leasing(Desk::All, provider, limit, concurrency, CHARGE_LEASE).await
    }

    /// As [`Self::charge_due`], at one desk of a worker and with another lease: so long do the payments of a worker that
    /// died wait. One that runs out under its worker costs that worker its work, and nothing else.
    pub async fn charge_due_leasing(
        &self,
        desk: Desk,
        provider: &ProviderClient,
        limit: i64,
        concurrency: usize,
        lease: SignedDuration,
    ) -> Result<ChargeReport, EngineError> {
        let mut report = ChargeReport::default();
        let mut left = usize::try_from(limit).unwrap_or(0);
        let mut steps = FuturesUnordered::new();
        self.give_back_owed().await?;
        provider.probe_if_due().await;
        let mut refused = None;
        let (mut is_more, mut looked) = (true, Instant::now());
        loop {
            // What has ended together makes room together: one look for all of it.
            while let Some(Some((order, step))) = steps.next().now_or_never() {
                report.count(order, step);
            }
            let room = desk.places(concurrency).min(fits_lease(provider.limit(), lease)).min(admitted(provider));
            let asked = room.saturating_sub(steps.len()).min(left);
            let is_time = is_more || steps.is_empty() || looked.elapsed() >= LOOK_AGAIN;
            if asked > 0 && refused.is_none() && is_time {
                let mut leasing = pin!(self.lease_in_turn(desk, lease, asked));
                // Those under way go on meanwhile: they hold connections to Postgres, and this waits for one.
                let leased = loop {
                    tokio::select! {
                        leased = &mut leasing => break leased,
                        Some((order, step)) = steps.next() => report.count(order, step),
                    }
                };
                let (leased, end) = leased;
                if !leased.is_empty() {
                    steps::passed("charge.leased");
                }
                (is_more, looked) = (leased.len() == asked, Instant::now());
                left -= leased.len();
                report.leased += leased.len();
                steps.extend(leased.into_iter().map(|payment| async move {
                    (payment.order, self.charge_or_put_back(provider, payment, lease).await)
                }));
                // Calls under way are never dropped: their outcome would be unknown.
                refused = end.err();
            }
            if steps.is_empty() {
                break;
            }
            // Whatever ends makes room for the next; what falls due meanwhile does not wait for the slowest call.
            let wait = if is_more { LOOK_EVERY } else { LOOK_AGAIN };
            if let Ok(Some((order, step))) = tokio::time::timeout(wait, steps.next()).await {
                report.count(order, step);
            }
        }
        metrics::counter!("doorbuster_orders_confirmed_total").increment(report.confirmed as u64);
        metrics::counter!("doorbuster_orders_payment_failed_total").increment(report.released as u64);
        refused.map_or(Ok(report), |error| Err(error.into()))
    }

    /// Leases up to so many payments, and shares the places out as [`turns`] has it; with what stopped it half-way, if
    /// anything did.
    async fn lease_in_turn(
        &self,
        desk: Desk,
        lease: SignedDuration,
        places: usize,
    ) -> (Vec<LeasedPayment>, Result<(), LedgerError>) {
        let mut leased = Vec::new();
        for (lanes, count) in turns::shares(desk, self.places_taken.load(Ordering::Relaxed), places) {
            match self.ledger.lease_payments_of(self.clock.now(), lease, &lanes, count as i64).await {
                Ok(more) => {
                    let is_all = more.len() < count;
                    self.places_taken.fetch_add(more.len(), Ordering::Relaxed);
                    leased.extend(more);
                    if is_all {
                        break;
                    }
                }
                Err(NotLeased { error, perhaps }) => {
                    self.owe(perhaps, lease);
                    return (leased, Err(error));
                }
            }
        }
        (leased, Ok(()))
    }

    /// Remembers leases that are to be given back as soon as Postgres is there.
    fn owe(&self, leases: impl IntoIterator<Item = PaymentLease>, lease: SignedDuration) {
        let until = self.clock.now().checked_add(lease).unwrap_or(Timestamp::MAX);
        let owed = leases.into_iter().map(|lease| OwedLease { lease, until });
        self.owed_leases.lock().expect("nobody panics holding this lock").extend(owed);
    }

    /// Gives back what could not be given back before, so that nobody waits for its lease; what may have been sent
    /// keeps it. Answers how many leases there were.
    pub async fn give_back_owed(&self) -> Result<usize, EngineError> {
        let now = self.clock.now();
        let owed = {
            let mut owed = self.owed_leases.lock().expect("nobody panics holding this lock");
            owed.retain(|owed| owed.until > now);
            metrics::gauge!("doorbuster_charge_leases_owed").set(owed.len() as f64);
            owed.iter().map(|owed| owed.lease).collect::<Vec<_>>()
        };
        if owed.is_empty() {
            return Ok(0);
        }
        let given = self.ledger.give_back_unsent(&owed, now).await?;
        let is_given = |lease: &PaymentLease| given.contains(&lease.order) && owed.contains(lease);
        // The rest stays: a COMMIT that was cut off may still be on its way in Postgres.
        self.owed_leases.lock().expect("nobody panics holding this lock").retain(|owed| !is_given(&owed.lease));
        Ok(given.len())
    }

    /// A payment that Postgres interrupts is put back, and comes again with what was written until then: what cost a
    /// moment does not cost the whole lease. Should Postgres refuse that as well, it is given back once Postgres is
    /// there again.
    async fn charge_or_put_back(
        &self,
        provider: &ProviderClient,
        payment: LeasedPayment,
        lease: SignedDuration,
    ) -> Result<Step, EngineError> {
        let leased = payment.clone();
        let step = Box::pin(self.charge(provider, payment)).await;
        if let Err(error) = &step
            && error.is_retryable()
            && let Err(error) = self.later(&leased, None, None, backoff(leased.tries)).await
        {
            let order = leased.order;
            tracing::warn!(%order, %error, "the charge of order {order} waits for Postgres: {error}");
            self.owe([PaymentLease { order: leased.order, number: leased.lease }], lease);
        }
        step
    }

    async fn charge(&self, provider: &ProviderClient, mut payment: LeasedPayment) -> Result<Step, EngineError> {
        if payment.state == PaymentState::RefundPending {
            return self.refund(provider, payment).await;
        }
        if let Some(open) = payment.open_attempt.take() {
            return self.resume(provider, &mut payment, open).await;
        }
        if matches!(payment.state, PaymentState::Processing | PaymentState::ActionRequired) {
            return self.ask(provider, &payment).await;
        }
        // Confirmed before, and no attempt is open: somebody died between writing down the answer and settling it. Not
        // after a decline: its buyer has given another card, or is to be asked by their bank.
        if payment.last_confirm.is_some_and(|state| !matches!(state, AttemptState::Declined | AttemptState::Rejected))
            && matches!(payment.state, PaymentState::InFlight | PaymentState::Unknown)
        {
            let Some(intent) = self.read_back(provider, &payment).await? else { return Ok(Step::Later) };
            if attempt_state("confirm", &intent).is_some() {
                return self.settle_intent(payment.order, &intent, None).await;
            }
        }
        self.next_call(provider, &mut payment, None).await
    }

    /// The next call of a payment that has no open attempt, or none but the one whose end is told: that is written together
    /// with what is sent next.
    async fn next_call(
        &self,
        provider: &ProviderClient,
        payment: &mut LeasedPayment,
        mut before: Option<AttemptEnd>,
    ) -> Result<Step, EngineError> {
        // A card that may become its customer's own is not used up before that is known.
        if payment.card == CardFacts::Checking && payment.state != PaymentState::CancelRequested {
            if let Some(end) = before.take() {
                self.ledger.finish_attempt(payment, end, self.clock.now()).await?;
            }
            payment.card = self.check_card_of(provider, payment.order).await?;
            if payment.card == CardFacts::Checking {
                return self.later(payment, None, None, backoff(payment.tries)).await;
            }
        }
        loop {
            let request = match next_request(payment, self.return_url.as_deref()) {
                Ok(request) => request,
                Err(reason) => return self.review(payment, before, &reason).await,
            };
            if operation_name(request.operation) == "confirm" && payment.is_customer_to_be_named() {
                if let Some(end) = before.take() {
                    self.ledger.finish_attempt(payment, end, self.clock.now()).await?;
                }
                if !self.name_customer(provider, payment).await? {
                    return Ok(Step::Later);
                }
            }
            // First the turn, then the word that it is sent: nothing waits for the limit in a state that may have run.
            let Ok(turn) = provider.turn(request.operation.endpoint()).await else {
                return self.no_turn(payment, before).await;
            };
            let operation = operation_name(request.operation);
            let call = (operation, &*request.idempotency_key, &*request.path, &*request.body);
            let Some(attempt) = self.ledger.begin_attempt(payment, before.take(), call, self.clock.now()).await? else {
                return self.look_again(payment).await;
            };
            match self.send(provider, payment, &attempt, turn).await? {
                // The intent is stored on the order with the next call: then it may be confirmed.
                Sent::Answered(intent, end) if operation == "create" => {
                    (payment.intent, payment.intent_customer) = (Some(intent.id), intent.customer);
                    before = Some(end);
                }
                Sent::Answered(intent, end) => return self.settle_intent(payment.order, &intent, Some(end)).await,
                Sent::Ended(step) => return Ok(step),
            }
        }
    }

    /// Takes up an attempt that a crash or a lost answer left open.
    async fn resume(
        &self,
        provider: &ProviderClient,
        payment: &mut LeasedPayment,
        open: Attempt,
    ) -> Result<Step, EngineError> {
        let may_have_run = matches!(open.state, AttemptState::Dispatched | AttemptState::Unknown);
        if may_have_run && open.operation != "create" {
            let Some(intent) = self.read_back(provider, payment).await? else { return Ok(Step::Later) };
            let state = attempt_state(&open.operation, &intent);
            // The decline that the intent tells of may be that of the card before: the provider repeats its answer to this
            // one's key.
            let state = state.filter(|state| *state != AttemptState::Declined || payment.confirms == 1);
            if let Some(state) = state {
                let error = intent.last_payment_error.as_deref().unwrap_or_default();
                if state == AttemptState::Declined && is_bank_to_ask(&open, error) {
                    let end = payment.ended(&open, state, error);
                    return self.later(payment, Some(end), None, SignedDuration::ZERO).await;
                }
                let end = payment.ended(&open, state, "read back from the provider");
                return self.settle_intent(payment.order, &intent, Some(end)).await;
            }
        }
        // The order was cancelled: what would take money is not sent any more.
        if payment.state == PaymentState::CancelRequested && open.operation != "cancel" {
            let end = payment.ended(&open, given_up(&open), "the order was cancelled");
            return self.next_call(provider, payment, Some(end)).await;
        }
        // The provider keeps answering a key with the error it once stored. The intent, just read, can still be confirmed
        // or canceled under the next key, and captures at most once whatever comes of the old one; an intent that nobody
        // stored holds no money.
        if open.state == AttemptState::Unknown && (open.operation != "create" || payment.tries > CREATE_REPEATS) {
            let detail = "no answer came of this key; the next one takes over";
            let end = payment.ended(&open, AttemptState::Rejected, detail);
            return self.next_call(provider, payment, Some(end)).await;
        }
        // Never dispatched, cut off by a crash, or a create: the same key and bytes again. If it did run, the provider answers as it did.
        if open.operation == "confirm" && !self.name_customer(provider, payment).await? {
            return Ok(Step::Later);
        }
        let operation = operation_of(&open.operation, payment.confirms);
        let Ok(turn) = provider.turn(operation.endpoint()).await else { return self.no_turn(payment, None).await };
        if !self.ledger.dispatch_again(payment, &open, self.clock.now()).await? {
            return self.look_again(payment).await;
        }
        match self.send(provider, payment, &open, turn).await? {
            Sent::Answered(intent, end) if open.operation == "create" => {
                (payment.intent, payment.intent_customer) = (Some(intent.id), intent.customer);
                self.next_call(provider, payment, Some(end)).await
            }
            Sent::Answered(intent, end) => self.settle_intent(payment.order, &intent, Some(end)).await,
            Sent::Ended(step) => Ok(step),
        }
    }

    /// Sends one attempt, which is committed as dispatched, and says how it ended.
    async fn send(
        &self,
        provider: &ProviderClient,
        payment: &LeasedPayment,
        attempt: &Attempt,
        turn: Turn,
    ) -> Result<Sent, EngineError> {
        let request = ProviderRequest {
            operation: operation_of(&attempt.operation, payment.confirms),
            format: format_of(attempt.format),
            path: attempt.path.clone(),
            idempotency_key: attempt.idempotency_key.clone(),
            body: attempt.body.clone(),
        };
        passed(&attempt.operation, ["create.dispatched", "confirm.dispatched", "cancel.dispatched"]);
        let outcome = provider.send_in_turn(&request, turn).await;
        passed(&attempt.operation, ["create.answered", "confirm.answered", "cancel.answered"]);
        let now = self.clock.now();
        let operation = attempt.operation.clone();
        let label = outcome_label(&outcome);
        metrics::counter!("doorbuster_provider_calls_total", "operation" => operation, "outcome" => label).increment(1);
        let not_sent = |detail: &str| payment.ended(attempt, AttemptState::NotSent, detail);
        let step = match outcome {
            Outcome::Answered(intent) => {
                if attempt.operation == "create"
                    && let Some(reason) = mismatch(provider, payment, &intent)
                {
                    let end = payment.ended(attempt, AttemptState::Rejected, &*reason);
                    return Ok(Sent::Ended(self.review(payment, Some(end), &reason).await?));
                }
                let state = attempt_state(&attempt.operation, &intent).unwrap_or(AttemptState::Unknown);
                let end = payment.ended(attempt, state, status_text(&intent));
                if state == AttemptState::Unknown {
                    self.later(payment, Some(end), None, backoff(payment.tries)).await?
                } else if attempt.operation == "create" {
                    let end = end.with_intent(intent.id.clone());
                    return Ok(Sent::Answered(Box::new(intent), end));
                } else {
                    return Ok(Sent::Answered(Box::new(intent), end));
                }
            }
            Outcome::Declined(decline) => {
                let code = decline.decline_code.as_deref().unwrap_or(&decline.code).to_owned();
                let end = payment.ended(attempt, AttemptState::Declined, &*code);
                if is_bank_to_ask(attempt, &code) {
                    return Ok(Sent::Ended(self.later(payment, Some(end), None, SignedDuration::ZERO).await?));
                }
                let Some(intent) = payment.intent.clone() else {
                    self.ledger.finish_attempt(payment, end, now).await?;
                    return Ok(Sent::Ended(Step::Later));
                };
                self.settle_decline(payment, intent, code, Some(&end)).await?
            }
            Outcome::NotSent { reason } => {
                self.later(payment, Some(not_sent(&reason)), None, backoff(payment.tries)).await?
            }
            Outcome::RateLimited { retry_after } => {
                let wait = retry_after.and_then(|wait| SignedDuration::try_from(wait).ok());
                let wait = wait.map_or_else(|| backoff(payment.tries), |wait| wait.min(RATE_LIMITED_REST_MAX));
                self.later(payment, Some(not_sent("rate limited")), None, wait).await?
            }
            Outcome::Unknown { reason } => {
                let end = payment.ended(attempt, AttemptState::Unknown, reason);
                self.later(payment, Some(end), Some(PaymentEvent::WentDark), ask_again(payment.tries)).await?
            }
            Outcome::Misconfigured { status } => {
                let end = not_sent(&format!("refused with {status}"));
                self.later(payment, Some(end), None, MISCONFIGURED_REST).await?
            }
            Outcome::Rejected { code, message } => self.rejected(provider, payment, attempt, code, &message).await?,
        };
        Ok(Sent::Ended(step))
    }

    /// The provider will never take these bytes. The intent may have moved under another key; only what it is now counts.
    async fn rejected(
        &self,
        provider: &ProviderClient,
        payment: &LeasedPayment,
        attempt: &Attempt,
        code: String,
        message: &str,
    ) -> Result<Step, EngineError> {
        let detail = format!("{code}: {message}");
        let end = payment.ended(attempt, AttemptState::Rejected, &*detail);
        if payment.intent.is_none() {
            return self.review(payment, Some(end), &detail).await;
        }
        self.ledger.finish_attempt(payment, end, self.clock.now()).await?;
        match self.read_back(provider, payment).await? {
            Some(intent) if attempt_state(&attempt.operation, &intent).is_some() => {
                self.settle_intent(payment.order, &intent, None).await
            }
            // Nothing was or will be charged with this means of payment: as good as a decline. A key that was
            // used for other bytes is our own mistake, and a person's business.
            Some(intent) if attempt.operation == "confirm" && code != "idempotency_error" => {
                self.settle_decline(payment, intent.id, code, None).await
            }
            Some(_) => self.review(payment, None, &detail).await,
            // Not known yet, so nothing for a person to look at: it has been put back.
            None => Ok(Step::Later),
        }
    }

    /// Should a cancel follow, it is due at once: the next round makes it.
    async fn settle_decline(
        &self,
        payment: &LeasedPayment,
        intent: IntentId,
        code: String,
        end: Option<&AttemptEnd>,
    ) -> Result<Step, EngineError> {
        let (amount, order) = (payment.amount, Some(payment.order));
        let report = ProviderReport { intent, amount, order, verdict: Verdict::Declined { code } };
        self.ledger.settle_payment(payment.order, &report, end, self.clock.now()).await?;
        Ok(Step::Later)
    }

    /// Gives a payment that waits for a method the one of the buyer's profile, and has it charged at once.
    pub async fn use_profile(
        &self,
        order: OrderId,
        buyer: &BuyerId,
        key: &IdempotencyKey,
    ) -> Result<MethodGiven, EngineError> {
        let given = self.ledger.use_profile(order, buyer, key, self.clock.now()).await?;
        self.payments_written.notify_waiters();
        Ok(given)
    }

    /// Until this process writes payments that may be charged. What other processes write is not told of.
    pub fn payments_written(&self) -> Notified<'_> {
        self.payments_written.notified()
    }

    /// Asks the provider how a payment stands that waits for the buyer or for the provider.
    async fn ask(&self, provider: &ProviderClient, payment: &LeasedPayment) -> Result<Step, EngineError> {
        match self.read_back(provider, payment).await? {
            Some(intent) => self.settle_intent(payment.order, &intent, None).await,
            None => Ok(Step::Later),
        }
    }

    async fn read_back(
        &self,
        provider: &ProviderClient,
        payment: &LeasedPayment,
    ) -> Result<Option<Intent>, EngineError> {
        let Some(intent) = &payment.intent else {
            self.review(payment, None, "an attempt was sent for an intent that is not stored").await?;
            return Ok(None);
        };
        match provider.read_intent(intent).await {
            Ok(intent) => {
                steps::passed("charge.read_back");
                Ok(Some(intent))
            }
            Err(ProviderError::NotAsked(_)) => {
                self.give_back(payment).await?;
                Ok(None)
            }
            Err(error) => {
                tracing::warn!(order = %payment.order, %error, "reading back the payment of order {}: {error}", payment.order);
                self.later(payment, None, None, ask_again(payment.tries)).await?;
                Ok(None)
            }
        }
    }

    /// `end`: of the call that answered with this intent, if one did.
    pub(super) async fn settle_intent(
        &self,
        order: OrderId,
        intent: &Intent,
        end: Option<AttemptEnd>,
    ) -> Result<Step, EngineError> {
        // What was captured is what counts; should it differ from what was asked for, settling finds the contradiction.
        let amount = if intent.status == IntentStatus::Succeeded { intent.amount_received } else { intent.amount };
        let report = ProviderReport {
            intent: intent.id.clone(),
            amount,
            order: intent.order_id.as_deref().and_then(|id| id.parse().ok()).map(OrderId),
            verdict: verdict(intent),
        };
        let now = self.clock.now();
        let settled = self.ledger.settle_payment(order, &report, end.as_ref(), now).await?;
        if let PaymentSettled::Review(reason) = &settled {
            needs_a_person(order, reason);
        }
        // Should we die before this, the next look at the payment says it again.
        if let (PaymentSettled::Waiting, Some(action)) = (&settled, &intent.next_action) {
            let action = BuyerAction {
                kind: action.kind.clone(),
                url: action.url.clone(),
                client_secret: action.client_secret.clone(),
            };
            self.ledger.store_next_action(order, &intent.id, &action).await?;
            steps::passed("charge.action_kept");
        }
        Ok(Step::Settled(settled))
    }

    pub(super) async fn later(
        &self,
        payment: &LeasedPayment,
        end: Option<AttemptEnd>,
        event: Option<PaymentEvent>,
        wait: SignedDuration,
    ) -> Result<Step, EngineError> {
        let now = self.clock.now();
        let due = now.checked_add(wait).unwrap_or(now);
        self.ledger.yield_payment(payment, end.as_ref(), event, None, Some(due), now).await?;
        Ok(Step::Later)
    }

    /// The payment has moved on since it was leased: the next round sees how.
    pub(super) async fn look_again(&self, payment: &LeasedPayment) -> Result<Step, EngineError> {
        self.later(payment, None, None, SignedDuration::ZERO).await
    }

    /// There is no turn for its next call: another worker may have it at once.
    pub(super) async fn no_turn(&self, payment: &LeasedPayment, end: Option<AttemptEnd>) -> Result<Step, EngineError> {
        if let Some(end) = end {
            self.ledger.finish_attempt(payment, end, self.clock.now()).await?;
        }
        self.give_back(payment).await?;
        Ok(Step::Later)
    }

    async fn give_back(&self, payment: &LeasedPayment) -> Result<(), EngineError> {
        Ok(self.ledger.give_back_payment(payment, self.clock.now()).await?)
    }

    async fn review(
        &self,
        payment: &LeasedPayment,
        end: Option<AttemptEnd>,
        reason: &str,
    ) -> Result<Step, EngineError> {
        let event = Some(PaymentEvent::Contradiction);
        self.ledger.yield_payment(payment, end.as_ref(), event, Some(reason), None, self.clock.now()).await?;
        needs_a_person(payment.order, reason);
        Ok(Step::Settled(PaymentSettled::Review(reason.to_owned())))
    }

    /// Ends what is left of calls whose worker died while the provider told of their end by itself. `lease`: the longest that
    /// a worker that lives may be about a call.
    pub async fn end_settled_attempts(&self, lease: SignedDuration) -> Result<u64, EngineError> {
        let now = self.clock.now();
        Ok(self.ledger.end_settled_attempts(now.checked_sub(lease).unwrap_or(Timestamp::MIN), now).await?)
    }
}

/// Said once for each payment that goes to review, whoever sends it there.
pub(super) fn needs_a_person(order: OrderId, reason: &str) {
    tracing::error!(%order, reason, "the payment of order {order} needs a person: {reason}");
    metrics::counter!("doorbuster_payments_review_total").increment(1);
}

/// Of the three steps, the one that a call of this kind has come to.
fn passed(operation: &str, [create, confirm, cancel]: [&'static str; 3]) {
    steps::passed(match operation {
        "create" => create,
        "cancel" => cancel,
        _ => confirm,
    });
}

/// The call that a payment without an open attempt needs next; its number makes its key. It is written in the format of the
/// payment's first call.
fn next_request(payment: &mut LeasedPayment, return_url: Option<&str>) -> Result<ProviderRequest, String> {
    let (order, amount) = (payment.order, payment.amount);
    let format = format_of(*payment.format.get_or_insert(Format::Second.number()));
    match (&payment.intent, payment.state, &payment.payment_method) {
        (None, _, _) => {
            payment.creates += 1;
            let request = match (format, payment.creates - 1) {
                (Format::First, 0) => ProviderRequest::create(order, amount),
                (Format::First, again) => ProviderRequest::create_again(order, amount, again),
                (Format::Second, again) => {
                    let customer = saved(&payment.card).map(|(customer, _)| customer);
                    ProviderRequest::create_for(order, amount, &payment.shop, customer, again)
                }
            };
            request.map_err(|error| error.to_string())
        }
        (Some(intent), PaymentState::CancelRequested, _) => {
            payment.cancels += 1;
            let request = match payment.cancels - 1 {
                0 => ProviderRequest::cancel(order, intent),
                again => ProviderRequest::cancel_again(order, intent, again),
            };
            Ok(request.in_format(format))
        }
        (Some(intent), _, Some(given)) => {
            payment.confirms += 1;
            let nth = payment.confirms;
            let (method, presence) = match saved(&payment.card) {
                Some((_, method)) if !payment.is_bank_to_ask => (method, Presence::OffSession),
                Some((_, method)) => (method, Presence::OnSession { return_url }),
                None => (given, Presence::OnSession { return_url }),
            };
            Ok(match format {
                Format::First => ProviderRequest::confirm(order, intent, method, nth),
                Format::Second => ProviderRequest::confirm_for(order, intent, method, presence, nth),
            })
        }
        (Some(_), _, None) => Err("there is no payment method".to_owned()),
    }
}

fn saved(card: &CardFacts) -> Option<(&CustomerId, &PaymentMethodId)> {
    match card {
        CardFacts::Saved { customer, method } => Some((customer, method)),
        CardFacts::OneOff | CardFacts::Checking => None,
    }
}

/// The format of a call by its number. A newer one's payments are leased by nobody who does not know it.
pub(super) fn format_of(number: i16) -> Format {
    Format::of_number(number).unwrap_or(Format::Second)
}

/// A saved card was charged while its owner was not there, and their bank wants to ask them: nothing is decided yet. The next
/// confirm lets it.
fn is_bank_to_ask(attempt: &Attempt, code: &str) -> bool {
    code == "authentication_required" && attempt.operation == "confirm" && attempt.body.contains("&off_session=true")
}

/// Why an intent that was just created must not be confirmed: it is not about this order's money.
fn mismatch(provider: &ProviderClient, payment: &LeasedPayment, intent: &Intent) -> Option<String> {
    if intent.amount != payment.amount {
        return Some(format!("the intent is about {} and not {}", intent.amount, payment.amount));
    }
    if intent.order_id.as_deref() != Some(&*payment.order.to_string()) {
        return Some("the intent names another order".to_owned());
    }
    if intent.livemode != provider.is_live() {
        return Some("the intent is not of the mode of our key: test money confirms no order".to_owned());
    }
    None
}

/// How an attempt ended, if the intent shows that it did. `None`: it has not been executed.
fn attempt_state(operation: &str, intent: &Intent) -> Option<AttemptState> {
    match (operation, &intent.status) {
        ("create", _) | (_, IntentStatus::Succeeded | IntentStatus::Canceled) => Some(AttemptState::Succeeded),
        (_, IntentStatus::RequiresAction) => Some(AttemptState::ActionRequired),
        (_, IntentStatus::Processing) => Some(AttemptState::Processing),
        ("confirm", IntentStatus::RequiresPaymentMethod) if intent.last_payment_error.is_some() => {
            Some(AttemptState::Declined)
        }
        (_, IntentStatus::RequiresPaymentMethod | IntentStatus::RequiresConfirmation) => None,
        (_, IntentStatus::RequiresCapture | IntentStatus::Other(_)) => Some(AttemptState::Processing),
    }
}

fn verdict(intent: &Intent) -> Verdict {
    match &intent.status {
        IntentStatus::Succeeded => Verdict::Captured { charge: intent.latest_charge.clone() },
        IntentStatus::Canceled => Verdict::Canceled,
        IntentStatus::RequiresAction => Verdict::ActionRequired,
        IntentStatus::RequiresPaymentMethod => {
            Verdict::Declined { code: intent.last_payment_error.clone().unwrap_or_else(|| "declined".to_owned()) }
        }
        _ => Verdict::Processing,
    }
}

fn status_text(intent: &Intent) -> &str {
    match &intent.status {
        IntentStatus::RequiresPaymentMethod => "requires_payment_method",
        IntentStatus::RequiresConfirmation => "requires_confirmation",
        IntentStatus::RequiresAction => "requires_action",
        IntentStatus::Processing => "processing",
        IntentStatus::RequiresCapture => "requires_capture",
        IntentStatus::Canceled => "canceled",
        IntentStatus::Succeeded => "succeeded",
        IntentStatus::Other(text) => text,
    }
}

fn operation_name(operation: Operation) -> &'static str {
    match operation {
        Operation::Create | Operation::CreateAgain { .. } => "create",
        Operation::Confirm { .. } => "confirm",
        Operation::Cancel | Operation::CancelAgain { .. } => "cancel",
        Operation::Refund => "refund",
        Operation::NameCustomer | Operation::Customer | Operation::Card => "card",
    }
}

fn operation_of(name: &str, confirms: u32) -> Operation {
    match name {
        "create" => Operation::Create,
        "cancel" => Operation::Cancel,
        "refund" => Operation::Refund,
        _ => Operation::Confirm { attempt: confirms },
    }
}

pub(super) fn outcome_label<T>(outcome: &Outcome<T>) -> &'static str {
    match outcome {
        Outcome::Answered(_) => "answered",
        Outcome::Declined(_) => "declined",
        Outcome::NotSent { .. } => "not_sent",
        Outcome::Unknown { .. } => "unknown",
        Outcome::RateLimited { .. } => "rate_limited",
        Outcome::Rejected { .. } => "rejected",
        Outcome::Misconfigured { .. } => "misconfigured",
    }
}

/// 1, 2, 4 … 60 seconds. Payments fall due one by one, so they need no jitter against each other.
pub(super) fn backoff(tries: i32) -> SignedDuration {
    let doublings = tries.clamp(1, 7) - 1;
    (FIRST_BACKOFF * (1 << doublings)).min(LONGEST_BACKOFF)
}
