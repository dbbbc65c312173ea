//! A node made of a backup, in the cluster of which the backup is and in none; and one whose disk was set back.

use crate::arriving::{fill, on_its_way};
use crate::cluster::{Cluster, SETTLED, free_address, get, id, put, shows, state};
use crate::membership::{copy, set_back};
use crate::proxy::{Line, Proxy};
use crate::support::{Node, SOON, binary, wait_until};
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

fn run(arguments: &[&str], paths: &[&Path]) {
    let ended = Command::new(binary()).args(arguments).args(paths).output().expect("it runs");
    let told = String::from_utf8_lossy(&[ended.stdout, ended.stderr].concat()).into_owned();
    assert!(ended.status.success() && !told.contains("warning"), "{arguments:?}: {told}");
}

/// One disk is lost. What was deleted and changed since the backup stays so, and what was written since comes.
#[test]
fn a_node_made_of_a_backup_goes_into_its_cluster() {
    let mut cluster = Cluster::start(3);
    for key in ["stays", "changed", "deleted"] {
        put(cluster.node(0), key, "before");
    }
    cluster.settle();
    let files = tempfile::tempdir().expect("a directory");
    let file = files.path().join("backup");
    run(&["backup", &cluster.node(0).address.to_string(), "-o"], &[&file]);
    put(cluster.node(1), "changed", "since");
    put(cluster.node(2), "new", "since");
    assert_eq!(cluster.node(1).request("DELETE", "/key/deleted?w=all", "").status, 200);
    cluster.settle();
    let lost = id(cluster.node(2));
    cluster.kill(2);
    std::fs::remove_dir_all(cluster.dir(2)).expect("its disk");
    let dir = cluster.dir(2);
    run(&["restore", "--into-cluster"], &[&file, Path::new("--data-dir"), &dir]);
    // It knows the members, and needs to be told none.
    cluster.up_untold(2);
    assert_ne!(id(cluster.node(2)), lost);
    wait_until(SETTLED, "it has joined", || cluster.node(2).log().contains("joined cluster"));
    cluster.evict_the_dead();
    cluster.settle();
    for node in cluster.alive() {
        shows(node, "stays", Some("before"));
        shows(node, "changed", Some("since"));
        shows(node, "new", Some("since"));
        shows(node, "deleted", None);
        let conflicts = get(node.address, "/conflicts");
        assert_eq!(conflicts["keys"].as_array().map(Vec::len), Some(0), "{conflicts}");
    }
    let log = cluster.node(2).log();
    assert!(log.contains("made of a backup") && !log.contains("evicted"), "{log}");
    assert_eq!(log.matches("joined cluster").count(), 1, "{log}");
}

/// One that is restored elsewhere must leave the cluster alone: it has other names for all of it, and knows no member.
#[test]
fn a_node_made_of_a_backup_is_alone_unless_it_is_told_to_join() {
    let cluster = Cluster::start(2);
    put(cluster.node(0), "key", "before");
    cluster.settle();
    let files = tempfile::tempdir().expect("a directory");
    let (file, dir) = (files.path().join("backup"), files.path().join("restored"));
    run(&["backup", &cluster.node(1).address.to_string(), "-o"], &[&file]);
    assert_eq!(cluster.node(0).request("DELETE", "/key/key?w=all", "").status, 200);
    run(&["restore"], &[&file, Path::new("--data-dir"), &dir]);
    let alone = Node::start(&dir, &[]);
    shows(&alone, "key", Some("before"));
    let known = get(alone.address, "/membership");
    assert_eq!(known["members"].as_array().map(Vec::len), Some(1), "{known}");
    assert_eq!(alone.stop().code(), Some(0));
    // Told to, it merges like every lonely node: what it brings is new, so what was deleted is back.
    let told = Node::start(&dir, &[&cluster.node(0).address.to_string()]);
    wait_until(SETTLED, "it is a member", || state(cluster.node(1), &id(&told)) == "alive");
    for node in cluster.alive() {
        shows(node, "key", Some("before"));
    }
}

/// Its disk is set back to before it joined: then it knows nobody who could tell, but those that it is told to join by, of whom
/// one never answers. One that can't be asked as it starts tells it later, and ends it: but as another node it starts again,
/// whoever is there then.
#[test]
fn a_node_that_was_set_back_to_before_it_joined_takes_a_new_id() {
    let dirs = tempfile::tempdir().unwrap();
    let (dir, backup) = (dirs.path().join("set-back"), dirs.path().join("backup"));
    let line = Proxy::start();
    let other = Node::start(&dirs.path().join("other"), &["--advertise", &line.address.to_string()]);
    line.leads_to(other.address);
    let by = line.address.to_string();
    put(&Node::start(&dir, &[]), "own", "x");
    copy(&dir, &backup);
    let node = Node::start(&dir, &[&by]);
    put(&node, "later?w=2", "y");
    let old = id(&node);
    drop(node);
    set_back(&dir, &backup);
    let hung = TcpListener::bind("127.0.0.1:0").unwrap();
    let node = Node::start(&dir, &[&hung.local_addr().unwrap().to_string(), &by]);
    let second = id(&node);
    assert_ne!(second, old, "it serves under its old id");
    for node in [&node, &other] {
        shows(node, "own", Some("x"));
        shows(node, "later", Some("y"));
    }
    wait_until(SETTLED, "nobody goes by the old one", || state(&other, &old) == "none");
    drop(node);
    copy(&dir, &backup.with_extension("2"));
    let node = Node::start(&dir, &[&by]);
    // More than it writes as it starts.
    (0..9).for_each(|number| drop(put(&node, &format!("more-{number}?w=2"), "w")));
    put(&node, "last?w=2", "z");
    drop(node);
    set_back(&dir, &backup.with_extension("2"));
    line.set(Line::Dead);
    let mut node = Node::start(&dir, &[&by]);
    assert_eq!(id(&node), second, "nobody could tell");
    line.set(Line::Good);
    assert_eq!(node.wait(SETTLED).code(), Some(3), "{}", node.log());
    line.set(Line::Dead);
    let node = Node::start(&dir, &[&by]);
    let third = id(&node);
    assert!(third != second && state(&node, &third) == "alive", "{}", node.log());
    put(&node, "first", "by this name");
    line.set(Line::Good);
    for node in [&node, &other] {
        shows(node, "last", Some("z"));
        shows(node, "first", Some("by this name"));
    }
}

/// Its write was replaced while it was away, and it is sent what there is now, without the event that did so.
#[test]
fn what_was_replaced_elsewhere_is_not_told_to_be_deleted() {
    let mut cluster = Cluster::start(2);
    put(cluster.node(1), "k?w=2", "first");
    let second = put(cluster.node(1), "k?w=2", "second").json()["version"].as_str().unwrap().to_owned();
    assert_eq!(cluster.node(1).request("POST", "/cluster/leave", "").status, 200);
    cluster.nodes[1].take().unwrap().wait(SOON);
    put(cluster.node(0), "k", "third");
    cluster.up(1);
    cluster.settle();
    shows(cluster.node(1), "k", Some("third"));
    assert_eq!(cluster.nodes[1].take().unwrap().stop().code(), Some(0));
    let looks = ["changes", "--follow-key", "k", "--json"];
    let told =
        Command::new(binary()).arg("inspect").arg(cluster.dir(1)).args(looks).output().expect("it runs");
    let told = String::from_utf8(told.stdout).expect("text");
    assert!(told.contains(&second) && !told.contains("delete"), "{told}");
}

/// The one that answers has yet to get what the node lost, and was told that there is that.
#[test]
fn who_was_set_back_learns_so_from_one_that_has_only_heard_of_its_writes() {
    let mut cluster = Cluster::start(2);
    let place = tempfile::tempdir().unwrap();
    let (backup, dir, old) = (place.path().join("backup"), cluster.dir(1), id(cluster.node(1)));
    put(cluster.node(1), "before?w=2", "x");
    cluster.kill(1);
    copy(&dir, &backup);
    cluster.up_untold(1);
    (0..9).for_each(|number| drop(put(cluster.node(1), &format!("lost-{number}?w=2"), "y")));
    cluster.kill(1);
    set_back(&dir, &backup);
    fill(cluster.node(0));
    let (node, line) = on_its_way(&place.path().join("node"), cluster.node(0));
    cluster.node(0).signal(libc::SIGSTOP);
    crate::unheard::up_at(&mut cluster, 1, free_address(), &[&node.address.to_string()]);
    assert_ne!(id(cluster.node(1)), old, "it serves under its old id:\n{}", cluster.node(1).log());
    cluster.node(0).signal(libc::SIGCONT);
    line.set(Line::Good);
    for node in [&node, cluster.node(0), cluster.node(1)] {
        shows(node, "lost-8", Some("y"));
    }
}
