//! What a node tells about itself: membership, health, readiness, and statistics that move as they should.

use std::collections::BTreeSet;

use jiff::Timestamp;
use serde_json::Value;

use crate::helpers::{Keys, Own, dots, fresh, id, members, names, node, problem, removed, time, written};

fn stats(own: &Own) -> Value {
    let answer = own.request("GET", "/stats", "");
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), Some("application/json"));
    answer.json()
}

fn count(stats: &Value, path: &str) -> u64 {
    stats.pointer(path).and_then(Value::as_u64).unwrap_or_else(|| panic!("a count at {path} in {stats}"))
}

#[test]
fn membership_is_this_node_alone() {
    let own = Own::start(&[]);
    let answer = own.request("GET", "/membership", "");
    assert_eq!(answer.status, 200);
    assert_eq!(answer.header("content-type"), Some("application/json"));
    let shown = members(answer.text());
    assert_eq!(names(&shown), ["cluster", "self", "members"]);
    let json = answer.json();
    let this = id(json["self"].as_str().expect("an id"));
    let cluster = id(json["cluster"].as_str().expect("an id"));
    assert_ne!(this, cluster);
    let list: Vec<&serde_json::value::RawValue> = serde_json::from_str(&shown[2].1).expect("an array");
    assert_eq!(list.len(), 1);
    let member = members(list[0].get());
    let shown =
        ["id", "address", "state", "joined_at", "last_seen", "lag", "lag_seconds", "clock_skew_ms", "digest"];
    assert_eq!(names(&member), shown);
    let member = &json["members"][0];
    assert_eq!(member["id"], this);
    assert_eq!(member["address"], own.address.to_string());
    assert_eq!((&member["state"], &member["lag"]), (&"alive".into(), &0.into()));
    let joined = time(member["joined_at"].as_str().expect("a time"));
    let seen = time(member["last_seen"].as_str().expect("a time"));
    assert!(
        joined <= seen && seen.as_millisecond() <= Timestamp::now().as_millisecond() + 1,
        "{joined} {seen}"
    );
}

#[test]
fn two_nodes_are_two_clusters() {
    let (one, two) = (Own::start(&[]), Own::start(&[]));
    let of = |own: &Own| own.request("GET", "/membership", "").json();
    let ids: BTreeSet<String> =
        [of(&one), of(&two)].iter().flat_map(|m| [m["self"].to_string(), m["cluster"].to_string()]).collect();
    assert_eq!(ids.len(), 4, "no id is used twice: {ids:?}");
}

#[test]
fn health_and_readiness_are_exact() {
    for (path, body) in [("/health", r#"{"status":"alive"}"#), ("/ready", r#"{"status":"ready"}"#)] {
        let answer = node().request("GET", path, "");
        assert_eq!((answer.status, answer.text()), (200, body));
        assert_eq!(answer.header("content-type"), Some("application/json"));
    }
}

#[test]
fn a_new_node_s_statistics_have_every_member() {
    let own = Own::start(&["--write-queue", "123"]);
    let stats = stats(&own);
    let membership = own.request("GET", "/membership", "").json();
    assert_eq!(stats["node_id"], membership["self"]);
    assert_eq!(stats["cluster_id"], membership["cluster"]);
    assert_eq!(stats["release"], env!("CARGO_PKG_VERSION"));
    assert_eq!(stats["format"], dynarust::storage::FORMAT);
    // This node's own entry in the membership is a version, and no key.
    assert_eq!((count(&stats, "/keys"), count(&stats, "/versions")), (0, 1));
    let digest = stats["digest"].as_str().expect("a digest");
    assert!(!digest.is_empty() && digest.bytes().all(|b| b.is_ascii_hexdigit()), "{digest}");
    assert!(stats["uptime_seconds"].as_f64().is_some_and(|s| (0.0..60.0).contains(&s)), "{stats}");
    assert!(stats["version_vector"].is_object());
    assert!(stats.get("floor").is_some());
    assert!(stats.pointer("/clock/hlc").is_some());
    assert_eq!(count(&stats, "/clock/far_future_versions"), 0);
    assert!(stats["requests"].as_object().is_some_and(|classes| !classes.is_empty()));
    for path in ["/commits", "/committed_writes", "/sync_calls", "/queue/depth", "/disk/blobs_files"] {
        count(&stats, path);
    }
    assert_eq!(count(&stats, "/queue/capacity"), 123);
    assert_eq!(count(&stats, "/queue/refused"), 0);
    assert!(count(&stats, "/disk/store_bytes") > 0);
    assert!(count(&stats, "/disk/free_bytes") > count(&stats, "/disk/reserve_bytes"));
    assert!(count(&stats, "/disk/reserve_bytes") >= 8 << 20);
    assert_eq!(stats["disk"]["full"], false);
}

#[test]
fn statistics_move_with_writes() {
    let own = Own::start(&[]);
    let before = stats(&own);
    let version = own.write("a", "1");
    own.write("b", "1");
    own.write("b", "2");
    let after = stats(&own);
    assert_eq!((count(&after, "/keys"), count(&after, "/versions")), (2, 3));
    assert_ne!(before["digest"], after["digest"]);
    assert_eq!(count(&after, "/committed_writes"), count(&before, "/committed_writes") + 3);
    // Each was awaited, so each had a commit and at least one sync of its own.
    assert!(count(&after, "/commits") >= count(&before, "/commits") + 3);
    assert!(count(&after, "/sync_calls") >= count(&before, "/sync_calls") + 3);
    let node_id = after["node_id"].as_str().expect("an id");
    let vector = |stats: &Value| stats["version_vector"][node_id].as_u64().unwrap_or(0);
    assert_eq!(vector(&after), vector(&before) + 3, "three events of this node");
    assert_eq!(dots(&version), [format!("{node_id}-{}", vector(&before) + 1)]);
    written(&own.put_with("b", &[("Causality-Token", &version)], "{\"value\":3}"), &[200]);
    let siblings = stats(&own);
    assert_eq!((count(&siblings, "/keys"), count(&siblings, "/versions")), (2, 4));
    assert_ne!(siblings["requests"], before["requests"], "requests are counted");
    assert_eq!(count(&siblings, "/disk/blobs_files"), 0);
}

#[test]
fn the_digest_is_of_what_lives() {
    let own = Own::start(&[]);
    let empty = stats(&own)["digest"].clone();
    own.write("a", "1");
    let one = stats(&own)["digest"].clone();
    own.write("b", "1");
    assert_ne!(stats(&own)["digest"], one);
    removed(&own.delete("b", &[]));
    assert_eq!(stats(&own)["digest"], one, "what came and went leaves no trace in the sum");
    removed(&own.delete("a", &[]));
    let gone = stats(&own);
    assert_eq!((&gone["digest"], count(&gone, "/keys")), (&empty, 0));
}

#[test]
fn refused_requests_are_no_commits() {
    let own = Own::start(&[]);
    own.write("a", "1");
    let before = stats(&own);
    problem(&own.put("a", "{"), 400, "invalid-body");
    problem(&own.put("", "{\"value\":1}"), 400, "invalid-key");
    problem(&own.put_with("a", &[("If-None-Match", "*")], "{\"value\":2}"), 412, "precondition-failed");
    problem(&own.delete("b", &[]), 404, "not-found");
    own.read("a");
    let after = stats(&own);
    for path in ["/committed_writes", "/keys", "/versions"] {
        assert_eq!(count(&after, path), count(&before, path), "{path}");
    }
    assert_eq!((&after["digest"], &after["version_vector"]), (&before["digest"], &before["version_vector"]));
}

#[test]
fn large_values_make_no_blob_files() {
    let own = Own::start(&[]);
    for n in 0..10 {
        own.write(&fresh("large"), &format!("\"{}\"", n.to_string().repeat(1_000_000)));
    }
    assert_eq!(count(&stats(&own), "/disk/blobs_files"), 0);
}
