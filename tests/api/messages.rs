//! How requests may be framed: chunks, `100 Continue`, HTTP/1.0, pipelining, absolute form, endless heads, and
//! bodies cut off half way.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};

use crate::helpers::{Keys, Own, entry, fresh, node, problem, removed, written};
use crate::support::{Client, Node, Response, SOON, wait_until};

/// A bare connection, for what no client does.
fn raw(node: &Node) -> TcpStream {
    let stream = TcpStream::connect(node.address).expect("the node accepts connections");
    stream.set_read_timeout(Some(SOON)).expect("a time-out");
    stream.set_write_timeout(Some(SOON)).expect("a time-out");
    stream
}

/// Everything that comes until the node closes.
fn rest(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes) {
        Err(e) if e.kind() == std::io::ErrorKind::WouldBlock => {
            panic!("the node neither answered nor closed")
        }
        _ => String::from_utf8_lossy(&bytes).into_owned(),
    }
}

#[test]
fn a_body_cut_off_half_way_changes_nothing() {
    let key = fresh("cut");
    let version = node().write(&key, "\"kept\"");
    let whole = "{\"value\": \"cut\"}";
    // The last one is complete JSON: only its length tells that more was to come.
    for sent in [0, 1, 5, whole.len() - 1, whole.len()] {
        for head in ["Content-Length: 100\r\n\r\n", "Transfer-Encoding: chunked\r\n\r\n64\r\n"] {
            let mut stream = raw(node());
            let request = format!("PUT /key/{key} HTTP/1.1\r\nHost: node\r\n{head}{}", &whole[..sent]);
            stream.write_all(request.as_bytes()).expect("it is sent");
            stream.shutdown(Shutdown::Write).expect("it is shut down");
            let answer = rest(&mut stream);
            assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{answer}");
            assert_eq!(node().read(&key).version, version, "{sent} bytes after {head:?}");
        }
    }
}

#[test]
fn a_chunked_body_without_its_end_changes_nothing() {
    let key = fresh("cut");
    for tail in ["", "0", "0\r\n"] {
        let mut stream = raw(node());
        let body = "b\r\n{\"value\":1}\r\n";
        let request = format!(
            "PUT /key/{key} HTTP/1.1\r\nHost: node\r\nTransfer-Encoding: chunked\r\n\r\n{body}{tail}"
        );
        stream.write_all(request.as_bytes()).expect("it is sent");
        stream.shutdown(Shutdown::Write).expect("it is shut down");
        let answer = rest(&mut stream);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{tail:?}: {answer}");
        node().absent(&key);
    }
}

#[test]
fn a_thousand_connections_dropped_half_way_leave_the_node_serving() {
    let key = fresh("cut");
    for n in 0..1_000 {
        let mut stream = raw(node());
        let request =
            format!("PUT /key/{key} HTTP/1.1\r\nHost: node\r\nContent-Length: 12\r\n\r\n{{\"value\":1}}");
        stream.write_all(&request.as_bytes()[..n % request.len() + 1]).expect("it is sent");
    }
    node().absent(&key);
    node().write(&key, "2");
    assert_eq!(node().read(&key).value, "2");
}

#[test]
fn chunked_bodies_are_read() {
    let key = fresh("chunk");
    let mut client = node().client();
    let value = format!("[{}]", vec!["\"chunk\""; 5_000].join(","));
    let body = format!("{{\"value\":{value}}}");
    for size in [1, 7, 1_000, 100_000] {
        let step = if size == 1 { 40_000 } else { 0 };
        let mut request =
            format!("PUT /key/{key} HTTP/1.1\r\nHost: node\r\nTransfer-Encoding: chunked\r\n\r\n")
                .into_bytes();
        let (first, second) = body.as_bytes().split_at(step);
        for chunk in [first].into_iter().filter(|f| !f.is_empty()).chain(second.chunks(size)) {
            request.extend(format!("{:X};name=\"extension\"\r\n", chunk.len()).bytes());
            request.extend(chunk);
            request.extend(b"\r\n");
        }
        request.extend(b"0\r\n\r\n");
        client.send(&request).expect("it is sent");
        written(&client.receive(false).expect("an answer"), &[200, 201]);
        assert_eq!(node().read(&key).value, value, "chunks of {size}");
        removed(&client.request("DELETE", &format!("/key/{key}"), &[], b"").expect("an answer"));
    }
}

#[test]
fn broken_framing_is_refused() {
    let key = fresh("frame");
    let body = "{\"value\":1}";
    for head in [
        "Transfer-Encoding: chunked\r\n\r\nZZ\r\n{\"value\":1}\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\n-1\r\n{\"value\":1}\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked\r\n\r\nFFFFFFFFFFFFFFFFF\r\n{\"value\":1}\r\n0\r\n\r\n",
        "Transfer-Encoding: chunked\r\nContent-Length: 11\r\n\r\nb\r\n{\"value\":1}\r\n0\r\n\r\n",
        "Content-Length: 11\r\nContent-Length: 12\r\n\r\n{\"value\":1}",
        "Content-Length: -1\r\n\r\n{\"value\":1}",
        "Content-Length: x\r\n\r\n{\"value\":1}",
        "Content-Length: 99999999999999999999999\r\n\r\n{\"value\":1}",
        "Bad Header: 1\r\nContent-Length: 11\r\n\r\n{\"value\":1}",
        "\u{1}: 1\r\nContent-Length: 11\r\n\r\n{\"value\":1}",
    ] {
        let mut stream = raw(node());
        stream
            .write_all(format!("PUT /key/{key} HTTP/1.1\r\nHost: node\r\n{head}").as_bytes())
            .expect("it is sent");
        stream.shutdown(Shutdown::Write).expect("it is shut down");
        let answer = rest(&mut stream);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{head:?}: {answer}");
        node().absent(&key);
    }
    for line in ["", "PUT", "PUT /key/x", "GET /key/x HTTP/9.9", "\u{16}\u{3}\u{1}", "GET  /key/x HTTP/1.1"] {
        let mut stream = raw(node());
        stream.write_all(format!("{line}\r\n\r\n{body}").as_bytes()).expect("it is sent");
        stream.shutdown(Shutdown::Write).expect("it is shut down");
        let answer = rest(&mut stream);
        assert!(answer.is_empty() || answer.starts_with("HTTP/1.1 4"), "{line:?}: {answer}");
    }
}

#[test]
fn a_body_is_never_taken_for_a_request() {
    let key = fresh("smuggled");
    let inner = format!("PUT /key/{key} HTTP/1.1\r\nHost: n\r\nContent-Length: 11\r\n\r\n{{\"value\":1}}");
    let length = inner.len();
    for head in [
        format!("GET /health HTTP/1.1\r\nHost: n\r\nContent-Length: {length}\r\n\r\n"),
        format!("DELETE /key/{key} HTTP/1.1\r\nHost: n\r\nContent-Length: {length}\r\n\r\n"),
        format!("POST /nothing HTTP/1.1\r\nHost: n\r\nContent-Length: {length}\r\n\r\n"),
        format!("PUT /key/ HTTP/1.1\r\nHost: n\r\nContent-Length: {length}\r\n\r\n"),
        "PUT /key/x HTTP/1.1\r\nHost: n\r\nTransfer-Encoding: chunked\r\n\r\nZZ\r\n".to_owned(),
        "PUT /key/x HTTP/1.1\r\nHost: n\r\nTransfer-Encoding: chunked\r\n\r\n5\r\n{\"val!!!!\r\n".to_owned(),
    ] {
        let mut stream = raw(node());
        stream.write_all(format!("{head}{inner}").as_bytes()).expect("it is sent");
        stream.shutdown(Shutdown::Write).expect("it is shut down");
        let answer = rest(&mut stream);
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "{head}: {answer}");
        node().absent(&key);
    }
}

#[test]
fn what_clients_send_is_no_error_of_the_node() {
    let dir = tempfile::tempdir().expect("a directory");
    let mut own = Node::start(dir.path(), &[]);
    for bytes in [
        "nonsense\r\n\r\n",
        "GET /x HTTP/9.9\r\n\r\n",
        "PUT /key/x HTTP/1.1\r\nHost: n\r\nContent-Length: x\r\n\r\n",
    ] {
        let mut stream = raw(&own);
        stream.write_all(bytes.as_bytes()).expect("it is sent");
        stream.shutdown(Shutdown::Write).expect("it is shut down");
        rest(&mut stream);
    }
    problem(&own.put("x", "{"), 400, "invalid-body");
    own.signal(libc::SIGTERM);
    assert!(own.wait(SOON).success());
    wait_until(SOON, "its last line is read", || own.log().contains("stopped"));
    let log = own.log();
    // Or anybody who can connect could fill the log, and hide in it what the operator must see.
    assert!(!log.contains("ERROR") && !log.contains("WARN"), "{log}");
}

#[test]
fn a_client_that_waits_for_100_continue_gets_it() {
    let key = fresh("expect");
    let mut stream = raw(node());
    let head = format!(
        "PUT /key/{key} HTTP/1.1\r\nHost: node\r\nExpect: 100-continue\r\nContent-Length: 11\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).expect("it is sent");
    let mut interim = [0; 12];
    stream.read_exact(&mut interim).expect("an interim answer before any body");
    assert_eq!(&interim, b"HTTP/1.1 100");
    stream.write_all(b"{\"value\":1}").expect("it is sent");
    stream.shutdown(Shutdown::Write).expect("it is shut down");
    let answer = rest(&mut stream);
    assert!(answer.contains("HTTP/1.1 201"), "{answer}");
    assert_eq!(node().read(&key).value, "1");
}

#[test]
fn a_length_over_the_limit_is_refused_before_the_body_comes() {
    let key = fresh("large");
    for (length, expect) in
        [("10737418240", ""), ("99999999999", "Expect: 100-continue\r\n"), ("3000000", "")]
    {
        let mut client = node().client();
        let head =
            format!("PUT /key/{key} HTTP/1.1\r\nHost: node\r\n{expect}Content-Length: {length}\r\n\r\n");
        client.send(head.as_bytes()).expect("it is sent");
        problem(&client.receive(false).expect("an answer"), 413, "too-large");
    }
    node().absent(&key);
}

#[test]
fn an_endless_chunked_body_is_refused_before_its_end() {
    let own = Own::start(&["--max-value-bytes", "1000"]);
    let mut client = Client::new(own.address);
    client
        .send(b"PUT /key/endless HTTP/1.1\r\nHost: node\r\nTransfer-Encoding: chunked\r\n\r\n")
        .expect("it is sent");
    client.send(b"B\r\n{\"value\": \"\r\n").expect("it is sent");
    let chunk = [b"1000\r\n".to_vec(), vec![b'x'; 4_096], b"\r\n".to_vec()].concat();
    // Far over any slack a node may have beside its limit; a node that has answered may refuse to read on.
    let sent = (0..100).take_while(|_| client.send(&chunk).is_ok()).count();
    match client.receive(false) {
        Ok(answer) => drop(problem(&answer, 413, "too-large")),
        Err(e) => assert!(sent < 100 || e.kind() == std::io::ErrorKind::ConnectionReset, "no answer: {e}"),
    }
    own.absent("endless");
}

#[test]
fn http_1_0_is_served_and_closed() {
    let key = fresh("old");
    let mut stream = raw(node());
    stream
        .write_all(format!("PUT /key/{key} HTTP/1.0\r\nContent-Length: 11\r\n\r\n{{\"value\":1}}").as_bytes())
        .unwrap();
    let answer = rest(&mut stream);
    assert!(answer.starts_with("HTTP/1.0 201") || answer.starts_with("HTTP/1.1 201"), "{answer}");
    let mut stream = raw(node());
    stream.write_all(format!("GET /key/{key} HTTP/1.0\r\n\r\n").as_bytes()).unwrap();
    let answer = rest(&mut stream);
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    assert!(!head.to_lowercase().contains("transfer-encoding"), "{head}");
    assert_eq!(crate::helpers::members(body)[1].1, "1");
}

#[test]
fn connection_close_is_obeyed() {
    let key = fresh("close");
    node().write(&key, "1");
    let mut stream = raw(node());
    let request = format!("GET /key/{key} HTTP/1.1\r\nHost: node\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).unwrap();
    assert!(rest(&mut stream).starts_with("HTTP/1.1 200"), "answered, and the node closed");
}

#[test]
fn pipelined_requests_are_answered_in_their_order() {
    let key = fresh("pipe");
    let mut client = node().client();
    let mut bytes = String::new();
    for n in 0..50 {
        let body = format!("{{\"value\":{n}}}");
        let length = body.len();
        bytes.push_str(&format!(
            "PUT /key/{key} HTTP/1.1\r\nHost: n\r\nContent-Length: {length}\r\n\r\n{body}"
        ));
        bytes.push_str(&format!("GET /key/{key} HTTP/1.1\r\nHost: n\r\n\r\n"));
        bytes.push_str(&format!("HEAD /key/{key} HTTP/1.1\r\nHost: n\r\n\r\n"));
        bytes.push_str(&format!("DELETE /key/{key} HTTP/1.1\r\nHost: n\r\n\r\n"));
        bytes.push_str(&format!("GET /key/{key} HTTP/1.1\r\nHost: n\r\n\r\n"));
        bytes.push_str("PUT /key/bad HTTP/1.1\r\nHost: n\r\nContent-Length: 1\r\n\r\n{");
    }
    client.send(bytes.as_bytes()).expect("it is sent");
    for n in 0..50 {
        let put = written(&client.receive(false).expect("an answer"), &[201]);
        let read = entry(&client.receive(false).expect("an answer"));
        assert_eq!((read.value, read.version), (n.to_string(), put.version.clone()));
        let head = client.receive(true).expect("an answer");
        assert_eq!(head.header("etag"), Some(format!("\"{}\"", put.version).as_str()));
        removed(&client.receive(false).expect("an answer"));
        problem(&client.receive(false).expect("an answer"), 404, "not-found");
        problem(&client.receive(false).expect("an answer"), 400, "invalid-body");
    }
}

#[test]
fn an_absolute_target_names_the_same_key() {
    let key = fresh("absolute");
    let version = node().write(&key, "1");
    let mut client = node().client();
    let target = format!("http://{}/key/{key}", node().address);
    assert_eq!(entry(&client.request("GET", &target, &[], b"").expect("an answer")).version, version);
    let missing = client.request("GET", &format!("http://{}/nothing", node().address), &[], b"");
    problem(&missing.expect("an answer"), 404, "no-such-path");
}

#[test]
fn endless_heads_are_refused() {
    let long = "x".repeat(1 << 20);
    let many: String = (0..5_000).map(|n| format!("X-{n}: {n}\r\n")).collect();
    for head in [
        format!("GET /health HTTP/1.1\r\nHost: n\r\nX-Long: {long}\r\n\r\n"),
        format!("GET /health?{long} HTTP/1.1\r\nHost: n\r\n\r\n"),
        format!("GET /key/{long} HTTP/1.1\r\nHost: n\r\n\r\n"),
        format!("GET /health HTTP/1.1\r\nHost: n\r\n{many}\r\n"),
        format!("{long} /health HTTP/1.1\r\nHost: n\r\n\r\n"),
    ] {
        let mut stream = raw(node());
        // The node may stop reading and close before all of it is sent.
        let _ = stream.write_all(head.as_bytes());
        let _ = stream.shutdown(Shutdown::Write);
        let answer = rest(&mut stream);
        assert!(
            answer.is_empty() || answer.starts_with("HTTP/1.1 4"),
            "{}",
            &answer[..answer.len().min(300)]
        );
    }
    assert_eq!(node().request("GET", "/health", "").status, 200);
}

/// Asks on one connection as long as the node keeps it, and on a new one when it said that it would close.
fn ask(client: &mut Client, method: &str, path: &str, body: &str) -> Response {
    let answer =
        client.request(method, path, &[], body.as_bytes()).expect("a connection that was not said to close");
    if answer.header("connection") == Some("close") {
        *client = node().client();
    }
    answer
}

#[test]
fn a_connection_serves_on_after_a_refusal_or_is_said_to_close() {
    let key = fresh("keep");
    let mut client = node().client();
    let path = format!("/key/{key}");
    for body in ["{", "[]", "{\"value\":1,\"value\":2}", "{\"value\":\"\\ud800\"}"] {
        let bad = client.request("PUT", &path, &[], body.as_bytes()).expect("an answer");
        problem(&bad, 400, "invalid-body");
        assert_eq!(bad.header("connection"), None, "a body that was read whole is no reason to close");
        written(&ask(&mut client, "PUT", &path, "{\"value\":1}"), &[200, 201]);
        problem(&ask(&mut client, "PUT", "/key/", "{\"value\":1}"), 400, "invalid-key");
        problem(&ask(&mut client, "POST", &path, "{\"value\":1}"), 405, "method-not-allowed");
        problem(&ask(&mut client, "PUT", "/nothing", "{\"value\":1}"), 404, "no-such-path");
        assert_eq!(entry(&ask(&mut client, "GET", &path, "")).value, "1");
    }
}
