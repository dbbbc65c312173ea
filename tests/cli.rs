//! The command line, seen from outside: what it teaches, what it refuses, with which exit code and with what advice,
//! the data directories it will not touch, the environment twins of its flags, the start line, and the health check.
#![expect(unsafe_code, clippy::unwrap_used, reason = "signals go by libc; a poisoned lock is a failed test")]

#[path = "cli/backup.rs"]
mod backup;
#[allow(dead_code, reason = "a part of it is enough here")]
#[path = "cluster/cluster.rs"]
mod cluster;
#[path = "cli/compact.rs"]
mod compact;
#[path = "cli/diff.rs"]
mod diff;
#[path = "cli/directories.rs"]
mod directories;
#[path = "cli/edit.rs"]
mod edit;
#[path = "cli/inspect.rs"]
mod inspect;
#[allow(dead_code, reason = "a part of it is enough here")]
#[path = "support/older.rs"]
mod older;
#[allow(dead_code, reason = "a part of it is enough here")]
#[path = "cluster/proxy.rs"]
mod proxy;
#[path = "cli/running.rs"]
mod running;
#[path = "cli/salvage.rs"]
mod salvage;
#[path = "cli/strangers.rs"]
mod strangers;
#[path = "support/mod.rs"]
mod support;
#[path = "cli/transfer.rs"]
mod transfer;
#[path = "cli/unfit.rs"]
mod unfit;
#[path = "cli/untouched.rs"]
mod untouched;
#[path = "cli/verify.rs"]
mod verify;

use std::fs;
use std::io::Read;
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use support::{Node, SOON, binary, errors};

/// How a command ended.
struct Ended {
    code: Option<i32>,
    stdout: String,
    stderr: String,
}

/// Runs a command that must end by itself.
fn end(mut command: Command) -> Ended {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the node's binary starts");
    let deadline = std::time::Instant::now() + SOON;
    let code = loop {
        if let Some(status) = child.try_wait().expect("the child can be waited for") {
            break status.code();
        }
        if std::time::Instant::now() > deadline {
            child.kill().expect("it can be killed");
            let mut log = String::new();
            let _ = child.stderr.take().expect("piped").read_to_string(&mut log);
            panic!("{command:?} did not end:\n{log}");
        }
        std::thread::sleep(Duration::from_millis(2));
    };
    let output = child.wait_with_output().expect("its output");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    Ended { code, stdout: text(output.stdout), stderr: errors(&output.stderr) }
}

fn dynarust(args: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.args(args);
    command
}

/// Runs a command that must be refused with `code`, in words that contain each of `words`; what it said.
fn refused(command: Command, code: i32, words: &[&str]) -> String {
    let shown = format!("{command:?}");
    let ended = end(command);
    assert_eq!(ended.code, Some(code), "{shown}\n{}", ended.stderr);
    assert_eq!(ended.stdout, "", "nothing of it goes to stdout");
    for word in words {
        assert!(ended.stderr.contains(word), "{shown}: no {word:?} in\n{}", ended.stderr);
    }
    for noise in ["panicked", "RUST_BACKTRACE", "Error {", "Err("] {
        assert!(!ended.stderr.contains(noise), "{shown}\n{}", ended.stderr);
    }
    ended.stderr
}

/// A refusal that is no question of usage: one line that says what to do.
fn refused_in_a_line(command: Command, code: i32, words: &[&str]) {
    let said = refused(command, code, words);
    let lines: Vec<&str> = said.lines().filter(|line| !line.contains("INFO")).collect();
    assert_eq!(lines.len(), 1, "one clear line:\n{said}");
}

/// Everything below a directory: names and contents.
fn contents(dir: &Path) -> Vec<(String, Vec<u8>)> {
    let mut all = Vec::new();
    for entry in fs::read_dir(dir).expect("a directory") {
        let path = entry.expect("an entry").path();
        let name = path.display().to_string();
        if path.is_dir() {
            all.push((name, Vec::new()));
            all.extend(contents(&path));
        } else {
            all.push((name, fs::read(&path).expect("a file")));
        }
    }
    all.sort();
    all
}

fn temporary() -> tempfile::TempDir {
    tempfile::tempdir().expect("a directory")
}

const FLAGS: [(&str, &str); 9] = [
    ("--data-dir", "DYNARUST_DATA_DIR"),
    ("--max-value-bytes", "DYNARUST_MAX_VALUE_BYTES"),
    ("--max-connections", "DYNARUST_MAX_CONNECTIONS"),
    ("--request-timeout-ms", "DYNARUST_REQUEST_TIMEOUT_MS"),
    ("--idle-timeout-ms", "DYNARUST_IDLE_TIMEOUT_MS"),
    ("--write-queue", "DYNARUST_WRITE_QUEUE"),
    ("--cache-mib", "DYNARUST_CACHE_MIB"),
    ("--disk-reserve-mib", "DYNARUST_DISK_RESERVE_MIB"),
    ("--commit-deadline-ms", "DYNARUST_COMMIT_DEADLINE_MS"),
];

#[test]
fn help_teaches() {
    let help = end(dynarust(&["--help"]));
    assert_eq!((help.code, help.stderr.as_str()), (Some(0), ""));
    for (flag, twin) in FLAGS {
        assert!(help.stdout.contains(flag), "{flag} in\n{}", help.stdout);
        assert!(help.stdout.contains(twin), "{twin} in\n{}", help.stdout);
    }
    for word in
        ["DynaRust", "LISTEN", "127.0.0.1:6660", "curl", "RUST_LOG", "healthcheck", "1048576", "20000"]
    {
        assert!(help.stdout.contains(word), "{word} in\n{}", help.stdout);
    }
    let short = end(dynarust(&["-h"]));
    assert_eq!(short.code, Some(0));
    assert!(short.stdout.contains("--data-dir"));
    let sub = end(dynarust(&["healthcheck", "--help"]));
    assert_eq!(sub.code, Some(0));
    assert!(sub.stdout.contains("--address"), "{}", sub.stdout);
}

#[test]
fn help_is_there_under_each_of_its_names_and_fits_a_terminal() {
    let help = end(dynarust(&["--help"])).stdout;
    let sub = end(dynarust(&["help"]));
    assert_eq!((sub.code, sub.stdout.as_str(), sub.stderr.as_str()), (Some(0), help.as_str(), ""));
    let leave = end(dynarust(&["help", "leave"]));
    assert_eq!((leave.code, leave.stdout), (Some(0), end(dynarust(&["leave", "--help"])).stdout));
    let codes = help.split("Exit codes:\n").nth(1).expect("they have lines of their own");
    let numbers: Vec<&str> = codes.lines().map(|line| line.split_whitespace().next().unwrap_or("")).collect();
    assert_eq!(numbers, ["0", "1", "2", "3", "4", "5", "6"], "{codes}");
    let long: Vec<&str> = codes.lines().filter(|line| line.chars().count() > 79).collect();
    assert_eq!(long, [""; 0], "a terminal of 80 columns breaks these");
}

#[test]
fn who_asks_a_node_says_which() {
    for what in ["leave", "healthcheck"] {
        let mut command = dynarust(&[what]);
        command.env_remove("DYNARUST_DATA_DIR");
        refused(command, 2, &["--address", "--data-dir"]);
    }
}

#[test]
fn version_is_the_package_s() {
    let expected = format!("DynaRust {}\n", env!("CARGO_PKG_VERSION"));
    for flag in ["--version", "-V"] {
        let version = end(dynarust(&[flag]));
        assert_eq!((version.code, version.stdout), (Some(0), expected.clone()));
    }
}

#[test]
fn wrong_usage_exits_2_and_names_what_is_wrong() {
    let dir = temporary();
    let here = |args: &[&str]| {
        let mut command = dynarust(args);
        command.current_dir(dir.path());
        command
    };
    refused(here(&[]), 2, &["LISTEN"]);
    refused(here(&["--no-such-flag", "127.0.0.1:0"]), 2, &["--no-such-flag"]);
    refused(here(&["127.0.0.1:0", "--data-di", "x"]), 2, &["--data-di"]);
    refused(here(&["127.0.0.1:0", "--data-dir"]), 2, &["--data-dir"]);
    for listen in ["nonsense", "127.0.0.1", "127.0.0.1:", "127.0.0.1:x", "127.0.0.1:65536", ":6660", ""] {
        refused(here(&[listen]), 2, &[]);
    }
    let words = ["the host 'no-such-host.invalid' in 'no-such-host.invalid:6660' can't be found"];
    refused(here(&["no-such-host.invalid:6660"]), 2, &words);
    for (flag, _) in &FLAGS[1..] {
        for value in ["x", "-1", "1.5", "", "99999999999999999999999999"] {
            refused(here(&["127.0.0.1:0", &format!("{flag}={value}")]), 2, &[flag]);
        }
    }
    refused(here(&["healthcheck", "--no-such-flag"]), 2, &["--no-such-flag"]);
    assert!(contents(dir.path()).is_empty(), "nothing was made");
}

#[test]
fn a_flag_in_the_environment_is_on_or_off() {
    for (text, shown) in [("1", "<LISTEN>"), ("no", "<LISTEN>"), ("maybe", "DYNARUST_LEAVE_ON_EXIT, which")] {
        let mut command = dynarust(&[]);
        command.env("DYNARUST_LEAVE_ON_EXIT", text).env("DYNARUST_REJOIN_EMPTY", text);
        refused(command, 2, &[shown]);
    }
}

#[test]
fn what_can_be_no_address_of_a_node_is_refused() {
    let dir = temporary();
    let file = |name: &str, text: &str| {
        let path = dir.path().join(name);
        std::fs::write(&path, text).expect("a file");
        path.to_str().expect("a path").to_owned()
    };
    let (empty, two, words) =
        (file("empty", " \n"), file("two", "one\ntwo\nthree\n"), file("words", "two words\n"));
    for (flags, shown) in [
        (&["127.0.0.1:0", "127.0.0.1"][..], "'127.0.0.1'"),
        (&["127.0.0.1:0", "a:0"], "'a:0'"),
        (&["127.0.0.1:0", ":6660"], "':6660'"),
        (&["127.0.0.1:0", "--advertise", "a:b"], "'a:b'"),
        (&["127.0.0.1:0", "http://a:6660"], "'http://a:6660' is more than the address of a node"),
        (&["127.0.0.1:0", "me@a:6660"], "a user's name or anything after it"),
        (&["127.0.0.1:0", "--advertise", "http://a:6660"], "'http://a:6660' is more than"),
        (&["127.0.0.1:0", "--advertise", "0.0.0.0:6660"], "'0.0.0.0:6660' stands for all addresses"),
        (&["0.0.0.0:0", "--advertise=[::]:6660"], "give the HOST:PORT by which they reach this one"),
        (&["127.0.0.1:0", "--advertise=[::ffff:0.0.0.0]:6660"], "'[::ffff:0.0.0.0]:6660'"),
        (
            &["127.0.0.1:0", "0.0.0.0:6660"],
            "leads to no member: give the HOST:PORT by which this node reaches one",
        ),
        (
            &["127.0.0.1:0", "a:6660,b:6660"],
            "'a:6660,b:6660' is more than one address: put a space between two",
        ),
        (&["127.0.0.1:0", "::1:6660"], "'::1:6660' is no address of a node: put [ ] around one of IPv6"),
        (
            &["127.0.0.1:0", "a:6660/"],
            "'a:6660/' is more than the address of a node: give HOST:PORT, without http://",
        ),
        (&["127.0.0.1:0", "--cluster-secret-file", "/no/such/file"], "/no/such/file"),
        (&["127.0.0.1:0", "--cluster-secret-file", &empty], "empty is empty: a secret is one line"),
        (
            &["127.0.0.1:0", "--cluster-secret-file", &two],
            "two has more than two lines: a secret is one line",
        ),
        (&["127.0.0.1:0", "--cluster-secret-file", &words], "words has a space in a line"),
        (&["leave", "--address=127.0.0.1:1", "--cluster-secret-file", &two], "two has more than two lines"),
    ] {
        let mut command = dynarust(flags);
        command.current_dir(dir.path());
        let code = if flags[0] == "leave" { 1 } else { 2 };
        refused(command, code, &[shown]);
    }
    assert_eq!(contents(dir.path()).len(), 3, "nothing was made but the files of this test");
}

#[test]
fn a_taken_port_exits_6() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    let dir = temporary();
    let data = dir.path().join("data");
    let mut command = dynarust(&[&address, "--data-dir"]);
    command.arg(&data);
    refused_in_a_line(command, 6, &[&address]);
    drop(taken);
    let node = Node::start(&data, &[]);
    assert_eq!(node.request("GET", "/ready", "").status, 200, "the directory is as good as before");
}

#[test]
fn an_address_of_another_machine_exits_6() {
    let dir = temporary();
    let mut command = dynarust(&["192.0.2.1:6660", "--data-dir"]);
    command.arg(dir.path());
    refused_in_a_line(command, 6, &["192.0.2.1:6660"]);
}

#[test]
fn the_environment_sets_what_flags_do_and_flags_win() {
    let dir = temporary();
    let (one, two) = (dir.path().join("one"), dir.path().join("two"));
    let mut command = dynarust(&["127.0.0.1:0"]);
    command
        .env("DYNARUST_DATA_DIR", &one)
        .env("DYNARUST_MAX_VALUE_BYTES", "5")
        .env("DYNARUST_WRITE_QUEUE", "77");
    let node = Node::launch(command).unwrap_or_else(|log| panic!("{log}"));
    assert!(one.join("MANIFEST").is_file());
    assert_eq!(node.request("PUT", "/key/x", "{\"value\":12345}").status, 201);
    assert_eq!(node.request("PUT", "/key/x", "{\"value\":123456}").status, 413);
    assert_eq!(node.request("GET", "/stats", "").json()["queue"]["capacity"], 77);
    let mut command = Node::command(&two, &["--max-value-bytes", "6"]);
    command.env("DYNARUST_DATA_DIR", &one).env("DYNARUST_MAX_VALUE_BYTES", "5");
    let node = Node::launch(command).unwrap_or_else(|log| panic!("{log}"));
    assert!(two.join("MANIFEST").is_file());
    assert_eq!(node.request("PUT", "/key/x", "{\"value\":123456}").status, 201);
}

#[test]
fn bad_values_in_the_environment_exit_2() {
    let dir = temporary();
    for (flag, twin) in &FLAGS[1..] {
        let mut command = Node::command(dir.path(), &[]);
        command.env(twin, "many");
        refused(command, 2, &[flag, &format!("{twin}, which stands for")]);
        let mut command = Node::command(dir.path(), &["--write-queue=many"]);
        command.env(twin, "many");
        refused(command, 2, &["for '--write-queue <N>'"]);
    }
    let mut command = Node::command(dir.path(), &[]);
    command.env("DYNARUST_WRITE_QUEUE", "0");
    refused(command, 2, &["DYNARUST_WRITE_QUEUE, which stands for --write-queue 0: give a number from 1"]);
    assert!(contents(dir.path()).is_empty());
}
