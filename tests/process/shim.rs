//! Builds `shim.c` and runs nodes on the failing disk it makes; see there for the faults.

use crate::skipped;
use crate::support::{Node, SOON, wait_until};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use tempfile::TempDir;

/// The switch of a failing disk.
pub struct Faults {
    library: PathBuf,
    dir: TempDir,
}

impl Faults {
    /// `None`, said in a line, where there is no C compiler.
    pub fn new(what: &str) -> Option<Faults> {
        static LIBRARY: OnceLock<Result<PathBuf, String>> = OnceLock::new();
        match LIBRARY.get_or_init(build) {
            Ok(library) => {
                let dir = tempfile::tempdir().expect("a directory");
                Some(Faults { library: library.clone(), dir })
            }
            Err(because) => {
                skipped(what, because);
                None
            }
        }
    }

    /// Makes a node run on this disk.
    pub fn under(&self, mut command: Command) -> Command {
        command.env("LD_PRELOAD", &self.library).env("DYNARUST_FAULT_FILE", self.trigger());
        command
    }

    pub fn start(&self, dir: &Path, flags: &[&str]) -> Node {
        Node::launch(self.under(Node::command(dir, flags)))
            .unwrap_or_else(|log| panic!("the node did not serve under the shim:\n{log}"))
    }

    /// From now on the disk does this.
    pub fn set(&self, fault: &str) {
        let next = self.dir.path().join("next");
        std::fs::write(&next, fault).expect("the fault can be written");
        std::fs::rename(next, self.trigger()).expect("and put in its place");
    }

    /// From now on the disk is sound.
    pub fn clear(&self) {
        std::fs::remove_file(self.trigger()).expect("a fault was set");
    }

    /// How many faults have been injected so far.
    pub fn hits(&self) -> usize {
        let text = std::fs::read_to_string(self.dir.path().join("fault.hits"));
        text.map_or(0, |text| text.lines().count())
    }

    /// Waits until a fault has struck.
    pub fn wait_for_hit(&self) {
        let what = "a fault strikes (does the node write and sync through the C library?)";
        wait_until(SOON, what, || self.hits() > 0);
    }

    fn trigger(&self) -> PathBuf {
        self.dir.path().join("fault")
    }
}

fn build() -> Result<PathBuf, String> {
    let scratch = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/process/shim.c");
    let unfinished = scratch.join(format!("shim-{}.so", std::process::id()));
    let mut cc = Command::new("cc");
    cc.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&unfinished).arg(source).arg("-ldl");
    let output = cc.output().map_err(|e| format!("cc does not run ({e})"))?;
    assert!(output.status.success(), "shim.c does not compile:\n{}", String::from_utf8_lossy(&output.stderr));
    let library = scratch.join("shim.so");
    std::fs::rename(unfinished, &library).map_err(|e| format!("{e}"))?;
    Ok(library)
}
