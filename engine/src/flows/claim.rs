//! The claim: from the buyer's click to an answer that is kept.
//!
//! One EVALSHA, shared with up to 255 others, when the home warehouse has a token. Otherwise a pull (some milliseconds, one
//! Postgres transaction) or a reading that says that nothing is left; it is kept, and answers everybody else for a second, without
//! Redis.

use std::time::{Duration, Instant};

use crate::domain::claims::{Acknowledgement, Claim, ClaimOutcome};
use crate::domain::drops::DropState;
use crate::domain::ids::{BuyerId, ClaimId, DropName, Epoch, OrderId, Serial};
use crate::steps;
use crate::tokens::TokenError;
use crate::tokens::store::Outcome;

use super::acknowledge::Acknowledged;
use super::engine::{Engine, EngineError, LiveDrop};

/// How long a claim may look for units elsewhere: longer than a failover takes, then "ask again" is kinder.
const SEARCH_DEADLINE: Duration = Duration::from_secs(3);

/// How far a claim has got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClaimProgress {
    /// Taken in Redis; the next settlement makes an order of it.
    Accepted,
    /// The order exists; its payment is under way.
    Settled,
    /// Paid.
    Confirmed,
    /// Its units have been given back, or it could not become an order.
    Failed,
}

/// A claim as its buyer sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimView {
    pub id: ClaimId,
    pub drop: DropName,
    pub sku: String,
    pub quantity: u32,
    /// What it holds; nothing once it has failed.
    pub serials: Vec<Serial>,
    pub progress: ClaimProgress,
    pub order: Option<OrderId>,
}

/// A claim, and how safe its answer is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AnsweredClaim {
    pub outcome: ClaimOutcome,
    pub acknowledged: Acknowledged,
    /// The epoch of the warehouse that answered.
    pub epoch: Epoch,
}

impl Engine {
    /// A claim of this buyer, wherever it is by now. `None`: he has made none of this id, or Redis has forgotten it.
    pub async fn claim_of(&self, buyer: &BuyerId, id: ClaimId) -> Result<Option<ClaimView>, EngineError> {
        let Some(drop) = self.ledger.drop_by_id(id.drop_id()).await? else {
            return Ok(None);
        };
        if let Some(order) = self.ledger.order_of(buyer, id.order_id()).await? {
            let Some(item) = order.items.first() else { return Ok(None) };
            let (progress, serials) = match order.status {
                status if !status.is_live() => (ClaimProgress::Failed, Vec::new()),
                status if status.is_sold() => (ClaimProgress::Confirmed, item.serials.clone()),
                _ => (ClaimProgress::Settled, item.serials.clone()),
            };
            let (sku, quantity) = (item.sku.clone(), item.quantity);
            return Ok(Some(ClaimView {
                id,
                drop: drop.name,
                sku,
                quantity,
                serials,
                progress,
                order: Some(order.id),
            }));
        }
        let live = self.adopt(drop);
        if !live.drop.was_loaded() {
            return Ok(None);
        }
        let record = match live.store(live.home_of(buyer)).record_of(buyer).await {
            Err(error @ (TokenError::NotLoaded | TokenError::Fenced)) => return Err(error.into()),
            other => other?,
        };
        let Some(held) = record.into_iter().find(|held| held.id == id) else {
            return Ok(None);
        };
        let rejected = self.ledger.rejection_of(buyer, id).await?.is_some();
        let progress = if held.serials.is_none() || rejected { ClaimProgress::Failed } else { ClaimProgress::Accepted };
        let sku = live.drop.variant(held.variant).map(|variant| variant.sku.clone()).unwrap_or_default();
        let serials = if progress == ClaimProgress::Failed { Vec::new() } else { held.serials.unwrap_or_default() };
        Ok(Some(ClaimView {
            id,
            drop: live.drop.name.clone(),
            sku,
            quantity: held.quantity.units(),
            serials,
            progress,
            order: None,
        }))
    }

    /// Claims tokens, and waits until the claim is as safe as the drop promises; see [`super::acknowledge`].
    ///
    /// `Err` means that we could not find out: the same claim may be made again, and a claim that was applied all the same
    /// answers as it did.
    pub async fn claim(&self, live: &LiveDrop, claim: &Claim) -> Result<AnsweredClaim, EngineError> {
        if in_line(live).is_some() {
            // What its line has left may be on sale by now.
            let fresh = self.refresh_for_crowd(live).await?;
            return match fresh.filter(|fresh| in_line(fresh).is_none()) {
                Some(fresh) => Box::pin(self.claim(&fresh, claim)).await,
                None => Ok(AnsweredClaim {
                    outcome: in_line(live).expect("looked at above"),
                    acknowledged: Acknowledged::Refused,
                    epoch: live.home_of(&claim.buyer).epoch,
                }),
            };
        }
        if self.is_settlement_behind(live) {
            return Err(EngineError::SettlementBehind);
        }
        let answered = match self.claim_and_wait(live, claim).await {
            Err(error) if error.is_fenced() => match self.refresh_for_crowd(live).await? {
                // Our epoch was old: once more with the new one.
                Some(fresh) if fresh.drop.warehouses != live.drop.warehouses => {
                    self.claim_and_wait(&fresh, claim).await
                }
                _ => Err(error),
            },
            outcome => outcome,
        }?;
        self.remember(live, claim, &answered);
        Ok(answered)
    }

    /// What the buyer's home says by itself, or a proof that holds: how nearly all claims end. `None`: whoever asks has to call
    /// [`Self::claim`], which searches elsewhere, waits until the claim is safe, or looks at the drop again. Dropped half-way, it
    /// leaves a claim that may have been taken, and nothing that anybody has to clean up.
    pub async fn claim_at_home(&self, live: &LiveDrop, claim: &Claim) -> Result<Option<AnsweredClaim>, EngineError> {
        if in_line(live).is_some()
            || live.drop.acknowledgement != Acknowledgement::Accepted
            || self.is_settlement_behind(live)
        {
            return Ok(None);
        }
        let home = *live.home_of(&claim.buyer);
        let refused = price_in_the_way(live, claim)
            .or_else(|| self.refused_already(live, &claim.buyer, claim.variant, claim.quantity));
        let outcome = match refused {
            Some(refused) => refused,
            None => match live.submit(&home, claim.clone()).await.map_err(EngineError::from) {
                Ok(outcome) => match at_home(outcome, live) {
                    Some(outcome) => outcome,
                    None => return Ok(None),
                },
                Err(error) if error.is_fenced() => return Ok(None),
                Err(error) => return Err(error),
            },
        };
        let acknowledged = match outcome {
            ClaimOutcome::Taken { .. } | ClaimOutcome::Replayed { .. } => {
                steps::passed("claim.taken");
                Acknowledged::Reached(Acknowledgement::Accepted)
            }
            _ => Acknowledged::Refused,
        };
        let answered = AnsweredClaim { outcome, acknowledged, epoch: home.epoch };
        self.remember(live, claim, &answered);
        Ok(Some(answered))
    }

    /// The wait is for the warehouse as of the epoch that answered: another epoch may have forgotten the claim.
    async fn claim_and_wait(&self, live: &LiveDrop, claim: &Claim) -> Result<AnsweredClaim, EngineError> {
        let outcome = self.try_claim(live, claim).await?;
        let epoch = live.home_of(&claim.buyer).epoch;
        let acknowledged = match outcome {
            ClaimOutcome::Taken { .. } | ClaimOutcome::Replayed { .. } => {
                steps::passed("claim.taken");
                self.acknowledge(live, claim).await
            }
            _ => Acknowledged::Refused,
        };
        Ok(AnsweredClaim { outcome, acknowledged, epoch })
    }

    async fn try_claim(&self, live: &LiveDrop, claim: &Claim) -> Result<ClaimOutcome, EngineError> {
        let home = *live.home_of(&claim.buyer);
        let deadline = Instant::now() + SEARCH_DEADLINE;
        // Again for each reading of the drop: which rates it opened with goes with the epochs of its warehouses.
        if let Some(refused) = price_in_the_way(live, claim) {
            return Ok(refused);
        }
        if let Some(refused) = self.refused_already(live, &claim.buyer, claim.variant, claim.quantity) {
            return Ok(refused);
        }
        match at_home(live.submit(&home, claim.clone()).await?, live) {
            Some(outcome) => Ok(outcome),
            None => self.search(live, claim, deadline).await,
        }
    }
}

/// Why nobody claims units of a drop of which Redis has nothing yet, as its buyers stand in line. `None`: it sells as every
/// drop does.
fn in_line(live: &LiveDrop) -> Option<ClaimOutcome> {
    let drop = &live.drop;
    if !drop.admission.has_line() || drop.was_loaded() {
        return None;
    }
    Some(match drop.state {
        DropState::Closed | DropState::Archived => ClaimOutcome::Closed,
        _ => ClaimOutcome::LineOnly,
    })
}

/// Why a claim is refused for its price, without any store. The terms of a drop are fixed once it is no draft; what we
/// know of a draft may be old, and its warehouses refuse whoever knows no more than that.
fn price_in_the_way(live: &LiveDrop, claim: &Claim) -> Option<ClaimOutcome> {
    if live.drop.state == DropState::Draft { None } else { live.drop.price_in_the_way(claim) }
}

/// What a buyer's home decides by itself. `None`: it has too few units, and others may have some.
pub(super) fn at_home(outcome: Outcome, live: &LiveDrop) -> Option<ClaimOutcome> {
    Some(match outcome {
        Outcome::Taken(serials) => ClaimOutcome::Taken { serials },
        Outcome::Replayed(serials) => ClaimOutcome::Replayed { serials },
        Outcome::Released => ClaimOutcome::Released,
        Outcome::KeyReused => ClaimOutcome::KeyReused,
        Outcome::OverLimit { held } => ClaimOutcome::OverLimit { held, limit: live.drop.buyer_limit },
        Outcome::NotOpen => ClaimOutcome::NotOpen,
        Outcome::Closed => ClaimOutcome::Closed,
        Outcome::TooManyReleased => ClaimOutcome::TooManyReleased,
        Outcome::Short { .. } => return None,
    })
}
