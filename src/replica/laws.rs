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
                let held = entries[who].clone();
                entries[who] = replicas[who].write(Kind::Data, b"k".to_vec(), held, write(what), 1).entry;
            }
        }
        entries
    })
}

fn write(what: u8) -> Write {
    let value = (what != 0).then(|| (Value::Inline(vec![what]), None));
    Write { replaces: Replaces::All, value }
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
        let touch =
            author.write(Kind::Data, b"k".to_vec(), held.clone(), Write { replaces: token, value }, 1);
        let dot = touch.logged[0];
        for old in held.dots() {
            prop_assert_eq!(touch.entry.holds(old), !named.contains(&old));
        }
        prop_assert!(touch.entry.holds(dot));
        // It wins over what it saw everywhere, and kills nothing that it had not seen.
        for other in &entries {
            let both = merged(&touch.entry, other);
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
