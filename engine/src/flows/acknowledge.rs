//! The acknowledgement of a claim that was taken: on all replicas, or committed in Postgres, as its drop asks.
//!
//! A claim that has not got there in time is pending, never failed: it is the buyer's, and asking again with the same key
//! waits for the rest of the way.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::domain::claims::{Acknowledgement, Claim};
use crate::domain::ids::ClaimId;

use super::engine::{Engine, LiveDrop};

/// Replicas answer within a round trip; past this something is wrong, and the buyer should hear it.
const REPLICATED_WAIT: Duration = Duration::from_millis(1_500);
const REPLICATED_PAUSE: Duration = Duration::from_millis(50);
/// Fifty rounds of continuous settlement.
const SETTLED_WAIT: Duration = Duration::from_millis(2_500);
/// One query for everybody who waits, this often.
const SETTLED_POLL: Duration = Duration::from_millis(20);
const AFTER_ERROR: Duration = Duration::from_millis(200);
/// Claims asked for in one query.
const CLAIMS_PER_POLL: usize = 5_000;

/// How safe a claim is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Acknowledged {
    /// It has got this far: as far as its drop asks, or less when the time was over.
    Reached(Acknowledgement),
    /// Settlement could not make an order of it.
    Rejected,
    /// It was refused: there is nothing to keep safe.
    Refused,
}

/// Who waits for the settlement of which claim.
#[derive(Default)]
pub(super) struct SettlementWaits {
    waiting: HashMap<ClaimId, Vec<oneshot::Sender<Acknowledged>>>,
    is_polling: bool,
}

impl Engine {
    /// Waits until a claim that was taken is as safe as its drop asks, or until the time is over. `live` must be what the
    /// claim was made with.
    pub(super) async fn acknowledge(&self, live: &LiveDrop, claim: &Claim) -> Acknowledged {
        let began = Instant::now();
        let level = live.drop.acknowledgement;
        let reached = match level {
            Acknowledgement::Accepted => return Acknowledged::Reached(level),
            Acknowledgement::Replicated => self.replicated(live, claim).await,
            Acknowledgement::Settled => self.settled(claim.id).await,
        };
        metrics::histogram!("doorbuster_acknowledge_seconds", "level" => level.as_str())
            .record(began.elapsed().as_secs_f64());
        if reached == Acknowledged::Reached(Acknowledgement::Accepted) {
            metrics::counter!("doorbuster_pending_claims_total", "level" => level.as_str()).increment(1);
        }
        reached
    }

    async fn replicated(&self, live: &LiveDrop, claim: &Claim) -> Acknowledged {
        let store = live.store(live.home_of(&claim.buyer));
        let all = u32::from(live.drop.replicas);
        let waiting = async {
            loop {
                match store.replicated(live.drop.replicas).await {
                    Ok(reached) if reached >= all => return,
                    Ok(reached) => tracing::debug!(reached, all, "{reached} of {all} replicas have a claim"),
                    Err(error) => tracing::debug!(%error, "nobody knows which replicas have a claim: {error}"),
                }
                tokio::time::sleep(REPLICATED_PAUSE).await;
            }
        };
        match tokio::time::timeout(REPLICATED_WAIT, waiting).await {
            Ok(()) => Acknowledged::Reached(Acknowledgement::Replicated),
            Err(_) => Acknowledged::Reached(Acknowledgement::Accepted),
        }
    }

    async fn settled(&self, claim: ClaimId) -> Acknowledged {
        let (answer, settled) = oneshot::channel();
        {
            let mut waits = self.settlement_waits.lock().expect("nobody panics holding this lock");
            waits.waiting.entry(claim).or_default().push(answer);
            if !std::mem::replace(&mut waits.is_polling, true) {
                tokio::spawn(poll(self.clone()));
            }
        }
        match tokio::time::timeout(SETTLED_WAIT, settled).await {
            Ok(Ok(settled)) => settled,
            Ok(Err(_)) | Err(_) => Acknowledged::Reached(Acknowledgement::Accepted),
        }
    }
}

/// Asks Postgres for everybody's claims until nobody waits.
async fn poll(engine: Engine) {
    loop {
        let claims = {
            let mut waits = engine.settlement_waits.lock().expect("nobody panics holding this lock");
            waits.waiting.retain(|_, waiting| {
                waiting.retain(|answer| !answer.is_closed());
                !waiting.is_empty()
            });
            if waits.waiting.is_empty() {
                waits.is_polling = false;
                return;
            }
            waits.waiting.keys().copied().collect::<Vec<_>>()
        };
        let mut pause = SETTLED_POLL;
        for claims in claims.chunks(CLAIMS_PER_POLL) {
            match engine.ledger.settled_claims(claims).await {
                Ok(settled) => {
                    let mut waits = engine.settlement_waits.lock().expect("nobody panics holding this lock");
                    for (claim, is_order) in settled {
                        let acknowledged = match is_order {
                            true => Acknowledged::Reached(Acknowledgement::Settled),
                            false => Acknowledged::Rejected,
                        };
                        for answer in waits.waiting.remove(&claim).into_iter().flatten() {
                            let _ = answer.send(acknowledged);
                        }
                    }
                }
                Err(error) => {
                    tracing::warn!(%error, "claims wait to be told that they are settled: {error}");
                    pause = AFTER_ERROR;
                }
            }
        }
        tokio::time::sleep(pause).await;
    }
}
