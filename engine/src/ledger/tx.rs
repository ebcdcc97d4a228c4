//! The one way into a transaction.

use std::time::{Duration, Instant};

use deadpool_postgres::Transaction;
use rand::RngExt;

use super::error::LedgerError;
use super::pool::Ledger;

/// A deadlock or serialization failure is somebody else's success; five in a row are a mistake in the order of locks.
const TRIES: u32 = 5;

impl Ledger {
    /// Runs `work` in a transaction and commits. On a conflict all of it runs again, so `work` must have no effect outside
    /// of its transaction. A COMMIT that got no answer is an error: the caller runs the same, idempotent work again.
    pub(super) async fn run_tx<T>(
        &self,
        name: &'static str,
        work: impl AsyncFn(&Transaction<'_>) -> Result<T, LedgerError>,
    ) -> Result<T, LedgerError> {
        let started = Instant::now();
        let mut tried = 1;
        let outcome = loop {
            match self.try_tx(&work).await {
                Err(error) if error.is_conflict() && tried < TRIES => {
                    metrics::counter!("doorbuster_tx_retries_total", "tx" => name).increment(1);
                    let pause = Duration::from_millis(rand::rng().random_range(1..=10 * u64::from(tried)));
                    tokio::time::sleep(pause).await;
                    tried += 1;
                }
                outcome => break outcome,
            }
        };
        let status = if outcome.is_ok() { "ok" } else { "error" };
        metrics::histogram!("doorbuster_tx_seconds", "tx" => name, "status" => status)
            .record(started.elapsed().as_secs_f64());
        outcome
    }

    async fn try_tx<T>(
        &self,
        work: &impl AsyncFn(&Transaction<'_>) -> Result<T, LedgerError>,
    ) -> Result<T, LedgerError> {
        let mut connection = self.connection().await?;
        let tx = connection.transaction().await?;
        let value = work(&tx).await?;
        tx.commit().await?;
        Ok(value)
    }
}
