//! `doorbuster demo`: the whole sale on this machine. Exit code 0 only when the audit is clean.

use anyhow::Context as _;

use super::{Failure, StopSignals, print};
use crate::demo::{Demo, DemoOptions, Screen};

pub async fn run(options: DemoOptions) -> Result<(), Failure> {
    let mut signals = StopSignals::listen()?;
    let screen = Screen::on_terminal();
    let mut demo = Demo::open(options, &screen).await?;
    let clean = tokio::select! {
        clean = sell(&mut demo, &screen) => clean.map_err(|error| with_logs(&demo, error))?,
        () = signals.next() => return Err(anyhow::anyhow!("stopped in the middle of the sale").into()),
    };
    if !demo.options.exit {
        print(format!(
            "serving until Ctrl-C: buyers http://{}, operators http://{}/metrics, drop {}",
            demo.shop.public_addr(),
            demo.shop.ops_addr(),
            demo.drop
        ));
        let program = std::env::current_exe().context("this program does not know where it lies")?;
        print("look at it from another terminal, for example so:");
        print(format!(". {}\n{} order list", demo.leave_settings()?.display(), program.display()));
        signals.wait().await;
    }
    let unclean = (!clean).then(|| with_logs(&demo, anyhow::anyhow!("the audit is not clean")));
    demo.shop.stop().await;
    unclean.map_or(Ok(()), |error| Err(error.into()))
}

/// Says where to read on; the sandbox's folder goes with the sale.
fn with_logs(demo: &Demo, error: anyhow::Error) -> anyhow::Error {
    match demo.keep_logs() {
        Some(logs) => error.context(format!("the last lines of servers and processes are in {}", logs.display())),
        None => error,
    }
}

/// Sells, reports, and says whether all is well.
async fn sell(demo: &mut Demo, screen: &Screen) -> anyhow::Result<bool> {
    demo.sell(screen).await?;
    let report = demo.report().await?;
    screen.show(&report);
    if let Some(path) = &demo.options.report {
        let json = serde_json::to_string_pretty(&report).context("the report cannot be written as JSON")?;
        std::fs::write(path, json + "\n").with_context(|| format!("{} cannot be written", path.display()))?;
    }
    Ok(report.is_clean())
}
