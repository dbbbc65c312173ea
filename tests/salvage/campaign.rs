//! Damages copy after copy, salvages each, and holds what comes back against the truth.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::io::Write;
use std::ops::Range;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use serde_json::Value as Json;

use crate::base::{Base, base, copy};
use crate::damage::{ALL, Damage, inflict};
use crate::map::{Records, records};
use crate::older::to_format_1;
use crate::random::{Random, rounds, seed};
use crate::support::{SOON, binary, errors};

/// A sound directory, and where everything is in it.
struct Subject {
    base: Base,
    records: Records,
}

/// What came of all copies with one sort of damage.
#[derive(Default)]
struct Tally {
    copies: u64,
    /// Keys with untouched records, and how many of them came back.
    untouched: u64,
    back: u64,
    /// Keys whose record was hit and that came back all the same, with their last value.
    more: u64,
    /// Keys that came back with an older value or after their delete, all marked.
    old: u64,
    /// Lines with a mark, whether they were old or not.
    marked: u64,
    lines: u64,
    incomplete: u64,
    unread: u64,
}

#[test]
fn whatever_is_untouched_comes_back() {
    let (seed, copies) = (seed(), rounds("DYNARUST_SALVAGES", 70));
    let mut random = Random::new(seed);
    // The last is one of a release that knew format 1 only, whose pieces of large values prove nothing by themselves.
    let ends = [(libc::SIGTERM, 3), (libc::SIGKILL, 3), (libc::SIGTERM, 1), (libc::SIGTERM, 2)];
    let subjects = ends.iter().enumerate().map(|(number, &(signal, runs))| {
        let base = base(signal, runs, &mut random);
        if number + 1 == ends.len() {
            to_format_1(&base.data());
        }
        let records = records(&base.data().join("store/db"), &versions(&base));
        Subject { base, records }
    });
    let subjects: Vec<Subject> = subjects.collect();
    let mut tallies: BTreeMap<Damage, Tally> = BTreeMap::new();
    let mut guilty = Vec::new();
    for case in 0..copies {
        let damage = ALL[case as usize % ALL.len()];
        let mut random = Random::new(seed.wrapping_add(case));
        let subject = &subjects[random.index(subjects.len())];
        let tally = tallies.entry(damage).or_default();
        if let Err(why) = judge(subject, damage, &mut random, tally) {
            guilty.push(format!("copy {case}, {}: {why}", damage.name()));
        }
    }
    show(&tallies);
    let shown = &guilty[..guilty.len().min(8)];
    assert!(guilty.is_empty(), "DYNARUST_SEED={seed}: {} guilty\n{}", guilty.len(), shown.join("\n"));
    let sum = |of: fn(&Tally) -> u64| tallies.values().map(of).sum::<u64>();
    assert!(sum(|tally| tally.old) > 0, "nothing old ever came back: the marks were not put to the test");
    assert!(sum(|tally| tally.untouched) < sum(|tally| tally.copies) * 400, "the damage hits nothing");
}

/// The negative controls: this judge finds a salvage guilty that lacks a key, has a wrong value, or an old one unmarked.
#[test]
fn a_bad_salvage_would_be_found() {
    let base = base(libc::SIGTERM, 1, &mut Random::new(seed()));
    let records = records(&base.data().join("store/db"), &versions(&base));
    let scratch = tempfile::tempdir().expect("a directory");
    let text = salvage(&base.data(), &scratch.path().join("out")).expect("it works");
    let lines: Vec<Json> = parsed(&text);
    let subject = Subject { base, records };
    let verdict = |lines: &[Json]| compare(&subject, &[], lines, &mut Tally::default());
    assert_eq!(verdict(&lines), Ok(()));
    assert!(verdict(&lines[1..]).is_err(), "a key that is missing");
    let mut wrong = lines.clone();
    wrong[0]["value"] = Json::Null;
    assert!(verdict(&wrong).is_err(), "a wrong value");
    let deleted = subject.base.truth.iter().find(|(_, value)| value.is_none()).expect("a deleted key").0;
    let mut wrong = lines.clone();
    wrong.push(serde_json::json!({"key": deleted, "value": 1}));
    assert!(verdict(&wrong).is_err(), "a deleted key");
    let everything = 0..u64::MAX;
    let verdict =
        |lines: &[Json]| compare(&subject, std::slice::from_ref(&everything), lines, &mut Tally::default());
    assert!(verdict(&wrong).is_err(), "a deleted key without a mark");
    wrong.last_mut().expect("just put there")["stale"] = "possible".into();
    assert_eq!(verdict(&wrong), Ok(()), "and with one");
}

fn judge(subject: &Subject, damage: Damage, random: &mut Random, tally: &mut Tally) -> Result<(), String> {
    let scratch = tempfile::tempdir().expect("a directory");
    let dir = scratch.path().join("data");
    copy(&subject.base.data(), &dir);
    let hit = inflict(damage, &dir, random);
    let db = fs::read(dir.join("store/db")).expect("the log");
    tally.copies += 1;
    let out = scratch.path().join("out");
    let text = salvage(&dir, &out).map_err(|why| format!("{hit:?}: {why}"))?;
    if fs::read(dir.join("store/db")).expect("the log") != db {
        return Err("it changed the log".into());
    }
    tally.unread += u64::from(text.is_none());
    compare(subject, &hit, &parsed(&text), tally).map_err(|why| format!("{hit:?}: {why}"))
}

/// What it writes; `None` when it says that nothing can be read.
fn salvage(dir: &Path, out: &Path) -> Result<Option<String>, String> {
    let mut child = Command::new(binary())
        .args(["inspect".as_ref(), dir.as_os_str(), "salvage".as_ref(), "--json".as_ref(), "--out".as_ref()])
        .arg(out)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let began = Instant::now();
    while child.try_wait().expect("it can be waited for").is_none() {
        if began.elapsed() > SOON {
            child.kill().expect("it can be killed");
            return Err("it hangs".into());
        }
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
    let ended = child.wait_with_output().expect("its output");
    let said = errors(&ended.stderr);
    match ended.status.code() {
        Some(0 | 1) if said.is_empty() => Ok(Some(fs::read_to_string(out).expect("its file"))),
        Some(2) if said.contains("can be read") => Ok(None),
        code => Err(format!("exit code {code:?}\n{said}")),
    }
}

fn parsed(text: &Option<String>) -> Vec<Json> {
    let lines = text.as_deref().unwrap_or_default().lines();
    lines.map(|line| serde_json::from_str(line).expect("an object a line")).collect()
}

/// Is it what it must be, where these bytes of the log were hit?
fn compare(subject: &Subject, hit: &[Range<u64>], lines: &[Json], tally: &mut Tally) -> Result<(), String> {
    let touched =
        |record: &Range<u64>| hit.iter().any(|hit| hit.start < record.end && record.start < hit.end);
    let mut found: HashMap<&str, &Json> = HashMap::new();
    for line in lines {
        let key = line["key"].as_str().expect("a key");
        if found.insert(key, line).is_some() {
            return Err(format!("'{key}' is there twice"));
        }
    }
    for (key, record) in &subject.records {
        let right = subject.base.truth[key].as_ref();
        let back = found.get(key.as_str()).is_some_and(|line| line.get("value") == right);
        if record.iter().any(touched) {
            tally.more += u64::from(back);
            continue;
        }
        tally.untouched += 1;
        tally.back += u64::from(back);
        if !back {
            let line = found.get(key.as_str()).map(|line| {
                let text = line.to_string();
                text[..text.len().min(300)].to_owned()
            });
            return Err(format!("'{key}' is untouched, and did not come back: {record:?}, {line:?}"));
        }
    }
    for (key, line) in found {
        let marked = line.get("stale").is_some();
        let right = subject.base.truth.get(key).and_then(Option::as_ref);
        tally.lines += 1;
        tally.marked += u64::from(marked);
        tally.incomplete += u64::from(line.get("incomplete").is_some());
        if line.get("incomplete").is_some() && right.is_some() {
            continue;
        }
        let old = line.get("value") != right;
        tally.old += u64::from(old);
        if old && !marked {
            return Err(format!("'{key}' is not what it was, and nothing says so"));
        }
    }
    Ok(())
}

fn show(tallies: &BTreeMap<Damage, Tally>) {
    let mut text = format!(
        "{:<38} {:>6} {:>9} {:>9} {:>6} {:>6} {:>8} {:>10} {:>6}\n",
        "damage", "copies", "untouched", "back", "more", "old", "marked", "incomplete", "unread"
    );
    for (damage, tally) in tallies {
        let Tally { copies, untouched, back, more, old, marked, incomplete, unread, .. } = tally;
        text += &format!(
            "{:<38} {copies:>6} {untouched:>9} {back:>9} {more:>6} {old:>6} {marked:>8} {incomplete:>10} {unread:>6}\n",
            damage.name()
        );
    }
    let _ = std::io::stderr().write_all(text.as_bytes());
}

/// The key and the name of the version of everything that is there, as the keys of pieces begin.
fn versions(base: &Base) -> HashMap<String, Vec<u8>> {
    let command = Command::new(binary())
        .args(["inspect".as_ref(), base.data().as_os_str(), "keys".as_ref(), "--json".as_ref()])
        .output()
        .expect("it starts");
    let text = String::from_utf8(command.stdout).expect("UTF-8");
    let versions: HashMap<String, Vec<u8>> = text
        .lines()
        .map(|line| {
            let line: Json = serde_json::from_str(line).expect("an object a line");
            let version = line["version"].as_str().expect("a version");
            let (origin, seq) = version.split_once('-').expect("two parts");
            let origin = u64::from_str_radix(origin, 16).expect("an id");
            let seq: u64 = seq.parse().expect("a number");
            let name = [origin.to_be_bytes(), seq.to_be_bytes()].concat();
            (line["key"].as_str().expect("a key").to_owned(), name)
        })
        .collect();
    let there = base.truth.iter().filter(|(_, value)| value.is_some());
    assert!(there.map(|(key, _)| key).eq(versions.keys().collect::<std::collections::BTreeSet<_>>()));
    versions
}
