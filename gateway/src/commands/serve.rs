//! `doorbuster serve`: check, migrate, open the ports, wait for a signal, drain.

use anyhow::{Context as _, anyhow};
use doorbuster_engine::ledger::Ledger;
use doorbuster_engine::ledger::migrate::SchemaState;

use super::{Failure, StopSignals};
use crate::config::ServeConfig;
use crate::files;

pub async fn run(config: &ServeConfig) -> Result<(), Failure> {
    let (gateway, workers) = config.check()?;
    let mut signals = StopSignals::listen()?;
    files::raise_limit();
    let mut engine = super::engine(&config.stores)?;
    engine.settlement_lag_limit = config.settlement_lag_limit;
    engine.unpaid_orders_max = config.unpaid_orders_max;
    engine.unpaid_units_max = config.unpaid_units_max;
    engine.return_url.clone_from(&config.workers.return_url);
    super::check_stores(&engine).await?;
    // It waits for whoever migrates already, and that may take long.
    let prepare =
        async { if config.no_migrate { accept_schema(&engine.ledger).await } else { migrate(&engine.ledger).await } };
    tokio::select! {
        prepared = prepare => prepared?,
        () = signals.next() => return Ok(()),
    }
    let running = crate::serve(gateway, engine, workers).await?;
    signals.wait().await;
    if running.stop().await { Ok(()) } else { Err(anyhow!("not everything ended in time").into()) }
}

async fn migrate(ledger: &Ledger) -> anyhow::Result<()> {
    let applied = ledger.migrate().await.context("the database cannot be brought up to date")?;
    for name in applied {
        tracing::info!(%name, "applied the migration {name}");
    }
    Ok(())
}

/// Leaves the schema as it is. One that a newer program has made will do: migrations let the older program live on, and
/// its processes may have to be started again while the newer ones take over.
async fn accept_schema(ledger: &Ledger) -> anyhow::Result<()> {
    let state = ledger.schema().await.context("the schema of the database cannot be looked at")?;
    match (&state, state.problem()) {
        (_, None) => Ok(()),
        (SchemaState::Newer { .. }, Some(problem)) => {
            tracing::warn!("{problem}");
            Ok(())
        }
        (_, Some(problem)) => Err(anyhow!("--no-migrate leaves the database as it is, and {problem}")),
    }
}
