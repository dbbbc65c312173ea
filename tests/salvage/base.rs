//! A directory to be damaged: keys of many shapes, written, overwritten and deleted over several runs of a node, and what is
//! true of each at the end.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde_json::{Value as Json, json};

use crate::random::Random;
use crate::support::{Client, Node, SOON};

/// The directory and the truth.
pub struct Base {
    pub dir: tempfile::TempDir,
    /// Every key that was ever written, with what it holds; `None`: it was deleted.
    pub truth: BTreeMap<String, Option<Json>>,
}

impl Base {
    /// The data directory.
    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }
}

/// Keys, and writes in each run.
const KEYS: usize = 500;
const WRITES: usize = 900;

/// Several runs, of which the last ends as `signal` says.
pub fn base(signal: i32, runs: usize, random: &mut Random) -> Base {
    let dir = tempfile::tempdir().expect("a directory");
    let data = dir.path().join("data");
    let mut truth = BTreeMap::new();
    for run in 1..=runs {
        let mut node = Node::start(&data, &[]);
        let mut client = Client::new(node.address);
        for step in 0..WRITES {
            write(&mut client, run * WRITES + step, random, &mut truth);
        }
        let last = run == runs;
        node.signal(if last { signal } else { [libc::SIGTERM, libc::SIGKILL][run % 2] });
        node.wait(SOON);
    }
    Base { dir, truth }
}

fn name(n: usize) -> String {
    match n % 6 {
        0 => format!("app/{n:06}"),
        1 => format!("{n:08}"),
        2 => format!("sixteen/{n:08}"),
        3 => format!("twenty/{n:013}"),
        4 => format!("{}/{n}", "a-long-way-down/".repeat(1 + n % 12)),
        _ => format!("{n}"),
    }
}

fn write(client: &mut Client, step: usize, random: &mut Random, truth: &mut BTreeMap<String, Option<Json>>) {
    let key = name(random.index(KEYS));
    let path = format!("/key/{key}");
    if random.chance(12) {
        let answer = client.request("DELETE", &path, &[], b"").expect("an answer");
        assert!(matches!(answer.status, 200 | 404), "{}", answer.text());
        truth.insert(key, None);
        return;
    }
    let bytes = match random.below(100) {
        0..=2 => random.between(5_000, 120_000),
        3..=20 => random.between(1_000, 4_000),
        _ => random.between(0, 400),
    };
    let letters: String = (0..bytes).map(|_| char::from(b'a' + random.below(26) as u8)).collect();
    let value = json!({"key": key, "step": step, "text": letters});
    let body = match random.chance(5) {
        true => json!({"value": value, "ttl_seconds": 36_000}),
        false => json!({"value": value}),
    };
    let answer = client.request("PUT", &path, &[], body.to_string().as_bytes()).expect("an answer");
    assert!(matches!(answer.status, 200 | 201), "{}", answer.text());
    truth.insert(key, Some(value));
}

/// Copies a directory, so that a copy may be damaged.
pub fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a directory");
    for entry in std::fs::read_dir(from).expect("it can be listed") {
        let entry = entry.expect("it can be listed");
        let target = to.join(entry.file_name());
        match entry.path().is_dir() {
            true => copy(&entry.path(), &target),
            // Room for a full disk, and of no interest.
            false if entry.file_name() == "BALLAST" => {}
            false => drop(std::fs::copy(entry.path(), target).expect("it can be copied")),
        }
    }
}
