//! Where fixtures are, and how they are packed: a directory as `NAME.tar.gz`, what is true of it in `NAME.truth`; a backup as
//! `NAME.backup.gz`. The tools are those of every machine: tar and gzip.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A directory of a node, packed.
pub struct Fixture {
    /// The format that it was written in.
    pub format: u32,
    /// How the node ended.
    pub name: String,
    /// What is true of it: see `truth.rs`.
    pub truth: String,
    path: PathBuf,
}

/// Where the fixtures of a format are.
pub fn place(format: u32) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/fixtures/format-{format}"))
}

/// All of them, of every format up to the newest.
pub fn all() -> Vec<Fixture> {
    let formats = 1..=dynarust::storage::FORMAT;
    formats.flat_map(|format| ["stopped", "killed"].map(|name| fixture(format, name))).collect()
}

fn fixture(format: u32, name: &str) -> Fixture {
    let path = place(format).join(format!("{name}.tar.gz"));
    let truth = std::fs::read_to_string(place(format).join(format!("{name}.truth")));
    let truth = truth.unwrap_or_else(|e| panic!("no fixture '{name}' of format {format}: {e}"));
    Fixture { format, name: name.to_owned(), truth, path }
}

impl Fixture {
    /// Unpacks it into this directory, which must be empty or not there.
    pub fn unpack(&self, dir: &Path) {
        std::fs::create_dir_all(dir).expect("a directory");
        run(Command::new("tar").arg("-xzf").arg(&self.path).arg("-C").arg(dir));
        // A tape archive of git has no empty directories, and sled makes none.
        std::fs::create_dir_all(dir.join("store/blobs")).expect("a directory");
    }

    /// For messages.
    pub fn shown(&self) -> String {
        format!("format {}, {}", self.format, self.name)
    }
}

/// Packs a directory, without what has no place in it but room: the ballast.
pub fn pack(dir: &Path, to: &Path) {
    run(Command::new("tar")
        .args(["--exclude=./BALLAST", "--owner=0", "--group=0", "-I", "gzip -9n", "-cf"])
        .arg(to)
        .arg("-C")
        .arg(dir)
        .arg("."));
}

/// The backup of the node of a format that was stopped, unpacked.
pub fn backup(format: u32, to: &Path) {
    let packed = place(format).join("stopped.backup.gz");
    let unpacked = Command::new("gzip").arg("-dc").arg(packed).output().expect("gzip runs");
    assert!(unpacked.status.success(), "{}", String::from_utf8_lossy(&unpacked.stderr));
    std::fs::write(to, unpacked.stdout).expect("it can be written");
}

pub fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}
