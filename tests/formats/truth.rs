//! What is true of a directory, a line each: first of the whole, then of every key and every member's record, all versions with
//! their names, times, lengths and checksums. Two directories that hold the same have the same truth, whatever their format.
//!
//! ```text
//! {"node", "cluster", "version_vector", "floor", "clock", "digest", "keys", "versions"}
//! {"key"|"member", "context", "versions": [{"version", "hlc", "expires_at_ms", "bytes", "xxh3"}]}    the winner first
//! ```

use std::hash::{BuildHasher, RandomState};
use std::path::Path;

use dynarust::replica::{Dot, Kind};
use dynarust::storage::{Error, Offline};
use serde_json::{Value as Json, json};
use xxhash_rust::xxh3::xxh3_64;

/// Opens a copy.
pub fn offline(dir: &Path) -> Offline {
    let name = RandomState::new().hash_one(dir);
    Offline::open(dir, (&std::env::temp_dir(), name), &mut |_, _| {}).expect("a directory that opens")
}

/// All that is true of what an open copy holds.
pub fn truth(store: &Offline) -> String {
    let about = store.about().expect("who it is");
    let summary = about.summary;
    let mut lines = vec![json!({
        "node": about.node.to_string(),
        "cluster": about.cluster.to_string(),
        "version_vector": summary.vv.to_string(),
        "floor": summary.floor.to_string(),
        "clock": summary.clock.last().0,
        "digest": summary.totals.digest.to_string(),
        "keys": summary.totals.keys,
        "versions": summary.totals.versions,
    })];
    for kind in [Kind::Data, Kind::Membership] {
        let read = store.entries(kind, (&[], None), |key, entry| {
            let entry = entry.expect("an entry that can be read");
            let version = |version: &dynarust::replica::Version| {
                let text = store.text(version).expect("the store can be read").expect("all of its text");
                json!({
                    "version": version.dot.to_string(),
                    "hlc": version.hlc.0,
                    "expires_at_ms": version.expires_at_ms,
                    "bytes": text.len(),
                    "xxh3": checksum(&text),
                })
            };
            let versions: Vec<Json> = entry.versions().iter().map(version).collect();
            let context: Vec<String> = entry.context().iter().map(|dot: Dot| dot.to_string()).collect();
            let (name, key) = match kind {
                Kind::Data => ("key", String::from_utf8(key.to_vec()).expect("keys are UTF-8")),
                Kind::Membership => ("member", key.iter().map(|byte| format!("{byte:02x}")).collect()),
            };
            lines.push(json!({name: key, "context": context, "versions": versions}));
            Ok::<_, Error>(true)
        });
        read.expect("the store can be read");
    }
    lines.iter().map(|line| format!("{line}\n")).collect()
}

pub fn checksum(text: &[u8]) -> String {
    format!("{:016x}", xxh3_64(text))
}

/// Its lines.
pub fn lines(truth: &str) -> Vec<Json> {
    truth.lines().map(|line| serde_json::from_str(line).expect("an object a line")).collect()
}

/// Fails with the first line that differs, and not with all of both.
pub fn same(found: &str, truth: &str, context: &str) {
    let mut found_lines = found.lines();
    for line in truth.lines() {
        assert_eq!(found_lines.next(), Some(line), "{context}");
    }
    assert_eq!(found_lines.next(), None, "{context}: more than what is true");
}
