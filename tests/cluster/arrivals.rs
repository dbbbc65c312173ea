//! Coming, going and coming back, where it is easy to end with two clusters, or with none.

use crate::cluster::{Cluster, SETTLED, free_address, get, id, put, shows, state};
use crate::departures::with_one_behind_a_line;
use crate::membership::copy;
use crate::proxy::{Line, Proxy};
use crate::support::{Node, SOON, wait_until};

/// The second is told of the first, the third of the second as soon as that is ready: it may not know the first yet.
#[test]
fn who_joins_by_a_newcomer_joins_all() {
    for round in 0..8 {
        let dirs = tempfile::tempdir().unwrap();
        let first = Node::start(&dirs.path().join("a"), &[]);
        put(&first, "k", "x");
        let second = Node::start(&dirs.path().join("b"), &[&first.address.to_string()]);
        let third = Node::start(&dirs.path().join("c"), &[&second.address.to_string()]);
        let nodes = [&first, &second, &third];
        for node in nodes {
            wait_until(SETTLED, &format!("round {round}: all know all"), || {
                get(node.address, "/membership")["members"].as_array().unwrap().len() == 3
            });
            shows(node, "k", Some("x"));
        }
        assert_eq!(put(&third, "l?w=3", "y").status, 201);
    }
}

/// Of two, one evicts the other: what is left is one node that knows nobody, and must not listen to the other.
#[test]
fn an_evicted_node_of_two_is_out_until_it_comes_back() {
    let mut cluster = Cluster::start(2);
    let victim = id(cluster.node(1));
    put(cluster.node(0), "old?w=2", "x");
    let answer = cluster.node(0).request("DELETE", &format!("/membership/{victim}"), "");
    assert_eq!(answer.status, 200);
    wait_until(SETTLED, "it is told", || cluster.node(1).log().contains("this node was evicted"));
    assert_eq!(put(cluster.node(1), "alone?w=all&timeout_ms=300", "y").status, 202);
    assert_eq!(cluster.node(0).request("GET", "/key/alone", "").status, 404);
    cluster.kill(1);
    put(cluster.node(0), "meanwhile", "z");
    cluster.up_untold(1);
    cluster.settle();
    cluster.shows(&[("old", "x"), ("alone", "y"), ("meanwhile", "z")]);
}

#[test]
fn two_that_evicted_each_other_become_one_cluster_again() {
    let mut cluster = Cluster::start(2);
    let ids = [id(cluster.node(0)), id(cluster.node(1))];
    for (from, whom) in [(0, 1), (1, 0)] {
        let answer = cluster.node(from).request("DELETE", &format!("/membership/{}", ids[whom]), "");
        assert!(matches!(answer.status, 200 | 404), "{}", answer.text());
    }
    put(cluster.node(0), "a", "x");
    put(cluster.node(1), "b", "y");
    cluster.kill(1);
    cluster.up(1);
    cluster.settle();
    cluster.shows(&[("a", "x"), ("b", "y")]);
}

/// All leave as they stop, and are started again with the same commands, the first without an address to join.
#[test]
fn a_cluster_whose_nodes_all_leave_on_exit_comes_back() {
    let flags = |number: usize, first: &str| match number {
        0 => vec!["--leave-on-exit".to_owned()],
        _ => vec!["--leave-on-exit".to_owned(), first.to_owned()],
    };
    let mut cluster = Cluster::each(3, |_| Vec::new());
    let mut first = String::new();
    for round in 0..2 {
        for number in 0..3 {
            let flags = flags(number, &first);
            let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
            let mut command = Node::command(&cluster.dir(number), &flags);
            if number == 0 && round == 1 {
                // At its old address, as the others' commands have it.
                command = std::process::Command::new(crate::support::binary());
                command.arg(&first).args(&flags).arg("--data-dir").arg(cluster.dir(0));
            }
            let node =
                Node::launch(command).unwrap_or_else(|log| panic!("round {round}: node {number}: {log}"));
            if number == 0 {
                first = node.address.to_string();
            }
            cluster.nodes[number] = Some(node);
        }
        cluster.settle();
        assert_eq!(put(cluster.node(round), &format!("k{round}?w=3"), "x").status, 201, "round {round}");
        for known in 0..=round {
            cluster.alive().for_each(|node| shows(node, &format!("k{known}"), Some("x")));
        }
        let all: Vec<Node> = (0..3).map(|number| cluster.nodes[number].take().unwrap()).collect();
        let stopping: Vec<_> = all.into_iter().map(|node| std::thread::spawn(move || node.stop())).collect();
        for (number, stopping) in stopping.into_iter().enumerate() {
            assert_eq!(stopping.join().unwrap().code(), Some(0), "round {round}: node {number}");
        }
    }
}

/// The copy ends, not the node whose directory it is.
#[test]
fn a_copy_beside_its_original_is_refused_at_once() {
    let mut cluster = Cluster::start(2);
    let twin = cluster.dir(1).with_extension("copy");
    copy(&cluster.dir(1), &twin);
    let log = Node::launch(Node::command(&twin, &[])).err().expect("it does not serve");
    assert!(log.contains("is a copy of the data directory"), "{log}");
    put(cluster.node(1), "k?w=2", "x");
    cluster.settle();
    assert!(cluster.nodes[1].as_mut().unwrap().child.try_wait().unwrap().is_none(), "the original runs");
}

/// A copy is an old state, for all it can know: what it gives names to must not have names already.
#[test]
fn a_restored_directory_that_can_ask_nobody_takes_a_new_id() {
    let mut cluster = Cluster::start(2);
    put(cluster.node(1), "old?w=2", "x");
    let old = id(cluster.node(1));
    cluster.kill(1);
    let backup = cluster.dir(1).with_extension("backup");
    copy(&cluster.dir(1), &backup);
    cluster.up_untold(1);
    assert_eq!(id(cluster.node(1)), old, "its own directory");
    put(cluster.node(1), "first?w=2", "y");
    cluster.kill(1);
    cluster.kill(0);
    std::fs::remove_dir_all(cluster.dir(1)).unwrap();
    copy(&backup, &cluster.dir(1));
    cluster.up_untold(1);
    let new = id(cluster.node(1));
    assert_ne!(new, old);
    put(cluster.node(1), "second", "z");
    cluster.up(0);
    cluster.settle();
    for node in cluster.alive() {
        for (key, value) in [("old", "x"), ("first", "y"), ("second", "z")] {
            shows(node, key, Some(value));
        }
        wait_until(SETTLED, "the old id is no member any more", || state(node, &old) == "none");
    }
    // Moved in peace it keeps its name: all others could be asked.
    cluster.kill(1);
    std::fs::remove_dir_all(&backup).unwrap();
    copy(&cluster.dir(1), &backup);
    std::fs::remove_dir_all(cluster.dir(1)).unwrap();
    copy(&backup, &cluster.dir(1));
    cluster.up_untold(1);
    assert_eq!(id(cluster.node(1)), new);
    cluster.settle();
}

/// It takes another id twice before the first one is found to be down: both leave the list of members.
#[test]
fn ids_that_were_given_up_one_after_the_other_are_members_no_more() {
    let mut cluster = Cluster::start(3);
    put(cluster.node(2), "k?w=3", "x");
    let mut ids = vec![id(cluster.node(2))];
    // Nobody can be asked, so that a copy can't know what its original wrote; nor does anybody say who is down.
    let addresses = [0, 1].map(|number| cluster.node(number).address.to_string());
    (0..2).for_each(|number| cluster.kill(number));
    for _ in 0..2 {
        cluster.kill(2);
        let (dir, backup) = (cluster.dir(2), cluster.dir(2).with_extension("backup"));
        copy(&dir, &backup);
        std::fs::remove_dir_all(&dir).unwrap();
        copy(&backup, &dir);
        std::fs::remove_dir_all(&backup).unwrap();
        cluster.up_untold(2);
        assert!(!ids.contains(&id(cluster.node(2))), "it goes on under another id");
        ids.push(id(cluster.node(2)));
    }
    cluster.kill(2);
    let mut inspect = std::process::Command::new(crate::support::binary());
    let shown = inspect.arg("inspect").arg(cluster.dir(2)).arg("summary").output().unwrap();
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    for (number, address) in addresses.iter().enumerate() {
        let mut command = std::process::Command::new(crate::support::binary());
        command.arg(address).arg("--data-dir").arg(cluster.dir(number));
        cluster.nodes[number] = Some(Node::launch(command).expect("it serves"));
    }
    cluster.up_untold(2);
    for node in cluster.alive() {
        for old in &ids[..2] {
            wait_until(SETTLED, &format!("{old} is no member any more"), || state(node, old) == "none");
        }
    }
    cluster.settle();
    cluster.shows(&[("k", "x")]);
    assert!(shown.contains(&format!("it wrote as {}, then as {}", ids[0], ids[1])), "{shown}");
}

/// Who came with nothing is not ready before it has what there was.
#[test]
fn a_newcomer_is_ready_when_it_has_what_there_was() {
    let dirs = tempfile::tempdir().unwrap();
    let nobody = "127.0.0.1:1";
    let lonely = Node::start(&dirs.path().join("lonely"), &[nobody]);
    assert_eq!(lonely.request("GET", "/ready", "").status, 503);
    assert_eq!(lonely.request("PUT", "/key/k", "{\"value\": 1}").status, 201, "it serves all the same");
    let first = Node::start(&dirs.path().join("a"), &[]);
    let large = "x".repeat(500_000);
    for n in 0..40 {
        put(&first, &format!("large{n}"), &large);
    }
    let second = Node::start(&dirs.path().join("b"), &[&first.address.to_string()]);
    wait_until(SOON, "it is ready", || second.request("GET", "/ready", "").status == 200);
    for n in 0..40 {
        assert_eq!(second.request("HEAD", &format!("/key/large{n}"), "").status, 200, "large{n}");
    }
    // Nor after a crash on its way: those who send it everything stand still as soon as it is taken in.
    let third = (0..20).find_map(|n| {
        let third = Node::start(&dirs.path().join(format!("c{n}")), &[&first.address.to_string()]);
        wait_until(SOON, "it is taken in", || third.log().contains("joined cluster"));
        [&first, &second].iter().for_each(|node| node.signal(19));
        let half_way = third.request("GET", "/ready", "").status == 503;
        third.kill();
        let third = Node::start(&dirs.path().join(format!("c{n}")), &[]);
        let lacks = (0..40).any(|n| third.request("HEAD", &format!("/key/large{n}"), "").status == 404);
        let ready = third.request("GET", "/ready", "").status == 200;
        [&first, &second].iter().for_each(|node| node.signal(18));
        assert!(!(lacks && ready), "newcomer {n} is ready without what there was");
        (half_way && lacks).then_some(third)
    });
    let third = third.expect("one of them is cut off half way");
    wait_until(SETTLED, "it is ready", || third.request("GET", "/ready", "").status == 200);
    assert_eq!(second.stop().code(), Some(0));
    // Later it is at once, whoever else is there.
    drop(first);
    let second = Node::start(&dirs.path().join("b"), &[nobody]);
    assert_eq!(second.request("GET", "/ready", "").status, 200);
}

/// It had found nobody as it was started first, and has written nothing but who it is.
#[test]
fn a_newcomer_that_was_started_again_is_ready_when_it_has_what_there_was() {
    let (dirs, line) = (tempfile::tempdir().unwrap(), Proxy::start());
    let (dir, there) = (dirs.path().join("new"), line.address.to_string());
    let sponsor = Node::start(&dirs.path().join("sponsor"), &[]);
    put(&sponsor, "k", "x");
    let mut new = Node::start(&dir, &["--advertise", &there, &free_address().to_string()]);
    assert_eq!(new.request("GET", "/ready", "").status, 503);
    new.signal(libc::SIGKILL);
    new.wait(SOON);
    // Nothing gets to it yet.
    let new = Node::start(&dir, &["--advertise", &there, &sponsor.address.to_string()]);
    wait_until(SETTLED, "it is in", || state(&sponsor, &id(&new)) != "none");
    let ready = || new.request("GET", "/ready", "").status == 200;
    assert!(!ready() && new.request("GET", "/key/k", "").status == 404);
    line.leads_to(new.address);
    wait_until(SETTLED, "it is ready", ready);
    assert_eq!(new.request("GET", "/key/k", "").status, 200);
}

/// The address that it is told is never up. Who begins a cluster without that node is as ready as those who come to it.
#[test]
fn a_newcomer_that_takes_another_in_is_ready_like_that_one() {
    let dirs = tempfile::tempdir().unwrap();
    let first = Node::start(&dirs.path().join("a"), &["127.0.0.1:1"]);
    let second = Node::start(&dirs.path().join("b"), &[&first.address.to_string()]);
    for node in [&second, &first] {
        wait_until(SETTLED, &format!("{} is ready", node.address), || {
            node.request("GET", "/ready", "").status == 200
        });
        assert_eq!(put(node, "k?w=all", "x").status / 100, 2);
    }
}

/// A member is told to join by the address of a node that is a cluster by itself, as by a slip of the hand.
#[test]
fn a_node_with_data_goes_nowhere_by_the_word_of_another() {
    let mut cluster = Cluster::start(2);
    let lone = Node::start(&cluster.dir(9), &[]);
    let itself = get(lone.address, "/membership")["cluster"].clone();
    put(&lone, "own", "x");
    put(cluster.node(0), "theirs?w=2", "y");
    cluster.kill(1);
    let address = lone.address.to_string();
    cluster.nodes[1] = Some(Node::start(&cluster.dir(1), &[&address]));
    wait_until(SETTLED, "it is refused", || {
        cluster.node(1).log().contains("it has data of its own, and was told to join nobody")
    });
    cluster.settle();
    let told = get(lone.address, "/membership");
    assert_eq!((&told["cluster"], told["members"].as_array().unwrap().len()), (&itself, 1));
    assert_eq!(lone.request("GET", "/key/theirs", "").status, 404);
    // As the refusal says.
    assert_eq!(lone.stop().code(), Some(0));
    let lone = Node::start(&cluster.dir(9), &[&cluster.node(1).address.to_string()]);
    cluster.nodes.push(Some(lone));
    cluster.settle();
    cluster.shows(&[("own", "x"), ("theirs", "y")]);
}

/// Two leave at once, each the last that the other knew; nobody is told whom to join when they are started again.
#[test]
fn two_that_left_each_other_find_each_other_again() {
    let dirs = tempfile::tempdir().unwrap();
    let addresses = [free_address().to_string(), free_address().to_string()];
    let start = |number: usize, join: &[&str]| {
        let mut command = std::process::Command::new(crate::support::binary());
        command.arg(&addresses[number]).args(join).arg("--leave-on-exit");
        command.arg("--data-dir").arg(dirs.path().join(number.to_string()));
        Node::launch(command).unwrap_or_else(|log| panic!("node {number}: {log}"))
    };
    let mut nodes = vec![start(0, &[]), start(1, &[&addresses[0]])];
    for round in 0..3 {
        let key = format!("k{round}?w=2");
        wait_until(SETTLED, &format!("round {round}: they are two"), || {
            put(&nodes[0], &key, "x").status != 202 && put(&nodes[1], &key, "x").status != 202
        });
        let stopping: Vec<_> = nodes.drain(..).map(|node| std::thread::spawn(move || node.stop())).collect();
        stopping.into_iter().for_each(|stopping| assert_eq!(stopping.join().unwrap().code(), Some(0)));
        nodes = vec![start(0, &[]), start(1, &[])];
    }
    for known in 0..3 {
        nodes.iter().for_each(|node| shows(node, &format!("k{known}"), Some("x")));
    }
}

/// A node by itself that is moved is another node, and still by itself.
#[test]
fn a_copy_of_a_single_node_is_a_single_node() {
    let dirs = tempfile::tempdir().unwrap();
    let [from, to] = ["a", "b"].map(|name| dirs.path().join(name));
    let node = Node::start(&from, &[]);
    put(&node, "k", "x");
    let old = id(&node);
    assert_eq!(node.stop().code(), Some(0));
    copy(&from, &to);
    let node = Node::start(&to, &[]);
    let members = get(node.address, "/membership")["members"].as_array().unwrap().len();
    assert_eq!((members, id(&node) != old), (1, true));
    assert_eq!(put(&node, "l?w=all", "y").status, 201);
    shows(&node, "k", Some("x"));
    let new = id(&node);
    assert_eq!(node.stop().code(), Some(0));
    assert_eq!(id(&Node::start(&to, &[])), new, "it stays who it is");
}

/// A node that belongs nowhere asks nobody what it wrote before: its copy must not write under its name.
#[test]
fn a_copy_of_a_node_that_left_is_another_node() {
    let mut cluster = Cluster::each(2, |_| vec!["--leave-on-exit".to_owned()]);
    cluster.up(0);
    cluster.up(1);
    cluster.settle();
    put(cluster.node(1), "k?w=2", "x");
    let old = id(cluster.node(1));
    assert_eq!(cluster.nodes[1].take().unwrap().stop().code(), Some(0));
    let twin = cluster.dir(1).with_extension("copy");
    copy(&cluster.dir(1), &twin);
    cluster.up(1);
    cluster.nodes.push(Some(Node::start(&twin, &[])));
    cluster.settle();
    assert_eq!(id(cluster.node(1)), old);
    assert_ne!(id(cluster.node(2)), old);
    for (number, key) in [(1, "original"), (2, "copy")] {
        put(cluster.node(number), &format!("{key}?w=3"), "y");
    }
    cluster.settle();
    for node in cluster.alive() {
        ["original", "copy"].iter().for_each(|key| shows(node, key, Some("y")));
    }
}

/// The member that took a newcomer in is gone before the others hear of it.
#[test]
fn a_newcomer_whose_sponsor_dies_is_taken_in_by_another() {
    comes_in_by_a_sponsor_that_dies(None);
}

/// One that has something of its own is ready all the time, and must get in all the same.
#[test]
fn a_newcomer_with_data_whose_sponsor_dies_is_taken_in_by_another() {
    comes_in_by_a_sponsor_that_dies(Some("own"));
}

fn comes_in_by_a_sponsor_that_dies(own: Option<&str>) {
    let (mut cluster, line) = with_one_behind_a_line();
    put(cluster.node(0), "k?w=2", "x");
    if let Some(key) = own {
        let alone = Node::start(&cluster.dir(2), &[]);
        put(&alone, key, "z");
        assert_eq!(alone.stop().code(), Some(0));
    }
    line.set(Line::Dead);
    let sponsor = cluster.node(0).address.to_string();
    cluster.nodes[2] = Some(Node::start(&cluster.dir(2), &[&sponsor]));
    wait_until(SOON, "it is taken in", || cluster.node(2).log().contains("joined cluster"));
    cluster.kill(0);
    line.set(Line::Good);
    let ready = || cluster.node(2).request("GET", "/ready", "").status == 200;
    let mut written = 0;
    wait_until(SETTLED, "it is a member everywhere", || {
        // Its clients do not stop for that.
        written += 1;
        put(cluster.node(2), &format!("n{written}"), "y");
        assert!(own.is_none() || ready());
        state(cluster.node(1), &id(cluster.node(2))) == "alive"
            && state(cluster.node(2), &id(cluster.node(1))) == "alive"
    });
    wait_until(SETTLED, "it is ready", ready);
    shows(cluster.node(2), "k", Some("x"));
    own.iter().for_each(|key| shows(cluster.node(1), key, Some("z")));
    assert_eq!(put(cluster.node(2), "l?w=2", "y").status, 201);
}

/// Each is told of the one before it, which is new itself and may not even answer yet: they wait for each other.
#[test]
fn a_chain_of_new_nodes_started_at_once_becomes_one_cluster() {
    const COUNT: usize = 8;
    for round in 0..2 {
        let dirs = tempfile::tempdir().unwrap();
        let addresses: Vec<String> = (0..COUNT).map(|_| free_address().to_string()).collect();
        let start = |number: usize| {
            let mut command = std::process::Command::new(crate::support::binary());
            command.arg(&addresses[number]).args(number.checked_sub(1).map(|before| &addresses[before]));
            command.arg("--data-dir").arg(dirs.path().join(number.to_string()));
            Node::launch(command).expect("it serves")
        };
        let start = &start;
        let nodes: Vec<Node> = std::thread::scope(|scope| {
            // The last first: nobody finds the one that it is told of.
            let starts: Vec<_> = (0..COUNT).rev().map(|number| scope.spawn(move || start(number))).collect();
            starts.into_iter().map(|start| start.join().unwrap()).collect()
        });
        for node in &nodes {
            wait_until(
                SETTLED,
                &format!("round {round}: {} knows all\n{}", node.address, node.log()),
                || {
                    get(node.address, "/membership")["members"].as_array().unwrap().len() == COUNT
                        && node.request("GET", "/ready", "").status == 200
                },
            );
        }
    }
}
