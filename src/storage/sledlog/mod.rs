//! Reads the log file of sled 0.34.7 without sled, for directories that sled does not open, or wrecks as it does.
//!
//! It knows segments, messages and pages, and nothing of what we keep in them; it writes nothing, never panics over bytes, and
//! goes on behind a bad place. The format is defined by sled's own source, `src/pagecache/{constants,logger,iobuf,segment}.rs`
//! and `src/serialization.rs` of that release:
//!
//! ```text
//! db        segments of one size; one holds an LSN range of the log, and is used anew when nothing in it is needed any more
//! segment   crc:4 lsn:8 max_stable_lsn:8, then messages; a Cap, or 32 bytes and fewer, end it
//!           crc = CRC-32(lsn max_stable_lsn), all bits turned; both numbers with all bits turned but the first
//! message   crc:4 kind:1 length:varint segment:varint page:varint body;  segment = LSN / size of a segment
//!           crc = CRC-32(body kind length segment page), all bits turned
//! body      Meta: (name root:varint)*   Node, Link: below   BatchManifest, Counter: 8 bytes   Cap, Canceled, Free: of no use
//!           BlobMeta, BlobNode, BlobLink: 8 bytes, the name of a file in `blobs/`; ours has none
//! node      next:varint merging_child:varint merging:1 prefix:1 lo hi kind:1 count:varint keys (values | children:varint)
//!           a key stands without its first `prefix` bytes, which are those of lo
//! link      0 key value: set; 1 key: delete; 2 page:varint, 3, 4: a merge with a neighbour. Keys as in the node beneath
//! name, key, value, lo, hi    length:varint bytes
//! ```
//!
//! Numbers are little endian. A page is what its last node says, and the links after that, by LSN.

mod message;
mod opening;
mod page;
mod segments;
mod snapshot;
#[cfg(test)]
mod tests;

pub use message::Kind;
pub use opening::{End, Opening, Sound};
pub use page::{
    Data, Link, Node, decode_link, decode_meta, decode_node, decode_torn_node, likely_values, proven_values,
};
pub use segments::{BadPlace, Message, Reach, Segments};
pub use snapshot::{snapshot_body, snapshot_pages};
