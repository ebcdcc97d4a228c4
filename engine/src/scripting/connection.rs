//! The connection to Redis: one server or a cluster, multiplexed, reconnecting, with a deadline on every answer.
//!
//! `redis://host:port` is one server. `redis-cluster://host:port[,host:port…]`, or several `redis://` URLs with commas in
//! between, are some nodes of a cluster; the others are found through them.
//!
//! The cluster client sends a command again when a connection drops, a node is silent or a slot has moved: a script may be
//! executed twice for one call. Every script answers a repeat without harm.

use std::time::Duration;

use futures_util::future::join_all;
use redis::aio::{ConnectionLike, ConnectionManager, ConnectionManagerConfig};
use redis::cluster::ClusterClientBuilder;
use redis::cluster_async::ClusterConnection;
use redis::cluster_routing::{MultipleNodeRoutingInfo, ResponsePolicy, RoutingInfo, SingleNodeRoutingInfo};
use redis::io::tcp::TcpSettings;
use redis::{
    Cmd, ConnectionInfo, ErrorKind, IntoConnectionInfo, Pipeline, ProtocolVersion, RedisFuture, ServerErrorKind, Value,
};

use super::contract::ScriptCall;
use super::error::ScriptError;

/// With `appendfsync always` an answer waits for the disk; past this the outcome is called unknown.
const ANSWER_DEADLINE: Duration = Duration::from_secs(2);
const CONNECT_DEADLINE: Duration = Duration::from_secs(1);
/// Waiting for a server that restarts is the caller's business; the connection itself tries this often.
const RECONNECT_TRIES: usize = 4;

/// One node of a cluster gets half of the time, so that a silent one leaves some for a second try elsewhere.
const NODE_ANSWER_DEADLINE: Duration = Duration::from_secs(1);
const NODE_CONNECT_DEADLINE: Duration = Duration::from_millis(500);
/// Whoever asks how much of Redis is there waits less than a second for all of it, and a part that is silent costs this.
const PING_DEADLINE: Duration = Duration::from_millis(500);
/// The client's own default is 16, which outlasts every deadline while a primary is being replaced.
const CLUSTER_RETRIES: u32 = 3;
const RETRY_WAIT_MS: (u64, u64) = (5, 50);
/// Commands under way on the socket of one node. A round of claims is a handful of batches, so this is never the limit of
/// claims; it bounds what a silent node can gather.
const NODE_CONCURRENCY: usize = 512;

const CLUSTER_SCHEME: &str = "redis-cluster://";

/// Cheap to clone; all clones share the same sockets.
#[derive(Clone)]
pub(crate) enum Connection {
    Server(ConnectionManager),
    Cluster(ClusterConnection),
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
    /// Primaries that answer.
    pub answering: usize,
    /// Primaries of a cluster that do not, each with its slots.
    pub away: Vec<String>,
}

pub(crate) async fn connect(url: &str) -> Result<Connection, ScriptError> {
    match cluster_nodes(url) {
        Some(nodes) => connect_cluster(nodes).await.map(Connection::Cluster),
        None => connect_server(url.into_connection_info()?).await.map(Connection::Server),
    }
}

/// The URL of the server, or of the node that is named first.
pub(crate) fn first_node(url: &str) -> String {
    cluster_nodes(url).and_then(|nodes| nodes.into_iter().next()).unwrap_or_else(|| url.to_owned())
}

pub(crate) async fn connect_server(info: ConnectionInfo) -> Result<ConnectionManager, ScriptError> {
    let settings = info.redis_settings().clone().set_protocol(ProtocolVersion::RESP3);
    let info = info.set_redis_settings(settings).set_tcp_settings(tcp());
    let config = ConnectionManagerConfig::new()
        .set_number_of_retries(RECONNECT_TRIES)
        .set_min_delay(Duration::from_millis(20))
        .set_max_delay(Duration::from_millis(500))
        .set_connection_timeout(Some(CONNECT_DEADLINE))
        .set_response_timeout(Some(ANSWER_DEADLINE));
    Ok(redis::Client::open(info)?.get_connection_manager_with_config(config).await?)
}

async fn connect_cluster(nodes: Vec<String>) -> Result<ClusterConnection, ScriptError> {
    let client = ClusterClientBuilder::new(nodes)
        .use_protocol(ProtocolVersion::RESP3)
        .tcp_settings(tcp())
        .retries(CLUSTER_RETRIES)
        .min_retry_wait(RETRY_WAIT_MS.0)
        .max_retry_wait(RETRY_WAIT_MS.1)
        .connection_timeout(NODE_CONNECT_DEADLINE)
        // Both must be named: the first is "for ever" by default, and the second is the first.
        .response_timeout(NODE_ANSWER_DEADLINE)
        .overall_response_timeout(Some(ANSWER_DEADLINE))
        .connection_concurrency_limit(NODE_CONCURRENCY)
        .build()?;
    Ok(client.get_async_connection().await?)
}

/// The client leaves Nagle's algorithm on, which costs 40 ms on a lone small command.
fn tcp() -> TcpSettings {
    TcpSettings::default().set_nodelay(true)
}

/// URLs of the nodes, should `url` mean a cluster. User and password of the first are those of all without their own.
fn cluster_nodes(url: &str) -> Option<Vec<String>> {
    let list = url.strip_prefix(CLUSTER_SCHEME);
    if list.is_none() && !url.contains(',') {
        return None;
    }
    let list = list.or_else(|| url.strip_prefix("redis://")).unwrap_or(url);
    let who = list.split(',').next().and_then(|first| first.rsplit_once('@')).map_or("", |(who, _)| who);
    let nodes = list.split(',').filter(|node| !node.is_empty()).map(|node| match node {
        node if node.contains("://") => node.to_owned(),
        node if node.contains('@') || who.is_empty() => format!("redis://{node}"),
        node => format!("redis://{who}@{node}"),
    });
    Some(nodes.collect())
}

impl Connection {
    /// EVALSHA, and EVAL should the server not know the script.
    ///
    /// The library's own repair is `SCRIPT LOAD`, which it sends to every node of a cluster and which fails with the first
    /// that is dead. EVAL goes where its keys are, also when these have just moved, runs and caches the script in one step.
    /// No single flight is needed: one round of claims is under way, so a node that forgot gets a handful of them.
    pub(crate) async fn call(&mut self, call: &ScriptCall) -> Result<Vec<Value>, ScriptError> {
        match call.by_hash().query_async(self).await {
            Err(error) if error.kind() == ErrorKind::Server(ServerErrorKind::NoScript) => {
                Ok(call.by_source().query_async(self).await?)
            }
            reply => Ok(reply?),
        }
    }

    /// Pings every primary, all at the same time. An error if nobody can say which there are.
    pub(crate) async fn reach(&mut self) -> Result<Reach, ScriptError> {
        let Self::Cluster(cluster) = self else {
            redis::cmd("PING").query_async::<()>(self).await?;
            return Ok(Reach { answering: 1, away: Vec::new() });
        };
        let primaries = primaries(cluster).await?;
        let pings = primaries.iter().map(|primary| {
            let mut cluster = cluster.clone();
            let node = SingleNodeRoutingInfo::ByAddress { host: primary.host.clone(), port: primary.port };
            async move {
                let ping = cluster.route_command(redis::cmd("PING"), RoutingInfo::SingleNode(node));
                matches!(tokio::time::timeout(PING_DEADLINE, ping).await, Ok(Ok(_)))
            }
        });
        let answers = join_all(pings).await;
        let away = primaries.iter().zip(&answers).filter(|(_, answers)| !**answers);
        Ok(Reach {
            answering: answers.iter().filter(|answers| **answers).count(),
            away: away.map(|(primary, _)| primary.to_string()).collect(),
        })
    }

    /// The reply of every primary, or the first error.
    pub(crate) async fn ask_primaries(&mut self, command: &Cmd) -> Result<Vec<Value>, ScriptError> {
        let Self::Cluster(cluster) = self else {
            return Ok(vec![command.query_async(self).await?]);
        };
        // By address: the client's own "all primaries" leaves out those to which it has lost its connection.
        let mut replies = Vec::new();
        for primary in primaries(cluster).await? {
            let node = SingleNodeRoutingInfo::ByAddress { host: primary.host, port: primary.port };
            replies.push(cluster.route_command(command.clone(), RoutingInfo::SingleNode(node)).await?);
        }
        Ok(replies)
    }

    /// `None`: this is one server.
    pub(crate) async fn primaries(&mut self) -> Result<Option<Vec<Primary>>, ScriptError> {
        match self {
            Self::Server(_) => Ok(None),
            Self::Cluster(cluster) => primaries(cluster).await.map(Some),
        }
    }
}

/// As one node sees it now.
async fn primaries(cluster: &mut ClusterConnection) -> Result<Vec<Primary>, ScriptError> {
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
            Self::Cluster(cluster) => cluster.req_packed_command(command),
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
            Self::Cluster(cluster) => cluster.req_packed_commands(pipeline, offset, count),
        }
    }

    fn get_db(&self) -> i64 {
        match self {
            Self::Server(server) => server.get_db(),
            Self::Cluster(cluster) => cluster.get_db(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::cluster_nodes;

    #[test]
    fn the_url_says_whether_it_is_one_server_or_a_cluster() {
        let cases: [(&str, Option<&[&str]>); 6] = [
            ("redis://one:6379", None),
            ("redis://user:password@one:6379/2", None),
            ("redis-cluster://one:1", Some(&["redis://one:1"])),
            ("redis-cluster://u:p@one:1,two:2", Some(&["redis://u:p@one:1", "redis://u:p@two:2"])),
            ("redis://one:1,two:2,", Some(&["redis://one:1", "redis://two:2"])),
            ("redis://one:1,redis://u:p@two:2", Some(&["redis://one:1", "redis://u:p@two:2"])),
        ];
        for (url, nodes) in cases {
            let nodes = nodes.map(|nodes| nodes.iter().map(|node| (*node).to_owned()).collect::<Vec<_>>());
            assert_eq!(cluster_nodes(url), nodes, "{url}");
        }
    }
}
