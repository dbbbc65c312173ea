//! Holds what a running node shows against the truth: every key, with all its versions, and no other.

use std::collections::BTreeMap;

use dynarust::replica::{Dot, Token};
use serde::Deserialize;
use serde_json::Value as Json;
use serde_json::value::RawValue;

use crate::support::{Client, Node};
use crate::truth::{checksum, lines};

/// A key as it is listed.
#[derive(Deserialize)]
struct Line {
    key: String,
    #[serde(default)]
    conflicts: Vec<Shown>,
    #[serde(skip)]
    winner: Option<Shown>,
}

/// A version.
#[derive(Deserialize)]
struct Shown {
    value: Box<RawValue>,
    version: String,
    updated_at: String,
    origin: String,
    expires_at: Option<String>,
}

impl Line {
    fn of(text: &str) -> Line {
        let line: Line = serde_json::from_str(text).expect("an object a line");
        Line { winner: Some(serde_json::from_str(text).expect("a version")), ..line }
    }
}

/// Are versions called as they were?
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Names {
    Kept,
    /// They are another node's now.
    New,
}

/// What readers should see of a key.
type Seen = Vec<[String; 4]>;

/// Asks for all keys, in one list and some one by one.
pub fn holds(node: &Node, truth: &str, names: Names, context: &str) {
    let listed = node.request("GET", "/keys", "");
    assert_eq!(listed.status, 200, "{context}: {}", listed.text());
    let found: Vec<Line> = listed.text().lines().map(Line::of).collect();
    let found: BTreeMap<String, Seen> =
        found.into_iter().map(|line| (line.key.clone(), seen(line, names))).collect();
    let expected: BTreeMap<String, Seen> =
        lines(truth).iter().filter_map(|line| expected(line, names)).collect();
    assert!(expected.len() > 100, "{context}: hardly anything is true");
    for (key, seen) in &expected {
        assert_eq!(found.get(key), Some(seen), "{context}: {key:?}");
    }
    assert!(found.keys().eq(expected.keys()), "{context}: keys that should not be there");
    let mut client = Client::new(node.address);
    for (key, shown) in &expected {
        let answer = client.request("GET", &format!("/key/{}", path(key)), &[], b"").expect("an answer");
        assert_eq!(answer.status, 200, "{context}: {key:?}");
        assert_eq!(&seen(Line::of(answer.text()), names), shown, "{context}: {key:?}");
    }
    for line in lines(truth).iter().filter(|line| line["versions"] == Json::Array(Vec::new())) {
        let Some(key) = line["key"].as_str() else { continue };
        let answer = client.request("GET", &format!("/key/{}", path(key)), &[], b"").expect("an answer");
        assert_eq!(answer.status, 404, "{context}: {key:?} was deleted");
    }
}

fn seen(line: Line, names: Names) -> Seen {
    let row = |shown: Shown| {
        let Shown { value, version, updated_at, origin, expires_at } = shown;
        let name = if names == Names::Kept { format!("{version} of {origin}") } else { String::new() };
        [name, updated_at, expires_at.unwrap_or_default(), checksum(value.get().as_bytes())]
    };
    line.winner.into_iter().chain(line.conflicts).map(row).collect()
}

fn expected(line: &Json, names: Names) -> Option<(String, Seen)> {
    let key = line["key"].as_str()?.to_owned();
    let versions = line["versions"].as_array().expect("versions");
    let dots: Vec<Dot> = versions
        .iter()
        .map(|version| version["version"].as_str().expect("a name").parse().expect("a dot"))
        .collect();
    let row = |(at, version): (usize, &Json)| {
        let number = |name: &str| version[name].as_u64();
        let name = if at == 0 { Token::new(dots.clone()).to_string() } else { dots[at].to_string() };
        let expires =
            number("expires_at_ms").filter(|_| at == 0).map(dynarust::time::text).unwrap_or_default();
        let origin = dots[at].origin;
        let name = if names == Names::Kept { format!("{name} of {origin}") } else { String::new() };
        let written = dynarust::time::text(number("hlc").expect("a time") >> 16);
        [name, written, expires, version["xxh3"].as_str().expect("a checksum").to_owned()]
    };
    let seen: Seen = versions.iter().enumerate().map(row).collect();
    (!seen.is_empty()).then_some((key, seen))
}

/// The checksums of the values in a line, the winner's first.
pub fn values(line: &str) -> Vec<String> {
    #[derive(Deserialize)]
    struct Line {
        value: Box<RawValue>,
        #[serde(default)]
        conflicts: Vec<Line>,
    }
    let line: Line = serde_json::from_str(line).expect("an object a line");
    let all = std::iter::once(&line).chain(&line.conflicts);
    all.map(|shown| checksum(shown.value.get().as_bytes())).collect()
}

/// A key as a path has it, every byte that may mean something there in hex.
pub fn path(key: &str) -> String {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.~/".contains(&byte);
    let shown = |byte: u8| if plain(byte) { char::from(byte).to_string() } else { format!("%{byte:02X}") };
    key.bytes().map(shown).collect()
}
