//! `doorbuster work`: the workers without the API. Any number of them may run, and any may die.

use super::{Failure, StopSignals};
use crate::config::WorkConfig;
use crate::files;
use crate::server::Gateway;

pub async fn run(config: &WorkConfig) -> Result<(), Failure> {
    config.stores.check()?;
    let workers = config.workers.check()?;
    let signals = StopSignals::listen()?;
    files::raise_limit();
    let mut engine = super::engine(&config.stores)?;
    engine.return_url.clone_from(&config.workers.return_url);
    super::check_stores(&engine).await?;
    let running = Gateway::start_workers(config.ops_listen, engine, workers).await?;
    signals.wait().await;
    if running.stop().await { Ok(()) } else { Err(anyhow::anyhow!("not everything ended in time").into()) }
}
