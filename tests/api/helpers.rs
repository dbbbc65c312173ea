//! What the API tests share: one node for all of them, nodes of their own, and readers that accept an answer only
//! in its exact shape (members, their order, times, versions, content type). A reader that finds anything else
//! fails the test that called it.

use std::net::{SocketAddr, TcpListener};
use std::ops::Deref;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU16, AtomicU64, Ordering};
use std::sync::{OnceLock, mpsc};

use jiff::Timestamp;
use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::value::RawValue;

use crate::support::{Client, Node, Response, binary};

static SHARED: OnceLock<(Node, PathBuf)> = OnceLock::new();

/// The node that most tests share; it ends with the test process, however that ends.
pub fn node() -> &'static Node {
    let (node, _) = SHARED.get_or_init(|| {
        let (give, take) = mpsc::channel();
        // The kernel kills the child when the *thread* that made it ends: so this one never does.
        std::thread::spawn(move || {
            let dir = tempfile::tempdir().expect("a directory").keep();
            let mut command = Node::command(&dir, &[]);
            unsafe {
                command.pre_exec(|| match libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) {
                    0 => Ok(()),
                    _ => Err(std::io::Error::last_os_error()),
                });
            }
            let _ = give.send((Node::launch(command), dir));
            loop {
                std::thread::park();
            }
        });
        let (node, dir) = take.recv().expect("the starting thread lives");
        unsafe { libc::atexit(clean) };
        (node.unwrap_or_else(|log| panic!("node did not serve:\n{log}")), dir)
    });
    node
}

extern "C" fn clean() {
    if let Some((node, dir)) = SHARED.get() {
        unsafe {
            libc::kill(node.child.id() as i32, libc::SIGKILL);
            libc::waitpid(node.child.id() as i32, std::ptr::null_mut(), 0);
        }
        let _ = std::fs::remove_dir_all(dir);
    }
}

/// A node for one test, on a directory of its own, which can be started again.
pub struct Own {
    node: Option<Node>,
    /// Where it listens; port 0 is another one at every start.
    listen: SocketAddr,
    pub dir: tempfile::TempDir,
    flags: Vec<String>,
}

impl Own {
    pub fn start(flags: &[&str]) -> Own {
        let dir = tempfile::tempdir().expect("a directory");
        let flags: Vec<String> = flags.iter().map(|&f| f.to_owned()).collect();
        let listen = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut own = Own { node: None, listen, dir, flags };
        own.launch();
        own
    }

    /// From now on it starts at one address, which is free and no outgoing connection's port.
    pub fn settle(&mut self) {
        // Tests run beside each other: each begins to look elsewhere, or two would find the same port free.
        static LOOKS: AtomicU16 = AtomicU16::new(0);
        let from = (std::process::id() as u16)
            .wrapping_mul(37)
            .wrapping_add(LOOKS.fetch_add(211, Ordering::Relaxed));
        let ports = (0..200).map(|n| 20_000 + from.wrapping_add(n) % 12_000);
        let free = ports.map(|port| TcpListener::bind(("127.0.0.1", port))).find_map(Result::ok);
        self.listen = free.expect("a free port").local_addr().expect("an address");
        self.restart();
    }

    fn launch(&mut self) {
        let mut command = Command::new(binary());
        command.arg(self.listen.to_string()).arg("--data-dir").arg(self.dir.path()).args(&self.flags);
        self.node = Some(Node::launch(command).unwrap_or_else(|log| panic!("node did not serve:\n{log}")));
    }

    /// Stops the node as an operator would and starts it again.
    pub fn restart(&mut self) {
        assert_eq!(self.end().code(), Some(0), "SIGTERM ends the node with 0");
        self.launch();
    }

    /// Stops the node as an operator would.
    pub fn end(&mut self) -> std::process::ExitStatus {
        self.node.take().expect("it runs").stop()
    }

    /// Kills the node and starts it again.
    pub fn crash(&mut self) {
        self.node.take().expect("it runs").kill();
        self.launch();
    }
}

impl Deref for Own {
    type Target = Node;

    fn deref(&self) -> &Node {
        self.node.as_ref().expect("it runs")
    }
}

/// A key no other test uses.
pub fn fresh(name: &str) -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("{name}-{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Short hands for the requests on one key; `key` goes into the path as it is.
pub trait Keys {
    fn client(&self) -> Client;

    fn put(&self, key: &str, body: &str) -> Response {
        self.put_with(key, &[], body)
    }

    fn put_with(&self, key: &str, headers: &[(&str, &str)], body: &str) -> Response {
        self.ask("PUT", key, headers, body.as_bytes())
    }

    fn get(&self, key: &str) -> Response {
        self.ask("GET", key, &[], b"")
    }

    fn delete(&self, key: &str, headers: &[(&str, &str)]) -> Response {
        self.ask("DELETE", key, headers, b"")
    }

    fn ask(&self, method: &str, key: &str, headers: &[(&str, &str)], body: &[u8]) -> Response {
        let mut client = self.client();
        let answer = client.request(method, &format!("/key/{key}"), headers, body);
        answer.unwrap_or_else(|e| panic!("{method} /key/{key}: {e}"))
    }

    /// The version of a plain write of `value`.
    fn write(&self, key: &str, value: &str) -> String {
        let answer = self.put(key, &format!(r#"{{"value":{value}}}"#));
        written(&answer, &[200, 201]).version
    }

    fn read(&self, key: &str) -> Entry {
        entry(&self.get(key))
    }

    fn absent(&self, key: &str) {
        problem(&self.get(key), 404, "not-found");
    }
}

impl Keys for Node {
    fn client(&self) -> Client {
        Client::new(self.address)
    }
}

/// A JSON object's members, in their order, each with its text.
pub struct Members(pub Vec<(String, String)>);

impl<'de> Deserialize<'de> for Members {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Members, D::Error> {
        struct InOrder;
        impl<'de> Visitor<'de> for InOrder {
            type Value = Members;

            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Members, A::Error> {
                let mut members = Vec::new();
                while let Some((name, value)) = map.next_entry::<String, Box<RawValue>>()? {
                    members.push((name, value.get().to_owned()));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(InOrder)
    }
}

/// The members of the object that `text` is.
pub fn members(text: &str) -> Vec<(String, String)> {
    let members: Members = serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"));
    members.0
}

pub fn names(members: &[(String, String)]) -> Vec<&str> {
    members.iter().map(|(name, _)| name.as_str()).collect()
}

fn string(json: &str) -> String {
    serde_json::from_str(json).unwrap_or_else(|e| panic!("not a string, {e}: {json}"))
}

/// A time exactly as the contract writes it.
pub fn time(text: &str) -> Timestamp {
    let shape: String = text.chars().map(|c| if c.is_ascii_digit() { '0' } else { c }).collect();
    assert_eq!(shape, "0000-00-00T00:00:00.000Z", "a time in UTC with milliseconds: {text}");
    text.parse().expect("a time")
}

/// Sixteen hex digits, lower case.
pub fn id(text: &str) -> &str {
    let hex = text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    assert!(text.len() == 16 && hex, "16 hex digits: {text}");
    text
}

/// The dots that a version names, sorted.
pub fn dots(version: &str) -> Vec<String> {
    let mut dots: Vec<String> = version.split('.').map(str::to_owned).collect();
    for dot in &dots {
        let (origin, seq) = dot.split_once('-').unwrap_or_else(|| panic!("origin-seq: {version}"));
        id(origin);
        let number: u64 = seq.parse().unwrap_or_else(|_| panic!("a decimal seq: {version}"));
        assert!(number > 0 && number.to_string() == seq, "a decimal seq: {version}");
    }
    dots.sort();
    dots
}

pub fn etag(version: &str) -> String {
    format!("\"{version}\"")
}

/// What a PUT answered.
#[derive(Debug)]
pub struct Written {
    pub key: String,
    pub version: String,
    pub replicas: u64,
}

/// Reads the answer to a PUT that must have one of `statuses`.
pub fn written(answer: &Response, statuses: &[u16]) -> Written {
    let text = answer.text();
    assert!(statuses.contains(&answer.status), "{} is none of {statuses:?}: {text}", answer.status);
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let members = members(text);
    // Who has not waited long enough for copies is told where they are.
    let names = names(&members);
    match answer.status {
        202 => assert_eq!(names, ["key", "version", "replicas", "held_by"]),
        _ => assert_eq!(names, ["key", "version", "replicas"]),
    }
    let version = string(&members[1].1);
    dots(&version);
    assert_eq!(answer.header("etag"), Some(etag(&version).as_str()), "the ETag is the quoted version");
    Written { key: string(&members[0].1), version, replicas: members[2].1.parse().expect("a number") }
}

/// Reads the answer to a DELETE that removed something: its key and version.
pub fn removed(answer: &Response) -> (String, String) {
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let members = members(answer.text());
    assert_eq!(names(&members), ["key", "version", "replicas"]);
    assert_eq!(members[2].1, "1", "one node, one copy");
    let version = string(&members[1].1);
    dots(&version);
    (string(&members[0].1), version)
}

/// One version of a key as a GET shows it; `value` is its text.
#[derive(Debug, Clone, PartialEq)]
pub struct Shown {
    pub value: String,
    pub version: String,
    pub updated_at: Timestamp,
    pub origin: String,
}

/// What a GET answered; `value` is its text.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    pub key: String,
    pub value: String,
    pub version: String,
    pub updated_at: Timestamp,
    pub origin: String,
    pub expires_at: Option<Timestamp>,
    pub conflicts: Vec<Shown>,
}

/// Reads the answer to a GET that must have found its key.
pub fn entry(answer: &Response) -> Entry {
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let members = members(answer.text());
    let has = |name: &str| members.iter().any(|(n, _)| n == name);
    let mut expected = vec!["key", "value", "version", "updated_at", "origin"];
    expected.extend(["expires_at", "conflicts"].iter().filter(|name| has(name)));
    assert_eq!(names(&members), expected, "members and their order");
    let text = |name: &str| members.iter().find(|(n, _)| n == name).map(|(_, v)| v.clone());
    let version = string(&members[2].1);
    assert_eq!(answer.header("etag"), Some(etag(&version).as_str()), "the ETag is the quoted version");
    let conflicts: Vec<Box<RawValue>> =
        text("conflicts").map_or(Vec::new(), |t| serde_json::from_str(&t).expect("conflicts is an array"));
    assert_eq!(has("conflicts"), !conflicts.is_empty(), "no empty conflicts");
    assert_eq!(dots(&version).len(), 1 + conflicts.len(), "the version names every live version");
    Entry {
        key: string(&members[0].1),
        value: members[1].1.clone(),
        version,
        updated_at: time(&string(&members[3].1)),
        origin: id(&string(&members[4].1)).to_owned(),
        expires_at: text("expires_at").map(|t| time(&string(&t))),
        conflicts: conflicts.iter().map(|c| conflict(c.get())).collect(),
    }
}

fn conflict(text: &str) -> Shown {
    let members = members(text);
    assert_eq!(names(&members), ["value", "version", "updated_at", "origin"]);
    let version = string(&members[1].1);
    assert_eq!(dots(&version).len(), 1, "a conflict is one version");
    Shown {
        value: members[0].1.clone(),
        version,
        updated_at: time(&string(&members[2].1)),
        origin: id(&string(&members[3].1)).to_owned(),
    }
}

/// Reads an error: problem details of this status and code.
pub fn problem(answer: &Response, status: u16, code: &str) -> serde_json::Value {
    let text = String::from_utf8_lossy(&answer.body);
    assert_eq!(answer.status, status, "{text}");
    assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{text}");
    let members = members(answer.text());
    assert_eq!(names(&members)[..4], ["type", "title", "status", "detail"], "{text}");
    assert!(matches!(names(&members)[4..], [] | ["line", "column"]), "{text}");
    let json = answer.json();
    assert_eq!(json["type"], format!("urn:dynarust:problem:{code}"), "{text}");
    assert_eq!(json["status"], status, "{text}");
    for name in ["title", "detail"] {
        assert!(json[name].as_str().is_some_and(|t| !t.is_empty()), "{name} says something: {text}");
    }
    json
}

/// Reads an error in a JSON body: its line and column.
pub fn place(answer: &Response) -> (u64, u64) {
    let json = problem(answer, 400, "invalid-body");
    let number = |name: &str| json[name].as_u64().unwrap_or_else(|| panic!("{name} in {json}"));
    let place = (number("line"), number("column"));
    assert!(place.0 >= 1 && place.1 >= 1, "lines and columns count from 1: {json}");
    place
}

/// A small generator of numbers (splitmix64): the same seed, the same run.
pub struct Random(u64);

impl Random {
    pub fn new(seed: u64) -> Random {
        Random(seed)
    }

    /// Seeded by `DYNARUST_SEED` or else by the clock; the seed is printed, so a failing test shows it.
    pub fn seeded(test: &str) -> Random {
        let chosen =
            std::env::var("DYNARUST_SEED").ok().map(|s| s.parse().expect("DYNARUST_SEED is a number"));
        let seed = chosen.unwrap_or_else(|| Timestamp::now().as_nanosecond() as u64);
        println!("{test}: to see this run again: DYNARUST_SEED={seed}");
        Random(seed)
    }

    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    pub fn below(&mut self, bound: usize) -> usize {
        (self.next() % bound as u64) as usize
    }

    /// True once in `n` times.
    pub fn once_in(&mut self, n: usize) -> bool {
        self.below(n) == 0
    }

    pub fn pick<'a, T>(&mut self, from: &'a [T]) -> &'a T {
        &from[self.below(from.len())]
    }
}
