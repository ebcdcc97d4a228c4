//! Bytes of Redis for each successful claim: limit, idempotency and claim log together, nothing settled and trimmed yet.

use doorbuster_engine::domain::claims::Claim;
use doorbuster_engine::tokens::store::{Outcome, WarehouseStore};
use doorbuster_sandbox::RedisOptions;
use futures_util::future::join_all;
use redis::aio::MultiplexedConnection;

use crate::{Bench, claim, info, info_figure};

pub const WAREHOUSES: u16 = 16;
const REFUSED: u64 = 100_000;

/// What was found.
#[derive(Debug, Clone, Copy)]
pub struct Bytes {
    pub per_claim: f64,
    pub refusals: u64,
    pub per_refusal: f64,
}

/// Claims of buyers with ids of 20 bytes in 16 warehouses, on a Redis with its own defaults; only the append-only file is off,
/// whose buffer would be counted. Then as many refusals of each kind as may be, which add nothing.
pub async fn run(claims: u64, batch: usize) -> Bytes {
    let bench = Bench::unloaded(RedisOptions::default().setting("appendonly", "no"), WAREHOUSES, 1).await;
    let stores = bench.stores();
    let homes = at_home(&bench, 0..claims, "key");
    // As many units as claims, so that whoever comes later is refused for want of units.
    for (store, claims) in stores.iter().zip(&homes) {
        bench.open(store, claims.len() as u32).await;
    }
    let mut connection = bench.connection().await;
    let before = used_bytes(&mut connection).await;
    let outcomes = claim_all(&stores, &homes, batch).await;
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Outcome::Taken(_))), "every claim is taken");
    let sold = used_bytes(&mut connection).await;

    let others = at_home(&bench, claims..claims + REFUSED, "key");
    let again = at_home(&bench, 0..REFUSED.min(claims), "other");
    for (refused, kind) in [(&others, "short"), (&again, "over the limit")] {
        let outcomes = claim_all(&stores, refused, batch).await;
        let is_refused = |outcome| matches!(outcome, &Outcome::Short { .. } | &Outcome::OverLimit { .. });
        assert!(outcomes.iter().all(is_refused), "{kind}: every claim is refused");
    }
    let refused = used_bytes(&mut connection).await;
    Bytes {
        per_claim: (sold - before) / claims as f64,
        refusals: 2 * REFUSED,
        per_refusal: (refused - sold) / (2 * REFUSED) as f64,
    }
}

/// The claims of these buyers, by home.
fn at_home(bench: &Bench, buyers: std::ops::Range<u64>, key: &str) -> Vec<Vec<Claim>> {
    let mut homes = vec![Vec::new(); usize::from(WAREHOUSES)];
    for claim in buyers.map(|buyer| claim(buyer, key, 1)) {
        homes[usize::from(bench.drop.home_of(&claim.buyer).number.0)].push(claim);
    }
    homes
}

/// One batch in flight for each warehouse, as the batcher does it.
async fn claim_all(stores: &[WarehouseStore], homes: &[Vec<Claim>], batch: usize) -> Vec<Outcome> {
    let of_warehouse = async |store: &WarehouseStore, claims: &[Claim]| {
        let mut outcomes = Vec::with_capacity(claims.len());
        for batch in claims.chunks(batch) {
            outcomes.extend(store.claim(1_700_000_000_000, batch).await.expect("an answer"));
        }
        outcomes
    };
    let all = stores.iter().zip(homes).map(|(store, claims)| of_warehouse(store, claims));
    join_all(all).await.into_iter().flatten().collect()
}

/// What Redis has allocated, without what its clients' connections take.
async fn used_bytes(connection: &mut MultiplexedConnection) -> f64 {
    redis::cmd("MEMORY").arg("PURGE").query_async::<()>(connection).await.expect("MEMORY PURGE");
    let info = info(connection, "memory").await;
    let of = |name| info_figure(&info, name);
    of("used_memory") - of("mem_clients_normal") - of("mem_aof_buffer")
}
