//! Settlement of claims in Postgres: against COPY of the same rows, and as the tables grow.
//!
//! `cargo bench -p doorbuster-benches --bench settlement`            both, up to 100,000 orders
//! `… --bench settlement -- ratio [50000]`                            against COPY, beside so many earlier orders
//! `… --bench settlement -- growth 10000 100000 1000000`              by the number of orders that there are already
//!
//! The private Postgres keeps everything that production must: fsync, synchronous commit, full page writes.

mod growth;
mod ratio;
mod shop;

use doorbuster_sandbox::Sandbox;
use tokio::runtime::Runtime;

/// Earlier orders beside which settlement and COPY are compared.
const EARLIER: u32 = 50_000;
/// What settlement takes in one transaction (flows/settle.rs).
pub(crate) const BATCH: usize = 5_000;

fn main() {
    let arguments = std::env::args().skip(1).filter(|argument| argument != "--bench").collect::<Vec<_>>();
    let sizes = arguments.iter().filter_map(|argument| argument.parse().ok()).collect::<Vec<u32>>();
    let is_wanted = |name: &str| arguments.is_empty() || arguments.iter().any(|argument| argument == name);
    let runtime = Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let sandbox = Sandbox::temporary().expect("a folder");
        let postgres = sandbox.postgres().await.expect("Postgres");
        if is_wanted("ratio") {
            ratio::run(&postgres, *sizes.first().unwrap_or(&EARLIER)).await;
        }
        if is_wanted("growth") {
            growth::run(&postgres, if sizes.is_empty() { &[10_000, 100_000] } else { &sizes }).await;
        }
    });
}

/// Smallest, median and largest.
pub(crate) fn spread(mut values: Vec<f64>) -> (f64, f64, f64) {
    values.sort_by(f64::total_cmp);
    (values[0], values[values.len() / 2], values[values.len() - 1])
}
