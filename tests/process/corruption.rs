//! A rotten disk: bits flipped, blocks zeroed, files cut off or gone in the directory of a stopped node. The node
//! finds out, at start (exit code 3 or 4 and what to do) or at the read (500), or the damage did not matter. It
//! never shows a wrong value, never says "not found" for a key that is there or shows one that was deleted, never
//! comes up empty, never hangs.

use crate::child::{Attempt, Outcome, last_words};
use crate::history::{identify, value_text};
use crate::random::{Random, rounds, seed};
use crate::support::{Client, Node};
use crate::{beside, say};
use serde_json::value::RawValue;
use std::fs::OpenOptions;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

const KEYS: usize = 300;
pub const DEADLINE: Duration = Duration::from_secs(20);

/// A directory and what is in it: the number of each key's last write, if it has a value.
pub struct Base {
    pub dir: tempfile::TempDir,
    truth: Vec<Option<u32>>,
}

/// Values small and large, overwritten and deleted, over two runs of the node; the last ends as `signal` says.
pub fn base(signal: i32, random: &mut Random) -> Base {
    let dir = tempfile::tempdir().expect("a directory");
    let mut truth = vec![None; KEYS];
    for run in 0..2 {
        let mut node = Node::start(&dir.path().join("data"), &[]);
        let mut client = Client::new(node.address);
        for step in 0..KEYS {
            // The first run writes every key once, the second touches half of them.
            let key = if run == 0 { step } else { random.index(KEYS) };
            if run == 1 && step > KEYS / 2 {
                break;
            }
            let path = format!("/key/k{key}");
            if run == 1 && truth[key].is_some() && random.chance(25) {
                assert_eq!(client.request("DELETE", &path, &[], b"").expect("an answer").status, 200);
                truth[key] = None;
                continue;
            }
            let number = (run * KEYS + step) as u32;
            let large = random.chance(4);
            let length = if large { random.between(70_000, 300_000) } else { random.between(20, 400) };
            let body = format!("{{\"value\": {}}}", value_text(key, number, length as usize));
            let answer = client.request("PUT", &path, &[], body.as_bytes()).expect("an answer");
            assert!(matches!(answer.status, 200 | 201), "{}", answer.text());
            truth[key] = Some(number);
        }
        node.signal(if run == 0 { libc::SIGTERM } else { signal });
        node.wait(DEADLINE);
    }
    Base { dir, truth }
}

#[derive(Default)]
struct Tally {
    refused: u64,
    harmless: u64,
    found_at_read: u64,
    died: u64,
}

#[test]
fn damage_is_found_or_harmless() {
    let _beside = beside();
    let seed = seed();
    let cases = rounds("DYNARUST_CORRUPTIONS", 150);
    let mut random = Random::new(seed);
    let bases = [base(libc::SIGTERM, &mut random), base(libc::SIGKILL, &mut random)];
    let mut tally = Tally::default();
    let mut guilty = Vec::new();
    let whole: Vec<Vec<PathBuf>> = bases.iter().map(|base| files(&base.dir.path().join("data"))).collect();
    // First everything that can go as a whole, then what chance brings.
    let gone: Vec<(usize, usize, bool)> = (0..bases.len())
        .flat_map(|b| (0..whole[b].len()).flat_map(move |f| [(b, f, true), (b, f, false)]))
        .collect();
    for case in 0..cases.max(gone.len() as u64) {
        let mut random = Random::new(seed.wrapping_add(case));
        let scratch = tempfile::tempdir().expect("a directory");
        let dir = scratch.path().join("data");
        let (base, what) = match gone.get(case as usize) {
            Some((b, f, remove)) => {
                let file = &whole[*b][*f];
                copy(&bases[*b].dir.path().join("data"), &dir);
                match remove {
                    true => std::fs::remove_file(dir.join(file)).expect("it is there"),
                    false => cut(&dir.join(file), 0),
                }
                let how = if *remove { "removed" } else { "emptied" };
                (*b, format!("{how} {}", file.display()))
            }
            None => {
                let b = random.index(bases.len());
                copy(&bases[b].dir.path().join("data"), &dir);
                (b, damage(&dir, &whole[b], &mut random))
            }
        };
        let stopped = ["SIGTERM", "SIGKILL"][base];
        if let Err(why) = judge(&dir, &bases[base].truth, &mut tally) {
            guilty.push(format!("case {case} after {stopped}, {what}: {why}"));
        }
    }
    let Tally { refused, harmless, found_at_read, died } = tally;
    say(&format!(
        "corruption: {} cases: {refused} refused at start, {found_at_read} found at a read, {died} ended at a read, \
         {harmless} harmless, {} guilty",
        cases.max(gone.len() as u64),
        guilty.len()
    ));
    let shown = &guilty[..guilty.len().min(12)];
    assert!(guilty.is_empty(), "DYNARUST_SEED={seed}: {} guilty\n{}", guilty.len(), shown.join("\n\n"));
    assert!(refused > 0 && harmless > 0, "the damage is all of one kind");
}

/// The store's directory gone or empty as a whole: the manifest knows that there was something.
#[test]
fn a_lost_store_is_not_an_empty_one() {
    let _beside = beside();
    let mut random = Random::new(seed());
    let base = base(libc::SIGTERM, &mut random);
    for keep in [false, true] {
        let scratch = tempfile::tempdir().expect("a directory");
        let dir = scratch.path().join("data");
        copy(&base.dir.path().join("data"), &dir);
        std::fs::remove_dir_all(dir.join("store")).expect("it is there");
        if keep {
            std::fs::create_dir(dir.join("store")).expect("a directory");
        }
        let mut tally = Tally::default();
        judge(&dir, &base.truth, &mut tally)
            .unwrap_or_else(|why| panic!("store/ gone, empty one: {keep}: {why}"));
        assert_eq!(tally.refused, 1, "a node came up without its store");
    }
}

/// The end of the log torn off at every place of the last commit: what is left of that commit must not pass for the whole.
#[test]
fn a_torn_end_is_not_the_end() {
    let _beside = beside();
    let base = tempfile::tempdir().expect("a directory");
    let mut node = Node::start(&base.path().join("data"), &[]);
    let mut client = Client::new(node.address);
    let mut truth = vec![None; 3];
    for number in 0..9 {
        let key = number as usize % truth.len();
        let body = format!("{{\"value\": {}}}", value_text(key, number, 40));
        let answer = client.request("PUT", &format!("/key/k{key}"), &[], body.as_bytes()).expect("an answer");
        assert!(matches!(answer.status, 200 | 201), "{}", answer.text());
        truth[key] = Some(number);
    }
    node.signal(libc::SIGKILL);
    node.wait(DEADLINE);
    let bytes = std::fs::read(base.path().join("data/store/db")).expect("it can be read");
    let end = bytes.iter().rposition(|byte| *byte != 0).expect("there is something") + 1;
    let mut tally = Tally::default();
    for torn in (8..800).step_by(16) {
        let scratch = tempfile::tempdir().expect("a directory");
        let dir = scratch.path().join("data");
        copy(&base.path().join("data"), &dir);
        let file = OpenOptions::new().write(true).open(dir.join("store/db")).expect("it can be written");
        file.write_all_at(&vec![0; torn], (end - torn) as u64).expect("it can be written");
        judge(&dir, &truth, &mut tally).unwrap_or_else(|why| panic!("{torn} bytes torn off: {why}"));
    }
    say(&format!(
        "corruption: the end torn off: {} refused at start, {} harmless",
        tally.refused, tally.harmless
    ));
    assert!(tally.refused > 25, "what was torn off was not the last commit");
}

/// The negative control: this very judge finds a directory guilty that is sound but holds something else.
#[test]
fn a_wrong_value_would_be_found() {
    let _beside = beside();
    let base = base(libc::SIGTERM, &mut Random::new(seed()));
    let dir = base.dir.path().join("data");
    judge(&dir, &base.truth, &mut Tally::default()).expect("sound");
    let mut wrong = base.truth.clone();
    let present = wrong.iter().position(Option::is_some).expect("a key with a value");
    wrong[present] = Some(99_999);
    assert!(judge(&dir, &wrong, &mut Tally::default()).is_err());
    wrong[present] = None;
    assert!(judge(&dir, &wrong, &mut Tally::default()).is_err());
    let mut wrong = base.truth.clone();
    let absent = wrong.iter().position(Option::is_none).expect("a deleted key");
    wrong[absent] = Some(1);
    assert!(judge(&dir, &wrong, &mut Tally::default()).is_err());
}

/// Starts a node on `dir`, asks for every key, and compares with the truth.
fn judge(dir: &Path, truth: &[Option<u32>], tally: &mut Tally) -> Result<(), String> {
    let mut attempt = Attempt::start(Node::command(dir, &[]));
    let address = match attempt.outcome(DEADLINE) {
        Outcome::Hangs => return Err(format!("hangs\n{}", attempt.log())),
        Outcome::Ended(status) => {
            let log = attempt.log();
            tally.refused += 1;
            return match status.code() {
                Some(3 | 4) => last_words(&log),
                _ => Err(format!("{status}\n{log}")),
            };
        }
        Outcome::Serving(address) => address,
    };
    let mut damaged = 0;
    let mut client = Client::new(address);
    for (key, expected) in truth.iter().enumerate() {
        let answer = match client.request("GET", &format!("/key/k{key}"), &[], b"") {
            Ok(answer) => answer,
            Err(e) => {
                let status =
                    attempt.ended(DEADLINE).ok_or_else(|| format!("key {key}: {e}, and it lives"))?;
                tally.died += 1;
                return match status.code() {
                    Some(4 | 5) => last_words(&attempt.log()),
                    _ => Err(format!("{status}\n{}", attempt.log())),
                };
            }
        };
        match (answer.status, expected) {
            (200, Some(number)) => {
                let found = identify(key, &value_of(&answer.body)?)?;
                if found != *number {
                    return Err(format!("key {key} shows write {found} for {number}"));
                }
            }
            (404, None) => {}
            (500, _) if answer.json()["type"] == "urn:dynarust:problem:damaged" => damaged += 1,
            (status, _) => {
                return Err(format!("key {key}, last write {expected:?}: {status} {}", attempt.log()));
            }
        }
    }
    if damaged > 0 {
        tally.found_at_read += 1;
    } else {
        tally.harmless += 1;
    }
    Ok(())
}

fn value_of(body: &[u8]) -> Result<String, String> {
    #[derive(serde::Deserialize)]
    struct Body<'a> {
        #[serde(borrow)]
        value: &'a RawValue,
    }
    let body: Body = serde_json::from_slice(body).map_err(|e| e.to_string())?;
    Ok(body.value.get().to_owned())
}

/// Does one random damage, and says which.
pub fn damage(dir: &Path, files: &[PathBuf], random: &mut Random) -> String {
    let of_database = |file: &&PathBuf| file.ends_with("store/db");
    let database = files.iter().find(of_database).expect("a database");
    let name = if random.chance(60) { database } else { &files[random.index(files.len())] };
    let path = dir.join(name);
    let bytes = std::fs::read(&path).expect("it can be read");
    if bytes.is_empty() {
        return format!("{} is empty anyway", name.display());
    }
    let file = OpenOptions::new().write(true).open(&path).expect("it can be written");
    let how = match random.below(8) {
        0 => {
            let length = random.below(bytes.len() as u64);
            cut(&path, length);
            format!("cut to {length} of {} bytes", bytes.len())
        }
        1..=3 => {
            let places: Vec<usize> =
                (0..random.between(1, 4)).map(|_| somewhere(&bytes, random) & !4095).collect();
            for at in &places {
                let length = 4096.min(bytes.len() - at);
                file.write_all_at(&vec![0; length], *at as u64).expect("it can be written");
            }
            format!("4 KiB zeroed at {places:?}")
        }
        4 => {
            let at = somewhere(&bytes, random) & !511;
            let junk: Vec<u8> = (0..512.min(bytes.len() - at)).map(|_| random.next() as u8).collect();
            file.write_all_at(&junk, at as u64).expect("it can be written");
            format!("512 bytes of junk at {at}")
        }
        _ => {
            let places: Vec<usize> = (0..random.between(1, 8)).map(|_| somewhere(&bytes, random)).collect();
            for at in &places {
                let bit = 1u8 << random.below(8);
                file.write_all_at(&[bytes[*at] ^ bit], *at as u64).expect("it can be written");
            }
            format!("bits flipped at {places:?}")
        }
    };
    format!("{}: {how}", name.display())
}

/// A place where there is something: most of a young database is empty.
fn somewhere(bytes: &[u8], random: &mut Random) -> usize {
    let tries = (0..50).map(|_| random.index(bytes.len()));
    let mut last = 0;
    for at in tries {
        last = at;
        let around = &bytes[at.saturating_sub(8)..(at + 8).min(bytes.len())];
        if around.iter().any(|byte| *byte != 0) {
            break;
        }
    }
    last
}

fn cut(path: &Path, length: u64) {
    let file = OpenOptions::new().write(true).open(path).expect("it can be written");
    file.set_len(length).expect("it can be cut");
}

/// The paths of the files under `dir`, relative to it, in order.
pub fn files(dir: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(dir).expect("it can be listed") {
        let entry = entry.expect("it can be listed");
        let name = PathBuf::from(entry.file_name());
        match entry.path().is_dir() {
            true => found.extend(files(&entry.path()).into_iter().map(|file| name.join(file))),
            false => found.push(name),
        }
    }
    found.sort();
    found
}

pub fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a directory");
    for entry in std::fs::read_dir(from).expect("it can be listed") {
        let entry = entry.expect("it can be listed");
        let target = to.join(entry.file_name());
        match entry.path().is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(std::fs::copy(entry.path(), target).expect("it can be copied")),
        }
    }
}
