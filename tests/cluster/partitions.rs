//! Networks that are cut: in two, in one direction, at one host. Every side goes on, and afterwards all hold the same.

use crate::cluster::{Cluster, SETTLED, get, id, put, shows, skipped, state};
use crate::hosts::Hosts;
use crate::load::{Durable, Load, Random};
use crate::support::wait_until;

/// A cluster over hosts of its own; `None` when the machine has none, which is said.
fn cluster(count: usize) -> Option<(Hosts, Cluster)> {
    let hosts = match Hosts::new(count) {
        Ok(hosts) => hosts,
        Err(why) => {
            skipped(&format!("partitions of {count} hosts"), &why);
            return None;
        }
    };
    let mut cluster = Cluster::each(count, |_| Vec::new()).run_by(hosts.command());
    (0..count).for_each(|number| cluster.up(number));
    cluster.settle();
    Some((hosts, cluster))
}

/// Cuts all ways from the first to the second, as one mask of hosts each.
fn cut(hosts: &Hosts, count: usize, from: u64, to: u64) {
    let of = |mask: u64| (0..count).filter(move |number| mask >> number & 1 == 1);
    for a in of(from) {
        of(to).for_each(|b| hosts.cut(a, b));
    }
}

#[test]
fn partitions_lose_nothing() {
    let mut random = Random::seeded();
    const COUNT: usize = 5;
    let Some((hosts, cluster)) = cluster(COUNT) else { return };
    let load = Load::start(&cluster, Durable::OneDisk, &mut random);
    for _ in 0..8 {
        let side = 1 + random.below((1 << COUNT) - 2);
        let other = !side & ((1 << COUNT) - 1);
        cut(&hosts, COUNT, side, other);
        if random.below(2) == 0 {
            cut(&hosts, COUNT, other, side);
        }
        random.pause(300, 4_000);
        hosts.heal();
        random.pause(0, 1_000);
    }
    let logs = load.judge(&cluster);
    // The log has all that was lacking. A sweep reads every key, and one that caused others would never end under load.
    let sweeps = logs.matches("lacks more than the log has").count();
    assert!(sweeps <= 2 * COUNT, "{sweeps} sweeps: who joined needed them, and nobody else");
}

#[test]
fn both_sides_go_on_and_know_of_each_other() {
    let Some((hosts, cluster)) = cluster(3) else { return };
    put(cluster.node(0), "k?w=3", "before");
    cut(&hosts, 3, 0b100, 0b011);
    cut(&hosts, 3, 0b011, 0b100);
    let ids: Vec<String> = cluster.alive().map(id).collect();
    assert_eq!(put(cluster.node(0), "k?w=2", "many").status, 200, "two of three are together");
    assert_eq!(put(cluster.node(2), "k", "one").status, 200, "one alone takes writes");
    let alone = put(cluster.node(2), "alone?w=majority&timeout_ms=300", "x");
    assert_eq!((alone.status, &alone.json()["replicas"]), (202, &1.into()), "and says who has them");
    wait_until(SETTLED, "each side calls the other down", || {
        state(cluster.node(0), &ids[2]) == "down"
            && state(cluster.node(1), &ids[2]) == "down"
            && state(cluster.node(2), &ids[0]) == "down"
            && state(cluster.node(2), &ids[1]) == "down"
    });
    assert_eq!(state(cluster.node(0), &ids[1]), "alive");
    let behind = get(cluster.node(2).address, &format!("/membership/{}", ids[0]));
    assert!(behind["holds_forgetting_since"].is_string() && behind["trouble"].is_string(), "{behind}");
    hosts.heal();
    cluster.settle();
    for node in cluster.alive() {
        let both = node.request("GET", "/key/k", "").json();
        assert_eq!(both["conflicts"].as_array().map(Vec::len), Some(1), "{both}");
        shows(node, "alone", Some("x"));
        wait_until(SETTLED, "forgetting waits for nobody", || {
            let membership = get(node.address, "/membership");
            let members = membership["members"].as_array().expect("members").clone();
            members.iter().all(|member| member["holds_forgetting_since"].is_null())
        });
    }
}

/// Two that can't talk in one direction are told by the third, and nobody is called down.
#[test]
fn a_one_way_cut_is_bridged_by_others() {
    let Some((hosts, cluster)) = cluster(3) else { return };
    hosts.cut(0, 1);
    put(cluster.node(0), "there", "x");
    shows(cluster.node(1), "there", Some("x"));
    put(cluster.node(1), "back", "y");
    shows(cluster.node(0), "back", Some("y"));
    let ids: Vec<String> = cluster.alive().map(id).collect();
    for node in cluster.alive() {
        ids.iter().for_each(|id| assert_ne!(state(node, id), "down"));
    }
    hosts.heal();
    cluster.settle();
}

#[test]
fn a_pulled_cable_is_noticed_and_forgiven() {
    let Some((hosts, cluster)) = cluster(3) else { return };
    let away = id(cluster.node(2));
    hosts.link(2, false);
    wait_until(SETTLED, "it is down", || state(cluster.node(0), &away) == "down");
    assert_eq!(put(cluster.node(0), "k", "x").status, 201);
    hosts.link(2, true);
    shows(cluster.node(2), "k", Some("x"));
    cluster.settle();
}
