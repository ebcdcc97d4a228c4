//! The program, started with an environment of its own and read line by line.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Output, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use doorbuster_sandbox::provider::FakeProvider;
use doorbuster_sandbox::{Sandbox, shared};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};

use crate::support::SECRET;

/// Far more than any of this takes; past it something hangs.
pub(crate) const PATIENCE: Duration = Duration::from_secs(40);

/// A copy: somebody who builds meanwhile must not swap the program between two starts of one test. It lies in a sandbox of
/// its own, which goes when this process does.
fn program() -> &'static Path {
    static PROGRAM: OnceLock<(Sandbox, PathBuf)> = OnceLock::new();
    let (_, program) = PROGRAM.get_or_init(|| {
        let sandbox = Sandbox::temporary().unwrap();
        let copy = sandbox.folder().join("doorbuster");
        std::fs::copy(env!("CARGO_BIN_EXE_doorbuster"), &copy).unwrap();
        (sandbox, copy)
    });
    program
}

/// The program with nothing in its environment.
pub(crate) fn bare(arguments: &[&str]) -> Command {
    let mut command = Command::new(program());
    command.args(arguments).env_clear().stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// The program with stores, free ports, and a log that can be read.
pub(crate) async fn configured(arguments: &[&str], database_url: &str) -> Command {
    let mut command = bare(arguments);
    command
        .env("DOORBUSTER_REDIS_URL", shared::redis_url().await)
        .env("DOORBUSTER_DATABASE_URL", database_url)
        .env("DOORBUSTER_JWT_SECRET", SECRET)
        .env("DOORBUSTER_LISTEN", "127.0.0.1:0")
        .env("DOORBUSTER_OPS_LISTEN", "127.0.0.1:0")
        // No load balancer looks on.
        .env("DOORBUSTER_STOP_WAIT", "0s")
        .env("DOORBUSTER_LOG_FORMAT", "json");
    command
}

pub(crate) fn with_provider<'a>(command: &'a mut Command, provider: &FakeProvider) -> &'a mut Command {
    command
        .env("DOORBUSTER_PROVIDER_URL", provider.url())
        .env("DOORBUSTER_PROVIDER_KEY", provider.secret_key())
        .env("DOORBUSTER_SETTLE_EVERY", "100ms")
}

pub(crate) async fn output(mut command: Command) -> Output {
    tokio::time::timeout(PATIENCE, command.output()).await.expect("it ends").unwrap()
}

/// A process that serves or works.
pub(crate) struct Running {
    child: Child,
    /// A lone worker has no API: then it is the operators' address.
    pub(crate) public_addr: SocketAddr,
    pub(crate) ops_addr: SocketAddr,
}

impl Running {
    /// Starts it, and waits until it says where it listens.
    pub(crate) async fn start(command: &mut Command) -> Self {
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let listening = async {
            let mut said = String::new();
            while let Some(line) = lines.next_line().await.unwrap() {
                said += &format!("{line}\n");
                let event: Value = serde_json::from_str(&line).unwrap_or_default();
                if let Some(ops_addr) = event["ops_addr"].as_str() {
                    let public_addr = event["public_addr"].as_str().unwrap_or(ops_addr);
                    return (public_addr.parse().unwrap(), ops_addr.parse().unwrap());
                }
            }
            panic!("it did not start:\n{said}");
        };
        let (public_addr, ops_addr) = tokio::time::timeout(PATIENCE, listening).await.expect("it starts");
        // A full pipe would stop it.
        tokio::spawn(async move { while let Ok(Some(_)) = lines.next_line().await {} });
        Self { child, public_addr, ops_addr }
    }

    /// One that was started otherwise.
    pub(crate) fn of(child: Child, public_addr: SocketAddr, ops_addr: SocketAddr) -> Self {
        Self { child, public_addr, ops_addr }
    }

    pub(crate) fn send(&self, signal: Signal) {
        let pid = self.child.id().expect("nobody has waited for it yet");
        kill(Pid::from_raw(pid.cast_signed()), signal).unwrap();
    }

    pub(crate) async fn wait(mut self) -> ExitStatus {
        tokio::time::timeout(PATIENCE, self.child.wait()).await.expect("it ends").unwrap()
    }

    /// `kill -9`, and nothing of it is left.
    pub(crate) async fn kill(self) {
        self.send(Signal::SIGKILL);
        self.wait().await;
    }
}
