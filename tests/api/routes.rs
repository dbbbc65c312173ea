//! Which paths there are, what each allows, and what query parameters mean; every error is a problem detail.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::helpers::{Keys, fresh, members, names, node, problem, removed, written};

fn allowed(path: &str, methods: &[&str]) {
    let expected: BTreeSet<&str> = methods.iter().copied().collect();
    for method in ["GET", "HEAD", "PUT", "DELETE", "POST", "PATCH", "OPTIONS", "TRACE", "BREW", "get"] {
        if expected.contains(method) {
            continue;
        }
        let answer = node().request(method, path, "");
        problem(&answer, 405, "method-not-allowed");
        let allow = answer.header("allow").unwrap_or_else(|| panic!("no Allow on {method} {path}"));
        let shown: BTreeSet<&str> = allow.split(',').map(str::trim).collect();
        assert_eq!(shown, expected, "Allow of {method} {path}");
    }
}

#[test]
fn other_methods_answer_405_with_allow() {
    allowed(&format!("/key/{}", fresh("route")), &["GET", "HEAD", "PUT", "DELETE"]);
    for path in ["/membership", "/health", "/ready", "/stats", "/conflicts", "/keys"] {
        allowed(path, &["GET", "HEAD"]);
    }
}

#[test]
fn unknown_paths_answer_404() {
    for path in [
        "/",
        "/key",
        "/keys/",
        "/keys/x",
        "/KEY/x",
        "/Stats",
        "/stats/",
        "/stats/x",
        "/health/",
        "/ready/now",
        "//key/x",
        "/favicon.ico",
        "/index.html",
        "/v1/key/x",
        "/%FF",
        "/nothing?w=1",
        "/*",
    ] {
        for method in ["GET", "PUT", "DELETE", "POST", "OPTIONS"] {
            let answer = node().request(method, path, if method == "PUT" { "{\"value\":1}" } else { "" });
            assert_eq!(answer.status, 404, "{method} {path}: {}", answer.text());
            problem(&answer, 404, "no-such-path");
        }
        assert_eq!(node().request("HEAD", path, "").status, 404, "HEAD {path}");
    }
}

#[test]
fn a_missing_key_is_not_a_missing_path() {
    let missing = node().get(&fresh("never"));
    problem(&missing, 404, "not-found");
    assert_eq!(names(&members(missing.text())), ["type", "title", "status", "detail"]);
}

#[test]
fn each_problem_has_one_title_and_details_that_differ() {
    let one = problem(&node().put("x?w=0", "{\"value\":1}"), 400, "invalid-parameter");
    let two = problem(&node().put("x?timeout_ms=x", "{\"value\":1}"), 400, "invalid-parameter");
    assert_eq!(one["title"], two["title"]);
    assert_ne!(one["detail"], two["detail"]);
    let body = problem(&node().put("x", "{}"), 400, "invalid-body");
    assert_ne!(body["title"], one["title"]);
}

#[test]
fn a_detail_never_carries_control_characters_of_the_request() {
    // Whatever the client sent, the answer is JSON and one line; a log or a terminal stays safe.
    for path in ["/key/%FF%0A%1B[31m", "/no%0D%0ASet-Cookie:x", "/key/x?%0a%1b=1"] {
        let answer = node().request("GET", path, "");
        assert!((400..500).contains(&answer.status), "{path}: {}", answer.status);
        assert!(answer.header("set-cookie").is_none());
        let json = answer.json();
        let detail = json["detail"].as_str().expect("a detail");
        assert!(!detail.contains(['\u{1b}', '\r']), "{path}: {detail:?}");
    }
}

#[test]
fn one_member_meets_every_w_it_can_reach() {
    for w in ["1", "majority", "all"] {
        let key = fresh("w");
        let start = Instant::now();
        let put = written(&node().put(&format!("{key}?w={w}"), "{\"value\":1}"), &[201]);
        assert_eq!(put.replicas, 1);
        written(&node().put(&format!("{key}?timeout_ms=600000&w={w}"), "{\"value\":2}"), &[200]);
        removed(&node().delete(&format!("{key}?w={w}"), &[]));
        assert!(start.elapsed() < Duration::from_secs(4), "w={w} waited for somebody");
    }
}

/// How long one waits that is not out of reach: see the clusters' tests.
#[test]
fn a_w_beyond_the_members_answers_202_at_once_and_the_write_stands() {
    let key = fresh("w");
    let start = Instant::now();
    let put = written(&node().put(&format!("{key}?w=2&timeout_ms=600000"), "{\"value\":1}"), &[202]);
    assert_eq!(put.replicas, 1, "it tells how many have it");
    assert_eq!(node().read(&key).version, put.version);
    written(&node().put(&format!("{key}?w=4294967295"), "{\"value\":2}"), &[202]);
    assert_eq!(node().read(&key).value, "2");
    let gone = node().delete(&format!("{key}?w=2&timeout_ms=600000"), &[]);
    assert_eq!(gone.status, 202, "{}", gone.text());
    assert_eq!(names(&members(gone.text())), ["key", "version", "replicas", "held_by"]);
    node().absent(&key);
    assert!(start.elapsed() < Duration::from_secs(4), "it waited for nobody: {:?}", start.elapsed());
}

#[test]
fn what_is_refused_does_not_wait() {
    let key = fresh("w");
    node().write(&key, "1");
    let start = Instant::now();
    let path = format!("{key}?w=2&timeout_ms=600000");
    problem(&node().put_with(&path, &[("If-None-Match", "*")], "{\"value\":2}"), 412, "precondition-failed");
    problem(&node().put(&path, "{"), 400, "invalid-body");
    problem(&node().delete(&format!("{}?w=2", fresh("never")), &[]), 404, "not-found");
    assert!(start.elapsed() < Duration::from_secs(4));
}

/// It would have left with a misspelt option, and stopped.
#[test]
fn a_node_is_not_asked_to_leave_with_parameters() {
    problem(&node().request("POST", "/cluster/leave?dry_run=true", ""), 400, "invalid-parameter");
    assert_eq!(node().request("GET", "/ready", "").status, 200);
}

#[test]
fn bad_parameters_are_refused_and_change_nothing() {
    let key = fresh("w");
    let version = node().write(&key, "1");
    let bad = [
        "w=0",
        "w=-1",
        "w=+1",
        "w=1.5",
        "w=",
        "w",
        "w=x",
        "w=Majority",
        "w=99999999999999999999999",
        "w=%FF",
        "w=1%20",
        "w=1&w=1",
        "w=1&w=2",
        "timeout_ms=-1",
        "timeout_ms=",
        "timeout_ms=x",
        "timeout_ms=600001",
        "timeout_ms=1.5",
        "timeout_ms=1s",
        "timeout_ms=99999999999999999999999",
        "timeout_ms=1&timeout_ms=2",
        "W=1",
        "timeout=5",
        "ttl=5",
        "ttl_seconds=5",
        "w=1&x",
        "=1",
        "=",
    ];
    for query in bad {
        let answer = node().put(&format!("{key}?{query}"), "{\"value\":2}");
        assert_eq!(answer.status, 400, "{query}: {}", answer.text());
        problem(&answer, 400, "invalid-parameter");
        problem(&node().delete(&format!("{key}?{query}"), &[]), 400, "invalid-parameter");
    }
    assert_eq!(node().read(&key).version, version);
}

#[test]
fn a_question_mark_that_is_part_of_a_key_is_told_how_to_be_written() {
    for (method, body) in [("GET", ""), ("PUT", "{\"value\":1}"), ("DELETE", "")] {
        let answer = problem(&node().request(method, "/key/a?b", body), 400, "invalid-parameter");
        let detail = answer["detail"].as_str().expect("a detail");
        assert!(detail.contains("a '?' in a key is written %3F"), "{detail}");
    }
}

#[test]
fn a_page_of_a_list_begins_after_a_key_in_good_spelling() {
    let long = "x".repeat(1_025);
    for path in ["/conflicts?after=", "/keys?after=", "/keys?limit=1&prefix="] {
        for bad in ["%zz", "%", "a%4", "%%41", "%4g", "a%", &long] {
            problem(&node().request("GET", &format!("{path}{bad}"), ""), 400, "invalid-parameter");
        }
        for good in ["", "zz", "%7A", "zz%2Fb", "zz%25", &long[..1_024]] {
            assert_eq!(node().request("GET", &format!("{path}{good}"), "").status, 200, "{path}{good}");
        }
    }
    for bad in [
        "prefix=a&prefix=a",
        "after=a&after=b",
        "limit=0",
        "limit=-1",
        "limit=",
        "limit=+1",
        "limit=x",
        "pre=a",
        "w=1",
    ] {
        problem(&node().request("GET", &format!("/keys?{bad}"), ""), 400, "invalid-parameter");
    }
    problem(&node().request("GET", "/conflicts?prefix=a", ""), 400, "invalid-parameter");
}

/// Neither is a key, and to evict oneself is no mistake of spelling.
#[test]
fn ids_and_versions_in_a_path_are_parameters() {
    for bad in ["", "x", "0123", "00000000000000zz", "00000000000000aa0", "%FF"] {
        for method in ["GET", "DELETE"] {
            problem(&node().request(method, &format!("/membership/{bad}"), ""), 400, "invalid-parameter");
        }
        problem(&node().request("GET", &format!("/replication/{bad}"), ""), 400, "invalid-parameter");
    }
    let me = node().request("GET", "/membership", "").json()["self"].as_str().expect("an id").to_owned();
    problem(&node().request("DELETE", &format!("/membership/{me}"), ""), 409, "cant-evict-itself");
    assert_eq!(node().request("GET", &format!("/membership/{me}"), "").status, 200, "it stays");
    problem(&node().request("GET", "/membership/00000000000000aa", ""), 404, "no-such-member");
}

#[test]
fn good_spellings_of_parameters_are_taken() {
    for query in ["", "w=1", "timeout_ms=0", "timeout_ms=600000", "w=majority&timeout_ms=5", "&w=1&"] {
        written(&node().put(&format!("{}?{query}", fresh("w")), "{\"value\":1}"), &[201]);
    }
}

#[test]
fn a_typo_in_a_read_s_parameters_is_not_ignored() {
    let key = fresh("w");
    node().write(&key, "1");
    problem(&node().get(&format!("{key}?version=1")), 400, "invalid-parameter");
    assert_eq!(node().request("HEAD", &format!("/key/{key}?version=1"), "").status, 400);
    assert_eq!(node().get(&format!("{key}?")).status, 200);
    for path in ["/membership?x=1", "/stats?x=1"] {
        problem(&node().request("GET", path, ""), 400, "invalid-parameter");
    }
}
