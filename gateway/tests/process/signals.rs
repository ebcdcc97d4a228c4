//! Signals: the first one stops in order, the second one at once.

use std::time::{Duration, Instant};

use doorbuster_sandbox::provider::{FakeProvider, FakeProviderOptions};
use nix::sys::signal::Signal;
use tokio::io::AsyncWriteExt as _;
use tokio::net::TcpStream;

use super::program::{Running, configured, with_provider};
use crate::support::{new_database, token, until};

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
