//! `doorbuster-load serve`: the server that is measured, in a process of its own. Started by the other commands.

use std::net::SocketAddr;
use std::num::NonZeroU32;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use doorbuster::server::{Gateway, serve_router};
use doorbuster::state::GateState;
use doorbuster::{GatewayConfig, Secret, Workers, routes, telemetry};
use doorbuster_engine::domain::clock::Clock;
use doorbuster_engine::flows::Engine;
use doorbuster_engine::ledger::Ledger;
use doorbuster_engine::provider::{ProviderClient, ProviderSettings, RateLimit};
use doorbuster_engine::tokens::store::TokenStore;
use doorbuster_engine::workers::WorkerSettings;

use crate::ways::{SqlShop, Way, replacement};

// How the process is told what must not stand in its arguments, or is chosen for it.
pub(crate) const LISTEN: &str = "DOORBUSTER_LISTEN";
pub(crate) const JWT_SECRET: &str = "DOORBUSTER_JWT_SECRET";
pub(crate) const REDIS_URL: &str = "DOORBUSTER_REDIS_URL";
pub(crate) const DATABASE_URL: &str = "DOORBUSTER_DATABASE_URL";
pub(crate) const PROVIDER_URL: &str = "DOORBUSTER_PROVIDER_URL";
pub(crate) const PROVIDER_KEY: &str = "DOORBUSTER_PROVIDER_KEY";

/// The gateway's own default.
const CONNECTIONS: usize = 16;
/// Of ways that write orders before they answer. On two cores 16, 32 and 64 gave the same rates.
const SQL_CONNECTIONS: usize = 32;

#[derive(Debug, Args)]
pub struct ServeArguments {
    #[arg(long, env = LISTEN)]
    listen: SocketAddr,
    #[arg(long, env = JWT_SECRET, hide_env_values = true)]
    jwt_secret: Secret,
    #[arg(long, env = REDIS_URL)]
    redis_url: String,
    #[arg(long, env = DATABASE_URL)]
    database_url: String,
    #[arg(long)]
    way: Way,
    /// With a provider, the workers run too
    #[arg(long, env = PROVIDER_URL, requires = "provider_key")]
    provider_url: Option<String>,
    #[arg(long, env = PROVIDER_KEY, hide_env_values = true)]
    provider_key: Option<Secret>,
    #[arg(long, default_value_t = 16)]
    charge_concurrency: usize,
    /// Calls of one kind a second that the provider takes; as many as it can if not given
    #[arg(long)]
    provider_rate: Option<NonZeroU32>,
    /// What waits less than this, and is fewer than 5,000, waits on
    #[arg(long, default_value = "1s")]
    settle_every: jiff::SignedDuration,
}

/// Serves until it is killed.
pub async fn run(arguments: ServeArguments) -> anyhow::Result<()> {
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).with_max_level(tracing::Level::INFO).init();
    let connections = if arguments.way.is_sql() { SQL_CONNECTIONS } else { CONNECTIONS };
    let ledger = Ledger::new(&arguments.database_url, connections)?;
    let engine = Engine::new(ledger, TokenStore::connect(&arguments.redis_url).await?, Clock::System);
    let loopback = GatewayConfig::on_free_ports(arguments.jwt_secret.expose().to_owned());
    let config = GatewayConfig { listen: arguments.listen, ..loopback };
    let Some(claims) = replacement(arguments.way, SqlShop::new(&arguments.database_url)?) else {
        let workers = match (arguments.provider_url, arguments.provider_key) {
            (Some(base_url), Some(key)) => Some(Workers {
                provider: ProviderClient::new(ProviderSettings {
                    base_url,
                    secret_key: key.expose().to_owned().into(),
                    connect_timeout: Duration::from_secs(3),
                    answer_timeout: Duration::from_secs(20),
                })?
                .limited_to(
                    arguments
                        .provider_rate
                        .map_or(RateLimit::NONE, |rate| RateLimit { per_second: rate.get(), ..RateLimit::default() }),
                ),
                settings: WorkerSettings {
                    settle_every: Duration::try_from(arguments.settle_every)?,
                    charge_concurrency: arguments.charge_concurrency,
                    ..WorkerSettings::default()
                },
            }),
            _ => None,
        };
        // Says by itself where it listens.
        let _running = Gateway::start(config, engine, workers).await?;
        return std::future::pending().await;
    };
    // Counted as the gateway counts.
    telemetry::recorder();
    let gate = Arc::new(GateState::new(&config, engine));
    let served = serve_router(config.listen, routes::public_claiming(gate, &config, claims))?;
    tracing::info!("serving on http://{}", served.addr);
    std::future::pending().await
}
