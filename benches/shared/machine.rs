//! Facts about this machine and its processes, read from /proc, and the room on its disk where data directories are made.
//! It must refuse tmpfs: a benchmark of durability there would be a lie.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use tempfile::TempDir;

use super::Failure;
use super::report::Report;

/// A directory on a real disk, gone at the end of the run.
pub struct Room {
    dir: TempDir,
    file_system: String,
}

impl Room {
    pub fn new(parent: &Path, prefix: &str) -> Result<Room, Failure> {
        fs::create_dir_all(parent).map_err(|e| format!("{}: {e}", parent.display()))?;
        let parent = parent.canonicalize()?;
        let file_system = file_system(&parent);
        if file_system.starts_with("tmpfs") || file_system.starts_with("ramfs") {
            let parent = parent.display();
            return Err(format!("{parent} is in memory ({file_system}): name a disk with --dir").into());
        }
        let dir = tempfile::Builder::new().prefix(prefix).tempdir_in(&parent)?;
        Ok(Room { dir, file_system })
    }

    /// A fresh directory, gone when dropped.
    pub fn subdirectory(&self, name: &str) -> Result<TempDir, Failure> {
        Ok(tempfile::Builder::new().prefix(name).tempdir_in(self.dir.path())?)
    }
}

/// Says on what, when and how it was measured.
pub fn describe(bench: &str, room: &Room, report: &mut Report) {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|a| a != "--bench").collect();
    let dashes = if arguments.is_empty() { "" } else { " -- " };
    report.line(&format!("Command: `cargo bench --bench {bench}{dashes}{}`", arguments.join(" ")));
    report.line("");
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory =
        field("/proc/meminfo", "MemTotal").and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) >> 20;
    let cpu = field("/proc/cpuinfo", "model name").unwrap_or_else(|| "unknown processor".to_owned());
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load = load.split(' ').next().unwrap_or_default().to_owned();
    report.line(&format!(
        "Machine: {cores} cores of {cpu}, {memory} GiB, Linux {}, {}; load average when it began: {load}.",
        kernel.trim(),
        room.file_system
    ));
}

/// Processor time of the calling thread so far.
pub fn own_cpu() -> Duration {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    Duration::from_nanos(text.split(' ').next().and_then(|ns| ns.parse().ok()).unwrap_or(0))
}

/// Processor time of a process so far, all its threads together; in steps of 10 ms.
pub fn cpu_of(pid: u32) -> Duration {
    cpu_fields(&pid.to_string(), 2)
}

/// User and system time are fields 14 and 15 of `stat`, those of the children that were waited for 16 and 17.
fn cpu_fields(process: &str, count: usize) -> Duration {
    let text = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    // The name, in parentheses, may hold spaces.
    let after_name = text.rsplit(')').next().unwrap_or_default();
    let ticks: u64 =
        after_name.split_whitespace().skip(11).take(count).filter_map(|n| n.parse::<u64>().ok()).sum();
    Duration::from_millis(ticks * 10)
}

/// Processor time of this process so far, and of its children that have ended.
pub fn family_cpu() -> Duration {
    cpu_fields("self", 4)
}

/// Processor time that all cores have spent on anything so far, the hypervisor's share included.
pub fn busy_cpu() -> Duration {
    let text = fs::read_to_string("/proc/stat").unwrap_or_default();
    let fields = text.split_whitespace().skip(1).take(8).filter_map(|n| n.parse::<u64>().ok()).enumerate();
    // The fourth and fifth are idle time, the last is stolen time.
    Duration::from_millis(
        fields.filter(|(index, _)| !matches!(index, 3 | 4)).map(|(_, ticks)| ticks).sum::<u64>() * 10,
    )
}

/// Waits until the machine has little else to do, at most that many seconds.
pub fn wait_for_quiet(seconds: u32) {
    let glance = Duration::from_millis(200);
    for _ in 0..u64::from(seconds) * 5 {
        let before = busy_cpu();
        std::thread::sleep(glance);
        if busy_cpu().saturating_sub(before) < glance / 5 {
            return;
        }
    }
}

/// Resident memory of a process in MiB.
pub fn memory_mib(pid: u32) -> f64 {
    let kib = field(&format!("/proc/{pid}/status"), "VmRSS").and_then(|kib| kib.parse::<f64>().ok());
    kib.unwrap_or(0.0) / 1024.0
}

/// The most memory that a process has had so far, in MiB; 0 when it is gone.
pub fn most_memory_mib(pid: u32) -> f64 {
    let kib = field(&format!("/proc/{pid}/status"), "VmHWM").and_then(|kib| kib.parse::<f64>().ok());
    kib.unwrap_or(0.0) / 1024.0
}

/// What a directory takes on the disk, in MiB, as `du` counts it.
pub fn disk_mib(dir: &Path) -> f64 {
    fn blocks(path: &Path) -> u64 {
        let own = fs::symlink_metadata(path).map_or(0, |m| m.blocks());
        let Ok(entries) = fs::read_dir(path) else { return own };
        own + entries.flatten().map(|entry| blocks(&entry.path())).sum::<u64>()
    }
    blocks(dir) as f64 * 512.0 / f64::from(1 << 20)
}

/// Bytes and packets that have gone over loopback so far.
pub fn loopback() -> Result<(u64, u64), Failure> {
    let text = fs::read_to_string("/proc/net/dev")?;
    let line = text.lines().find_map(|line| line.trim_start().strip_prefix("lo:"));
    let mut fields = line.unwrap_or_default().split_whitespace().map_while(|n| n.parse().ok());
    let counted = fields.next().zip(fields.next());
    counted.ok_or_else(|| "/proc/net/dev does not tell of loopback".into())
}

/// Where a program is, when it is installed.
pub fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|dir| dir.join(name)).find(|file| file.is_file())
}

/// The value of `name: value [unit]` in a file of /proc.
fn field(file: &str, name: &str) -> Option<String> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    let value = line.split_once(':')?.1.trim();
    Some(value.trim_end_matches(" kB").to_owned())
}

/// Type of the file system that holds a path, and what it is mounted from.
fn file_system(path: &Path) -> String {
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let holds = |line: &&str| line.split(' ').nth(1).is_some_and(|mount| path.starts_with(mount));
    let Some(line) = mounts.lines().filter(holds).max_by_key(|l| l.split(' ').nth(1).map_or(0, str::len))
    else {
        return "unknown file system".to_owned();
    };
    let mut fields = line.split(' ');
    let device = fields.next().unwrap_or_default();
    format!("{} on {device}", fields.nth(1).unwrap_or_default())
}
