//! Opens every fixture in every way in which a directory is opened.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use dynarust::storage::FORMAT;
use serde_json::Value as Json;

use crate::fixture::{all, backup, place};
use crate::http::{Names, holds, values};
use crate::support::{Node, binary, errors};
use crate::truth::{lines, offline, same, truth};

/// What a command says, which must end with this code.
fn said(args: &[&str], paths: &[&Path], code: i32) -> String {
    let output =
        Command::new(binary()).args(args).args(paths).env("RUST_LOG", "warn").output().expect("it runs");
    let errors = errors(&output.stderr);
    let text = String::from_utf8(output.stdout).expect("UTF-8");
    assert_eq!((output.status.code(), errors.as_str()), (Some(code), ""), "{args:?}: {text}");
    text
}

fn inspect(dir: &Path, what: &[&str]) -> String {
    let dir = dir.to_str().expect("a path of UTF-8");
    said(&[&["inspect", dir], what].concat(), &[], 0)
}

/// Files with their bytes.
fn contents(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for file in fs::read_dir(dir).expect("it can be listed") {
        let path = file.expect("it can be listed").path();
        match path.is_dir() {
            true => found.extend(contents(&path)),
            false => drop(found.insert(path.display().to_string(), fs::read(&path).expect("it can be read"))),
        }
    }
    found
}

#[test]
fn inspect_finds_what_is_true_and_changes_nothing() {
    for fixture in all() {
        let (scratch, shown) = (tempfile::tempdir().expect("a directory"), fixture.shown());
        let dir = scratch.path().join("data");
        fixture.unpack(&dir);
        let before = contents(&dir);
        same(&truth(&offline(&dir)), &fixture.truth, &shown);
        let summary: Json = serde_json::from_str(&inspect(&dir, &["summary", "--json"])).expect("one object");
        let truth = lines(&fixture.truth);
        assert_eq!(
            summary["format"], fixture.format,
            "{shown}: the format of the directory, not of its copy"
        );
        for name in ["node", "cluster", "digest"] {
            assert_eq!(summary[name], truth[0][name], "{shown}: {name}");
        }
        let live = |line: &&Json| line.get("key").is_some() && line["versions"][0].is_object();
        let listed = inspect(&dir, &["keys", "--json"]);
        let listed: Vec<Json> = lines(&listed).into_iter().map(|line| line["key"].clone()).collect();
        let expected: Vec<Json> = truth.iter().filter(live).map(|line| line["key"].clone()).collect();
        assert!(listed == expected, "{shown}: other keys than are true");
        let conflicts = lines(&inspect(&dir, &["conflicts", "--json"]));
        let siblings = truth.iter().filter(live).filter(|line| line["versions"][1].is_object());
        assert_eq!(conflicts.len(), siblings.count(), "{shown}");
        let marks = lines(&inspect(&dir, &["members", "--json"]));
        assert!(marks.iter().any(|member| member["evicted_at"].is_string()), "{shown}: {marks:?}");
        assert!(inspect(&dir, &["verify"]).starts_with("sound: "), "{shown}");
        assert!(contents(&dir) == before, "{shown}: something was changed");
    }
}

#[test]
fn a_node_serves_what_is_true() {
    for fixture in all() {
        let (scratch, shown) = (tempfile::tempdir().expect("a directory"), fixture.shown());
        let dir = scratch.path().join("data");
        fixture.unpack(&dir);
        // Once as it was left, and once as this build has left it.
        for time in ["at first", "again"] {
            let node = Node::start(&dir, &[]);
            let context = format!("{shown}, {time}");
            holds(&node, &fixture.truth, Names::Kept, &context);
            assert_eq!(node.stop().code(), Some(0), "{context}");
            let manifest = fs::read_to_string(dir.join("MANIFEST")).expect("a manifest");
            assert!(manifest.starts_with(&format!("{{\"format\":{FORMAT},")), "{context}: {manifest}");
            assert!(inspect(&dir, &["verify"]).starts_with("sound: "), "{context}");
        }
    }
}

#[test]
fn what_was_compacted_is_what_was_true() {
    for fixture in all() {
        let (scratch, shown) = (tempfile::tempdir().expect("a directory"), fixture.shown());
        let dir = scratch.path().join("data");
        fixture.unpack(&dir);
        said(&["compact"], &[&dir], 0);
        let found = truth(&offline(&dir));
        let entries = |truth: &str| truth.lines().skip(1).map(str::to_owned).collect::<Vec<_>>().join("\n");
        same(&entries(&found), &entries(&fixture.truth), &shown);
        assert!(inspect(&dir, &["verify"]).starts_with("sound: "), "{shown}");
    }
}

#[test]
fn salvage_reads_what_is_true() {
    for fixture in all() {
        let (scratch, shown) = (tempfile::tempdir().expect("a directory"), fixture.shown());
        let (dir, out) = (scratch.path().join("data"), scratch.path().join("out"));
        fixture.unpack(&dir);
        inspect(&dir, &["salvage", "--json", "--out", out.to_str().expect("a path of UTF-8")]);
        let text = fs::read_to_string(&out).expect("its file");
        let truth = lines(&fixture.truth);
        let live = |line: &&Json| line.get("key").is_some() && line["versions"][0].is_object();
        let expected: Vec<&Json> = truth.iter().filter(live).collect();
        assert_eq!(text.lines().count(), expected.len(), "{shown}");
        for (text, right) in text.lines().zip(expected) {
            let line: Json = serde_json::from_str(text).expect("an object a line");
            assert_eq!(line["key"], right["key"], "{shown}");
            let marked = line.get("stale").is_some() || line.get("incomplete").is_some();
            assert!(!marked, "{shown}: {} has a mark", line["key"]);
            let versions = right["versions"].as_array().expect("versions").iter();
            let sums = versions.map(|version| version["xxh3"].as_str().expect("a checksum"));
            assert!(values(text).iter().eq(sums), "{shown}: other values of {}", line["key"]);
        }
    }
}

#[test]
fn backups_are_restored() {
    for format in 1..=FORMAT {
        let truth = fs::read_to_string(place(format).join("stopped.truth")).expect("a truth");
        let scratch = tempfile::tempdir().expect("a directory");
        let file = scratch.path().join("backup");
        backup(format, &file);
        for (flags, names) in [(&["restore"][..], Names::New), (&["restore", "--into-cluster"], Names::Kept)]
        {
            let (context, dir) = (format!("format {format}, {flags:?}"), scratch.path().join("data"));
            said(flags, &[&file, Path::new("--data-dir"), &dir], 0);
            let node = Node::start(&dir, &[]);
            holds(&node, &truth, names, &context);
            assert_eq!(node.stop().code(), Some(0), "{context}");
            assert!(inspect(&dir, &["verify"]).starts_with("sound: "), "{context}");
            fs::remove_dir_all(&dir).expect("it can be removed");
        }
    }
}
