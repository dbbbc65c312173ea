//! Looking into the directory of a stopped node: what is shown is what was written, and not a byte of it changes.

use std::fs;
use std::io::Read;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal};
use serde_json::Value as Json;

use crate::support::{Client, Node, SOON, errors, wait_until};
use crate::{Ended, contents, dynarust, end, older, refused, refused_in_a_line, temporary};

pub fn inspect(dir: &Path, args: &[&str]) -> Command {
    let mut command = dynarust(&["inspect"]);
    command.arg(dir).args(args);
    command
}

/// What it shows, which must work.
fn shown(dir: &Path, args: &[&str]) -> String {
    let Ended { code, stdout, stderr } = end(inspect(dir, args));
    assert_eq!((code, stderr.as_str()), (Some(0), ""), "inspect {args:?}: {stdout}");
    stdout
}

fn objects(dir: &Path, args: &[&str]) -> Vec<Json> {
    let text = shown(dir, &[args, &["--json"]].concat());
    text.lines().map(|line| serde_json::from_str(line).expect("an object a line")).collect()
}

/// A node that has held some of everything, and what `/stats` said at its end.
fn filled(dir: &Path) -> Json {
    let node = filled_node(dir);
    let stats = node.request("GET", "/stats", "").json();
    assert_eq!(node.stop().code(), Some(0));
    stats
}

/// A node that has held some of everything.
pub fn filled_node(dir: &Path) -> Node {
    let node = Node::start(dir, &[]);
    let put = |path: &str, headers: &[(&str, &str)], body: &str| {
        let answer = node.request_with("PUT", &format!("/key/{path}"), headers, body.as_bytes());
        assert!(matches!(answer.status, 200 | 201), "{}", answer.text());
        answer.json()["version"].as_str().expect("a version").to_owned()
    };
    for n in 0..300 {
        put(&format!("many/{n:03}"), &[], &format!("{{\"value\": {n}.10}}"));
    }
    let first = put("both", &[], "{\"value\": \"left\"}");
    put("both", &[], "{\"value\": \"over it\"}");
    put("both", &[("Causality-Token", &first)], "{\"value\": \"right\"}");
    put("large", &[], &format!("{{\"value\": \"{}\"}}", "x".repeat(100_000)));
    put("brief", &[], "{\"value\": 1, \"ttl_seconds\": 3600}");
    put("gone", &[], "{\"value\": 1}");
    assert_eq!(node.request("DELETE", "/key/gone", "").status, 200);
    node
}

#[test]
fn what_is_shown_is_what_was_written() {
    let dir = temporary();
    let stats = filled(dir.path());
    let before = contents(dir.path());
    let [summary] = &objects(dir.path(), &["summary"])[..] else { panic!("one object") };
    for (ours, its) in [
        ("node", "node_id"),
        ("cluster", "cluster_id"),
        ("keys", "keys"),
        ("digest", "digest"),
        ("version_vector", "version_vector"),
        ("floor", "floor"),
        ("format", "format"),
    ] {
        assert_eq!(summary[ours], stats[its], "{ours}");
    }
    assert_eq!(summary["conflicts"], 1);
    let keys = objects(dir.path(), &["keys", "--prefix", "many/", "--limit", "250"]);
    let names: Vec<&str> = keys.iter().map(|key| key["key"].as_str().expect("a key")).collect();
    assert_eq!(names, (0..250).map(|n| format!("many/{n:03}")).collect::<Vec<_>>());
    assert_eq!(shown(dir.path(), &["keys"]).lines().count(), 303);
    assert_eq!(shown(dir.path(), &["get", "many/007", "--raw"]), "7.10\n");
    let large = inspect(dir.path(), &["get", "large", "--raw"]).output().expect("it starts").stdout;
    assert_eq!(large.len(), 100_003);
    let both = objects(dir.path(), &["conflicts"]);
    let values: Vec<&str> = both[0]["siblings"]
        .as_array()
        .expect("siblings")
        .iter()
        .filter_map(|s| s["value"].as_str())
        .collect();
    assert_eq!(values, ["right", "over it"]);
    assert!(objects(dir.path(), &["get", "brief"])[0]["versions"][0]["expires_at"].is_string());
    let both: Vec<Json> = objects(dir.path(), &["changes", "--follow-key", "both"]);
    // The log may have let go of what everybody has, but never of the end.
    assert!(!both.is_empty() && both.iter().all(|event| event["key"] == "both"), "{both:?}");
    assert_eq!(objects(dir.path(), &["members"])[0]["self"], true);
    assert!(shown(dir.path(), &["verify"]).starts_with("sound: "));
    for people in
        [&["summary"][..], &["keys", "--long"], &["get", "both"], &["changes"], &["members"], &["conflicts"]]
    {
        assert!(!shown(dir.path(), people).is_empty(), "{people:?}");
    }
    assert_eq!(end(inspect(dir.path(), &["get", "gone"])).code, Some(1));
    refused_in_a_line(inspect(dir.path(), &["get", "both", "--raw", "--json"]), 2, &["--raw", "--json"]);
    refused(inspect(dir.path(), &["changes", "--origin", "nope"]), 2, &["not a node's id", "16 hex digits"]);
    assert_eq!(objects(dir.path(), &["conflicts", "--limit", "0"]).len(), 0);
    assert_eq!(
        shown(dir.path(), &["changes", "--limit", "3"]).lines().count(),
        4,
        "a head, and three events"
    );
    assert_eq!(contents(dir.path()), before, "it changed something");
}

/// What became of each event is told as far as it can be known: who deleted a key can be found.
#[test]
fn the_log_tells_a_delete_from_a_put() {
    let dir = temporary();
    let node = Node::start(dir.path(), &[]);
    let put = |key: &str| {
        let answer = node.request("PUT", &format!("/key/{key}"), "{\"value\": 1}");
        answer.json()["version"].as_str().expect("a version").to_owned()
    };
    let (first, second) = (put("k"), put("k"));
    assert_eq!(node.request("DELETE", "/key/k", "").status, 200);
    let stays = put("stays");
    assert_eq!(node.stop().code(), Some(0));
    let of = |key: &str| {
        let events = objects(dir.path(), &["changes", "--follow-key", key]);
        let tell = |event: &Json| (event["event"].clone(), event["did"].clone(), event["stands"].clone());
        events.iter().map(tell).collect::<Vec<_>>()
    };
    let [one, two, (_, did, stands)] = &of("k")[..] else { panic!("three events: {:?}", of("k")) };
    assert_eq!(*one, (first.into(), "put".into(), false.into()));
    assert_eq!(*two, (second.into(), "put".into(), false.into()));
    assert_eq!((did.as_str(), stands.as_bool()), (Some("delete"), Some(false)));
    assert_eq!(of("stays"), [(stays.clone().into(), "put".into(), true.into())]);
    let [event] = &objects(dir.path(), &["changes", "--follow-key", "stays"])[..] else {
        panic!("one event")
    };
    assert_eq!(event["updated_at"], objects(dir.path(), &["keys"])[0]["updated_at"]);
    let text = shown(dir.path(), &["changes", "--follow-key", "k"]);
    let lines: Vec<&str> = text.lines().collect();
    assert!(lines[0].starts_with("event ") && lines[0].ends_with("  key"), "{text}");
    assert!(lines[3].contains("  delete  ") && lines[3].ends_with("  k"), "{text}");
}

/// No two keys look alike, and each can be asked for as it is shown.
#[test]
fn a_key_is_found_as_it_is_shown() {
    let dir = temporary();
    let node = Node::start(dir.path(), &[]);
    for (n, path) in ["new%0Aline", "new%5Cnline", "bell%07%22"].iter().enumerate() {
        assert_eq!(node.request("PUT", &format!("/key/{path}"), &format!("{{\"value\": {n}}}")).status, 201);
    }
    assert_eq!(node.stop().code(), Some(0));
    let shown_keys = shown(dir.path(), &["keys"]);
    let keys: Vec<&str> = shown_keys.lines().collect();
    assert_eq!(keys, ["bell\\u0007\\\"", "new\\nline", "new\\\\nline"]);
    for (key, value) in keys.iter().zip(["2\n", "0\n", "1\n"]) {
        assert_eq!(shown(dir.path(), &["get", "--escaped", key, "--raw"]), value, "{key}");
        let events = objects(dir.path(), &["changes", "--follow-key", key, "--escaped"]);
        assert_eq!(events.len(), 1, "{key}");
    }
    assert_eq!(shown(dir.path(), &["get", "new\\nline", "--raw"]), "1\n");
    refused_in_a_line(inspect(dir.path(), &["get", "--escaped", "a\\q"]), 2, &["a\\q"]);
}

/// What has expired and is still there: no reader sees it, and all counts say so.
#[test]
fn all_count_the_same() {
    let dir = temporary();
    let node = Node::start(dir.path(), &[]);
    for (key, rest) in [("stays", ""), ("brief", ", \"ttl_seconds\": 1")] {
        let body = format!("{{\"value\": 1{rest}}}");
        assert_eq!(node.request("PUT", &format!("/key/{key}"), &body).status, 201);
    }
    node.kill();
    let summary = || objects(dir.path(), &["summary"]).remove(0);
    wait_until(SOON, "it has expired", || summary()["expired_keys"] != 0);
    let summary = &summary();
    let verify = &objects(dir.path(), &["verify"])[0];
    let counts = ["keys", "expired_keys", "versions", "expired_versions", "member_versions"];
    assert_eq!(counts.map(|name| summary[name].as_u64()), [1, 1, 1, 1, 1].map(Some), "{summary}");
    assert_eq!((&verify["keys"], &verify["versions"]), (&Json::from(2), &Json::from(3)), "{verify}");
    assert_eq!((&verify["member_versions"], &verify["complete"]), (&Json::from(1), &Json::from(true)));
    let member = &summary["members"][0];
    assert_eq!((&member["id"], summary["members"].as_array().map(Vec::len)), (&summary["node"], Some(1)));
    let text = shown(dir.path(), &["summary"]);
    let (id, address) =
        (member["id"].as_str().expect("an id"), member["address"].as_str().expect("an address"));
    assert!(text.lines().any(|line| line.starts_with(id) && line.contains(address)), "{text}");
    assert!(text.contains("1 that readers see, 1 expired, 1 of members: 3 in all"), "{text}");
    for flags in [&[][..], &["--json"], &["--raw"]] {
        let ended = end(inspect(dir.path(), &[&["get", "brief"], flags].concat()));
        assert_eq!(ended.code, Some(1), "{flags:?}: {}{}", ended.stdout, ended.stderr);
    }
}

/// An answer that could not be given is none: neither that all is well, nor that something was found.
#[test]
fn who_can_not_write_the_answer_says_so() {
    let (dir, other) = (temporary(), temporary());
    for dir in [&dir, &other] {
        assert_eq!(Node::start(dir.path(), &[]).stop().code(), Some(0));
    }
    let (other, out) = (other.path().to_str().expect("UTF-8"), other.path().with_extension("ndjson"));
    let out = out.to_str().expect("UTF-8");
    for args in [&["verify"][..], &["verify", "--json"], &["diff", other], &["salvage", "--out", out]] {
        let full = fs::File::options().write(true).open("/dev/full").expect("it is there");
        let output = inspect(dir.path(), args).stdout(full).output().expect("it starts");
        let said = errors(&output.stderr);
        assert_eq!(output.status.code(), Some(2), "{args:?}: {said}");
        assert!(said.contains("can't write to stdout"), "{args:?}: {said}");
    }
    fs::remove_file(out).expect("the file is whole all the same");
}

#[test]
fn a_node_that_was_killed_is_shown_as_it_was_left() {
    let dir = temporary();
    let node = Node::start(dir.path(), &[]);
    for n in 0..50 {
        assert_eq!(node.request("PUT", &format!("/key/k{n}"), "{\"value\": 1}").status, 201);
    }
    node.kill();
    let before = contents(dir.path());
    assert_eq!(objects(dir.path(), &["summary"])[0]["keys"], 50);
    assert!(shown(dir.path(), &["verify"]).starts_with("sound: 50 keys"));
    assert_eq!(contents(dir.path()), before);
}

#[test]
fn the_directory_of_a_running_node_is_refused_and_its_node_named() {
    let dir = temporary();
    let node = Node::start(dir.path(), &[]);
    let (pid, ask) = (node.child.id().to_string(), format!("curl http://{}/stats", node.address));
    refused_in_a_line(inspect(dir.path(), &["summary"]), 3, &[&pid, &ask]);
    assert_eq!(node.request("PUT", "/key/k", "{\"value\": 1}").status, 201);
}

#[test]
fn what_is_no_data_directory_is_refused() {
    let dir = temporary();
    fs::write(dir.path().join("thesis.txt"), "years of work").expect("a file");
    refused_in_a_line(inspect(dir.path(), &["summary"]), 3, &["not a data directory"]);
    let missing = dir.path().join("missing");
    refused_in_a_line(inspect(&missing, &["summary"]), 3, &[&missing.display().to_string(), "not there"]);
    assert!(!missing.exists());
    refused_in_a_line(inspect(temporary().path(), &["summary"]), 3, &["is empty"]);
    let data = temporary();
    assert_eq!(Node::start(data.path(), &[]).stop().code(), Some(0));
    let nowhere = dir.path().join("nowhere");
    let work = nowhere.display().to_string();
    refused_in_a_line(inspect(data.path(), &["summary", "--work-dir", &work]), 3, &["--work-dir", &work]);
}

#[test]
fn a_reader_that_has_seen_enough_is_no_error() {
    let dir = temporary();
    filled(dir.path());
    let mut child = inspect(dir.path(), &["changes"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    drop(child.stdout.take());
    let ended = child.wait_with_output().expect("it ends");
    assert_eq!((ended.status.code(), errors(&ended.stderr)), (Some(0), String::new()));
}

/// Every copy is gone when it ends; and damage is a finding, or has hit nothing.
#[test]
fn damage_is_found_and_no_panic() {
    let (dir, work) = (temporary(), temporary());
    filled(dir.path());
    let db = dir.path().join("store/db");
    let whole = fs::read(&db).expect("the store");
    let work_dir = work.path().display().to_string();
    let mut found = 0;
    for n in 0..24 {
        let mut damaged = whole.clone();
        let at = whole.len() * n / 24 + 5;
        damaged[at] ^= 0x10;
        fs::write(&db, &damaged).expect("it is written");
        let before = contents(dir.path());
        let ended = end(inspect(dir.path(), &["verify", "--work-dir", &work_dir]));
        assert!(matches!(ended.code, Some(0 | 1 | 4)), "byte {at}: {:?} {}", ended.code, ended.stderr);
        found += u32::from(ended.code != Some(0));
        assert_eq!(left(work.path()), NOTHING, "byte {at}: {}", ended.stderr);
        assert_eq!(contents(dir.path()), before);
    }
    assert!(found > 0, "no damage was found at all");
    // Two segments that say they are the same: the engine panics.
    let mut segment = whole.clone();
    segment.resize(whole.len().next_multiple_of(2 << 20), 0);
    fs::write(&db, segment.repeat(2)).expect("it is written");
    let ended = end(inspect(dir.path(), &["verify", "--work-dir", &work_dir]));
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(1), ""));
    assert!(ended.stdout.contains("; it could not be looked at any further\n"), "{}", ended.stdout);
    let ended = end(inspect(dir.path(), &["summary", "--work-dir", &work_dir]));
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(4), ""), "{}", ended.stderr);
    let said = ended.stderr.strip_suffix('\n').expect("a line");
    assert!(!said.contains("panicked") && !said.contains("/src/") && !said.contains('\n'), "{said}");
    if said.contains("beyond what can be shown") {
        assert!(said.contains("salvage --out FILE"), "{said}");
    }
    assert_eq!(left(work.path()), NOTHING, "a panic leaves the copy behind");
    fs::write(&db, &whole).expect("it is written");
    assert!(shown(dir.path(), &["verify"]).starts_with("sound: "));
    // A node says the same of it.
    let node = Node::start(dir.path(), &[]);
    let mut client = Client::new(node.address);
    assert_eq!(client.request("GET", "/key/many/299", &[], b"").expect("an answer").status, 200);
}

const NOTHING: [&str; 0] = [];

fn left(work: &Path) -> Vec<String> {
    let name = |file: std::io::Result<fs::DirEntry>| {
        file.expect("a file").file_name().to_string_lossy().into_owned()
    };
    fs::read_dir(work).expect("a directory").map(name).collect()
}

/// However the command ends, its copy goes; if it can't do that itself, the next one does it, and leaves alone what is in use.
#[test]
fn a_private_copy_does_not_outlive_its_process() {
    let (dir, work) = (temporary(), temporary());
    let node = Node::start(dir.path(), &[]);
    let body = format!("{{\"value\": \"{}\"}}", "x".repeat(1_000_000));
    let put = Client::new(node.address).request("PUT", "/key/large", &[], body.as_bytes());
    assert_eq!(put.expect("an answer").status, 201);
    assert_eq!(node.stop().code(), Some(0));
    let work_dir = work.path().display().to_string();
    // It waits for somebody to read what it shows.
    let begun = || {
        let mut command = inspect(dir.path(), &["get", "large", "--work-dir", &work_dir]);
        let mut child = command.stdout(Stdio::piped()).spawn().expect("it starts");
        child.stdout.as_mut().expect("a pipe").read_exact(&mut [0]).expect("it shows something");
        child
    };
    let ended_by = |mut child: Child, number: Signal| {
        let pid = Pid::from_child(&child);
        rustix::process::kill_process(pid, number).expect("it is there");
        assert_eq!(child.wait().expect("it ends").signal(), Some(number.as_raw()));
    };
    for number in [Signal::INT, Signal::TERM] {
        let child = begun();
        assert_eq!(left(work.path()).len(), 1);
        ended_by(child, number);
        assert_eq!(left(work.path()), NOTHING, "after {number:?}");
    }
    ended_by(begun(), Signal::KILL);
    let killed = left(work.path());
    assert_eq!(killed.len(), 1);
    let next = begun();
    let used = left(work.path());
    assert!(used.len() == 1 && used != killed, "what the killed one left is gone: {used:?}");
    shown(dir.path(), &["summary", "--work-dir", &work_dir]);
    assert_eq!(left(work.path()), used, "what is in use stays");
    ended_by(next, Signal::TERM);
    assert_eq!(left(work.path()), NOTHING);
}

/// What is wrong with a piece of a large value is told of that piece, whatever it is; and a node shows no wrong value.
#[test]
fn a_bad_piece_is_named() {
    let dir = temporary();
    filled(dir.path());
    let version = objects(dir.path(), &["keys", "--prefix", "large"])[0]["version"].clone();
    let version = version.as_str().expect("a version");
    let (store, progress, whole) = (dir.path().join("store"), dir.path().join("PROGRESS"), temporary());
    copy_files(&store, whole.path());
    let noted = fs::read(&progress).expect("it is there");
    let at = |index: usize, change: &Change| {
        copy_files(whole.path(), &store);
        fs::write(&progress, &noted).expect("it can be written");
        let db = older::open(&store);
        let pieces = db.open_tree("pieces").expect("a tree");
        let keys: Vec<Vec<u8>> = pieces.iter().keys().map(|key| key.expect("a key").to_vec()).collect();
        assert_eq!(keys.len(), 7, "a value of 100,002 bytes");
        change(&pieces, &keys[index..]).expect("it can be written");
        db.flush().expect("it is written");
    };
    let findings = |expected: &[&str]| {
        let ended = end(inspect(dir.path(), &["verify", "--json"]));
        assert_eq!(ended.code, Some(1), "{}{}", ended.stdout, ended.stderr);
        let lines: Vec<Json> =
            ended.stdout.lines().map(|line| serde_json::from_str(line).expect("an object")).collect();
        let found: Vec<&str> = lines.iter().filter_map(|line| line["finding"].as_str()).collect();
        let expected: Vec<String> =
            expected.iter().map(|what| format!("'large', {version}: {what}")).collect();
        assert_eq!(found, expected);
        assert!(lines[..found.len()].iter().all(|line| line["place"] == "pieces"), "{lines:?}");
        let raw = end(inspect(dir.path(), &["get", "large", "--raw"]));
        assert_eq!(raw.code, Some(1), "{}", raw.stderr);
        let node = Node::start(dir.path(), &[]);
        let answer = node.request("GET", "/key/large", "");
        assert_eq!(answer.status, 500, "{}", answer.text());
        assert_eq!(node.request("GET", "/key/both", "").status, 200);
        assert_eq!(node.stop().code(), Some(0));
    };
    at(3, &|pieces, keys| {
        let mut piece = value(pieces, &keys[0])?;
        piece[100] ^= 1;
        pieces.insert(&keys[0], piece).map(drop)
    });
    findings(&["piece 3 of 7 is damaged"]);
    at(0, &|pieces, keys| pieces.remove(&keys[0]).map(drop));
    findings(&["piece 0 of 7 is missing"]);
    // Each is whole, and under another's key.
    at(1, &|pieces, keys| {
        let (one, other) = (value(pieces, &keys[0])?, value(pieces, &keys[1])?);
        pieces.insert(&keys[0], other)?;
        pieces.insert(&keys[1], one).map(drop)
    });
    findings(&["piece 1 of 7 is damaged", "piece 2 of 7 is damaged"]);
    at(6, &|pieces, keys| pieces.insert(&keys[0], &[][..]).map(drop));
    findings(&["piece 6 of 7 is damaged"]);
}

/// A piece as it is stored.
fn value(pieces: &sled::Tree, key: &[u8]) -> sled::Result<Vec<u8>> {
    Ok(pieces.get(key)?.expect("a piece").to_vec())
}

/// Does something to the pieces of a value, which have these keys.
type Change = dyn Fn(&sled::Tree, &[Vec<u8>]) -> sled::Result<()>;

/// Files of a store in the place of what is there.
fn copy_files(from: &Path, to: &Path) {
    let _ = fs::remove_dir_all(to);
    fs::create_dir_all(to.join("blobs")).expect("a directory");
    for file in fs::read_dir(from).expect("it can be listed") {
        let path = file.expect("a file").path();
        if path.is_file() {
            fs::copy(&path, to.join(path.file_name().expect("a name"))).expect("a copy");
        }
    }
}
