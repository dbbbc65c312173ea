//! Names: of a node, of an event, of a set of events.
//!
//! A *dot* (origin, seq) names one event for ever: it must never be used for two. Its text form is what clients hold as
//! a version and what `inspect` prints: `00c0ffee00c0ffee-42`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A node, and the *origin* of the events that it made: 64 random bits, shown as 16 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct NodeId(pub u64);

impl NodeId {
    /// The id of nobody, and of no cluster.
    pub const NOBODY: NodeId = NodeId(0);
}

/// One event: the `seq`-th (from 1) that `origin` made.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Dot {
    /// The node that made the event.
    pub origin: NodeId,
    /// Its number there, from 1, without gaps.
    pub seq: u64,
}

impl Dot {
    /// The `seq`-th event of `origin`.
    pub const fn new(origin: NodeId, seq: u64) -> Dot {
        Dot { origin, seq }
    }
}

/// The text is not a node id, a dot or a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not a version: expected <16 hex digits>-<number>, several joined by '.'")]
pub struct NotAName;

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Dot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.origin, self.seq)
    }
}

impl fmt::Debug for Dot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for NodeId {
    type Err = NotAName;

    fn from_str(text: &str) -> Result<NodeId, NotAName> {
        let digits = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
        if text.len() != 16 || !text.bytes().all(digits) {
            return Err(NotAName);
        }
        u64::from_str_radix(text, 16).map(NodeId).map_err(|_| NotAName)
    }
}

impl FromStr for Dot {
    type Err = NotAName;

    fn from_str(text: &str) -> Result<Dot, NotAName> {
        let (origin, seq) = text.split_once('-').ok_or(NotAName)?;
        // One text for one dot: no sign, no leading zero.
        if !matches!(seq.as_bytes().first(), Some(b'1'..=b'9')) {
            return Err(NotAName);
        }
        Ok(Dot::new(origin.parse()?, seq.parse().map_err(|_| NotAName)?))
    }
}

/// The versions that a client has read, as the client holds them: sorted dots, opaque to it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Token(Vec<Dot>);

impl Token {
    /// The token that names exactly `dots`.
    pub fn new(mut dots: Vec<Dot>) -> Token {
        dots.sort_unstable();
        dots.dedup();
        Token(dots)
    }

    /// The named events, in order.
    pub fn dots(&self) -> &[Dot] {
        &self.0
    }

    /// Does it name this event?
    pub fn names(&self, dot: Dot) -> bool {
        self.0.binary_search(&dot).is_ok()
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, dot) in self.0.iter().enumerate() {
            if i > 0 {
                f.write_str(".")?;
            }
            fmt::Display::fmt(dot, f)?;
        }
        Ok(())
    }
}

impl FromStr for Token {
    type Err = NotAName;

    fn from_str(text: &str) -> Result<Token, NotAName> {
        if text.split('.').count() > crate::limits::TOKEN_DOTS_MAX {
            return Err(NotAName);
        }
        let dots = text.split('.').map(str::parse).collect::<Result<Vec<Dot>, _>>()?;
        Ok(Token::new(dots))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_read_back_as_they_were_written() {
        let token = Token::new(vec![Dot::new(NodeId(7), 42), Dot::new(NodeId(u64::MAX), u64::MAX)]);
        assert_eq!(token.to_string(), "0000000000000007-42.ffffffffffffffff-18446744073709551615");
        assert_eq!(token.to_string().parse(), Ok(token));
    }

    #[test]
    fn only_the_one_text_of_a_name_is_taken() {
        for text in [
            "",
            "7-1",
            "0000000000000007",
            "0000000000000007-0",
            "0000000000000007-01",
            "0000000000000007-+1",
            "000000000000000G-1",
            "000000000000000A-1",
            "0000000000000007-1.",
            "0000000000000007-18446744073709551616",
        ] {
            assert_eq!(text.parse::<Token>(), Err(NotAName), "{text:?}");
        }
    }
}
