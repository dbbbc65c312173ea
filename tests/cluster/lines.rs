//! Bad lines between nodes: slow, trickling, reset, silent, dead. The nodes go on, nothing is lost, and once the lines are
//! good all hold the same.

use crate::cluster::{Cluster, SETTLED, id, put, shows, state};
use crate::load::{Durable, Load, Random};
use crate::proxy::{Line, Proxy};
use crate::support::wait_until;
use std::time::{Duration, Instant};

/// Nodes that reach each other by proxies only.
fn cluster(count: usize) -> (Cluster, Vec<Proxy>) {
    let proxies: Vec<Proxy> = (0..count).map(|_| Proxy::start()).collect();
    let addresses: Vec<String> = proxies.iter().map(|proxy| proxy.address.to_string()).collect();
    let mut cluster =
        Cluster::each(count, move |number| vec!["--advertise".into(), addresses[number].clone()]);
    for (number, proxy) in proxies.iter().enumerate() {
        cluster.up(number);
        proxy.leads_to(cluster.node(number).address);
    }
    cluster.settle();
    (cluster, proxies)
}

#[test]
fn bad_lines_lose_nothing() {
    let mut random = Random::seeded();
    let (cluster, proxies) = cluster(3);
    let load = Load::start(&cluster, Durable::OneDisk, &mut random);
    for _ in 0..12 {
        for proxy in &proxies {
            let line = match random.below(8) {
                0 => Line::Slow(Duration::from_millis(random.below(300))),
                1 => Line::Drops(1 + random.below(200) as usize),
                2 => Line::Resets(random.below(20_000) as usize),
                3 => Line::Silent,
                4 => Line::Dead,
                _ => Line::Good,
            };
            proxy.set(line);
        }
        random.pause(200, 1_200);
    }
    proxies.iter().for_each(|proxy| proxy.set(Line::Good));
    load.judge(&cluster);
}

/// What a node says by its answers overtakes the pieces of a sweep that it made before: nobody may take it for one that was set
/// back, and have it begin anew.
#[test]
fn a_newcomer_is_sent_everything_once_while_clients_write() {
    let proxies = [Proxy::start(), Proxy::start()];
    let addresses = [proxies[0].address.to_string(), proxies[1].address.to_string()];
    let mut cluster = Cluster::each(2, move |number| vec!["--advertise".into(), addresses[number].clone()]);
    cluster.up(0);
    proxies[0].leads_to(cluster.node(0).address);
    // Some pieces, each of which takes a while.
    let value = "x".repeat(10_000);
    for n in 0..800 {
        assert_eq!(put(cluster.node(0), &format!("large{n}"), &value).status, 201);
    }
    proxies[1].set(Line::Slow(Duration::from_millis(30)));
    cluster.up(1);
    proxies[1].leads_to(cluster.node(1).address);
    let sweeps = || cluster.node(0).log().matches("it is sent everything").count();
    let (before, mut written) = (sweeps(), 0);
    wait_until(SETTLED, "it has arrived", || {
        written += 1;
        assert!(matches!(put(cluster.node(0), &format!("small{}", written % 8), "x").status, 200 | 201));
        cluster.node(1).request("GET", "/ready", "").status == 200
    });
    assert!(written > 100, "only {written} writes meanwhile: nothing is shown");
    assert!(sweeps() - before <= 1, "{}", cluster.node(0).log());
    proxies[1].set(Line::Good);
    cluster.settle();
}

/// A member hears of a write from the one that took it, and not from each other member that has it too: or a write would
/// cost as many messages as there are pairs of members.
#[test]
fn a_write_is_one_message_to_each_member() {
    const WRITES: usize = 300;
    let (cluster, proxies) = cluster(3);
    let (before, begun) = (proxies[2].messages(), Instant::now());
    for n in 0..WRITES {
        assert_eq!(put(cluster.node(0), &format!("k{n}?w=3"), "x").status, 201);
    }
    let messages = proxies[2].messages() - before;
    assert!(messages >= WRITES, "{messages} messages: not all came by the door that counts");
    // Who is alive, and what each has, is told beside: some messages a second.
    let beside = WRITES / 4 + 8 * begun.elapsed().as_secs() as usize;
    assert!(messages < WRITES + beside, "{messages} messages for {WRITES} writes");
}

/// A member behind a line that gives a byte now and then, or nothing at all, costs the others' writers nothing.
#[test]
fn a_bad_line_to_one_holds_nobody_up() {
    let (cluster, proxies) = cluster(3);
    let median = |label: &str| {
        let mut client = crate::support::Client::new(cluster.node(0).address);
        let mut took: Vec<Duration> = (0..300)
            .map(|n| {
                let begun = Instant::now();
                let answer = client.request("PUT", &format!("/key/{label}{n}"), &[], b"{\"value\": \"1\"}");
                assert_eq!(answer.expect("an answer").status, 201);
                begun.elapsed()
            })
            .collect();
        took.sort();
        took[150]
    };
    let good = median("good");
    for line in [Line::Drops(1), Line::Silent, Line::Slow(Duration::from_secs(1))] {
        proxies[2].set(line);
        let bad = median(&format!("{line:?}"));
        assert!(
            bad < good * 4 + Duration::from_millis(5),
            "{good:?} on good lines, {bad:?} with one {line:?}"
        );
        shows(cluster.node(1), &format!("{line:?}299"), Some("1"));
        proxies[2].set(Line::Good);
    }
    cluster.settle();
}

/// Nobody reaches it; it reaches all. What it writes gets out, and it is brought what it lacks once there is a way in.
#[test]
fn a_member_that_nobody_reaches_still_tells() {
    let (cluster, proxies) = cluster(3);
    let deaf = id(cluster.node(2));
    proxies[2].set(Line::Dead);
    put(cluster.node(2), "from-the-deaf", "x");
    shows(cluster.node(0), "from-the-deaf", Some("x"));
    put(cluster.node(0), "to-the-deaf", "y");
    shows(cluster.node(1), "to-the-deaf", Some("y"));
    wait_until(SETTLED, "it is not taken for well", || state(cluster.node(0), &deaf) != "alive");
    assert_eq!(cluster.node(2).request("GET", "/key/to-the-deaf", "").status, 404, "the line is not dead");
    proxies[2].set(Line::Good);
    shows(cluster.node(2), "to-the-deaf", Some("y"));
    cluster.settle();
}
