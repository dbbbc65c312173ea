//! Who are my peers, and do they have everything?
//!
//! One thread with a runtime of its own, so that no client waits for a peer: a *keeper* that follows the roster, and one
//! *shipper* a member, whose whole job is to bring that member's version vector up to ours. What peers send comes in by
//! the node's one HTTP server (`routes.rs`) and goes to the committer like every write.
//!
//! Invariants:
//! 1. an answer that says "I have" comes after it is on the disk;
//! 2. nothing is sent that a crash here could take back: `storage/` sees to that;
//! 3. what comes from elsewhere is checked before it is taken in; a stranger changes nothing but by joining.

mod arrival;
mod client;
mod clocks;
mod error;
mod evict;
mod join;
mod keeper;
mod leave;
mod load;
mod meet;
mod pulse;
mod reach;
mod routes;
mod secret;
mod seeker;
mod seldom;
mod shipper;
mod sponsor;
mod swim;
mod wire;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use actix_web::HttpRequest;
use actix_web::http::header;
use tokio::sync::{Semaphore, mpsc};

pub use error::Error;
pub use join::is_member;
pub use leave::{Left, Stays};
pub use routes::{Denied, answer};
pub use secret::Secret;
pub use wire::PROTOCOL;

use client::Client;
use leave::Askers;
use pulse::Beat;
use reach::Ways;
use seeker::Rivals;
use seldom::{LookedFor, Seldom};
use wire::{Envelope, Message, Refusal, Reply};

use crate::limits::{ADDRESS_BYTES_MAX, PEER_ANSWER_MS, PEER_BODIES_BYTES_MAX, RETRY_MS};
use crate::peers::{Arrival, Peers, is_more_than_address, is_wildcard};
use crate::replica::{Dot, Member, NodeId, Records, Runs, Sweepers};
use crate::storage::{self, Action, Rejection, Store};

/// How a node takes part in a cluster; values are valid.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Where the node listens, port and all.
    pub listen: SocketAddr,
    /// Where others are to reach it, if the operator has said so.
    pub advertise: Option<String>,
    /// Members to join by.
    pub join: Vec<String>,
    /// What all nodes of the cluster know.
    pub secret: Option<Secret>,
    /// When this process was started.
    pub started: Instant,
    /// Milliseconds since 1970.
    pub now_ms: fn() -> u64,
    /// Random bits.
    pub random: fn() -> u64,
}

/// What the HTTP server hands to peers' requests: there before the store is open.
pub struct Door {
    secret: Option<Secret>,
    house: OnceLock<Arc<House>>,
    askers: Askers,
    /// Bytes of messages that may yet come in.
    room: Arc<Semaphore>,
    refused: Seldom,
}

impl Door {
    /// A door that is still shut: peers are told that the node starts.
    pub fn new(secret: Option<Secret>) -> Door {
        let room = Arc::new(Semaphore::new(PEER_BODIES_BYTES_MAX));
        Door { secret, house: OnceLock::new(), askers: Askers::default(), room, refused: Seldom::default() }
    }

    /// Does a request show a secret where there is none to compare it with? Who has one would shut off a node without.
    pub fn is_shown_in_vain(&self, request: &HttpRequest) -> bool {
        self.secret.is_none() && request.headers().contains_key(header::AUTHORIZATION)
    }

    /// Does a request show the secret, if the node has one?
    pub fn admits(&self, request: &HttpRequest) -> bool {
        let shown = request.headers().get(header::AUTHORIZATION).map(|shown| shown.as_bytes());
        self.secret.as_ref().is_none_or(|secret| secret.is(shown))
    }

    /// Waits until the node is asked to leave its cluster.
    pub async fn asked_to_leave(&self) {
        self.askers.asked().await;
    }

    /// All who have asked it to leave are told how that ended; if the node stops now, so is whoever asks later.
    pub fn tell(&self, left: &Left, stops: bool) {
        self.askers.tell(left, stops);
    }
}

/// What all tasks of this room share.
struct House {
    store: Store,
    peers: Arc<Peers>,
    client: Client,
    settings: Settings,
    /// Names this process among all that ever ran under this node's id.
    run: u64,
    /// Where others reach this node, as far as it knows.
    address: Mutex<String>,
    /// The process that speaks for each peer, and those before it.
    runs: Mutex<Runs>,
    /// While this node looks for a cluster: who else does.
    rivals: Mutex<Rivals>,
    /// Who answers this node, and who asks it.
    ways: Ways,
    /// Held while the node may come to belong to another cluster.
    adopting: tokio::sync::Mutex<()>,
    /// The cluster that it was last said to have joined, and under which address.
    joined: Mutex<Option<(NodeId, String)>>,
    /// The cluster of which others have shown this process that it is a member, or has been one since it was started: if it is
    /// not one there later, it was evicted, or leaves.
    member_of: Mutex<Option<NodeId>>,
    /// Where those were that it was about to leave, if it stays: they may have let it go.
    stays_by: Mutex<Vec<String>>,
    /// Whose turn it is to send this node everything, by the age of the process.
    sweepers: Mutex<Sweepers>,
    /// When the log last said that two run under one id.
    twins_told: Seldom,
    /// When it last said that it can't read what a member lacks.
    unreadable_told: Seldom,
    looked_for: LookedFor,
    /// Where packets of SWIM go.
    pulse: mpsc::Sender<Beat>,
    /// The mark of the eviction that this node came back from when it was started.
    came_with: OnceLock<Dot>,
}

/// The running network.
#[derive(Clone)]
pub struct Network(Arc<House>);

impl Network {
    /// Meets the members that the node knows from before, and then starts to ship and to be shipped to. Comes back when
    /// they have answered, or have not in time.
    pub async fn start(
        store: Store,
        peers: Arc<Peers>,
        settings: Settings,
        door: &Door,
    ) -> Result<Network, Error> {
        let (pulse, beats) = mpsc::channel(BEATS_MAX);
        let house = Arc::new(House {
            client: Client::new(settings.secret.clone())?,
            run: (settings.random)(),
            address: Mutex::new(reach::first_address(&store, &settings).await),
            runs: Mutex::new(Runs::default()),
            rivals: Mutex::new(Rivals::of(!settings.join.is_empty())),
            ways: Ways::default(),
            adopting: tokio::sync::Mutex::new(()),
            joined: Mutex::new(None),
            member_of: Mutex::new(None),
            stays_by: Mutex::new(Vec::new()),
            sweepers: Mutex::new(Sweepers::default()),
            twins_told: Seldom::default(),
            unreadable_told: Seldom::default(),
            looked_for: LookedFor::default(),
            pulse,
            came_with: OnceLock::new(),
            store,
            peers,
            settings,
        });
        if let Some(mark) = house.mark().await {
            let _ = house.came_with.set(mark);
        }
        house.resume_arrival(!house.settings.join.is_empty())?;
        // Who has taken it in already is asked first: by another one that has not heard of that it would be in twice.
        let mut addresses = meet::meet(&house).await?;
        addresses.extend(house.settings.join.iter().cloned());
        match house.others().is_empty() {
            true => house.found().await,
            false => house.introduce().await,
        }
        let settled = house.store.settle_here().await;
        settled.map_err(|e| storage::Error::Failed(format!("can't note where the data is: {e}")))?;
        if !addresses.is_empty() && house.peers.arrival().is_none() && house.comes_with_nothing()? {
            house.peers.arrive(Some(Arrival::Asking));
        }
        house.note_arrival().await?;
        let _ = door.house.set(house.clone());
        let kept = house.clone();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|e| storage::Error::Failed(format!("can't start the network: {e}")))?;
        let thread = std::thread::Builder::new().name("network".into());
        let run = move || runtime.block_on(keeper::keep(kept, beats, addresses));
        thread.spawn(run).map_err(|e| storage::Error::Failed(format!("can't start the network: {e}")))?;
        Ok(Network(house))
    }
}

/// The cluster of a node that has left: it belongs to none until it joins.
pub const NOWHERE: NodeId = NodeId::NOBODY;

impl House {
    /// A message of this node.
    fn envelope<T>(&self, body: T) -> Envelope<T> {
        let (cluster, from) = (self.store.cluster(), self.store.me());
        let (run, now_ms) = (self.run, (self.settings.now_ms)());
        let address = Some(self.address()).filter(|address| is_concrete(address)).unwrap_or_default();
        Envelope { cluster, from, run, now_ms, address, body }
    }

    /// Asks a peer, and notes what its answer tells about it; a refusal is an error.
    async fn ask(&self, address: &str, message: Message) -> Result<(NodeId, Reply), Error> {
        self.ask_within(address, message, Duration::from_millis(PEER_ANSWER_MS)).await
    }

    /// The same for what is of no use later.
    async fn ask_within(
        &self,
        address: &str,
        message: Message,
        limit: Duration,
    ) -> Result<(NodeId, Reply), Error> {
        let (envelope, asked) = (self.envelope(message), Instant::now());
        let Envelope { from, now_ms, run, address, body, .. } =
            self.client.ask(address, &envelope, limit).await?;
        if from == self.store.me() && run == self.run {
            return Err(Error::Own);
        }
        if self.store.is_member(from) {
            // Before what it says is noted: it may be another process than the one that said something else.
            let twin = || Error::Unreadable(format!("two processes answer as node {from}"));
            self.hear(from, run).ok_or_else(twin)?;
        }
        self.seen(from, now_ms, address);
        self.answered(from, matches!(body, Reply::Refused(_)));
        let denies = matches!(body, Reply::Refused(Refusal::Stranger));
        self.peers.update(from, |peer| {
            // It may have come to know the node while its answer was on its way.
            peer.denies = denies && peer.shipped.is_none_or(|at| at < asked);
            (peer.silent, peer.trouble) = (false, None);
        });
        match body {
            Reply::Refused(refusal) => Err(refusal.into()),
            body => Ok((from, body)),
        }
    }

    /// How long to wait after so many failures: longer from one to the next, and half of it is chance, so that many do not
    /// come at once.
    fn pause(&self, failures: u32) -> Duration {
        let (first, longest) = RETRY_MS;
        let most = (first << failures.min(10)).min(longest);
        Duration::from_millis(most / 2 + (self.settings.random)() % (most / 2 + 1))
    }

    /// A peer gave a sign of life.
    fn seen(&self, peer: NodeId, its_now_ms: u64, its_address: String) {
        let now_ms = (self.settings.now_ms)();
        self.peers.update(peer, |known| {
            known.seen_ms = Some(now_ms);
            known.skew_ms = (its_now_ms as i64).saturating_sub(now_ms as i64);
            if is_concrete(&its_address) {
                known.address = Some(its_address);
            }
        });
    }

    /// This node's record says where it is reached, if it is a member: who is none was evicted, or is leaving, and only who takes
    /// it in writes another record.
    async fn introduce(&self) {
        let address = self.address();
        self.enroll(|records| Some(Member { address: address.clone(), ..records.standing()? })).await;
    }

    /// This node is a member of a cluster in which it knows nobody else.
    async fn found(&self) {
        let (address, now_ms) = (self.address(), (self.settings.now_ms)());
        self.enroll(|records| Some(records.taken_in(address.clone(), now_ms))).await;
    }

    /// This becomes all that there is of this node's records.
    async fn enroll(&self, record: impl Fn(&Records) -> Option<Member>) {
        let put = |records: &Records| {
            let record = record(records).filter(|record| !records.are(record))?;
            Some(Action::Put(record.text(), None))
        };
        if let Err(e) = self.store.change_records(self.store.me(), put).await {
            log::warn!("this node's address could not be written into the membership: {e}");
        }
    }

    /// A membership ends without an eviction.
    async fn remove(&self, id: NodeId) -> Result<(), Rejection> {
        let remove = |records: &Records| records.standing().map(|_| Action::Delete);
        self.store.change_records(id, remove).await.map(drop)
    }

    /// Where a member is reached: as it said last, or as the roster says.
    async fn reach(&self, id: NodeId) -> Option<String> {
        match self.peers.address_of(id).filter(|_| self.store.is_member(id)) {
            Some(address) => Some(address),
            None => self.member(id).await.map(|member| member.address),
        }
    }

    /// A member could not be reached where it said that it is.
    fn missed(&self, id: NodeId, error: &Error) {
        self.unanswered(id, error);
        self.peers.update(id, |peer| {
            peer.silent = matches!(error, Error::Unreachable(_) | Error::Unanswered(_));
            peer.trouble = Some(error.to_string());
            peer.address = None;
        });
    }

    /// A member's record.
    async fn member(&self, id: NodeId) -> Option<Member> {
        self.store.records(id).await.ok()?.standing()
    }

    fn address(&self) -> String {
        self.address.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_address(&self, address: String) {
        *self.address.lock().unwrap_or_else(PoisonError::into_inner) = address;
    }

    /// The other members.
    fn others(&self) -> Vec<NodeId> {
        let mut members = self.store.members();
        members.retain(|id| *id != self.store.me());
        members
    }

    /// The other members, but for those that this node was itself.
    fn fellows(&self) -> Vec<NodeId> {
        let (mut members, former) = (self.others(), self.store.former().unwrap_or_default());
        members.retain(|id| !former.contains(id));
        members
    }

    /// A process speaks for a member: how many of its own events it must have, at least; `None` when it is a twin.
    fn hear(&self, peer: NodeId, run: u64) -> Option<u64> {
        // What it has said may not have come here: pieces of a sweep that was never finished told of it.
        let told = || {
            let said = self.store.said_by(peer).map_or(0, |said| said.vv.get(peer));
            said.max(self.known_of(peer))
        };
        let now_ms = self.age_ms();
        self.runs.lock().unwrap_or_else(PoisonError::into_inner).hear(peer, run, now_ms, told)
    }
}

/// Is it an address that others can reach? A wildcard is none; nor is what would be more than an address in a URL.
fn is_concrete(address: &str) -> bool {
    let host = address.rsplit_once(':').is_some_and(|(host, _)| !host.is_empty());
    host && !is_more_than_address(address)
        && port_of(address).is_some_and(|port| port != 0)
        && address.len() <= ADDRESS_BYTES_MAX
        && !is_wildcard(address)
}

fn port_of(address: &str) -> Option<u16> {
    address.rsplit_once(':')?.1.parse().ok()
}

/// Packets of SWIM that may wait for their turn; more are lost.
const BEATS_MAX: usize = 256;
