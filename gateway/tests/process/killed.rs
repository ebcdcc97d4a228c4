//! `kill -9` in the middle of everything: what was answered stays true, and nothing is done twice.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::ops::Range;
use std::time::Duration;

use doorbuster_engine::flows::Engine;
use doorbuster_engine::ledger::profiles::CheckoutProfile;
use doorbuster_engine::provider::{ProviderClient, ProviderSettings, SecretKey};
use doorbuster_engine::workers::settle_all;
use doorbuster_sandbox::Sandbox;
use doorbuster_sandbox::provider::{FakeProvider, FakeProviderOptions};
use futures_util::StreamExt as _;
use futures_util::future::join_all;
use futures_util::stream::FuturesUnordered;
use reqwest::Client;
use serde_json::json;
use tokio::sync::mpsc::{Sender, channel};
use tokio::task::JoinHandle;

use super::program::{Running, configured, with_provider};
use crate::support::{Answer, Sale, client, count, engine, engine_on, make_drop, new_database, token, until};

const BUYERS: usize = 300;
const STOCK: u32 = 200;

/// A buyer's click, always with the same key. `None`: no whole answer came back.
async fn click(http: &Client, address: SocketAddr, drop: &str, buyer: usize) -> Option<Answer> {
    let url = format!("http://{address}/v1/drops/{drop}/claims");
    let request = http.post(url).bearer_auth(token(&format!("buyer-{buyer}"))).header("Idempotency-Key", "click");
    match request.json(&json!({})).send().await {
        Ok(response) => Answer::read_if_whole(response).await,
        Err(_) => None,
    }
}

/// All of these buyers at once. Every answer is announced as it comes.
fn clicks(
    buyers: Range<usize>,
    address: SocketAddr,
    drop: &str,
    answered: &Sender<usize>,
) -> FuturesUnordered<JoinHandle<(usize, Option<Answer>)>> {
    let http = client();
    let clicks = buyers.map(|buyer| {
        let (http, drop, answered) = (http.clone(), drop.to_owned(), answered.clone());
        tokio::spawn(async move {
            let answer = click(&http, address, &drop, buyer).await;
            let _ = answered.send(buyer).await;
            (buyer, answer)
        })
    });
    clicks.collect()
}

fn serials(answer: &Answer) -> Vec<u64> {
    answer.json()["serials"].as_array().unwrap().iter().map(|serial| serial.as_u64().unwrap()).collect()
}

/// Batches that this gateway has sent, or is about to send.
async fn batches(running: &Running) -> u64 {
    let url = format!("http://{}/metrics", running.ops_addr);
    let metrics = client().get(url).send().await.unwrap().text().await.unwrap();
    let count = metrics.lines().find_map(|line| line.strip_prefix("doorbuster_claim_batch_size_count "));
    count.map_or(0, |count| count.parse().unwrap())
}

#[expect(clippy::print_stdout, reason = "how often the faults really happened")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gateway_killed_among_claims_has_promised_nothing_it_does_not_keep() {
    let redis = Sandbox::temporary().unwrap().redis().await.unwrap();
    let (database_url, drop) = new_database().await;
    let engine = engine_on(&redis.url(), &database_url).await;
    make_drop(&engine, &drop, &Sale { variants: vec![("shoe-42", STOCK)], limit: 1, ..Sale::default() }).await;
    let mut command = configured(&["serve"], &database_url).await;
    let serve = command.env("DOORBUSTER_REDIS_URL", redis.url());
    let mut first = BTreeMap::new();

    // Killed when the first answers are out: the other claims are anywhere on their way in and back.
    let running = Running::start(serve).await;
    let (answered, mut answers) = channel(2 * BUYERS);
    let half = clicks(0..BUYERS / 2, running.public_addr, &drop, &answered);
    for _ in 0..20 {
        answers.recv().await;
    }
    running.kill().await;
    first.extend(half.map(Result::unwrap).collect::<Vec<_>>().await);

    // Killed while a large round is on its way: Redis executes it afterwards, for nobody. The first claim has left, and the
    // crowd gathers behind it, for less than claims may wait; Redis then takes steps, the first ones too short to answer
    // anything, the later ones hardly long enough to answer both.
    let running = Running::start(serve).await;
    redis.pause();
    let one = clicks(BUYERS / 2..BUYERS / 2 + 1, running.public_addr, &drop, &answered);
    until("the first claim is on its way", async || batches(&running).await > 0).await;
    let others = clicks(BUYERS / 2 + 1..BUYERS, running.public_addr, &drop, &answered);
    tokio::time::sleep(Duration::from_millis(200)).await;
    let mut step = Duration::ZERO;
    until("the next round is on its way", async || {
        redis.resume();
        std::thread::sleep(step);
        redis.pause();
        step += Duration::from_micros(500);
        batches(&running).await > 1
    })
    .await;
    // A batch is counted just before it is written.
    tokio::time::sleep(Duration::from_millis(50)).await;
    running.kill().await;
    redis.resume();
    first.extend(one.chain(others).map(Result::unwrap).collect::<Vec<_>>().await);
    let cut = first.values().filter(|answer| answer.is_none()).count();
    assert!((BUYERS / 3..BUYERS).contains(&cut), "{cut} claims were cut off");

    let running = Running::start(serve).await;
    let again = clicks(0..BUYERS, running.public_addr, &drop, &answered).map(Result::unwrap);
    let again = again.collect::<BTreeMap<_, _>>().await;
    let (mut sold, mut unheard) = (BTreeSet::new(), 0);
    for (buyer, answer) in &again {
        let answer = answer.as_ref().expect("nobody kills this one");
        let before = first[buyer].as_ref();
        if answer.status != 201 {
            answer.is_problem(409, "sold_out");
            assert!(before.is_none_or(|before| before.status != 201), "buyer {buyer}: {before:?}, then {answer:?}");
            continue;
        }
        let is_replay = answer.header("idempotent-replayed").is_some();
        match before {
            Some(before) => assert_eq!((serials(before), true), (serials(answer), is_replay), "buyer {buyer}"),
            None => unheard += usize::from(is_replay),
        }
        for serial in serials(answer) {
            assert!(sold.insert(serial), "unit {serial} was sold twice");
        }
    }
    assert_eq!(sold, (1..=u64::from(STOCK)).collect());
    assert!(unheard > 0, "no claim had been taken without being answered");
    println!("{cut} of {BUYERS} claims were cut off; {unheard} of those had been taken");
    check_books(&engine, &database_url, i64::from(STOCK)).await;
    running.kill().await;
}

/// What was accepted is what was taken, in Redis and in Postgres.
async fn check_books(engine: &Engine, database_url: &str, units: i64) {
    settle_all(engine).await.unwrap();
    assert_eq!(count(database_url, "select count(*) from orders").await, units);
    assert_eq!(count(database_url, "select count(*) from tokens where order_id is not null").await, units);
    assert_eq!(count(database_url, "select count(*) from rejected_claims").await, 0);
    let report = engine.audit(None).await.unwrap();
    assert!(report.is_clean(), "{report:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn workers_killed_while_they_settle_and_charge_charge_every_order_once() {
    const UNITS: u32 = 120;
    const KILLS: usize = 6;
    let provider = FakeProvider::start(FakeProviderOptions {
        seed: 20_261_123,
        delay: Duration::from_millis(5)..Duration::from_millis(40),
        lost_answer_rate: 0.05,
        lost_request_rate: 0.05,
        ..FakeProviderOptions::default()
    });
    let provider = provider.await.unwrap();
    let (database_url, drop) = new_database().await;
    let engine = engine(&database_url).await;
    make_drop(&engine, &drop, &Sale { variants: vec![("shoe-42", UNITS)], limit: 1, ..Sale::default() }).await;
    for buyer in 0..UNITS {
        let profile = CheckoutProfile {
            payment_method: Some("pm_card_visa".parse().unwrap()),
            email: "buyer@example.com".to_owned(),
            ship_to: json!({}),
        };
        let buyer = format!("buyer-{buyer}").parse().unwrap();
        engine.ledger.save_profile(&buyer, &profile, engine.clock.now()).await.unwrap();
    }
    let gateway = Running::start(&mut configured(&["serve"], &database_url).await).await;
    let http = client();

    let mut command = configured(&["work"], &database_url).await;
    let work = with_provider(&mut command, &provider).env("DOORBUSTER_CHARGE_CONCURRENCY", "8");
    let mut stages = BTreeSet::new();
    for round in 0..KILLS as u32 {
        // Each round has claims to settle and payments of the rounds before in every stage.
        let share = UNITS / KILLS as u32;
        let buyers = round * share..(round + 1) * share;
        for answer in join_all(buyers.map(|buyer| click(&http, gateway.public_addr, &drop, buyer as usize))).await {
            assert_eq!(answer.unwrap().status, 201);
        }
        let seen = provider.requests_seen();
        let running = Running::start(work).await;
        until("the worker is in the middle of charging", async || provider.requests_seen() >= seen + 12).await;
        running.kill().await;
        let open = "select count(*) from payment_attempts where state in ('PREPARED', 'DISPATCHED')";
        stages.insert(count(&database_url, open).await > 0);
        // What the dead worker had sent to Postgres may still be running there.
        let busy = "select count(*) from pg_stat_activity
            where datname = current_database() and pid <> pg_backend_pid() and state <> 'idle'";
        until("Postgres is at rest", async || count(&database_url, busy).await == 0).await;
        // Instead of the two minutes after which a dead worker's leases run out, and of the pauses between tries.
        let forget = "update payments set leased_until = null, tries = 0, due_at = least(due_at, now())
            where due_at is not null";
        execute(&database_url, forget).await;
    }
    assert!(stages.contains(&true), "no kill hit a call to the provider");

    let running = Running::start(work).await;
    let confirmed = "select count(*) from orders where status = 'CONFIRMED'";
    until("every order is paid", async || count(&database_url, confirmed).await == i64::from(UNITS)).await;
    running.kill().await;
    gateway.kill().await;

    let mut captures = BTreeMap::new();
    for capture in provider.captures() {
        *captures.entry(capture.order_id.expect("every capture names its order")).or_insert(0) += 1;
    }
    assert_eq!(captures.len(), UNITS as usize);
    assert!(captures.values().all(|times| *times == 1), "{captures:?}");
    check_books(&engine, &database_url, i64::from(UNITS)).await;
    let asked = ProviderClient::new(ProviderSettings {
        base_url: provider.url().to_owned(),
        secret_key: SecretKey::from(provider.secret_key().to_owned()),
        connect_timeout: Duration::from_secs(1),
        answer_timeout: Duration::from_secs(5),
    });
    // The provider still loses requests, so the audit may have to be asked again.
    let asked = asked.unwrap();
    until("the audit with the provider's captures is clean", async || {
        engine
            .audit(Some(&asked))
            .await
            .is_ok_and(|report| report.is_clean() && report.captures == Some(UNITS as usize))
    })
    .await;
}

/// A change that a test makes behind everybody's back.
async fn execute(database_url: &str, sql: &str) {
    let (client, connection) = tokio_postgres::connect(database_url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client.execute(sql, &[]).await.unwrap();
}
