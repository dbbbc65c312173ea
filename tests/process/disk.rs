//! A full disk: writes are refused with 507 while reads go on, work again without a restart once there is room,
//! the node starts on a full disk, and nothing acknowledged is ever lost; not even when somebody else takes the
//! last byte at once.

use crate::child::{Attempt, Outcome, last_words};
use crate::random::seed;
use crate::support::{Client, Node, binary, wait_until};
use crate::volume::Volume;
use crate::workload::Workload;
use crate::{beside, skipped};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

const MIB: u64 = 96;
const FLAGS: [&str; 4] = ["--disk-reserve-mib", "8", "--cache-mib", "8"];

fn on_tmpfs(what: &str) -> Option<Volume> {
    Volume::tmpfs(MIB).map_err(|because| skipped(what, &because)).ok()
}

fn on_ext4(what: &str) -> Option<Volume> {
    Volume::ext4(MIB).map_err(|because| skipped(what, &because)).ok()
}

#[test]
fn a_full_tmpfs_refuses_writes_and_recovers() {
    if let Some(volume) = on_tmpfs("a full tmpfs") {
        refuses_and_recovers(&volume);
    }
}

#[test]
fn a_full_ext4_refuses_writes_and_recovers() {
    if let Some(volume) = on_ext4("a full ext4") {
        refuses_and_recovers(&volume);
    }
}

#[test]
fn restarts_on_a_full_tmpfs() {
    if let Some(volume) = on_tmpfs("restarts on a full tmpfs") {
        restarts_while_full(&volume);
    }
}

#[test]
fn restarts_on_a_full_ext4() {
    if let Some(volume) = on_ext4("restarts on a full ext4") {
        restarts_while_full(&volume);
    }
}

/// It says how far it came and what to do, and leaves nothing.
#[test]
fn a_restore_that_finds_no_room_says_so() {
    let Some(volume) = on_tmpfs("a restore on a full tmpfs") else { return };
    let files = tempfile::tempdir().expect("a directory");
    let node = Node::start(&files.path().join("data"), &[]);
    let value = format!("{{\"value\": \"{}\"}}", "x".repeat(1_000_000));
    for n in 0..100 {
        assert_eq!(node.request("PUT", &format!("/key/{n}"), &value).status, 201);
    }
    let (file, place) = (files.path().join("backup"), volume.path("restored"));
    let run = |args: &[&str], paths: &[&Path]| {
        Command::new(binary()).args(args).args(paths).output().expect("it runs")
    };
    let made = run(&["backup", &node.address.to_string(), "-o"], &[&file]);
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    let ended = run(&["restore"], &[&file, Path::new("--data-dir"), &place]);
    let said = String::from_utf8_lossy(&ended.stderr);
    assert_eq!(ended.status.code(), Some(3), "{said}");
    for word in [
        place.to_str().expect("a path"),
        "of about 100 keys in",
        "MiB were free, of which 8.0 MiB",
        "--data-dir",
    ] {
        assert!(said.contains(word), "no {word:?} in {said}");
    }
    assert!(!place.exists(), "it has left something");
}

#[test]
fn room_eaten_to_zero_on_tmpfs() {
    if let Some(volume) = on_tmpfs("a tmpfs eaten to zero") {
        eaten_to_zero(&volume);
    }
}

#[test]
fn room_eaten_to_zero_on_ext4() {
    if let Some(volume) = on_ext4("an ext4 eaten to zero") {
        eaten_to_zero(&volume);
    }
}

/// Many large values: the volume fills soon.
fn workload(seed: u64) -> Workload {
    let mut workload = Workload::new(seed, 8, 2, 64);
    workload.large = 60;
    workload
}

/// Writes until the node refuses, with 507 and nothing else.
fn fill(workload: &mut Workload, node: &Node, context: &str) {
    workload.refusals = &[507];
    let mut crowd = workload.connect(node);
    let (refused, reads) = (workload.refused, workload.reads);
    crowd.run(workload, Instant::now() + Duration::from_secs(60), |w| w.refused >= refused + 50);
    assert!(workload.refused > refused, "{context}: the disk does not get full\n{}", node.log());
    // Reads go on while every write is refused.
    let before = workload.reads;
    crowd.run(workload, Instant::now() + Duration::from_secs(5), |w| w.reads >= before + 50);
    assert!(workload.reads >= before + 50 && before > reads, "{context}: readers wait");
    workload.stopped = true;
    crowd.run(workload, Instant::now() + Duration::from_secs(10), |_| false);
    workload.acquit(context);
}

fn refused(node: &Node) {
    let answer = node.request("PUT", "/key/one-more", "{\"value\": 1}");
    assert_eq!(answer.status, 507, "{}", answer.text());
    assert_eq!(answer.header("content-type"), Some("application/problem+json"));
    assert_eq!(answer.json()["type"], "urn:dynarust:problem:disk-full");
    let stats = node.request("GET", "/stats", "").json();
    assert_eq!(stats["disk"]["full"], true, "{stats}");
    assert_eq!(stats["disk"]["reserve_bytes"], 8 << 20, "{stats}");
    assert_eq!(node.request("GET", "/key/never-written", "").status, 404);
    assert_eq!(node.request("GET", "/health", "").status, 200);
}

/// Without a restart, and without anything but the room.
fn accepted_again(node: &Node) {
    let mut last = String::new();
    wait_until(Duration::from_secs(15), "writes work again", || {
        let answer = node.request("PUT", "/key/one-more", "{\"value\": 1}");
        last = answer.text().to_owned();
        matches!(answer.status, 200 | 201)
    });
    // So that the audit's count of keys is right.
    assert_eq!(node.request("DELETE", "/key/one-more", "").status, 200, "{last}");
    let stats = node.request("GET", "/stats", "").json();
    assert_eq!(stats["disk"]["full"], false, "{stats}");
}

fn refuses_and_recovers(volume: &Volume) {
    let _beside = beside();
    let seed = seed();
    let context = format!("disk full, DYNARUST_SEED={seed}");
    let dir = volume.path("data");
    let mut workload = workload(seed);
    volume.fill("filler", 40 << 20);
    let node = Node::start(&dir, &FLAGS);
    fill(&mut workload, &node, &context);
    // What was written last may have let some room go: now there is less than the reserve for sure.
    volume.leave("rest", 3 << 20);
    refused(&node);
    workload.audit(&node);
    workload.acquit(&format!("{context}, while full"));

    volume.remove("filler");
    volume.remove("rest");
    accepted_again(&node);
    let mut crowd = workload.connect(&node);
    let wanted = workload.acknowledged + 100;
    crowd.run(&mut workload, Instant::now() + Duration::from_secs(20), |w| w.acknowledged >= wanted);
    assert!(workload.acknowledged >= wanted, "{context}: few writes after there was room again");
    workload.stopped = true;
    crowd.run(&mut workload, Instant::now() + Duration::from_secs(10), |_| false);
    drop(crowd);

    // Full again, now for a stop and a start.
    fill(&mut workload, &node, &context);
    assert_eq!(node.stop().code(), Some(0), "{context}: SIGTERM while full");
    let node = Node::start(&dir, &FLAGS);
    workload.audit(&node);
    workload.acquit(&format!("{context}, after a stop while full"));
    node.kill();
    let node = Node::start(&dir, &FLAGS);
    workload.audit(&node);
    workload.acquit(&format!("{context}, after a SIGKILL while full"));
}

/// A node that is restarted on a full disk, as supervisors do, does not spend its ballast on writes.
fn restarts_while_full(volume: &Volume) {
    let _beside = beside();
    let seed = seed();
    let context = format!("restarts while full, DYNARUST_SEED={seed}");
    let dir = volume.path("data");
    let mut workload = workload(seed);
    workload.large = 5;
    let node = Node::start(&dir, &FLAGS);
    let mut crowd = workload.connect(&node);
    crowd.run(&mut workload, Instant::now() + Duration::from_secs(20), |w| w.acknowledged >= 300);
    assert!(workload.acknowledged >= 300, "{context}: hardly any load");
    workload.stopped = true;
    crowd.run(&mut workload, Instant::now() + Duration::from_secs(10), |_| false);
    drop(crowd);
    assert!(dir.join("BALLAST").exists(), "{context}: no ballast though there is room");
    volume.leave("filler", 6 << 20);
    wait_until(Duration::from_secs(5), "writes are refused", || {
        node.request("PUT", "/key/one-more", "{\"value\": 1}").status == 507
    });
    node.request("DELETE", "/key/one-more", "");
    assert_eq!(node.stop().code(), Some(0), "{context}: SIGTERM while full");
    for restart in 0..3 {
        let node = Node::start(&dir, &FLAGS);
        workload.audit(&node);
        workload.acquit(&format!("{context}, restart {restart}"));
        refused(&node);
        match restart {
            1 => node.kill(),
            _ => assert_eq!(node.stop().code(), Some(0), "{context}: stop {restart}"),
        }
    }

    // And with not a byte left: this is what the ballast is for.
    volume.fill("eater", u64::MAX);
    let node = Node::launch(Node::command(&dir, &FLAGS))
        .unwrap_or_else(|log| panic!("{context}: does not start without a byte left\n{log}"));
    workload.audit(&node);
    workload.acquit(&format!("{context}, started without a byte left"));
    refused(&node);
    volume.remove("eater");
    volume.remove("filler");
    accepted_again(&node);
    assert_eq!(node.stop().code(), Some(0), "{context}: the last stop");
}

fn eaten_to_zero(volume: &Volume) {
    let _beside = beside();
    let seed = seed();
    let context = format!("room eaten to zero, DYNARUST_SEED={seed}");
    let dir = volume.path("data");
    let mut workload = workload(seed);
    workload.large = 10;
    let mut attempt = Attempt::start(Node::command(&dir, &FLAGS));
    let Outcome::Serving(address) = attempt.outcome(Duration::from_secs(20)) else {
        panic!("{context}: {}", attempt.log())
    };
    workload.refusals = &[507, 503];
    let mut crowd = workload.connect_to(address);
    crowd.run(&mut workload, Instant::now() + Duration::from_secs(10), |w| w.acknowledged >= 300);
    assert!(workload.acknowledged >= 300, "{context}: hardly any load");
    let refused = workload.refused;
    std::thread::scope(|scope| {
        scope.spawn(|| volume.fill("eater", u64::MAX));
        let until = Instant::now() + Duration::from_secs(10);
        crowd.run(&mut workload, until, |w| w.refused >= refused + 300);
    });
    let refused = workload.refused > refused;
    workload.stopped = true;
    crowd.run(&mut workload, Instant::now() + Duration::from_secs(10), |_| false);
    match attempt.ended(if refused { Duration::ZERO } else { Duration::from_secs(10) }) {
        None => {
            assert!(refused, "{context}: neither refuses nor ends\n{}", attempt.log());
            volume.remove("eater");
        }
        Some(status) => {
            let log = attempt.log();
            assert_eq!(status.code(), Some(5), "{context}: {status}\n{log}");
            last_words(&log).unwrap_or_else(|why| panic!("{context}: {why}"));
            // Without room it may start or say why not.
            let mut again = Attempt::start(Node::command(&dir, &FLAGS));
            match again.outcome(Duration::from_secs(20)) {
                Outcome::Serving(_) => {}
                Outcome::Ended(status) => {
                    let log = again.log();
                    assert!(matches!(status.code(), Some(3 | 5)), "{context}: {status}\n{log}");
                    last_words(&log).unwrap_or_else(|why| panic!("{context}: {why}"));
                }
                Outcome::Hangs => panic!("{context}: hangs on a full disk\n{}", again.log()),
            }
            volume.remove("eater");
        }
    }
    drop(attempt);
    let node = Node::start(&dir, &FLAGS);
    workload.audit(&node);
    workload.acquit(&context);
    accepted_again(&node);
    assert_eq!(node.stop().code(), Some(0));
}

/// A restore that finds no room says so, with the exit code for it, and leaves none of it behind.
#[test]
fn a_restore_without_room_is_refused() {
    let dir = tempfile::tempdir().expect("a directory");
    let file = dir.path().join("backup");
    let node = Node::start(&dir.path().join("data"), &FLAGS);
    let mut client = Client::new(node.address);
    for n in 0..22u64 {
        // What can't be made smaller.
        let digits = |i: u64| format!("{:016x}", (n << 32 | i).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let value: String = (0..32_768).map(digits).collect();
        let body = format!("{{\"value\": \"{value}\"}}");
        let answer = client.request("PUT", &format!("/key/{n}"), &[], body.as_bytes()).expect("an answer");
        assert_eq!(answer.status, 201);
    }
    let run = |args: &[&str]| Command::new(binary()).args(args).output().expect("the binary runs");
    let name = file.to_str().expect("UTF-8");
    assert!(run(&["backup", &node.address.to_string(), "-o", name]).status.success());
    let mut codes = Vec::new();
    for mib in [24, 36, 40, 44, 48, 52, 56, 60, 64, 96] {
        let Ok(volume) = Volume::tmpfs(mib).map_err(|because| skipped("a restore without room", &because))
        else {
            return;
        };
        let (place, free) = (volume.path("data"), volume.free());
        let ended = run(&["restore", name, "--data-dir", place.to_str().expect("UTF-8")]);
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        match ended.status.code() {
            Some(0) => assert!(codes.len() > 1, "{mib} MiB are enough?"),
            Some(3) => {
                assert!(said.contains("for all of it, and nothing was made there"), "{mib} MiB: {said}");
                assert!(!place.exists(), "{mib} MiB: something is left");
                assert_eq!(volume.free(), free, "{mib} MiB: something is left");
            }
            code => panic!("{mib} MiB: {code:?}: {said}"),
        }
        codes.push(ended.status.code());
    }
    assert_eq!(codes.last(), Some(&Some(0)), "{codes:?}");
}
