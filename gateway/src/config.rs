//! Configuration: one struct is the flags, the environment and `--help` alike. The only place that reads the environment.
//!
//! Everything is checked before anything is connected or opened. What is secret cannot be printed, not even in the
//! sentence that says what is wrong with it.

use std::ffi::OsString;
use std::fmt;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use axum::http::HeaderValue;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Args, Parser, ValueEnum};
use doorbuster_engine::provider::{ProviderClient, ProviderSettings, SecretKey};
use doorbuster_engine::workers::WorkerSettings;
use jiff::SignedDuration;

use crate::commands::Command;
use crate::receipt::ReceiptKey;
use crate::server::Workers;

/// `EX_USAGE` of sysexits.h: what the operator gave us cannot be used.
const EXIT_BAD_CONFIG: u8 = 64;
/// HMAC-SHA256 is as strong as its key up to 32 bytes; a shorter secret can be guessed from one token.
const JWT_SECRET_BYTES_MIN: usize = 32;
/// Bounds the TCP and TLS handshake with the provider: below it nothing was sent.
pub const PROVIDER_CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Bounds one call to the provider; past it the outcome is unknown and is read back.
pub const PROVIDER_ANSWER_TIMEOUT: Duration = Duration::from_secs(20);

/// Twice the default interval of settlement.
const SETTLEMENT_LAG_LIMIT_MIN: SignedDuration = SignedDuration::from_mins(1);

#[derive(Debug, Parser)]
#[command(
    name = "doorbuster",
    version,
    about = "Sells a limited stock to a crowd: no unit twice, nobody refused while a unit is free, one charge per order",
    after_help = "Every flag with an [env: …] is also read from that variable; a flag wins over its variable. \
                  Exit codes: 0 done, 1 failed, 64 unusable configuration."
)]
pub struct Cli {
    #[command(flatten)]
    pub log: LogConfig,
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Logging")]
pub struct LogConfig {
    /// What is logged: a level (warn, info, debug) or a filter such as `info,doorbuster_engine=debug`
    #[arg(long = "log", env = "DOORBUSTER_LOG", default_value = "info", global = true)]
    pub filter: String,
    /// How it is logged, on stderr
    #[arg(long = "log-format", env = "DOORBUSTER_LOG_FORMAT", default_value = "text", global = true)]
    pub format: LogFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    Text,
    Json,
}

/// Where the tokens and the truth are.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Stores")]
pub struct StoresConfig {
    /// Redis, which holds the tokens of open drops: redis://[user:password@]host:port[/number], or redis-cluster://host:port,host:port…
    #[arg(long, env = "DOORBUSTER_REDIS_URL", hide_env_values = true, value_name = "URL")]
    pub redis_url: Secret,
    /// Postgres, which holds the truth: postgres://user:password@host:port/database
    #[arg(long, env = "DOORBUSTER_DATABASE_URL", hide_env_values = true, value_name = "URL")]
    pub database_url: Secret,
    /// Connections to Postgres, at most
    #[arg(long, env = "DOORBUSTER_DATABASE_CONNECTIONS", default_value_t = 16, value_name = "N")]
    pub database_connections: u16,
}

/// The workers' settings, for `work` and for `serve --with-workers`.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Workers")]
pub struct WorkersConfig {
    /// The payment provider's address, such as https://api.stripe.com
    #[arg(long, env = "DOORBUSTER_PROVIDER_URL", value_name = "URL")]
    pub provider_url: Option<String>,
    /// The payment provider's secret key
    #[arg(long, env = "DOORBUSTER_PROVIDER_KEY", hide_env_values = true, value_name = "KEY")]
    pub provider_key: Option<Secret>,
    /// How long a claim waits for its order at most
    #[arg(long, env = "DOORBUSTER_SETTLE_EVERY", default_value = "30s", value_name = "DURATION")]
    pub settle_every: SignedDuration,
    /// So many claims waiting are settled at once
    #[arg(long, env = "DOORBUSTER_BACKLOG_LIMIT", default_value_t = 5_000, value_name = "CLAIMS")]
    pub backlog_limit: usize,
    /// Calls to the payment provider at the same time
    #[arg(long, env = "DOORBUSTER_CHARGE_CONCURRENCY", default_value_t = 16, value_name = "N")]
    pub charge_concurrency: usize,
    /// How long the payments of a worker that died wait; more than three calls to the provider take
    #[arg(long, env = "DOORBUSTER_CHARGE_LEASE", default_value = "2m", value_name = "DURATION")]
    pub charge_lease: SignedDuration,
}

#[derive(Debug, Clone, Args)]
pub struct ServeConfig {
    #[command(flatten)]
    pub stores: StoresConfig,
    /// Where buyers reach the API
    #[arg(long, env = "DOORBUSTER_LISTEN", default_value = "127.0.0.1:8080", value_name = "ADDRESS")]
    pub listen: SocketAddr,
    /// Where operators reach /healthz, /readyz and /metrics; keep it off the internet
    #[arg(long, env = "DOORBUSTER_OPS_LISTEN", default_value = "127.0.0.1:9090", value_name = "ADDRESS")]
    pub ops_listen: SocketAddr,
    #[command(flatten)]
    pub tokens: TokenSecret,
    #[command(flatten)]
    pub receipts: ReceiptSecrets,
    /// Origins whose pages may call the API, comma-separated: https://shop.example,https://www.shop.example
    #[arg(long, env = "DOORBUSTER_CORS_ORIGINS", value_delimiter = ',', value_name = "ORIGINS")]
    pub cors_origins: Vec<String>,
    /// How long readiness fails before the port closes, so that a load balancer can look away
    #[arg(long, env = "DOORBUSTER_STOP_WAIT", default_value = "0s", value_name = "DURATION")]
    pub stop_wait: SignedDuration,
    /// How old the oldest unsettled claim of a drop may be before new claims are told to come back: while Postgres is away
    /// claims go on for so long
    #[arg(long, env = "DOORBUSTER_SETTLEMENT_LAG_LIMIT", default_value = "15m", value_name = "DURATION")]
    pub settlement_lag_limit: SignedDuration,
    /// Runs the workers in this process too: one process is enough for a small sale
    #[arg(long, env = "DOORBUSTER_WITH_WORKERS")]
    pub with_workers: bool,
    #[command(flatten)]
    pub workers: WorkersConfig,
}

#[derive(Debug, Clone, Args)]
pub struct WorkConfig {
    #[command(flatten)]
    pub stores: StoresConfig,
    /// Where operators reach /healthz, /readyz and /metrics of this worker; keep it off the internet
    #[arg(long, env = "DOORBUSTER_OPS_LISTEN", default_value = "127.0.0.1:9091", value_name = "ADDRESS")]
    pub ops_listen: SocketAddr,
    #[command(flatten)]
    pub workers: WorkersConfig,
}

/// The secret that signs and verifies buyers' tokens.
#[derive(Debug, Clone, Args)]
pub struct TokenSecret {
    /// Secret of the buyers' bearer tokens (JWT, HS256), at least 32 bytes
    #[arg(long, env = "DOORBUSTER_JWT_SECRET", hide_env_values = true, value_name = "SECRET")]
    pub jwt_secret: Secret,
}

/// The keys that sign and verify receipts.
#[derive(Debug, Clone, Args)]
pub struct ReceiptSecrets {
    /// Keys of the receipts that buyers get with their claims, as ID=SECRET,ID=SECRET: the first signs, all verify.
    /// Secrets have at least 32 bytes. Without any key there are no receipts
    #[arg(long, env = "DOORBUSTER_RECEIPT_KEYS", hide_env_values = true, value_name = "KEYS")]
    pub receipt_keys: Option<Secret>,
}

/// A gateway's settings, checked.
#[derive(Debug, Clone)]
pub struct GatewayConfig {
    /// Port 0 takes a free one; see [`crate::RunningGateway::public_addr`].
    pub listen: SocketAddr,
    pub ops_listen: SocketAddr,
    pub jwt_secret: Secret,
    /// The first one signs. None: buyers get no receipts.
    pub receipt_keys: Vec<ReceiptKey>,
    pub cors_origins: Vec<HeaderValue>,
    pub stop_wait: Duration,
    pub limits: Limits,
}

/// Bounds of one request, shortened by tests only.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// From the last byte of the header to the last of the body.
    pub body: Duration,
    /// How long an answer about a claim is waited for; past it the outcome is unknown to the buyer, and the claim goes on.
    pub claim: Duration,
    /// A whole request. More than body and claim together, so that a claim is never answered with "timed out".
    pub request: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { body: Duration::from_secs(3), claim: Duration::from_secs(6), request: Duration::from_secs(10) }
    }
}

impl GatewayConfig {
    /// For tests and demos: free ports on loopback, nothing waits.
    pub fn on_free_ports(jwt_secret: impl Into<String>) -> Self {
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        Self {
            listen: loopback,
            ops_listen: loopback,
            jwt_secret: Secret(jwt_secret.into()),
            receipt_keys: Vec::new(),
            cors_origins: Vec::new(),
            stop_wait: Duration::ZERO,
            limits: Limits::default(),
        }
    }
}

/// Text that must not be seen: no `Display`, and `Debug` hides it.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl From<String> for Secret {
    fn from(text: String) -> Self {
        Self(text)
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(redacted)")
    }
}

/// Why the configuration cannot be used, in one sentence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadConfig(pub String);

/// The program ends before it begins: help was asked for, or the configuration is bad.
#[derive(Debug)]
pub enum Stop {
    Text(clap::Error),
    Bad(BadConfig),
}

impl From<BadConfig> for Stop {
    fn from(bad: BadConfig) -> Self {
        Self::Bad(bad)
    }
}

impl Stop {
    #[expect(clippy::print_stderr, reason = "the sentence on stderr is this program's answer to bad configuration")]
    pub fn exit(self) -> ExitCode {
        match self {
            Self::Text(text) => {
                // A closed pipe is the reader's choice.
                let _ = text.print();
                ExitCode::SUCCESS
            }
            Self::Bad(bad) => {
                eprintln!("doorbuster: {bad}");
                ExitCode::from(EXIT_BAD_CONFIG)
            }
        }
    }
}

pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Cli, Stop> {
    Cli::try_parse_from(arguments).map_err(|error| match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Stop::Text(error),
        _ => Stop::Bad(BadConfig(sentence(&error))),
    })
}

/// What clap says in a paragraph, in one sentence.
fn sentence(error: &clap::Error) -> String {
    if let (ErrorKind::MissingRequiredArgument, Some(ContextValue::Strings(missing))) =
        (error.kind(), error.get(ContextKind::InvalidArg))
    {
        let flags = missing.join(", ");
        return format!("{flags} must be given, as a flag or as its DOORBUSTER_… variable (see --help)");
    }
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return "say what to do: serve, work, migrate, drop, token, audit, check-config or demo (see --help)"
            .to_owned();
    }
    let text = error.to_string();
    let first = text.split("\n\n").next().unwrap_or(&text).trim_start_matches("error: ");
    format!("{} (see --help)", first.split_whitespace().collect::<Vec<_>>().join(" "))
}

impl StoresConfig {
    pub fn check(&self) -> Result<(), BadConfig> {
        let redis = self.redis_url.expose();
        let schemes = ["redis://", "redis-cluster://", "rediss://", "unix://", "redis+unix://"];
        if !schemes.iter().any(|scheme| redis.starts_with(scheme)) {
            return bad("--redis-url (DOORBUSTER_REDIS_URL) must begin with redis://");
        }
        let database = self.database_url.expose();
        if !["postgres://", "postgresql://"].iter().any(|scheme| database.starts_with(scheme)) {
            return bad("--database-url (DOORBUSTER_DATABASE_URL) must begin with postgres://");
        }
        // The pool would wait for itself: a flow may hold one connection and ask for another.
        if self.database_connections < 2 {
            return bad("--database-connections (DOORBUSTER_DATABASE_CONNECTIONS) must be at least 2");
        }
        Ok(())
    }
}

impl TokenSecret {
    pub fn check(&self) -> Result<(), BadConfig> {
        if self.jwt_secret.expose().len() < JWT_SECRET_BYTES_MIN {
            return bad(format!(
                "--jwt-secret (DOORBUSTER_JWT_SECRET) must be at least {JWT_SECRET_BYTES_MIN} bytes long"
            ));
        }
        Ok(())
    }
}

impl ReceiptSecrets {
    pub fn check(&self) -> Result<Vec<ReceiptKey>, BadConfig> {
        self.receipt_keys.as_ref().map_or_else(|| Ok(Vec::new()), ReceiptKey::parse_list)
    }
}

impl WorkersConfig {
    pub fn check(&self) -> Result<Workers, BadConfig> {
        let (Some(url), Some(key)) = (&self.provider_url, &self.provider_key) else {
            return bad("workers need --provider-url and --provider-key (DOORBUSTER_PROVIDER_URL, …_KEY)");
        };
        let settle_every = duration("--settle-every (DOORBUSTER_SETTLE_EVERY)", self.settle_every)?;
        if settle_every.is_zero() || self.backlog_limit == 0 || self.charge_concurrency == 0 {
            return bad("--settle-every, --backlog-limit and --charge-concurrency must be above zero");
        }
        if !self.charge_lease.is_positive() {
            return bad("--charge-lease (DOORBUSTER_CHARGE_LEASE) must be above zero");
        }
        let provider = ProviderClient::new(ProviderSettings {
            base_url: url.clone(),
            secret_key: SecretKey::from(key.expose().to_owned()),
            connect_timeout: PROVIDER_CONNECT_TIMEOUT,
            answer_timeout: PROVIDER_ANSWER_TIMEOUT,
        });
        let provider = provider.map_err(|error| BadConfig(format!("--provider-url, --provider-key: {error}")))?;
        let settings = WorkerSettings {
            settle_every,
            backlog_limit: self.backlog_limit,
            charge_concurrency: self.charge_concurrency,
            charge_lease: self.charge_lease,
        };
        Ok(Workers { provider, settings })
    }
}

impl ServeConfig {
    pub fn check(&self) -> Result<(GatewayConfig, Option<Workers>), BadConfig> {
        self.stores.check()?;
        self.tokens.check()?;
        // Below the interval at which claims are settled, a drop would close itself between two settlements.
        if self.settlement_lag_limit < SETTLEMENT_LAG_LIMIT_MIN {
            return bad("--settlement-lag-limit (DOORBUSTER_SETTLEMENT_LAG_LIMIT) must be at least one minute");
        }
        let workers = if self.with_workers { Some(self.workers.check()?) } else { None };
        if self.receipts.check()?.iter().any(|key| key.has_secret(&self.tokens.jwt_secret)) {
            return bad(
                "--receipt-keys (DOORBUSTER_RECEIPT_KEYS) must not hold the secret of --jwt-secret: who issues tokens could sign receipts",
            );
        }
        let config = GatewayConfig {
            listen: self.listen,
            ops_listen: self.ops_listen,
            jwt_secret: self.tokens.jwt_secret.clone(),
            receipt_keys: self.receipts.check()?,
            cors_origins: self
                .cors_origins
                .iter()
                .filter(|text| !text.is_empty())
                .map(origin)
                .collect::<Result<_, _>>()?,
            stop_wait: duration("--stop-wait (DOORBUSTER_STOP_WAIT)", self.stop_wait)?,
            limits: Limits::default(),
        };
        Ok((config, workers))
    }
}

/// Scheme, host and port, nothing else: browsers compare the whole text.
fn origin(text: &String) -> Result<HeaderValue, BadConfig> {
    let host = text.strip_prefix("https://").or_else(|| text.strip_prefix("http://"));
    match (host, HeaderValue::from_str(text)) {
        (Some(host), Ok(value)) if !host.is_empty() && !host.contains(['/', '*', ' ', '?', '#']) => Ok(value),
        _ => bad(format!(
            "--cors-origins (DOORBUSTER_CORS_ORIGINS): {text:?} is not an origin such as https://shop.example"
        )),
    }
}

fn duration(name: &str, given: SignedDuration) -> Result<Duration, BadConfig> {
    Duration::try_from(given).map_err(|_| BadConfig(format!("{name} cannot be negative")))
}

fn bad<T>(sentence: impl Into<String>) -> Result<T, BadConfig> {
    Err(BadConfig(sentence.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(arguments: &[&str]) -> Result<Cli, Stop> {
        let arguments = std::iter::once("doorbuster").chain(arguments.iter().copied());
        parse(arguments.map(OsString::from))
    }

    #[test]
    fn flags_and_help_agree_with_each_other() {
        use clap::CommandFactory as _;
        Cli::command().debug_assert();
        for command in Cli::command().get_subcommands() {
            for argument in command.get_arguments().filter(|argument| argument.get_long() != Some("help")) {
                assert!(argument.get_help().is_some(), "{} {:?} has no help", command.get_name(), argument.get_id());
            }
        }
    }

    #[test]
    fn secrets_are_not_printed() {
        let long = "s".repeat(40);
        let cli = parsed(&["token", "--buyer", "b", "--jwt-secret", &long]).unwrap();
        let printed = format!("{cli:?}");
        assert!(!printed.contains(&long), "{printed}");
    }

    #[test]
    fn origins_are_whole_origins() {
        for bad in ["shop.example", "https://", "https://shop.example/", "https://*.example", "*"] {
            assert!(origin(&bad.to_owned()).is_err(), "{bad}");
        }
        assert!(origin(&"https://shop.example:8443".to_owned()).is_ok());
    }
}
