//! `doorbuster-sandbox`: private servers for development, for curl and for programs in any language.

mod provider;
mod servers;

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use doorbuster_sandbox::provider::FakeProvider;
use tokio::signal::unix::{SignalKind, signal};

/// Private servers for development.
#[derive(Parser)]
#[command(version)]
struct Command {
    #[command(subcommand)]
    program: Program,
}

#[derive(Subcommand)]
enum Program {
    /// A payment provider in Stripe's wire format, with faults by seed. It keeps everything in memory.
    Provider(Box<provider::Provider>),
    /// Redis, Postgres, a payment provider and a mail server on free ports of this machine, until Ctrl-C
    Servers(servers::Servers),
    /// Ends what `servers --background` has started, and waits until it is gone
    Stop(servers::Stop),
}

#[tokio::main]
#[expect(clippy::print_stdout, reason = "a command: what it prints is its answer")]
async fn main() -> anyhow::Result<ExitCode> {
    let command = Command::parse();
    // Before a port is open: whoever sees it open may send the signal.
    let (mut interrupt, mut terminate) = (signal(SignalKind::interrupt())?, signal(SignalKind::terminate())?);
    let told_to_stop = async {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
        }
    };
    match command.program {
        Program::Servers(options) => servers::run(&options, told_to_stop).await,
        Program::Stop(options) => servers::stop(&options),
        Program::Provider(options) => {
            let provider = FakeProvider::start(options.options()).await?;
            println!("{} with key {}", provider.url(), provider.secret_key());
            told_to_stop.await;
            let (intents, captures) = (provider.intents().len(), provider.captures().len());
            let refunds = provider.refunds().len();
            println!(
                "{} requests: {intents} intents, {captures} captures, {refunds} refunds",
                provider.requests_seen()
            );
            println!("{:?}", provider.fault_counts());
            println!("{:?}", provider.webhook_counts());
            Ok(ExitCode::SUCCESS)
        }
    }
}
