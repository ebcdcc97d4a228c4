//! What is known of the server and of the schema, for the operator's check. Reads only.

use std::path::PathBuf;

use jiff::Timestamp;
use tokio_postgres::config::Host;

use super::error::LedgerError;
use super::migrate::{self, AppliedMigration, SchemaState};
use super::pool::Ledger;

/// Where the server keeps its data, as far as we may know.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DataPlace {
    /// The address that we have leads to this machine; something that passes connections on may still listen there.
    pub is_address_local: bool,
    /// The process that answers us, on the machine of the server.
    pub backend: i32,
    /// `None`: we may not ask.
    pub folder: Option<PathBuf>,
}

impl Ledger {
    /// What the server's clock says.
    pub async fn clock(&self) -> Result<Timestamp, LedgerError> {
        let row = self.connection().await?.query_one("-- facts.clock\nselect clock_timestamp()", &[]).await?;
        Ok(row.try_get(0)?)
    }

    pub async fn data_place(&self) -> Result<DataPlace, LedgerError> {
        // The view leaves out what we may not see, where `show` would be an error.
        const SQL: &str = "-- facts.data_place
            select pg_backend_pid(), (select setting from pg_settings where name = 'data_directory')";
        let row = self.connection().await?.query_one(SQL, &[]).await?;
        let is_local = |host: &Host| match host {
            Host::Unix(_) => true,
            Host::Tcp(name) => {
                name == "localhost" || name.parse::<std::net::IpAddr>().is_ok_and(|address| address.is_loopback())
            }
        };
        Ok(DataPlace {
            is_address_local: self.config.get_hosts().iter().all(is_local),
            backend: row.try_get(0)?,
            folder: row.try_get::<_, Option<String>>(1)?.map(PathBuf::from),
        })
    }

    /// How the schema stands to the one that this program knows.
    pub async fn schema(&self) -> Result<SchemaState, LedgerError> {
        const SQL: &str = "-- facts.schema
            select version, name, checksum from refinery_schema_history order by version";
        let connection = self.connection().await?;
        if !migrate::has_history(&connection).await? {
            return Ok(SchemaState::Empty);
        }
        let rows = connection.query(SQL, &[]).await?;
        let applied = rows.iter().map(|row| {
            Ok(AppliedMigration { version: row.try_get(0)?, name: row.try_get(1)?, checksum: row.try_get(2)? })
        });
        Ok(migrate::compare(&migrate::known(), &applied.collect::<Result<Vec<_>, LedgerError>>()?))
    }
}
