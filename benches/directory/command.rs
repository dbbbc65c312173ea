//! One command of the program, from its start to its end: how long it takes, and how much memory.

use std::fs::File;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crate::shared::Failure;
use crate::shared::child::die_with_us;
use crate::shared::machine;

/// What a command took.
pub struct Ran {
    pub seconds: f64,
    /// The most that it had in memory, in MiB, as the kernel counts it; what it took in its last moment may be missing.
    pub memory_mib: f64,
}

/// Runs it to its end, with these files as its input and output; an exit code that is not 0 is an error.
pub fn run(arguments: &[&str], from: Option<&Path>, to: Option<&Path>) -> Result<Ran, Failure> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_DynaRust"));
    command.args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    if let Some(from) = from {
        command.stdin(File::open(from)?);
    }
    if let Some(to) = to {
        command.stdout(File::create(to)?);
    }
    die_with_us(&mut command);
    let began = Instant::now();
    let mut child = command.spawn()?;
    let mut stderr = child.stderr.take().ok_or("standard error is piped")?;
    let said = std::thread::spawn(move || std::io::read_to_string(&mut stderr).unwrap_or_default());
    let mut memory_mib: f64 = 0.0;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        memory_mib = memory_mib.max(machine::most_memory_mib(child.id()));
        std::thread::sleep(LOOK);
    };
    let seconds = began.elapsed().as_secs_f64();
    let said = said.join().map_err(|_| "nobody could read what it said")?;
    match status.success() {
        true => Ok(Ran { seconds, memory_mib }),
        false => Err(format!("{} ended with {status}:\n{said}", arguments.join(" ")).into()),
    }
}

const LOOK: Duration = Duration::from_millis(5);
