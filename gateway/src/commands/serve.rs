//! `doorbuster serve`: check, migrate, open the ports, wait for a signal, drain.

use anyhow::Context as _;

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
    super::check_stores(&engine).await?;
    // It waits for whoever migrates already, and that may take long.
    let applied = tokio::select! {
        applied = engine.ledger.migrate() => applied.context("the database cannot be brought up to date")?,
        () = signals.next() => return Ok(()),
    };
    for name in applied {
        tracing::info!(%name, "applied the migration {name}");
    }
    let running = crate::serve(gateway, engine, workers).await?;
    signals.wait().await;
    if running.stop().await { Ok(()) } else { Err(anyhow::anyhow!("not everything ended in time").into()) }
}
