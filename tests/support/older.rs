//! Takes the directory of a stopped node back to an older format, as a release would have left it that knew no newer one: a
//! migration has something to do then, of any size. What such releases really left is in `tests/fixtures`.

use std::fs::{self, File};
use std::path::Path;
use std::time::{Duration, Instant};

use sled::Db;
use xxhash_rust::xxh3::xxh3_64;

/// Bytes of the rows that a migration will copy.
pub fn to_format_1(dir: &Path) -> u64 {
    let db = open(&dir.join("store"));
    let bytes = unchecked(&db).expect("the store can be written");
    drop(db);
    manifest(dir, |line| {
        let now = format!("\"format\":{}", dynarust::storage::FORMAT);
        assert!(line.contains(&now), "{line}");
        line.replace(&now, "\"format\":1")
    });
    let store = dir.join("store");
    for path in [&store.join("conf"), &store.join("db"), &store.join("blobs"), &store, dir] {
        File::open(path).and_then(|file| file.sync_all()).expect("it can be synced");
    }
    bytes
}

/// Pieces lose their checks.
fn unchecked(db: &Db) -> sled::Result<u64> {
    let (pieces, chunks) = (db.open_tree("pieces")?, db.open_tree("chunks")?);
    let mut bytes = 0;
    for row in pieces.iter() {
        let (key, piece) = row?;
        bytes += (key.len() + piece.len() - 4) as u64;
        chunks.insert(&key, &piece[4..])?;
        pieces.remove(&key)?;
    }
    drop(pieces);
    db.drop_tree("pieces")?;
    db.open_tree("meta")?.insert("format", &1u32.to_be_bytes())?;
    db.flush()?;
    Ok(bytes)
}

/// Opens the store as it is, once whoever had it before has let go of it.
pub fn open(store: &Path) -> Db {
    let config = sled::Config::new().path(store).segment_size(dynarust::limits::SEGMENT_BYTES);
    let config = config.cache_capacity(32 << 20).flush_every_ms(None);
    let deadline = Instant::now() + Duration::from_secs(10);
    loop {
        match config.open() {
            Ok(db) => return db,
            Err(e) => assert!(Instant::now() < deadline, "{} does not open: {e}", store.display()),
        }
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Writes another manifest.
pub fn manifest(dir: &Path, change: impl Fn(&str) -> String) {
    let path = dir.join("MANIFEST");
    let text = fs::read_to_string(&path).expect("a manifest");
    let line = change(text.lines().next().expect("a line"));
    let next = dir.join("MANIFEST.new");
    fs::write(&next, format!("{line}\n{:016x}\n", xxh3_64(line.as_bytes()))).expect("it can be written");
    File::open(&next).and_then(|file| file.sync_all()).expect("it can be synced");
    fs::rename(next, path).expect("it can be renamed");
}
