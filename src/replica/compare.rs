//! Two replicas' entries of one key, side by side: what each holds that the other does not, who is ahead, and whether that
//! can be.
//!
//! A version that one side holds and the other does not is either unheard of there, or was dropped there: its events are covered.
//! Who drops a version does so because of a newer event of the key. If the holder knows all that the dropper knows of the key,
//! and all that the dropper has ever forgotten, there is no such event, and the two differ by no rule.

use super::dot::Dot;
use super::entry::Entry;
use super::vector::VersionVector;

/// One of two replicas, as far as one key goes.
#[derive(Clone, Copy)]
pub struct Side<'a> {
    /// What it knows of the key.
    pub entry: &'a Entry,
    /// What it has incorporated.
    pub vv: &'a VersionVector,
    /// What it has forgotten.
    pub floor: &'a VersionVector,
}

/// How the first of two replicas stands to the second, for one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Standing {
    /// Both hold the same versions.
    Alike,
    /// The second has yet to hear what the first has.
    Ahead,
    /// So it is, and what that is deletes the key.
    GoneHere,
    /// The first has yet to hear what the second has.
    Behind,
    /// So it is, and what that is deletes the key.
    GoneThere,
    /// Each has something that the other has yet to hear.
    Concurrent,
    /// They hold different versions, though neither lacks anything: that can't be.
    Diverged,
}

/// Why a replica does not hold a version that the other one holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Lack {
    /// It has not heard of it.
    Unheard,
    /// Something newer took its place there, or deleted it.
    Dropped,
    /// It has heard of it, and of nothing newer.
    Unexplained,
}

/// What is held on one side only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Apart {
    /// How the first side stands.
    pub standing: Standing,
    /// Versions that only the first holds, and why the second does not.
    pub here: Vec<(Dot, Lack)>,
    /// Versions that only the second holds, and why the first does not.
    pub there: Vec<(Dot, Lack)>,
}

/// Compares what two replicas hold of a key, by name only.
pub fn compare(here: Side, there: Side) -> Apart {
    let only_here = lacks(there, here);
    let only_there = lacks(here, there);
    // What a merge would give to the second, and to the first.
    let has = |own: &[(Dot, Lack)], others: &[(Dot, Lack)]| {
        own.iter().any(|(_, lack)| *lack == Lack::Unheard)
            || others.iter().any(|(_, lack)| *lack != Lack::Unheard)
    };
    let unexplained = only_here.iter().chain(&only_there).any(|(_, lack)| *lack == Lack::Unexplained);
    let standing = match (has(&only_here, &only_there), has(&only_there, &only_here)) {
        _ if unexplained => Standing::Diverged,
        (false, false) => Standing::Alike,
        (true, true) => Standing::Concurrent,
        (true, false) if here.entry.versions().is_empty() => Standing::GoneHere,
        (true, false) => Standing::Ahead,
        (false, true) if there.entry.versions().is_empty() => Standing::GoneThere,
        (false, true) => Standing::Behind,
    };
    Apart { standing, here: only_here, there: only_there }
}

/// What `holder` holds and `side` does not, and why.
fn lacks(side: Side, holder: Side) -> Vec<(Dot, Lack)> {
    let knows = |side: &Side, dot: Dot| side.vv.covers(dot) || side.entry.context().covers(dot);
    let newer = side.entry.context().iter().any(|dot| !knows(&holder, dot));
    // Of what it has forgotten, no context tells.
    let explained = newer || !holder.vv.covers_all(side.floor);
    let why = |dot: Dot| match (knows(&side, dot), explained) {
        (false, _) => Lack::Unheard,
        (true, false) => Lack::Unexplained,
        (true, true) => Lack::Dropped,
    };
    let missing = holder.entry.dots().filter(|dot| !side.entry.holds(*dot));
    missing.map(|dot| (dot, why(dot))).collect()
}

#[cfg(test)]
mod tests {
    use super::super::clock::Hlc;
    use super::super::dot::NodeId;
    use super::super::entry::{Value, Version};
    use super::*;

    const A: NodeId = NodeId(1);
    const B: NodeId = NodeId(2);

    fn dot(origin: NodeId, seq: u64) -> Dot {
        Dot::new(origin, seq)
    }

    fn vector(dots: &[Dot]) -> VersionVector {
        dots.iter().copied().collect()
    }

    fn entry(live: &[Dot], seen: &[Dot]) -> Entry {
        let version = |dot: &Dot| Version {
            dot: *dot,
            hlc: Hlc(dot.seq),
            expires_at_ms: None,
            value: Value::Inline(vec![]),
        };
        Entry::from_parts(live.iter().map(version).collect(), live.iter().chain(seen).copied().collect())
    }

    /// Each side: what lives, what its context has seen beside that, its vector, its floor.
    type Given<'a> = (&'a [Dot], &'a [Dot], &'a [Dot], &'a [Dot]);

    fn standing(here: Given, there: Given) -> Standing {
        let parts = |(live, seen, vv, floor): Given| (entry(live, seen), vector(vv), vector(floor));
        let (one, two) = (parts(here), parts(there));
        let found = compare(side(&one), side(&two)).standing;
        let turned = compare(side(&two), side(&one)).standing;
        let mirror = match found {
            Standing::Ahead => Standing::Behind,
            Standing::Behind => Standing::Ahead,
            Standing::GoneHere => Standing::GoneThere,
            Standing::GoneThere => Standing::GoneHere,
            same => same,
        };
        assert_eq!(turned, mirror);
        found
    }

    fn side((entry, vv, floor): &(Entry, VersionVector, VersionVector)) -> Side<'_> {
        Side { entry, vv, floor }
    }

    #[test]
    fn who_has_heard_more_is_ahead() {
        let old: Given = (&[dot(A, 1)], &[], &[dot(A, 1)], &[]);
        let nothing: Given = (&[], &[], &[], &[]);
        assert_eq!(standing(old, old), Standing::Alike);
        assert_eq!(standing(old, nothing), Standing::Ahead);
        assert_eq!(standing((&[dot(A, 2)], &[], &[dot(A, 2)], &[]), old), Standing::Ahead);
        assert_eq!(standing((&[], &[dot(A, 2)], &[dot(A, 2)], &[]), old), Standing::GoneHere);
        // A delete that everybody had seen, as far as the second was one of them, and that is forgotten.
        assert_eq!(standing((&[], &[], &[dot(A, 2)], &[dot(A, 2)]), old), Standing::GoneHere);
        // An entry that came ahead of its event.
        assert_eq!(standing((&[dot(A, 2)], &[], &[dot(A, 1)], &[]), old), Standing::Ahead);
        // Both wrote over the old one, neither has heard of the other.
        let theirs: Given = (&[dot(B, 1)], &[dot(A, 1)], &[dot(A, 1), dot(B, 1)], &[]);
        assert_eq!(standing((&[dot(A, 2)], &[], &[dot(A, 2)], &[]), theirs), Standing::Concurrent);
        // A delete that leaves no trace in what is live once it has met a write.
        assert_eq!(standing((&[], &[dot(A, 2)], &[dot(A, 2)], &[]), theirs), Standing::Behind);
        // A sibling more.
        let siblings: Given = (&[dot(A, 1), dot(B, 1)], &[], &[dot(A, 1), dot(B, 1)], &[]);
        assert_eq!(standing(siblings, old), Standing::Ahead);
    }

    #[test]
    fn what_nothing_explains_is_a_fault() {
        let both = [dot(A, 5), dot(B, 5)];
        let holds: Given = (&[dot(A, 1)], &[], &both, &both);
        let gone: Given = (&[], &[], &both, &both);
        assert_eq!(standing(holds, gone), Standing::Diverged);
        // Whoever else is ahead elsewhere: of this key nobody lacks anything.
        let ahead = [dot(A, 9), dot(B, 5)];
        assert_eq!(standing(holds, (&[], &[], &ahead, &both)), Standing::Diverged);
        assert_eq!(standing((&[dot(A, 1)], &[], &ahead, &ahead), gone), Standing::Diverged);
        // It may have been forgotten while the first was away.
        assert_eq!(standing(holds, (&[], &[], &ahead, &ahead)), Standing::GoneThere);
        // Two live versions, each dropped by the other.
        assert_eq!(standing(holds, (&[dot(B, 2)], &[], &both, &both)), Standing::Diverged);
    }
}
