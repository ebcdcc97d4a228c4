//! What a claim costs Redis as there are more of everything: buyers who have claimed before, and drops that are open beside it.
//!
//! `cargo bench -p doorbuster-benches --bench claim_growth`            up to a million buyers
//! `… --bench claim_growth -- 10000 100000 1000000 10000000`           by these numbers of buyers (1.5 GB of Redis)
//!
//! Processor time of Redis' main thread a claim, at 64 a batch, always of buyers who have not been there.

use doorbuster_benches::{Bench, redis_cpu_s, spread};
use doorbuster_engine::domain::claims::Claim;
use doorbuster_engine::tokens::contract::MAX_BATCH;
use doorbuster_engine::tokens::store::WarehouseStore;
use doorbuster_sandbox::{AppendFsync, RedisOptions};
use futures_util::future::join_all;

const BATCH: usize = 64;
/// Batches whose cost is read at once: 64,000 claims, a quarter of a second.
const BATCHES: usize = 1_000;
const RUNS: usize = 5;
const DROPS: [i32; 4] = [1, 10, 100, 1_000];
const IN_FLIGHT: usize = 8;

#[tokio::main]
async fn main() {
    let sizes = std::env::args().filter_map(|argument| argument.parse().ok()).collect::<Vec<usize>>();
    by_buyers(if sizes.is_empty() { &[10_000, 100_000, 1_000_000] } else { &sizes }).await;
    by_drops().await;
}

#[expect(clippy::print_stdout, reason = "the figures are what this is run for")]
async fn by_buyers(sizes: &[usize]) {
    let mut bench = Bench::new(options()).await;
    let mut known = 0;
    for &size in sizes {
        while known < size {
            let batches = (0..IN_FLIGHT).map(|_| bench.claims(MAX_BATCH)).collect::<Vec<_>>();
            join_all(batches.iter().map(|claims| claim(&bench.store, claims))).await;
            known += IN_FLIGHT * MAX_BATCH;
        }
        let store = bench.store.clone();
        let (min, median, max) = cost(&mut bench, &[store]).await;
        known += RUNS * BATCHES * BATCH;
        println!("behind {size} buyers: {median:.2} µs a claim (min {min:.2}, max {max:.2}, {RUNS} runs)");
    }
}

#[expect(clippy::print_stdout, reason = "the figures are what this is run for")]
async fn by_drops() {
    for drops in DROPS {
        let mut bench = Bench::unloaded(options(), 1, 1).await;
        let stores = (0..drops).map(|number| bench.store_of_another(number)).collect::<Vec<_>>();
        for store in &stores {
            bench.open(store, 1_000_000).await;
        }
        let (min, median, max) = cost(&mut bench, &stores).await;
        println!("in turn of {drops} drops: {median:.2} µs a claim (min {min:.2}, max {max:.2}, {RUNS} runs)");
    }
}

fn options() -> RedisOptions {
    RedisOptions::default().append_fsync(AppendFsync::EverySecond)
}

/// µs of Redis a claim: smallest, median and largest.
async fn cost(bench: &mut Bench, stores: &[WarehouseStore]) -> (f64, f64, f64) {
    let mut connection = bench.connection().await;
    let mut costs = Vec::new();
    for _ in 0..RUNS {
        let before = redis_cpu_s(&mut connection).await;
        for batch in 0..BATCHES {
            let claims = bench.claims(BATCH);
            claim(&stores[batch % stores.len()], &claims).await;
        }
        costs.push((redis_cpu_s(&mut connection).await - before) * 1e6 / (BATCHES * BATCH) as f64);
    }
    spread(costs)
}

async fn claim(store: &WarehouseStore, claims: &[Claim]) {
    store.claim(0, claims).await.expect("an answer");
}
