//! The ways to reserve under one suite: exactly the stock is sold, nobody is refused while units are there, no deadlock reaches a
//! buyer, and nothing stays reserved.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};

use doorbuster_engine::domain::ids::VariantId;
use doorbuster_engine::domain::stock::StockWay;
use doorbuster_engine::flows::checkout::{CheckedOut, CheckoutRefused};
use futures_util::future::join_all;
use rand::rngs::SmallRng;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};

use crate::harness::World;
use crate::shelves::{asked, audited, check_out, fill, made, put_on_shelves, serve_everywhere, stock};

const ON_SHELVES: [StockWay; 3] = [StockWay::RowLock, StockWay::Warehouses, StockWay::Optimistic];

#[tokio::test(flavor = "multi_thread")]
async fn all_places_together_are_the_stock() {
    for way in ON_SHELVES {
        let world = World::new().await;
        serve_everywhere(&world).await;
        let mug = put_on_shelves(&world, "mug", way, &[3, 0, 4, 2]).await;
        let first = fill(&world, 1, &[(mug, 5)]).await;
        made(&world, &first, "a").await;
        // Four are left, in two places or three.
        let greedy = fill(&world, 2, &[(mug, 5)]).await;
        let CheckedOut::Refused(CheckoutRefused::OutOfStock(short)) = check_out(&world, &greedy, "a").await else {
            panic!("{way:?}: five of four");
        };
        assert_eq!((short[0].variant_id, short[0].available), (mug, 4), "{way:?}");
        let modest = fill(&world, 3, &[(mug, 4)]).await;
        made(&world, &modest, "a").await;
        assert_eq!(stock(&world, "mug").await, (9, 9), "{way:?}");
        audited(&world).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn as_many_buyers_as_units_all_get_one() {
    for way in ON_SHELVES {
        let world = World::new().await;
        serve_everywhere(&world).await;
        let mug = put_on_shelves(&world, "mug", way, &[7, 1, 8, 4]).await;
        let buyers = join_all((0..20).map(async |who| fill(&world, who, &[(mug, 1)]).await)).await;
        let ends = join_all(buyers.iter().map(|buyer| check_out(&world, buyer, "a"))).await;
        for end in ends {
            assert!(matches!(end, CheckedOut::Now(_)), "{way:?}: {end:?}");
        }
        assert_eq!(stock(&world, "mug").await, (20, 20), "{way:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_unit_is_sold_once() {
    for way in ON_SHELVES {
        let world = World::new().await;
        serve_everywhere(&world).await;
        let mug = put_on_shelves(&world, "mug", way, &[0, 1, 0]).await;
        let buyers = join_all((0..24).map(async |who| fill(&world, who, &[(mug, 1)]).await)).await;
        let ends = join_all(buyers.iter().map(|buyer| check_out(&world, buyer, "a"))).await;
        let sold = ends.iter().filter(|end| matches!(end, CheckedOut::Now(_))).count();
        let out = ends.iter().filter(|end| matches!(end, CheckedOut::Refused(CheckoutRefused::OutOfStock(_)))).count();
        assert_eq!((sold, out), (1, 23), "{way:?}");
        assert_eq!(stock(&world, "mug").await, (1, 1), "{way:?}");
        audited(&world).await;
    }
}

/// Carts of every mix of ways, in every order of lines, while orders are cancelled all the time.
#[tokio::test(flavor = "multi_thread")]
async fn any_mix_of_carts_sells_exactly_the_stock_and_never_deadlocks() {
    let seed: u64 = 20_261_126;
    let world = World::new().await;
    serve_everywhere(&world).await;
    let mut skus = HashMap::new();
    for (number, way) in ON_SHELVES.into_iter().chain(ON_SHELVES).enumerate() {
        let sku = format!("sku-{number}");
        skus.insert(put_on_shelves(&world, &sku, way, &[9, 3, 6]).await, sku);
    }
    let variants = skus.keys().copied().collect::<Vec<VariantId>>();
    let mut random = SmallRng::seed_from_u64(seed);
    let mut carts = Vec::new();
    for who in 0..60 {
        let mut mix = variants.clone();
        mix.shuffle(&mut random);
        mix.truncate(random.random_range(1..=variants.len()));
        carts.push((who, mix.into_iter().map(|variant| (variant, random.random_range(1..=3))).collect::<Vec<_>>()));
    }
    let buyers = join_all(carts.iter().map(|(who, lines)| fill(&world, *who, lines))).await;
    let ends = join_all(buyers.iter().zip(&carts).map(async |(buyer, (who, _))| {
        // An error, a deadlock that was tried five times included, would be one here.
        let end =
            world.engine.checkout(buyer, &asked("a")).await.unwrap_or_else(|error| panic!("seed {seed}: {error}"));
        if let (CheckedOut::Now(checkout), 0) = (&end, who % 3) {
            let why = ("buyer", "a test");
            let order = checkout.order.unwrap();
            world.engine.ledger.cancel_order(order, None, why, world.engine.clock.now()).await.unwrap();
        }
        end
    }))
    .await;
    let mut expected: HashMap<VariantId, i64> = HashMap::new();
    let (mut sold, mut refused) = (0, 0);
    for (end, (who, lines)) in ends.iter().zip(&carts) {
        match end {
            CheckedOut::Now(_) => {
                sold += 1;
                if who % 3 != 0 {
                    lines.iter().for_each(|(variant, units)| *expected.entry(*variant).or_default() += units);
                }
            }
            CheckedOut::Refused(CheckoutRefused::OutOfStock(short)) => {
                refused += 1;
                for short in short {
                    let asked = lines.iter().find(|(variant, _)| *variant == short.variant_id).unwrap().1;
                    assert!(short.available < asked, "seed {seed}: {short:?} of {asked}");
                }
            }
            other => panic!("seed {seed}: {other:?}"),
        }
    }
    for (variant, sku) in &skus {
        let reserved = expected.get(variant).copied().unwrap_or_default();
        assert_eq!(stock(&world, sku).await, (18, reserved), "seed {seed}: {sku}");
    }
    assert!(sold > 0 && refused > 0, "seed {seed}: {sold} ordered, {refused} refused");
    audited(&world).await;
}

/// Of `warehouses`: a buyer does not wait for one who holds a place, and is not refused because of him.
#[tokio::test(flavor = "multi_thread")]
async fn a_place_that_somebody_holds_is_passed_over_and_never_counted_as_empty() {
    let world = World::new().await;
    serve_everywhere(&world).await;
    let mug = put_on_shelves(&world, "mug", StockWay::Warehouses, &[1, 1]).await;
    let (first, second) = (fill(&world, 1, &[(mug, 1)]).await, fill(&world, 2, &[(mug, 1)]).await);
    let (client, connection) = tokio_postgres::connect(&world.database, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    let hold = "begin; select 1 from inventory order by warehouse_id limit 1 for update";
    client.batch_execute(hold).await.unwrap();
    made(&world, &first, "a").await;
    // Now only the place is left that somebody holds: the second waits for him.
    let waits = check_out(&world, &second, "a");
    let lets_go = async {
        tokio::time::sleep(std::time::Duration::from_millis(200)).await;
        client.batch_execute("rollback").await.unwrap();
    };
    let (end, ()) = tokio::join!(waits, lets_go);
    assert!(matches!(end, CheckedOut::Now(_)), "{end:?}");
}

/// Of `optimistic`: who looks while others change the stock all the time takes a lock in the end.
#[tokio::test(flavor = "multi_thread")]
async fn optimism_ends_in_a_lock() {
    let world = World::new().await;
    serve_everywhere(&world).await;
    let mug = put_on_shelves(&world, "mug", StockWay::Optimistic, &[200]).await;
    let buyer = fill(&world, 1, &[(mug, 5)]).await;
    // Somebody always waits for the row, so whoever comes with what he saw before comes too late.
    let stop = AtomicBool::new(false);
    let change = async || {
        let (client, connection) = tokio_postgres::connect(&world.database, tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        while !stop.load(Ordering::Relaxed) {
            client.batch_execute("update inventory set version = version + 1").await.unwrap();
        }
    };
    let buy = async {
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        let end = world.engine.checkout(&buyer, &asked("a")).await;
        stop.store(true, Ordering::Relaxed);
        end
    };
    let (end, ..) = tokio::join!(buy, change(), change(), change(), change());
    assert!(matches!(end, Ok(CheckedOut::Now(_))), "{end:?}");
    assert_eq!(stock(&world, "mug").await, (200, 5));
}
