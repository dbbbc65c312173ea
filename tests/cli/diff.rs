//! `inspect diff`: what two nodes' directories hold otherwise, and which of the two is ahead; what no rule explains is a fault.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value as Json, json};

use crate::cluster::{Cluster, get};
use crate::edit::{Edit, stamped};
use crate::inspect::inspect;
use crate::support::Node;
use crate::{Ended, contents, dynarust, end, refused, refused_in_a_line, temporary};

fn diff(here: &Path, there: &Path, flags: &[&str]) -> Command {
    let mut command = inspect(here, &["diff"]);
    command.arg(there).args(flags);
    command
}

/// What programs are told: an object a key, and the sum; it must end with this code, and change nothing.
fn told(here: &Path, there: &Path, flags: &[&str], code: i32) -> (Vec<Json>, Json) {
    let before = (contents(here), contents(there));
    let ended = end(diff(here, there, &[flags, &["--json"]].concat()));
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(code), ""), "{}", ended.stdout);
    assert!((contents(here), contents(there)) == before, "it changed something");
    let mut lines: Vec<Json> =
        ended.stdout.lines().map(|line| serde_json::from_str(line).expect("an object a line")).collect();
    let sum = lines.pop().expect("the sum");
    (lines, sum)
}

/// How each key of data stands that is not alike.
fn stands(lines: &[Json]) -> BTreeMap<&str, &str> {
    let data = lines.iter().filter(|line| line["tree"] == "data");
    data.map(|line| (line["key"].as_str().expect("a key"), line["here_is"].as_str().expect("a word")))
        .collect()
}

/// What is told of each version of a key: where it is held, and what it is elsewhere.
fn versions(lines: &[Json], key: &str) -> Vec<(String, String)> {
    let line = lines.iter().find(|line| line["key"] == key).unwrap_or_else(|| panic!("no {key}"));
    let text = |version: &Json, name: &str| version[name].as_str().unwrap_or_default().to_owned();
    let versions = line["versions"].as_array().expect("versions").iter();
    versions.map(|version| (text(version, "held"), text(version, "elsewhere"))).collect()
}

fn put(node: &Node, key: &str, value: &str, token: Option<&str>) -> String {
    let headers: Vec<(&str, &str)> = token.iter().map(|token| ("Causality-Token", *token)).collect();
    let body = format!("{{\"value\": {value}}}");
    let answer = node.request_with("PUT", &format!("/key/{key}"), &headers, body.as_bytes());
    assert!(matches!(answer.status, 200 | 201), "{key}: {}", answer.text());
    answer.json()["version"].as_str().expect("a version").to_owned()
}

fn delete(node: &Node, key: &str) {
    assert_eq!(node.request("DELETE", &format!("/key/{key}"), "").status, 200, "{key}");
}

fn stop(cluster: &mut Cluster, number: usize) {
    assert_eq!(cluster.nodes[number].take().expect("it is up").stop().code(), Some(0));
}

fn large(text: &str) -> String {
    format!("\"{}\"", text.repeat(30_000))
}

/// Two members with the same, both stopped, but for what only one of them was written then, each while the other was down.
fn parted() -> Cluster {
    let mut cluster = Cluster::start(2);
    let node = cluster.node(0);
    for key in ["same/1", "same/2", "over", "gone-0", "gone-1", "both", "fight", "siblings", "large", "back"]
    {
        put(node, key, "\"first\"", None);
    }
    put(node, "same/large", &large("abc"), None);
    let seen = node.request("GET", "/key/siblings", "").json()["version"].as_str().expect("one").to_owned();
    cluster.settle();
    stop(&mut cluster, 1);
    let node = cluster.node(0);
    put(node, "new-0", "1", None);
    put(node, "over", "\"second\"", None);
    put(node, "both", "\"of 0\"", None);
    put(node, "large", &large("new"), None);
    put(node, "siblings", "\"one\"", Some(&seen));
    put(node, "siblings", "\"two\"", Some(&seen));
    delete(node, "gone-0");
    delete(node, "fight");
    put(node, "brief", "1", None);
    delete(node, "brief");
    stop(&mut cluster, 0);
    // Its member is not there, so it serves without.
    cluster.up_untold(1);
    let node = cluster.node(1);
    put(node, "new-1", "1", None);
    put(node, "both", "\"of 1\"", None);
    put(node, "fight", "\"of 1\"", None);
    put(node, "back", "\"of 1\"", None);
    delete(node, "gone-1");
    stop(&mut cluster, 1);
    cluster
}

#[test]
fn who_is_ahead_is_told_key_by_key() {
    let mut cluster = parted();
    let (here, there) = (cluster.dir(0), cluster.dir(1));
    let (lines, sum) = told(&here, &there, &[], 1);
    let expected = [
        ("back", "behind"),
        ("both", "concurrent"),
        // Its delete has not seen the other's write.
        ("fight", "behind"),
        ("gone-0", "gone-here"),
        ("gone-1", "gone-there"),
        ("large", "ahead"),
        ("new-0", "ahead"),
        ("new-1", "behind"),
        ("over", "ahead"),
        ("siblings", "ahead"),
    ];
    assert_eq!(stands(&lines), BTreeMap::from(expected), "{sum:#}");
    let pair = |held: &str, elsewhere: &str| (held.to_owned(), elsewhere.to_owned());
    assert_eq!(versions(&lines, "over"), [pair("here", "not yet heard of"), pair("there", "superseded")]);
    assert_eq!(versions(&lines, "gone-0"), [pair("there", "deleted")]);
    assert_eq!(versions(&lines, "gone-1"), [pair("here", "deleted")]);
    assert_eq!(versions(&lines, "siblings").len(), 3);
    assert_eq!(
        versions(&lines, "both"),
        [pair("here", "not yet heard of"), pair("there", "not yet heard of")]
    );
    assert_eq!((&sum["alike"], &sum["faults"]), (&json!(false), &json!(0)));
    assert_eq!(sum["here"]["cluster"], sum["there"]["cluster"]);
    let ids = [&sum["here"]["node"], &sum["there"]["node"]].map(|id| id.as_str().expect("an id").to_owned());
    assert!(sum["there_lacks"][&ids[0]].as_u64() >= Some(10), "{sum:#}");
    assert!(sum["here_lacks"][&ids[1]].as_u64() >= Some(5), "{sum:#}");

    // The other way round it is the other way round.
    let (turned, _) = told(&there, &here, &[], 1);
    for ((key, is), (its, was)) in stands(&turned).into_iter().zip(stands(&lines)) {
        let mirror = match was {
            "ahead" => "behind",
            "behind" => "ahead",
            "gone-here" => "gone-there",
            "gone-there" => "gone-here",
            same => same,
        };
        assert_eq!((key, is), (its, mirror));
    }

    // Some of them only.
    let (some, sum) = told(&here, &there, &["--prefix", "gone-"], 1);
    assert_eq!((some.len(), &sum["compared"]), (2, &json!(2)), "{sum:#}");
    let (none, sum) = told(&here, &there, &["--prefix", "same/"], 0);
    assert_eq!((none.len(), &sum["alike"], &sum["compared"]), (0, &json!(true), &json!(3)));
    let (some, sum) = told(&here, &there, &["--limit", "3"], 1);
    assert_eq!((some.len(), sum["left_out"].as_u64()), (3, Some(lines.len() as u64 - 3)));

    // For people.
    let Ended { code, stdout, stderr } = end(diff(&here, &there, &["--prefix", "gone-"]));
    assert_eq!((code, stderr.as_str()), (Some(1), ""));
    for said in ["each has what the other lacks", "gone here ", " deleted", "2 of 2 keys differ"] {
        assert!(stdout.contains(said), "no {said:?} in\n{stdout}");
    }
    assert!(!stdout.contains('\x1b'), "colours in a pipe: {stdout}");
    for (prefix, says) in [
        ("same/", "alike: both hold the same of 3 keys\n"),
        ("typo", "nothing to compare: neither holds a key that begins with 'typo'\n"),
    ] {
        let text = end(diff(&here, &there, &["--prefix", prefix])).stdout;
        assert!(text.ends_with(says), "{text}");
    }
    let limited = end(diff(&here, &there, &["--limit", "1"])).stdout;
    assert!(limited.contains("more keys that differ"), "{limited}");

    // Of what was deleted, and is not forgotten, the rest is told; readers see nothing, however it is asked for.
    for flags in [&[][..], &["--json"], &["--raw"]] {
        let Ended { code, stdout, stderr } = end(inspect(&here, &[&["get", "gone-0"], flags].concat()));
        assert_eq!(code, Some(1), "{flags:?}: {stdout}{stderr}");
        assert_eq!((stdout.is_empty(), stderr.is_empty()), (flags == ["--raw"], flags != ["--raw"]));
    }
    let log = end(inspect(&here, &["changes", "--follow-key", "gone-0"])).stdout;
    assert!(log.lines().last().expect("a line").contains("  delete  "), "{log}");

    // Together again, they hold the same.
    cluster.up_untold(0);
    cluster.up(1);
    cluster.settle();
    stop(&mut cluster, 0);
    stop(&mut cluster, 1);
    let (none, sum) = told(&here, &there, &[], 0);
    assert_eq!((none.len(), &sum["alike"]), (0, &json!(true)));
    let Ended { code, stdout, .. } = end(diff(&here, &there, &[]));
    assert_eq!(code, Some(0), "{stdout}");
    assert!(
        stdout.contains("both have the same") && stdout.contains("alike: both hold the same"),
        "{stdout}"
    );
}

#[test]
fn what_no_rule_explains_is_a_fault() {
    let mut cluster = Cluster::start(2);
    for key in ["a", "b", "c", "d"] {
        put(cluster.node(0), key, "\"value\"", None);
    }
    put(cluster.node(0), "large", &large("abc"), None);
    cluster.settle();
    stop(&mut cluster, 1);
    // The one goes on: still, of these keys the other lacks nothing.
    put(cluster.node(0), "new", "1", None);
    stop(&mut cluster, 0);
    let (here, there) = (cluster.dir(0), cluster.dir(1));
    let (lines, _) = told(&here, &there, &[], 1);
    assert_eq!(stands(&lines), BTreeMap::from([("new", "ahead")]));

    // A key that one of them has lost.
    for (lost_here, elsewhere, held) in
        [(false, "known, and missing", "here"), (true, "known, and missing", "there")]
    {
        let mut edit = Edit::of(if lost_here { &here } else { &there });
        edit.remove("data", b"b");
        let edited = edit.close();
        let (one, two) = if lost_here { (&edited, &there) } else { (&here, &edited) };
        let (lines, sum) = told(one, two, &[], 3);
        assert_eq!(stands(&lines), BTreeMap::from([("b", "diverged"), ("new", "ahead")]), "{sum:#}");
        assert_eq!(versions(&lines, "b"), [(held.to_owned(), elsewhere.to_owned())]);
        assert_eq!(sum["faults"], 1);
    }
    let mut edit = Edit::of(&there);
    edit.remove("data", b"b");
    let shown = end(diff(&here, &edit.close(), &[]));
    assert_eq!(shown.code, Some(3));
    assert!(
        shown.stdout.contains("DIVERGED") && shown.stdout.contains("FAULT: 1 differ though neither"),
        "{}",
        shown.stdout
    );

    // One name, two values: in the value itself, in its time, in the sum of a large one.
    type Change = fn(&mut Vec<u8>);
    let changes: [(&str, Change); 3] = [
        ("c", |entry| *entry.last_mut().expect("a byte") ^= 1),
        ("d", |entry| entry[15] ^= 1),
        ("large", |entry| *entry.last_mut().expect("a byte") ^= 1),
    ];
    for (key, change) in changes {
        let mut edit = Edit::of(&there);
        let mut entry = edit.get("data", key.as_bytes())[4..].to_vec();
        change(&mut entry);
        edit.put("data", key.as_bytes(), &stamped(key.as_bytes(), &entry));
        let (lines, sum) = told(&here, &edit.close(), &["--prefix", key], 3);
        assert_eq!(stands(&lines), BTreeMap::from([(key, "name-twice")]), "{sum:#}");
        let held: Vec<String> = versions(&lines, key).into_iter().map(|(held, _)| held).collect();
        assert_eq!(held, ["here", "there"]);
    }

    // What can't be read can't be compared, and everything else is.
    let mut edit = Edit::of(&there);
    let mut entry = edit.get("data", b"c");
    entry[20] ^= 1;
    edit.put("data", b"c", &entry);
    let (lines, sum) = told(&here, &edit.close(), &[], 2);
    assert_eq!(stands(&lines), BTreeMap::from([("c", "damaged-there"), ("new", "ahead")]), "{sum:#}");
}

/// A member that was away for long comes to one that has forgotten what was deleted meanwhile: that is no fault.
#[test]
fn what_was_forgotten_meanwhile_is_no_fault() {
    let mut cluster = Cluster::with(2, &["--log-mib", "0"]);
    put(cluster.node(0), "gone", "1", None);
    put(cluster.node(0), "stays", "1", None);
    cluster.settle();
    stop(&mut cluster, 1);
    delete(cluster.node(0), "gone");
    cluster.evict_the_dead();
    put(cluster.node(0), "stays", "2", None);
    delete(cluster.node(0), "stays");
    put(cluster.node(0), "stays", "3", None);
    stop(&mut cluster, 0);
    let (lines, sum) = told(&cluster.dir(0), &cluster.dir(1), &[], 1);
    assert_eq!(stands(&lines), BTreeMap::from([("gone", "gone-here"), ("stays", "ahead")]), "{sum:#}");
}

#[test]
fn strangers_are_compared_and_called_so() {
    let dirs = temporary();
    let (one, two) = (dirs.path().join("one"), dirs.path().join("two"));
    for dir in [&one, &two] {
        let node = Node::start(dir, &[]);
        put(&node, "k%07", "1", None);
        assert!(get(node.address, "/stats")["cluster_id"].is_string());
        assert_eq!(node.stop().code(), Some(0));
    }
    let Ended { code, stdout, .. } = end(diff(&one, &two, &[]));
    assert_eq!(code, Some(1));
    assert!(stdout.contains("clusters two: ") && stdout.contains("k\\u0007"), "{stdout}");
    let (lines, sum) = told(&one, &two, &[], 1);
    assert_eq!(stands(&lines), BTreeMap::from([("k\u{7}", "concurrent")]));
    assert_ne!(sum["here"]["cluster"], sum["there"]["cluster"]);
    // A copy is known as one.
    let copy = Edit::untouched(&one);
    let Ended { code, stdout, .. } = end(diff(&one, &copy.dir, &[]));
    assert_eq!(code, Some(0), "{stdout}");
    assert!(stdout.contains("is a copy of the other"), "{stdout}");
}

#[test]
fn what_can_not_be_compared_exits_2_and_is_named() {
    let dirs = temporary();
    let (one, two) = (dirs.path().join("one"), dirs.path().join("two"));
    for dir in [&one, &two] {
        assert_eq!(Node::start(dir, &[]).stop().code(), Some(0));
    }
    let shown = |dir: &Path| dir.display().to_string();
    refused_in_a_line(diff(&one, &one, &[]), 2, &["one directory"]);
    refused_in_a_line(diff(&one, &two.join("../one/."), &[]), 2, &["one directory"]);
    let missing = dirs.path().join("missing");
    refused_in_a_line(diff(&one, &missing, &[]), 2, &[&shown(&missing)]);
    refused_in_a_line(diff(&missing, &one, &[]), 2, &[&shown(&missing)]);
    let file = one.join("MANIFEST");
    for wrong in [&missing, &file] {
        let said = refused(
            diff(&one, wrong, &[]),
            2,
            &["can't look into", &shown(wrong), "give the data directory"],
        );
        assert!(!said.contains("storage failed") && !said.contains("restart"), "{said}");
    }
    for (here, there, inside) in [(&one, &two, &one), (&one, &two, &two)] {
        let work = inside.join("store");
        let before = contents(inside);
        let command = diff(here, there, &["--work-dir", &shown(&work)]);
        refused_in_a_line(command, 2, &["would change", &shown(inside)]);
        assert!(contents(inside) == before, "it changed something");
    }
    let node = Node::start(&two, &[]);
    let pid = node.child.id().to_string();
    refused_in_a_line(diff(&one, &two, &[]), 2, &[&shown(&two), "in use by process", &pid]);
    refused_in_a_line(diff(&two, &one, &[]), 2, &[&shown(&two), "in use by process", &pid]);
    assert_eq!(node.stop().code(), Some(0));

    // Damage is of one of them, wherever it is.
    let work = temporary();
    let breaks: [fn(&Path); 4] = [
        |dir| fs::write(dir.join("MANIFEST"), "{}").expect("it is written"),
        |dir| fs::write(dir.join("store/db"), "").expect("it is written"),
        |dir| fs::write(dir.join("store/db"), vec![7; 3 << 20]).expect("it is written"),
        |dir| fs::write(dir.join("store/conf"), "no such thing").expect("it is written"),
    ];
    for break_it in breaks {
        let broken = Edit::untouched(&two).close_with(break_it);
        for (here, there) in [(&one, &broken.dir), (&broken.dir, &one)] {
            let ended = end(diff(here, there, &["--work-dir", &shown(work.path())]));
            assert_eq!(ended.code, Some(2), "{}{}", ended.stdout, ended.stderr);
            assert!(ended.stderr.contains(&shown(&broken.dir)), "{}", ended.stderr);
            assert!(!ended.stderr.contains(&shown(&one)), "{}", ended.stderr);
        }
        assert_eq!(fs::read_dir(work.path()).expect("a directory").count(), 0, "a copy was left behind");
    }
}

/// Both copies must find room, or none is begun.
#[test]
fn both_copies_must_find_room() {
    let dirs = temporary();
    let (one, two, work) = (dirs.path().join("one"), dirs.path().join("two"), dirs.path().join("work"));
    for dir in [&one, &two] {
        assert_eq!(Node::start(dir, &[]).stop().code(), Some(0));
    }
    fs::create_dir(&work).expect("a directory");
    // Room for one of them, and what is to stay free beside it.
    let script = "mount -t tmpfs -o size=100m tmpfs \"$1\" && exec \"$2\" inspect \"$3\" diff \"$4\" --work-dir \"$1\"";
    let mut command = Command::new("unshare");
    command
        .args(["-m", "sh", "-c", script, "sh"])
        .arg(&work)
        .arg(crate::support::binary())
        .args([&one, &two]);
    if let Some(why) = crate::untouched::no_mounts() {
        println!("SKIPPED: a comparison without room, because {why}");
        return;
    }
    refused_in_a_line(command, 2, &["one of", &two.display().to_string(), "134217728 more are to stay free"]);
    assert_eq!(end(dynarust(&["inspect", &one.display().to_string(), "verify"])).code, Some(0));
}
