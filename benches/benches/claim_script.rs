//! The claim script by batch size and by what it finds, and its cost in Redis against the least that a token can cost: a script
//! that does DECR.

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use doorbuster_benches::{Bench, bare_decr, claim, spread};
use doorbuster_sandbox::{AppendFsync, RedisOptions};
use tokio::runtime::Runtime;

const ROUNDS: usize = 5;
/// What a batch holds under load.
const BATCH: u64 = 64;

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
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

/// Batches of 64 whose claims all find the same: units, their own earlier answer, an allowance that is used up, or nothing left.
fn by_state(criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    let everysec = || RedisOptions::default().append_fsync(AppendFsync::EverySecond);
    let mut bench = runtime.block_on(Bench::new(everysec()));
    let empty = runtime.block_on(async {
        let empty = Bench::unloaded(everysec(), 1, 1).await;
        empty.open(&empty.store, 1).await;
        empty.store.claim(0, &[claim(u64::MAX, "key", 1)]).await.expect("the last unit");
        empty
    });
    let of_first_buyers = |key: &str| (0..BATCH).map(|buyer| claim(buyer, key, 1)).collect::<Vec<_>>();
    let known = of_first_buyers("key");
    runtime.block_on(bench.store.claim(0, &known)).expect("units");
    let again = of_first_buyers("another-key");

    let mut group = criterion.benchmark_group("claim_script_by_state");
    group.throughput(Throughput::Elements(BATCH));
    // Others than those who are known already.
    bench.claims(known.len());
    let store = bench.store.clone();
    group.bench_function("units", |bencher| {
        bencher.iter_batched(
            || bench.claims(known.len()),
            |claims| runtime.block_on(store.claim(0, &claims)).expect("an answer"),
            BatchSize::SmallInput,
        );
    });
    for (name, store, claims) in
        [("replay", &store, &known), ("over_limit", &store, &again), ("sold_out", &empty.store, &known)]
    {
        group.bench_function(name, |bencher| {
            bencher.iter(|| runtime.block_on(store.claim(0, claims)).expect("an answer"));
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

criterion_group!(benches, redis_cpu_against_bare_decr, by_batch_size, by_state);
criterion_main!(benches);
