//! A reader with a shell: a folder of their own, both programs on PATH, nothing else of ours.

use std::fs::{self, File, Permissions};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use tempfile::TempDir;

use super::markdown::{Block, ShellCommand, shows};

/// Far more than a walk takes; past it a loop of it waits for something that does not come.
const PATIENCE: Duration = Duration::from_secs(60);
/// In front of what a command prints, and in front of how it ended. No command prints these.
const BEGINS: char = '\u{1e}';
const ENDED: char = '\u{1f}';

pub(super) struct Reader {
    folder: TempDir,
    /// Of the readers of this process.
    number: u16,
}

impl Reader {
    pub(super) fn new() -> Self {
        // Started by root, Postgres runs as somebody else, who has to be able to walk through this folder.
        let folder = tempfile::Builder::new().permissions(Permissions::from_mode(0o711)).tempdir().unwrap();
        static READERS: AtomicU16 = AtomicU16::new(0);
        let reader = Self { folder, number: READERS.fetch_add(1, Ordering::Relaxed) };
        for name in ["bin", "tmp", "work"] {
            fs::create_dir(reader.path(name)).unwrap();
        }
        let built = Path::new(env!("CARGO_BIN_EXE_doorbuster")).parent().unwrap();
        for program in ["doorbuster", "doorbuster-sandbox"] {
            // A second name for the same file: who builds meanwhile puts another file in its place.
            let (from, to) = (built.join(program), reader.path("bin").join(program));
            let linked = fs::hard_link(&from, &to).or_else(|_| fs::copy(&from, &to).map(drop));
            linked.unwrap_or_else(|error| panic!("{}: {error}; build with --workspace", from.display()));
        }
        reader
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn command(&self, program: &str) -> Command {
        let path = std::env::join_paths(
            [self.path("bin")].into_iter().chain(std::env::split_paths(&std::env::var_os("PATH").unwrap())),
        );
        let is_ours = |name: &str| name.starts_with("DOORBUSTER_") && !name.ends_with("_BIN");
        let mut command = Command::new(program);
        command.env_clear().envs(std::env::vars().filter(|(name, _)| !is_ours(name)));
        command.env("PATH", path.unwrap()).env("TMPDIR", self.path("tmp")).current_dir(self.path("work"));
        let own = |port: u16| format!("{}:{}", own_host(), port + self.number);
        command.env("DOORBUSTER_LISTEN", own(8080)).env("DOORBUSTER_OPS_LISTEN", own(9090));
        command.stdin(Stdio::null());
        command
    }

    /// Runs all of it in one shell, and answers what was otherwise than the documents say.
    pub(super) fn paste(self, blocks: &[(String, Block)]) -> Vec<String> {
        let mut commands = Vec::new();
        for (document, block) in blocks {
            for command in block.commands() {
                commands.push((format!("{document}, block of line {}", block.line), command));
            }
            // What the whole block shows is asked of an empty command at its end.
            let shown = ShellCommand { text: "true\n".to_owned(), shown: block.shown().to_vec() };
            commands.push((format!("{document}, output of the block of line {}", block.line), shown));
        }
        let script = commands.iter().enumerate().map(|(number, (_, command))| {
            format!("printf '{BEGINS}%s\\n' {number}\n{}printf '\\n{ENDED}%s\\n' $?\n", command.text)
        });
        fs::write(self.path("script"), script.collect::<String>()).unwrap();

        let said = File::create(self.path("said")).unwrap();
        let mut shell = self.command("bash");
        shell.arg(self.path("script")).stdout(said.try_clone().unwrap()).stderr(said).process_group(0);
        let mut child = shell.spawn().unwrap();
        let deadline = Instant::now() + PATIENCE;
        while child.try_wait().unwrap().is_none() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(20));
        }
        // With what it has left in the background.
        let _ = killpg(Pid::from_raw(child.id().cast_signed()), Signal::SIGKILL);
        child.wait().unwrap();
        let said = String::from_utf8_lossy(&fs::read(self.path("said")).unwrap()).into_owned();
        wrong(&commands, &said)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        for folder in fs::read_dir(self.path("tmp")).unwrap().map(|entry| entry.unwrap().path()) {
            let stopped = self.command("doorbuster-sandbox").arg("stop").arg("--folder").arg(&folder).output();
            drop(stopped);
        }
    }
}

/// Compares command by command.
fn wrong(commands: &[(String, ShellCommand)], said: &str) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut answers = said.split(BEGINS).skip(1);
    let mut of_block = String::new();
    for (number, (place, command)) in commands.iter().enumerate() {
        let answer = answers.next().and_then(|answer| answer.strip_prefix(&format!("{number}\n")));
        let Some((output, status)) = answer.and_then(|answer| answer.rsplit_once(ENDED)) else {
            let last = answer.unwrap_or_default();
            wrong.push(format!("{place}: does not end, within {PATIENCE:?}:\n{}{last}", command.text));
            break;
        };
        let shown = command.shown.as_slice();
        let is_end_of_block = place.contains("output of the block");
        let output = if is_end_of_block { std::mem::take(&mut of_block) } else { output.to_owned() };
        let mut lines = output.lines();
        if let Some(missing) = shown.iter().find(|shown| !lines.by_ref().any(|line| shows(line, shown))) {
            wrong.push(format!("{place}: does not print {missing:?}:\n{}{output}", command.text));
        }
        if status.trim() != "0" {
            wrong.push(format!("{place}: exit code {}:\n{}{output}", status.trim(), command.text));
        }
        let is_refusal =
            |line: &&str| line.starts_with("{\"") && line.contains("\"title\":") && line.contains("\"code\":");
        if let Some(refusal) = output.lines().find(is_refusal)
            && !shown.iter().any(|shown| shows(refusal, shown))
            && !is_end_of_block
        {
            wrong.push(format!("{place}: is refused:\n{}{output}", command.text));
        }
        if !is_end_of_block {
            of_block += &output;
        }
    }
    wrong
}

/// An address of this machine that no other process of tests uses, so that no two gateways want one port; where there is but
/// one such address, the sandbox finds other ports.
fn own_host() -> String {
    let [_, high, middle, low] = std::process::id().to_be_bytes();
    let host = format!("127.{}.{middle}.{low}", 64 + (high & 63));
    match TcpListener::bind((host.as_str(), 0)) {
        Ok(_) => host,
        Err(_) => "127.0.0.1".to_owned(),
    }
}
