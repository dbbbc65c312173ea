//! What a client is told about copies: `?w=`, receipts, lag.

use crate::cluster::{Cluster, SETTLED, get, id, put, shows};
use crate::support::{Client, SOON, wait_until};
use dynarust::limits::{FRAME_EVENTS_MAX, SWEEP_RATHER_EVENTS};
use std::time::{Duration, Instant};

#[test]
fn w_waits_for_copies_and_says_who_has_them() {
    let cluster = Cluster::start(3);
    for (w, replicas) in [("1", 1), ("2", 2), ("3", 3), ("majority", 2), ("all", 3)] {
        let answer = put(cluster.node(0), &format!("key-{w}?w={w}"), w);
        assert_eq!(answer.status, 201, "w={w}: {}", answer.text());
        assert!(answer.json()["replicas"].as_u64().unwrap() >= replicas, "w={w}: {}", answer.text());
        let gone = cluster.node(0).request("DELETE", &format!("/key/key-{w}?w={w}"), "");
        assert!(gone.json()["replicas"].as_u64().unwrap() >= replicas, "w={w}: {}", gone.text());
        let version = answer.json()["version"].as_str().unwrap().to_owned();
        // A receipt, asked later and from anybody.
        for node in cluster.alive() {
            wait_until(SETTLED, "all have it", || {
                get(node.address, &format!("/replication/{version}"))["replicas"] == 3
            });
        }
    }
    let stopped = id(cluster.node(2));
    cluster.node(2).signal(libc::SIGSTOP);
    let begun = Instant::now();
    let answer = put(cluster.node(0), "k?w=all&timeout_ms=700", "x");
    assert!(begun.elapsed() >= Duration::from_millis(700));
    assert_eq!(answer.status, 202, "{}", answer.text());
    assert_eq!(answer.json()["replicas"], 2);
    let held = answer.json()["held_by"].as_array().unwrap().clone();
    assert!(held.len() == 2 && !held.contains(&stopped.as_str().into()), "{}", answer.text());
    let begun = Instant::now();
    assert_eq!(put(cluster.node(0), "k?w=3", "x").status, 202);
    let took = begun.elapsed();
    assert!((Duration::from_secs(5)..Duration::from_secs(15)).contains(&took), "by default: {took:?}");
    // Of a fourth there is no hope.
    let begun = Instant::now();
    assert_eq!(put(cluster.node(0), "k?w=4&timeout_ms=600000", "x").status, 202);
    assert!(begun.elapsed() < Duration::from_secs(4), "{:?}", begun.elapsed());
    assert_eq!(put(cluster.node(0), "k?w=majority", "y").status, 200, "two of three are a majority");
    cluster.node(2).signal(libc::SIGCONT);
    shows(cluster.node(2), "k", Some("y"));
    assert_eq!(put(cluster.node(0), "k?w=all", "z").status, 200);
}

#[test]
fn a_session_reads_its_own_writes_everywhere() {
    let cluster = Cluster::start(3);
    let mut session = String::new();
    for n in 0..60 {
        let (writer, reader) = (cluster.node(n % 3), cluster.node((n + 1) % 3));
        let headers = |session: &str| [("Session-Token", session.to_owned())];
        let send = |method: &str, body: &str, session: &str, node: &crate::support::Node| {
            let held = headers(session);
            let held: Vec<(&str, &str)> = held.iter().map(|(name, value)| (*name, value.as_str())).collect();
            let sent = if session.is_empty() { &[][..] } else { &held[..] };
            let answer = node.request_with(method, "/key/s", sent, body.as_bytes());
            let token = answer.header("session-token").expect("every answer has one").to_owned();
            (answer, token)
        };
        let (written, token) = send("PUT", &format!("{{\"value\": {n}}}"), &session, writer);
        assert!(matches!(written.status, 200 | 201), "{}", written.text());
        let (read, token) = send("GET", "", &token, reader);
        assert_eq!(read.json()["value"], n as u64);
        // The next write replaces it, wherever it goes: no siblings in a session.
        assert!(read.json()["conflicts"].is_null(), "{}", read.text());
        session = token;
        if n % 10 == 9 {
            let (deleted, token) = send("DELETE", "", &session, reader);
            assert_eq!(deleted.status, 200, "{}", deleted.text());
            let (missing, token) = send("GET", "", &token, writer);
            assert_eq!(missing.status, 404);
            session = token;
        }
    }
    let ahead = format!("{}-999999999", id(cluster.node(0)));
    let behind = [("Session-Token", ahead.as_str())];
    for (method, path) in [("GET", "/key/s?timeout_ms=50"), ("PUT", "/key/s?timeout_ms=50")] {
        let answer = cluster.node(1).request_with(method, path, &behind, b"{\"value\": 1}");
        assert_eq!(answer.status, 504, "{}", answer.text());
        assert_eq!(answer.json()["type"], "urn:dynarust:problem:behind");
    }
    // What somebody took along who is no member will never come.
    let lost = [("Session-Token", "00000000000000aa-7")];
    let answer = cluster.node(1).request_with("GET", "/key/s?timeout_ms=50", &lost, b"");
    let told = answer.json()["detail"].as_str().unwrap().contains("00000000000000aa, which is no member");
    assert_eq!((answer.status, told), (504, true), "{}", answer.text());
    let asked =
        |token| cluster.node(1).request_with("GET", "/key/s", &[("Session-Token", token)], b"").status;
    for wrong in ["x", "0000000000000001-1.."] {
        assert_eq!(asked(wrong), 400, "{wrong:?}");
    }
    assert_eq!(asked(""), 404, "a node that has nothing yet says so");
}

/// The word of another member may come long after a node that is told to stop has gone.
#[test]
fn who_waits_for_others_is_answered_when_the_node_stops() {
    let mut cluster = Cluster::start(2);
    let (first, second) = (id(cluster.node(0)), id(cluster.node(1)));
    cluster.node(1).signal(libc::SIGSTOP);
    let address = cluster.node(0).address;
    let ask = move |method: &'static str, path: &'static str, session: Option<String>| {
        std::thread::spawn(move || {
            let mut client = Client::patient(address, Duration::from_secs(60)).unwrap();
            let headers: Vec<(&str, &str)> =
                session.iter().map(|seen| ("Session-Token", seen.as_str())).collect();
            client.request(method, path, &headers, if method == "PUT" { b"{\"value\": 1}" } else { b"" })
        })
    };
    assert_eq!(put(cluster.node(0), "old", "x").status, 201);
    let ahead = format!("{second}-999999999");
    let served = || {
        let requests = &get(address, "/stats")["requests"];
        ["reads", "puts", "deletes"].map(|kind| requests[kind].as_u64().unwrap())
    };
    let before = served();
    let written = ask("PUT", "/key/k?w=all&timeout_ms=60000", None);
    let deleted = ask("DELETE", "/key/old?w=2&timeout_ms=60000", None);
    let reads = ask("GET", "/key/k?timeout_ms=60000", Some(ahead.clone()));
    let writes = ask("PUT", "/key/late?timeout_ms=60000", Some(ahead));
    wait_until(SOON, "all have been accepted", || {
        let now = served();
        now[0] > before[0] && now[1] == before[1] + 2 && now[2] == before[2] + 1
    });
    let status = |key: &str| cluster.node(0).request("GET", &format!("/key/{key}"), "").status;
    wait_until(SOON, "the writes are on the disk", || (status("k"), status("old")) == (200, 404));
    let asked = Instant::now();
    cluster.node(0).signal(libc::SIGTERM);
    for (answer, what) in [(written, "the write"), (deleted, "the delete")] {
        let answer = answer.join().unwrap().unwrap_or_else(|e| panic!("{what}: {e}"));
        assert_eq!(answer.status, 202, "{what}: {}", answer.text());
        assert_eq!(answer.json()["held_by"], serde_json::json!([first]), "{what}: {}", answer.text());
    }
    for answer in [reads, writes] {
        let answer = answer.join().unwrap().expect("an answer");
        assert_eq!(answer.status, 503, "{}", answer.text());
        assert_eq!(answer.json()["type"], "urn:dynarust:problem:stopping");
        assert!(answer.header("retry-after").is_some());
    }
    assert!(asked.elapsed() < Duration::from_secs(4), "answered after {:?}", asked.elapsed());
    let mut node = cluster.nodes[0].take().unwrap();
    assert_eq!(node.wait(SOON).code(), Some(0), "{}", node.log());
    cluster.node(1).signal(libc::SIGCONT);
    cluster.up(0);
    cluster.settle();
    shows(cluster.node(1), "old", None);
    assert_eq!(cluster.node(1).request("GET", "/key/k", "").json()["value"], 1);
    assert_eq!(cluster.node(1).request("GET", "/key/late", "").status, 404);
}

#[test]
fn lag_is_shown_while_a_member_is_away() {
    let mut cluster = Cluster::start(2);
    let away = id(cluster.node(1));
    cluster.kill(1);
    (0..25).for_each(|n| drop(put(cluster.node(0), &format!("k{n}"), "x")));
    let member = get(cluster.node(0).address, &format!("/membership/{away}"));
    assert!(member["lag"].as_u64().unwrap() >= 25, "{member}");
    // What a node that was started again has not been told, it does not make up.
    cluster.kill(0);
    cluster.up(0);
    let member = get(cluster.node(0).address, &format!("/membership/{away}"));
    assert!(member["lag"].is_null() && member["lag_seconds"].is_null(), "{member}");
    wait_until(SETTLED, "it is told why", || {
        get(cluster.node(0).address, &format!("/membership/{away}"))["trouble"].is_string()
    });
    cluster.up(1);
    cluster.settle();
    wait_until(SETTLED, "nothing is lacking", || {
        get(cluster.node(0).address, &format!("/membership/{away}"))["lag"] == 0
    });
}

/// All that are members when it is answered; not all that were when it was asked.
#[test]
fn a_write_for_all_does_not_wait_for_who_was_evicted() {
    let cluster = Cluster::start(3);
    let (gone, node) = (id(cluster.node(2)), cluster.node(0));
    cluster.node(2).signal(libc::SIGSTOP);
    let address = node.address;
    let waits = std::thread::spawn(move || {
        let mut client = crate::support::Client::new(address);
        client.request("PUT", "/key/k?w=all&timeout_ms=60000", &[], b"{\"value\": 1}").expect("an answer")
    });
    wait_until(SETTLED, "another has it", || cluster.node(1).request("GET", "/key/k", "").status == 200);
    assert!(!waits.is_finished(), "one has not got it");
    assert_eq!(node.request("DELETE", &format!("/membership/{gone}"), "").status, 200);
    let answer = waits.join().expect("it was asked");
    assert_eq!(answer.status, 201, "{}", answer.text());
    assert_eq!(answer.json()["replicas"], 2);
    cluster.node(2).signal(libc::SIGCONT);
}

/// A member that has stopped, with its connections open, holds nobody up.
#[test]
fn a_stopped_member_costs_the_others_nothing() {
    let cluster = Cluster::start(3);
    let median = |label: &str| {
        let mut client = crate::support::Client::new(cluster.node(0).address);
        let mut took: Vec<Duration> = (0..300)
            .map(|n| {
                let begun = Instant::now();
                let answer = client.request("PUT", &format!("/key/{label}{n}"), &[], b"{\"value\": 1}");
                assert_eq!(answer.expect("an answer").status, 201);
                begun.elapsed()
            })
            .collect();
        took.sort();
        took[150]
    };
    let before = median("before");
    cluster.node(2).signal(libc::SIGSTOP);
    let during = median("during");
    cluster.node(2).signal(libc::SIGCONT);
    assert!(during < before * 4 + Duration::from_millis(5), "{before:?} before, {during:?} with one stopped");
    cluster.settle();
}

/// More than the log holds for one who is away: it is swept, and nothing that was deleted meanwhile comes back.
#[test]
fn a_member_that_was_away_for_too_long_is_sent_everything() {
    let mut cluster = Cluster::with(3, &["--log-mib", "0", "--log-held-mib", "1"]);
    (0..50).for_each(|n| assert_eq!(put(cluster.node(0), &format!("gone{n}?w=3"), "x").status, 201));
    cluster.kill(2);
    let key = |n: usize| format!("a-long-name-so-that-the-log-fills-up-{}-{n}", "x".repeat(700));
    (0..50).for_each(|n| {
        assert_eq!(cluster.node(1).request("DELETE", &format!("/key/gone{n}?w=2"), "").status, 200);
    });
    (0..2_500).for_each(|n| assert_eq!(put(cluster.node(0), &key(n), "y").status, 201));
    cluster.up(2);
    cluster.settle();
    let logs: String = cluster.alive().map(|node| node.log()).collect();
    assert!(logs.contains("lacks more than the log has"), "it was not swept: the test shows nothing");
    (0..50).for_each(|n| shows(cluster.node(2), &format!("gone{n}"), None));
    shows(cluster.node(2), &key(2_499), Some("y"));
}

/// Who was away while a few keys were written again and again is sent the keys, and not each write of them.
#[test]
fn many_writes_of_few_keys_are_caught_up_with_by_the_keys() {
    const WRITERS: u64 = 16;
    let cluster = Cluster::start(2);
    cluster.node(1).signal(libc::SIGSTOP);
    let address = cluster.node(0).address;
    // Some frames may go first.
    let each = (SWEEP_RATHER_EVENTS.0 + 4 * FRAME_EVENTS_MAX) / WRITERS;
    std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            scope.spawn(move || {
                let mut client = Client::new(address);
                for n in 0..each {
                    let body = format!("{{\"value\": {n}}}");
                    let path = format!("/key/k{writer}-{}", n % 50);
                    let answer = client.request("PUT", &path, &[], body.as_bytes()).expect("an answer");
                    assert!(matches!(answer.status, 200 | 201), "{}", answer.status);
                }
            });
        }
    });
    cluster.node(1).signal(libc::SIGCONT);
    cluster.settle();
    let last = (each - 1).to_string();
    let path = format!("/key/k3-{}", (each - 1) % 50);
    assert_eq!(cluster.node(1).request("GET", &path, "").json()["value"].to_string(), last);
    let log = cluster.node(0).log();
    assert!(log.contains("so many that everything takes less"), "{log}");
}

/// Each was written by who had seen none of the others. What no member could be sent is refused, and holds nothing else up.
#[test]
fn siblings_take_no_more_bytes_than_can_be_sent() {
    let cluster = Cluster::with(2, &["--max-value-bytes", "67108864"]);
    let first = put(cluster.node(0), "k", "x").json()["version"].as_str().unwrap().to_owned();
    let large = format!("{{\"value\": \"{}\"}}", "x".repeat(60 << 20));
    let spent = [("Causality-Token", first.as_str())];
    let told = [(); 3].map(|()| {
        let answer =
            cluster.node(0).request_with("PUT", "/key/k?w=2&timeout_ms=30000", &spent, large.as_bytes());
        (answer.status, answer.text().contains("too-many-siblings"))
    });
    assert_eq!(told, [(200, false), (200, false), (409, true)]);
    assert_eq!(put(cluster.node(0), "after?w=2", "y").status, 201);
    cluster.settle();
}
