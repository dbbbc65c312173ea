//! The flags of the benchmark and what they select. It must not start or measure anything.

use std::net::SocketAddr;
use std::time::Duration;

use clap::{Parser, ValueEnum};

use crate::shared::Failure;
use crate::shared::common::Common;
use crate::shared::request::Operation;

/// Measures one node over HTTP, beside the limits of the machine, Redis and etcd.
#[derive(Parser)]
#[command(name = "cargo bench --bench http --")]
pub struct Options {
    /// How long one measurement of one contestant takes.
    #[arg(long, default_value_t = 3.0)]
    pub seconds: f64,
    /// How often every measurement is repeated; medians are reported.
    #[arg(long, default_value_t = 3)]
    pub rounds: usize,
    /// How many keys there are; each request takes one of them at random.
    #[arg(long, default_value_t = 100_000)]
    pub keys: u64,
    /// Bytes of the string that is stored under a key.
    #[arg(long, default_value_t = 100)]
    pub value_bytes: usize,
    /// Numbers of connections to measure at.
    #[arg(long, value_delimiter = ',', default_value = "1,16,64,256")]
    pub connections: Vec<usize>,
    /// Only these: sections, contestants and operations can be mixed. Without it: everything but `size`.
    #[arg(long, value_enum, value_delimiter = ',')]
    pub only: Vec<Subject>,
    /// Keys for memory and restart, overwrites for disk, under `--only size`.
    #[arg(long, default_value_t = 1_000_000)]
    pub scale_keys: u64,
    /// Loads a node that runs already at this address, and starts nothing.
    #[arg(long)]
    pub target: Option<SocketAddr>,
    /// With --target: its keys are there already, don't write all of them before the GETs.
    #[arg(long, requires = "target")]
    pub no_fill: bool,
    /// What every benchmark has.
    #[command(flatten)]
    pub common: Common,
    /// Runs as the minimal actix-web server until it is killed.
    #[arg(long, hide = true)]
    pub serve_minimal: bool,
}

/// A name that `--only` understands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Subject {
    Physical,
    Size,
    Node,
    Actix,
    Redis,
    Etcd,
    Put,
    Get,
}

/// Who is measured.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Kind {
    Node,
    Actix,
    Redis,
    Etcd,
}

impl Kind {
    pub fn name(self) -> &'static str {
        match self {
            Kind::Node => "node",
            Kind::Actix => "actix",
            Kind::Redis => "redis",
            Kind::Etcd => "etcd",
        }
    }

    /// How it is called in a table of `operation`.
    pub fn title(self, operation: Operation) -> &'static str {
        match (self, operation) {
            (Kind::Node, _) => "DynaRust",
            (Kind::Actix, Operation::Put) => "actix-web PUT that reads a body and stores nothing",
            (Kind::Actix, Operation::Get) => "actix-web GET of a constant",
            (Kind::Redis, Operation::Put) => "Redis SET, appendfsync always",
            (Kind::Redis, Operation::Get) => "Redis GET",
            (Kind::Etcd, Operation::Put) => "etcd put, JSON gateway",
            (Kind::Etcd, Operation::Get) => "etcd range, JSON gateway",
        }
    }

    fn subject(self) -> Subject {
        match self {
            Kind::Node => Subject::Node,
            Kind::Actix => Subject::Actix,
            Kind::Redis => Subject::Redis,
            Kind::Etcd => Subject::Etcd,
        }
    }
}

impl Options {
    /// Refuses what could not end or not work.
    pub fn check(&self) -> Result<(), Failure> {
        if !(self.seconds > 0.0 && self.seconds <= SECONDS_MAX) {
            return Err(format!("--seconds must be over 0 and at most {SECONDS_MAX}").into());
        }
        if self.rounds == 0 || self.keys == 0 || self.scale_keys == 0 {
            return Err("--rounds, --keys and --scale-keys must be at least 1".into());
        }
        if self.keys > KEYS_MAX || self.scale_keys > KEYS_MAX {
            return Err(format!("at most {KEYS_MAX} keys").into());
        }
        if self.connections.iter().any(|&n| n == 0 || n > CONNECTIONS_MAX) {
            return Err(format!("--connections must be 1 to {CONNECTIONS_MAX} each").into());
        }
        if self.target.is_some() && (self.wants_physical_by_name() || self.wants_size()) {
            return Err("--target measures put and get only".into());
        }
        Ok(())
    }

    pub fn wants_physical(&self) -> bool {
        self.target.is_none() && (self.only.is_empty() || self.wants_physical_by_name())
    }

    pub fn wants_size(&self) -> bool {
        self.only.contains(&Subject::Size)
    }

    /// Naming an operation asks for it; naming only contestants does too, unless it is their size that counts.
    pub fn wants_load(&self) -> bool {
        let named = |subject: &Subject| matches!(subject, Subject::Put | Subject::Get);
        let contestant =
            |subject: &Subject| !named(subject) && !matches!(subject, Subject::Physical | Subject::Size);
        let size = self.wants_size();
        self.only.is_empty() || self.only.iter().any(|s| named(s) || (contestant(s) && !size))
    }

    pub fn operations(&self) -> Vec<Operation> {
        let put = self.only.contains(&Subject::Put);
        let get = self.only.contains(&Subject::Get);
        let mut operations = Vec::new();
        if put || !get {
            operations.push(Operation::Put);
        }
        if get || !put {
            operations.push(Operation::Get);
        }
        operations
    }

    /// The contestants that were named, or all of them.
    pub fn contestants(&self) -> Vec<Kind> {
        let all = [Kind::Node, Kind::Actix, Kind::Redis, Kind::Etcd];
        let named: Vec<Kind> = all.into_iter().filter(|kind| self.only.contains(&kind.subject())).collect();
        if named.is_empty() { all.to_vec() } else { named }
    }

    pub fn duration(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }

    fn wants_physical_by_name(&self) -> bool {
        self.only.contains(&Subject::Physical)
    }
}

const SECONDS_MAX: f64 = 3_600.0;
const KEYS_MAX: u64 = 1_000_000_000;
/// Loopback has about 28,000 ports to connect from.
const CONNECTIONS_MAX: usize = 20_000;
