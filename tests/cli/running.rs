//! A running node as its operator sees it: the start line, the log level, signals, the health check, where it may
//! listen.

use std::io::Read;
use std::net::TcpListener;
use std::process::Stdio;
use std::time::Duration;

use crate::support::{Node, SOON, field, wait_until};
use crate::{dynarust, end, refused, temporary};

#[test]
fn the_start_line_says_address_directory_format_keys_and_time() {
    let dir = temporary();
    let node = Node::start(dir.path(), &[]);
    assert!(node.serving.contains("INFO"), "{}", node.serving);
    let at = format!(
        "serving address={} data-dir={} format={} keys=0 recovery-ms=",
        node.address,
        dir.path().display(),
        dynarust::storage::FORMAT
    );
    assert!(node.serving.contains(&at), "{}", node.serving);
    field(&node.serving, "recovery-ms").parse::<u64>().expect("whole milliseconds");
    assert_ne!(node.address.port(), 0, "the real port");
    for n in 0..3 {
        assert_eq!(node.request("PUT", &format!("/key/{n}"), "{\"value\":1}").status, 201);
    }
    let log = node.log();
    assert_eq!(log.matches("serving address=").count(), 1, "{log}");
    node.kill();
    assert_eq!(field(&Node::start(dir.path(), &[]).serving, "keys"), "3");
}

#[test]
fn a_node_that_does_not_leave_says_why_in_words() {
    let dir = temporary();
    let node = Node::start(dir.path(), &[]);
    let address = node.address.to_string();
    let said = refused(
        dynarust(&["leave", "--address", &address]),
        1,
        &["does not leave: there is no other member"],
    );
    assert!(!said.contains('{'), "{said}");
}

#[test]
fn sigterm_and_sigint_end_it_with_0() {
    for signal in [libc::SIGTERM, libc::SIGINT] {
        let dir = temporary();
        let mut node = Node::start(dir.path(), &[]);
        assert_eq!(node.request("PUT", "/key/x", "{\"value\":1}").status, 201);
        node.signal(signal);
        assert_eq!(node.wait(SOON).code(), Some(0), "{}", node.log());
        assert_eq!(Node::start(dir.path(), &[]).request("GET", "/key/x", "").status, 200);
    }
}

#[test]
fn sigterm_in_the_first_moment_ends_it_with_0() {
    let dir = temporary();
    for round in 0..10 {
        // Nothing between the start line and the signal.
        assert_eq!(Node::start(dir.path(), &[]).stop().code(), Some(0), "round {round}");
    }
}

#[test]
fn sigterm_while_it_starts_ends_it_with_0() {
    let dir = temporary();
    for round in 0..10 {
        let mut command = Node::command(dir.path(), &[]);
        let mut child =
            command.stdin(Stdio::null()).stderr(Stdio::null()).spawn().expect("the binary starts");
        // Once it has put its hand on the directory, it is a node; until it serves, there is time for a signal.
        wait_until(SOON, "the directory is taken", || {
            let free = |lock: std::fs::File| lock.try_lock().is_ok();
            !std::fs::File::open(dir.path().join("LOCK")).map_or(true, free)
        });
        unsafe { libc::kill(child.id() as i32, libc::SIGTERM) };
        let mut status = None;
        wait_until(SOON, "it ends", || {
            status = child.try_wait().expect("it can be waited for");
            status.is_some()
        });
        assert_eq!(status.and_then(|s| s.code()), Some(0), "round {round}: {status:?}");
    }
}

#[test]
fn the_log_level_comes_from_the_environment() {
    let dir = temporary();
    let mut command = Node::command(dir.path(), &[]);
    command.env("RUST_LOG", "error").stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("the node's binary starts");
    let data = dir.path().display().to_string();
    wait_until(SOON, "the quiet node serves", || {
        end(dynarust(&["healthcheck", "--data-dir", &data])).code == Some(0)
    });
    unsafe { libc::kill(child.id() as i32, libc::SIGTERM) };
    wait_until(SOON, "it ends", || child.try_wait().expect("it can be waited for").is_some());
    let mut log = String::new();
    child.stderr.take().expect("piped").read_to_string(&mut log).expect("UTF-8");
    assert_eq!(log, "", "nothing below error is said");
}

#[test]
fn the_health_check_knows_a_running_node() {
    let dir = temporary();
    let data = dir.path().display().to_string();
    let check = |args: &[&str]| {
        let mut command = dynarust(&["healthcheck"]);
        command.args(args).env_remove("DYNARUST_DATA_DIR").current_dir(dir.path());
        end(command).code
    };
    assert_eq!(check(&["--data-dir", &data]), Some(1), "nothing has ever run there");
    let node = Node::start(dir.path(), &[]);
    let address = node.address.to_string();
    assert_eq!(check(&["--data-dir", &data]), Some(0));
    assert_eq!(check(&["--address", &address]), Some(0));
    let mut command = dynarust(&["healthcheck"]);
    command.env("DYNARUST_DATA_DIR", dir.path());
    assert_eq!(end(command).code, Some(0), "the environment counts");
    node.signal(libc::SIGSTOP);
    let start = std::time::Instant::now();
    assert_eq!(check(&["--address", &address]), Some(1), "a node that answers nothing is not healthy");
    assert!(start.elapsed() < Duration::from_secs(20));
    node.signal(libc::SIGCONT);
    node.kill();
    assert_eq!(check(&["--data-dir", &data]), Some(1), "killed: its LOCK is stale");
    assert_eq!(check(&["--address", &address]), Some(1));
    let node = Node::start(dir.path(), &[]);
    assert_eq!(node.stop().code(), Some(0));
    assert_eq!(check(&["--data-dir", &data]), Some(1), "stopped");
}

#[test]
fn the_health_check_is_not_fooled_by_another_server() {
    let other = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = other.local_addr().expect("an address").to_string();
    let serve = std::thread::spawn(move || {
        let (mut stream, _) = other.accept().expect("a connection");
        let mut head = [0; 1_000];
        let _ = stream.read(&mut head);
        let _ = std::io::Write::write_all(&mut stream, b"HTTP/1.1 503 Busy\r\nContent-Length: 3\r\n\r\n200");
    });
    assert_eq!(end(dynarust(&["healthcheck", "--address", &address])).code, Some(1));
    serve.join().expect("it ends");
}

#[test]
fn nodes_on_ipv6_and_wildcards_serve() {
    let dir = temporary();
    let mut command = dynarust(&["0.0.0.0:0", "--data-dir"]);
    command.arg(dir.path());
    let node = Node::launch(command).unwrap_or_else(|log| panic!("{log}"));
    let data = dir.path().display().to_string();
    assert_eq!(end(dynarust(&["healthcheck", "--data-dir", &data])).code, Some(0), "a wildcard can be asked");
    drop(node);
    if TcpListener::bind("[::1]:0").is_err() {
        println!("SKIPPED: this machine has no IPv6");
        return;
    }
    let mut command = dynarust(&["[::1]:0", "--data-dir"]);
    command.arg(dir.path());
    let node = Node::launch(command).unwrap_or_else(|log| panic!("{log}"));
    assert_eq!(node.request("GET", "/ready", "").status, 200);
    assert_eq!(end(dynarust(&["healthcheck", "--data-dir", &data])).code, Some(0));
}

#[test]
fn a_host_name_may_be_listened_on() {
    let dir = temporary();
    let mut command = dynarust(&["localhost:0", "--data-dir"]);
    command.arg(dir.path());
    let ended = Node::launch(command);
    // A name is either understood or refused as usage; it never panics.
    match ended {
        Ok(node) => assert_eq!(node.request("GET", "/ready", "").status, 200),
        Err(log) => assert!(log.contains("localhost") && !log.contains("panicked"), "{log}"),
    }
}
