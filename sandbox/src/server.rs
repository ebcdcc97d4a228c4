//! What a private Redis and a private Postgres have in common: a port, a log, a life.
//!
//! A server keeps its port for life, so that clients find it again after a restart.

use std::fs::{self, File};
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout};

use crate::error::{SandboxError, While as _};
use crate::group::{Group, Launch};
use crate::watchdog::Watchdog;

/// How long a start may take: initdb and crash recovery need seconds on a busy two-core runner, so ten times that.
const START_DEADLINE: Duration = Duration::from_secs(30);
/// How long an orderly stop may take before the server is killed: Postgres writes a checkpoint of up to 2 GB.
const STOP_DEADLINE: Duration = Duration::from_secs(30);
/// How long one look at a starting server may take: a server that accepts and is silent must not eat the deadline.
const PROBE_DEADLINE: Duration = Duration::from_secs(1);
const POLL: Duration = Duration::from_millis(10);
/// A free port can be taken between our looking and the server's binding: rare, so this is never reached by chance.
const PORT_ATTEMPTS: u32 = 20;
/// Between two attempts, for a restart that has to wait until its own port is free again: 2 s in all.
const PORT_PAUSE: Duration = Duration::from_millis(100);
const LOG_LINES: usize = 20;

/// The part that differs between Redis and Postgres. Sealed: nobody else can name it.
pub trait Program: Send + Sync + 'static {
    #[doc(hidden)]
    const NAME: &'static str;
    #[doc(hidden)]
    fn launch(&self, folder: &Path, port: u16) -> Result<Launch, SandboxError>;
    /// The version, should the process `pid` answer on `port`; somebody else's answer is an error.
    #[doc(hidden)]
    fn probe(&self, folder: &Path, port: u16, pid: i32) -> impl Future<Output = anyhow::Result<String>> + Send;
}

/// A private server on a loopback port. Dropped, it is ended; its data stays as long as its sandbox's folder.
///
/// What is said to a server that does not run (`pause`, `resume`, `kill`, `stop`) has no effect.
pub struct Server<P: Program> {
    program: P,
    watchdog: Arc<Watchdog>,
    folder: PathBuf,
    port: u16,
    version: String,
    /// A plain mutex: held for milliseconds and never across an await. `None` while the server is down.
    group: Mutex<Option<Group>>,
    /// Held through `restart` and `stop`, which take long and must not mix.
    turn: tokio::sync::Mutex<()>,
}

impl<P: Program> Server<P> {
    /// Starts a server in `folder`, which exists.
    pub(crate) async fn open(program: P, watchdog: &Arc<Watchdog>, folder: PathBuf) -> Result<Self, SandboxError> {
        let up = start(&program, watchdog, &folder, free_port).await?;
        Ok(Self {
            program,
            watchdog: Arc::clone(watchdog),
            folder,
            port: up.port,
            version: up.version,
            group: Mutex::new(Some(up.group)),
            turn: tokio::sync::Mutex::new(()),
        })
    }

    pub fn port(&self) -> u16 {
        self.port
    }

    /// As the server says it, for example `7.0.15`.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// The server's process; `None` while it is down.
    pub fn pid(&self) -> Option<u32> {
        let pid = |group: &mut Group| group.exited().is_none().then(|| group.pid().as_raw().cast_unsigned());
        self.with_group(pid).flatten()
    }

    /// The end of its log; nothing if that cannot be read.
    pub(crate) fn last_lines(&self) -> String {
        Log::whole(&self.folder).map(|log| log.last_lines()).unwrap_or_default()
    }

    /// Kills the server with all its processes (SIGKILL); returns when none of them runs any more.
    pub fn kill(&self) {
        if let Some(mut group) = self.take() {
            group.kill();
        }
    }

    /// Stops all its processes (SIGSTOP): it still accepts connections, since the kernel does, but says nothing.
    pub fn pause(&self) {
        self.with_group(Group::pause);
    }

    /// Undoes [`Server::pause`] (SIGCONT).
    pub fn resume(&self) {
        self.with_group(Group::resume);
    }

    /// Ends the server in an orderly way and waits for it.
    pub async fn stop(&self) -> Result<(), SandboxError> {
        let _turn = self.turn.lock().await;
        self.end_orderly().await
    }

    /// Starts the server again, on the same port and data; one that still runs is stopped first.
    pub async fn restart(&self) -> Result<(), SandboxError> {
        let _turn = self.turn.lock().await;
        self.end_orderly().await?;
        let up = start(&self.program, &self.watchdog, &self.folder, || Ok(self.port)).await?;
        *self.lock() = Some(up.group);
        Ok(())
    }

    async fn end_orderly(&self) -> Result<(), SandboxError> {
        self.with_group(Group::ask_to_stop);
        let deadline = Instant::now() + STOP_DEADLINE;
        // Absent counts as ended: somebody may kill it while we wait.
        while self.with_group(Group::exited).is_some_and(|exited| exited.is_none()) {
            if Instant::now() >= deadline {
                self.kill();
                let (program, log) = (P::NAME, Log::whole(&self.folder)?.last_lines());
                return Err(SandboxError::KilledWhileStopping { program, waited: STOP_DEADLINE, log });
            }
            sleep(POLL).await;
        }
        drop(self.take());
        Ok(())
    }

    fn with_group<T>(&self, act: impl FnOnce(&mut Group) -> T) -> Option<T> {
        self.lock().as_mut().map(act)
    }

    fn take(&self) -> Option<Group> {
        self.lock().take()
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Group>> {
        self.group.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A server that has answered.
struct Up {
    group: Group,
    port: u16,
    version: String,
}

/// Starts `program` on the port that `choose_port` gives, again if that is taken, and waits until it answers.
async fn start<P: Program>(
    program: &P,
    watchdog: &Arc<Watchdog>,
    folder: &Path,
    choose_port: impl Fn() -> Result<u16, SandboxError>,
) -> Result<Up, SandboxError> {
    let mut attempts = 0;
    loop {
        attempts += 1;
        let port = choose_port()?;
        let log = Log::open(folder)?;
        let mut group = Group::start(watchdog, &program.launch(folder, port)?, &log.file)?;
        match answer(program, folder, port, &mut group, &log).await {
            Ok(version) => return Ok(Up { group, port, version }),
            // What both programs print (strerror of EADDRINUSE).
            Err(SandboxError::Ended { log, .. }) if log.contains("Address already in use") => {
                if attempts == PORT_ATTEMPTS {
                    return Err(SandboxError::PortTaken { program: P::NAME, attempts, port });
                }
                sleep(PORT_PAUSE).await;
            }
            Err(error) => return Err(error),
        }
    }
}

/// Waits until the server answers; gives its version.
async fn answer<P: Program>(
    program: &P,
    folder: &Path,
    port: u16,
    group: &mut Group,
    log: &Log,
) -> Result<String, SandboxError> {
    let deadline = Instant::now() + START_DEADLINE;
    loop {
        if let Some(status) = group.exited() {
            return Err(SandboxError::Ended { program: P::NAME, status, log: log.last_lines() });
        }
        let probe = timeout(PROBE_DEADLINE, program.probe(folder, port, group.pid().as_raw()));
        let reason = match probe.await {
            Ok(Ok(version)) => return Ok(version),
            Ok(Err(error)) => format!("{error:#}"),
            Err(elapsed) => elapsed.to_string(),
        };
        if Instant::now() >= deadline {
            let log = log.last_lines();
            return Err(SandboxError::NotReady { program: P::NAME, waited: START_DEADLINE, reason, log });
        }
        sleep(POLL).await;
    }
}

/// Runs something to its end, such as initdb, under the watchdog like any server.
pub(crate) async fn run(
    program: &'static str,
    watchdog: &Arc<Watchdog>,
    folder: &Path,
    launch: &Launch,
) -> Result<(), SandboxError> {
    let log = Log::open(folder)?;
    let mut group = Group::start(watchdog, launch, &log.file)?;
    let deadline = Instant::now() + START_DEADLINE;
    loop {
        match group.exited() {
            Some(status) if status.success() => return Ok(()),
            Some(status) => return Err(SandboxError::Ended { program, status, log: log.last_lines() }),
            None if Instant::now() >= deadline => {
                let (reason, log) = ("it still runs".to_owned(), log.last_lines());
                return Err(SandboxError::NotReady { program, waited: START_DEADLINE, reason, log });
            }
            None => sleep(POLL).await,
        }
    }
}

pub(crate) fn free_port() -> Result<u16, SandboxError> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
    Ok(listener.during("looking for a free port")?.port())
}

/// `server.log` in the server's folder, and where in it the present start begins.
struct Log {
    path: PathBuf,
    file: File,
    start: usize,
}

impl Log {
    fn whole(folder: &Path) -> Result<Self, SandboxError> {
        let path = folder.join("server.log");
        let file = File::options().create(true).append(true).open(&path).during("opening a server's log")?;
        Ok(Self { path, file, start: 0 })
    }

    fn open(folder: &Path) -> Result<Self, SandboxError> {
        let log = Self::whole(folder)?;
        let length = log.file.metadata().during("measuring a server's log")?.len();
        Ok(Self { start: usize::try_from(length).unwrap_or(usize::MAX), ..log })
    }

    fn last_lines(&self) -> String {
        let bytes = fs::read(&self.path).unwrap_or_default();
        let text = String::from_utf8_lossy(bytes.get(self.start..).unwrap_or_default());
        let lines: Vec<&str> = text.lines().collect();
        lines[lines.len().saturating_sub(LOG_LINES)..].join("\n")
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use super::*;
    use crate::redis::RedisProgram;

    #[tokio::test]
    async fn a_server_whose_port_is_taken_gets_another_one() {
        let folder = tempfile::tempdir().unwrap();
        let watchdog = Arc::new(Watchdog::removing(folder.path()).unwrap());
        let program = RedisProgram::find(crate::RedisOptions::default()).unwrap();
        let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let taken = (taken.local_addr().unwrap().port(), taken);

        let attempts = Cell::new(0);
        let choose_port = || {
            attempts.set(attempts.get() + 1);
            if attempts.get() == 1 { Ok(taken.0) } else { free_port() }
        };
        let up = start(&program, &watchdog, folder.path(), choose_port).await.unwrap();
        assert_ne!(up.port, taken.0);
        assert_eq!(attempts.get(), 2);
    }
}
