//! What the tests share: a real node as a child process, and the plainest HTTP client that can also misbehave.
//! It must never sleep to synchronise: it waits for a line or an answer, with a deadline.
#![allow(dead_code, unsafe_code, reason = "each test binary uses its own part; signals are sent by libc")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

/// How long anything that should happen soon may take on a busy machine.
pub const SOON: Duration = Duration::from_secs(30);

/// A running node; killed when dropped.
pub struct Node {
    pub child: Child,
    pub address: SocketAddr,
    /// The whole `serving …` line.
    pub serving: String,
    log: Arc<Mutex<String>>,
}

impl Node {
    /// Starts a node on a free port with `dir` as its data directory and waits until it serves.
    pub fn start(dir: &Path, flags: &[&str]) -> Node {
        Node::launch(Node::command(dir, flags)).unwrap_or_else(|log| panic!("node did not serve:\n{log}"))
    }

    /// The command that `start` runs, for tests that add an environment to it.
    pub fn command(dir: &Path, flags: &[&str]) -> Command {
        let mut command = Command::new(binary());
        command.arg("127.0.0.1:0").arg("--data-dir").arg(dir).args(flags);
        command
    }

    /// Runs `command` until it serves; `Err` with its log when it ended or said nothing in time.
    pub fn launch(mut command: Command) -> Result<Node, String> {
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the node's binary starts");
        let log = Arc::new(Mutex::new(String::new()));
        let (found, serving) = mpsc::channel();
        let stderr = BufReader::new(child.stderr.take().expect("stderr is piped"));
        let into = log.clone();
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                let mut log = into.lock().unwrap();
                log.push_str(&line);
                log.push('\n');
                if line.contains("serving address=") {
                    let _ = found.send(line);
                }
            }
        });
        match serving.recv_timeout(SOON) {
            Ok(line) => {
                let address = field(&line, "address").parse().expect("an address");
                Ok(Node { child, address, serving: line, log })
            }
            Err(_) => {
                let _ = child.kill();
                let _ = child.wait();
                Err(log.lock().unwrap().clone())
            }
        }
    }

    pub fn log(&self) -> String {
        self.log.lock().unwrap().clone()
    }

    /// SIGKILL, and wait until the process is gone.
    pub fn kill(mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }

    /// Sends a signal; after SIGSTOP the process stands still when this returns, which takes a moment for each of its threads.
    pub fn signal(&self, signal: i32) {
        let pid = self.child.id();
        let sent = unsafe { libc::kill(pid as i32, signal) };
        assert_eq!(sent, 0, "the process can be signalled");
        if signal == libc::SIGSTOP {
            let stopped = |task: std::io::Result<std::fs::DirEntry>| {
                let stat = task.and_then(|task| std::fs::read_to_string(task.path().join("stat")));
                // The state stands behind the name, which is in parentheses. A thread that is gone does nothing either.
                stat.map_or(true, |stat| {
                    stat.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('T'))
                })
            };
            let tasks = || std::fs::read_dir(format!("/proc/{pid}/task")).expect("a process has tasks");
            wait_until(SOON, "every thread stands still", || tasks().all(stopped));
        }
    }

    /// SIGTERM, and its exit status.
    pub fn stop(mut self) -> ExitStatus {
        self.signal(libc::SIGTERM);
        self.wait(SOON)
    }

    /// Waits for the process to end by itself.
    pub fn wait(&mut self, within: Duration) -> ExitStatus {
        let mut status = None;
        wait_until(within, "the node ends", || {
            status = self.child.try_wait().expect("the child can be waited for");
            status.is_some()
        });
        status.expect("just seen")
    }

    pub fn request(&self, method: &str, path: &str, body: &str) -> Response {
        self.request_with(method, path, &[], body.as_bytes())
    }

    pub fn request_with(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
        Client::new(self.address)
            .request(method, path, headers, body)
            .unwrap_or_else(|e| panic!("{method} {path}: {e}\n{}", self.log()))
    }
}

impl Drop for Node {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// An answer, as it came.
#[derive(Debug, Clone)]
pub struct Response {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
}

impl Response {
    /// A header's value, by its name in any case.
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(n, _)| n.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("the body is UTF-8")
    }

    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body)
            .unwrap_or_else(|e| panic!("{e}: {}", String::from_utf8_lossy(&self.body)))
    }
}

/// One keep-alive connection.
pub struct Client {
    stream: BufReader<TcpStream>,
}

impl Client {
    pub fn new(address: SocketAddr) -> Client {
        Client::connect(address).expect("the node accepts connections")
    }

    pub fn connect(address: SocketAddr) -> std::io::Result<Client> {
        Client::patient(address, SOON)
    }

    /// One that gives up when nothing comes for so long.
    pub fn patient(address: SocketAddr, patience: Duration) -> std::io::Result<Client> {
        let stream = TcpStream::connect_timeout(&address, patience)?;
        stream.set_nodelay(true)?;
        stream.set_read_timeout(Some(patience))?;
        stream.set_write_timeout(Some(patience))?;
        Ok(Client { stream: BufReader::new(stream) })
    }

    pub fn request(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: &[u8],
    ) -> std::io::Result<Response> {
        let mut head = format!("{method} {path} HTTP/1.1\r\nHost: node\r\n");
        for (name, value) in headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        if !body.is_empty() || matches!(method, "PUT" | "POST") {
            head.push_str(&format!("Content-Length: {}\r\n", body.len()));
        }
        head.push_str("\r\n");
        let mut bytes = head.into_bytes();
        bytes.extend_from_slice(body);
        self.send(&bytes)?;
        self.receive(method == "HEAD")
    }

    /// Bytes as they are: for requests that no decent client would make.
    pub fn send(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.stream.get_mut().write_all(bytes)
    }

    /// One answer; interim 1xx answers are skipped.
    pub fn receive(&mut self, headless: bool) -> std::io::Result<Response> {
        loop {
            let response = self.receive_any(headless)?;
            if response.status >= 200 {
                return Ok(response);
            }
        }
    }

    fn receive_any(&mut self, headless: bool) -> std::io::Result<Response> {
        let eof = || std::io::Error::new(std::io::ErrorKind::UnexpectedEof, "closed before an answer");
        let mut line = String::new();
        if self.stream.read_line(&mut line)? == 0 {
            return Err(eof());
        }
        let status = line.split(' ').nth(1).and_then(|s| s.parse().ok()).ok_or_else(eof)?;
        let mut headers = Vec::new();
        loop {
            let mut line = String::new();
            if self.stream.read_line(&mut line)? == 0 {
                return Err(eof());
            }
            let Some((name, value)) = line.trim_end().split_once(':') else { break };
            headers.push((name.to_owned(), value.trim().to_owned()));
        }
        let mut response = Response { status, headers, body: Vec::new() };
        if status < 200 || status == 204 || status == 304 || headless {
            return Ok(response);
        }
        if let Some(length) = response.header("content-length").map(|v| v.parse::<usize>().expect("a length"))
        {
            response.body.resize(length, 0);
            self.stream.read_exact(&mut response.body)?;
        } else if response.header("transfer-encoding").is_some() {
            loop {
                let mut line = String::new();
                self.stream.read_line(&mut line)?;
                let size = usize::from_str_radix(line.trim(), 16).map_err(|_| eof())?;
                let mut chunk = vec![0; size + 2];
                self.stream.read_exact(&mut chunk)?;
                response.body.extend_from_slice(&chunk[..size]);
                if size == 0 {
                    break;
                }
            }
        } else {
            self.stream.read_to_end(&mut response.body)?;
        }
        Ok(response)
    }
}

/// The binary under test.
pub fn binary() -> PathBuf {
    PathBuf::from(env!("CARGO_BIN_EXE_DynaRust"))
}

/// What a command said on stderr, without how far it was: on a busy machine anything may take longer than a second.
pub fn errors(stderr: &[u8]) -> String {
    let told = |line: &str| {
        line.contains(" a second") || line.rsplit_once(" after ").is_some_and(|(_, s)| s.ends_with(" s"))
    };
    let text = String::from_utf8_lossy(stderr);
    text.split_inclusive('\n').filter(|line| !told(line.trim_end())).collect()
}

/// The value of `name=` in a log line.
pub fn field<'a>(line: &'a str, name: &str) -> &'a str {
    let after = line.split(&format!("{name}=")).nth(1).unwrap_or_else(|| panic!("{name}= in {line}"));
    after.split_whitespace().next().expect("a value")
}

/// Polls until `done`, or panics with `what` when `within` has passed.
pub fn wait_until(within: Duration, what: &str, mut done: impl FnMut() -> bool) {
    let deadline = Instant::now() + within;
    while !done() {
        assert!(Instant::now() < deadline, "not within {within:?}: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}
