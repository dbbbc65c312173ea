//! Many keys in one answer: what stands in it and in which order, what it costs others, and that a part of it is never
//! taken for the whole.

use std::collections::BTreeSet;
use std::io::Read;
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crate::helpers::{Keys, Own, fresh, members, node, problem};
use crate::support::{Client, Node, Response, SOON, wait_until};

/// The answer to a list that must be whole.
fn list(node: &Node, query: &str) -> Response {
    let answer = node.request("GET", &format!("/keys{query}"), "");
    assert_eq!(answer.status, 200, "{}", answer.text());
    assert_eq!(answer.header("content-type"), Some("application/x-ndjson"));
    assert_eq!(answer.header("transfer-encoding"), Some("chunked"));
    answer
}

/// The keys of a list, in its order.
fn keys(answer: &Response) -> Vec<String> {
    let key = |line: &str| {
        let (name, text) = members(line).swap_remove(0);
        assert_eq!(name, "key");
        serde_json::from_str(&text).expect("a string")
    };
    answer.text().lines().map(key).collect()
}

fn encoded(key: &str) -> String {
    key.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

#[test]
fn a_line_is_what_a_get_of_its_key_answers() {
    let prefix = fresh("list/");
    let put = |key: &str, headers: &[(&str, &str)], body: &str| {
        let answer = node().put_with(&encoded(&format!("{prefix}{key}")), headers, body);
        assert!(matches!(answer.status, 200 | 201), "{}", answer.text());
        answer.json()["version"].as_str().expect("a version").to_owned()
    };
    for key in ["a\nb", "a\"b\\", "a", "größe", "𝄞", " ", "b?c#d&e=f+g", "z"] {
        put(key, &[], "{\"value\": [1e400, -0, 0.10, \"\\u000a\"]}");
    }
    put("spread", &[], "{\"value\": {\n  \"a\":\r\n 1 }}");
    put("large", &[], &format!("{{\"value\": \"{}\"}}", "x".repeat(900_000)));
    put("brief", &[], "{\"value\": null, \"ttl_seconds\": 3600}");
    put("over", &[], "{\"value\": 1, \"ttl_seconds\": 0.001}");
    let first = put("both", &[], "{\"value\": \"left\"}");
    put("both", &[], "{\"value\": \"over it\"}");
    put("both", &[("Causality-Token", &first)], "{\"value\": \"right\"}");
    put("gone", &[], "{\"value\": 1}");
    assert_eq!(node().delete(&encoded(&format!("{prefix}gone")), &[]).status, 200);
    wait_until(SOON, "it has expired", || node().get(&encoded(&format!("{prefix}over"))).status == 404);
    let answer = list(node(), &format!("?prefix={}", encoded(&prefix)));
    let found = keys(&answer);
    let mut expected: Vec<String> =
        ["a\nb", "a\"b\\", "a", "größe", "𝄞", " ", "b?c#d&e=f+g", "z", "spread", "large", "brief", "both"]
            .iter()
            .map(|key| format!("{prefix}{key}"))
            .collect();
    expected.sort_unstable();
    assert_eq!(found, expected, "all of them, in the order of their bytes");
    for (key, line) in found.iter().zip(answer.text().lines()) {
        let one = node().get(&encoded(key));
        assert_eq!(line, one.text().replace(['\n', '\r'], " "), "{key:?}");
    }
    assert!(answer.text().contains("[1e400, -0, 0.10, \"\\u000a\"]"), "digit for digit");
    assert!(answer.text().contains("\"conflicts\":[{\"value\":\"over it\""));
}

#[test]
fn a_list_is_cut_by_prefix_place_and_number() {
    let own = Own::start(&[]);
    let mut client = own.client();
    // More than one stretch of it is read at a time.
    let all: Vec<String> = (0..10_000).map(|n| format!("k{n:05}")).collect();
    for key in &all {
        let put = client.request("PUT", &format!("/key/{key}"), &[], b"{\"value\":1}").expect("an answer");
        assert_eq!(put.status, 201);
    }
    assert_eq!(keys(&list(&own, "")), all);
    assert_eq!(keys(&list(&own, "?limit=9999")), all[..9_999]);
    assert_eq!(keys(&list(&own, "?after=k04999")), all[5_000..]);
    assert_eq!(keys(&list(&own, "?after=k04999&limit=3")), all[5_000..5_003]);
    assert_eq!(keys(&list(&own, "?prefix=k01")), all[1_000..2_000]);
    assert_eq!(keys(&list(&own, "?prefix=k01&after=k01997")), all[1_998..2_000]);
    assert_eq!(keys(&list(&own, "?prefix=k01&after=a&limit=1")), ["k01000"]);
    for nothing in ["?prefix=k01&after=k02", "?prefix=l", "?after=l", "?after=k09999", "?prefix=k00000x"] {
        assert_eq!(keys(&list(&own, nothing)), [""; 0], "{nothing}");
    }
    // Page by page it is the same.
    let (mut paged, mut after) = (Vec::new(), String::new());
    loop {
        let page = keys(&list(&own, &format!("?limit=1234&after={after}")));
        let Some(last) = page.last() else { break };
        after = last.clone();
        paged.extend(page);
    }
    assert_eq!(paged, all);
}

#[test]
fn a_head_and_what_follows_a_list_on_a_connection_are_answered() {
    let key = fresh("list");
    node().write(&key, "1");
    let mut client = node().client();
    let head = client.request("HEAD", &format!("/keys?prefix={key}"), &[], b"").expect("an answer");
    assert_eq!((head.status, head.header("content-type")), (200, Some("application/x-ndjson")));
    let requests = format!(
        "GET /keys?prefix={key} HTTP/1.1\r\nHost: node\r\n\r\nGET /key/{key} HTTP/1.1\r\nHost: node\r\n\r\n"
    );
    client.send(requests.as_bytes()).expect("it is sent");
    let listed = client.receive(false).expect("the list");
    assert_eq!(keys(&listed), [key.as_str()]);
    let got = client.receive(false).expect("the key");
    assert_eq!(format!("{}\n", got.text()), listed.text());
}

#[test]
fn http_1_0_which_shows_no_end_is_refused() {
    let mut client = node().client();
    client.send(b"GET /keys HTTP/1.0\r\n\r\n").expect("it is sent");
    let answer = client.receive(false).expect("an answer");
    problem(&answer, 400, "invalid-request");
}

#[test]
fn a_list_waits_for_what_its_client_has_seen() {
    for path in ["/keys", "/conflicts"] {
        let answer = node().request_with("GET", path, &[("Session-Token", "nonsense")], b"");
        problem(&answer, 400, "invalid-header");
    }
    let key = fresh("list");
    let put = node().put(&key, "{\"value\":1}");
    let token = put.header("session-token").expect("a token").to_owned();
    let path = format!("/keys?prefix={key}");
    let answer = node().request_with("GET", &path, &[("Session-Token", &token)], b"");
    assert_eq!(keys(&answer), [key]);
    // What this node will not have for a long time.
    let ahead = format!(
        "{}-1000000000",
        put.json()["version"].as_str().expect("a version").split('-').next().expect("an id")
    );
    for path in [&path, "/conflicts"] {
        let answer = node().request_with("GET", path, &[("Session-Token", &ahead)], b"");
        problem(&answer, 504, "behind");
        assert!(!answer.text().contains("timeout_ms"), "which it does not take: {}", answer.text());
    }
}

/// A list that its client has begun to read, and does not read on.
fn begun(node: &Node) -> TcpStream {
    let mut client = TcpStream::connect(node.address).expect("the node accepts connections");
    client.set_read_timeout(Some(SOON)).expect("a timeout");
    std::io::Write::write_all(&mut client, b"GET /keys HTTP/1.1\r\nHost: node\r\n\r\n").expect("it is sent");
    let mut head = [0; 15];
    client.read_exact(&mut head).expect("an answer");
    assert_eq!(&head, b"HTTP/1.1 200 OK");
    client
}

/// With more in it than sockets hold.
fn filled() -> Own {
    let own = Own::start(&[]);
    let value = format!("{{\"value\": \"{}\"}}", "x".repeat(1_000_000));
    for n in 0..32 {
        assert_eq!(own.put(&format!("large/{n:02}"), &value).status, 201);
    }
    own
}

#[test]
fn readers_that_take_their_time_hold_up_nobody_and_have_their_number() {
    let own = filled();
    let mut slow: Vec<TcpStream> = (0..4).map(|_| begun(&own)).collect();
    problem(&own.request("GET", "/keys", ""), 503, "busy");
    let start = Instant::now();
    assert_eq!(own.put("other", "{\"value\":1}").status, 201);
    assert_eq!(own.get("large/00").status, 200);
    assert!(start.elapsed() < SOON / 2, "they waited for a slow reader");
    // One goes away, and its place is free.
    drop(slow.pop());
    let mut answer = None;
    wait_until(SOON, "there is room for another list", || {
        let last = own.request("GET", "/keys", "");
        let done = last.status == 200;
        answer = Some(last);
        done
    });
    assert_eq!(keys(&answer.expect("the last one")).len(), 33);
}

#[test]
fn a_node_that_stops_waits_for_no_reader_and_its_lists_end_visibly_cut() {
    let mut own = filled();
    let mut slow = begun(&own);
    let start = Instant::now();
    assert_eq!(own.end().code(), Some(0));
    assert!(start.elapsed().as_millis() < 4_000, "it waited for the reader: {:?}", start.elapsed());
    let mut rest = Vec::new();
    let _ = slow.read_to_end(&mut rest);
    assert!(rest.len() < 32_000_000, "all of it had been sent before");
    assert!(!rest.ends_with(b"\r\n0\r\n\r\n"), "it ends as if it were whole");
}

#[test]
fn what_is_there_all_the_time_is_listed_once_whatever_is_written() {
    let own = Own::start(&[]);
    let mut client = own.client();
    // So large that the node reads them in several stretches.
    let body = |letter: &str| format!("{{\"value\":\"{}\"}}", letter.repeat(400));
    for n in 0..3_000 {
        let put = client.request("PUT", &format!("/key/stays/{n:04}"), &[], body("a").as_bytes());
        assert_eq!(put.expect("an answer").status, 201);
    }
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut client = Client::new(own.address);
            for n in 0.. {
                if done.load(Ordering::Relaxed) {
                    break;
                }
                // Written over, and coming and going between them.
                let (stays, goes) =
                    (format!("/key/stays/{:04}", n % 3_000), format!("/key/stays/{:04}x", n * 7 % 3_000));
                for (method, path) in [("PUT", &stays), ("PUT", &goes), ("DELETE", &goes)] {
                    let body = if method == "PUT" { body("b") } else { String::new() };
                    let answer = client.request(method, path, &[], body.as_bytes());
                    assert!(answer.expect("an answer").status < 300);
                }
            }
        });
        for _ in 0..20 {
            let text = list(&own, "?prefix=stays/");
            assert!(
                text.body.len() > 2 * dynarust::limits::LISTED_BYTES,
                "one stretch was enough: {} bytes",
                text.body.len()
            );
            let found = keys(&text);
            assert!(found.is_sorted_by(|a, b| a < b), "in order, and none twice");
            let found: BTreeSet<&str> =
                found.iter().map(String::as_str).filter(|key| !key.ends_with('x')).collect();
            assert_eq!(found.len(), 3_000);
        }
        done.store(true, Ordering::Relaxed);
    });
}
