//! How long the longest call of each script keeps Redis busy: the largest batches and chunks that the engine sends.
//!
//! Prints for each verb and case the longest call twice: by SLOWLOG, on the clock, which goes on while the machine gives the
//! processor to somebody else; and in processor time of Redis' main thread, which includes reading the call and answering
//! it. `longest_script_ms` is the largest of what was smaller of the two.

use doorbuster_benches::{Bench, claim, redis_cpu_s};
use doorbuster_engine::domain::claims::Claim;
use doorbuster_engine::domain::ids::{GrantNumber, Serial, TransferId, VariantNumber, WarehouseNumber};
use doorbuster_engine::tokens::contract::{MAX_BATCH, MAX_BATCH_UNITS, MAX_SERIALS};
use doorbuster_engine::tokens::store::{HeldClaim, LoadVariant, StreamId};
use doorbuster_sandbox::{AppendFsync, RedisOptions};
use redis::aio::MultiplexedConnection;
use uuid::Uuid;

const CALLS: u32 = 200;
const LIMIT: u32 = 100;
const UNITS: u32 = 100_000_000;
const BUYERS: u64 = MAX_BATCH as u64;

#[tokio::main(flavor = "current_thread")]
#[expect(clippy::print_stdout, reason = "the figures are what this is run for")]
async fn main() {
    let bench = Bench::unloaded(RedisOptions::default().append_fsync(AppendFsync::EverySecond), 1, LIMIT).await;
    let mut meter = Meter::start(&bench).await;
    let store = &bench.store;
    bench.open(store, UNITS).await;

    let batch = |from: u64, key: &str, units: i64| {
        (from..from + BUYERS).map(|buyer| claim(buyer, key, units)).collect::<Vec<_>>()
    };
    let new_buyers = |call: u32, units: i64| batch(BUYERS * u64::from(call + 1), "key", units);
    meter
        .longest("claim", "256 new buyers, one unit each", CALLS, async |call| {
            store.claim(0, &new_buyers(call, 1)).await.expect("claim");
        })
        .await;
    let units = i64::from(MAX_BATCH_UNITS) / MAX_BATCH as i64;
    meter
        .longest("claim", "256 new buyers, four units each", CALLS, async |call| {
            store.claim(0, &new_buyers(CALLS + call, units)).await.expect("claim");
        })
        .await;
    meter
        .longest("claim", "10 new buyers, 100 units each", CALLS, async |call| {
            let claims = new_buyers(2 * CALLS + call, 100);
            store.claim(0, &claims[..MAX_BATCH_UNITS as usize / 100]).await.expect("claim");
        })
        .await;
    // The batcher sends fewer of them, since their records are long.
    assert_eq!(store.max_batch(), 51);
    meter
        .longest("claim", "51 buyers with up to 100 claims each", LIMIT, async |call| {
            store.claim(0, &batch(0, &format!("key-{call}"), 1)[..store.max_batch()]).await.expect("claim");
        })
        .await;
    meter
        .longest("claim", "51 replays among 100 claims each", CALLS, async |call| {
            let key = format!("key-{}", call % LIMIT);
            store.claim(0, &batch(0, &key, 1)[..store.max_batch()]).await.expect("claim");
        })
        .await;

    // Serials beyond the run, so that they are spare.
    let serials = |call: u32| {
        let first = UNITS + 1 + call * MAX_SERIALS as u32;
        (first..first + MAX_SERIALS as u32).map(Serial).collect::<Vec<_>>()
    };
    let grants = CALLS;
    meter
        .longest("grant", "1,000 units", grants, async |call| {
            let tokens = [(VariantNumber(0), serials(call))];
            store.grant(GrantNumber(i64::from(call) + 2), &tokens, None).await.expect("grant");
        })
        .await;
    let transfer = |call: u32| TransferId(Uuid::from_u128(u128::from(call) + 1));
    let (variant, destination) = (VariantNumber(0), WarehouseNumber(0));
    let units = MAX_SERIALS as u32;
    meter
        .longest("pull", "1,000 units of the run", CALLS, async |call| {
            store.pull(variant, transfer(call), destination, units).await.expect("pull");
        })
        .await;
    let clear = async |call| store.clear(transfer(call)).await.expect("clear");
    meter.longest("clear", "1,000 units", CALLS - 4, clear).await;
    meter.longest("look", "4,000 units leaving", CALLS, async |_| drop(store.look().await.expect("look"))).await;
    meter.longest("clear", "1,000 units", CALLS, clear).await;
    meter.longest("look", "nothing leaving", CALLS, async |_| drop(store.look().await.expect("look"))).await;
    meter
        .longest("set_state", "", CALLS, async |call| {
            store.set_state(if call % 2 == 0 { "closed" } else { "open" }).await.expect("set_state");
        })
        .await;
    let mark = StreamId { ms: u64::MAX, seq: 0 };
    meter
        .longest("settled", "trims 700 entries, 128,000 claims", 1, async |_| {
            store.settled(mark, mark).await.expect("settled");
        })
        .await;

    // One run, then what is spare, then holders; each chunk as large as it may be.
    let held = |claim: Claim| {
        let held = HeldClaim {
            id: claim.id,
            variant: claim.variant,
            quantity: claim.quantity,
            serials: Some((1..=claim.quantity.units()).map(Serial).collect()),
        };
        (claim.buyer, vec![held])
    };
    let holders = (0..20 * BUYERS).map(|buyer| held(claim(buyer, "key", 4))).collect::<Vec<_>>();
    let spare = (0..20).flat_map(serials).collect::<Vec<_>>();
    let load = LoadVariant { run: Some((Serial(1), UNITS)), serials: spare };
    meter
        .longest_of_many("fence to open", "20,000 spare units, 5,120 holders", 5, async || {
            let replid = store.fence().await.expect("fence");
            let granted = GrantNumber(i64::from(grants) + 1);
            let chunks =
                store.load(&replid, granted, LIMIT, std::slice::from_ref(&load), &holders).await.expect("load");
            store.open(&replid, chunks, "open").await.expect("open");
        })
        .await;
    println!("longest_script_ms: {:.2}", meter.longest_ms);
}

struct Meter {
    connection: MultiplexedConnection,
    longest_ms: f64,
}

impl Meter {
    async fn start(bench: &Bench) -> Self {
        let mut connection = bench.connection().await;
        for (name, value) in [("slowlog-log-slower-than", "20"), ("slowlog-max-len", "100000")] {
            let set = redis::cmd("CONFIG").arg("SET").arg(name).arg(value).query_async::<()>(&mut connection).await;
            set.expect("CONFIG SET");
        }
        Self { connection, longest_ms: 0.0 }
    }

    /// Of calls that each run one script.
    async fn longest(&mut self, verb: &str, case: &str, calls: u32, call: impl AsyncFn(u32)) {
        self.clock_ms().await;
        let mut cpu_ms: f64 = 0.0;
        for number in 0..calls {
            let before = redis_cpu_s(&mut self.connection).await;
            call(number).await;
            cpu_ms = cpu_ms.max((redis_cpu_s(&mut self.connection).await - before) * 1000.0);
        }
        let clock_ms = self.clock_ms().await;
        self.report(verb, case, clock_ms, &format!("{cpu_ms:.2} ms"), cpu_ms.min(clock_ms));
    }

    /// Of calls that each run many scripts: the longest of them, in the call that was disturbed the least.
    async fn longest_of_many(&mut self, verb: &str, case: &str, calls: u32, call: impl AsyncFn()) {
        let mut clock_ms = f64::MAX;
        for _ in 0..calls {
            self.clock_ms().await;
            call().await;
            clock_ms = clock_ms.min(self.clock_ms().await);
        }
        self.report(verb, case, clock_ms, "-", clock_ms);
    }

    #[expect(clippy::print_stdout, reason = "the figures are what this is run for")]
    fn report(&mut self, verb: &str, case: &str, clock_ms: f64, cpu: &str, longest_ms: f64) {
        self.longest_ms = self.longest_ms.max(longest_ms);
        println!("{verb:14} {case:40} longest {clock_ms:5.2} ms on the clock, {cpu:>7} of processor");
    }

    /// The longest script since the last time.
    async fn clock_ms(&mut self) -> f64 {
        type Entry = (i64, i64, f64, Vec<Vec<u8>>, redis::Value, redis::Value);
        let slow = redis::cmd("SLOWLOG").arg("GET").arg(-1).query_async::<Vec<Entry>>(&mut self.connection).await;
        redis::cmd("SLOWLOG").arg("RESET").query_async::<()>(&mut self.connection).await.expect("SLOWLOG RESET");
        let scripts = slow.expect("SLOWLOG").into_iter().filter(|entry| entry.3[0].starts_with(b"EVAL"));
        scripts.map(|entry| entry.2 / 1000.0).fold(0.0, f64::max)
    }
}
