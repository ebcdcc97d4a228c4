//! What can go wrong between us and Postgres, in three kinds: the driver, a row that cannot be, a count that is off.

use deadpool_postgres::{PoolError, TimeoutType};
use tokio_postgres::error::SqlState;

#[derive(Debug, thiserror::Error)]
pub enum LedgerError {
    #[error("Postgres: {}", describe(.0))]
    Database(#[from] tokio_postgres::Error),
    #[error("no connection to Postgres: {}", describe_pool(.0))]
    Pool(#[from] deadpool_postgres::PoolError),
    /// It answers, and would refuse whatever we write.
    #[error("Postgres takes no writes: {}", if *.is_replica { "it is a replica: point us at the primary" } else {
        "default_transaction_read_only is on" })]
    ReadOnly { is_replica: bool },
    /// What we set for a session does not hold for it: somebody in between hands sessions about.
    #[error(
        "a pooler such as PgBouncer stands between us and Postgres and shares sessions ({0}): give the address of \
        Postgres itself, or of a pooler in session mode that passes `options` on; we keep a pool of our own"
    )]
    Pooler(String),
    #[error("{table}.{column} of {row} holds {value:?}, which cannot be")]
    Inconsistent { table: &'static str, column: &'static str, row: String, value: String },
    /// Somebody else changed the row first, or it is not there.
    #[error("{statement} changed {changed} rows, not {expected}")]
    RowCount { statement: &'static str, expected: u64, changed: u64 },
    /// The calls of a group that was made in one transaction, each of which has failed with it.
    #[error(transparent)]
    Group(std::sync::Arc<LedgerError>),
    /// Whoever was to make this call with others' was cut off: its outcome is unknown.
    #[error("a call that was to be made together with others was cut off")]
    CutOff,
    #[error("the address of Postgres is not usable: {0}")]
    Address(String),
    #[error("migration: {0}")]
    Migration(String),
    #[error(
        "the database has schema version {found}, this program knows {known}: start the newer program, or restore the older database"
    )]
    SchemaNewer { found: i32, known: i32 },
}

/// The driver prints "db error" for everything the server says, and "error connecting to server" for every reason: the
/// words that help are one level deeper.
fn describe(error: &tokio_postgres::Error) -> String {
    match error.as_db_error() {
        Some(server) => format!("{}: {}", server.code().code(), server.message()),
        None => with_causes(error),
    }
}

fn describe_pool(error: &deadpool_postgres::PoolError) -> String {
    match error {
        PoolError::Backend(error) => describe(error),
        PoolError::Timeout(TimeoutType::Wait) => "all of them were busy for too long".to_owned(),
        PoolError::Timeout(_) => "it took too long to make one".to_owned(),
        other => other.to_string(),
    }
}

/// An error with what is behind it.
pub(super) fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

impl LedgerError {
    fn sql_state(&self) -> Option<&SqlState> {
        match self {
            Self::Database(error) => error.code(),
            Self::Group(error) => error.sql_state(),
            _ => None,
        }
    }

    /// Postgres chose this transaction to give way; the whole of it may run again.
    pub fn is_conflict(&self) -> bool {
        matches!(self.sql_state(), Some(state) if *state == SqlState::T_R_SERIALIZATION_FAILURE || *state == SqlState::T_R_DEADLOCK_DETECTED)
    }

    pub fn is_unique_violation(&self) -> bool {
        self.sql_state() == Some(&SqlState::UNIQUE_VIOLATION)
    }

    /// The server was there and willing, and refused these very rows: classes 22 (data), 23 (constraints), 54 (a row too
    /// large), P0001 (a trigger), and counts and values that cannot be. Other rows may do better. Everything else, such as a
    /// missing table or a read-only server, would meet any rows, and is never held against them.
    pub fn is_about_the_rows(&self) -> bool {
        match self {
            Self::Database(error) => {
                let code = error.code().map(SqlState::code).unwrap_or_default();
                ["22", "23", "54", "P0001"].iter().any(|class| code.starts_with(class))
            }
            Self::Inconsistent { .. } | Self::RowCount { .. } => true,
            Self::Group(error) => error.is_about_the_rows(),
            _ => false,
        }
    }

    /// Whether nothing was done, and nothing would be whatever is asked for: no connection could be had (too many, or
    /// nobody there), or the server takes no writes. A statement that is refused undoes its transaction.
    pub fn is_refusal(&self) -> bool {
        match self {
            Self::Pool(_) | Self::ReadOnly { .. } => true,
            Self::Group(error) => error.is_refusal(),
            _ => self.sql_state().is_some_and(|state| *state == SqlState::READ_ONLY_SQL_TRANSACTION),
        }
    }

    /// Whether the same call may succeed later: the server was not there, was busy, took no writes, or gave no answer.
    pub fn is_retryable(&self) -> bool {
        match self {
            Self::Database(error) => {
                error.code().is_none() || self.is_conflict() || self.is_passing() || self.is_refusal()
            }
            Self::Pool(_) | Self::ReadOnly { .. } | Self::CutOff => true,
            Self::Group(error) => error.is_retryable(),
            _ => false,
        }
    }

    /// Classes 08 (connection), 53 (resources), 57 (operator intervention) and 55P03 (lock not available).
    fn is_passing(&self) -> bool {
        let code = self.sql_state().map(SqlState::code).unwrap_or_default();
        ["08", "53", "57", "55P03"].iter().any(|class| code.starts_with(class))
    }
}

/// For statements that must change exactly so many rows.
pub(super) fn expect_rows(statement: &'static str, expected: u64, changed: u64) -> Result<(), LedgerError> {
    if changed == expected { Ok(()) } else { Err(LedgerError::RowCount { statement, expected, changed }) }
}
