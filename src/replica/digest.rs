//! The running proof that two replicas are equal: an order-free sum of hash(key, dot) over all live versions.
//!
//! It is kept up in every commit, so that comparing two nodes, or a node with its own disk, costs one comparison. The
//! hash is part of the on-disk and wire format: XXH3 with 128 bits, seeded by the dot.

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::{xxh3_64, xxh3_128_with_seed};

use super::Kind;
use super::dot::Dot;

/// The sum; two nodes with equal version vectors must have equal ones.
#[derive(Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Digest(pub u128);

impl Digest {
    /// A live version appeared.
    pub fn add(&mut self, kind: Kind, key: &[u8], dot: Dot) {
        self.0 = self.0.wrapping_add(hash(kind, key, dot));
    }

    /// A live version went.
    pub fn remove(&mut self, kind: Kind, key: &[u8], dot: Dot) {
        self.0 = self.0.wrapping_sub(hash(kind, key, dot));
    }
}

fn hash(kind: Kind, key: &[u8], dot: Dot) -> u128 {
    let mut name = [0; 17];
    name[..8].copy_from_slice(&dot.origin.0.to_be_bytes());
    name[8..16].copy_from_slice(&dot.seq.to_be_bytes());
    name[16] = kind as u8;
    xxh3_128_with_seed(key, xxh3_64(&name))
}

impl std::fmt::Display for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:032x}", self.0)
    }
}

impl std::fmt::Debug for Digest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        std::fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replica::NodeId;

    /// The hash is part of the format: this number must never change.
    #[test]
    fn the_hash_is_frozen() {
        let mut digest = Digest::default();
        digest.add(Kind::Data, b"key", Dot::new(NodeId(1), 2));
        assert_eq!(digest.to_string(), "cd8279bdb105a8d48444ca405b50876b");
        digest.remove(Kind::Data, b"key", Dot::new(NodeId(1), 2));
        assert_eq!(digest, Digest::default());
    }
}
