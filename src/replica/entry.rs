//! What one key holds: its live versions and the context that says which events of the key have been seen.
//!
//! An entry is a dotted version vector set (Almeida et al., "Scalable and Accurate Causality Tracking for Eventually
//! Consistent Stores", 2014), merged as in ServerWideClocks: a version is dropped by whoever has seen more than it.
//!
//! Laws, tested in `laws.rs`:
//! 1. `merge` is commutative, associative and idempotent over the states that runs can reach;
//! 2. a write supersedes exactly the versions it names, and its own dot is always new;
//! 3. a version that some context covers and no entry holds never comes back.
//!
//! The one merge of the project is here; this room knows neither disks nor peers nor the time.

use serde::{Deserialize, Serialize};

use super::clock::Hlc;
use super::dot::{Dot, Token};
use super::vector::VersionVector;

/// The bytes of a version, or where they are.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Value {
    /// The client's JSON text.
    Inline(#[serde(with = "serde_bytes")] Vec<u8>),
    /// A text too large for a leaf: it is kept in pieces under the version's dot.
    Chunked {
        /// Length of the whole text.
        bytes: u64,
        /// XXH3 of the whole text.
        checksum: u64,
    },
}

impl Value {
    /// Length of the text in bytes.
    pub fn bytes(&self) -> u64 {
        match self {
            Value::Inline(text) => text.len() as u64,
            Value::Chunked { bytes, .. } => *bytes,
        }
    }
}

/// One value that a key had or has, named by the event that wrote it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Version {
    /// The write that made it.
    pub dot: Dot,
    /// When, by the writer's hybrid clock.
    pub hlc: Hlc,
    /// Milliseconds since 1970 from which on every read hides it.
    pub expires_at_ms: Option<u64>,
    /// What was written.
    pub value: Value,
}

impl Version {
    /// Is it hidden from readers at this time?
    pub fn expired(&self, now_ms: u64) -> bool {
        self.expires_at_ms.is_some_and(|at| at <= now_ms)
    }

    /// What the winner has more of than any sibling: (HLC, origin), and the seq for two of one origin.
    fn rank(&self) -> (Hlc, Dot) {
        (self.hlc, self.dot)
    }

    /// Is it another version under the same name, and the later one? A node that was set back, and could not know it, gives
    /// names anew.
    fn supplants(&self, other: &Version) -> bool {
        self.dot == other.dot && self.hlc > other.hlc
    }
}

/// Everything that is known of one key.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
pub struct Entry {
    /// Live versions, the winner first; no dot stands twice.
    versions: Vec<Version>,
    /// Events of this key that have been seen, as the highest seq per origin. Covers every live version.
    context: VersionVector,
}

impl Entry {
    /// Puts an entry together as it was taken apart, by the codec for one.
    pub fn from_parts(mut versions: Vec<Version>, context: VersionVector) -> Entry {
        versions.sort_unstable_by_key(|version| std::cmp::Reverse(version.rank()));
        Entry { versions, context }
    }

    /// Live versions, the winner first.
    pub fn versions(&self) -> &[Version] {
        &self.versions
    }

    /// The events of this key that have been seen.
    pub fn context(&self) -> &VersionVector {
        &self.context
    }

    /// The versions that a reader may see at this time, the winner first.
    pub fn visible(&self, now_ms: u64) -> impl Iterator<Item = &Version> {
        self.versions.iter().filter(move |version| !version.expired(now_ms))
    }

    /// The same, with the versions themselves.
    pub fn into_visible(self, now_ms: u64) -> impl Iterator<Item = Version> {
        self.versions.into_iter().filter(move |version| !version.expired(now_ms))
    }

    /// The names of what a reader sees at this time; `None` when that is nothing.
    pub fn token(&self, now_ms: u64) -> Option<Token> {
        let dots: Vec<Dot> = self.visible(now_ms).map(|version| version.dot).collect();
        (!dots.is_empty()).then(|| Token::new(dots))
    }

    /// Is this version live here?
    pub fn holds(&self, dot: Dot) -> bool {
        self.versions.iter().any(|version| version.dot == dot)
    }

    /// The names of all live versions.
    pub fn dots(&self) -> impl Iterator<Item = Dot> + '_ {
        self.versions.iter().map(|version| version.dot)
    }

    /// Nothing lives here and nothing needs to be remembered.
    pub fn is_gone(&self) -> bool {
        self.versions.is_empty() && self.context.is_empty()
    }

    /// Is more remembered of it than its live versions need? That waits to be forgotten.
    pub fn leftover(&self) -> bool {
        let needed = |dot: Dot| self.versions.iter().any(|version| version.dot.origin == dot.origin);
        !self.context.iter().all(needed)
    }

    /// The event `dot` takes the place of the versions that `replaced` picks, which come back, and leaves `version` (or,
    /// a delete, nothing).
    pub(super) fn write(
        &mut self,
        dot: Dot,
        replaced: impl Fn(Dot) -> bool,
        version: Option<Version>,
    ) -> Vec<Version> {
        let gone = self.drop_versions(replaced);
        self.context.raise(dot);
        if let Some(version) = version {
            let place = self.versions.partition_point(|other| other.rank() > version.rank());
            self.versions.insert(place, version);
        }
        gone
    }

    /// Takes in another replica's entry of the same key. `incorporated` is our version vector from before the frame.
    /// What does not stay of ours comes back.
    ///
    /// | the version is in | and | it stays |
    /// |---|---|---|
    /// | both | | yes: the later one, should two disks have given one name to two |
    /// | ours only | their context covers it | no: they saw it go |
    /// | ours only | else | yes |
    /// | theirs only | our context or our vector covers it | no: we saw it go |
    /// | theirs only | else | yes |
    pub(super) fn merge(&mut self, theirs: &Entry, incorporated: &VersionVector) -> Vec<Version> {
        let fresh: Vec<Version> = theirs
            .versions
            .iter()
            .filter(|v| !self.holds(v.dot) && !self.context.covers(v.dot) && !incorporated.covers(v.dot))
            .cloned()
            .collect();
        let gone = self.drop_versions(|dot| !theirs.holds(dot) && theirs.context.covers(dot));
        for ours in &mut self.versions {
            if let Some(later) = theirs.versions.iter().find(|its| its.supplants(ours)) {
                *ours = later.clone();
            }
        }
        self.versions.extend(fresh);
        self.versions.sort_unstable_by_key(|version| std::cmp::Reverse(version.rank()));
        self.context.join(&theirs.context);
        gone
    }

    /// Would a merge with `theirs` change anything?
    pub(super) fn has_news(&self, theirs: &Entry, incorporated: &VersionVector) -> bool {
        theirs.dots().any(|dot| !self.holds(dot) && !incorporated.covers(dot))
            || theirs.versions.iter().any(|its| self.versions.iter().any(|ours| its.supplants(ours)))
            || self.dots().any(|dot| !theirs.holds(dot) && theirs.context.covers(dot))
            || theirs.context.iter().any(|dot| !self.context.covers(dot) && !incorporated.covers(dot))
    }

    /// Takes the picked versions out; that they were seen, the context says since they came.
    pub(super) fn drop_versions(&mut self, picked: impl Fn(Dot) -> bool) -> Vec<Version> {
        self.versions.extract_if(.., |version| picked(version.dot)).collect()
    }

    /// What every member has seen of this key need not be remembered: only what the live versions need stays.
    pub(super) fn slim(&mut self) {
        let versions = &self.versions;
        self.context.retain(|origin| versions.iter().any(|version| version.dot.origin == origin));
    }
}
