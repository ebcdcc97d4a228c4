//! Bytes of Redis for each successful claim: limit, idempotency and claim log together, nothing settled and trimmed yet.
//!
//! A million claims of buyers with ids of 20 bytes in 16 warehouses, at three batch sizes, on a Redis with its own defaults;
//! only the append-only file is off, whose buffer would be counted. Then as many refusals of each kind as may be, which add
//! nothing. Prints `redis_bytes_per_claim`; with `-- --claims N` for another number.

use doorbuster_benches::claim_bytes;

const CLAIMS: u64 = 1_000_000;

#[tokio::main(flavor = "current_thread")]
#[expect(clippy::print_stdout, reason = "the figures are what this is run for")]
async fn main() {
    let arguments = std::env::args().collect::<Vec<_>>();
    let asked = arguments.iter().position(|argument| argument == "--claims").and_then(|at| arguments.get(at + 1));
    let claims = asked.map_or(CLAIMS, |count| count.parse().expect("a number of claims"));
    for batch in [64, 256, 1] {
        let bytes = claim_bytes::run(claims, batch).await;
        println!(
            "redis_bytes_per_claim: {:.1} at {batch} a batch ({claims} claims, {} warehouses); \
             {} refusals added {:.2} each",
            bytes.per_claim,
            claim_bytes::WAREHOUSES,
            bytes.refusals,
            bytes.per_refusal
        );
    }
}
