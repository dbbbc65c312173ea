//! Who is asked for keys or a backup and is no node, or one that ends too early: never taken for the whole, nor for longer than
//! it takes to see that.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};

use crate::transfer::{export, run};
use crate::{dynarust, refused, temporary};

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
