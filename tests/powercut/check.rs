//! What a child does with a crash state: opens it with the real code, says all that it finds, writes on, lets
//! everything expire, closes; and then, as a new program in the same process, looks into the trees for what is left
//! over. It judges nothing: the parent does.

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::time::{Duration, Instant};

use dynarust::exit::Exit;
use dynarust::replica::{Dot, Kind, NodeId, Value};
use dynarust::storage::{self, Store};
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use crate::history::Held;
use crate::interpose;
use crate::trace::{Event, Op, Put};
use crate::workload::{self, KEY_OF_CHECK, entry, newest, send, set_clock, text};

/// What an opened store holds.
#[derive(Serialize, Deserialize)]
pub struct Report {
    /// The node.
    pub me: u64,
    /// Its newest event.
    pub seq: u64,
    /// Keys and versions, as the store counts them.
    pub totals: (u64, u64),
    /// Every known key with its versions, and whether each is in chunks.
    pub holds: BTreeMap<u32, Vec<(Held, bool)>>,
    /// The events of the writes that followed: what they did, and their dots.
    pub wrote: Vec<(Op, u64)>,
    /// The newest event after everything has expired.
    pub last: u64,
}

/// What is in the trees after that, whether or not an entry refers to it.
#[derive(Serialize, Deserialize)]
pub struct Audit {
    /// Rows of the log: their first and their last event.
    pub rows: Vec<(Dot, u64)>,
    /// What they take.
    pub rows_bytes: usize,
    /// Pieces and bytes of values in chunks.
    pub chunks: Vec<(Dot, (u64, u64))>,
}

/// A store that hangs is ended by the system.
pub const HANG_SECONDS: u32 = 60;

/// Opens and reports.
pub fn check(dir: &Path, keys: u32) -> ! {
    begin();
    set_clock(0, 0);
    interpose::note(&Event::Life);
    let store = workload::open(dir).unwrap_or_else(|e| storage::end_process(e.exit(), &e.to_string()));
    let published = store.published();
    let seq = newest(&store);
    interpose::note(&Event::Opened { me: store.me().0, seq });
    let mut report = Report {
        me: store.me().0,
        seq,
        totals: (published.totals.keys, published.totals.versions),
        holds: (0..keys).chain([KEY_OF_CHECK]).map(|key| (key, hold(&store, key))).collect(),
        wrote: Vec::new(),
        last: 0,
    };
    report.holds.retain(|_, held| !held.is_empty());
    for (step, bytes) in [Some(100), Some(40_000), None].into_iter().enumerate() {
        let id = mix_id(step);
        let text = bytes.map(|bytes| text(id, bytes));
        let put = text.as_ref().map(|t| Put { hash: xxh3_64(t), bytes: t.len() as u64, expires_at_ms: None });
        let op = Op { key: KEY_OF_CHECK, put, named: None };
        let seq = send(&store, id, op.clone(), text, false).expect("a write of a key of its own is taken");
        report.wrote.push((op, seq));
    }
    expire_all(&store, &report);
    store.close();
    report.last = newest(&store);
    interpose::note(&Event::Closed { seq: report.last });
    println!("{}", serde_json::to_string(&report).expect("plain data"));
    exec_audit(dir)
}

/// Every way to end says why.
pub fn begin() {
    interpose::end_after(HANG_SECONDS);
    dynarust::logger::start();
    std::panic::set_hook(Box::new(|panic| {
        let exit = panic.location().map_or(Exit::Unforeseen, |place| storage::panic_exit(place.file()));
        storage::end_process(exit, &panic.to_string().replace('\n', " "));
    }));
}

/// Looks into the trees, in a new program, since threads of this one hold sled's lock.
pub fn exec_audit(dir: &Path) -> ! {
    let error = std::process::Command::new("/proc/self/exe").arg("audit").arg(dir).exec();
    panic!("can't run the audit: {error}");
}

fn mix_id(step: usize) -> u64 {
    u64::from(std::process::id()) << 32 | 0x8000_0000 | step as u64
}

fn hold(store: &Store, key: u32) -> Vec<(Held, bool)> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    let name = workload::key_name(key);
    let read = runtime.block_on(store.read(Kind::Data, &name, 0));
    let read = read.unwrap_or_else(|e| storage::end_process(e.exit(), &format!("key {key}: {e}")));
    let held = read.into_iter().map(|(version, text)| {
        assert!(version.dot.origin == store.me(), "a version of a strange node");
        let (hash, bytes, expires_at_ms) = (xxh3_64(&text), text.len() as u64, version.expires_at_ms);
        let chunked = matches!(version.value, Value::Chunked { .. });
        (Held { seq: version.dot.seq, hash, bytes, expires_at_ms }, chunked)
    });
    held.collect()
}

/// Puts the clock far ahead, and waits until no key holds anything that expires.
fn expire_all(store: &Store, report: &Report) {
    let expires = |held: &&(Held, bool)| held.0.expires_at_ms.is_some();
    let keys = report.holds.iter().filter(|(_, held)| held.iter().find(expires).is_some());
    let keys: Vec<u32> = keys.map(|(&key, _)| key).collect();
    if keys.is_empty() {
        return;
    }
    set_clock(1 << 40, 1_000);
    // Wakes the committer, which sleeps by the old clock; a refusal is no event.
    send(store, mix_id(9), Op { key: KEY_OF_CHECK, put: None, named: None }, None, false);
    let deadline = Instant::now() + Duration::from_secs(20);
    while keys.iter().any(|&key| entry(store, key).versions().iter().any(|v| v.expires_at_ms.is_some())) {
        assert!(Instant::now() < deadline, "a version whose time has come stays");
        std::thread::sleep(Duration::from_millis(1));
    }
}

/// Reads the trees as they are.
pub fn audit(dir: &Path) -> sled::Result<()> {
    let db = sled_as_it_is(dir)?;
    let number = |bytes: &[u8]| u64::from_be_bytes(bytes.try_into().expect("eight bytes"));
    let mut audit = Audit { rows: Vec::new(), rows_bytes: 0, chunks: Vec::new() };
    for row in db.open_tree("changes")?.iter() {
        let (key, bytes) = row?;
        let row = storage::read_row(&key, &bytes).expect("a row that can be read");
        audit.rows.push((row.first, row.through));
        audit.rows_bytes += bytes.len();
    }
    let mut chunks: BTreeMap<Dot, (u64, u64)> = BTreeMap::new();
    assert!(!db.tree_names().iter().any(|name| name == b"chunks"), "a tree of an older format is left over");
    for piece in db.open_tree("pieces")?.iter() {
        let (key, piece) = piece?;
        let dot = Dot::new(NodeId(number(&key[..8])), number(&key[8..16]));
        let (pieces, bytes) = chunks.entry(dot).or_default();
        *pieces += 1;
        // Behind its check.
        *bytes += piece.len() as u64 - 4;
    }
    audit.chunks = chunks.into_iter().collect();
    println!("{}", serde_json::to_string(&audit).expect("plain data"));
    std::process::exit(0);
}

fn sled_as_it_is(dir: &Path) -> sled::Result<sled::Db> {
    let config = sled::Config::new().path(dir.join("store")).segment_size(dynarust::limits::SEGMENT_BYTES);
    config.cache_capacity(32 << 20).flush_every_ms(None).open()
}

/// Takes out the rows that a commit writes for keys that it changes without an event, as if it had not written them.
pub fn drop_repair_rows(dir: &Path) -> sled::Result<()> {
    if !dir.join("store/db").is_file() {
        return Ok(());
    }
    let db = sled_as_it_is(dir)?;
    let changes = db.open_tree("changes")?;
    for row in changes.scan_prefix([0; 8]) {
        changes.remove(row?.0)?;
    }
    db.flush().map(drop)
}
