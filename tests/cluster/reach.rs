//! Members that can't reach each other though they are up: both sides say so, and where a node is reached is found out.

use crate::cluster::{SETTLED, alive, get, id, put, shows, skipped};
use crate::hosts::Hosts;
use crate::proxy::{Line, Proxy};
use crate::support::{Node, binary, wait_until};
use std::process::Command;

/// What a node shows of another.
fn shown(node: &Node, of: &str) -> serde_json::Value {
    get(node.address, &format!("/membership/{of}"))
}

/// As with an address that leads nowhere in `--advertise`: it asks others, so that it is up for all, and nobody reaches it.
#[test]
fn a_member_that_asks_and_is_not_reached_is_told_of_on_both_sides() {
    let (dirs, line) = (tempfile::tempdir().unwrap(), Proxy::start());
    line.set(Line::Dead);
    let wrong = line.address.to_string();
    let first = Node::start(&dirs.path().join("a"), &["--advertise", &wrong]);
    let second = Node::start(&dirs.path().join("b"), &[&first.address.to_string()]);
    let ids = [id(&first), id(&second)];
    put(&second, "k", "x");
    let (there, back) =
        (format!("this node can't reach it at {wrong}"), format!("does not reach it at {wrong}"));
    wait_until(SETTLED, "both say so", || first.log().contains(&back) && second.log().contains(&there));
    assert_eq!(first.request("GET", "/key/k", "").status, 404, "else this test shows nothing");
    // What it answers is known, though what it asks is not: its eviction would lose the write.
    let lost = |preview: &serde_json::Value| preview["events_held_only_there"].as_u64().unwrap_or_default();
    wait_until(SETTLED, "the preview tells of the write", || lost(&shown(&first, &ids[1])) > 0);
    for (node, other) in [(&first, &ids[1]), (&second, &ids[0])] {
        for _ in 0..100 {
            assert!(shown(node, other)["trouble"].is_string(), "at any time: {}", shown(node, other));
        }
        wait_until(SETTLED, "it is alive all the same", || shown(node, other)["state"] == "alive");
        // Whatever is thought of it meanwhile.
        let log = node.log();
        assert_eq!(
            (log.matches(" WARN  member").count(), log.matches("is suspect").count()),
            (1, 0),
            "{log}"
        );
        assert_eq!(log.matches(&format!("INFO  member {other} is alive")).count(), 1, "{log}");
    }
    line.leads_to(first.address);
    line.set(Line::Good);
    shows(&first, "k", Some("x"));
    wait_until(SETTLED, "both say that it works again", || {
        first.log().contains(&format!("member {} reaches this node again", ids[1]))
            && second.log().contains(&format!("member {} can be reached again", ids[0]))
    });
    wait_until(SETTLED, "nothing is wrong any more", || {
        shown(&first, &ids[1])["trouble"].is_null() && shown(&second, &ids[0])["trouble"].is_null()
    });
}

/// The first two meet on their machine by a name that leads to another one from everywhere else.
#[test]
fn nodes_that_met_on_their_machine_are_reached_from_another() {
    let hosts = match Hosts::new(2) {
        Ok(hosts) => hosts,
        Err(why) => {
            skipped("nodes on two machines", &why);
            return;
        }
    };
    let dirs = tempfile::tempdir().unwrap();
    let reached = |host: usize, port: u16| format!("{}:{port}", hosts.address(host));
    let start = |host: usize, port: u16, join: Option<&str>| {
        let mut command = hosts.run(host);
        command.arg(format!("0.0.0.0:{port}")).args(join).arg("--data-dir");
        let mut node = {
            command.arg(dirs.path().join(format!("{host}-{port}")));
            Node::launch(command).expect("it serves")
        };
        node.address = reached(host, port).parse().unwrap();
        node
    };
    let known = |node: &Node| {
        let members = get(node.address, "/membership")["members"].as_array().unwrap().clone();
        let mut known: Vec<_> =
            members.iter().map(|member| member["address"].as_str().unwrap().to_owned()).collect();
        known.sort();
        known
    };
    let first = start(0, 6660, None);
    let second = start(0, 6661, Some("localhost:6660"));
    for node in [&first, &second] {
        wait_until(SETTLED, "nothing better is known", || {
            known(node) == ["127.0.0.1:6661", "localhost:6660"]
        });
    }
    let far = start(1, 6660, Some(&reached(0, 6660)));
    let all = [reached(0, 6660), reached(0, 6661), reached(1, 6660)];
    for node in [&first, &second, &far] {
        wait_until(SETTLED, "all are known by what leads there", || {
            known(node) == all && alive(&get(node.address, "/membership")) == 3
        });
    }
    for (number, node) in [&first, &second, &far].iter().enumerate() {
        assert_eq!(put(node, &format!("k{number}?w=3"), "x").status, 201);
    }
    // By the same commands as before it is what it was.
    let before = get(far.address, "/stats")["version_vector"].clone();
    assert_eq!(second.stop().code(), Some(0));
    let second = start(0, 6661, Some("localhost:6660"));
    for node in [&first, &second, &far] {
        wait_until(SETTLED, "it is back", || alive(&get(node.address, "/membership")) == 3);
        assert_eq!(known(node), all);
    }
    assert_eq!(get(far.address, "/stats")["version_vector"], before, "nobody wrote another address");
}

/// Its directory was forgotten, or another one was given: it is another node, and alone, and its clients find nothing.
#[test]
fn a_node_that_is_started_beside_its_data_is_told_whom_the_others_look_for() {
    let dirs = tempfile::tempdir().unwrap();
    let first = Node::start(&dirs.path().join("a"), &[]);
    let second = Node::start(&dirs.path().join("b"), &[&first.address.to_string()]);
    wait_until(SETTLED, "they are two", || alive(&get(first.address, "/membership")) == 2);
    let (lost, address) = (id(&second), second.address.to_string());
    assert_eq!(second.stop().code(), Some(0));
    let mut command = Command::new(binary());
    command.arg(&address).arg("--data-dir").arg(dirs.path().join("c"));
    let beside = Node::launch(command).unwrap_or_else(|log| panic!("it did not serve:\n{log}"));
    let line = format!("look for node {lost} where this one, {} of cluster", id(&beside));
    wait_until(SETTLED, "it says so", || beside.log().contains(&line));
    assert_eq!(beside.log().matches("look for node").count(), 1, "{}", beside.log());
}
