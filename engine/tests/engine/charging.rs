//! Charging within the provider's limit: how fast, what stops it, and what is left behind when it is told to stop.

use std::time::{Duration, Instant};

use doorbuster_engine::provider::{Admits, ProviderClient, ProviderSettings, RateLimit};
use doorbuster_sandbox::provider::{FakeProvider, FakeProviderOptions};
use tokio_util::sync::CancellationToken;

use crate::harness::{World, provider, taken};

/// A world with so many orders that wait to be charged.
async fn with_orders(orders: u32, method: &str) -> World {
    let world = World::new().await;
    let live = world.open(&[orders], 2, 1).await;
    for who in 0..orders {
        world.save_profile(who, method).await;
        taken(world.claim_until_answered(&live, who, "k", 0, 1).await);
    }
    world.settle().await;
    world
}

async fn leases(world: &World) -> i64 {
    world.count("select count(*) from payments where leased_until is not null").await
}

#[tokio::test(flavor = "multi_thread")]
async fn orders_are_charged_no_faster_than_the_provider_allows_whoever_asks() {
    const ORDERS: u32 = 30;
    let limit = RateLimit { per_second: 20, burst: 5 };
    let world = with_orders(ORDERS, "pm_card_visa").await;
    let (fake, client) = provider(FakeProviderOptions::default()).await;
    let client = client.limited_to(limit);
    let started = Instant::now();
    // Two workers of one process share its limit.
    let other = world.another_engine().await;
    let (one, two) = tokio::join!(world.engine.charge_due(&client, 50, 8), other.charge_due(&client, 50, 8));
    assert_eq!(one.unwrap().confirmed + two.unwrap().confirmed, ORDERS as usize);
    let least = f64::from(ORDERS - limit.burst) / f64::from(limit.per_second);
    let took = started.elapsed().as_secs_f64();
    assert!(took >= least, "{ORDERS} creates in {took} s, the limit is {limit:?}");
    assert_eq!((fake.captures().len(), fake.requests_seen()), (ORDERS as usize, 2 * u64::from(ORDERS)));
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_is_leased_than_somebody_is_free_to_charge_and_than_fits_the_lease() {
    let world = with_orders(20, "pm_card_visa").await;
    let delay = Duration::from_millis(400)..Duration::from_millis(401);
    let (_fake, client) = provider(FakeProviderOptions { delay, ..Default::default() }).await;
    let most = async |rate: u32, concurrency: usize, lease: i64| {
        let client = client.clone().limited_to(RateLimit { per_second: rate, burst: 1 });
        let stop = CancellationToken::new();
        let bound = client.until(&stop);
        let engine = world.engine.clone();
        let lease = jiff::SignedDuration::from_secs(lease);
        let charging =
            tokio::spawn(async move { engine.charge_due_leasing(&bound, 100, concurrency, lease).await.unwrap() });
        tokio::time::sleep(Duration::from_millis(200)).await;
        let leased = leases(&world).await;
        stop.cancel();
        charging.await.unwrap();
        leased
    };
    assert_eq!(most(100, 3, 120).await, 3, "three at a time");
    // 2 calls a second for 4 s: half of it to wait, two calls of a kind each.
    assert_eq!(most(2, 16, 4).await, 2, "what fits the lease");
    assert_eq!(leases(&world).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_told_to_stop_ends_its_calls_and_gives_the_other_leases_back() {
    let world = with_orders(12, "pm_card_visa").await;
    let delay = Duration::from_millis(300)..Duration::from_millis(301);
    let (fake, client) = provider(FakeProviderOptions { delay, ..Default::default() }).await;
    let stop = CancellationToken::new();
    let slow = client.clone().limited_to(RateLimit { per_second: 2, burst: 2 }).until(&stop);
    let engine = world.engine.clone();
    let charging = tokio::spawn(async move { engine.charge_due(&slow, 100, 8).await.unwrap() });
    while fake.requests_seen() < 2 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    assert_eq!(leases(&world).await, 8);
    let told = Instant::now();
    stop.cancel();
    let report = charging.await.unwrap();
    assert!(told.elapsed() < Duration::from_millis(1_500), "{:?}: it waited for the limit", told.elapsed());
    assert_eq!((report.leased, report.confirmed), (8, 0), "nothing new was leased");
    assert_eq!(leases(&world).await, 0, "everything was given back");
    let open = "select count(*) from payment_attempts where state in ('DISPATCHED', 'UNKNOWN')";
    assert_eq!(world.count(open).await, 0, "the calls under way were waited for");
    assert_eq!(fake.intents().len(), 2);
    // Others take them at once, and every intent that was made is the one that is paid.
    let other = world.another_engine().await;
    assert_eq!(other.charge_due(&client, 100, 8).await.unwrap().confirmed, 12);
    assert_eq!((fake.captures().len(), fake.intents().len()), (12, 12));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_credential_opens_the_circuit_and_fails_no_order() {
    let world = with_orders(20, "pm_card_visa").await;
    let fake = FakeProvider::start(FakeProviderOptions::default()).await.unwrap();
    let client = |key: &str| {
        let settings = ProviderSettings {
            base_url: fake.url().to_owned(),
            secret_key: key.to_owned().into(),
            connect_timeout: Duration::from_secs(1),
            answer_timeout: Duration::from_secs(5),
        };
        ProviderClient::new(settings).unwrap()
    };
    let wrong = client("sk_test_revoked");
    let report = world.engine.charge_due(&wrong, 100, 4).await.unwrap();
    assert!(report.leased <= 8, "{report:?}");
    assert_eq!((report.confirmed, report.released, report.review), (0, 0, 0));
    let seen = fake.requests_seen();
    assert!(seen <= 4, "no more than were under way together: {seen}");
    assert_eq!(wrong.admits(), Admits::Nothing);
    assert_eq!(world.engine.charge_due(&wrong, 100, 4).await.unwrap().leased, 0, "nothing is leased");
    assert_eq!(fake.requests_seen(), seen, "nothing is sent");
    assert_eq!(leases(&world).await, 0);
    assert_eq!(world.count("select count(*) from orders where status = 'PENDING_PAYMENT'").await, 20);
    assert_eq!(world.count("select count(*) from payments where state = 'IN_FLIGHT'").await, 20);
    // With the right key everything goes on, those that were refused too.
    world.sql.execute("update payments set due_at = now()", &[]).await.unwrap();
    let right = client(fake.secret_key());
    assert_eq!(world.engine.charge_due(&right, 100, 8).await.unwrap().confirmed, 20);
}
