//! `doorbuster check-config`: are the stores there, and would they keep what they are given?

use anyhow::{Context as _, anyhow};
use clap::Args;
use doorbuster_engine::flows::outbox::Lane;
use doorbuster_engine::ledger::LedgerError;

use super::{Failure, print};
use crate::config::{OutboxConfig, StoresConfig, WorkerPoolConfig};

#[derive(Debug, Args)]
pub struct CheckArguments {
    #[command(flatten)]
    stores: StoresConfig,
    #[command(flatten)]
    worker_pool: WorkerPoolConfig,
    #[command(flatten)]
    outbox: OutboxConfig,
}

pub async fn run(arguments: &CheckArguments) -> Result<(), Failure> {
    let lanes = arguments.outbox.check()?;
    let engine = super::engine(&arguments.stores)?;
    let pooler = engine.ledger.check_no_pooler().await;
    if let Err(error @ LedgerError::Pooler(_)) = pooler {
        return Err(anyhow!(error).into());
    }
    let postgres = engine.ledger.version().await.context("Postgres cannot be reached")?;
    print(format_args!("Postgres {postgres}"));
    let redis = engine.tokens.server_facts().await.context("Redis cannot be asked")?;
    print(format_args!("Redis {}", redis.version));

    let mut wrong = 0;
    let mut check = |is_good: bool, good: &str, bad: &str| {
        print(format_args!("{} {}", if is_good { "  ok   " } else { "  WRONG" }, if is_good { good } else { bad }));
        wrong += usize::from(!is_good);
    };
    match pooler {
        Ok(()) => check(true, "no pooler shares our sessions with Postgres", ""),
        Err(error) => check(false, "", &error.to_string()),
    }
    match engine.ledger.ping().await {
        Ok(()) => check(true, "Postgres takes what is written", ""),
        Err(error) => check(false, "", &error.to_string()),
    }
    let (buyers, workers) = (arguments.stores.database_connections, arguments.worker_pool.worker_database_connections);
    let allowed = engine.ledger.connections_max().await.context("Postgres cannot be asked")?;
    let wanted = i32::from(buyers) + i32::from(workers);
    check(
        wanted <= allowed,
        &format!("Postgres takes {allowed} connections: a gateway opens at most {buyers}, its workers {workers} more"),
        &format!(
            "Postgres takes {allowed} connections, fewer than a gateway ({buyers}) and its workers ({workers}) open: \
             raise max_connections, or lower DOORBUSTER_DATABASE_CONNECTIONS and DOORBUSTER_WORKER_DATABASE_CONNECTIONS"
        ),
    );
    let reach = engine.tokens.reach().await.context("Redis cannot be asked")?;
    match [reach.away, reach.refusing].concat() {
        wrong if wrong.is_empty() => check(true, "Redis takes what is written", ""),
        wrong => check(false, "", &wrong.join("; ")),
    }
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
    if arguments.stores.carts_redis_url.is_some() {
        let carts = engine.carts.server_facts().await.context("the carts' Redis cannot be asked")?;
        print(format_args!("Redis of the carts {}", carts.version));
        check(carts.is_primary, "it is a primary", "it is a replica: carts must go to the primary");
        check(carts.appendonly, "appendonly is on", "appendonly must be yes: without it a restart forgets every cart");
        check(
            carts.maxmemory_policy == "noeviction",
            "maxmemory-policy is noeviction",
            "maxmemory-policy must be noeviction: carts would vanish from under their buyers",
        );
    }
    for lane in &lanes {
        match lane {
            Lane::Mail(mailer) => match mailer.check_server().await {
                Ok(()) => check(true, "the mail server takes our mail", ""),
                Err(error) => check(false, "", &format!("the mail server cannot be used: {error}")),
            },
            Lane::Webhook(endpoint) if endpoint.is_plain() => print(format_args!(
                "  note  the endpoint {} is reached without TLS: others on the way can read its events",
                endpoint.name()
            )),
            Lane::Webhook(endpoint) => {
                check(true, &format!("the endpoint {} has secrets and TLS", endpoint.name()), "")
            }
        }
    }
    if !lanes.iter().any(|lane| matches!(lane, Lane::Mail(_))) {
        print("  note  no mail server is configured (DOORBUSTER_SMTP_URL): mails to buyers wait in the outbox");
    }
    match wrong {
        0 => Ok(()),
        count => Err(anyhow!("{count} settings must be changed before anything is sold").into()),
    }
}
