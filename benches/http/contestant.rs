//! A server that takes part: how each kind is started, filled, loaded, killed and started again.
//! Every kind gets the same keys, values and numbers of connections.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::options::{Kind, Options};
use crate::shared::child::Server;
use crate::shared::load::{self, Outcome, Plan, Until};
use crate::shared::machine::{self, Room};
use crate::shared::request::{Operation, Request};
use crate::shared::sample::{self, Others, Sample};
use crate::shared::{Failure, etcd, redis};

/// A running server and its data.
pub struct Contestant {
    pub kind: Kind,
    pub address: SocketAddr,
    server: Option<Server>,
    dir: Option<TempDir>,
    value_bytes: usize,
    keys: u64,
    /// Requests a second by number of connections: `redis-benchmark` wants a count, not a time.
    redis_rates: BTreeMap<(bool, usize), f64>,
}

impl Contestant {
    /// Why this kind can't take part here, in words to print.
    pub fn missing(kind: Kind) -> Option<String> {
        let needs: &[(&str, &str)] = match kind {
            Kind::Node | Kind::Actix => &[],
            Kind::Redis => &[("redis-server", "redis-server"), ("redis-benchmark", "redis-tools")],
            Kind::Etcd => &[("etcd", "etcd-server")],
        };
        sample::missing(kind.name(), needs)
    }

    /// Starts it on an empty data directory.
    pub fn start(kind: Kind, options: &Options, room: &Room) -> Result<Contestant, Failure> {
        let dir = room.subdirectory(&format!("{}-", kind.name()))?;
        let server = launch(kind, dir.path())?;
        Ok(Contestant {
            kind,
            address: server.address,
            server: Some(server),
            dir: Some(dir),
            value_bytes: options.value_bytes,
            keys: options.keys,
            redis_rates: BTreeMap::new(),
        })
    }

    /// A node that somebody else runs.
    pub fn running(address: SocketAddr, options: &Options) -> Contestant {
        Contestant {
            kind: Kind::Node,
            address,
            server: None,
            dir: None,
            value_bytes: options.value_bytes,
            keys: options.keys,
            redis_rates: BTreeMap::new(),
        }
    }

    /// SIGKILL, then a start on the same data; returns when the first key can be read again.
    pub fn kill_and_restart(&mut self) -> Result<Duration, Failure> {
        self.server = None;
        let dir = self.dir.as_ref().ok_or("only servers that were started here can be restarted")?;
        let start = Instant::now();
        let server = launch(self.kind, dir.path())?;
        self.address = server.address;
        self.server = Some(server);
        if self.kind != Kind::Redis {
            // Redis was asked for the first key by its own protocol, or it would not count as started.
            expect_clean(self.kind, &self.http(Operation::Get, 1, Until::EveryKey, 1, 0)?)?;
        }
        Ok(start.elapsed())
    }

    /// Writes every one of `keys` keys.
    pub fn fill(&self, keys: u64) -> Result<(), Failure> {
        match self.kind {
            Kind::Actix => Ok(()),
            Kind::Redis => redis::fill(self.address, keys, self.value_bytes),
            _ => expect_clean(self.kind, &self.http(Operation::Put, FILLERS, Until::EveryKey, keys, 0)?),
        }
    }

    /// Overwrites keys at random, that many times.
    pub fn overwrite(&self, writes: u64, keys: u64) -> Result<(), Failure> {
        match self.kind {
            Kind::Actix => Ok(()),
            Kind::Redis => redis::overwrite(self.address, writes, keys, self.value_bytes),
            _ => expect_clean(self.kind, &self.http(Operation::Put, FILLERS, Until::Count(writes), keys, 1)?),
        }
    }

    pub fn measure(
        &mut self,
        operation: Operation,
        connections: usize,
        time: Duration,
        seed: u64,
    ) -> Result<Sample, Failure> {
        if self.kind == Kind::Redis {
            return self.measure_redis(operation, connections, time);
        }
        let until = Until::Elapsed(time);
        let plan = Plan { address: self.address, connections, keys: self.keys, until, seed };
        sample::take(&plan, &mut self.request(operation), || self.cpu())
    }

    pub fn memory_mib(&self) -> f64 {
        self.server.as_ref().map_or(0.0, |server| machine::memory_mib(server.pid()))
    }

    pub fn disk_mib(&self) -> f64 {
        self.dir.as_ref().map_or(0.0, |dir| machine::disk_mib(dir.path()))
    }

    /// An error that shows the end of the server's log, when it is ours.
    pub fn complaint(&self, what: &str) -> Failure {
        self.server.as_ref().map_or_else(|| what.into(), |server| server.complaint(what))
    }

    fn cpu(&self) -> Option<Duration> {
        self.server.as_ref().map(|server| machine::cpu_of(server.pid()))
    }

    fn http(
        &self,
        operation: Operation,
        connections: usize,
        until: Until,
        keys: u64,
        seed: u64,
    ) -> Result<Outcome, Failure> {
        let plan = Plan { address: self.address, connections, keys, until, seed };
        load::run(&plan, &mut self.request(operation))
    }

    fn request(&self, operation: Operation) -> Request {
        match self.kind {
            Kind::Etcd => Request::etcd(self.address, operation, self.value_bytes),
            _ => Request::node(self.address, operation, self.value_bytes),
        }
    }

    fn measure_redis(
        &mut self,
        operation: Operation,
        connections: usize,
        time: Duration,
    ) -> Result<Sample, Failure> {
        let run = |requests: f64| {
            let requests = requests.max(connections as f64) as u64;
            redis::bench(self.address, operation, connections, requests, self.keys, self.value_bytes)
        };
        let place = (operation == Operation::Put, connections);
        let rate = match self.redis_rates.get(&place) {
            Some(&rate) => rate,
            None => run(PROBE_REQUESTS)?.rate,
        };
        let requests = rate * time.as_secs_f64();
        let cpu = self.cpu();
        let others = Others::watch(cpu);
        let bench = run(requests)?;
        let spent = self.cpu().zip(cpu).map(|(after, before)| after - before);
        self.redis_rates.insert(place, bench.rate);
        Ok(Sample {
            rate: bench.rate,
            p50_ms: bench.p50_ms,
            p99_ms: bench.p99_ms,
            max_ms: bench.max_ms,
            server_cpu_us: spent.map(|cpu| cpu.as_secs_f64() * 1e6 / requests.max(1.0)),
            generator_cpu: None,
            others_cores: others.cores(self.cpu()),
            failures: BTreeMap::new(),
        })
    }
}

fn launch(kind: Kind, dir: &Path) -> Result<Server, Failure> {
    match kind {
        Kind::Node => {
            let mut command = Command::new(env!("CARGO_BIN_EXE_DynaRust"));
            Server::start_serving(command.arg("127.0.0.1:0").arg("--data-dir").arg(dir.join("data")))
        }
        Kind::Actix => Server::start_serving(Command::new(std::env::current_exe()?).arg("--serve-minimal")),
        Kind::Redis => redis::start(dir),
        Kind::Etcd => Ok(etcd::start(&[dir])?.remove(0)),
    }
}

fn expect_clean(kind: Kind, outcome: &Outcome) -> Result<(), Failure> {
    if outcome.failures.is_empty() {
        return Ok(());
    }
    Err(format!("{}: filling or reading back failed: {:?}", kind.name(), outcome.failures).into())
}

/// Connections by which a store is filled.
const FILLERS: usize = 256;
const PROBE_REQUESTS: f64 = 3_000.0;
