//! Newcomers to clusters of many: one at a time sends everything, however many want to.

use crate::arriving::{fill, is_ready_with_all, keys, on_its_way};
use crate::cluster::{Cluster, SETTLED, put};
use crate::proxy::Line;
use crate::support::{Node, wait_until};
use dynarust::limits::VALUE_INLINE_BYTES_MAX;

/// Members that keep no log: each wants to send a newcomer everything.
fn many(size: usize) -> Cluster {
    let cluster = Cluster::with(size, &["--log-mib", "0"]);
    fill(cluster.node(0));
    (1..size).for_each(|number| drop(put(cluster.node(number), &format!("own{number}"), "x")));
    cluster.settle();
    cluster
}

/// Each of the others asks for the turn in the meantime, and is given it.
#[test]
fn a_sweep_that_was_cut_off_is_begun_again_by_any_of_many() {
    let cluster = many(9);
    let dirs = tempfile::tempdir().unwrap();
    let (node, line) = on_its_way(dirs.path(), cluster.node(0));
    line.set(Line::Thin(200));
    wait_until(SETTLED, "some of it has come", || keys(&node) > 10);
    line.set(Line::Resets(0));
    let before = line.messages();
    wait_until(SETTLED, "some messages are cut off", || line.messages() > before + 9);
    line.set(Line::Good);
    is_ready_with_all(&node);
}

/// What each of them would send first fills the line for longer than anybody waits for an answer.
#[test]
fn a_thin_line_carries_everything_from_one_of_many() {
    let cluster = many(10);
    let dirs = tempfile::tempdir().unwrap();
    let (node, line) = on_its_way(dirs.path(), cluster.node(0));
    line.set(Line::Thin(120));
    is_ready_with_all(&node);
}

/// No connection lives for as long as a sweep takes.
#[test]
fn a_line_that_breaks_again_and_again_carries_everything() {
    let cluster = many(1);
    let dirs = tempfile::tempdir().unwrap();
    let (node, line) = on_its_way(dirs.path(), cluster.node(0));
    line.set(Line::Resets(400_000));
    is_ready_with_all(&node);
}

/// Takes a piece of a large value out of the directory of a stopped node; there is one such value.
fn damage(dir: &std::path::Path) {
    let config = sled::Config::new().path(dir.join("store")).segment_size(2 << 20).flush_every_ms(None);
    let store = config.open().expect("it opens");
    let pieces = store.open_tree("pieces").expect("a tree");
    let (piece, _) = pieces.pop_max().expect("it can be read").expect("a piece");
    assert_eq!(piece.len(), 8 + 8 + 4, "the name of a piece");
    store.flush().expect("it is flushed");
}

/// It can't be brought there, and those who could mend that are told so, on both sides.
#[test]
fn a_value_that_can_t_be_read_keeps_nobody_waiting_without_a_word() {
    let dirs = tempfile::tempdir().unwrap();
    let dir = dirs.path().join("old");
    let old = Node::start(&dir, &["--log-mib", "0"]);
    fill(&old);
    assert_eq!(put(&old, "large", &"x".repeat(2 * VALUE_INLINE_BYTES_MAX)).status, 201);
    assert_eq!(old.stop().code(), Some(0));
    damage(&dir);
    let old = Node::start(&dir, &["--log-mib", "0"]);
    assert_eq!(old.request("GET", "/key/large", "").status, 500);
    let new = Node::start(&dirs.path().join("new"), &[&old.address.to_string()]);
    wait_until(SETTLED, "the old one says what it can't read", || {
        old.log()
            .lines()
            .any(|line| line.contains("ERROR") && line.contains("of key 'large' is damaged. It gets"))
    });
    wait_until(SETTLED, "the new one says that nothing comes", || {
        new.log().contains("nothing comes any more")
    });
    assert_eq!(new.request("GET", "/ready", "").status, 503);
    assert_eq!(put(&old, "large", "2").status, 200);
    is_ready_with_all(&new);
    assert_eq!(old.log().matches("can't be read here").count(), 1, "{}", old.log());
}
