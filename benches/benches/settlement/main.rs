//! Settlement of claims in Postgres: against COPY of the same rows, and as the tables grow.
//!
//! `cargo bench -p doorbuster-benches --bench settlement`            both, up to 100,000 orders
//! `… --bench settlement -- ratio [50000]`                            against COPY, beside so many earlier orders
//! `… --bench settlement -- growth 10000 100000 1000000`              by the number of orders that there are already
//!
//! The private Postgres keeps everything that production must: fsync, synchronous commit, full page writes.

mod growth;

use doorbuster_benches::settlement::ratio;
use doorbuster_benches::spread;
use doorbuster_sandbox::{Postgres, Sandbox};
use tokio::runtime::Runtime;

/// Earlier orders beside which settlement and COPY are compared.
const EARLIER: u32 = 50_000;
const ROUNDS: usize = 7;

fn main() {
    let arguments = std::env::args().skip(1).filter(|argument| argument != "--bench").collect::<Vec<_>>();
    let sizes = arguments.iter().filter_map(|argument| argument.parse().ok()).collect::<Vec<u32>>();
    let is_wanted = |name: &str| arguments.is_empty() || arguments.iter().any(|argument| argument == name);
    let runtime = Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let sandbox = Sandbox::temporary().expect("a folder");
        let postgres = sandbox.postgres().await.expect("Postgres");
        if is_wanted("ratio") {
            over_copy(&postgres, *sizes.first().unwrap_or(&EARLIER)).await;
        }
        if is_wanted("growth") {
            growth::run(&postgres, if sizes.is_empty() { &[10_000, 100_000] } else { &sizes }).await;
        }
    });
}

#[expect(clippy::print_stdout, reason = "the figures are what this is run for")]
async fn over_copy(postgres: &Postgres, earlier: u32) {
    let rounds = ratio::run(postgres, earlier, ROUNDS, |round| {
        let ratio::Round { settled, copied_as_text, copied_as_binary } = round;
        println!("settlement {settled:.0} orders/s, COPY text {copied_as_text:.0}, COPY binary {copied_as_binary:.0}");
    });
    let ratios = rounds.await.iter().map(ratio::Round::settled_over_copied).collect();
    let (min, median, max) = spread(ratios);
    println!(
        "settlement_over_copy (beside {earlier} orders): median {median:.2} (min {min:.2}, max {max:.2}, {ROUNDS} runs)"
    );
}
