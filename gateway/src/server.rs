//! Listeners, and the order in which everything starts and stops.
//!
//! Stopping: readiness fails, a wait for load balancers to look away, the port closes, requests in flight are answered,
//! claims under way end, then the workers finish their step and settle once more; the operators' listener goes last. Every
//! one of these waits is bounded, and all of them together by [`STOP_DEADLINE`].

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use doorbuster_engine::flows::Engine;
use doorbuster_engine::provider::ProviderClient;
use doorbuster_engine::workers::{self, WorkerSettings};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio_io_timeout::TimeoutStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use crate::config::{GatewayConfig, Limits};
use crate::files;
use crate::operators::Operators;
use crate::places::{CONNECTIONS, Doing, Place, Places, Sharing};
use crate::routes::{self, ops};
use crate::state::{Gate, GateState};
use crate::telemetry;

/// Everything is over in this time, as most supervisors expect, the wait for load balancers with it.
const STOP_DEADLINE: Duration = Duration::from_secs(28);
/// What is left of it after a long wait: for the requests in flight, and for workers to finish their step.
const STOP_DEADLINE_MIN: Duration = Duration::from_secs(15);
/// Requests in flight when the port closes: longer than the longest request.
const DRAIN_DEADLINE: Duration = Duration::from_secs(12);
/// Connections that wait to be accepted: the kernel cuts this to net.core.somaxconn, 4096 on Linux.
const BACKLOG: u32 = 4096;
/// Operators, probes and scrapes: they must not be kept out by buyers, nor take what is reserved for the stores.
const OPERATORS_CONNECTIONS: usize = 32;
/// A client that takes no byte of its answer for so long is cut off; it would keep its place among the connections.
const WRITE_DEADLINE: Duration = Duration::from_secs(10);
/// Our largest header is a token of some hundred bytes.
const HEADER_BYTES_MAX: usize = 16 * 1024;
/// After an error of `accept`, which is mostly "too many open files".
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What the workers of this process need.
#[derive(Debug, Clone)]
pub struct Workers {
    pub provider: ProviderClient,
    pub settings: WorkerSettings,
}

pub struct Gateway;

/// A gateway, or a lone worker, that runs. Dropping it stops it without waiting; [`Self::stop`] is the good way.
pub struct RunningGateway {
    /// Where the API is; the operators' address for a lone worker, which has no API.
    pub public_addr: SocketAddr,
    pub ops_addr: SocketAddr,
    stop_wait: Duration,
    gate: Option<Gate>,
    /// Readiness fails.
    stopping: CancellationToken,
    /// The public port closes.
    public: Listening,
    /// The workers end.
    work: CancellationToken,
    workers: TaskTracker,
    ops: Listening,
}

/// Starts a gateway, with workers if they are given. See [`Gateway::start`].
pub async fn serve(config: GatewayConfig, engine: Engine, workers: Option<Workers>) -> anyhow::Result<RunningGateway> {
    Gateway::start(config, engine, workers).await
}

impl Gateway {
    /// Opens both listeners and starts the workers, if they are given. The schema must be up to date.
    pub async fn start(
        config: GatewayConfig,
        engine: Engine,
        workers: Option<Workers>,
    ) -> anyhow::Result<RunningGateway> {
        telemetry::recorder();
        let gate = Arc::new(GateState::new(&config, engine.clone()));
        let public = listen(config.listen).context("the public listener")?;
        let public_addr = public.local_addr()?;
        // Workers have connections to Postgres of their own: a crowd of buyers keeps no order from being made or
        // charged.
        let workers = match workers {
            Some(workers) => {
                let mut engine = engine.clone();
                engine.ledger = engine.ledger.with_own_pool(config.worker_connections)?;
                Some((engine, workers))
            }
            None => None,
        };
        let pools = config.pool_connections + workers.as_ref().map_or(0, |_| config.worker_connections);
        let places = Places::new(files::places(config.sharing.connections, pools), &config.sharing);
        let operators = OperatorsPort {
            listen: config.ops_listen,
            operators: config.operators.clone(),
            limits: config.limits,
            places: Some(Arc::clone(&places)),
        };
        let mut running = start(operators, engine, workers)?;
        let router = routes::public(Arc::clone(&gate), &config);
        running.public = Listening::start(public, router, places, config.limits);
        (running.public_addr, running.stop_wait, running.gate) = (public_addr, config.stop_wait, Some(gate));
        tracing::info!(%public_addr, ops_addr = %running.ops_addr, "serving on http://{public_addr}");
        Ok(running)
    }

    /// Starts workers alone, with the operators' listener.
    pub async fn start_workers(
        ops_listen: SocketAddr,
        engine: Engine,
        workers: Workers,
    ) -> anyhow::Result<RunningGateway> {
        telemetry::recorder();
        let operators = OperatorsPort {
            listen: ops_listen,
            operators: Operators::default(),
            limits: Limits::default(),
            places: None,
        };
        let running = start(operators, engine.clone(), Some((engine, workers)))?;
        tracing::info!(ops_addr = %running.ops_addr, "working; operators find http://{}/readyz", running.ops_addr);
        Ok(running)
    }
}

/// A router on a port of its own, served as the API is. Dropping it stops it.
pub struct ServedRouter {
    pub addr: SocketAddr,
    _listening: Listening,
}

/// Serves another router than the gateway's, with the same listener, bounds and deadlines.
pub fn serve_router(address: SocketAddr, router: Router) -> anyhow::Result<ServedRouter> {
    let listener = listen(address)?;
    let addr = listener.local_addr()?;
    let places = Places::new(CONNECTIONS, &Sharing::default());
    Ok(ServedRouter { addr, _listening: Listening::start(listener, router, places, Limits::default()) })
}

/// What the operators' listener is made of.
struct OperatorsPort {
    listen: SocketAddr,
    operators: Operators,
    limits: Limits,
    /// Of the public listener, whose crowd they want to know of; a lone worker has none.
    places: Option<Arc<Places>>,
}

fn start(port: OperatorsPort, engine: Engine, workers: Option<(Engine, Workers)>) -> anyhow::Result<RunningGateway> {
    let OperatorsPort { listen: address, operators, limits, places } = port;
    let ops_listener = listen(address).with_context(|| {
        "the operators' listener: each process needs one of its own; where `serve` and `work` have one environment, \
         give DOORBUSTER_OPS_LISTEN to neither, or --ops-listen to one"
    })?;
    let ops_addr = ops_listener.local_addr()?;
    let stopping = CancellationToken::new();
    let work = CancellationToken::new();
    let tasks = TaskTracker::new();
    tasks.spawn(telemetry::keep_up(work.clone()));
    tasks.spawn(workers::look_after_answers(engine.clone(), work.clone()));
    if let Some((engine, Workers { provider, settings })) = workers {
        tasks.spawn(workers::run(engine, provider, settings, work.clone()));
    }
    tasks.close();
    let ops = ops::Ops { engine, stopping: stopping.clone(), operators, limits, places };
    let ops = Listening::start(ops_listener, ops::router(ops), Places::unshared(OPERATORS_CONNECTIONS), limits);
    Ok(RunningGateway {
        public_addr: ops_addr,
        ops_addr,
        stop_wait: Duration::ZERO,
        gate: None,
        stopping,
        public: Listening::nothing(),
        work,
        workers: tasks,
        ops,
    })
}

impl RunningGateway {
    /// Stops in order. `false`: something did not end in time and was cut off.
    pub async fn stop(self) -> bool {
        self.stopping.cancel();
        tracing::info!("stopping: readiness fails, then the port closes");
        tokio::time::sleep(self.stop_wait).await;
        let ending = tokio::time::timeout(STOP_DEADLINE.saturating_sub(self.stop_wait).max(STOP_DEADLINE_MIN), async {
            let is_drained = self.public.stop(DRAIN_DEADLINE).await;
            if let Some(gate) = &self.gate {
                // Nobody waits for these any more, but what they take must be in the log before the last settlement.
                gate.claims.close();
                gate.claims.wait().await;
            }
            self.work.cancel();
            self.workers.wait().await;
            is_drained
        });
        let is_clean = ending.await.unwrap_or(false);
        self.ops.stop(Duration::from_millis(500)).await;
        if is_clean {
            tracing::info!("stopped");
        } else {
            tracing::warn!("stopped, but not everything ended in time");
        }
        is_clean
    }
}

impl Drop for RunningGateway {
    fn drop(&mut self) {
        self.stopping.cancel();
        self.work.cancel();
    }
}

/// One port and its connections.
struct Listening {
    /// No more connections, and the open ones close after the request they are in.
    close: CancellationToken,
    /// The open ones are cut.
    cut: CancellationToken,
    tasks: TaskTracker,
}

impl Listening {
    fn nothing() -> Self {
        let listening =
            Self { close: CancellationToken::new(), cut: CancellationToken::new(), tasks: TaskTracker::new() };
        listening.tasks.close();
        listening
    }

    fn start(listener: TcpListener, router: Router, places: Arc<Places>, limits: Limits) -> Self {
        let listening =
            Self { close: CancellationToken::new(), cut: CancellationToken::new(), tasks: TaskTracker::new() };
        let (close, cut) = (listening.close.clone(), listening.cut.clone());
        let port = Port { router, places, limits, close, cut };
        listening.tasks.spawn(accept(listener, port, listening.tasks.clone()));
        listening
    }

    async fn stop(&self, patience: Duration) -> bool {
        self.close.cancel();
        self.tasks.close();
        let is_drained = tokio::time::timeout(patience, self.tasks.wait()).await.is_ok();
        self.cut.cancel();
        is_drained
    }
}

impl Drop for Listening {
    fn drop(&mut self) {
        self.close.cancel();
        self.cut.cancel();
    }
}

fn listen(address: SocketAddr) -> anyhow::Result<TcpListener> {
    let open = || {
        let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
        // A restart must not wait for the old process's connections to be forgotten.
        socket.set_reuseaddr(true)?;
        socket.bind(address)?;
        socket.listen(BACKLOG)
    };
    open().with_context(|| format!("cannot listen on {address}"))
}

/// What the connections of a port share.
#[derive(Clone)]
struct Port {
    router: Router,
    places: Arc<Places>,
    limits: Limits,
    close: CancellationToken,
    cut: CancellationToken,
}

async fn accept(listener: TcpListener, port: Port, tasks: TaskTracker) {
    loop {
        let next = async {
            let free = port.places.free().await;
            (listener.accept().await, free)
        };
        let Some((accepted, free)) = port.close.run_until_cancelled(next).await else { return };
        match accepted {
            Ok((stream, peer)) => {
                // Who has their share already is hung up on: an answer would cost us what they are after.
                let Some(place) = port.places.take(free, peer.ip(), Instant::now()) else { continue };
                let connection = connection(stream, place, port.clone());
                let cut = port.cut.clone();
                tasks.spawn(async move { cut.run_until_cancelled(connection).await });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, place: Place, port: Port) {
    metrics::counter!("doorbuster_connections_total").increment(1);
    let gauge = metrics::gauge!("doorbuster_connections_open");
    gauge.increment(1.0);
    // A small answer must not wait for the acknowledgement of the one before it. Fails only when the peer is gone.
    let _ = stream.set_nodelay(true);
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(WRITE_DEADLINE));
    let stream = Box::pin(stream);
    let (router, open) = (port.router, Arc::clone(place.open()));
    let service = service_fn(move |request: Request<Incoming>| {
        let (router, open) = (router.clone(), Arc::clone(&open));
        async move {
            open.now_does(Doing::Request);
            let answer = router.oneshot(request.map(Body::new)).await;
            open.now_does(Doing::NothingSince(Instant::now()));
            Ok::<_, Infallible>(answer.unwrap_or_else(|never| match never {}))
        }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(port.limits.keep_alive).max_buf_size(HEADER_BYTES_MAX);
    let mut serving = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
    let useless = async {
        let mut first_header = std::pin::pin!(tokio::time::sleep(port.limits.first_header));
        loop {
            tokio::select! {
                () = &mut first_header, if !first_header.is_elapsed() => {
                    if matches!(place.open().doing(), Doing::NothingYet(_)) {
                        return;
                    }
                }
                () = place.open().wanted() => {
                    if place.open().doing() != Doing::Request {
                        return;
                    }
                }
            }
        }
    };
    let ended = tokio::select! {
        ended = serving.as_mut() => ended,
        // A request that begins at this very moment is lost with it, as on every idle connection that is closed.
        () = useless => Ok(()),
        () = port.close.cancelled() => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        // The client's side, always: it hung up, was too slow, or did not speak HTTP.
        tracing::debug!(%error, "a connection ended: {error}");
    }
    gauge.decrement(1.0);
}
