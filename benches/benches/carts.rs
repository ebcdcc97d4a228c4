//! Carts: what they take in Redis, and how fast they change through HTTP beside a handler that does nothing.
//!
//! `cart_bytes`: 100,000 carts of 1, 3 and 5 lines, buyers with ids of 20 bytes, every line added by itself, on a Redis with its
//! own defaults; only the append-only file is off, whose buffer would be counted. `cart_changes_over_noop`: POST /v1/cart/items
//! against POST /v1/carts/guest of the same gateway, which asks no store, turn by turn over the same connections; Redis,
//! Postgres, gateway and clients share the machine.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use doorbuster::{GatewayConfig, Secret, auth};
use doorbuster_benches::{info, info_figure};
use doorbuster_engine::carts::CartStore;
use doorbuster_engine::domain::carts::{Addition, CartOwner, LineQuantity};
use doorbuster_engine::domain::clock::Clock;
use doorbuster_engine::domain::ids::VariantId;
use doorbuster_engine::domain::money::Money;
use doorbuster_engine::flows::Engine;
use doorbuster_engine::ledger::Ledger;
use doorbuster_engine::tokens::store::TokenStore;
use doorbuster_sandbox::{AppendFsync, RedisOptions, Sandbox};
use futures_util::future::join_all;
use mimalloc::MiMalloc;
use redis::aio::MultiplexedConnection;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// As the program itself has it.
#[global_allocator]
static ALLOCATOR: MiMalloc = MiMalloc;

const CARTS: u64 = 100_000;
const WRITERS: u64 = 64;
const BRIEF: f64 = 100_000_000.0;

const CLIENTS: usize = 64;
const VARIANTS: usize = 100;
const ROUNDS: usize = 7;
const TURN: Duration = Duration::from_secs(2);
const SECRET: &str = "a secret of this bench, long enough for HS256";

#[tokio::main]
async fn main() {
    for lines in [1, 3, 5] {
        bytes(lines).await;
    }
    changes().await;
}

#[expect(clippy::print_stdout, reason = "the figures are what this is run for")]
async fn bytes(lines: i32) {
    let sandbox = Sandbox::temporary().expect("a folder");
    let redis = sandbox.redis_with(RedisOptions::default().setting("appendonly", "no")).await.expect("redis-server");
    let carts = CartStore::connect(&redis.url(), Clock::System).await.expect("a connection");
    let client = redis::Client::open(redis.url()).expect("an address");
    let mut connection = client.get_multiplexed_async_connection().await.expect("a connection");
    let before = used_bytes(&mut connection).await;
    join_all((0..WRITERS).map(|writer| fill(&carts, writer, lines))).await;
    let per_cart = (used_bytes(&mut connection).await - before) / CARTS as f64;
    let key = "cart:{u:buyer-00000000000001}";
    let usage: i64 =
        redis::cmd("MEMORY").arg("USAGE").arg(key).query_async(&mut connection).await.expect("MEMORY USAGE");
    let encoding: String =
        redis::cmd("OBJECT").arg("ENCODING").arg(key).query_async(&mut connection).await.expect("OBJECT ENCODING");
    println!(
        "cart_bytes: {per_cart:.0} for a cart of {lines} lines ({CARTS} carts; MEMORY USAGE says {usage}, {encoding}); \
         100 million take {:.1} GB",
        per_cart * BRIEF / 1e9
    );
}

/// This writer's share of the carts, each line added by itself.
async fn fill(carts: &CartStore, writer: u64, lines: i32) {
    let price = Money::new(14_900, "EUR".parse().expect("a currency"));
    for number in (writer..CARTS).step_by(WRITERS as usize) {
        let owner = CartOwner::Buyer(format!("buyer-{number:014x}").parse().expect("20 visible characters"));
        for line in 0..lines {
            let addition = Addition {
                // Of a catalogue of a hundred thousand variants.
                variant_id: VariantId(1 + ((number * 7_919) as i32 + line * 104_729).rem_euclid(100_000)),
                quantity: LineQuantity::new(1).expect("a quantity"),
                price,
                key: format!("click-{line}").parse().expect("a key"),
            };
            carts.add(&owner, &addition).await.expect("an answer");
        }
    }
}

/// What Redis has allocated, without what its clients' connections take.
async fn used_bytes(connection: &mut MultiplexedConnection) -> f64 {
    redis::cmd("MEMORY").arg("PURGE").query_async::<()>(connection).await.expect("MEMORY PURGE");
    let info = info(connection, "memory").await;
    info_figure(&info, "used_memory") - info_figure(&info, "mem_clients_normal")
}

#[expect(clippy::print_stdout, reason = "the figures are what this is run for")]
async fn changes() {
    let sandbox = Sandbox::temporary().expect("a folder");
    // As carts are kept in production.
    let options = RedisOptions::default().append_fsync(AppendFsync::EverySecond);
    let redis = sandbox.redis_with(options).await.expect("redis-server");
    let postgres = sandbox.postgres().await.expect("Postgres");
    let database = postgres.create_database("carts").await.expect("a database");
    let ledger = Ledger::new(&database, 8).expect("a pool");
    ledger.migrate().await.expect("the schema");
    let (sql, connection) = tokio_postgres::connect(&database, tokio_postgres::NoTls).await.expect("a connection");
    tokio::spawn(connection);
    let catalog = format!(
        "insert into products (name) values ('Shoe');
         insert into variants (product_id, sku, title, price_minor, currency)
         select 1, 'shoe-' || n, 'size ' || n, 14900, 'EUR' from generate_series(1, {VARIANTS}) n"
    );
    sql.batch_execute(&catalog).await.expect("a catalogue");
    let tokens = TokenStore::connect(&redis.url()).await.expect("a connection");
    let engine = Engine::new(ledger, tokens, Clock::System);
    let gateway = doorbuster::serve(GatewayConfig::on_free_ports(SECRET), engine, None).await.expect("a gateway");

    let mut clients = join_all((0..CLIENTS).map(|number| Client::connect(gateway.public_addr, number))).await;
    let mut ratios = Vec::new();
    for round in 0..=ROUNDS {
        let noop = turn(&mut clients, Client::noop).await;
        let change = turn(&mut clients, Client::change).await;
        // The first round only warms up.
        if round > 0 {
            println!("round {round}: {change:.0} changes/s, {noop:.0} no-ops/s, ratio {:.3}", change / noop);
            ratios.push((change / noop, change));
        }
    }
    ratios.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (ratio, change) = ratios[ratios.len() / 2];
    println!("cart_changes_over_noop: {ratio:.3} (median of {ROUNDS}; {change:.0} changes/s, {CLIENTS} connections)");
    gateway.stop().await;
}

/// Answers a second over all connections.
async fn turn(clients: &mut [Client], request: fn(&mut Client) -> String) -> f64 {
    let began = Instant::now();
    let counts = join_all(clients.iter_mut().map(async |client| {
        let mut answers = 0_u64;
        while began.elapsed() < TURN {
            let text = request(client);
            client.send(&text).await;
            answers += 1;
        }
        answers
    }))
    .await;
    counts.into_iter().sum::<u64>() as f64 / began.elapsed().as_secs_f64()
}

/// One connection: a new cart every fifty changes, five lines in each.
struct Client {
    stream: TcpStream,
    number: usize,
    sent: usize,
    token: String,
    answer: Vec<u8>,
}

impl Client {
    async fn connect(address: SocketAddr, number: usize) -> Self {
        let stream = TcpStream::connect(address).await.expect("a connection");
        stream.set_nodelay(true).expect("a connection");
        Self { stream, number, sent: 0, token: String::new(), answer: Vec::with_capacity(8 * 1024) }
    }

    fn noop(&mut self) -> String {
        "POST /v1/carts/guest HTTP/1.1\r\nhost: bench\r\ncontent-length: 0\r\n\r\n".to_owned()
    }

    fn change(&mut self) -> String {
        if self.sent.is_multiple_of(50) {
            let buyer = format!("buyer-{}-{}", self.number, self.sent).parse().expect("a buyer");
            let secret = Secret::from(SECRET.to_owned());
            self.token = auth::mint(&secret, &buyer, Clock::System.now(), jiff::SignedDuration::from_hours(1));
        }
        let sent = self.sent;
        self.sent += 1;
        let variant = 1 + (self.number + sent / 50 + sent % 5) % VARIANTS;
        let body = format!(r#"{{"variant_id":{variant},"quantity":1}}"#);
        format!(
            "POST /v1/cart/items HTTP/1.1\r\nhost: bench\r\nauthorization: Bearer {}\r\nidempotency-key: click-{sent}\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            self.token,
            body.len()
        )
    }

    /// Sends, and reads one whole answer, which must be a success.
    async fn send(&mut self, request: &str) {
        self.stream.write_all(request.as_bytes()).await.expect("a connection");
        self.answer.clear();
        loop {
            let read = self.stream.read_buf(&mut self.answer).await.expect("a connection");
            assert!(read > 0, "the gateway hung up: {}", String::from_utf8_lossy(&self.answer));
            let Some(end) = self.answer.windows(4).position(|four| four == b"\r\n\r\n") else { continue };
            let header = std::str::from_utf8(&self.answer[..end]).expect("a header of ASCII");
            assert!(header.starts_with("HTTP/1.1 20"), "{}", String::from_utf8_lossy(&self.answer));
            let length = header.lines().find_map(|line| line.strip_prefix("content-length: "));
            let length: usize = length.expect("a length").parse().expect("a number");
            if self.answer.len() >= end + 4 + length {
                return;
            }
        }
    }
}
