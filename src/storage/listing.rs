//! Keys in their order, as readers see them: a stretch at a time, read beside the writers.
//!
//! It is no snapshot: each key is shown as it is when its stretch is read, and a stretch is given out when all that it may have
//! seen is on the disk. No lock and no iterator outlives a stretch, so whoever takes his time holds up nobody.

use super::error::Error;
use super::trees::{Trees, damaged_entry};
use super::{Store, codec};
use crate::limits::{CHUNK_READ_RETRIES_MAX, LISTED_BYTES, LISTED_KEYS};
use crate::replica::{Entry, Kind, Trees as _, Value, Version};

/// A version that a reader sees, with its text.
pub type Shown = (Version, Vec<u8>);

/// Which keys.
#[derive(Clone, Debug)]
pub struct Asked {
    /// They begin so.
    pub prefix: Vec<u8>,
    /// They come after this one.
    pub after: Option<Vec<u8>>,
    /// So many at most.
    pub keys: usize,
    /// What has expired by then is hidden.
    pub now_ms: u64,
    /// There is memory for a key that has so many bytes of large values.
    pub room: u64,
}

/// Some of the keys that were asked for.
#[derive(Debug, Default)]
pub struct Stretch {
    /// What was written down of them.
    pub text: Vec<u8>,
    /// How many they are.
    pub keys: usize,
    /// Where the next stretch begins: after this one.
    pub through: Option<Vec<u8>>,
    /// There is no next one.
    pub over: bool,
    /// The next key has so many bytes of large values, and wants room for them.
    pub large: Option<u64>,
}

impl Store {
    /// The next stretch of the keys that are asked for; `show` writes one of them down.
    pub async fn stretch(
        &self,
        asked: Asked,
        show: fn(&mut Vec<u8>, &[u8], &[Shown]),
    ) -> Result<Stretch, Error> {
        let inner = self.0.clone();
        // What is not there says something as well: it may be gone only since a commit that is under way.
        self.shown(move || Ok((read(&inner.trees, asked, show)?, inner.shared.watermark.begun()))).await
    }
}

/// Blocks.
fn read(trees: &Trees, asked: Asked, show: fn(&mut Vec<u8>, &[u8], &[Shown])) -> Result<Stretch, Error> {
    let mut stretch = Stretch { through: asked.after.clone(), ..Stretch::default() };
    for (looked, item) in trees.range(Kind::Data, &asked.prefix, asked.after.as_deref()).enumerate() {
        let (key, bytes) = item?;
        if looked == LISTED_KEYS || stretch.keys == asked.keys || stretch.text.len() >= LISTED_BYTES {
            return Ok(stretch);
        }
        match found(trees, &key, &bytes, &asked) {
            Ok(Found::Shown(shown)) if shown.is_empty() => {}
            Ok(Found::Shown(shown)) => {
                show(&mut stretch.text, &key, &shown);
                stretch.keys += 1;
            }
            Ok(Found::Large(bytes)) => {
                stretch.large = Some(bytes);
                return Ok(stretch);
            }
            // A damaged key does not take along what comes before it: the next stretch begins with it.
            Err(Error::Damaged(_)) if looked > 0 => return Ok(stretch),
            Err(error) => return Err(error),
        }
        stretch.through = Some(key.to_vec());
    }
    stretch.over = true;
    Ok(stretch)
}

/// What a key is to its reader.
enum Found {
    /// The winner first; nothing when it is deleted or has expired.
    Shown(Vec<Shown>),
    /// More than there is room for, in bytes.
    Large(u64),
}

fn found(trees: &Trees, key: &[u8], bytes: &[u8], asked: &Asked) -> Result<Found, Error> {
    let mut entry = codec::decode_entry(key, bytes).map_err(|_| damaged_entry(Kind::Data, key))?;
    for _ in 0..CHUNK_READ_RETRIES_MAX {
        let large: u64 = entry.visible(asked.now_ms).map(chunked_bytes).sum();
        if large > asked.room.max(LISTED_BYTES as u64) {
            return Ok(Found::Large(large));
        }
        if large == 0 {
            return Ok(Found::Shown(texts(trees, entry, asked.now_ms)?.unwrap_or_default()));
        }
        if let Some(shown) = texts(trees, entry.clone(), asked.now_ms)? {
            return Ok(Found::Shown(shown));
        }
        // One of them was superseded meanwhile, or is not what was written.
        let newer = trees.entry(Kind::Data, key)?;
        if newer == entry {
            break;
        }
        entry = newer;
    }
    Err(Error::Damaged(format!("a large value of key '{}' is damaged", key.escape_ascii())))
}

fn chunked_bytes(version: &Version) -> u64 {
    match version.value {
        Value::Inline(_) => 0,
        Value::Chunked { bytes, .. } => bytes,
    }
}

/// `None`: pieces are missing.
fn texts(trees: &Trees, entry: Entry, now_ms: u64) -> Result<Option<Vec<Shown>>, Error> {
    let mut shown = Vec::with_capacity(1);
    for mut version in entry.into_visible(now_ms) {
        let text = match &mut version.value {
            Value::Inline(text) => std::mem::take(text),
            Value::Chunked { .. } => match trees.text(&version)? {
                Some(text) => text,
                None => return Ok(None),
            },
        };
        shown.push((version, text));
    }
    Ok(Some(shown))
}
