//! Signals: the first one stops in order, the second one at once.

use std::time::{Duration, Instant};

use doorbuster_sandbox::Sandbox;
use doorbuster_sandbox::provider::{FakeProvider, FakeProviderOptions};
use nix::sys::signal::Signal;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::program::{Running, configured, with_provider};
use crate::support::{client, new_database, token, until};

#[tokio::test]
async fn sigterm_and_sigint_end_every_role_with_zero() {
    let provider = FakeProvider::start(FakeProviderOptions::default()).await.unwrap();
    let (database_url, _) = new_database().await;
    for arguments in [&["serve"][..], &["serve", "--with-workers"], &["work"]] {
        for signal in [Signal::SIGTERM, Signal::SIGINT] {
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

#[tokio::test]
async fn a_second_signal_does_not_wait_for_anybody() {
    let (database_url, _) = new_database().await;
    let running = Running::start(&mut configured(&["serve"], &database_url).await).await;
    // A request whose body does not come keeps the first stop busy for seconds.
    let mut socket = TcpStream::connect(running.public_addr).await.unwrap();
    let head = format!(
        "PUT /v1/me/checkout-profile HTTP/1.1\r\nhost: shop\r\nauthorization: Bearer {}\r\n\
         content-type: application/json\r\ncontent-length: 2\r\nexpect: 100-continue\r\n\r\n",
        token("ada")
    );
    socket.write_all(head.as_bytes()).await.unwrap();
    // The gateway asks for the body, so it is in the middle of the request.
    socket.readable().await.unwrap();
    let address = running.public_addr;
    let began = Instant::now();
    running.send(Signal::SIGTERM);
    until("the port is closed", async || TcpStream::connect(address).await.is_err()).await;
    running.send(Signal::SIGTERM);
    assert_eq!(running.wait().await.code(), Some(1));
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}
