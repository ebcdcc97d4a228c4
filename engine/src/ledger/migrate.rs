//! Brings the schema up to date, one process at a time.

use std::time::Duration;

use tokio_postgres::Client;

use super::error::{LedgerError, with_causes};
use super::pool::{Ledger, check_session, pooler_or};

mod embedded {
    refinery::embed_migrations!("../migrations");
}

/// Key of the advisory lock under which migrations run: "doorbust" in ASCII, so that it is recognisable in pg_locks.
const LOCK: i64 = 0x646f_6f72_6275_7374;

const ASK_FOR_LOCK_EVERY: Duration = Duration::from_millis(250);

impl Ledger {
    /// Applies what is missing; answers the names of what was applied. Refuses a schema that is newer than this program.
    pub async fn migrate(&self) -> Result<Vec<String>, LedgerError> {
        // A connection of its own: the lock lies on the session, and closing it gives the lock back whatever happens.
        let mut config = self.config.clone();
        config.options("-c lock_timeout=60s -c statement_timeout=10min");
        let (mut client, connection) = config.connect(self.tls.clone()).await.map_err(pooler_or)?;
        let driver = tokio::spawn(connection);
        check_session(&client, "statement_timeout", "10min").await?;
        lock(&client).await?;

        let runner = embedded::migrations::runner().set_abort_divergent(true).set_abort_missing(true);
        let known = runner.get_migrations().iter().map(|migration| migration.version()).max().unwrap_or(0);
        let outcome = match newest_applied(&client).await? {
            Some(found) if found > known => Err(LedgerError::SchemaNewer { found, known }),
            _ => match runner.run_async(&mut client).await {
                Ok(report) => Ok(report.applied_migrations().iter().map(ToString::to_string).collect()),
                Err(error) => Err(LedgerError::Migration(with_causes(&error))),
            },
        };
        // The end of the session would do; not so behind a pooler, which keeps the session for somebody else.
        let _ = client.execute("-- migrate.unlock\nselect pg_advisory_unlock($1)", &[/* key */ &LOCK]).await;
        drop(client);
        let _ = driver.await;
        outcome
    }
}

/// Asked for again and again instead of waited for in Postgres: whoever stops waiting leaves nothing behind that waits.
async fn lock(client: &Client) -> Result<(), LedgerError> {
    const SQL: &str = "-- migrate.lock
        select pg_try_advisory_lock($1)";
    let mut has_waited = false;
    while !client.query_one(SQL, &[/* key */ &LOCK]).await?.get::<_, bool>(0) {
        if !has_waited {
            tracing::warn!("another process is bringing the database up to date: waiting until it is done");
            has_waited = true;
        }
        tokio::time::sleep(ASK_FOR_LOCK_EVERY).await;
    }
    Ok(())
}

/// The newest migration in the database. `None`: an empty database.
async fn newest_applied(client: &Client) -> Result<Option<i32>, LedgerError> {
    let table = "-- migrate.table\nselect to_regclass('refinery_schema_history') is not null";
    if !client.query_one(table, &[]).await?.get::<_, bool>(0) {
        return Ok(None);
    }
    let newest = "-- migrate.newest\nselect max(version) from refinery_schema_history";
    Ok(client.query_one(newest, &[]).await?.get(0))
}
