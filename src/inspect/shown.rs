//! How things look to people: tables, keys, colours. Nothing here knows what they mean.

use std::fmt::Write;

use super::{Error, Out};
use crate::limits::{SHOWN_CHARS, TABLE_ROWS};

/// A key as JSON has it between its quotes, so that no two look alike; what would confuse a terminal is escaped too. (What is no
/// UTF-8 is no key, and has escapes that JSON has not.)
pub fn key(key: &[u8]) -> String {
    match std::str::from_utf8(key) {
        Ok(text) => escaped(text, true),
        Err(_) => key.escape_ascii().to_string(),
    }
}

/// A key as it was given: what is `escaped` is as [`key`] shows it.
pub fn given(text: &str, escaped: bool) -> Result<String, Error> {
    if !escaped {
        return Ok(text.into());
    }
    let wrong = |e| Error::Usage(format!("{} is no key with the escapes of JSON: {e}", line(text)));
    serde_json::from_str(&format!("\"{text}\"")).map_err(wrong)
}

/// A text on one line: what a terminal would take for a command, or not show, is escaped as JSON does it.
pub fn line(text: &str) -> String {
    escaped(text, false)
}

fn escaped(text: &str, quotes: bool) -> String {
    let mut shown = String::with_capacity(text.len());
    for char in text.chars() {
        let short = match char {
            '\n' => Some('n'),
            '\r' => Some('r'),
            '\t' => Some('t'),
            '\u{8}' => Some('b'),
            '\u{c}' => Some('f'),
            '"' | '\\' if quotes => Some(char),
            _ => None,
        };
        match short {
            Some(short) => shown.extend(['\\', short]),
            None if matches!(char, '\'' | '"' | '\\') || char.escape_debug().len() == 1 => shown.push(char),
            None => {
                for unit in char.encode_utf16(&mut [0; 2]) {
                    let _ = write!(shown, "\\u{unit:04x}");
                }
            }
        }
    }
    shown
}

/// The same, and of a long text only how it begins.
pub fn begin(text: &str) -> String {
    match text.char_indices().nth(SHOWN_CHARS) {
        Some((at, _)) => format!("{}… ({} bytes)", line(&text[..at]), text.len()),
        None => line(text),
    }
}

/// A key as programs read it: JSON has escapes of its own.
pub fn plain(key: &[u8]) -> String {
    String::from_utf8_lossy(key).into_owned()
}

/// What a line is to say before it is read.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    /// Nothing.
    Plain,
    /// It stands over others.
    Head,
    /// All is well.
    Good,
    /// Look at this.
    Bad,
}

impl Tone {
    /// The line in its colour.
    pub fn of(self, line: &str) -> String {
        let code = match self {
            Tone::Plain => return line.to_owned(),
            Tone::Head => "1",
            Tone::Good => "32",
            Tone::Bad => "31",
        };
        format!("\x1b[{code}m{line}\x1b[0m")
    }
}

/// Aligned columns, so many rows at a time. What may be long belongs into the last one.
pub struct Table {
    heads: Vec<&'static str>,
    right: Vec<bool>,
    widths: Vec<usize>,
    rows: Vec<(Tone, Vec<String>)>,
    begun: bool,
}

impl Table {
    /// With these heads; a column whose head begins with `>` is aligned to the right.
    pub fn new(heads: &[&'static str]) -> Table {
        let right = heads.iter().map(|head| head.starts_with('>')).collect();
        let heads: Vec<&str> = heads.iter().map(|head| head.trim_start_matches('>')).collect();
        let widths = heads.iter().map(|head| head.len()).collect();
        Table { heads, right, widths, rows: Vec::new(), begun: false }
    }

    /// One more row.
    pub fn row(&mut self, out: &mut Out, cells: Vec<String>) -> Result<(), Error> {
        self.toned(Tone::Plain, out, cells)
    }

    /// The same, in a colour.
    pub fn toned(&mut self, tone: Tone, out: &mut Out, cells: Vec<String>) -> Result<(), Error> {
        self.rows.push((tone, cells));
        if self.rows.len() < TABLE_ROWS { Ok(()) } else { self.show(out) }
    }

    /// Writes what there is, under the heads if nothing was written yet.
    pub fn show(&mut self, out: &mut Out) -> Result<(), Error> {
        for (_, cells) in &self.rows {
            for (width, cell) in self.widths.iter_mut().zip(cells) {
                *width = (*width).max(cell.chars().count());
            }
        }
        if !std::mem::replace(&mut self.begun, true) {
            let heads: Vec<String> = self.heads.iter().map(|head| head.to_string()).collect();
            out.toned(Tone::Head, &self.aligned(&heads))?;
        }
        for (tone, cells) in std::mem::take(&mut self.rows) {
            out.toned(tone, &self.aligned(&cells))?;
        }
        Ok(())
    }

    fn aligned(&self, cells: &[String]) -> String {
        let padded = cells.iter().enumerate().map(|(at, cell)| match self.right[at] {
            true => format!("{cell:>width$}", width = self.widths[at]),
            false => format!("{cell:<width$}", width = self.widths[at]),
        });
        padded.collect::<Vec<_>>().join("  ").trim_end().to_owned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_do_no_harm_to_a_terminal() {
        assert_eq!(key("größe/1 'a'".as_bytes()), "größe/1 'a'");
        assert_eq!(key(b"a\x1b[2J\n"), "a\\u001b[2J\\n");
        assert_eq!(key("\u{202e}\u{9b}\u{e0001}".as_bytes()), "\\u202e\\u009b\\udb40\\udc01");
        assert_eq!(key(b"\xff"), "\\xff");
        // A value is JSON already.
        assert_eq!(line("{\n\"a\": \"\\u0007\u{7f}\"}"), "{\\n\"a\": \"\\u0007\\u007f\"}");
        assert_eq!(plain("a\x1bö".as_bytes()), "a\x1bö");
    }

    #[test]
    fn no_two_keys_look_alike_and_each_is_found_again() {
        let keys = [
            "new\nline",
            "new\\nline",
            "a\"b\\",
            "\u{7}\u{8}\u{c}\r\t",
            "\\xff",
            "größe",
            "\u{1f980}\u{e0001}\u{301}",
        ];
        for it in keys {
            let shown = key(it.as_bytes());
            assert_eq!(given(&shown, true).expect("a key"), it, "{shown}");
            assert_eq!(given(it, false).expect("a key"), it);
            assert_eq!(keys.iter().filter(|other| key(other.as_bytes()) == shown).count(), 1, "{shown}");
        }
        assert!(given("\\x", true).is_err() && given("a\"b", true).is_err());
    }

    #[test]
    fn tables_are_aligned_and_coloured_on_a_terminal_only() {
        for (colour, expected) in [
            (false, "   size  name\n      7  a\n1.0 KiB  much longer\n"),
            (true, "\x1b[1m   size  name\x1b[0m\n      7  a\n\x1b[31m1.0 KiB  much longer\x1b[0m\n"),
        ] {
            let mut to = Vec::new();
            let mut out = Out { to: &mut to, json: false, colour, now_ms: 0 };
            let mut table = Table::new(&[">size", "name"]);
            table.row(&mut out, vec!["7".into(), "a".into()]).expect("written");
            table.toned(Tone::Bad, &mut out, vec!["1.0 KiB".into(), "much longer".into()]).expect("written");
            table.show(&mut out).expect("written");
            assert_eq!(String::from_utf8_lossy(&to), expected);
        }
    }
}
