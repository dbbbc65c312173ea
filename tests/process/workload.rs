//! Writers that put, overwrite and delete keys of their own, readers that look at everybody's, and the audit after
//! a restart. Everything they do and see goes into a `History`.

use crate::history::{History, Seen, value_text};
use crate::load::{Crowd, Reply, Script, request};
use crate::random::Random;
use crate::support::{Node, SOON};
use std::net::SocketAddr;
use std::time::Instant;

pub struct Workload {
    pub history: History,
    /// What cannot be true, in words; must stay empty.
    pub guilty: Vec<String>,
    pub acknowledged: u64,
    pub refused: u64,
    pub reads: u64,
    /// From now on nobody asks for anything more.
    pub stopped: bool,
    /// The statuses by which the node may refuse a write.
    pub refusals: &'static [u16],
    /// In percent: how many of the values are large (20 to 300 KB).
    pub large: u64,
    random: Random,
    writers: usize,
    keys_each: usize,
    pending: Vec<Option<Pending>>,
}

struct Pending {
    key: usize,
    asked: Asked,
}

enum Asked {
    Put { number: u32, replaces: bool },
    Delete { number: u32 },
    Get { floor: u32 },
}

impl Workload {
    pub fn new(seed: u64, writers: usize, readers: usize, keys_each: usize) -> Workload {
        Workload {
            history: History::new(writers * keys_each),
            guilty: Vec::new(),
            acknowledged: 0,
            refused: 0,
            reads: 0,
            stopped: false,
            refusals: &[],
            large: 2,
            random: Random::new(seed),
            writers,
            keys_each,
            pending: (0..writers + readers).map(|_| None).collect(),
        }
    }

    /// The connections it wants, all of them new.
    pub fn connect(&mut self, node: &Node) -> Crowd {
        self.connect_to(node.address)
    }

    pub fn connect_to(&mut self, address: SocketAddr) -> Crowd {
        self.stopped = false;
        self.pending.iter_mut().for_each(|p| *p = None);
        Crowd::connect(address, self.pending.len()).expect("the node accepts connections")
    }

    /// Looks at every key of a restarted node; afterwards everything is known again.
    pub fn audit(&mut self, node: &Node) {
        let connections = 8;
        let mut crowd = Crowd::connect(node.address, connections).expect("the node accepts connections");
        let keys = self.history.keys();
        let pending = vec![None; connections];
        let mut audit = Audit { history: &mut self.history, next: 0, looked: 0, pending, guilty: Vec::new() };
        crowd.run(&mut audit, Instant::now() + SOON, |_| false);
        let (looked, guilty) = (audit.looked, audit.guilty);
        self.guilty.extend(guilty);
        if looked != keys {
            self.guilty.push(format!("the audit came through {looked} of {keys} keys only"));
        }
        let counted = node.request("GET", "/stats", "").json()["keys"].as_u64();
        let live = self.history.live() as u64;
        if self.guilty.is_empty() && counted != Some(live) {
            self.guilty.push(format!("/stats counts {counted:?} keys, there are {live}"));
        }
    }

    /// Panics when anything was found that cannot be true.
    pub fn acquit(&self, context: &str) {
        let shown = &self.guilty[..self.guilty.len().min(10)];
        assert!(self.guilty.is_empty(), "{context}: {} findings\n{}", self.guilty.len(), shown.join("\n"));
    }

    fn length(&mut self) -> usize {
        let large = self.random.chance(self.large);
        let (low, high) = if large { (20_000, 300_000) } else { (20, 500) };
        self.random.between(low, high) as usize
    }

    fn written(&mut self, key: usize, number: u32, reply: &Reply, expected: u16) {
        if self.refusals.contains(&reply.status) {
            self.refused += 1;
            self.history.refuse(key, number);
            return;
        }
        let body: serde_json::Value = serde_json::from_slice(&reply.body).unwrap_or_default();
        let Some(version) = body["version"].as_str().filter(|_| reply.status == expected) else {
            let status = reply.status;
            self.guilty.push(format!("key {key}, write {number}: {status} for {expected}: {body}"));
            return;
        };
        self.acknowledged += 1;
        let verdict = self.history.acknowledge(key, number, version);
        self.guilty.extend(verdict.err());
    }
}

impl Script for Workload {
    fn next(&mut self, connection: usize) -> Option<Vec<u8>> {
        if self.stopped {
            return None;
        }
        if connection >= self.writers {
            let key = self.random.index(self.history.keys());
            let floor = self.history.floor(key);
            self.pending[connection] = Some(Pending { key, asked: Asked::Get { floor } });
            return Some(request("GET", &format!("/key/k{key}"), ""));
        }
        let key = connection * self.keys_each + self.random.index(self.keys_each);
        if !self.history.settled(key) {
            return None;
        }
        let present = self.history.present(key);
        if present && self.random.chance(25) {
            let number = self.history.submit(key, None);
            self.pending[connection] = Some(Pending { key, asked: Asked::Delete { number } });
            return Some(request("DELETE", &format!("/key/k{key}"), ""));
        }
        let length = self.length();
        let number = self.history.submit(key, Some(length));
        self.pending[connection] = Some(Pending { key, asked: Asked::Put { number, replaces: present } });
        let body = format!("{{\"value\": {}}}", value_text(key, number, length));
        Some(request("PUT", &format!("/key/k{key}"), &body))
    }

    fn answer(&mut self, connection: usize, reply: Reply) {
        let Pending { key, asked } = self.pending[connection].take().expect("a request under way");
        match asked {
            Asked::Put { number, replaces } => {
                self.written(key, number, &reply, if replaces { 200 } else { 201 });
            }
            Asked::Delete { number } => self.written(key, number, &reply, 200),
            // A node that stops, or has too much to do, may say so to a reader too.
            Asked::Get { .. } if reply.status == 503 && self.refusals.contains(&503) => {}
            Asked::Get { floor } => {
                self.reads += 1;
                let seen = Seen::from_answer(reply.status, &reply.body);
                let verdict = seen.and_then(|seen| self.history.read(key, floor, &seen));
                self.guilty.extend(verdict.err().map(|why| format!("reader of key {key}: {why}")));
            }
        }
    }

    fn closed(&mut self, connection: usize, _unanswered: bool) {
        // The outcome stays unknown until the audit.
        self.pending[connection] = None;
    }
}

struct Audit<'a> {
    history: &'a mut History,
    next: usize,
    looked: usize,
    pending: Vec<Option<usize>>,
    guilty: Vec<String>,
}

impl Script for Audit<'_> {
    fn next(&mut self, connection: usize) -> Option<Vec<u8>> {
        let key = self.next;
        if key == self.history.keys() {
            return None;
        }
        self.next += 1;
        self.pending[connection] = Some(key);
        Some(request("GET", &format!("/key/k{key}"), ""))
    }

    fn answer(&mut self, connection: usize, reply: Reply) {
        let key = self.pending[connection].take().expect("a request under way");
        self.looked += 1;
        let seen = Seen::from_answer(reply.status, &reply.body);
        let verdict = seen.and_then(|seen| self.history.recovered(key, &seen));
        self.guilty.extend(verdict.err().map(|why| format!("after the restart, key {key}: {why}")));
    }

    fn closed(&mut self, _connection: usize, unanswered: bool) {
        if unanswered {
            self.guilty.push("the node closed a connection of the audit".to_owned());
        }
    }
}
