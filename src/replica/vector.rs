//! Version vectors: for each origin, the highest seq up to which everything is known.
//!
//! The same shape serves two ideas. As a node's *version vector* it says that every event (origin, 1..=seq) is
//! incorporated in the node's trees; as an entry's *context* it says which events of one key the entry has seen.
//! Laws: `join` is commutative, associative and idempotent, and `covers` only ever grows under it.
//! (Parker et al., "Detection of mutual inconsistency in distributed systems", 1983.)

use serde::{Deserialize, Serialize};

use super::dot::{Dot, NodeId, NotAName};
use crate::limits::ORIGINS_MAX;

/// Origins in order, each with its highest seq; a missing origin stands for 0, and 0 is never stored.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(into = "Vec<Dot>", from = "Vec<Dot>")]
pub struct VersionVector(Vec<(NodeId, u64)>);

impl VersionVector {
    /// Knows nothing.
    pub const fn new() -> VersionVector {
        VersionVector(Vec::new())
    }

    /// The highest seq of `origin`, 0 when nothing is known of it.
    pub fn get(&self, origin: NodeId) -> u64 {
        self.place(origin).map_or(0, |i| self.0[i].1)
    }

    /// Is this event among the known ones?
    pub fn covers(&self, dot: Dot) -> bool {
        dot.seq <= self.get(dot.origin)
    }

    /// Is everything that `other` knows known here?
    pub fn covers_all(&self, other: &VersionVector) -> bool {
        other.iter().all(|dot| self.covers(dot))
    }

    /// From now on covers `dot`; never goes back.
    pub fn raise(&mut self, dot: Dot) {
        match self.place(dot.origin) {
            Ok(i) => self.0[i].1 = self.0[i].1.max(dot.seq),
            Err(i) if dot.seq > 0 => self.0.insert(i, (dot.origin, dot.seq)),
            Err(_) => {}
        }
    }

    /// From now on covers everything that `other` covers.
    pub fn join(&mut self, other: &VersionVector) {
        for dot in other.iter() {
            self.raise(dot);
        }
    }

    /// How many events of these origins it covers that `other` does not.
    pub fn beyond(&self, other: &VersionVector, only: impl Fn(NodeId) -> bool) -> u64 {
        let ours = self.iter().filter(|dot| only(dot.origin));
        ours.fold(0, |sum, dot| sum.saturating_add(dot.seq.saturating_sub(other.get(dot.origin))))
    }

    /// Keeps only the origins that `wanted` names.
    pub fn retain(&mut self, mut wanted: impl FnMut(NodeId) -> bool) {
        self.0.retain(|(origin, _)| wanted(*origin));
    }

    /// The highest known event of every origin, by origin.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Dot> + '_ {
        self.0.iter().map(|&(origin, seq)| Dot::new(origin, seq))
    }

    /// Knows nothing at all?
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    fn place(&self, origin: NodeId) -> Result<usize, usize> {
        self.0.binary_search_by_key(&origin, |&(o, _)| o)
    }
}

impl FromIterator<Dot> for VersionVector {
    fn from_iter<I: IntoIterator<Item = Dot>>(dots: I) -> VersionVector {
        let mut vector = VersionVector::new();
        dots.into_iter().for_each(|dot| vector.raise(dot));
        vector
    }
}

impl From<Vec<Dot>> for VersionVector {
    /// What comes from elsewhere may be large and in any order: not to be put in its place one by one.
    fn from(mut dots: Vec<Dot>) -> VersionVector {
        dots.sort_unstable();
        let mut vector: Vec<(NodeId, u64)> = Vec::with_capacity(dots.len());
        for Dot { origin, seq } in dots.into_iter().filter(|dot| dot.seq > 0) {
            match vector.last_mut() {
                Some((last, highest)) if *last == origin => *highest = seq,
                _ => vector.push((origin, seq)),
            }
        }
        VersionVector(vector)
    }
}

impl From<VersionVector> for Vec<Dot> {
    fn from(vector: VersionVector) -> Vec<Dot> {
        vector.iter().collect()
    }
}

/// The text of its dots, joined by `.`.
impl std::fmt::Display for VersionVector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (i, dot) in self.iter().enumerate() {
            if i > 0 {
                f.write_str(".")?;
            }
            std::fmt::Display::fmt(&dot, f)?;
        }
        Ok(())
    }
}

impl std::str::FromStr for VersionVector {
    type Err = NotAName;

    fn from_str(text: &str) -> Result<VersionVector, NotAName> {
        if text.split('.').count() > ORIGINS_MAX {
            return Err(NotAName);
        }
        text.split('.').map(str::parse).collect::<Result<Vec<Dot>, _>>().map(VersionVector::from)
    }
}

impl std::fmt::Debug for VersionVector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_map().entries(self.0.iter().map(|(o, s)| (o, s))).finish()
    }
}
