//! What was answered is there after a restart, asked for or not: values, versions, siblings, times to live, identity.

use serde_json::Value;

use crate::helpers::{Entry, Keys, Own, etag, problem, removed, written};
use crate::support::{Node, SOON, field, wait_until};

fn stats(own: &Own) -> Value {
    own.request("GET", "/stats", "").json()
}

fn fill(own: &Own) -> Vec<String> {
    let mut keys = Vec::new();
    for n in 0..60 {
        let key = format!("restart/{n}");
        own.write(&key, &format!("{{\"n\": {n}, \"exact\": 1.{n:03}0E+2}}"));
        keys.push(key);
    }
    let large = format!("\"{}\"", "large".repeat(100_000));
    own.write("restart/large", &large);
    let base = own.write("restart/siblings", "\"base\"");
    for value in ["\"a\"", "\"b\"", large.as_str()] {
        let body = format!("{{\"value\":{value}}}");
        written(&own.put_with("restart/siblings", &[("Causality-Token", &base)], &body), &[200]);
    }
    written(&own.put("restart/ttl", "{\"value\":1,\"ttl_seconds\":100000}"), &[201]);
    written(&own.put("%00%F0%9F%A6%80", "{\"value\":1}"), &[201]);
    own.write("restart/gone", "1");
    removed(&own.delete("restart/gone", &[]));
    keys.extend(["restart/large", "restart/siblings", "restart/ttl", "%00%F0%9F%A6%80"].map(str::to_owned));
    keys
}

fn snapshot(own: &Own, keys: &[String]) -> Vec<Entry> {
    keys.iter().map(|key| own.read(key)).collect()
}

fn survives(again: fn(&mut Own)) {
    let mut own = Own::start(&[]);
    // At another address the entry of this node in the membership would change, and the digest with it.
    own.settle();
    let keys = fill(&own);
    let (before, known, membership) =
        (snapshot(&own, &keys), stats(&own), own.request("GET", "/membership", "").json());
    assert_eq!(known["keys"], keys.len());
    for _ in 0..2 {
        again(&mut own);
        assert_eq!(snapshot(&own, &keys), before);
        own.absent("restart/gone");
        let now = stats(&own);
        for name in ["node_id", "cluster_id", "keys", "versions", "digest", "version_vector", "format"] {
            assert_eq!(now[name], known[name], "{name}");
        }
        let recovered = field(&own.serving, "keys").parse::<usize>().expect("a count");
        assert_eq!(recovered, keys.len(), "{}", own.serving);
        let member = own.request("GET", "/membership", "").json();
        for name in ["cluster", "self"] {
            assert_eq!(member[name], membership[name], "{name}");
        }
        assert_eq!(member["members"][0]["joined_at"], membership["members"][0]["joined_at"]);
        assert_eq!(member["members"].as_array().map(Vec::len), Some(1), "one node, however often it starts");
    }
    // Versions go on: none is used twice, and old ones still mean what they meant.
    let old = &before[0];
    let new = own.write(&keys[0], "\"new\"");
    assert!(before.iter().all(|e| !e.version.split('.').any(|dot| dot == new)), "{new} was used before");
    let answer = own.put_with(&keys[0], &[("If-Match", &etag(&old.version))], "{\"value\":1}");
    problem(&answer, 412, "precondition-failed");
    let headers = [("If-Match", etag(&before[1].version)), ("Causality-Token", before[1].version.clone())];
    let headers = headers.each_ref().map(|(n, v)| (*n, v.as_str()));
    written(&own.put_with(&keys[1], &headers, "{\"value\":1}"), &[200]);
    assert!(own.read(&keys[1]).conflicts.is_empty());
}

#[test]
fn everything_survives_a_stop() {
    survives(Own::restart);
}

#[test]
fn everything_acknowledged_survives_sigkill() {
    survives(Own::crash);
}

#[test]
fn a_node_may_come_back_at_another_address() {
    let mut own = Own::start(&[]);
    let version = own.write("x", "1");
    let before = own.request("GET", "/membership", "").json();
    own.restart();
    let after = own.request("GET", "/membership", "").json();
    assert_ne!(
        before["members"][0]["address"], after["members"][0]["address"],
        "port 0 gave the same port twice"
    );
    assert_eq!(after["members"][0]["address"], own.address.to_string());
    assert_eq!(after["members"].as_array().map(Vec::len), Some(1));
    for name in ["cluster", "self"] {
        assert_eq!(after[name], before[name], "{name}");
    }
    assert_eq!(after["members"][0]["joined_at"], before["members"][0]["joined_at"]);
    assert_eq!(own.read("x").version, version);
}

#[test]
fn a_time_to_live_runs_on_while_the_node_is_down() {
    let mut own = Own::start(&[]);
    written(&own.put("brief", "{\"value\":1,\"ttl_seconds\":0.3}"), &[201]);
    written(&own.put("long", "{\"value\":1,\"ttl_seconds\":1000}"), &[201]);
    let long = own.read("long");
    own.crash();
    wait_until(SOON, "the key expires", || own.get("brief").status == 404);
    assert_eq!(own.read("long"), long);
    wait_until(SOON, "its space comes back", || stats(&own)["keys"] == 1);
}

#[test]
fn a_clean_stop_is_told_from_a_crash_and_both_open() {
    let mut own = Own::start(&[]);
    for round in 0..6 {
        own.write("round", &round.to_string());
        if round % 2 == 0 {
            own.crash()
        } else {
            own.restart()
        }
        assert_eq!(own.read("round").value, round.to_string());
    }
}

#[test]
fn a_smaller_limit_still_reads_what_is_there() {
    let mut own = Own::start(&[]);
    own.write("large", &format!("\"{}\"", "x".repeat(200_000)));
    let large = own.read("large");
    assert_eq!(own.end().code(), Some(0));
    let small = Node::start(own.dir.path(), &["--max-value-bytes", "100"]);
    assert!(small.read("large") == large);
    problem(&small.put("large", &format!("{{\"value\":\"{}\"}}", "x".repeat(200))), 413, "too-large");
    removed(&small.delete("large", &[]));
}
