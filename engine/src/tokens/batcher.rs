//! Batches claims on their way to one warehouse: one batch is in flight, and the next one fills meanwhile.
//!
//! There is no timer. A lone claim leaves at once; under load a batch is as large as one round trip lets it grow. That is
//! where the speed comes from: one script call, one append and one fsync serve up to [`MAX_BATCH`] buyers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

use super::codec::BatchOutcome;
use super::contract::MAX_BATCH;
use super::error::TokenError;
use super::store::WarehouseStore;
use crate::domain::claims::Claim;
use crate::domain::clock::Clock;

/// Claims that may wait for one warehouse: eight full batches, about 10 ms of work for Redis at 5 µs a claim.
/// What comes on top is told at once to come back, which costs nobody a place.
const QUEUE_CLAIMS: usize = 8 * MAX_BATCH;
/// A claim that has waited longer than this before it was sent is told to come back: its buyer has stopped waiting, or is
/// about to, and Redis has no time for answers that nobody reads.
const QUEUE_DEADLINE: Duration = Duration::from_secs(2);
/// A batch whose outcome is unknown is sent again this often: the scripts answer known claims with their stored answer.
const SENDS: u32 = 3;
const BETWEEN_SENDS: Duration = Duration::from_millis(50);

struct Waiting {
    claim: Claim,
    since: Instant,
    answer: oneshot::Sender<Result<BatchOutcome, Arc<TokenError>>>,
}

/// The queue in front of one warehouse. Its task ends when the last clone is gone.
#[derive(Clone)]
pub struct Batcher {
    queue: mpsc::Sender<Waiting>,
}

impl Batcher {
    pub fn start(store: WarehouseStore, clock: Clock) -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE_CLAIMS);
        tokio::spawn(run(store, clock, waiting));
        Self { queue }
    }

    /// An error other than `Overloaded` means that the outcome is unknown; the same claim may be submitted again.
    pub async fn submit(&self, claim: Claim) -> Result<BatchOutcome, Arc<TokenError>> {
        let (answer, outcome) = oneshot::channel();
        let waiting = Waiting { claim, since: Instant::now(), answer };
        self.queue.try_send(waiting).map_err(|_| {
            metrics::counter!("doorbuster_claims_shed_total").increment(1);
            Arc::new(TokenError::Overloaded)
        })?;
        outcome.await.unwrap_or_else(|_| Err(Arc::new(TokenError::Overloaded)))
    }
}

async fn run(store: WarehouseStore, clock: Clock, mut queue: mpsc::Receiver<Waiting>) {
    let mut batch = Vec::with_capacity(MAX_BATCH);
    while queue.recv_many(&mut batch, MAX_BATCH).await > 0 {
        let (waiting, late): (Vec<_>, Vec<_>) =
            batch.drain(..).partition(|waiting| waiting.since.elapsed() < QUEUE_DEADLINE);
        for waiting in late {
            metrics::counter!("doorbuster_claims_shed_total").increment(1);
            let _ = waiting.answer.send(Err(Arc::new(TokenError::Overloaded)));
        }
        if waiting.is_empty() {
            continue;
        }
        metrics::histogram!("doorbuster_claim_batch_size").record(waiting.len() as f64);
        let (claims, answers): (Vec<_>, Vec<_>) =
            waiting.into_iter().map(|waiting| (waiting.claim, (waiting.since, waiting.answer))).unzip();
        let outcomes = send(&store, &clock, &claims).await;
        for (index, (since, answer)) in answers.into_iter().enumerate() {
            metrics::histogram!("doorbuster_claim_queue_seconds").record(since.elapsed().as_secs_f64());
            let outcome = match &outcomes {
                Ok(outcomes) => Ok(outcomes[index].clone()),
                Err(error) => Err(Arc::clone(error)),
            };
            // A buyer who hung up has still made his claim: he finds it under the same key.
            let _ = answer.send(outcome);
        }
    }
}

async fn send(store: &WarehouseStore, clock: &Clock, claims: &[Claim]) -> Result<Vec<BatchOutcome>, Arc<TokenError>> {
    let mut sends = 1;
    loop {
        match store.claim(clock.now().as_millisecond(), claims).await {
            Ok(outcomes) => return Ok(outcomes),
            Err(error @ TokenError::Redis(_)) if error.is_retryable() && sends < SENDS => {
                metrics::counter!("doorbuster_claim_batches_resent_total").increment(1);
                tokio::time::sleep(BETWEEN_SENDS).await;
                sends += 1;
            }
            Err(error) => {
                tracing::warn!(%error, claims = claims.len(), "a batch of {} claims got no answer: {error}", claims.len());
                return Err(Arc::new(error));
            }
        }
    }
}
