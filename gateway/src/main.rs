//! The program. What it cannot use ends with one sentence on stderr, before any port is opened; exit.rs has the codes.

use std::process::ExitCode;

use doorbuster::{commands, config, logging};
use mimalloc::MiMalloc;

/// A request makes a few hundred small allocations, which is what takes most time in a gateway outside of the kernel.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

fn main() -> ExitCode {
    let cli = match config::parse(std::env::args_os()) {
        Ok(cli) => cli,
        Err(stop) => return stop.exit(),
    };
    if let Err(bad) = logging::start(&cli.log).and_then(|()| cli.steps.start()) {
        return config::Stop::from(bad).exit();
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return commands::Failure::from(anyhow::Error::from(error)).exit(),
    };
    let outcome = runtime.block_on(commands::run(cli.command));
    logging::finish();
    let written = || commands::output::check().map_err(commands::Failure::from);
    match outcome.and_then(|()| written()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.exit(),
    }
}
