//! A member whose directory does not open: it says so and serves nothing; told to, it moves all of it aside and comes back
//! empty, under a new id. Nobody else's directory is touched by that.

use crate::cluster::{Cluster, SETTLED, get, id, put, state};
use crate::support::{Node, SOON, wait_until};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// All files below a directory but the lock, by name.
fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let mut found = BTreeMap::new();
    for file in std::fs::read_dir(dir).expect("a directory") {
        let path = file.expect("a file").path();
        let name = path.file_name().expect("a name").to_string_lossy().into_owned();
        match path.is_dir() {
            true => found
                .extend(files(&path).into_iter().map(|(within, bytes)| (format!("{name}/{within}"), bytes))),
            false if name != "LOCK" => {
                drop(found.insert(name, std::fs::read(&path).expect("it can be read")))
            }
            false => {}
        }
    }
    found
}

/// Runs a node that must end by itself.
fn ends(mut command: Command) -> Output {
    let mut child =
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    wait_until(SOON, "the node ends", || child.try_wait().unwrap().is_some());
    child.wait_with_output().unwrap()
}

fn damage(dir: &Path) {
    let db = dir.join("store/db");
    let mut bytes = std::fs::read(&db).expect("a store");
    bytes[8_192..].fill(0x55);
    std::fs::write(&db, bytes).expect("it can be written");
}

fn asides(dir: &Path) -> Vec<PathBuf> {
    let name = format!("{}.aside-", dir.file_name().unwrap().to_string_lossy());
    let beside = std::fs::read_dir(dir.parent().unwrap()).unwrap().map(|file| file.unwrap().path());
    beside.filter(|path| path.file_name().unwrap().to_string_lossy().starts_with(&name)).collect()
}

#[test]
fn a_directory_that_does_not_open_is_moved_aside_when_that_is_asked_for() {
    let mut cluster = Cluster::start(3);
    for n in 0..200 {
        assert_eq!(put(cluster.node(n % 3), &format!("k{n}?w=3"), &format!("value {n}")).status, 201);
    }
    let (old, dir) = (id(cluster.node(2)), cluster.dir(2));
    cluster.kill(2);
    damage(&dir);

    let output = ends(Node::command(&dir, &[]));
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(4), "{said}");
    for word in [&dir.join("store").display().to_string(), "--rejoin-empty", "salvage --out"] {
        assert!(said.contains(word), "no {word:?} in {said}");
    }
    assert!(!said.contains("serving address="), "{said}");
    let left = files(&dir);

    // Nobody to take anything from.
    let output = ends(Node::command(&dir, &["--rejoin-empty"]));
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("Nothing was moved") && said.contains("LISTEN JOIN"), "{said}");
    assert!(files(&dir) == left && asides(&dir).is_empty(), "something was moved");
    // The same when nobody answers as one.
    let output = ends(Node::command(&dir, &["127.0.0.1:1", "--rejoin-empty"]));
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("Nothing was moved") && said.contains("127.0.0.1:1: no answer"), "{said}");
    assert!(files(&dir) == left && asides(&dir).is_empty(), "something was moved");

    let sponsor = cluster.node(0).address.to_string();
    let node = Node::start(&dir, &[&sponsor, "--rejoin-empty"]);
    let [aside] = &asides(&dir)[..] else { panic!("one directory aside: {:?}", asides(&dir)) };
    assert!(files(aside) == left, "what is aside is not what there was");
    let log = node.log();
    assert!(log.contains(&aside.display().to_string()), "{log}");
    let evict = format!("curl -X DELETE http://{sponsor}/membership/{old}");
    assert!(log.contains(&evict), "no {evict:?} in {log}");
    assert_ne!(id(&node), old);
    wait_until(SETTLED, "it has everything", || get(node.address, "/stats")["keys"] == 200);
    for n in 0..200 {
        assert_eq!(get(node.address, &format!("/key/k{n}"))["value"], format!("value {n}"));
    }
    wait_until(SETTLED, "the old id is down", || state(cluster.node(0), &old) == "down");
    let evicted = cluster.node(0).request("DELETE", &format!("/membership/{old}"), "").status;
    assert_eq!(evicted, 200);
    cluster.nodes[2] = Some(node);
    cluster.settle();
    assert_eq!(get(cluster.node(2).address, "/membership")["members"].as_array().unwrap().len(), 3);
}

/// A flag that was forgotten in a unit file.
#[test]
fn a_directory_that_opens_is_used_as_it_is() {
    let mut cluster = Cluster::start(2);
    put(cluster.node(1), "k?w=2", "x");
    let (old, dir) = (id(cluster.node(1)), cluster.dir(1));
    let sponsor = cluster.node(0).address.to_string();
    for round in 0..3 {
        cluster.kill(1);
        let node = Node::start(&dir, &[&sponsor, "--rejoin-empty"]);
        assert!(node.log().contains("--rejoin-empty does nothing"), "{}", node.log());
        assert_eq!(id(&node), old, "round {round}");
        assert_eq!(get(node.address, "/key/k")["value"], "x");
        assert!(asides(&dir).is_empty());
        cluster.nodes[1] = Some(node);
    }
    // Nor does it do anything to a directory that is not there yet, or is no data directory.
    let other = cluster.dir(7);
    let node = Node::start(&other, &[&sponsor, "--rejoin-empty"]);
    assert!(!node.log().contains("does nothing") && asides(&other).is_empty(), "{}", node.log());
    let foreign = cluster.dir(8);
    std::fs::create_dir(&foreign).unwrap();
    std::fs::write(foreign.join("thesis.txt"), "years of work").unwrap();
    let output = ends(Node::command(&foreign, &[&sponsor, "--rejoin-empty"]));
    assert_eq!(output.status.code(), Some(3));
    assert_eq!(files(&foreign).len(), 1);
}
