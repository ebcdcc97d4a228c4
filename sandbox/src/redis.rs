//! A private Redis, durable by default: what it has acknowledged is on disk, and it never evicts.

use std::fmt::Write as _;
use std::fs;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, bail, ensure};
use nix::sys::signal::Signal;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

use crate::error::{SandboxError, While as _};
use crate::group::Launch;
use crate::programs;
use crate::server::{Program, Server};
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

    fn configuration(&self, port: u16) -> String {
        let append_fsync = match self.append_fsync {
            AppendFsync::Always => "always",
            AppendFsync::EverySecond => "everysec",
            AppendFsync::Never => "no",
        };
        let mut lines = format!(
            "bind 127.0.0.1\nprotected-mode yes\nport {port}\ndaemonize no\ndir .\nlogfile \"\"\n\
             save \"\"\nappendonly yes\nappendfsync {append_fsync}\nmaxmemory-policy noeviction\nrepl-backlog-ttl 0\n"
        );
        for (name, value) in &self.settings {
            // Writing to a String cannot fail.
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
        Ok(Self { redis_server: programs::redis_server()?, options })
    }
}

impl Program for RedisProgram {
    const NAME: &'static str = "redis-server";

    fn launch(&self, folder: &Path, port: u16) -> Result<Launch, SandboxError> {
        fs::write(folder.join("redis.conf"), self.options.configuration(port)).during("writing redis.conf")?;
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
        let mut stream = BufReader::new(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await?);
        stream.write_all(b"PING\r\nINFO server\r\n").await?;

        let mut line = String::new();
        stream.read_line(&mut line).await?;
        ensure!(line.trim_end() == "+PONG", "it answered PING with {line:?}");

        line.clear();
        stream.read_line(&mut line).await?;
        let Some(length) = line.trim_end().strip_prefix('$') else { bail!("it answered INFO with {line:?}") };
        let mut info = vec![0; length.parse()?];
        stream.read_exact(&mut info).await?;
        let info = String::from_utf8(info)?;

        let field = |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        ensure!(field("process_id") == Some(pid.to_string().as_str()), "another Redis has port {port}");
        Ok(field("redis_version").context("INFO without redis_version")?.to_owned())
    }
}
