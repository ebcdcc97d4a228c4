//! Several private Redis that belong together: a primary with replicas, or a Redis Cluster.
//!
//! Made with plain commands, so that nothing but `redis-server` is needed. Handed out only when every node says the same of
//! every other: a client that looks at any of them sees the cluster that is.

use std::ops::RangeInclusive;
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use tokio::time::{Instant, sleep};

use crate::error::SandboxError;
use crate::redis::{Redis, RedisOptions};
use crate::{Sandbox, resp};

const SLOTS: u16 = 16_384;
/// Six nodes agree within three seconds when the machine is idle. On a busy one an election may find no majority in time, and
/// the next one comes after four node timeouts: time for several.
const TOGETHER_DEADLINE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);

/// What a private Redis Cluster consists of.
#[derive(Debug, Clone)]
pub struct RedisClusterOptions {
    primaries: usize,
    replicas_of_each: usize,
    node_timeout: Duration,
    redis: RedisOptions,
}

impl Default for RedisClusterOptions {
    fn default() -> Self {
        Self {
            primaries: 3,
            replicas_of_each: 1,
            // Shorter, and a disk that is busy for a second looks like a dead node.
            node_timeout: Duration::from_secs(2),
            redis: RedisOptions::default(),
        }
    }
}

impl RedisClusterOptions {
    /// How many primaries share the slots, in contiguous and equal ranges. Without three of them no replica is promoted.
    #[must_use]
    pub fn primaries(mut self, primaries: usize) -> Self {
        self.primaries = primaries;
        self
    }

    #[must_use]
    pub fn replicas_of_each(mut self, replicas: usize) -> Self {
        self.replicas_of_each = replicas;
        self
    }

    /// How long a node is silent before the others call it dead.
    #[must_use]
    pub fn node_timeout(mut self, node_timeout: Duration) -> Self {
        self.node_timeout = node_timeout;
        self
    }

    /// What every node has in common beside what makes it a node.
    #[must_use]
    pub fn redis(mut self, redis: RedisOptions) -> Self {
        self.redis = redis;
        self
    }

    fn node(&self) -> RedisOptions {
        // A lost part must not stop the others; a replica must not leave its primary for one that has lost its own.
        let node = self.redis.clone().cluster_node();
        replicated(node)
            .setting("cluster-node-timeout", &self.node_timeout.as_millis().to_string())
            .setting("cluster-require-full-coverage", "no")
            .setting("cluster-allow-replica-migration", "no")
    }
}

/// A private Redis Cluster. Each node is a server like any other: killed, paused, restarted.
pub struct RedisCluster {
    /// First the first primaries, then their replicas in the same order.
    nodes: Vec<Redis>,
}

impl RedisCluster {
    /// One URL a node.
    pub fn urls(&self) -> Vec<String> {
        self.nodes.iter().map(Redis::url).collect()
    }

    /// All nodes in one: `redis-cluster://127.0.0.1:1,127.0.0.1:2`
    pub fn url(&self) -> String {
        let nodes: Vec<String> = self.nodes.iter().map(|node| format!("127.0.0.1:{}", node.port())).collect();
        format!("redis-cluster://{}", nodes.join(","))
    }

    pub fn nodes(&self) -> &[Redis] {
        &self.nodes
    }

    /// The primaries as the nodes that run see them now, in the order of their slots.
    pub async fn primaries(&self) -> Result<Vec<&Redis>, SandboxError> {
        until("a cluster whose primaries are known", async || {
            let mut owners: Vec<Member> = self.view().await?.into_iter().filter(Member::owns_slots).collect();
            owners.sort_by_key(|member| member.slots.first().map(|range| *range.start()));
            owners.iter().map(|member| self.node_at(member.port)).collect()
        })
        .await
    }

    /// The primary that owns the slot of `key`, which holds no spaces.
    pub async fn primary_of(&self, key: &str) -> Result<&Redis, SandboxError> {
        let command = format!("CLUSTER KEYSLOT {key}");
        let slot = until("a key's slot", async || Ok(self.ask_any(&command).await?.parse()?)).await?;
        self.primary_of_slot(slot).await
    }

    pub async fn primary_of_slot(&self, slot: u16) -> Result<&Redis, SandboxError> {
        until("a slot with a primary", async || {
            let view = self.view().await?;
            let owner = view.iter().find(|member| member.slots.iter().any(|range| range.contains(&slot)));
            self.node_at(owner.context("nobody owns it")?.port)
        })
        .await
    }

    /// The replicas of `primary`, which runs, as the nodes that run see it now.
    pub async fn replicas_of(&self, primary: &Redis) -> Result<Vec<&Redis>, SandboxError> {
        until("the replicas of a primary", async || {
            let view = self.view().await?;
            let own = view.iter().find(|member| member.port == primary.port()).context("it is not known")?;
            let replicas = view.iter().filter(|member| member.primary == own.id);
            replicas.map(|member| self.node_at(member.port)).collect()
        })
        .await
    }

    /// Kills `primary` and waits until one of its replicas owns its slots, in the eyes of every node that runs. Returns
    /// the new primary.
    pub async fn fail_over(&self, primary: &Redis) -> Result<&Redis, SandboxError> {
        let slot = until("the slots of a primary", async || {
            let view = self.view().await?;
            let member = view.iter().find(|member| member.port == primary.port() && member.owns_slots());
            Ok(*member.context("it is no primary")?.slots[0].start())
        })
        .await?;
        primary.kill();
        self.until_agreed().await?;
        self.primary_of_slot(slot).await
    }

    /// Waits until every node that runs has the same view, in which every slot has an owner that runs, and every
    /// replica that runs is linked.
    pub async fn until_agreed(&self) -> Result<(), SandboxError> {
        until("a cluster that agrees", async || self.check_agreed().await).await.map_err(|error| match error {
            SandboxError::NotTogether { what, waited, reason } => {
                let said = self.nodes.iter().map(|node| format!("\n{} said last:\n{}", node.port(), node.last_lines()));
                SandboxError::NotTogether { what, waited, reason: reason + &said.collect::<String>() }
            }
            other => other,
        })
    }

    async fn check_agreed(&self) -> anyhow::Result<()> {
        let running = self.nodes.iter().filter(|node| node.pid().is_some()).map(Redis::port).collect::<Vec<_>>();
        let mut agreed: Option<Vec<Member>> = None;
        for port in &running {
            let info = resp::ask(*port, "CLUSTER INFO").await?;
            ensure!(resp::field(&info, "cluster_state") == Some("ok"), "{port} says that the cluster is not ok");
            let mut view = members(&resp::ask(*port, "CLUSTER NODES").await?)?;
            // What is dead is nobody's primary and nobody's concern.
            view.retain(|member| running.contains(&member.port));
            ensure!(view.len() == running.len(), "{port} knows {} of {} nodes", view.len(), running.len());
            ensure!(!view.iter().any(|member| member.is_doubted), "{port} doubts a node");
            let slots = view.iter().flat_map(|member| &member.slots).map(|range| range.clone().count()).sum::<usize>();
            ensure!(slots == usize::from(SLOTS), "{port} knows running owners of {slots} slots");
            ensure!(agreed.as_ref().is_none_or(|agreed| *agreed == view), "{port} sees it differently");
            agreed = Some(view);
            check_linked(*port).await?;
        }
        ensure!(agreed.is_some(), "no node runs");
        Ok(())
    }

    /// As any node that runs sees it.
    async fn view(&self) -> anyhow::Result<Vec<Member>> {
        members(&self.ask_any("CLUSTER NODES").await?)
    }

    /// The first answer: a node may be paused.
    async fn ask_any(&self, command: &str) -> anyhow::Result<String> {
        let mut last = anyhow::anyhow!("no node runs");
        for node in self.nodes.iter().filter(|node| node.pid().is_some()) {
            match resp::ask(node.port(), command).await {
                Ok(answer) => return Ok(answer),
                Err(error) => last = error,
            }
        }
        Err(last)
    }

    fn node_at(&self, port: u16) -> anyhow::Result<&Redis> {
        self.nodes.iter().find(|node| node.port() == port).with_context(|| format!("a node at {port} is not ours"))
    }
}

pub(crate) async fn open(sandbox: &Sandbox, options: RedisClusterOptions) -> Result<RedisCluster, SandboxError> {
    let count = options.primaries * (1 + options.replicas_of_each);
    let cluster = RedisCluster { nodes: start(sandbox, vec![options.node(); count]).await? };
    until("a Redis Cluster", async || introduce(&cluster).await).await?;
    until("a Redis Cluster", async || distribute(&cluster, &options).await).await?;
    cluster.until_agreed().await?;
    Ok(cluster)
}

/// URL of the node that owns the slot of `key`, as the first of `nodes` that answers sees it (`host:port,host:port`).
pub(crate) async fn owner_of(nodes: &str, key: &str) -> anyhow::Result<String> {
    let mut last = anyhow::anyhow!("no node is named");
    for port in nodes.split(',').filter_map(|node| node.rsplit_once(':')?.1.parse().ok()) {
        let asked = async {
            let slot = resp::ask(port, &format!("CLUSTER KEYSLOT {key}")).await?.parse::<u16>()?;
            let view = members(&resp::ask(port, "CLUSTER NODES").await?)?;
            let owner = view.iter().find(|member| member.slots.iter().any(|range| range.contains(&slot)));
            Ok(format!("redis://127.0.0.1:{}", owner.context("nobody owns it")?.port))
        };
        match asked.await {
            Ok(url) => return Ok(url),
            Err(error) => last = error,
        }
    }
    Err(last)
}

pub(crate) async fn with_replicas(
    sandbox: &Sandbox,
    options: RedisOptions,
    replicas: usize,
) -> Result<(Redis, Vec<Redis>), SandboxError> {
    let primary = sandbox.redis_with(replicated(options.clone())).await?;
    let replica = replicated(options).setting("replicaof", &format!("127.0.0.1 {}", primary.port()));
    let replicas = start(sandbox, vec![replica; replicas]).await?;
    until("a primary with its replicas", async || {
        for replica in &replicas {
            check_linked(replica.port()).await?;
        }
        let info = resp::ask(primary.port(), "INFO replication").await?;
        let online = info.lines().filter(|line| line.starts_with("slave") && line.contains("state=online")).count();
        ensure!(online == replicas.len(), "{online} of {} replicas are online", replicas.len());
        Ok(())
    })
    .await?;
    Ok((primary, replicas))
}

/// Without a disk, a primary waits five seconds for more replicas, and calls one online a second before it sends it anything.
fn replicated(options: RedisOptions) -> RedisOptions {
    options.setting("repl-diskless-sync", "no")
}

/// All at the same time, in the order of `options`.
async fn start(sandbox: &Sandbox, options: Vec<RedisOptions>) -> Result<Vec<Redis>, SandboxError> {
    let starting = options.into_iter().map(|options| {
        let sandbox = sandbox.clone();
        tokio::spawn(async move { sandbox.redis_with(options).await })
    });
    let mut servers = Vec::new();
    for server in starting.collect::<Vec<_>>() {
        servers.push(server.await.expect("starting a server does not panic")?);
    }
    Ok(servers)
}

/// Every node meets the first one, also when they have met in another life: their ports are new.
async fn introduce(cluster: &RedisCluster) -> anyhow::Result<()> {
    let count = cluster.nodes.len().to_string();
    for (index, node) in cluster.nodes.iter().enumerate() {
        // Nodes that meet with the same epoch outbid each other in an order that nobody knows beforehand.
        let info = resp::ask(node.port(), "CLUSTER INFO").await?;
        let field = |name| resp::field(&info, name);
        if (field("cluster_known_nodes"), field("cluster_my_epoch")) == (Some("1"), Some("0")) {
            resp::ask(node.port(), &format!("CLUSTER SET-CONFIG-EPOCH {}", index + 1)).await?;
        }
    }
    for node in &cluster.nodes[1..] {
        resp::ask(
            cluster.nodes[0].port(),
            &format!("CLUSTER MEET 127.0.0.1 {} {}", node.port(), bus_port(node).await?),
        )
        .await?;
    }
    let deadline = Instant::now() + Duration::from_secs(5);
    for node in &cluster.nodes {
        // A handshake that is lost is begun again.
        while resp::field(&resp::ask(node.port(), "CLUSTER INFO").await?, "cluster_known_nodes") != Some(&*count) {
            ensure!(Instant::now() < deadline, "{} does not know all nodes", node.port());
            sleep(POLL).await;
        }
    }
    Ok(())
}

/// Gives the slots to the first nodes and these to the others, unless that was done in another life.
async fn distribute(cluster: &RedisCluster, options: &RedisClusterOptions) -> anyhow::Result<()> {
    if cluster.view().await?.iter().any(Member::owns_slots) && cluster.check_agreed().await.is_ok() {
        return Ok(());
    }
    let (primaries, replicas) = cluster.nodes.split_at(options.primaries);
    for (index, primary) in primaries.iter().enumerate() {
        let first = |index: usize| index * usize::from(SLOTS) / options.primaries;
        let mine = resp::ask(primary.port(), "CLUSTER NODES").await?;
        if !members(&mine)?.iter().any(|member| member.port == primary.port() && member.owns_slots()) {
            let command = format!("CLUSTER ADDSLOTSRANGE {} {}", first(index), first(index + 1) - 1);
            resp::ask(primary.port(), &command).await?;
        }
        for replica in replicas.iter().skip(index).step_by(options.primaries) {
            let id = resp::ask(primary.port(), "CLUSTER MYID").await?;
            resp::ask(replica.port(), &format!("CLUSTER REPLICATE {id}")).await?;
        }
    }
    Ok(())
}

async fn bus_port(node: &Redis) -> anyhow::Result<u16> {
    let view = resp::ask(node.port(), "CLUSTER NODES").await?;
    let own = view.lines().find(|line| line.contains("myself")).context("a node that does not know itself")?;
    let (_, port) = own.split_once('@').context("no bus port")?;
    let end = port.find(|letter: char| !letter.is_ascii_digit()).unwrap_or(port.len());
    Ok(port[..end].parse()?)
}

/// Whether a replica is linked to its primary; a primary always is.
async fn check_linked(port: u16) -> anyhow::Result<()> {
    let info = resp::ask(port, "INFO replication").await?;
    let is_linked = resp::field(&info, "role") == Some("master")
        || resp::field(&info, "master_link_status") == Some("up")
            && resp::field(&info, "master_sync_in_progress") == Some("0");
    ensure!(is_linked, "the replica {port} is not linked");
    Ok(())
}

async fn until<T>(what: &'static str, attempt: impl AsyncFn() -> anyhow::Result<T>) -> Result<T, SandboxError> {
    let deadline = Instant::now() + TOGETHER_DEADLINE;
    loop {
        match attempt().await {
            Ok(reached) => return Ok(reached),
            Err(error) if Instant::now() >= deadline => {
                let reason = format!("{error:#}");
                return Err(SandboxError::NotTogether { what, waited: TOGETHER_DEADLINE, reason });
            }
            Err(_) => sleep(POLL).await,
        }
    }
}

/// A line of `CLUSTER NODES`, without what differs between two nodes that agree.
#[derive(Debug, PartialEq, Eq)]
struct Member {
    id: String,
    port: u16,
    is_primary: bool,
    /// Dead, suspected to be, or not fully known.
    is_doubted: bool,
    primary: String,
    slots: Vec<RangeInclusive<u16>>,
}

impl Member {
    fn owns_slots(&self) -> bool {
        self.is_primary && !self.is_doubted && !self.slots.is_empty()
    }
}

/// Sorted by id.
fn members(nodes: &str) -> anyhow::Result<Vec<Member>> {
    let mut members = nodes.lines().map(member).collect::<anyhow::Result<Vec<_>>>()?;
    members.sort_by(|left, right| left.id.cmp(&right.id));
    Ok(members)
}

/// `id ip:port@bus flags primary ping pong epoch link slot-slot …`
fn member(line: &str) -> anyhow::Result<Member> {
    let words = line.split_whitespace().collect::<Vec<_>>();
    let [id, address, flags, primary, _, _, _, _, slots @ ..] = &*words else { bail!("not a node: {line:?}") };
    let port = address.rsplit_once('@').and_then(|(address, _)| address.rsplit_once(':')).context("no port")?.1;
    let flags = flags.split(',').collect::<Vec<_>>();
    let range = |word: &&str| {
        let (first, last) = word.split_once('-').unwrap_or((word, word));
        anyhow::Ok(first.parse()?..=last.parse()?)
    };
    Ok(Member {
        id: (*id).to_owned(),
        port: port.parse()?,
        is_primary: flags.contains(&"master"),
        is_doubted: flags.iter().any(|flag| ["fail", "fail?", "handshake", "noaddr"].contains(flag)),
        primary: (*primary).to_owned(),
        // What is in square brackets is on the move and still owned by the one who names it plainly.
        slots: slots.iter().filter(|word| !word.starts_with('[')).map(range).collect::<Result<_, _>>()?,
    })
}
