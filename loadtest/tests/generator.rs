//! The generator against servers that stall, break off and say nothing: what it must never flatter.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use doorbuster::Secret;
use doorbuster_load::generator::{
    Ask, Buyers, ClosedRun, DropPaths, OpenResult, OpenRun, Outcome, Percentiles, Scenario, Schedule, Spacing,
};
use jiff::{SignedDuration, Timestamp};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};

const TAKEN: &str = r#"{"claim_id":"c","serials":[7]}"#;

/// A server on a thread of its own, which does this with each connection.
fn server<F>(serve: impl Fn(TcpStream) -> F + Send + 'static) -> SocketAddr
where
    F: Future<Output = ()> + 'static,
{
    let (tell, told) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        tokio::task::LocalSet::new().block_on(&runtime, async {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            tell.send(listener.local_addr().unwrap()).unwrap();
            while let Ok((stream, _)) = listener.accept().await {
                tokio::task::spawn_local(serve(stream));
            }
        });
    });
    told.recv().unwrap()
}

async fn request(stream: &mut TcpStream) -> Option<String> {
    let mut bytes = vec![0; 4096];
    let read = stream.read(&mut bytes).await.ok().filter(|read| *read > 0)?;
    Some(String::from_utf8_lossy(&bytes[..read]).into_owned())
}

async fn answer(stream: &mut TcpStream, status: &str, body: &str) {
    let answer = format!("HTTP/1.1 {status}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
    let _ = stream.write_all(answer.as_bytes()).await;
}

fn buyers(count: u32) -> Arc<Buyers> {
    let secret = Secret::from("a secret of this test, long enough for HS256".to_owned());
    let now = Timestamp::from_second(1_800_000_000).unwrap();
    Arc::new(Buyers::mint(0, count, &secret, now, SignedDuration::from_hours(1)))
}

fn open(address: SocketAddr, scenario: &Scenario, connections: usize, grace: Duration) -> OpenResult {
    let (plan, count) = scenario.plan();
    let drops = scenario.drops.iter().map(|skus| DropPaths::new(address, "shoe", skus.clone())).collect();
    let run = OpenRun {
        address,
        drops,
        buyers: buyers(count),
        plan,
        connections,
        threads: 1,
        answer_timeout: Duration::from_secs(10),
        grace,
        keeps_log: true,
        ended: Arc::new(AtomicU64::new(0)),
    };
    run.run().unwrap()
}

fn constant(per_s: f64, length: Duration) -> Scenario {
    Scenario { spacing: Spacing::Even, ..Scenario::plain(Schedule::constant(per_s, length), vec!["S".to_owned()]) }
}

#[test]
fn a_stall_of_the_server_is_charged_to_all_who_came_meanwhile() {
    let began = Instant::now();
    let stall = Duration::from_millis(600)..Duration::from_millis(1400);
    let address = server(move |mut stream| {
        let stall = stall.clone();
        async move {
            while request(&mut stream).await.is_some() {
                let now = began.elapsed();
                if stall.contains(&now) {
                    tokio::time::sleep(stall.end - now).await;
                }
                answer(&mut stream, "201 Created", TAKEN).await;
            }
        }
    });
    // One connection: while it waits, nobody else is served, and an honest clock runs for all of them.
    let result = open(address, &constant(200.0, Duration::from_secs(2)), 1, Duration::from_secs(30));
    assert_eq!((result.tally.total(), result.tally.count(Outcome::Ok)), (400, 400));
    let found = Percentiles::of(&result.tally.latency_us);
    // A third of the time somebody waits, evenly between nothing and the whole stall. A generator that measures from the
    // sending sees one slow request in four hundred.
    assert!(found.p90_ms > 200.0, "{found:?}");
    assert!(found.max_ms > 500.0, "{found:?}");
    let service = result.logs[0].calls.iter().filter(|call| call.ended_us - call.started_us > 200_000).count();
    assert!(service <= 2, "{service} requests were slow once they were sent");
}

#[test]
fn what_was_due_and_never_sent_is_counted() {
    let address = server(|mut stream| async move {
        // Never an answer.
        while request(&mut stream).await.is_some() {}
    });
    let result = open(address, &constant(100.0, Duration::from_millis(500)), 2, Duration::from_millis(300));
    assert_eq!(result.tally.total(), 50);
    assert_eq!((result.tally.count(Outcome::TimedOut), result.tally.count(Outcome::Unsent)), (2, 48));
    assert_eq!(result.tally.latency_us.len(), 50, "their waits are latencies too");
    assert!(Percentiles::of(&result.tally.latency_us).p50_ms > 300.0);
    assert_eq!(result.logs[0].calls.len(), 2, "what was never sent is no call");
}

#[test]
fn a_connection_that_breaks_is_told_and_made_anew() {
    let address = server(|mut stream| async move {
        let mut served = 0;
        while request(&mut stream).await.is_some() {
            served += 1;
            if served % 3 == 0 {
                return;
            }
            answer(&mut stream, "201 Created", TAKEN).await;
        }
    });
    let result = open(address, &constant(300.0, Duration::from_millis(500)), 1, Duration::from_secs(20));
    assert_eq!(result.tally.total(), 150);
    assert_eq!((result.tally.count(Outcome::Ok), result.tally.count(Outcome::NoAnswer)), (100, 50));
    assert!(result.tally.sentences[0].contains("closed"), "{:?}", result.tally.sentences);
}

#[test]
fn double_clicks_looks_and_fresh_connections_arrive_as_planned() {
    let address = server(|mut stream| async move {
        while let Some(request) = request(&mut stream).await {
            if request.starts_with("GET /v1/drops/shoe HTTP/1.1") {
                answer(&mut stream, "200 OK", "{}").await;
            } else if request.contains("idempotency-key: first-click") && request.ends_with("\"quantity\":1}") {
                answer(&mut stream, "409 Conflict", r#"{"code":"sold_out"}"#).await;
            }
        }
    });
    let scenario = Scenario {
        double_click_share: 0.5,
        look_share: 0.5,
        think: Duration::from_millis(50),
        bot_share: 0.1,
        bot_clicks: 5,
        fresh_share: 0.3,
        ..constant(400.0, Duration::from_millis(500))
    };
    let result = open(address, &scenario, 8, Duration::from_secs(20));
    let planned = scenario.plan().0;
    assert_eq!(result.tally.total(), planned.len() as u64);
    let looks = planned.iter().filter(|p| p.action == doorbuster_load::generator::Action::Look).count() as u64;
    assert_eq!(
        (result.tally.count(Outcome::Ok), result.tally.count(Outcome::SoldOut)),
        (looks, planned.len() as u64 - looks)
    );
    assert_eq!(result.logs[0].calls.len() as u64, planned.len() as u64 - looks);
}

#[test]
fn the_closed_loop_counts_only_what_was_answered_in_its_time() {
    let address = server(|mut stream| async move {
        while request(&mut stream).await.is_some() {
            answer(&mut stream, "201 Created", TAKEN).await;
        }
    });
    let run = ClosedRun {
        addresses: vec![address],
        drop: DropPaths::new(address, "shoe", vec!["S".to_owned()]),
        ask: Ask::Click,
        buyers: buyers(100),
        connections: 4,
        warm_up: Duration::from_millis(50),
        length: Duration::from_millis(300),
        goes_round: true,
    };
    let mut counted = 0;
    let result = run.run(|| counted += 1).unwrap();
    assert_eq!(counted, 2);
    assert!(result.tally.count(Outcome::Ok) > 0 && result.tally.total() <= result.all);
    assert!((result.per_s() - result.tally.answered() as f64 / 0.3).abs() < 1.0);
}

/// What is missing is said before minutes of measuring, in a line.
#[test]
fn a_comparison_with_wrk_says_first_that_wrk_is_missing() {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_doorbuster-load"));
    // Nor is there a Redis on this PATH: whatever would be started first fails otherwise.
    let output = command.arg("compare").env("PATH", "/nonexistent").env("RUST_BACKTRACE", "1").output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    assert!(said.starts_with("error: wrk is missing: install it") && said.lines().count() == 1, "{said}");
    assert!(output.stdout.is_empty(), "{output:?}");
}
