//! Makes the fixtures of the format that this build writes: a node of a small cluster, with all that a directory can hold. What
//! its truth says is proven by what was sent, before it becomes a file of the repository.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;
use std::process::Command;

use dynarust::replica::{Kind, Value};
use dynarust::storage::{Error, FORMAT};
use serde_json::Value as Json;

use crate::cluster::{Cluster, id, put};
use crate::fixture::{pack, place, run};
use crate::http::path;
use crate::support::{Node, SOON, binary, wait_until};
use crate::truth::{checksum, lines, offline, truth};

/// What each key should hold: the checksums of its values, in any order. None: it was deleted.
type Sent = BTreeMap<String, Vec<String>>;

const KEEPER: usize = 0;
const AWAY: usize = 1;
const EVICTED: usize = 2;
const LEAVER: usize = 3;

#[test]
#[ignore = "makes files of the repository, once for each format: cargo test --test formats make -- --ignored"]
fn make() {
    let to = place(FORMAT);
    assert!(!to.exists(), "{} is there: what a release has written is never made anew", to.display());
    let mut cluster = members();
    let mut sent = Sent::new();
    write(&mut cluster, &mut sent);
    let scratch = tempfile::tempdir().expect("a directory");
    let backup = scratch.path().join("stopped.backup");
    let address = cluster.node(KEEPER).address.to_string();
    run(Command::new(binary()).args(["backup", &address, "-o"]).arg(&backup));
    run(Command::new("gzip").arg("-9n").arg(&backup));
    assert_eq!(cluster.nodes[KEEPER].take().expect("it is up").stop().code(), Some(0));
    let dir = cluster.dir(KEEPER);
    keep(&dir, "stopped", &sent, scratch.path());
    cluster.up(KEEPER);
    die(&mut cluster, &mut sent);
    keep(&dir, "killed", &sent, scratch.path());
    fs::create_dir_all(&to).expect("a directory");
    for file in fs::read_dir(scratch.path()).expect("it can be listed") {
        let file = file.expect("it can be listed").path();
        fs::copy(&file, to.join(file.file_name().expect("a name"))).expect("it can be copied");
    }
}

/// Four nodes under addresses that no other test takes, since a node that opens a fixture asks there.
fn members() -> Cluster {
    // Marks of evictions, and what deletes leave, stay for ten years.
    let flags = |_| ["--forget-after-hours", "87840"].map(str::to_owned).to_vec();
    let cluster = Cluster::each(4, flags).run_by(|number, dir: &Path, flags: &[&str]| {
        let mut command = Command::new(binary());
        command.arg(format!("127.77.0.{}:6660", number + 1)).arg("--data-dir").arg(dir).args(flags);
        command
    });
    let mut cluster = cluster;
    (0..4).for_each(|number| cluster.up(number));
    cluster.settle();
    cluster
}

/// Writes a key, and remembers what; the version that came of it.
fn send(node: &Node, sent: &mut Sent, key: &str, text: &str, with: Option<&str>, ttl: Option<u64>) -> String {
    let ttl = ttl.map(|seconds| format!(", \"ttl_seconds\": {seconds}")).unwrap_or_default();
    let headers: Vec<(&str, &str)> = with.map(|token| ("Causality-Token", token)).into_iter().collect();
    let body = format!("{{\"value\": {text}{ttl}}}");
    let answer = node.request_with("PUT", &format!("/key/{}", path(key)), &headers, body.as_bytes());
    assert!(matches!(answer.status, 200 | 201), "{key:?}: {}", answer.text());
    let values = sent.entry(key.to_owned()).or_default();
    if with.is_none() {
        values.clear();
    }
    values.push(checksum(text.as_bytes()));
    answer.json()["version"].as_str().expect("a version").to_owned()
}

fn delete(node: &Node, sent: &mut Sent, key: &str) {
    assert_eq!(node.request("DELETE", &format!("/key/{}", path(key)), "").status, 200, "{key:?}");
    sent.insert(key.to_owned(), Vec::new());
}

/// A JSON string whose text has so many bytes, no two alike, and which packs well.
fn text(seed: &str, bytes: usize) -> String {
    let mut text = format!("\"{seed} ");
    for n in 0.. {
        text.push_str(&format!("{n:04}{}", " and so on".repeat(12)));
        if text.len() >= bytes {
            break;
        }
    }
    text.truncate(bytes - 1);
    text + "\""
}

/// A hundred years, the most there is.
const TTL: u64 = 3_153_600_000;

fn write(cluster: &mut Cluster, sent: &mut Sent) {
    for n in 0..240 {
        let node = cluster.node(if n % 3 == 0 { AWAY } else { KEEPER });
        send(node, sent, &format!("many/{n:03}"), &format!("{n}.10"), None, None);
        if n < 20 {
            send(node, sent, &format!("gone/{n:02}"), &text("soon gone", 20 + 900 * n), None, None);
        }
    }
    cluster.settle();
    for n in 0..20 {
        delete(cluster.node(n % 2), sent, &format!("gone/{n:02}"));
    }
    cluster.settle();
    end_memberships(cluster);
    // A second run, so that there is a snapshot, and a log that begins in the middle.
    cluster.kill(KEEPER);
    cluster.up(KEEPER);
    cluster.settle();
    let keeper = cluster.node(KEEPER);
    for n in 0..60 {
        send(keeper, sent, &format!("many/{n:03}"), &text("again", 30 + 50 * n), None, None);
    }
    for (name, bytes) in [
        ("inline at most", 4_096),
        ("one piece", 4_097),
        ("one whole piece", 16 << 10),
        ("a byte more", (16 << 10) + 1),
        ("four whole pieces", 64 << 10),
        ("eight whole pieces", 128 << 10),
        ("many pieces", 100_001),
    ] {
        send(keeper, sent, &format!("large/{name}"), &text(name, bytes), None, None);
    }
    send(cluster.node(AWAY), sent, "large/of another node", &text("elsewhere", 70_000), None, None);
    send(keeper, sent, "brief", "{\"a\": [1, 2.50]}", None, Some(TTL));
    send(keeper, sent, "brief/large", &text("for a while", 40_000), None, Some(TTL));
    for key in awkward() {
        send(keeper, sent, &key, "\"an awkward key\"", None, None);
    }
    siblings(cluster, sent);
    cluster.settle();
    // What is deleted from here on is not forgotten: one member does not hear of it.
    assert_eq!(cluster.nodes[AWAY].take().expect("it is up").stop().code(), Some(0));
    let keeper = cluster.node(KEEPER);
    for n in 220..240 {
        delete(keeper, sent, &format!("many/{n:03}"));
    }
    send(keeper, sent, "large/replaced", &text("first", 50_000), None, None);
    send(keeper, sent, "large/replaced", &text("then", 33_000), None, None);
    send(keeper, sent, "large/deleted", &text("first", 50_000), None, None);
    delete(keeper, sent, "large/deleted");
    send(keeper, sent, "last", "null", None, None);
}

fn end_memberships(cluster: &mut Cluster) {
    let left = cluster.node(LEAVER).request("POST", "/cluster/leave", "");
    assert_eq!(left.status, 200, "{}", left.text());
    cluster.kill(LEAVER);
    let evicted = id(cluster.node(EVICTED));
    let answer = cluster.node(AWAY).request("DELETE", &format!("/membership/{evicted}"), "");
    assert_eq!(answer.status, 200, "{}", answer.text());
    cluster.kill(EVICTED);
    cluster.settle();
}

/// Names that something could take for something else.
fn awkward() -> Vec<String> {
    let mut keys: Vec<String> = [
        "a",
        "%",
        "%2F",
        "a b/c+d?e#f",
        "größe/\u{1F980}",
        "\"quoted\\\"",
        "tab\tline\n",
        "/",
        "//",
        "..",
        "format",
    ]
    .map(str::to_owned)
    .to_vec();
    keys.extend(["x".repeat(8), "x".repeat(16), "x".repeat(20), "x".repeat(1_024), "\u{7f}".repeat(40)]);
    keys
}

/// Keys with versions side by side, of one node and of two, small, large, and so many that they leave the leaf.
fn siblings(cluster: &Cluster, sent: &mut Sent) {
    let (keeper, away) = (cluster.node(KEEPER), cluster.node(AWAY));
    let wide = |node: &Node, key: &str| {
        wait_until(SOON, key, || node.request("GET", &format!("/key/{key}"), "").status == 200)
    };
    for (key, bytes) in [("both/small", 30), ("both/large", 60_000)] {
        let first = send(keeper, sent, key, &text("first", bytes), None, None);
        send(keeper, sent, key, &text("left", bytes + 1), None, None);
        send(keeper, sent, key, &text("right", bytes + 2), Some(&first), None);
    }
    let first = send(keeper, sent, "both/of two nodes", &text("first", 50), None, None);
    send(keeper, sent, "both/of two nodes", &text("here", 50_000), None, None);
    cluster.settle();
    wide(away, "both/of%20two%20nodes");
    send(away, sent, "both/of two nodes", &text("there", 20_000), Some(&first), None);
    let first = send(keeper, sent, "both/many", "0", None, None);
    send(keeper, sent, "both/many", &text("1", 1_500), None, None);
    for n in 2..16 {
        send(keeper, sent, "both/many", &text(&n.to_string(), 1_500), Some(&first), None);
    }
}

/// Kills the node in the middle of everything: what the last commits put aside is still in its trees.
fn die(cluster: &mut Cluster, sent: &mut Sent) {
    let keeper = cluster.node(KEEPER);
    for n in 60..90 {
        send(keeper, sent, &format!("many/{n:03}"), &text("once more", 40 * n), None, None);
    }
    delete(keeper, sent, "large/many pieces");
    send(keeper, sent, "large/four whole pieces", &text("another", 64 << 10), None, None);
    put(keeper, "nothing", "x");
    sent.insert("nothing".into(), vec![checksum(b"\"x\"")]);
    send(keeper, sent, "large/a byte more", &text("another", 40_000), None, None);
    cluster.kill(KEEPER);
}

/// Packs a directory and writes its truth, which must be what was sent.
fn keep(dir: &Path, name: &str, sent: &Sent, to: &Path) {
    let store = offline(dir);
    let truth = truth(&store);
    let mut left = sent.clone();
    for line in lines(&truth) {
        let Some(key) = line["key"].as_str() else { continue };
        let versions = line["versions"].as_array().expect("versions");
        let mut found: Vec<&str> = versions.iter().filter_map(|version| version["xxh3"].as_str()).collect();
        let mut right = left.remove(key).unwrap_or_else(|| panic!("{key:?} was never sent"));
        found.sort_unstable();
        right.sort_unstable();
        assert_eq!(found, right, "{key:?}");
    }
    assert!(left.values().all(Vec::is_empty), "sent, and not there: {left:?}");
    assert!(!left.is_empty(), "no delete is forgotten");
    has_some_of_everything(&store, &lines(&truth), name);
    pack(dir, &to.join(format!("{name}.tar.gz")));
    fs::write(to.join(format!("{name}.truth")), truth).expect("it can be written");
}

/// What a fixture is for must be in it.
fn has_some_of_everything(store: &dynarust::storage::Offline, truth: &[Json], name: &str) {
    let keys: Vec<&Json> = truth.iter().filter(|line| line.get("key").is_some()).collect();
    let count = |what: fn(&&&Json) -> bool| keys.iter().filter(what).count();
    assert!(count(|line| line["versions"][1].is_object()) >= 4, "keys with siblings");
    assert!(
        count(|line| line["versions"] == Json::Array(Vec::new())) >= 20,
        "deletes that are not forgotten"
    );
    assert!(count(|line| line["versions"][0]["expires_at_ms"].is_number()) >= 2, "keys that expire");
    let origins = truth[0]["version_vector"].as_str().expect("a vector").matches('-').count();
    assert!(origins >= 3, "events of several nodes: {}", truth[0]["version_vector"]);
    let members = truth.iter().filter(|line| line["versions"][0].is_object() && line.get("member").is_some());
    assert!(members.count() >= 3, "members, and one that was evicted");
    let (mut rows, mut chunked) = (0, 0);
    let counted = store.rows(|_, row| {
        rows += usize::from(row.is_some());
        Ok::<_, Error>(true)
    });
    counted.expect("a log");
    let read = store.entries(Kind::Data, (&[], None), |_, entry| {
        let entry = entry.expect("an entry");
        chunked +=
            entry.versions().iter().filter(|version| matches!(version.value, Value::Chunked { .. })).count();
        Ok::<_, Error>(true)
    });
    read.expect("entries");
    let mut there = BTreeSet::new();
    let pieces = store.pieces(|_, piece| {
        there.insert(piece.expect("the key of a piece").0);
        Ok::<_, Error>(())
    });
    pieces.expect("pieces");
    let there = there.len();
    assert!(rows > 40 && chunked > 20, "{rows} rows, {chunked} large values");
    // What was put aside last is there as long as no other commit has come.
    assert!(
        if name == "killed" { there > chunked } else { there == chunked },
        "{name}: {there} for {chunked}"
    );
}
