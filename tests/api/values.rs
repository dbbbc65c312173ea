//! Values come back byte for byte as the client wrote them: every kind of JSON, numbers digit for digit, up to the
//! size limit.

use crate::helpers::{Keys, Own, Random, fresh, node, problem, written};

/// Puts the text of a value with white space around it and expects the text back without.
fn kept(text: &str) {
    let key = fresh("value");
    let put = node().put(&key, &format!("{{ \"value\" :\r\n\t {text} \n}} "));
    assert_eq!(put.status, 201, "{text}: {}", put.text());
    assert_eq!(node().read(&key).value, text);
}

#[test]
fn every_kind_of_json() {
    for text in ["null", "true", "false", "0", "\"\"", "\"x\"", "[]", "{}", "[null,{\"a\":[]}]", "{\"\":{}}"]
    {
        kept(text);
    }
}

#[test]
fn numbers_are_kept_digit_for_digit() {
    let digits = "9".repeat(400);
    let numbers = [
        "-0",
        "0.10",
        "1E+2",
        "1e2",
        "1e-2",
        "1e400",
        "-1e400",
        "1e-400",
        "0e0",
        "1E00009",
        "100",
        "1.0",
        "1.00",
        "18446744073709551616",
        "-9223372036854775809",
        "0.1000000000000000055511151231257827021181583404541015625",
        "123456789012345678901234567890.12345678901234567890e-12345",
    ];
    for text in numbers.into_iter().chain([digits.as_str()]) {
        kept(text);
        kept(&format!("[{text}, {{\"n\": {text}}}]"));
    }
}

#[test]
fn white_space_inside_is_kept() {
    kept("{ \"a\" :\t[ 1 ,\n 2\r\n] }");
    kept("[ ]");
    kept("{ }");
    kept("\" a  b \"");
}

#[test]
fn strings_are_kept_as_they_were_spelled() {
    for text in [
        r#""A\/\b\f\n\r\t\"\\""#,
        r#""\u0000\u001f""#,
        r#""\ud83e\udd80\uD83E\uDD80""#,
        r#""\u00e9é\u20ac€🦀""#,
        "\"\u{7f}\u{80}\u{2028}\u{feff}\u{ffff}\u{10ffff}\"",
        r#"{"\u0061":1,"b":"\u0062"}"#,
        r#"{"\ud83e\udd80":"🦀"}"#,
    ] {
        kept(text);
    }
}

#[test]
fn the_order_of_members_is_kept() {
    kept(r#"{"z":1,"a":2,"m":{"z":1,"b":2,"a":3},"A":4}"#);
    let many: Vec<String> = (0..2_000).rev().map(|n| format!("\"m{n}\":{n}")).collect();
    kept(&format!("{{{}}}", many.join(",")));
    kept(&format!("[{}]", vec!["0"; 20_000].join(",")));
}

#[test]
fn members_named_like_ours_are_just_members() {
    kept(r#"{"key":1,"value":2,"version":3,"updated_at":4,"ttl_seconds":0,"conflicts":[]}"#);
    kept(r#""\",\"version\":\"x""#);
    // The name serde_json uses inside for raw values must mean nothing.
    kept(r#"{"$serde_json::private::RawValue":"1"}"#);
    kept(r#"{"$serde_json::private::Number":"1"}"#);
}

#[test]
fn member_names_of_the_body_may_be_escaped() {
    let key = fresh("value");
    written(&node().put(&key, r#"{"\u0076alue":1,"ttl\u005fseconds":1000}"#), &[201]);
    let read = node().read(&key);
    assert_eq!(read.value, "1");
    assert!(read.expires_at.is_some());
}

/// A JSON string whose text has exactly `bytes` bytes, none of them predictable by a compressor.
fn string_of(bytes: usize, seed: u64) -> String {
    let mut random = Random::new(seed);
    let inside = (2..bytes).map(|_| char::from(b'a' + random.below(26) as u8)).collect::<String>();
    format!("\"{inside}\"")
}

#[test]
fn values_of_every_size_round_trip() {
    let sizes = [2, 100, 4_095, 4_096, 16_383, 16_384, 16_385, 65_535, 65_536, 65_537, 131_072, 500_000];
    for (seed, bytes) in sizes.into_iter().enumerate() {
        let (key, text) = (fresh("size"), string_of(bytes, seed as u64));
        node().write(&key, &text);
        assert!(node().read(&key).value == text, "{bytes} bytes came back otherwise");
    }
}

#[test]
fn the_largest_value_is_1_mib_by_default() {
    let key = fresh("size");
    let text = string_of(1_048_576, 1);
    let version = node().write(&key, &text);
    assert!(node().read(&key).value == text, "1 MiB comes back byte for byte");
    let answer = node().put(&key, &format!("{{\"value\":{}}}", string_of(1_048_577, 2)));
    problem(&answer, 413, "too-large");
    assert_eq!(node().read(&key).version, version);
    // Large values replaced by small ones and the other way round: no piece of the old one shows.
    node().write(&key, "1");
    assert_eq!(node().read(&key).value, "1");
    let text = string_of(1_000_000, 3);
    node().write(&key, &text);
    assert!(node().read(&key).value == text);
    node().write(&key, &string_of(70_000, 4));
    assert!(node().read(&key).value == string_of(70_000, 4));
}

#[test]
fn a_small_limit_is_exact() {
    let own = Own::start(&["--max-value-bytes", "10"]);
    for (text, status) in [
        ("\"12345678\"", 201),
        ("\"123456789\"", 413),
        ("1234567890", 201),
        ("12345678901", 413),
        ("[1, 2, 34]", 201),
        ("[1, 2, 345]", 413),
        ("\"\u{e9}\u{e9}\u{e9}\u{e9}\"", 201),
        ("\"\u{e9}\u{e9}\u{e9}\u{e9}x\"", 413),
        ("\"\\u00e9\\\\\"", 201),
    ] {
        let key = fresh("limit");
        let answer = own.put(&key, &format!("{{\"value\": {text} , \"ttl_seconds\": 1000}}"));
        assert_eq!(answer.status, status, "{text}: {}", answer.text());
        if status == 413 {
            problem(&answer, 413, "too-large");
            own.absent(&key);
        } else {
            assert_eq!(own.read(&key).value, text);
        }
    }
    // The limit is on the value: white space around it does not count.
    written(&own.put("space", &format!("{{\"value\":{}1}}", " ".repeat(200))), &[201]);
}

#[test]
fn siblings_of_large_values_are_all_shown() {
    let key = fresh("size");
    let base = node().write(&key, "0");
    for seed in 0..3 {
        let body = format!("{{\"value\":{}}}", string_of(300_000, seed));
        written(&node().put_with(&key, &[("Causality-Token", &base)], &body), &[200]);
    }
    let read = node().read(&key);
    assert!(read.value == string_of(300_000, 2));
    let mut others: Vec<&str> = read.conflicts.iter().map(|c| c.value.as_str()).collect();
    others.sort();
    let mut expected = [string_of(300_000, 0), string_of(300_000, 1)];
    expected.sort();
    assert!(others == expected);
}

/// A random JSON text, with white space, escapes and numbers as odd as JSON allows.
fn json(random: &mut Random, depth: usize) -> String {
    let space = |random: &mut Random| *random.pick(&["", "", "", " ", "\n", "\t ", "\r\n"]);
    match random.below(if depth == 0 { 4 } else { 6 }) {
        0 => random.pick(&["null", "true", "false"]).to_string(),
        1 => {
            let sign = *random.pick(&["", "-"]);
            let whole = if random.once_in(4) {
                "0".into()
            } else {
                format!("{}{}", 1 + random.below(9), random.next())
            };
            let part =
                if random.once_in(2) { String::new() } else { format!(".{:05}", random.below(100_000)) };
            let power = *random.pick(&["", "", "e5", "E-0", "e+999", "E07"]);
            format!("{sign}{whole}{part}{power}")
        }
        2 | 3 => {
            let parts = [
                "a",
                "é",
                "🦀",
                "\\n",
                "\\u0000",
                "\\u00E9",
                "\\ud83e\\udd80",
                "\\\"",
                "\\\\",
                "\\/",
                " ",
                "\u{7f}",
            ];
            let inside: String = (0..random.below(12)).map(|_| *random.pick(&parts)).collect();
            format!("\"{inside}\"")
        }
        4 => {
            let items: Vec<String> = (0..random.below(4))
                .map(|_| format!("{}{}{}", space(random), json(random, depth - 1), space(random)))
                .collect();
            format!("[{}{}]", items.join(","), if items.is_empty() { space(random) } else { "" })
        }
        _ => {
            let items: Vec<String> = (0..random.below(4))
                .map(|n| format!("{}\"{n}\"{}:{}", space(random), space(random), json(random, depth - 1)))
                .collect();
            format!("{{{}{}}}", items.join(","), space(random))
        }
    }
}

#[test]
fn random_json_comes_back_byte_for_byte() {
    let mut random = Random::seeded("random_json_comes_back_byte_for_byte");
    let mut client = node().client();
    let path = format!("/key/{}", fresh("random"));
    for _ in 0..400 {
        let text = json(&mut random, 5);
        serde_json::from_str::<&serde_json::value::RawValue>(&text).unwrap_or_else(|e| panic!("{e}: {text}"));
        let body = format!("{{\"value\":{text}}}");
        let put = client.request("PUT", &path, &[], body.as_bytes()).expect("an answer");
        assert!(matches!(put.status, 200 | 201), "{text}: {}", put.text());
        let get = client.request("GET", &path, &[], b"").expect("an answer");
        assert_eq!(crate::helpers::entry(&get).value, text);
    }
}
