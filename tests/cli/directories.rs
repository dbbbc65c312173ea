//! The data directories that a node takes, and those that it refuses and leaves exactly as they are.

use std::fs;
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::process::Command;

use dynarust::storage::FORMAT;
use xxhash_rust::xxh3::xxh3_64;

use crate::older::manifest;
use crate::support::{Node, binary, field};
use crate::{contents, dynarust, end, refused_in_a_line, temporary};

#[test]
fn a_foreign_directory_exits_3_and_stays_as_it_is() {
    let dir = temporary();
    fs::write(dir.path().join("thesis.txt"), "years of work").expect("a file");
    fs::create_dir(dir.path().join("store")).expect("a directory");
    let before = contents(dir.path());
    refused_in_a_line(Node::command(dir.path(), &[]), 3, &[&dir.path().display().to_string()]);
    assert_eq!(contents(dir.path()), before);
}

#[test]
fn a_file_is_no_data_directory() {
    let dir = temporary();
    let file = dir.path().join("file");
    fs::write(&file, "text").expect("a file");
    refused_in_a_line(Node::command(&file, &[]), 3, &[&file.display().to_string()]);
    let below = file.join("data");
    refused_in_a_line(Node::command(&below, &[]), 3, &[&below.display().to_string()]);
    assert_eq!(fs::read(&file).expect("it is there"), b"text");
}

#[test]
fn an_unwritable_directory_exits_3() {
    // A copy that anybody may run, since this user may be root, whom no mode stops.
    let dir = temporary();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).expect("its mode");
    let copy = dir.path().join("DynaRust");
    fs::copy(binary(), &copy).expect("a copy");
    let closed = dir.path().join("closed");
    fs::create_dir(&closed).expect("a directory");
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o555)).expect("its mode");
    for data in [closed.clone(), closed.join("below")] {
        let mut command = Command::new(&copy);
        command.arg("127.0.0.1:0").arg("--data-dir").arg(&data);
        if unsafe { libc::geteuid() } == 0 {
            command.uid(65_534).gid(65_534);
        }
        refused_in_a_line(command, 3, &[&data.display().to_string()]);
    }
    assert!(contents(&closed).is_empty());
}

#[test]
fn a_locked_directory_exits_3_and_its_node_goes_on() {
    let dir = temporary();
    let node = Node::start(dir.path(), &[]);
    let pid = node.child.id().to_string();
    refused_in_a_line(Node::command(dir.path(), &[]), 3, &[&dir.path().display().to_string(), &pid]);
    assert_eq!(node.request("PUT", "/key/x", "{\"value\":1}").status, 201);
    let lock = fs::read(dir.path().join("LOCK")).expect("it is there");
    let lock: serde_json::Value = serde_json::from_slice(&lock).expect("still the running node's JSON");
    assert_eq!(lock["pid"].to_string(), pid);
    assert_eq!(lock["address"], node.address.to_string());
    assert_eq!(node.stop().code(), Some(0));
    let node = Node::start(dir.path(), &[]);
    assert_eq!(node.request("GET", "/key/x", "").status, 200);
}

#[test]
fn a_newer_format_is_refused_by_all_with_the_release_that_reads_it() {
    let (dir, files) = (temporary(), temporary());
    let node = Node::start(dir.path(), &[]);
    assert_eq!(node.request("PUT", "/key/x", "{\"value\":1}").status, 201);
    let backup = files.path().join("backup");
    let mut command = dynarust(&["backup", &node.address.to_string(), "-o"]);
    command.arg(&backup);
    assert_eq!(end(command).code, Some(0));
    assert_eq!(node.stop().code(), Some(0));
    let path = dir.path().join("MANIFEST");
    let text = fs::read_to_string(&path).expect("it is there");
    let (line, check) = text.trim_end().split_once('\n').expect("a line of JSON and one of its checksum");
    assert_eq!(check, format!("{:016x}", xxh3_64(line.as_bytes())), "{text}");
    manifest(dir.path(), |line| {
        let newer = line.replace(&format!("\"format\":{FORMAT},"), "\"format\":999,");
        newer.replace(&format!("\"release\":\"{}\"", env!("CARGO_PKG_VERSION")), "\"release\":\"77.8.9\"")
    });
    assert_ne!(fs::read_to_string(&path).expect("it is there"), text);
    let all =
        || contents(dir.path()).into_iter().filter(|(name, _)| !name.ends_with("LOCK")).collect::<Vec<_>>();
    let before = all();
    let (out, data) = (files.path().join("out"), dir.path().display().to_string());
    let out = out.to_str().expect("a path of UTF-8");
    let words = ["format 999", "release 77.8.9", &data];
    for (args, code) in [
        (&["127.0.0.1:0", "--data-dir", &data][..], 3),
        (&["127.0.0.1:0", "127.0.0.1:1", "--data-dir", &data, "--rejoin-empty"], 3),
        (&["try-open", &data], 3),
        (&["compact", &data], 3),
        (&["export", &data], 3),
        (&["inspect", &data, "summary"], 3),
        (&["inspect", &data, "verify"], 2),
        (&["inspect", &data, "salvage", "--out", out], 2),
        (&["restore", backup.to_str().expect("a path of UTF-8"), "--data-dir", &data], 3),
    ] {
        refused_in_a_line(dynarust(args), code, &words);
        assert!(all() == before, "{args:?}: something was changed");
    }
    assert!(fs::read_dir(files.path()).expect("it can be listed").count() == 1, "something was made");
    fs::write(&path, text).expect("it can be written");
    let node = Node::start(dir.path(), &[]);
    assert_eq!(node.request("GET", "/key/x", "").status, 200);
}

#[test]
fn a_directory_without_its_store_or_manifest_is_never_taken_for_empty() {
    let dir = temporary();
    let node = Node::start(dir.path(), &[]);
    assert_eq!(node.request("PUT", "/key/x", "{\"value\":1}").status, 201);
    assert_eq!(node.stop().code(), Some(0));
    let (manifest, store) = (dir.path().join("MANIFEST"), dir.path().join("store"));
    let text = fs::read_to_string(&manifest).expect("it is there");
    fs::remove_file(&manifest).expect("it is there");
    refused_in_a_line(Node::command(dir.path(), &[]), 4, &[&manifest.display().to_string(), "is missing"]);
    for broken in ["", "{", "{}", "not JSON", "{\"format\":\"1\"}"] {
        fs::write(&manifest, broken).expect("it can be written");
        let ended = end(Node::command(dir.path(), &[]));
        assert!(matches!(ended.code, Some(4)), "{broken:?}: {:?}\n{}", ended.code, ended.stderr);
        assert!(!ended.stderr.contains("panicked"), "{}", ended.stderr);
    }
    fs::write(&manifest, text).expect("it can be written");
    let aside = dir.path().with_extension("aside");
    fs::rename(&store, &aside).expect("it can be moved");
    refused_in_a_line(Node::command(dir.path(), &[]), 4, &[&dir.path().display().to_string()]);
    let _ = fs::remove_dir_all(&store);
    fs::rename(&aside, &store).expect("it can be moved");
    assert_eq!(Node::start(dir.path(), &[]).request("GET", "/key/x", "").status, 200);
}

#[test]
fn an_empty_directory_and_missing_parents_are_taken() {
    let dir = temporary();
    let node = Node::start(dir.path(), &[]);
    assert!(dir.path().join("MANIFEST").is_file());
    assert_eq!(field(&node.serving, "data-dir"), dir.path().display().to_string());
    drop(node);
    let deep = dir.path().with_extension("deep");
    let node = Node::start(&deep.join("a/b/c"), &[]);
    assert_eq!(node.stop().code(), Some(0));
    fs::remove_dir_all(deep).expect("it is there");
}

#[test]
fn the_default_directory_is_named_after_the_address() {
    let dir = temporary();
    let free = TcpListener::bind("127.0.0.1:0").expect("a port").local_addr().expect("an address");
    let mut command = dynarust(&[&free.to_string()]);
    command.current_dir(dir.path()).env_remove("DYNARUST_DATA_DIR");
    let node = Node::launch(command).unwrap_or_else(|log| panic!("{log}"));
    assert_eq!(node.address, free);
    assert!(dir.path().join(format!("data/{free}/MANIFEST")).is_file(), "{:?}", contents(dir.path()));
}

/// Nobody waits for ever at the other end of a pipe.
#[test]
fn a_pipe_in_the_place_of_a_file_is_refused() {
    let dir = temporary();
    let node = Node::start(dir.path(), &[]);
    assert_eq!(node.request("PUT", "/key/x", "{\"value\":1}").status, 201);
    assert_eq!(node.stop().code(), Some(0));
    let (data, aside) = (dir.path().display().to_string(), dir.path().join("aside"));
    for name in ["MANIFEST", "LOCK", "PROGRESS", "store/conf", "store/db"] {
        let path = dir.path().join(name);
        fs::rename(&path, &aside).expect("it can be moved");
        assert!(Command::new("mkfifo").arg(&path).status().expect("mkfifo runs").success());
        let said = format!("{} is no file", path.display());
        for args in [
            &["127.0.0.1:0", "--data-dir", &data][..],
            &["compact", &data],
            &["export", &data],
            &["inspect", &data, "summary"],
        ] {
            refused_in_a_line(dynarust(args), 3, &[&said]);
        }
        assert_eq!(end(dynarust(&["healthcheck", "--data-dir", &data])).code, Some(1));
        fs::remove_file(&path).expect("it is there");
        fs::rename(&aside, &path).expect("it can be moved");
    }
    assert_eq!(Node::start(dir.path(), &[]).request("GET", "/key/x", "").status, 200);
}
