//! The flags of the benchmark. It must not start or measure anything.

use clap::Parser;

use crate::VALUE_DIGITS;
use crate::shared::Failure;
use crate::shared::common::Common;

/// Measures what a data directory's commands take, from import to compact.
#[derive(Parser)]
#[command(name = "cargo bench --bench directory --")]
pub struct Options {
    /// How often everything is repeated; medians are reported.
    #[arg(long, default_value_t = 3)]
    pub rounds: usize,
    /// Keys in the directory.
    #[arg(long, default_value_t = 1_000_000)]
    pub scale_keys: u64,
    /// Bytes of the string that is stored under a key.
    #[arg(long, default_value_t = 100)]
    pub value_bytes: usize,
    /// Writes a second to the node while it is backed up.
    #[arg(long, default_value_t = 1_000)]
    pub pace: u64,
    /// How long those writes are measured before the backup begins.
    #[arg(long, default_value_t = 10.0)]
    pub before_seconds: f64,
    /// What every benchmark has.
    #[command(flatten)]
    pub common: Common,
}

impl Options {
    /// Refuses what could not end or not work.
    pub fn check(&self) -> Result<(), Failure> {
        if self.rounds == 0 || self.scale_keys == 0 || self.pace == 0 {
            return Err("--rounds, --scale-keys and --pace must be at least 1".into());
        }
        if self.scale_keys > KEYS_MAX {
            return Err(format!("at most {KEYS_MAX} keys").into());
        }
        if !(self.before_seconds > 0.0 && self.before_seconds <= SECONDS_MAX) {
            return Err(format!("--before-seconds must be over 0 and at most {SECONDS_MAX} s").into());
        }
        if self.value_bytes < VALUE_DIGITS {
            return Err(
                format!("--value-bytes must be at least {VALUE_DIGITS}: values are told apart").into()
            );
        }
        Ok(())
    }
}

const KEYS_MAX: u64 = 1_000_000_000;
const SECONDS_MAX: f64 = 3_600.0;
