//! A line of a file, and what it says of a key. Every fault is told with its place.
//!
//! | member | |
//! |---|---|
//! | `key` | 1 to 1,024 bytes |
//! | `value` | any JSON, kept as it is written |
//! | `expires_at`, `ttl_seconds` | one of them at most: a time of RFC 3339, or seconds from the import on; null is none |
//! | `version`, `updated_at`, `origin`, `conflicts` | read by people and programs, not by an import |
//! | `stale`, `incomplete` | refused: salvage marks so what somebody should look at |
//!
//! Another member is a fault: a misspelt one must not do nothing in silence.

use jiff::Timestamp;

use crate::api::listed;
use crate::cli::Format;
use crate::limits::{KEY_BYTES_MAX, TTL_SECONDS_MAX, VALUE_BYTES_MAX};

/// A key to be written.
#[derive(Debug, PartialEq)]
pub struct Line {
    pub key: String,
    /// The JSON text of its value.
    pub value: String,
    pub life: Life,
}

/// How long it lives.
#[derive(Debug, PartialEq)]
pub enum Life {
    /// Until it is deleted.
    Open,
    /// Until then, in ms since 1970.
    Until(u64),
    /// So many seconds, as the line writes them.
    Seconds(String),
}

impl Line {
    /// Seconds that it has left, as a node reads them, or none to tell; `Err` when its time has come.
    pub fn left(&self, now_ms: u64) -> Result<Option<String>, Expired> {
        match &self.life {
            Life::Open => Ok(None),
            Life::Seconds(text) => Ok(Some(text.clone())),
            Life::Until(at) if *at <= now_ms => Err(Expired),
            Life::Until(at) => {
                let seconds = ((at - now_ms) as f64 / 1_000.0).min(TTL_SECONDS_MAX);
                Ok(Some(format!("{seconds:.3}")))
            }
        }
    }
}

/// There is nothing left of its time.
#[derive(Debug, PartialEq)]
pub struct Expired;

/// Reads a line, without its end; `None` when it is blank.
pub fn read(line: &[u8], format: Format) -> Result<Option<Line>, String> {
    if line.iter().all(u8::is_ascii_whitespace) {
        return Ok(None);
    }
    let line = match format {
        Format::Ndjson => object(line)?,
        Format::FirstDynarust => pair(line)?,
    };
    if line.key.is_empty() || line.key.len() > KEY_BYTES_MAX {
        return Err(format!("a key has 1 to {KEY_BYTES_MAX} bytes, this one has {}", line.key.len()));
    }
    if line.value.len() > VALUE_BYTES_MAX {
        return Err(format!("no node takes a value of more than {VALUE_BYTES_MAX} bytes"));
    }
    Ok(Some(line))
}

fn object(line: &[u8]) -> Result<Line, String> {
    let members = listed(line).map_err(|fault| format!("{}, at column {}", fault.what, fault.column))?;
    let (mut key, mut value, mut life) = (None, None, Life::Open);
    for member in &members {
        let name = member.name.as_ref();
        let wrong = |what: &str| Err(format!("{name} is {}: it should be {what}", shortened(member.text)));
        match name {
            "key" => match serde_json::from_str::<String>(member.text) {
                Ok(text) => key = Some(text),
                Err(_) => return wrong("a string"),
            },
            "value" => value = Some(member.text.to_owned()),
            "expires_at" | "ttl_seconds" if member.text == "null" => {}
            "expires_at" | "ttl_seconds" if life != Life::Open => {
                return Err("expires_at and ttl_seconds stand together: one of them is enough".into());
            }
            "expires_at" => {
                match serde_json::from_str(member.text).map(|text: String| text.parse::<Timestamp>()) {
                    Ok(Ok(at)) => life = Life::Until(at.as_millisecond().try_into().unwrap_or(0)),
                    _ => return wrong("a time such as \"2026-11-22T10:00:00.123Z\""),
                }
            }
            "ttl_seconds" => match member.text.parse::<f64>() {
                Ok(seconds) if seconds > 0.0 && seconds <= TTL_SECONDS_MAX => {
                    life = Life::Seconds(member.text.to_owned());
                }
                _ => return wrong(&format!("a number above 0 and up to {TTL_SECONDS_MAX}")),
            },
            "version" | "updated_at" | "origin" | "conflicts" => {}
            "stale" => return Err(STALE.into()),
            "incomplete" => return Err(INCOMPLETE.into()),
            _ => {
                return Err(format!(
                    "unknown member {name:?}: a line is {{\"key\": …, \"value\": …, \"expires_at\"?: … or \"ttl_seconds\"?: …}}"
                ));
            }
        }
    }
    let key = key.ok_or("the member \"key\" is missing")?;
    let value = value.ok_or("the member \"value\" is missing")?;
    Ok(Line { key, value, life })
}

/// What salvage says of a line.
const STALE: &str = "\"stale\" is a mark of salvage: something newer than this value may be lost, or is. Look at it; take the \
mark off what is to be written all the same, as with jq -c 'del(.stale)'";

/// The same of one without a value.
const INCOMPLETE: &str = "\"incomplete\" is a mark of salvage: pieces of the value are lost, and there is nothing to write. \
Leave the line out, as with jq -c 'select(.incomplete | not)'";

/// Of the first DynaRust: what stands behind the first `=` is what a client had sent as the body of a PUT, and neither
/// side has the white space around it. `{"value": …}` meant then what it means now; any other text is a string.
fn pair(line: &[u8]) -> Result<Line, String> {
    let text =
        std::str::from_utf8(line).map_err(|e| format!("not UTF-8, at byte {}", e.valid_up_to() + 1))?;
    let (key, text) = text.split_once('=').ok_or("expected key=value, found no '='")?;
    let text = text.trim();
    let value = match listed(text.as_bytes()).as_deref() {
        Ok([only]) if only.name == "value" => only.text.to_owned(),
        _ => serde_json::Value::from(text).to_string(),
    };
    Ok(Line { key: key.trim().to_owned(), value, life: Life::Open })
}

/// As much of it as helps.
fn shortened(text: &str) -> String {
    const CHARS: usize = 40;
    match text.char_indices().nth(CHARS) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ndjson(line: &str) -> Result<Option<Line>, String> {
        read(line.as_bytes(), Format::Ndjson)
    }

    fn first(line: &str) -> Result<Option<Line>, String> {
        read(line.as_bytes(), Format::FirstDynarust)
    }

    fn line(key: &str, value: &str, life: Life) -> Result<Option<Line>, String> {
        Ok(Some(Line { key: key.into(), value: value.into(), life }))
    }

    #[test]
    fn what_export_writes_and_hands_write_is_read() {
        assert_eq!(ndjson(r#"{"key":"a\n","value":1e400}"#), line("a\n", "1e400", Life::Open));
        let whole = r#"{"key":"k","value":{"a": [0.10]},"version":"x","updated_at":"y","origin":"z",
            "expires_at":"1970-01-01T00:00:01.5Z","conflicts":[{"value":2}]}"#;
        assert_eq!(ndjson(whole), line("k", r#"{"a": [0.10]}"#, Life::Until(1_500)));
        assert_eq!(ndjson(r#"{"value":1,"key":"k","expires_at":null}"#), line("k", "1", Life::Open));
        let east = r#"{"key":"k","value":1,"expires_at":"1970-01-01T01:00:01+01:00"}"#;
        assert_eq!(ndjson(east), line("k", "1", Life::Until(1_000)));
        let seconds = Life::Seconds("1.5".into());
        assert_eq!(ndjson("{\"key\":\"k\",\"value\":1,\"ttl_seconds\":1.5}\r"), line("k", "1", seconds));
        assert_eq!((ndjson(""), ndjson(" \r")), (Ok(None), Ok(None)));
    }

    #[test]
    fn what_is_wrong_is_said() {
        for (given, said) in [
            (r#"{"key":"k","value":tru}"#, "expected a value, at column 20"),
            ("key=value", "expected a JSON object, at column 1"),
            (r#"{"value":1}"#, "\"key\" is missing"),
            (r#"{"key":"k"}"#, "\"value\" is missing"),
            (r#"{"key":1,"value":1}"#, "key is 1: it should be a string"),
            (r#"{"key":"","value":1}"#, "a key has 1 to 1024 bytes, this one has 0"),
            (r#"{"key":"k","value":1,"ttl":5}"#, "unknown member \"ttl\""),
            (r#"{"key":"k","value":1,"stale":"possible"}"#, "jq -c 'del(.stale)'"),
            (r#"{"key":"k","incomplete":{}}"#, "jq -c 'select(.incomplete | not)'"),
            (r#"{"key":"k","value":1,"ttl_seconds":0}"#, "ttl_seconds is 0"),
            (r#"{"key":"k","value":1,"expires_at":"soon"}"#, "expires_at is \"soon\""),
            (r#"{"key":"k","value":1,"expires_at":5}"#, "a time such as"),
            (
                r#"{"key":"k","value":1,"expires_at":"2026-11-22T10:00:00Z","ttl_seconds":1}"#,
                "stand together",
            ),
            (r#"{"key":"k","value":1,"key":"l"}"#, "stands twice"),
        ] {
            let why = ndjson(given).expect_err(given);
            assert!(why.contains(said), "{given}: {why}");
        }
        let long = format!(r#"{{"key":"{}","value":1}}"#, "x".repeat(1_025));
        assert!(ndjson(&long).is_err());
    }

    /// As deep as a node takes them, siblings too.
    #[test]
    fn deep_values_come_back_in() {
        let deep = format!("{}{}", "[".repeat(127), "]".repeat(127));
        assert!(ndjson(&format!(r#"{{"key":"k","value":{deep},"conflicts":[{{"value":{deep}}}]}}"#)).is_ok());
    }

    #[test]
    fn the_first_dynarust_is_understood() {
        assert_eq!(first("greeting=hello world"), line("greeting", "\"hello world\"", Life::Open));
        assert_eq!(first(r#"k={"value": "distributed"}"#), line("k", "\"distributed\"", Life::Open));
        assert_eq!(
            first(r#"k={"value": 1, "more": 2}"#),
            line("k", r#""{\"value\": 1, \"more\": 2}""#, Life::Open)
        );
        assert_eq!(first("k=1"), line("k", "\"1\"", Life::Open));
        assert_eq!(first(" k = a=b \r"), line("k", "\"a=b\"", Life::Open));
        assert_eq!(first("k="), line("k", "\"\"", Life::Open));
        assert!(first("nothing").expect_err("no pair").contains("expected key=value"));
        assert!(first("=x").is_err());
    }

    #[test]
    fn a_time_becomes_what_is_left_of_it() {
        let until = |at| Line { key: "k".into(), value: "1".into(), life: Life::Until(at) };
        assert_eq!(until(5_500).left(1_000), Ok(Some("4.500".into())));
        assert_eq!(until(1_000).left(1_000), Err(Expired));
        assert_eq!(until(u64::MAX).left(0), Ok(Some("3153600000.000".into())));
    }
}
