//! Who serves and works: this process, or for `--chaos` two processes of their own that can be killed.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use anyhow::Context as _;
use doorbuster_engine::domain::ids::DropName;
use doorbuster_sandbox::provider::FakeProvider;
use doorbuster_sandbox::{Process, ProcessOptions, Sandbox, SandboxError};
use jiff::SignedDuration;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::sale::{MAIL_FROM, RECEIPT_KEYS};
use crate::{RunningGateway, telemetry};

const LISTEN: &str = "DOORBUSTER_LISTEN";
const OPS_LISTEN: &str = "DOORBUSTER_OPS_LISTEN";
/// What a killed worker had leased waits so long. Above what its slowest payment takes: three calls to a provider that
/// answers within 150 ms, behind fifteen others on a busy machine. Mails take less.
const CHARGE_LEASE: SignedDuration = SignedDuration::from_secs(8);
/// Reading `/metrics` on loopback takes milliseconds.
const METRICS_DEADLINE: Duration = Duration::from_secs(2);

pub enum Shop {
    Here(Box<RunningGateway>),
    Apart(Box<Processes>),
}

/// Gateway and worker, each a process of its own: this program, started again.
pub struct Processes {
    pub gateway: Process,
    pub worker: Process,
    /// What the workers that were killed had settled.
    before: Mutex<Settled>,
    /// Boards that the gateways which were killed had read.
    boards_before: AtomicU64,
}

/// Claims settled, and the time that took.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Settled {
    claims: f64,
    seconds: f64,
}

/// What both processes are told.
pub(super) struct Stores<'a> {
    pub(super) redis_url: String,
    pub(super) database_url: &'a str,
    pub(super) jwt_secret: &'a str,
    pub(super) smtp_url: String,
    /// Where the rounds are to be had that decide draws.
    pub(super) beacon_url: Option<String>,
}

impl Shop {
    pub fn public_addr(&self) -> SocketAddr {
        match self {
            Self::Here(gateway) => gateway.public_addr,
            Self::Apart(processes) => processes.gateway.address(LISTEN),
        }
    }

    pub fn ops_addr(&self) -> SocketAddr {
        match self {
            Self::Here(gateway) => gateway.ops_addr,
            Self::Apart(processes) => processes.gateway.address(OPS_LISTEN),
        }
    }

    /// Stops in order. `false`: something had to be cut off.
    pub async fn stop(self) -> bool {
        match self {
            Self::Here(gateway) => gateway.stop().await,
            Self::Apart(processes) => {
                let stopped = [processes.gateway.stop().await, processes.worker.stop().await];
                stopped.into_iter().all(|stopped| stopped.inspect_err(|error| tracing::warn!("{error}")).is_ok())
            }
        }
    }

    /// How often a gateway has read the board of this drop's line from Postgres.
    pub(super) async fn board_reads(&self, drop: &DropName) -> anyhow::Result<u64> {
        match self {
            Self::Here(_) => Ok(board_reads(&telemetry::recorder().render(), drop)),
            Self::Apart(processes) => {
                let metrics = read_metrics(processes.gateway.address(OPS_LISTEN)).await?;
                Ok(processes.boards_before.load(Ordering::Relaxed) + board_reads(&metrics, drop))
            }
        }
    }

    /// `None` if nothing was settled, or nobody answers who could say how fast.
    pub(super) async fn settled_per_s(&self) -> Option<f64> {
        match self {
            Self::Here(_) => Settled::read(&telemetry::recorder().render()).per_s(),
            Self::Apart(processes) => processes.settled().await.per_s(),
        }
    }
}

impl Processes {
    pub(super) async fn start(
        sandbox: &Sandbox,
        stores: &Stores<'_>,
        provider: &FakeProvider,
        settle_every: SignedDuration,
        charge_concurrency: u32,
    ) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("this program does not know where it lies")?;
        let process = |listener, command| {
            ProcessOptions::new(&program, listener)
                .argument(command)
                .variable("DOORBUSTER_REDIS_URL", &stores.redis_url)
                .variable("DOORBUSTER_DATABASE_URL", stores.database_url)
        };
        let serve = process(LISTEN, "serve")
            .variable("DOORBUSTER_JWT_SECRET", stores.jwt_secret)
            .variable("DOORBUSTER_RECEIPT_KEYS", RECEIPT_KEYS)
            .listener(OPS_LISTEN);
        let work = process(OPS_LISTEN, "work")
            .variable("DOORBUSTER_PROVIDER_URL", provider.url())
            .variable("DOORBUSTER_PROVIDER_KEY", provider.secret_key())
            // This provider lives on loopback and has no limit.
            .variable("DOORBUSTER_PROVIDER_RATE", "100000")
            .variable("DOORBUSTER_PROVIDER_BURST", "100000")
            .variable("DOORBUSTER_SETTLE_EVERY", settle_every.to_string())
            .variable("DOORBUSTER_CHARGE_CONCURRENCY", charge_concurrency.to_string())
            .variable("DOORBUSTER_CHARGE_LEASE", CHARGE_LEASE.to_string())
            .variable("DOORBUSTER_SMTP_URL", &stores.smtp_url)
            .variable("DOORBUSTER_MAIL_FROM", MAIL_FROM)
            .variable("DOORBUSTER_OUTBOX_LEASE", CHARGE_LEASE.to_string());
        let work = match &stores.beacon_url {
            Some(url) => work.variable("DOORBUSTER_BEACON_URLS", url),
            None => work,
        };
        let start = async |name, options| sandbox.process(name, options).await.with_context(|| format!("the {name}"));
        let (gateway, worker) = tokio::try_join!(start("gateway", serve), start("worker", work))?;
        Ok(Self { gateway, worker, before: Mutex::default(), boards_before: AtomicU64::default() })
    }

    /// Kills the gateway, after asking it how often it has read the board of a line.
    pub(super) async fn kill_gateway(&self, drop: &DropName) {
        let metrics = read_metrics(self.gateway.address(OPS_LISTEN)).await.unwrap_or_default();
        self.gateway.kill();
        self.boards_before.fetch_add(board_reads(&metrics, drop), Ordering::Relaxed);
    }

    /// Kills the worker, after asking it for its figures, which go with it.
    pub(super) async fn kill_worker(&self) {
        let settled = self.settled().await;
        self.worker.kill();
        *self.lock() = settled;
    }

    pub(super) async fn restart_worker(&self) -> Result<(), SandboxError> {
        self.worker.restart().await
    }

    /// Calls to the provider to which the present worker got no answer.
    pub(super) async fn provider_calls_failed(&self) -> u64 {
        let metrics = self.worker_metrics().await.unwrap_or_default();
        let calls = metrics.lines().filter_map(|line| line.strip_prefix("doorbuster_provider_calls_total{"));
        let failed = calls.filter_map(|line| {
            let (labels, count) = line.rsplit_once("} ")?;
            let is_failed = labels.contains(r#"outcome="unknown""#) || labels.contains(r#"outcome="not_sent""#);
            is_failed.then(|| count.parse::<u64>().ok())?
        });
        failed.sum()
    }

    /// Of all workers together.
    async fn settled(&self) -> Settled {
        let now = self.worker_metrics().await.map(|metrics| Settled::read(&metrics)).unwrap_or_default();
        let before = *self.lock();
        Settled { claims: before.claims + now.claims, seconds: before.seconds + now.seconds }
    }

    async fn worker_metrics(&self) -> anyhow::Result<String> {
        read_metrics(self.worker.address(OPS_LISTEN)).await
    }

    fn lock(&self) -> MutexGuard<'_, Settled> {
        self.before.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Copies the logs to a folder that stays; gives its path.
    pub(super) fn keep_logs(&self, sandbox: &Path) -> std::io::Result<PathBuf> {
        let kept = sandbox.with_extension("logs");
        std::fs::create_dir_all(&kept)?;
        for (name, log) in [("gateway", self.gateway.log()), ("worker", self.worker.log())] {
            std::fs::copy(log, kept.join(name).with_extension("log"))?;
        }
        for server in ["redis-1", "postgres-1"] {
            std::fs::copy(sandbox.join(server).join("server.log"), kept.join(server).with_extension("log"))?;
        }
        Ok(kept)
    }
}

impl Settled {
    fn read(metrics: &str) -> Self {
        let reading = |name: &str| reading(metrics, name).unwrap_or_default();
        Self { claims: reading("doorbuster_settled_claims_total"), seconds: reading("doorbuster_settle_seconds_sum") }
    }

    fn per_s(self) -> Option<f64> {
        (self.seconds > 0.0).then(|| self.claims / self.seconds)
    }
}

async fn read_metrics(address: SocketAddr) -> anyhow::Result<String> {
    let read = async {
        let mut stream = TcpStream::connect(address).await?;
        let request = format!("GET /metrics HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        anyhow::Ok(answer)
    };
    tokio::time::timeout(METRICS_DEADLINE, read).await?
}

/// None, if nobody has looked yet.
fn board_reads(metrics: &str, drop: &DropName) -> u64 {
    let name = format!("doorbuster_line_board_reads_total{{drop=\"{drop}\"}}");
    reading(metrics, &name).map_or(0, |reads| reads as u64)
}

/// Of a metric with these labels.
fn reading(metrics: &str, name: &str) -> Option<f64> {
    let value = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    value.and_then(|value| value.trim().parse().ok())
}
