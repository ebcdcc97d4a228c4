//! `doorbuster serve`: check, connect, migrate, open the ports, wait for a signal, drain.

use anyhow::Context as _;

use super::{Failure, StopSignals};
use crate::config::ServeConfig;

pub async fn run(config: &ServeConfig) -> Result<(), Failure> {
    let (gateway, workers) = config.check()?;
    let mut signals = StopSignals::listen()?;
    let engine = super::engine_once_redis_answers(&config.stores, gateway.ops_listen, &mut signals).await?;
    let Some(mut engine) = engine else { return Ok(()) };
    engine.settlement_lag_limit = config.settlement_lag_limit;
    let applied = engine.ledger.migrate().await.context("the database cannot be brought up to date")?;
    for name in applied {
        tracing::info!(%name, "applied the migration {name}");
    }
    let running = crate::serve(gateway, engine, workers).await?;
    signals.wait().await;
    if running.stop().await { Ok(()) } else { Err(anyhow::anyhow!("not everything ended in time").into()) }
}
