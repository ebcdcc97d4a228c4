//! `staged`: opens a drop on private servers and runs somebody else's load test against it, such as k6.
//!
//! The program finds in its environment where the gateway is, what the drop is called, and a file of buyers' tokens.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, ensure};
use clap::Args;
use doorbuster::Secret;
use doorbuster_engine::domain::clock::Clock;
use doorbuster_sandbox::provider::{FakeProvider, FakeProviderOptions};
use jiff::SignedDuration;

use crate::generator::Buyers;
use crate::output;
use crate::stage::Stage;

#[derive(Debug, Args)]
pub struct StagedArguments {
    /// Units for sale
    #[arg(long, default_value_t = 20_000, value_name = "UNITS")]
    units: u32,
    /// Buyers whose tokens are prepared
    #[arg(long, default_value_t = 40_000, value_name = "N")]
    buyers: u32,
    /// What to run, with its arguments, behind `--`
    #[arg(last = true, required = true, value_name = "PROGRAM")]
    command: Vec<String>,
}

#[derive(Debug, Args)]
pub struct TokensArguments {
    /// The gateway's secret of buyers' tokens
    #[arg(long, env = "DOORBUSTER_JWT_SECRET", hide_env_values = true, value_name = "SECRET")]
    jwt_secret: Secret,
    /// Buyers, each with a token
    #[arg(long, default_value_t = 10_000, value_name = "N")]
    buyers: u32,
    /// How long the tokens live
    #[arg(long, default_value = "6h", value_name = "DURATION")]
    life: SignedDuration,
    /// Where they go: a JSON array of texts
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// Mints tokens for somebody else's load test.
pub fn mint(arguments: &TokensArguments) -> anyhow::Result<()> {
    let now = Clock::System.now();
    let buyers =
        Buyers::mint(now.as_second().cast_unsigned(), arguments.buyers, &arguments.jwt_secret, now, arguments.life);
    write_tokens(&arguments.out, &buyers)
}

pub async fn run(arguments: StagedArguments) -> anyhow::Result<()> {
    let stage = Stage::start(std::env::current_exe()?).await?;
    let provider = FakeProvider::start(FakeProviderOptions::bench(4 * u64::from(arguments.units) + 10_000)).await?;
    let server = stage.serve_with_workers(&provider, 64).await?;
    let drop = stage.open_drop(arguments.units, 16).await?;
    let buyers = stage.buyers(arguments.buyers);
    stage.save_profiles(&buyers).await?;
    let tokens = stage.folder().join("tokens.json");
    write_tokens(&tokens, &buyers)?;
    output::print(format!("{} units of {} at http://{}", arguments.units, drop.name, server.address));
    let mut command = Command::new(&arguments.command[0]);
    command
        .args(&arguments.command[1..])
        .env("BASE_URL", format!("http://{}", server.address))
        .env("DROP", drop.name.as_str())
        .env("SKU", &drop.variants[0].sku)
        .env("UNITS", arguments.units.to_string())
        .env("TOKENS", &tokens);
    let status = tokio::task::spawn_blocking(move || command.status()).await?;
    let status = status.with_context(|| format!("{} cannot be run", arguments.command[0]))?;
    ensure!(status.success(), "{} ended with {status}", arguments.command[0]);
    Ok(())
}

fn write_tokens(path: &Path, buyers: &Buyers) -> anyhow::Result<()> {
    let tokens = (0..buyers.len()).map(|buyer| String::from_utf8_lossy(buyers.token(buyer)));
    output::write_json(path, &tokens.collect::<Vec<_>>())
}
