//! The other members: what this node has seen of each lately.
//!
//! Who belongs to the cluster is data, in the membership tree. Who is reachable is opinion: it lives here, in memory, is
//! written by the network and read by whoever shows members. Nothing here decides anything.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::replica::{Digest, NodeId, VersionVector};

/// An address as it is kept and shown: one of IPv4 that came in by a socket of IPv6 is one of IPv4, and names stay what they
/// are.
pub fn canonical(address: &str) -> String {
    match address.parse::<SocketAddr>() {
        Ok(parsed) => SocketAddr::new(parsed.ip().to_canonical(), parsed.port()).to_string(),
        Err(_) => address.to_owned(),
    }
}

/// Does it stand for all addresses of a machine? Nobody is reached there from elsewhere.
pub fn is_wildcard(address: &str) -> bool {
    address.parse::<SocketAddr>().is_ok_and(|parsed| parsed.ip().to_canonical().is_unspecified())
}

/// Is it more than HOST:PORT, so that in a URL it would lead elsewhere?
pub fn is_more_than_address(address: &str) -> bool {
    address.contains(|sign: char| sign.is_whitespace() || sign.is_control() || r"/\?#@".contains(sign))
}

/// Does it lead to the machine itself, from wherever it is asked?
pub fn is_loopback(address: &str) -> bool {
    match address.parse::<SocketAddr>() {
        Ok(parsed) => parsed.ip().to_canonical().is_loopback(),
        Err(_) => {
            let host = address.rsplit_once(':').map_or(address, |(host, _)| host).to_ascii_lowercase();
            let host = host.trim_end_matches('.');
            host == "localhost" || host.ends_with(".localhost")
        }
    }
}

/// Is a member reachable?
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Liveness {
    /// It answers.
    Alive,
    /// It has not answered lately.
    #[default]
    Suspect,
    /// It has not answered for long.
    Down,
}

impl Liveness {
    /// The word for it.
    pub fn word(self) -> &'static str {
        match self {
            Liveness::Alive => "alive",
            Liveness::Suspect => "suspect",
            Liveness::Down => "down",
        }
    }
}

/// What this node has seen of a member.
#[derive(Debug, Clone, Default)]
pub struct Peer {
    /// Does it answer?
    pub liveness: Liveness,
    /// When it last answered or asked, in ms since 1970.
    pub seen_ms: Option<u64>,
    /// How far its clock is ahead of ours, in ms, about.
    pub skew_ms: i64,
    /// What it held when it last said so, and the digest of that.
    pub state: Option<(VersionVector, Digest)>,
    /// How often in a row it had the same vector and another digest, and both held still.
    pub unequal: u32,
    /// Its digest and ours, when that was last so.
    pub apart: Option<(Digest, Digest)>,
    /// Where it said that it is reached, unless that did not work since.
    pub address: Option<String>,
    /// It did not take this node for a member, the last time that it answered or shipped something.
    pub denies: bool,
    /// It did not answer, the last time that it was asked.
    pub silent: bool,
    /// When it last shipped something: who does so takes this node for a member.
    pub shipped: Option<Instant>,
    /// Why it could not be reached, the last time that it could not; until it answers.
    pub trouble: Option<String>,
    /// It answers, and has asked nothing for long: it may not reach this node.
    pub unheard: bool,
    /// What we had when it was last seen to lack something, and when that was, in ms since 1970; until it has that.
    pub owed: Option<(VersionVector, u64)>,
}

/// How far a node that came to a cluster with nothing has got.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Arrival {
    /// Nobody has taken it in yet.
    Asking,
    /// It has not yet all that the cluster had when it was taken in.
    Behind(VersionVector),
}

/// All of them.
#[derive(Default)]
pub struct Peers {
    members: Mutex<BTreeMap<NodeId, Peer>>,
    arrival: Mutex<Option<Arrival>>,
    /// Why nobody has taken this node in, the last time that it asked.
    hindrance: Mutex<Option<String>>,
}

impl Peers {
    /// Changes what is known of one.
    pub fn update(&self, id: NodeId, change: impl FnOnce(&mut Peer)) {
        change(self.lock().entry(id).or_default());
    }

    /// It is no member any more.
    pub fn forget(&self, id: NodeId) {
        self.lock().remove(&id);
    }

    /// What is known of one.
    pub fn get(&self, id: NodeId) -> Peer {
        self.lock().get(&id).cloned().unwrap_or_default()
    }

    /// When each of these was last heard of, in ms since 1970, and how far its clock was ahead then, in ms.
    pub fn words(&self, of: &[NodeId]) -> Vec<(NodeId, Option<u64>, i64)> {
        let known = self.lock();
        let word =
            |id: &NodeId| known.get(id).map_or((*id, None, 0), |peer| (*id, peer.seen_ms, peer.skew_ms));
        of.iter().map(word).collect()
    }

    /// Where one said that it is reached.
    pub fn address_of(&self, id: NodeId) -> Option<String> {
        self.lock().get(&id)?.address.clone()
    }

    /// How many of these did not take this node for a member when they answered last, and how many others are up.
    pub fn opinions(&self, members: &[NodeId]) -> (usize, usize) {
        let known = self.lock();
        let peers = || members.iter().filter_map(|id| known.get(id));
        let denies = peers().filter(|peer| peer.denies).count();
        (denies, peers().filter(|peer| !peer.denies && peer.liveness == Liveness::Alive).count())
    }

    /// How far this node has got, if it has not arrived.
    pub fn arrival(&self) -> Option<Arrival> {
        self.arrival.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Where this node could not join the last time, and why.
    pub fn hindrance(&self) -> Option<String> {
        self.hindrance.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// It could not join there, for this reason.
    pub fn hinder(&self, why: String) {
        *self.hindrance.lock().unwrap_or_else(PoisonError::into_inner) = Some(why);
    }

    /// This node has got so far; `None` when it has arrived.
    pub fn arrive(&self, arrival: Option<Arrival>) {
        *self.arrival.lock().unwrap_or_else(PoisonError::into_inner) = arrival;
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<NodeId, Peer>> {
        self.members.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_one_form() {
        for (given, kept) in [
            ("127.0.0.1:1", "127.0.0.1:1"),
            ("[::ffff:127.0.0.1]:1", "127.0.0.1:1"),
            ("[::ffff:7f00:1]:1", "127.0.0.1:1"),
            ("[::1]:1", "[::1]:1"),
            ("[2001:DB8:0::1]:1", "[2001:db8::1]:1"),
            ("node1:1", "node1:1"),
        ] {
            assert_eq!(canonical(given), kept);
        }
        for everywhere in ["0.0.0.0:1", "[::]:1", "[::ffff:0.0.0.0]:1"] {
            assert!(is_wildcard(everywhere), "{everywhere}");
        }
        assert!(!is_wildcard("127.0.0.1:1") && !is_wildcard("node1:1"));
        for here in
            ["127.0.0.1:1", "[::1]:1", "[::ffff:127.0.0.9]:1", "localhost:1", "LocalHost.:1", "a.localhost:1"]
        {
            assert!(is_loopback(here), "{here}");
        }
        for elsewhere in ["10.0.0.1:1", "[2001:db8::1]:1", "0.0.0.0:1", "node1:1", "localhosts:1"] {
            assert!(!is_loopback(elsewhere), "{elsewhere}");
        }
    }
}
