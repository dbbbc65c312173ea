//! Redis beside us: started to be as durable as we are, loaded by its own `redis-benchmark`, filled over its own protocol.
//! It must never be measured with a weaker promise than `appendfsync always`.

use std::io::{BufReader, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use super::Failure;
use super::child::{Server, die_with_us, free_address};
use super::request::{Operation, Random, key_text, redis_command, value_text};

pub fn start(dir: &Path) -> Result<Server, Failure> {
    start_as(dir, None)
}

/// Starts a server, or a replica of one; a replica is ready when it has everything and is kept up to date.
pub fn start_as(dir: &Path, primary: Option<SocketAddr>) -> Result<Server, Failure> {
    let address = free_address()?;
    let mut command = Command::new("redis-server");
    command.args(["--port", &address.port().to_string(), "--bind", "127.0.0.1", "--dir"]).arg(dir);
    command.args(["--appendonly", "yes", "--appendfsync", "always", "--save", "", "--maxclients", "30000"]);
    // A replica is served at once, as a node of ours is, and not after the default of five seconds.
    command.args(["--repl-diskless-sync-delay", "0"]);
    if let Some(primary) = primary {
        command.args(["--replicaof", "127.0.0.1", &primary.port().to_string()]);
    }
    Server::start_ready(&mut command, address, |address| {
        let up = |answer: Vec<u8>| String::from_utf8_lossy(&answer).contains("master_link_status:up");
        match primary {
            None => ask(address, &["GET", &key_text(0)]).is_ok_and(|answer| answer.starts_with(b"$")),
            Some(_) => ask(address, &["INFO", "replication"]).is_ok_and(up),
        }
    })
}

/// What `redis-benchmark` reports.
pub struct Bench {
    pub rate: f64,
    pub p50_ms: f64,
    pub p99_ms: f64,
    pub max_ms: f64,
}

/// One run of `redis-benchmark` with that many requests.
pub fn bench(
    address: SocketAddr,
    operation: Operation,
    connections: usize,
    requests: u64,
    keys: u64,
    value_bytes: usize,
) -> Result<Bench, Failure> {
    let test = if operation == Operation::Put { "set" } else { "get" };
    let mut command = Command::new("redis-benchmark");
    command.args(["-h", "127.0.0.1", "-p", &address.port().to_string(), "-t", test, "--csv"]);
    command.args(["-c", &connections.to_string(), "-n", &requests.to_string()]);
    command.args(["-d", &value_bytes.to_string(), "-r", &keys.to_string()]);
    die_with_us(&mut command);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let deadline = Instant::now() + BENCH_MAX;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            let _ = child.wait();
            return Err(format!("redis-benchmark did not end in {BENCH_MAX:?}").into());
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    let output = child.wait_with_output()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let complaints = String::from_utf8_lossy(&output.stderr).into_owned();
    let numbers =
        text.lines().find(|line| line.to_lowercase().starts_with(&format!("\"{test}\""))).map(|line| {
            line.split(',')
                .skip(1)
                .filter_map(|cell| cell.trim_matches('"').parse::<f64>().ok())
                .collect::<Vec<f64>>()
        });
    // rps, then the latencies: average, least, p50, p95, p99, most.
    match numbers.as_deref() {
        Some(&[rate, _, _, p50_ms, _, p99_ms, max_ms]) if status.success() => {
            Ok(Bench { rate, p50_ms, p99_ms, max_ms })
        }
        _ => Err(format!("redis-benchmark said something else ({status}):\n{text}{complaints}").into()),
    }
}

/// Sets every key once, in order.
pub fn fill(address: SocketAddr, keys: u64, value_bytes: usize) -> Result<(), Failure> {
    set(address, keys, value_bytes, |index| index)
}

/// Sets that many of `keys` keys, at random.
pub fn overwrite(address: SocketAddr, writes: u64, keys: u64, value_bytes: usize) -> Result<(), Failure> {
    let mut random = Random::new(7);
    set(address, writes, value_bytes, |_| random.below(keys))
}

/// Pipelined, in groups as large as our own load has connections.
fn set(
    address: SocketAddr,
    writes: u64,
    value_bytes: usize,
    mut key: impl FnMut(u64) -> u64,
) -> Result<(), Failure> {
    let mut stream = connect(address)?;
    let value = value_text(value_bytes);
    let mut answers = BufReader::new(stream.try_clone()?);
    let mut written = 0;
    while written < writes {
        let group = (writes - written).min(GROUP);
        let mut request = Vec::new();
        for index in written..written + group {
            request.extend_from_slice(&redis_command(&["SET", &key_text(key(index)), &value]));
        }
        stream.write_all(&request)?;
        let mut answer = vec![0; b"+OK\r\n".len() * group as usize];
        answers.read_exact(&mut answer)?;
        if answer.chunks(5).any(|one| one != b"+OK\r\n") {
            return Err(format!("redis answered {}", String::from_utf8_lossy(&answer)).into());
        }
        written += group;
    }
    Ok(())
}

/// One command, and the first bytes of its answer.
fn ask(address: SocketAddr, command: &[&str]) -> Result<Vec<u8>, Failure> {
    let mut stream = connect(address)?;
    stream.write_all(&redis_command(command))?;
    let mut answer = vec![0; 4096];
    let length = stream.read(&mut answer)?;
    answer.truncate(length);
    Ok(answer)
}

fn connect(address: SocketAddr) -> Result<TcpStream, Failure> {
    let stream = TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(30)))?;
    stream.set_write_timeout(Some(Duration::from_secs(30)))?;
    Ok(stream)
}

const BENCH_MAX: Duration = Duration::from_secs(3_700);
const GROUP: u64 = 256;
