//! Compacting the directory of a stopped node: it gets smaller, and nobody can tell the difference.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value as Json;

use crate::support::{Node, SOON, wait_until};
use crate::{contents, dynarust, end, refused, refused_in_a_line, temporary};

fn compact(dir: &Path, flags: &[&str]) -> Command {
    let mut command = dynarust(&["compact"]);
    command.arg(dir).args(flags);
    command
}

/// Keys that were written again and again, with siblings, pieces, expiry and deletes.
fn churn(node: &Node) {
    let put = |key: &str, headers: &[(&str, &str)], body: &str| {
        let answer = node.request_with("PUT", &format!("/key/{key}"), headers, body.as_bytes());
        assert!(matches!(answer.status, 200 | 201), "{}", answer.text());
        answer.json()["version"].as_str().expect("a version").to_owned()
    };
    for round in 0..8 {
        for n in 0..40 {
            put(
                &format!("many/{n}"),
                &[],
                &format!("{{\"value\": \"{}\"}}", format!("{round} ").repeat(1 + n * 600)),
            );
        }
    }
    let first = put("both", &[], "{\"value\": \"left\"}");
    put("both", &[], "{\"value\": \"over it\"}");
    put("both", &[("Causality-Token", &first)], "{\"value\": \"right\"}");
    put("brief", &[], "{\"value\": 1, \"ttl_seconds\": 3600}");
    put("gone", &[], "{\"value\": 1}");
    assert_eq!(node.request("DELETE", "/key/gone", "").status, 200);
}

/// Everything that `inspect` shows, but what the files take.
fn shown(dir: &Path) -> Vec<String> {
    let what: [&[&str]; 6] =
        [&["summary"], &["keys", "--long"], &["changes"], &["members"], &["conflicts"], &["verify"]];
    let show = |args: &&[&str]| {
        let mut command = dynarust(&["inspect"]);
        command.arg(dir).args(*args).arg("--json");
        let ended = end(command);
        assert_eq!(ended.code, Some(0), "{}", ended.stderr);
        let line = |line: &str| {
            let mut object: Json = serde_json::from_str(line).expect("an object a line");
            object.as_object_mut().expect("an object").remove("disk_bytes");
            object.to_string()
        };
        ended.stdout.lines().map(line).collect::<Vec<_>>().join("\n")
    };
    what.iter().map(show).collect()
}

fn identity(node: &Node) -> Vec<Json> {
    let stats = node.request("GET", "/stats", "").json();
    ["node_id", "cluster_id", "version_vector", "digest", "keys"].map(|name| stats[name].clone()).to_vec()
}

#[test]
fn a_compacted_directory_is_smaller_and_holds_the_same() {
    let dir = temporary();
    let node = Node::start(dir.path(), &[]);
    churn(&node);
    let (identity_before, address) = (identity(&node), node.address);
    assert_eq!(node.stop().code(), Some(0));
    let before = shown(dir.path());
    let disk_bytes = || -> u64 {
        let files = contents(dir.path()).into_iter();
        files.map(|(_, bytes)| bytes.len() as u64).sum()
    };
    let disk_before = disk_bytes();
    let size = |dir: &Path| fs::metadata(dir.join("store/db")).expect("a store").len();
    let size_before = size(dir.path());

    let ended = end(compact(dir.path(), &["--json"]));
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let told: Json = serde_json::from_str(&ended.stdout).expect("one object");
    let number = |name: &str| told[name].as_u64().expect("a number");
    assert_eq!(number("before_bytes") - number("after_bytes"), number("saved_bytes"));
    assert!(number("saved_bytes") > size_before / 3, "{told}");
    // As `inspect summary` counts them, and as it was left: opening a store makes it larger.
    // Only what the lock says differs.
    assert!(number("before_bytes").abs_diff(disk_before) < 1 << 10, "{disk_before}: {told}");
    assert_eq!(number("after_bytes"), disk_bytes(), "{told}");
    assert!(size(dir.path()) <= number("after_bytes") && size(dir.path()) < size_before, "{told}");
    assert_eq!(told["trees"]["data"]["items"], 42, "{told}");
    assert!(!dir.path().join("store.new").exists());

    assert!(shown(dir.path()) == before, "what is in it differs");
    // With nobody to ask, a node whose directory is a copy goes on under a new id. A new address would be a change, too.
    let mut command = dynarust(&[&address.to_string(), "--data-dir"]);
    command.arg(dir.path());
    let node = Node::launch(command).unwrap_or_else(|log| panic!("{log}"));
    assert_eq!(identity(&node), identity_before);
    assert_eq!(node.request("PUT", "/key/after", "{\"value\": 1}").status, 201);
    node.kill();
    assert_eq!(Node::start(dir.path(), &[]).request("GET", "/key/after", "").status, 200);
    // A second time there is nothing to save, and it says so.
    let ended = end(compact(dir.path(), &[]));
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(ended.stdout.contains("smaller") && ended.stdout.contains("pieces"), "{}", ended.stdout);
}

/// Compacted or not, a copy is one, and goes on under another name.
#[test]
fn a_copy_that_was_compacted_is_still_a_copy() {
    let dirs = temporary();
    let (original, copy) = (dirs.path().join("original"), dirs.path().join("copy"));
    let node = Node::start(&original, &[]);
    churn(&node);
    let id = identity(&node)[0].clone();
    assert_eq!(node.stop().code(), Some(0));
    assert!(Command::new("cp").arg("-r").arg(&original).arg(&copy).status().expect("cp runs").success());
    let ended = end(compact(&copy, &[]));
    assert!(ended.code == Some(0) && ended.stdout.contains("saved"), "{}{}", ended.stdout, ended.stderr);
    assert_ne!(identity(&Node::start(&copy, &[]))[0], id, "the copy is taken for the original");
    assert_eq!(identity(&Node::start(&original, &[]))[0], id);
}

#[test]
fn its_peer_takes_it_for_the_member_that_it_was() {
    let dirs = temporary();
    let first = Node::start(&dirs.path().join("a"), &[]);
    let second = Node::start(&dirs.path().join("b"), &[&first.address.to_string()]);
    churn(&second);
    let same = |one: &Node, other: &Node| {
        wait_until(SOON, "both hold the same", || identity(one)[2..] == identity(other)[2..]);
    };
    same(&first, &second);
    let id = identity(&second)[0].clone();
    assert_eq!(second.stop().code(), Some(0));
    assert_eq!(first.request("PUT", "/key/meanwhile", "{\"value\": 1}").status, 201);
    assert_eq!(end(compact(&dirs.path().join("b"), &[])).code, Some(0));
    let second = Node::start(&dirs.path().join("b"), &[]);
    assert_eq!(identity(&second)[0], id);
    assert_eq!(second.request("PUT", "/key/after?w=2", "{\"value\": 1}").status, 201);
    same(&first, &second);
    wait_until(SOON, "two members, both alive", || {
        let members = first.request("GET", "/membership", "").json()["members"].clone();
        let members = members.as_array().expect("members");
        members.len() == 2 && members.iter().all(|member| member["state"] == "alive")
    });
}

#[test]
fn what_can_t_be_compacted_is_refused() {
    let dir = temporary();
    fs::write(dir.path().join("thesis.txt"), "years of work").expect("a file");
    let before = contents(dir.path());
    refused_in_a_line(compact(dir.path(), &[]), 3, &["not a data directory"]);
    let missing = dir.path().join("missing");
    refused_in_a_line(compact(&missing, &[]), 3, &[&missing.display().to_string()]);
    assert_eq!(contents(dir.path()), before);
    let data = temporary();
    let node = Node::start(data.path(), &[]);
    assert_eq!(node.request("PUT", "/key/k", "{\"value\": 1}").status, 201);
    refused_in_a_line(compact(data.path(), &[]), 3, &[&node.child.id().to_string(), "stop it first"]);
    assert_eq!(node.request("PUT", "/key/k", "{\"value\": 2}").status, 200);
    refused(dynarust(&["compact"]), 2, &["DIR"]);
}

/// As a node refuses it, with the same advice; and what a node leaves of it is what this leaves of it.
#[test]
fn a_damaged_directory_is_refused_and_left_as_a_node_leaves_it() {
    let dirs = temporary();
    let (ours, its) = (dirs.path().join("ours"), dirs.path().join("its"));
    let node = Node::start(&ours, &[]);
    churn(&node);
    assert_eq!(node.stop().code(), Some(0));
    let db = ours.join("store/db");
    let mut bytes = fs::read(&db).expect("the store");
    let third = bytes.len() / 3;
    bytes[third..].fill(0x55);
    fs::write(&db, bytes).expect("it is written");
    assert!(Command::new("cp").arg("-r").arg(&ours).arg(&its).status().expect("cp runs").success());
    let by_node = end(Node::command(&its, &[]));
    assert_eq!(by_node.code, Some(4), "{}", by_node.stderr);
    let ended = end(compact(&ours, &[]));
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(4), ""), "{}", ended.stderr);
    assert!(ended.stderr.contains("Choices: "), "{}", ended.stderr);
    let files = |dir: &Path| -> Vec<(String, Vec<u8>)> {
        let prefix = dir.display().to_string();
        let of = contents(dir).into_iter().map(|(name, bytes)| (name.replace(&prefix, ""), bytes));
        of.filter(|(name, _)| name != "/LOCK").collect()
    };
    assert!(files(&ours) == files(&its), "it was left otherwise than by a node");
}

#[test]
fn a_directory_that_has_got_another_format_is_not_said_to_be_as_it_was() {
    let dir = temporary();
    let node = Node::start(dir.path(), &[]);
    assert_eq!(node.request("PUT", "/key/k", "{\"value\": 1}").status, 201);
    assert_eq!(node.stop().code(), Some(0));
    crate::older::to_format_1(dir.path());
    let first = end(compact(dir.path(), &[]));
    assert_eq!(first.code, Some(0), "{}", first.stderr);
    let format = format!("it was brought from format 1 to format {}", dynarust::storage::FORMAT);
    assert!(first.stdout.contains(&format) && !first.stdout.contains("stays as it was"), "{}", first.stdout);
    let again = end(compact(dir.path(), &[])).stdout;
    assert!(again.contains("stays as it was") && !again.contains("format"), "{again}");
}
