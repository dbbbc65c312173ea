//! A long random run of writes, deletes, reads, conditions and tokens on few keys against a small model, with
//! restarts in between.
//!
//! The model of a key is the list of its live versions in the order of their writes: a write replaces what it
//! names, or everything; the last one written is what a reader sees, the others are its conflicts. Every answer of
//! the node must be the model's.

use std::collections::{BTreeMap, BTreeSet};

use crate::helpers::{Keys, Own, Random, dots, entry, etag, problem, removed, written};
use crate::support::Response;

const STEPS: usize = 4_000;
const RESTARTS: usize = 8;
const KEYS: usize = 4;

#[derive(Default)]
struct Model {
    /// Live versions of each key, oldest first: dot and value.
    live: BTreeMap<String, Vec<(String, String)>>,
    /// Versions that the node has shown for each key, as it spelled them.
    shown: BTreeMap<String, Vec<String>>,
    dots: BTreeSet<String>,
    /// What `/stats` counts as versions in an empty node: its own member's.
    versions_empty: u64,
}

/// The conditions and the token of one request.
#[derive(Default, Debug)]
struct Asked {
    if_match: Option<String>,
    if_none_match: Option<String>,
    token: Option<String>,
}

impl Asked {
    fn headers(&self) -> Vec<(&str, &str)> {
        let all = [
            ("If-Match", &self.if_match),
            ("If-None-Match", &self.if_none_match),
            ("Causality-Token", &self.token),
        ];
        all.into_iter().filter_map(|(name, value)| Some((name, value.as_deref()?))).collect()
    }
}

impl Model {
    fn versions(&self, key: &str) -> &[(String, String)] {
        self.live.get(key).map_or(&[], Vec::as_slice)
    }

    /// Whether a list of tags, or `*`, names the current state of `key`.
    fn names(&self, key: &str, condition: &str) -> bool {
        let live: BTreeSet<&str> = self.versions(key).iter().map(|(dot, _)| dot.as_str()).collect();
        let is = |tag: &str| {
            let version = tag.trim().trim_matches('"');
            version != "x" && dots(version).iter().map(String::as_str).collect::<BTreeSet<_>>() == live
        };
        !live.is_empty() && (condition == "*" || condition.split(',').any(is))
    }

    fn holds(&self, key: &str, asked: &Asked) -> bool {
        let held = asked.if_match.as_ref().is_none_or(|c| self.names(key, c));
        held && asked.if_none_match.as_ref().is_none_or(|c| !self.names(key, c))
    }

    /// Takes away what `token` names, or everything.
    fn replace(&mut self, key: &str, token: Option<&str>) {
        let named = token.map(dots);
        let live = self.live.entry(key.to_owned()).or_default();
        live.retain(|(dot, _)| named.as_ref().is_some_and(|dots| !dots.contains(dot)));
    }

    fn note(&mut self, key: &str, version: &str) {
        self.shown.entry(key.to_owned()).or_default().push(version.to_owned());
    }

    /// A condition's value: the current version, an old one, a list, `*`, or one that never was.
    fn condition(&self, random: &mut Random, key: &str) -> String {
        let old = self.shown.get(key).map_or("x".to_owned(), |shown| random.pick(shown).clone());
        let last =
            self.shown.get(key).and_then(|shown| shown.last().cloned()).unwrap_or_else(|| "x".to_owned());
        match random.below(5) {
            0 => "*".to_owned(),
            1 => etag(&old),
            2 => format!("\"x\", {}", etag(&last)),
            3 => format!("{},{}", etag(&old), etag(&last)),
            _ => etag(&last),
        }
    }

    fn ask(&self, random: &mut Random, key: &str) -> Asked {
        let mut asked = Asked::default();
        if random.once_in(4) {
            asked.if_match = Some(self.condition(random, key));
        }
        if random.once_in(5) {
            asked.if_none_match = Some(self.condition(random, key));
        }
        if let Some(shown) = self.shown.get(key) {
            // Mostly recent ones: what a client that read a moment ago would send.
            let recent = &shown[shown.len().saturating_sub(4)..];
            if random.once_in(2) {
                let from = if random.once_in(4) { shown } else { recent };
                asked.token = Some(random.pick(from).clone());
            }
        }
        asked
    }

    fn put(&mut self, own: &Own, random: &mut Random, key: &str) {
        let asked = self.ask(random, key);
        let size = if random.once_in(20) { random.below(100_000) } else { random.below(20) };
        let value = format!("\"{}-{}\"", random.next(), "v".repeat(size));
        let answer = own.put_with(key, &asked.headers(), &format!("{{\"value\":{value}}}"));
        if !self.holds(key, &asked) {
            problem(&answer, 412, "precondition-failed");
            return;
        }
        let status = if self.versions(key).is_empty() { 201 } else { 200 };
        let version = written(&answer, &[status]).version;
        self.replace(key, asked.token.as_deref());
        let dot = dots(&version);
        assert_eq!(dot.len(), 1, "{version}");
        assert!(self.dots.insert(version.clone()), "{version} was used before");
        self.live.entry(key.to_owned()).or_default().push((version.clone(), value));
        self.note(key, &version);
    }

    fn delete(&mut self, own: &Own, random: &mut Random, key: &str) {
        let asked = self.ask(random, key);
        let answer = own.delete(key, &asked.headers());
        if !self.holds(key, &asked) {
            problem(&answer, 412, "precondition-failed");
            return;
        }
        let before = self.versions(key).len();
        self.replace(key, asked.token.as_deref());
        if self.versions(key).len() == before {
            let (status, code) = if before > 0 { (409, "causality-token-spent") } else { (404, "not-found") };
            problem(&answer, status, code);
            return;
        }
        let (of, version) = removed(&answer);
        assert_eq!(of, key);
        assert!(self.dots.insert(version.clone()), "{version} was used before");
        self.note(key, &version);
    }

    fn get(&mut self, own: &Own, random: &mut Random, key: &str) {
        let condition = random.once_in(3).then(|| self.condition(random, key));
        let headers: Vec<(&str, &str)> = condition.iter().map(|c| ("If-None-Match", c.as_str())).collect();
        let answer = own.ask("GET", key, &headers, b"");
        if condition.is_some_and(|c| self.names(key, &c)) {
            assert_eq!(answer.status, 304, "{}", answer.text());
            return;
        }
        self.compare(key, &answer);
    }

    fn compare(&mut self, key: &str, answer: &Response) {
        let live = self.versions(key).to_vec();
        let Some((winner, others)) = live.split_last() else {
            problem(answer, 404, "not-found");
            return;
        };
        let read = entry(answer);
        assert!(read.value == winner.1, "{key}: {} instead of {}", read.value, winner.1);
        let all: BTreeSet<String> = live.iter().map(|(dot, _)| dot.clone()).collect();
        assert_eq!(dots(&read.version).into_iter().collect::<BTreeSet<_>>(), all, "{key}");
        let expected: BTreeSet<(String, String)> = others.iter().cloned().collect();
        let conflicts: BTreeSet<(String, String)> =
            read.conflicts.iter().map(|c| (c.version.clone(), c.value.clone())).collect();
        assert!(conflicts == expected, "{key}: {conflicts:?} instead of {expected:?}");
        self.note(key, &read.version);
    }

    fn compare_all(&mut self, own: &Own) {
        for key in (0..KEYS).map(|n| format!("model/{n}")) {
            self.compare(&key, &own.get(&key));
        }
        let stats = own.request("GET", "/stats", "").json();
        assert_eq!(stats["keys"], self.live.values().filter(|live| !live.is_empty()).count());
        let versions: usize = self.live.values().map(Vec::len).sum();
        assert_eq!(stats["versions"], self.versions_empty + versions as u64);
    }
}

#[test]
fn a_random_run_answers_as_the_model() {
    let mut random = Random::seeded("a_random_run_answers_as_the_model");
    let mut own = Own::start(&[]);
    let versions_empty = own.request("GET", "/stats", "").json()["versions"].as_u64().expect("a count");
    let mut model = Model { versions_empty, ..Model::default() };
    for step in 0..STEPS {
        let key = format!("model/{}", random.below(KEYS));
        match random.below(10) {
            0..5 => model.put(&own, &mut random, &key),
            5 | 6 => model.delete(&own, &mut random, &key),
            _ => model.get(&own, &mut random, &key),
        }
        if (step + 1) % (STEPS / RESTARTS) == 0 {
            model.compare_all(&own);
            if random.once_in(2) {
                own.crash()
            } else {
                own.restart()
            }
            model.compare_all(&own);
        }
    }
    assert!(model.dots.len() > STEPS / 4, "too few writes got through: {}", model.dots.len());
}
