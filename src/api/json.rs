//! The strict reader of request bodies: one JSON object, and where it is wrong.
//!
//! Values are kept as the client's text, so this room checks and slices, it never builds a tree. Beyond RFC 8259 it
//! refuses what readers disagree about (RFC 7493, I-JSON): names that stand twice in one object, lone surrogates; and
//! nesting deeper than most readers bear. serde_json checks none of these in text that it passes through, and refuses
//! numbers such as 1e400 that are fine as text; hence a scanner of our own, tested against it.

use std::borrow::Cow;

use crate::limits::JSON_DEPTH_MAX;

/// What is wrong, and where: line and column count from 1, in characters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// What was wrong.
    pub what: String,
    /// Line in the body.
    pub line: usize,
    /// Column in the line.
    pub column: usize,
}

/// A member of the body's object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member<'a> {
    /// Its name, escapes undone.
    pub name: Cow<'a, str>,
    /// Its value, as the client wrote it.
    pub text: &'a str,
    /// Where it begins, in bytes of the body.
    pub at: usize,
}

/// Reads a body that must be one JSON object.
pub fn object(body: &[u8]) -> Result<Vec<Member<'_>>, Fault> {
    object_within(body, JSON_DEPTH_MAX)
}

/// Reads a line of a list of keys, which may be two levels deeper: `conflicts` is a list of objects with values in them.
pub fn listed(line: &[u8]) -> Result<Vec<Member<'_>>, Fault> {
    object_within(line, JSON_DEPTH_MAX + 2)
}

fn object_within(body: &[u8], depth_max: usize) -> Result<Vec<Member<'_>>, Fault> {
    let text = std::str::from_utf8(body).map_err(|e| fault(body, e.valid_up_to(), "not UTF-8"))?;
    let mut scanner = Scanner { text, at: 0, depth_max };
    let read = scanner.body();
    read.map_err(|(at, what)| fault(body, at, what))
}

/// A fault at this byte of the body.
pub fn fault(body: &[u8], at: usize, what: impl Into<String>) -> Fault {
    let before = String::from_utf8_lossy(&body[..at.min(body.len())]);
    let start = before.rfind('\n').map_or(0, |newline| newline + 1);
    Fault {
        what: what.into(),
        line: before.matches('\n').count() + 1,
        column: before[start..].chars().count() + 1,
    }
}

/// An offset into the text, which stands on a character, and what is wrong there.
type At = (usize, String);

struct Scanner<'a> {
    text: &'a str,
    at: usize,
    depth_max: usize,
}

impl<'a> Scanner<'a> {
    fn body(&mut self) -> Result<Vec<Member<'a>>, At> {
        self.space();
        if self.peek() != Some(b'{') {
            return self.wrong("expected a JSON object");
        }
        let members = self.object(1)?;
        self.space();
        if self.at < self.text.len() {
            return self.wrong("expected nothing after the object");
        }
        Ok(members)
    }

    fn value(&mut self, depth: usize) -> Result<(), At> {
        match self.peek() {
            Some(b'{') => self.object(depth).map(drop),
            Some(b'[') => self.array(depth),
            Some(b'"') => self.string().map(drop),
            Some(b'-' | b'0'..=b'9') => self.number(),
            Some(b't') => self.word("true"),
            Some(b'f') => self.word("false"),
            Some(b'n') => self.word("null"),
            _ => self.wrong("expected a value"),
        }
    }

    fn object(&mut self, depth: usize) -> Result<Vec<Member<'a>>, At> {
        self.enter(depth)?;
        let mut members: Vec<Member<'a>> = Vec::new();
        self.space();
        if self.peek() == Some(b'}') {
            self.at += 1;
            return Ok(members);
        }
        loop {
            self.space();
            if self.peek() != Some(b'"') {
                return self.wrong("expected a member's name in double quotes");
            }
            let at = self.at;
            let name = self.string()?;
            self.space();
            if self.peek() != Some(b':') {
                return self.wrong("expected ':'");
            }
            self.at += 1;
            self.space();
            let start = self.at;
            self.value(depth + 1)?;
            members.push(Member { name, text: &self.text[start..self.at], at });
            self.space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b'}') => break,
                _ => return self.wrong("expected ',' or '}'"),
            }
        }
        self.at += 1;
        no_name_twice(&members)?;
        Ok(members)
    }

    fn array(&mut self, depth: usize) -> Result<(), At> {
        self.enter(depth)?;
        self.space();
        if self.peek() == Some(b']') {
            self.at += 1;
            return Ok(());
        }
        loop {
            self.space();
            self.value(depth + 1)?;
            self.space();
            match self.peek() {
                Some(b',') => self.at += 1,
                Some(b']') => break,
                _ => return self.wrong("expected ',' or ']'"),
            }
        }
        self.at += 1;
        Ok(())
    }

    /// Steps over the bracket that opens a container at this level.
    fn enter(&mut self, depth: usize) -> Result<(), At> {
        if depth > self.depth_max {
            return self.wrong(format!("nested deeper than {} levels", self.depth_max));
        }
        self.at += 1;
        Ok(())
    }

    fn string(&mut self) -> Result<Cow<'a, str>, At> {
        let start = self.at;
        let mut escaped = false;
        self.at += 1;
        loop {
            match self.peek() {
                Some(b'"') => break,
                Some(b'\\') => {
                    escaped = true;
                    self.escape()?;
                }
                Some(0..0x20) => return self.wrong("a control character must be escaped"),
                Some(_) => self.at += 1,
                None => return self.wrong("expected the string's closing quote"),
            }
        }
        self.at += 1;
        let quoted = &self.text[start..self.at];
        match escaped {
            false => Ok(Cow::Borrowed(&quoted[1..quoted.len() - 1])),
            true => serde_json::from_str(quoted).map(Cow::Owned).map_err(|e| (start, e.to_string())),
        }
    }

    fn escape(&mut self) -> Result<(), At> {
        let start = self.at;
        self.at += 1;
        match self.peek() {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {
                self.at += 1;
                Ok(())
            }
            Some(b'u') => {
                let unit = self.unit()?;
                let paired = match unit {
                    0xd800..0xdc00 => {
                        self.rest().starts_with("\\u") && {
                            self.at += 1;
                            (0xdc00..0xe000).contains(&self.unit()?)
                        }
                    }
                    0xdc00..0xe000 => false,
                    _ => true,
                };
                if paired { Ok(()) } else { Err((start, "half of a surrogate pair".into())) }
            }
            _ => Err((start, "unknown escape".into())),
        }
    }

    /// The code unit of `uXXXX`.
    fn unit(&mut self) -> Result<u32, At> {
        let digits = self.text.as_bytes().get(self.at + 1..self.at + 5);
        let hex = digits.filter(|digits| digits.iter().all(u8::is_ascii_hexdigit));
        let Some(hex) = hex.and_then(|hex| std::str::from_utf8(hex).ok()) else {
            return self.wrong("expected four hex digits");
        };
        self.at += 5;
        Ok(u32::from_str_radix(hex, 16).unwrap_or(0))
    }

    fn number(&mut self) -> Result<(), At> {
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        match self.peek() {
            Some(b'0') => self.at += 1,
            _ => self.digits()?,
        }
        if self.peek() == Some(b'.') {
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    fn digits(&mut self) -> Result<(), At> {
        if !matches!(self.peek(), Some(b'0'..=b'9')) {
            return self.wrong("expected a digit");
        }
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
        Ok(())
    }

    fn word(&mut self, word: &str) -> Result<(), At> {
        if !self.rest().starts_with(word) {
            return self.wrong("expected a value");
        }
        self.at += word.len();
        Ok(())
    }

    fn space(&mut self) {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn rest(&self) -> &'a str {
        self.text.get(self.at..).unwrap_or("")
    }

    fn wrong<T>(&self, what: impl Into<String>) -> Result<T, At> {
        let mut what = what.into();
        if self.at >= self.text.len() {
            what.push_str(", found the end of the body");
        }
        Err((self.at, what))
    }
}

/// Sorting finds a second one in any order that a hostile client may choose, without hashing.
fn no_name_twice(members: &[Member<'_>]) -> Result<(), At> {
    if members.len() < 2 {
        return Ok(());
    }
    let mut order: Vec<&Member<'_>> = members.iter().collect();
    order.sort_unstable_by(|a, b| a.name.cmp(&b.name).then(a.at.cmp(&b.at)));
    let again = order.windows(2).filter(|pair| pair[0].name == pair[1].name).map(|pair| pair[1]);
    match again.min_by_key(|member| member.at) {
        Some(second) => Err((second.at, format!("the member {:?} stands twice", second.name))),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn wrong(body: &str) -> (usize, usize, String) {
        let fault = object(body.as_bytes()).expect_err(body);
        (fault.line, fault.column, fault.what)
    }

    #[test]
    fn members_come_as_their_text() {
        let members = object(b" {\"value\" : [1e400, -0, 0.10] ,\"\\u0061\":\"x\"}\n").expect("sound");
        let pairs: Vec<_> = members.iter().map(|member| (member.name.as_ref(), member.text)).collect();
        assert_eq!(pairs, [("value", "[1e400, -0, 0.10]"), ("a", "\"x\"")]);
    }

    #[test]
    fn faults_say_where() {
        assert_eq!(wrong("{\n \"ä\": tru}"), (2, 7, "expected a value".into()));
        assert_eq!(wrong("{\"a\":1,\n\"\\u0061\":2}"), (2, 1, "the member \"a\" stands twice".into()));
        assert_eq!(wrong("{\"a\":{\"b\":1,\"b\":1}}").1, 13);
        assert_eq!(wrong("").2, "expected a JSON object, found the end of the body");
        assert_eq!(wrong("{} x").1, 4);
        assert_eq!(wrong("{\"a\":\"\\ud800\"}"), (1, 7, "half of a surrogate pair".into()));
        assert_eq!(wrong("{\"a\":01}").2, "expected ',' or '}'");
        let fault = object(b"{\"a\":\"\xff\"}").expect_err("not UTF-8");
        assert_eq!((fault.line, fault.column), (1, 7));
    }

    #[test]
    fn depth_is_bounded() {
        let nest = |levels: usize| format!("{{\"a\":{}{}}}", "[".repeat(levels), "]".repeat(levels));
        assert!(object(nest(JSON_DEPTH_MAX - 1).as_bytes()).is_ok());
        assert!(wrong(&nest(JSON_DEPTH_MAX)).2.starts_with("nested deeper"));
        assert!(wrong(&nest(100_000)).2.starts_with("nested deeper"));
    }

    /// What serde_json makes of the same bytes; stricter points of ours are excluded by the generator or the caller.
    fn serde_takes(body: &str) -> bool {
        serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(body).is_ok()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(4_000))]

        #[test]
        fn whatever_we_take_serde_takes(body in "[\\{\\}\\[\\]\",:\\\\u0-9a-fE+. \\-truefalsn]{0,24}") {
            let inner = format!("{{\"a\":{body}}}");
            for text in [&body, &inner] {
                if object(text.as_bytes()).is_ok() {
                    // Only numbers out of its range are refused there and taken here.
                    prop_assert!(serde_takes(text) || text.contains(['e', 'E']), "{}", text);
                }
            }
        }

        #[test]
        fn whatever_serde_writes_we_take(pairs in proptest::collection::btree_map(".{0,8}", ".{0,8}", 0..5)) {
            let compact = serde_json::to_string(&pairs).expect("a map");
            let pretty = serde_json::to_string_pretty(&pairs).expect("a map");
            for text in [compact, pretty] {
                let members = object(text.as_bytes()).expect("sound");
                prop_assert_eq!(members.len(), pairs.len());
                for member in members {
                    let value: String = serde_json::from_str(member.text).expect("a string");
                    prop_assert_eq!(pairs.get(member.name.as_ref()), Some(&value));
                }
            }
        }

        #[test]
        fn cut_off_bodies_are_refused(pairs in proptest::collection::btree_map(".{0,8}", 0..9, 1..5), at in 0..1000usize) {
            let text = serde_json::to_string(&pairs).expect("a map");
            let at = at % text.len();
            prop_assert!(object(&text.as_bytes()[..at]).is_err());
        }
    }
}
