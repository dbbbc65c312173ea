//! Keys out and in again: what comes back is what was there, whatever is cut off on the way, and nothing is said to be done
//! that is not.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};

use jiff::Timestamp;
use serde_json::Value as Json;

use crate::proxy::{Line, Proxy};
use crate::support::{Client, Node, SOON, binary, wait_until};
use crate::{Ended, contents, dynarust, refused, temporary};

/// Runs a command to its end, however much it writes and is given.
pub fn run(mut command: Command, input: &str) -> Ended {
    let dir = temporary();
    let path = |name: &str| dir.path().join(name);
    fs::write(path("in"), input).expect("a file");
    let file = |name: &str| File::create(path(name)).expect("a file");
    let input = File::open(path("in")).expect("a file");
    let mut child =
        command.stdin(input).stdout(file("out")).stderr(file("err")).spawn().expect("the binary starts");
    let mut code = None;
    wait_until(SOON, "the command ends", || {
        code = child.try_wait().expect("it can be waited for");
        code.is_some()
    });
    let text = |name: &str| fs::read_to_string(path(name)).expect("UTF-8");
    Ended { code: code.and_then(|status| status.code()), stdout: text("out"), stderr: text("err") }
}

/// An export that must be whole.
pub fn export(from: &str, args: &[&str]) -> String {
    let ended = run(dynarust(&[&["export", from], args].concat()), "");
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    ended.stdout
}

/// An import that must be done; what it said.
fn import(node: &Node, args: &[&str], lines: &str) -> String {
    let ended = run(dynarust(&[&["import", &node.address.to_string()], args].concat()), lines);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    ended.stdout
}

fn put(node: &Node, key: &str, headers: &[(&str, &str)], body: &str) -> String {
    let key: String = key.bytes().map(|byte| format!("%{byte:02X}")).collect();
    let answer = node.request_with("PUT", &format!("/key/{key}"), headers, body.as_bytes());
    assert!(matches!(answer.status, 200 | 201), "{}", answer.text());
    answer.json()["version"].as_str().expect("a version").to_owned()
}

fn keys(node: &Node) -> u64 {
    node.request("GET", "/stats", "").json()["keys"].as_u64().expect("a number")
}

/// A node that holds some of everything.
fn filled(dir: &Path) -> Node {
    let node = Node::start(dir, &[]);
    for key in ["a\nb", "a\"b\\", "größe", "𝄞", " ", "'quoted'", "b?c#d&e=f+g", "a/../b", "."] {
        put(&node, key, &[], "{\"value\": [1e400, -0, 0.10, \"\\u000a\"]}");
    }
    put(&node, "spread", &[], "{\"value\": {\n  \"a\":\r\n 1 }}");
    for n in 0..4 {
        put(&node, &format!("large/{n}"), &[], &format!("{{\"value\": \"{}\"}}", "x".repeat(700_000)));
    }
    put(&node, "brief", &[], "{\"value\": null, \"ttl_seconds\": 3600}");
    put(&node, "over", &[], "{\"value\": 1, \"ttl_seconds\": 0.001}");
    let first = put(&node, "both", &[], "{\"value\": \"left\"}");
    put(&node, "both", &[], "{\"value\": \"over it\"}");
    put(&node, "both", &[("Causality-Token", &first)], "{\"value\": \"right\"}");
    put(&node, "gone", &[], "{\"value\": 1}");
    assert_eq!(node.request("DELETE", "/key/gone", "").status, 200);
    let mut client = Client::new(node.address);
    for n in 0..3_000 {
        let answer = client.request("PUT", &format!("/key/many/{n:04}"), &[], b"{\"value\": 7}");
        assert_eq!(answer.expect("an answer").status, 201);
    }
    wait_until(SOON, "it has expired", || node.request("GET", "/key/over", "").status == 404);
    node
}

const FILLED: usize = 3_000 + 9 + 1 + 4 + 1 + 1;

/// What a line says: the texts of its members.
fn members(line: &str) -> Vec<(String, String)> {
    let members: std::collections::BTreeMap<String, Box<serde_json::value::RawValue>> =
        serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}: {line}"));
    members.into_iter().map(|(name, text)| (name, text.get().to_owned())).collect()
}

fn member(line: &str, name: &str) -> Option<String> {
    members(line).into_iter().find(|(its, _)| its == name).map(|(_, text)| text)
}

#[test]
fn what_was_exported_comes_back() {
    let (dir, other) = (temporary(), temporary());
    let node = filled(dir.path());
    let url = format!("http://{}/", node.address);
    let whole = export(&url, &[]);
    assert_eq!(whole.lines().count(), FILLED);
    assert_eq!(export(&node.address.to_string(), &["--prefix", "many/1"]).lines().count(), 1_000);
    assert_eq!(export(&url, &["--prefix", "many/", "--after", "many/2989"]).lines().count(), 10);
    assert_eq!(node.stop().code(), Some(0));
    // A directory says the same, and stays as it is.
    let before = contents(dir.path());
    let from = dir.path().to_str().expect("a path");
    assert!(export(from, &[]) == whole, "node and directory differ");
    assert_eq!(export(from, &["--prefix", "many/", "--after", "many/2989"]).lines().count(), 10);
    assert!(contents(dir.path()) == before, "it changed something");
    // The winner of two siblings, values to the digit, and what is left of a time.
    let node = Node::start(other.path(), &[]);
    assert!(
        import(&node, &[], &whole).starts_with(&format!("{FILLED} keys written ({FILLED} new, 0 replaced)"))
    );
    let again = export(&node.address.to_string(), &[]);
    assert_eq!(again.lines().count(), FILLED);
    for (was, is) in whole.lines().zip(again.lines()) {
        assert_eq!((member(was, "key"), member(was, "value")), (member(is, "key"), member(is, "value")));
        assert_eq!(member(is, "conflicts"), None);
        let time = |line| {
            member(line, "expires_at")
                .map(|text| text.trim_matches('"').parse::<Timestamp>().expect("a time"))
        };
        match (time(was), time(is)) {
            (Some(was), Some(is)) => {
                assert!((was - is).total(jiff::Unit::Second).expect("seconds").abs() < 2.0)
            }
            (was, is) => assert_eq!(was, is),
        }
    }
    assert_eq!(whole.matches("\"conflicts\":[{\"value\":\"over it\"").count(), 1);
    // Doing it twice does no harm.
    assert!(import(&node, &[], &whole).contains(&format!("(0 new, {FILLED} replaced)")));
    assert_eq!(keys(&node), FILLED as u64);
}

#[test]
fn an_export_whose_connection_is_cut_goes_on() {
    let dir = temporary();
    let node = filled(dir.path());
    let whole = export(&node.address.to_string(), &[]);
    let line = Proxy::start();
    line.leads_to(node.address);
    line.set(Line::Resets(1_500_000));
    let through = line.address.to_string();
    assert!(export(&through, &[]) == whole, "it is not the same when it is cut");
    // Who may not try again says what is missing, and ends on a whole line.
    let ended = run(dynarust(&["export", &through, "--retry-seconds", "0"]), "");
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    assert!(
        ended.stdout.ends_with('\n') && ended.stdout.len() < whole.len() && whole.starts_with(&ended.stdout)
    );
    let last = ended.stdout.lines().next_back().expect("a line");
    let key: String = serde_json::from_str(&member(last, "key").expect("a key")).expect("a string");
    assert!(ended.stderr.contains(&format!("go on with --after '{key}'")), "{}", ended.stderr);
    let rest = export(&node.address.to_string(), &["--after", &key]);
    assert!(ended.stdout + &rest == whole, "the two parts are not the whole");
}

#[test]
fn an_import_whose_connections_are_cut_goes_on() {
    let dir = temporary();
    let node = Node::start(dir.path(), &[]);
    let line = Proxy::start();
    line.leads_to(node.address);
    line.set(Line::Resets(2_000));
    let lines: String = (0..500).map(|n| format!("{{\"key\":\"k{n:03}\",\"value\":{n}}}\n")).collect();
    let command = dynarust(&["import", &line.address.to_string(), "--connections", "4"]);
    let ended = run(command, &lines);
    assert_eq!(ended.code, Some(0), "{}", ended.stderr);
    assert!(ended.stdout.starts_with("500 keys written"), "{}", ended.stdout);
    let values: Vec<String> =
        export(&node.address.to_string(), &[]).lines().filter_map(|line| member(line, "value")).collect();
    assert_eq!(values, (0..500).map(|n| n.to_string()).collect::<Vec<_>>());
}

#[test]
fn an_import_that_loses_its_node_says_where_to_go_on() {
    let dir = temporary();
    let node = Node::start(dir.path(), &[]);
    let line = Proxy::start();
    line.leads_to(node.address);
    // Each connection ends some lines before its share is done, and its last answer may be lost.
    line.set(Line::Resets(1_000));
    let lines: String = (1..=2_000).map(|n| format!("{{\"key\":\"k{n:05}\",\"value\":{n}}}\n")).collect();
    let ended = run(dynarust(&["import", &line.address.to_string(), "--retry-seconds", "0"]), &lines);
    let said = ended.stderr;
    assert_eq!(ended.code, Some(1), "{said}");
    let through = said.split("lines up to ").nth(1).expect("it says how far it came");
    let through: u64 = through.split(' ').next().and_then(|number| number.parse().ok()).expect("a number");
    assert!(said.contains(&format!("go on with --from-line {}", through + 1)), "{said}");
    for n in 1..=through {
        let answer = node.request("GET", &format!("/key/k{n:05}"), "");
        assert_eq!(answer.status, 200, "line {n} of {through}: {said}");
    }
    let rest = import(&node, &["--from-line", &(through + 1).to_string()], &lines);
    assert!(rest.starts_with(&format!("{} keys written", 2_000 - through)), "{rest}");
    assert_eq!(keys(&node), 2_000);
}

#[test]
fn a_bad_line_is_named_and_those_before_it_are_written() {
    let dir = temporary();
    let node = Node::start(dir.path(), &["--max-value-bytes", "1000"]);
    let address = node.address.to_string();
    let good = "{\"key\":\"one\",\"value\":1}\n\n{\"key\":\"two\",\"value\":2,\"expires_at\":\"2000-01-01T00:00:00Z\"}\n";
    let bad = format!("{good}{{\"key\":\"three\",\"valeu\":3}}\n{{\"key\":\"four\",\"value\":4}}\n");
    // First nothing is written, and every bad line is told.
    let ended = run(dynarust(&["import", &address, "--dry-run"]), &format!("{bad}{{\"key\":\n"));
    assert_eq!(ended.code, Some(1));
    for said in [
        "line 4: unknown member \"valeu\"",
        "line 6: ",
        "2 lines are wrong",
        "2 keys would be written (2 new",
        "1 expired",
    ] {
        assert!(ended.stderr.contains(said), "{said}: {}", ended.stderr);
    }
    assert_eq!(keys(&node), 0, "a dry run has written");
    let ended = run(dynarust(&["import", &address]), &bad);
    assert_eq!(ended.code, Some(1));
    for said in [
        "line 4: unknown member \"valeu\"",
        "up to 3 are done; go on with --from-line 4",
        "1 key written",
        "1 expired",
    ] {
        assert!(ended.stderr.contains(said), "{said}: {}", ended.stderr);
    }
    assert_eq!(keys(&node), 1);
    // What only the node knows.
    let large = format!(
        "{{\"key\":\"five\",\"value\":5}}\n{{\"key\":\"six\",\"value\":\"{}\"}}\n",
        "x".repeat(300_000)
    );
    let ended = run(dynarust(&["import", &address]), &large);
    assert_eq!(ended.code, Some(1));
    for said in ["line 2: ", "413", "at most 1000 bytes", "--from-line 2"] {
        assert!(ended.stderr.contains(said), "{said}: {}", ended.stderr);
    }
    assert_eq!(node.request("GET", "/key/five", "").status, 200);
}

#[test]
fn keys_that_are_there_are_left_alone_when_asked() {
    let dir = temporary();
    let node = Node::start(dir.path(), &[]);
    put(&node, "old", &[], "{\"value\": \"old\"}");
    let lines = r#"{"key":"old","value":"new"}
{"key":"new","value":"first"}
{"key":"new","value":"second"}"#;
    let dry = import(&node, &["--if-absent", "--dry-run"], lines);
    assert!(
        dry.starts_with(
            "nothing was written: 2 keys would be written (2 new, 0 replaced), 1 left as they were"
        ),
        "{dry}"
    );
    assert!(import(&node, &["--dry-run"], lines).contains("(2 new, 1 replaced)"));
    assert_eq!(keys(&node), 1);
    let value = |key: &str| node.request("GET", &format!("/key/{key}"), "").json()["value"].clone();
    let told = import(&node, &["--if-absent"], lines);
    assert!(told.starts_with("1 key written (1 new, 0 replaced), 2 left as they were, 0 expired"), "{told}");
    assert_eq!((value("old"), value("new")), (Json::from("old"), Json::from("first")));
    // Else the file decides, and of a key that stands twice its last line.
    import(&node, &[], lines);
    assert_eq!((value("old"), value("new")), (Json::from("new"), Json::from("second")));
}

#[test]
fn the_file_of_the_first_dynarust_is_imported() {
    let (dir, files) = (temporary(), temporary());
    let node = Node::start(dir.path(), &[]);
    let file = files.path().join("storage.db");
    fs::write(&file, "greeting=hello world\nsample_key={\"value\": \"distributed\"}\nsum=a=b\n\ncount=42\n")
        .expect("a file");
    let file = file.to_str().expect("a path");
    let told = import(&node, &[file, "--format", "first-dynarust"], "");
    assert!(told.starts_with("4 keys written"), "{told}");
    for (key, value) in
        [("greeting", "hello world"), ("sample_key", "distributed"), ("sum", "a=b"), ("count", "42")]
    {
        assert_eq!(node.request("GET", &format!("/key/{key}"), "").json()["value"], value, "{key}");
    }
    let ended = run(dynarust(&["import", &node.address.to_string(), file]), "");
    assert!(ended.stderr.contains("line 1: expected a JSON object"), "{}", ended.stderr);
}

#[test]
fn an_export_whose_reader_has_seen_enough_is_no_error() {
    let dir = temporary();
    let node = filled(dir.path());
    let mut child = dynarust(&["export", &node.address.to_string()])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("it starts");
    let mut some = [0; 100];
    child.stdout.take().expect("piped").read_exact(&mut some).expect("it writes");
    let ended = child.wait_with_output().expect("it ends");
    assert_eq!(ended.status.code(), Some(0), "{}", String::from_utf8_lossy(&ended.stderr));
}

#[test]
fn what_can_be_no_node_or_directory_is_refused() {
    let dir = temporary();
    let node = Node::start(dir.path(), &[]);
    refused(dynarust(&["export", "https://localhost:1"]), 2, &["'https://localhost:1'", "HOST:PORT"]);
    refused(dynarust(&["import", "backup"]), 2, &["'backup'", "HOST:PORT"]);
    refused(dynarust(&["import", "localhost:1", "--from-line", "0"]), 2, &["--from-line"]);
    refused(dynarust(&["import", "localhost:1", "--connections", "0"]), 2, &["--connections"]);
    refused(dynarust(&["import", "localhost:1", "--format", "xml"]), 2, &["ndjson", "first-dynarust"]);
    refused(dynarust(&["import", "localhost:1", "/no/such/file"]), 1, &["/no/such/file"]);
    let directory = dir.path().to_str().expect("a path");
    let words = [directory, "it is a directory", "DynaRust export"];
    refused(dynarust(&["import", "localhost:1", directory]), 1, &words);
    refused(dynarust(&["export", ""]), 2, &["nothing is named to export"]);
    let missing = dir.path().join("missing");
    let missing = missing.to_str().expect("a path");
    refused(dynarust(&["export", missing]), 3, &[missing]);
    let used = dir.path().to_str().expect("a path");
    refused(
        dynarust(&["export", used]),
        3,
        &["is in use by process", &format!("DynaRust export {}", node.address)],
    );
    assert_eq!(node.stop().code(), Some(0));
    for command in ["export", "import"] {
        let mut command = dynarust(&[command, "127.0.0.1:1", "--retry-seconds", "0"]);
        command.stdin(Stdio::null());
        let ended = run(command, "{\"key\":\"k\",\"value\":1}");
        assert_eq!(ended.code, Some(1));
        assert!(ended.stderr.contains("127.0.0.1:1: Connection refused"), "{}", ended.stderr);
    }
}

/// Who waits longer than a second is told how far it is, and how fast.
#[test]
fn what_takes_its_time_says_how_far_it_is() {
    let (dir, work) = (temporary(), temporary());
    let node = Node::start(dir.path(), &[]);
    let said = work.path().join("said");
    let mut child = dynarust(&["import", &node.address.to_string()])
        .stdin(Stdio::piped())
        .stderr(File::create(&said).expect("a file"))
        .spawn()
        .expect("the binary starts");
    let mut lines = child.stdin.take().expect("piped");
    lines.write_all(b"{\"key\":\"a\",\"value\":1}\n").expect("it reads");
    let told = || fs::read_to_string(&said).expect("UTF-8");
    wait_until(SOON, "it says how far it is", || told().contains("importing: 1 line, "));
    assert!(told().contains(" a second\n"), "{}", told());
    drop(lines);
    wait_until(SOON, "it ends", || child.try_wait().expect("it can be waited for").is_some());
    assert!(child.wait().expect("it has ended").success(), "{}", told());
}

/// An import whose lines come one by one, and what it says.
struct Slow {
    child: Child,
    lines: ChildStdin,
    work: tempfile::TempDir,
}

impl Slow {
    fn start(node: &str, args: &[&str]) -> Slow {
        let work = temporary();
        let mut child = dynarust(&[&["import", node], args].concat())
            .stdin(Stdio::piped())
            .stderr(File::create(work.path().join("said")).expect("a file"))
            .spawn()
            .expect("the binary starts");
        let lines = child.stdin.take().expect("piped");
        Slow { child, lines, work }
    }

    fn said(&self) -> String {
        fs::read_to_string(self.work.path().join("said")).expect("UTF-8")
    }

    fn says(&self, what: &str) {
        wait_until(SOON, &format!("it says {what:?}"), || self.said().contains(what));
    }

    fn signal(&self, signal: i32) {
        assert_eq!(unsafe { libc::kill(self.child.id() as i32, signal) }, 0);
    }

    /// How it ends, though more lines may come.
    fn ends(mut self) -> (Option<i32>, String) {
        wait_until(SOON, "it ends", || self.child.try_wait().expect("it can be waited for").is_some());
        (self.child.wait().expect("it has ended").code(), self.said())
    }
}

#[test]
fn an_import_that_is_interrupted_says_where_to_go_on() {
    let dir = temporary();
    let node = Node::start(dir.path(), &[]);
    for signal in [libc::SIGINT, libc::SIGTERM] {
        let mut slow = Slow::start(&node.address.to_string(), &[]);
        for n in 1..=40 {
            writeln!(slow.lines, "{{\"key\":\"k{n}\",\"value\":{n}}}").expect("it reads");
        }
        slow.says("importing: 40 lines");
        slow.signal(signal);
        let (code, said) = slow.ends();
        assert_eq!(code, Some(1), "{said}");
        let words = "error: interrupted; lines up to 40 are done; go on with --from-line 41; 40 keys written";
        assert!(said.contains(words), "{said}");
    }
}

/// A node that answers all but one request: progress counts to the line of that, and so does what is said at the end.
#[test]
fn lines_count_as_done_when_all_before_them_are() {
    let node = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = node.local_addr().expect("an address").to_string();
    std::thread::spawn(move || {
        for stream in node.incoming().map_while(Result::ok) {
            std::thread::spawn(move || {
                let mut lines = BufReader::new(stream.try_clone().expect("a handle")).lines();
                while let Some(Ok(line)) = lines.next() {
                    if line.starts_with("PUT /key/stuck ") {
                        std::thread::park();
                    }
                    if line.starts_with("PUT ") {
                        let answer = "HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n";
                        (&stream).write_all(answer.as_bytes()).expect("it reads");
                        // The body has no line end: the next request follows it.
                        let body = lines
                            .by_ref()
                            .take_while(|line| line.as_ref().is_ok_and(|line| !line.is_empty()));
                        body.for_each(drop);
                    }
                }
            });
        }
    });
    let mut slow = Slow::start(&address, &["--connections", "2"]);
    writeln!(slow.lines, "{{\"key\":\"first\",\"value\":1}}\n{{\"key\":\"stuck\",\"value\":1}}")
        .expect("it reads");
    for n in 3..=20 {
        writeln!(slow.lines, "{{\"key\":\"k{n}\",\"value\":1}}").expect("it reads");
    }
    slow.says("importing: 1 line, ");
    slow.signal(libc::SIGINT);
    slow.says("a second time ends it at once");
    slow.signal(libc::SIGINT);
    let (code, said) = slow.ends();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("interrupted; lines up to 1 are done; go on with --from-line 2"), "{said}");
    assert!(!said.contains("importing: 2"), "{said}");
}

#[test]
fn who_goes_on_behind_the_end_is_told_where_that_is() {
    let dir = temporary();
    let node = Node::start(dir.path(), &[]);
    let lines = "{\"key\":\"a\",\"value\":1}\n\n{\"key\":\"b\",\"value\":1}\n";
    let ended = run(dynarust(&["import", &node.address.to_string(), "--from-line", "5"]), lines);
    assert_eq!(ended.code, Some(1), "{}", ended.stdout);
    assert!(ended.stderr.contains("--from-line 5: stdin has 3 lines"), "{}", ended.stderr);
    // All was done.
    assert!(import(&node, &["--from-line", "4"], lines).starts_with("0 keys written"));
}

#[test]
fn a_mark_of_salvage_is_explained() {
    let dir = temporary();
    let node = Node::start(dir.path(), &[]);
    let lines =
        "{\"key\":\"a\",\"value\":1,\"stale\":\"possible\"}\n{\"key\":\"b\",\"incomplete\":{\"bytes\":9}}\n";
    let ended = run(dynarust(&["import", &node.address.to_string(), "--dry-run"]), lines);
    assert_eq!(ended.code, Some(1), "{}", ended.stdout);
    for said in [
        "line 1: \"stale\" is a mark of salvage",
        "jq -c 'del(.stale)'",
        "line 2: \"incomplete\" is a mark of salvage",
    ] {
        assert!(ended.stderr.contains(said), "{said}: {}", ended.stderr);
    }
    assert!(!ended.stderr.contains("unknown member"), "{}", ended.stderr);
}

/// Of a node that is down there is nothing new to say, and no telling when it will be done.
#[test]
fn a_node_that_is_down_is_told_of_once() {
    let ended = run(dynarust(&["export", "127.0.0.1:1", "--retry-seconds", "2"]), "");
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    assert_eq!(ended.stderr.matches("note: ").count(), 1, "{}", ended.stderr);
    let line = "{\"key\":\"a\",\"value\":1}\n".repeat(2_000);
    let ended = run(dynarust(&["import", "127.0.0.1:1", "--retry-seconds", "3"]), &line);
    assert!(ended.stderr.contains("importing: 0 lines, 0 a second\n"), "{}", ended.stderr);
    assert!(!ended.stderr.contains(" to go\n"), "{}", ended.stderr);
}

#[test]
fn what_nobody_can_read_is_not_exported() {
    let dir = temporary();
    let node = Node::start(dir.path(), &[]);
    let mut command = Command::new("sh");
    command.args(["-c", "exec \"$0\" export \"$1\" >&-"]).arg(binary()).arg(node.address.to_string());
    let ended = run(command, "");
    assert_eq!(ended.code, Some(1), "{}", ended.stderr);
    assert!(ended.stderr.contains("stdout is closed"), "{}", ended.stderr);
    let mut command = dynarust(&["export", &node.address.to_string()]);
    assert_eq!(
        command.stdout(Stdio::null()).stderr(Stdio::null()).status().expect("it runs").code(),
        Some(0)
    );
}
