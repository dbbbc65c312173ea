//! Bodies that are refused, each with the place of what is wrong, and none of them changes anything.

use std::time::{Duration, Instant};

use crate::helpers::{Keys, fresh, node, place, problem, written};

/// Sends `body` at a key that holds something and expects it refused; the line and column.
fn refused(body: impl AsRef<[u8]>) -> (u64, u64) {
    let body = body.as_ref();
    let key = fresh("body");
    let version = node().write(&key, "\"kept\"");
    let answer = node().ask("PUT", &key, &[], body);
    let shown = String::from_utf8_lossy(&body[..body.len().min(200)]).into_owned();
    assert_eq!(answer.status, 400, "{shown}: {}", String::from_utf8_lossy(&answer.body));
    let read = node().read(&key);
    assert_eq!((read.version, read.value.as_str()), (version, "\"kept\""), "{shown}");
    place(&answer)
}

#[test]
fn what_is_no_json_is_refused() {
    for body in [
        "",
        " ",
        "\n\n",
        "{",
        "}",
        "{}}",
        "{\"value\"}",
        "{\"value\":}",
        "{\"value\":1",
        "{\"value\":1,}",
        "{\"value\" 1}",
        "{value:1}",
        "{'value':1}",
        "{\"value\":'x'}",
        "{\"value\":1;}",
        "{,\"value\":1}",
        "{\"value\":\"open}",
        "value=mydata",
        "<xml/>",
        "{\"value\":undefined}",
        "{\"value\":True}",
        "{\"value\":nul}",
        "{\"value\":nulll}",
        "{\"value\":[1,]}",
        "{\"value\":[,1]}",
        "{\"value\":[1 2]}",
        "{\"value\":{\"a\"}}",
        "{\"value\":{\"a\":1,}}",
        "{\"value\":{1:1}}",
        "{\"value\":[}",
        "{\"value\":[1}}",
        "/* c */{\"value\":1}",
        "{\"value\":1 // c\n}",
        "\u{a0}{\"value\":1}",
        "{\"value\":\u{2028}1}",
        "\0{\"value\":1}",
        "{\"value\":1}\0",
    ] {
        refused(body);
    }
}

#[test]
fn numbers_that_json_does_not_know_are_refused() {
    for number in [
        "01",
        "-01",
        "00",
        "1.",
        ".5",
        "+1",
        "-",
        "--1",
        "1e",
        "1e+",
        "1.e5",
        "0x10",
        "NaN",
        "Infinity",
        "-Infinity",
        "1_000",
    ] {
        refused(format!("{{\"value\":{number}}}"));
        refused(format!("{{\"value\":[{number}]}}"));
        refused(format!("{{\"value\":1,\"ttl_seconds\":{number}}}"));
    }
}

#[test]
fn strings_that_json_does_not_know_are_refused() {
    for inside in [
        "\n",
        "\t",
        "\0",
        "\u{1f}",
        "\\x41",
        "\\'",
        "\\",
        "\\u12",
        "\\u00g0",
        "\\U0041",
        "\\ud800",
        "\\udc00",
        "\\ud800\\ud800",
        "\\ud800x",
        "\\ud800\\n",
        "\\udc00\\ud800",
        "\\ud83e \\udd80",
    ] {
        refused(format!("{{\"value\":\"{inside}\"}}"));
        refused(format!("{{\"value\":{{\"{inside}\":1}}}}"));
        refused(format!("{{\"value\":[[\"ok\",\"{inside}\"]]}}"));
        refused(format!("{{\"value\":1,\"{inside}\":1}}"));
    }
}

#[test]
fn bytes_that_are_not_utf_8_are_refused() {
    for bytes in [&b"\xff"[..], b"\xc3", b"\xc0\x80", b"\xed\xa0\x80", b"\xf4\x90\x80\x80", b"a\x80"] {
        refused([b"{\"value\":\"", bytes, b"\"}"].concat());
        refused([b"{\"value\":{\"", bytes, b"\":1}}"].concat());
        refused([b"{\"value\":1}", bytes].concat());
        refused([bytes, b"{\"value\":1}"].concat());
    }
    let (line, column) = refused(b"{\n \"value\": \"ab\xff\"\n}");
    assert_eq!(line, 2);
    assert!((12..=17).contains(&column), "{column}");
    // A byte-order mark is not JSON (RFC 8259), and other encodings are not UTF-8.
    refused(b"\xef\xbb\xbf{\"value\":1}");
    let wide: Vec<u8> = "{\"value\":1}".encode_utf16().flat_map(u16::to_le_bytes).collect();
    refused(wide);
}

#[test]
fn what_is_no_object_is_refused() {
    for body in ["null", "1", "true", "\"x\"", "[]", "[{\"value\":1}]", "[\"value\",1]", "[1, null]"] {
        refused(body);
    }
}

#[test]
fn a_body_needs_a_value() {
    for body in ["{}", "{ }", "{\"ttl_seconds\":5}"] {
        let key = fresh("body");
        let answer = node().put(&key, body);
        let problem = problem(&answer, 400, "invalid-body");
        assert!(problem["detail"].as_str().is_some_and(|d| d.contains("value")), "{problem}");
        assert_eq!(place(&answer).0, 1);
        node().absent(&key);
    }
}

#[test]
fn unknown_members_are_refused() {
    for name in
        ["vlaue", "Value", "VALUE", "value ", "", "ttl", "ttlSeconds", "TTL_seconds", "key", "version", "_"]
    {
        let (line, column) = refused(format!("{{\"value\": 1,\n  \"{name}\": 2}}"));
        assert_eq!(line, 2, "{name}");
        assert!((3..=9 + name.len() as u64).contains(&column), "{name}: {column}");
        refused(format!("{{\"{name}\":1}}"));
        refused(format!("{{\"{name}\":1,\"value\":1}}"));
    }
}

#[test]
fn duplicate_members_are_refused_at_any_depth_and_in_any_spelling() {
    for body in [
        r#"{"value":1,"value":1}"#,
        r#"{"value":1,"value":2}"#,
        r#"{"value":null,"value":null}"#,
        r#"{"value":1,"valu\u0065":2}"#,
        r#"{"ttl_seconds":5,"value":1,"ttl_seconds":5}"#,
        r#"{"ttl_seconds":5,"ttl\u005Fseconds":6,"value":1}"#,
        r#"{"value":{"a":1,"a":1}}"#,
        r#"{"value":{"a":1,"b":2,"\u0061":3}}"#,
        r#"{"value":{"":1,"":2}}"#,
        r#"{"value":{"é":1,"\u00e9":2}}"#,
        r#"{"value":{"🦀":1,"\ud83e\udd80":2}}"#,
        r#"{"value":{"a/b":1,"a\/b":2}}"#,
        r#"{"value":[0,{"b":{"c":[{"x":{},"y":1,"x":[]}]}}]}"#,
        r#"{"value":{"a":{"b":1},"a":{"c":2}}}"#,
    ] {
        refused(body);
    }
    let many: Vec<String> = (0..5_000).map(|n| format!("\"m{n}\":0")).collect();
    refused(format!("{{\"value\":{{{},\"m17\":1}}}}", many.join(",")));
}

#[test]
fn the_same_name_in_different_objects_is_no_duplicate() {
    let body = r#"{"value":{"a":{"a":{"a":1}},"value":[{"a":1},{"a":2}],"A":1,"a ":1,"\\u0061":1}}"#;
    written(&node().put(&fresh("body"), body), &[201]);
}

#[test]
fn places_are_right() {
    // What is wrong, its line, and from where to where its token goes.
    let cases = [
        ("{\"value\": @}", 1, 11, 11),
        ("@", 1, 1, 1),
        ("{\n\n  \"value\": 1 @\n}", 3, 14, 14),
        ("{\"value\": {\n  \"b\": {\n\t\t\"c\": ?}}}", 3, 8, 8),
        ("{\"value\": 1,\r\n  \"value\": 2}", 2, 3, 10),
        ("{\"value\": {\n    \"a\": 1,\n    \"b\": 2,\n    \"a\": 3\n}}", 4, 5, 8),
        ("{\"value\": 1}\n\n x", 3, 2, 2),
        ("{\"value\": 01}", 1, 11, 12),
        ("{\"value\": \"\\ud800\"}", 1, 11, 19),
    ];
    for (body, line, from, to) in cases {
        let (at, column) = refused(body);
        assert_eq!(at, line, "the line in {body:?}, column {column}");
        assert!((from..=to).contains(&column), "the column in {body:?}: {column} is not in {from}..={to}");
    }
}

#[test]
fn the_place_of_an_early_end_is_the_end() {
    let cases = [
        ("{\"value\": 1", 12),
        ("{\"value\": ", 11),
        ("{\"value\": [1, 2", 16),
        ("{\"value\": \"abc", 15),
        // Or where the token began that has no end.
        ("{\"value\": tr", 11),
    ];
    for (body, from) in cases {
        let (line, column) = refused(body);
        assert_eq!(line, 1, "{body}");
        assert!((from..=body.len() as u64 + 1).contains(&column), "{body}: {column}");
    }
}

fn nested(open: &str, close: &str, levels: usize) -> String {
    format!("{{\"value\":{}1{}}}", open.repeat(levels), close.repeat(levels))
}

#[test]
fn a_body_may_be_128_levels_deep_and_no_deeper() {
    for (open, close) in [("[", "]"), ("{\"a\":", "}"), ("[{\"a\":", "}]")] {
        let each = if open.len() > 5 { 2 } else { 1 };
        let key = fresh("deep");
        // The body itself is the first level.
        let body = nested(open, close, 126 / each);
        written(&node().put(&key, &body), &[201]);
        assert_eq!(node().read(&key).value, body[9..body.len() - 1]);
        refused(nested(open, close, 130 / each));
    }
    written(&node().put(&fresh("deep"), &nested("[", "]", 127)), &[201]);
    refused(nested("[", "]", 128));
    // Depth is not length: closing again and again is fine.
    written(&node().put(&fresh("deep"), &format!("{{\"value\":[{}[]]}}", "[[]],".repeat(1_000))), &[201]);
}

#[test]
fn depth_bombs_are_refused_quickly() {
    for open in ["[", "{\"a\":", "[{\"a\":", "[[],"] {
        for close in ["", "]"] {
            let body = format!("{{\"value\":{}{}", open.repeat(100_000), close.repeat(100_000));
            let key = fresh("bomb");
            let start = Instant::now();
            problem(&node().put(&key, &body), 400, "invalid-body");
            assert!(start.elapsed() < Duration::from_secs(5), "{open}: {:?}", start.elapsed());
            node().absent(&key);
        }
    }
    let start = Instant::now();
    let answer = node().put(&fresh("bomb"), &"[".repeat(100_000));
    problem(&answer, 400, "invalid-body");
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
fn many_members_are_checked_quickly() {
    // A check for duplicates that compared each with each would take minutes here.
    let many: Vec<String> = (0..80_000).map(|n| format!("\"{n}\":0")).collect();
    let start = Instant::now();
    let body = format!("{{\"value\":{{{}}}}}", many.join(","));
    assert!(body.len() < 1 << 20);
    written(&node().put(&fresh("members"), &body), &[201]);
    assert!(start.elapsed() < Duration::from_secs(5), "{:?}", start.elapsed());
}
