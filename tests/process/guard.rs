//! A node that meets a damaged log leaves it as it is: the storage engine would wipe what lies behind the damage, and with it
//! what a salvage could have brought back.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::child::{Attempt, Outcome, last_words};
use crate::corruption::{DEADLINE, base, copy, files};
use crate::random::{Random, rounds, seed};
use crate::support::{Node, binary};
use crate::{beside, say};

#[derive(Default)]
struct Tally {
    served: u64,
    untouched: u64,
    /// Found by what is proven behind the opening: by then the engine has cut what it wanted to.
    late: u64,
    /// Lines that a salvage does not bring back any more.
    lost: usize,
}

#[test]
fn a_refused_start_changes_nothing() {
    let _beside = beside();
    let (seed, cases) = (seed(), rounds("DYNARUST_GUARDED", 120));
    let mut random = Random::new(seed);
    let bases = [base(libc::SIGTERM, &mut random), base(libc::SIGKILL, &mut random)];
    let mut tally = Tally::default();
    let mut guilty = Vec::new();
    for case in 0..cases {
        let mut random = Random::new(seed.wrapping_add(case));
        let scratch = tempfile::tempdir().expect("a directory");
        let dir = scratch.path().join("data");
        copy(&bases[random.index(bases.len())].dir.path().join("data"), &dir);
        let what = damage(&dir.join("store/db"), &mut random);
        if let Err(why) = judge(&dir, scratch.path(), &mut tally) {
            guilty.push(format!("case {case}, {what}: {why}"));
        }
    }
    let Tally { served, untouched, late, lost } = tally;
    say(&format!(
        "guard: {cases} damaged logs: {untouched} refused and left as they were, {served} served, {late} refused after they \
         were opened, {lost} lines fewer salvaged"
    ));
    assert!(guilty.is_empty(), "DYNARUST_SEED={seed}: {} guilty\n{}", guilty.len(), guilty.join("\n"));
    assert!(untouched > cases / 4, "only {untouched} were refused");
    assert!(late * 20 <= cases, "{late} of {cases} were opened and refused then");
}

const SEGMENT: usize = 2 << 20;

/// Flips a bit in the log, zeroes blocks or a segment of it, puts junk there or cuts it, where something is.
fn damage(db: &Path, random: &mut Random) -> String {
    let bytes = fs::read(db).expect("the log");
    let file = OpenOptions::new().write(true).open(db).expect("the log");
    let mut somewhere = |unit: usize| loop {
        let at = random.index(bytes.len()) / unit * unit;
        if bytes[at..(at + 64).min(bytes.len())].iter().any(|byte| *byte != 0) {
            return (at, random.next());
        }
    };
    let ((at, junk), (other, kind)) = (somewhere(1), somewhere(4_096));
    let write = |what: &[u8], at: usize| file.write_all_at(what, at as u64).expect("it can be written");
    match kind % 8 {
        // A segment and more.
        7 => {
            let from = other / SEGMENT * SEGMENT;
            match junk % 2 {
                0 => write(&vec![0; SEGMENT.min(bytes.len() - from)], from),
                _ => file.set_len(from as u64).expect("it can be cut"),
            }
            format!("the segment at {from} is gone, and all behind it: {}", junk % 2 == 1)
        }
        0 | 1 => {
            write(&[bytes[at] ^ (1 << (junk % 8))], at);
            format!("a bit at {at}")
        }
        2..=4 => {
            let blocks = 1 + junk as usize % 4;
            write(&vec![0; (blocks * 4_096).min(bytes.len() - other)], other);
            format!("{blocks} blocks of zeros at {other}")
        }
        _ => {
            write(&junk.to_le_bytes().repeat(64)[..512.min(bytes.len() - other)], other);
            format!("junk at {other}")
        }
    }
}

fn judge(dir: &Path, scratch: &Path, tally: &mut Tally) -> Result<(), String> {
    let kept = scratch.join("kept");
    copy(dir, &kept);
    let before = content(dir);
    let mut attempt = Attempt::start(Node::command(dir, &[]));
    match attempt.outcome(DEADLINE) {
        Outcome::Hangs => return Err(format!("hangs\n{}", attempt.log())),
        Outcome::Serving(_) => {
            tally.served += 1;
            return Ok(());
        }
        Outcome::Ended(status) if matches!(status.code(), Some(3 | 4)) => last_words(&attempt.log())?,
        Outcome::Ended(status) => return Err(format!("{status}\n{}", attempt.log())),
    }
    if content(dir) == before {
        tally.untouched += 1;
        // Who opens the directory for something else is no worse.
        let compacted = Command::new(binary()).arg("compact").arg(dir).output().expect("it starts");
        return match (compacted.status.code(), content(dir) == before) {
            (Some(3 | 4), true) => Ok(()),
            (code, same) => {
                Err(format!("a compaction of it ends with {code:?}; nothing has changed: {same}"))
            }
        };
    }
    if attempt.log().contains("no byte of it has changed") {
        return Err(format!("it says that nothing has changed\n{}", attempt.log()));
    }
    tally.late += 1;
    let (now, then) = (salvaged(dir, scratch), salvaged(&kept, scratch));
    tally.lost += then.len() - now.len().min(then.len());
    say(&format!("guard: found late: {}", attempt.log()));
    Ok(())
}

/// Every file of a directory, and what is in it.
fn content(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let read = |file: PathBuf| (file.clone(), fs::read(dir.join(file)).expect("it can be read"));
    files(dir).into_iter().filter(|file| !file.ends_with("BALLAST")).map(read).collect()
}

/// The lines that a salvage brings back without a mark.
fn salvaged(dir: &Path, scratch: &Path) -> Vec<String> {
    let out = scratch.join("out");
    let _ = fs::remove_file(&out);
    let done = Command::new(binary()).arg("inspect").arg(dir).args(["salvage", "--out"]).arg(&out).output();
    done.expect("it starts");
    let text = fs::read_to_string(&out).unwrap_or_default();
    text.lines().filter(|line| !line.contains("\"stale\"")).map(str::to_owned).collect()
}
