//! A program of the caller's, run as a private server: it keeps its ports, has a log, can be killed and started again, and
//! does not outlive us.
//!
//! It is started through `env -i`, so that nothing of our own environment reaches it but what it was given.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{Read as _, Seek as _, SeekFrom};
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use anyhow::ensure;
use nix::sys::signal::Signal;

use crate::error::{SandboxError, While as _};
use crate::group::Launch;
use crate::server::{Program, Server};
use crate::watchdog::Watchdog;

const LOG: &str = "server.log";
/// `env` would take a program with a `=` in its path for one more variable.
const RUN: &str = r#"exec "$0" "$@""#;

/// What to run, and what to tell it.
#[derive(Debug, Clone)]
pub struct ProcessOptions {
    program: PathBuf,
    arguments: Vec<OsString>,
    environment: Vec<(String, String)>,
    listener: String,
    more_listeners: Vec<String>,
}

/// A running program. Dropped, it is killed.
///
/// `kill` and `stop` have no effect on one that does not run.
pub struct Process {
    server: Server<ProcessProgram>,
    ports: Arc<Ports>,
    listeners: HashMap<String, usize>,
    log: PathBuf,
}

/// The program's ports beyond the first, for as long as it keeps the first.
#[derive(Default)]
struct Ports {
    chosen: Mutex<Option<(u16, Vec<u16>)>>,
}

pub(crate) struct ProcessProgram {
    options: ProcessOptions,
    ports: Arc<Ports>,
    /// Where in the log the present start begins.
    log_start: AtomicU64,
}

impl ProcessOptions {
    /// A program with an empty environment, told in the variable `listener` where to listen: `127.0.0.1:port`.
    ///
    /// It counts as started once it has written `http://127.0.0.1:port` to its stdout or stderr, which go to its log.
    pub fn new(program: impl Into<PathBuf>, listener: &str) -> Self {
        Self {
            program: program.into(),
            arguments: Vec::new(),
            environment: Vec::new(),
            listener: listener.to_owned(),
            more_listeners: Vec::new(),
        }
    }

    #[must_use]
    pub fn argument(mut self, argument: impl Into<OsString>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    #[must_use]
    pub fn variable(mut self, name: &str, value: impl Into<String>) -> Self {
        self.environment.push((name.to_owned(), value.into()));
        self
    }

    /// One more variable that gets an address to listen on.
    #[must_use]
    pub fn listener(mut self, variable: &str) -> Self {
        self.more_listeners.push(variable.to_owned());
        self
    }
}

impl Process {
    /// Where it listens, as it was told in this variable; the same at every start.
    ///
    /// # Panics
    /// If the variable is none of its listeners.
    pub fn address(&self, variable: &str) -> SocketAddr {
        let port = match self.listeners[variable] {
            0 => self.server.port(),
            more => self.ports.beside(self.server.port(), 0).map_or(0, |ports| ports[more - 1]),
        };
        SocketAddr::from((Ipv4Addr::LOCALHOST, port))
    }

    /// `None` while it does not run.
    pub fn pid(&self) -> Option<u32> {
        self.server.pid()
    }

    /// What all its starts have written.
    pub fn log(&self) -> &Path {
        &self.log
    }

    /// SIGKILL; returns when it is gone.
    pub fn kill(&self) {
        self.server.kill();
    }

    /// Starts it again, on the same ports; one that still runs is stopped first.
    pub async fn restart(&self) -> Result<(), SandboxError> {
        self.server.restart().await
    }

    /// SIGTERM, and waits for it.
    pub async fn stop(&self) -> Result<(), SandboxError> {
        self.server.stop().await
    }
}

pub(crate) async fn open(
    watchdog: &Arc<Watchdog>,
    folder: PathBuf,
    options: ProcessOptions,
) -> Result<Process, SandboxError> {
    fs::create_dir_all(&folder).during("making a folder for a process")?;
    let variables = std::iter::once(&options.listener).chain(&options.more_listeners);
    let listeners = variables.enumerate().map(|(position, variable)| (variable.clone(), position)).collect();
    let (ports, log) = (Arc::<Ports>::default(), folder.join(LOG));
    let program = ProcessProgram { options, ports: Arc::clone(&ports), log_start: AtomicU64::new(0) };
    Ok(Process { server: Server::open(program, watchdog, folder).await?, ports, listeners, log })
}

impl Ports {
    /// The ports that go with this first one; `count` new ones if it is a new one.
    fn beside(&self, first: u16, count: usize) -> std::io::Result<Vec<u16>> {
        let mut chosen = self.lock();
        match &*chosen {
            Some((before, more)) if *before == first => Ok(more.clone()),
            _ => {
                // Held until all are chosen, so that no two are the same.
                let listeners = (0..count).map(|_| TcpListener::bind((Ipv4Addr::LOCALHOST, 0)));
                let listeners = listeners.collect::<std::io::Result<Vec<_>>>()?;
                let more = listeners.iter().map(|listener| Ok(listener.local_addr()?.port()));
                let more = more.collect::<std::io::Result<Vec<_>>>()?;
                *chosen = Some((first, more.clone()));
                Ok(more)
            }
        }
    }

    fn lock(&self) -> MutexGuard<'_, Option<(u16, Vec<u16>)>> {
        self.chosen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Program for ProcessProgram {
    const NAME: &'static str = "the process";

    fn launch(&self, folder: &Path, port: u16) -> Result<Launch, SandboxError> {
        let options = &self.options;
        let length = fs::metadata(folder.join(LOG)).during("measuring a process's log")?.len();
        self.log_start.store(length, Ordering::Relaxed);
        let more = self.ports.beside(port, options.more_listeners.len()).during("looking for a free port")?;
        let listening = std::iter::once((&options.listener, port)).chain(options.more_listeners.iter().zip(more));
        let mut arguments = vec![OsString::from("-i")];
        arguments.extend(options.environment.iter().map(|(name, value)| format!("{name}={value}").into()));
        arguments.extend(listening.map(|(name, port)| format!("{name}=127.0.0.1:{port}").into()));
        arguments.extend(["/bin/sh", "-c", RUN].map(OsString::from));
        arguments.push(options.program.clone().into());
        arguments.extend(options.arguments.iter().cloned());
        Ok(Launch {
            program: "/usr/bin/env".into(),
            arguments,
            folder: folder.to_owned(),
            user: None,
            stop: Signal::SIGTERM,
            end: Signal::SIGKILL,
        })
    }

    /// What it says in its own log cannot come from somebody else who has the port.
    async fn probe(&self, folder: &Path, port: u16, _pid: i32) -> anyhow::Result<String> {
        let mut log = File::open(folder.join(LOG))?;
        log.seek(SeekFrom::Start(self.log_start.load(Ordering::Relaxed)))?;
        let mut said = Vec::new();
        log.read_to_end(&mut said)?;
        ensure!(names(&String::from_utf8_lossy(&said), port), "it has not said that it listens on port {port}");
        Ok(String::new())
    }
}

fn names(text: &str, port: u16) -> bool {
    let address = format!("http://127.0.0.1:{port}");
    text.split(&address).skip(1).any(|rest| !rest.starts_with(|next: char| next.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use crate::{ProcessOptions, Sandbox};

    #[tokio::test]
    async fn a_process_keeps_its_ports_and_has_nothing_in_its_environment_but_what_it_was_given() {
        let sandbox = Sandbox::temporary().unwrap();
        let script = r#"echo "$GIVEN, ${HOME-nothing else}, $MORE"; echo "http://$HERE"; exec sleep 600"#;
        let options = ProcessOptions::new("/bin/sh", "HERE").argument("-c").argument(script);
        let process = sandbox.process("talker", options.variable("GIVEN", "a=b c").listener("MORE")).await.unwrap();
        let (here, more) = (process.address("HERE"), process.address("MORE"));
        assert_ne!(here, more);

        let first = process.pid().unwrap();
        process.kill();
        assert_eq!(process.pid(), None);
        process.restart().await.unwrap();
        assert_ne!(process.pid().unwrap(), first);
        assert_eq!((process.address("HERE"), process.address("MORE")), (here, more));

        process.stop().await.unwrap();
        let said = std::fs::read_to_string(process.log()).unwrap();
        assert_eq!(said, format!("a=b c, nothing else, {more}\nhttp://{here}\n").repeat(2));
    }

    #[tokio::test]
    async fn a_process_that_ends_at_once_is_an_error_with_its_last_words() {
        let sandbox = Sandbox::temporary().unwrap();
        let options = ProcessOptions::new("/bin/sh", "HERE").argument("-c").argument("echo no such luck; exit 3");
        let error = sandbox.process("unlucky", options).await.err().unwrap().to_string();
        assert!(error.contains("no such luck") && error.contains('3'), "{error}");
    }

    #[test]
    fn a_port_is_not_found_in_a_longer_one() {
        assert!(super::names("serving on http://127.0.0.1:4123 public", 4123));
        assert!(super::names("http://127.0.0.1:41234 http://127.0.0.1:4123", 4123));
        assert!(!super::names("serving on http://127.0.0.1:41234", 4123));
    }
}
