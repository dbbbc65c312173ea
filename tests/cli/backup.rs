//! A backup of a running node, and what comes of it: everything of one moment, or nothing at all.

use std::fs;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};

use dynarust::backup::{Block, Reader, Writer};
use serde_json::Value as Json;

use crate::inspect::filled_node;
use crate::support::{Client, Node, SOON, wait_until};
use crate::{Ended, contents, dynarust, end, refused, refused_in_a_line, temporary};

fn backup(address: SocketAddr, file: &Path) -> Command {
    let mut command = dynarust(&["backup", &address.to_string(), "-o"]);
    command.arg(file);
    command
}

fn restore(file: &Path, dir: &Path) -> Command {
    let mut command = dynarust(&["restore"]);
    command.arg(file).arg("--data-dir").arg(dir);
    command
}

/// It must work, without a doubt.
fn done(command: Command) -> String {
    let shown = format!("{command:?}");
    let Ended { code, stdout, stderr } = end(command);
    assert_eq!((code, stderr.as_str()), (Some(0), ""), "{shown}: {stdout}");
    assert!(!stdout.contains("warning"), "{stdout}");
    stdout
}

/// A key as a node shows it, but for the names of its versions.
fn nameless(node: &Node, key: &str) -> Json {
    let mut shown = node.request("GET", &format!("/key/{key}"), "").json();
    let strip = |version: &mut Json| {
        for name in ["version", "origin"] {
            version.as_object_mut().expect("an object").remove(name);
        }
    };
    strip(&mut shown);
    if let Some(conflicts) = shown.get_mut("conflicts").and_then(Json::as_array_mut) {
        conflicts.iter_mut().for_each(strip);
    }
    shown
}

const KEYS: [&str; 6] = ["many/000", "many/299", "both", "large", "brief", "gone"];

#[test]
fn a_backup_comes_back() {
    let (dir, files) = (temporary(), temporary());
    let node = filled_node(dir.path());
    let file = files.path().join("backup");
    let told = done(backup(node.address, &file));
    assert!(told.contains("303 keys"), "{told}");
    let before: Vec<Json> = KEYS.iter().map(|key| nameless(&node, key)).collect();
    let stats = node.request("GET", "/stats", "").json();

    // An empty directory is as good as none.
    let place = files.path().join("restored");
    fs::create_dir(&place).expect("a directory");
    let told = done(restore(&file, &place));
    assert!(told.contains("303 keys") && told.contains("a cluster of its own"), "{told}");
    let restored = Node::start(&place, &[]);
    let after: Vec<Json> = KEYS.iter().map(|key| nameless(&restored, key)).collect();
    assert_eq!(after, before);
    assert_eq!(after[2]["conflicts"].as_array().map(Vec::len), Some(1), "{}", after[2]);
    let its = restored.request("GET", "/stats", "").json();
    for same in ["keys", "versions"] {
        assert_eq!(its[same], stats[same], "{same}");
    }
    for other in ["node_id", "cluster_id"] {
        assert_ne!(its[other], stats[other], "{other}");
    }
    let members = restored.request("GET", "/membership", "").json();
    assert_eq!(members["members"].as_array().map(Vec::len), Some(1), "{members}");
    // It writes, stops, and is sound: nothing of the old names is left in any tree.
    assert_eq!(restored.request("PUT", "/key/large", "{\"value\": \"small\"}").status, 200);
    assert_eq!(restored.request("PUT", "/key/new", "{\"value\": 1}").status, 201);
    assert_eq!(restored.stop().code(), Some(0));
    let mut verify = dynarust(&["inspect"]);
    verify.arg(&place).arg("verify");
    let Ended { code, stdout, stderr } = end(verify);
    assert_eq!((code, stderr.as_str()), (Some(0), ""), "{stdout}");
}

/// Tells the writers to stop when it goes.
struct Stop<'a>(&'a AtomicBool);

impl Drop for Stop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// One client writes to its keys in turns, so what was there at any moment is known: all its writes up to one, and none after it.
#[test]
fn a_backup_is_of_one_moment_while_writes_go_on() {
    const KEYS: u64 = 700;
    const WRITERS: u64 = 3;
    let (dir, files) = (temporary(), temporary());
    // What was deleted would be forgotten at once, and the log kept no longer than for members.
    let node = Node::start(dir.path(), &["--log-mib", "0"]);
    let key = |writer: u64, n: u64| format!("/key/{writer}/{:03}", n % KEYS);
    let (stop, begun) = (AtomicBool::new(false), std::sync::Barrier::new(WRITERS as usize + 1));
    let backups: Vec<PathBuf> = std::thread::scope(|scope| {
        for writer in 0..WRITERS {
            let (node, stop, begun, key) = (&node, &stop, &begun, &key);
            scope.spawn(move || {
                let mut client = Client::new(node.address);
                let mut n = 0;
                while !stop.load(Ordering::Relaxed) {
                    let body = format!("{{\"value\": {n}}}");
                    let answer = client.request("PUT", &key(writer, n), &[], body.as_bytes());
                    assert!(matches!(answer.expect("an answer").status, 200 | 201));
                    if n % 7 == 0 {
                        let brief = format!("/key/brief/{writer}");
                        client.request("PUT", &brief, &[], b"{\"value\": 1}").expect("an answer");
                        client.request("DELETE", &brief, &[], b"").expect("an answer");
                    }
                    n += 1;
                    if n == KEYS {
                        begun.wait();
                    }
                }
            });
        }
        begun.wait();
        // Should one fail, nobody writes on for ever.
        let _stop = Stop(&stop);
        let made = (0..4).map(|number| {
            let file = files.path().join(format!("backup{number}"));
            done(backup(node.address, &file));
            file
        });
        made.collect()
    });
    let mut newest = Vec::new();
    for (number, file) in backups.iter().enumerate() {
        let place = files.path().join(format!("restored{number}"));
        done(restore(file, &place));
        let restored = Node::start(&place, &[]);
        let mut client = Client::new(restored.address);
        for writer in 0..WRITERS {
            let mut read = |n| {
                let answer = client.request("GET", &key(writer, n), &[], b"").expect("an answer");
                answer.json()["value"].as_u64().expect("a number")
            };
            let held: Vec<u64> = (0..KEYS).map(&mut read).collect();
            let last = *held.iter().max().expect("some keys");
            for (n, value) in (0..KEYS).zip(&held) {
                assert_eq!(*value, last - (last - n) % KEYS, "writer {writer}, key {n}, of all up to {last}");
            }
            newest.push(last);
        }
    }
    assert!(newest[0] < newest[newest.len() - WRITERS as usize], "writes went on: {newest:?}");
}

#[test]
fn a_backup_that_was_changed_is_refused_whole() {
    let (dir, files) = (temporary(), temporary());
    let node = filled_node(dir.path());
    let file = files.path().join("backup");
    done(backup(node.address, &file));
    let whole = fs::read(&file).expect("a file");
    let (bad, place) = (files.path().join("bad"), files.path().join("restored"));
    let refuse = |bytes: &[u8], word: &str| {
        fs::write(&bad, bytes).expect("a file");
        refused_in_a_line(restore(&bad, &place), 1, &["refused", "nothing was made", word]);
        assert!(!place.exists(), "nothing is left: {word}");
    };
    for cut in [0, 5, 30, whole.len() / 2, whole.len() - 1] {
        refuse(&whole[..cut], "cut off");
    }
    for at in [20, 40, whole.len() / 3, whole.len() / 2, whole.len() - 3] {
        let mut changed = whole.clone();
        changed[at] ^= 0x10;
        refuse(&changed, "at byte");
    }
    refuse(&[whole.as_slice(), b"more"].concat(), "follows its end");
    refuse(b"key=value\n", "no backup");
    refuse(&whole.iter().copied().chain(whole.iter().copied()).collect::<Vec<u8>>(), "follows its end");
    // Into a directory that was there nothing comes either.
    fs::create_dir(&place).expect("a directory");
    fs::write(&bad, &whole[..whole.len() - 1]).expect("a file");
    refused_in_a_line(restore(&bad, &place), 1, &["cut off"]);
    assert_eq!(contents(&place), [], "it is as empty as before");
    done(restore(&file, &place));
}

#[test]
fn a_directory_that_is_in_use_is_not_restored_into() {
    let (dir, files) = (temporary(), temporary());
    let node = filled_node(dir.path());
    let file = files.path().join("backup");
    done(backup(node.address, &file));
    refused_in_a_line(restore(&file, dir.path()), 3, &["in use by process"]);
    assert_eq!(node.stop().code(), Some(0));
    let before = contents(dir.path());
    refused_in_a_line(restore(&file, dir.path()), 3, &["is a node's data directory", "empty one"]);
    assert_eq!(contents(dir.path()), before);
    // Nor is one within it, which would go where that goes.
    let within = dir.path().join("new/sub");
    refused_in_a_line(restore(&file, &within), 3, &["is within", &dir.path().display().to_string()]);
    refused_in_a_line(Node::command(&within, &[]), 3, &["is within", "--data-dir"]);
    assert_eq!(contents(dir.path()), before);
    let foreign = temporary();
    fs::write(foreign.path().join("letters"), "mine").expect("a file");
    refused_in_a_line(restore(&file, foreign.path()), 3, &["not empty"]);
    assert_eq!(contents(foreign.path()).len(), 1);
}

#[test]
fn what_does_not_come_whole_leaves_no_file() {
    let (dir, files) = (temporary(), temporary());
    let node = filled_node(dir.path());
    let file = files.path().join("backup");
    done(backup(node.address, &file));
    refused(backup(node.address, &file), 1, &["is there already"]);
    let whole = fs::read(&file).expect("a file");
    fs::remove_file(&file).expect("a file");

    // A node that dies in the middle: its connection ends, with or without a word.
    let half = TcpListener::bind("127.0.0.1:0").expect("an address");
    let address = half.local_addr().expect("an address");
    for head in
        ["HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n", "HTTP/1.1 200 OK\r\nContent-Length: 9999999\r\n\r\n"]
    {
        let (half, body) = (&half, &whole[..whole.len() / 2]);
        std::thread::scope(|scope| {
            scope.spawn(move || {
                let (mut stream, _) = half.accept().expect("a client");
                let _ = stream.read(&mut [0; 4096]);
                stream.write_all(&[head.as_bytes(), body].concat()).expect("it reads");
            });
            refused(backup(address, &file), 1, &["error"]);
        });
        assert_eq!(contents(files.path()), [], "nothing is left of it");
    }
    drop(half);
    refused(backup(address, &file), 1, &["Connection refused"]);
    let elsewhere = dynarust(&["backup", "https://127.0.0.1:1", "-o", "/nowhere/backup"]);
    refused(elsewhere, 2, &["is no address of a node"]);
    let parameters = node.request("GET", "/backup?prefix=a", "");
    assert_eq!(parameters.status, 400, "{}", parameters.text());
    let head = node.request("HEAD", "/backup", "");
    assert_eq!((head.status, head.header("content-length")), (200, None));
    assert_eq!(node.request("PUT", "/backup", "").status, 405);
}

#[test]
fn what_a_killed_backup_has_left_is_in_nobody_s_way() {
    let (dir, files) = (temporary(), temporary());
    let node = filled_node(dir.path());
    let (file, part) = (files.path().join("backup"), files.path().join("backup.part"));
    // It takes the connection, and says nothing.
    let silent = TcpListener::bind("127.0.0.1:0").expect("an address");
    let mut waits = backup(silent.local_addr().expect("an address"), &file).spawn().expect("it starts");
    silent.set_nonblocking(true).expect("it can be asked");
    let mut silence = None;
    wait_until(SOON, "it asks", || {
        silence = silent.accept().ok();
        silence.is_some()
    });
    refused(backup(node.address, &file), 1, &["another process is writing", "backup.part"]);
    waits.kill().expect("it can be killed");
    waits.wait().expect("it can be waited for");
    assert!(part.exists(), "it had begun");
    done(backup(node.address, &file));
    assert!(file.exists() && !part.exists());
}

#[test]
fn a_backup_goes_through_a_pipe() {
    let (dir, files) = (temporary(), temporary());
    let node = filled_node(dir.path());
    let (file, place) = (files.path().join("backup"), files.path().join("restored"));
    for (number, name) in ["-", "/dev/stdout"].into_iter().enumerate() {
        let to = fs::File::create(&file).expect("a file");
        let mut command = backup(node.address, Path::new(name));
        command.current_dir(files.path()).stdout(to).stderr(Stdio::piped());
        let ended = command.output().expect("it runs");
        let said = String::from_utf8_lossy(&ended.stderr);
        assert!(ended.status.success() && said.contains("stdout: 303 keys in"), "{said}");
        done(restore(&file, &place.with_extension(number.to_string())));
    }
    // What can't be written is not taken for a backup.
    let mut command = backup(node.address, Path::new("-"));
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("it starts");
    drop(child.stdout.take());
    let ended = child.wait_with_output().expect("it ends");
    let said = String::from_utf8_lossy(&ended.stderr);
    assert!(ended.status.code() == Some(1) && said.contains("can't write stdout"), "{said}");
    let names: Vec<_> =
        fs::read_dir(files.path()).expect("it").map(|file| file.expect("a file").file_name()).collect();
    assert!(names.iter().all(|name| *name != "-" && *name != "-.part"), "{names:?}");
}

#[test]
fn a_restore_that_is_interrupted_leaves_nothing_and_says_so() {
    let (dir, files) = (temporary(), temporary());
    let node = filled_node(dir.path());
    let (file, place) = (files.path().join("backup"), files.path().join("restored"));
    done(backup(node.address, &file));
    let whole = fs::read(&file).expect("a file");
    for signal in [libc::SIGINT, libc::SIGTERM] {
        let mut command = restore(Path::new("-"), &place);
        let piped = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = piped.spawn().expect("it starts");
        let mut rest = child.stdin.take().expect("piped");
        rest.write_all(&whole[..whole.len() / 2]).expect("it reads");
        wait_until(SOON, "it has begun", || place.join("PROGRESS").exists());
        assert_eq!(unsafe { libc::kill(child.id() as i32, signal) }, 0);
        // More of it may come.
        wait_until(SOON, "it ends", || child.try_wait().expect("it can be waited for").is_some());
        drop(rest);
        let ended = child.wait_with_output().expect("it has ended");
        let said = String::from_utf8_lossy(&ended.stderr);
        assert_eq!(ended.status.code(), Some(1), "{said}");
        assert!(
            said.contains(&format!("error: interrupted; nothing was made in {}", place.display())),
            "{said}"
        );
        assert!(!place.exists(), "it has left something");
    }
}

/// What stands where a backup is written as yet, and can't be a leftover of one.
#[test]
fn what_is_somebody_else_s_is_not_written_over() {
    let (dir, files) = (temporary(), temporary());
    let node = filled_node(dir.path());
    let (file, part) = (files.path().join("out"), files.path().join("out.part"));
    let precious = files.path().join("precious");
    fs::write(&precious, "years of work").expect("a file");
    let nothing = files.path().join("nothing");
    let pipe = |part: &Path| {
        let made = Command::new("mkfifo").arg(part).status().expect("mkfifo runs");
        assert!(made.success());
    };
    type Make<'a> = &'a dyn Fn(&Path);
    let makers: [(Make, &str); 4] = [
        (&|part| std::os::unix::fs::symlink(&precious, part).expect("a link"), "a link to one"),
        (&|part| std::os::unix::fs::symlink(&nothing, part).expect("a link"), "a link to one"),
        (&|part| fs::hard_link(&precious, part).expect("a link"), "another name too"),
        (&pipe, "no file"),
    ];
    for (make, word) in makers {
        make(&part);
        let words = ["out.part", word, "give another name"];
        refused_in_a_line(backup(node.address, &file), 1, &words);
        assert!(part.symlink_metadata().is_ok(), "{word}: it is still there");
        fs::remove_file(&part).expect("it is there");
    }
    assert_eq!(fs::read(&precious).expect("a file"), b"years of work");
    assert!(!file.exists() && !nothing.exists());
}

/// What is told is what is held, whatever the backup says of itself.
#[test]
fn a_restore_counts_what_it_holds() {
    let (dir, files) = (temporary(), temporary());
    let node = filled_node(dir.path());
    let (file, place) = (files.path().join("backup"), files.path().join("restored"));
    done(backup(node.address, &file));
    let bytes = fs::read(&file).expect("a file");
    let (mut reader, mut writer, mut boasts) =
        (Reader::new(&bytes[..]).expect("a backup"), Writer::default(), Vec::new());
    while let Some(mut block) = reader.block().expect("it is sound") {
        if let Block::End(end) = &mut block {
            end.keys += 1_000;
            end.digest = Default::default();
        }
        boasts.extend(writer.block(&block).expect("it can be encoded"));
    }
    fs::write(&file, boasts).expect("a file");
    let ended = end(restore(&file, &place));
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    let (told, warning) = ended.stdout.split_once('\n').expect("two lines");
    assert!(told.contains(": 303 keys of node") && !told.contains("1303"), "{told}");
    assert!(warning.contains("1303 keys") && warning.contains("here are 303"), "{warning}");
}
