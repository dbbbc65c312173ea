//! Thousands of random requests, most of them broken: the node never answers 5xx, never panics, never grows, and
//! still serves.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

use crate::helpers::{Keys, Own, Random};
use crate::support::{Client, SOON};

const THREADS: u64 = 4;
const EACH: usize = 2_000;

/// A request that is nearly right.
fn request(random: &mut Random) -> Vec<u8> {
    let methods = ["PUT", "PUT", "PUT", "GET", "DELETE", "HEAD", "POST", "OPTIONS", "PUTT", "\0"];
    let mut head = format!("{} {} HTTP/1.1\r\nHost: fuzz\r\n", random.pick(&methods), target(random));
    let body = body(random);
    for _ in 0..random.below(4) {
        head.push_str(&header(random));
    }
    match random.below(10) {
        0 => head.push_str(&format!("Content-Length: {}\r\n", random.below(1_000))),
        1 => head.push_str("Transfer-Encoding: chunked\r\n"),
        2 => {}
        _ => head.push_str(&format!("Content-Length: {}\r\n", body.len())),
    }
    head.push_str("\r\n");
    let mut bytes = head.into_bytes();
    if bytes.windows(7).any(|w| w == b"chunked") && !random.once_in(3) {
        bytes.extend(format!("{:x}\r\n", body.len()).bytes());
        bytes.extend(&body);
        bytes.extend(b"\r\n0\r\n\r\n");
    } else {
        bytes.extend(&body);
    }
    bytes
}

fn target(random: &mut Random) -> String {
    if random.once_in(2) {
        return format!("/key/{}", random.below(8));
    }
    let paths = [
        "/key/",
        "/key/",
        "/key/",
        "/key/",
        "/membership",
        "/stats",
        "/ready",
        "/key",
        "/",
        "*",
        "http://x/key/",
    ];
    let parts = [
        "a",
        "%41",
        "%FF",
        "%",
        "/",
        "..",
        "%00",
        "é",
        "?w=",
        "?w=2&timeout_ms=0",
        "&",
        "1",
        "all",
        "+",
        "%2",
        "#",
        "\"",
    ];
    let tail: String = (0..random.below(5)).map(|_| *random.pick(&parts)).collect();
    let stretched = if random.once_in(50) { "k".repeat(random.below(3_000)) } else { String::new() };
    format!("{}{tail}{stretched}", random.pick(&paths))
}

fn header(random: &mut Random) -> String {
    let names = [
        "If-Match",
        "If-None-Match",
        "Causality-Token",
        "Expect",
        "Connection",
        "Content-Type",
        "Range",
        "X",
        "Accept",
    ];
    let values = [
        "*",
        "\"a\"",
        "W/\"a\"",
        "\"",
        ",",
        "",
        "0123456789abcdef-1",
        "0-0",
        "-",
        ".",
        "100-continue",
        "close",
        "keep-alive",
        "\u{e9}",
        "upgrade",
        "0123456789abcdef-18446744073709551615",
        "a, b",
        "\"a\", \"b\"",
    ];
    let more = if random.once_in(4) { *random.pick(&values) } else { "" };
    format!("{}: {}{more}\r\n", random.pick(&names), random.pick(&values))
}

fn body(random: &mut Random) -> Vec<u8> {
    let parts = [
        "{",
        "}",
        "[",
        "]",
        ":",
        ",",
        "\"value\"",
        "\"ttl_seconds\"",
        "\"",
        "1",
        "-",
        "0.5",
        "e9",
        "null",
        "true",
        "\\u",
        "d800",
        " ",
        "\n",
        "\u{0}",
        "é",
        "\"value\":1",
        "{\"value\":",
        "[[[[[[[[",
        "\"a\":",
    ];
    match random.below(8) {
        0 => (0..random.below(200)).map(|_| random.next() as u8).collect(),
        1 | 2 => (0..random.below(30)).flat_map(|_| random.pick(&parts).bytes()).collect(),
        3 => format!("{{\"value\":{}}}", "[".repeat(random.below(300))).into_bytes(),
        4 => format!(
            "{{\"value\":\"{}\",\"ttl_seconds\":{}}}",
            "v".repeat(random.below(3_000)),
            random.below(3)
        )
        .into_bytes(),
        _ => format!("{{\"value\":{}}}", random.next()).into_bytes(),
    }
}

/// Random bytes, or one to three requests, perhaps with some bytes flipped, perhaps cut off.
fn conversation(random: &mut Random) -> Vec<u8> {
    if random.once_in(20) {
        return (0..random.below(2_000)).map(|_| random.next() as u8).collect();
    }
    let mut bytes: Vec<u8> = (0..1 + random.below(3)).flat_map(|_| request(random)).collect();
    if random.once_in(4) {
        for _ in 0..1 + random.below(4) {
            let at = random.below(bytes.len());
            bytes[at] = random.next() as u8;
        }
    }
    if random.once_in(4) {
        bytes.truncate(random.below(bytes.len() + 1));
    }
    bytes
}

/// Every status line in what the node sent.
fn statuses(answers: &[u8]) -> Vec<u16> {
    let text = String::from_utf8_lossy(answers);
    text.match_indices("HTTP/1.").filter_map(|(at, _)| text.get(at + 9..at + 12)?.parse().ok()).collect()
}

fn converse(own: &Own, bytes: &[u8]) -> Vec<u16> {
    let mut stream = TcpStream::connect(own.address).expect("the node accepts connections");
    stream.set_read_timeout(Some(SOON)).expect("a time-out");
    // The node may close before it has read all of it.
    let _ = stream.write_all(bytes);
    let _ = stream.shutdown(Shutdown::Write);
    let mut answers = Vec::new();
    if let Err(e) = stream.read_to_end(&mut answers) {
        assert_ne!(e.kind(), std::io::ErrorKind::WouldBlock, "no end to {}", bytes.escape_ascii());
    }
    statuses(&answers)
}

/// Resident memory of the node in KiB.
fn resident(own: &Own) -> u64 {
    let path = format!("/proc/{}/status", own.child.id());
    let status = std::fs::read_to_string(path).expect("the node runs");
    let line = status.lines().find(|l| l.starts_with("VmRSS:")).expect("a line");
    line.split_whitespace().nth(1).expect("a number").parse().expect("a number")
}

#[test]
fn random_requests_never_break_the_node() {
    let own = Own::start(&["--idle-timeout-ms", "3000", "--request-timeout-ms", "3000", "--cache-mib", "16"]);
    let kept = own.write("kept", "\"kept\"");
    let seed = Random::seeded("random_requests_never_break_the_node").next();
    let counted = std::sync::Mutex::new(std::collections::BTreeMap::<u16, usize>::new());
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (own, counted) = (&own, &counted);
            scope.spawn(move || {
                let mut random = Random::new(seed ^ thread);
                for _ in 0..EACH {
                    let bytes = conversation(&mut random);
                    for status in converse(own, &bytes) {
                        assert!(status < 500, "{status} for {}", bytes.escape_ascii());
                        *counted.lock().unwrap().entry(status).or_default() += 1;
                    }
                }
            });
        }
    });
    // The requests were of every sort: else the fuzz tested nothing.
    let counted = counted.into_inner().unwrap();
    println!("{counted:?}");
    for status in [200, 201, 400, 404, 405, 412] {
        assert!(counted.contains_key(&status), "no {status} among {counted:?}");
    }
    assert!(!own.log().contains("panicked"), "{}", own.log());
    assert_eq!(own.read("kept").version, kept);
    own.write("after", "1");
    assert_eq!(own.read("after").value, "1");
    let kib = resident(&own);
    assert!(kib < 200 * 1_024, "{kib} KiB resident");
}

#[test]
fn oversized_and_refused_bodies_leave_no_memory_behind() {
    let own = Own::start(&["--cache-mib", "16"]);
    let mut client = Client::new(own.address);
    let large = format!("{{\"value\":\"{}\",}}", "x".repeat(1_000_000));
    let bomb = format!("{{\"value\":{}", "[".repeat(1_000_000));
    let mut round = || {
        for body in [&large, &bomb] {
            let answer = client.request("PUT", "/key/x", &[], body.as_bytes()).expect("an answer");
            assert_eq!(answer.status, 400);
        }
    };
    (0..20).for_each(|_| round());
    let settled = resident(&own);
    (0..60).for_each(|_| round());
    let end = resident(&own);
    assert!(end < settled + 32 * 1_024, "it grew from {settled} to {end} KiB");
}
