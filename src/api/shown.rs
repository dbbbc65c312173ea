//! A key as its readers see it: the JSON of a GET, and of a line in a list of keys.

use crate::replica::{Token, Version};
use crate::storage::Shown;
use crate::time;

/// What a GET answers: the winner, and under `conflicts` its siblings.
pub fn body(key: &[u8], shown: &[Shown], token: &Token) -> Vec<u8> {
    let bytes: usize = shown.iter().map(|(_, text)| text.len() + 128).sum();
    let mut body = Vec::with_capacity(64 + key.len() + bytes);
    object(&mut body, key, shown, token);
    body
}

/// The same as a line of a list. Line ends are only white space between the tokens of a value, so blanks do as well.
pub fn line(out: &mut Vec<u8>, key: &[u8], shown: &[Shown]) {
    let start = out.len();
    let token = Token::new(shown.iter().map(|(version, _)| version.dot).collect());
    object(out, key, shown, &token);
    out[start..].iter_mut().filter(|byte| matches!(byte, b'\n' | b'\r')).for_each(|byte| *byte = b' ');
    out.push(b'\n');
}

fn object(out: &mut Vec<u8>, key: &[u8], shown: &[Shown], token: &Token) {
    out.extend_from_slice(b"{\"key\":");
    quote(out, key);
    for (i, (seen, text)) in shown.iter().enumerate() {
        match i {
            0 => out.push(b','),
            1 => out.extend_from_slice(b",\"conflicts\":[{"),
            _ => out.extend_from_slice(b"},{"),
        }
        let name = if i == 0 { token.to_string() } else { seen.dot.to_string() };
        version(out, seen, text, &name);
        if let (0, Some(at)) = (i, seen.expires_at_ms) {
            member(out, "expires_at", &time::text(at));
        }
    }
    out.extend_from_slice(if shown.len() > 1 { b"}]}" } else { b"}" });
}

/// `"value":…,"version":…,"updated_at":…,"origin":…`
fn version(out: &mut Vec<u8>, version: &Version, text: &[u8], name: &str) {
    out.extend_from_slice(b"\"value\":");
    out.extend_from_slice(text);
    member(out, "version", name);
    member(out, "updated_at", &time::text(version.hlc.ms()));
    member(out, "origin", &version.dot.origin.to_string());
}

/// `,"name":"text"` for text that needs no escapes.
pub fn member(out: &mut Vec<u8>, name: &str, text: &str) {
    for piece in [",\"", name, "\":\"", text, "\""] {
        out.extend_from_slice(piece.as_bytes());
    }
}

/// A key as a JSON string; keys are UTF-8, checked when they come in.
pub fn quote(out: &mut Vec<u8>, key: &[u8]) {
    let key = String::from_utf8_lossy(key);
    // Writing into memory does not fail.
    let _ = serde_json::to_writer(out, &key);
}
