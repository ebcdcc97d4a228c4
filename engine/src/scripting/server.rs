//! The connection to one server: made on first use, made anew when it is lost, and never used to send anything twice.
//!
//! Whoever fails to connect is told so by an error of its own kind, "connection refused", whatever kept them from it:
//! an error of any other kind may mean that something was sent. That is why this is not the library's own manager,
//! which does not tell a connection that ended before the first command from one that ended behind it.

use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::{Duration, Instant};

use futures_util::FutureExt as _;
use futures_util::future::{BoxFuture, Shared};
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{
    AsyncConnectionConfig, Client, Cmd, ErrorKind, Pipeline, PushInfo, PushKind, RedisError, RedisFuture, RedisResult,
    ServerErrorKind, Value,
};

use super::connection::{ANSWER_DEADLINE, CONNECT_DEADLINE};

/// Tries to connect before whoever waits is told so; waiting for a server that restarts is their business.
const CONNECT_TRIES: u32 = 5;
/// The first wait between two tries, doubled each time.
const CONNECT_PAUSE: Duration = Duration::from_millis(20);
/// All tries together, so that a claim hears of it before its buyer stops waiting.
const CONNECT_ALL: Duration = Duration::from_secs(2);
/// A server that has become a replica is left so often, in case the address leads to another one by now.
const LEAVE_REPLICA_EVERY: Duration = Duration::from_secs(1);

type Connecting = Shared<BoxFuture<'static, RedisResult<MultiplexedConnection>>>;

/// Cheap to clone; all clones share one socket.
#[derive(Clone)]
pub(crate) struct Server(Arc<Inner>);

struct Inner {
    client: Client,
    current: Mutex<Current>,
}

struct Current {
    /// Counts the connections, so that who failed on an older one does not end a newer one.
    number: u64,
    connection: Option<Connecting>,
    left_replica: Option<Instant>,
}

/// Why nothing was sent.
#[derive(Debug)]
struct NotConnected {
    address: String,
    error: RedisError,
}

impl fmt::Display for NotConnected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.address, self.error)
    }
}

impl std::error::Error for NotConnected {}

/// The error of whoever could not connect, and so has sent nothing.
pub(super) fn not_connected(address: String, error: RedisError) -> RedisError {
    io::Error::new(io::ErrorKind::ConnectionRefused, NotConnected { address, error }).into()
}

impl Server {
    /// Connects on first use.
    pub(super) fn new(client: Client) -> Self {
        let current = Current { number: 0, connection: None, left_replica: None };
        Self(Arc::new(Inner { client, current: Mutex::new(current) }))
    }

    /// The connection and its number; an error means that nothing was sent.
    pub(super) async fn connection(&self) -> RedisResult<(u64, MultiplexedConnection)> {
        let (number, connecting) = self.0.connecting();
        match connecting.await {
            Ok(connection) => Ok((number, connection)),
            Err(error) => {
                self.0.forget(number);
                let address = self.0.client.get_connection_info().addr().to_string();
                Err(not_connected(address, error))
            }
        }
    }

    /// After a failed command: whether the next one needs another connection.
    fn note<T>(&self, number: u64, outcome: &RedisResult<T>) {
        let Err(error) = outcome else { return };
        if error.kind() == ErrorKind::Server(ServerErrorKind::ReadOnly) {
            self.0.leave_replica(number);
        } else if error.is_unrecoverable_error() {
            self.0.forget(number);
        }
    }
}

impl Inner {
    fn connecting(self: &Arc<Self>) -> (u64, Connecting) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        let number = current.number;
        let connecting = current.connection.get_or_insert_with(|| {
            let connecting = connect(self.client.clone(), Arc::downgrade(self), number).boxed().shared();
            // It goes on when the first one who wants it stops waiting.
            tokio::spawn(connecting.clone().map(|_| ()));
            connecting
        });
        (number, connecting.clone())
    }

    fn forget(&self, number: u64) {
        let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.number == number {
            (current.number, current.connection) = (number + 1, None);
        }
    }

    fn leave_replica(&self, number: u64) {
        {
            let mut current = self.current.lock().unwrap_or_else(PoisonError::into_inner);
            if current.left_replica.is_some_and(|at| at.elapsed() < LEAVE_REPLICA_EVERY) {
                return;
            }
            current.left_replica = Some(Instant::now());
        }
        self.forget(number);
    }
}

async fn connect(client: Client, inner: Weak<Inner>, number: u64) -> RedisResult<MultiplexedConnection> {
    let until = Instant::now() + CONNECT_ALL;
    let (mut tries, mut pause) = (1, CONNECT_PAUSE);
    loop {
        let inner = inner.clone();
        // A server that goes away says so by closing the connection; it need not be used for us to notice.
        let ended = move |push: PushInfo| {
            if push.kind == PushKind::Disconnection
                && let Some(inner) = inner.upgrade()
            {
                inner.forget(number);
            }
            Ok::<_, ()>(())
        };
        let config = AsyncConnectionConfig::new()
            .set_connection_timeout(Some(CONNECT_DEADLINE))
            .set_response_timeout(Some(ANSWER_DEADLINE))
            .set_push_sender(ended);
        match client.get_multiplexed_async_connection_with_config(&config).await {
            Err(_) if tries < CONNECT_TRIES && Instant::now() + pause < until => {
                tokio::time::sleep(pause).await;
                (tries, pause) = (tries + 1, pause * 2);
            }
            outcome => return outcome,
        }
    }
}

impl ConnectionLike for Server {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        async move {
            let (number, mut connection) = self.connection().await?;
            let outcome = connection.send_packed_command(command).await;
            self.note(number, &outcome.as_ref().map_err(RedisError::clone).and_then(error_of));
            outcome
        }
        .boxed()
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        async move {
            let (number, mut connection) = self.connection().await?;
            let outcome = connection.send_packed_commands(pipeline, offset, count).await;
            self.note(number, &outcome);
            outcome
        }
        .boxed()
    }

    fn get_db(&self) -> i64 {
        self.0.client.get_connection_info().redis_settings().db()
    }
}

/// The library answers an error of the server as a value here, and makes an error of it further up.
fn error_of(value: &Value) -> RedisResult<()> {
    match value {
        Value::ServerError(error) => Err(error.clone().into()),
        _ => Ok(()),
    }
}
