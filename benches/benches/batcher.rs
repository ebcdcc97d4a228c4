//! The batcher by how many claims come at once, against the same claims each sent to Redis by itself over the same connection.

use std::sync::Arc;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use doorbuster_benches::Bench;
use doorbuster_engine::domain::claims::Claim;
use doorbuster_engine::domain::clock::Clock;
use doorbuster_engine::tokens::batcher::Batcher;
use doorbuster_engine::tokens::store::WarehouseStore;
use doorbuster_sandbox::{AppendFsync, RedisOptions};
use futures_util::future::join_all;
use tokio::runtime::Runtime;

fn by_claims_at_once(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let options = RedisOptions::default().append_fsync(AppendFsync::EverySecond);
    let mut bench = runtime.block_on(Bench::new(options));
    let store = Arc::new(bench.store.clone());
    let batcher = runtime.block_on(async { Batcher::start(Clock::System) });
    let mut group = criterion.benchmark_group("batcher");
    for at_once in [1_usize, 64, 512] {
        group.throughput(Throughput::Elements(at_once as u64));
        group.bench_function(BenchmarkId::new("batched", at_once), |bencher| {
            bencher.iter_batched(
                || bench.claims(at_once),
                |claims| runtime.block_on(batched(&batcher, &store, claims)),
                BatchSize::SmallInput,
            );
        });
        group.bench_function(BenchmarkId::new("one_by_one", at_once), |bencher| {
            bencher.iter_batched(
                || bench.claims(at_once),
                |claims| runtime.block_on(one_by_one(&store, &claims)),
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

async fn batched(batcher: &Batcher, store: &Arc<WarehouseStore>, claims: Vec<Claim>) {
    for answer in join_all(claims.into_iter().map(|claim| batcher.submit(store, claim))).await {
        answer.expect("an answer");
    }
}

async fn one_by_one(store: &WarehouseStore, claims: &[Claim]) {
    for answer in join_all(claims.chunks(1).map(|claim| store.claim(0, claim))).await {
        answer.expect("an answer");
    }
}

criterion_group!(benches, by_claims_at_once);
criterion_main!(benches);
