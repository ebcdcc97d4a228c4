//! Signals: the first one stops in order, the second one at once.

use std::time::{Duration, Instant};

use doorbuster_sandbox::Sandbox;
use doorbuster_sandbox::provider::{FakeProvider, FakeProviderOptions};
use nix::sys::signal::Signal;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::program::{Running, configured, with_provider};
use crate::support::{client, new_database, token, until};

#[tokio::test]
async fn sigterm_sigint_and_sighup_end_every_role_with_zero() {
    let provider = FakeProvider::start(FakeProviderOptions::default()).await.unwrap();
    let (database_url, _) = new_database().await;
    for arguments in [&["serve"][..], &["serve", "--with-workers"], &["work"]] {
        for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
            let mut command = configured(arguments, &database_url).await;
            let running = Running::start(with_provider(&mut command, &provider)).await;
            running.send(signal);
            assert_eq!(running.wait().await.code(), Some(0), "{arguments:?} {signal}");
        }
    }
}

/// It is alive and not ready meanwhile, goes on when Redis comes, and ends when it is told to, before as after.
#[tokio::test]
async fn whoever_is_started_while_redis_is_away_waits_for_it() {
    let provider = FakeProvider::start(FakeProviderOptions::default()).await.unwrap();
    let (database_url, _) = new_database().await;
    let redis = Sandbox::temporary().unwrap().redis().await.unwrap();
    let status = async |address, path: &str| {
        let answer = client().get(format!("http://{address}{path}")).send().await;
        answer.map(|answer| answer.status().as_u16()).ok()
    };
    for (arguments, comes) in [(&["work"][..], false), (&["serve", "--with-workers"], true)] {
        redis.kill();
        let mut command = configured(arguments, &database_url).await;
        // The same port before and after.
        let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        command.env("DOORBUSTER_REDIS_URL", redis.url()).env("DOORBUSTER_OPS_LISTEN", port.to_string());
        // Says where operators find it: while it waits, since Redis is away.
        let running = Running::start(with_provider(&mut command, &provider)).await;
        assert_eq!(running.ops_addr, port);
        assert_eq!((status(port, "/healthz").await, status(port, "/readyz").await), (Some(200), Some(503)));
        if comes {
            redis.restart().await.unwrap();
            until("it is ready", async || status(port, "/readyz").await == Some(200)).await;
        }
        running.send(Signal::SIGTERM);
        assert_eq!(running.wait().await.code(), Some(0), "{arguments:?}");
    }
}

/// A terminal that is closed while its gateway answers somebody: the request ends first.
#[tokio::test]
async fn a_hang_up_lets_the_request_under_way_end() {
    let (database_url, _) = new_database().await;
    let running = Running::start(&mut configured(&["serve"], &database_url).await).await;
    let body = r#"{"payment_method":"pm_card_visa","email":"ada@example.com","ship_to":{"name":"Ada","line1":"1 Road",
        "city":"Köln","postal_code":"50667","country":"DE"}}"#;
    let mut socket = begin_put(&running, body.len()).await;
    running.send(Signal::SIGHUP);
    let (address, ops) = (running.public_addr, running.ops_addr);
    until("it is told not to be ready, or has closed its port", async || {
        let ready = client().get(format!("http://{ops}/readyz")).send().await;
        ready.is_ok_and(|ready| ready.status() == 503) || TcpStream::connect(address).await.is_err()
    })
    .await;
    socket.write_all(body.as_bytes()).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    assert!(answer.contains("HTTP/1.1 200") || answer.contains("HTTP/1.1 201"), "{answer}");
    assert_eq!(running.wait().await.code(), Some(0));
}

#[tokio::test]
async fn a_second_signal_does_not_wait_for_anybody() {
    let (database_url, _) = new_database().await;
    let running = Running::start(&mut configured(&["serve"], &database_url).await).await;
    // A request whose body does not come keeps the first stop busy for seconds.
    let _socket = begin_put(&running, 2).await;
    let address = running.public_addr;
    let began = Instant::now();
    running.send(Signal::SIGTERM);
    until("the port is closed", async || TcpStream::connect(address).await.is_err()).await;
    running.send(Signal::SIGTERM);
    assert_eq!(running.wait().await.code(), Some(1));
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}

/// The head of a request whose body the gateway waits for.
async fn begin_put(running: &Running, length: usize) -> TcpStream {
    let mut socket = TcpStream::connect(running.public_addr).await.unwrap();
    let head = format!(
        "PUT /v1/me/checkout-profile HTTP/1.1\r\nhost: shop\r\nauthorization: Bearer {}\r\n\
         content-type: application/json\r\ncontent-length: {length}\r\nexpect: 100-continue\r\n\r\n",
        token("ada")
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    // The gateway asks for the body, so it is in the middle of the request.
    socket.readable().await.unwrap();
    socket
}
