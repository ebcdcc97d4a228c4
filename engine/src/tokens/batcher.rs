//! Batches claims on their way to one warehouse: one batch is in flight, and the next one fills meanwhile.
//!
//! There is no timer. A lone claim leaves at once; under load a batch is as large as one round trip lets it grow. That is
//! where the speed comes from: one script call, one append and one fsync serve up to [`MAX_BATCH`] buyers.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, oneshot};

use super::codec::BatchOutcome;
use super::contract::{MAX_BATCH, MAX_BATCH_UNITS};
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
    while queue.recv_many(&mut batch, store.max_batch()).await > 0 {
        let now = Instant::now();
        let (waiting, late): (Vec<_>, Vec<_>) =
            batch.drain(..).partition(|waiting| now.duration_since(waiting.since) < QUEUE_DEADLINE);
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
        let mut outcomes = Vec::with_capacity(claims.len());
        for batch in by_units(&claims) {
            match send(&store, &clock, batch).await {
                Ok(of_batch) => outcomes.extend(of_batch.into_iter().map(Ok)),
                Err(error) => outcomes.extend(batch.iter().map(|_| Err(Arc::clone(&error)))),
            }
        }
        let waited = metrics::histogram!("doorbuster_claim_queue_seconds");
        let now = Instant::now();
        for ((since, answer), outcome) in answers.into_iter().zip(outcomes) {
            waited.record(now.duration_since(since).as_secs_f64());
            // A buyer who hung up has still made his claim: he finds it under the same key.
            let _ = answer.send(outcome);
        }
    }
}

/// Cut where a script would have to hand out too many units at once. Nearly always into one.
fn by_units(mut claims: &[Claim]) -> Vec<&[Claim]> {
    let mut batches = Vec::new();
    while !claims.is_empty() {
        let mut units = 0;
        let fits = claims.iter().take_while(|claim| {
            units += claim.quantity.units();
            units <= MAX_BATCH_UNITS
        });
        let (batch, rest) = claims.split_at(fits.count().max(1));
        batches.push(batch);
        claims = rest;
    }
    batches
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::claims::Quantity;
    use crate::domain::ids::{BuyerId, DropId, VariantNumber};

    #[test]
    fn a_batch_is_cut_before_it_asks_for_too_many_units() {
        let claims = |count: usize, units: i64| {
            let buyer: BuyerId = "ada".parse().unwrap();
            let quantity = Quantity::new(units).unwrap();
            vec![Claim::new(DropId(1), buyer, &"k".parse().unwrap(), VariantNumber(0), quantity); count]
        };
        let lengths = |claims: &[Claim]| by_units(claims).iter().map(|batch| batch.len()).collect::<Vec<_>>();
        assert_eq!(lengths(&claims(MAX_BATCH, 4)), [MAX_BATCH]);
        assert_eq!(lengths(&claims(25, 100)), [10, 10, 5]);
        assert_eq!(lengths(&claims(1, 100)), [1]);
        assert_eq!(lengths(&[]), Vec::<usize>::new());
    }
}
