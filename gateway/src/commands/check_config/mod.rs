//! `doorbuster check-config`: tries everything that is configured, side by side, and says what a sale would fail of.
//!
//! `finding` is what a look comes to, `rules` are what is right and what is not, `looks` ask the servers. Nothing that
//! buyers or the shop's endpoints would notice is sent without --send-test.

mod finding;
mod rules;
mod looks;

use std::time::Duration;

use clap::Args;
use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, join_all};
use serde_json::json;

use super::Failure;
use super::output::Format;
use crate::config::{Secret, StoresConfig, TokenSecret, WorkerPoolConfig, WorkersConfig, check_apart};
use crate::operators::OperatorTokens;
use crate::secret::{ReceiptSecrets, provider_webhook_secrets};
use finding::{Finding, Verdict, worst};
use looks::Looks;
use rules::Pools;

/// Of one look at a store: more than all its own deadlines together.
const STORE_LIMIT: Duration = Duration::from_secs(15);
/// Of one look at somebody else's server, which takes up to 20 s for itself; twice that with a test.
const OTHERS_LIMIT: Duration = Duration::from_secs(45);

#[derive(Debug, Args)]
pub struct CheckArguments {
    /// Sends a test mail to this address, and an event of the type `test` to each endpoint
    #[arg(long, value_name = "ADDRESS")]
    send_test: Option<String>,
    #[command(flatten)]
    format: Format,
    #[command(flatten)]
    stores: StoresConfig,
    #[command(flatten)]
    worker_pool: WorkerPoolConfig,
    #[command(flatten)]
    workers: WorkersConfig,
    #[command(flatten)]
    gateway: GatewaySecrets,
}

/// What `serve` needs; a machine that only works has none of it.
#[derive(Debug, Args)]
#[command(next_help_heading = "Gateway")]
struct GatewaySecrets {
    /// Secret of the buyers' bearer tokens (JWT, HS256), at least 32 bytes
    #[arg(long, env = "DOORBUSTER_JWT_SECRET", hide_env_values = true, value_name = "SECRET")]
    jwt_secret: Option<Secret>,
    /// Several of them, while they are rotated, as KID=SECRET,KID=SECRET
    #[arg(long, env = "DOORBUSTER_JWT_SECRETS", hide_env_values = true, value_name = "SECRETS")]
    jwt_secrets: Option<Secret>,
    #[command(flatten)]
    receipts: ReceiptSecrets,
    /// Secrets that sign the payment provider's webhooks, comma-separated
    #[arg(long, env = "DOORBUSTER_PROVIDER_WEBHOOK_SECRETS", hide_env_values = true, value_name = "SECRETS")]
    provider_webhook_secrets: Option<Secret>,
    #[command(flatten)]
    operators: OperatorTokens,
}

pub async fn run(arguments: &CheckArguments) -> Result<(), Failure> {
    let mut findings = arguments.gateway.findings();
    findings.extend(join_all(arguments.looks()).await.into_iter().flatten());
    let worst = worst(&findings);
    arguments.format.answer(
        || {
            let checks = findings.iter().map(Finding::as_json).collect::<Vec<_>>();
            json!({ "verdict": worst.word().to_lowercase(), "checks": checks })
        },
        || findings.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"),
    );
    let count = |verdicts: &[Verdict]| {
        let number = findings.iter().filter(|finding| verdicts.contains(&finding.verdict)).count();
        super::text::count(number as u64, "line")
    };
    let sentence = match worst {
        Verdict::Ok | Verdict::Warning | Verdict::Unseen => return Ok(()),
        Verdict::NoAnswer => format!("{} unknown because something did not answer", count(&[Verdict::NoAnswer])),
        Verdict::Wrong | Verdict::Unusable => {
            format!("{} WRONG: mend this before anything is sold", count(&[Verdict::Wrong, Verdict::Unusable]))
        }
    };
    Err(Failure::Ended(worst.exit(), sentence))
}

impl CheckArguments {
    /// Each on its own, in the order in which they are told.
    fn looks(&self) -> Vec<BoxFuture<'_, Vec<Finding>>> {
        let mut looks = Vec::new();
        match super::engine(&self.stores) {
            Ok(engine) => {
                let all = Looks::new(engine, self.stores.carts_redis_url.is_some());
                let (tokens, carts, postgres, acknowledgement) = (all.clone(), all.clone(), all.clone(), all);
                let pools = Pools {
                    buyers: self.stores.database_connections,
                    workers: self.worker_pool.worker_database_connections,
                };
                looks.push(limited("Redis", STORE_LIMIT, async move { tokens.tokens().await }));
                looks.push(limited("Redis of the carts", STORE_LIMIT, async move { carts.carts().await }));
                looks.push(limited("Postgres", STORE_LIMIT, async move { postgres.postgres(pools).await }));
                let promised = async move { acknowledgement.acknowledgement().await };
                looks.push(limited("acknowledgement", STORE_LIMIT, promised));
            }
            Err(Failure::Config(bad)) => looks.push(told(Finding::unusable("stores", &bad))),
            Err(failure) => looks.push(told(Finding::wrong("stores", format!("{failure:?}")))),
        }
        looks.push(self.provider());
        if self.workers.provider_url.is_some() {
            looks.push(told(self.way_back()));
        }
        looks.push(told(self.numbers()));
        match self.workers.outbox.mailer() {
            Ok(Some(mailer)) => {
                let look = looks::mail(mailer, self.send_test.as_deref());
                looks.push(limited("mail server", OTHERS_LIMIT, look));
            }
            Ok(None) => looks.push(told(Finding::warning(
                "mail server",
                "none is configured (DOORBUSTER_SMTP_URL): mails to buyers wait in the outbox",
            ))),
            Err(bad) => looks.push(told(Finding::unusable("mail server", &bad))),
        }
        match self.workers.outbox.endpoints() {
            Ok(endpoints) if endpoints.is_empty() => looks.push(told(Finding::ok("endpoints", "none is configured"))),
            Ok(endpoints) => {
                let look =
                    |endpoint| limited("endpoint", OTHERS_LIMIT, looks::endpoint(endpoint, self.send_test.is_some()));
                looks.extend(endpoints.into_iter().map(look));
            }
            Err(bad) => looks.push(told(Finding::unusable("endpoints", &bad))),
        }
        looks
    }

    /// From the bank's page, and from the provider's page for cards.
    fn way_back(&self) -> Finding {
        const NAME: &str = "return page";
        match &self.workers.return_url {
            Some(page) => Finding::ok(NAME, format!("buyers come back to {page}")),
            None => Finding::warning(
                NAME,
                "none is configured (DOORBUSTER_RETURN_URL): no link leads a buyer to their bank, and cards cannot be saved on \
                 the payment provider's page",
            ),
        }
    }

    fn provider(&self) -> BoxFuture<'_, Vec<Finding>> {
        const NAME: &str = "payment provider";
        let (url, key) = match (&self.workers.provider_url, &self.workers.provider_key) {
            (Some(url), Some(key)) => (url, key),
            (None, None) => {
                let why = "none is configured here (DOORBUSTER_PROVIDER_URL, …_KEY): workers need it";
                return told(Finding::warning(NAME, why));
            }
            _ => {
                let why =
                    "DOORBUSTER_PROVIDER_URL and DOORBUSTER_PROVIDER_KEY belong together, and one of them is missing";
                return told(Finding::unusable(NAME, &why));
            }
        };
        match crate::config::provider(url, key) {
            Ok(client) => limited(NAME, OTHERS_LIMIT, looks::provider(client, key)),
            Err(bad) => told(Finding::unusable(NAME, &bad)),
        }
    }

    /// What `work` is told besides.
    fn numbers(&self) -> Finding {
        match self.workers.check_numbers() {
            Ok(()) => Finding::ok("workers", "their settings can be used"),
            Err(bad) => Finding::unusable("workers", &bad),
        }
    }
}

impl GatewaySecrets {
    /// Nobody has to be asked.
    fn findings(&self) -> Vec<Finding> {
        let (receipts, operators) = (self.receipts.check(), self.operators.check());
        let (jwt_secret, jwt_secrets) = (self.jwt_secret.clone(), self.jwt_secrets.clone());
        let is_configured = jwt_secret.is_some() || jwt_secrets.is_some();
        let jwt_keys = is_configured.then(|| TokenSecret { jwt_secret, jwt_secrets }.check());
        let apart = match (&jwt_keys, &receipts, &operators) {
            (Some(Ok(jwt_keys)), Ok(receipts), Ok(operators)) => check_apart(jwt_keys, receipts, operators),
            _ => Ok(()),
        };
        let name = "tokens of buyers";
        let mut findings = vec![match &jwt_keys {
            Some(Ok(keys)) => {
                let secrets = super::text::count(keys.len() as u64, "secret");
                Finding::ok(name, format!("{secrets}, long enough"))
            }
            Some(Err(bad)) => Finding::unusable(name, bad),
            None => Finding::warning(name, "no secret is configured here (DOORBUSTER_JWT_SECRET): `serve` needs it"),
        }];
        let name = "receipts";
        findings.push(match receipts.as_deref() {
            Ok([]) => Finding::ok(name, "no key is configured: buyers get none"),
            Ok([signs, others @ ..]) => {
                let others = super::text::count(others.len() as u64, "older key");
                Finding::ok(name, format!("the key {} signs, {others} verify", signs.id()))
            }
            Err(bad) => Finding::unusable(name, bad),
        });
        let name = "operators";
        findings.push(match &operators {
            Ok(operators) => match operators.names().collect::<Vec<_>>().as_slice() {
                [] => Finding::ok(name, "none is configured: their API answers 403"),
                names => Finding::ok(name, names.join(", ")),
            },
            Err(bad) => Finding::unusable(name, bad),
        });
        findings.extend(apart.err().map(|bad| Finding::unusable("secrets", &bad)));
        let name = "provider's webhooks";
        findings.push(match provider_webhook_secrets(self.provider_webhook_secrets.as_ref()) {
            Ok(secrets) if secrets.is_empty() => Finding::warning(
                name,
                "no secret is configured (DOORBUSTER_PROVIDER_WEBHOOK_SECRETS): its events are answered with 503, and \
                 payments that end late are only seen when workers ask",
            ),
            Ok(secrets) => {
                let secrets = super::text::count(secrets.len() as u64, "secret");
                Finding::ok(
                    name,
                    format!("{secrets} of a usable form; whether the provider signs with it, its events show"),
                )
            }
            Err(bad) => Finding::unusable(name, &bad),
        });
        findings
    }
}

/// A finding that nobody has to be asked for.
fn told<'a>(finding: Finding) -> BoxFuture<'a, Vec<Finding>> {
    async { vec![finding] }.boxed()
}

fn limited<'a>(
    name: &'static str,
    limit: Duration,
    look: impl Future<Output = Vec<Finding>> + Send + 'a,
) -> BoxFuture<'a, Vec<Finding>> {
    async move {
        let looked = tokio::time::timeout(limit, look).await;
        looked.unwrap_or_else(|_| vec![Finding::no_answer(name, format!("no answer within {} s", limit.as_secs()))])
    }
    .boxed()
}
