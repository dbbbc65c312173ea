//! A migration as a process: killed at any moment and at each of its system calls, without room, on a disk that is slow or
//! hangs. The directory holds what it held before, in the old format or the new one, and the next start ends what was begun.

use crate::older::{manifest, open, to_format_1};
use crate::random::{Random, rounds, seed};
use crate::support::{Client, Node, SOON, binary};
use crate::volume::Volume;
use crate::{beside, say, skipped};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// A directory of format 1 with large values, siblings, deletes, left as `signal` leaves it; the export of what it holds.
fn base(dir: &Path, signal: i32, keys: usize) -> String {
    let mut node = Node::start(dir, &[]);
    let mut client = Client::new(node.address);
    let mut put = |key: usize, round: usize, token: Option<&str>| {
        let value = format!("{round}.{key}.").repeat(20_000 + 4_500 * (key % 20));
        let body = format!("{{\"value\": \"{value}\"}}");
        let headers: Vec<(&str, &str)> = token.map(|token| ("Causality-Token", token)).into_iter().collect();
        let answer =
            client.request("PUT", &format!("/key/k{key}"), &headers, body.as_bytes()).expect("an answer");
        assert!(matches!(answer.status, 200 | 201), "{}", answer.text());
        answer.json()["version"].as_str().expect("a version").to_owned()
    };
    for key in 0..keys {
        let first = put(key, 0, None);
        if key % 7 == 0 {
            put(key, 1, None);
            put(key, 2, Some(&first));
        }
    }
    for key in (0..keys).step_by(11) {
        assert_eq!(node.request("DELETE", &format!("/key/k{key}"), "").status, 200);
    }
    // What this puts aside is still there when the node is killed.
    put(1, 9, None);
    node.signal(signal);
    node.wait(SOON);
    let held = export(dir);
    assert!(to_format_1(dir) > 1 << 20, "nothing to migrate");
    held
}

fn copy(from: &Path, to: &Path) {
    let _ = std::fs::remove_dir_all(to);
    let status = Command::new("cp").arg("-r").arg(from).arg(to).status().expect("cp runs");
    assert!(status.success());
}

fn command(args: &[&str], dir: &Path) -> Command {
    let mut command = Command::new(binary());
    command.args(args).arg(dir).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// What a start does with a directory, and nothing else.
fn opening(dir: &Path) -> Command {
    command(&["try-open"], dir)
}

/// All keys with all versions and values, read from a copy.
fn export(dir: &Path) -> String {
    let output =
        command(&["export"], dir).stdout(Stdio::piped()).stderr(Stdio::piped()).output().expect("it runs");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// How far a migration got, as the manifest says.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
enum State {
    Before,
    UnderWay,
    Done,
}

fn state(dir: &Path) -> State {
    let manifest = std::fs::read_to_string(dir.join("MANIFEST")).expect("a manifest");
    match manifest.starts_with("{\"format\":1,") {
        true => State::Before,
        false if manifest.contains("\"migrating_from\":1") => State::UnderWay,
        false => State::Done,
    }
}

/// It holds this, whatever it went through: as it is, and when it is opened.
fn holds(dir: &Path, held: &str, context: &str) {
    let was = state(dir);
    assert!(export(dir) == held, "{context}: not what it held, as it is ({was:?})");
    let output = opening(dir).stderr(Stdio::piped()).output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{context}: {said}");
    let tells = said.contains("migrating ") || said.contains("finishing the migration ");
    assert_eq!(tells, was != State::Done, "{context}: {was:?}, and it says {said}");
    assert_eq!(state(dir), State::Done, "{context}");
    assert!(export(dir) == held, "{context}: not what it held");
    let output = command(&["inspect"], dir).arg("verify").stdout(Stdio::piped()).output().expect("it runs");
    let found = String::from_utf8_lossy(&output.stdout);
    assert!(found.starts_with("sound: "), "{context}: {found}");
    let trees = open(&dir.join("store")).tree_names();
    assert!(!trees.iter().any(|name| name == b"chunks"), "{context}: the old tree takes room for ever");
}

/// Bytes of the rows that are to be copied.
fn old_bytes(dir: &Path) -> u64 {
    let chunks = open(&dir.join("store")).open_tree("chunks").expect("a tree");
    let size =
        |row: sled::Result<(sled::IVec, sled::IVec)>| row.map(|(key, text)| (key.len() + text.len()) as u64);
    chunks.iter().map(size).sum::<sled::Result<u64>>().expect("it can be read")
}

/// What came of some migrations that were killed.
#[derive(Default)]
struct Tally([u64; 3]);

impl Tally {
    fn add(&mut self, dir: &Path) {
        self.0[state(dir) as usize] += 1;
    }
}

#[test]
fn killed_at_any_moment_it_is_begun_anew_or_goes_on() {
    let _beside = beside();
    let (seed, rounds) = (seed(), rounds("DYNARUST_MIGRATION_KILLS", 16));
    let scratch = tempfile::tempdir().expect("a directory");
    let (original, dir) = (scratch.path().join("original"), scratch.path().join("dir"));
    let held = base(&original, libc::SIGKILL, 40);
    copy(&original, &dir);
    let began = Instant::now();
    assert!(opening(&dir).status().expect("it runs").success());
    let typical = began.elapsed();
    holds(&dir, &held, "not killed");
    let (mut random, mut tally, mut cut_off) = (Random::new(seed), Tally::default(), 0);
    for round in 0..rounds {
        let context = format!("round {round} of {rounds}, DYNARUST_SEED={seed}");
        copy(&original, &dir);
        // Sometimes again on what the one before has left.
        for _ in 0..random.between(1, 3) {
            let mut child = opening(&dir).spawn().expect("it starts");
            // Not to wait for anything: the length of this pause is the random moment itself.
            std::thread::sleep(Duration::from_micros(random.below(typical.as_micros() as u64)));
            cut_off += u64::from(child.try_wait().expect("it can be waited for").is_none());
            child.kill().expect("it can be killed");
            child.wait().expect("it can be waited for");
        }
        tally.add(&dir);
        holds(&dir, &held, &context);
    }
    let Tally([before, under_way, done]) = tally;
    say(&format!(
        "migrate: {rounds} rounds, {cut_off} cut off: {before} in format 1, {under_way} under way, {done} done"
    ));
    assert!(cut_off >= rounds / 2, "hardly any was cut off: {cut_off}");
}

/// An opening under strace, which does this to its system calls; `None`, said in a line, where that is not possible.
fn tampered(plain: &Command, call: &str, with: &str) -> Option<Output> {
    let what = "a migration whose system calls are tampered with";
    match strace(plain, call, with).output() {
        Err(e) => skipped(what, &format!("strace does not run ({e})")),
        Ok(output) if String::from_utf8_lossy(&output.stderr).contains("strace: ") => {
            skipped(what, String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(output) => return Some(output),
    }
    None
}

fn strace(plain: &Command, call: &str, with: &str) -> Command {
    let mut strace = Command::new("strace");
    strace.args(["-f", "-o", "/dev/null", "-e", &format!("trace={call}"), "-e"]);
    strace.arg(format!("inject={call}:{with}")).arg("--").arg(plain.get_program()).args(plain.get_args());
    strace.stdin(Stdio::null()).stdout(Stdio::null());
    strace
}

/// The moments that chance rarely meets: around the two manifests and the stamp between them, and while the old tree goes.
#[test]
fn killed_at_each_of_its_system_calls_it_is_begun_anew_or_goes_on() {
    let _beside = beside();
    let scratch = tempfile::tempdir().expect("a directory");
    let (original, dir) = (scratch.path().join("original"), scratch.path().join("dir"));
    let held = base(&original, libc::SIGTERM, 12);
    let calls =
        [("rename", 1), ("fsync", 1), ("fdatasync", 1), ("pwrite64", 4), ("openat", 9), ("unlink", 1)];
    let mut tally = Tally::default();
    for (call, step) in calls {
        for time in (1..).step_by(step) {
            copy(&original, &dir);
            let Some(output) = tampered(&opening(&dir), call, &format!("signal=KILL:when={time}")) else {
                return;
            };
            if output.status.success() {
                break;
            }
            tally.add(&dir);
            holds(&dir, &held, &format!("killed at {call} number {time}"));
        }
    }
    let Tally([before, under_way, done]) = tally;
    say(&format!(
        "migrate: killed at its system calls: {before} in format 1, {under_way} under way, {done} done"
    ));
    assert!(before > 0 && under_way > 0 && done > 0, "{before} {under_way} {done}");
}

#[test]
fn without_room_it_is_refused_and_nothing_changes() {
    let _beside = beside();
    let volume = match Volume::tmpfs(256) {
        Ok(volume) => volume,
        Err(because) => return skipped("a migration without room", &because),
    };
    let scratch = tempfile::tempdir().expect("a directory");
    let (dir, elsewhere) = (volume.path("dir"), scratch.path().join("dir"));
    let held = base(&dir, libc::SIGTERM, 60);
    let twice = 2 * old_bytes(&dir);
    copy(&dir, &elsewhere);
    let refused = |said: &str, reserve: u64| {
        let numbers = [format!("about {twice} bytes"), format!("{reserve} are to stay free")];
        let parts = ["no room", "to format 2", "stays in format 1", "make room", "release"];
        for part in parts.into_iter().chain(numbers.iter().map(String::as_str)) {
            assert!(said.contains(part), "no {part:?} in {said}");
        }
        assert_eq!(state(&dir), State::Before);
    };
    // Enough for what a migration leaves free by itself, and too little for what this node is to.
    volume.leave("filler", twice + (40 << 20));
    let said = Node::launch(Node::command(&dir, &["--disk-reserve-mib", "48"])).err();
    refused(&said.expect("it does not serve"), 48 << 20);
    volume.remove("filler");
    // A little too little for the former.
    volume.leave("filler", twice + (31 << 20));
    for args in [&["try-open"][..], &["compact"]] {
        let output = command(args, &dir).stderr(Stdio::piped()).output().expect("it runs");
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{args:?}: {said}");
        refused(&said, 32 << 20);
    }
    volume.remove("filler");
    volume.leave("filler", 45 << 20);
    // A copy that is looked into needs room where it is made.
    let output = command(&["inspect"], &elsewhere)
        .args(["summary".as_ref(), "--work-dir".as_ref(), volume.path("").as_os_str()])
        .stderr(Stdio::piped())
        .output()
        .expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.code() == Some(3) && said.contains(&volume.path("").display().to_string()),
        "{said}"
    );
    volume.remove("filler");
    if tampered(&Command::new("true"), "fdatasync", "delay_enter=1").is_none() {
        return;
    }
    // Room goes while it is under way.
    let mut slow = strace(&opening(&dir), "fdatasync", "delay_enter=60000");
    let mut child = slow.stderr(Stdio::piped()).spawn().expect("strace was tried");
    let mut lines = BufReader::new(child.stderr.take().expect("piped")).lines();
    assert!(lines.any(|line| line.is_ok_and(|line| line.contains("migrating"))), "it never began");
    volume.leave("filler", 12 << 20);
    let status = child.wait().expect("it ends");
    let stopped = state(&dir);
    volume.remove("filler");
    assert_eq!((status.code(), stopped), (Some(3), State::Before), "stopped in time");
    holds(&dir, &held, "after room went meanwhile");
}

/// Most directories have no large value: these are brought to the new format on a disk that is nearly full.
#[test]
fn without_large_values_it_needs_no_room() {
    let _beside = beside();
    let volume = match Volume::tmpfs(64) {
        Ok(volume) => volume,
        Err(because) => return skipped("a migration that needs no room", &because),
    };
    let dir = volume.path("dir");
    let node = Node::start(&dir, &[]);
    assert_eq!(node.request("PUT", "/key/k", "{\"value\": 1}").status, 201);
    assert_eq!(node.stop().code(), Some(0));
    let held = export(&dir);
    assert_eq!(to_format_1(&dir), 0, "nothing is large");
    volume.leave("filler", 12 << 20);
    holds(&dir, &held, "with little room");
}

/// A release that did not know the new tree may have gone on since: what is in that tree is not believed.
#[test]
fn what_an_earlier_begin_has_left_is_built_anew() {
    let _beside = beside();
    let scratch = tempfile::tempdir().expect("a directory");
    let dir = scratch.path().join("dir");
    // What is left is more than goes between two flushes.
    let held = base(&dir, libc::SIGTERM, 40);
    let left = |db: &sled::Db| -> sled::Result<()> {
        let (chunks, pieces) = (db.open_tree("chunks")?, db.open_tree("pieces")?);
        for (at, row) in chunks.iter().enumerate().step_by(3) {
            let (mut key, text) = (row.as_ref().expect("a row").0.to_vec(), &row.as_ref().expect("a row").1);
            // Old bytes under a name that is used, and pieces of a version that went.
            key[8] ^= u8::from(at % 2 == 0);
            pieces.insert(key, text)?;
        }
        db.flush().map(drop)
    };
    left(&open(&dir.join("store"))).expect("the store can be written");
    holds(&dir, &held, "with some of the new tree");
}

/// A store that was put beside another directory's manifest is not taken for what that says, nor for one to migrate.
#[test]
fn a_store_of_another_format_than_its_manifest_s_is_refused() {
    let _beside = beside();
    let scratch = tempfile::tempdir().expect("a directory");
    let dir = scratch.path().join("dir");
    let node = Node::start(&dir, &[]);
    assert_eq!(node.request("PUT", "/key/k", "{\"value\": 1}").status, 201);
    assert_eq!(node.stop().code(), Some(0));
    let held = export(&dir);
    for (says, has) in [("1", 2), ("2", 1), ("2", 3), ("2,\"migrating_from\":1", 3)] {
        manifest(&dir, |line| line.replace("\"format\":2", &format!("\"format\":{says}")));
        stamp(&dir, has);
        for args in [&["try-open"][..], &["export"], &["compact"]] {
            let output = command(args, &dir).stderr(Stdio::piped()).output().expect("it runs");
            let said = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(4), "{args:?} of {has} as {says}: {said}");
            let both = format!("the manifest says format {}, the store says {has}", &says[..1]);
            assert!(said.contains(&both), "{args:?}: no {both:?} in {said}");
        }
        manifest(&dir, |line| line.replace(&format!("\"format\":{says}"), "\"format\":2"));
        stamp(&dir, 2);
    }
    holds(&dir, &held, "as it was");
}

/// The store says that it has this format.
fn stamp(dir: &Path, format: u32) {
    let db = open(&dir.join("store"));
    db.open_tree("meta")
        .and_then(|meta| meta.insert("format", &format.to_be_bytes()))
        .expect("it can be written");
    db.flush().expect("it can be written");
}

/// Its flushes are watched like those of a commit: on a disk that hangs it does not stand there for ever.
#[test]
fn one_on_a_disk_that_hangs_ends_in_time() {
    let _beside = beside();
    let scratch = tempfile::tempdir().expect("a directory");
    let dir = scratch.path().join("dir");
    let held = base(&dir, libc::SIGTERM, 12);
    if tampered(&Command::new("true"), "fdatasync", "delay_enter=1").is_none() {
        return;
    }
    let node = Node::command(&dir, &["--commit-deadline-ms", "1500"]);
    let mut stuck = strace(&node, "fdatasync", "delay_enter=6000000");
    let output = stuck.env("RUST_LOG", "info").stderr(Stdio::piped()).output().expect("strace was tried");
    let log = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(5), "{log}");
    assert!(log.contains("migrating") && log.contains("not on the disk after 1500 ms"), "{log}");
    assert!(!log.contains("migrated to format"), "it was not watched: {log}");
    assert_eq!(state(&dir), State::Before);
    holds(&dir, &held, "after the disk hung");
}

/// Each flush has its deadline, and the whole has none.
#[test]
fn a_long_one_is_not_taken_for_a_disk_that_hangs() {
    let _beside = beside();
    let scratch = tempfile::tempdir().expect("a directory");
    let dir = scratch.path().join("dir");
    base(&dir, libc::SIGTERM, 30);
    let deadline = Duration::from_millis(1_500);
    let node = Node::command(&dir, &["--commit-deadline-ms", "1500"]);
    if tampered(&Command::new("true"), "fdatasync", "delay_enter=1").is_none() {
        return;
    }
    let mut slow = strace(&node, "fdatasync", "delay_enter=150000");
    slow.env("RUST_LOG", "info");
    let mut node = Node::launch(slow).unwrap_or_else(|log| panic!("does not serve:\n{log}"));
    let log = node.log();
    // strace would leave it running, and so would what fails below.
    let pid = node.child.id();
    let traced = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).expect("strace runs");
    let traced = traced.trim().parse().ok().and_then(rustix::process::Pid::from_raw).expect("one process");
    rustix::process::kill_process(traced, rustix::process::Signal::KILL).expect("it can be killed");
    node.wait(SOON);
    let line = log.lines().find(|line| line.contains("migrated to format")).expect("a line when it is done");
    let ms: u64 =
        line.split(" in ").nth(1).and_then(|rest| rest.split(' ').next()?.parse().ok()).expect("its time");
    assert!(Duration::from_millis(ms) > deadline, "it took no longer than a commit may: {line}");
    assert!(log.lines().any(|line| line.contains("migrating") && line.contains("rows")), "{log}");
}
