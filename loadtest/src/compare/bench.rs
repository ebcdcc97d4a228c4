//! Takes samples.

use std::collections::HashMap;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use doorbuster_engine::domain::drops::SaleDrop;
use doorbuster_sandbox::provider::{FakeProvider, FakeProviderOptions};

use super::probe::{FEW, MANY, Probe, WAREHOUSES};
use crate::generator::{
    Ask, Buyers, ClosedResult, ClosedRun, OpenRun, Outcome, Percentiles, Scenario, Schedule, Tally,
};
use crate::machine;
use crate::stage::{Fsync, Served, Stage};
use crate::ways::Way;

/// More than any way answers on the machines that this was written for: a sample that runs out of buyers ends early.
const RATE_MAX: u32 = 120_000;
const SQL_RATE_MAX: u32 = 12_000;
/// Buyers of a sample of settlement for each second of the others' samples. It ends when all of them have their order, some
/// ten times as late: the second until settlement looks at the first claims, and the one before the last, are a small part.
const SETTLED_RATE: u32 = 60_000;
/// Above this share of other answers a sample says nothing about what it was taken for.
const OTHERS_MAX: f64 = 0.02;
const SETTLED_WITHIN: Duration = Duration::from_secs(120);
const GRACE: Duration = Duration::from_secs(10);

pub(super) struct Bench<'a> {
    stage: &'a Stage,
    length: Duration,
    /// Of each way by number.
    servers: HashMap<(Way, usize), Served>,
    /// Claims a second, as last found.
    saturation: Option<f64>,
}

/// What one sample has seen. Processor times are µs a request.
#[derive(Clone)]
pub(super) struct Sample {
    /// What figures are made of: a rate, or the p99 in ms.
    pub(super) value: f64,
    pub(super) per_s: f64,
    pub(super) latency: Percentiles,
    pub(super) server_us: f64,
    pub(super) redis_us: f64,
    pub(super) postgres_us: f64,
    pub(super) generator_us: f64,
    pub(super) tally: Tally,
}

/// Processor time used so far.
#[derive(Clone, Copy, Default)]
struct Used {
    server: Duration,
    redis: Duration,
    postgres: Duration,
    generator: Duration,
}

/// Whose.
#[derive(Clone)]
struct Pids {
    servers: Vec<Option<u32>>,
    redis: Option<u32>,
    postgres: Option<u32>,
}

/// What a closed loop asks for, of whom, and which answer counts.
#[derive(Clone, Copy)]
struct Asking {
    way: Way,
    ask: Ask,
    gateways: usize,
    connections: usize,
    expected: Outcome,
}

impl Asking {
    fn of(way: Way, connections: usize) -> Self {
        Self { way, ask: Ask::Click, gateways: 1, connections, expected: Outcome::Ok }
    }
}

impl Pids {
    fn used(&self) -> Used {
        Used {
            server: self.servers.iter().map(|server| machine::cpu_of(*server)).sum(),
            redis: machine::cpu_of(self.redis),
            postgres: machine::cpu_of_family(self.postgres),
            generator: machine::cpu_of_thread(),
        }
    }
}

impl<'a> Bench<'a> {
    pub(super) fn new(stage: &'a Stage, length: Duration) -> Self {
        Self { stage, length, servers: HashMap::new(), saturation: None }
    }

    pub(super) async fn measure(&mut self, probe: Probe) -> anyhow::Result<Sample> {
        match probe {
            Probe::Claims { way, connections, fsync, warehouses, gateways } => {
                let rate_max = if way.is_sql() { SQL_RATE_MAX } else { RATE_MAX };
                let buyers = self.stage.buyers((self.whole_length().as_secs_f64() * f64::from(rate_max)) as u32);
                let drop = match way {
                    // Its units are rows.
                    Way::SkipLocked => self.stage.open_drop(buyers.len(), warehouses).await?,
                    _ => self.stage.open_drop_without_end(warehouses).await?,
                };
                if way.shelves().is_some() {
                    self.stage.save_profiles(&buyers).await?;
                    self.stage.put_on_shelves(&drop, way.rows(), buyers.len()).await?;
                }
                self.stage.set_fsync(fsync).await?;
                let asking = Asking { gateways, ..Asking::of(way, connections) };
                let sample = self.closed(asking, &drop, buyers).await;
                self.stage.forget(&drop).await?;
                self.stage.set_fsync(Fsync::Always).await?;
                let (sample, _) = sample?;
                let is_of_many = (way, connections, fsync, gateways) == (Way::Tokens, MANY, Fsync::Always, 1);
                if is_of_many && (warehouses == WAREHOUSES || self.saturation.is_none()) {
                    self.saturation = Some(sample.per_s);
                }
                Ok(sample)
            }
            Probe::Joins { gateways } => self.joins(gateways).await,
            Probe::Board => {
                let drop = self.stage.open_line().await?;
                let asking = Asking { ask: Ask::Board, ..Asking::of(Way::Tokens, MANY) };
                let sample = self.closed(asking, &drop, self.stage.buyers(1)).await;
                self.stage.forget(&drop).await?;
                Ok(sample?.0)
            }
            Probe::SoldOut => {
                // Sold in the warm-up: there are more connections than units.
                let drop = self.stage.open_drop(16, 16).await?;
                let buyers = self.stage.buyers((self.whole_length().as_secs_f64() * f64::from(RATE_MAX)) as u32);
                let asking = Asking { expected: Outcome::SoldOut, ..Asking::of(Way::Tokens, MANY) };
                let sample = self.closed(asking, &drop, buyers).await;
                self.stage.forget(&drop).await?;
                Ok(sample?.0)
            }
            Probe::Generator => {
                let drop = self.stage.open_drop(16, 16).await?;
                Ok(self.closed(Asking::of(Way::Ceiling, MANY), &drop, self.stage.buyers(1)).await?.0)
            }
            Probe::Wrk => self.wrk().await,
            Probe::HalfLoad { way, warehouses } => {
                let rate = self.saturation.context("the rate of claims has not been measured")? / 2.0;
                self.half_load(way, rate, warehouses).await
            }
            Probe::Settled => self.settled().await,
        }
    }

    fn warm_up(&self) -> Duration {
        self.length / 4
    }

    fn whole_length(&self) -> Duration {
        self.length + self.warm_up()
    }

    async fn server(&mut self, way: Way) -> anyhow::Result<&Served> {
        Ok(self.servers(way, 1).await?.remove(0))
    }

    /// So many servers of one way.
    async fn servers(&mut self, way: Way, count: usize) -> anyhow::Result<Vec<&Served>> {
        for number in 0..count {
            if !self.servers.contains_key(&(way, number)) {
                let served = self.stage.serve(way).await?;
                self.servers.insert((way, number), served);
            }
        }
        Ok((0..count).map(|number| &self.servers[&(way, number)]).collect())
    }

    fn pids(&self, servers: &[&Served]) -> Pids {
        Pids {
            servers: servers.iter().map(|server| server.pid()).collect(),
            redis: self.stage.redis.pid(),
            postgres: self.stage.postgres.pid(),
        }
    }

    /// A sample, and how many answers there were in all, warm-up included.
    async fn closed(&mut self, asking: Asking, drop: &SaleDrop, buyers: Arc<Buyers>) -> anyhow::Result<(Sample, u64)> {
        let (warm_up, length, Asking { way, ask, gateways, connections, expected }) =
            (self.warm_up(), self.length, asking);
        self.servers(way, gateways).await?;
        let servers = (0..gateways).map(|number| &self.servers[&(way, number)]).collect::<Vec<_>>();
        let run = ClosedRun {
            addresses: servers.iter().map(|server| server.address).collect(),
            drop: servers[0].paths(drop),
            ask,
            goes_round: buyers.len() == 1,
            buyers,
            connections,
            warm_up,
            length,
        };
        let pids = self.pids(&servers);
        let (result, used) = tokio::task::spawn_blocking(move || closed_run(run, pids)).await??;
        let sample = sample(&result.tally, result.elapsed, expected, used)?;
        Ok((Sample { value: sample.per_s, ..sample }, result.all))
    }

    /// Everybody joins one line. What counts is what is committed: there must be a row for each answer, and no other.
    async fn joins(&mut self, gateways: usize) -> anyhow::Result<Sample> {
        let drop = self.stage.open_line().await?;
        let buyers = self.stage.buyers((self.whole_length().as_secs_f64() * f64::from(RATE_MAX)) as u32);
        let asking = Asking { ask: Ask::Join, gateways, ..Asking::of(Way::Tokens, MANY) };
        let sample = self.closed(asking, &drop, buyers).await;
        let rows = self.stage.forget_line(&drop).await?;
        let (sample, answers) = sample?;
        ensure!(rows == answers, "{answers} joins were answered, and {rows} are committed");
        Ok(sample)
    }

    async fn half_load(&mut self, way: Way, rate: f64, warehouses: u32) -> anyhow::Result<Sample> {
        let drop = self.stage.open_drop_without_end(warehouses).await?;
        let skus = drop.variants.iter().map(|variant| variant.sku.clone()).collect();
        let (plan, count) = Scenario::plain(Schedule::constant(rate, self.whole_length()), skus).plan();
        let buyers = self.stage.buyers(count);
        let server = self.server(way).await?;
        let run = OpenRun {
            address: server.address,
            drops: vec![server.paths(&drop)],
            buyers,
            plan,
            connections: MANY,
            threads: 1,
            answer_timeout: GRACE,
            grace: GRACE,
            keeps_log: false,
            ended: Arc::new(AtomicU64::new(0)),
        };
        let pids = self.pids(&[&self.servers[&(way, 0)]]);
        let running = tokio::task::spawn_blocking(move || {
            let before = pids.used();
            let result = run.run()?;
            anyhow::Ok((result, before, pids.used()))
        });
        let (result, before, after) = running.await??;
        self.stage.forget(&drop).await?;
        let sample = sample(&result.tally, result.elapsed, Outcome::Ok, Used::between(before, after))?;
        Ok(Sample { value: sample.latency.p99_ms, generator_us: 0.0, ..sample })
    }

    /// The product with its workers, and no profiles: orders are made and wait for their payment.
    async fn settled(&mut self) -> anyhow::Result<Sample> {
        let count = (self.length.as_secs_f64() * f64::from(SETTLED_RATE)) as u32;
        let provider = FakeProvider::start(FakeProviderOptions::bench(1)).await?;
        let server = self.stage.serve_with_workers(&provider, 1).await?;
        let drop = self.stage.open_drop(count, WAREHOUSES).await?;
        let run = ClosedRun {
            addresses: vec![server.address],
            drop: server.paths(&drop),
            ask: Ask::Click,
            buyers: self.stage.buyers(count),
            connections: FEW,
            warm_up: Duration::ZERO,
            length: SETTLED_WITHIN,
            goes_round: false,
        };
        let pids = self.pids(&[&server]);
        let before = pids.used();
        let began = Instant::now();
        let of_run = pids.clone();
        let (result, _) = tokio::task::spawn_blocking(move || closed_run(run, of_run)).await??;
        const RESERVED: &str = "select sum(quantity_reserved) from inventory where product_id = $1";
        let settled = async || {
            let row = self.stage.sql.query_one(RESERVED, &[&drop.product_id]).await?;
            anyhow::Ok(row.get::<_, Option<i64>>(0).unwrap_or_default())
        };
        let taken = result.tally.count(Outcome::Ok);
        while settled().await? < taken.cast_signed() {
            ensure!(began.elapsed() < SETTLED_WITHIN, "not all of {taken} claims were settled");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let elapsed = began.elapsed();
        let used = Used::between(before, pids.used());
        self.stage.forget(&drop).await?;
        let sample = sample(&result.tally, elapsed, Outcome::Ok, used)?;
        Ok(Sample { value: sample.per_s, generator_us: 0.0, ..sample })
    }

    /// One buyer's request again and again, as wrk sends it fastest.
    async fn wrk(&mut self) -> anyhow::Result<Sample> {
        let drop = self.stage.open_drop(16, 16).await?;
        let buyers = self.stage.buyers(1);
        let token = String::from_utf8_lossy(buyers.token(0)).into_owned();
        let script = format!(
            "wrk.method = 'POST'\nwrk.body = '{{\"quantity\":1}}'\nwrk.headers['content-type'] = 'application/json'\n\
             wrk.headers['idempotency-key'] = 'first-click'\nwrk.headers['authorization'] = 'Bearer {token}'\n"
        );
        let path = self.stage.folder().join("wrk.lua");
        std::fs::write(&path, script)?;
        let seconds = self.whole_length().as_secs_f64().ceil().max(1.0);
        let address = self.server(Way::Ceiling).await?.address;
        let mut command = Command::new("wrk");
        command
            .args(["-t1", &format!("-c{MANY}"), &format!("-d{seconds}s"), "-s"])
            .arg(&path)
            .arg(format!("http://{address}/v1/drops/{}/claims", drop.name));
        let pids = self.pids(&[&self.servers[&(Way::Ceiling, 0)]]);
        let before = pids.used();
        let output = tokio::task::spawn_blocking(move || command.output()).await?;
        let output = output.context("wrk cannot be run: install it (apt-get install wrk)")?;
        let used = Used::between(before, pids.used());
        let text = String::from_utf8_lossy(&output.stdout);
        ensure!(output.status.success() && !text.contains("Non-2xx"), "wrk: {text}");
        let field = |name: &str| text.lines().find_map(|line| line.trim().strip_prefix(name)).map(str::trim);
        let per_s = field("Requests/sec:").and_then(|rate| rate.parse::<f64>().ok()).context("wrk gave no rate")?;
        let requests = per_s * seconds;
        Ok(Sample {
            value: per_s,
            per_s,
            latency: Percentiles::default(),
            server_us: used.server.as_secs_f64() * 1e6 / requests,
            redis_us: 0.0,
            postgres_us: 0.0,
            generator_us: 0.0,
            tally: Tally::default(),
        })
    }
}

/// An error if wrk is not on PATH.
pub(super) fn find_wrk() -> anyhow::Result<()> {
    let quiet = || std::process::Stdio::null();
    let started = std::process::Command::new("wrk").arg("-v").stdout(quiet()).stderr(quiet()).status();
    started
        .map(drop)
        .context("wrk is missing: install it (apt-get install wrk, or brew install wrk), or name figures with --only")
}

impl Used {
    fn between(before: Self, after: Self) -> Self {
        Self {
            server: after.server.saturating_sub(before.server),
            redis: after.redis.saturating_sub(before.redis),
            postgres: after.postgres.saturating_sub(before.postgres),
            generator: after.generator.saturating_sub(before.generator),
        }
    }
}

fn closed_run(run: ClosedRun, pids: Pids) -> anyhow::Result<(ClosedResult, Used)> {
    let mut used = Vec::new();
    let result = run.run(|| used.push(pids.used()))?;
    Ok((result, Used::between(used[0], used[1])))
}

fn sample(tally: &Tally, elapsed: Duration, expected: Outcome, used: Used) -> anyhow::Result<Sample> {
    let (count, total) = (tally.count(expected), tally.total());
    let others = total.saturating_sub(count) as f64 / total.max(1) as f64;
    ensure!(
        total > 0 && others <= OTHERS_MAX,
        "{:.1} % of {total} answers were not {:?}: {:?} {:?}",
        100.0 * others,
        expected.name(),
        tally.outcomes().collect::<Vec<_>>(),
        tally.sentences
    );
    let each_us = |used: Duration| used.as_secs_f64() * 1e6 / total as f64;
    let per_s = count as f64 / elapsed.as_secs_f64();
    Ok(Sample {
        value: per_s,
        per_s,
        latency: Percentiles::of(&tally.latency_us),
        server_us: each_us(used.server),
        redis_us: each_us(used.redis),
        postgres_us: each_us(used.postgres),
        generator_us: each_us(used.generator),
        tally: tally.clone(),
    })
}
