//! If-Match and If-None-Match on reads, writes and deletes: lists, `*`, weak tags, several header lines, and what
//! is malformed.

use crate::helpers::{Keys, entry, etag, fresh, node, problem, removed, written};

const BODY: &str = r#"{"value": "new"}"#;

/// A write that must be refused, and must not have happened.
fn refused(key: &str, headers: &[(&str, &str)]) {
    let before = node().get(key);
    problem(&node().put_with(key, headers, BODY), 412, "precondition-failed");
    let after = node().get(key);
    assert_eq!((before.status, before.text()), (after.status, after.text()), "{headers:?} changed something");
}

#[test]
fn if_match_takes_the_current_version_only() {
    let key = fresh("cond");
    let old = node().write(&key, "1");
    let now = node().write(&key, "2");
    refused(&key, &[("If-Match", &etag(&old))]);
    refused(&key, &[("If-Match", "\"never-seen\"")]);
    refused(&key, &[("If-Match", &format!("{}, {}", etag(&old), "\"x\""))]);
    let new = written(&node().put_with(&key, &[("If-Match", &etag(&now))], BODY), &[200]);
    assert_eq!(node().read(&key).version, new.version);
    refused(&key, &[("If-Match", &etag(&now))]);
}

#[test]
fn if_match_takes_a_list_and_several_lines() {
    let key = fresh("cond");
    let version = node().write(&key, "1");
    let list = format!("\"a\",{} ,\t\"b\"", etag(&version));
    let next = written(&node().put_with(&key, &[("If-Match", &list)], BODY), &[200]).version;
    let lines = [("If-Match", "\"a\""), ("If-Match", &etag(&next)), ("if-match", "\"b\"")];
    let next = written(&node().put_with(&key, &lines, BODY), &[200]).version;
    refused(&key, &[("If-Match", "\"a\""), ("If-Match", "\"b\"")]);
    // A list may be empty, and have empty places (RFC 9110 section 5.6.1): what is not in it does not match.
    refused(&key, &[("If-Match", "")]);
    let holes = format!(", {} ,,", etag(&next));
    let next = written(&node().put_with(&key, &[("If-Match", &holes)], BODY), &[200]).version;
    // A tag may hold bytes that are no ASCII; and a comma.
    refused(&key, &[("If-Match", "\"\u{e9}\"")]);
    let commas = format!("\"a,b\", {}", etag(&next));
    written(&node().put_with(&key, &[("If-Match", &commas)], BODY), &[200]);
}

#[test]
fn if_match_compares_strongly() {
    let key = fresh("cond");
    let version = node().write(&key, "1");
    refused(&key, &[("If-Match", &format!("W/{}", etag(&version)))]);
    problem(
        &node().delete(&key, &[("If-Match", &format!("W/{}", etag(&version)))]),
        412,
        "precondition-failed",
    );
    let both = format!("W/{0}, {0}", etag(&version));
    written(&node().put_with(&key, &[("If-Match", &both)], BODY), &[200]);
}

#[test]
fn if_match_star_needs_the_key() {
    let key = fresh("cond");
    refused(&key, &[("If-Match", "*")]);
    refused(&key, &[("If-Match", "\"x\"")]);
    node().write(&key, "1");
    written(&node().put_with(&key, &[("If-Match", "*")], BODY), &[200]);
    removed(&node().delete(&key, &[("If-Match", "*")]));
    refused(&key, &[("If-Match", "*")]);
}

#[test]
fn if_none_match_star_creates_only() {
    let key = fresh("cond");
    let created = written(&node().put_with(&key, &[("If-None-Match", "*")], "{\"value\":1}"), &[201]);
    refused(&key, &[("If-None-Match", "*")]);
    assert_eq!(node().read(&key).version, created.version);
    removed(&node().delete(&key, &[]));
    written(&node().put_with(&key, &[("If-None-Match", "*")], BODY), &[201]);
}

#[test]
fn if_none_match_refuses_a_write_over_a_version_it_names() {
    let key = fresh("cond");
    written(&node().put_with(&key, &[("If-None-Match", "\"x\"")], BODY), &[201]);
    let version = node().read(&key).version;
    refused(&key, &[("If-None-Match", &etag(&version))]);
    refused(&key, &[("If-None-Match", &format!("\"x\", W/{}", etag(&version)))]);
    written(&node().put_with(&key, &[("If-None-Match", "\"x\", \"y\"")], BODY), &[200]);
    problem(&node().delete(&key, &[("If-None-Match", "*")]), 412, "precondition-failed");
    let now = node().read(&key).version;
    problem(&node().delete(&key, &[("If-None-Match", &etag(&now))]), 412, "precondition-failed");
    assert_eq!(node().read(&key).version, now);
    removed(&node().delete(&key, &[("If-None-Match", "\"x\"")]));
}

#[test]
fn a_conditional_delete_removes_what_it_names_and_nothing_else() {
    let key = fresh("cond");
    let old = node().write(&key, "1");
    let now = node().write(&key, "2");
    problem(&node().delete(&key, &[("If-Match", &etag(&old))]), 412, "precondition-failed");
    assert_eq!(node().read(&key).value, "2");
    removed(&node().delete(&key, &[("If-Match", &etag(&now))]));
    node().absent(&key);
    node().write(&key, "3");
    problem(&node().delete(&key, &[("If-Match", &etag(&now))]), 412, "precondition-failed");
    assert_eq!(node().read(&key).value, "3");
}

#[test]
fn a_read_with_the_current_version_answers_304_without_a_body() {
    let key = fresh("cond");
    let version = node().write(&key, "1");
    let weak = format!("W/{}", etag(&version));
    let list = format!("\"x\", {}", etag(&version));
    let mut client = node().client();
    for tag in [etag(&version).as_str(), weak.as_str(), list.as_str(), "*"] {
        for method in ["GET", "HEAD"] {
            let path = format!("/key/{key}");
            let answer = client.request(method, &path, &[("If-None-Match", tag)], b"").expect("an answer");
            assert_eq!(answer.status, 304, "{method} {tag}");
            assert_eq!(answer.header("etag"), Some(etag(&version).as_str()));
            assert!(answer.header("content-length").is_none_or(|l| l != "0"), "304 tells no false length");
        }
    }
    // The same connection still answers: nothing followed the 304s.
    let get = client.request("GET", &format!("/key/{key}"), &[("If-None-Match", "\"x\"")], b"");
    assert_eq!(entry(&get.expect("an answer")).value, "1");
    node().write(&key, "2");
    assert_eq!(entry(&node().ask("GET", &key, &[("If-None-Match", &etag(&version))], b"")).value, "2");
}

#[test]
fn a_conditional_read_of_nothing_is_404() {
    let key = fresh("cond");
    for tag in ["*", "\"x\""] {
        problem(&node().ask("GET", &key, &[("If-None-Match", tag)], b""), 404, "not-found");
    }
}

#[test]
fn both_conditions_must_hold() {
    let key = fresh("cond");
    let version = node().write(&key, "1");
    refused(&key, &[("If-Match", &etag(&version)), ("If-None-Match", "*")]);
    refused(&key, &[("If-Match", "\"x\""), ("If-None-Match", "\"y\"")]);
    written(
        &node().put_with(&key, &[("If-Match", &etag(&version)), ("If-None-Match", "\"y\"")], BODY),
        &[200],
    );
}

#[test]
fn malformed_conditions_are_refused() {
    let key = fresh("cond");
    let version = node().write(&key, "1");
    let bad =
        [version.as_str(), "\"open", "open\"", "\"a\" \"b\"", "*, \"a\"", "\"a\", *", "w/\"a\"", "W/a", "**"];
    for text in bad {
        for name in ["If-Match", "If-None-Match"] {
            problem(&node().put_with(&key, &[(name, text)], BODY), 400, "invalid-header");
            problem(&node().delete(&key, &[(name, text)]), 400, "invalid-header");
        }
        problem(&node().ask("GET", &key, &[("If-None-Match", text)], b""), 400, "invalid-header");
    }
    assert_eq!(node().read(&key).version, version);
}

#[test]
fn a_refused_body_is_told_before_the_condition_and_changes_nothing() {
    let key = fresh("cond");
    let answer = node().put_with(&key, &[("If-None-Match", "*")], "{\"value\": }");
    problem(&answer, 400, "invalid-body");
    node().absent(&key);
}

#[test]
fn other_headers_of_http_caches_are_no_conditions() {
    let key = fresh("cond");
    node().write(&key, "1");
    let future = "Sun, 06 Nov 2094 08:49:37 GMT";
    let get = node().ask("GET", &key, &[("If-Modified-Since", future), ("Range", "bytes=0-1")], b"");
    assert_eq!(entry(&get).value, "1");
}
