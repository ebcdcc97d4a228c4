//! A private Redis, durable by default: what it has acknowledged is on disk, and it never evicts.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context as _, ensure};
use nix::sys::signal::Signal;

use crate::certificate::Certificate;
use crate::error::{SandboxError, While as _};
use crate::group::Launch;
use crate::programs;
use crate::resp;
use crate::server::{Program, Server, free_port};
use crate::watchdog::Watchdog;

/// A private Redis server.
pub type Redis = Server<RedisProgram>;

/// When Redis calls fsync on its append-only file.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum AppendFsync {
    /// Before every answer to a write: nothing acknowledged is ever lost.
    #[default]
    Always,
    /// A killed Redis loses nothing, since the kernel has the writes; a machine that loses power loses a second.
    EverySecond,
    Never,
}

/// How a private Redis differs from the usual one.
#[derive(Debug, Clone, Default)]
pub struct RedisOptions {
    append_fsync: AppendFsync,
    settings: Vec<(String, String)>,
    has_bus: bool,
    certificate: Option<Certificate>,
}

impl RedisOptions {
    /// Says when to fsync; [`AppendFsync::Always`] unless told otherwise.
    #[must_use]
    pub fn append_fsync(mut self, append_fsync: AppendFsync) -> Self {
        self.append_fsync = append_fsync;
        self
    }

    /// Adds a line of redis.conf, after ours: `setting("client-output-buffer-limit", "replica 0 0 0")`.
    /// Leave `port`, `bind`, `dir`, `logfile`, `daemonize` and passwords alone: the sandbox needs its own.
    #[must_use]
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Opens a second port, over TLS in the name of `certificate`; the nodes of a cluster speak to each other over TLS
    /// too. `CONFIG GET tls-port` says which it is: another one with each start.
    #[must_use]
    pub fn tls(mut self, certificate: &Certificate) -> Self {
        self.certificate = Some(certificate.clone());
        self
    }

    /// Makes it a node of a cluster, with a bus port of its own.
    pub(crate) fn cluster_node(mut self) -> Self {
        self.has_bus = true;
        self.setting("cluster-enabled", "yes")
    }

    fn configuration(&self, port: u16, bus_port: Option<u16>) -> String {
        let append_fsync = match self.append_fsync {
            AppendFsync::Always => "always",
            AppendFsync::EverySecond => "everysec",
            AppendFsync::Never => "no",
        };
        let mut lines = format!(
            "bind 127.0.0.1\nprotected-mode yes\nport {port}\ndaemonize no\ndir .\nlogfile \"\"\n\
             save \"\"\nappendonly yes\nappendfsync {append_fsync}\nmaxmemory-policy noeviction\nrepl-backlog-ttl 0\n"
        );
        // Writing to a String cannot fail.
        if let Some(bus_port) = bus_port {
            let _ = writeln!(lines, "cluster-port {bus_port}");
        }
        for (name, value) in &self.settings {
            let _ = writeln!(lines, "{name} {value}");
        }
        lines
    }
}

impl Redis {
    /// `redis://127.0.0.1:port`
    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port())
    }
}

/// The installed `redis-server` and how to configure it.
pub struct RedisProgram {
    redis_server: PathBuf,
    options: RedisOptions,
    /// Port and bus port of the last start: a node that is restarted keeps both, so that the others find it.
    ports: Mutex<Option<(u16, u16)>>,
}

pub(crate) async fn open(
    watchdog: &Arc<Watchdog>,
    folder: PathBuf,
    options: RedisOptions,
) -> Result<Redis, SandboxError> {
    let program = RedisProgram::find(options)?;
    fs::create_dir_all(&folder).during("making a folder for Redis")?;
    Server::open(program, watchdog, folder).await
}

impl RedisProgram {
    pub(crate) fn find(options: RedisOptions) -> Result<Self, SandboxError> {
        Ok(Self { redis_server: programs::redis_server()?, options, ports: Mutex::new(None) })
    }

    fn bus_port(&self, port: u16) -> Result<Option<u16>, SandboxError> {
        if !self.options.has_bus {
            return Ok(None);
        }
        let mut ports = self.ports.lock().unwrap_or_else(PoisonError::into_inner);
        let bus_port = match *ports {
            Some((before, bus_port)) if before == port => bus_port,
            _ => free_port()?,
        };
        *ports = Some((port, bus_port));
        Ok(Some(bus_port))
    }
}

impl Program for RedisProgram {
    const NAME: &'static str = "redis-server";

    fn launch(&self, folder: &Path, port: u16) -> Result<Launch, SandboxError> {
        let mut configuration = self.options.configuration(port, self.bus_port(port)?);
        if let Some(certificate) = &self.options.certificate {
            fs::write(folder.join("key.pem"), certificate.key_pem()).during("writing a key")?;
            let file = certificate.path().display();
            // Writing to a String cannot fail.
            let _ = write!(
                configuration,
                "tls-port {}\ntls-cert-file {file}\ntls-key-file key.pem\ntls-ca-cert-file {file}\ntls-auth-clients no\n\
                 tls-cluster yes\ntls-replication yes\n",
                free_port()?
            );
        }
        fs::write(folder.join("redis.conf"), configuration).during("writing redis.conf")?;
        Ok(Launch {
            program: self.redis_server.clone(),
            arguments: vec!["redis.conf".into()],
            folder: folder.to_owned(),
            user: None,
            stop: Signal::SIGTERM,
            end: Signal::SIGKILL,
        })
    }

    /// `PING`, since Redis accepts connections while it still loads its data, and `INFO` to learn who answers.
    async fn probe(&self, _folder: &Path, port: u16, pid: i32) -> anyhow::Result<String> {
        let answer = resp::ask(port, "PING").await?;
        ensure!(answer == "PONG", "it answered PING with {answer:?}");
        let info = resp::ask(port, "INFO server").await?;
        ensure!(resp::field(&info, "process_id") == Some(&*pid.to_string()), "another Redis has port {port}");
        Ok(resp::field(&info, "redis_version").context("INFO without redis_version")?.to_owned())
    }
}
