//! Not a byte of a directory changes when it is looked into, by any subcommand, sound or damaged; where nothing could be
//! written, and for somebody who may only read it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use xxhash_rust::xxh3::xxh3_128;

use crate::inspect::filled_node;
use crate::support::{Node, binary};
use crate::{end, refused_in_a_line, temporary};

/// Every subcommand, with what its exit code is of a sound directory; `OTHER` and `OUT` stand for paths.
const ALL: [(&[&str], i32); 17] = [
    (&["summary"], 0),
    (&["summary", "--json"], 0),
    (&["keys"], 0),
    (&["keys", "--long", "--limit", "7"], 0),
    (&["keys", "--json"], 0),
    (&["get", "both"], 0),
    (&["get", "large", "--raw"], 0),
    (&["get", "gone", "--raw"], 1),
    (&["changes"], 0),
    (&["changes", "--json"], 0),
    (&["members"], 0),
    (&["conflicts"], 0),
    (&["verify"], 0),
    (&["verify", "--json"], 0),
    (&["diff", "OTHER"], 1),
    (&["diff", "OTHER", "--json"], 1),
    (&["salvage", "--out", "OUT"], 0),
];

/// What makes mounts impossible here, if something does.
pub fn no_mounts() -> Option<String> {
    let tried =
        Command::new("unshare").args(["-m", "mount", "--bind", "-o", "ro", "/proc", "/proc"]).output();
    match tried {
        Ok(output) if output.status.success() => None,
        Ok(output) => Some(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
        Err(e) => Some(format!("unshare: {e}")),
    }
}

/// A sum of every file, with its name, its mode, and when it was written last.
fn sums(dir: &Path) -> Vec<(PathBuf, u128, u32, std::time::SystemTime)> {
    let (mut found, mut todo) = (Vec::new(), vec![dir.to_owned()]);
    while let Some(path) = todo.pop() {
        let about = path.symlink_metadata().expect("it is there");
        let modified = about.modified().expect("a time");
        let bytes = match about.is_dir() {
            true => {
                todo.extend(
                    fs::read_dir(&path).expect("a directory").map(|file| file.expect("a file").path()),
                );
                Vec::new()
            }
            false => fs::read(&path).expect("a file"),
        };
        found.push((path, xxh3_128(&bytes), about.permissions().mode(), modified));
    }
    found.sort();
    found
}

/// Two directories and a place for what is made, in one that all may look into.
struct Place {
    dir: PathBuf,
    other: PathBuf,
    work: PathBuf,
    binary: PathBuf,
    _all: tempfile::TempDir,
}

fn place() -> Place {
    let all = temporary();
    let path = |name: &str| all.path().join(name);
    let place = Place {
        dir: path("dir"),
        other: path("other"),
        work: path("work"),
        binary: path("DynaRust"),
        _all: all,
    };
    for dir in [&place.dir, &place.other] {
        assert_eq!(filled_node(dir).stop().code(), Some(0));
    }
    fs::create_dir(&place.work).expect("a directory");
    fs::copy(binary(), &place.binary).expect("a copy");
    for open in [place._all.path(), place.dir.as_path(), place.other.as_path()] {
        fs::set_permissions(open, fs::Permissions::from_mode(0o755)).expect("its mode");
    }
    fs::set_permissions(&place.work, fs::Permissions::from_mode(0o777)).expect("its mode");
    place
}

impl Place {
    /// Runs every subcommand behind `before`; `OUT` is in the place for what is made.
    fn run_all(&self, before: &[&str], sound: bool) {
        for (args, code) in ALL {
            let _ = fs::remove_file(self.work.join("out"));
            let mut command = match before.split_first() {
                Some((first, rest)) => {
                    let mut command = Command::new(first);
                    command.args(rest).arg(&self.binary);
                    command
                }
                None => Command::new(&self.binary),
            };
            command.arg("inspect").arg(&self.dir).arg("--work-dir").arg(&self.work);
            for arg in args {
                match *arg {
                    "OTHER" => command.arg(&self.other),
                    "OUT" => command.arg(self.work.join("out")),
                    arg => command.arg(arg),
                };
            }
            // More than a pipe holds may be said.
            let ended = command.output().expect("it starts");
            let said = String::from_utf8_lossy(&ended.stderr);
            match sound {
                true => assert_eq!((ended.status.code(), &*said), (Some(code), missing(args)), "{args:?}"),
                false => assert!(ended.status.code().is_some_and(|code| code < 5), "{args:?}: {said}"),
            }
        }
    }
}

fn missing(args: &[&str]) -> &'static str {
    if args.contains(&"gone") { "error: the key 'gone' is not there\n" } else { "" }
}

#[test]
fn no_subcommand_changes_a_byte() {
    let place = place();
    let before = (sums(&place.dir), sums(&place.other));
    place.run_all(&[], true);
    assert!((sums(&place.dir), sums(&place.other)) == before, "it changed something");
    // As little of one that was killed, nor of one that is damaged.
    let node = Node::start(&place.dir, &[]);
    assert_eq!(node.request("PUT", "/key/more", "{\"value\": 1}").status, 201);
    node.kill();
    for damage in [None, Some(9_000), Some(200_000)] {
        if let Some(at) = damage {
            let db = place.dir.join("store/db");
            let mut bytes = fs::read(&db).expect("the log");
            bytes[at] ^= 1;
            fs::write(&db, bytes).expect("it is written");
        }
        let before = sums(&place.dir);
        place.run_all(&[], false);
        assert!(sums(&place.dir) == before, "it changed something, {damage:?}");
    }
    let left = fs::read_dir(&place.work).expect("a directory").map(|file| file.expect("a file").file_name());
    let left: Vec<_> = left.filter(|name| *name != *"out").collect();
    assert!(left.is_empty(), "copies were left behind: {left:?}");
}

#[test]
fn a_read_only_mount_is_looked_into() {
    if let Some(why) = no_mounts() {
        println!("SKIPPED: looking into a read-only mount, because {why}");
        return;
    }
    let place = place();
    let before = sums(&place.dir);
    let (dir, other) = (place.dir.display().to_string(), place.other.display().to_string());
    let script = "for dir in \"$1\" \"$2\"; do
            mount --bind \"$dir\" \"$dir\" && mount -o remount,bind,ro \"$dir\" || exit 99
        done
        touch \"$1/written\" 2>/dev/null && exit 98
        shift 2
        exec \"$@\"";
    place.run_all(&["unshare", "-m", "sh", "-c", script, "sh", &dir, &other], true);
    assert!(sums(&place.dir) == before, "it changed something");
    // Where nothing can be written at all, it says what to give.
    let script = "mount --bind \"$1\" \"$1\" && mount -o remount,bind,ro \"$1\" && shift && exec \"$@\"";
    let whole = place.dir.parent().expect("a parent").display().to_string();
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", script, "sh", &whole]).arg(&place.binary).arg("inspect").arg(&place.dir);
    command.arg("summary").env("TMPDIR", &place.work);
    refused_in_a_line(command, 3, &["can't make a copy in", "Read-only file system", "--work-dir"]);
}

#[test]
fn who_may_only_read_it_may_look_into_it() {
    if unsafe { libc::geteuid() } != 0 {
        println!("SKIPPED: looking into another user's directory, because this user is not root");
        return;
    }
    let place = place();
    let nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    if !Command::new(nobody[0]).args(&nobody[1..]).arg("true").status().is_ok_and(|status| status.success()) {
        println!("SKIPPED: looking into another user's directory, because setpriv does not work here");
        return;
    }
    let before = sums(&place.dir);
    place.run_all(&nobody, true);
    assert!(sums(&place.dir) == before, "it changed something");
    // What may not even be read is named, and what to do.
    let closed = place.dir.join("store/db");
    fs::set_permissions(&closed, fs::Permissions::from_mode(0o600)).expect("its mode");
    let mut command = Command::new(nobody[0]);
    command.args(&nobody[1..]).arg(&place.binary).arg("inspect").arg(&place.dir);
    command.arg("--work-dir").arg(&place.work).arg("summary");
    refused_in_a_line(command, 3, &[&closed.display().to_string(), "readable", "65534"]);
}

#[test]
fn a_copy_is_never_made_inside() {
    let dir = temporary();
    assert_eq!(Node::start(dir.path(), &[]).stop().code(), Some(0));
    let before = sums(dir.path());
    for work in [dir.path().to_owned(), dir.path().join("store")] {
        let mut command = crate::inspect::inspect(dir.path(), &["summary", "--work-dir"]);
        command.arg(&work);
        refused_in_a_line(command, 3, &["would change", "--work-dir"]);
        let mut command = crate::inspect::inspect(dir.path(), &["keys"]);
        command.env("TMPDIR", &work);
        refused_in_a_line(command, 3, &["would change", "--work-dir"]);
    }
    assert!(sums(dir.path()) == before, "it changed something");
    let command = crate::inspect::inspect(dir.path(), &["summary"]);
    assert_eq!(end(command).code, Some(0));
}
