//! The pool of connections, with a bound on every wait.

use std::time::Duration;

use deadpool_postgres::{Manager, ManagerConfig, Object, Pool, QueueMode, RecyclingMethod, Runtime, Timeouts};
use jiff::SignedDuration;
use tokio_postgres::{Client, Config, SimpleQueryMessage};
use tokio_postgres_rustls::MakeRustlsConnect;

use super::address;
use super::attempts::BeginCall;
use super::error::LedgerError;
use super::group::Group;
use super::line::{JoinCall, Joined};
use super::payments::{CaptureCall, PaymentSettled};
use crate::domain::payments::{BANK_WITHIN, DECLINE_GRACE};
use crate::domain::progress::Progress;

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
    /// Whoever is told how far long work is.
    pub progress: Progress,
    /// How long an order is kept whose buyer's bank wants them to act.
    pub bank_within: SignedDuration,
    /// How long an order of goods waits for another card after a decline.
    pub decline_grace: SignedDuration,
    /// What many charges do at once is done in one transaction.
    pub(super) begins: Group<BeginCall, bool>,
    pub(super) captures: Group<CaptureCall, Option<PaymentSettled>>,
    pub(super) joins: Group<JoinCall, Joined>,
}

impl Ledger {
    /// Takes an address such as `postgres://user:password@host:5432/database?sslmode=verify-full` (see `address.rs`). Connects
    /// on first use.
    pub fn new(url: &str, connections: usize) -> Result<Self, LedgerError> {
        let (mut config, tls) = address::parse(url)?;
        config.application_name("doorbuster").options(SESSION).connect_timeout(CONNECT_WAIT);
        config.keepalives_idle(Duration::from_secs(30)).tcp_user_timeout(Duration::from_secs(30));
        Self::over(config, tls, connections)
    }

    /// The same Postgres through a pool of its own: who uses the one never waits for connections of the other.
    pub fn with_own_pool(&self, connections: usize) -> Result<Self, LedgerError> {
        let own = Self::over(self.config.clone(), self.tls.clone(), connections)?;
        Ok(Self { bank_within: self.bank_within, decline_grace: self.decline_grace, ..own })
    }

    fn over(config: Config, tls: MakeRustlsConnect, connections: usize) -> Result<Self, LedgerError> {
        let recycling_method = RecyclingMethod::Fast;
        let manager = Manager::from_config(config.clone(), tls.clone(), ManagerConfig { recycling_method });
        let timeouts =
            Timeouts { wait: Some(POOL_WAIT), create: Some(CONNECT_WAIT), recycle: Some(Duration::from_secs(1)) };
        let pool = Pool::builder(manager)
            .max_size(connections)
            // The last one that was given back knows our statements; in turns, each would have to plan all of them.
            .queue_mode(QueueMode::Lifo)
            .timeouts(timeouts)
            .runtime(Runtime::Tokio1)
            .build()
            .map_err(|error| LedgerError::Address(error.to_string()))?;
        Ok(Self {
            pool,
            config,
            tls,
            progress: Progress::default(),
            bank_within: BANK_WITHIN,
            decline_grace: DECLINE_GRACE,
            begins: Group::default(),
            captures: Group::default(),
            joins: Group::default(),
        })
    }

    /// Whether it is there and would take what we write.
    pub async fn ping(&self) -> Result<(), LedgerError> {
        const SQL: &str = "-- pool.ping
            select current_setting('transaction_read_only') = 'on', pg_is_in_recovery()";
        let answers = self.connection().await?.simple_query(SQL).await?;
        let row = answers.iter().find_map(|answer| match answer {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        });
        match row.map(|row| (row.get(0), row.get(1))) {
            Some((Some("t"), is_replica)) => {
                // The address may lead to another server by now: whoever comes next connects anew.
                self.pool.retain(|_, _| false);
                Err(LedgerError::ReadOnly { is_replica: is_replica == Some("t") })
            }
            _ => Ok(()),
        }
    }

    /// Refuses a pooler that hands sessions about: prepared statements, locks and settings would be those of others.
    /// One session is marked, and looked at from a second one while that is in a transaction, and then again.
    pub async fn check_no_pooler(&self) -> Result<(), LedgerError> {
        const MARK: &str = "-- pool.mark
            select set_config('doorbuster.session', 'ours', false)";
        const MARKED: &str = "-- pool.marked
            select coalesce(current_setting('doorbuster.session', true), '') = 'ours'";
        let (first, connection) = self.config.connect(self.tls.clone()).await.map_err(pooler_or)?;
        tokio::spawn(connection);
        check_session(&first, "statement_timeout", "30s").await?;
        let (second, connection) = self.config.connect(self.tls.clone()).await.map_err(pooler_or)?;
        tokio::spawn(connection);
        first.simple_query(MARK).await?;
        second.simple_query("-- pool.begin\nbegin").await?;
        let is_marked =
            async |client: &Client| Ok::<_, LedgerError>(answer(client, MARKED).await?.as_deref() == Some("t"));
        let (other, own) = (is_marked(&second).await?, is_marked(&first).await?);
        second.simple_query("-- pool.end\nrollback").await?;
        match (own, other) {
            (true, false) => Ok(()),
            _ => Err(LedgerError::Pooler("what one session set was seen in another".to_owned())),
        }
    }

    /// Sessions that Postgres takes of those who are no superusers.
    pub async fn connections_max(&self) -> Result<i32, LedgerError> {
        const SQL: &str = "-- pool.connections_max
            select current_setting('max_connections')::int - current_setting('superuser_reserved_connections')::int";
        Ok(self.connection().await?.query_one(SQL, &[]).await?.get(0))
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

/// A pooler that takes no settings for a session says so when it is connected to.
pub(super) fn pooler_or(error: tokio_postgres::Error) -> LedgerError {
    match error.as_db_error() {
        Some(said) if said.message().contains("unsupported startup parameter") => {
            LedgerError::Pooler(said.message().to_owned())
        }
        _ => error.into(),
    }
}

/// Whether a setting that we have given the session holds.
pub(super) async fn check_session(client: &Client, setting: &'static str, ours: &str) -> Result<(), LedgerError> {
    let holds = answer(client, &format!("-- pool.setting\nshow {setting}")).await?.unwrap_or_default();
    if holds == ours {
        return Ok(());
    }
    Err(LedgerError::Pooler(format!("{setting} is {holds:?}, we had asked for {ours}")))
}

/// The first column of the first row.
async fn answer(client: &Client, sql: &str) -> Result<Option<String>, LedgerError> {
    let answers = client.simple_query(sql).await?;
    Ok(answers.iter().find_map(|answer| match answer {
        SimpleQueryMessage::Row(row) => row.get(0).map(ToOwned::to_owned),
        _ => None,
    }))
}
