//! What comes over a connection, and in which order: pipelines of every kind of request in pieces of every size, and what
//! is no request at all.

use crate::helpers::{Keys, Own, Random, entry, fresh, node, problem, removed, written};
use crate::support::{Client, Response};

/// A request as bytes, and what its answer must be.
struct Step {
    bytes: String,
    head: bool,
    check: Box<dyn Fn(&Response)>,
}

fn step(random: &mut Random, key: &str, held: &mut Option<String>) -> Step {
    // A body that nobody wants may end its connection, if it is late: it goes only to where it is wanted.
    let method = random.below(6);
    let path = match random.once_in(4) && method < 4 {
        true => "/nothing".to_owned(),
        false => format!("/key/{key}"),
    };
    let there = path != "/nothing";
    let new = random.below(1_000).to_string();
    let body = format!("{{\"value\":{new}}}");
    let (method, framing) = match method {
        0 | 1 => ("HEAD", String::new()),
        2 => ("GET", String::new()),
        3 => ("DELETE", "Content-Length: 0\r\n\r\n".to_owned()),
        4 => ("PUT", format!("Content-Length: {}\r\n\r\n{body}", body.len())),
        _ => {
            let (a, b) = body.split_at(1 + random.below(body.len() - 1));
            let extension = if random.once_in(2) { ";a=1" } else { "" };
            let trailer = if random.once_in(2) { "Kind: last\r\n" } else { "" };
            let chunks =
                format!("{:x}{extension}\r\n{a}\r\n{:X}\r\n{b}\r\n0\r\n{trailer}\r\n", a.len(), b.len());
            ("PUT", format!("Transfer-Encoding: chunked\r\n\r\n{chunks}"))
        }
    };
    let end = if framing.is_empty() { "\r\n" } else { "" };
    let blank = if random.once_in(8) { "\r\n" } else { "" };
    let bytes = format!("{blank}{method} {path} HTTP/1.1\r\nHost: n\r\n{framing}{end}");
    let before = held.clone();
    if there {
        match method {
            "PUT" => *held = Some(new),
            "DELETE" => *held = None,
            _ => {}
        }
    }
    let check: Box<dyn Fn(&Response)> = match (there, method, before) {
        (_, "HEAD", before) => {
            let found = there && before.is_some();
            Box::new(move |answer| assert_eq!(answer.status, if found { 200 } else { 404 }))
        }
        (false, ..) => Box::new(|answer| drop(problem(answer, 404, "no-such-path"))),
        (_, "GET", Some(value)) => Box::new(move |answer| assert_eq!(entry(answer).value, value)),
        (_, "PUT", before) => {
            let status = if before.is_some() { 200 } else { 201 };
            Box::new(move |answer| drop(written(answer, &[status])))
        }
        (_, "DELETE", Some(_)) => Box::new(|answer| drop(removed(answer))),
        _ => Box::new(|answer| drop(problem(answer, 404, "not-found"))),
    };
    Step { bytes, head: method == "HEAD", check }
}

#[test]
fn every_pipeline_is_answered_as_if_it_came_one_by_one() {
    let mut random = Random::seeded("pipelines");
    for _ in 0..60 {
        let key = fresh("wire");
        let mut held = None;
        let steps: Vec<Step> =
            (0..1 + random.below(40)).map(|_| step(&mut random, &key, &mut held)).collect();
        let bytes: String = steps.iter().map(|step| step.bytes.as_str()).collect();
        let most = *random.pick(&[1, 7, 100, 1_000, bytes.len()]);
        let mut client = node().client();
        let mut rest = bytes.as_bytes();
        while !rest.is_empty() {
            let (piece, after) = rest.split_at(rest.len().min(1 + random.below(most)));
            client.send(piece).expect("it is sent");
            rest = after;
        }
        for step in &steps {
            let answer = client.receive(step.head).unwrap_or_else(|e| panic!("{e} for {:?}", step.bytes));
            (step.check)(&answer);
        }
    }
}

#[test]
fn a_head_behind_a_get_takes_nothing_of_it() {
    let key = fresh("behind");
    node().write(&key, "1");
    let get = format!("GET /key/{key} HTTP/1.1\r\nHost: n\r\n\r\n");
    let head = format!("HEAD /key/{key} HTTP/1.1\r\nHost: n\r\n\r\n");
    for pipeline in ["GGH", "HGGH", "GH", "HHG", "HG"] {
        let mut client = node().client();
        let bytes: String =
            pipeline.chars().map(|kind| if kind == 'G' { get.as_str() } else { head.as_str() }).collect();
        client.send(bytes.as_bytes()).expect("it is sent");
        for kind in pipeline.chars() {
            let answer = client.receive(kind == 'H').expect("an answer");
            match kind {
                'G' => assert_eq!(entry(&answer).value, "1", "{pipeline}"),
                _ => assert_eq!((answer.status, answer.body.len()), (200, 0), "{pipeline}"),
            }
        }
    }
}

#[test]
fn what_is_no_request_is_told_so() {
    let good = "GET /health HTTP/1.1\r\nHost: n\r\n\r\n";
    for bad in [
        "rubbish\r\n\r\n",
        "GET /health\r\n\r\n",
        "GET /health HTTP/7.0\r\nHost: n\r\n\r\n",
        "GET /health HTTP/1.1\r\n\r\n",
        "GET /health HTTP/1.1\r\nHost: n\r\nHost: m\r\n\r\n",
        "GET /health HTTP/1.1\r\nHost: n\r\nno colon\r\n\r\n",
        "GET /health HTTP/1.1\r\nHost: n\r\nContent-Length: x\r\n\r\n",
        "GET /health HTTP/1.1\r\nHost: n\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
        "PUT /key/a HTTP/1.1\r\nHost: n\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        "GET /hea lth HTTP/1.1\r\nHost: n\r\n\r\n",
        "\u{16}\u{3}\u{1}\u{2}\u{0}\u{1}\u{0}\u{1}",
    ] {
        // First on its connection, and behind an answer.
        for before in ["", good] {
            let mut client = node().client();
            client.send(format!("{before}{bad}").as_bytes()).expect("it is sent");
            if !before.is_empty() {
                assert_eq!(client.receive(false).expect("an answer").status, 200);
            }
            let answer = client.receive(false).unwrap_or_else(|e| panic!("{bad:?}: {e}"));
            problem(&answer, 400, "invalid-request");
            assert_eq!(answer.header("connection"), Some("close"), "{bad:?}");
            client.receive(false).expect_err("the connection is closed");
        }
    }
}

#[test]
fn a_huge_head_is_told_so() {
    let mut client = node().client();
    let huge = format!("GET /health HTTP/1.1\r\nHost: n\r\nX: {}", "x".repeat(128 << 10));
    client.send(huge.as_bytes()).expect("it is sent");
    problem(&client.receive(false).expect("an answer"), 431, "head-too-large");
}

#[test]
fn a_late_head_is_told_so() {
    let own = Own::start(&["--request-timeout-ms", "200"]);
    for part in ["", "GET /health HTTP/1.1\r\nHo"] {
        let mut client = Client::new(own.address);
        client.send(part.as_bytes()).expect("it is sent");
        problem(&client.receive(false).expect("an answer"), 408, "request-timeout");
        client.receive(false).expect_err("the connection is closed");
    }
}

#[test]
fn refused_requests_are_counted() {
    let own = Own::start(&[]);
    let errors = || own.request("GET", "/stats", "").json()["requests"]["client_errors"].clone();
    let before = errors();
    let mut client = Client::new(own.address);
    client.send(b"rubbish\r\n\r\n").expect("it is sent");
    problem(&client.receive(false).expect("an answer"), 400, "invalid-request");
    assert_eq!(errors().as_u64(), before.as_u64().map(|errors| errors + 1), "{before}");
}

#[test]
fn a_body_that_nobody_wants_ends_no_connection_when_it_is_there() {
    let mut client = node().client();
    for head in ["PUT /nothing", "POST /health", "PUT /key/"] {
        let request = format!("{head} HTTP/1.1\r\nHost: n\r\nContent-Length: 2\r\n\r\n{{}}");
        client.send(request.as_bytes()).expect("it is sent");
        let answer = client.receive(false).expect("an answer");
        assert!(answer.status >= 400 && answer.header("connection").is_none(), "{head}: {}", answer.text());
    }
}

#[test]
fn an_offer_to_upgrade_changes_nothing() {
    let key = fresh("upgrade");
    let mut client = node().client();
    for _ in 0..5 {
        node().write(&key, "1");
        let delete = format!("DELETE /key/{key} HTTP/1.1\r\nHost: n\r\nUpgrade: h2c\r\n\r\n");
        let head = format!("HEAD /key/{key} HTTP/1.1\r\nHost: n\r\n\r\n");
        client.send(format!("{delete}{head}").as_bytes()).expect("it is sent");
        removed(&client.receive(false).expect("an answer"));
        assert_eq!(client.receive(true).expect("an answer").status, 404);
    }
}

#[test]
fn nothing_is_done_behind_a_last_answer() {
    let key = fresh("behind-last");
    let mut client = node().client();
    client
        .send(b"POST /nothing HTTP/1.1\r\nHost: n\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab")
        .expect("it is sent");
    let answer = client.receive(false).expect("an answer");
    assert_eq!(answer.header("connection"), Some("close"));
    let put = format!("PUT /key/{key} HTTP/1.1\r\nHost: n\r\nContent-Length: 11\r\n\r\n{{\"value\":1}}");
    let _ = client.send(format!("cde\r\n0\r\n\r\n{put}").as_bytes());
    client.receive(false).expect_err("the connection is over");
    node().absent(&key);
}

#[test]
fn a_connection_that_waits_for_the_end_of_a_chunked_body_is_closed() {
    let mut client = node().client();
    client
        .send(b"POST /nothing HTTP/1.1\r\nHost: n\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab")
        .expect("it is sent");
    problem(&client.receive(false).expect("an answer"), 404, "no-such-path");
    let end = client.receive(false).expect_err("the connection is closed");
    assert_eq!(end.kind(), std::io::ErrorKind::UnexpectedEof, "{end}");
}

#[test]
fn a_late_head_is_told_so_behind_an_answer_too() {
    let own = Own::start(&["--request-timeout-ms", "1500"]);
    for part in ["GET /health HTTP/1.1\r\nHo", "\r\n"] {
        let mut client = Client::new(own.address);
        assert_eq!(client.request("GET", "/health", &[], b"").expect("an answer").status, 200);
        client.send(part.as_bytes()).expect("it is sent");
        problem(&client.receive(false).expect("an answer"), 408, "request-timeout");
        client.receive(false).expect_err("the connection is closed");
    }
}
