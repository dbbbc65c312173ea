//! Evictions: they win against whatever is written at the same time of the same membership, all come to show the same without a
//! restart, and who was evicted is told.

use crate::cluster::{Cluster, SETTLED, get, id, put, shows, state};
use crate::departures::with_one_behind_a_line;
use crate::load::Random;
use crate::proxy::{Line, Proxy};
use crate::support::{Node, SOON, wait_until};
use std::collections::BTreeSet;
use std::process::Command;
use std::thread::scope;
use std::time::{Duration, Instant};

pub fn evict(at: &Node, whom: &str) {
    let answer = at.request("DELETE", &format!("/membership/{whom}"), "");
    assert_eq!(answer.status, 200, "{}", answer.text());
}

/// The ids in a node's list of members.
fn roster(node: &Node) -> BTreeSet<String> {
    let members = get(node.address, "/membership")["members"].as_array().expect("members").clone();
    members.iter().map(|member| member["id"].as_str().expect("an id").to_owned()).collect()
}

fn address_of(node: &Node, id: &str) -> Option<String> {
    let members = get(node.address, "/membership")["members"].as_array().expect("members").clone();
    let member = members.into_iter().find(|member| member["id"] == id)?;
    member["address"].as_str().map(str::to_owned)
}

/// Waits until all of these show the same members.
fn all_show(nodes: &[&Node], expected: &BTreeSet<String>) {
    let seen = std::cell::RefCell::new(Vec::new());
    let same = || {
        *seen.borrow_mut() = nodes.iter().map(|node| roster(node)).collect();
        seen.borrow().iter().all(|its| its == expected)
    };
    let deadline = Instant::now() + SETTLED;
    while !same() {
        let logs = || nodes.iter().map(|node| node.log()).collect::<Vec<_>>().join("\n---\n");
        assert!(
            Instant::now() < deadline,
            "expected {expected:?}, they show {:?}\n{}",
            seen.borrow(),
            logs()
        );
        std::thread::sleep(Duration::from_millis(20));
    }
}

fn ids(nodes: &[&Node]) -> BTreeSet<String> {
    nodes.iter().map(|node| id(node)).collect()
}

/// Who was evicted and told says what to do.
fn tells_that_it_is_out(node: &Node) {
    let trouble = get(node.address, "/membership")["trouble"].clone();
    assert!(trouble.as_str().is_some_and(|trouble| trouble.contains("evicted")), "{trouble}");
    wait_until(SOON, "its log says so", || node.log().contains("WARN  this node was evicted"));
    let answer = node.request("DELETE", "/membership/0000000000000001", "");
    assert!(matches!(answer.status, 404 | 409), "{}", answer.text());
}

/// Three nodes; the evictor, which is the second, can be reached by its line only, and does not see the third move.
fn moved_unseen(cluster: &mut Cluster, line: &Proxy) -> String {
    cluster.up(2);
    cluster.settle();
    let moved = id(cluster.node(2));
    let before = address_of(cluster.node(1), &moved).expect("a member");
    line.set(Line::Dead);
    cluster.kill(2);
    let sponsor = cluster.node(0).address.to_string();
    cluster.nodes[2] = Some(Node::start(&cluster.dir(2), &[&sponsor]));
    let now = cluster.node(2).address.to_string();
    wait_until(SETTLED, "the sponsor knows the new address", || {
        address_of(cluster.node(0), &moved).as_ref() == Some(&now)
    });
    assert_eq!(address_of(cluster.node(1), &moved), Some(before), "the evictor does not");
    moved
}

/// The record of the new address was written beside the eviction.
#[test]
fn an_eviction_wins_against_a_changed_address() {
    let (mut cluster, line) = with_one_behind_a_line();
    let moved = moved_unseen(&mut cluster, &line);
    evict(cluster.node(1), &moved);
    line.set(Line::Good);
    let stay = [cluster.node(0), cluster.node(1)];
    // What either does last, both have.
    for (number, node) in stay.iter().enumerate() {
        assert_eq!(put(node, &format!("k{number}?w=2"), "x").status, 201);
    }
    all_show(&stay, &ids(&stay));
    wait_until(SETTLED, "it knows", || state(cluster.node(2), &moved) == "none");
    tells_that_it_is_out(cluster.node(2));
    // And once more when it is started again, as one that is taken in.
    cluster.kill(2);
    cluster.up(2);
    cluster.settle();
}

/// It was down when it was evicted, by one that is down when it comes back; and it brings in a new node, which knows nothing.
#[test]
fn an_eviction_outlasts_that_the_evicted_takes_in_a_new_node() {
    let mut cluster = Cluster::start(3);
    let evicted = id(cluster.node(1));
    let joined = |node: &Node| get(node.address, &format!("/membership/{evicted}"))["joined_at"].clone();
    let since = joined(cluster.node(0));
    cluster.kill(1);
    cluster.kill(2);
    evict(cluster.node(0), &evicted);
    cluster.kill(0);
    let new = Node::start(&cluster.dir(3), &[]);
    let by = new.address.to_string();
    cluster.nodes[1] = Some(Node::start(&cluster.dir(1), &[&by]));
    wait_until(SETTLED, "the new node came over", || roster(&new).len() == 4);
    wait_until(SETTLED, "it knows the other", || state(&new, &evicted) == "alive");
    assert_eq!(joined(&new), since, "its membership has not begun anew");
    cluster.nodes[2] = Some(Node::start(&cluster.dir(2), &[&by]));
    wait_until(SETTLED, "a member that does not know either", || state(cluster.node(2), &evicted) == "alive");
    let by = cluster.node(2).address.to_string();
    cluster.nodes[0] = Some(Node::start(&cluster.dir(0), &[&by]));
    let stay = [cluster.node(0), cluster.node(2), &new];
    all_show(&stay, &ids(&stay));
    wait_until(SETTLED, "it knows", || state(cluster.node(1), &evicted) == "none");
    tells_that_it_is_out(cluster.node(1));
}

/// What joins by a node that was evicted, and does not know it, is in all the same.
#[test]
fn who_comes_in_by_an_evicted_node_is_a_member() {
    let (mut cluster, line) = with_one_behind_a_line();
    let sponsor = id(cluster.node(1));
    line.set(Line::Dead);
    evict(cluster.node(0), &sponsor);
    let by = cluster.node(1).address.to_string();
    cluster.nodes[2] = Some(Node::start(&cluster.dir(2), &[&by]));
    wait_until(SOON, "it is taken in", || cluster.node(2).log().contains("joined cluster"));
    let stay = [cluster.node(0), cluster.node(2)];
    all_show(&stay, &ids(&stay));
    put(stay[0], "k", "x");
    shows(stay[1], "k", Some("x"));
    // The one that was evicted can't be told, and asks.
    wait_until(SETTLED, "it knows", || state(cluster.node(1), &sponsor) == "none");
    tells_that_it_is_out(cluster.node(1));
}

/// Of three, two evict each other at once. One may be out before its own eviction of the other has reached anybody: that comes
/// along when it is started again.
#[test]
fn two_that_evict_each_other_end_with_one_list_everywhere() {
    let mut cluster = Cluster::start(3);
    let whom = [id(cluster.node(0)), id(cluster.node(1))];
    scope(|threads| {
        for (from, to) in [(0, 1), (1, 0)] {
            let (node, whom) = (cluster.node(from), &whom[to]);
            // The second may come too late.
            threads.spawn(move || node.request("DELETE", &format!("/membership/{whom}"), ""));
        }
    });
    let is_in = |cluster: &Cluster, number: usize| roster(cluster.node(2)).contains(&whom[number]);
    let agree = |cluster: &Cluster| {
        let left = roster(cluster.node(2));
        let agrees = |number: usize| match left.contains(&whom[number]) {
            true => roster(cluster.node(number)) == left,
            false => !roster(cluster.node(number)).contains(&whom[number]),
        };
        agrees(0) && agrees(1)
    };
    wait_until(SETTLED, "somebody is out, and all agree", || {
        !(is_in(&cluster, 0) && is_in(&cluster, 1)) && agree(&cluster)
    });
    for _ in 0..2 {
        for number in 0..2 {
            if !is_in(&cluster, number) {
                cluster.kill(number);
                cluster.up(number);
            }
        }
        wait_until(SETTLED, "all agree again", || agree(&cluster));
    }
    cluster.settle();
}

/// The evictor ends as soon as it has answered; two of them, so that nobody else can know.
#[test]
fn an_evictor_that_dies_after_its_answer_tells_when_it_is_back() {
    let mut cluster = Cluster::start(2);
    let (address, evicted) = (cluster.node(0).address.to_string(), id(cluster.node(1)));
    // It does not hear of it at once.
    cluster.node(1).signal(libc::SIGSTOP);
    evict(cluster.node(0), &evicted);
    cluster.kill(0);
    cluster.node(1).signal(libc::SIGCONT);
    let mut command = Command::new(crate::support::binary());
    command.arg(&address).arg("--data-dir").arg(cluster.dir(0));
    cluster.nodes[0] = Some(Node::launch(command).expect("it serves"));
    wait_until(SETTLED, "it knows", || state(cluster.node(1), &evicted) == "none");
    tells_that_it_is_out(cluster.node(1));
    all_show(&[cluster.node(0)], &ids(&[cluster.node(0)]));
}

/// It moves while it is cut off, and is evicted meanwhile: its own record of that is one that nobody else has seen, not even
/// when nothing is left of the eviction. It is in when it is taken in again, and out when it is evicted again.
#[test]
fn an_evicted_node_that_moved_alone_is_out_until_it_is_taken_in() {
    let mut cluster = Cluster::start(3);
    let moved = id(cluster.node(2));
    let addresses: Vec<String> = (0..2).map(|number| cluster.node(number).address.to_string()).collect();
    for number in 0..3 {
        cluster.kill(number);
    }
    // It is up under another address while nobody else is.
    cluster.up_untold(2);
    cluster.kill(2);
    for (number, address) in addresses.iter().enumerate() {
        let mut command = Command::new(crate::support::binary());
        command.arg(address).arg("--data-dir").arg(cluster.dir(number));
        cluster.nodes[number] = Some(Node::launch(command).expect("it serves"));
    }
    evict(cluster.node(0), &moved);
    let stay = [cluster.node(0), cluster.node(1)];
    all_show(&stay, &ids(&stay));
    cluster.up_untold(2);
    cluster.settle();
    evict(cluster.node(1), &moved);
    let stay = [cluster.node(0), cluster.node(1)];
    all_show(&stay, &ids(&stay));
    wait_until(SETTLED, "it knows", || state(cluster.node(2), &moved) == "none");
}

/// A node leaves while somebody who does not know that evicts it.
#[test]
fn an_eviction_beside_a_leave_ends_the_membership_once() {
    let (mut cluster, line) = with_one_behind_a_line();
    cluster.up(2);
    cluster.settle();
    let leaver = id(cluster.node(2));
    line.set(Line::Dead);
    let answer = cluster.node(2).request("POST", "/cluster/leave", "");
    assert_eq!(answer.status, 200, "{}", answer.text());
    cluster.kill(2);
    evict(cluster.node(1), &leaver);
    line.set(Line::Good);
    let stay = [cluster.node(0), cluster.node(1)];
    all_show(&stay, &ids(&stay));
    cluster.up(2);
    cluster.settle();
    assert_eq!(id(cluster.node(2)), leaver);
}

/// The evictor was started to join by the one that it evicts, and asks it as soon as it can be reached, before it is told.
#[test]
fn who_evicts_the_one_that_it_joins_by_does_not_take_it_back() {
    let (mut cluster, line) = with_one_behind_a_line();
    let evicted = id(cluster.node(1));
    line.set(Line::Dead);
    cluster.kill(0);
    cluster.nodes[0] = Some(Node::start(&cluster.dir(0), &[&line.address.to_string()]));
    evict(cluster.node(0), &evicted);
    line.set(Line::Good);
    wait_until(SETTLED, "it knows", || state(cluster.node(1), &evicted) == "none");
    tells_that_it_is_out(cluster.node(1));
    all_show(&[cluster.node(0)], &ids(&[cluster.node(0)]));
}

/// Some rounds in which nodes come by any that is up, and are evicted as soon as they are in, and new ones come by those.
#[test]
fn a_storm_of_evictions_and_joins_ends_with_one_list_everywhere() {
    let mut random = Random::seeded();
    let mut cluster = Cluster::each(6, |_| Vec::new());
    cluster.up(0);
    cluster.up(1);
    cluster.settle();
    for round in 0..rounds() {
        for victim in 2..6 {
            cluster.up(victim);
        }
        let newcomers = tempfile::tempdir().expect("a directory");
        let helper = cluster.node(1).address.to_string();
        let came: Vec<Node> = scope(|threads| {
            let coming: Vec<_> = (2..6)
                .map(|number| {
                    let (victim, evictor) = (cluster.node(number), cluster.node(random.below(2) as usize));
                    let (pause, dir) = (random.below(60), newcomers.path().join(number.to_string()));
                    let by = [victim.address.to_string(), helper.clone()];
                    threads.spawn(move || {
                        wait_until(SOON, "it is in", || victim.log().contains("joined cluster"));
                        scope(|threads| {
                            threads.spawn(|| evicts_after(evictor, victim, Duration::from_millis(pause)));
                            Node::start(&dir, &[&by[0], &by[1]])
                        })
                    })
                })
                .collect();
            coming.into_iter().map(|coming| coming.join().expect("it came")).collect()
        });
        let mut stay = vec![cluster.node(0), cluster.node(1)];
        stay.extend(&came);
        println!("round {round}");
        all_show(&stay, &ids(&stay));
        for victim in 2..6 {
            let its = id(cluster.node(victim));
            wait_until(SETTLED, "it knows", || state(cluster.node(victim), &its) == "none");
        }
        // They go for good, and the victims come back, under other addresses.
        for newcomer in came {
            let whom = id(&newcomer);
            newcomer.kill();
            evict(cluster.node(random.below(2) as usize), &whom);
        }
        (2..6).for_each(|victim| cluster.kill(victim));
    }
    cluster.settle();
}

fn evicts_after(evictor: &Node, victim: &Node, pause: Duration) {
    std::thread::sleep(pause);
    let whom = format!("/membership/{}", id(victim));
    wait_until(SOON, "its evictor knows it", || evictor.request("DELETE", &whom, "").status == 200);
}

fn rounds() -> u64 {
    std::env::var("DYNARUST_STORMS").map_or(4, |n| n.parse().expect("DYNARUST_STORMS is a number"))
}
