//! `doorbuster demo`: the whole sale on this machine. Exit code 0 only when the audit is clean.

use anyhow::Context as _;

use super::{Failure, StopSignals, print};
use crate::demo::{Demo, DemoOptions, Screen};

pub async fn run(options: DemoOptions) -> Result<(), Failure> {
    let signals = StopSignals::listen()?;
    let screen = Screen::on_terminal();
    let mut demo = Demo::open(options, &screen).await?;
    demo.sell(&screen).await?;
    let report = demo.report().await?;
    screen.show(&report);
    if let Some(path) = &demo.options.report {
        let json = serde_json::to_string_pretty(&report).context("the report cannot be written as JSON")?;
        std::fs::write(path, json + "\n").with_context(|| format!("{} cannot be written", path.display()))?;
    }
    if !demo.options.exit {
        print(format!(
            "serving until Ctrl-C: buyers http://{}, operators http://{}/metrics, drop {}",
            demo.gateway.public_addr, demo.gateway.ops_addr, demo.drop
        ));
        signals.wait().await;
    }
    let is_clean = report.is_clean();
    demo.gateway.stop().await;
    if is_clean { Ok(()) } else { Err(anyhow::anyhow!("the audit is not clean").into()) }
}
