//! The summary: what a commit leaves behind beside the trees.
//!
//! ```text
//! summary  check:8 vv floor hlc:8 keys:varint versions:varint digest:16 unit counted:1 repairs:varint      check = XXH3(rest)
//! ```

use xxhash_rust::xxh3::xxh3_64;

use super::{Junk, Reader, put_number, put_vector};
use crate::replica::{Clock, Digest, Hlc, Totals, VersionVector};

/// What a commit leaves behind of a replica's small part.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Summary {
    /// What is incorporated.
    pub vv: VersionVector,
    /// What is forgotten.
    pub floor: VersionVector,
    /// The highest stamp given or taken in.
    pub clock: Clock,
    /// Counts and digest of what is live.
    pub totals: Totals,
    /// `vv` before the last unit of writing: rows after it may still have garbage to drop.
    pub unit: VersionVector,
    /// Are rows beyond `vv` in the totals already? Only while a recovery is under way.
    pub counted: bool,
    /// The number of the last repair row: see `row.rs`.
    pub repairs: u64,
}

/// A summary's bytes.
pub fn encode_summary(summary: &Summary) -> Vec<u8> {
    let mut out = vec![0; 8];
    put_vector(&mut out, &summary.vv);
    put_vector(&mut out, &summary.floor);
    out.extend(summary.clock.last().0.to_be_bytes());
    put_number(&mut out, summary.totals.keys);
    put_number(&mut out, summary.totals.versions);
    out.extend(summary.totals.digest.0.to_be_bytes());
    put_vector(&mut out, &summary.unit);
    out.push(u8::from(summary.counted));
    put_number(&mut out, summary.repairs);
    let check = xxh3_64(&out[8..]).to_be_bytes();
    out[..8].copy_from_slice(&check);
    out
}

/// The summary that these bytes hold.
pub fn decode_summary(bytes: &[u8]) -> Result<Summary, Junk> {
    let mut from = Reader(bytes);
    if from.fixed()? != xxh3_64(from.0) {
        return Err(Junk);
    }
    let vv = from.vector()?;
    let floor = from.vector()?;
    let clock = Clock::from(Hlc(from.fixed()?));
    let (keys, versions) = (from.number()?, from.number()?);
    let digest = Digest(u128::from_be_bytes(from.array()?));
    let unit = from.vector()?;
    let counted = from.byte()? == 1;
    let repairs = from.number()?;
    let totals = Totals { keys, versions, digest };
    from.end(Summary { vv, floor, clock, totals, unit, counted, repairs })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::tests::dots;
    use super::*;

    proptest! {
        #[test]
        fn summaries_come_back(vv in dots(), floor in dots(), keys in any::<u64>(), digest in any::<u128>()) {
            let summary = Summary {
                vv: vv.iter().copied().collect(),
                floor: floor.into_iter().collect(),
                clock: Clock::from(Hlc(keys ^ 5)),
                totals: Totals { keys, versions: keys / 2, digest: Digest(digest) },
                unit: vv.into_iter().take(1).collect(),
                counted: keys % 2 == 1,
                repairs: keys / 3,
            };
            prop_assert_eq!(decode_summary(&encode_summary(&summary)), Ok(summary));
        }
    }
}
