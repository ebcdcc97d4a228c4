//! The claim script's cost in Redis against the least that a token can cost: a script that does DECR.

use doorbuster_sandbox::{AppendFsync, RedisOptions};

use crate::{Bench, redis_cpu_s};

const BARE_DECR: &str = "return redis.call('DECR', KEYS[1])";
const BATCH: usize = 64;
/// Claims in each half of a comparison: at 3 µs a claim, a quarter of a second of Redis.
const CLAIMS: usize = 64_000;

/// Processor time of Redis, each.
#[derive(Debug, Clone, Copy)]
pub struct Round {
    pub claim_us: f64,
    pub bare_us: f64,
}

impl Round {
    pub fn script_over_bare(&self) -> f64 {
        self.bare_us / self.claim_us
    }
}

/// Redis' own processor time a claim, at 64 a batch, against a bare DECR script pipelined by 64; everything included:
/// fence, limit, idempotency, log. Both in turn, so that a machine whose speed drifts does not favour one of them.
pub async fn run(rounds: usize, mut each: impl FnMut(&Round)) -> Vec<Round> {
    let mut bench = Bench::new(RedisOptions::default().append_fsync(AppendFsync::EverySecond)).await;
    let mut connection = bench.connection().await;
    let load = redis::cmd("SCRIPT").arg("LOAD").arg(BARE_DECR).query_async::<String>(&mut connection).await;
    let sha = load.expect("the script's hash");
    let mut done = Vec::new();
    for _ in 0..rounds {
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
        let each_us = |seconds: f64| seconds * 1e6 / CLAIMS as f64;
        let round = Round { claim_us: each_us(claimed), bare_us: each_us(bare) };
        each(&round);
        done.push(round);
    }
    done
}
