//! Brings the schema up to date, one process at a time.

use tokio_postgres::NoTls;

use super::error::LedgerError;
use super::pool::Ledger;

mod embedded {
    refinery::embed_migrations!("../migrations");
}

/// Key of the advisory lock under which migrations run: "doorbust" in ASCII, so that it is recognisable in pg_locks.
const LOCK: i64 = 0x646f_6f72_6275_7374;

impl Ledger {
    /// Applies what is missing; answers the names of what was applied. Refuses a schema that is newer than this program.
    pub async fn migrate(&self) -> Result<Vec<String>, LedgerError> {
        // A connection of its own: the lock lies on the session, and closing it gives the lock back whatever happens.
        let mut config = self.config.clone();
        config.options("-c lock_timeout=60s -c statement_timeout=10min");
        let (mut client, connection) = config.connect(NoTls).await?;
        let driver = tokio::spawn(connection);
        client.execute("-- migrate.lock\nselect pg_advisory_lock($1)", &[/* key */ &LOCK]).await?;

        let runner = embedded::migrations::runner().set_abort_divergent(true).set_abort_missing(true);
        let known = runner.get_migrations().iter().map(|migration| migration.version()).max().unwrap_or(0);
        let applied = runner.get_last_applied_migration_async(&mut client).await;
        let found = applied.map_err(|error| LedgerError::Migration(error.to_string()))?;
        let outcome = match found {
            Some(found) if found.version() > known => Err(LedgerError::SchemaNewer { found: found.version(), known }),
            _ => match runner.run_async(&mut client).await {
                Ok(report) => Ok(report.applied_migrations().iter().map(ToString::to_string).collect()),
                Err(error) => Err(LedgerError::Migration(with_cause(&error))),
            },
        };
        drop(client);
        let _ = driver.await;
        outcome
    }
}

fn with_cause(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}
