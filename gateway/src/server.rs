//! Listeners, and the order in which everything starts and stops.
//!
//! Stopping: readiness fails, a wait for load balancers to look away, the port closes, requests in flight are answered,
//! claims under way end, then the workers finish their step and settle once more; the operators' listener goes last. Every
//! one of these waits is bounded, and all of them together by [`STOP_DEADLINE`].

use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

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
use tokio::sync::Semaphore;
use tokio_io_timeout::TimeoutStream;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

use crate::config::{GatewayConfig, Limits};
use crate::operators::Operators;
use crate::routes::{self, ops};
use crate::state::{Gate, GateState};
use crate::telemetry;

/// After the wait for load balancers, everything is over in this time, as most supervisors expect.
const STOP_DEADLINE: Duration = Duration::from_secs(28);
/// Requests in flight when the port closes: longer than the longest request.
const DRAIN_DEADLINE: Duration = Duration::from_secs(12);
/// Connections that wait to be accepted: the kernel cuts this to net.core.somaxconn, 4096 on Linux.
const BACKLOG: u32 = 4096;
/// One connection costs some 20 KiB with its buffers: 200 MiB at most. Those on top wait in the backlog.
const CONNECTIONS: usize = 10_000;
/// From the end of one request to the end of the next one's header: bounds slow senders and idle connections alike.
const HEADER_DEADLINE: Duration = Duration::from_secs(15);
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
        let mut running = start(config.ops_listen, engine, workers, config.operators.clone(), config.limits)?;
        running.public = Listening::start(public, routes::public(Arc::clone(&gate), &config));
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
        let running = start(ops_listen, engine, Some(workers), Operators::default(), Limits::default())?;
        tracing::info!(ops_addr = %running.ops_addr, "working; operators find http://{}/readyz", running.ops_addr);
        Ok(running)
    }
}

/// A router on a port of its own, served as the API is. Dropping it stops it.
pub struct ServedRouter {
    pub addr: SocketAddr,
    listening: Listening,
}

impl ServedRouter {
    /// Closes the port, for whoever listens there next.
    pub async fn stop(self) {
        self.listening.stop(Duration::from_millis(500)).await;
    }
}

/// Serves another router than the gateway's, with the same listener, bounds and deadlines.
pub fn serve_router(address: SocketAddr, router: Router) -> anyhow::Result<ServedRouter> {
    let listener = listen(address)?;
    let addr = listener.local_addr()?;
    Ok(ServedRouter { addr, listening: Listening::start(listener, router) })
}

fn start(
    ops_listen: SocketAddr,
    engine: Engine,
    workers: Option<Workers>,
    operators: Operators,
    limits: Limits,
) -> anyhow::Result<RunningGateway> {
    let ops_listener = listen(ops_listen).context("the operators' listener")?;
    let ops_addr = ops_listener.local_addr()?;
    let stopping = CancellationToken::new();
    let work = CancellationToken::new();
    let tasks = TaskTracker::new();
    tasks.spawn(telemetry::keep_up(work.clone()));
    if let Some(Workers { provider, settings }) = workers {
        tasks.spawn(workers::run(engine.clone(), provider, settings, work.clone()));
    }
    tasks.close();
    let ops = ops::Ops { engine, stopping: stopping.clone(), operators, limits };
    let ops = Listening::start(ops_listener, ops::router(ops));
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
        let ending = tokio::time::timeout(STOP_DEADLINE, async {
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

    fn start(listener: TcpListener, router: Router) -> Self {
        let listening =
            Self { close: CancellationToken::new(), cut: CancellationToken::new(), tasks: TaskTracker::new() };
        let accepting =
            accept(listener, router, listening.close.clone(), listening.cut.clone(), listening.tasks.clone());
        listening.tasks.spawn(accepting);
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

async fn accept(
    listener: TcpListener,
    router: Router,
    close: CancellationToken,
    cut: CancellationToken,
    tasks: TaskTracker,
) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let next = async {
            let place = Arc::clone(&places).acquire_owned().await.expect("this semaphore is never closed");
            (listener.accept().await, place)
        };
        let Some((accepted, place)) = close.run_until_cancelled(next).await else { return };
        match accepted {
            Ok((stream, _)) => {
                let connection = connection(stream, router.clone(), close.clone());
                let cut = cut.clone();
                tasks.spawn(async move {
                    cut.run_until_cancelled(connection).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "a connection could not be accepted: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connection(stream: TcpStream, router: Router, close: CancellationToken) {
    metrics::counter!("doorbuster_connections_total").increment(1);
    let open = metrics::gauge!("doorbuster_connections_open");
    open.increment(1.0);
    // A small answer must not wait for the acknowledgement of the one before it. Fails only when the peer is gone.
    let _ = stream.set_nodelay(true);
    let mut stream = TimeoutStream::new(stream);
    stream.set_write_timeout(Some(WRITE_DEADLINE));
    let stream = Box::pin(stream);
    let service = service_fn(move |request: Request<Incoming>| {
        let router = router.clone();
        async move {
            Ok::<_, Infallible>(router.oneshot(request.map(Body::new)).await.unwrap_or_else(|never| match never {}))
        }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEADER_DEADLINE).max_buf_size(HEADER_BYTES_MAX);
    let mut serving = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
    let ended = match close.run_until_cancelled(serving.as_mut()).await {
        Some(ended) => ended,
        None => {
            serving.as_mut().graceful_shutdown();
            serving.await
        }
    };
    if let Err(error) = ended {
        // The client's side, always: it hung up, was too slow, or did not speak HTTP.
        tracing::debug!(%error, "a connection ended: {error}");
    }
    open.decrement(1.0);
}
