//! Brings the schema up to date, one process at a time.

use tokio_postgres::Client;

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
        let (mut client, connection) = config.connect(self.tls.clone()).await?;
        let driver = tokio::spawn(connection);
        client.execute("-- migrate.lock\nselect pg_advisory_lock($1)", &[/* key */ &LOCK]).await?;

        let runner = embedded::migrations::runner().set_abort_divergent(true).set_abort_missing(true);
        let known = runner.get_migrations().iter().map(|migration| migration.version()).max().unwrap_or(0);
        let outcome = match newest_applied(&client).await? {
            Some(found) if found > known => Err(LedgerError::SchemaNewer { found, known }),
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

/// The newest migration in the database. `None`: an empty database.
async fn newest_applied(client: &Client) -> Result<Option<i32>, LedgerError> {
    let table = "-- migrate.table\nselect to_regclass('refinery_schema_history') is not null";
    if !client.query_one(table, &[]).await?.get::<_, bool>(0) {
        return Ok(None);
    }
    let newest = "-- migrate.newest\nselect max(version) from refinery_schema_history";
    Ok(client.query_one(newest, &[]).await?.get(0))
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
