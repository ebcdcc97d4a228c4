//! What the program can be told to do. One file a command.

pub mod serve;
pub mod work;
pub mod migrate;
pub mod drop;
pub mod order;
pub mod fulfil;
pub mod buyer;
pub mod finance;
pub mod rates;
pub mod catalog;
pub mod review;
pub mod settlement;
pub mod token;
pub mod openapi;
pub mod receipt;
pub mod check_config;
pub mod demo;
pub mod audit;
pub mod outbox;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::Subcommand;
use doorbuster_engine::carts::CartStore;
use doorbuster_engine::domain::clock::Clock;
use doorbuster_engine::flows::Engine;
use doorbuster_engine::ledger::Ledger;
use doorbuster_engine::tokens::store::TokenStore;
use tokio::signal::unix::{SignalKind, signal};

use crate::config::{BadConfig, ServeConfig, Stop, StoresConfig, WorkConfig};
use crate::routes::ops;
use crate::server;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Runs the gateway: the buyers' API, and with --with-workers the workers too
    Serve(Box<ServeConfig>),
    /// Runs the workers: settlement, charging, releases, openings by the clock, rebuilds
    Work(Box<WorkConfig>),
    /// Brings the database up to date; `serve` does it too
    Migrate(migrate::MigrateArguments),
    /// Makes, opens, closes and shows drops
    Drop(drop::DropArguments),
    /// Lists, shows, ships, cancels and refunds orders, and takes them back
    Order(order::OrderArguments),
    /// Prints or forgets what is kept of a buyer
    Buyer(buyer::BuyerArguments),
    /// Closes the books of a day; shows what a drop brought in
    Finance(finance::FinanceArguments),
    /// Lists products, and imports them from a file
    Product(catalog::ProductArguments),
    /// Shows what lies on shelves, and imports it from a file
    Stock(catalog::StockArguments),
    /// Lists and makes places of ordinary stock
    Warehouse(catalog::WarehouseArguments),
    /// Shows and replaces what tax and shipping cost, by country
    Rates(rates::RatesArguments),
    /// Shows and retries what settlement had to set aside
    Settlement(settlement::SettlementArguments),
    /// Prints the API's description (OpenAPI 3.1); needs no server and no configuration
    Openapi(openapi::OpenapiArguments),
    /// Mints a token for a test buyer
    Token(token::TokenArguments),
    /// Says whether a buyer's receipt is ours, and what it says
    Receipt(receipt::ReceiptArguments),
    /// Runs a whole sale on this machine, on private servers, and audits it
    Demo(crate::demo::DemoOptions),
    /// Audits every drop: each unit in exactly one place, each order charged once
    Audit(audit::AuditArguments),
    /// Shows what buyers and the shop's systems were not told, and tells them again
    Outbox(outbox::OutboxArguments),
    /// Connects to Redis, Postgres and the mail server and says what it finds there
    CheckConfig(check_config::CheckArguments),
}

/// Why a command did not do what it was told.
#[derive(Debug)]
pub enum Failure {
    Config(BadConfig),
    Other(anyhow::Error),
}

impl From<BadConfig> for Failure {
    fn from(bad: BadConfig) -> Self {
        Self::Config(bad)
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Other(error)
    }
}

impl Failure {
    #[expect(clippy::print_stderr, reason = "the sentence on stderr is the command's answer")]
    pub fn exit(self) -> ExitCode {
        match self {
            Self::Config(bad) => Stop::from(bad).exit(),
            Self::Other(error) => {
                eprintln!("doorbuster: {error:#}");
                ExitCode::FAILURE
            }
        }
    }
}

pub async fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Serve(config) => serve::run(&config).await,
        Command::Work(config) => work::run(&config).await,
        Command::Migrate(arguments) => migrate::run(&arguments).await,
        Command::Drop(arguments) => drop::run(arguments).await,
        Command::Order(arguments) => order::run(arguments).await,
        Command::Buyer(arguments) => buyer::run(arguments).await,
        Command::Finance(arguments) => finance::run(arguments).await,
        Command::Product(arguments) => catalog::product(arguments).await,
        Command::Stock(arguments) => catalog::stock(arguments).await,
        Command::Warehouse(arguments) => catalog::warehouse(arguments).await,
        Command::Rates(arguments) => rates::run(arguments).await,
        Command::Settlement(arguments) => settlement::run(&arguments).await,
        Command::Openapi(arguments) => openapi::run(&arguments),
        Command::Token(arguments) => token::run(&arguments),
        Command::Receipt(arguments) => receipt::run(&arguments),
        Command::Demo(options) => Box::pin(demo::run(options)).await,
        Command::Audit(arguments) => audit::run(&arguments).await,
        Command::Outbox(arguments) => outbox::run(arguments).await,
        Command::CheckConfig(arguments) => check_config::run(&arguments).await,
    }
}

/// How long after a try in vain Redis is looked for again at start. A try itself ends within some seconds.
const REDIS_AGAIN: Duration = Duration::from_millis(250);

/// The engine of a command, connected to Redis; Postgres is connected to on first use.
async fn engine(stores: &StoresConfig) -> Result<Engine, Failure> {
    let ledger = ledger(stores)?;
    let tokens = TokenStore::connect(stores.redis_url.expose()).await.context("Redis cannot be reached")?;
    let mut engine = Engine::new(ledger, tokens, Clock::System);
    if let Some(url) = &stores.carts_redis_url {
        let carts = CartStore::connect(url.expose(), Clock::System).await;
        engine.carts = carts.context("the carts' Redis cannot be reached")?;
    }
    Ok(engine)
}

/// The engine of a process that serves or works. While Redis is away it waits, and says so once; operators find it alive and not
/// ready. `None`: it was told to stop meanwhile.
async fn engine_once_redis_answers(
    stores: &StoresConfig,
    ops_listen: SocketAddr,
    signals: &mut StopSignals,
) -> Result<Option<Engine>, Failure> {
    // What is wrong with the configuration is not waited for.
    drop(ledger(stores)?);
    let mut waiting = None;
    loop {
        let answer = async {
            let engine = engine(stores).await?;
            engine.tokens.reach().await.context("Redis does not answer")?;
            Ok::<_, Failure>(engine)
        };
        let error = tokio::select! {
            () = signals.next() => {
                tracing::info!("told to stop while waiting for Redis");
                return Ok(None);
            }
            engine = answer => match engine {
                Ok(engine) => {
                    if let Some(waiting) = waiting {
                        tracing::info!("Redis answers: going on");
                        server::ServedRouter::stop(waiting).await;
                    }
                    return Ok(Some(engine));
                }
                Err(Failure::Other(error)) => error,
                Err(bad) => return Err(bad),
            },
        };
        if waiting.is_none() {
            let listening =
                server::serve_router(ops_listen, ops::waiting_for_redis()).context("the operators' listener")?;
            tracing::warn!(
                ops_addr = %listening.addr,
                error = format!("{error:#}"),
                "waiting for Redis: buyers get no answer, and nothing is settled, until it is there: {error:#}"
            );
            waiting = Some(listening);
        }
        tokio::select! {
            () = signals.next() => {
                tracing::info!("told to stop while waiting for Redis");
                return Ok(None);
            }
            () = tokio::time::sleep(REDIS_AGAIN) => {}
        }
    }
}

fn ledger(stores: &StoresConfig) -> Result<Ledger, Failure> {
    stores.check()?;
    let ledger = Ledger::new(stores.database_url.expose(), usize::from(stores.database_connections));
    Ok(ledger.map_err(|error| BadConfig(format!("--database-url (DOORBUSTER_DATABASE_URL): {error}")))?)
}

/// What tells this process to stop. Made before any port is opened, so that no signal is lost.
struct StopSignals {
    terminate: tokio::signal::unix::Signal,
    interrupt: tokio::signal::unix::Signal,
}

impl StopSignals {
    fn listen() -> anyhow::Result<Self> {
        let terminate = signal(SignalKind::terminate())?;
        let interrupt = signal(SignalKind::interrupt())?;
        Ok(Self { terminate, interrupt })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }

    /// Waits for the first; from then on a second one ends the process at once.
    async fn wait(mut self) {
        self.next().await;
        tokio::spawn(async move {
            self.next().await;
            tracing::warn!("told to stop twice: leaving at once");
            std::process::exit(1);
        });
    }
}

/// Answers of commands go to stdout, for people and pipes.
#[expect(clippy::print_stdout, reason = "this is the one place where commands print")]
fn print(text: impl std::fmt::Display) {
    println!("{text}");
}
