//! A disk that fails, lies short, tears or stalls while the node runs: the node ends with exit code 5 in time and
//! with clear last words, and has never answered 2xx for what is not on the disk; a hiccup only delays.

use crate::beside;
use crate::child::farewell;
use crate::corruption::copy;
use crate::random::seed;
use crate::shim::Faults;
use crate::support::{Client, Node};
use crate::workload::Workload;
use std::time::{Duration, Instant};

const DEADLINE: Duration = Duration::from_secs(2);
/// What a busy machine may add to a deadline.
const MARGIN: Duration = Duration::from_secs(3);
const FLAGS: [&str; 2] = ["--commit-deadline-ms", "2000"];

/// Puts a node under load, lets `fault` strike, and checks its end and what is left.
fn ends(fault: &str, within: Duration) {
    let _beside = beside();
    let Some(faults) = Faults::new(&format!("the fault {fault:?}")) else { return };
    let seed = seed();
    let context = format!("{fault}, DYNARUST_SEED={seed}");
    let dir = tempfile::tempdir().expect("a directory");
    let mut workload = Workload::new(seed, 16, 2, 16);
    let mut node = faults.start(dir.path(), &FLAGS);
    let mut crowd = workload.connect(&node);
    crowd.run(&mut workload, Instant::now() + Duration::from_secs(5), |w| w.acknowledged >= 300);
    assert!(workload.acknowledged >= 300, "{context}: hardly any load");

    faults.set(fault);
    let struck = Instant::now();
    // What is under way when the node ends may be refused or cut off, but not acknowledged wrongly.
    workload.refusals = &[503];
    crowd.run(&mut workload, Instant::now() + within + Duration::from_secs(5), |w| w.refused > 0);
    let status = node.wait(within + Duration::from_secs(5));
    let took = struck.elapsed();
    assert!(faults.hits() > 0, "{context}: the fault has not struck");
    workload.stopped = true;
    crowd.drain(&mut workload, Duration::from_secs(5));
    let log = node.log();
    assert_eq!(status.code(), Some(5), "{context}: {status}\n{log}");
    assert!(took <= within, "{context}: ended {took:?} after the fault\n{log}");
    farewell(&node).unwrap_or_else(|why| panic!("{context}: {why}"));

    let node = Node::start(dir.path(), &[]);
    workload.audit(&node);
    workload.acquit(&context);
    assert_eq!(node.request("PUT", "/key/after", "{\"value\": 1}").status, 201);
    assert_eq!(node.stop().code(), Some(0));
}

#[test]
fn a_write_that_fails() {
    ends("write EIO 0", MARGIN);
}

#[test]
fn a_write_that_fails_once() {
    ends("write EIO 1", MARGIN);
}

#[test]
fn a_write_without_room() {
    ends("write ENOSPC 0", MARGIN);
}

#[test]
fn a_write_torn_in_two() {
    ends("write torn 0", MARGIN);
}

#[test]
fn a_sync_that_fails_under_load() {
    ends("sync EIO 1", MARGIN);
}

#[test]
fn a_write_that_hangs() {
    ends("write stall 60000", DEADLINE + MARGIN);
}

#[test]
fn a_sync_that_hangs() {
    ends("sync stall 60000", DEADLINE + MARGIN);
}

/// The disk comes back too late: the end must have come first.
#[test]
fn a_sync_that_comes_back_after_the_deadline() {
    ends("sync stall 8000", DEADLINE + MARGIN);
}

/// After a failed sync the kernel drops what it could not write and says "done" to the next one, so to try again
/// would be to lie. The node must end at once, the write in question unanswered.
#[test]
fn a_sync_that_fails_once_is_not_tried_again() {
    let _beside = beside();
    let Some(faults) = Faults::new("a failing sync") else { return };
    for fault in ["sync EIO 1", "sync ENOSPC 1"] {
        let dir = tempfile::tempdir().expect("a directory");
        let mut node = faults.start(dir.path(), &FLAGS);
        let mut client = Client::new(node.address);
        assert_eq!(client.request("PUT", "/key/a", &[], b"{\"value\": 1}").expect("an answer").status, 201);
        faults.set(fault);
        let before = faults.hits();
        let armed = Instant::now();
        let answer = client.request("PUT", "/key/b", &[], b"{\"value\": 2}");
        assert!(!answer.as_ref().is_ok_and(|a| a.status < 300), "{fault}: answered {answer:?}");
        let status = node.wait(Duration::from_secs(10));
        let took = armed.elapsed();
        assert!(faults.hits() > before, "{fault}: the fault has not struck");
        let log = node.log();
        assert_eq!(status.code(), Some(5), "{fault}: {status}\n{log}");
        assert!(took < Duration::from_millis(1500), "{fault}: ended after {took:?}\n{log}");
        farewell(&node).unwrap_or_else(|why| panic!("{fault}: {why}"));
        faults.clear();

        let node = Node::start(dir.path(), &[]);
        assert_eq!(node.request("GET", "/key/a", "").json()["value"], 1);
        // A write without an answer may be there or not, and stays so.
        let first = node.request("GET", "/key/b", "").status;
        assert_eq!(node.request("GET", "/key/b", "").status, first);
    }
}

/// The system may write less than asked for; that is no fault, and nothing may be lost by it.
#[test]
fn short_writes_are_completed() {
    let _beside = beside();
    let Some(faults) = Faults::new("short writes") else { return };
    let seed = seed();
    let dir = tempfile::tempdir().expect("a directory");
    let mut workload = Workload::new(seed, 16, 2, 16);
    let node = faults.start(dir.path(), &FLAGS);
    let mut crowd = workload.connect(&node);
    faults.set("write short 0");
    crowd.run(&mut workload, Instant::now() + Duration::from_secs(20), |w| w.acknowledged >= 300);
    assert!(workload.acknowledged >= 300, "short writes stop the node:\n{}", node.log());
    assert!(faults.hits() > 0, "no write was cut short");
    node.signal(libc::SIGKILL);
    workload.stopped = true;
    crowd.drain(&mut workload, Duration::from_secs(5));
    drop(node);
    let node = Node::start(dir.path(), &[]);
    workload.audit(&node);
    workload.acquit(&format!("short writes, DYNARUST_SEED={seed}"));
}

/// A stall below the deadline delays the write, and nobody who does not wait for that write.
#[test]
fn a_hiccup_only_delays() {
    let _beside = beside();
    let Some(faults) = Faults::new("a stalling disk") else { return };
    for fault in ["sync stall 1000", "write stall 1000"] {
        let dir = tempfile::tempdir().expect("a directory");
        // A large commit of several stalling calls may add up: the deadline leaves room.
        let node = faults.start(dir.path(), &["--commit-deadline-ms", "15000"]);
        assert_eq!(node.request("PUT", "/key/other", "{\"value\": 1}").status, 201);
        let struck = faults.hits();
        faults.set(fault);
        let begun = Instant::now();
        let address = node.address;
        let writer = std::thread::spawn(move || {
            let answer = Client::new(address).request("PUT", "/key/slow", &[], b"{\"value\": 2}");
            (answer.map(|a| a.status), begun.elapsed())
        });
        crate::support::wait_until(Duration::from_secs(10), "the stall begins", || faults.hits() > struck);
        let mut reader = Client::new(node.address);
        let (mut reads, mut slowest) = (0, Duration::ZERO);
        while !writer.is_finished() {
            let asked = Instant::now();
            let got = reader.request("GET", "/key/other", &[], b"").expect("an answer");
            assert_eq!(got.status, 200, "{fault}");
            slowest = slowest.max(asked.elapsed());
            reads += 1;
        }
        let (status, took) = writer.join().expect("the writer ran");
        faults.clear();
        assert_eq!(status.expect("an answer"), 201, "{fault}: {}", node.log());
        assert!(took >= Duration::from_secs(1), "{fault}: answered after {took:?}, before the disk was done");
        assert!(reads > 20, "{fault}: {reads} reads while a write waited");
        assert!(slowest < Duration::from_millis(500), "{fault}: a read of another key took {slowest:?}");
        assert_eq!(node.request("PUT", "/key/slow", "{\"value\": 3}").status, 200);
        assert_eq!(node.stop().code(), Some(0));
    }
}

/// What is acknowledged is witnessed: else the loss of the very last commit would look like a store that never had it.
#[test]
fn an_answer_waits_for_the_witness() {
    let _beside = beside();
    let Some(faults) = Faults::new("a stalling witness") else { return };
    let dir = tempfile::tempdir().expect("a directory");
    let node = faults.start(dir.path(), &[]);
    let witnessed = || {
        let bytes = std::fs::read(dir.path().join("PROGRESS")).expect("it can be read");
        u64::from_be_bytes(bytes[..8].try_into().expect("eight bytes"))
    };
    let before = witnessed();
    faults.set("witness stall 300");
    for write in 1..=3 {
        assert!(matches!(node.request("PUT", "/key/a", "{\"value\": 1}").status, 200 | 201));
        assert!(witnessed() >= before + write, "write {write} was answered before it was witnessed");
    }
    assert!(faults.hits() > 0, "the fault has not struck");
}

/// sled takes a read that fails for the end of its log, and would wipe what lies behind. Each start meets the failure somewhere
/// else, until one gets by without.
#[test]
fn a_read_that_fails_while_the_store_opens_loses_nothing() {
    let _beside = beside();
    let Some(faults) = Faults::new("a disk that can't be read") else { return };
    let dir = tempfile::tempdir().expect("a directory");
    let original = dir.path().join("original");
    let node = Node::start(&original, &[]);
    let mut client = Client::new(node.address);
    let value = "x".repeat(2_000);
    for n in 0..600 {
        let body = format!("{{\"value\": \"{value}{n}\"}}");
        let put = client.request("PUT", &format!("/key/{}", n % 300), &[], body.as_bytes());
        assert!(put.expect("an answer").status < 300);
    }
    node.signal(libc::SIGKILL);
    drop(node);
    let (mut nth, mut ended) = (1_u64, 0);
    loop {
        let copied = dir.path().join(format!("copy-{nth}"));
        copy(&original, &copied);
        faults.set(&format!("read EIO {nth}"));
        let before = faults.hits();
        let attempt = Node::launch(faults.under(Node::command(&copied, &FLAGS)));
        let struck = faults.hits() > before;
        faults.clear();
        assert_eq!(
            attempt.is_err(),
            struck,
            "read {nth} failed: {struck}; the node served: {}",
            attempt.is_ok()
        );
        let log = attempt.as_ref().err().cloned();
        drop(attempt);
        let node = Node::launch(Node::command(&copied, &FLAGS)).unwrap_or_else(|why| {
            panic!("after read {nth} failed:\n{}\n{why}", log.clone().unwrap_or_default())
        });
        let mut client = Client::new(node.address);
        for n in 300..600 {
            let got = client.request("GET", &format!("/key/{}", n % 300), &[], b"").expect("an answer");
            let right = got.status == 200 && got.json()["value"] == format!("{value}{n}");
            assert!(right, "after read {nth} failed, key {} is {}:\n{log:?}", n % 300, got.status);
        }
        drop(node);
        std::fs::remove_dir_all(&copied).expect("it can be removed");
        if !struck {
            break;
        }
        ended += 1;
        nth += nth / 8 + 1;
    }
    assert!(ended > 10, "only {ended} starts met the failure");
}
