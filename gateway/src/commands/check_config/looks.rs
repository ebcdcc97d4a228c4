//! Looks at the servers: each asks one of them, and hands what it heard to the rules.

use std::path::Path;

use doorbuster_engine::domain::clock::{Clock, ClockReading};
use doorbuster_engine::flows::Engine;
use doorbuster_engine::ledger::LedgerError;
use doorbuster_engine::ledger::facts::DataPlace;
use doorbuster_engine::mail::{MailOutcome, Mailer};
use doorbuster_engine::provider::{Page, ProviderClient};
use doorbuster_engine::webhooks::{Event, WebhookClient, WebhookOutcome};
use jiff::Timestamp;
use tracing::instrument::WithSubscriber as _;
use tracing::subscriber::NoSubscriber;

use super::finding::Finding;
use super::rules::{self, Holds, Pools};
use crate::config::Secret;

/// Looks at the stores.
#[derive(Clone)]
pub(super) struct Looks {
    engine: Engine,
    /// Otherwise they are in the tokens' Redis.
    have_carts_their_own: bool,
}

impl Looks {
    pub(super) fn new(engine: Engine, have_carts_their_own: bool) -> Self {
        Self { engine, have_carts_their_own }
    }

    pub(super) async fn tokens(&self) -> Vec<Finding> {
        let (holds, tokens) = (Holds::Claims, &self.engine.tokens);
        let facts = match tokens.server_facts().await {
            Ok(facts) => facts,
            Err(error) => return vec![Finding::failed(holds.name(), &error, error.is_retryable())],
        };
        let mut findings = vec![match tokens.reach().await {
            Ok(reach) => rules::reach(holds, reach),
            Err(error) => Finding::failed(holds.name(), &error, error.is_retryable()),
        }];
        findings.extend(rules::redis(holds, &facts));
        let before = self.engine.clock.now();
        match tokens.clocks().await {
            Ok(clocks) => {
                // Of several the one that is furthest off.
                let after = self.engine.clock.now();
                let readings = clocks.into_iter().map(|theirs| ClockReading { before, theirs, after });
                let worst = readings.max_by_key(|reading| reading.ahead().abs());
                findings.extend(worst.map(|reading| rules::clock(holds.name(), &reading)));
            }
            Err(error) => findings.push(Finding::failed("clock of Redis", &error, error.is_retryable())),
        }
        findings
    }

    pub(super) async fn carts(&self) -> Vec<Finding> {
        let (holds, carts) = (Holds::Carts, &self.engine.carts);
        if !self.have_carts_their_own {
            return rules::sharing(None, None).into_iter().collect();
        }
        let facts = match carts.server_facts().await {
            Ok(facts) => facts,
            Err(error) => return vec![Finding::failed(holds.name(), &error, error.is_retryable())],
        };
        let mut findings = vec![match carts.reach().await {
            Ok(reach) => rules::reach(holds, reach),
            Err(error) => Finding::failed(holds.name(), &error, error.is_retryable()),
        }];
        findings.extend(rules::redis(holds, &facts));
        let tokens = self.engine.tokens.server_facts().await.ok();
        findings.extend(rules::sharing(tokens.as_ref(), Some(&facts)));
        findings
    }

    pub(super) async fn postgres(&self, pools: Pools) -> Vec<Finding> {
        const NAME: &str = "Postgres";
        let ledger = &self.engine.ledger;
        let failed = |name: &str, error: &LedgerError| Finding::failed(name, error, error.is_retryable());
        // A connection of its own: the pool does not tell a wrong password from a server that is away.
        if let Err(error) = ledger.check_no_pooler().await {
            let unseen = |name: &str| Finding::unseen(name, "Postgres could not be asked");
            let others = ["migrations", "clock of Postgres", "disk of Postgres"].map(unseen);
            return [failed(NAME, &error)].into_iter().chain(others).collect();
        }
        let mut findings = vec![Finding::ok(NAME, "no pooler shares our sessions with it")];
        findings.push(match ledger.ping().await {
            Ok(()) => Finding::ok(NAME, "it takes what is written"),
            // It answers, so there is nothing to wait for.
            Err(error @ LedgerError::ReadOnly { .. }) => Finding::wrong(NAME, error.to_string()),
            Err(error) => failed(NAME, &error),
        });
        findings.push(match ledger.version().await {
            Ok(version) => Finding::ok(NAME, format!("version {version}")),
            Err(error) => failed(NAME, &error),
        });
        match ledger.configuration_problems().await {
            Ok(problems) if problems.is_empty() => findings.push(Finding::ok(NAME, "it keeps what it has committed")),
            Ok(problems) => findings.extend(problems.into_iter().map(|problem| Finding::wrong(NAME, problem))),
            Err(error) => findings.push(failed(NAME, &error)),
        }
        findings.push(match ledger.connections_max().await {
            Ok(allowed) => rules::connections(pools, allowed),
            Err(error) => failed("connections of Postgres", &error),
        });
        findings.push(match ledger.schema().await {
            Ok(state) => rules::schema(&state),
            Err(error) => failed("migrations", &error),
        });
        let before = self.engine.clock.now();
        findings.push(match ledger.clock().await {
            Ok(theirs) => rules::clock(NAME, &ClockReading { before, theirs, after: self.engine.clock.now() }),
            Err(error) => failed("clock of Postgres", &error),
        });
        findings.push(match ledger.data_place().await {
            Ok(place) => disk(&place),
            Err(error) => failed("disk of Postgres", &error),
        });
        // Tables that are not there have been told of above.
        let disabled = ledger.disabled_endpoints().await.unwrap_or_default();
        findings.extend(disabled.iter().map(|(name, at)| {
            let again = format!("`doorbuster outbox enable {name}` sends to it again");
            Finding::warning(format!("endpoint {name}"), format!("it answered 410 at {at} and is disabled: {again}"))
        }));
        findings
    }

    pub(super) async fn acknowledgement(&self) -> Vec<Finding> {
        const NAME: &str = "acknowledgement";
        let unseen = |why: &str| vec![Finding::unseen(NAME, format!("{why} could not be asked"))];
        let Ok(facts) = self.engine.tokens.server_facts().await else { return unseen("Redis") };
        match self.engine.ledger.loaded_drops().await {
            Ok(drops) => vec![rules::acknowledgement(&facts, &drops)],
            Err(_) => unseen("drops"),
        }
    }
}

/// Free space where Postgres keeps its data, if that is surely this machine.
fn disk(place: &DataPlace) -> Finding {
    const NAME: &str = "disk of Postgres";
    let Some(folder) = &place.folder else {
        return Finding::unseen(NAME, "our user may not ask where its data is (pg_read_all_settings)");
    };
    if !place.is_address_local || !is_postgres(place.backend) {
        return Finding::unseen(NAME, "its data is not seen to be on this machine");
    }
    match free_and_all(folder) {
        Ok((free, all)) => rules::disk(free, all),
        Err(error) => Finding::unseen(NAME, format!("{} cannot be looked at: {error}", folder.display())),
    }
}

/// Whether a process of this number is a Postgres of this machine. Something that passes connections on would listen on
/// an address of ours too.
fn is_postgres(process: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{process}/comm")).is_ok_and(|name| name.trim() == "postgres")
}

#[cfg_attr(target_os = "linux", expect(clippy::useless_conversion, reason = "other systems count in 32 bits"))]
fn free_and_all(folder: &Path) -> nix::Result<(u64, u64)> {
    let disk = nix::sys::statvfs::statvfs(folder)?;
    let bytes = |blocks| u64::from(disk.fragment_size()).saturating_mul(u64::from(blocks));
    Ok((bytes(disk.blocks_available()), bytes(disk.blocks())))
}

/// Reads the newest payment, which changes nothing and wants a key.
pub(super) async fn provider(client: ProviderClient, key: &Secret) -> Vec<Finding> {
    // The client tells its log that the key is refused, which is a line of ours already.
    let asked = client.list_intents(None, 1).with_subscriber(NoSubscriber::default()).await;
    let is_of_other_mode = |page: Page<_>| page.data.iter().any(|intent| is_live(intent) != client.is_live());
    vec![rules::provider(key.expose(), asked.map(is_of_other_mode))]
}

fn is_live(intent: &doorbuster_engine::provider::Intent) -> bool {
    intent.livemode
}

pub(super) async fn mail(mailer: Mailer, test_to: Option<&str>) -> Vec<Finding> {
    let mut findings = vec![rules::mail(&mailer.about(), mailer.check_server().await)];
    if let Some(to) = test_to {
        findings.push(test_mail(&mailer, to, now()).await);
    }
    findings
}

async fn test_mail(mailer: &Mailer, to: &str, now: Timestamp) -> Finding {
    const NAME: &str = "test mail";
    let mail = match mailer.compose_test(to, now) {
        Ok(mail) => mail,
        Err(error) => return Finding::unusable(NAME, &format!("--send-test {to}: {error}")),
    };
    match mailer.send(&mail).await {
        MailOutcome::Sent => Finding::ok(NAME, format!("the mail server has taken it for {to}")),
        MailOutcome::Refused(why) | MailOutcome::Misconfigured(why) => {
            Finding::wrong(NAME, format!("it is refused for {to}: {why}"))
        }
        MailOutcome::NotSent(why) | MailOutcome::Unreachable(why) => {
            Finding::no_answer(NAME, format!("not sent: {why}"))
        }
        MailOutcome::Unknown(why) => Finding::no_answer(NAME, format!("it may have been sent: {why}")),
    }
}

pub(super) async fn endpoint(endpoint: WebhookClient, sends_test: bool) -> Vec<Finding> {
    let name = endpoint.name();
    let mut findings = vec![rules::endpoint(name, endpoint.host(), endpoint.reach().await)];
    let who = format!("endpoint {name}");
    findings.push(match endpoint.secrets() {
        1 => Finding::ok(&who, "its secret can sign"),
        secrets => Finding::ok(&who, format!("its {secrets} secrets can sign")),
    });
    if endpoint.is_plain() {
        findings.push(Finding::warning(&who, "it is reached without TLS: others on the way can read its events"));
    }
    if sends_test {
        findings.push(test_event(&endpoint, now()).await);
    }
    findings
}

async fn test_event(endpoint: &WebhookClient, now: Timestamp) -> Finding {
    let name = format!("test event to {}", endpoint.name());
    match endpoint.send(&Event::test(now), now).await {
        WebhookOutcome::Delivered => Finding::ok(name, "it was taken"),
        WebhookOutcome::Gone => Finding::wrong(name, "it was answered with 410: the endpoint wants no events"),
        WebhookOutcome::Failed { error, .. } => Finding::wrong(name, format!("it was not taken: {error}")),
        WebhookOutcome::Unreachable(why) => Finding::no_answer(name, why),
    }
}

fn now() -> Timestamp {
    Clock::System.now()
}
