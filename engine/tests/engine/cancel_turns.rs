//! Cancels take turns with charges: what was declined, or is not wanted any more, is on sale again within seconds, however
//! much is left to charge, and a flood of cancels keeps no charge waiting.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use doorbuster_engine::domain::ids::OrderId;
use doorbuster_engine::domain::turns::Desk;
use doorbuster_engine::flows::LiveDrop;
use doorbuster_engine::flows::charge::CHARGE_LEASE;
use doorbuster_engine::ledger::refunds::OrderCancelled;
use doorbuster_engine::provider::{ProviderClient, ProviderSettings, RateLimit};
use doorbuster_engine::workers::{self, WorkerSettings};
use doorbuster_sandbox::provider::{FakeProvider, FakeProviderOptions};
use futures_util::{StreamExt as _, stream};
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::harness::{World, buyer, claim, provider, taken};

const DECLINED: &str = "pm_card_chargeDeclined";
/// Twice the provider's, so that these tests take half as long.
const LIMIT: RateLimit = RateLimit { per_second: 50, burst: 5 };
const BUSY: &str = "429 Too Many Requests\r\nretry-after: 1";
const BUSY_FOR_A_MINUTE: &str = "429 Too Many Requests\r\nretry-after: 60";
const UNAVAILABLE: &str = "503 Service Unavailable";

/// Stands before the provider, and answers a call itself where `refuses` says how: by its path, and by how often that
/// was called before.
async fn before(
    fake: &FakeProvider,
    refuses: impl Fn(&str, u32) -> Option<&'static str> + Send + Sync + 'static,
) -> ProviderClient {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let base_url = format!("http://{}", listener.local_addr().unwrap());
    let behind = fake.url().replace("http://", "");
    let calls = Arc::new(Mutex::new(HashMap::<String, u32>::new()));
    let refuses = Arc::new(refuses);
    tokio::spawn(async move {
        while let Ok((connection, _)) = listener.accept().await {
            let (calls, refuses, behind) = (calls.clone(), refuses.clone(), behind.clone());
            // A connection that is kept for later says nothing, so none waits for another.
            tokio::spawn(async move { pass(connection, &calls, &*refuses, &behind).await });
        }
    });
    let settings = ProviderSettings {
        base_url,
        secret_key: fake.secret_key().to_owned().into(),
        connect_timeout: Duration::from_secs(1),
        answer_timeout: Duration::from_secs(5),
    };
    ProviderClient::new(settings).unwrap().limited_to(LIMIT)
}

/// One call, after which neither side keeps the connection.
async fn pass(
    connection: TcpStream,
    calls: &Mutex<HashMap<String, u32>>,
    refuses: &(impl Fn(&str, u32) -> Option<&'static str> + Sync),
    behind: &str,
) -> std::io::Result<()> {
    let mut connection = BufReader::new(connection);
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        if connection.read_line(&mut head).await? == 0 {
            return Ok(());
        }
    }
    let lower = head.to_ascii_lowercase();
    let length = lower.split_once("content-length: ").and_then(|(_, rest)| rest.split("\r\n").next()?.parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    connection.read_exact(&mut body).await?;
    let path = head.split(' ').nth(1).unwrap_or_default();
    let before = {
        let mut calls = calls.lock().unwrap();
        let count = calls.entry(path.to_owned()).or_default();
        *count += 1;
        *count - 1
    };
    if let Some(status) = refuses(path, before) {
        let answer = format!("HTTP/1.1 {status}\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
        return connection.write_all(answer.as_bytes()).await;
    }
    let mut provider = TcpStream::connect(behind).await?;
    let head = head.replacen("\r\n", "\r\nconnection: close\r\n", 1);
    provider.write_all(&[head.as_bytes(), &body].concat()).await?;
    tokio::io::copy(&mut provider, &mut connection).await.map(drop)
}

/// Orders of these buyers that wait to be charged, all by this method.
async fn order(world: &World, live: &LiveDrop, buyers: std::ops::Range<u32>, method: &str) -> Vec<OrderId> {
    let each = stream::iter(buyers.clone()).map(async |who| {
        world.save_profile(who, method).await;
        taken(world.claim_until_answered(live, who, "k", 0, 1).await);
    });
    each.buffer_unordered(8).collect::<Vec<()>>().await;
    world.settle().await;
    buyers.map(|who| claim(live, &buyer(who), "k", 0, 1).id.order_id()).collect()
}

struct Worker {
    task: JoinHandle<()>,
    stop: CancellationToken,
}

impl Worker {
    fn start(world: &World, client: &ProviderClient) -> Self {
        let stop = CancellationToken::new();
        let working = workers::run(world.engine.clone(), client.clone(), WorkerSettings::default(), stop.clone());
        Self { task: tokio::spawn(working), stop }
    }

    async fn stop(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

async fn until(what: &str, is_so: impl AsyncFn() -> bool) {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !is_so().await {
        assert!(Instant::now() < deadline, "waiting until {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

async fn payments(world: &World, state: &str) -> i64 {
    world.count(&format!("select count(*) from payments where state = '{state}'")).await
}

/// The provider was away for an hour, so that every charge is a repeat and fell due before any cancel; and it refuses each
/// cancel the first time.
#[tokio::test(flavor = "multi_thread")]
async fn units_of_declined_orders_are_back_within_seconds_while_hundreds_are_left_to_charge() {
    const REFUSED: u32 = 20;
    let world = World::new().await;
    let live = world.open(&[300], 2, 1).await;
    order(&world, &live, 0..REFUSED, DECLINED).await;
    order(&world, &live, REFUSED..300, "pm_card_visa").await;
    let away = "update payments set turn = -1,
            due_at = due_at - case payment_method when 'pm_card_visa' then interval '1 hour' else interval '2 hours' end";
    world.sql.batch_execute(away).await.unwrap();
    let (fake, _) = provider(FakeProviderOptions::default()).await;
    let refused = AtomicU32::new(0);
    let client = before(&fake, move |path, before| match before {
        0 if path.ends_with("/cancel") => {
            let nth = refused.fetch_add(1, Ordering::SeqCst);
            Some(if nth == 0 { BUSY } else { UNAVAILABLE })
        }
        _ => None,
    });
    let client = client.await.limited_to(RateLimit::default());
    let worker = Worker::start(&world, &client);
    until("all declined units are free", async || world.free_in_redis(&live).await == REFUSED as usize).await;
    let left = payments(&world, "IN_FLIGHT").await;
    worker.stop().await;
    assert!(left > 20, "{left} charges were left");
    let waited = "select max(ended.at - declined.finished_at) < interval '5 seconds'
        from payment_attempts declined join order_history ended using (order_id)
        where declined.state = 'DECLINED' and ended.to_state = 'PAYMENT_FAILED'";
    let is_soon: bool = world.sql.query_one(waited, &[]).await.unwrap().get(0);
    assert!(is_soon, "the declined orders ended within 5 s");
}

#[tokio::test(flavor = "multi_thread")]
async fn charges_go_on_beside_a_hundred_cancels() {
    let world = World::new().await;
    let live = world.open(&[200], 2, 1).await;
    let (_fake, client) = provider(FakeProviderOptions::default()).await;
    order(&world, &live, 0..100, DECLINED).await;
    let charging = world.engine.charge_due_leasing(Desk::Charges, &client, 100, 16, CHARGE_LEASE).await;
    assert_eq!(charging.unwrap().leased, 100);
    assert_eq!(payments(&world, "CANCEL_REQUESTED").await, 100, "cancels have a desk of their own");
    order(&world, &live, 100..200, "pm_card_visa").await;
    let worker = Worker::start(&world, &client.limited_to(LIMIT));
    until("everything is canceled", async || payments(&world, "CANCEL_REQUESTED").await == 0).await;
    let charged = payments(&world, "SUCCEEDED").await;
    worker.stop().await;
    assert!(charged > 25, "{charged} orders were charged meanwhile");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_does_not_wait_while_charges_have_to_rest() {
    const AT_A_TIME: i64 = 16;
    let world = World::new().await;
    let live = world.open(&[60], 2, 1).await;
    let (fake, client) = provider(FakeProviderOptions::default()).await;
    let unwanted = order(&world, &live, 0..4, "pm_card_authenticationRequired").await;
    world.engine.charge_due(&client, 10, 4).await.unwrap();
    assert_eq!(payments(&world, "ACTION_REQUIRED").await, 4);
    order(&world, &live, 4..60, "pm_card_visa").await;
    let is_asked = Arc::new(AtomicBool::new(false));
    let asked = is_asked.clone();
    let client = before(&fake, move |path, _| {
        let refuses = path.ends_with("/confirm");
        asked.fetch_or(refuses, Ordering::SeqCst);
        refuses.then_some(BUSY_FOR_A_MINUTE)
    });
    let worker = Worker::start(&world, &client.await);
    until("every place of the charges waits for the provider", async || {
        let waiting = "select count(*) from payment_attempts join payments using (order_id)
            where operation = 'create' and payment_attempts.state = 'DISPATCHED' and leased_until is not null";
        is_asked.load(Ordering::SeqCst) && world.count(waiting).await == AT_A_TIME
    })
    .await;
    let now = world.engine.clock.now();
    for (who, order) in (0..).zip(&unwanted) {
        let cancelled = world.engine.ledger.cancel_order(*order, Some(&buyer(who)), ("buyer", "no"), now).await;
        assert_eq!(cancelled.unwrap(), OrderCancelled::Requested);
    }
    until("the unwanted orders are canceled", async || payments(&world, "CANCELED").await == 4).await;
    worker.stop().await;
    assert_eq!(payments(&world, "SUCCEEDED").await, 0, "nothing was charged meanwhile");
}
