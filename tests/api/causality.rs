//! Causality tokens: what a write saw it replaces, what it did not see stays beside it as a conflict, and bad
//! tokens change nothing.

use crate::helpers::{Keys, Own, dots, etag, fresh, node, problem, removed, written};

/// A write that saw `token`; its version.
fn write_seen(key: &str, token: &str, value: &str) -> String {
    let answer = node().put_with(key, &[("Causality-Token", token)], &format!("{{\"value\":{value}}}"));
    written(&answer, &[200]).version
}

/// A key with two siblings, `"a"` and `"b"`, of which `"b"` is the newer: key, base, and the versions of both.
fn siblings() -> (String, String, String, String) {
    let key = fresh("causal");
    let base = node().write(&key, "\"base\"");
    let a = write_seen(&key, &base, "\"a\"");
    let b = write_seen(&key, &base, "\"b\"");
    (key, base, a, b)
}

#[test]
fn writes_that_did_not_see_each_other_are_both_kept() {
    let (key, _, a, b) = siblings();
    let read = node().read(&key);
    assert_eq!(read.value, "\"b\"", "the later one wins");
    assert_eq!(read.conflicts.len(), 1);
    let other = &read.conflicts[0];
    assert_eq!((other.value.as_str(), other.version.as_str()), ("\"a\"", a.as_str()));
    assert!(other.updated_at <= read.updated_at);
    assert_eq!(other.origin, read.origin);
    let mut both = vec![a, b];
    both.sort();
    assert_eq!(dots(&read.version), both, "the version names both");
}

/// Who is refused is told what the key holds, and must not be told less by the next node that it asks.
#[test]
fn refusals_that_tell_of_the_key_carry_a_session_as_well() {
    let (key, ..) = siblings();
    let path = format!("/key/{key}");
    let body: &[u8] = b"{\"value\":1}";
    let newest = dots(&node().read(&key).version).into_iter().max().expect("a version");
    for (method, headers, status) in [
        ("GET", ("If-Match", "\"0000000000000001-1\""), 412),
        ("PUT", ("If-None-Match", "*"), 412),
        ("PUT", ("If-Match", "\"0000000000000001-1\""), 412),
        ("DELETE", ("If-Match", "\"0000000000000001-1\""), 412),
    ] {
        let answer = node().request_with(method, &path, &[headers], if method == "PUT" { body } else { b"" });
        assert_eq!(answer.status, status, "{method}: {}", answer.text());
        let token = answer.header("session-token").unwrap_or_else(|| panic!("{method} {status}: no token"));
        let (origin, seq) = newest.split_once('-').expect("a dot");
        let its = token.split(',').find_map(|dot| dot.trim().strip_prefix(origin)?.strip_prefix('-'));
        let covers = its.and_then(|its| its.parse::<u64>().ok()) >= seq.parse().ok();
        assert!(covers, "{method}: {token} does not cover {newest}");
    }
    let missing = node().request("DELETE", &format!("/key/{}", fresh("causal")), "");
    assert!(missing.status == 404 && missing.header("session-token").is_some(), "{}", missing.text());
    let listed = node().request("GET", "/conflicts", "");
    assert!(listed.header("session-token").is_some(), "{}", listed.text());
}

/// On a node of its own: the list is of all keys.
#[test]
fn keys_with_siblings_are_listed() {
    let own = Own::start(&[]);
    let conflicts = |query: &str| {
        let answer = own.request("GET", &format!("/conflicts{query}"), "");
        assert_eq!(answer.status, 200, "{}", answer.text());
        answer.json()
    };
    own.write("plain", "1");
    assert_eq!(conflicts("")["keys"].as_array().map(Vec::len), Some(0));
    let twice = |key: &str| {
        let base = own.write(key, "0");
        for value in ["1", "2"] {
            let token = [("Causality-Token", base.as_str())];
            assert_eq!(own.put_with(key, &token, &format!("{{\"value\":{value}}}")).status, 200);
        }
    };
    let (keys, paths) = (["a b", "c/d", "ü"], ["a%20b", "c/d", "%C3%BC"]);
    paths.iter().for_each(|key| twice(key));
    let all = conflicts("");
    let shown: Vec<_> =
        all["keys"].as_array().expect("a list").iter().map(|one| one["key"].clone()).collect();
    assert_eq!((shown, all.get("next")), (keys.map(Into::into).to_vec(), None));
    let first = &all["keys"][0];
    assert_eq!(first["siblings"].as_array().map(Vec::len), Some(2), "{first}");
    assert_eq!(first["version"], own.read("a%20b").version.as_str());
    // Page by page, each from where the last one ended.
    let page = conflicts("?limit=2");
    assert_eq!((page["keys"].as_array().map(Vec::len), &page["next"]), (Some(2), &"c/d".into()));
    let page = conflicts("?limit=2&after=c%2Fd");
    assert_eq!((&page["keys"][0]["key"], page.get("next")), (&"ü".into(), None));
    for query in ["?limit=0", "?limit=1001", "?limit=x", "?limit=1&limit=1", "?what=1"] {
        let answer = own.request("GET", &format!("/conflicts{query}"), "");
        problem(&answer, 400, "invalid-parameter");
    }
    // Whoever writes over both has settled it.
    for key in paths {
        own.write(key, "9");
    }
    assert_eq!(conflicts("")["keys"].as_array().map(Vec::len), Some(0));
}

#[test]
fn a_write_without_a_token_resolves_all() {
    let (key, ..) = siblings();
    let version = node().write(&key, "\"end\"");
    let read = node().read(&key);
    assert_eq!((read.value.as_str(), read.version, read.conflicts.len()), ("\"end\"", version, 0));
}

#[test]
fn the_token_of_a_read_resolves_what_that_read_showed() {
    let (key, base, a, _) = siblings();
    let seen = node().read(&key).version;
    let c = write_seen(&key, &base, "\"c\"");
    let merged = write_seen(&key, &seen, "\"merged\"");
    let read = node().read(&key);
    assert_eq!(read.value, "\"merged\"");
    let rest: Vec<_> = read.conflicts.iter().map(|s| s.version.as_str()).collect();
    assert_eq!(rest, [c.as_str()], "what it had not seen stays");
    assert_eq!(dots(&read.version), dots(&format!("{c}.{merged}")));
    assert!(!dots(&read.version).contains(&a));
}

#[test]
fn a_token_of_one_sibling_replaces_that_one() {
    let (key, _, a, b) = siblings();
    let c = write_seen(&key, &a, "\"c\"");
    let read = node().read(&key);
    assert_eq!(read.value, "\"c\"");
    assert_eq!(dots(&read.version), dots(&format!("{b}.{c}")));
    assert_eq!(read.conflicts[0].value, "\"b\"");
}

#[test]
fn a_write_s_own_version_as_token_keeps_siblings_it_never_saw() {
    let (key, _, a, b) = siblings();
    let next = write_seen(&key, &b, "\"b2\"");
    let read = node().read(&key);
    assert_eq!(read.conflicts.len(), 1, "the writer of b never saw a: {read:?}");
    assert_eq!(dots(&read.version), dots(&format!("{a}.{next}")));
}

#[test]
fn a_token_of_the_current_version_makes_no_siblings() {
    let key = fresh("causal");
    let mut version = node().write(&key, "0");
    for round in 1..10 {
        version = write_seen(&key, &version, &round.to_string());
        let read = node().read(&key);
        assert_eq!((read.value, read.conflicts.len()), (round.to_string(), 0));
    }
}

#[test]
fn a_delete_with_a_token_keeps_the_sibling() {
    let (key, _, a, b) = siblings();
    removed(&node().delete(&key, &[("Causality-Token", &b)]));
    let read = node().read(&key);
    assert_eq!((read.value.as_str(), read.version.as_str(), read.conflicts.len()), ("\"a\"", a.as_str(), 0));
    removed(&node().delete(&key, &[("Causality-Token", &a)]));
    node().absent(&key);
}

#[test]
fn a_delete_without_a_token_removes_all_siblings() {
    let (key, ..) = siblings();
    removed(&node().delete(&key, &[]));
    node().absent(&key);
    problem(&node().delete(&key, &[]), 404, "not-found");
}

#[test]
fn a_delete_of_all_a_read_showed_removes_all() {
    let (key, ..) = siblings();
    let seen = node().read(&key).version;
    removed(&node().delete(&key, &[("Causality-Token", &seen)]));
    node().absent(&key);
}

#[test]
fn a_delete_never_removes_what_its_token_does_not_name() {
    let key = fresh("causal");
    let base = node().write(&key, "1");
    let now = node().write(&key, "2");
    problem(&node().delete(&key, &[("Causality-Token", &base)]), 409, "causality-token-spent");
    let read = node().read(&key);
    assert_eq!((read.value.as_str(), read.version), ("2", now));
    // With nothing there, it is as without a token.
    removed(&node().delete(&key, &[]));
    problem(&node().delete(&key, &[("Causality-Token", &base)]), 404, "not-found");
}

#[test]
fn a_write_that_saw_a_deleted_version_creates_the_key() {
    let key = fresh("causal");
    let base = node().write(&key, "1");
    removed(&node().delete(&key, &[]));
    let answer = node().put_with(&key, &[("Causality-Token", &base)], "{\"value\":2}");
    let version = written(&answer, &[201]).version;
    let read = node().read(&key);
    assert_eq!((read.value.as_str(), read.version, read.conflicts.len()), ("2", version, 0));
}

#[test]
fn a_delete_s_version_is_a_token_too() {
    let key = fresh("causal");
    node().write(&key, "1");
    let (_, gone) = removed(&node().delete(&key, &[]));
    let answer = node().put_with(&key, &[("Causality-Token", &gone)], "{\"value\":2}");
    written(&answer, &[201]);
    assert_eq!(node().read(&key).value, "2");
}

#[test]
fn the_token_of_another_key_replaces_nothing() {
    let (key, other) = (fresh("causal"), fresh("causal"));
    let kept = node().write(&key, "1");
    let foreign = node().write(&other, "2");
    let added = write_seen(&key, &foreign, "3");
    let read = node().read(&key);
    assert_eq!(dots(&read.version), dots(&format!("{kept}.{added}")), "it saw nothing of this key");
    assert_eq!(node().read(&other).value, "2");
}

#[test]
fn thirty_two_siblings_are_shown_and_resolved_and_more_are_refused() {
    let key = fresh("causal");
    let base = node().write(&key, "\"base\"");
    let versions: Vec<String> = (0..32).map(|n| write_seen(&key, &base, &n.to_string())).collect();
    let more = node().put_with(&key, &[("Causality-Token", &base)], "{\"value\":32}");
    problem(&more, 409, "too-many-siblings");
    let read = node().read(&key);
    assert_eq!(read.value, "31");
    assert_eq!(dots(&read.version), dots(&versions.join(".")));
    let answer = node().put_with(&key, &[("Causality-Token", &read.version)], "{\"value\":\"end\"}");
    written(&answer, &[200]);
    assert_eq!(node().read(&key).conflicts.len(), 0);
}

#[test]
fn malformed_tokens_are_refused() {
    let key = fresh("causal");
    let version = node().write(&key, "1");
    let (origin, seq) = version.split_once('-').expect("origin-seq");
    let bad = [
        "".to_owned(),
        "abc".to_owned(),
        origin.to_owned(),
        format!("{origin}-"),
        format!("{origin}-x"),
        format!("{origin}--1"),
        format!("{origin}-+1"),
        format!("{origin}-{seq}."),
        format!(".{origin}-{seq}"),
        format!("{version}..{version}"),
        format!("{version},{version}"),
        format!("{version} {version}"),
        format!("{}-{seq}", &origin[1..]),
        format!("0{origin}-{seq}"),
        format!("g{}-{seq}", &origin[1..]),
        format!("{origin}-99999999999999999999999"),
        "*".to_owned(),
    ];
    for token in &bad {
        let answer = node().put_with(&key, &[("Causality-Token", token)], "{\"value\":2}");
        assert_eq!(answer.status, 400, "token {token:?}: {}", answer.text());
        problem(&answer, 400, "invalid-header");
        problem(&node().delete(&key, &[("Causality-Token", token)]), 400, "invalid-header");
    }
    // One of two tokens ignored in silence would replace less, or more, than the client meant.
    let twice = [("Causality-Token", version.as_str()), ("Causality-Token", version.as_str())];
    problem(&node().put_with(&key, &twice, "{\"value\":2}"), 400, "invalid-header");
    problem(&node().put_with(&key, &[("Causality-Token", "\u{e9}")], "{\"value\":2}"), 400, "invalid-header");
    assert_eq!(node().read(&key).version, version);
}

#[test]
fn tokens_of_events_unknown_here_are_refused() {
    let key = fresh("causal");
    let version = node().write(&key, "1");
    let (origin, _) = version.split_once('-').expect("origin-seq");
    let ahead = [
        format!("{origin}-999999999999"),
        "00000000deadbeef-1".to_owned(),
        format!("{version}.00000000deadbeef-1"),
    ];
    for token in &ahead {
        let answer = node().put_with(&key, &[("Causality-Token", token)], "{\"value\":2}");
        problem(&answer, 409, "causality-token-ahead");
        problem(&node().delete(&key, &[("Causality-Token", token)]), 409, "causality-token-ahead");
    }
    assert_eq!(node().read(&key).version, version);
}

#[test]
fn conditions_hold_for_all_siblings_together() {
    let (key, _, a, b) = siblings();
    let seen = node().read(&key).version;
    for part in [&a, &b] {
        let answer = node().put_with(&key, &[("If-Match", &etag(part))], "{\"value\":1}");
        problem(&answer, 412, "precondition-failed");
    }
    let answer = node().ask("GET", &key, &[("If-None-Match", &etag(&seen))], b"");
    assert_eq!(answer.status, 304);
    let headers = [("If-Match", etag(&seen)), ("Causality-Token", b.clone())];
    let headers = headers.each_ref().map(|(n, v)| (*n, v.as_str()));
    let new = written(&node().put_with(&key, &headers, "{\"value\":1}"), &[200]).version;
    assert_eq!(dots(&node().read(&key).version), dots(&format!("{a}.{new}")));
}

#[test]
fn siblings_larger_than_the_room_for_answers_can_be_read() {
    let own = Own::start(&["--max-value-bytes", "67108864"]);
    let base = own.write("key", "1");
    let large = |letter: &str| format!("{{\"value\":{:?}}}", letter.repeat(40_000_000));
    for letter in ["a", "b"] {
        let answer = own.put_with("key", &[("Causality-Token", &base)], &large(letter));
        written(&answer, &[200]);
    }
    let answer = own.request("GET", "/key/key", "");
    assert_eq!(answer.status, 200);
    assert!(answer.body.len() > 80_000_000);
}
