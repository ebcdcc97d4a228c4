//! Charging within the provider's limit: how fast, what stops it, and what is left behind when it is told to stop.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use doorbuster_engine::domain::turns::Desk;
use doorbuster_engine::provider::{Admits, ProviderClient, ProviderSettings, RateLimit};
use doorbuster_sandbox::provider::{FakeProvider, FakeProviderOptions};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_util::sync::CancellationToken;

use crate::harness::{World, provider, taken};

/// Stands before the provider and refuses every credential, until it is told to let them through.
async fn refusing(fake: &FakeProvider) -> (String, Arc<AtomicBool>, Arc<AtomicU32>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    let (refuses, refused) = (Arc::new(AtomicBool::new(true)), Arc::new(AtomicU32::new(0)));
    let (door, count, behind) = (refuses.clone(), refused.clone(), fake.url().replace("http://", ""));
    tokio::spawn(async move {
        while let Ok((mut connection, _)) = listener.accept().await {
            if door.load(Ordering::SeqCst) {
                let mut request = [0; 4096];
                let _ = connection.read(&mut request).await.unwrap();
                count.fetch_add(1, Ordering::SeqCst);
                let answer = "HTTP/1.1 401 Unauthorized\r\ncontent-length: 0\r\nconnection: close\r\n\r\n";
                connection.write_all(answer.as_bytes()).await.unwrap();
                continue;
            }
            let mut provider = TcpStream::connect(&behind).await.unwrap();
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut connection, &mut provider).await });
        }
    });
    (url, refuses, refused)
}

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
        let charging = tokio::spawn(async move {
            engine.charge_due_leasing(Desk::All, &bound, 100, concurrency, lease).await.unwrap()
        });
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

#[tokio::test(flavor = "multi_thread")]
async fn the_circuit_closes_by_itself_when_the_provider_takes_the_credential_again() {
    let world = with_orders(10, "pm_card_visa").await;
    let fake = FakeProvider::start(FakeProviderOptions::default()).await.unwrap();
    let (url, refuses, refused) = refusing(&fake).await;
    let settings = ProviderSettings {
        base_url: url,
        secret_key: fake.secret_key().to_owned().into(),
        connect_timeout: Duration::from_secs(1),
        answer_timeout: Duration::from_secs(5),
    };
    let pause = Duration::from_millis(500);
    let client = ProviderClient::new(settings).unwrap().limited_to(RateLimit::NONE).probed_every(pause);
    world.engine.charge_due(&client, 100, 4).await.unwrap();
    let opened = Instant::now();
    let before = refused.load(Ordering::SeqCst);
    assert!((1..=4).contains(&before), "{before}");
    while opened.elapsed() < pause * 3 {
        assert_eq!(world.engine.charge_due(&client, 100, 4).await.unwrap().leased, 0);
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let probes = refused.load(Ordering::SeqCst) - before;
    assert!((1..=3).contains(&probes), "one probe in each pause and nothing else: {probes}");
    refuses.store(false, Ordering::SeqCst);
    world.sql.execute("update payments set due_at = now()", &[]).await.unwrap();
    let mut confirmed = 0;
    let mut first = None;
    while confirmed < 10 {
        assert!(opened.elapsed() < Duration::from_secs(20), "the circuit stays open");
        let report = world.engine.charge_due(&client, 100, 4).await.unwrap();
        first = first.or((report.leased > 0).then_some(client.admits()));
        confirmed += report.confirmed;
    }
    assert_eq!(first, Some(Admits::All), "closed behind the first payment");
    assert_eq!(fake.captures().len(), 10);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_429_rests_the_whole_bucket_for_as_long_as_it_says() {
    let world = with_orders(12, "pm_card_visa").await;
    let options = FakeProviderOptions { rate_limited_rate: 1.0, retry_after_seconds: 2, ..Default::default() };
    let (fake, client) = provider(options).await;
    let stop = CancellationToken::new();
    let bound = client.limited_to(RateLimit::NONE).until(&stop);
    let engine = world.engine.clone();
    let charging = tokio::spawn(async move { engine.charge_due(&bound, 100, 4).await.unwrap() });
    while fake.requests_seen() == 0 {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    tokio::time::sleep(Duration::from_millis(200)).await;
    let seen = fake.requests_seen();
    assert!(seen <= 4, "only those under way together: {seen}");
    tokio::time::sleep(Duration::from_millis(1_200)).await;
    assert_eq!(fake.requests_seen(), seen, "nobody asks while the bucket rests");
    stop.cancel();
    charging.await.unwrap();
    let refused = "select count(*) from payment_attempts where state = 'NOT_SENT' and detail = 'rate limited'";
    assert_eq!(world.count(refused).await, seen.cast_signed());
    assert_eq!(world.count("select count(*) from payments where state = 'IN_FLIGHT'").await, 12);
    assert_eq!(leases(&world).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provider_stricter_than_we_think_still_charges_every_order_once() {
    let world = with_orders(30, "pm_card_visa").await;
    let limit = std::num::NonZeroU32::new(20);
    let (fake, client) = provider(FakeProviderOptions { requests_per_second_max: limit, ..Default::default() }).await;
    let client = client.limited_to(RateLimit { per_second: 200, burst: 50 });
    let started = Instant::now();
    while world.count("select count(*) from orders where status = 'PENDING_PAYMENT'").await > 0 {
        world.engine.charge_due(&client, 100, 16).await.unwrap();
        assert!(started.elapsed() < Duration::from_secs(60), "orders are still unpaid");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert!(fake.fault_counts().rate_limited > 0, "the limit was never met");
    assert_eq!(fake.captures().len(), 30);
}

#[tokio::test(flavor = "multi_thread")]
async fn age_alone_never_makes_an_unknown_payment_fail() {
    let world = with_orders(1, "pm_card_visa").await;
    let (fake, client) = provider(FakeProviderOptions { lost_answer_rate: 1.0, ..Default::default() }).await;
    // Creates and confirms are carried out, and nobody hears of it.
    for _ in 0..8 {
        world.sql.execute("update payments set due_at = now(), leased_until = null", &[]).await.unwrap();
        world.engine.charge_due(&client, 1, 1).await.unwrap();
    }
    assert_eq!(world.count("select count(*) from payments where state = 'UNKNOWN'").await, 1);
    for (tries, hours) in [(30, 1), (60, 24), (10_000, 24)] {
        let tried = "update payments set due_at = now(), leased_until = null, tries = $1";
        world.sql.execute(tried, &[&tries]).await.unwrap();
        world.engine.charge_due(&client, 10, 4).await.unwrap();
        let wait = world.count("select round(extract(epoch from due_at - now()))::bigint from payments").await;
        assert!((wait - hours * 3_600).abs() < 60, "after {tries} tries: {wait} s");
        world.engine.expire_unpaid(10).await.unwrap();
        assert_eq!(world.count("select count(*) from orders where status = 'PENDING_PAYMENT'").await, 1);
    }
    assert!(fake.captures().is_empty(), "an intent whose id nobody heard is never confirmed");
}

/// Whatever the provider may have executed is known to us as sent, before it is sent.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_provider_has_got_is_written_down_as_dispatched() {
    let world = with_orders(1, "pm_card_visa").await;
    let delay = Duration::from_millis(500)..Duration::from_millis(501);
    let (fake, client) = provider(FakeProviderOptions { delay, ..FakeProviderOptions::default() }).await;
    let watch = async {
        let mut seen = Vec::new();
        for requests in [1, 2] {
            while fake.requests_seen() < requests {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
            let sql = "select operation || ' ' || state from payment_attempts order by number desc limit 1";
            seen.push(world.sql.query_one(sql, &[]).await.unwrap().get::<_, String>(0));
        }
        seen
    };
    let (charged, seen) = tokio::join!(world.engine.charge_due(&client, 1, 1), watch);
    assert_eq!((charged.unwrap().confirmed, seen), (1, vec!["create DISPATCHED".into(), "confirm DISPATCHED".into()]));
}

#[tokio::test(flavor = "multi_thread")]
async fn what_postgres_interrupts_comes_again_before_its_lease_is_over() {
    const ORDERS: usize = 6;
    // Before anything is sent, and when the money is taken and nobody has heard of it.
    let points = [
        "insert on payment_attempts for each row",
        "update on payment_attempts for each row when (
        new.operation = 'confirm' and new.finished_at is not null)",
    ];
    for point in points {
        let world = with_orders(ORDERS as u32, "pm_card_visa").await;
        let (fake, client) = provider(FakeProviderOptions::default()).await;
        // What a sequence has counted stays counted when its transaction is undone.
        let full = "create sequence tried;
            create function full_disk() returns trigger language plpgsql as $$ begin
                if nextval('tried') <= 2 then raise exception 'no room' using errcode = '53100'; end if;
                return new;
            end $$";
        world.sql.batch_execute(full).await.unwrap();
        world
            .sql
            .batch_execute(&format!("create trigger full_disk before {point} execute function full_disk()"))
            .await
            .unwrap();
        let report = world.engine.charge_due(&client, 100, ORDERS).await.unwrap();
        assert!(report.later > 0 && report.confirmed + report.later == ORDERS, "{point}: {report:?}");
        let waiting =
            "select count(*) from payments where due_at < now() + interval '5 seconds' and leased_until is null";
        assert_eq!(world.count(waiting).await, report.later as i64, "{point}");
        world.sql.execute("update payments set due_at = now() where due_at is not null", &[]).await.unwrap();
        assert_eq!(world.engine.charge_due(&client, 100, ORDERS).await.unwrap().confirmed, report.later, "{point}");
        assert_eq!((fake.captures().len(), fake.intents().len()), (ORDERS, ORDERS), "{point}");
        let report = world.engine.audit(Some(&client)).await.unwrap();
        assert!(report.is_clean(), "{point}: {:#?}", report.violations);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_postgres_would_refuse_again_waits_for_its_lease() {
    let world = with_orders(3, "pm_card_visa").await;
    let (fake, client) = provider(FakeProviderOptions::default()).await;
    let wrong = "create function wrong() returns trigger language plpgsql as $$ begin
            raise exception 'not such a row' using errcode = '22023';
        end $$;
        create trigger wrong before insert on payment_attempts for each row execute function wrong()";
    world.sql.batch_execute(wrong).await.unwrap();
    assert_eq!(world.engine.charge_due(&client, 100, 3).await.unwrap().later, 3);
    assert_eq!((leases(&world).await, fake.requests_seen()), (3, 0));
}
