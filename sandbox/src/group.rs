//! A process group that cannot outlive us.
//!
//! A program is started behind a gate, a shell that waits for a word on its stdin. We register the group with the
//! watchdog, then say the word, and the shell becomes the program. Should we die in between, the shell reads the end of
//! the pipe and exits: no moment exists in which the program runs unregistered.
//!
//! Postgres' backends leave the group (each calls setsid), so every operation here covers the leader's children too.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;

use crate::error::{SandboxError, While as _};
use crate::watchdog::Watchdog;

const GATE: &str = r#"read -r word && [ "$word" = go ] && exec "$0" "$@" </dev/null"#;
/// How often a condition is looked at while waiting for it.
const POLL: Duration = Duration::from_millis(2);
/// How long a dropped group may take to end by its own signal before it is killed.
const END_PATIENCE: Duration = Duration::from_secs(2);
/// How long the kernel may take to stop a process or to take down a killed one: an fsync under way is waited for.
const KERNEL_PATIENCE: Duration = Duration::from_secs(5);

/// What to start, where, and as whom.
pub struct Launch {
    pub(crate) program: PathBuf,
    pub(crate) arguments: Vec<OsString>,
    pub(crate) folder: PathBuf,
    /// Another user than ours; only root can do that.
    pub(crate) user: Option<(u32, u32)>,
    /// What makes the leader end in an orderly way.
    pub(crate) stop: Signal,
    /// What makes the leader end at once, leaving nothing behind outside its folder.
    pub(crate) end: Signal,
}

/// A running group. Dropped, it is ended, and `drop` returns when it has ended.
pub(crate) struct Group {
    leader: Child,
    stop: Signal,
    end: Signal,
    registered: bool,
    watchdog: Arc<Watchdog>,
}

impl Group {
    /// Starts `launch`, its output appended to `log`.
    pub(crate) fn start(watchdog: &Arc<Watchdog>, launch: &Launch, log: &File) -> Result<Self, SandboxError> {
        let doing = format!("starting {}", launch.program.display());
        let leader = gate(launch, log).during(&doing)?;
        let mut group =
            Self { leader, stop: launch.stop, end: launch.end, registered: false, watchdog: Arc::clone(watchdog) };
        watchdog.add(group.pid(), launch.end)?;
        group.registered = true;
        if let Some(mut stdin) = group.leader.stdin.take() {
            stdin.write_all(b"go\n").during(&doing)?;
        }
        Ok(group)
    }

    /// The leader's process id, which is the group's number.
    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(self.leader.id().cast_signed())
    }

    /// How the leader ended, if it has.
    pub(crate) fn exited(&mut self) -> Option<ExitStatus> {
        let status = self.leader.try_wait().ok().flatten();
        if status.is_some() {
            self.forget();
        }
        status
    }

    /// Stops the leader, then its children, which then cannot become more.
    pub(crate) fn pause(&mut self) {
        for child in self.freeze() {
            let _ = kill(child, Signal::SIGSTOP);
        }
    }

    /// Undoes [`Group::pause`].
    pub(crate) fn resume(&mut self) {
        if self.exited().is_none() {
            for child in children_of(self.pid()) {
                let _ = kill(child, Signal::SIGCONT);
            }
            let _ = killpg(self.pid(), Signal::SIGCONT);
        }
    }

    /// Asks the leader for an orderly end.
    pub(crate) fn ask_to_stop(&mut self) {
        self.ask(self.stop);
    }

    /// Sends a signal to the leader, which has to be awake to hear it.
    fn ask(&mut self, signal: Signal) {
        self.resume();
        if self.exited().is_none() {
            let _ = kill(self.pid(), signal);
        }
    }

    /// Kills the leader and its children; on return the leader is reaped and no child runs any more.
    pub(crate) fn kill(&mut self) {
        let children = self.freeze();
        if self.exited().is_some() {
            return;
        }
        let _ = killpg(self.pid(), Signal::SIGKILL);
        for child in &children {
            let _ = kill(*child, Signal::SIGKILL);
        }
        // Before the leader is reaped: until then nobody else can have its number.
        self.forget();
        let _ = self.leader.wait();
        wait_until(KERNEL_PATIENCE, || children.iter().all(|child| !is_running(*child)));
    }

    /// Stops the leader and returns its children, whose numbers are theirs as long as it stays stopped.
    fn freeze(&mut self) -> Vec<Pid> {
        if self.exited().is_some() {
            return Vec::new();
        }
        let _ = killpg(self.pid(), Signal::SIGSTOP);
        wait_until(KERNEL_PATIENCE, || matches!(state_of(self.pid()), None | Some('T' | 'Z' | 'X')));
        children_of(self.pid())
    }

    fn forget(&mut self) {
        if std::mem::take(&mut self.registered) {
            self.watchdog.forget(self.pid());
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if self.end != Signal::SIGKILL {
            self.ask(self.end);
            wait_until(END_PATIENCE, || self.exited().is_some());
        }
        self.kill();
    }
}

/// Looks at `condition` until it holds or `limit` has passed; says whether it held. Blocks, so keep it to what the
/// kernel does in milliseconds.
pub(crate) fn wait_until(limit: Duration, mut condition: impl FnMut() -> bool) -> bool {
    let deadline = Instant::now() + limit;
    loop {
        if condition() {
            return true;
        }
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(POLL);
    }
}

fn gate(launch: &Launch, log: &File) -> std::io::Result<Child> {
    let mut command = Command::new("/bin/sh");
    command
        .args(["-c", GATE])
        .arg(&launch.program)
        .args(&launch.arguments)
        // The reason of a failed start is read from the log, so it has to be in English.
        .env("LC_ALL", "C")
        .current_dir(&launch.folder)
        .stdin(Stdio::piped())
        .stdout(log.try_clone()?)
        .stderr(log.try_clone()?)
        .process_group(0);
    if let Some((user, group)) = launch.user {
        command.uid(user).gid(group);
    }
    command.spawn()
}

fn children_of(parent: Pid) -> Vec<Pid> {
    let pid = |text: &str| text.parse().ok().map(Pid::from_raw);
    match fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")) {
        Ok(children) => children.split_whitespace().filter_map(pid).collect(),
        Err(_) => ps(&["-A", "-o", "pid=", "-o", "ppid="])
            .lines()
            .filter_map(|line| line.trim().split_once(char::is_whitespace))
            .filter(|(_, its_parent)| pid(its_parent.trim()) == Some(parent))
            .filter_map(|(child, _)| pid(child))
            .collect(),
    }
}

fn is_running(process: Pid) -> bool {
    !matches!(state_of(process), None | Some('Z' | 'X'))
}

/// The letter `ps` shows: R, S, D, T, Z …; `None` when there is no such process.
fn state_of(process: Pid) -> Option<char> {
    if cfg!(target_os = "linux") {
        // The name, in parentheses, may contain anything, even parentheses.
        let stat = fs::read_to_string(format!("/proc/{process}/stat")).ok()?;
        stat.rsplit_once(") ")?.1.chars().next()
    } else {
        ps(&["-o", "state=", "-p", &process.to_string()]).trim().chars().next()
    }
}

fn ps(arguments: &[&str]) -> String {
    let output = Command::new("ps").args(arguments).stderr(Stdio::null()).output();
    output.map_or_else(|_| String::new(), |output| String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_whose_gate_never_hears_the_word_does_not_run() {
        let folder = tempfile::tempdir().unwrap();
        let launch = |file: &str| Launch {
            program: "touch".into(),
            arguments: vec![file.into()],
            folder: folder.path().into(),
            user: None,
            stop: Signal::SIGTERM,
            end: Signal::SIGKILL,
        };
        let log = tempfile::tempfile().unwrap();

        let mut forsaken = gate(&launch("forsaken"), &log).unwrap();
        drop(forsaken.stdin.take());
        assert!(!forsaken.wait().unwrap().success());
        assert!(!folder.path().join("forsaken").exists());

        let mut told = gate(&launch("told"), &log).unwrap();
        told.stdin.take().unwrap().write_all(b"go\n").unwrap();
        assert!(told.wait().unwrap().success());
        assert!(folder.path().join("told").exists());
    }
}
