//! Keys out and in again: what comes back is what was there, whatever is cut off on the way, and nothing is said to be done
//! that is not.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};

use jiff::Timestamp;
use serde_json::Value as Json;

use crate::proxy::{Line, Proxy};
use crate::support::{Client, Node, SOON, wait_until};
use crate::{Ended, contents, dynarust, refused, temporary};

/// Runs a command to its end, however much it writes and is given.
fn run(mut command: Command, input: &str) -> Ended {
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
fn export(from: &str, args: &[&str]) -> String {
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
        "1 keys written",
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
    assert!(told.starts_with("1 keys written (1 new, 0 replaced), 2 left as they were, 0 expired"), "{told}");
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
    let missing = dir.path().join("missing");
    let missing = missing.to_str().expect("a path");
    refused(dynarust(&["export", missing]), 3, &[missing]);
    let used = dir.path().to_str().expect("a path");
    refused(dynarust(&["export", used]), 3, &["is in use by process"]);
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
    wait_until(SOON, "it says how far it is", || told().contains("importing: 1 lines, "));
    assert!(told().contains(" a second\n"), "{}", told());
    drop(lines);
    wait_until(SOON, "it ends", || child.try_wait().expect("it can be waited for").is_some());
    assert!(child.wait().expect("it has ended").success(), "{}", told());
}

/// Somebody who says to each request what `answer` does with its first line, and is no node.
fn stranger(answer: impl Fn(&str, &mut TcpStream) + Send + 'static) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("an address");
    let address = listener.local_addr().expect("an address");
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.expect("a client");
            let mut head = [0; 4096];
            let read = stream.read(&mut head).unwrap_or(0);
            let head = String::from_utf8_lossy(&head[..read]).into_owned();
            answer(head.lines().next().unwrap_or(""), &mut stream);
            let _ = stream.shutdown(Shutdown::Write);
        }
    });
    address
}

const LIST: &str = "HTTP/1.1 200 OK\r\nContent-Type: application/x-ndjson\r\n";

/// An answer in one chunk.
fn chunked(lines: &str) -> String {
    format!(
        "{LIST}Transfer-Encoding: chunked\r\nConnection: close\r\n\r\n{:x}\r\n{lines}\r\n0\r\n\r\n",
        lines.len()
    )
}

/// Sends a body of many MiB, as long as it is taken.
fn flood(head: &str, stream: &mut TcpStream, taken: &std::sync::atomic::AtomicU64) {
    let _ = stream.write_all(head.as_bytes());
    let piece = [b' '; 64 << 10];
    while taken.load(std::sync::atomic::Ordering::SeqCst) < 64 << 20 && stream.write_all(&piece).is_ok() {
        taken.fetch_add(piece.len() as u64, std::sync::atomic::Ordering::SeqCst);
    }
}

#[test]
fn an_answer_without_end_is_not_read_to_it() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};
    let files = temporary();
    let file = files.path().join("out").display().to_string();
    let taken = Arc::new(AtomicU64::new(0));
    let its = taken.clone();
    let address = stranger(move |_, stream| flood("HTTP/1.1 500 Oops\r\n\r\n", stream, &its)).to_string();
    for args in [&["backup", &address, "-o", &file][..], &["export", &address]] {
        taken.store(0, Ordering::SeqCst);
        refused(dynarust(args), 1, &["500"]);
        assert!(taken.load(Ordering::SeqCst) < 32 << 20, "{args:?} read on and on");
    }
    taken.store(0, Ordering::SeqCst);
    let its = taken.clone();
    let address = stranger(move |line, stream| match line.contains("/stats") {
        true => flood("HTTP/1.1 200 OK\r\n\r\n", stream, &its),
        false => stream.write_all(chunked("{\"key\":\"a\",\"value\":1}\n").as_bytes()).expect("it reads"),
    });
    assert_eq!(export(&address.to_string(), &[]).lines().count(), 1);
    assert!(taken.load(Ordering::SeqCst) < 32 << 20, "it read on and on");
}

/// What can't be told from a part of it is none.
#[test]
fn what_is_no_list_of_keys_is_never_all_of_them() {
    let good = "{\"key\":\"a\",\"value\":1}\n{\"key\":\"b\",\"value\":1}\n";
    let (one, old) = (format!("{LIST}Connection: close\r\n\r\n{good}"), LIST.replace("1.1", "1.0"));
    let chunks = chunked(good).replace("1.1", "1.0");
    for (answer, word) in [
        (one, "cut off"),
        (format!("{old}\r\n{good}"), "cut off"),
        (chunks, "error"),
        (chunked("abcd\n"), "no list of keys"),
        (chunked("{\"key\":\"a\"\n"), "no list of keys"),
        (chunked("{\"key\":7}\n"), "no list of keys"),
        (chunked("\n"), "no list of keys"),
        (chunked(&format!("{good}{good}")), "not in their order"),
    ] {
        let its = answer.clone();
        let address = stranger(move |_, stream| drop(stream.write_all(its.as_bytes()))).to_string();
        let ended = run(dynarust(&["export", &address, "--retry-seconds", "0"]), "");
        assert_eq!((ended.code, ended.stdout.as_str()), (Some(1), ""), "{answer}: {}", ended.stderr);
        assert!(ended.stderr.contains(word), "{answer}: {}", ended.stderr);
    }
    let whole = format!("{LIST}Content-Length: {}\r\n\r\n{good}", good.len()).replace("1.1", "1.0");
    let address = stranger(move |_, stream| drop(stream.write_all(whole.as_bytes())));
    assert_eq!(export(&address.to_string(), &[]), good);
}

/// Who says the same again is not asked again without end.
#[test]
fn an_export_that_does_not_advance_ends() {
    let cut = chunked("{\"key\":\"a\",\"value\":1}\n").replace("0\r\n\r\n", "ff\r\n");
    let address = stranger(move |_, stream| drop(stream.write_all(cut.as_bytes())));
    let ended = run(dynarust(&["export", &address.to_string()]), "");
    assert_eq!((ended.code, ended.stdout.lines().count()), (Some(1), 1), "{}", ended.stderr);
    assert!(ended.stderr.contains("not in their order"), "{}", ended.stderr);
}
