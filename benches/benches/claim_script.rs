//! The claim script by batch size, and its cost in Redis against the least that a token can cost: a script that does DECR.

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use doorbuster_benches::{Bench, redis_cpu_s};
use doorbuster_sandbox::{AppendFsync, RedisOptions};
use tokio::runtime::Runtime;

const BARE_DECR: &str = "return redis.call('DECR', KEYS[1])";
const BATCH: usize = 64;
/// Claims in each half of a comparison: at 3 µs a claim, a quarter of a second of Redis.
const CLAIMS: usize = 64_000;
/// Halves in turn, so that a machine whose speed drifts does not favour one of them.
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

/// Redis' own processor time a claim, at 64 a batch, against a bare DECR script pipelined by 64; everything included:
/// fence, limit, idempotency, log. Prints the ratio; criterion has no figure for another process' time.
#[expect(clippy::print_stdout, reason = "the figure is what this is run for")]
fn redis_cpu_against_bare_decr(_criterion: &mut Criterion) {
    let runtime = Runtime::new().expect("a runtime");
    runtime.block_on(async {
        let mut bench = Bench::new(RedisOptions::default().append_fsync(AppendFsync::EverySecond)).await;
        let mut connection = bench.connection().await;
        let load = redis::cmd("SCRIPT").arg("LOAD").arg(BARE_DECR).query_async::<String>(&mut connection).await;
        let sha = load.expect("the script's hash");
        let mut ratios = Vec::new();
        for _ in 0..ROUNDS {
            let before = redis_cpu_s(&mut connection).await;
            for _ in 0..CLAIMS / BATCH {
                let claims = bench.claims(BATCH);
                bench.store.claim(0, &claims).await.expect("an answer");
            }
            let claimed = redis_cpu_s(&mut connection).await - before;
            let before = redis_cpu_s(&mut connection).await;
            for _ in 0..CLAIMS / BATCH {
                let mut pipe = redis::pipe();
                for _ in 0..BATCH {
                    pipe.cmd("EVALSHA").arg(&sha).arg(1).arg("bare").ignore();
                }
                pipe.query_async::<()>(&mut connection).await.expect("answers");
            }
            let bare = redis_cpu_s(&mut connection).await - before;
            let each = |seconds: f64| seconds * 1e6 / CLAIMS as f64;
            println!("redis cpu: claim {:.2} µs, bare DECR {:.2} µs", each(claimed), each(bare));
            ratios.push(bare / claimed);
        }
        ratios.sort_by(f64::total_cmp);
        let (min, median, max) = (ratios[0], ratios[ROUNDS / 2], ratios[ROUNDS - 1]);
        println!("script_over_bare_decr: median {median:.2} (min {min:.2}, max {max:.2}, {ROUNDS} runs)");
    });
}

criterion_group!(benches, redis_cpu_against_bare_decr, by_batch_size);
criterion_main!(benches);
