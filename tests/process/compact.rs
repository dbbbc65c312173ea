//! `DynaRust compact` as a process: killed at any moment, without room, on a file system that can't do it. The directory
//! holds what it held before, and what a killed one has left goes with the next start.

use crate::random::{Random, rounds, seed};
use crate::support::{Client, Node, SOON, wait_until};
use crate::volume::Volume;
use crate::{beside, say, skipped};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

const KEYS: usize = 120;

/// What a directory is to hold: values by key.
type Truth = BTreeMap<String, String>;

/// A directory whose files are several times as large as what is in them, left as `signal` leaves it.
fn base(dir: &Path, signal: i32) -> Truth {
    let mut node = Node::start(dir, &[]);
    let mut client = Client::new(node.address);
    let mut truth = Truth::new();
    for round in 0..6 {
        for key in 0..KEYS {
            let (key, value) = (format!("k{key}"), format!("{round}.{key}.").repeat(200 + key * 40));
            let body = format!("{{\"value\": \"{value}\"}}");
            let answer = client.request("PUT", &format!("/key/{key}"), &[], body.as_bytes());
            assert!(matches!(answer.expect("an answer").status, 200 | 201));
            truth.insert(key, value);
        }
    }
    node.signal(signal);
    node.wait(SOON);
    truth
}

fn compaction(dir: &Path) -> Command {
    let mut command = Command::new(crate::support::binary());
    command.arg("compact").arg(dir).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

/// The same under strace, which does this to one of its system calls; `None`, said in a line, where that is not possible.
fn tampered(dir: &Path, call: &str, with: &str) -> Option<Output> {
    let plain = compaction(dir);
    let mut strace = Command::new("strace");
    strace.args(["-f", "-o", "/dev/null", "-e", &format!("trace={call}"), "-e"]);
    strace.arg(format!("inject={call}:{with}")).arg("--").arg(plain.get_program()).args(plain.get_args());
    let what = "a compaction whose system calls are tampered with";
    match strace.stdin(Stdio::null()).output() {
        Err(e) => skipped(what, &format!("strace does not run ({e})")),
        Ok(output) if String::from_utf8_lossy(&output.stderr).contains("strace: ") => {
            skipped(what, String::from_utf8_lossy(&output.stderr).trim());
        }
        Ok(output) => return Some(output),
    }
    None
}

fn copy(from: &Path, to: &Path) {
    let _ = std::fs::remove_dir_all(to);
    let status = Command::new("cp").arg("-r").arg(from).arg(to).status().expect("cp runs");
    assert!(status.success());
}

/// A node starts on it and shows just this; nothing of a compaction is left.
fn holds(dir: &Path, truth: &Truth, context: &str) {
    let node = Node::launch(Node::command(dir, &[]))
        .unwrap_or_else(|log| panic!("{context}: does not start\n{log}"));
    assert!(!dir.join("store.new").exists(), "{context}: store.new is still there");
    assert_eq!(node.request("GET", "/stats", "").json()["keys"], truth.len(), "{context}");
    let mut client = Client::new(node.address);
    for (key, value) in truth {
        let answer = client.request("GET", &format!("/key/{key}"), &[], b"").expect("an answer");
        assert_eq!(answer.status, 200, "{context}: {key}");
        assert_eq!(answer.json()["value"], *value, "{context}: {key}");
    }
    assert_eq!(node.stop().code(), Some(0), "{context}");
}

fn size(dir: &Path) -> u64 {
    std::fs::metadata(dir.join("store/db")).expect("a store").len()
}

#[test]
fn killed_at_any_moment_it_leaves_one_whole_directory() {
    let _beside = beside();
    let (seed, rounds) = (seed(), rounds("DYNARUST_COMPACT_KILLS", 30));
    let scratch = tempfile::tempdir().expect("a directory");
    let (original, dir) = (scratch.path().join("original"), scratch.path().join("dir"));
    let truth = base(&original, libc::SIGKILL);
    copy(&original, &dir);
    let began = Instant::now();
    assert!(compaction(&dir).status().expect("it runs").success());
    let mut typical = began.elapsed();
    assert!(size(&dir) < size(&original), "nothing was saved");
    let mut random = Random::new(seed);
    let (mut cut_off, mut left) = (0, 0);
    let enough = |cut_off: u64, left: u64| cut_off > rounds / 2 && left > rounds / 4;
    // Where in a compaction the time goes depends on what else the machine does.
    for round in 0..3 * rounds {
        if round >= rounds && enough(cut_off, left) {
            break;
        }
        let context = format!("round {round} of {rounds}, DYNARUST_SEED={seed}");
        copy(&original, &dir);
        // Sometimes again on what the one before has left.
        for _ in 0..random.between(1, 2) {
            let mut child = compaction(&dir).spawn().expect("it starts");
            // Not to wait for anything: the length of this pause is the random moment itself.
            std::thread::sleep(Duration::from_micros(random.below(typical.as_micros() as u64)));
            let cut = child.try_wait().expect("it can be waited for").is_none();
            cut_off += u64::from(cut);
            // How long one takes depends on what else the machine does just now.
            typical = if cut { typical * 17 / 16 } else { typical * 3 / 4 };
            child.kill().expect("it can be killed");
            child.wait().expect("it can be waited for");
            left += u64::from(dir.join("store.new").exists());
        }
        holds(&dir, &truth, &context);
    }
    say(&format!("compact: {rounds} rounds, {cut_off} cut off, {left} with something left beside the store"));
    assert!(enough(cut_off, left), "hardly any was cut off: {cut_off}, {left}");
}

/// The moments that chance rarely meets: around the exchange, and while the old store is removed.
#[test]
fn killed_around_the_exchange_it_leaves_one_whole_directory() {
    let _beside = beside();
    let scratch = tempfile::tempdir().expect("a directory");
    let (original, dir) = (scratch.path().join("original"), scratch.path().join("dir"));
    let truth = base(&original, libc::SIGTERM);
    // The first exchange is only tried.
    let calls = [("renameat2", 1..3), ("unlinkat", 1..10), ("fsync", 1..12)];
    let (mut left, mut swapped) = (0, 0);
    for (call, times) in calls {
        for time in times {
            copy(&original, &dir);
            let Some(output) = tampered(&dir, call, &format!("signal=KILL:when={time}")) else { return };
            left += u64::from(dir.join("store.new").exists());
            swapped += u64::from(size(&dir) < size(&original));
            let context = format!("killed at {call} number {time}, {:?}", output.status);
            holds(&dir, &truth, &context);
        }
    }
    say(&format!("compact: killed at its system calls: {left} with something left, {swapped} exchanged"));
    assert!(left > 5 && swapped > 1, "{left} {swapped}");
}

#[test]
fn a_file_system_that_can_t_exchange_is_refused() {
    let _beside = beside();
    let scratch = tempfile::tempdir().expect("a directory");
    let dir = scratch.path().join("dir");
    let truth = base(&dir, libc::SIGTERM);
    let before = (size(&dir), std::fs::read(dir.join("store/db")).expect("a store"));
    let Some(output) = tampered(&dir, "renameat2", "error=EINVAL") else { return };
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("change places in one step") && said.contains("nothing was changed"), "{said}");
    assert!(!dir.join("store.new").exists());
    assert!(before == (size(&dir), std::fs::read(dir.join("store/db")).expect("a store")), "it was changed");
    holds(&dir, &truth, "after the refusal");
}

#[test]
fn without_room_for_a_second_store_it_is_refused() {
    let _beside = beside();
    let volume = match Volume::tmpfs(256) {
        Ok(volume) => volume,
        Err(because) => return skipped("a compaction without room", &because),
    };
    let dir: PathBuf = volume.path("dir");
    let truth = base(&dir, libc::SIGTERM);
    let before = size(&dir);
    volume.leave("filler", 20 << 20);
    let output = compaction(&dir).output().expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("no room for a second store") && said.contains("bytes"), "{said}");
    assert!(!dir.join("store.new").exists());
    assert_eq!(size(&dir), before);
    holds(&dir, &truth, "after the refusal");
    volume.remove("filler");
    // Room goes while it is under way.
    let mut child = compaction(&dir).spawn().expect("it starts");
    wait_until(SOON, "a second store", || dir.join("store.new/db").exists());
    volume.leave("filler", 8 << 20);
    let status = child.wait().expect("it ends");
    assert!(matches!(status.code(), Some(0 | 3)), "{status}");
    volume.remove("filler");
    holds(&dir, &truth, "after room went meanwhile");
    assert!(compaction(&dir).status().expect("it runs").success());
    assert!(size(&dir) < before, "nothing was saved");
    holds(&dir, &truth, "after all");
}
