//! A server as a child process: started, waited for, and killed by its own process id when dropped.
//! It must never outlive the benchmark, and never fill a pipe that nobody reads.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::{Duration, Instant};

use super::Failure;

/// A running server.
pub struct Server {
    child: Child,
    pub address: SocketAddr,
    /// The last lines that it wrote to its log.
    log: Arc<Mutex<VecDeque<String>>>,
}

impl Server {
    /// Starts a program that logs `serving address=A …` to standard error, and waits until it does.
    pub fn start_serving(command: &mut Command) -> Result<Server, Failure> {
        let unknown = SocketAddr::from(([127, 0, 0, 1], 0));
        let (mut server, serving) = Server::spawn(command, unknown)?;
        let Ok(line) = serving.recv_timeout(START_MAX) else {
            return Err(server.complaint("did not say that it serves"));
        };
        let address = line.split("serving address=").nth(1).and_then(|rest| rest.split_whitespace().next());
        server.address = address.ok_or("a serving line without an address")?.parse()?;
        Ok(server)
    }

    /// Starts a program that was told to listen on `address`, and waits until `ready` says so.
    pub fn start_ready(
        command: &mut Command,
        address: SocketAddr,
        ready: impl Fn(SocketAddr) -> bool,
    ) -> Result<Server, Failure> {
        let mut server = Server::launch(command, address)?;
        server.until_ready(ready)?;
        Ok(server)
    }

    /// Starts a program that was told to listen on `address`.
    pub fn launch(command: &mut Command, address: SocketAddr) -> Result<Server, Failure> {
        Ok(Server::spawn(command, address)?.0)
    }

    /// Waits until `ready` says so.
    pub fn until_ready(&mut self, ready: impl Fn(SocketAddr) -> bool) -> Result<(), Failure> {
        let deadline = Instant::now() + START_MAX;
        while !ready(self.address) {
            if Instant::now() > deadline || self.child.try_wait()?.is_some() {
                return Err(self.complaint("did not become ready"));
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(())
    }

    fn spawn(
        command: &mut Command,
        address: SocketAddr,
    ) -> Result<(Server, mpsc::Receiver<String>), Failure> {
        let program = command.get_program().to_string_lossy().into_owned();
        die_with_us(command);
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|e| format!("{program}: {e}"))?;
        let stderr = child.stderr.take().ok_or("standard error is piped")?;
        let log = Arc::new(Mutex::new(VecDeque::new()));
        let into = log.clone();
        let (found, serving) = mpsc::channel();
        std::thread::spawn(move || {
            for line in BufReader::new(stderr).lines().map_while(Result::ok) {
                if line.contains("serving address=") {
                    let _ = found.send(line.clone());
                }
                let mut log = into.lock().unwrap_or_else(PoisonError::into_inner);
                if log.len() == LOG_LINES_MAX {
                    log.pop_front();
                }
                log.push_back(line);
            }
        });
        Ok((Server { child, address, log }, serving))
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Holds the process as it is, or lets it go on.
    pub fn hold(&self, held: bool) -> Result<(), Failure> {
        let pid = rustix::process::Pid::from_child(&self.child);
        let signal = if held { rustix::process::Signal::STOP } else { rustix::process::Signal::CONT };
        Ok(rustix::process::kill_process(pid, signal)?)
    }

    /// SIGTERM, and waited for; an exit code that is not 0 is an error.
    pub fn stop(&mut self) -> Result<(), Failure> {
        let pid = rustix::process::Pid::from_child(&self.child);
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)?;
        match self.child.wait()?.success() {
            true => Ok(()),
            false => Err(self.complaint("did not end well")),
        }
    }

    /// SIGKILL, and gone when this returns.
    pub fn kill(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// An error that shows the end of the log.
    pub fn complaint(&self, what: &str) -> Failure {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let lines: Vec<&str> = log.iter().map(String::as_str).collect();
        format!("process {} {what}; the end of its log:\n{}", self.child.id(), lines.join("\n")).into()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

/// Has the kernel kill the process when the benchmark is gone, however that came about.
#[expect(unsafe_code, reason = "the call has to be made in the child, between fork and exec")]
pub fn die_with_us(command: &mut Command) {
    let ask = || Ok(rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL))?);
    // SAFETY: between fork and exec this makes one system call, and neither allocates nor takes a lock.
    unsafe { command.pre_exec(ask) };
}

/// An address of loopback that nobody listens on right now.
pub fn free_address() -> Result<SocketAddr, Failure> {
    Ok(free_addresses(1)?[0])
}

/// So many of them, no two the same.
pub fn free_addresses(count: usize) -> Result<Vec<SocketAddr>, Failure> {
    let listeners: Vec<TcpListener> =
        (0..count).map(|_| TcpListener::bind("127.0.0.1:0")).collect::<Result<_, _>>()?;
    Ok(listeners.iter().map(TcpListener::local_addr).collect::<Result<_, _>>()?)
}

const START_MAX: Duration = Duration::from_secs(120);
const LOG_LINES_MAX: usize = 40;
