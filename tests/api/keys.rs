//! Keys as they stand in a path: percent-encoding, slashes, dots, Unicode, limits, and what is refused.

use crate::helpers::{Keys, fresh, node, problem, removed, written};

/// Writes through one spelling, reads the decoded key back, and removes it.
fn holds(path: &str, key: &str) {
    let value = serde_json::to_string(path).expect("a string");
    let put = node().put(path, &format!("{{\"value\":{value}}}"));
    assert_eq!(put.status, 201, "/key/{path}: {}", put.text());
    assert_eq!(written(&put, &[201]).key, key, "/key/{path}");
    let read = node().read(path);
    assert_eq!((read.key.as_str(), read.value), (key, value), "/key/{path}");
    assert_eq!(removed(&node().delete(path, &[])).0, key);
    node().absent(path);
}

fn refused(path: &str) {
    for method in ["GET", "HEAD", "PUT", "DELETE"] {
        let answer = node().ask(method, path, &[], if method == "PUT" { b"{\"value\":1}" } else { b"" });
        if method == "HEAD" {
            assert_eq!(answer.status, 400, "HEAD /key/{path}");
        } else {
            assert_eq!(answer.status, 400, "{method} /key/{path}: {}", answer.text());
            problem(&answer, 400, "invalid-key");
        }
    }
}

#[test]
fn percent_encoded_bytes_are_decoded_once() {
    holds("enc%20space", "enc space");
    holds("enc%3Fquery%23hash", "enc?query#hash");
    holds("enc%25percent", "enc%percent");
    holds("enc%2541", "enc%41");
    holds("enc%252F", "enc%2F");
    holds("%41%62%63-enc", "Abc-enc");
    holds("enc%22%5C%0A%09quote", "enc\"\\\n\tquote");
    holds("enc%00nul", "enc\0nul");
    holds("%00", "\0");
    holds("enc+plus", "enc+plus");
    holds("enc%2Bplus", "enc+plus");
    holds("enc%7F", "enc\u{7f}");
    holds("enc%c3%a9", "encé");
    holds("%E2%82%AC%F0%9F%A6%80", "€🦀");
    holds("e%CC%81", "e\u{301}");
    holds("%F4%8F%BF%BF", "\u{10ffff}");
    holds("%EF%BB%BFbom", "\u{feff}bom");
    holds("enc!$&'()*,;=:@-._~", "enc!$&'()*,;=:@-._~");
}

#[test]
fn slashes_and_dots_are_part_of_the_key() {
    holds("a/b/c", "a/b/c");
    holds("a%2Fb%2fd", "a/b/d");
    holds("/", "/");
    holds("//", "//");
    holds("lead//in//", "lead//in//");
    holds("/absolute", "/absolute");
    holds("tail/", "tail/");
    holds(".", ".");
    holds("..", "..");
    holds("../stats", "../stats");
    holds("a/../b", "a/../b");
    holds("a/./c", "a/./c");
    holds("%2e%2e", "..");
    holds("a/%2E%2E/d", "a/../d");
    holds("key/key/x", "key/key/x");
}

#[test]
fn two_spellings_are_one_key() {
    let key = fresh("spelling");
    let version = node().write(&format!("{key}/x"), "1");
    assert_eq!(node().read(&format!("{key}%2Fx")).version, version);
    assert_eq!(node().read(&format!("{key}%2fx")).version, version);
    assert_eq!(node().read(&format!("%{:02X}{}/%78", key.as_bytes()[0], &key[1..])).version, version);
    for other in [format!("{key}//x"), format!("{key}/X"), format!("{key}/x/"), format!("{key}/./x"), key] {
        node().absent(&other);
    }
}

#[test]
fn case_and_normal_form_are_kept_apart() {
    let key = fresh("form");
    for (n, tail) in ["x", "X", "%C3%A9", "e%CC%81", "%C3%89"].iter().enumerate() {
        written(&node().put(&format!("{key}{tail}"), &format!("{{\"value\":{n}}}")), &[201]);
    }
    for (n, tail) in ["x", "X", "%C3%A9", "e%CC%81", "%C3%89"].iter().enumerate() {
        assert_eq!(node().read(&format!("{key}{tail}")).value, n.to_string());
    }
}

#[test]
fn a_key_has_1_to_1024_bytes() {
    let long = "k".repeat(1_024);
    holds(&long, &long);
    refused(&format!("{long}k"));
    // Bytes are counted decoded: three characters of the path are one byte, and one character can be four.
    holds(&"%6B".repeat(1_023), &"k".repeat(1_023));
    let crabs = "%F0%9F%A6%80".repeat(256);
    holds(&crabs, &"🦀".repeat(256));
    refused(&format!("{crabs}k"));
    refused(&"%F0%9F%A6%80".repeat(257));
    refused("");
}

#[test]
fn what_is_not_utf_8_is_refused() {
    for path in
        ["%FF", "%C3", "a%C3b", "%C0%80", "%ED%A0%80", "%F4%90%80%80", "%80", "x%E2%82", "%F8%88%80%80%80"]
    {
        refused(path);
    }
}

#[test]
fn broken_percent_encoding_is_refused() {
    for path in ["%Z", "%", "a%", "a%4", "%GG", "%4G/b", "%%41", "a%2", "%+1", "%-1", "%25%"] {
        refused(path);
    }
}

#[test]
fn raw_utf_8_in_a_path_is_the_same_key_or_refused() {
    let key = fresh("raw");
    let answer = node().put(&format!("{key}é"), "{\"value\":1}");
    assert!(matches!(answer.status, 201 | 400), "{}", answer.status);
    if answer.status == 201 {
        assert_eq!(written(&answer, &[201]).key, format!("{key}é"));
        assert_eq!(node().read(&format!("{key}%C3%A9")).value, "1");
    }
}

#[test]
fn the_query_is_no_part_of_the_key() {
    let key = fresh("query");
    written(&node().put(&format!("{key}?w=1"), "{\"value\":1}"), &[201]);
    assert_eq!(node().read(&key).key, key);
    node().absent(&format!("{key}%3Fw=1"));
}
