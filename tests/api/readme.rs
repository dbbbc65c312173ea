//! The README's commands as they stand: with real curl where it is installed, and always with the bytes that curl
//! sends.

use std::process::{Command, Stdio};

use crate::helpers::{Keys, Own, entry, members, names, node, problem, removed, written};
use crate::support::{Node, SOON, wait_until};

/// Runs one of the README's lines through a shell, against this node; what it prints.
fn shell(node: &Node, line: &str) -> String {
    let line = line.replace("localhost:6660", &node.address.to_string()).replacen("curl ", "curl -sS ", 1);
    let mut child = Command::new("sh").args(["-c", &line]).stdout(Stdio::piped()).spawn().expect("a shell");
    wait_until(SOON, &line, || child.try_wait().expect("it can be waited for").is_some());
    let output = child.wait_with_output().expect("its output");
    assert!(output.status.success(), "{line}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

#[test]
fn curl_works_as_the_readme_says() {
    if Command::new("curl").arg("--version").stdout(Stdio::null()).status().is_err() {
        println!("SKIPPED: curl is not installed");
        return;
    }
    let own = Own::start(&[]);
    let put = r#"curl -X PUT http://localhost:6660/key/mykey -d '{"value": "mydata"}'"#;
    let readme = include_str!("../../README.md");
    let lines: Vec<&str> = readme.lines().filter(|line| line.starts_with("curl ")).collect();
    let tested = [
        put,
        "curl http://localhost:6660/key/mykey",
        "curl -X DELETE http://localhost:6660/key/mykey",
        "curl http://localhost:6660/membership",
        "curl http://localhost:6661/membership",
    ];
    assert_eq!(lines, tested, "the README and this test show the same commands");
    let first = shell(&own, put);
    assert_eq!(names(&members(&first)), ["key", "version", "replicas"]);
    assert_eq!(own.read("mykey").value, r#""mydata""#);
    let got = members(&shell(&own, "curl http://localhost:6660/key/mykey"));
    assert_eq!(got[0], ("key".into(), r#""mykey""#.into()));
    assert_eq!(got[1], ("value".into(), r#""mydata""#.into()));
    let deleted = shell(&own, "curl -X DELETE http://localhost:6660/key/mykey");
    assert_eq!(names(&members(&deleted)), ["key", "version", "replicas"]);
    let missing = shell(&own, "curl http://localhost:6660/key/mykey");
    assert_eq!(names(&members(&missing)), ["type", "title", "status", "detail"]);
    let membership = shell(&own, "curl http://localhost:6660/membership");
    assert_eq!(names(&members(&membership)), ["cluster", "self", "members"]);
    let address = own.address.to_string();
    let second = Own::start(&[address.as_str()]);
    let line = "curl http://localhost:6661/membership".replace("6661", "6660");
    wait_until(SOON, "the second node knows both", || {
        shell(&second, &line).matches("\"address\"").count() == 2
    });
    let head = shell(&own, "curl -I http://localhost:6660/membership");
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
}

#[test]
fn curl_sends_a_large_value_and_reads_it_back() {
    if Command::new("curl").arg("--version").stdout(Stdio::null()).status().is_err() {
        println!("SKIPPED: curl is not installed");
        return;
    }
    // Over 1 MiB of body curl asks for `100 Continue` first; from stdin with `-T -` it sends chunks.
    let own = Own::start(&["--max-value-bytes", "3000000"]);
    let value = format!("\"{}\"", "v".repeat(2_000_000));
    let file = own.dir.path().with_extension("body");
    std::fs::write(&file, format!("{{\"value\": {value}}}")).expect("a file");
    let url = "http://localhost:6660/key/large";
    let put = shell(&own, &format!("curl -X PUT {url} --data-binary @{}", file.display()));
    assert_eq!(names(&members(&put)), ["key", "version", "replicas"]);
    assert!(own.read("large").value == value);
    shell(&own, &format!("curl -X DELETE {url}"));
    let put = shell(&own, &format!("curl -T - {url} < {}", file.display()));
    assert_eq!(names(&members(&put)), ["key", "version", "replicas"]);
    assert!(own.read("large").value == value);
    std::fs::remove_file(file).expect("it is there");
}

#[test]
fn the_bytes_of_curl_work_with_its_form_type() {
    let own = Own::start(&[]);
    let headers = [
        ("User-Agent", "curl/7.88.1"),
        ("Accept", "*/*"),
        ("Content-Type", "application/x-www-form-urlencoded"),
    ];
    written(&own.put_with("mykey", &headers, r#"{"value": "mydata"}"#), &[201]);
    assert_eq!(entry(&own.ask("GET", "mykey", &headers[..2], b"")).value, r#""mydata""#);
    assert_eq!(removed(&own.delete("mykey", &headers[..2])).0, "mykey");
    problem(&own.get("mykey"), 404, "not-found");
}

#[test]
fn a_body_is_json_whatever_its_type_says() {
    let types = [
        "text/plain",
        "application/json; charset=utf-8",
        "application/xml",
        "multipart/form-data",
        "nonsense",
    ];
    for (round, kind) in types.into_iter().enumerate() {
        let key = crate::helpers::fresh("typed");
        written(
            &node().put_with(&key, &[("Content-Type", kind)], &format!("{{\"value\": {round}}}")),
            &[201],
        );
        assert_eq!(node().read(&key).value, round.to_string(), "{kind}");
    }
    let key = crate::helpers::fresh("typed");
    written(&node().put_with(&key, &[], "{\"value\": 1}"), &[201]);
    let accept = node().ask("GET", &key, &[("Accept", "text/html"), ("Accept-Encoding", "gzip, br")], b"");
    assert_eq!(entry(&accept).value, "1", "there is one representation, and it is not compressed");
}
