//! `doorbuster outbox show | replay | retry-mails | enable`: what was not told, and telling it again.

use anyhow::{Context as _, anyhow};
use clap::{Args, Subcommand};
use doorbuster_engine::domain::clock::Clock;
use doorbuster_engine::domain::notices::EventId;
use doorbuster_engine::ledger::Ledger;
use doorbuster_engine::ledger::outbox::{DeliveryCount, Replay, Unsent};
use jiff::Timestamp;
use serde_json::json;

use super::Failure;
use super::output::Format;
use super::text::{Table, count, instant, time};
use crate::config::StoresConfig;

#[derive(Debug, Args)]
pub struct OutboxArguments {
    #[command(subcommand)]
    command: OutboxCommand,
    #[command(flatten)]
    stores: StoresConfig,
    #[command(flatten)]
    format: Format,
}

#[derive(Debug, Subcommand)]
enum OutboxCommand {
    /// Shows how many mails and webhooks wait, arrived or failed, and the latest that failed
    Show(ShowArguments),
    /// Sends events again to every endpoint that workers are configured with, under the ids they had
    Replay(ReplayArguments),
    /// Puts mails back that were refused, had no address, or were given up
    RetryMails,
    /// Sends to an endpoint again that has answered 410, with all that has waited
    Enable {
        /// The endpoint's name
        name: String,
    },
}

#[derive(Debug, Args)]
struct ShowArguments {
    /// So many of those that failed
    #[arg(long, default_value_t = 20, value_name = "N")]
    limit: u32,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct ReplayArguments {
    /// One event, by its `webhook-id`
    #[arg(long, value_name = "ID")]
    event: Option<EventId>,
    /// Everything that happened since then, such as 2026-11-23T09:00:00Z
    #[arg(long, value_name = "TIME", value_parser = instant)]
    since: Option<Timestamp>,
}

pub async fn run(arguments: OutboxArguments) -> Result<(), Failure> {
    let ledger = super::ledger(&arguments.stores)?;
    let (now, format) = (Clock::System.now(), arguments.format);
    match arguments.command {
        OutboxCommand::Show(options) => show(&ledger, &options, format).await,
        OutboxCommand::Replay(ReplayArguments { event, since }) => {
            let replay = match (event, since) {
                (Some(event), _) => Replay::Event(event),
                (None, since) => Replay::Since(since.context("--event or --since")?),
            };
            match ledger.replay_events(&replay, now).await.context("Postgres")? {
                0 => Err(anyhow!("no such event, or no worker has had an endpoint configured for a day").into()),
                due => {
                    let text =
                        if due == 1 { "1 delivery is due".to_owned() } else { format!("{due} deliveries are due") };
                    format.answer(|| json!({ "due": due }), || text);
                    Ok(())
                }
            }
        }
        OutboxCommand::RetryMails => {
            let due = ledger.retry_mails(now).await.context("Postgres")?;
            let text = if due == 1 { "1 mail is due".to_owned() } else { format!("{due} mails are due") };
            format.answer(|| json!({ "due": due }), || text);
            Ok(())
        }
        OutboxCommand::Enable { name } => {
            if !ledger.enable_endpoint(&name, now).await.context("Postgres")? {
                return Err(anyhow!("there is no endpoint named {name}").into());
            }
            format.answer(|| json!({ "enabled": name }), || format!("the endpoint {name} is enabled"));
            Ok(())
        }
    }
}

async fn show(ledger: &Ledger, options: &ShowArguments, format: Format) -> Result<(), Failure> {
    let counts = ledger.delivery_counts().await.context("Postgres")?;
    let unsent = ledger.unsent_deliveries(options.limit.into()).await.context("Postgres")?;
    let disabled = ledger.disabled_endpoints().await.context("Postgres")?;
    let as_json = || {
        let disabled = disabled.iter().map(|(name, at)| json!({ "name": name, "disabled_at": at }));
        json!({ "counts": counts, "unsent": unsent, "disabled": disabled.collect::<Vec<_>>() })
    };
    let as_text = || {
        let mut parts = Vec::new();
        if counts.is_empty() {
            parts.push("the outbox is empty".to_owned());
        } else {
            let cells =
                |of: &DeliveryCount| [of.destination.clone(), of.state.clone(), of.count.to_string(), time(of.oldest)];
            parts.push(Table::new(["TO", "STATE", ">COUNT", "OLDEST"]).with(&counts, cells).to_string());
        }
        parts.extend(disabled.iter().map(|(name, at)| {
            let at = time(*at);
            format!("the endpoint {name} answered 410 at {at} and is disabled: doorbuster outbox enable {name}")
        }));
        if !unsent.is_empty() {
            let cells = |one: &Unsent| {
                let attempts = count(u64::from(one.attempts.unsigned_abs()), "attempt");
                let error = one.last_error.clone().unwrap_or_default();
                [one.event.clone(), one.destination.clone(), one.state.clone(), attempts, error]
            };
            parts.push(Table::new(["EVENT", "TO", "STATE", "AFTER", "ERROR"]).with(&unsent, cells).to_string());
        }
        parts.join("\n")
    };
    format.answer(as_json, as_text);
    Ok(())
}
