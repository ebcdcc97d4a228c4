//! `doorbuster demo`: the whole sale on this machine. Exit code 0 only when the audit is clean.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use doorbuster_engine::domain::ids::DropName;
use serde::Serialize;

use super::{Failure, StopSignals, print};
use crate::demo::{Demo, DemoOptions, LineDemo, Screen, Shop};

pub async fn run(options: DemoOptions) -> Result<(), Failure> {
    let mut signals = StopSignals::listen()?;
    let screen = Screen::on_terminal();
    if options.admission.has_line() {
        return run_line(options, &screen, signals).await;
    }
    let mut demo = Demo::open(options, &screen).await?;
    let clean = tokio::select! {
        clean = sell(&mut demo, &screen) => clean.map_err(|error| with_logs(demo.keep_logs(), error))?,
        () = signals.next() => return Err(anyhow::anyhow!("stopped in the middle of the sale").into()),
    };
    if !demo.options.exit {
        tell_where(&demo.shop, &demo.drop, || demo.leave_settings())?;
        signals.wait().await;
    }
    let unclean = (!clean).then(|| with_logs(demo.keep_logs(), anyhow::anyhow!("the audit is not clean")));
    demo.shop.stop().await;
    unclean.map_or(Ok(()), |error| Err(error.into()))
}

/// Says where the sale is served, and how to look at it.
fn tell_where(
    shop: &Shop,
    drop: &DropName,
    leave_settings: impl FnOnce() -> anyhow::Result<PathBuf>,
) -> anyhow::Result<()> {
    print(format!(
        "serving until Ctrl-C: buyers http://{}, operators http://{}/metrics, drop {drop}",
        shop.public_addr(),
        shop.ops_addr(),
    ));
    let program = std::env::current_exe().context("this program does not know where it lies")?;
    print("look at it from another terminal, for example so:");
    print(format!(". {}\n{} order list", leave_settings()?.display(), program.display()));
    Ok(())
}

/// The demo of a drop with a line.
async fn run_line(options: DemoOptions, screen: &Screen, mut signals: StopSignals) -> Result<(), Failure> {
    let mut demo = LineDemo::open(options, screen).await?;
    let is_clean = tokio::select! {
        is_clean = stand_in_line(&mut demo, screen) => is_clean.map_err(|error| with_logs(demo.keep_logs(), error))?,
        () = signals.next() => return Err(anyhow::anyhow!("stopped in the middle of the sale").into()),
    };
    if !demo.options.exit {
        tell_where(&demo.shop, &demo.drop, || demo.leave_settings())?;
        signals.wait().await;
    }
    let unclean = (!is_clean).then(|| with_logs(demo.keep_logs(), anyhow::anyhow!("the audit is not clean")));
    demo.shop.stop().await;
    unclean.map_or(Ok(()), |error| Err(error.into()))
}

fn write_report(path: Option<&Path>, report: &impl Serialize) -> anyhow::Result<()> {
    let Some(path) = path else { return Ok(()) };
    let json = serde_json::to_string_pretty(report).context("the report cannot be written as JSON")?;
    std::fs::write(path, json + "\n").with_context(|| format!("{} cannot be written", path.display()))
}

/// Says where to read on; the sandbox's folder goes with the sale.
fn with_logs(logs: Option<PathBuf>, error: anyhow::Error) -> anyhow::Error {
    match logs {
        Some(logs) => error.context(format!("the last lines of servers and processes are in {}", logs.display())),
        None => error,
    }
}

/// Lets the buyers stand in line, reports, and says whether all is well.
async fn stand_in_line(demo: &mut LineDemo, screen: &Screen) -> anyhow::Result<bool> {
    demo.run(screen).await?;
    let report = demo.report().await?;
    screen.show_line(&report);
    write_report(demo.options.report.as_deref(), &report)?;
    Ok(report.is_clean())
}

/// Sells, reports, and says whether all is well.
async fn sell(demo: &mut Demo, screen: &Screen) -> anyhow::Result<bool> {
    demo.sell(screen).await?;
    let report = demo.report().await?;
    screen.show(&report);
    write_report(demo.options.report.as_deref(), &report)?;
    Ok(report.is_clean())
}
