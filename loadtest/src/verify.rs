//! `verify`: what the buyers were told, by their own log, held against the stores and the provider's captures.
//!
//! It believes no counter of the engine's: the judge of the buyers' log and the audit of the stores are two readings of the
//! same sale, and both must be clean.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, bail};
use clap::Args;
use doorbuster::Secret;
use doorbuster::demo::store_facts;
use doorbuster_engine::domain::clock::Clock;
use doorbuster_engine::domain::ids::DropName;
use doorbuster_engine::flows::Engine;
use doorbuster_engine::flows::audit::AuditReport;
use doorbuster_engine::ledger::Ledger;
use doorbuster_engine::provider::{Intent, ProviderClient, ProviderSettings};
use doorbuster_engine::tokens::store::TokenStore;
use doorbuster_sandbox::crowd::{BuyersLog, Verdict, judge};
use doorbuster_sandbox::provider::Capture;

use crate::output;

#[derive(Debug, Args)]
pub struct VerifyArguments {
    /// The buyers' log, as `run --log` writes it
    #[arg(long, value_name = "FILE")]
    log: PathBuf,
    /// Name of the drop
    #[arg(long, value_name = "NAME")]
    drop: DropName,
    #[arg(long, env = "DOORBUSTER_REDIS_URL", hide_env_values = true, value_name = "URL")]
    redis_url: Secret,
    #[arg(long, env = "DOORBUSTER_DATABASE_URL", hide_env_values = true, value_name = "URL")]
    database_url: Secret,
    /// The payment provider's address: every paid order must have one capture there, and every capture a paid order
    #[arg(long, env = "DOORBUSTER_PROVIDER_URL", value_name = "URL")]
    provider_url: String,
    #[arg(long, env = "DOORBUSTER_PROVIDER_KEY", hide_env_values = true, value_name = "KEY")]
    provider_key: Secret,
}

/// What was found, by both readings.
pub struct Verified {
    pub verdict: Verdict,
    pub audit: AuditReport,
}

impl Verified {
    pub fn is_clean(&self) -> bool {
        self.verdict.is_clean() && self.audit.is_clean()
    }

    /// What is wrong, one sentence each.
    pub fn findings(&self) -> Vec<String> {
        let violations = self.audit.violations.iter().map(|v| format!("{} {}: {}", v.drop, v.rule, v.detail));
        let moving = self.audit.drops.iter().filter(|drop| !drop.is_quiet);
        let moving = moving.map(|drop| format!("{} was not quiet: read at different instants", drop.drop));
        self.verdict.findings.iter().cloned().chain(violations).chain(moving).collect()
    }

    pub fn print(&self) {
        let Verdict { claims_accepted, replayed_clicks, sold_out_answers, orders_confirmed, .. } = self.verdict;
        output::print(format!(
            "told: {claims_accepted} claims accepted, {replayed_clicks} answered again, {sold_out_answers} sold out; \
             found: {orders_confirmed} orders confirmed, {} pending, {} failed, {} captures",
            self.verdict.orders_pending,
            self.verdict.orders_payment_failed,
            self.audit.captures.unwrap_or_default()
        ));
        let findings = self.findings();
        findings.iter().for_each(output::print);
        output::print(if self.is_clean() { "audit clean".to_owned() } else { format!("{} findings", findings.len()) });
    }
}

pub async fn run(arguments: VerifyArguments) -> anyhow::Result<()> {
    let log = std::fs::read(&arguments.log).with_context(|| format!("{}", arguments.log.display()))?;
    let log = serde_json::from_slice(&log).context("this is no log of buyers")?;
    let ledger = Ledger::new(arguments.database_url.expose(), 4)?;
    let engine = Engine::new(ledger, TokenStore::connect(arguments.redis_url.expose()).await?, Clock::System);
    let provider = ProviderClient::new(ProviderSettings {
        base_url: arguments.provider_url,
        secret_key: arguments.provider_key.expose().to_owned().into(),
        connect_timeout: Duration::from_secs(3),
        answer_timeout: Duration::from_secs(20),
    })?;
    let captures = captures(&provider).await?;
    let verified = verify(&engine, &provider, &arguments.drop, &log, captures).await?;
    verified.print();
    if verified.is_clean() { Ok(()) } else { bail!("what buyers were told and what is there are not the same") }
}

/// Both readings. To be called once everything is settled, charged and released.
pub async fn verify(
    engine: &Engine,
    provider: &ProviderClient,
    drop: &DropName,
    log: &BuyersLog,
    captures: Vec<Capture>,
) -> anyhow::Result<Verified> {
    let audit = engine.audit(Some(provider)).await?;
    let free =
        audit.drops.iter().filter(|audited| audited.drop == drop.as_str()).map(|audited| audited.free).sum::<usize>();
    let facts = store_facts(engine, drop, captures, u32::try_from(free)?).await?;
    Ok(Verified { verdict: judge(log, &facts), audit })
}

/// All captures that the provider knows of, in our way of writing them.
async fn captures(provider: &ProviderClient) -> anyhow::Result<Vec<Capture>> {
    const PAGE: u32 = 100;
    let (mut captures, mut after) = (Vec::new(), None);
    loop {
        let page = provider.list_intents(after.as_ref(), PAGE).await?;
        after = page.data.last().map(|intent| intent.id.clone());
        captures.extend(page.data.into_iter().filter_map(captured));
        if !page.has_more {
            return Ok(captures);
        }
    }
}

fn captured(intent: Intent) -> Option<Capture> {
    (intent.amount_received.amount_minor > 0).then(|| Capture {
        intent_id: intent.id.0,
        charge_id: intent.latest_charge.unwrap_or_default(),
        order_id: intent.order_id,
        amount_minor: intent.amount_received.amount_minor,
        currency: intent.amount_received.currency.to_string().to_ascii_lowercase(),
    })
}
