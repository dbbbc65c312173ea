//! Newcomers to clusters of many: one at a time sends everything, however many want to.

use crate::arriving::{fill, is_ready_with_all, keys, on_its_way};
use crate::cluster::{Cluster, SETTLED, put};
use crate::proxy::Line;
use crate::support::wait_until;

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
