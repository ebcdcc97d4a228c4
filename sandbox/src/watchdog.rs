//! The process that outlives us for a moment, to end what we started.
//!
//! It is a shell script in a process group of its own, reading lines from a pipe of which only we hold the other end.
//! However we die, the kernel closes that end; the script then ends every process group still registered, and removes
//! the folder if it is a throwaway one. It must never learn a process group later than the group can do harm (see
//! `group.rs`), nor keep one whose number could have been given to somebody else.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Mutex;

use nix::sys::signal::Signal;
use nix::unistd::Pid;

use crate::error::{SandboxError, While as _};

/// `$1` is the folder to remove, or empty. Lines: `add GROUP SIGNAL`, `drop GROUP`.
///
/// Postgres gets its own signal first (QUIT) and two seconds: killed at once it would leave its System V memory segment
/// behind, of which macOS allows 32 in all. Its backends are in sessions of their own, hence `children`; a stopped
/// postmaster makes no new ones and reaps none, so their numbers stay theirs until it is killed too.
const SCRIPT: &str = r#"
trap '' INT TERM HUP
groups=
while read -r verb group signal; do
  case $verb in
    add) groups="$groups $group:$signal" ;;
    drop)
      kept=
      for entry in $groups; do [ "${entry%:*}" = "$group" ] || kept="$kept $entry"; done
      groups=$kept ;;
  esac
done

children() {
  cat "/proc/$1/task/$1/children" 2>/dev/null ||
    ps -A -o pid= -o ppid= | while read -r pid parent; do [ "$parent" != "$1" ] || echo "$pid"; done
}
# A container whose first process reaps nobody keeps the dead as zombies.
is_alive() {
  kill -s 0 -- "-$1" || return 1
  stat=
  [ ! -r "/proc/$1/stat" ] || read -r stat <"/proc/$1/stat"
  case $stat in *') Z '*) return 1 ;; esac
}
# Gives the groups two seconds to be gone.
await() {
  tries=40
  for entry in $groups; do
    while [ $tries -gt 0 ] && is_alive "${entry%:*}"; do tries=$((tries - 1)); sleep 0.05; done
  done
}
{
  for entry in $groups; do
    group=${entry%:*}
    kill -s CONT -- "-$group" $(children "$group")
    kill -s "${entry#*:}" "$group"
  done
  await
  for entry in $groups; do
    group=${entry%:*}
    kill -s STOP -- "-$group"
    kill -s KILL -- "-$group" $(children "$group")
  done
  await
  tries=0
  until [ -z "$1" ] || rm -rf -- "$1" || [ $tries -ge 40 ]; do tries=$((tries + 1)); sleep 0.05; done
} 2>/dev/null
"#;

/// Our end of the pipe. Dropped, it returns when the script has done its work.
pub(crate) struct Watchdog {
    script: Child,
    /// `None` only while being dropped.
    pipe: Mutex<Option<ChildStdin>>,
}

impl Watchdog {
    /// A watchdog that removes `folder` when all is over.
    pub(crate) fn removing(folder: &Path) -> Result<Self, SandboxError> {
        Self::start(folder, Stdio::null())
    }

    /// A watchdog that holds `lock` until all is over. Nobody else holds it: the next owner of the folder comes when
    /// the last process of this one is gone, not merely when this process is.
    pub(crate) fn holding(lock: File) -> Result<Self, SandboxError> {
        Self::start(Path::new(""), Stdio::from(lock))
    }

    fn start(folder: &Path, output: Stdio) -> Result<Self, SandboxError> {
        let mut script = Command::new("/bin/sh")
            .args(["-c", SCRIPT, "doorbuster-watchdog"])
            .arg(folder)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(output)
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .during("starting the watchdog")?;
        let pipe = Mutex::new(script.stdin.take());
        Ok(Self { script, pipe })
    }

    /// Registers a group: should we die, its leader gets `end`, and what is left of it two seconds later is killed.
    pub(crate) fn add(&self, group: Pid, end: Signal) -> Result<(), SandboxError> {
        // POSIX `kill -s` wants the name without SIG.
        let signal = end.as_str().trim_start_matches("SIG");
        self.tell(&format!("add {group} {signal}\n")).during("telling the watchdog about a process")
    }

    /// Takes a group off the list. Call it before its leader is reaped wherever that can be arranged.
    pub(crate) fn forget(&self, group: Pid) {
        // A watchdog that is gone will not kill anything either.
        let _ = self.tell(&format!("drop {group}\n"));
    }

    fn tell(&self, line: &str) -> io::Result<()> {
        let mut pipe = self.pipe.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        pipe.as_mut().map_or(Err(io::ErrorKind::BrokenPipe.into()), |pipe| pipe.write_all(line.as_bytes()))
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        drop(self.pipe.get_mut().unwrap_or_else(std::sync::PoisonError::into_inner).take());
        let _ = self.script.wait();
    }
}
