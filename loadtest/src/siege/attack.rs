//! One hostile host: each attack is a process of its own that comes from 127.0.0.2, and is bounded in count, rate and time.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::ensure;
use clap::{Args, ValueEnum};
use doorbuster_engine::domain::clock::Clock;
use jiff::SignedDuration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};

use crate::generator::wire::Connection;
use crate::generator::{Buyers, save_profiles};
use crate::stage;

const FROM: Ipv4Addr = Ipv4Addr::new(127, 0, 0, 2);
const IDLE_SOCKETS: u32 = 13_000;
const WEBHOOK_BODIES: u32 = 1_000;
/// A second, for a socket that was refused or cut off: the attacker has to stay cheap.
const SOCKETS_PER_S: u32 = 2_000;
const AFTER_CUT: Duration = Duration::from_secs(5);
const PAGES_PER_S: u32 = 200;
const CARTS_PER_S: u32 = 300;
const ORDERS_PER_S: u32 = 170;
const ACCOUNTS: u32 = 6;
/// Above the number of every honest buyer.
pub(super) const FIRST_ACCOUNT: u64 = 90_000_000_000;
const CONNECTIONS: u32 = 24;
const LONGEST: Duration = Duration::from_secs(120);

/// What the host does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Attack {
    /// 13,000 sockets that send nothing
    IdleSockets,
    /// 1,000 webhook bodies that never end
    WebhookBodies,
    /// 200 pages of the catalog a second
    CatalogPages,
    /// 300 carts of guests a second
    GuestCarts,
    /// 170 orders a second of six accounts
    Orders,
}

#[derive(Debug, Args)]
pub struct AttackArguments {
    attack: Attack,
    address: SocketAddr,
    seconds: u64,
}

impl Attack {
    pub fn name(self) -> String {
        self.to_possible_value().expect("no attack is hidden").get_name().to_owned()
    }
}

/// The SKU of a product of the besieged shop.
pub(super) fn sku(product: usize, size: usize) -> String {
    format!("siege-{product}-{size}")
}

/// Runs on this thread, so that its processor time is bounded by one core.
pub fn run_attack(arguments: &AttackArguments) -> anyhow::Result<()> {
    let AttackArguments { attack, address, seconds } = *arguments;
    ensure!(address.ip().is_loopback(), "{address} is not of this machine: an attack goes nowhere else");
    let lasts = Duration::from_secs(seconds).min(LONGEST);
    let accounts = Arc::new(accounts());
    if attack == Attack::Orders {
        save_profiles(address, &accounts, 1)?;
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let attacking = async {
            match attack {
                Attack::IdleSockets => hold(address, IDLE_SOCKETS, Vec::new).await,
                Attack::WebhookBodies => hold(address, WEBHOOK_BODIES, move || webhook(address)).await,
                Attack::CatalogPages => {
                    repeat(address, PAGES_PER_S, CONNECTIONS, move |_, _| vec![page(address)]).await;
                }
                Attack::GuestCarts => {
                    let cart = move |connection, sent| vec![guest_cart(address, connection, sent)];
                    repeat(address, CARTS_PER_S, CONNECTIONS, cart).await;
                }
                // Each account over a connection of its own.
                Attack::Orders => {
                    let order = move |account, sent| order(address, accounts.token(account), sent);
                    repeat(address, ORDERS_PER_S, ACCOUNTS, order).await;
                }
            }
        };
        // It ends only with its time.
        let _ = tokio::time::timeout(lasts, attacking).await;
    });
    Ok(())
}

fn accounts() -> Buyers {
    Buyers::mint(FIRST_ACCOUNT, ACCOUNTS, &stage::secret(), Clock::System.now(), SignedDuration::from_hours(1))
}

async fn connect(address: SocketAddr) -> std::io::Result<TcpStream> {
    let socket = TcpSocket::new_v4()?;
    socket.bind(SocketAddr::from((FROM, 0)))?;
    // The kernel would keep the ports of thousands of closed sockets for a minute.
    socket.set_zero_linger()?;
    socket.connect(address).await
}

/// Opens so many sockets, sends something on each, and holds it for as long as the server lets it.
async fn hold(address: SocketAddr, sockets: u32, sends: impl Fn() -> Vec<u8> + Clone + Send + 'static) {
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..sockets {
        let sends = sends.clone();
        tasks.spawn(async move {
            tokio::time::sleep(Duration::from_secs(1) * number / SOCKETS_PER_S).await;
            loop {
                if let Ok(mut stream) = connect(address).await
                    && stream.write_all(&sends()).await.is_ok()
                {
                    // Whatever is answered: only the end of the connection matters.
                    let mut answer = [0; 256];
                    while stream.read(&mut answer).await.is_ok_and(|read| read > 0) {}
                }
                tokio::time::sleep(AFTER_CUT).await;
            }
        });
    }
    while tasks.join_next().await.is_some() {}
}

/// A body that could be the provider's by its header, and of which most is missing.
fn webhook(address: SocketAddr) -> Vec<u8> {
    let now = Clock::System.now().as_second();
    let signature = "0".repeat(64);
    let mut request = format!(
        "POST /v1/webhooks/stripe HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\n\
         stripe-signature: t={now},v1={signature}\r\ncontent-length: 60000\r\n\r\n"
    )
    .into_bytes();
    request.resize(request.len() + 50_000, b' ');
    request
}

fn page(address: SocketAddr) -> Vec<u8> {
    format!("GET /v1/products?limit=100 HTTP/1.1\r\nhost: {address}\r\n\r\n").into_bytes()
}

fn guest_cart(address: SocketAddr, connection: u32, sent: u64) -> Vec<u8> {
    post(address, "/v1/carts/guest", &format!("guest-{connection}-{sent}"), None, "")
}

/// A line for the cart, and the checkout of it.
fn order(address: SocketAddr, token: &[u8], sent: u64) -> Vec<Vec<u8>> {
    let (key, line) = (format!("siege-{sent}"), format!(r#"{{"sku":"{}","quantity":1}}"#, sku(0, 0)));
    let cart = post(address, "/v1/cart/items", &key, Some(token), &line);
    vec![cart, post(address, "/v1/checkout", &key, Some(token), "{}")]
}

fn post(address: SocketAddr, path: &str, key: &str, token: Option<&[u8]>, body: &str) -> Vec<u8> {
    let mut request = format!(
        "POST {path} HTTP/1.1\r\nhost: {address}\r\ncontent-type: application/json\r\nidempotency-key: {key}\r\n\
         content-length: {}",
        body.len()
    )
    .into_bytes();
    if let Some(token) = token {
        request.extend_from_slice(b"\r\nauthorization: Bearer ");
        request.extend_from_slice(token);
    }
    request.extend_from_slice(b"\r\n\r\n");
    request.extend_from_slice(body.as_bytes());
    request
}

/// At this rate sends what `requests` says, one behind the other, over so many kept connections: it is told which one, and how
/// often before. What could not be sent in time is left out.
async fn repeat(
    address: SocketAddr,
    per_s: u32,
    connections: u32,
    requests: impl Fn(u32, u64) -> Vec<Vec<u8>> + Clone + Send + 'static,
) {
    let mut tasks = tokio::task::JoinSet::new();
    for number in 0..connections {
        let requests = requests.clone();
        tasks.spawn(async move {
            let mut sent = 0;
            let mut pace = pace(per_s, connections, number);
            loop {
                let Ok(stream) = connect(address).await else {
                    tokio::time::sleep(AFTER_CUT).await;
                    continue;
                };
                let mut connection = Connection::of(stream);
                'kept: loop {
                    pace.tick().await;
                    sent += 1;
                    for request in requests(number, sent) {
                        match connection.exchange(&request).await {
                            Ok(answer) if !answer.closes => {}
                            _ => break 'kept,
                        }
                    }
                }
            }
        });
    }
    while tasks.join_next().await.is_some() {}
}

/// One of `of` shares of a rate.
fn pace(per_s: u32, of: u32, number: u32) -> tokio::time::Interval {
    let each = Duration::from_secs(1) * of / per_s;
    let begins = tokio::time::Instant::from_std(Instant::now() + each * number / of);
    let mut pace = tokio::time::interval_at(begins, each);
    pace.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
    pace
}
