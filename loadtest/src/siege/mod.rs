//! `siege`: an honest sale beside one hostile host, which asks for everything that costs it little and the shop much.
//!
//! Each row of the table is a shop of its own: private stores, the payment provider's 25 calls a second, the released program
//! with its default settings, settling every two seconds. First the sale alone, then beside each attack, then beside all at once.
//! The attackers are processes on 127.0.0.2 whose processor time is printed: what is measured is the shop's own doing, and not
//! that somebody has taken its processor away.

mod attack;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use clap::{Args, ValueEnum as _};
use doorbuster_engine::domain::drops::SaleDrop;
use doorbuster_sandbox::crowd::CallOutcome;
use doorbuster_sandbox::provider::{FakeProvider, FakeProviderOptions};
use doorbuster_sandbox::{Process, ProcessOptions};
use serde::Serialize;

pub use attack::{Attack, AttackArguments, run_attack};

use crate::generator::wire::Connection;
use crate::generator::{OpenResult, OpenRun, Outcome, Percentiles, Scenario, Schedule};
use crate::machine::{self, Machine};
use crate::output::{self, Table};
use crate::stage::{SECRET, Stage};

const LISTEN: &str = "DOORBUSTER_LISTEN";
const OPS_LISTEN: &str = "DOORBUSTER_OPS_LISTEN";
const OPERATOR: &str = "the-secret-of-the-siege-which-is-long-enough";
const WEBHOOK_SECRET: &str = "whsec_of_the_siege_which_is_long_enough";
/// 12 orders a second are what the provider's 25 calls allow: these are charged within 13 s if nobody is before them.
const UNITS: u32 = 150;
const WAREHOUSES: u32 = 4;
const CLICKS_PER_S: f64 = 40.0;
/// The attackers have this long before the first honest click.
const AHEAD: Duration = Duration::from_secs(4);
const CONFIRMED_WITHIN: Duration = Duration::from_secs(30);
const LOOK_EVERY: Duration = Duration::from_millis(250);
const READY_EVERY: Duration = Duration::from_millis(500);
const READY_WITHIN: Duration = Duration::from_secs(2);
/// What the sale's claims may become beside an attack.
const P99_FACTOR_MAX: f64 = 3.0;
const P99_MAX_MS: f64 = 100.0;
const ATTACK_CORES_MAX: f64 = 0.3;
/// Pages of 100 products are asked for: more than one of them.
const PRODUCTS: usize = 120;
const SIZES: usize = 20;

#[derive(Debug, Args)]
pub struct SiegeArguments {
    /// How long honest buyers come
    #[arg(long, default_value_t = 15, value_name = "SECONDS")]
    seconds: u64,
    /// The program that is besieged; otherwise `doorbuster` beside this one
    #[arg(long, value_name = "FILE")]
    program: Option<PathBuf>,
    /// Only these attacks, one at a time
    #[arg(long, value_enum, value_delimiter = ',', value_name = "ATTACKS")]
    only: Vec<Attack>,
    /// Also writes the table as JSON
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
}

/// One sale.
#[derive(Debug, Clone, Serialize)]
struct Row {
    beside: String,
    attack_cores: f64,
    /// Taken from the attackers.
    hostile_orders: i64,
    claims: Percentiles,
    /// Clicks that were told to come again, or nothing.
    unserved: u64,
    clicks: u64,
    orders: usize,
    /// Of the orders, within 30 s of their click.
    confirmed: usize,
    slowest_s: f64,
    ready: u64,
    looks: u64,
    memory_mib: u64,
}

pub async fn run(arguments: SiegeArguments) -> anyhow::Result<()> {
    let program = match arguments.program {
        Some(program) => program,
        None => std::env::current_exe()?.with_file_name("doorbuster"),
    };
    ensure!(
        program.is_file(),
        "{} is not there: build it (cargo build --release -p doorbuster), or name it with --program",
        program.display()
    );
    let mut plans = vec![Vec::new()];
    match &*arguments.only {
        [] => {
            plans.extend(Attack::value_variants().iter().map(|attack| vec![*attack]));
            plans.push(Attack::value_variants().to_vec());
        }
        only => plans.extend(only.iter().map(|attack| vec![*attack])),
    }
    let length = Duration::from_secs(arguments.seconds);
    let mut rows = Vec::new();
    for attacks in plans {
        let row = besiege(&program, &attacks, length, rows.is_empty()).await?;
        output::print(format!("{}: p99 {:.1} ms", row.beside, row.claims.p99_ms));
        rows.push(row);
    }
    output::print(table(&rows).to_string());
    if let Some(path) = &arguments.out {
        output::write_json(path, &rows)?;
    }
    let broken = broken(&rows);
    if broken.is_empty() { Ok(()) } else { bail!("{}", broken.join("; ")) }
}

/// What does not hold, one sentence each.
fn broken(rows: &[Row]) -> Vec<String> {
    let Some(alone) = rows.first() else { return Vec::new() };
    let mut broken = Vec::new();
    for row in rows {
        let Row { beside, claims, attack_cores, orders, confirmed, ready, looks, .. } = row;
        let bound = (P99_FACTOR_MAX * alone.claims.p99_ms).min(P99_MAX_MS);
        if claims.p99_ms > bound {
            broken.push(format!("{beside}: p99 is {:.1} ms, at most {bound:.1} is right", claims.p99_ms));
        }
        if confirmed < orders || *orders < UNITS as usize {
            broken.push(format!("{beside}: {confirmed} of {orders} orders of {UNITS} units CONFIRMED within 30 s"));
        }
        if ready < looks {
            broken.push(format!("{beside}: ready at {ready} of {looks} looks"));
        }
        if *attack_cores > ATTACK_CORES_MAX {
            broken.push(format!("{beside}: the attackers took {attack_cores:.2} of a core, which proves nothing"));
        }
    }
    broken
}

fn table(rows: &[Row]) -> Table {
    let mut table = Table::new(&[
        "honest sale beside",
        "attackers' cores",
        "their orders",
        "p50 ms",
        "p99 ms",
        "times alone",
        "unserved",
        "confirmed in 30 s",
        "slowest s",
        "ready",
        "memory MiB",
    ]);
    let alone = rows.first().map_or(1.0, |row| row.claims.p99_ms);
    for row in rows {
        table.row([
            row.beside.clone(),
            format!("{:.2}", row.attack_cores),
            row.hostile_orders.to_string(),
            format!("{:.1}", row.claims.p50_ms),
            format!("{:.1}", row.claims.p99_ms),
            format!("{:.1}", row.claims.p99_ms / alone),
            format!("{} of {}", row.unserved, row.clicks),
            format!("{} of {}", row.confirmed, row.orders),
            format!("{:.1}", row.slowest_s),
            format!("{} of {}", row.ready, row.looks),
            row.memory_mib.to_string(),
        ]);
    }
    table
}

async fn besiege(program: &Path, attacks: &[Attack], length: Duration, says_where: bool) -> anyhow::Result<Row> {
    let stage = Stage::start(std::env::current_exe()?).await?;
    if says_where {
        let machine = Machine::look(stage.folder(), stage.redis.version(), stage.postgres.version())?;
        output::print(machine.sentence());
    }
    let provider = FakeProvider::start(FakeProviderOptions::default()).await?;
    let server = serve(&stage, program, &provider).await?;
    fill_catalog(server.address(OPS_LISTEN)).await?;
    stage.sql.batch_execute("insert into rates values ('*', 'EUR', 1900, 490, null)").await?;
    let drop = stage.open_drop(UNITS, WAREHOUSES).await?;
    let (plan, clicks) = Scenario {
        // Buyers come over connections of their own, as they do.
        fresh_share: 1.0,
        ..Scenario::plain(Schedule::constant(CLICKS_PER_S, length), vec!["only".to_owned()])
    }
    .plan();
    let buyers = stage.buyers(clicks);
    stage.save_profiles(&buyers).await?;

    let lasts = AHEAD + length + CONFIRMED_WITHIN;
    let mut attackers = Attackers::start(attacks, server.address(LISTEN), lasts)?;
    let watched = Watched::begin(server.address(OPS_LISTEN), server.pid());
    tokio::time::sleep(if attacks.is_empty() { Duration::ZERO } else { AHEAD }).await;
    let address = server.address(LISTEN);
    let skus = drop.variants.iter().map(|variant| variant.sku.clone()).collect();
    let run = OpenRun {
        address,
        drops: vec![crate::generator::DropPaths::new(address, drop.name.as_str(), skus)],
        buyers,
        plan,
        connections: 64,
        threads: 1,
        answer_timeout: CONFIRMED_WITHIN,
        grace: CONFIRMED_WITHIN,
        keeps_log: true,
        ended: Arc::new(AtomicU64::new(0)),
    };
    let began = Instant::now();
    let sale = tokio::task::spawn_blocking(move || run.run());
    let (confirmed_at, sale) = confirmations(&stage, &drop, sale, began, length).await?;
    let attack_cores = attackers.stop(&server)?;
    const HOSTILE: &str = "select count(*) from orders where buyer >= $1";
    let first = crate::generator::id_of(attack::FIRST_ACCOUNT);
    let hostile_orders = stage.sql.query_one(HOSTILE, &[&first.as_str()]).await?.get(0);
    Ok(row(attacks, attack_cores, hostile_orders, &sale, &confirmed_at, watched.end().await))
}

fn row(
    attacks: &[Attack],
    attack_cores: f64,
    hostile_orders: i64,
    sale: &OpenResult,
    confirmed_at: &HashMap<String, i64>,
    (ready, looks, memory_mib): (u64, u64, u64),
) -> Row {
    let bought = sale.logs.iter().flat_map(|log| &log.calls);
    let bought = bought.filter(|call| matches!(call.outcome, CallOutcome::Accepted { .. })).collect::<Vec<_>>();
    let waits = bought.iter().map(|call| confirmed_at.get(&call.buyer).map(|at| at - call.due_us));
    let waits = waits.map(|us| us.map_or(f64::INFINITY, |us| us as f64 / 1e6)).collect::<Vec<_>>();
    let unserved = [Outcome::Overloaded, Outcome::ServerError, Outcome::NoAnswer, Outcome::TimedOut, Outcome::Unsent];
    Row {
        beside: match attacks {
            [] => "nothing".to_owned(),
            [one] => one.name(),
            _ => "all at once".to_owned(),
        },
        attack_cores,
        hostile_orders,
        claims: Percentiles::of(&sale.tally.latency_us),
        unserved: unserved.into_iter().map(|outcome| sale.tally.count(outcome)).sum(),
        clicks: Outcome::ALL.into_iter().map(|outcome| sale.tally.count(outcome)).sum(),
        orders: bought.len(),
        confirmed: waits.iter().filter(|wait| **wait <= CONFIRMED_WITHIN.as_secs_f64()).count(),
        slowest_s: waits.into_iter().fold(0.0, f64::max),
        ready,
        looks,
        memory_mib,
    }
}

async fn serve(stage: &Stage, program: &Path, provider: &FakeProvider) -> anyhow::Result<Process> {
    let options = ProcessOptions::new(program, LISTEN)
        .listener(OPS_LISTEN)
        .argument("serve")
        .argument("--with-workers")
        .variable("DOORBUSTER_REDIS_URL", stage.redis.url())
        .variable("DOORBUSTER_DATABASE_URL", &stage.database_url)
        .variable("DOORBUSTER_JWT_SECRET", SECRET)
        .variable("DOORBUSTER_OPERATOR_TOKENS", format!("siege={OPERATOR}"))
        .variable("DOORBUSTER_PROVIDER_URL", provider.url())
        .variable("DOORBUSTER_PROVIDER_KEY", provider.secret_key())
        .variable("DOORBUSTER_PROVIDER_WEBHOOK_SECRETS", WEBHOOK_SECRET)
        .variable("DOORBUSTER_SETTLE_EVERY", "2s");
    stage.process("besieged", options).await
}

/// Goods that anybody may look at, and that the attackers order.
async fn fill_catalog(ops: SocketAddr) -> anyhow::Result<()> {
    let mut connection = Connection::open(ops).await?;
    let mut send = async |path: &str, key: String, body: String| {
        let request = format!(
            "POST {path} HTTP/1.1\r\nhost: {ops}\r\nauthorization: Bearer {OPERATOR}\r\nidempotency-key: {key}\r\n\
             content-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        let answer = connection.exchange(request.as_bytes()).await?;
        let said = String::from_utf8_lossy(answer.body);
        ensure!(answer.status < 300, "{path} answered {}: {said}", answer.status);
        anyhow::Ok(())
    };
    send("/v1/warehouses", "place".to_owned(), r#"{"code":"siege"}"#.to_owned()).await?;
    for number in 0..PRODUCTS {
        // As many sizes as shoes have: a page of them has 300 kB.
        let variants = (0..SIZES).map(|size| {
            let title = format!("Size {}", 30 + size);
            serde_json::json!({ "sku": attack::sku(number, size), "title": title, "price_minor": 4_900, "currency": "EUR" })
        });
        let body = serde_json::json!({ "name": format!("Pair {number}"), "variants": variants.collect::<Vec<_>>() });
        send("/v1/products", format!("product-{number}"), body.to_string()).await?;
    }
    let stock = serde_json::json!({
        "sku": attack::sku(0, 0), "warehouse": "siege", "delta": 1_000_000, "reason": "siege",
    });
    send("/v1/stock/adjustments", "stock".to_owned(), stock.to_string()).await
}

/// Waits for the end of the sale, and looks who has a confirmed order: the time in µs since 1970 at which it was first seen.
async fn confirmations(
    stage: &Stage,
    drop: &SaleDrop,
    mut sale: tokio::task::JoinHandle<anyhow::Result<OpenResult>>,
    began: Instant,
    length: Duration,
) -> anyhow::Result<(HashMap<String, i64>, OpenResult)> {
    const CONFIRMED: &str = "select distinct o.buyer, (extract(epoch from clock_timestamp()) * 1e6)::int8
        from orders o join order_items i using (order_id) where i.product_id = $1 and o.status = 'CONFIRMED'";
    let (mut seen, mut result) = (HashMap::new(), None);
    loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            ended = &mut sale, if result.is_none() => result = Some(ended??),
        }
        for row in stage.sql.query(CONFIRMED, &[&drop.product_id]).await? {
            seen.entry(row.get(0)).or_insert_with(|| row.get(1));
        }
        if let Some(ended) =
            result.take_if(|_| seen.len() >= UNITS as usize || began.elapsed() > length + CONFIRMED_WITHIN)
        {
            return Ok((seen, ended));
        }
    }
}

/// Processes on 127.0.0.2. Dropped, they are killed.
struct Attackers {
    running: Vec<Child>,
    began: Instant,
}

impl Attackers {
    fn start(attacks: &[Attack], address: SocketAddr, lasts: Duration) -> anyhow::Result<Self> {
        let program = std::env::current_exe()?;
        let mut running = Vec::new();
        for attack in attacks {
            let mut command = Command::new(&program);
            command.arg("attack").arg(attack.name()).arg(address.to_string()).arg(lasts.as_secs().to_string());
            let child = command.stdin(Stdio::null()).spawn();
            running.push(child.with_context(|| format!("{} cannot be started", program.display()))?);
        }
        Ok(Self { running, began: Instant::now() })
    }

    /// Which share of a core they took, all together.
    fn stop(&mut self, server: &Process) -> anyhow::Result<f64> {
        let mut used = Duration::ZERO;
        for child in &mut self.running {
            if let Some(status) = child.try_wait()? {
                let log = std::fs::read_to_string(server.log()).unwrap_or_default();
                let last = log.lines().rev().take(5).collect::<Vec<_>>().join("\n");
                bail!("an attacker ended too early, with {status}; the server's last lines:\n{last}");
            }
            used += machine::cpu_of(Some(child.id()));
        }
        let cores = used.as_secs_f64() / self.began.elapsed().as_secs_f64();
        self.kill();
        Ok(cores)
    }

    fn kill(&mut self) {
        for mut child in self.running.drain(..) {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

impl Drop for Attackers {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Looks at readiness and memory all the while.
struct Watched {
    task: tokio::task::JoinHandle<()>,
    figures: Arc<Figures>,
}

#[derive(Default)]
struct Figures {
    ready: AtomicU64,
    looks: AtomicU64,
    memory_mib: AtomicU64,
}

impl Watched {
    fn begin(ops: SocketAddr, pid: Option<u32>) -> Self {
        let figures = Arc::new(Figures::default());
        let counted = Arc::clone(&figures);
        let task = tokio::spawn(async move {
            loop {
                let is_ready = tokio::time::timeout(READY_WITHIN, is_ready(ops)).await.is_ok_and(|ready| ready);
                counted.looks.fetch_add(1, Ordering::Relaxed);
                counted.ready.fetch_add(u64::from(is_ready), Ordering::Relaxed);
                counted.memory_mib.fetch_max(machine::memory_mib_of(pid), Ordering::Relaxed);
                tokio::time::sleep(READY_EVERY).await;
            }
        });
        Self { task, figures }
    }

    async fn end(self) -> (u64, u64, u64) {
        self.task.abort();
        let _ = self.task.await;
        let Figures { ready, looks, memory_mib } = &*self.figures;
        (ready.load(Ordering::Relaxed), looks.load(Ordering::Relaxed), memory_mib.load(Ordering::Relaxed))
    }
}

async fn is_ready(ops: SocketAddr) -> bool {
    let request = format!("GET /readyz HTTP/1.1\r\nhost: {ops}\r\nconnection: close\r\n\r\n");
    let Ok(mut connection) = Connection::open(ops).await else { return false };
    connection.exchange(request.as_bytes()).await.is_ok_and(|answer| answer.status == 200)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(beside: &str, p99_ms: f64) -> Row {
        let mut latency = hdrhistogram::Histogram::new(3).unwrap();
        latency.record((p99_ms * 1000.0) as u64).unwrap();
        Row {
            beside: beside.to_owned(),
            attack_cores: 0.1,
            hostile_orders: 0,
            claims: Percentiles::of(&latency),
            unserved: 0,
            clicks: 600,
            orders: 150,
            confirmed: 150,
            slowest_s: 14.0,
            ready: 20,
            looks: 20,
            memory_mib: 90,
        }
    }

    #[test]
    fn each_thing_that_does_not_hold_is_said() {
        assert_eq!(broken(&[row("nothing", 5.0), row("orders", 14.9)]), Vec::<String>::new());
        type Doctor = fn(&mut Row);
        let cases: [(&str, Doctor); 6] = [
            ("three times alone", |row| row.claims = self::row("", 15.2).claims),
            ("an order too late", |row| row.confirmed = 149),
            ("a unit unsold", |row| (row.orders, row.confirmed) = (149, 149)),
            ("not ready once", |row| row.ready = 19),
            ("attackers that take the processor", |row| row.attack_cores = 0.31),
            ("above the bound, whatever alone was", |row| row.claims = self::row("", 101.0).claims),
        ];
        for (name, doctor) in cases {
            let mut doctored = row("orders", 14.0);
            doctor(&mut doctored);
            assert_eq!(broken(&[row("nothing", 5.0), doctored]).len(), 1, "{name}");
        }
        assert_eq!(broken(&[row("nothing", 60.0), row("orders", 101.0)]).len(), 1, "never above 100 ms");
    }
}
