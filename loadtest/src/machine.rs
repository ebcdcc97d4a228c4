//! What the figures were measured on, and what a process of it has used. Linux; elsewhere fields are empty and times zero.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use serde::Serialize;

/// Writes of one block whose median is the disk's time for an fsync.
const FSYNCS: usize = 101;
const BLOCK: usize = 4096;

/// A machine in words.
#[derive(Debug, Clone, Serialize)]
pub struct Machine {
    pub cpu: String,
    pub cores: usize,
    pub kernel: String,
    pub memory_gib: f64,
    pub redis: String,
    pub postgres: String,
    /// Of the folder that the stores are in.
    pub file_system: String,
    /// One block appended and synced, median.
    pub fsync_us: f64,
    /// Processes that wanted to run, over the minute before: above nothing, somebody else was measured too.
    pub load_average: f64,
}

impl Machine {
    /// Describes this machine; refuses stores that lie in memory, where an fsync costs nothing.
    pub fn look(stores: &Path, redis: &str, postgres: &str) -> anyhow::Result<Self> {
        let file_system = file_system(stores);
        ensure!(
            !matches!(&*file_system, "tmpfs" | "ramfs"),
            "{} lies in memory ({file_system}): set TMPDIR to a folder on a disk",
            stores.display()
        );
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let field = |text: &str, name: &str| {
            let line = text.lines().find_map(|line| line.strip_prefix(name)?.trim().strip_prefix(':').map(str::trim));
            line.unwrap_or_default().to_owned()
        };
        let kilobytes = field(&read("/proc/meminfo"), "MemTotal");
        Ok(Self {
            cpu: field(&read("/proc/cpuinfo"), "model name"),
            cores: std::thread::available_parallelism().map_or(1, std::num::NonZero::get),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            memory_gib: kilobytes.trim_end_matches(" kB").parse::<f64>().unwrap_or_default() / 1024.0 / 1024.0,
            redis: redis.to_owned(),
            postgres: postgres.to_owned(),
            file_system,
            fsync_us: fsync(stores)?.as_secs_f64() * 1e6,
            load_average: load_average(),
        })
    }

    pub fn sentence(&self) -> String {
        format!(
            "{} × {}, {:.0} GiB, Linux {}, Redis {}, Postgres {}, {} with {:.0} µs an fsync, load average {:.2} before",
            self.cores,
            self.cpu,
            self.memory_gib,
            self.kernel,
            self.redis,
            self.postgres,
            self.file_system,
            self.fsync_us,
            self.load_average
        )
    }
}

/// Of the last minute.
pub fn load_average() -> f64 {
    let text = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    text.split(' ').next().and_then(|first| first.parse().ok()).unwrap_or_default()
}

/// Processor time of a process, all its threads, user and kernel.
pub fn cpu_of(pid: Option<u32>) -> Duration {
    pid.map_or(Duration::ZERO, |pid| of_stat(&format!("/proc/{pid}/stat")))
}

/// Of a process and the processes it has started, such as Postgres and its sessions. Those that have ended are in its own.
pub fn cpu_of_family(pid: Option<u32>) -> Duration {
    let Some(pid) = pid else { return Duration::ZERO };
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    cpu_of(Some(pid)) + children.split_whitespace().map(|child| cpu_of(child.parse().ok())).sum::<Duration>()
}

/// What a process holds in memory just now, shared pages included.
pub fn memory_mib_of(pid: Option<u32>) -> u64 {
    memory_field_of(pid, "VmRSS:")
}

/// The most that it has ever held.
pub fn memory_peak_mib_of(pid: Option<u32>) -> u64 {
    memory_field_of(pid, "VmHWM:")
}

fn memory_field_of(pid: Option<u32>, name: &str) -> u64 {
    let Some(pid) = pid else { return 0 };
    let text = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|line| line.trim().trim_end_matches(" kB").parse::<u64>().ok()).unwrap_or_default() / 1024
}

/// Of this thread.
pub fn cpu_of_thread() -> Duration {
    of_stat("/proc/thread-self/stat")
}

fn of_stat(path: &str) -> Duration {
    let text = fs::read_to_string(path).unwrap_or_default();
    // The name in brackets may hold spaces; utime and stime are the 12th and 13th fields behind it, in hundredths.
    let fields = text.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(2);
    fields.map(|field| Duration::from_millis(10 * field.parse::<u64>().unwrap_or_default())).sum()
}

/// By the mount with the longest path above the folder.
fn file_system(folder: &Path) -> String {
    let folder = folder.canonicalize().unwrap_or_else(|_| folder.to_owned());
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let mounts = mounts.lines().filter_map(|line| {
        let mut fields = line.split(' ').skip(1);
        Some((fields.next()?, fields.next()?))
    });
    let above = mounts.filter(|(path, _)| folder.starts_with(path));
    above.max_by_key(|(path, _)| path.len()).map(|(_, kind)| kind.to_owned()).unwrap_or_default()
}

fn fsync(folder: &Path) -> anyhow::Result<Duration> {
    let path = folder.join("fsync");
    let mut file = fs::File::create(&path).context("a file beside the stores")?;
    let mut times = Vec::with_capacity(FSYNCS);
    for _ in 0..FSYNCS {
        let began = Instant::now();
        file.write_all(&[0; BLOCK])?;
        file.sync_data()?;
        times.push(began.elapsed());
    }
    fs::remove_file(path)?;
    times.sort_unstable();
    Ok(times[FSYNCS / 2])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_machine_is_described_and_memory_is_no_disk() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR"));
        if !matches!(&*file_system(folder), "tmpfs" | "ramfs") {
            let machine = Machine::look(folder, "7", "15").unwrap();
            assert!(machine.fsync_us > 0.0 && machine.cores > 0, "{machine:?}");
        }
        if file_system(Path::new("/dev/shm")) == "tmpfs" {
            let error = Machine::look(Path::new("/dev/shm"), "7", "15").unwrap_err();
            assert!(error.to_string().contains("TMPDIR"), "{error}");
        }
    }

    #[test]
    fn work_is_seen_in_the_processor_time() {
        let before = (cpu_of(Some(std::process::id())), cpu_of_thread());
        let began = Instant::now();
        while cpu_of_thread() < before.1 + Duration::from_millis(30) && began.elapsed() < Duration::from_secs(20) {
            std::hint::black_box((0..10_000).sum::<u64>());
        }
        assert!(cpu_of(Some(std::process::id())) >= before.0 + Duration::from_millis(20));
    }
}
