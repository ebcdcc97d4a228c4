//! The claim script by batch size, and its cost in Redis against the least that a token can cost: a script that does DECR.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use doorbuster_benches::{Bench, bare_decr, spread};
use doorbuster_sandbox::{AppendFsync, RedisOptions};
use tokio::runtime::Runtime;

const ROUNDS: usize = 5;

fn by_batch_size(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let mut bench = runtime.block_on(Bench::new(RedisOptions::default().append_fsync(AppendFsync::EverySecond)));
    let mut group = criterion.benchmark_group("claim_script");
    for size in [1_usize, 16, 64, 256] {
        group.throughput(Throughput::Elements(size as u64));
        group.bench_function(BenchmarkId::from_parameter(size), |bencher| {
            let store = bench.store.clone();
            bencher.iter_batched(
                || bench.claims(size),
                |claims| runtime.block_on(store.claim(0, &claims)).expect("an answer"),
                criterion::BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

/// Prints the ratio; criterion has no figure for another process' time.
#[expect(clippy::print_stdout, reason = "the figure is what this is run for")]
fn redis_cpu_against_bare_decr(_criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let rounds = bare_decr::run(ROUNDS, |round| {
        println!("redis cpu: claim {:.2} µs, bare DECR {:.2} µs", round.claim_us, round.bare_us);
    });
    let rounds = runtime.block_on(rounds);
    let (min, median, max) = spread(rounds.iter().map(bare_decr::Round::script_over_bare).collect());
    println!("script_over_bare_decr: median {median:.2} (min {min:.2}, max {max:.2}, {ROUNDS} runs)");
}

criterion_group!(benches, redis_cpu_against_bare_decr, by_batch_size);
criterion_main!(benches);
