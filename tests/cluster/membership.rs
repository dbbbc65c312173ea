//! Who belongs: joining, coming back, leaving, being evicted, and who is kept out.

use crate::cluster::{Cluster, SETTLED, alive, free_address, get, id, put, shows, skipped, state};
use crate::support::{Node, SOON, wait_until};
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;

pub fn copy(from: &Path, to: &Path) {
    let status = Command::new("cp").arg("-r").arg(from).arg(to).status().expect("cp runs");
    assert!(status.success());
}

#[test]
fn nodes_join_and_hold_the_same() {
    let mut cluster = Cluster::start(3);
    put(cluster.node(0), "a", "one");
    put(cluster.node(1), "b", &"large ".repeat(20_000));
    for node in cluster.alive() {
        shows(node, "a", Some("one"));
        shows(node, "b", Some(&"large ".repeat(20_000)));
    }
    assert_eq!(cluster.node(2).request("DELETE", "/key/a", "").status, 200);
    cluster.alive().for_each(|node| shows(node, "a", None));
    // A later one gets everything, and nothing of what was deleted.
    cluster.nodes.push(None);
    cluster.up(3);
    cluster.settle();
    shows(cluster.node(3), "b", Some(&"large ".repeat(20_000)));
    shows(cluster.node(3), "a", None);
}

#[test]
fn a_node_with_data_of_its_own_brings_it_along() {
    let dirs = tempfile::tempdir().unwrap();
    let first = Node::start(&dirs.path().join("a"), &[]);
    let second = Node::start(&dirs.path().join("b"), &[]);
    put(&first, "mine", "a");
    put(&first, "both", "a");
    put(&second, "yours", "b");
    put(&second, "both", "b");
    assert_eq!(second.stop().code(), Some(0));
    let second = Node::start(&dirs.path().join("b"), &[&first.address.to_string()]);
    for node in [&first, &second] {
        shows(node, "mine", Some("a"));
        shows(node, "yours", Some("b"));
        wait_until(SETTLED, "both values are shown", || {
            let both = node.request("GET", "/key/both", "").json();
            both["conflicts"].as_array().is_some_and(|others| others.len() == 1)
        });
    }
}

#[test]
fn nodes_come_back_without_a_join_address() {
    let dirs = tempfile::tempdir().unwrap();
    let dir = |n: usize| dirs.path().join(n.to_string());
    let first = Node::start(&dir(0), &[]);
    let second = Node::start(&dir(1), &[&first.address.to_string()]);
    put(&second, "before?w=2", "x");
    shows(&first, "before", Some("x"));
    let address = second.address.to_string();
    assert_eq!(second.stop().code(), Some(0));
    put(&first, "meanwhile", "y");
    let mut command = Command::new(crate::support::binary());
    command.arg(&address).arg("--data-dir").arg(dir(1));
    let second = Node::launch(command).expect("it serves");
    shows(&second, "meanwhile", Some("y"));
    put(&second, "after", "z");
    shows(&first, "after", Some("z"));
}

#[test]
fn a_join_address_may_come_up_later_and_one_of_several_is_enough() {
    let dirs = tempfile::tempdir().unwrap();
    let later = free_address();
    let early = Node::start(&dirs.path().join("b"), &["127.0.0.1:1", &later.to_string()]);
    assert_eq!(put(&early, "early", "x").status, 201, "it serves while nobody answers");
    let mut command = Command::new(crate::support::binary());
    command.arg(later.to_string()).arg("--data-dir").arg(dirs.path().join("a"));
    let first = Node::launch(command).expect("it serves");
    shows(&first, "early", Some("x"));
    assert_eq!(get(first.address, "/membership")["cluster"], get(early.address, "/membership")["cluster"]);
}

/// As every deployment does it that gives all nodes the same list.
#[test]
fn nodes_that_join_each_other_at_once_become_one_cluster() {
    for count in [3, 5, 2, 6, 4, 5] {
        let dirs = tempfile::tempdir().unwrap();
        let addresses: Vec<String> = (0..count).map(|_| free_address().to_string()).collect();
        let start = |number: usize| {
            let mut command = Command::new(crate::support::binary());
            command.arg(&addresses[number]).args(&addresses);
            command.arg("--data-dir").arg(dirs.path().join(number.to_string()));
            Node::launch(command).expect("it serves")
        };
        let nodes: Vec<Node> = std::thread::scope(|scope| {
            let starts: Vec<_> = (0..count).map(|number| scope.spawn(move || start(number))).collect();
            starts.into_iter().map(|start| start.join().expect("it started")).collect()
        });
        wait_until(SETTLED, "all are in one cluster", || {
            let seen: Vec<_> = nodes.iter().map(|node| get(node.address, "/membership")).collect();
            seen.iter().all(|one| one["cluster"] == seen[0]["cluster"] && alive(one) == count)
        });
        put(&nodes[0], "k", "x");
        nodes.iter().for_each(|node| shows(node, "k", Some("x")));
    }
}

/// The first of a cluster comes up last: the others had to begin without it.
#[test]
fn a_late_first_node_is_taken_in_by_those_who_waited_for_it() {
    let dirs = tempfile::tempdir().unwrap();
    let late = free_address();
    let second = Node::start(&dirs.path().join("b"), &[&late.to_string()]);
    let third = Node::start(&dirs.path().join("c"), &[&second.address.to_string()]);
    put(&third, "k?w=2", "x");
    let mut command = Command::new(crate::support::binary());
    command.arg(late.to_string()).arg("--data-dir").arg(dirs.path().join("a"));
    let first = Node::launch(command).expect("it serves");
    for node in [&first, &second, &third] {
        wait_until(SETTLED, "all see all", || alive(&get(node.address, "/membership")) == 3);
        shows(node, "k", Some("x"));
    }
}

#[test]
fn a_wildcard_node_is_known_as_others_reach_it() {
    let dirs = tempfile::tempdir().unwrap();
    let free = || free_address().port();
    let start = |name: &str, port: u16, join: Option<&str>| {
        let mut command = Command::new(crate::support::binary());
        command.arg(format!("0.0.0.0:{port}")).args(join).arg("--data-dir").arg(dirs.path().join(name));
        Node::launch(command).expect("it serves")
    };
    let (a, b) = (free(), free());
    let first = start("a", a, None);
    let second = start("b", b, Some(&format!("127.0.0.1:{a}")));
    let local = |port: u16| format!("127.0.0.1:{port}");
    for port in [a, b] {
        wait_until(SETTLED, "both are known by their addresses", || {
            let membership = get(local(port).parse().unwrap(), "/membership");
            let members = membership["members"].as_array().unwrap().clone();
            let mut addresses: Vec<_> =
                members.iter().map(|member| member["address"].as_str().unwrap().to_owned()).collect();
            addresses.sort();
            let mut expected = vec![local(a), local(b)];
            expected.sort();
            addresses == expected
        });
    }
    assert!(first.log().contains("--cluster-secret-file"), "a node open to all says so");
    drop(second);
}

/// A socket of IPv6 that listens on everything sees those of IPv4 in a dress of its own.
#[test]
fn an_address_of_ipv4_is_shown_as_such() {
    if TcpListener::bind("[::1]:0").is_err() {
        return skipped("an address of IPv4 behind one of IPv6", "this machine has no IPv6");
    }
    let dirs = tempfile::tempdir().unwrap();
    let start = |name: &str, listen: String, flags: &[&str]| {
        let mut command = Command::new(crate::support::binary());
        command.arg(listen).args(flags).arg("--data-dir").arg(dirs.path().join(name));
        Node::launch(command).expect("it serves")
    };
    let ports: Vec<u16> = (0..4).map(|_| free_address().port()).collect();
    let plain = |n: usize| format!("127.0.0.1:{}", ports[n]);
    let mapped = |n: usize| format!("[::ffff:127.0.0.1]:{}", ports[n]);
    let everywhere = |n: usize| format!("[::]:{}", ports[n]);
    let first = start("0", everywhere(0), &[&mapped(3)]);
    let second = start("1", everywhere(1), &[&mapped(0)]);
    let third = start("2", mapped(2), &[&plain(0)]);
    let fourth = start("3", plain(3), &["--advertise", &mapped(3)]);
    for n in 0..4 {
        let address = plain(n).parse().unwrap();
        wait_until(SETTLED, "all are known by their plain addresses", || {
            let members = get(address, "/membership")["members"].as_array().unwrap().clone();
            let mut shown: Vec<String> =
                members.iter().map(|member| member["address"].as_str().unwrap().to_owned()).collect();
            shown.sort();
            let mut expected: Vec<String> = (0..4).map(plain).collect();
            expected.sort();
            shown == expected && alive(&get(address, "/membership")) == 4
        });
    }
    drop((first, second, third, fourth));
}

#[test]
fn two_clusters_are_not_merged_by_accident() {
    let (one, two) = (Cluster::start(2), Cluster::start(2));
    put(one.node(0), "k", "one");
    let mut two = two;
    two.kill(1);
    let flags = [one.node(0).address.to_string()];
    let stray = Node::start(&two.dir(1), &[&flags[0]]);
    wait_until(SOON, "it is told that it belongs elsewhere", || stray.log().contains("belongs to cluster"));
    shows(&stray, "k", None);
    assert_eq!(get(one.node(0).address, "/membership")["members"].as_array().unwrap().len(), 2);
}

/// The copy is as new as the original: neither of the two knows less than it should.
#[test]
fn a_node_that_was_set_back_takes_a_new_id_and_keeps_its_data() {
    let mut cluster = Cluster::start(2);
    put(cluster.node(1), "old?w=2", "x");
    let old = id(cluster.node(1));
    cluster.kill(1);
    let backup = cluster.dir(1).with_extension("backup");
    copy(&cluster.dir(1), &backup);
    cluster.up(1);
    cluster.settle();
    put(cluster.node(1), "new?w=2", "y");
    cluster.kill(1);
    std::fs::remove_dir_all(cluster.dir(1)).unwrap();
    copy(&backup, &cluster.dir(1));
    cluster.up_untold(1);
    cluster.settle();
    assert_ne!(id(cluster.node(1)), old);
    wait_until(SETTLED, "the old id is no member any more", || state(cluster.node(0), &old) == "none");
    shows(cluster.node(1), "old", Some("x"));
    shows(cluster.node(1), "new", Some("y"));
    assert_eq!(put(cluster.node(1), "after?w=2", "z").status, 201);
    shows(cluster.node(0), "after", Some("z"));
    cluster.settle();
}

/// One that made no writes of its own since the copy: nothing of its own is missing, only what it had taken in.
#[test]
fn a_follower_that_was_set_back_is_brought_up_to_date() {
    let mut cluster = Cluster::start(2);
    put(cluster.node(0), "deleted?w=2", "x");
    cluster.settle();
    // Back under the same address: its record does not change, and it writes nothing.
    let address = cluster.node(1).address.to_string();
    let up = |cluster: &mut Cluster| {
        let mut command = Command::new(crate::support::binary());
        command.arg(&address).arg("--data-dir").arg(cluster.dir(1));
        cluster.nodes[1] = Some(Node::launch(command).expect("it serves"));
    };
    cluster.kill(1);
    let backup = cluster.dir(1).with_extension("backup");
    copy(&cluster.dir(1), &backup);
    up(&mut cluster);
    cluster.settle();
    put(cluster.node(0), "new?w=2", "y");
    assert_eq!(cluster.node(0).request("DELETE", "/key/deleted?w=2", "").status, 200);
    cluster.settle();
    cluster.kill(1);
    std::fs::remove_dir_all(cluster.dir(1)).unwrap();
    copy(&backup, &cluster.dir(1));
    up(&mut cluster);
    shows(cluster.node(1), "new", Some("y"));
    shows(cluster.node(1), "deleted", None);
    assert_eq!(put(cluster.node(0), "after?w=2", "z").status, 201);
    cluster.settle();
}

#[test]
fn a_page_in_a_browser_is_no_peer() {
    let cluster = Cluster::start(1);
    for header in ["Origin", "Sec-Fetch-Site"] {
        let headers = [(header, "http://evil.example"), ("Content-Type", "text/plain")];
        assert_eq!(cluster.node(0).request_with("POST", "/cluster/leave", &headers, b"").status, 401);
    }
    // Nor could it be told to leave by anybody: it is alone.
    assert_eq!(cluster.node(0).request("POST", "/cluster/leave", "").status, 409);
}

/// Who writes while the node leaves is refused, or his write is with the others.
#[test]
fn nothing_acknowledged_goes_with_a_node_that_leaves() {
    let mut cluster = Cluster::start(3);
    let address = cluster.node(2).address;
    let writer = std::thread::spawn(move || {
        let mut written = Vec::new();
        for n in 0.. {
            let Ok(mut client) = crate::support::Client::connect(address) else { break };
            match client.request("PUT", &format!("/key/l{n}"), &[], b"{\"value\": 1}") {
                Ok(answer) if answer.status == 201 => written.push(n),
                _ => break,
            }
        }
        written
    });
    wait_until(SOON, "the writer has begun", || cluster.node(0).request("GET", "/key/l50", "").status == 200);
    let address = cluster.node(2).address.to_string();
    let told =
        Command::new(crate::support::binary()).args(["leave", "--address", &address]).output().unwrap();
    assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
    let mut node = cluster.nodes[2].take().unwrap();
    assert_eq!(node.wait(SOON).code(), Some(0), "{}", node.log());
    let written: Vec<u64> = writer.join().unwrap();
    assert!(written.len() > 50);
    for n in written {
        assert_eq!(cluster.node(0).request("GET", &format!("/key/l{n}"), "").status, 200, "l{n} is lost");
    }
}

#[test]
fn an_evicted_node_is_out_until_it_comes_back() {
    let mut cluster = Cluster::start(3);
    put(cluster.node(2), "k?w=3", "x");
    let victim = id(cluster.node(2));
    let preview = get(cluster.node(0).address, &format!("/membership/{victim}"));
    assert_eq!(preview["events_held_only_there"], 0);
    let answer = cluster.node(0).request("DELETE", &format!("/membership/{victim}"), "");
    assert_eq!((answer.status, answer.json()["evicted"].as_str()), (200, Some(victim.as_str())));
    for number in [0, 1] {
        wait_until(SETTLED, "it is no member any more", || state(cluster.node(number), &victim) == "none");
    }
    let again = cluster.node(0).request("DELETE", &format!("/membership/{victim}"), "");
    assert_eq!((again.status, again.json()["title"].as_str()), (404, Some("There is no such member")));
    put(cluster.node(0), "later?w=2", "y");
    assert_eq!(cluster.node(0).request("DELETE", "/key/k?w=2", "").status, 200);
    // It runs on, alone; what it writes now comes along when it joins again.
    put(cluster.node(2), "alone", "z");
    cluster.kill(2);
    cluster.up(2);
    cluster.settle();
    for node in cluster.alive() {
        shows(node, "later", Some("y"));
        shows(node, "alone", Some("z"));
        shows(node, "k", None);
    }
}

#[test]
fn a_node_leaves_and_may_join_again() {
    let mut cluster = Cluster::start(3);
    let leaver = id(cluster.node(2));
    put(cluster.node(2), "k", "x");
    assert_eq!(cluster.node(2).request("POST", "/cluster/leave", "").status, 200);
    let mut node = cluster.nodes[2].take().unwrap();
    assert_eq!(node.wait(SETTLED).code(), Some(0), "{}", node.log());
    for number in [0, 1] {
        wait_until(SETTLED, "it is no member any more", || state(cluster.node(number), &leaver) == "none");
        shows(cluster.node(number), "k", Some("x"));
    }
    // By itself it does not go back, and leaving once more, before anybody has taken it in, changes nothing.
    let flags = ["127.0.0.1:1", "--leave-on-exit"];
    assert_eq!(Node::start(&cluster.dir(2), &flags).stop().code(), Some(0));
    let log = Node::launch(Node::command(&cluster.dir(2), &[])).err().expect("it does not serve");
    assert!(log.contains("has left its cluster"), "{log}");
    put(cluster.node(0), "k", "y");
    // Elsewhere it would bring along the list of those that it has left.
    let other = Node::start(&cluster.dir(9), &[]);
    let stray = Node::start(&cluster.dir(2), &[&other.address.to_string()]);
    wait_until(SOON, "it is refused", || stray.log().contains("let it join that one again"));
    let trouble = get(stray.address, "/membership")["trouble"].clone();
    assert!(trouble.as_str().is_some_and(|told| told.contains("has left its cluster")), "{trouble}");
    assert_eq!(get(other.address, "/membership")["members"].as_array().unwrap().len(), 1);
    assert_eq!(stray.stop().code(), Some(0));
    cluster.up(2);
    cluster.settle();
    shows(cluster.node(2), "k", Some("y"));
}

/// Nobody can tell a node that it was set back, and its files are the old ones but for what they hold: it gives names anew
/// that others know. No disk that has what was acknowledged may lose it for that.
#[test]
fn what_a_disk_has_stays_though_its_name_was_given_twice() {
    let cluster = name_given_twice(|_| {});
    cluster.shows(&[("old", "x"), ("first", "y"), ("second", "z")]);
}

/// The same, and what the others have forgotten meanwhile has it sent everything: what it took before anybody could tell it
/// may go then, and nothing else.
#[test]
fn what_a_disk_has_stays_though_a_sweep_takes_the_other_of_one_name() {
    let cluster = name_given_twice(|cluster| {
        put(cluster.node(0), "gone?w=2", "x");
        assert_eq!(cluster.node(0).request("DELETE", "/key/gone?w=2", "").status, 200);
        let (address, id) = (cluster.node(0).address, id(cluster.node(0)));
        wait_until(SETTLED, "it is forgotten", || {
            let stats = get(address, "/stats");
            stats["floor"][&id] == stats["version_vector"][&id]
        });
    });
    cluster.shows(&[("old", "x"), ("first", "y")]);
    let told = cluster.node(0).log();
    assert!(told.contains("it is sent everything"), "else this test shows nothing: {told}");
}

/// Two nodes; the second was set back in place, to before it wrote `first`, and wrote `second` under the same name. `meanwhile`
/// is what the cluster does before the second is set back.
fn name_given_twice(meanwhile: impl FnOnce(&Cluster)) -> Cluster {
    let mut cluster = Cluster::start(2);
    put(cluster.node(1), "old?w=2", "x");
    cluster.kill(1);
    let backup = cluster.dir(1).with_extension("backup");
    copy(&cluster.dir(1), &backup);
    cluster.up_untold(1);
    let first = put(cluster.node(1), "first?w=2", "y").json()["version"].clone();
    meanwhile(&cluster);
    cluster.kill(1);
    cluster.kill(0);
    set_back(&cluster.dir(1), &backup);
    cluster.up_untold(1);
    let second = put(cluster.node(1), "second", "z").json()["version"].clone();
    assert_eq!(first, second, "else this test shows nothing");
    cluster.up(0);
    cluster.settle();
    cluster
}

/// Puts a directory's files back to what they were when it was copied.
pub fn set_back(dir: &Path, backup: &Path) {
    let files = |dir: &Path| {
        let files = Command::new("find").arg(dir).args(["-type", "f", "-printf", "%P\n"]).output().unwrap();
        String::from_utf8(files.stdout).unwrap().lines().map(str::to_owned).collect::<Vec<String>>()
    };
    for file in files(dir) {
        match std::fs::read(backup.join(&file)) {
            Ok(bytes) => std::fs::write(dir.join(&file), bytes).unwrap(),
            Err(_) => std::fs::remove_file(dir.join(&file)).unwrap(),
        }
    }
}

/// What only one node has does not go with it.
#[test]
fn a_node_stays_when_nobody_else_has_what_it_has() {
    let mut cluster = Cluster::start(2);
    let gone = id(cluster.node(0));
    cluster.kill(0);
    put(cluster.node(1), "only-here", "x");
    wait_until(SETTLED, "the other is down", || state(cluster.node(1), &gone) == "down");
    let address = cluster.node(1).address.to_string();
    let leave = |to: &[&str]| {
        let told = Command::new(crate::support::binary()).arg("leave").args(to).output().unwrap();
        (told.status.code(), String::from_utf8_lossy(&told.stderr).into_owned())
    };
    let (code, said) = leave(&["--address", &address]);
    assert_eq!((code, said.contains("no other member is known to have")), (Some(1), true), "{said}");
    // It serves on.
    assert_eq!(put(cluster.node(1), "later", "y").status, 201);
    // A signal ends it all the same, but not as if all were well.
    let dir = cluster.dir(1);
    cluster.kill(1);
    let stays = Node::start(&dir, &["--leave-on-exit"]);
    wait_until(SETTLED, "the other is down", || state(&stays, &gone) == "down");
    assert_eq!(stays.stop().code(), Some(1));
    // Nobody runs there now, whatever the file says that it left behind.
    let (code, said) = leave(&["--data-dir", dir.to_str().unwrap()]);
    assert_eq!((code, said.contains("no node runs on")), (Some(1), true), "{said}");
    cluster.up(0);
    cluster.up(1);
    cluster.settle();
    assert_eq!(leave(&["--data-dir", dir.to_str().unwrap()]).0, Some(0));
    assert_eq!(cluster.nodes[1].take().unwrap().wait(SETTLED).code(), Some(0));
    for key in ["only-here", "later"] {
        assert_eq!(cluster.node(0).request("GET", &format!("/key/{key}"), "").status, 200, "{key}");
    }
}

/// As with one list of addresses for all nodes.
#[test]
fn a_node_leaves_its_own_address_out_of_those_to_join_by() {
    let dirs = tempfile::tempdir().unwrap();
    let (own, later) = (free_address().to_string(), free_address().to_string());
    let start = |name: &str, listen: &str, join: &[&str]| {
        let mut command = Command::new(crate::support::binary());
        command.arg(listen).args(join).arg("--data-dir").arg(dirs.path().join(name));
        Node::launch(command).expect("it serves")
    };
    let node = start("a", &own, &[&own, &later]);
    wait_until(SOON, "it knows itself", || node.log().contains("is left out"));
    let log = node.log();
    assert_eq!(
        (log.matches("own address").count(), log.contains("own address; trying")),
        (1, false),
        "{log}"
    );
    // The others are tried as before.
    let other = start("b", &later, &[]);
    wait_until(SETTLED, "both are members", || alive(&get(other.address, "/membership")) == 2);
    assert_eq!(node.log().matches("own address").count(), 1, "{}", node.log());
    // One that has no other is the first of its cluster, and waits for nobody.
    let lone = free_address().to_string();
    let lone = start("c", &lone, &[&lone]);
    wait_until(SOON, "it is ready", || lone.request("GET", "/ready", "").status == 200);
}

#[test]
fn a_dead_member_is_found_out_and_found_back() {
    let mut cluster = Cluster::start(3);
    let dead = id(cluster.node(2));
    cluster.kill(2);
    for number in [0, 1] {
        wait_until(SETTLED, "it is down", || state(cluster.node(number), &dead) == "down");
    }
    put(cluster.node(0), "k", "x");
    cluster.up(2);
    cluster.settle();
    shows(cluster.node(2), "k", Some("x"));
}
