//! What the program can be told to do. One file a command.

pub mod serve;
pub mod work;
pub mod migrate;
pub mod drop;
mod drop_draft;
mod drop_line;
mod drop_figures;
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
pub mod draw;
pub mod check_config;
pub mod demo;
pub mod audit;
pub mod outbox;
pub mod shells;
pub mod output;
mod progress;
mod text;

use std::io::Write as _;
use std::process::ExitCode;

use clap::Subcommand;
use doorbuster_engine::carts::CartStore;
use doorbuster_engine::domain::clock::Clock;
use doorbuster_engine::flows::Engine;
use doorbuster_engine::ledger::{Ledger, LedgerError};
use doorbuster_engine::tokens::store::TokenStore;
use tokio::signal::unix::{SignalKind, signal};

use crate::config::{BadConfig, BadUsage, ServeConfig, Stop, StoresConfig, WorkConfig};
use crate::exit::Exit;

pub(crate) use output::print;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Runs the gateway: the buyers' API, and with --with-workers the workers too
    Serve(Box<ServeConfig>),
    /// Runs the workers: settlement, charging, releases, openings by the clock, rebuilds
    Work(Box<WorkConfig>),
    /// Brings the database up to date; `serve` does it too
    Migrate(migrate::MigrateArguments),
    /// Makes, changes, opens, closes, lists, shows and watches drops
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
    /// Shows, publishes, verifies and reveals the draw of a drop's line
    Draw(draw::DrawArguments),
    /// Runs a whole sale on this machine, on private servers, and audits it
    Demo(crate::demo::DemoOptions),
    /// Audits every drop: each unit in exactly one place, each order charged once
    Audit(audit::AuditArguments),
    /// Shows what buyers and the shop's systems were not told, and tells them again
    Outbox(outbox::OutboxArguments),
    /// Tries everything that is configured: stores, payment provider, mail server, webhooks, secrets, clocks. Says what a
    /// sale would fail of
    CheckConfig(Box<check_config::CheckArguments>),
    /// Prints the script with which a shell completes commands, flags and words
    Completions(shells::CompletionsArguments),
    /// Writes a manual page for each command
    Man(shells::ManArguments),
}

/// Why a command did not do what it was told.
#[derive(Debug)]
pub enum Failure {
    Config(BadConfig),
    Usage(BadUsage),
    /// What was found out ends with this code, and nothing failed.
    Ended(Exit, String),
    Other(anyhow::Error),
}

impl From<BadConfig> for Failure {
    fn from(bad: BadConfig) -> Self {
        Self::Config(bad)
    }
}

impl From<BadUsage> for Failure {
    fn from(bad: BadUsage) -> Self {
        Self::Usage(bad)
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self::Other(error)
    }
}

impl Failure {
    pub fn exit(self) -> ExitCode {
        match self {
            Self::Config(bad) => Stop::from(bad).exit(),
            Self::Usage(bad) => Stop::from(bad).exit(),
            Self::Ended(exit, sentence) => said(&sentence, exit),
            Self::Other(error) => said(&sentence(&error), Exit::of(&error)),
        }
    }
}

fn said(sentence: &str, exit: Exit) -> ExitCode {
    // Who has closed stderr wants no sentence; the exit code says it too.
    let _ = writeln!(std::io::stderr(), "doorbuster: {sentence}");
    exit.into()
}

/// The error and its causes, each said once: many of them say those below them already.
fn sentence(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
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
        Command::Draw(arguments) => draw::run(arguments).await,
        Command::Demo(options) => Box::pin(demo::run(options)).await,
        Command::Audit(arguments) => audit::run(&arguments).await,
        Command::Outbox(arguments) => outbox::run(arguments).await,
        Command::CheckConfig(arguments) => check_config::run(&arguments).await,
        Command::Completions(arguments) => shells::completions(&arguments),
        Command::Man(arguments) => shells::man(&arguments),
    }
}

/// The engine of a command. Both stores are connected to on first use: whoever asks for orders needs no Redis.
fn engine(stores: &StoresConfig) -> Result<Engine, Failure> {
    let ledger = ledger(stores)?;
    let bad = |name: &str, error: &dyn std::fmt::Display| BadConfig(format!("{name}: {error}"));
    let tokens = TokenStore::open(stores.redis_url.expose());
    let tokens = tokens.map_err(|error| bad("--redis-url (DOORBUSTER_REDIS_URL)", &error))?;
    stores.minimums()?.hold_here();
    let mut engine = Engine::new(ledger, tokens, Clock::System);
    if let Some(url) = &stores.carts_redis_url {
        let carts = CartStore::open(url.expose(), Clock::System);
        engine.carts = carts.map_err(|error| bad("--carts-redis-url (DOORBUSTER_CARTS_REDIS_URL)", &error))?;
    }
    Ok(engine)
}

/// What is to be known before a process serves or works: it never runs behind a pooler that shares sessions. A store
/// that is away is said once and waited for; `/readyz` fails meanwhile.
async fn check_stores(engine: &Engine) -> Result<(), Failure> {
    match engine.ledger.check_no_pooler().await {
        Err(error @ LedgerError::Pooler(_)) => return Err(anyhow::Error::new(error).into()),
        Err(error) => tracing::warn!(%error, "not ready until Postgres is there: {error}"),
        Ok(()) => {}
    }
    match engine.tokens.reach().await {
        Ok(reach) if reach.answering > 0 => {}
        Ok(reach) => tracing::warn!("not ready until Redis is: {}", reach.refusing.join("; ")),
        Err(error) => tracing::warn!(%error, "not ready until Redis is there: {error}"),
    }
    Ok(())
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
    /// The terminal is gone. Unheard it would end the process at once.
    hang_up: tokio::signal::unix::Signal,
}

impl StopSignals {
    fn listen() -> anyhow::Result<Self> {
        let terminate = signal(SignalKind::terminate())?;
        let interrupt = signal(SignalKind::interrupt())?;
        let hang_up = signal(SignalKind::hangup())?;
        Ok(Self { terminate, interrupt, hang_up })
    }

    async fn next(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
            _ = self.hang_up.recv() => {}
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_its_cause_once() {
        let cause = || std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
        #[derive(Debug, thiserror::Error)]
        #[error("Redis: {0}")]
        struct Says(#[source] std::io::Error);
        #[derive(Debug, thiserror::Error)]
        #[error("Redis")]
        struct SaysNot(#[source] std::io::Error);
        let refused = cause().to_string();
        let said = |error: anyhow::Error| sentence(&error.context("no orders"));
        assert_eq!(said(anyhow::Error::new(Says(cause()))), format!("no orders: Redis: {refused}"));
        assert_eq!(said(anyhow::Error::new(SaysNot(cause()))), format!("no orders: Redis: {refused}"));
    }
}
