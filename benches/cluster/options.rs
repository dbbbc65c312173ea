//! The flags of the benchmark and what they select. It must not start or measure anything.

use std::time::Duration;

use clap::{Parser, ValueEnum};

use crate::cluster::Kind;
use crate::shared::Failure;
use crate::shared::common::Common;

/// Measures clusters of nodes on this machine, beside Redis with two replicas and three members of etcd.
#[derive(Parser)]
#[command(name = "cargo bench --bench cluster --")]
pub struct Options {
    /// Only these: sections and contestants can be mixed. Without it: every section, all contestants.
    #[arg(long, value_enum, value_delimiter = ',')]
    pub only: Vec<Subject>,
    /// How often every measurement is repeated; medians are reported.
    #[arg(long, default_value_t = 3)]
    pub rounds: usize,
    /// put: how long one measurement takes.
    #[arg(long, default_value_t = 3.0)]
    pub seconds: f64,
    /// How many keys are written, at random.
    #[arg(long, default_value_t = 100_000)]
    pub keys: u64,
    /// Bytes of the string that is stored under a key.
    #[arg(long, default_value_t = 100)]
    pub value_bytes: usize,
    /// Connections of a full load.
    #[arg(long, default_value_t = 64)]
    pub connections: usize,
    /// visibility: writes that are looked for, a round.
    #[arg(long, default_value_t = 500)]
    pub probes: u64,
    /// catch-up: how long a member is stopped.
    #[arg(long, default_value_t = 60.0)]
    pub stop_seconds: f64,
    /// join: how many keys a new node takes in.
    #[arg(long, default_value_t = 1_000_000)]
    pub scale_keys: u64,
    /// join: writes a second that the member has to take which the new node joins by.
    #[arg(long, default_value_t = 1_000)]
    pub pace: u64,
    /// join: how long those writes are measured before a node joins.
    #[arg(long, default_value_t = 10.0)]
    pub before_seconds: f64,
    /// members: sizes of the cluster, growing.
    #[arg(long, value_delimiter = ',', default_value = "10,25,50")]
    pub members: Vec<usize>,
    /// members: how long an idle cluster is watched.
    #[arg(long, default_value_t = 10)]
    pub idle_seconds: u64,
    /// What every benchmark has.
    #[command(flatten)]
    pub common: Common,
}

/// A name that `--only` understands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Subject {
    Visibility,
    Put,
    CatchUp,
    Join,
    Members,
    Node,
    Redis,
    Etcd,
}

impl Options {
    /// Refuses what could not end or not work.
    pub fn check(&self) -> Result<(), Failure> {
        let times = [self.seconds, self.stop_seconds, self.before_seconds];
        if times.iter().any(|&seconds| !(seconds > 0.0 && seconds <= SECONDS_MAX)) {
            return Err(format!("times must be over 0 and at most {SECONDS_MAX} s").into());
        }
        if self.rounds == 0 || self.keys == 0 || self.scale_keys == 0 || self.probes == 0 || self.pace == 0 {
            return Err("--rounds, --keys, --scale-keys, --probes and --pace must be at least 1".into());
        }
        if self.keys > KEYS_MAX || self.scale_keys > KEYS_MAX {
            return Err(format!("at most {KEYS_MAX} keys").into());
        }
        if self.connections == 0 || self.connections > CONNECTIONS_MAX {
            return Err(format!("--connections must be 1 to {CONNECTIONS_MAX}").into());
        }
        if self.value_bytes < VALUE_BYTES_MIN {
            return Err(
                format!("--value-bytes must be at least {VALUE_BYTES_MIN}: values are told apart").into()
            );
        }
        let growing = self.members.windows(2).all(|pair| pair[0] < pair[1]);
        let sizes = self.members.iter().all(|&size| (2..=MEMBERS_MAX).contains(&size));
        if self.members.is_empty() || !growing || !sizes {
            return Err(format!("--members must grow, from 2 to at most {MEMBERS_MAX}").into());
        }
        Ok(())
    }

    /// Is this section asked for? Naming only contestants asks for those in which they compete.
    pub fn wants(&self, section: Subject) -> bool {
        let contestant = |s: &Subject| matches!(s, Subject::Node | Subject::Redis | Subject::Etcd);
        if self.only.iter().all(contestant) {
            let competes = matches!(section, Subject::Visibility | Subject::Put);
            return self.only.is_empty() || competes || self.only.contains(&Subject::Node);
        }
        self.only.contains(&section)
    }

    /// The contestants that were named, or all of them.
    pub fn contestants(&self) -> Vec<Kind> {
        let all = [(Subject::Node, Kind::Node), (Subject::Redis, Kind::Redis), (Subject::Etcd, Kind::Etcd)];
        let named = all.iter().filter(|(subject, _)| self.only.contains(subject)).map(|(_, kind)| *kind);
        let named: Vec<Kind> = named.collect();
        if named.is_empty() { all.map(|(_, kind)| kind).to_vec() } else { named }
    }

    pub fn duration(&self) -> Duration {
        Duration::from_secs_f64(self.seconds)
    }
}

const SECONDS_MAX: f64 = 3_600.0;
const KEYS_MAX: u64 = 1_000_000_000;
const CONNECTIONS_MAX: usize = 20_000;
/// Each value begins with a counter of that many digits.
const VALUE_BYTES_MIN: usize = 12;
/// Each node is a process of some 30 MiB with 15 threads.
const MEMBERS_MAX: usize = 200;
