//! The connection to Redis: one server or a cluster, multiplexed, reconnecting, with a deadline on every answer.
//!
//! The cluster client sends a command again when a connection drops, a node is silent or a slot has moved: a script may be
//! executed twice for one call. Every script answers a repeat without harm. One server is never sent anything twice.
//!
//! A call that ends in an error says whether it may have been executed. With one server the error itself tells
//! (`refusal.rs`). With a cluster it tells only of the last send, so the sends are counted (`node.rs`), and "refused"
//! means that all of them were.

use std::sync::Arc;
use std::time::Duration;

use futures_util::FutureExt as _;
use futures_util::future::join_all;
use redis::aio::ConnectionLike;
use redis::cluster::{ClusterClient, ClusterClientBuilder};
use redis::cluster_async::ClusterConnection;
use redis::cluster_routing::{MultipleNodeRoutingInfo, ResponsePolicy, RoutingInfo, SingleNodeRoutingInfo};
use redis::io::tcp::TcpSettings;
use redis::{
    Client, Cmd, ConnectionInfo, ErrorKind, FromRedisValue, Pipeline, ProtocolVersion, RedisError, RedisFuture,
    RedisResult, ServerErrorKind, Value,
};
use tokio::sync::OnceCell;

use super::address::Address;
use super::contract::ScriptCall;
use super::error::ScriptError;
use super::node::{Node, Sends};
use super::refusal::{Refusal, describe};
use super::server::{Server, not_connected};

/// With `appendfsync always` an answer waits for the disk; past this the outcome is called unknown.
pub(super) const ANSWER_DEADLINE: Duration = Duration::from_secs(2);
pub(super) const CONNECT_DEADLINE: Duration = Duration::from_secs(1);

/// One node of a cluster gets half of the time, so that a silent one leaves some for a second try elsewhere.
const NODE_ANSWER_DEADLINE: Duration = Duration::from_secs(1);
const NODE_CONNECT_DEADLINE: Duration = Duration::from_millis(500);
/// Whoever asks how much of Redis is there waits less than a second for all of it, and a part that is silent costs this.
const PROBE_DEADLINE: Duration = Duration::from_millis(500);
/// The client's own default is 16, which outlasts every deadline while a primary is being replaced.
const CLUSTER_RETRIES: u32 = 3;
const RETRY_WAIT_MS: (u64, u64) = (5, 50);
/// Commands under way on the socket of one node. A round of claims is a handful of batches, so this is never the limit of
/// claims; it bounds what a silent node can gather.
const NODE_CONCURRENCY: usize = 512;

/// A script that does nothing, and that Redis refuses whenever it would refuse one of ours: it may write, by its first
/// line.
const PROBE: &str = "#!lua\nreturn 1";

/// Cheap to clone; all clones share the same sockets.
#[derive(Clone)]
pub(crate) enum Connection {
    Server(Server),
    Cluster(Cluster),
}

/// A cluster, found through some of its nodes on first use.
#[derive(Clone)]
pub(crate) struct Cluster {
    client: Arc<ClusterClient>,
    /// Where they are, for whoever hears that none can be reached.
    nodes: Arc<str>,
    found: Arc<OnceCell<ClusterConnection<Node>>>,
}

impl Cluster {
    async fn get(&self) -> RedisResult<ClusterConnection<Node>> {
        // Hidden in the library's documentation, and the only way to see every send: its version is pinned.
        let find = || self.client.get_async_generic_connection::<Node>();
        let found = self.found.get_or_try_init(find).await;
        found.cloned().map_err(|error| not_connected(self.nodes.to_string(), error))
    }
}

/// One primary of a cluster and the slots it owns.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Primary {
    pub(crate) host: String,
    pub(crate) port: u16,
    pub(crate) slots: Vec<(u16, u16)>,
}

impl Primary {
    pub(crate) fn owns(&self, slot: u16) -> bool {
        self.slots.iter().any(|(first, last)| (*first..=*last).contains(&slot))
    }
}

impl std::fmt::Display for Primary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let slots = self.slots.iter().map(|(first, last)| format!("{first} to {last}")).collect::<Vec<_>>();
        write!(f, "{}:{} (slots {})", self.host, self.port, slots.join(", "))
    }
}

/// How much of Redis answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reach {
    /// Primaries that would run a script.
    pub answering: usize,
    /// Primaries of a cluster that give no answer, each with its slots.
    pub away: Vec<String>,
    /// Why others answer but refuse every script that may write; of a cluster, each with its slots.
    pub refusing: Vec<String>,
}

pub(crate) async fn connect(url: &str) -> Result<Connection, ScriptError> {
    let connection = open(url)?;
    match &connection {
        Connection::Server(server) => drop(server.connection().await?),
        Connection::Cluster(cluster) => drop(cluster.get().await?),
    }
    Ok(connection)
}

/// As [`connect`], but it connects on first use.
pub(crate) fn open(url: &str) -> Result<Connection, ScriptError> {
    let address = Address::parse(url)?;
    match address.is_cluster {
        true => open_cluster(address).map(Connection::Cluster),
        false => open_server(address.first_node().clone()).map(Connection::Server),
    }
}

/// The server, or the node that is named first.
pub(crate) fn first_node(url: &str) -> Result<ConnectionInfo, ScriptError> {
    Ok(Address::parse(url)?.first_node().clone())
}

pub(crate) fn open_server(info: ConnectionInfo) -> Result<Server, ScriptError> {
    let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
    let info = info.set_redis_settings(settings).set_tcp_settings(tcp());
    Ok(Server::new(Client::open(info)?))
}

fn open_cluster(address: Address) -> Result<Cluster, ScriptError> {
    let nodes = address.nodes.iter().map(|info| info.addr().to_string()).collect::<Vec<_>>().join(", ");
    let mut client = ClusterClientBuilder::new(address.nodes)
        .use_protocol(ProtocolVersion::RESP3)
        .tcp_settings(tcp())
        .retries(CLUSTER_RETRIES)
        .min_retry_wait(RETRY_WAIT_MS.0)
        .max_retry_wait(RETRY_WAIT_MS.1)
        .connection_timeout(NODE_CONNECT_DEADLINE)
        // Both must be named: the first is "for ever" by default, and the second is the first.
        .response_timeout(NODE_ANSWER_DEADLINE)
        .overall_response_timeout(Some(ANSWER_DEADLINE))
        .connection_concurrency_limit(NODE_CONCURRENCY);
    if let Some(certificates) = address.certificates {
        client = client.certs(certificates);
    }
    Ok(Cluster { client: Arc::new(client.build()?), nodes: nodes.into(), found: Arc::default() })
}

/// The client leaves Nagle's algorithm on, which costs 40 ms on a lone small command.
fn tcp() -> TcpSettings {
    TcpSettings::default().set_nodelay(true)
}

impl Connection {
    /// EVALSHA, and EVAL should the server not know the script.
    ///
    /// The library's own repair is `SCRIPT LOAD`, which it sends to every node of a cluster and which fails with the first
    /// that is dead. EVAL goes where its keys are, also when these have just moved, runs and caches the script in one step.
    /// No single flight is needed: one round of claims is under way, so a node that forgot gets a handful of them.
    pub(crate) async fn call(&mut self, call: &ScriptCall) -> Result<Vec<Value>, ScriptError> {
        let outcome = match self.send(&call.by_hash()).await {
            Err(first) if is_unknown_script(&first.error) => {
                let second = self.send(&call.by_source()).await;
                // The script was unknown where it was sent last; an earlier send may have found it.
                second.map_err(|second| Failed { is_all: first.is_all && second.is_all, ..second })
            }
            outcome => outcome,
        };
        Ok(outcome?)
    }

    /// One command; an error says whether it may have been executed.
    pub(crate) async fn ask<T: FromRedisValue>(&mut self, command: &Cmd) -> Result<T, ScriptError> {
        Ok(self.send(command).await?)
    }

    async fn send<T: FromRedisValue>(&mut self, command: &Cmd) -> Result<T, Failed> {
        let sends = matches!(self, Self::Cluster(_)).then(|| Sends::watch(command));
        let answer = command.query_async(self).await;
        answer.map_err(|error| Failed { error, is_all: sends.is_none_or(|sends| sends.are_all_refused()) })
    }

    /// Has every primary run a script that does nothing, all at the same time. An error if nobody can say which there
    /// are.
    pub(crate) async fn reach(&mut self) -> Result<Reach, ScriptError> {
        let probe = redis::cmd("EVAL").arg(PROBE).arg(0).take();
        let mut reach = Reach { answering: 0, away: Vec::new(), refusing: Vec::new() };
        let Self::Cluster(cluster) = self else {
            match self.ask::<i64>(&probe).await {
                Ok(_) => reach.answering = 1,
                Err(ScriptError::Refused { why, error }) if why != Refusal::NotConnected => {
                    reach.refusing.push(describe("Redis", why, &error));
                }
                Err(error) => return Err(error),
            }
            return Ok(reach);
        };
        let mut cluster = cluster.get().await?;
        let primaries = primaries(&mut cluster).await?;
        let probes = primaries.iter().map(|primary| {
            let (mut cluster, probe) = (cluster.clone(), probe.clone());
            let node = SingleNodeRoutingInfo::ByAddress { host: primary.host.clone(), port: primary.port };
            async move {
                let answer = cluster.route_command(probe, RoutingInfo::SingleNode(node));
                tokio::time::timeout(PROBE_DEADLINE, answer).await
            }
        });
        for (primary, answer) in primaries.iter().zip(join_all(probes).await) {
            let answer = answer.map(|answer| answer.and_then(Value::extract_error));
            match answer.as_ref().map(|answer| answer.as_ref().map_err(|error| (Refusal::of(error), error))) {
                Ok(Ok(_)) => reach.answering += 1,
                Ok(Err((Some(why), error))) if why != Refusal::NotConnected => {
                    reach.refusing.push(describe(&format!("Redis {primary}"), why, error));
                }
                _ => reach.away.push(primary.to_string()),
            }
        }
        Ok(reach)
    }

    /// The reply of every primary, or the first error.
    pub(crate) async fn ask_primaries(&mut self, command: &Cmd) -> Result<Vec<Value>, ScriptError> {
        let Self::Cluster(cluster) = self else {
            return Ok(vec![command.query_async(self).await?]);
        };
        // By address: the client's own "all primaries" leaves out those to which it has lost its connection.
        let mut replies = Vec::new();
        let mut cluster = cluster.get().await?;
        for primary in primaries(&mut cluster).await? {
            let node = SingleNodeRoutingInfo::ByAddress { host: primary.host, port: primary.port };
            replies.push(cluster.route_command(command.clone(), RoutingInfo::SingleNode(node)).await?);
        }
        Ok(replies)
    }

    /// `None`: this is one server.
    pub(crate) async fn primaries(&mut self) -> Result<Option<Vec<Primary>>, ScriptError> {
        match self {
            Self::Server(_) => Ok(None),
            Self::Cluster(cluster) => primaries(&mut cluster.get().await?).await.map(Some),
        }
    }
}

/// A command that failed.
struct Failed {
    error: RedisError,
    /// Whether the error tells of every send, and not only of the last one.
    is_all: bool,
}

impl From<Failed> for ScriptError {
    fn from(failed: Failed) -> Self {
        match Refusal::of(&failed.error) {
            Some(why) if failed.is_all => Self::Refused { why, error: failed.error },
            _ => Self::Redis(failed.error),
        }
    }
}

fn is_unknown_script(error: &RedisError) -> bool {
    error.kind() == ErrorKind::Server(ServerErrorKind::NoScript)
}

/// As one node sees it now.
async fn primaries(cluster: &mut ClusterConnection<Node>) -> Result<Vec<Primary>, ScriptError> {
    let everyone = (MultipleNodeRoutingInfo::AllMasters, Some(ResponsePolicy::OneSucceeded));
    let reply =
        cluster.route_command(redis::cmd("CLUSTER").arg("SLOTS").take(), RoutingInfo::MultiNode(everyone)).await?;
    parse_slots(reply)
        .ok_or_else(|| ScriptError::BadReply { script: "CLUSTER SLOTS", what: "another shape".to_owned() })
}

/// `[first, last, [host, port, …], replicas …]` for each range.
fn parse_slots(reply: Value) -> Option<Vec<Primary>> {
    let mut primaries: Vec<Primary> = Vec::new();
    for range in redis::from_redis_value::<Vec<Vec<Value>>>(reply).ok()? {
        let mut parts = range.into_iter();
        let first = redis::from_redis_value(parts.next()?).ok()?;
        let last = redis::from_redis_value(parts.next()?).ok()?;
        let mut node = redis::from_redis_value::<Vec<Value>>(parts.next()?).ok()?.into_iter();
        let host: String = redis::from_redis_value(node.next()?).ok()?;
        let port: u16 = redis::from_redis_value(node.next()?).ok()?;
        match primaries.iter_mut().find(|primary| primary.host == host && primary.port == port) {
            Some(primary) => primary.slots.push((first, last)),
            None => primaries.push(Primary { host, port, slots: vec![(first, last)] }),
        }
    }
    primaries.sort_by_key(|primary| primary.slots.iter().map(|(first, _)| *first).min());
    Some(primaries)
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, command: &'a Cmd) -> RedisFuture<'a, Value> {
        match self {
            Self::Server(server) => server.req_packed_command(command),
            Self::Cluster(cluster) => async move { cluster.get().await?.req_packed_command(command).await }.boxed(),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match self {
            Self::Server(server) => server.req_packed_commands(pipeline, offset, count),
            Self::Cluster(cluster) => {
                async move { cluster.get().await?.req_packed_commands(pipeline, offset, count).await }.boxed()
            }
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Self::Server(server) => server.get_db(),
            // A cluster has but one.
            Self::Cluster(_) => 0,
        }
    }
}
