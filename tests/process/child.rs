//! A node that may refuse to start: what became of it, with exit status and log. And what the kernel says about
//! a process: its memory, its files.

use crate::support::{Node, field};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A started process; killed when dropped.
pub struct Attempt {
    child: Child,
    log: Arc<Mutex<String>>,
    reader: Option<JoinHandle<()>>,
}

pub enum Outcome {
    Serving(SocketAddr),
    Ended(ExitStatus),
    /// Neither in time.
    Hangs,
}

impl Attempt {
    pub fn start(mut command: Command) -> Attempt {
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the node's binary starts");
        let log = Arc::new(Mutex::new(String::new()));
        let stderr = BufReader::new(child.stderr.take().expect("stderr is piped"));
        let into = log.clone();
        let reader = std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                let mut log = into.lock().unwrap_or_else(PoisonError::into_inner);
                log.push_str(&line);
                log.push('\n');
            }
        });
        Attempt { child, log, reader: Some(reader) }
    }

    /// Waits until it serves or has ended.
    pub fn outcome(&mut self, within: Duration) -> Outcome {
        let deadline = Instant::now() + within;
        loop {
            if let Some(line) = self.log().lines().find(|line| line.contains("serving address=")) {
                return Outcome::Serving(field(line, "address").parse().expect("an address"));
            }
            if let Some(status) = self.child.try_wait().expect("the child can be waited for") {
                return Outcome::Ended(status);
            }
            if Instant::now() > deadline {
                return Outcome::Hangs;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Its exit status, if it ends by itself in time.
    pub fn ended(&mut self, within: Duration) -> Option<ExitStatus> {
        let deadline = Instant::now() + within;
        loop {
            let status = self.child.try_wait().expect("the child can be waited for");
            if status.is_some() || Instant::now() > deadline {
                return status;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
    }

    /// Everything it has said; after its end, to the last line.
    pub fn log(&mut self) -> String {
        if let Ok(Some(_)) = self.child.try_wait() {
            self.reader.take().map(JoinHandle::join);
        }
        self.log.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Whether the log of a node that ended says, in its last words, what happened to `dir` or to the disk and what to do.
pub fn last_words(log: &str) -> Result<(), String> {
    const ADVICE: [&str; 14] = [
        "inspect", "salvage", "restore", "remove", "move", "start", "free", "choose", "check", "give",
        "make", "use", "repair", "replace",
    ];
    let tail: Vec<&str> = log.lines().rev().filter(|line| !line.trim().is_empty()).take(3).collect();
    let advises =
        |line: &&str| line.contains(' ') && ADVICE.iter().any(|word| line.to_lowercase().contains(word));
    match tail.iter().any(advises) {
        true => Ok(()),
        false => Err(format!("the last words do not say what to do:\n{log}")),
    }
}

/// The log of a node that has ended, once its last words have come through the pipe.
pub fn farewell(node: &Node) -> Result<String, String> {
    let deadline = Instant::now() + Duration::from_secs(2);
    loop {
        let log = node.log();
        match last_words(&log) {
            Err(why) if Instant::now() > deadline => return Err(why),
            Err(_) => std::thread::sleep(Duration::from_millis(2)),
            Ok(()) => return Ok(log),
        }
    }
}

/// A line `Name: … kB` of a process's status, in MiB: `VmRSS` is now, `VmHWM` the most there ever was.
pub fn memory_mib(pid: u32, name: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
    let line = status.lines().find(|line| line.starts_with(name)).expect("a known name");
    let kib: u64 = line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).expect("a number");
    kib / 1024
}

/// How many sockets a process holds.
pub fn sockets(pid: u32) -> usize {
    let fds = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("the process runs");
    let target = |entry: std::io::Result<std::fs::DirEntry>| std::fs::read_link(entry.ok()?.path()).ok();
    fds.filter_map(target).filter(|path| path.to_string_lossy().starts_with("socket:")).count()
}

/// Raises this process's limit of open files (children inherit it) as far as allowed, and returns it.
pub fn raise_file_limit() -> u64 {
    let limit = getrlimit(Resource::Nofile);
    setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum })
        .expect("the soft limit can be raised to the hard one");
    limit.maximum.unwrap_or(u64::MAX)
}
