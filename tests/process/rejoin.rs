//! A node that moves its directory aside and is killed in the middle of it: nothing is lost, nothing is taken for what it is
//! not, and the next start goes on.

use crate::beside;
use crate::skipped;
use crate::support::{Node, SOON, wait_until};
use crate::volume::Volume;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// A directory that does not open.
fn damaged(dir: &Path) {
    let mut node = Node::start(dir, &[]);
    for n in 0..50 {
        assert_eq!(node.request("PUT", &format!("/key/k{n}"), "{\"value\": 1}").status, 201);
    }
    node.signal(libc::SIGTERM);
    node.wait(SOON);
    let db = dir.join("store/db");
    let mut bytes = std::fs::read(&db).expect("a store");
    bytes[4_096..].fill(0x55);
    std::fs::write(&db, bytes).expect("it can be written");
    // As a start leaves it that is told nothing.
    let ended = Node::command(dir, &[]).stderr(Stdio::null()).status().expect("it runs");
    assert_eq!(ended.code(), Some(4));
}

/// All files below these directories, by their names in a data directory.
fn files(dirs: &[PathBuf]) -> BTreeMap<PathBuf, Vec<u8>> {
    fn collect(root: &Path, dir: &Path, found: &mut BTreeMap<PathBuf, Vec<u8>>) {
        for file in std::fs::read_dir(dir).expect("a directory") {
            let path = file.expect("a file").path();
            let name = path.strip_prefix(root).expect("below").to_owned();
            match path.is_dir() {
                true if name.to_string_lossy().starts_with("aside-") => collect(&path, &path, found),
                true => collect(root, &path, found),
                false if name.as_os_str() == "LOCK" => {}
                false => {
                    let bytes = std::fs::read(&path).expect("it can be read");
                    assert!(found.insert(name, bytes).is_none(), "{} is there twice", path.display());
                }
            }
        }
    }
    let mut found = BTreeMap::new();
    dirs.iter().for_each(|dir| collect(dir, dir, &mut found));
    found
}

/// Kills a node at its renames, one after the other; says whether it ever was.
fn killed_in_the_middle(dir: &Path, places: impl Fn() -> Vec<PathBuf>) {
    let sponsor = tempfile::tempdir().expect("a directory");
    let sponsor = Node::start(sponsor.path(), &[]);
    damaged(dir);
    let before = files(&places());
    let flags = [&sponsor.address.to_string(), "--rejoin-empty"];
    let mut cut_off = 0;
    for _ in 0..16 {
        let node = Node::command(dir, &flags);
        let mut strace = Command::new("strace");
        // Each time at the second: so each gets one step further.
        strace.args([
            "-f",
            "-o",
            "/dev/null",
            "-e",
            "trace=rename",
            "-e",
            "inject=rename:signal=KILL:when=2",
            "--",
        ]);
        strace.arg(node.get_program()).args(node.get_args());
        match strace.stdin(Stdio::null()).stderr(Stdio::piped()).output() {
            Err(e) => {
                return skipped(
                    "a node killed as it moves its directory",
                    &format!("strace does not run ({e})"),
                );
            }
            Ok(output) if String::from_utf8_lossy(&output.stderr).contains("strace: ") => {
                return skipped("a node killed as it moves its directory", "tracing is not permitted");
            }
            Ok(_) => cut_off += 1,
        }
        if !dir.join("MANIFEST").exists() {
            break;
        }
        assert!(files(&places()) == before, "something was lost after {cut_off} kills");
    }
    let node = Node::start(dir, &flags);
    assert!(node.log().contains("INFO") && cut_off > 0);
    let aside: Vec<PathBuf> = asides(&places());
    assert_eq!(aside.len(), 1, "{aside:?}");
    assert!(files(&aside) == before, "what is aside is not what there was");
    // It serves before it is taken in.
    wait_until(SOON, "it has joined", || node.request("GET", "/ready", "").status == 200);
    let expected = node.request("PUT", "/key/new?w=2", "{\"value\": 1}").status;
    assert_eq!(expected, 201, "{}", node.log());
    assert_eq!(node.stop().code(), Some(0));
    // What is aside is no obstacle, with the flag or without.
    let node = Node::start(dir, &flags);
    assert!(node.log().contains("--rejoin-empty does nothing"), "{}", node.log());
    assert_eq!(asides(&places()), aside);
}

/// What was moved aside, beside the directory or within it.
fn asides(places: &[PathBuf]) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for place in places {
        let name = place.file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        match name.contains(".aside-") {
            true => found.push(place.clone()),
            false => found.extend(std::fs::read_dir(place).expect("a directory").filter_map(|file| {
                let path = file.expect("a file").path();
                path.file_name()?.to_string_lossy().starts_with("aside-").then_some(path)
            })),
        }
    }
    found
}

#[test]
fn beside_its_directory() {
    let _beside = beside();
    let parent = tempfile::tempdir().expect("a directory");
    let places =
        || std::fs::read_dir(parent.path()).expect("it").map(|file| file.expect("it").path()).collect();
    killed_in_the_middle(&parent.path().join("data"), places);
}

/// A mount point can't be renamed.
#[test]
fn within_its_directory() {
    let _beside = beside();
    match Volume::tmpfs(128) {
        Ok(volume) => {
            let dir = volume.path("").join(".");
            let dir = dir.components().as_path().to_owned();
            killed_in_the_middle(&dir, || vec![dir.clone()]);
        }
        Err(because) => skipped("a mount point that is moved aside", &because),
    }
}
