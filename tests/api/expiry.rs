//! Values with a time to live: shown until their moment, then gone for every read and every condition at once;
//! their space comes back.

use std::time::Duration;

use jiff::Timestamp;

use crate::helpers::{Entry, Keys, Own, entry, etag, fresh, node, place, problem, removed, written};
use crate::support::{SOON, wait_until};

fn put_ttl(key: &str, value: &str, ttl: &str) -> String {
    let body = format!("{{\"value\":{value},\"ttl_seconds\":{ttl}}}");
    written(&node().put(key, &body), &[200, 201]).version
}

fn wait_gone(key: &str) {
    wait_until(SOON, "the key expires", || node().get(key).status == 404);
}

fn lives_ms(read: &Entry) -> i64 {
    read.expires_at.expect("it expires").as_millisecond() - read.updated_at.as_millisecond()
}

#[test]
fn expires_at_is_the_write_plus_its_time_to_live() {
    for (ttl, ms) in [("3600", 3_600_000), ("1e3", 1_000_000), ("90.5", 90_500), ("7200.125", 7_200_125)] {
        let key = fresh("ttl");
        put_ttl(&key, "1", ttl);
        let lives = lives_ms(&node().read(&key));
        assert!((lives - ms).abs() <= 100, "{ttl}: {lives} ms");
    }
}

#[test]
fn a_hundred_years_are_allowed_and_no_more() {
    let key = fresh("ttl");
    put_ttl(&key, "1", "3153600000");
    let years = lives_ms(&node().read(&key)) / 1_000 / 86_400 / 365;
    assert!((99..=100).contains(&years), "{years}");
    for ttl in ["3153600001", "3153600000.5", "1e300", "1e400", "99999999999999999999999999"] {
        let answer = node().put(&key, &format!("{{\"value\":2,\"ttl_seconds\":{ttl}}}"));
        problem(&answer, 400, "invalid-body");
    }
    assert_eq!(node().read(&key).value, "1");
}

#[test]
fn a_time_to_live_is_a_positive_number() {
    let key = fresh("ttl");
    let bad = ["0", "-0", "0.0", "-1", "-0.5", "null", "true", "\"5\"", "[]", "{}", "[1]"];
    for ttl in bad {
        let answer = node().put(&key, &format!("{{\"value\":1,\n\"ttl_seconds\":{ttl}}}"));
        assert_eq!(answer.status, 400, "{ttl}: {}", answer.text());
        assert_eq!(place(&answer).0, 2, "{ttl}: the line of the bad member");
    }
    node().absent(&key);
}

#[test]
fn a_key_is_there_until_its_moment_and_gone_for_every_read_after() {
    let key = fresh("ttl");
    put_ttl(&key, "1", "0.4");
    let until = node().read(&key).expires_at.expect("it expires");
    let mut there = 0;
    wait_until(SOON, "the key expires", || {
        let asked = Timestamp::now();
        let answer = node().get(&key);
        if answer.status == 200 {
            there += 1;
            assert!(asked < until, "shown after its moment: asked at {asked}, expired at {until}");
            return false;
        }
        problem(&answer, 404, "not-found");
        assert!(Timestamp::now() >= until, "gone before its moment");
        true
    });
    assert!(there > 0, "it was never seen alive: this test proved nothing");
    for _ in 0..50 {
        assert_eq!(node().get(&key).status, 404, "it stays gone");
        assert_eq!(node().request("HEAD", &format!("/key/{key}"), "").status, 404);
    }
}

#[test]
fn an_expired_key_is_absent_to_every_condition() {
    let keys: Vec<String> = (0..5).map(|_| fresh("ttl")).collect();
    let versions: Vec<String> = keys.iter().map(|key| put_ttl(key, "1", "0.05")).collect();
    // They all expire at about the same time; the last one written expires last.
    wait_gone(&keys[4]);
    problem(&node().delete(&keys[0], &[]), 404, "not-found");
    let answer = node().put_with(&keys[1], &[("If-Match", "*")], "{\"value\":2}");
    problem(&answer, 412, "precondition-failed");
    let answer = node().put_with(&keys[1], &[("If-Match", &etag(&versions[1]))], "{\"value\":2}");
    problem(&answer, 412, "precondition-failed");
    written(&node().put_with(&keys[2], &[("If-None-Match", "*")], "{\"value\":2}"), &[201]);
    written(&node().put_with(&keys[3], &[("If-None-Match", &etag(&versions[3]))], "{\"value\":2}"), &[201]);
    let answer = node().ask("GET", &keys[4], &[("If-None-Match", &etag(&versions[4]))], b"");
    problem(&answer, 404, "not-found");
    written(&node().put(&keys[4], "{\"value\":2}"), &[201]);
    assert_eq!(node().read(&keys[4]).expires_at, None, "the new value has no end");
}

#[test]
fn a_write_without_a_time_to_live_takes_the_end_away() {
    let (key, witness) = (fresh("ttl"), fresh("ttl"));
    put_ttl(&key, "1", "0.1");
    node().write(&key, "2");
    put_ttl(&witness, "1", "0.2");
    wait_gone(&witness);
    let read = node().read(&key);
    assert_eq!((read.value.as_str(), read.expires_at), ("2", None));
}

#[test]
fn a_write_with_another_time_to_live_moves_the_end() {
    let (key, witness) = (fresh("ttl"), fresh("ttl"));
    put_ttl(&key, "1", "0.1");
    put_ttl(&key, "2", "1000");
    put_ttl(&witness, "1", "0.2");
    wait_gone(&witness);
    assert!(lives_ms(&node().read(&key)) > 900_000);
    put_ttl(&key, "3", "0.05");
    wait_gone(&key);
}

#[test]
fn an_expired_sibling_leaves_the_other_alone() {
    let key = fresh("ttl");
    let base = node().write(&key, "\"base\"");
    let kept = written(&node().put_with(&key, &[("Causality-Token", &base)], "{\"value\":\"kept\"}"), &[200]);
    let body = "{\"value\":\"brief\",\"ttl_seconds\":0.3}";
    let brief = written(&node().put_with(&key, &[("Causality-Token", &base)], body), &[200]);
    let first = node().get(&key);
    assert_ne!(kept.version, brief.version);
    // On a slow machine it may have expired already; then only the end is left to see.
    if entry(&first).value == "\"brief\"" {
        assert_eq!(entry(&first).conflicts[0].value, "\"kept\"");
    }
    wait_until(SOON, "the sibling expires", || node().read(&key).value == "\"kept\"");
    let read = node().read(&key);
    assert_eq!((read.version, read.conflicts.len(), read.expires_at), (kept.version, 0, None));
}

#[test]
fn an_expired_conflict_is_hidden_too() {
    let key = fresh("ttl");
    let base = node().write(&key, "\"base\"");
    let body = "{\"value\":\"brief\",\"ttl_seconds\":0.2}";
    written(&node().put_with(&key, &[("Causality-Token", &base)], body), &[200]);
    let answer = node().put_with(&key, &[("Causality-Token", &base)], "{\"value\":\"kept\"}");
    let kept = written(&answer, &[200, 201]).version;
    wait_until(SOON, "the conflict expires", || node().read(&key).conflicts.is_empty());
    assert_eq!(node().read(&key).version, kept);
    removed(&node().delete(&key, &[]));
    node().absent(&key);
}

#[test]
fn the_space_of_expired_keys_comes_back() {
    const KEYS: u64 = 50;
    let own = Own::start(&[]);
    own.write("stays", "1");
    let stats = || own.request("GET", "/stats", "").json();
    let keys = || stats()["keys"].as_u64().expect("a count");
    let versions = stats()["versions"].clone();
    assert_eq!(keys(), 1);
    for n in 0..KEYS {
        written(&own.put(&format!("brief/{n}"), "{\"value\":1,\"ttl_seconds\":1.5}"), &[201]);
    }
    assert!(keys() > 1, "they were counted");
    wait_until(SOON, "every expired key is removed", || keys() == 1);
    assert_eq!(stats()["versions"], versions);
    assert_eq!(own.read("stays").value, "1");
}

#[test]
fn expiry_needs_no_reader() {
    let own = Own::start(&[]);
    written(&own.put("brief", "{\"value\":1,\"ttl_seconds\":0.2}"), &[201]);
    let deadline = Duration::from_secs(20);
    wait_until(deadline, "the key is removed unread", || {
        own.request("GET", "/stats", "").json()["keys"] == 0
    });
    own.absent("brief");
}
