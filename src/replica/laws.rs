//! The laws of `merge` and `write`, as properties over entries that real runs reach.
//!
//! Entries are not made up freely: three replicas write one key and merge each other's entries in a random order, so
//! that dots are unique and contexts true. The vectors are left empty, which is the harder case: contexts alone must do.

use proptest::prelude::*;

use super::*;

/// Three replicas of one key, and what happened to them.
fn reached() -> impl Strategy<Value = Vec<Entry>> {
    proptest::collection::vec((0..3usize, 0..4u8, 0..3usize), 0..40).prop_map(|steps| {
        let mut replicas: Vec<Replica> = (1..=3).map(|id| Replica::new(NodeId(id))).collect();
        // Nobody forgets: each waits for a member that never speaks.
        replicas.iter_mut().for_each(|replica| replica.admit(NodeId(99)));
        let mut entries = vec![Entry::default(); 3];
        for (who, what, other) in steps {
            if what == 3 && who != other {
                let theirs = entries[other].clone();
                entries[who].merge(&theirs, &VersionVector::new());
            } else {
                entries[who] = written(&mut replicas[who], &entries[who], write(what)).1;
            }
        }
        entries
    })
}

fn write(what: u8) -> Write {
    let value = (what != 0).then(|| (Value::Inline(vec![what]), None));
    Write { replaces: Replaces::All, value }
}

/// Trees that hold one entry, whatever is asked for.
struct Only<'a>(&'a Entry);

impl Trees for Only<'_> {
    type Error = std::convert::Infallible;

    fn entry(&self, _: Kind, _: &[u8]) -> Result<Entry, Self::Error> {
        Ok(self.0.clone())
    }

    fn changes(&self, _: NodeId, _: u64, _: u64) -> Result<Vec<Change>, Self::Error> {
        Ok(Vec::new())
    }

    fn entries_after(&self, _: Option<&(Kind, Vec<u8>)>, _: usize) -> Result<Vec<Held>, Self::Error> {
        Ok(Vec::new())
    }
}

/// The event that this write is, and what the key holds after it.
fn written(replica: &mut Replica, held: &Entry, write: Write) -> (Dot, Entry) {
    let mut unit = Unit::new();
    let Ok(place) = unit.load(Kind::Data, b"k", &Only(held));
    let dot = replica.write(&mut unit, place, write, 1);
    (dot, unit.at(place).entry.clone())
}

fn merged(a: &Entry, b: &Entry) -> Entry {
    let mut out = a.clone();
    out.merge(b, &VersionVector::new());
    out
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn merge_is_commutative(entries in reached()) {
        prop_assert_eq!(merged(&entries[0], &entries[1]), merged(&entries[1], &entries[0]));
    }

    #[test]
    fn merge_is_associative(entries in reached()) {
        let left = merged(&merged(&entries[0], &entries[1]), &entries[2]);
        let right = merged(&entries[0], &merged(&entries[1], &entries[2]));
        prop_assert_eq!(left, right);
    }

    #[test]
    fn merge_is_idempotent(entries in reached()) {
        prop_assert_eq!(merged(&entries[0], &entries[0]), entries[0].clone());
        let once = merged(&entries[0], &entries[1]);
        prop_assert_eq!(merged(&once, &entries[1]), once);
    }

    #[test]
    fn a_write_supersedes_what_it_saw_and_nothing_else(entries in reached(), named in any::<u8>()) {
        // A replica that has seen nothing of its own yet writes over what replica 0 holds, with and without a token.
        let held = &entries[0];
        let named: Vec<Dot> =
            held.dots().enumerate().filter(|(i, _)| named & (1 << i) != 0).map(|(_, dot)| dot).collect();
        let mut author = Replica::new(NodeId(4));
        author.admit(NodeId(99));
        let token = Replaces::Named(Token::new(named.clone()));
        let value = Some((Value::Inline(vec![9]), None));
        let (dot, entry) = written(&mut author, held, Write { replaces: token, value });
        for old in held.dots() {
            prop_assert_eq!(entry.holds(old), !named.contains(&old));
        }
        prop_assert!(entry.holds(dot));
        // It wins over what it saw everywhere, and kills nothing that it had not seen.
        for other in &entries {
            let both = merged(&entry, other);
            prop_assert!(both.holds(dot));
            prop_assert!(named.iter().all(|&old| !both.holds(old)));
            let unseen = other.dots().filter(|&d| !held.context().covers(d));
            prop_assert!(unseen.into_iter().all(|d| both.holds(d)));
        }
    }

    #[test]
    fn what_a_context_covers_never_comes_back(entries in reached()) {
        let both = merged(&entries[0], &entries[1]);
        for old in entries[1].dots().filter(|&d| entries[0].context().covers(d) && !entries[0].holds(d)) {
            prop_assert!(!both.holds(old));
        }
    }

    #[test]
    fn the_winner_is_the_same_whoever_merges(entries in reached()) {
        let one = merged(&merged(&entries[0], &entries[1]), &entries[2]);
        let two = merged(&merged(&entries[2], &entries[1]), &entries[0]);
        prop_assert_eq!(one.dots().next(), two.dots().next());
    }
}

/// A unit that is cut off keeps its entries but not the events that it took in from elsewhere, so what such an event
/// makes stable must not be forgotten in the same unit.
#[test]
fn nothing_is_forgotten_for_an_event_of_the_same_unit() {
    let (one, two) = (NodeId(1), NodeId(2));
    let version = |seq| Version {
        dot: Dot::new(two, seq),
        hlc: Hlc::at_ms(1),
        expires_at_ms: None,
        value: Value::Inline(vec![7]),
    };
    // A delete that has seen an event of the other node, whose number is not incorporated yet.
    let context: VersionVector = [Dot::new(one, 1), Dot::new(two, 2)].into_iter().collect();
    let held = Entry::from_parts(Vec::new(), context);
    let vv: VersionVector = [Dot::new(one, 1)].into_iter().collect();
    let mut replica = Replica::resume(one, vv, VersionVector::new(), Clock::default(), Totals::default());
    let entry = Entry::from_parts(vec![version(2)], [Dot::new(two, 2)].into_iter().collect());
    let change = |seq| Change { seq, kind: Kind::Data, key: b"k".to_vec() };
    let range = Range { origin: two, after: 0, through: 2, changes: vec![change(1), change(2)] };
    let vv: VersionVector = [Dot::new(two, 2)].into_iter().collect();
    let frame = Frame {
        sender: two,
        vv,
        digest: Digest::default(),
        ranges: vec![range],
        entries: vec![(Kind::Data, b"k".to_vec(), entry)],
    };
    let mut unit = Unit::new();
    let Ok(()) = replica.receive(&frame, &mut unit, &Only(&held), 1);
    let Ok(place) = unit.load(Kind::Data, b"k", &Only(&held));
    let value = Some((Value::Inline(vec![9]), None));
    replica.write(&mut unit, place, Write { replaces: Replaces::All, value }, 1);
    assert!(unit.at(place).entry.context().covers(Dot::new(two, 2)), "it may come again, and must stay dead");
    // Once that is on the disk, it may.
    let held = unit.at(place).entry.clone();
    let mut unit = Unit::new();
    let Ok(place) = unit.load(Kind::Data, b"k", &Only(&held));
    replica.forget(&mut unit, place);
    assert!(!unit.at(place).entry.context().covers(Dot::new(two, 2)));
}

/// Every key of a comparison may take the place of a large value here.
#[test]
fn a_comparison_puts_aside_no_more_at_a_time_than_a_commit_may() {
    let (one, two) = (NodeId(1), NodeId(2));
    let version = |dot, value| Version { dot, hlc: Hlc::at_ms(1), expires_at_ms: None, value };
    let large = Value::Chunked { bytes: crate::limits::COMMIT_DISCARD_BYTES_MAX, checksum: 0 };
    let old = Dot::new(one, 1);
    let held = Entry::from_parts(vec![version(old, large)], [old].into_iter().collect());
    let vv: VersionVector = [Dot::new(one, 9), Dot::new(two, 9)].into_iter().collect();
    let entry = |seq| {
        let new = Dot::new(two, seq);
        let context = [old, new].into_iter().collect();
        Entry::from_parts(vec![version(new, Value::Inline(vec![7]))], context)
    };
    let entries = (1..=3).map(|seq| (Kind::Data, vec![seq as u8], entry(seq))).collect();
    let target = VersionVector::new();
    let mut sweep = Sweep { sender: two, target, vv: vv.clone(), after: None, through: None, entries };
    let mut replica = Replica::resume(one, vv, VersionVector::new(), Clock::default(), Totals::default());
    for taken in 1..=3 {
        let mut unit = Unit::new();
        let Ok(done) = replica.take_sweep(sweep.clone(), 9, &mut unit, &Only(&held), 1);
        assert_eq!(unit.changes().count(), 1);
        match done {
            Taken::Part(rest) => sweep = rest,
            done => assert!(matches!(done, Taken::Whole) && taken == 3, "{taken}"),
        }
    }
}
