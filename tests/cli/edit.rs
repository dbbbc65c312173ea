//! Changes a stopped node's directory through sled, behind the node's back: what damage, a bug, or two disks under one name may
//! leave. It knows the bytes as `docs` and the codec's files have them, and shares no code with either.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// A copy of a directory whose trees can be changed.
pub struct Edit {
    pub dir: PathBuf,
    db: Option<sled::Db>,
    _place: tempfile::TempDir,
}

impl Edit {
    /// Of this directory, which stays as it is.
    pub fn of(dir: &Path) -> Edit {
        let place = crate::temporary();
        let copy = place.path().join("copy");
        copy_all(dir, &copy);
        let mut edit = Edit { dir: copy, db: None, _place: place };
        edit.open();
        edit
    }

    /// Only a copy, as good as the original.
    pub fn untouched(dir: &Path) -> Edit {
        let mut edit = Edit::of(dir);
        edit.close();
        edit
    }

    /// A copy whose files are changed, not its trees.
    pub fn close_with(mut self, change: impl FnOnce(&Path)) -> Edit {
        change(&self.close());
        self
    }

    /// The directory, with whatever was changed on the disk.
    pub fn close(&mut self) -> PathBuf {
        if let Some(db) = self.db.take() {
            db.flush().expect("it is flushed");
            drop(db);
            // sled's threads let go of the file a moment after the last handle went.
            let file = File::open(self.dir.join("store/db")).expect("the store");
            let deadline = Instant::now() + Duration::from_secs(10);
            while file.try_lock().is_err() {
                assert!(Instant::now() < deadline, "sled does not let go of {}", self.dir.display());
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        self.dir.clone()
    }

    fn open(&mut self) {
        let config = sled::Config::new()
            .path(self.dir.join("store"))
            .segment_size(2 << 20)
            .flush_every_ms(None)
            .use_compression(false);
        self.db = Some(config.open().expect("it opens"));
    }

    pub fn tree(&self, name: &str) -> sled::Tree {
        self.db.as_ref().expect("it is open").open_tree(name).expect("a tree")
    }

    pub fn get(&self, tree: &str, key: &[u8]) -> Vec<u8> {
        self.tree(tree).get(key).expect("it can be read").expect("it is there").to_vec()
    }

    pub fn put(&self, tree: &str, key: &[u8], value: &[u8]) {
        self.tree(tree).insert(key, value).expect("it can be written");
    }

    pub fn remove(&self, tree: &str, key: &[u8]) {
        assert!(
            self.tree(tree).remove(key).expect("it can be written").is_some(),
            "{tree}: it was not there"
        );
    }

    /// All rows of a tree.
    pub fn rows(&self, tree: &str) -> Vec<(Vec<u8>, Vec<u8>)> {
        let rows = self.tree(tree).iter().map(|row| row.expect("it can be read"));
        rows.map(|(key, value)| (key.to_vec(), value.to_vec())).collect()
    }

    pub fn drop_tree(&self, name: &str) {
        assert!(self.db.as_ref().expect("it is open").drop_tree(name).expect("it can be dropped"));
    }

    pub fn me(&self) -> [u8; 8] {
        self.get("meta", b"node").try_into().expect("8 bytes")
    }

    pub fn summary(&self) -> Summary {
        Summary::read(&self.get("meta", b"summary"))
    }

    pub fn set_summary(&self, summary: &Summary) {
        self.put("meta", b"summary", &summary.bytes());
    }

    /// Says in the witness beside the log that so many events were committed.
    pub fn witness(&self, events: u64) {
        let events = events.to_be_bytes();
        let check = xxh3_64(&events).to_be_bytes();
        fs::write(self.dir.join("PROGRESS"), [events, check].concat()).expect("it is written");
    }
}

pub fn copy_all(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a directory");
    for entry in fs::read_dir(from).expect("a directory") {
        let path = entry.expect("an entry").path();
        let to = to.join(path.file_name().expect("a name"));
        match path.is_dir() {
            true => copy_all(&path, &to),
            false => drop(fs::copy(&path, &to).expect("a copy")),
        }
    }
}

/// An item with the right check for this key; what stands before `rest` is the check.
pub fn stamped(key: &[u8], rest: &[u8]) -> Vec<u8> {
    let check = xxh3_64_with_seed(rest, xxh3_64(key)) as u32;
    [&check.to_be_bytes(), rest].concat()
}

fn number(from: &mut &[u8]) -> u64 {
    let (mut number, mut shift) = (0, 0);
    loop {
        let (byte, rest) = from.split_first().expect("a byte");
        *from = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if *byte < 0x80 {
            return number;
        }
        shift += 7;
    }
}

fn put_number(to: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        to.push(number as u8 | 0x80);
        number >>= 7;
    }
    to.push(number as u8);
}

/// Origins with their highest events.
pub type Vector = Vec<([u8; 8], u64)>;

fn vector(from: &mut &[u8]) -> Vector {
    let count = number(from);
    let dot = |_| {
        let (origin, rest) = from.split_first_chunk::<8>().expect("an origin");
        *from = rest;
        (*origin, number(from))
    };
    (0..count).map(dot).collect()
}

fn put_vector(to: &mut Vec<u8>, vector: &Vector) {
    put_number(to, vector.len() as u64);
    for (origin, seq) in vector {
        to.extend(origin);
        put_number(to, *seq);
    }
}

/// What a commit leaves behind.
#[derive(Clone)]
pub struct Summary {
    pub vv: Vector,
    pub floor: Vector,
    pub clock: [u8; 8],
    pub keys: u64,
    pub versions: u64,
    pub digest: [u8; 16],
    pub unit: Vector,
    pub rest: Vec<u8>,
}

impl Summary {
    pub fn read(bytes: &[u8]) -> Summary {
        let mut from = &bytes[8..];
        let (vv, floor) = (vector(&mut from), vector(&mut from));
        let (clock, mut from) = from.split_first_chunk::<8>().expect("a clock");
        let (keys, versions) = (number(&mut from), number(&mut from));
        let (digest, mut from) = from.split_first_chunk::<16>().expect("a digest");
        let unit = vector(&mut from);
        let summary =
            Summary { vv, floor, clock: *clock, keys, versions, digest: *digest, unit, rest: from.to_vec() };
        assert_eq!(summary.bytes(), bytes, "the layout is another one");
        summary
    }

    pub fn bytes(&self) -> Vec<u8> {
        let mut rest = Vec::new();
        put_vector(&mut rest, &self.vv);
        put_vector(&mut rest, &self.floor);
        rest.extend(self.clock);
        put_number(&mut rest, self.keys);
        put_number(&mut rest, self.versions);
        rest.extend(self.digest);
        put_vector(&mut rest, &self.unit);
        rest.extend(&self.rest);
        [&xxh3_64(&rest).to_be_bytes()[..], &rest].concat()
    }
}
