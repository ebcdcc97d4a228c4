//! `doorbuster outbox show | replay | retry-mails | enable`: what was not told, and telling it again.

use anyhow::{Context as _, anyhow};
use clap::{Args, Subcommand};
use doorbuster_engine::domain::clock::Clock;
use doorbuster_engine::domain::notices::EventId;
use doorbuster_engine::ledger::Ledger;
use doorbuster_engine::ledger::outbox::Replay;
use jiff::Timestamp;
use serde_json::json;

use super::{Failure, print};
use crate::config::StoresConfig;

#[derive(Debug, Args)]
pub struct OutboxArguments {
    #[command(subcommand)]
    command: OutboxCommand,
    #[command(flatten)]
    stores: StoresConfig,
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
    /// Prints JSON
    #[arg(long)]
    json: bool,
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct ReplayArguments {
    /// One event, by its `webhook-id`
    #[arg(long, value_name = "ID")]
    event: Option<EventId>,
    /// Everything that happened since then, such as 2026-11-23T09:00:00Z
    #[arg(long, value_name = "TIME")]
    since: Option<Timestamp>,
}

pub async fn run(arguments: OutboxArguments) -> Result<(), Failure> {
    let ledger = super::ledger(&arguments.stores)?;
    let now = Clock::System.now();
    match arguments.command {
        OutboxCommand::Show(options) => show(&ledger, &options).await,
        OutboxCommand::Replay(ReplayArguments { event, since }) => {
            let replay = match (event, since) {
                (Some(event), _) => Replay::Event(event),
                (None, since) => Replay::Since(since.context("--event or --since")?),
            };
            match ledger.replay_events(&replay, now).await.context("Postgres")? {
                0 => Err(anyhow!("no such event, or no worker has had an endpoint configured for a day").into()),
                count => {
                    print(format_args!("{count} deliveries are due"));
                    Ok(())
                }
            }
        }
        OutboxCommand::RetryMails => {
            let count = ledger.retry_mails(now).await.context("Postgres")?;
            print(format_args!("{count} mails are due"));
            Ok(())
        }
        OutboxCommand::Enable { name } => {
            if !ledger.enable_endpoint(&name, now).await.context("Postgres")? {
                return Err(anyhow!("there is no endpoint named {name}").into());
            }
            print(format_args!("the endpoint {name} is enabled"));
            Ok(())
        }
    }
}

async fn show(ledger: &Ledger, options: &ShowArguments) -> Result<(), Failure> {
    let counts = ledger.delivery_counts().await.context("Postgres")?;
    let unsent = ledger.unsent_deliveries(options.limit.into()).await.context("Postgres")?;
    let disabled = ledger.disabled_endpoints().await.context("Postgres")?;
    if options.json {
        let disabled = disabled.iter().map(|(name, at)| json!({ "name": name, "disabled_at": at }));
        let shown = json!({ "counts": counts, "unsent": unsent, "disabled": disabled.collect::<Vec<_>>() });
        print(serde_json::to_string_pretty(&shown).context("the outbox cannot be written as JSON")?);
        return Ok(());
    }
    if counts.is_empty() {
        print("the outbox is empty");
    }
    for count in counts {
        print(format_args!("{:<24} {:<8} {:>8}  oldest {}", count.destination, count.state, count.count, count.oldest));
    }
    for (name, at) in disabled {
        print(format_args!(
            "the endpoint {name} answered 410 at {at} and is disabled: doorbuster outbox enable {name}"
        ));
    }
    for one in unsent {
        let error = one.last_error.unwrap_or_default();
        print(format_args!("{} {} {} after {} attempts: {error}", one.event, one.destination, one.state, one.attempts));
    }
    Ok(())
}
