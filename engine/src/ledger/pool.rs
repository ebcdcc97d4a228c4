//! The pool of connections, with a bound on every wait.

use std::time::Duration;

use deadpool_postgres::{Manager, ManagerConfig, Object, Pool, RecyclingMethod, Runtime, Timeouts};
use tokio_postgres::Config;
use tokio_postgres_rustls::MakeRustlsConnect;

use super::address;
use super::attempts::{Attempt, DispatchCall, FinishCall, PrepareCall};
use super::error::LedgerError;
use super::group::Group;
use super::payments::{CaptureCall, PaymentSettled};

/// Waiting longer than this for a connection means that the pool is too small or Postgres too slow: an error, not a queue.
const POOL_WAIT: Duration = Duration::from_secs(5);
const CONNECT_WAIT: Duration = Duration::from_secs(5);
/// No statement of ours takes this long on data of any size we settle; one that does holds locks that others wait for.
const SESSION: &str = "-c statement_timeout=30s -c lock_timeout=10s -c idle_in_transaction_session_timeout=30s \
                       -c synchronous_commit=on -c default_transaction_isolation=read\\ committed -c jit=off";

/// The door to Postgres. Cheap to clone; all clones share one pool.
#[derive(Clone)]
pub struct Ledger {
    pub(super) pool: Pool,
    pub(super) config: Config,
    pub(super) tls: MakeRustlsConnect,
    /// What many charges do at once is done in one transaction.
    pub(super) prepares: Group<PrepareCall, Attempt>,
    pub(super) dispatches: Group<DispatchCall, ()>,
    pub(super) finishes: Group<FinishCall, ()>,
    pub(super) captures: Group<CaptureCall, Option<PaymentSettled>>,
}

impl Ledger {
    /// Takes an address such as `postgres://user:password@host:5432/database?sslmode=verify-full` (see `address.rs`). Connects
    /// on first use.
    pub fn new(url: &str, connections: usize) -> Result<Self, LedgerError> {
        let (mut config, tls) = address::parse(url)?;
        config.application_name("doorbuster").options(SESSION).connect_timeout(CONNECT_WAIT);
        config.keepalives_idle(Duration::from_secs(30)).tcp_user_timeout(Duration::from_secs(30));
        let recycling_method = RecyclingMethod::Fast;
        let manager = Manager::from_config(config.clone(), tls.clone(), ManagerConfig { recycling_method });
        let timeouts =
            Timeouts { wait: Some(POOL_WAIT), create: Some(CONNECT_WAIT), recycle: Some(Duration::from_secs(1)) };
        let pool = Pool::builder(manager)
            .max_size(connections)
            .timeouts(timeouts)
            .runtime(Runtime::Tokio1)
            .build()
            .map_err(|error| LedgerError::Address(error.to_string()))?;
        Ok(Self {
            pool,
            config,
            tls,
            prepares: Group::default(),
            dispatches: Group::default(),
            finishes: Group::default(),
            captures: Group::default(),
        })
    }

    pub async fn ping(&self) -> Result<(), LedgerError> {
        self.connection().await?.simple_query("-- pool.ping\nselect 1").await?;
        Ok(())
    }

    pub async fn version(&self) -> Result<String, LedgerError> {
        let row = self.connection().await?.query_one("-- pool.version\nshow server_version", &[]).await?;
        Ok(row.get(0))
    }

    /// Settings with which a commit may be lost, each named with what it should be.
    pub async fn configuration_problems(&self) -> Result<Vec<String>, LedgerError> {
        const SQL: &str = "-- pool.configuration
            select name, setting from pg_settings
            where name in ('fsync', 'full_page_writes', 'synchronous_commit') and setting in ('off', 'local')";
        let rows = self.connection().await?.query(SQL, &[]).await?;
        let problem = |row: &tokio_postgres::Row| {
            let (name, setting): (&str, &str) = (row.get(0), row.get(1));
            format!("Postgres: {name} is {setting}, it must be on")
        };
        Ok(rows.iter().map(problem).collect())
    }

    pub(super) async fn connection(&self) -> Result<Object, LedgerError> {
        Ok(self.pool.get().await?)
    }
}
