//! Cards: a buyer's customer is made at the provider, and their card becomes the customer's own, so that it can be charged
//! again. In the background, behind charges; a charge whose card is still being checked does it itself.
//!
//! Nothing here moves money, so a call is repeated under its own key until the provider has answered. A worker that dies
//! leaves the card due again after its lease. What an answer means for a card is decided in `domain/cards.rs`.

use std::time::{Duration, Instant};

use futures_util::future::join_all;
use hmac::{Hmac, KeyInit, Mac};
use jiff::{SignedDuration, Timestamp};
use sha2::Sha256;

use crate::domain::cards::{AttachAnswer, CardFacts, CardRead, CardVerdict, after_attach, after_read};
use crate::domain::ids::{CustomerId, OrderId};
use crate::domain::payments::ask_again;
use crate::ledger::attempts::LeasedPayment;
use crate::ledger::customers::{CardEnd, KnownCustomer, LeasedCard};
use crate::provider::{
    Customer, Endpoint, Intent, NoTurn, Outcome, ProviderClient, ProviderError, ProviderRequest, SavedMethod, Turn,
};
use crate::steps;

use super::charge::{MISCONFIGURED_REST, RATE_LIMITED_REST_MAX, backoff, outcome_label};
use super::engine::{Engine, EngineError};

/// A call without an answer is repeated under its own key so often before another key is taken.
const KEY_REPEATS: i32 = 3;

/// A charge whose card is just being checked for another order of its buyer's waits so long for that: as long as its two
/// calls take. Then it comes again.
const ANOTHERS_CHECK: Duration = Duration::from_secs(1);
const LOOK_EVERY: Duration = Duration::from_millis(50);

/// So long does a card wait in the background behind charges that have just come; then it is put back, for them to take.
const BEHIND_MAX: Duration = Duration::from_secs(1);

/// What became of the cards of one round.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CardsReport {
    pub leased: usize,
    pub saved: usize,
    pub refused: usize,
    /// The provider has not said yet.
    pub later: usize,
}

/// Who waits for a card.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Urgency {
    /// Nobody: it comes behind all charges.
    Background,
    /// A charge, or a buyer who looks at it.
    Awaited,
}

impl Urgency {
    pub(super) async fn turn(self, provider: &ProviderClient, endpoint: Endpoint) -> Result<Turn, NoTurn> {
        match self {
            Self::Background => {
                let turn = tokio::time::timeout(BEHIND_MAX, provider.turn_behind_charges(endpoint)).await;
                turn.unwrap_or(Err(NoTurn::Behind))
            }
            Self::Awaited => provider.turn(endpoint).await,
        }
    }
}

/// Whether a call may be followed by the next one.
pub(super) enum Went<T> {
    On(T),
    /// It comes again at this time, under its own key or the next one.
    Later(Timestamp),
    NextKey(Timestamp),
    /// The buyer has been forgotten.
    Nobody,
}

impl Engine {
    /// Asks the provider about up to `limit` cards that are due, all at once; they wait behind all charges.
    pub async fn check_cards(&self, provider: &ProviderClient, limit: i64) -> Result<CardsReport, EngineError> {
        // A charge that needs one of them finds it free.
        if provider.has_charges_waiting() {
            return Ok(CardsReport::default());
        }
        let cards = self.ledger.lease_cards(self.clock.now(), self.card_lease, limit).await?;
        let mut report = CardsReport { leased: cards.len(), ..CardsReport::default() };
        for end in join_all(cards.iter().map(|card| self.check_card(provider, card, Urgency::Background))).await {
            match end? {
                Some(CardEnd::Saved { .. }) => report.saved += 1,
                Some(CardEnd::Refused(_)) => report.refused += 1,
                None => report.later += 1,
            }
        }
        Ok(report)
    }

    /// As much as can be known now of the card that a payment needs.
    pub(super) async fn check_card_of(
        &self,
        provider: &ProviderClient,
        order: OrderId,
    ) -> Result<CardFacts, EngineError> {
        if let Some(card) = self.ledger.lease_card_of(order, self.clock.now(), self.card_lease).await? {
            self.check_card(provider, &card, Urgency::Awaited).await?;
            return Ok(self.ledger.card_facts(order).await?);
        }
        let deadline = Instant::now() + ANOTHERS_CHECK;
        loop {
            let facts = self.ledger.card_facts(order).await?;
            if facts != CardFacts::Checking || Instant::now() >= deadline {
                return Ok(facts);
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    /// `None`: it is not decided, and has been put back.
    async fn check_card(
        &self,
        provider: &ProviderClient,
        card: &LeasedCard,
        urgency: Urgency,
    ) -> Result<Option<CardEnd>, EngineError> {
        let customer = match &card.customer.id {
            Some(customer) => customer.clone(),
            None => match self.make_customer(provider, &card.customer, card.tries, urgency).await? {
                Went::On(customer) => customer,
                Went::Later(at) => return self.put_card_back(card, at).await,
                Went::NextKey(at) => {
                    self.ledger.give_up_customer_key(&card.customer).await?;
                    return self.put_card_back(card, at).await;
                }
                // Their cards have gone with them.
                Went::Nobody => return Ok(None),
            },
        };
        let end = match self.attach(provider, card, &customer, urgency).await? {
            Went::On(end) => end,
            Went::Later(at) => return self.put_card_back(card, at).await,
            Went::NextKey(at) => {
                self.ledger.keep_card_under_next_key(card, at).await?;
                return Ok(None);
            }
            Went::Nobody => return Ok(None),
        };
        self.ledger.end_card(card, &end, self.clock.now()).await?;
        let state = if matches!(end, CardEnd::Saved { .. }) { "saved" } else { "refused" };
        metrics::counter!("doorbuster_cards_checked_total", "state" => state).increment(1);
        Ok(Some(end))
    }

    async fn put_card_back(&self, card: &LeasedCard, at: Timestamp) -> Result<Option<CardEnd>, EngineError> {
        self.ledger.keep_card(card, at).await?;
        Ok(None)
    }

    /// The buyer's customer, made once: under one key, however many ask.
    pub(super) async fn make_customer(
        &self,
        provider: &ProviderClient,
        known: &KnownCustomer,
        tries: i32,
        urgency: Urgency,
    ) -> Result<Went<CustomerId>, EngineError> {
        if !self.ledger.ask_customer(known.reference, self.clock.now()).await? {
            return Ok(Went::Nobody);
        }
        self.learn_customer(provider, known, tries, urgency).await
    }

    /// The customer that this key makes, or has made. That it is asked for has been committed.
    pub(super) async fn learn_customer(
        &self,
        provider: &ProviderClient,
        known: &KnownCustomer,
        tries: i32,
        urgency: Urgency,
    ) -> Result<Went<CustomerId>, EngineError> {
        let request = ProviderRequest::customer(known.reference, &known.shop, known.again);
        let Ok(turn) = urgency.turn(provider, request.operation.endpoint()).await else {
            return Ok(Went::Later(self.clock.now()));
        };
        let outcome = provider.send_card_in_turn::<Customer>(&request, turn).await;
        count("customer", &outcome);
        match &outcome {
            Outcome::Answered(customer) if customer.livemode != provider.is_live() => {
                tracing::error!("the provider's customer is not of the mode of our key: no card can be saved");
                Ok(Went::Later(self.after(MISCONFIGURED_REST)))
            }
            Outcome::Answered(customer) => {
                steps::passed("customer.created");
                match self.ledger.store_customer(known.reference, &customer.id).await? {
                    Some(customer) => Ok(Went::On(customer)),
                    None => Ok(Went::Nobody),
                }
            }
            Outcome::Unknown { .. } if tries > KEY_REPEATS => Ok(Went::NextKey(self.again_at(&outcome, tries))),
            Outcome::Rejected { code, message } => {
                tracing::error!(code, "the provider refuses to make a customer: {message}");
                Ok(Went::NextKey(self.again_at(&outcome, tries)))
            }
            _ => Ok(Went::Later(self.again_at(&outcome, tries))),
        }
    }

    /// Makes the card the customer's own, or finds out why it cannot be.
    async fn attach(
        &self,
        provider: &ProviderClient,
        card: &LeasedCard,
        customer: &CustomerId,
        urgency: Urgency,
    ) -> Result<Went<CardEnd>, EngineError> {
        let request = ProviderRequest::attach(card.card_ref, &card.given, customer, card.again);
        let Ok(turn) = urgency.turn(provider, request.operation.endpoint()).await else {
            return Ok(Went::Later(self.clock.now()));
        };
        let outcome = provider.send_card_in_turn::<SavedMethod>(&request, turn).await;
        count("attach", &outcome);
        let answer = answer_of(&outcome);
        let again_at = self.again_at(&outcome, card.tries);
        let mut method = match &outcome {
            Outcome::Answered(method) => Some(method.clone()),
            _ => None,
        };
        let mut verdict = after_attach(customer, &answer);
        if verdict == CardVerdict::ReadBack {
            let read = provider.read_method(&card.given).await;
            let found = match &read {
                Ok(found) => CardRead::Found { owner: found.customer.as_ref() },
                Err(ProviderError::NotFound) => CardRead::NotThere,
                Err(_) => CardRead::NoAnswer,
            };
            verdict = after_read(customer, &answer, &found);
            method = read.ok();
        }
        Ok(match (verdict, method) {
            (CardVerdict::Saved, Some(method)) => {
                steps::passed("method.attached");
                let fingerprint = match &method.fingerprint {
                    Some(fingerprint) => Some(hashed(&self.ledger.pepper().await?, fingerprint)),
                    None => None,
                };
                Went::On(CardEnd::Saved { method: method.id, fingerprint })
            }
            (CardVerdict::Refused(refusal), _) => Went::On(CardEnd::Refused(refusal)),
            (CardVerdict::CustomerGone, _) => {
                let now = self.clock.now();
                self.ledger.lose_customer(card.customer.reference, customer, now).await?;
                Went::NextKey(now)
            }
            (CardVerdict::Again, _) if matches!(answer, AttachAnswer::Refused { .. }) || card.tries > KEY_REPEATS => {
                Went::NextKey(again_at)
            }
            (CardVerdict::Again | CardVerdict::ReadBack | CardVerdict::Saved, _) => Went::Later(again_at),
        })
    }

    /// Names the customer of an intent that was made before there was one: its saved card cannot be confirmed otherwise.
    /// `false`: not known yet, and the payment has been put back.
    pub(super) async fn name_customer(
        &self,
        provider: &ProviderClient,
        payment: &LeasedPayment,
    ) -> Result<bool, EngineError> {
        let CardFacts::Saved { customer, .. } = &payment.card else { return Ok(true) };
        let Some(intent) = payment.intent.as_ref().filter(|_| payment.is_customer_to_be_named()) else {
            return Ok(true);
        };
        let request = ProviderRequest::name_customer(payment.order, intent, customer, payment.lease);
        let Ok(turn) = provider.turn(request.operation.endpoint()).await else {
            self.no_turn(payment, None).await?;
            return Ok(false);
        };
        let outcome: Outcome<Intent> = provider.send_in_turn(&request, turn).await;
        count("name_customer", &outcome);
        match &outcome {
            // Should the intent have gone on meanwhile, the confirm is told so and reads it back.
            Outcome::Answered(_) | Outcome::Rejected { .. } | Outcome::Declined(_) => Ok(true),
            _ => {
                let due = self.again_at(&outcome, payment.tries);
                self.ledger.yield_payment(payment, None, None, None, Some(due), self.clock.now()).await?;
                Ok(false)
            }
        }
    }

    pub(super) fn again_at<T>(&self, outcome: &Outcome<T>, tries: i32) -> Timestamp {
        self.after(match outcome {
            Outcome::RateLimited { retry_after } => {
                let asked = retry_after.and_then(|wait| SignedDuration::try_from(wait).ok());
                asked.map_or_else(|| backoff(tries), |wait| wait.min(RATE_LIMITED_REST_MAX))
            }
            Outcome::Misconfigured { .. } => MISCONFIGURED_REST,
            Outcome::NotSent { .. } => backoff(tries),
            _ => ask_again(tries),
        })
    }

    pub(super) fn after(&self, wait: SignedDuration) -> Timestamp {
        let now = self.clock.now();
        now.checked_add(wait).unwrap_or(now)
    }
}

fn answer_of(outcome: &Outcome<SavedMethod>) -> AttachAnswer<'_> {
    match outcome {
        Outcome::Answered(method) => AttachAnswer::Answered { owner: method.customer.as_ref() },
        Outcome::Declined(_) => AttachAnswer::Declined,
        Outcome::Rejected { code, .. } => AttachAnswer::Refused { code },
        Outcome::Unknown { .. } => AttachAnswer::Unknown,
        Outcome::NotSent { .. } | Outcome::RateLimited { .. } | Outcome::Misconfigured { .. } => AttachAnswer::NotNow,
    }
}

pub(super) fn count<T>(operation: &'static str, outcome: &Outcome<T>) {
    let label = outcome_label(outcome);
    metrics::counter!("doorbuster_provider_calls_total", "operation" => operation, "outcome" => label).increment(1);
}

/// The provider's fingerprint of a card, so that two uses of one card can be told without keeping it.
pub(super) fn hashed(pepper: &[u8], fingerprint: &str) -> [u8; 32] {
    let mut mac = Hmac::<Sha256>::new_from_slice(pepper).expect("HMAC takes keys of any length");
    mac.update(fingerprint.as_bytes());
    mac.finalize().into_bytes().into()
}
