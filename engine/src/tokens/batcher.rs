//! Batches claims on their way to Redis: one round is under way, and the next one fills meanwhile.
//!
//! A round has a batch for each warehouse that somebody wants something of. All leave together, so Redis reads them at once,
//! and one append and one fsync serve the whole round. There is no timer. A lone claim leaves at once; under load a round is as
//! large as one round trip lets it grow. That is where the speed comes from: one script call serves up to [`MAX_BATCH`] buyers.
//!
//! One batcher is for one server. A silent primary of a cluster must not hold up what others serve, so there each warehouse
//! has its own.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::future::join_all;
use tokio::sync::{mpsc, oneshot};

use super::codec::BatchOutcome;
use super::contract::{MAX_BATCH, MAX_BATCH_UNITS};
use super::error::TokenError;
use super::store::WarehouseStore;
use crate::domain::claims::Claim;
use crate::domain::clock::Clock;

/// Claims that one round takes from the queue: 5 ms of work for Redis at 5 µs a claim.
const ROUND_CLAIMS: usize = 4 * MAX_BATCH;
/// Claims that may wait for a round: about 0.1 s of work for Redis, and more than a crowd has connections.
/// What comes on top is told at once to come back, which costs nobody a place.
const QUEUE_CLAIMS: usize = 16 * ROUND_CLAIMS;
/// A claim that has waited longer than this before it was sent is told to come back: its buyer has stopped waiting, or is
/// about to, and Redis has no time for answers that nobody reads.
const QUEUE_DEADLINE: Duration = Duration::from_secs(2);
/// A batch whose outcome is unknown is sent again this often: the scripts answer known claims with their stored answer.
const SENDS: u32 = 3;
const BETWEEN_SENDS: Duration = Duration::from_millis(50);

struct Waiting<S> {
    store: Arc<S>,
    claim: Claim,
    since: Instant,
    answer: Answer,
}

type Answer = oneshot::Sender<Result<BatchOutcome, Arc<TokenError>>>;

/// Claims of one warehouse that go in one call.
struct Batch<S> {
    store: Arc<S>,
    claims: Vec<Claim>,
    answers: Vec<(Instant, Answer)>,
}

/// The queue in front of one server, or of one warehouse of a cluster. Its task ends when the last clone is gone.
#[derive(Clone)]
pub struct Batcher {
    queue: mpsc::Sender<Waiting<WarehouseStore>>,
}

impl Batcher {
    pub fn start(clock: Clock) -> Self {
        let (queue, waiting) = mpsc::channel(QUEUE_CLAIMS);
        tokio::spawn(run(clock, waiting));
        Self { queue }
    }

    /// `Overloaded` and `Refused` mean that nothing was done; after any other error nobody knows. The same claim may be
    /// submitted again in any case.
    pub async fn submit(&self, store: &Arc<WarehouseStore>, claim: Claim) -> Result<BatchOutcome, Arc<TokenError>> {
        let (answer, outcome) = oneshot::channel();
        let waiting = Waiting { store: Arc::clone(store), claim, since: Instant::now(), answer };
        self.queue.try_send(waiting).map_err(|_| {
            metrics::counter!("doorbuster_claims_shed_total").increment(1);
            Arc::new(TokenError::Overloaded)
        })?;
        outcome.await.unwrap_or_else(|_| Err(Arc::new(TokenError::Overloaded)))
    }
}

async fn run(clock: Clock, mut queue: mpsc::Receiver<Waiting<WarehouseStore>>) {
    let mut round = Vec::with_capacity(ROUND_CLAIMS);
    while queue.recv_many(&mut round, ROUND_CLAIMS).await > 0 {
        let now = Instant::now();
        let (mut waiting, late): (Vec<_>, Vec<_>) =
            round.drain(..).partition(|waiting| now.duration_since(waiting.since) < QUEUE_DEADLINE);
        for waiting in late {
            metrics::counter!("doorbuster_claims_shed_total").increment(1);
            let _ = waiting.answer.send(Err(Arc::new(TokenError::Overloaded)));
        }
        // Stable: who came first to a warehouse goes first.
        waiting.sort_by_key(|waiting| Arc::as_ptr(&waiting.store));
        join_all(batches(waiting, WarehouseStore::max_batch).into_iter().map(|batch| batch.run(&clock))).await;
    }
}

/// Cut where another warehouse begins, and where a script would have too many claims or would have to hand out too many units
/// at once.
fn batches<S>(waiting: Vec<Waiting<S>>, max_batch: impl Fn(&S) -> usize) -> Vec<Batch<S>> {
    let mut batches: Vec<Batch<S>> = Vec::new();
    let mut units = 0;
    for Waiting { store, claim, since, answer } in waiting {
        units += claim.quantity.units();
        match batches.last_mut() {
            Some(batch)
                if Arc::ptr_eq(&batch.store, &store)
                    && batch.claims.len() < max_batch(&store)
                    && units <= MAX_BATCH_UNITS =>
            {
                batch.claims.push(claim);
                batch.answers.push((since, answer));
            }
            _ => {
                units = claim.quantity.units();
                batches.push(Batch { store, claims: vec![claim], answers: vec![(since, answer)] });
            }
        }
    }
    batches
}

impl Batch<WarehouseStore> {
    async fn run(self, clock: &Clock) {
        metrics::histogram!("doorbuster_claim_batch_size").record(self.claims.len() as f64);
        let outcomes = send(&self.store, clock, &self.claims).await;
        let waited = metrics::histogram!("doorbuster_claim_queue_seconds");
        let now = Instant::now();
        let mut outcomes = outcomes.map(Vec::into_iter);
        for (since, answer) in self.answers {
            waited.record(now.duration_since(since).as_secs_f64());
            let outcome = match &mut outcomes {
                Ok(outcomes) => Ok(outcomes.next().expect("an outcome for each claim")),
                Err(error) => Err(Arc::clone(error)),
            };
            // A buyer who hung up has still made his claim: he finds it under the same key.
            let _ = answer.send(outcome);
        }
    }
}

async fn send(store: &WarehouseStore, clock: &Clock, claims: &[Claim]) -> Result<Vec<BatchOutcome>, Arc<TokenError>> {
    let mut sends = 1;
    // An earlier send got no answer.
    let mut may_be_done = false;
    loop {
        let error = match store.claim(clock.now().as_millisecond(), claims).await {
            Ok(outcomes) => return Ok(outcomes),
            Err(error) => error,
        };
        if sends < SENDS && goes_again(&error, may_be_done) {
            metrics::counter!("doorbuster_claim_batches_resent_total").increment(1);
            tokio::time::sleep(BETWEEN_SENDS).await;
            (sends, may_be_done) = (sends + 1, true);
            continue;
        }
        let error = of_all_sends(error, may_be_done);
        let count = claims.len();
        match &error {
            TokenError::Refused { .. } => {
                tracing::warn!(%error, count, "a batch of {count} claims was refused: {error}")
            }
            TokenError::Redis(_) | TokenError::BadReply { .. } => {
                tracing::warn!(%error, count, "a batch of {count} claims got no answer: {error}");
            }
            // Whoever opens or rebuilds the warehouse says so; every click before that would be a line.
            _ => tracing::debug!(%error, count, "a batch of {count} claims has to come again: {error}"),
        }
        return Err(Arc::new(error));
    }
}

/// Whether claims are sent once more. What was refused is told at once: the buyers come again, and to them it matters
/// that nothing was done. What may have been done is worth another try, for a stored answer is better than none.
fn goes_again(error: &TokenError, may_be_done: bool) -> bool {
    match error {
        TokenError::Redis(_) => error.is_retryable(),
        TokenError::Refused { .. } => may_be_done,
        _ => false,
    }
}

/// What the error of the last send says of all of them: that this one was refused proves nothing about one before it.
fn of_all_sends(error: TokenError, may_be_done: bool) -> TokenError {
    match error {
        TokenError::Refused { error, .. } if may_be_done => TokenError::Redis(error),
        error => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::claims::Quantity;
    use crate::domain::ids::{DropId, VariantNumber};

    fn waiting(store: &Arc<usize>, count: usize, units: i64) -> Vec<Waiting<usize>> {
        let waiting = (0..count).map(|_| {
            let quantity = Quantity::new(units).unwrap();
            let claim =
                Claim::new(DropId(1), "ada".parse().unwrap(), &"k".parse().unwrap(), VariantNumber(0), quantity);
            Waiting { store: Arc::clone(store), claim, since: Instant::now(), answer: oneshot::channel().0 }
        });
        waiting.collect()
    }

    #[test]
    fn a_batch_is_cut_before_it_asks_for_too_much() {
        let lengths = |count: usize, units: i64, max_batch: usize| {
            let batches = batches(waiting(&Arc::new(max_batch), count, units), |max_batch| *max_batch);
            assert!(batches.iter().all(|batch| batch.claims.len() == batch.answers.len()));
            batches.iter().map(|batch| batch.claims.len()).collect::<Vec<_>>()
        };
        assert_eq!(lengths(MAX_BATCH, 4, MAX_BATCH), [MAX_BATCH]);
        assert_eq!(lengths(MAX_BATCH + 1, 4, MAX_BATCH), [MAX_BATCH, 1]);
        assert_eq!(lengths(25, 100, MAX_BATCH), [10, 10, 5]);
        assert_eq!(lengths(25, 1, 12), [12, 12, 1]);
        assert_eq!(lengths(1, 100, MAX_BATCH), [1]);
        assert_eq!(lengths(0, 1, MAX_BATCH), Vec::<usize>::new());
    }

    #[test]
    fn each_warehouse_has_batches_of_its_own() {
        let (one, other) = (Arc::new(MAX_BATCH), Arc::new(MAX_BATCH));
        // The same warehouse as of two epochs is two: what waits for the old one must hear that it is fenced.
        let round = waiting(&one, 3, 100).into_iter().chain(waiting(&other, 8, 100)).collect();
        let batches = batches(round, |max_batch| *max_batch);
        let stores = batches.iter().map(|batch| (Arc::ptr_eq(&batch.store, &one), batch.claims.len()));
        assert_eq!(stores.collect::<Vec<_>>(), [(true, 3), (false, 8)]);
    }

    #[test]
    fn a_refusal_is_one_only_if_it_answers_the_first_send() {
        let refused = || TokenError::Refused {
            why: crate::scripting::Refusal::OutOfMemory,
            error: redis::make_extension_error("OOM".to_owned(), None),
        };
        let lost = || TokenError::Redis(std::io::Error::from(std::io::ErrorKind::TimedOut).into());
        let failed = || TokenError::Redis(redis::make_extension_error("ERR".to_owned(), None));
        type Case = (fn() -> TokenError, bool, bool, &'static str);
        let cases: [Case; 8] = [
            (refused, false, false, "refused"),
            (refused, true, true, "unknown"),
            (lost, false, true, "unknown"),
            (lost, true, true, "unknown"),
            (failed, false, false, "unknown"),
            (failed, true, false, "unknown"),
            (|| TokenError::Fenced, false, false, "fenced"),
            (|| TokenError::Fenced, true, false, "fenced"),
        ];
        for (error, may_be_done, again, told) in cases {
            let what = format!("{} after a lost send: {may_be_done}", error());
            assert_eq!(goes_again(&error(), may_be_done), again, "{what}");
            let said = match of_all_sends(error(), may_be_done) {
                TokenError::Refused { .. } => "refused",
                TokenError::Redis(_) => "unknown",
                TokenError::Fenced => "fenced",
                other => panic!("{other}"),
            };
            assert_eq!(said, told, "{what}");
        }
    }
}
