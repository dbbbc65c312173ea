//! Salvaging the directory of a stopped node: of a sound one everything, of what is left of one what is there, and not a byte
//! of it changes. What damage does, the campaign in `tests/salvage/` tells.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::{Value as Json, json};

use crate::support::{Client, Node, errors};
use crate::{Ended, contents, dynarust, end, temporary};

fn salvage(dir: &Path, out: &Path) -> Command {
    let mut command = dynarust(&["inspect"]);
    command.arg(dir).args(["salvage", "--json", "--out"]).arg(out);
    command
}

/// The lines of its file, and its summary; it must end with this code.
fn salvaged(dir: &Path, code: i32) -> (Vec<Json>, Json) {
    let scratch = temporary();
    let out = scratch.path().join("out.ndjson");
    let Ended { code: ended, stdout, stderr } = end(salvage(dir, &out));
    assert_eq!((ended, stderr.as_str()), (Some(code), ""), "{stdout}");
    let text = fs::read_to_string(&out).expect("the file");
    let lines = text.lines().map(|line| serde_json::from_str(line).expect("an object a line")).collect();
    assert_eq!(fs::read_dir(scratch.path()).expect("a directory").count(), 1, "nothing else is left there");
    (lines, serde_json::from_str(&stdout).expect("one object"))
}

/// What `inspect` shows of all keys, as a salvage writes it.
fn inspected(dir: &Path) -> Vec<Json> {
    let shown = |args: &[&str]| {
        let mut command = dynarust(&["inspect"]);
        command.arg(dir).args(args).arg("--json");
        let output = command.output().expect("it starts");
        assert!(output.status.success() && errors(&output.stderr).is_empty(), "{output:?}");
        let text = String::from_utf8(output.stdout).expect("UTF-8");
        text.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect::<Vec<Json>>()
    };
    let keys = shown(&["keys"]);
    let conflicts = shown(&["conflicts"]);
    let line = |key: &Json| {
        let mut line = json!({"key": key["key"], "version": key["version"], "updated_at": key["updated_at"]});
        if !key["expires_at"].is_null() {
            line["expires_at"] = key["expires_at"].clone();
        }
        let others = conflicts.iter().find(|other| other["key"] == key["key"]);
        assert_eq!(key["siblings"], others.map_or(0, |_| 1), "{key}");
        if let Some(others) = others {
            let other = &others["siblings"][1];
            line["conflicts"] = json!([
                {"value": other["value"], "version": other["version"], "updated_at": other["updated_at"]}
            ]);
        }
        line
    };
    keys.iter().map(line).collect()
}

/// Keys of every shape, of which the store must tell those of members, of rows and of pieces.
fn name(n: usize) -> String {
    match n % 5 {
        0 => format!("app/{n:06}"),
        1 => format!("{n:08}"),
        2 => format!("sixteen/{n:08}"),
        3 => format!("twenty/{n:013}"),
        _ => format!("größe/{n}"),
    }
}

/// Some writes of every sort; what was written last under each key that is left.
fn write(client: &mut Client, keys: usize, seed: usize, truth: &mut [Option<Json>]) {
    for step in 0..keys {
        let n = (step * 7 + seed * 13) % keys;
        let path = format!("/key/{}", name(n).replace('ö', "%C3%B6").replace('ß', "%C3%9F"));
        if (step + seed).is_multiple_of(9) {
            let answer = client.request("DELETE", &path, &[], b"").expect("an answer");
            assert!(matches!(answer.status, 200 | 404), "{}", answer.text());
            truth[n] = None;
            continue;
        }
        let bytes = if step.is_multiple_of(61) { 5_000 + step * 37 } else { step % 500 };
        let value = json!({"n": n, "seed": seed, "text": "x".repeat(bytes)});
        let body = match step % 11 {
            0 => json!({"value": value, "ttl_seconds": 3_600}),
            _ => json!({"value": value}),
        };
        let answer = client.request("PUT", &path, &[], body.to_string().as_bytes()).expect("an answer");
        assert!(matches!(answer.status, 200 | 201), "{}", answer.text());
        truth[n] = Some(value);
    }
}

#[test]
fn of_a_sound_directory_everything_comes_back() {
    let dir = temporary();
    let mut truth = vec![None; 2_500];
    for life in 0..4 {
        let node = Node::start(dir.path(), &[]);
        let mut client = Client::new(node.address);
        let keys = truth.len();
        write(&mut client, keys, life, &mut truth);
        let first = node.request("PUT", "/key/both", "{\"value\": \"left\"}").json();
        let seen = [("Causality-Token", first["version"].as_str().expect("a version"))];
        node.request("PUT", "/key/both", "{\"value\": \"over it\"}");
        node.request_with("PUT", "/key/both", &seen, b"{\"value\": [1.10,\n 2]}");
        if life.is_multiple_of(2) {
            node.kill();
        } else {
            assert_eq!(node.stop().code(), Some(0));
        }
        let before = contents(dir.path());
        let (mut lines, summary) = salvaged(dir.path(), 0);
        assert!(contents(dir.path()) == before, "it changed something");
        assert_eq!(
            (&summary["proven"], &summary["bad_places"]["count"]),
            (&json!(true), &json!(0)),
            "{summary}"
        );
        let known: std::collections::HashMap<String, &Json> =
            truth.iter().enumerate().filter_map(|(n, value)| Some((name(n), value.as_ref()?))).collect();
        assert_eq!(lines.len(), known.len() + 1);
        for line in &mut lines {
            let key = line["key"].as_str().expect("a key").to_owned();
            let value = line.as_object_mut().expect("an object").remove("value").expect("a value");
            assert!(key == "both" || known.get(&key).is_some_and(|known| **known == value), "{key}: {value}");
        }
        let expected = inspected(dir.path());
        assert!(lines == expected, "not what inspect shows");
    }
}

/// What comes out goes into another node as it is; what may be old does so only when somebody has looked at it.
#[test]
fn what_is_salvaged_can_be_imported_but_for_marked_lines() {
    let (dir, other, scratch) = (temporary(), temporary(), temporary());
    let mut truth = vec![None; 200];
    let node = Node::start(dir.path(), &[]);
    write(&mut Client::new(node.address), 200, 1, &mut truth);
    assert_eq!(node.stop().code(), Some(0));
    let out = scratch.path().join("out.ndjson");
    assert_eq!(end(salvage(dir.path(), &out)).code, Some(0));
    let node = Node::start(other.path(), &[]);
    let import = |file: &Path| {
        let mut command = dynarust(&["import", &node.address.to_string()]);
        command.arg(file);
        end(command)
    };
    let Ended { code, stdout, stderr } = import(&out);
    assert_eq!(code, Some(0), "{stdout}{stderr}");
    for (n, value) in truth.iter().enumerate() {
        let path = format!("/key/{}", name(n).replace('ö', "%C3%B6").replace('ß', "%C3%9F"));
        let answer = node.request("GET", &path, "");
        match value {
            Some(value) => assert_eq!(answer.json()["value"], *value, "{path}"),
            None => assert_eq!(answer.status, 404, "{path}"),
        }
    }
    let marked = scratch.path().join("marked.ndjson");
    fs::write(&marked, "{\"key\": \"old\", \"value\": 1, \"stale\": \"possible\"}\n").expect("a file");
    let Ended { code, stderr, .. } = import(&marked);
    assert!(code == Some(1) && stderr.contains("line 1") && stderr.contains("stale"), "{code:?}: {stderr}");
    assert_eq!(node.request("GET", "/key/old", "").status, 404);
}

#[test]
fn a_value_stays_as_it_was_written_and_on_one_line() {
    let (dir, scratch) = (temporary(), temporary());
    let node = Node::start(dir.path(), &[]);
    assert_eq!(node.request("PUT", "/key/k", "{\"value\": [1.10,\r\n\t1e400, \"a\\nb\"]}").status, 201);
    assert_eq!(node.stop().code(), Some(0));
    let out = scratch.path().join("out");
    assert_eq!(end(salvage(dir.path(), &out)).code, Some(0));
    let text = fs::read_to_string(out).expect("the file");
    assert_eq!(text.lines().count(), 1);
    assert!(text.starts_with("{\"key\":\"k\",\"value\":[1.10,  \t1e400, \"a\\nb\"],\"version\":"), "{text}");
}

#[test]
fn the_log_alone_is_enough() {
    let (dir, left) = (temporary(), temporary());
    let node = Node::start(dir.path(), &[]);
    for n in 0..40 {
        assert_eq!(node.request("PUT", &format!("/key/k{n}"), "{\"value\": 1}").status, 201);
    }
    assert_eq!(node.stop().code(), Some(0));
    fs::copy(dir.path().join("store/db"), left.path().join("db")).expect("a copy");
    let (lines, summary) = salvaged(left.path(), 1);
    assert_eq!(lines.len(), 40);
    // But nothing says that there was no commit after the last one in it.
    assert_eq!((&summary["proven"], &summary["stale"]["possible"]), (&json!(false), &json!(40)));
    assert_eq!(summary["members"].as_object().expect("members").len(), 1);
}

#[test]
fn what_can_not_be_done_is_said_and_leaves_nothing_behind() {
    let (dir, scratch) = (temporary(), temporary());
    let out = scratch.path().join("out");
    let refused = |dir: &Path, out: &Path, words: &[&str]| {
        let Ended { code, stderr, .. } = end(salvage(dir, out));
        assert_eq!(code, Some(2), "{stderr}");
        assert!(stderr.starts_with("error: ") && stderr.lines().count() == 1, "{stderr}");
        assert!(words.iter().all(|word| stderr.contains(word)), "{stderr}");
    };
    refused(dir.path(), &out, &["nothing can be read"]);
    fs::write(dir.path().join("db"), vec![7; 100_000]).expect("a file");
    refused(dir.path(), &out, &["no record can be read"]);
    fs::remove_file(dir.path().join("db")).expect("it is there");
    let node = Node::start(dir.path(), &[]);
    let pid = node.child.id().to_string();
    assert_eq!(node.request("PUT", "/key/k", "{\"value\": 1}").status, 201);
    refused(dir.path(), &out, &["in use by process", &pid]);
    assert_eq!(node.stop().code(), Some(0));
    refused(dir.path(), &dir.path().join("out"), &["in the directory that is salvaged"]);
    assert_eq!(fs::read_dir(scratch.path()).expect("a directory").count(), 0, "something was left behind");
    fs::write(&out, "years of work").expect("a file");
    refused(dir.path(), &out, &["is there already"]);
    assert_eq!(fs::read(&out).expect("it is there"), b"years of work");
}

/// Killed, it leaves a part of its file, which the next one replaces; one that is at work keeps the others out.
#[test]
fn what_a_killed_salvage_has_left_is_in_nobody_s_way() {
    let (dir, scratch) = (temporary(), temporary());
    let node = Node::start(dir.path(), &[]);
    let mut client = Client::new(node.address);
    for n in 0..40 {
        let body = json!({"value": "x".repeat(200_000)}).to_string();
        let put = client.request("PUT", &format!("/key/{n}"), &[], body.as_bytes());
        assert_eq!(put.expect("an answer").status, 201);
    }
    assert_eq!(node.stop().code(), Some(0));
    let out = scratch.path().join("out");
    let part = scratch.path().join("out.part");
    let killed_at_work = || {
        let _ = fs::remove_file(&out);
        let mut child =
            salvage(dir.path(), &out).stdout(std::process::Stdio::null()).spawn().expect("it starts");
        while !part.exists() && child.try_wait().expect("it can be asked").is_none() {
            std::hint::spin_loop();
        }
        child.kill().expect("it can be killed");
        child.wait().expect("it can be waited for");
        part.exists()
    };
    assert!((0..50).any(|_| killed_at_work()), "it is never met at work");
    let Ended { code, stderr, .. } = end(salvage(dir.path(), &out));
    assert_eq!((code, stderr.as_str()), (Some(0), ""));
    assert_eq!(fs::read_to_string(&out).expect("the file").lines().count(), 40);
    assert!(!part.exists());

    fs::remove_file(&out).expect("it is there");
    let held = fs::File::create(&part).expect("a file");
    held.lock().expect("it is locked");
    let Ended { code, stderr, .. } = end(salvage(dir.path(), &out));
    assert_eq!(code, Some(2));
    assert!(stderr.contains("another process is writing"), "{stderr}");
    assert!(part.exists() && !out.exists(), "nothing has changed");
}

/// What there is no room for is told of the file, and is none of the answers.
#[test]
fn a_full_disk_is_no_answer() {
    if let Some(why) = crate::untouched::no_mounts() {
        println!("SKIPPED: a salvage without room, because {why}");
        return;
    }
    let (dir, work) = (temporary(), temporary());
    assert_eq!(crate::inspect::filled_node(dir.path()).stop().code(), Some(0));
    let script =
        "mount -t tmpfs -o size=4k tmpfs \"$1\" && exec \"$2\" inspect \"$3\" salvage --out \"$1/out\"";
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", script, "sh"]);
    command.arg(work.path()).arg(crate::support::binary()).arg(dir.path());
    let out = work.path().join("out").display().to_string();
    crate::refused_in_a_line(command, 2, &["can't write", &out, "No space left"]);
}
