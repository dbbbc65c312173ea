//! `inspect verify`: each invariant that it claims is broken, and it says so and where; and of what a node may rightly leave
//! behind it says nothing.

use std::fs;
use std::path::Path;

use serde_json::Value as Json;

use crate::cluster::{Cluster, SETTLED};
use crate::edit::{Edit, stamped};
use crate::inspect::{filled_node, inspect};
use crate::support::{Client, Node, wait_until};
use crate::{end, temporary};

/// The findings, each with its place; with the exit code that belongs to them.
fn findings(dir: &Path) -> Vec<(String, String)> {
    let ended = end(inspect(dir, &["verify", "--json"]));
    assert_eq!(ended.stderr, "", "{}", ended.stdout);
    let mut lines: Vec<Json> =
        ended.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let sum = lines.pop().expect("an object for all of it");
    assert_eq!(sum["findings"], lines.len(), "{sum}");
    assert_eq!(
        (ended.code, &sum["sound"]),
        (Some(i32::from(!lines.is_empty())), &Json::from(lines.is_empty()))
    );
    let text = |line: &Json, name: &str| line[name].as_str().expect("a text").to_owned();
    lines.iter().map(|line| (text(line, "place"), text(line, "finding"))).collect()
}

fn is_sound(dir: &Path, what: &str) {
    assert_eq!(findings(dir), [], "{what}");
}

/// Keys that were written once, so that nothing is forgotten; one of them in pieces, one that expires, one written twice.
fn written(dir: &Path) -> Edit {
    let node = Node::start(dir, &[]);
    let put = |key: &str, value: &str, rest: &str| {
        let body = format!("{{\"value\": {value}{rest}}}");
        assert!(matches!(node.request("PUT", &format!("/key/{key}"), &body).status, 200 | 201));
    };
    for n in 0..8 {
        put(&format!("k{n}"), &n.to_string(), "");
    }
    put("large", &format!("\"{}\"", "x".repeat(100_000)), "");
    put("brief", "1", ", \"ttl_seconds\": 3600");
    assert_eq!(node.stop().code(), Some(0));
    Edit::untouched(dir)
}

/// The row of the log that names this event alone.
fn row_of(edit: &Edit, seq: u64) -> Vec<u8> {
    [edit.me(), seq.to_be_bytes()].concat()
}

/// The number of the event that wrote this key, which no other has written.
fn seq_of(edit: &Edit, key: &str) -> u64 {
    let entry = edit.get("data", key.as_bytes());
    assert!(entry[4] == 1 && entry[13] < 0x80, "one version, and a small number");
    entry[13].into()
}

type Break = fn(&Edit);

/// What is broken, where it must be said, in which words.
const BROKEN: &[(&str, Break, &str, &str)] = &[
    (
        "a row of the log is gone",
        |e| e.remove("changes", &row_of(e, seq_of(e, "k3"))),
        "changes",
        "are missing",
    ),
    (
        "the last row is gone",
        |e| {
            let last = e.rows("changes").pop().expect("a row");
            e.remove("changes", &last.0);
        },
        "changes",
        "are incorporated",
    ),
    (
        "the first row is gone",
        |e| {
            let first = e.rows("changes").swap_remove(0);
            e.remove("changes", &first.0);
        },
        "changes",
        "and the floor is 0",
    ),
    (
        "all rows are gone",
        |e| e.rows("changes").iter().for_each(|(name, _)| e.remove("changes", name)),
        "changes",
        "the log has nothing of",
    ),
    (
        "a row is damaged",
        |e| {
            let (name, mut row) = e.rows("changes").swap_remove(2);
            row[4] ^= 0x40;
            e.put("changes", &name, &row);
        },
        "changes",
        "is damaged",
    ),
    (
        "a row no longer names its event",
        |e| {
            let name = row_of(e, seq_of(e, "k4"));
            e.put("changes", &name, &stamped(&name, &[0, 0, 0]));
        },
        "data",
        "'k4': ",
    ),
    ("an entry is gone", |e| e.remove("data", b"k5"), "data", "'k5': the log names"),
    ("an entry is gone, and the count says so", |e| e.remove("data", b"k5"), "meta", "committed were"),
    (
        "an entry is one of long ago",
        |e| {
            // As if it had been written once before, by the first event.
            let mut old = e.get("data", b"k6")[4..].to_vec();
            old[9] = 1;
            e.put("data", b"k6", &stamped(b"k6", &old));
        },
        "data",
        "has not seen it",
    ),
    (
        "two entries changed places",
        |e| {
            let (one, two) = (e.get("data", b"k1"), e.get("data", b"k2"));
            e.put("data", b"k1", &two);
            e.put("data", b"k2", &one);
        },
        "data",
        "the entry of 'k2' is damaged",
    ),
    (
        "a value is damaged",
        |e| {
            let mut entry = e.get("data", b"k1");
            *entry.last_mut().expect("a byte") ^= 1;
            e.put("data", b"k1", &entry);
        },
        "data",
        "the entry of 'k1' is damaged",
    ),
    (
        "a version is outside of its context",
        |e| {
            let entry = e.get("data", b"k1");
            e.put("data", b"k1", &stamped(b"k1", &[&[0, 1], &entry[5..], &[0]].concat()));
        },
        "data",
        "'k1': ",
    ),
    (
        "a version lives twice",
        |e| {
            let entry = e.get("data", b"k1");
            let (version, dot) = (&entry[5..], &entry[5..14]);
            e.put("data", b"k1", &stamped(b"k1", &[&[0, 2], version, version, &[1], dot].concat()));
        },
        "data",
        "lives twice",
    ),
    (
        "an entry of nothing",
        |e| e.put("data", b"ghost", &stamped(b"ghost", &[0, 0, 0])),
        "data",
        "'ghost': nothing",
    ),
    (
        "a key that no client can have",
        |e| {
            let entry = e.get("data", b"k1");
            e.put("data", b"\xff", &stamped(b"\xff", &entry[4..]));
        },
        "data",
        "'\\xff': no key looks like that",
    ),
    (
        "a member without an id",
        |e| {
            let entry = e.get("data", b"k1");
            e.put("membership", b"me", &stamped(b"me", &entry[4..]));
        },
        "membership",
        "'me': no key looks like that",
    ),
    (
        "an event of its own that it does not know of",
        |e| {
            let mut entry = e.get("data", b"k1")[4..].to_vec();
            entry[9] = 0x7f;
            e.put("data", b"k1", &stamped(b"k1", &entry));
        },
        "data",
        "-127 is this node's own",
    ),
    (
        "a piece is gone",
        |e| {
            let piece = e.rows("pieces").swap_remove(3);
            e.remove("pieces", &piece.0);
        },
        "pieces",
        "piece 3 of 7 is missing",
    ),
    (
        "a piece is damaged",
        |e| {
            let (name, mut piece) = e.rows("pieces").swap_remove(3);
            piece[100] ^= 1;
            e.put("pieces", &name, &piece);
        },
        "pieces",
        "piece 3 of 7 is damaged",
    ),
    (
        "pieces of nothing",
        |e| {
            e.put("pieces", &[&e.me()[..], &seq_of(e, "k1").to_be_bytes(), &[0; 4]].concat(), b"what is left")
        },
        "pieces",
        "which does not live",
    ),
    (
        "a piece too many",
        |e| {
            let (mut name, piece) = e.rows("pieces").swap_remove(3);
            name[19] = 7;
            e.put("pieces", &name, &piece);
        },
        "pieces",
        "has 7 pieces, and there is a piece 7",
    ),
    ("a piece of no name", |e| e.put("pieces", b"what", b"is this"), "pieces", "'what' names no piece"),
    (
        "a row of the index of expiry is gone",
        |e| {
            let row = e.rows("expiry").swap_remove(0);
            e.remove("expiry", &row.0);
        },
        "expiry",
        "'brief' expires at",
    ),
    (
        "the vector is ahead of the log",
        |e| {
            let mut summary = e.summary();
            summary.vv[0].1 += 1;
            e.set_summary(&summary);
        },
        "changes",
        "are incorporated",
    ),
    (
        "the vector is behind what was committed",
        |e| {
            let mut summary = e.summary();
            summary.vv[0].1 -= 1;
            e.set_summary(&summary);
        },
        "PROGRESS",
        "it has fallen back",
    ),
    (
        "the vector does not know an origin",
        |e| {
            let mut summary = e.summary();
            summary.vv.clear();
            e.set_summary(&summary);
        },
        "PROGRESS",
        "and the store holds 0",
    ),
    (
        "the floor is above the vector",
        |e| {
            let mut summary = e.summary();
            summary.floor = vec![(e.me(), summary.vv[0].1 + 1)];
            e.set_summary(&summary);
        },
        "meta",
        "more is forgotten than is incorporated",
    ),
    (
        "the last commit began after it ended",
        |e| {
            let mut summary = e.summary();
            summary.unit = vec![(e.me(), summary.vv[0].1 + 1)];
            e.set_summary(&summary);
        },
        "meta",
        "before the last commit",
    ),
    (
        "the digest is another",
        |e| {
            let mut summary = e.summary();
            summary.digest[5] ^= 1;
            e.set_summary(&summary);
        },
        "meta",
        "committed were",
    ),
    (
        "a key more was counted",
        |e| {
            let mut summary = e.summary();
            summary.keys += 1;
            e.set_summary(&summary);
        },
        "meta",
        "committed were",
    ),
    (
        "the summary is damaged",
        |e| {
            let mut bytes = e.get("meta", b"summary");
            bytes[20] ^= 1;
            e.put("meta", b"summary", &bytes);
        },
        "store",
        "the summary of the last commit is damaged",
    ),
    ("a tree is missing", |e| e.drop_tree("expiry"), "store", "the tree 'expiry' is missing"),
    (
        "the witness is gone",
        |e| fs::remove_file(e.dir.join("PROGRESS")).expect("it is there"),
        "PROGRESS",
        "missing",
    ),
    ("the witness says more", |e| e.witness(1_000), "PROGRESS", "1000 events were committed"),
    (
        "the witness is damaged",
        |e| fs::write(e.dir.join("PROGRESS"), [7; 16]).expect("it is written"),
        "PROGRESS",
        "missing or damaged",
    ),
    (
        "a file where sled does not sync",
        |e| fs::write(e.dir.join("store/blobs/17"), "a page").expect("it is written"),
        "store/blobs/17",
        "nothing may be here",
    ),
];

#[test]
fn whatever_is_broken_is_named_with_its_place() {
    let dir = temporary();
    let whole = written(dir.path());
    is_sound(&whole.dir, "before");
    for (what, break_it, place, words) in BROKEN {
        let mut edit = Edit::of(&whole.dir);
        break_it(&edit);
        let found = findings(&edit.close());
        let named = found.iter().any(|(its, finding)| its == place && finding.contains(words));
        assert!(named, "{what}: no {words:?} at {place} in {found:#?}");
    }
}

/// A bit that has turned in sled's log, wherever that is: in what lives, or in what has been written over.
#[test]
fn sled_s_own_checks_are_asked() {
    let dir = temporary();
    let node = filled_node(dir.path());
    assert_eq!(node.stop().code(), Some(0));
    let db = dir.path().join("store/db");
    let whole = fs::read(&db).expect("the log");
    let end = whole.iter().rposition(|byte| *byte != 0).expect("something is there");
    for part in 1..9 {
        let mut bytes = whole.clone();
        let at = 40 + end.min(700_000) * part / 10;
        bytes[at] ^= 0x20;
        fs::write(&db, &bytes).expect("it is written");
        let ended = crate::end(inspect(dir.path(), &["verify"]));
        assert_eq!(ended.code, Some(1), "byte {at}: {}{}", ended.stdout, ended.stderr);
        assert!(ended.stdout.contains("store/db: "), "byte {at}: {}", ended.stdout);
    }
}

/// What a node would refuse is a finding, and the count comes at the end, however little can be looked at.
#[test]
fn what_does_not_open_is_found_and_counted() {
    let dir = temporary();
    written(dir.path());
    let broken = |name: &str, bytes: Option<&[u8]>, place: &str, what: &str| {
        let edit = Edit::untouched(dir.path()).close_with(|copy| match bytes {
            Some(bytes) => fs::write(copy.join(name), bytes).expect("it is written"),
            None => fs::remove_file(copy.join(name)).expect("it is there"),
        });
        let found = findings(&edit.dir);
        let [(at, says)] = &found[..] else { panic!("{name}: {found:?}") };
        assert!(at == place && says.contains(what), "{name}: {found:?}");
        let text = end(inspect(&edit.dir, &["verify"]));
        assert_eq!((text.code, text.stderr.as_str()), (Some(1), ""), "{name}");
        assert!(
            text.stdout.ends_with("\n1 finding; it could not be looked at any further\n"),
            "{}",
            text.stdout
        );
    };
    broken("MANIFEST", Some(b"{}\n0\n"), "MANIFEST", "is damaged");
    for (file, place) in [("store/conf", "store/conf"), ("store/db", "store/db")] {
        broken(file, None, place, "missing or empty");
        broken(file, Some(b""), place, "missing or empty");
    }
    let nothing = end(inspect(&dir.path().join("nope"), &["verify", "--json"]));
    assert_eq!((nothing.code, nothing.stdout.as_str()), (Some(2), ""), "{}", nothing.stderr);
}

/// That a file lacks its end is said as it is: there is no bad place where there is no file.
#[test]
fn a_file_that_was_cut_off_ends_where_it_ends() {
    let dir = temporary();
    let node = filled_node(dir.path());
    for n in 0..30 {
        let body = format!("{{\"value\": \"{}\"}}", "x".repeat(100_000));
        assert_eq!(node.request("PUT", &format!("/key/large/{n}"), &body).status, 201);
    }
    assert_eq!(node.stop().code(), Some(0));
    // Segments may stand in any order, so it need not be the newest one that is cut.
    let db = dir.path().join("store/db");
    let mut bytes = fs::read(&db).expect("the log");
    bytes.resize(bytes.len().next_multiple_of(2 << 20), 0);
    bytes.rotate_left(2 << 20);
    bytes.truncate(bytes.len() - 500_001);
    fs::write(&db, &bytes).expect("it is written");
    let end_at = bytes.len() as u64;
    let found = findings(dir.path());
    let of_log: Vec<&String> =
        found.iter().filter(|(place, _)| place == "store/db").map(|(_, what)| what).collect();
    assert!(
        of_log.iter().any(|what| what.starts_with(&format!("the file ends after {end_at} bytes"))),
        "{found:?}"
    );
    assert!(!of_log.iter().any(|what| what.contains(&format!("bytes at {end_at}: "))), "{found:?}");
    let out = dir.path().with_extension("ndjson");
    let ended = end(inspect(dir.path(), &["salvage", "--json", "--out", out.to_str().expect("UTF-8")]));
    fs::remove_file(&out).expect("the file");
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    let sum: Json = serde_json::from_str(&ended.stdout).expect("an object");
    assert_eq!(sum["cut_off"]["at"], end_at, "{sum}");
    for place in sum["bad_places"]["first"].as_array().expect("places") {
        assert!(place["offset"].as_u64() < Some(end_at), "{sum}");
    }
}

/// Nothing is the matter with a node that was killed, whatever it was doing.
#[test]
fn a_node_that_was_killed_under_load_is_sound() {
    let dir = temporary();
    for round in 0..8usize {
        let node = Node::start(dir.path(), &["--log-mib", "0"]);
        let address = node.address;
        let enough = std::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for writer in 0..4usize {
                let enough = &enough;
                scope.spawn(move || {
                    let Ok(mut client) = Client::connect(address) else { return };
                    for n in 0.. {
                        let key = format!("/key/{writer}/{}", n % 13);
                        let size = [10, 6_000, 90_000][(n + writer) % 3];
                        let body = format!(
                            "{{\"value\": \"{}\", \"ttl_seconds\": {}}}",
                            "v".repeat(size),
                            1 + n % 50
                        );
                        let done = match n % 7 {
                            6 => client.request("DELETE", &key, &[], b""),
                            _ => client.request("PUT", &key, &[], body.as_bytes()),
                        };
                        if done.is_err() {
                            return;
                        }
                        enough.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    }
                });
            }
            wait_until(SETTLED, "some writes", || {
                enough.load(std::sync::atomic::Ordering::Relaxed) > 60 + round * 11
            });
            node.kill();
        });
        is_sound(dir.path(), &format!("killed in round {round}"));
    }
}

/// A commit that was cut off leaves rows without what they tell of; and the start after it leaves them there.
#[test]
fn what_a_cut_off_commit_leaves_is_sound() {
    let dir = temporary();
    let node = Node::start(dir.path(), &[]);
    let put = |node: &Node, key: &str| {
        assert!(matches!(node.request("PUT", &format!("/key/{key}"), "{\"value\": 1}").status, 200 | 201));
    };
    put(&node, "old");
    put(&node, "both");
    assert_eq!(node.stop().code(), Some(0));
    let before = Edit::of(dir.path());
    let node = Node::start(dir.path(), &[]);
    let body = format!("{{\"value\": \"{}\"}}", "x".repeat(50_000));
    assert_eq!(node.request("PUT", "/key/both", &body).status, 200);
    assert_eq!(node.stop().code(), Some(0));
    // The row and the pieces came to the disk, and nothing after them.
    let mut cut = Edit::of(dir.path());
    cut.put("data", b"both", &before.get("data", b"both"));
    let summary = before.summary();
    cut.set_summary(&summary);
    cut.witness(summary.vv.iter().map(|(_, seq)| seq).sum());
    let cut = cut.close();
    is_sound(&cut, "cut off");
    let node = Node::start(&cut, &[]);
    assert_eq!(node.request("GET", "/key/both", "").json()["value"], 1);
    assert_eq!(node.stop().code(), Some(0));
    is_sound(&cut, "after the start");
    // What is missing then is found all the same.
    let mut edit = Edit::of(&cut);
    edit.remove("data", b"old");
    let found = findings(&edit.close());
    assert!(
        found.iter().any(|(place, what)| place == "meta" && what.contains("committed were")),
        "{found:?}"
    );
}

#[test]
fn what_clusters_leave_is_sound() {
    let mut cluster = Cluster::with(3, &["--log-mib", "0"]);
    let write = |node: &Node, round: usize| {
        for n in 0..120 {
            let size = if n % 20 == 0 { 40_000 } else { 20 };
            let body = format!("{{\"value\": \"{round} {}\", \"ttl_seconds\": 900}}", "x".repeat(size));
            assert!(matches!(node.request("PUT", &format!("/key/k{n}"), &body).status, 200 | 201));
            if n % 3 == round % 3 {
                assert_eq!(node.request("DELETE", &format!("/key/k{n}"), "").status, 200);
            }
        }
    };
    write(cluster.node(0), 0);
    cluster.settle();
    // One is away and evicted, so that what is deleted meanwhile is forgotten: it is swept when it comes back.
    let away = cluster.nodes[2].take().expect("it is up");
    assert_eq!(away.stop().code(), Some(0));
    is_sound(&cluster.dir(2), "a member that was stopped");
    cluster.evict_the_dead();
    write(cluster.node(0), 1);
    write(cluster.node(1), 2);
    cluster.settle();
    cluster.up(2);
    cluster.settle();
    for number in 0..3 {
        match number {
            1 => cluster.kill(number),
            _ => assert_eq!(cluster.nodes[number].take().expect("it is up").stop().code(), Some(0)),
        }
        is_sound(&cluster.dir(number), &format!("node {number}"));
    }
}
