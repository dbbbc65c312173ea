//! Proof by strace that an acknowledged write is on the disk: between the arrival of each single request and its
//! answer there is a finished `fdatasync` of the database file, and sled's own `sync_file_range` never happens.

use crate::beside;
use crate::support::{Client, wait_until};
use crate::trace::{self, Call, RECEIVING, SENDING};
use std::time::Duration;

/// Method, key, size of the value: new ones, overwritten ones, large ones, deleted ones.
const REQUESTS: [(&str, u32, usize); 24] = [
    ("PUT", 1, 5),
    ("PUT", 2, 100),
    ("PUT", 3, 500),
    ("PUT", 1, 5),
    ("PUT", 2, 4_000),
    ("PUT", 4, 20_000),
    ("PUT", 5, 70_000),
    ("PUT", 6, 300_000),
    ("PUT", 7, 1_000_000),
    ("PUT", 7, 10),
    ("PUT", 8, 10),
    ("PUT", 9, 10),
    ("PUT", 10, 10),
    ("DELETE", 10, 0),
    ("DELETE", 6, 0),
    ("PUT", 10, 10),
    ("PUT", 6, 300_000),
    ("PUT", 11, 1),
    ("PUT", 12, 16_384),
    ("PUT", 13, 65_536),
    ("DELETE", 13, 0),
    ("PUT", 14, 10),
    ("PUT", 15, 10),
    ("PUT", 16, 10),
];

#[test]
fn each_answer_comes_after_a_finished_fdatasync() {
    let _beside = beside();
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("trace");
    let Some(node) = trace::start("the strace proof of durability", &dir.path().join("data"), &file) else {
        return;
    };
    let mut client = Client::new(node.address);
    for (method, key, size) in REQUESTS {
        let path = format!("/key/traced-{key}");
        let body = match method {
            "PUT" => format!("{{\"value\": \"{}\"}}", "v".repeat(size)),
            _ => String::new(),
        };
        let answer = client.request(method, &path, &[], body.as_bytes()).expect("an answer");
        assert!(matches!(answer.status, 200 | 201), "{method} {path}: {}", answer.text());
    }
    let calls = trace::finish(node, file);
    check(&calls);
    let stock: Vec<_> = calls.iter().filter(|call| call.is(&["sync_file_range"])).map(|c| &c.text).collect();
    assert!(stock.is_empty(), "sync_file_range does not make anything durable: {stock:?}");
}

/// Walks through the trace once, request by request.
fn check(calls: &[Call]) {
    let mut at = 0;
    for (number, (method, key, _)) in REQUESTS.iter().enumerate() {
        let line = format!("\"{method} /key/traced-{key} ");
        let name = format!("request {number}: {method} /key/traced-{key}");
        let find = |from: usize, is: &dyn Fn(&Call) -> bool| {
            calls[from..].iter().position(is).map(|found| from + found)
        };
        let arrival = find(at, &|c| c.is(&RECEIVING) && c.text.contains(&line))
            .unwrap_or_else(|| panic!("{name}: its arrival is not in the trace"));
        let socket = calls[arrival].fd();
        let answer = find(arrival, &|c| c.is(&SENDING) && c.fd() == socket && c.text.contains("HTTP/1.1 20"))
            .unwrap_or_else(|| panic!("{name}: its answer is not in the trace"));
        // A large request comes in pieces: what counts is the last of them.
        let whole = calls[arrival..answer]
            .iter()
            .rfind(|c| c.is(&RECEIVING) && c.fd() == socket && c.result() > 0)
            .map_or(calls[arrival].done, |c| c.done);
        let answered = calls[answer].begun;
        let synced = calls.iter().any(|c| {
            let of_database = c.fd().ends_with("/store/db>");
            c.is(&["fdatasync", "fsync"])
                && of_database
                && c.result() == 0
                && c.begun > whole
                && c.done < answered
        });
        assert!(synced, "{name}: answered at line {answered} without a sync of store/db after line {whole}");
        at = answer;
    }
}

#[test]
fn reads_and_refused_writes_sync_nothing() {
    let _beside = beside();
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("trace");
    let Some(node) = trace::start("the strace proof that reads are free", &dir.path().join("data"), &file)
    else {
        return;
    };
    let put = node.request("PUT", "/key/traced", "{\"value\": 1}");
    assert_eq!(put.status, 201);
    let mut client = Client::new(node.address);
    for _ in 0..50 {
        let got = client.request("GET", "/key/traced", &[], b"").expect("an answer");
        assert_eq!(got.status, 200);
        let refused = client.request("PUT", "/key/traced", &[("If-None-Match", "*")], b"{\"value\": 2}");
        assert_eq!(refused.expect("an answer").status, 412);
    }
    // The trace of what was answered may lag behind.
    let answered = |text: &str| text.matches("HTTP/1.1 412").count() >= 50;
    wait_until(Duration::from_secs(30), "the trace has the answers", || {
        answered(&String::from_utf8_lossy(&std::fs::read(&file).expect("the trace")))
    });
    let calls = trace::finish(node, file);
    let first =
        calls.iter().position(|c| c.is(&SENDING) && c.text.contains("HTTP/1.1 200")).expect("in the trace");
    let last =
        calls.iter().rposition(|c| c.is(&SENDING) && c.text.contains("HTTP/1.1 412")).expect("in the trace");
    let syncs = calls[first..last].iter().filter(|c| c.is(&["fdatasync", "fsync", "syncfs"])).count();
    assert!(syncs < 5, "{syncs} syncs while 50 reads and 50 refused writes were answered");
}
