//! Runs a node under strace and reads what it did: each system call with when it began and when it was done, in
//! the order of the trace.

use crate::skipped;
use crate::support::{Node, SOON, wait_until};
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

pub const RECEIVING: [&str; 4] = ["read", "readv", "recvfrom", "recvmsg"];
pub const SENDING: [&str; 4] = ["write", "writev", "sendto", "sendmsg"];
const SYNCING: [&str; 6] = ["fsync", "fdatasync", "sync_file_range", "msync", "syncfs", "sync"];

pub struct Call {
    pub name: String,
    /// Its arguments and, when it is done, its result.
    pub text: String,
    /// Lines of the trace.
    pub begun: usize,
    pub done: usize,
}

impl Call {
    /// The file descriptor that is its first argument, as `7<path>`.
    pub fn fd(&self) -> &str {
        let end = self.text.find([',', ')']).unwrap_or(self.text.len());
        &self.text[..end]
    }

    pub fn result(&self) -> i64 {
        let result = self.text.rsplit(" = ").next().and_then(|r| r.split(' ').next());
        result.and_then(|r| r.parse().ok()).unwrap_or(-1)
    }

    pub fn is(&self, names: &[&str]) -> bool {
        names.contains(&self.name.as_str())
    }
}

/// Starts a node whose every relevant call goes into `file`; `None`, said in a line, where tracing is not possible.
pub fn start(what: &str, dir: &Path, file: &Path) -> Option<Node> {
    let mut probe = Command::new("strace");
    let probe = probe.args(["-f", "-o", "/dev/null", "true"]).stderr(Stdio::piped()).output();
    match probe {
        Err(e) => skipped(what, &format!("strace does not run ({e})")),
        Ok(output) if !output.status.success() => {
            let said = String::from_utf8_lossy(&output.stderr);
            skipped(what, &format!("tracing is not permitted ({})", said.trim()));
        }
        Ok(_) => {
            let node = Node::command(dir, &[]);
            let names = [&RECEIVING[..], &SENDING, &SYNCING].concat().join(",");
            let mut strace = Command::new("strace");
            // With -D the node stays our child, and strace goes when it goes.
            strace
                .args(["-D", "-f", "-y", "-s", "96", "-e", &format!("trace={names}"), "-o"])
                .arg(file)
                .arg("--");
            strace.arg(node.get_program()).args(node.get_args());
            return Some(
                Node::launch(strace).unwrap_or_else(|log| panic!("does not serve under strace:\n{log}")),
            );
        }
    }
    None
}

/// The whole trace, once strace has written the end of it.
pub fn finish(node: Node, file: PathBuf) -> Vec<Call> {
    let pid = node.child.id().to_string();
    let status = node.stop();
    assert_eq!(status.code(), Some(0), "SIGTERM under strace");
    let mut text = String::new();
    wait_until(SOON, "strace writes the end of the trace", || {
        text = String::from_utf8_lossy(&std::fs::read(&file).expect("the trace")).into_owned();
        text.lines()
            .any(|line| line.split_whitespace().next() == Some(&pid) && line.ends_with("exited with 0 +++"))
    });
    parse(&text)
}

/// `PID name(arguments) = result`, or the same in two lines when another thread's call came between.
fn parse(text: &str) -> Vec<Call> {
    let mut calls = Vec::new();
    let mut unfinished: HashMap<&str, Call> = HashMap::new();
    for (number, line) in text.lines().enumerate() {
        let Some((thread, rest)) = line.split_once(' ') else { continue };
        let rest = rest.trim_start();
        if let Some(resumed) = rest.strip_prefix("<... ") {
            let Some(mut call) = unfinished.remove(thread) else { continue };
            let (_, end) = resumed.split_once("resumed>").expect("strace's own form");
            call.text.push_str(end);
            call.done = number;
            calls.push(call);
            continue;
        }
        let Some((name, text)) = rest.split_once('(') else { continue };
        let call = Call { name: name.to_owned(), text: text.to_owned(), begun: number, done: number };
        match text.strip_suffix("<unfinished ...>") {
            Some(text) => {
                unfinished.insert(thread, Call { text: text.trim_end().to_owned(), ..call });
            }
            None => calls.push(call),
        }
    }
    calls.extend(unfinished.into_values().map(|call| Call { done: usize::MAX, ..call }));
    calls.sort_by_key(|call| call.begun);
    calls
}

#[test]
fn split_calls_are_put_together() {
    let calls = parse(
        "7 read(9<socket:[1]>, \"PUT /key/a\", 99) = 10\n8 fdatasync(5</d/store/db> <unfinished ...>\n\
         7 write(2</dev/null>, \"x\", 1) = 1\n8 <... fdatasync resumed>) = 0\n7 +++ exited with 0 +++\n",
    );
    assert_eq!(calls.len(), 3);
    assert_eq!((calls[0].fd(), calls[0].result()), ("9<socket:[1]>", 10));
    let sync = &calls[1];
    assert!(sync.is(&["fdatasync"]) && sync.text.contains("/store/db>") && sync.result() == 0);
    assert_eq!((sync.begun, sync.done), (1, 3));
}
