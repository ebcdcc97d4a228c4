//! `doorbuster check-config`: are the stores there, and would they keep what they are given?

use anyhow::{Context as _, anyhow};
use clap::Args;

use super::{Failure, print};
use crate::config::StoresConfig;

#[derive(Debug, Args)]
pub struct CheckArguments {
    #[command(flatten)]
    stores: StoresConfig,
}

pub async fn run(arguments: &CheckArguments) -> Result<(), Failure> {
    let engine = super::engine(&arguments.stores).await?;
    let postgres = engine.ledger.version().await.context("Postgres cannot be reached")?;
    print(format_args!("Postgres {postgres}"));
    let redis = engine.tokens.server_facts().await.context("Redis cannot be reached")?;
    print(format_args!("Redis {}", redis.version));

    let mut wrong = 0;
    let mut check = |is_good: bool, good: &str, bad: &str| {
        print(format_args!("{} {}", if is_good { "  ok   " } else { "  WRONG" }, if is_good { good } else { bad }));
        wrong += usize::from(!is_good);
    };
    check(
        redis.maxmemory_policy == "noeviction",
        "maxmemory-policy is noeviction",
        "maxmemory-policy must be noeviction: a Redis that evicts loses claims",
    );
    check(
        redis.appendonly,
        "appendonly is on",
        "appendonly must be yes: without it a restart forgets claims that were answered",
    );
    check(redis.is_primary, "it is a primary", "it is a replica: claims must go to the primary");
    match redis.appendfsync.as_deref() {
        Some("always") => check(true, "appendfsync is always", ""),
        Some(other) => print(format_args!(
            "  note  appendfsync is {other}: a machine that loses power loses the last second of accepted claims"
        )),
        None => print("  note  appendfsync cannot be read with this user: it should be always"),
    }
    match wrong {
        0 => Ok(()),
        count => Err(anyhow!("{count} of Redis' settings must be changed before anything is sold").into()),
    }
}
