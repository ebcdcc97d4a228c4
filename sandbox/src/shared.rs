//! The servers that all tests of a run share: a Redis, a Redis Cluster and a Postgres that nobody kills.
//!
//! `doorbuster-sandbox servers --for-tests -- COMMAND` starts them once and names them in the environment of COMMAND. A test
//! process that finds no such names starts its own, once. Either way what a test makes in them carries a name of its own: other
//! tests, and other processes, are there at the same time. A test that hurts a server starts one in [`sandbox`].

use std::sync::LazyLock;

use tokio::sync::OnceCell;
use uuid::Uuid;

use crate::Sandbox;
use crate::error::SandboxError;
use crate::postgres::{Postgres, PostgresAddress, PostgresOptions};
use crate::programs::variable;
use crate::redis::{AppendFsync, Redis, RedisOptions};
use crate::redis_cluster::{self, RedisCluster, RedisClusterOptions};

const REDIS: &str = "DOORBUSTER_TEST_REDIS_URL";
const CLUSTER: &str = "DOORBUSTER_TEST_CLUSTER_URL";
const POSTGRES: &str = "DOORBUSTER_TEST_POSTGRES_URL";

/// Tests of several processes, each with pools of its own, are connected at once.
const CONNECTIONS_MAX: u32 = 600;

/// Servers for the tests of other processes.
pub struct TestServers {
    redis: Redis,
    cluster: RedisCluster,
    postgres: Postgres,
}

impl TestServers {
    pub async fn start(sandbox: &Sandbox) -> Result<Self, SandboxError> {
        let (redis, cluster, postgres) =
            tokio::try_join!(start_redis(sandbox), start_cluster(sandbox), start_postgres(sandbox))?;
        Ok(Self { redis, cluster, postgres })
    }

    /// What a test process finds them by.
    pub fn environment(&self) -> [(&'static str, String); 3] {
        [(REDIS, self.redis.url()), (CLUSTER, self.cluster.url()), (POSTGRES, self.postgres.url())]
    }
}

/// The sandbox of this process, for servers of a test's own.
pub fn sandbox() -> &'static Sandbox {
    static SANDBOX: LazyLock<Sandbox> = LazyLock::new(|| Sandbox::temporary().expect("a folder for servers"));
    &SANDBOX
}

/// Address of the shared Redis.
pub async fn redis_url() -> String {
    static OWN: OnceCell<Redis> = OnceCell::const_new();
    match variable(REDIS) {
        Some(url) => url,
        None => OWN.get_or_init(async || start_redis(sandbox()).await.expect("redis-server")).await.url(),
    }
}

/// Address of the shared Redis Cluster: three primaries with a replica each.
pub async fn cluster_url() -> String {
    static OWN: OnceCell<RedisCluster> = OnceCell::const_new();
    match variable(CLUSTER) {
        Some(url) => url,
        None => OWN.get_or_init(async || start_cluster(sandbox()).await.expect("a Redis Cluster")).await.url(),
    }
}

/// Whether `DOORBUSTER_TEST_ON=cluster` asks for the cluster where a test would take the server.
pub fn is_all_on_cluster() -> bool {
    variable("DOORBUSTER_TEST_ON").as_deref() == Some("cluster")
}

/// Address of the server that has `key`: one of the cluster's, or the only one.
pub async fn server_with(url: &str, key: &str) -> String {
    match url.strip_prefix("redis-cluster://") {
        Some(nodes) => redis_cluster::owner_of(nodes, key).await.expect("a node that has the key"),
        None => url.to_owned(),
    }
}

/// The shared Postgres.
pub async fn postgres() -> PostgresAddress {
    static OWN: OnceCell<Postgres> = OnceCell::const_new();
    match variable(POSTGRES) {
        Some(url) => PostgresAddress::parse(&url).unwrap_or_else(|| panic!("{POSTGRES} is no address of ours: {url}")),
        None => OWN.get_or_init(async || start_postgres(sandbox()).await.expect("Postgres")).await.address(),
    }
}

/// A word that no other test of any process has: `[0-9a-f]{24}`, short enough to be part of a drop's name.
pub fn unique() -> String {
    let mut word = Uuid::new_v4().simple().to_string();
    word.truncate(24);
    word
}

async fn start_redis(sandbox: &Sandbox) -> Result<Redis, SandboxError> {
    sandbox.redis_with(unhurried()).await
}

async fn start_cluster(sandbox: &Sandbox) -> Result<RedisCluster, SandboxError> {
    sandbox.redis_cluster(RedisClusterOptions::default().redis(unhurried())).await
}

async fn start_postgres(sandbox: &Sandbox) -> Result<Postgres, SandboxError> {
    sandbox.postgres_with(PostgresOptions::default().connections_max(CONNECTIONS_MAX).short_lived()).await
}

/// Nobody kills them, so no command waits for the disk. A drop opens on no weaker setting than this.
fn unhurried() -> RedisOptions {
    RedisOptions::default().append_fsync(AppendFsync::EverySecond)
}
