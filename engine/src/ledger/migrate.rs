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

/// How the schema of a database stands to the one that this program knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SchemaState {
    /// Nothing was ever applied.
    Empty,
    /// These are not applied.
    Behind {
        missing: Vec<String>,
    },
    Current {
        version: i32,
    },
    /// A newer program has been here.
    Newer {
        found: i32,
        known: i32,
    },
    /// What was applied under this name is not what this program has under its number.
    Different {
        name: String,
    },
}

impl SchemaState {
    /// What keeps this program from working on it, and what to do. `None`: nothing does.
    pub fn problem(&self) -> Option<String> {
        Some(match self {
            Self::Current { .. } => return None,
            Self::Empty => "the database is empty: `doorbuster migrate` makes the tables".to_owned(),
            Self::Behind { missing } => {
                let (count, last) = (missing.len(), missing.last().map_or("", String::as_str));
                let what = if count == 1 { "1 migration is".to_owned() } else { format!("{count} migrations are") };
                format!("{what} missing, up to {last}: `doorbuster migrate` applies them")
            }
            Self::Newer { found, known } => {
                format!("the schema has version {found}, this program knows {known}: start the newer program")
            }
            Self::Different { name } => format!(
                "the database has another {name} than this program: it is not a database of ours, or somebody changed it"
            ),
        })
    }
}

/// A migration as the database has it written down.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct AppliedMigration {
    pub(super) version: i32,
    pub(super) name: String,
    pub(super) checksum: String,
}

/// Those of this program, in order.
pub(super) fn known() -> Vec<AppliedMigration> {
    let runner = embedded::migrations::runner();
    let known = runner.get_migrations().iter().map(|migration| AppliedMigration {
        version: migration.version(),
        name: migration.name().to_owned(),
        checksum: migration.checksum().to_string(),
    });
    let mut known = known.collect::<Vec<_>>();
    known.sort_by_key(|migration| migration.version);
    known
}

pub(super) fn compare(known: &[AppliedMigration], applied: &[AppliedMigration]) -> SchemaState {
    let newest = |of: &[AppliedMigration]| of.iter().map(|migration| migration.version).max().unwrap_or(0);
    let same = |one: &AppliedMigration| applied.iter().find(|other| other.version == one.version);
    if applied.is_empty() {
        return SchemaState::Empty;
    }
    if newest(applied) > newest(known) {
        return SchemaState::Newer { found: newest(applied), known: newest(known) };
    }
    if let Some(other) = known.iter().filter_map(|one| same(one).filter(|other| *other != one)).next() {
        return SchemaState::Different { name: format!("V{}__{}", other.version, other.name) };
    }
    let missing = known.iter().filter(|one| same(one).is_none());
    let missing = missing.map(|one| format!("V{}__{}", one.version, one.name)).collect::<Vec<_>>();
    if missing.is_empty() { SchemaState::Current { version: newest(known) } } else { SchemaState::Behind { missing } }
}

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
        self.progress.tell("bringing the database up to date", 0, None);

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

/// Whether any migration was ever applied.
pub(super) async fn has_history(client: &Client) -> Result<bool, LedgerError> {
    let table = "-- migrate.table\nselect to_regclass('refinery_schema_history') is not null";
    Ok(client.query_one(table, &[]).await?.get(0))
}

/// The newest migration in the database. `None`: an empty database.
async fn newest_applied(client: &Client) -> Result<Option<i32>, LedgerError> {
    if !has_history(client).await? {
        return Ok(None);
    }
    let newest = "-- migrate.newest\nselect max(version) from refinery_schema_history";
    Ok(client.query_one(newest, &[]).await?.get(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_schema_is_compared_by_version_name_and_checksum() {
        let one = |version, name: &str, checksum: &str| AppliedMigration {
            version,
            name: name.to_owned(),
            checksum: checksum.to_owned(),
        };
        let known = [one(1, "catalog", "7"), one(2, "drops", "8"), one(4, "orders", "9")];
        let behind =
            |missing: &[&str]| SchemaState::Behind { missing: missing.iter().map(|name| (*name).to_owned()).collect() };
        let different = |name: &str| SchemaState::Different { name: name.to_owned() };
        for (applied, expected) in [
            (vec![], SchemaState::Empty),
            (known.to_vec(), SchemaState::Current { version: 4 }),
            (known[..2].to_vec(), behind(&["V4__orders"])),
            (vec![known[0].clone(), known[2].clone()], behind(&["V2__drops"])),
            ([&known[..], &[one(5, "later", "1")]].concat(), SchemaState::Newer { found: 5, known: 4 }),
            (vec![one(1, "catalog", "6")], different("V1__catalog")),
            (vec![known[0].clone(), one(2, "others", "8")], different("V2__others")),
        ] {
            assert_eq!(compare(&known, &applied), expected, "{applied:?}");
        }
        assert!(super::known().len() > 20 && super::known()[0].version == 1);
    }
}
