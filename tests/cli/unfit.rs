//! Directories that a node does not open, before whoever only looks into them: what is left of one is never shown as if it were
//! all of it, and what is only a link is never taken for lost.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use crate::support::Node;
use crate::{contents, dynarust, end, refused_in_a_line, temporary};

/// Keys that were written, written over and deleted by a node that was killed then, and a bit flipped in one of the later
/// values: sled would open it at the state before.
fn fallen_back(dir: &Path) {
    let node = Node::start(dir, &[]);
    let write = |n: u32, value: &str| {
        node.request("PUT", &format!("/key/k{n}"), &format!("{{\"value\": \"{value}\"}}"))
    };
    (0..50).for_each(|n| drop(write(n, "old")));
    (0..25).for_each(|n| drop(write(n, "new")));
    (40..43).for_each(|n| drop(node.request("DELETE", &format!("/key/k{n}"), "")));
    node.kill();
    let log = dir.join("store/db");
    let mut bytes = fs::read(&log).expect("the log");
    let at = bytes.windows(5).position(|text| text == b"\"new\"").expect("a later value");
    bytes[at + 1] ^= 1;
    fs::write(&log, bytes).expect("it can be written");
}

#[test]
fn what_a_node_does_not_open_is_not_shown_as_if_it_were_whole() {
    let (dir, other) = (temporary(), temporary());
    fallen_back(dir.path());
    assert_eq!(Node::start(other.path(), &[]).stop().code(), Some(0));
    let before = contents(dir.path());
    let [data, whole] = [dir.path(), other.path()].map(|dir| dir.to_str().expect("a path of UTF-8"));
    let words = ["store/db is damaged at byte ", "no byte of it has changed", "salvage --out FILE"];
    for what in [&["summary"][..], &["keys"], &["get", "k1"], &["changes"], &["members"], &["conflicts"]] {
        refused_in_a_line(dynarust(&[&["inspect", data], what].concat()), 4, &words);
    }
    refused_in_a_line(dynarust(&["export", data]), 4, &words);
    refused_in_a_line(dynarust(&["inspect", data, "diff", whole]), 2, &words[..2]);
    refused_in_a_line(dynarust(&["inspect", whole, "diff", data]), 2, &words[..2]);
    refused_in_a_line(Node::command(dir.path(), &[]), 4, &words);
    let verified = end(dynarust(&["inspect", data, "verify"]));
    assert_eq!(verified.code, Some(1), "{}", verified.stderr);
    assert!(verified.stdout.contains("store/db is damaged at byte "), "{}", verified.stdout);
    assert!(contents(dir.path()) == before, "something has changed");
}

#[test]
fn a_store_that_lacks_what_sled_makes_anew_is_not_called_sound() {
    let dir = temporary();
    assert_eq!(Node::start(dir.path(), &[]).stop().code(), Some(0));
    fs::remove_file(dir.path().join("store/conf")).expect("it is there");
    let mut verify = dynarust(&["inspect"]);
    verify.arg(dir.path()).arg("verify");
    let verified = end(verify);
    assert_eq!(verified.code, Some(1), "{}", verified.stderr);
    assert!(verified.stdout.contains("store/conf: it is missing or empty"), "{}", verified.stdout);
}

/// Whatever part is gone or damaged: it is named by all, with what to do, and nothing is touched or said to have been.
#[test]
fn each_part_that_is_missing_or_damaged_is_named_by_all() {
    let (dir, elsewhere) = (temporary(), temporary());
    let node = Node::start(dir.path(), &[]);
    assert_eq!(node.request("PUT", "/key/k", "{\"value\": 1}").status, 201);
    assert_eq!(node.stop().code(), Some(0));
    let sponsor = Node::start(elsewhere.path(), &[]);
    let (data, by) = (dir.path().to_str().expect("a path of UTF-8"), sponsor.address.to_string());
    for part in ["MANIFEST", "PROGRESS", "store/conf", "store/db"] {
        let path = dir.path().join(part);
        let whole = fs::read(&path).expect("it is there");
        for damage in ["missing", "damaged"] {
            match damage {
                "missing" => fs::remove_file(&path).expect("it can be removed"),
                _ => {
                    let mut bytes = whole.clone();
                    bytes.iter_mut().skip(5).step_by(7).take(3).for_each(|byte| *byte ^= 1);
                    fs::write(&path, bytes).expect("it can be written");
                }
            }
            let before = contents(dir.path());
            let words = [part, damage, "no byte of it has changed", "salvage --out FILE"];
            refused_in_a_line(Node::command(dir.path(), &[]), 4, &words);
            for what in ["summary", "keys", "members"] {
                refused_in_a_line(dynarust(&["inspect", data, what]), 4, &words);
            }
            refused_in_a_line(dynarust(&["export", data]), 4, &words);
            let verified = end(dynarust(&["inspect", data, "verify"]));
            assert_eq!(verified.code, Some(1), "{part} {damage}: {}", verified.stderr);
            assert!(verified.stdout.contains(part), "{part} {damage}: {}", verified.stdout);
            let alone = dynarust(&["127.0.0.1:0", "--data-dir", data, "--rejoin-empty"]);
            refused_in_a_line(alone, 3, &[part, "Nothing was moved"]);
            assert!(contents(dir.path()) == before, "{part} {damage}: something has changed");
        }
        fs::write(&path, whole).expect("it can be written");
    }
    fs::remove_file(dir.path().join("MANIFEST")).expect("it is there");
    let node = Node::start(dir.path(), &[&by, "--rejoin-empty"]);
    assert!(node.log().contains("MANIFEST is missing") && node.log().contains("aside-"), "{}", node.log());
}

#[test]
fn a_damaged_snapshot_of_sled_is_named_with_what_to_do() {
    let dir = temporary();
    let node = Node::start(dir.path(), &[]);
    assert_eq!(node.request("PUT", "/key/k", "{\"value\": 1}").status, 201);
    assert_eq!(node.stop().code(), Some(0));
    // As it opens, sled writes one.
    assert_eq!(Node::start(dir.path(), &[]).stop().code(), Some(0));
    let files = fs::read_dir(dir.path().join("store")).expect("a directory");
    let mut paths = files.map(|file| file.expect("a file").path());
    let snapshot = paths.find(|path| path.display().to_string().contains("snap.")).expect("a snapshot");
    let mut bytes = fs::read(&snapshot).expect("it is there");
    bytes[20] ^= 1;
    fs::write(&snapshot, bytes).expect("it can be written");
    let words = [&snapshot.display().to_string(), "is damaged", "move it away"];
    refused_in_a_line(Node::command(dir.path(), &[]), 4, &words);
    fs::remove_file(&snapshot).expect("it is there");
    assert_eq!(Node::start(dir.path(), &[]).request("GET", "/key/k", "").status, 200);
}

#[test]
fn a_directory_with_a_part_elsewhere_is_refused_and_never_moved_aside() {
    let (dir, elsewhere) = (temporary(), temporary());
    let node = Node::start(dir.path(), &[]);
    assert_eq!(node.request("PUT", "/key/k", "{\"value\": 1}").status, 201);
    assert_eq!(node.stop().code(), Some(0));
    let sponsor = Node::start(elsewhere.path().join("sponsor").as_path(), &[]);
    for part in ["store", "store/db", "PROGRESS"] {
        let (part, away) = (dir.path().join(part), elsewhere.path().join("part"));
        fs::rename(&part, &away).expect("it can be moved");
        symlink(&away, &part).expect("a link");
        let (data, link) = (dir.path().to_str().expect("a path of UTF-8"), part.display().to_string());
        let by = sponsor.address.to_string();
        for args in [
            &["127.0.0.1:0", "--data-dir", data][..],
            &["127.0.0.1:0", &by, "--data-dir", data, "--rejoin-empty"],
            &["compact", data],
            &["export", data],
            &["inspect", data, "summary"],
        ] {
            refused_in_a_line(dynarust(args), 3, &[&link, "symbolic link"]);
        }
        fs::remove_file(&part).expect("a link");
        fs::rename(&away, &part).expect("it can be moved");
    }
    // The directory itself may be one.
    let link = elsewhere.path().join("data");
    symlink(dir.path(), &link).expect("a link");
    assert_eq!(Node::start(&link, &[]).request("GET", "/key/k", "").status, 200);
}

#[test]
fn a_salvage_without_the_witness_proves_nothing() {
    let (dir, out) = (temporary(), temporary());
    let node = Node::start(dir.path(), &[]);
    assert_eq!(node.request("PUT", "/key/k", "{\"value\": 1}").status, 201);
    assert_eq!(node.stop().code(), Some(0));
    let salvage = |of: &Path, name: &str| {
        let mut command = dynarust(&["inspect"]);
        command.arg(of).args(["salvage", "--json", "--out"]).arg(out.path().join(name));
        let ended = end(command);
        let said: serde_json::Value = serde_json::from_str(&ended.stdout).expect("an object");
        (ended.code, said["proven"].as_bool(), said["stale"]["possible"].as_u64())
    };
    assert_eq!(salvage(dir.path(), "whole"), (Some(0), Some(true), Some(0)));
    // Of a store alone the witness is beside it.
    assert_eq!(salvage(&dir.path().join("store"), "store"), (Some(0), Some(true), Some(0)));
    fs::remove_file(dir.path().join("PROGRESS")).expect("it is there");
    for (of, name) in [(dir.path().to_owned(), "without"), (dir.path().join("store"), "store without")] {
        assert_eq!(salvage(&of, name), (Some(1), Some(false), Some(1)), "{name}");
    }
}
