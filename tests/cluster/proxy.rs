//! A bad line in front of a node: what connects to its address passes through here, and is delayed, comes in drops, is reset,
//! or vanishes.

use crate::support::SOON;
use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

/// What happens to bytes on the way, in both directions.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Line {
    /// Nothing.
    Good,
    /// Each piece waits so long.
    Slow(Duration),
    /// So many bytes a piece, and a hundred pieces a second at most.
    Drops(usize),
    /// So many bytes a millisecond, of all connections together.
    Thin(usize),
    /// Connections are reset after so many bytes.
    Resets(usize),
    /// Connections are taken, and nothing ever comes of them.
    Silent,
    /// What is asked comes through; connections are reset when they are to carry an answer.
    Mute,
    /// Connections are refused.
    Dead,
}

struct State {
    /// Messages of nodes that came by.
    messages: AtomicUsize,
    line: Mutex<Line>,
    target: Mutex<Option<SocketAddr>>,
    /// Until when a thin line is taken, there and back.
    taken: [Mutex<Instant>; 2],
}

/// The line of one node.
pub struct Proxy {
    pub address: SocketAddr,
    state: Arc<State>,
}

impl Proxy {
    pub fn start() -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("it is bound");
        let state = Arc::new(State {
            messages: AtomicUsize::new(0),
            line: Mutex::new(Line::Good),
            target: Mutex::new(None),
            taken: [Mutex::new(Instant::now()), Mutex::new(Instant::now())],
        });
        let shared = state.clone();
        // Ends with the process: the listener is its own.
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let state = shared.clone();
                std::thread::spawn(move || carry(stream, &state));
            }
        });
        Proxy { address, state }
    }

    /// The node listens there now.
    pub fn leads_to(&self, target: SocketAddr) {
        *self.state.target.lock().unwrap() = Some(target);
    }

    /// How many messages of other nodes have passed: a peer writes the next one when it has its answer.
    pub fn messages(&self) -> usize {
        self.state.messages.load(Ordering::Relaxed)
    }

    /// From now on, for connections that are open as well.
    pub fn set(&self, line: Line) {
        *self.state.line.lock().unwrap() = line;
    }
}

fn carry(near: TcpStream, state: &Arc<State>) {
    let line = *state.line.lock().unwrap();
    let target = *state.target.lock().unwrap();
    let far = target.filter(|_| line != Line::Dead).and_then(|to| TcpStream::connect_timeout(&to, SOON).ok());
    let Some(far) = far else { return reset(&near) };
    let (near_again, far_again) = (near.try_clone().expect("a handle"), far.try_clone().expect("a handle"));
    let back = state.clone();
    std::thread::spawn(move || pump(far_again, near_again, &back, true));
    pump(near, far, state, false);
}

fn pump(mut from: TcpStream, mut to: TcpStream, state: &State, back: bool) {
    let _ = (from.set_nodelay(true), to.set_nodelay(true));
    let (mut buffer, mut passed) = ([0; 16 << 10], 0);
    loop {
        let length = match *state.line.lock().unwrap() {
            Line::Drops(bytes) => bytes,
            _ => buffer.len(),
        };
        let Ok(length @ 1..) = from.read(&mut buffer[..length]) else {
            let _ = to.shutdown(Shutdown::Write);
            return;
        };
        passed += length;
        if buffer[..length].starts_with(b"POST /cluster/message") {
            state.messages.fetch_add(1, Ordering::Relaxed);
        }
        let line = *state.line.lock().unwrap();
        match line {
            Line::Good => {}
            Line::Slow(pause) => std::thread::sleep(pause),
            Line::Drops(_) => std::thread::sleep(Duration::from_millis(10)),
            Line::Thin(bytes_per_ms) => {
                let mut taken = state.taken[usize::from(back)].lock().unwrap();
                let takes = Duration::from_micros((1_000 * length / bytes_per_ms) as u64);
                *taken = (*taken).max(Instant::now()) + takes;
                let free = *taken;
                drop(taken);
                std::thread::sleep(free.saturating_duration_since(Instant::now()));
            }
            Line::Resets(after) if passed < after => {}
            Line::Mute if !back => {}
            Line::Resets(_) | Line::Dead | Line::Mute => {
                reset(&from);
                return reset(&to);
            }
            Line::Silent => continue,
        }
        if to.write_all(&buffer[..length]).is_err() {
            let _ = from.shutdown(Shutdown::Read);
            return;
        }
    }
}

/// Ends a connection with a reset.
fn reset(stream: &TcpStream) {
    let _ = socket2::SockRef::from(stream).set_linger(Some(Duration::ZERO));
    let _ = stream.shutdown(Shutdown::Both);
}
