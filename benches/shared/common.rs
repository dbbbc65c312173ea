//! The flags that every benchmark has. It must not know what is measured.

use std::path::PathBuf;

use clap::Args;

use super::Failure;
use super::report::Report;

/// Flags of every benchmark.
#[derive(Args)]
pub struct Common {
    /// Before each measurement, wait up to this many seconds until nobody else works on this machine; what is measured under
    /// load is repeated, twice at most, when somebody then did all the same.
    #[arg(long, default_value_t = 0)]
    pub quiet: u32,
    /// Writes the report as markdown into this file too.
    #[arg(long)]
    pub markdown: Option<PathBuf>,
    /// Where the data directories are made; must be on a real disk.
    #[arg(long, default_value = env!("CARGO_TARGET_TMPDIR"))]
    pub dir: PathBuf,
    /// What cargo adds to every benchmark.
    #[arg(long, hide = true)]
    bench: bool,
}

impl Common {
    /// Writes the report where it is wanted.
    pub fn keep(&self, report: &Report) -> Result<(), Failure> {
        if let Some(file) = &self.markdown {
            std::fs::write(file, report.text()).map_err(|e| format!("{}: {e}", file.display()))?;
        }
        Ok(())
    }
}
