//! `checkout --buyers`: a few buyers, each of whom clicks, waits until their order is confirmed, and only then clicks again as
//! the next one. What is done together is small then: it shows what an order costs that shares its transactions with
//! few others.
//!
//! The drop promises its buyers an order with its answer, so settlement runs at once. Somebody has to see that an order is
//! confirmed: one session of ours looks for all of them, and what it costs is not the orders'.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use doorbuster_engine::domain::claims::Acknowledgement;
use doorbuster_engine::domain::drops::WAREHOUSES_PER_PRIMARY;
use doorbuster_engine::provider::{ProviderClient, ProviderSettings, RateLimit};
use doorbuster_sandbox::provider::{FakeProvider, FakeProviderOptions};
use hdrhistogram::Histogram;
use tokio::sync::oneshot;
use uuid::Uuid;

use crate::checkout::Cost;
use crate::generator::{Buyers, DropPaths, Percentiles};
use crate::machine::{self, Machine};
use crate::output::{self, Table};
use crate::stage::{Served, Stage};

/// Purchases of one buyer in a second, at most: none has been seen below 20 ms.
const PURCHASES_PER_S: u32 = 50;
/// How long the server is watched before anybody buys: what it does anyway is not the orders' either.
const IDLE: Duration = Duration::from_secs(5);
/// Within which an order that was answered must be confirmed.
const PATIENCE: Duration = Duration::from_secs(20);
const LOOK_EVERY: Duration = Duration::from_millis(5);
const CHARGES_AT_ONCE: u32 = 512;

/// What the buyers have seen, and what it cost.
pub struct Waited {
    pub machine: Machine,
    pub buyers: u32,
    pub orders: u32,
    pub elapsed: Duration,
    /// From the click to CONFIRMED.
    pub took_us: Histogram<u64>,
    /// Processor time an order, in µs, of which `idle` would have been used without any.
    pub cost: Cost,
    pub idle: Cost,
    /// What Postgres' own statistics say of the statements of an order: times they were called, µs.
    pub statements: Option<(f64, f64)>,
}

/// Orders that somebody waits for.
type Asked = Arc<Mutex<HashMap<Uuid, oneshot::Sender<()>>>>;

pub async fn run(buyers: u32, length: Duration) -> anyhow::Result<Waited> {
    ensure!(buyers > 0, "nobody buys");
    let stage = Stage::start(std::env::current_exe()?).await?;
    let units = buyers * PURCHASES_PER_S * u32::try_from(length.as_secs().max(1))?;
    let provider = FakeProvider::start(FakeProviderOptions::bench(3 * u64::from(units) + 10_000)).await?;
    let server = stage.serve_with_workers(&provider, CHARGES_AT_ONCE).await?;
    let drop = stage.open_drop_that(Acknowledgement::Settled, units, WAREHOUSES_PER_PRIMARY).await?;
    let paths = Arc::new(server.paths(&drop));
    let crowd = stage.buyers(units);
    stage.save_profiles(&crowd).await?;

    let asked = Asked::default();
    let watch = Watch::start(&stage, Arc::clone(&asked)).await?;
    let used = || used(&stage, &server, &watch);
    let (idle_before, idle_began) = (used(), Instant::now());
    tokio::time::sleep(IDLE).await;
    let idle = (used() - idle_before, idle_began.elapsed());
    let called_before = stage.statements().await?;
    let (before, began) = (used(), Instant::now());
    let next = Arc::new(AtomicU32::new(0));
    let tasks = (0..buyers).map(|_| {
        let (server, ends) = (server.address, began + length);
        let shopping =
            shop(server, Arc::clone(&paths), Arc::clone(&crowd), Arc::clone(&next), Arc::clone(&asked), ends);
        tokio::spawn(shopping)
    });
    let tasks = tasks.collect::<Vec<_>>();
    let mut took_us = Histogram::new(3)?;
    for task in tasks {
        for took in task.await?? {
            took_us.record(took.as_micros().try_into()?)?;
        }
    }
    let (after, elapsed) = (used(), began.elapsed());
    let called = stage.statements().await?;
    watch.task.abort();
    let orders = u32::try_from(took_us.len())?;
    ensure!(orders > 0, "nobody has bought anything");
    let audit = stage.engine.audit(Some(&client(&provider)?)).await?;
    if !audit.is_clean() {
        bail!("the audit is not clean: {:#?}", audit.violations);
    }
    let each = |cost: Cost| cost.each(f64::from(orders));
    Ok(Waited {
        machine: Machine::look(stage.folder(), stage.redis.version(), stage.postgres.version())?,
        buyers,
        orders,
        elapsed,
        took_us,
        cost: each(after - before),
        idle: each(idle.0.times(elapsed.as_secs_f64() / idle.1.as_secs_f64())),
        statements: called_before.zip(called).map(|(before, after)| {
            let orders = f64::from(orders);
            ((after.0 - before.0) / orders, (after.1 - before.1) * 1_000.0 / orders)
        }),
    })
}

/// One buyer after the other on one connection, until the time is over. Answers how long each purchase took.
async fn shop(
    server: std::net::SocketAddr,
    paths: Arc<DropPaths>,
    crowd: Arc<Buyers>,
    next: Arc<AtomicU32>,
    asked: Asked,
    ends: Instant,
) -> anyhow::Result<Vec<Duration>> {
    let mut connection = crate::generator::wire::Connection::open(server).await?;
    let (mut request, mut took) = (Vec::with_capacity(1024), Vec::new());
    while Instant::now() < ends {
        let buyer = next.fetch_add(1, Ordering::Relaxed);
        ensure!(buyer < crowd.len(), "the buyers are used up");
        crowd.write_click(&paths, buyer, None, 1, &mut request);
        let clicked = Instant::now();
        let answer = connection.exchange(&request).await?;
        let body = String::from_utf8_lossy(answer.body).into_owned();
        ensure!(answer.status == 201 || answer.status == 200, "{} {body}", answer.status);
        ensure!(!answer.closes, "the server closed a connection");
        let told: serde_json::Value = serde_json::from_str(&body)?;
        // The order that is made of a claim bears its id.
        let order = told["claim_id"].as_str().with_context(|| format!("no claim in {body}"))?.parse::<Uuid>()?;
        let (tell, told) = oneshot::channel();
        asked.lock().expect("nobody panics holding this lock").insert(order, tell);
        let is_told = tokio::time::timeout(PATIENCE, told).await;
        is_told.with_context(|| format!("order {order} was not confirmed within {PATIENCE:?}"))??;
        took.push(clicked.elapsed());
    }
    Ok(took)
}

/// One session that looks for the orders of all who wait.
struct Watch {
    task: tokio::task::JoinHandle<()>,
    session: u32,
}

impl Watch {
    async fn start(stage: &Stage, asked: Asked) -> anyhow::Result<Self> {
        const SQL: &str = "select order_id from orders where order_id = any($1) and status = 'CONFIRMED'";
        let (client, connection) = tokio_postgres::connect(&stage.database_url, tokio_postgres::NoTls).await?;
        tokio::spawn(async move { drop(connection.await) });
        let session: i32 = client.query_one("select pg_backend_pid()", &[]).await?.get(0);
        let confirmed = client.prepare(SQL).await?;
        let task = tokio::spawn(async move {
            loop {
                tokio::time::sleep(LOOK_EVERY).await;
                let orders = asked.lock().expect("nobody panics holding this lock").keys().copied().collect::<Vec<_>>();
                if orders.is_empty() {
                    continue;
                }
                // Without it everybody's patience ends.
                let Ok(rows) = client.query(&confirmed, &[&orders]).await else { return };
                let mut asked = asked.lock().expect("nobody panics holding this lock");
                for tell in rows.iter().filter_map(|row| asked.remove(&row.get(0))) {
                    let _ = tell.send(());
                }
            }
        });
        Ok(Self { task, session: session.cast_unsigned() })
    }
}

/// Since they were started, in µs.
fn used(stage: &Stage, server: &Served, watch: &Watch) -> Cost {
    let us = |time: Duration| time.as_secs_f64() * 1e6;
    Cost {
        server_us: us(machine::cpu_of(server.pid())),
        redis_us: us(machine::cpu_of(stage.redis.pid())),
        postgres_us: us(machine::cpu_of_family(stage.postgres.pid())) - us(machine::cpu_of(Some(watch.session))),
        generator_and_provider_us: us(machine::cpu_of(Some(std::process::id()))),
    }
}

fn client(provider: &FakeProvider) -> anyhow::Result<ProviderClient> {
    let settings = ProviderSettings {
        base_url: provider.url().to_owned(),
        secret_key: provider.secret_key().to_owned().into(),
        connect_timeout: Duration::from_secs(3),
        answer_timeout: Duration::from_secs(60),
    };
    Ok(ProviderClient::new(settings)?.limited_to(RateLimit::NONE))
}

impl Waited {
    pub fn print(&self) {
        let per_s = f64::from(self.orders) / self.elapsed.as_secs_f64();
        let took = Percentiles::of(&self.took_us);
        output::print(self.machine.sentence());
        output::print(format!(
            "{} buyers who wait: {} orders, {per_s:.0} a second; from the click to CONFIRMED p50 {:.0} ms, p99 {:.0} ms",
            self.buyers, self.orders, took.p50_ms, took.p99_ms
        ));
        let mut table = Table::new(&["processor time of one checkout", "µs", "of which idle"]);
        let lines = [
            ("gateway and workers", self.cost.server_us, self.idle.server_us),
            ("Redis", self.cost.redis_us, self.idle.redis_us),
            ("Postgres", self.cost.postgres_us, self.idle.postgres_us),
            (
                "generator and payment provider",
                self.cost.generator_and_provider_us,
                self.idle.generator_and_provider_us,
            ),
        ];
        for (name, us, idle) in lines {
            table.row([name.to_owned(), format!("{us:.0}"), format!("{idle:.0}")]);
        }
        output::print(table.to_string());
        if let Some((calls, us)) = self.statements {
            output::print(format!("statements of one checkout: {calls:.1}, {us:.0} µs by pg_stat_statements"));
        }
        output::print("audit clean");
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "machine": self.machine,
            "buyers": self.buyers,
            "orders": self.orders,
            "seconds": self.elapsed.as_secs_f64(),
            "cost": self.cost,
            "idle": self.idle,
            "statements": self.statements,
            "confirmed": Percentiles::of(&self.took_us),
        })
    }
}
