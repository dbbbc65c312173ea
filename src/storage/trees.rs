//! The schema: which tree holds what under which bytes. `sled` is a word of this room only.
//!
//! | tree | key | value | lifetime |
//! |---|---|---|---|
//! | `data` | the user's key | entry | until nothing of it lives and everybody knows |
//! | `membership` | node id:8 | entry of a member | the same |
//! | `changes` | origin:8 seq:8, the first event | the events of one unit and their keys | until everybody has it, and a while |
//! | `pieces` | origin:8 seq:8 index:4 | a piece of a large value | as long as the version `origin-seq` lives |
//! | `expiry` | ms since 1970:8 kind:1 key | nothing | until the version went; a stale row is harmless |
//! | `meta` | a name | format, node, cluster, summary | for ever |
//!
//! Integers in keys are big endian, so that order is time. Only the committer writes.

use std::ops::Bound;

use xxhash_rust::xxh3::xxh3_64;

use super::codec::{self, Junk, Row, Summary};
use super::error::Error;
use crate::limits::{CHUNK_BYTES, ENTRY_BYTES_MAX, VALUE_INLINE_BYTES_MAX};
use crate::replica::{Change, Dot, Entry, Held, Kind, NodeId, Trees as Rules, Value, Version};

/// Names in the `meta` tree.
pub mod meta {
    /// Format number of the trees: 4 bytes.
    pub const FORMAT: &[u8] = b"format";
    /// This node's id: 8 bytes.
    pub const NODE: &[u8] = b"node";
    /// The cluster's id: 8 bytes.
    pub const CLUSTER: &[u8] = b"cluster";
    /// The cluster that the node has left, while it belongs to none: 8 bytes.
    pub const LEFT: &[u8] = b"left";
    /// The ids under which the node wrote before it was found to be set back and that may still be members, the last one last: 8
    /// bytes each. Releases that knew of one only take several for none.
    pub const FORMER: &[u8] = b"former";
    /// Where the members were that it left, if it is to go back to them by itself when it is started again: addresses, one a
    /// line.
    pub const BACK_TO: &[u8] = b"back-to";
    /// What the cluster had when it took in this node, which came with nothing and has not got all of it: a version vector's
    /// text; empty while nobody has taken it in.
    pub const ARRIVING: &[u8] = b"arriving";
    /// When the file that holds the data was made, where the node last knew that it writes under a name of its own: seconds
    /// since 1970:8 nanoseconds:4. A copy has another time.
    pub const BIRTH: &[u8] = b"birth";
    /// What the last commit left: see the codec.
    pub const SUMMARY: &[u8] = b"summary";
}

/// Handles to all trees of an open store; cloning is cheap.
#[derive(Clone)]
pub struct Trees {
    pub(super) db: sled::Db,
    pub(super) data: sled::Tree,
    pub(super) membership: sled::Tree,
    pub(super) changes: sled::Tree,
    pub(super) pieces: sled::Tree,
    pub(super) expiry: sled::Tree,
    pub(super) meta: sled::Tree,
}

impl Trees {
    /// Opens the trees, which must all be there.
    pub fn of(db: sled::Db) -> Result<Trees, Error> {
        let names = db.tree_names();
        let tree = |name: &str| {
            if !names.iter().any(|n| n.as_ref() == name.as_bytes()) {
                return Err(Error::Damaged(format!("the tree '{name}' is missing from the store")));
            }
            Ok(db.open_tree(name)?)
        };
        Ok(Trees {
            data: tree("data")?,
            membership: tree("membership")?,
            changes: tree("changes")?,
            pieces: tree("pieces")?,
            expiry: tree("expiry")?,
            meta: tree("meta")?,
            db,
        })
    }

    /// The tree of a kind of key.
    pub fn of_kind(&self, kind: Kind) -> &sled::Tree {
        match kind {
            Kind::Data => &self.data,
            Kind::Membership => &self.membership,
        }
    }

    /// The keys of a kind that begin so and come after that one, with what is stored under them, by key.
    pub fn range(
        &self,
        kind: Kind,
        prefix: &[u8],
        after: Option<&[u8]>,
    ) -> impl Iterator<Item = sled::Result<(sled::IVec, sled::IVec)>> {
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let begins = |item: &sled::Result<(sled::IVec, _)>| match item {
            Ok((key, _)) => key.starts_with(prefix),
            Err(_) => true,
        };
        self.of_kind(kind).range::<&[u8], _>((from, Bound::Unbounded)).take_while(begins)
    }

    /// The nodes of which a record lives, each with what is under its key.
    pub fn members(&self) -> Result<Vec<(NodeId, Entry)>, Error> {
        let mut members = Vec::new();
        for item in self.membership.iter() {
            let (key, bytes) = item?;
            let damaged = || damaged_entry(Kind::Membership, &key);
            let id = key.as_ref().try_into().map(u64::from_be_bytes).map_err(|_| damaged())?;
            let entry = codec::decode_entry(&key, &bytes).map_err(|Junk| damaged())?;
            if !entry.versions().is_empty() {
                members.push((NodeId(id), entry));
            }
        }
        Ok(members)
    }

    /// Stores or removes a key's entry. Values too large for a leaf move out first; what comes back is the entry as it
    /// is stored.
    pub fn put_entry(&self, kind: Kind, key: &[u8], mut entry: Entry) -> Result<Entry, Error> {
        if entry.is_gone() {
            self.of_kind(kind).remove(key)?;
            return Ok(entry);
        }
        self.move_out(&mut entry, VALUE_INLINE_BYTES_MAX)?;
        let mut bytes = codec::encode_entry(key, &entry);
        if bytes.len() > ENTRY_BYTES_MAX {
            // Only keys with many siblings get here.
            self.move_out(&mut entry, 0)?;
            bytes = codec::encode_entry(key, &entry);
        }
        self.of_kind(kind).insert(key, bytes)?;
        Ok(entry)
    }

    /// Values of more than so many bytes go into pieces.
    fn move_out(&self, entry: &mut Entry, most: usize) -> Result<(), Error> {
        let large = |version: &Version| matches!(&version.value, Value::Inline(text) if text.len() > most);
        if !entry.versions().iter().any(large) {
            return Ok(());
        }
        let mut versions: Vec<Version> = entry.versions().to_vec();
        for version in versions.iter_mut().filter(|version| large(version)) {
            if let Value::Inline(text) = &version.value {
                self.put_pieces(version.dot, text)?;
                version.value = Value::Chunked { bytes: text.len() as u64, checksum: xxh3_64(text) };
            }
        }
        *entry = Entry::from_parts(versions, entry.context().clone());
        Ok(())
    }

    /// Stores a large value's pieces under the version's name.
    fn put_pieces(&self, dot: Dot, text: &[u8]) -> Result<(), Error> {
        for (index, piece) in (0..).zip(text.chunks(CHUNK_BYTES)) {
            let key = piece_key(dot, index);
            self.pieces.insert(key, codec::encode_piece(&key, piece))?;
        }
        Ok(())
    }

    /// A version's text; `None` when pieces are missing, as they are when the version was superseded meanwhile. One that is not
    /// what was written is an error.
    pub fn text(&self, version: &Version) -> Result<Option<Vec<u8>>, Error> {
        let (bytes, checksum) = match &version.value {
            Value::Inline(text) => return Ok(Some(text.clone())),
            Value::Chunked { bytes, checksum } => (*bytes as usize, *checksum),
        };
        let mut text = Vec::with_capacity(bytes.min(crate::limits::VALUE_BYTES_MAX));
        for index in 0..pieces_of(bytes) {
            let key = piece_key(version.dot, index);
            let Some(piece) = self.pieces.get(key)? else { return Ok(None) };
            text.extend_from_slice(codec::decode_piece(&key, &piece).map_err(|Junk| damaged_piece(&key))?);
        }
        let damaged = || Error::Damaged(format!("the pieces of {} are not those of its value", version.dot));
        if xxh3_64(&text) == checksum { Ok(Some(text)) } else { Err(damaged()) }
    }

    /// Removes a version's pieces, if it has any.
    pub fn remove_pieces(&self, dot: Dot) -> Result<(), Error> {
        for item in self.pieces.scan_prefix(change_key(dot)) {
            self.pieces.remove(item?.0)?;
        }
        Ok(())
    }

    /// The summary of the last commit.
    pub fn summary(&self) -> Result<Summary, Error> {
        let bytes = self.meta.get(meta::SUMMARY)?;
        let bytes =
            bytes.ok_or_else(|| Error::Damaged("the summary of the last commit is missing".into()))?;
        codec::decode_summary(&bytes)
            .map_err(|Junk| Error::Damaged("the summary of the last commit is damaged".into()))
    }

    /// A number of the `meta` tree that is always there.
    pub fn id(&self, name: &[u8]) -> Result<u64, Error> {
        let missing =
            || Error::Damaged(format!("'{}' is missing from the store", String::from_utf8_lossy(name)));
        self.id_if_any(name)?.ok_or_else(missing)
    }

    /// The ids that the node gave up and has not yet seen the end of, the last one last.
    pub fn former(&self) -> Result<Vec<NodeId>, Error> {
        let bytes = self.meta.get(meta::FORMER)?.unwrap_or_default();
        let (ids, _) = bytes.as_chunks::<8>();
        Ok(ids.iter().map(|id| NodeId(u64::from_be_bytes(*id))).collect())
    }

    /// A number of the `meta` tree.
    pub fn id_if_any(&self, name: &[u8]) -> Result<Option<u64>, Error> {
        let bytes = self.meta.get(name)?.and_then(|bytes| bytes.as_ref().try_into().ok());
        Ok(bytes.map(u64::from_be_bytes))
    }
}

impl Rules for Trees {
    type Error = Error;

    fn entry(&self, kind: Kind, key: &[u8]) -> Result<Entry, Error> {
        match self.of_kind(kind).get(key)? {
            Some(bytes) => codec::decode_entry(key, &bytes).map_err(|Junk| damaged_entry(kind, key)),
            None => Ok(Entry::default()),
        }
    }

    fn changes(&self, origin: NodeId, after: u64, through: u64) -> Result<Vec<Change>, Error> {
        let next = Dot::new(origin, after.saturating_add(1));
        // The row in which the first of them stands may begin before it.
        let within = self.changes.range(change_key(Dot::new(origin, 0))..=change_key(next)).next_back();
        let from = within.transpose()?.map_or(change_key(next).as_slice().into(), |(key, _)| key);
        let mut changes = Vec::new();
        for item in self.changes.range(from..=change_key(Dot::new(origin, through)).as_slice().into()) {
            let (key, bytes) = item?;
            let events = read_row(&key, &bytes)?.events.into_iter();
            let asked = events.filter(|event| event.seq > after && event.seq <= through);
            changes.extend(asked.map(|event| Change { seq: event.seq, kind: event.kind, key: event.key }));
        }
        Ok(changes)
    }

    fn entries_after(&self, after: Option<&(Kind, Vec<u8>)>, limit: usize) -> Result<Vec<Held>, Error> {
        let mut held = Vec::new();
        for kind in [Kind::Data, Kind::Membership] {
            let from = match after {
                Some((of, _)) if *of > kind => continue,
                Some((of, key)) if *of == kind => Bound::Excluded(key.as_slice()),
                _ => Bound::Unbounded,
            };
            for item in
                self.of_kind(kind).range::<&[u8], _>((from, Bound::Unbounded)).take(limit - held.len())
            {
                let (key, bytes) = item?;
                let entry = codec::decode_entry(&key, &bytes).map_err(|Junk| damaged_entry(kind, &key))?;
                held.push((kind, key.to_vec(), entry));
            }
        }
        Ok(held)
    }
}

/// An event's key in the log, and how the keys of its version's pieces begin.
pub fn change_key(dot: Dot) -> [u8; 16] {
    let mut key = [0; 16];
    key[..8].copy_from_slice(&dot.origin.0.to_be_bytes());
    key[8..].copy_from_slice(&dot.seq.to_be_bytes());
    key
}

/// The event that a key of the log names.
pub fn read_change_key(key: &[u8]) -> Result<Dot, Error> {
    let (origin, seq) = key.split_first_chunk::<8>().ok_or_else(bad_row)?;
    let seq = seq.try_into().map_err(|_| bad_row())?;
    Ok(Dot::new(NodeId(u64::from_be_bytes(*origin)), u64::from_be_bytes(seq)))
}

/// A row of the log, as it is stored.
pub fn read_row(key: &[u8], bytes: &[u8]) -> Result<Row, Error> {
    codec::decode_row(read_change_key(key)?, bytes).map_err(|Junk| bad_row())
}

fn bad_row() -> Error {
    Error::Damaged("a row of the change log is damaged".into())
}

/// How many pieces a text of so many bytes has.
pub fn pieces_of(bytes: usize) -> u32 {
    bytes.div_ceil(CHUNK_BYTES) as u32
}

/// The key of a piece.
pub fn piece_key(dot: Dot, index: u32) -> [u8; 20] {
    let mut key = [0; 20];
    key[..16].copy_from_slice(&change_key(dot));
    key[16..].copy_from_slice(&index.to_be_bytes());
    key
}

/// The piece that a key names: of which version, and its index.
pub fn read_piece_key(key: &[u8]) -> Option<(Dot, u32)> {
    let (name, index) = key.split_first_chunk::<16>()?;
    Some((read_change_key(name).ok()?, u32::from_be_bytes(index.try_into().ok()?)))
}

/// What stands under this key is not the piece that was written.
pub fn damaged_piece(key: &[u8]) -> Error {
    match read_piece_key(key) {
        Some((dot, index)) => Error::Damaged(format!("piece {index} of the value of {dot} is damaged")),
        None => Error::Damaged(format!("'{}' names no piece of a value", key.escape_ascii())),
    }
}

/// A row of the expiry index.
pub fn expiry_key(at_ms: u64, kind: Kind, key: &[u8]) -> Vec<u8> {
    let mut row = Vec::with_capacity(9 + key.len());
    row.extend(at_ms.to_be_bytes());
    row.push(kind as u8);
    row.extend(key);
    row
}

/// What a row of the expiry index says.
pub fn read_expiry_key(row: &[u8]) -> Result<(u64, Kind, &[u8]), Error> {
    let damaged = || Error::Damaged("a row of the expiry index is damaged".into());
    let (at, rest) = row.split_first_chunk::<8>().ok_or_else(damaged)?;
    let (kind, key) = rest.split_first().ok_or_else(damaged)?;
    Ok((u64::from_be_bytes(*at), codec::kind(*kind).map_err(|Junk| damaged())?, key))
}

/// The entry under this key does not hold what was written.
pub fn damaged_entry(kind: Kind, key: &[u8]) -> Error {
    Error::Damaged(format!("the entry of key '{}' ({kind:?}) is damaged", key.escape_ascii()))
}
