//! Who belongs to the cluster, by what the records of a node say.
//!
//! A membership begins when a member takes a node in, and goes on under whatever address. It ends when its record is deleted,
//! as a node that leaves does, or when a *mark* takes its place: the node was evicted. Records that did not see each other stand
//! side by side, like all siblings; a mark wins against every record of its membership or of an earlier one, whoever wrote
//! that, and loses against a later membership. So who holds the same records names the same members, whatever came first.
//!
//! Nothing here depends on a clock, or on who asks.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

use super::dot::Dot;
use super::entry::{Entry, Value, Version};

/// A member, as its record in the membership tree has it.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq, Default)]
pub struct Member {
    /// Where it is reached, as host:port.
    pub address: String,
    /// When it joined, in ms since 1970: names this membership among all of the node.
    pub joined_at_ms: u64,
    /// When it was evicted, in ms since 1970: then this is the mark that says so.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub evicted_at_ms: Option<u64>,
}

impl Member {
    /// The record's JSON.
    pub fn text(&self) -> Vec<u8> {
        // A struct of a string and numbers has no way to fail.
        serde_json::to_vec(self).unwrap_or_default()
    }

    /// What a record says. One that can't be read stands for a member of whom nothing else is known: it can be evicted.
    pub fn of(text: &[u8]) -> Member {
        serde_json::from_slice(text).unwrap_or_default()
    }
}

/// All records of one node, the winner first, each with its name.
#[derive(Debug, Clone, Default)]
pub struct Records(Vec<(Dot, Member)>);

impl Records {
    /// These, the winner first.
    pub fn new(records: Vec<(Dot, Member)>) -> Records {
        Records(records)
    }

    /// What an entry says whose texts are all in it, as those are that nodes send each other.
    pub fn told(entry: &Entry) -> Records {
        let record = |version: &Version| match &version.value {
            Value::Inline(text) => (version.dot, Member::of(text)),
            Value::Chunked { .. } => (version.dot, Member::default()),
        };
        Records(entry.versions().iter().map(record).collect())
    }

    /// The names of all of them.
    pub fn dots(&self) -> impl Iterator<Item = Dot> + '_ {
        self.0.iter().map(|(dot, _)| *dot)
    }

    /// Where any of them says that the node is reached.
    pub fn addresses(&self) -> BTreeSet<String> {
        self.0.iter().map(|(_, record)| record.address.clone()).collect()
    }

    /// Is this all that there is?
    pub fn are(&self, record: &Member) -> bool {
        matches!(self.0.as_slice(), [(_, only)] if only == record)
    }

    /// The last membership that an eviction ended.
    fn ended(&self) -> Option<u64> {
        self.0
            .iter()
            .filter(|(_, record)| record.evicted_at_ms.is_some())
            .map(|(_, mark)| mark.joined_at_ms)
            .max()
    }

    /// The membership that no eviction has ended, if there is one: the last, and the address that was written last.
    pub fn standing(&self) -> Option<Member> {
        self.stands_by().map(|(_, record)| record)
    }

    /// The same, with the name of the record that has the address.
    pub fn stands_by(&self) -> Option<(Dot, Member)> {
        let ended = self.ended();
        let stands = |(_, record): &&(Dot, Member)| {
            record.evicted_at_ms.is_none() && ended.is_none_or(|at| record.joined_at_ms > at)
        };
        let mut standing = self.0.iter().filter(stands);
        let (dot, first) = standing.next()?;
        let joined_at_ms = standing.map(|(_, record)| record.joined_at_ms).fold(first.joined_at_ms, u64::max);
        Some((*dot, Member { joined_at_ms, ..first.clone() }))
    }

    /// The mark of an eviction, if the node was evicted and is no member.
    pub fn mark(&self) -> Option<(Dot, &Member)> {
        let mark = self.0.iter().find(|(_, record)| record.evicted_at_ms.is_some());
        mark.filter(|_| self.standing().is_none()).map(|(dot, mark)| (*dot, mark))
    }

    /// What takes the place of all of them when the node is evicted at this time; `None` when it is no member.
    pub fn evicted(&self, now_ms: u64) -> Option<Member> {
        self.standing().map(|standing| Member { evicted_at_ms: Some(now_ms), ..standing })
    }

    /// Has an eviction ended the membership that began at this time, and no later one begun?
    pub fn has_ended(&self, joined_at_ms: u64) -> bool {
        self.standing().is_none() && self.ended().is_some_and(|at| at >= joined_at_ms)
    }

    /// What takes the place of all of them when the node is taken in at this time, or is a member already and is reached there:
    /// a membership that begins is later than any that was ended, whatever the clocks say.
    pub fn taken_in(&self, address: String, now_ms: u64) -> Member {
        match self.standing() {
            Some(known) => Member { address, ..known },
            None => {
                let joined_at_ms = self.ended().map_or(now_ms, |at| now_ms.max(at.saturating_add(1)));
                Member { address, joined_at_ms, evicted_at_ms: None }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::replica::NodeId;

    fn record(joined_at_ms: u64, evicted: bool) -> Member {
        Member { address: format!("a:{joined_at_ms}"), joined_at_ms, evicted_at_ms: evicted.then_some(9) }
    }

    fn records(of: &[(u64, bool)]) -> Records {
        let named =
            |(seq, (at, evicted)): (u64, &(u64, bool))| (Dot::new(NodeId(1), seq), record(*at, *evicted));
        Records::new((1..).zip(of).map(named).collect())
    }

    #[test]
    fn a_mark_wins_against_its_membership_and_earlier_ones_only() {
        for (of, stands) in [
            (&[][..], None),
            (&[(5, false)], Some(5)),
            (&[(5, true)], None),
            (&[(5, false), (5, true)], None),
            (&[(5, true), (4, false)], None),
            (&[(5, true), (6, false)], Some(6)),
            (&[(5, true), (7, true), (6, false)], None),
            (&[(5, false), (6, false)], Some(6)),
        ] {
            let here = records(of);
            assert_eq!(here.standing().map(|member| member.joined_at_ms), stands, "{of:?}");
            // Whatever came first.
            let mut other: Vec<_> = of.to_vec();
            other.reverse();
            assert_eq!(records(&other).standing().is_some(), stands.is_some(), "{of:?}");
            assert_eq!(here.mark().is_some(), stands.is_none() && !of.is_empty(), "{of:?}");
        }
    }

    #[test]
    fn who_is_taken_in_again_is_in_whatever_the_clock_says() {
        let evicted = records(&[(5, true), (5, false)]);
        let again = evicted.taken_in("b:1".into(), 3);
        assert_eq!((again.joined_at_ms, again.address.as_str(), again.evicted_at_ms), (6, "b:1", None));
        assert_eq!(evicted.taken_in("b:1".into(), 9).joined_at_ms, 9);
        // One that only moves is the same member.
        assert_eq!(records(&[(5, false)]).taken_in("b:1".into(), 9).joined_at_ms, 5);
    }

    #[test]
    fn an_eviction_ends_every_membership_that_it_has_seen() {
        assert_eq!(records(&[(5, false), (6, false)]).evicted(9).map(|mark| mark.joined_at_ms), Some(6));
        assert_eq!(records(&[(5, true)]).evicted(9), None);
    }

    #[test]
    fn an_eviction_has_ended_its_membership_and_earlier_ones() {
        let evicted = records(&[(5, true), (4, false)]);
        assert!([4, 5].iter().all(|at| evicted.has_ended(*at)) && !evicted.has_ended(6));
        assert!(!records(&[(5, true), (6, false)]).has_ended(5), "it is in again");
        assert!(!records(&[(5, false)]).has_ended(5) && !records(&[]).has_ended(5));
    }

    #[test]
    fn records_of_earlier_releases_are_read_and_read_there() {
        let old = br#"{"address":"a:5","joined_at_ms":5}"#;
        assert_eq!(Member::of(old), record(5, false));
        assert_eq!(record(5, false).text(), old);
        let mark = Member::of(&record(5, true).text());
        assert_eq!(mark.evicted_at_ms, Some(9));
        assert_eq!(Member::of(b"?"), Member::default());
    }
}
