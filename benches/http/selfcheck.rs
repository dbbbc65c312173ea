//! Checks of the benchmark's own instruments, run when it is started without arguments: a generator that miscounts or
//! hides a failure would make every figure worthless.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::Command;
use std::time::Duration;

use crate::minimal;
use crate::shared::Failure;
use crate::shared::child::Server;
use crate::shared::connection::{Head, parse_head};
use crate::shared::histogram::Histogram;
use crate::shared::load::{self, Outcome, Plan, Until};
use crate::shared::report::{median, rate_text};
use crate::shared::request::{Operation, Random, Request};

/// Panics at the first instrument that is off.
pub fn run() -> Result<bool, Failure> {
    quantiles_are_close();
    heads_are_read();
    requests_are_patched_in_place();
    assert_eq!(median([3.0, 1.0, 2.0]), 2.0);
    assert_eq!(median([4.0, 1.0, 2.0, 3.0]), 2.5);
    assert_eq!(rate_text(1_234_567.4), "1,234,567");
    assert_eq!(minimal::ANSWER.len(), 150);
    every_answer_is_counted()?;
    no_failure_is_hidden()?;
    println!("the instruments are right; `cargo bench --bench http` measures");
    Ok(true)
}

fn quantiles_are_close() {
    let mut histogram = Histogram::new();
    assert_eq!(histogram.quantile_ms(0.5), 0.0);
    for us in 1..=100_000 {
        histogram.record(Duration::from_micros(us));
    }
    for (quantile, ms) in [(0.5, 50.0), (0.99, 99.0), (1.0, 100.0), (0.00001, 0.001)] {
        let found = histogram.quantile_ms(quantile);
        assert!((found / ms - 1.0).abs() < 0.016, "{quantile}: {found} is not {ms}");
    }
    assert_eq!(histogram.max_ms(), 100.0);
    histogram.record(Duration::MAX);
    assert_eq!(histogram.total(), 100_001);
}

fn heads_are_read() {
    let head = b"HTTP/1.1 404 Not Found\r\nContent-Length: 12\r\nx: y\r\n\r\n";
    for cut in 0..head.len() {
        assert!(matches!(parse_head(&head[..cut]), Head::Partial), "cut at {cut}");
    }
    let more = [head.as_slice(), b"abc"].concat();
    let Head::Whole(read) = parse_head(&more) else { panic!("not read") };
    assert_eq!((read.status, read.content_length, read.bytes), (404, 12, head.len()));
    assert!(matches!(parse_head(b"HTTP/1.1 200 OK\r\n\r\n"), Head::Unreadable(_)));
    assert!(matches!(parse_head(b"+PONG\r\n"), Head::Unreadable(_)));
}

fn requests_are_patched_in_place() {
    let address = "127.0.0.1:1".parse().expect("an address");
    let mut put = Request::node(address, Operation::Put, 100);
    let text = String::from_utf8(put.with(42, 7).to_vec()).expect("text");
    let (head, body) = text.split_once("\r\n\r\n").expect("a head and a body");
    assert!(head.starts_with("PUT /key/key:000000000042 HTTP/1.1\r\n"), "{head}");
    assert!(head.contains(&format!("Content-Length: {}", body.len())), "{head}");
    let body: serde_json::Value = serde_json::from_str(body).expect("JSON");
    let value = body["value"].as_str().expect("a string");
    assert!(value.len() == 100 && value.starts_with("000000000007"), "{value}");
    let mut range = Request::etcd(address, Operation::Get, 100);
    let text = String::from_utf8(range.with(42, 7).to_vec()).expect("text");
    assert!(text.ends_with(r#"{"key":"a2V5OjAwMDAwMDAwMDA0Mg=="}"#), "{text}");
    let mut put = Request::etcd(address, Operation::Put, 100);
    let text = String::from_utf8(put.with(42, 7).to_vec()).expect("text");
    assert!(text.contains(r#""key":"a2V5OjAwMDAwMDAwMDA0Mg==","value":"MDAwMDAwMDAwMDA3"#), "{text}");
    let mut random = Random::new(3);
    let mean = (0..10_000).map(|_| random.below(1_000)).sum::<u64>() / 10_000;
    assert!((480..520).contains(&mean), "{mean}");
}

fn every_answer_is_counted() -> Result<(), Failure> {
    let server = Server::start_serving(Command::new(std::env::current_exe()?).arg("--serve-minimal"))?;
    let plan = |until| Plan { address: server.address, connections: 5, keys: 1_003, until, seed: 1 };
    for (operation, value_bytes) in [(Operation::Put, 100), (Operation::Put, 200_000), (Operation::Get, 0)] {
        let mut request = Request::node(server.address, operation, value_bytes);
        let outcome = load::run(&plan(Until::EveryKey), &mut request)?;
        assert_eq!((outcome.answers, outcome.latencies.total()), (1_003, 1_003));
        assert!(outcome.failures.is_empty(), "{:?}", outcome.failures);
    }
    let mut get = Request::node(server.address, Operation::Get, 0);
    let outcome = load::run(&plan(Until::Elapsed(Duration::from_millis(200))), &mut get)?;
    assert!(outcome.latencies.total() > 100 && outcome.failures.is_empty(), "{:?}", outcome.failures);
    let counted = outcome.latencies.total() as f64 / 0.2;
    assert!((outcome.rate / counted - 1.0).abs() < 0.2, "{} is not {counted}", outcome.rate);
    let mut missing = Request::fixed(b"GET /nowhere HTTP/1.1\r\nHost: x\r\n\r\n");
    let outcome = load::run(&plan(Until::Count(50)), &mut missing)?;
    assert_eq!(outcome.failures.get("status 404"), Some(&50));
    Ok(())
}

/// Servers that close, talk nonsense or say too much: each is one broken connection.
fn no_failure_is_hidden() -> Result<(), Failure> {
    let cases: [(&[u8], &str); 4] = [
        (b"", "the connection was closed"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nabc", "the connection was closed"),
        (b"nonsense\r\n\r\n", "an answer that is not HTTP/1.1"),
        (b"HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\nabc", "bytes that nobody had asked for"),
    ];
    for (answer, failure) in cases {
        let outcome = against(answer)?;
        assert_eq!((outcome.answers, outcome.failures.get(failure)), (0, Some(&1)), "{:?}", outcome.failures);
    }
    Ok(())
}

/// Runs one request against a server that answers with these bytes and closes.
fn against(answer: &'static [u8]) -> Result<Outcome, Failure> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let plan =
        Plan { address: listener.local_addr()?, connections: 1, keys: 1, until: Until::Count(1), seed: 1 };
    let server = std::thread::spawn(move || -> std::io::Result<()> {
        let (mut stream, _) = listener.accept()?;
        let read = stream.read(&mut [0; 4096])?;
        assert!(read > 0);
        stream.write_all(answer)
    });
    let outcome = load::run(&plan, &mut Request::fixed(b"GET / HTTP/1.1\r\n\r\n"))?;
    server.join().map_err(|_| "the server of the check panicked")??;
    Ok(outcome)
}
