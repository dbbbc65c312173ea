//! Clients that want much at once: large values by the dozen, or answers that they never read. Memory stays
//! bounded, and the others are served.

use crate::child::memory_mib;
use crate::limits::Once;
use crate::load::{Crowd, request};
use crate::slow::latency;
use crate::stop::BEFORE_THE_KILL;
use crate::support::{Node, SOON};
use crate::{alone, say};
use std::io::{ErrorKind, Write};
use std::net::TcpStream;
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

/// The largest value allowed by default: its JSON text is 1 MiB.
fn mebibyte(letter: char) -> String {
    let text: String = std::iter::repeat_n(letter, (1 << 20) - 2).collect();
    format!("{{\"value\": \"{text}\"}}")
}

#[test]
fn many_large_values_at_once_stay_within_memory() {
    const BOUND_MIB: u64 = 600;
    let _alone = alone();
    let dir = tempfile::tempdir().expect("a directory");
    let node = Node::start(dir.path(), &[]);
    let pid = node.child.id();
    let mut crowd = Crowd::connect(node.address, 64).expect("connections");
    let letters: Vec<char> = ('A'..='Z').chain('a'..='z').chain('0'..='9').chain(['+', '-']).collect();
    let mut there = [false; 64];
    for _ in 0..3 {
        let put = |n: usize| request("PUT", &format!("/key/large-{n}"), &mebibyte(letters[n]));
        let mut once = Once::new((0..64).map(put).collect());
        crowd.run(&mut once, Instant::now() + SOON, |_| false);
        assert_eq!(once.count(&[200, 201, 503]), 64, "2xx or 503 only: {:?}", statuses(&once));
        for (n, reply) in once.replies.iter().flatten().enumerate() {
            there[n] |= reply.status != 503;
        }
    }
    let written = there.iter().filter(|there| **there).count();
    let after_writes = memory_mib(pid, "VmHWM");
    for _ in 0..3 {
        let get = |n: usize| request("GET", &format!("/key/large-{n}"), "");
        let mut once = Once::new((0..64).map(get).collect());
        crowd.run(&mut once, Instant::now() + SOON, |_| false);
        assert_eq!(once.count(&[200, 404, 503]), 64, "2xx or 503 only: {:?}", statuses(&once));
        for (n, reply) in once.replies.iter().enumerate() {
            let reply = reply.as_ref().expect("an answer");
            assert_eq!(reply.status == 404, !there[n], "key large-{n}");
            if reply.status == 200 {
                let value: serde_json::Value = serde_json::from_slice(&reply.body).expect("JSON");
                let value = value["value"].as_str().expect("a string");
                assert!(
                    value.len() == (1 << 20) - 2 && value.chars().all(|c| c == letters[n]),
                    "key large-{n}"
                );
            }
        }
    }
    let peak = memory_mib(pid, "VmHWM");
    say(&format!(
        "greedy: 64 x 1 MiB at once: peak {after_writes} MiB after writes ({written} keys), {peak} after reads"
    ));
    assert!(written > 0, "not one of 64 large values was taken");
    assert!(peak < BOUND_MIB, "{peak} MiB");
}

fn statuses(once: &Once) -> Vec<u16> {
    once.replies.iter().map(|reply| reply.as_ref().map_or(0, |reply| reply.status)).collect()
}

#[test]
fn a_value_over_the_limit_is_refused() {
    let _alone = alone();
    let dir = tempfile::tempdir().expect("a directory");
    let node = Node::start(dir.path(), &["--max-value-bytes", "1000"]);
    let value = |length: usize| format!("{{\"value\": \"{}\"}}", "v".repeat(length - 2));
    assert_eq!(node.request("PUT", "/key/fits", &value(1000)).status, 201);
    let refused = node.request("PUT", "/key/over", &value(1001));
    assert_eq!(refused.status, 413, "{}", refused.text());
    assert_eq!(refused.json()["type"], "urn:dynarust:problem:too-large");
    // Announced far too large: refused without taking it in.
    let mut stream = TcpStream::connect(node.address).expect("a connection");
    stream
        .write_all(
            b"PUT /key/huge HTTP/1.1\r\nHost: node\r\nContent-Length: 9999999999\r\n\r\n{\"value\": \"",
        )
        .expect("sent");
    let got = crate::limits::listen(&mut stream, Duration::from_secs(10));
    assert_eq!(got, crate::limits::Got::Status(413));
    assert_eq!(node.request("GET", "/key/over", "").status, 404);
}

/// Fifty clients ask for twenty large answers each and read not a byte.
#[test]
fn answers_nobody_reads_hold_nobody_up() {
    const BOUND_MIB: u64 = 400;
    let _alone = alone();
    let dir = tempfile::tempdir().expect("a directory");
    let mut node = Node::start(dir.path(), &[]);
    assert_eq!(node.request("PUT", "/key/large", &mebibyte('v')).status, 201);
    let asks = request("GET", "/key/large", "").repeat(20);
    let deaf: Vec<TcpStream> = (0..50)
        .map(|_| {
            let mut stream = TcpStream::connect(node.address).expect("a connection");
            stream.set_nonblocking(true).expect("it can be made so");
            match stream.write_all(&asks) {
                Err(e) if e.kind() != ErrorKind::WouldBlock => panic!("{e}"),
                _ => stream,
            }
        })
        .collect();
    let (median, worst) = latency(node.address, Duration::from_secs(3), &AtomicBool::new(false));
    let peak = memory_mib(node.child.id(), "VmHWM");
    say(&format!(
        "greedy: beside 50 clients that never read: median {median:?}, 99 % within {worst:?}, peak {peak} MiB"
    ));
    assert!(worst < Duration::from_millis(250), "99 % within {worst:?}");
    assert!(peak < BOUND_MIB, "{peak} MiB for answers nobody reads");
    let asked = Instant::now();
    node.signal(libc::SIGTERM);
    let status = node.wait(Duration::from_secs(60));
    assert_eq!(status.code(), Some(0), "{}", node.log());
    assert!(asked.elapsed() < BEFORE_THE_KILL, "stopped after {:?}", asked.elapsed());
    drop(deaf);
}
