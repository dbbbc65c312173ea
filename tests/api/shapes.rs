//! The exact shape of every answer on `/key/{key}`: members and their order, statuses, ETag and version, HEAD
//! beside GET.

use jiff::Timestamp;

use crate::helpers::{Keys, dots, entry, fresh, members, names, node, problem, removed, written};
use crate::support::Client;

#[test]
fn a_new_key_answers_201_and_a_replaced_one_200() {
    let key = fresh("shape");
    let first = written(&node().put(&key, r#"{"value": "mydata"}"#), &[201]);
    assert_eq!((first.key.as_str(), first.replicas), (key.as_str(), 1));
    let second = written(&node().put(&key, r#"{"value": "other"}"#), &[200]);
    assert_ne!(first.version, second.version, "every write has a version of its own");
    assert_eq!(node().read(&key).version, second.version);
}

#[test]
fn a_get_shows_the_write_it_came_from() {
    let key = fresh("shape");
    let before = Timestamp::now();
    let version = node().write(&key, r#""mydata""#);
    let after = Timestamp::now();
    let read = node().read(&key);
    assert_eq!((read.key.as_str(), read.value.as_str()), (key.as_str(), r#""mydata""#));
    assert_eq!((read.version.as_str(), read.expires_at), (version.as_str(), None));
    let (ms, low, high) = (read.updated_at.as_millisecond(), before.as_millisecond(), after.as_millisecond());
    // The clock is hybrid: it may run a little ahead of the wall when many writes share a millisecond.
    assert!(low <= ms && ms <= high + 1_000, "{ms} is not between {low} and {high}");
    let this = node().request("GET", "/membership", "").json();
    assert_eq!(this["self"], read.origin.as_str(), "written by this node");
    assert!(version.starts_with(&format!("{}-", read.origin)), "a version names its origin: {version}");
}

#[test]
fn members_come_in_the_order_of_the_contract_and_nothing_else_does() {
    let key = fresh("shape");
    node().put(&key, r#"{"ttl_seconds": 1000, "value": 1}"#);
    let answer = node().get(&key);
    let shown = members(answer.text());
    assert_eq!(names(&shown), ["key", "value", "version", "updated_at", "origin", "expires_at"]);
    let length: usize = answer.header("content-length").expect("a length").parse().expect("a number");
    assert_eq!(length, answer.body.len());
}

#[test]
fn a_delete_answers_its_version_and_then_404() {
    let key = fresh("shape");
    let version = node().write(&key, "1");
    let (of, deleted) = removed(&node().delete(&key, &[]));
    assert_eq!(of, key);
    assert_eq!(dots(&deleted).len(), 1, "a delete is one event: {deleted}");
    assert_ne!(deleted, version, "a delete is an event of its own");
    node().absent(&key);
    problem(&node().delete(&key, &[]), 404, "not-found");
    problem(&node().delete(&fresh("never"), &[]), 404, "not-found");
    let again = written(&node().put(&key, r#"{"value": 2}"#), &[201]);
    assert_ne!(again.version, version, "a version is never used twice");
}

#[test]
fn versions_of_one_key_are_never_used_twice() {
    let key = fresh("shape");
    let mut seen = std::collections::HashSet::new();
    for round in 0..20 {
        assert!(seen.insert(node().write(&key, &round.to_string())));
        if round % 3 == 0 {
            assert!(seen.insert(removed(&node().delete(&key, &[])).1));
        }
    }
}

#[test]
fn head_is_get_without_the_body() {
    let key = fresh("shape");
    node().put(&key, r#"{"value": {"a": [1, 2, 3]}, "ttl_seconds": 1000}"#);
    let (large, torn) = (fresh("shape"), fresh("shape"));
    node().put(&large, &format!(r#"{{"value": "{}"}}"#, "x".repeat(100_000)));
    let seen = node().write(&torn, "1");
    node().write(&torn, "2");
    let text = format!("{:?}", "y".repeat(50_000));
    node().put_with(&torn, &[("Causality-Token", &seen)], &format!(r#"{{"value": {text}}}"#));
    let keys = [key, large, torn].map(|key| format!("/key/{key}"));
    let mut paths = vec!["/membership".to_owned(), "/health".into(), "/ready".into()];
    paths.extend(keys);
    for path in &paths {
        let get = node().request("GET", path, "");
        let head = node().request("HEAD", path, "");
        assert_eq!(head.status, get.status, "{path}");
        assert!(head.body.is_empty());
        for header in ["content-type", "content-length", "etag"] {
            assert_eq!(head.header(header), get.header(header), "{header} of HEAD {path}");
        }
        assert_eq!(get.header("content-length"), Some(get.body.len().to_string().as_str()), "{path}");
    }
    assert_eq!(node().request("HEAD", "/stats", "").status, 200);
}

#[test]
fn nothing_follows_the_head_of_a_head() {
    let key = fresh("shape");
    let version = node().write(&key, "1");
    let mut client = Client::new(node().address);
    // On one connection: a stray body would be read as the next answer.
    for _ in 0..3 {
        let head = client.request("HEAD", &format!("/key/{key}"), &[], b"").expect("an answer");
        assert_eq!(head.header("etag"), Some(format!("\"{version}\"").as_str()));
        let missing = client.request("HEAD", "/key/no/such/key/here", &[], b"").expect("an answer");
        assert_eq!(missing.status, 404);
        assert_eq!(missing.header("content-type"), Some("application/problem+json"));
        let get = client.request("GET", &format!("/key/{key}"), &[], b"").expect("an answer");
        assert_eq!(entry(&get).version, version);
    }
}

#[test]
fn a_body_on_get_and_delete_changes_nothing() {
    let key = fresh("shape");
    node().write(&key, "1");
    let mut client = node().client();
    let get = client.request("GET", &format!("/key/{key}"), &[], b"{\"value\": 2}").expect("an answer");
    assert!(get.status == 200 || get.status == 400, "{}", get.status);
    // Whatever it did with that body, it must not take it for the next request.
    let next =
        Client::new(node().address).request("GET", &format!("/key/{key}"), &[], b"").expect("an answer");
    assert_eq!(entry(&next).value, "1");
    if get.header("connection") != Some("close") {
        let same = client.request("GET", &format!("/key/{key}"), &[], b"").expect("an answer");
        assert_eq!(entry(&same).value, "1");
    }
}

#[test]
fn times_go_forward_and_stay_where_they_are() {
    let key = fresh("shape");
    let mut last = Timestamp::UNIX_EPOCH;
    for round in 0..10 {
        node().write(&key, &round.to_string());
        let read = node().read(&key);
        assert!(read.updated_at >= last, "later writes are not earlier");
        assert_eq!(read, node().read(&key), "reading changes nothing");
        last = read.updated_at;
    }
    assert!(last > Timestamp::UNIX_EPOCH);
}
