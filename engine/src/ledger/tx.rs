//! The one way into a transaction.
//!
//! A macro and not a method that takes a closure: a future that borrows from both its caller and the transaction cannot
//! be promised to be `Send` through a generic closure (rust-lang/rust#102211), and the workers spawn these futures.

use std::time::{Duration, Instant};

use deadpool_postgres::Transaction;
use futures_util::join;
use rand::RngExt;
use tokio_postgres::Row;
use tokio_postgres::types::ToSql;

use super::error::LedgerError;

/// A deadlock or serialization failure is somebody else's success; five in a row are a mistake in the order of locks.
const TRIES: u32 = 5;

/// Runs a block in a transaction and commits: `run_tx!(ledger, "module.function", tx, { … Ok(value) })`. On a conflict all
/// of it runs again, so the block must have no effect outside of its transaction. `return` leaves the block only. A COMMIT
/// that got no answer is an error: the caller runs the same, idempotent work again. With `keep if PATTERN` any other value
/// is answered all the same, and what was done for it is undone.
macro_rules! run_tx {
    ($ledger:expr, $name:literal, $tx:ident, $(keep if $kept:pat,)? $work:block) => {{
        let mut run = $crate::ledger::tx::Run::begin($name);
        loop {
            let outcome = async {
                let mut connection = $ledger.connection().await?;
                let transaction = connection.transaction().await?;
                let $tx = &transaction;
                let value = $crate::ledger::tx::outcome_of(async { $work }).await?;
                $(if !matches!(&value, $kept) {
                    transaction.rollback().await?;
                    return Ok(value);
                })?
                $crate::steps::passed(concat!($name, ":written"));
                transaction.commit().await?;
                $crate::steps::passed(concat!($name, ":committed"));
                Ok::<_, LedgerError>(value)
            }
            .await;
            if let Some(outcome) = run.end_or_again(outcome).await {
                break outcome;
            }
        }
    }};
}
pub(super) use run_tx;

/// Tells the compiler what the block answers.
pub(super) fn outcome_of<T, F: Future<Output = Result<T, LedgerError>>>(work: F) -> F {
    work
}

/// How the transactions of [`by_index`] are planned: once for a connection, for whatever arrays. Every statement of theirs
/// finds its rows by `= any($1)` in an index and joins by hash, so a plan made while the tables were empty is right when they
/// are full.
const BY_INDEX: &str = "-- tx.by_index
    set local plan_cache_mode = force_generic_plan; set local enable_seqscan = off; set local enable_nestloop = off";

tokio::task_local! {
    static IS_BY_INDEX: ();
}

/// The work of a transaction that many orders go through in small groups: planning its statements for each group costs as
/// much as running them (measured: 40 µs an order in groups of fifty, and more in smaller ones).
pub(super) async fn by_index<T>(
    tx: &Transaction<'_>,
    work: impl Future<Output = Result<T, LedgerError>>,
) -> Result<T, LedgerError> {
    // Sent one behind the other without waiting for each other's answers.
    let (set, value) = join!(tx.batch_execute(BY_INDEX), IS_BY_INDEX.scope((), work));
    set?;
    value
}

/// Runs a statement over arrays, planned for these very arrays, unless its transaction is one [`by_index`]. A plan for any arrays, made while the tables were empty, may go
/// through every row for each element. Not for one that inserts where a foreign key looks: its checks run within the statement and
/// would be planned anew for every row (measured: 67 µs for an attempt instead of 24).
pub(super) async fn planned(
    tx: &Transaction<'_>,
    sql: &str,
    arguments: &[&(dyn ToSql + Sync)],
) -> Result<Vec<Row>, LedgerError> {
    let statement = tx.prepare_cached(sql).await?;
    if IS_BY_INDEX.try_with(|()| ()).is_ok() {
        return Ok(tx.query(&statement, arguments).await?);
    }
    // Sent one behind the other without waiting for each other's answers.
    let (before, rows, after) = join!(
        tx.batch_execute("-- tx.plan_for_these\nset local plan_cache_mode = force_custom_plan"),
        tx.query(&statement, arguments),
        tx.batch_execute("-- tx.plan_as_ever\nset local plan_cache_mode = auto"),
    );
    before?;
    let rows = rows?;
    after?;
    Ok(rows)
}

/// One transaction with its repeats.
pub(super) struct Run {
    name: &'static str,
    started: Instant,
    tried: u32,
}

impl Run {
    pub(super) fn begin(name: &'static str) -> Self {
        Self { name, started: Instant::now(), tried: 1 }
    }

    /// `None`: it lost against another transaction and must run again.
    pub(super) async fn end_or_again<T>(&mut self, outcome: Result<T, LedgerError>) -> Option<Result<T, LedgerError>> {
        if let Err(error) = &outcome
            && error.is_conflict()
            && self.tried < TRIES
        {
            metrics::counter!("doorbuster_tx_retries_total", "tx" => self.name).increment(1);
            let pause = Duration::from_millis(rand::rng().random_range(1..=10 * u64::from(self.tried)));
            tokio::time::sleep(pause).await;
            self.tried += 1;
            return None;
        }
        let status = if outcome.is_ok() { "ok" } else { "error" };
        metrics::histogram!("doorbuster_tx_seconds", "tx" => self.name, "status" => status)
            .record(self.started.elapsed().as_secs_f64());
        Some(outcome)
    }
}
