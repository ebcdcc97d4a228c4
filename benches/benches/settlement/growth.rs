//! What one order costs to settle as the number of orders grows that there are already.
//!
//! Each size has its own database on one server, filled with orders of an earlier drop, all paid; a new drop is settled in each
//! of them in turn, so that a machine whose speed drifts favours no size. What was measured is taken out again, and VACUUM then
//! goes through all indexes of a database that may be larger than its cache: so the first batch of each turn is not counted.

use std::time::Instant;

use doorbuster_benches::settlement::BATCH;
use doorbuster_benches::settlement::shop::Shop;
use doorbuster_benches::spread;
use doorbuster_engine::ledger::settlements::Settling;
use doorbuster_sandbox::Postgres;
use jiff::Timestamp;

const CLAIMS: u32 = 20_000;
const ROUNDS: usize = 9;

#[expect(clippy::print_stdout, reason = "the figure is what this is run for")]
pub(crate) async fn run(postgres: &Postgres, sizes: &[u32]) {
    let now = Timestamp::from_second(1_800_000_000).expect("a time");
    let mut shops = Vec::new();
    for size in sizes {
        let shop = Shop::new(postgres, &format!("growth_{size}")).await;
        let began = Instant::now();
        shop.fill(*size).await;
        let drop = shop.drop("new", CLAIMS).await;
        let claims = shop.claims(&drop, now).await;
        shop.forget(drop.id, false).await;
        let bytes = shop.sql.query_one("select pg_database_size(current_database())", &[]).await.expect("its size");
        let megabytes = bytes.get::<_, i64>(0) / 1_000_000;
        println!("{size} orders filled in, {megabytes} MB, {:.0} s", began.elapsed().as_secs_f64());
        shops.push((shop, drop, claims, Vec::new()));
    }
    // The first round fills the caches.
    for round in 0..=ROUNDS {
        for (shop, drop, claims, costs) in &mut shops {
            shop.sql.batch_execute("checkpoint").await.expect("a checkpoint");
            let mut began = Instant::now();
            for (index, batch) in claims.chunks(BATCH).enumerate() {
                if index == 1 {
                    began = Instant::now();
                }
                let settlement = shop.ledger.settle(drop, batch, Settling::Live, now).await.expect("a settlement");
                assert_eq!(settlement.settled.len(), batch.len(), "every claim becomes an order");
            }
            if round > 0 {
                costs.push(began.elapsed().as_secs_f64() * 1e6 / (claims.len() - BATCH) as f64);
            }
            shop.forget(drop.id, false).await;
        }
    }
    let base = spread(shops[0].3.clone()).1;
    for (size, (.., costs)) in sizes.iter().zip(shops) {
        let (min, median, max) = spread(costs);
        println!(
            "at {size} orders: {median:.1} µs an order (min {min:.1}, max {max:.1}, {ROUNDS} runs), {:.2} of the cost at {}",
            median / base,
            sizes[0]
        );
    }
}
