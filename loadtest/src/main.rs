//! `doorbuster-load`: sends crowds, compares ways to sell, sustains checkouts, and proves what buyers were told.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use mimalloc::MiMalloc;

use doorbuster_load::{checkout, compare, line, run, served, siege, staged, verify, versus};

/// The servers that are measured are this program, and are to be what `doorbuster` is.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

/// Load tests of Doorbuster
#[derive(Debug, Parser)]
#[command(name = "doorbuster-load", version)]
struct Options {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Sends a crowd to a gateway that runs somewhere
    Run(run::RunArguments),
    /// Holds the buyers' log of a run against the stores and the payment provider
    Verify(verify::VerifyArguments),
    /// Measures every way to sell against every other, in one run, on private servers
    Compare(compare::CompareArguments),
    /// Sustains the whole way to CONFIRMED at the highest rate, on private servers, and audits it
    Checkout(checkout::CheckoutArguments),
    /// Sends the same crowd to one locked row, ten rows and tokens, and draws what became of it
    Versus(versus::VersusArguments),
    /// Holds a line of a hundred thousand waiters, on private servers, and holds the stores against what they were told
    Line(line::LineArguments),
    /// Holds an honest sale beside one hostile host, on private servers
    Siege(siege::SiegeArguments),
    /// Runs another program against an open drop on private servers
    Staged(staged::StagedArguments),
    /// Writes buyers' tokens to a file, for load tests of other programs
    Tokens(staged::TokensArguments),
    /// A server that is measured, as a process of its own
    #[command(hide = true)]
    Serve(served::ServeArguments),
    /// One attack of a siege, as a process of its own
    #[command(hide = true)]
    Attack(siege::AttackArguments),
}

#[expect(clippy::print_stderr, reason = "a command: what it prints is its answer")]
fn main() -> ExitCode {
    match run_command(Options::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // In one line: a backtrace would hide what to do.
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run_command(command: Command) -> anyhow::Result<()> {
    match &command {
        // Has threads of its own.
        Command::Run(arguments) => return run::run(arguments),
        Command::Tokens(arguments) => return staged::mint(arguments),
        Command::Attack(arguments) => return siege::run_attack(arguments),
        _ => {}
    }
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    runtime.block_on(async {
        match command {
            Command::Verify(arguments) => verify::run(arguments).await,
            Command::Compare(arguments) => compare::run(arguments).await,
            Command::Checkout(arguments) => checkout::run(arguments).await,
            Command::Versus(arguments) => versus::run(arguments).await,
            Command::Line(arguments) => line::run(arguments).await,
            Command::Siege(arguments) => siege::run(arguments).await,
            Command::Staged(arguments) => staged::run(arguments).await,
            Command::Serve(arguments) => served::run(arguments).await,
            Command::Run(_) | Command::Tokens(_) | Command::Attack(_) => unreachable!("these have run above"),
        }
    })
}
