#![doc = include_str!("../README.md")]

// In reading order.
mod error;
mod group;
mod postgres;
mod programs;
mod redis;
mod redis_cluster;
mod resp;
mod server;
mod process;
mod watchdog;
pub mod shared;
pub mod certificate;
pub mod provider;
pub mod smtp_sink;
pub mod webhook_sink;
pub mod beacon;
pub mod browser;
pub mod crowd;

use std::fs::{self, File, Permissions, TryLockError};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

pub use crate::error::SandboxError;
pub use crate::postgres::{Postgres, PostgresAddress, PostgresOptions, PostgresProgram};
pub use crate::process::{Process, ProcessOptions};
pub use crate::redis::{AppendFsync, Redis, RedisOptions, RedisProgram};
pub use crate::redis_cluster::{RedisCluster, RedisClusterOptions};
pub use crate::server::Server;

use crate::error::While as _;
use crate::watchdog::Watchdog;

/// How long [`Sandbox::in_folder`] waits for the folder: a watchdog needs up to 4 s to end what a killed owner left.
const FOLDER_PATIENCE: Duration = Duration::from_secs(5);

/// A folder in which private servers run, and the watchdog that ends them when this process dies, however it dies.
///
/// Clones are handles of the same sandbox. It lives as long as the last clone or the last server started in it.
#[derive(Clone)]
pub struct Sandbox {
    inner: Arc<Inner>,
}

struct Inner {
    folder: PathBuf,
    watchdog: Arc<Watchdog>,
    redis_started: AtomicU32,
    postgres_started: AtomicU32,
}

impl Sandbox {
    /// A sandbox in a new folder below the system's temporary folder; the folder is removed at the end.
    pub fn temporary() -> Result<Self, SandboxError> {
        // Started by root, Postgres runs as somebody else, who has to be able to walk through this folder.
        let mode = if nix::unistd::Uid::effective().is_root() { 0o711 } else { 0o700 };
        let made = tempfile::Builder::new()
            .prefix("doorbuster-")
            .permissions(Permissions::from_mode(mode))
            .tempdir()
            .during("making a temporary folder")?;
        let watchdog = Watchdog::removing(made.path())?;
        Ok(Self::new(made.keep(), watchdog))
    }

    /// A sandbox in a folder of yours, made if need be, never removed: the next sandbox in it finds the data again.
    ///
    /// The first Redis of each sandbox uses `redis-1`, the second `redis-2`, and likewise for Postgres. One sandbox at
    /// a time can use a folder.
    pub fn in_folder(path: &Path) -> Result<Self, SandboxError> {
        fs::create_dir_all(path).during("making the folder of the sandbox")?;
        let folder = path.canonicalize().during("finding the folder of the sandbox")?;
        let lock = File::create(folder.join("lock")).during("making the lock of the sandbox")?;
        // Locking what we have locked already succeeds, so the last answer is the one that counts.
        group::wait_until(FOLDER_PATIENCE, || !matches!(lock.try_lock(), Err(TryLockError::WouldBlock)));
        match lock.try_lock() {
            Ok(()) => Ok(Self::new(folder, Watchdog::holding(lock)?)),
            Err(TryLockError::WouldBlock) => Err(SandboxError::FolderInUse { folder }),
            Err(TryLockError::Error(error)) => Err(error).during("locking the folder of the sandbox"),
        }
    }

    fn new(folder: PathBuf, watchdog: Watchdog) -> Self {
        let inner = Inner {
            folder,
            watchdog: Arc::new(watchdog),
            redis_started: AtomicU32::new(0),
            postgres_started: AtomicU32::new(0),
        };
        Self { inner: Arc::new(inner) }
    }

    /// Where the servers keep their data, configuration and logs.
    pub fn folder(&self) -> &Path {
        &self.inner.folder
    }

    /// Starts one more Redis: append-only file, fsync on every write, no eviction.
    pub async fn redis(&self) -> Result<Redis, SandboxError> {
        self.redis_with(RedisOptions::default()).await
    }

    /// Starts one more Redis, configured differently.
    pub async fn redis_with(&self, options: RedisOptions) -> Result<Redis, SandboxError> {
        let number = 1 + self.inner.redis_started.fetch_add(1, Ordering::Relaxed);
        redis::open(&self.inner.watchdog, self.inner.folder.join(format!("redis-{number}")), options).await
    }

    /// Starts a primary and `replicas` replicas of it; returns when all of them are linked and hold the same.
    pub async fn redis_with_replicas(
        &self,
        options: RedisOptions,
        replicas: usize,
    ) -> Result<(Redis, Vec<Redis>), SandboxError> {
        redis_cluster::with_replicas(self, options, replicas).await
    }

    /// Starts a Redis Cluster: three primaries with a replica each, unless told otherwise.
    pub async fn redis_cluster(&self, options: RedisClusterOptions) -> Result<RedisCluster, SandboxError> {
        redis_cluster::open(self, options).await
    }

    /// Starts one more Postgres: loopback only, everybody trusted, durable as in production.
    pub async fn postgres(&self) -> Result<Postgres, SandboxError> {
        self.postgres_with(PostgresOptions::default()).await
    }

    /// Starts one more Postgres, configured differently.
    pub async fn postgres_with(&self, options: PostgresOptions) -> Result<Postgres, SandboxError> {
        let number = 1 + self.inner.postgres_started.fetch_add(1, Ordering::Relaxed);
        postgres::open(&self.inner.watchdog, self.inner.folder.join(format!("postgres-{number}")), options).await
    }

    /// Starts a program of the caller's in a folder of this name, which no other process of the sandbox has.
    pub async fn process(&self, name: &str, options: ProcessOptions) -> Result<Process, SandboxError> {
        process::open(&self.inner.watchdog, self.inner.folder.join(name), options).await
    }
}
