//! Configuration: one struct is the flags, the environment and `--help` alike. The only place that reads the environment.
//!
//! Everything is checked before anything is connected or opened. What is secret cannot be printed, not even in the
//! sentence that says what is wrong with it.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::io::Write as _;
use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use axum::http::HeaderValue;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Args, CommandFactory as _, Parser, ValueEnum};
use doorbuster_engine::beacon::{BeaconClient, DRAND};
use doorbuster_engine::domain::charges::Minimums;
use doorbuster_engine::flows::checkout::{UNPAID_ORDERS_MAX, UNPAID_UNITS_MAX};
use doorbuster_engine::flows::outbox::{DeliverySettings, Lane, MAILS_PER_ADDRESS};
use doorbuster_engine::mail::{MailSettings, Mailer};
use doorbuster_engine::provider::{ProviderClient, ProviderSettings, RateLimit, SecretKey};
use doorbuster_engine::webhooks::{WebhookClient, WebhookEndpoint};
use doorbuster_engine::workers::WorkerSettings;
use jiff::SignedDuration;
use url::Url;

use crate::commands::Command;
use crate::exit::{self, Exit};
use crate::operators::{OperatorTokens, Operators};
use crate::places::{CONNECTIONS, Network, Proxies, Sharing};
use crate::receipt::ReceiptKey;
use crate::secret::provider_webhook_secrets;
pub use crate::secret::{ReceiptSecrets, Secret, TokenKey, TokenSecret};
use crate::server::Workers;
use crate::steps::StepsConfig;

/// Bounds the TCP and TLS handshake with the provider: below it nothing was sent.
const PROVIDER_CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// Bounds one call to the provider; past it the outcome is unknown and is read back.
const PROVIDER_ANSWER_TIMEOUT: Duration = Duration::from_secs(20);
/// Bounds one mail, from the connection to the server's last word: below what a worker has when it is told to stop.
const MAIL_SEND_TIMEOUT: Duration = Duration::from_secs(20);

const SETTLE_EVERY: &str = "--settle-every (DOORBUSTER_SETTLE_EVERY)";
/// Twice the default interval of settlement.
const SETTLEMENT_LAG_LIMIT_MIN: SignedDuration = SignedDuration::from_mins(1);

#[derive(Debug, Parser)]
#[command(
    name = "doorbuster",
    version,
    about = "Sells a limited stock to a crowd: no unit twice, nobody refused while a unit is free, one charge per order",
    after_help = exit::help()
)]
pub struct Cli {
    #[command(flatten)]
    pub log: LogConfig,
    #[command(flatten)]
    pub steps: StepsConfig,
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
    /// Redis, which holds the tokens of open drops: redis://[user:password@]host:port[/number], or
    /// redis-cluster://host:port,host:port…; over a network rediss:// and rediss-cluster://, with ?ca=file.pem for an
    /// authority of your own
    #[arg(long, env = "DOORBUSTER_REDIS_URL", hide_env_values = true, value_name = "URL")]
    pub redis_url: Secret,
    /// The Redis of the carts, should it be another one: written by the second instead of by the claim, and much larger
    #[arg(long, env = "DOORBUSTER_CARTS_REDIS_URL", hide_env_values = true, value_name = "URL")]
    pub carts_redis_url: Option<Secret>,
    /// Postgres, which holds the truth: postgres://user:password@host:port/database, with ?sslmode=verify-full over a network;
    /// &sslrootcert=file.pem is an authority to trust beside the system's
    #[arg(long, env = "DOORBUSTER_DATABASE_URL", hide_env_values = true, value_name = "URL")]
    pub database_url: Secret,
    /// Connections to Postgres, at most
    #[arg(long, env = "DOORBUSTER_DATABASE_CONNECTIONS", default_value_t = 16, value_name = "N")]
    pub database_connections: u16,
    /// Smallest charges that the payment provider has for this account, where they are above the usual ones, in minor units,
    /// comma-separated: eur:100,usd:50. They depend on the currency that the account is paid out in
    #[arg(long, env = "DOORBUSTER_MINIMUM_CHARGE", value_name = "CURRENCY:AMOUNT")]
    pub minimum_charge: Option<String>,
}

/// Connections of the workers that run beside a gateway.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Stores")]
pub struct WorkerPoolConfig {
    /// Connections to Postgres of workers in the gateway's process, at most, beside those of buyers
    #[arg(long, env = "DOORBUSTER_WORKER_DATABASE_CONNECTIONS", default_value_t = 8, value_name = "N")]
    pub worker_database_connections: u16,
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
    /// Calls to the payment provider at the same time; half as many come on top to cancel what was declined
    #[arg(long, env = "DOORBUSTER_CHARGE_CONCURRENCY", default_value_t = 16, value_name = "N")]
    pub charge_concurrency: usize,
    /// Calls of one kind (create, confirm, cancel, refund, read) a second that the payment provider allows this process.
    /// It allows 25 to an account: several workers share them
    #[arg(long, env = "DOORBUSTER_PROVIDER_RATE", default_value_t = 25, value_name = "CALLS")]
    pub provider_rate: u32,
    /// Calls of one kind that may leave at once after a quiet time
    #[arg(long, env = "DOORBUSTER_PROVIDER_BURST", default_value_t = 5, value_name = "CALLS")]
    pub provider_burst: u32,
    /// How long the payments of a worker that died wait; more than three calls to the provider take
    #[arg(long, env = "DOORBUSTER_CHARGE_LEASE", default_value = "2m", value_name = "DURATION")]
    pub charge_lease: SignedDuration,
    /// How long an order is kept whose buyer's bank wants them to act; then its units go back
    #[arg(long, env = "DOORBUSTER_BANK_WITHIN", default_value = "10m", value_name = "DURATION")]
    pub bank_within: SignedDuration,
    /// How long an order of goods waits for another card after a decline; a drop says so itself (--decline-grace)
    #[arg(long, env = "DOORBUSTER_DECLINE_GRACE", default_value = "5m", value_name = "DURATION")]
    pub decline_grace: SignedDuration,
    /// The shop's page to which buyers come back from their bank and from the payment provider's page for cards, with
    /// `card_setup=` and the page's id behind it: https://shop.example/account. Without it nobody is led to their bank by a
    /// link, and cards are saved with the checkout profile alone
    #[arg(long, env = "DOORBUSTER_RETURN_URL", value_name = "URL")]
    pub return_url: Option<String>,
    /// Where the rounds of drand are to be had, which decide draws; separated by commas, asked in turn. Their signatures are
    /// checked, so it does not matter whose they are
    #[arg(long, env = "DOORBUSTER_BEACON_URLS", value_name = "URLS", value_delimiter = ',', default_values = DRAND)]
    pub beacon_urls: Vec<Url>,
    #[command(flatten)]
    pub outbox: OutboxConfig,
}

/// Who is told what happens to orders: buyers by mail, the shop's systems by webhooks.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Mails and webhooks")]
pub struct OutboxConfig {
    /// The mail server: smtp://user:password@host:587 or smtps://… TLS is required unless it is this machine; ?tls=none and
    /// ?tls=opportunistic say otherwise; ?ca=file.pem is an authority to trust beside the system's. Without it mails wait
    #[arg(long, env = "DOORBUSTER_SMTP_URL", hide_env_values = true, value_name = "URL", requires = "mail_from")]
    pub smtp_url: Option<Secret>,
    /// Who writes to buyers: "Shop <orders@shop.example>"
    #[arg(long, env = "DOORBUSTER_MAIL_FROM", value_name = "ADDRESS")]
    pub mail_from: Option<String>,
    /// The link to an order that mails carry: https://shop.example/orders/{order}
    #[arg(long, env = "DOORBUSTER_ORDER_LINK", value_name = "URL")]
    pub order_link: Option<String>,
    /// The link to an order's invoice that confirmations carry: https://shop.example/orders/{order}/invoice
    #[arg(long, env = "DOORBUSTER_INVOICE_LINK", value_name = "URL")]
    pub invoice_link: Option<String>,
    /// Endpoints of webhooks, comma-separated: shop=https://shop.example/hooks
    #[arg(long, env = "DOORBUSTER_WEBHOOKS", hide_env_values = true, value_delimiter = ',', value_name = "NAME=URL")]
    pub webhooks: Vec<Secret>,
    /// The endpoints' signing secrets, comma-separated, with a colon between those of a rotation: shop=whsec_new:whsec_old
    #[arg(
        long,
        env = "DOORBUSTER_WEBHOOK_SECRETS",
        hide_env_values = true,
        value_delimiter = ',',
        value_name = "NAME=SECRET"
    )]
    pub webhook_secrets: Vec<Secret>,
    /// Mails, or webhooks to one endpoint, at the same time
    #[arg(long, env = "DOORBUSTER_OUTBOX_CONCURRENCY", default_value_t = 8, value_name = "N")]
    pub outbox_concurrency: usize,
    /// How long what a worker that died was about to send waits; more than four mails to a slow server take
    #[arg(long, env = "DOORBUSTER_OUTBOX_LEASE", default_value = "2m", value_name = "DURATION")]
    pub outbox_lease: SignedDuration,
    /// Mails that one address gets within a clock hour, at most; what comes on top waits for the next one
    #[arg(long, env = "DOORBUSTER_MAILS_PER_ADDRESS", default_value_t = MAILS_PER_ADDRESS, value_name = "N")]
    pub mails_per_address: u32,
}

#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Gateway")]
pub struct ServeConfig {
    /// Where buyers reach the API
    #[arg(long, env = "DOORBUSTER_LISTEN", default_value = "127.0.0.1:8080", value_name = "ADDRESS")]
    pub listen: SocketAddr,
    /// Where operators reach /healthz, /readyz and /metrics; keep it off the internet
    #[arg(long, env = "DOORBUSTER_OPS_LISTEN", default_value = "127.0.0.1:9090", value_name = "ADDRESS")]
    pub ops_listen: SocketAddr,
    #[command(flatten)]
    pub tokens: TokenSecret,
    /// The audience (`aud`) that buyers' tokens must be for; without it their audience is not looked at
    #[arg(long, env = "DOORBUSTER_JWT_AUDIENCE", value_name = "AUDIENCE")]
    pub jwt_audience: Option<String>,
    /// The issuer (`iss`) that buyers' tokens must be from; without it their issuer is not looked at
    #[arg(long, env = "DOORBUSTER_JWT_ISSUER", value_name = "ISSUER")]
    pub jwt_issuer: Option<String>,
    /// How long a buyer's token may live, from its `iat` (or from now, if it has none) to its `exp`; without it any time
    #[arg(long, env = "DOORBUSTER_JWT_LIFE_MAX", value_name = "DURATION")]
    pub jwt_life_max: Option<SignedDuration>,
    #[command(flatten)]
    pub receipts: ReceiptSecrets,
    /// Secrets that sign the payment provider's webhooks, comma-separated: two while they rotate, at least 16 bytes each.
    /// Without any, webhooks are answered with 503, so that the provider comes again
    #[arg(long, env = "DOORBUSTER_PROVIDER_WEBHOOK_SECRETS", hide_env_values = true, value_name = "SECRETS")]
    pub provider_webhook_secrets: Option<Secret>,
    #[command(flatten)]
    pub operators: OperatorTokens,
    /// Origins whose pages may call the API, comma-separated: https://shop.example,https://www.shop.example
    #[arg(long, env = "DOORBUSTER_CORS_ORIGINS", value_delimiter = ',', value_name = "ORIGINS")]
    pub cors_origins: Vec<String>,
    /// How long readiness fails before the port closes, so that a load balancer can look away
    #[arg(long, env = "DOORBUSTER_STOP_WAIT", default_value = "5s", value_name = "DURATION")]
    pub stop_wait: SignedDuration,
    /// How long a connection may be idle before we close it: longer than the proxy in front keeps it (nginx 60s), or a
    /// request that it sends at this moment fails
    #[arg(long, env = "DOORBUSTER_KEEP_ALIVE", default_value = "75s", value_name = "DURATION")]
    pub keep_alive: SignedDuration,
    /// Connections of buyers at the same time, at most; fewer if the limit of open files is lower
    #[arg(long, env = "DOORBUSTER_CONNECTIONS", default_value_t = CONNECTIONS, value_name = "N")]
    pub connections: usize,
    /// Connections of one address at the same time, at most; without it a tenth of all. An IPv6 address stands for its /64
    #[arg(long, env = "DOORBUSTER_CONNECTIONS_PER_PEER", value_name = "N")]
    pub connections_per_peer: Option<usize>,
    /// Addresses and networks of the proxies in front, comma-separated, which may have all connections: 10.0.0.0/8,192.0.2.7.
    /// Without it whoever comes from this machine or from a private network is taken for one
    #[arg(long, env = "DOORBUSTER_TRUSTED_PROXIES", value_delimiter = ',', value_name = "NETWORKS")]
    pub trusted_proxies: Vec<String>,
    /// How old the oldest unsettled claim of a drop may be before new claims are told to come back: while Postgres is away
    /// claims go on for so long
    #[arg(long, env = "DOORBUSTER_SETTLEMENT_LAG_LIMIT", default_value = "15m", value_name = "DURATION")]
    pub settlement_lag_limit: SignedDuration,
    /// Orders of goods that one buyer may have unpaid at the same time; past it a checkout is refused
    #[arg(long, env = "DOORBUSTER_UNPAID_ORDERS_MAX", default_value_t = UNPAID_ORDERS_MAX, value_name = "ORDERS")]
    pub unpaid_orders_max: u32,
    /// Units that the unpaid orders of goods of one buyer may hold; past it a checkout is refused
    #[arg(long, env = "DOORBUSTER_UNPAID_UNITS_MAX", default_value_t = UNPAID_UNITS_MAX, value_name = "UNITS")]
    pub unpaid_units_max: u32,
    /// Runs the workers in this process too: one process is enough for a small sale
    #[arg(long, env = "DOORBUSTER_WITH_WORKERS")]
    pub with_workers: bool,
    /// Leaves the database's schema as it is, for a user that may not change it (docs/PRIVILEGES.md), and refuses to start on
    /// one that lacks something
    #[arg(long, env = "DOORBUSTER_NO_MIGRATE")]
    pub no_migrate: bool,
    // A heading holds for all that follows: these two have their own.
    #[command(flatten)]
    pub stores: StoresConfig,
    #[command(flatten)]
    pub worker_pool: WorkerPoolConfig,
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
/// A gateway's settings, checked.
#[derive(Debug, Clone)]
pub struct GatewayConfig {
    /// Port 0 takes a free one; see [`crate::RunningGateway::public_addr`].
    pub listen: SocketAddr,
    pub ops_listen: SocketAddr,
    /// At least one. The first signs what we sign ourselves.
    pub jwt_keys: Vec<TokenKey>,
    /// None: whatever a token says of its audience is not looked at.
    pub jwt_audience: Option<String>,
    /// None: whatever a token says of its issuer is not looked at.
    pub jwt_issuer: Option<String>,
    /// None: a token may live as long as it says.
    pub jwt_life_max: Option<SignedDuration>,
    /// The first one signs. None: buyers get no receipts.
    pub receipt_keys: Vec<ReceiptKey>,
    /// None: no event of the payment provider's is taken.
    pub provider_webhook_secrets: Vec<Secret>,
    /// None: the operators' API answers 403.
    pub operators: Operators,
    pub cors_origins: Vec<HeaderValue>,
    pub stop_wait: Duration,
    pub limits: Limits,
    /// How many connections buyers may have, and one peer of them.
    pub sharing: Sharing,
    /// Connections to Postgres, which need places beside those of buyers.
    pub pool_connections: usize,
    /// Those of the workers in this process.
    pub worker_connections: usize,
}

/// Bounds of one request, shortened by tests only.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// From the last byte of the header to the last of the body.
    pub body: Duration,
    /// How long an answer about a claim is waited for; past it the outcome is unknown to the buyer, and the claim goes on.
    pub claim: Duration,
    /// From the beginning of a connection to the end of its first header.
    pub first_header: Duration,
    /// How long a connection may be idle between two requests.
    pub keep_alive: Duration,
    /// A whole request. More than body and claim together, so that a claim is never answered with "timed out".
    pub request: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body: Duration::from_secs(3),
            claim: Duration::from_secs(6),
            first_header: Duration::from_secs(3),
            keep_alive: Duration::from_secs(75),
            request: Duration::from_secs(10),
        }
    }
}

impl GatewayConfig {
    /// For tests and demos: free ports on loopback, nothing waits.
    pub fn on_free_ports(jwt_secret: impl Into<String>) -> Self {
        let loopback = SocketAddr::from(([127, 0, 0, 1], 0));
        Self {
            listen: loopback,
            ops_listen: loopback,
            jwt_keys: vec![TokenKey::unnamed(Secret::from(jwt_secret.into()))],
            jwt_audience: None,
            jwt_issuer: None,
            jwt_life_max: None,
            receipt_keys: Vec::new(),
            provider_webhook_secrets: Vec::new(),
            operators: Operators::default(),
            cors_origins: Vec::new(),
            stop_wait: Duration::ZERO,
            limits: Limits::default(),
            sharing: Sharing::default(),
            pool_connections: 16,
            worker_connections: 8,
        }
    }
}

/// Why the configuration cannot be used, in one sentence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadConfig(pub String);

/// Why the command line cannot be used, in one sentence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct BadUsage(pub String);

/// The program ends before it begins: help was asked for, or what it was told cannot be used.
#[derive(Debug)]
pub enum Stop {
    Text(clap::Error),
    Usage(BadUsage),
    Bad(BadConfig),
}

impl From<BadUsage> for Stop {
    fn from(bad: BadUsage) -> Self {
        Self::Usage(bad)
    }
}

impl From<BadConfig> for Stop {
    fn from(bad: BadConfig) -> Self {
        Self::Bad(bad)
    }
}

impl Stop {
    pub fn exit(self) -> ExitCode {
        match self {
            Self::Text(text) => {
                // A closed pipe is the reader's choice.
                let _ = text.print();
                ExitCode::SUCCESS
            }
            Self::Usage(bad) => said(&bad, Exit::Usage),
            Self::Bad(bad) => said(&bad, Exit::Configuration),
        }
    }
}

fn said(bad: &dyn std::fmt::Display, exit: Exit) -> ExitCode {
    // Who has closed stderr wants no sentence; the exit code says it too.
    let _ = writeln!(std::io::stderr(), "doorbuster: {bad}");
    exit.into()
}

pub fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Cli, Stop> {
    Cli::try_parse_from(arguments).map_err(|error| match error.kind() {
        ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Stop::Text(error),
        _ if is_about_settings(&error) => Stop::Bad(BadConfig(sentence(&error))),
        _ => Stop::Usage(BadUsage(sentence(&error))),
    })
}

/// A setting is whatever has a variable. One that is missing or wrong is a matter of configuration, wherever it stands;
/// everything else is a matter of what was typed.
fn is_about_settings(error: &clap::Error) -> bool {
    let is_about_values = [ErrorKind::MissingRequiredArgument, ErrorKind::ValueValidation, ErrorKind::InvalidValue]
        .contains(&error.kind());
    let named = match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(one)) => std::slice::from_ref(one),
        Some(ContextValue::Strings(several)) => several.as_slice(),
        _ => &[],
    };
    let settings = settings_of(&Cli::command());
    // As `--listen <ADDRESS>`.
    let is_setting = |named: &String| {
        let flag = named.split_whitespace().next().and_then(|flag| flag.strip_prefix("--"));
        flag.is_some_and(|flag| settings.contains(flag))
    };
    is_about_values && !named.is_empty() && named.iter().all(is_setting)
}

/// The long names of all flags that have a variable, of this command and those below it.
fn settings_of(command: &clap::Command) -> BTreeSet<String> {
    let with_variable = command.get_arguments().filter(|argument| argument.get_env().is_some());
    let own = with_variable.filter_map(|argument| argument.get_long().map(ToOwned::to_owned));
    own.chain(command.get_subcommands().flat_map(settings_of)).collect()
}

/// What `doorbuster serve` can be told by a variable, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    pub heading: String,
    pub name: String,
    /// What it has to be, or what it is when nobody says.
    pub value: String,
    pub about: String,
}

/// Every variable of `doorbuster serve`, by heading. The flags are the only place that describes them.
pub fn settings_of_serve() -> Vec<Setting> {
    let mut cli = Cli::command();
    cli.build();
    let Some(serve) = cli.find_subcommand("serve") else { return Vec::new() };
    let settings = serve.get_arguments().filter_map(|argument| {
        let name = argument.get_env().filter(|_| !argument.is_hide_set())?.to_str()?.to_owned();
        let defaults = argument.get_default_values().iter().filter_map(|value| value.to_str()).collect::<Vec<_>>();
        let is_switch = !argument.get_action().takes_values();
        let value = match defaults.as_slice() {
            _ if argument.is_required_set() => "required".to_owned(),
            _ if is_switch => "true or false".to_owned(),
            [] => "not set".to_owned(),
            defaults => defaults.join(","),
        };
        Some(Setting {
            heading: argument.get_help_heading().unwrap_or("Gateway").to_owned(),
            name,
            value,
            about: argument.get_help().map(ToString::to_string).unwrap_or_default(),
        })
    });
    settings.collect()
}

/// What clap says in a paragraph, in one sentence.
fn sentence(error: &clap::Error) -> String {
    if let (ErrorKind::MissingRequiredArgument, Some(ContextValue::Strings(missing))) =
        (error.kind(), error.get(ContextKind::InvalidArg))
    {
        let flags = missing.join(", ");
        let variable = if is_about_settings(error) { ", as a flag or as its DOORBUSTER_… variable" } else { "" };
        return format!("{flags} must be given{variable} (see --help)");
    }
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        return "say what to do: --help lists the commands".to_owned();
    }
    let text = error.to_string();
    let first = text.split("\n\n").next().unwrap_or(&text).trim_start_matches("error: ");
    let first = first.split_whitespace().collect::<Vec<_>>().join(" ");
    match meant(error) {
        Some(meant) => format!("{first}: did you mean {meant}? (see --help)"),
        None => format!("{first} (see --help)"),
    }
}

/// The word that a misspelt one is most like.
fn meant(error: &clap::Error) -> Option<String> {
    let kinds = [ContextKind::SuggestedSubcommand, ContextKind::SuggestedArg, ContextKind::SuggestedValue];
    kinds.into_iter().find_map(|kind| match error.get(kind)? {
        ContextValue::String(one) => Some(one.clone()),
        ContextValue::Strings(several) => several.last().cloned(),
        _ => None,
    })
}

impl StoresConfig {
    pub fn check(&self) -> Result<(), BadConfig> {
        for (url, name) in
            [(Some(&self.redis_url), "--redis-url"), (self.carts_redis_url.as_ref(), "--carts-redis-url")]
        {
            if url.is_some_and(|url| url.expose().contains("sentinel://")) {
                return bad(format!(
                    "{name}: Sentinel is not asked for the primary. Put a TCP proxy before Redis that leads to the \
                     primary alone (HAProxy with `tcp-check expect string role:master`), name it as redis://, and give \
                     drops the level replicated"
                ));
            }
        }
        let schemes = ["redis://", "redis-cluster://", "rediss://", "rediss-cluster://", "unix://", "redis+unix://"];
        let is_redis = |url: &Secret| schemes.iter().any(|scheme| url.expose().starts_with(scheme));
        if !is_redis(&self.redis_url) {
            return bad("--redis-url (DOORBUSTER_REDIS_URL) must begin with redis:// or rediss://");
        }
        if !self.carts_redis_url.as_ref().is_none_or(is_redis) {
            return bad("--carts-redis-url (DOORBUSTER_CARTS_REDIS_URL) must begin with redis://");
        }
        let database = self.database_url.expose();
        if !["postgres://", "postgresql://"].iter().any(|scheme| database.starts_with(scheme)) {
            return bad("--database-url (DOORBUSTER_DATABASE_URL) must begin with postgres://");
        }
        // The pool would wait for itself: a flow may hold one connection and ask for another.
        if self.database_connections < 2 {
            return bad("--database-connections (DOORBUSTER_DATABASE_CONNECTIONS) must be at least 2");
        }
        self.minimums().map(|_| ())
    }

    pub(crate) fn minimums(&self) -> Result<Minimums, BadConfig> {
        let text = self.minimum_charge.as_deref().unwrap_or_default();
        text.parse().map_err(|error| BadConfig(format!("--minimum-charge (DOORBUSTER_MINIMUM_CHARGE): {error}")))
    }
}

/// The payment provider by its two settings.
pub(crate) fn provider(url: &str, key: &Secret) -> Result<ProviderClient, BadConfig> {
    let provider = ProviderClient::new(ProviderSettings {
        base_url: url.to_owned(),
        secret_key: SecretKey::from(key.expose().to_owned()),
        connect_timeout: PROVIDER_CONNECT_TIMEOUT,
        answer_timeout: PROVIDER_ANSWER_TIMEOUT,
    });
    provider
        .map_err(|error| BadConfig(format!("--provider-url, --provider-key (DOORBUSTER_PROVIDER_URL, …_KEY): {error}")))
}

impl WorkerPoolConfig {
    fn check(&self) -> Result<(), BadConfig> {
        if self.worker_database_connections < 2 {
            return bad("--worker-database-connections (DOORBUSTER_WORKER_DATABASE_CONNECTIONS) must be at least 2");
        }
        Ok(())
    }
}

impl WorkersConfig {
    pub fn check(&self) -> Result<Workers, BadConfig> {
        let (Some(url), Some(key)) = (&self.provider_url, &self.provider_key) else {
            return bad("workers need --provider-url and --provider-key (DOORBUSTER_PROVIDER_URL, …_KEY)");
        };
        self.check_numbers()?;
        let provider =
            provider(url, key)?.limited_to(RateLimit { per_second: self.provider_rate, burst: self.provider_burst });
        let settings = WorkerSettings {
            settle_every: duration(SETTLE_EVERY, self.settle_every)?,
            backlog_limit: self.backlog_limit,
            charge_concurrency: self.charge_concurrency,
            charge_lease: self.charge_lease,
            bank_within: self.bank_within,
            decline_grace: self.decline_grace,
            lanes: self.outbox.check()?,
            delivery: self.outbox.delivery(),
            beacon: BeaconClient::new(self.beacon_urls.clone())
                .map_err(|error| BadConfig(format!("--beacon-urls (DOORBUSTER_BEACON_URLS): {error}")))?,
        };
        Ok(Workers { provider, settings })
    }

    /// What is a number or a time, without the servers that are named.
    pub(crate) fn check_numbers(&self) -> Result<(), BadConfig> {
        let settle_every = duration(SETTLE_EVERY, self.settle_every)?;
        if settle_every.is_zero() || self.backlog_limit == 0 || self.charge_concurrency == 0 {
            return bad("--settle-every, --backlog-limit and --charge-concurrency must be above zero");
        }
        if self.provider_rate == 0 || self.provider_burst == 0 {
            return bad("--provider-rate and --provider-burst (DOORBUSTER_PROVIDER_RATE, …_BURST) must be above zero");
        }
        if !self.charge_lease.is_positive() {
            return bad("--charge-lease (DOORBUSTER_CHARGE_LEASE) must be above zero");
        }
        if !self.bank_within.is_positive() {
            return bad("--bank-within (DOORBUSTER_BANK_WITHIN) must be above zero");
        }
        if self.decline_grace.is_negative() {
            return bad("--decline-grace (DOORBUSTER_DECLINE_GRACE) is a time to wait, or 0s");
        }
        let is_page = |url: &String| {
            let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"));
            rest.is_some_and(|rest| !rest.is_empty() && !rest.contains(['#', ' ', '{', '}']))
        };
        if !self.return_url.as_ref().is_none_or(is_page) {
            return bad("--return-url (DOORBUSTER_RETURN_URL) must be a page, https://…, without a fragment");
        }
        if !self.beacon_urls.iter().all(|url| matches!(url.scheme(), "https" | "http") && url.has_host()) {
            return bad("--beacon-urls (DOORBUSTER_BEACON_URLS) are addresses such as https://api.drand.sh");
        }
        self.outbox.check_numbers()
    }
}

impl OutboxConfig {
    /// The lanes for mails, if there is a mail server, and one for each endpoint.
    pub fn check(&self) -> Result<Vec<Lane>, BadConfig> {
        self.check_numbers()?;
        let mails = self.mailer()?.iter().flat_map(Lane::mails).collect::<Vec<_>>();
        Ok(mails.into_iter().chain(self.endpoints()?.into_iter().map(Lane::Webhook)).collect())
    }

    fn check_numbers(&self) -> Result<(), BadConfig> {
        if self.outbox_concurrency == 0 || !self.outbox_lease.is_positive() {
            return bad("--outbox-concurrency and --outbox-lease must be above zero");
        }
        if self.mails_per_address == 0 {
            return bad("--mails-per-address (DOORBUSTER_MAILS_PER_ADDRESS) must be above zero");
        }
        Ok(())
    }

    /// Where events are sent, with their secrets.
    pub fn endpoints(&self) -> Result<Vec<WebhookClient>, BadConfig> {
        let mut endpoints = Vec::new();
        let mut secrets = pairs("--webhook-secrets (DOORBUSTER_WEBHOOK_SECRETS): NAME=SECRET", &self.webhook_secrets)?;
        for (name, url) in pairs("--webhooks (DOORBUSTER_WEBHOOKS): NAME=URL", &self.webhooks)? {
            let secrets = secrets.remove(&name).unwrap_or_default();
            let secrets =
                secrets.split(':').filter(|secret| !secret.is_empty()).map(str::parse).collect::<Result<_, _>>();
            let secrets = secrets.map_err(|error| BadConfig(format!("--webhook-secrets for {name:?}: {error}")))?;
            let client = WebhookClient::new(WebhookEndpoint { name: name.clone(), url, secrets });
            endpoints.push(client.map_err(|error| BadConfig(format!("--webhooks for {name:?}: {error}")))?);
        }
        match secrets.keys().next() {
            Some(name) => bad(format!("--webhook-secrets names {name:?}, which --webhooks does not")),
            None => Ok(endpoints),
        }
    }

    /// `None`: mails wait.
    pub fn mailer(&self) -> Result<Option<Mailer>, BadConfig> {
        let Some(url) = &self.smtp_url else { return Ok(None) };
        let settings = MailSettings {
            url: url.expose().to_owned(),
            from: self.mail_from.clone().unwrap_or_default(),
            order_link: self.order_link.clone(),
            invoice_link: self.invoice_link.clone(),
            send_timeout: MAIL_SEND_TIMEOUT,
        };
        let mailer = Mailer::new(&settings);
        mailer
            .map(Some)
            .map_err(|error| BadConfig(format!("--smtp-url, --mail-from, --order-link, --invoice-link: {error}")))
    }

    pub fn delivery(&self) -> DeliverySettings {
        // Four rounds a lease, whatever the concurrency.
        let batch = i64::try_from(self.outbox_concurrency.saturating_mul(4)).unwrap_or(i64::MAX);
        DeliverySettings {
            concurrency: self.outbox_concurrency,
            batch,
            lease: self.outbox_lease,
            mails_per_address: self.mails_per_address,
        }
    }
}

/// `NAME=VALUE`, each name once. Values are secret, so they are not repeated.
pub(crate) fn pairs(what: &str, given: &[Secret]) -> Result<BTreeMap<String, String>, BadConfig> {
    let mut pairs = BTreeMap::new();
    for pair in given.iter().map(Secret::expose).filter(|pair| !pair.is_empty()) {
        let Some((name, value)) = pair.split_once('=') else { return bad(format!("{what} has no =")) };
        if pairs.insert(name.to_owned(), value.to_owned()).is_some() {
            return bad(format!("{what} names {name:?} twice"));
        }
    }
    Ok(pairs)
}

/// Whoever knows one secret must not be able to do what another one is for.
pub(crate) fn check_apart(
    jwt_keys: &[TokenKey],
    receipt_keys: &[ReceiptKey],
    operators: &Operators,
) -> Result<(), BadConfig> {
    if jwt_keys.iter().any(|token| receipt_keys.iter().any(|key| key.has_secret(&token.secret))) {
        return bad(
            "--receipt-keys (DOORBUSTER_RECEIPT_KEYS) must not hold the secret of --jwt-secret: who issues tokens could sign receipts",
        );
    }
    if jwt_keys.iter().any(|key| operators.has_secret(&key.secret)) {
        return bad(
            "--operator-tokens (DOORBUSTER_OPERATOR_TOKENS) must not hold the secret of --jwt-secret: who issues tokens would be an operator",
        );
    }
    Ok(())
}

impl ServeConfig {
    pub fn check(&self) -> Result<(GatewayConfig, Option<Workers>), BadConfig> {
        self.stores.check()?;
        self.worker_pool.check()?;
        let jwt_keys = self.tokens.check()?;
        if self.jwt_life_max.is_some_and(|longest| !longest.is_positive()) {
            return bad("--jwt-life-max (DOORBUSTER_JWT_LIFE_MAX) must be above zero");
        }
        // Below the interval at which claims are settled, a drop would close itself between two settlements.
        if self.settlement_lag_limit < SETTLEMENT_LAG_LIMIT_MIN {
            return bad("--settlement-lag-limit (DOORBUSTER_SETTLEMENT_LAG_LIMIT) must be at least one minute");
        }
        if self.unpaid_orders_max == 0 {
            return bad("--unpaid-orders-max (DOORBUSTER_UNPAID_ORDERS_MAX) must be above zero");
        }
        if self.unpaid_units_max == 0 {
            return bad("--unpaid-units-max (DOORBUSTER_UNPAID_UNITS_MAX) must be above zero");
        }
        let workers = if self.with_workers { Some(self.workers.check()?) } else { None };
        let (receipt_keys, operators) = (self.receipts.check()?, self.operators.check()?);
        check_apart(&jwt_keys, &receipt_keys, &operators)?;
        let config = GatewayConfig {
            listen: self.listen,
            ops_listen: self.ops_listen,
            jwt_keys,
            jwt_audience: self.jwt_audience.clone().filter(|audience| !audience.is_empty()),
            jwt_issuer: self.jwt_issuer.clone().filter(|issuer| !issuer.is_empty()),
            jwt_life_max: self.jwt_life_max,
            receipt_keys,
            provider_webhook_secrets: provider_webhook_secrets(self.provider_webhook_secrets.as_ref())?,
            operators,
            cors_origins: self
                .cors_origins
                .iter()
                .filter(|text| !text.is_empty())
                .map(origin)
                .collect::<Result<_, _>>()?,
            stop_wait: duration("--stop-wait (DOORBUSTER_STOP_WAIT)", self.stop_wait)?,
            limits: Limits {
                keep_alive: duration("--keep-alive (DOORBUSTER_KEEP_ALIVE)", self.keep_alive)?,
                ..Limits::default()
            },
            sharing: self.sharing()?,
            pool_connections: self.stores.database_connections.into(),
            worker_connections: self.worker_pool.worker_database_connections.into(),
        };
        Ok((config, workers))
    }
}

impl ServeConfig {
    fn sharing(&self) -> Result<Sharing, BadConfig> {
        if self.connections == 0 || self.connections_per_peer == Some(0) {
            return bad(
                "--connections and --connections-per-peer (DOORBUSTER_CONNECTIONS, …_PER_PEER) must be above zero",
            );
        }
        let networks = self.trusted_proxies.iter().map(|text| text.trim()).filter(|text| !text.is_empty());
        let networks = networks.map(|text| {
            let network = text.parse::<Network>();
            network.map_err(|no| BadConfig(format!("--trusted-proxies (DOORBUSTER_TRUSTED_PROXIES): {text:?} {no}")))
        });
        let networks = networks.collect::<Result<Vec<_>, _>>()?;
        let proxies = if networks.is_empty() { Proxies::Neighbours } else { Proxies::Named(networks) };
        Ok(Sharing { connections: self.connections, of_a_peer: self.connections_per_peer, proxies })
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

pub(crate) fn bad<T>(sentence: impl Into<String>) -> Result<T, BadConfig> {
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
        let mut cli = Cli::command();
        cli.build();
        for command in leaves(&cli) {
            let name = command.get_bin_name().unwrap_or(command.get_name());
            for argument in command.get_arguments() {
                assert!(argument.get_help().is_some(), "{name} {:?} has no help", argument.get_id());
            }
            let has_json = command.get_arguments().any(|argument| argument.get_long() == Some("json"));
            let prints_data = !WITHOUT_DATA.contains(&name.trim_start_matches("doorbuster "));
            assert_eq!(has_json, prints_data, "{name}: commands that print data have --json, and others have not");
        }
    }

    /// What they print is a log, a picture of a sale, or a file of one form.
    const WITHOUT_DATA: &[&str] = &["serve", "work", "demo", "openapi", "completions", "man"];

    /// The commands that do something, however deep they lie.
    fn leaves(command: &clap::Command) -> Vec<&clap::Command> {
        let mut below = command.get_subcommands().filter(|below| below.get_name() != "help").peekable();
        if below.peek().is_none() {
            return vec![command];
        }
        below.flat_map(leaves).collect()
    }

    #[test]
    fn secrets_are_not_printed() {
        let long = "s".repeat(40);
        let cli = parsed(&["token", "--buyer", "b", "--jwt-secret", &long]).unwrap();
        let printed = format!("{cli:?}");
        assert!(!printed.contains(&long), "{printed}");
    }

    fn outbox(arguments: &[&str]) -> Result<OutboxConfig, Stop> {
        #[derive(Parser)]
        struct Alone {
            #[command(flatten)]
            outbox: OutboxConfig,
        }
        let alone = Alone::try_parse_from(std::iter::once("x").chain(arguments.iter().copied()));
        alone.map(|alone| alone.outbox).map_err(Stop::Text)
    }

    #[test]
    fn endpoints_and_secrets_belong_together() {
        const A: &str = "whsec_MDEyMzQ1Njc4OTAxMjM0NTY3ODkwMTIz";
        const B: &str = "whsec_YWJjZGVmZ2hpamtsbW5vcHFyc3R1dnd4";
        let two = format!("a={A}:{B},b={B}");
        let good = outbox(&["--webhooks", "a=https://a.example/?t=x,b=http://b.example", "--webhook-secrets", &two]);
        let lanes = good.unwrap().check().unwrap();
        assert_eq!(lanes.iter().map(Lane::name).collect::<Vec<_>>(), ["webhook:a", "webhook:b"]);
        assert!(outbox(&[]).unwrap().check().unwrap().is_empty());
        let smtp = &["--smtp-url", "smtp://u:hidden@mail.example", "--mail-from", "Shop <orders@shop.example>"];
        let mails = outbox(smtp).unwrap().check().unwrap();
        assert_eq!(mails.iter().map(Lane::name).collect::<Vec<_>>(), ["mail", "mail:awards", "mail:lines"]);
        assert!(outbox(&smtp[..2]).is_err(), "who writes?");
        for (webhooks, secrets, wrong) in [
            ("a", "", "has no ="),
            ("a=https://a.example", "", "nothing is sent unsigned"),
            ("a=https://a.example", "a=hidden", "24 to 64"),
            ("a=https://a.example", &two, "names \"b\""),
            ("a=https://a.example,a=https://b.example", &two, "twice"),
            ("a=ftp://a.example", &two, "http or https"),
        ] {
            let error = outbox(&["--webhooks", webhooks, "--webhook-secrets", secrets]).unwrap().check().unwrap_err();
            assert!(error.0.contains(wrong) && !error.0.contains("hidden"), "{error}");
        }
    }

    #[test]
    fn origins_are_whole_origins() {
        for bad in ["shop.example", "https://", "https://shop.example/", "https://*.example", "*"] {
            assert!(origin(&bad.to_owned()).is_err(), "{bad}");
        }
        assert!(origin(&"https://shop.example:8443".to_owned()).is_ok());
    }
}
