//! Checks of the benchmark's own instruments, run when it is started without arguments: servers made for the purpose show a
//! write late, stall, or answer in pieces, and what is measured must say so.

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::cluster::Kind;
use crate::shared::Failure;
use crate::shared::connection::{Answers, redis_answer};
use crate::shared::load::{self, Plan, Until};
use crate::shared::paced::Paced;
use crate::shared::request::{Operation, Request};
use crate::visibility::Probe;

/// Panics at the first instrument that is off.
pub fn run() -> Result<bool, Failure> {
    answers_of_redis_are_read();
    requests_carry_key_and_mark();
    assert_eq!(Kind::Node.name(), "DynaRust, 3 nodes");
    what_is_shown_late_is_seen_late()?;
    a_stall_is_felt_by_all_that_were_due()?;
    too_few_copies_are_a_failure()?;
    println!("the instruments are right; `cargo bench --bench cluster` measures");
    Ok(true)
}

fn answers_of_redis_are_read() {
    let cases: [(&[u8], Answers, u16); 7] = [
        (b"+OK\r\n", Answers::Lines(1), 200),
        (b"+OK\r\n:1\r\n", Answers::Lines(2), 200),
        (b"+OK\r\n:0\r\n", Answers::Lines(2), 202),
        (b"-ERR no\r\n", Answers::Lines(1), 500),
        (b"-ERR no\r\n:0\r\n", Answers::Lines(2), 500),
        (b"$3\r\nabc\r\n", Answers::Bulk, 200),
        (b"$-1\r\n", Answers::Bulk, 404),
    ];
    for (bytes, answers, status) in cases {
        for cut in 0..bytes.len() {
            assert_eq!(redis_answer(answers, &bytes[..cut]), Ok(None), "{bytes:?} cut at {cut}");
        }
        assert_eq!(redis_answer(answers, bytes), Ok(Some(status)), "{bytes:?}");
        let more = [bytes, b"+"].concat();
        assert!(redis_answer(answers, &more).is_err(), "{bytes:?} and more");
    }
    assert!(redis_answer(Answers::Bulk, b"HTTP").is_err());
}

fn requests_carry_key_and_mark() {
    let address = SocketAddr::from(([127, 0, 0, 1], 1));
    let text = |mut request: Request| String::from_utf8(request.with(42, 7).to_vec()).expect("text");
    let put = text(Request::redis(Operation::Put, 14, 1));
    assert!(put.starts_with("*3\r\n$3\r\nSET\r\n$16\r\nkey:000000000042\r\n$14\r\n000000000007"), "{put}");
    assert!(put.ends_with("\r\n*3\r\n$4\r\nWAIT\r\n$1\r\n1\r\n$4\r\n5000\r\n"), "{put}");
    let get = text(Request::redis(Operation::Get, 14, 0));
    assert_eq!(get, "*2\r\n$3\r\nGET\r\n$16\r\nkey:000000000042\r\n");
    let put = text(Request::node_with(address, Operation::Put, 14, "?w=2"));
    assert!(put.starts_with("PUT /key/key:000000000042?w=2 HTTP/1.1\r\n"), "{put}");
    let range = text(Request::etcd_serializable(address, Operation::Get, 14));
    assert!(range.ends_with(r#"{"key":"a2V5OjAwMDAwMDAwMDA0Mg==","serializable":true}"#), "{range}");
    let put = Request::etcd(address, Operation::Put, 14);
    let mark = String::from_utf8(put.mark(7)).expect("text");
    assert!(text(put).contains(&format!("\"value\":\"{mark}")), "{mark}");
}

fn what_is_shown_late_is_seen_late() -> Result<(), Failure> {
    let late = Duration::from_millis(30);
    let written = Arc::new(Mutex::new((Instant::now(), String::new())));
    let there = written.clone();
    let writer = serve(move |request| {
        let body = request.split("\r\n\r\n").nth(1).unwrap_or_default().to_owned();
        *there.lock().unwrap_or_else(PoisonError::into_inner) = (Instant::now(), body);
        "{}".to_owned()
    })?;
    let reader = serve(move |_| {
        let written = written.lock().unwrap_or_else(PoisonError::into_inner);
        if written.0.elapsed() >= late { written.1.clone() } else { "{}".to_owned() }
    })?;
    let mut probe = Probe::nodes(writer, reader)?;
    for counter in 1..=5 {
        let (seen, read) = probe.once(counter)?;
        // The acknowledgement comes a little after the moment that the server counts from.
        assert!(
            seen > late - Duration::from_millis(10) && seen < late + Duration::from_millis(500),
            "{seen:?}"
        );
        assert!(read < seen, "{read:?}");
    }
    Ok(())
}

fn a_stall_is_felt_by_all_that_were_due() -> Result<(), Failure> {
    let stall = Duration::from_millis(400);
    let begin = Instant::now();
    let address = serve(move |_| {
        let at = begin.elapsed();
        if at > stall && at < stall * 2 {
            std::thread::sleep(stall * 2 - at);
        }
        "{}".to_owned()
    })?;
    let paced = Paced::start(address, 400, 10, 100);
    std::thread::sleep(stall * 3);
    paced.enter(1);
    std::thread::sleep(stall);
    let [before, during] = paced.stop()?;
    // A third of them was due while the server stalled, and had to wait for half of the stall on the average.
    assert!(before.total() > 200 && during.total() > 20, "{} and {}", before.total(), during.total());
    assert!(before.quantile_ms(0.8) > 50.0, "{} ms", before.quantile_ms(0.8));
    Ok(())
}

fn too_few_copies_are_a_failure() -> Result<(), Failure> {
    let address = raw(|_| "HTTP/1.1 202 Accepted\r\ncontent-length: 2\r\n\r\n{}".to_owned())?;
    let plan = Plan { address, connections: 2, keys: 1, until: Until::Count(10), seed: 1 };
    let outcome = load::run(&plan, &mut Request::node_with(address, Operation::Put, 100, "?w=2"))?;
    assert_eq!(outcome.failures, BTreeMap::from([("status 202".to_owned(), 10)]));
    Ok(())
}

/// A server that answers 200 with what `answer` makes of a request.
fn serve(answer: impl Fn(&str) -> String + Send + Sync + 'static) -> Result<SocketAddr, Failure> {
    raw(move |request| {
        let body = answer(request);
        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())
    })
}

/// A server of requests that arrive in one piece; it lives as long as the process.
fn raw(answer: impl Fn(&str) -> String + Send + Sync + 'static) -> Result<SocketAddr, Failure> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let address = listener.local_addr()?;
    let answer = Arc::new(answer);
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            let answer = answer.clone();
            std::thread::spawn(move || converse(stream, &*answer));
        }
    });
    Ok(address)
}

fn converse(mut stream: TcpStream, answer: &dyn Fn(&str) -> String) {
    let mut request = [0; 4096];
    while let Ok(read @ 1..) = stream.read(&mut request) {
        let answer = answer(&String::from_utf8_lossy(&request[..read]));
        if stream.write_all(answer.as_bytes()).is_err() {
            break;
        }
    }
}
