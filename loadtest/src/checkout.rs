//! `checkout`: the whole way sustained, from the click through claim, settlement and charge to CONFIRMED, at the highest rate
//! that a search finds, with an audit of everything at the end.
//!
//! Everything runs on this machine: gateway and workers as one process, Redis, Postgres, and here the generator and the payment
//! provider in bench mode, which keeps both HTTP calls of a charge, all rows of attempts and its store of idempotency keys. Mails
//! wait in the outbox: no mail server is configured.

use std::ops::Sub;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use clap::Args;
use doorbuster_engine::domain::drops::WAREHOUSES_PER_PRIMARY;
use doorbuster_engine::provider::{ProviderClient, ProviderSettings, RateLimit};
use doorbuster_sandbox::provider::{FakeProvider, FakeProviderOptions};
use jiff::SignedDuration;

use crate::generator::{OpenResult, OpenRun, Outcome, Percentiles, Scenario, Schedule};
use crate::machine::{self, Machine};
use crate::output::{self, Axis, Series, Table};
use crate::stage::Stage;
use crate::verify::{self, Verified};
use crate::waiting;

const CONNECTIONS: usize = 256;
const WAREHOUSES: u32 = WAREHOUSES_PER_PRIMARY;
/// Calls to the provider at the same time: what is charged together is written together.
const CHARGE_CONCURRENCY: u32 = 512;
/// Orders that the first look at the rate is taken with.
const FIRST_ORDERS: u32 = 10_000;
/// A rate is sustained if the last order is confirmed so soon after the last click was due: one settlement and one charge.
const LAG_MAX: Duration = Duration::from_secs(4);
/// Longer than a charge's lease: an order whose interrupted charge could not be put back is taken up when that has run out.
const GRACE: Duration = Duration::from_secs(150);
const LOOK_EVERY: Duration = Duration::from_millis(200);
const SEARCH_STEPS: u32 = 6;
const FIRST_STEP: f64 = 1.5;
/// So near are two rates of which one is sustained and one is too much.
const STEP: f64 = 1.1;

#[derive(Debug, Args)]
pub struct CheckoutArguments {
    /// How long the rate is sustained
    #[arg(long, default_value_t = 60, value_name = "SECONDS")]
    seconds: u64,
    /// Checkouts a second; otherwise a search finds the rate
    #[arg(long, value_name = "RATE")]
    rate: Option<f64>,
    /// So many buyers instead, each of whom waits until their order is confirmed before the next one clicks
    #[arg(long, value_name = "N", conflicts_with_all = ["rate", "plots"], value_parser = clap::value_parser!(u32).range(1..))]
    buyers: Option<u32>,
    /// Length of each probe of the search
    #[arg(long, default_value = "10s", value_name = "DURATION")]
    probe: SignedDuration,
    /// Calls to the payment provider at the same time
    #[arg(long, default_value_t = CHARGE_CONCURRENCY, value_name = "N")]
    charge_concurrency: u32,
    /// Also writes the figures as JSON
    #[arg(long, value_name = "FILE")]
    out: Option<PathBuf>,
    /// Also draws plots into this folder
    #[arg(long, value_name = "DIR")]
    plots: Option<PathBuf>,
}

/// What is to be sustained, and how the rate is looked for.
#[derive(Debug, Clone)]
pub struct Options {
    pub length: Duration,
    pub rate: Option<f64>,
    pub probe: Duration,
    pub charge_concurrency: u32,
}

impl Options {
    pub fn new(length: Duration) -> Self {
        Self { length, rate: None, probe: Duration::from_secs(10).min(length), charge_concurrency: CHARGE_CONCURRENCY }
    }
}

/// A rate that was sustained, and the proof.
pub struct Sustained {
    pub machine: Machine,
    pub offered_per_s: f64,
    /// From the first click to the last confirmation.
    pub confirmed_per_s: f64,
    pub orders: u32,
    pub lag: Duration,
    /// Processor time an order, in µs.
    pub cost: Cost,
    pub claims: OpenResult,
    /// Seconds and orders confirmed by then.
    pub confirmed: Vec<(f64, f64)>,
    pub verified: Verified,
}

/// Who has used how much of the processors; µs an order.
#[derive(Debug, Clone, Copy, Default, serde::Serialize)]
pub struct Cost {
    /// Gateway and workers.
    pub server_us: f64,
    pub redis_us: f64,
    pub postgres_us: f64,
    pub generator_and_provider_us: f64,
}

impl Sub for Cost {
    type Output = Self;

    fn sub(self, before: Self) -> Self {
        Self {
            server_us: self.server_us - before.server_us,
            redis_us: self.redis_us - before.redis_us,
            postgres_us: self.postgres_us - before.postgres_us,
            generator_and_provider_us: self.generator_and_provider_us - before.generator_and_provider_us,
        }
    }
}

impl Cost {
    pub(crate) fn times(self, factor: f64) -> Self {
        Self {
            server_us: self.server_us * factor,
            redis_us: self.redis_us * factor,
            postgres_us: self.postgres_us * factor,
            generator_and_provider_us: self.generator_and_provider_us * factor,
        }
    }

    pub(crate) fn each(self, orders: f64) -> Self {
        self.times(1.0 / orders)
    }
}

pub async fn run(arguments: CheckoutArguments) -> anyhow::Result<()> {
    if let Some(buyers) = arguments.buyers {
        let waited = waiting::run(buyers, Duration::from_secs(arguments.seconds)).await?;
        waited.print();
        return arguments.out.as_ref().map_or(Ok(()), |path| output::write_json(path, &waited.json()));
    }
    let options = Options {
        length: Duration::from_secs(arguments.seconds),
        rate: arguments.rate,
        probe: Duration::try_from(arguments.probe)?,
        charge_concurrency: arguments.charge_concurrency,
    };
    let stage = Stage::start(std::env::current_exe()?).await?;
    let sustained = find_and_sustain(&stage, &options).await?;
    drop(stage);
    output::print(sustained.machine.sentence());
    sustained.print();
    if let Some(path) = &arguments.out {
        output::write_json(path, &sustained.json())?;
    }
    if let Some(folder) = &arguments.plots {
        output::draw_tally(folder, "checkout", &sustained.claims.tally)?;
        let confirmed = Series { name: "orders confirmed".to_owned(), points: sustained.confirmed.clone() };
        let path = folder.join("checkout-confirmed.svg");
        output::draw(&path, "Orders confirmed", Axis::Plain("seconds"), Axis::Plain("orders"), &[confirmed])?;
    }
    if sustained.verified.is_clean() { Ok(()) } else { bail!("the audit is not clean") }
}

/// Looks for the rate on `search`, whose drops and orders stay, and sustains it on stores of its own.
pub async fn find_and_sustain(search: &Stage, options: &Options) -> anyhow::Result<Sustained> {
    let mut rate = match options.rate {
        Some(rate) => rate,
        None => find(search, options).await?,
    };
    loop {
        let stage = Stage::start(std::env::current_exe()?).await?;
        let done = sell(&stage, rate, options.length, options.charge_concurrency, true).await?;
        if options.rate.is_none() && !done.is_sustained() && rate > 10.0 {
            let behind = done.lag().as_secs_f64();
            output::print(format!("{rate:.0} a second were not sustained: {behind:.1} s behind"));
            rate /= STEP;
            continue;
        }
        return done.sustained(&stage, rate).await;
    }
}

/// First what a heap of orders takes, then up or down from there in large steps, until the rate lies between two that are near.
async fn find(stage: &Stage, options: &Options) -> anyhow::Result<f64> {
    let bar = output::bar(u64::from(SEARCH_STEPS) + 1, "looking for the rate");
    // All of them at once: what is behind is worked off as fast as it goes.
    let at_once = Duration::from_secs(1).min(options.probe);
    let heap = f64::from(FIRST_ORDERS) / 10.0 * options.probe.as_secs_f64().min(10.0) / at_once.as_secs_f64();
    let first = sell(stage, heap, at_once, options.charge_concurrency, false).await?;
    let mut rate = f64::from(first.orders) / first.last.as_secs_f64();
    bar.inc(1);
    let (mut sustained, mut too_much) = (None, None);
    for _ in 0..SEARCH_STEPS {
        bar.set_message(format!("{rate:.0} a second"));
        let is_sustained = sell(stage, rate, options.probe, options.charge_concurrency, false).await?.is_sustained();
        bar.inc(1);
        *(if is_sustained { &mut sustained } else { &mut too_much }) = Some(rate);
        rate = match (sustained, too_much) {
            (Some(sustained), Some(too_much)) if too_much / sustained < STEP => break,
            (Some(sustained), Some(too_much)) => (sustained * too_much).sqrt(),
            _ if is_sustained => rate * FIRST_STEP,
            _ => rate / FIRST_STEP,
        };
    }
    bar.finish_and_clear();
    Ok(sustained.unwrap_or(rate))
}

/// One sale, all of whose orders are confirmed.
struct Sold {
    /// Buyers who clicked, each of whom was to have an order.
    clicks: u32,
    orders: u32,
    length: Duration,
    /// When the last order was confirmed.
    last: Duration,
    confirmed: Vec<(f64, f64)>,
    claims: OpenResult,
    cost: Cost,
    drop: doorbuster_engine::domain::drops::SaleDrop,
    provider: FakeProvider,
}

async fn sell(stage: &Stage, rate: f64, length: Duration, concurrency: u32, keeps_log: bool) -> anyhow::Result<Sold> {
    let scenario = Scenario::plain(Schedule::constant(rate, length), vec!["only".to_owned()]);
    let (plan, clicks) = scenario.plan();
    // Two calls an order, and the pages of the audit.
    let provider = FakeProvider::start(FakeProviderOptions::bench(3 * u64::from(clicks) + 10_000)).await?;
    let server = stage.serve_with_workers(&provider, concurrency).await?;
    let drop = stage.open_drop(clicks, WAREHOUSES).await?;
    let buyers = stage.buyers(clicks);
    stage.save_profiles(&buyers).await?;
    let run = OpenRun {
        address: server.address,
        drops: vec![server.paths(&drop)],
        buyers,
        plan,
        connections: CONNECTIONS,
        threads: 1,
        answer_timeout: GRACE,
        grace: GRACE,
        keeps_log,
        ended: Arc::new(AtomicU64::new(0)),
    };
    let used = || {
        let pids = (server.pid(), stage.redis.pid(), stage.postgres.pid());
        [
            machine::cpu_of(pids.0),
            machine::cpu_of(pids.1),
            machine::cpu_of_family(pids.2),
            machine::cpu_of(Some(std::process::id())),
        ]
    };
    let (before, began) = (used(), Instant::now());
    let mut running = tokio::task::spawn_blocking(move || run.run());
    const STATES: &str = "select string_agg(format('%s %s %s', n, status, state), ', ') from (
            select count(*) as n, o.status, p.state from orders o
            join payments p using (order_id) join order_items i using (order_id)
            where i.product_id = $1 and o.status <> 'CONFIRMED' group by 2, 3) groups";
    // A paid unit has left the stock.
    const SOLD: &str = "select $2 - sum(quantity_available) from inventory where product_id = $1";
    let (mut confirmed, mut claims, mut orders) = (vec![(0.0, 0.0)], None, clicks);
    let last = loop {
        tokio::select! {
            () = tokio::time::sleep(LOOK_EVERY) => {}
            ended = &mut running, if claims.is_none() => {
                // Who was told to come again has no order.
                let ended = claims.insert(ended??);
                orders = ended.tally.count(Outcome::Ok).try_into()?;
            }
        }
        let row = stage.sql.query_one(SOLD, &[&drop.product_id, &i64::from(clicks.max(WAREHOUSES))]).await?;
        let (sold, at) = (row.get::<_, i64>(0), began.elapsed());
        confirmed.push((at.as_secs_f64(), sold as f64));
        if sold >= i64::from(orders) {
            break at;
        }
        if at > length + GRACE {
            let states = stage.sql.query_one(STATES, &[&drop.product_id]).await?.get::<_, Option<String>>(0);
            bail!(
                "{} of {orders} orders were not confirmed within {GRACE:?} after the last click: {}; the server's last warnings:\n{}",
                i64::from(orders) - sold,
                states.unwrap_or_default(),
                server.warnings()?
            );
        }
    };
    let after = used();
    let warnings = server.warnings()?;
    if !warnings.is_empty() {
        output::print(format!("all orders are confirmed, and the server has warned:\n{warnings}"));
    }
    let claims = match claims {
        Some(claims) => claims,
        None => running.await??,
    };
    let each_us = |index: usize| (after[index] - before[index]).as_secs_f64() * 1e6 / f64::from(orders);
    let cost = Cost {
        server_us: each_us(0),
        redis_us: each_us(1),
        postgres_us: each_us(2),
        generator_and_provider_us: each_us(3),
    };
    Ok(Sold { clicks, orders, length, last, confirmed, claims, cost, drop, provider })
}

impl Sold {
    fn lag(&self) -> Duration {
        self.last.saturating_sub(self.length)
    }

    fn is_sustained(&self) -> bool {
        self.lag() <= LAG_MAX
            && self.orders == self.clicks
            && self.claims.tally.count(Outcome::Ok) == u64::from(self.orders)
    }

    async fn sustained(self, stage: &Stage, rate: f64) -> anyhow::Result<Sustained> {
        let client = ProviderClient::new(ProviderSettings {
            base_url: self.provider.url().to_owned(),
            secret_key: self.provider.secret_key().to_owned().into(),
            connect_timeout: Duration::from_secs(3),
            answer_timeout: Duration::from_secs(60),
        })?
        .limited_to(RateLimit::NONE);
        // Grants and marks of settlement may still be under way for a moment.
        let log = self.claims.logs.first().context("the log was kept")?;
        let mut verified =
            verify::verify(&stage.engine, &client, &self.drop.name, log, self.provider.captures()).await?;
        let deadline = Instant::now() + LAG_MAX;
        while !verified.is_clean() && Instant::now() < deadline {
            verified = verify::verify(&stage.engine, &client, &self.drop.name, log, self.provider.captures()).await?;
        }
        Ok(Sustained {
            machine: Machine::look(stage.folder(), stage.redis.version(), stage.postgres.version())?,
            offered_per_s: rate,
            confirmed_per_s: f64::from(self.orders) / self.last.as_secs_f64(),
            orders: self.orders,
            lag: self.lag(),
            cost: self.cost,
            claims: self.claims,
            confirmed: self.confirmed,
            verified,
        })
    }
}

impl Sustained {
    pub fn print(&self) {
        output::print(format!(
            "{:.0} checkouts a second offered, {:.0} a second confirmed, {} orders; the last one {:.1} s after the last click",
            self.offered_per_s,
            self.confirmed_per_s,
            self.orders,
            self.lag.as_secs_f64()
        ));
        let claims = Percentiles::of(&self.claims.tally.latency_us);
        output::print(format!("claims answered: p50 {:.1} ms, p99 {:.1} ms", claims.p50_ms, claims.p99_ms));
        let Cost { server_us, redis_us, postgres_us, generator_and_provider_us } = self.cost;
        let mut table = Table::new(&["processor time of one checkout", "µs"]);
        let lines = [
            ("gateway and workers", server_us),
            ("Redis", redis_us),
            ("Postgres", postgres_us),
            ("generator and payment provider", generator_and_provider_us),
            ("all", server_us + redis_us + postgres_us + generator_and_provider_us),
        ];
        for (name, us) in lines {
            table.row([name.to_owned(), format!("{us:.0}")]);
        }
        output::print(table.to_string());
        self.verified.print();
    }

    fn json(&self) -> serde_json::Value {
        let figure = output::Figure::of(&[self.confirmed_per_s]);
        serde_json::json!({
            "machine": self.machine,
            "figures": { "checkouts_per_s": figure },
            "offered_per_s": self.offered_per_s,
            "orders": self.orders,
            "lag_s": self.lag.as_secs_f64(),
            "cost": self.cost,
            "claims": Percentiles::of(&self.claims.tally.latency_us),
            "is_clean": self.verified.is_clean(),
            "verdict": self.verified.verdict,
        })
    }
}
