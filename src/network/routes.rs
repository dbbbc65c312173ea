//! What peers ask: checked, handed on, answered.

use std::pin::Pin;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use actix_web::http::{Method, header};
use actix_web::web::{BytesMut, Payload};
use actix_web::{HttpRequest, HttpResponse};
use futures_core::Stream;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use super::error::Error;
use super::pulse::Beat;
use super::wire::{self, Envelope, Message, Pulse, Refusal, Reply};
use super::{Door, House};
use crate::limits::{
    JOIN_BYTES_MAX, PEER_ANSWER_MS, PEER_BODY_BYTES_MAX, PEER_BODY_BYTES_SMALL, PEER_BYTES_PER_MS_LEAST,
};
use crate::replica::{NodeId, Sweep, Sweepers, VersionVector};
use crate::storage::{Parcel, Rejection};

/// Why a request does not even get an answer of a peer.
#[derive(Debug)]
pub enum Denied {
    /// The secret is missing or wrong.
    Secret,
    /// A secret is shown, and this node has none.
    NoSecret,
    /// There is no such path.
    Path,
    /// The path takes POST.
    Method,
    /// The path takes no parameters.
    Parameters,
    /// It makes no sense.
    Unreadable(String),
    /// It did not arrive in time.
    Late,
    /// The node is not ready yet.
    Starting,
    /// There is no room for what is sent.
    Busy,
    /// The node stays in its cluster, for this reason.
    Stays(String),
}

/// Answers a request under `/cluster/`.
pub async fn answer(
    door: &Door,
    request: &HttpRequest,
    payload: &mut Payload,
) -> Result<HttpResponse, Denied> {
    // A browser says where a request comes from; no node and no operator's tool does. A page must not speak for either.
    if request.headers().contains_key(header::ORIGIN) || request.headers().contains_key("sec-fetch-site") {
        return Err(Denied::Secret);
    }
    let in_vain = door.is_shown_in_vain(request);
    if in_vain || !door.admits(request) {
        if door.refused.due() {
            let from = request.peer_addr().map_or_else(|| "somebody".to_owned(), |from| from.to_string());
            log::warn!(
                "{from} asks what only members may, and shows {}: it is refused",
                match request.headers().contains_key(header::AUTHORIZATION) {
                    true if in_vain => "a cluster secret, where this node has none",
                    true => "another cluster secret than this node's",
                    false => "no cluster secret",
                }
            );
        }
        return Err(if in_vain { Denied::NoSecret } else { Denied::Secret });
    }
    if !matches!(request.path(), "/cluster/message" | "/cluster/leave") {
        return Err(Denied::Path);
    }
    if *request.method() != Method::POST {
        return Err(Denied::Method);
    }
    if !request.query_string().is_empty() {
        return Err(Denied::Parameters);
    }
    let house = door.house.get().ok_or(Denied::Starting)?;
    if request.path() == "/cluster/leave" {
        let told = door.askers.ask().await.map_err(|stays| Denied::Stays(stays.to_string()))?;
        let left = serde_json::json!({"left": house.store.me().to_string(), "members_that_know": told});
        return Ok(HttpResponse::Ok().json(left));
    }
    let unreadable = |e: Error| Denied::Unreadable(e.to_string());
    let (body, room) = body(door, house, payload).await?;
    let (cluster, from, to) = wire::glance(&body).map_err(unreadable)?;
    if to.is_none() && body.len() > JOIN_BYTES_MAX {
        let what = format!("a question to be taken in has at most {JOIN_BYTES_MAX} bytes");
        return Err(Denied::Unreadable(what));
    }
    let stranger = from != house.store.me() && !house.store.is_member(from);
    let refused = to.filter(|_| stranger).and_then(|to| house.knows((cluster, from, to)).err());
    let reply = match refused {
        Some(refusal) => Reply::Refused(refusal),
        None => {
            let envelope: Envelope<Message> = wire::decode(&body).map_err(unreadable)?;
            drop(body);
            let host = request.headers().get(header::HOST).and_then(|host| host.to_str().ok());
            house.reply(envelope, (request.peer_addr(), host.map(str::to_owned)), room).await
        }
    };
    let bytes = wire::encode(&house.envelope(reply)).map_err(unreadable)?;
    Ok(HttpResponse::Ok().content_type("application/octet-stream").body(bytes))
}

/// What is sent, and the room that it takes, for as long as it is held.
async fn body(
    door: &Door,
    house: &House,
    payload: &mut Payload,
) -> Result<(BytesMut, OwnedSemaphorePermit), Denied> {
    let take = |bytes| door.room.clone().try_acquire_many_owned(bytes).map_err(|_| Denied::Busy);
    let (mut whole, mut room) = (BytesMut::new(), take(0)?);
    let began = tokio::time::Instant::now();
    loop {
        let piece = std::future::poll_fn(|cx| Pin::new(&mut *payload).poll_next(cx));
        let late = |_| Denied::Late;
        // As long as its sender waits: what comes in drops must not hold the room.
        let limit = PEER_ANSWER_MS + whole.len() as u64 / PEER_BYTES_PER_MS_LEAST;
        let limit = began + Duration::from_millis(limit);
        // Nor must who is gone.
        let limit = limit.min(tokio::time::Instant::now() + Duration::from_millis(PEER_ANSWER_MS));
        let Some(piece) = tokio::time::timeout_at(limit, piece).await.map_err(late)? else { break };
        let piece = piece.map_err(|e| Denied::Unreadable(format!("the message broke off: {e}")))?;
        if whole.len() + piece.len() > PEER_BODY_BYTES_MAX {
            return Err(Denied::Unreadable(format!("a message has at most {PEER_BODY_BYTES_MAX} bytes")));
        }
        whole.extend_from_slice(&piece);
        if whole.len() > PEER_BODY_BYTES_SMALL
            && let Some(from) = wire::sender(&whole)
        {
            house.sweepers().comes(from, house.age_ms());
        }
        // Small ones always have room, or who is alive would not be heard: connections bound them.
        let more = whole.len().saturating_sub(PEER_BODY_BYTES_SMALL).min(piece.len());
        room.merge(take(more as u32)?);
    }
    Ok((whole, room))
}

impl House {
    async fn reply(
        self: &Arc<House>,
        envelope: Envelope<Message>,
        (seen_as, reached_as): (Option<std::net::SocketAddr>, Option<String>),
        room: OwnedSemaphorePermit,
    ) -> Reply {
        let Envelope { cluster, from, run, now_ms, address, body } = envelope;
        let me = self.store.me();
        if from == me {
            // A node that asks itself finds that out by the answer.
            let own = run == self.run;
            return Reply::Refused(if own { Refusal::OtherNode(me) } else { Refusal::Twin });
        }
        let mut least = 0;
        if self.store.is_member(from) {
            let Some(heard) = self.hear(from, run) else {
                self.tell_of_twins(from);
                return Reply::Refused(Refusal::Twin);
            };
            self.asked(from);
            least = heard;
        }
        let mut turn = None;
        let taken = match body {
            Message::Join(join) => return self.take_in((from, cluster), join, seen_as, reached_as).await,
            Message::Pulse(to, pulse) => {
                if let Err(refusal) = self.knows((cluster, from, to)) {
                    return Reply::Refused(refusal);
                }
                self.seen(from, now_ms, address);
                return Reply::Pulse(self.pulse(from, pulse).await);
            }
            Message::Frame(to, frame) => {
                let whose = (cluster, from, to, frame.sender);
                if let Err(refusal) =
                    self.admits(whose, &frame.vv, least).and_then(|()| checked(frame.check()))
                {
                    return Reply::Refused(refusal);
                }
                self.seen(from, now_ms, address);
                self.peers.update(from, |peer| peer.state = Some((frame.vv.clone(), frame.digest)));
                self.ships(from, &frame.vv);
                if frame.ranges.is_empty() {
                    return Reply::Have(self.store.published().vv.clone());
                }
                self.sweepers().gives_up(from);
                Parcel::Frame(frame)
            }
            Message::Sweep(to, sweep) => {
                let whose = (cluster, from, to, sweep.sender);
                // A comparison says nothing of what its sender has.
                let ok = match sweep.compares() {
                    true => self.knows((cluster, from, to)).and_then(|()| own(sweep.sender, from)),
                    false => self.admits(whose, &sweep.vv, least).and_then(|()| {
                        turn = Some(self.turn(from, &sweep)?);
                        Ok(())
                    }),
                };
                if let Err(refusal) = ok.and_then(|()| checked(sweep.check())) {
                    return Reply::Refused(refusal);
                }
                self.seen(from, now_ms, address);
                if !sweep.compares() {
                    self.ships(from, &sweep.vv);
                }
                Parcel::Sweep(sweep)
            }
        };
        match self.store.take(taken, Some(Box::new((room, turn)))).await {
            Ok(vv) => Reply::Have(vv),
            Err(rejection @ Rejection::TooManyOrigins) => {
                Reply::Refused(Refusal::Malformed(rejection.to_string()))
            }
            Err(Rejection::DiskFull) => Reply::Refused(Refusal::NotNow("its disk is full".into())),
            Err(rejection) => Reply::Refused(Refusal::NotNow(rejection.to_string())),
        }
    }

    /// Each of them goes on asking.
    fn tell_of_twins(&self, id: NodeId) {
        if self.twins_told.due() {
            log::error!("two processes run under the node id {id}: one of them on a copied data directory");
        }
    }

    /// This member has so much, and takes this node for a member too, whatever it answered before it had heard of it.
    fn ships(&self, member: NodeId, vv: &VersionVector) {
        self.peers.update(member, |peer| (peer.denies, peer.shipped) = (false, Some(Instant::now())));
        self.note_recognition();
        self.store.acknowledge(member, vv);
    }

    /// May this be taken in at all? Its sender must have `least` of its own events.
    fn admits(
        &self,
        (cluster, from, to, sender): (NodeId, NodeId, NodeId, NodeId),
        its_vv: &VersionVector,
        least: u64,
    ) -> Result<(), Refusal> {
        self.knows((cluster, from, to))?;
        own(sender, from)?;
        if its_vv.get(from) < least {
            return Err(Refusal::RolledBack(least));
        }
        let me = self.store.me();
        if its_vv.get(me) > self.store.published().vv.get(me) {
            log::error!("member {from} knows newer writes of this node than this node itself");
            self.give_up(from, &Refusal::RolledBack(its_vv.get(me)));
        }
        Ok(())
    }

    /// Is this a member who means this node?
    fn knows(&self, (cluster, from, to): (NodeId, NodeId, NodeId)) -> Result<(), Refusal> {
        let me = self.store.me();
        if to != me {
            // An id that this node has given up is its own affair.
            let own = || self.store.former().is_ok_and(|former| former.contains(&to));
            if to != NodeId::NOBODY && self.looked_for.due(to) && !own() {
                log::warn!(
                    "members of cluster {cluster} look for node {to} where this one, {me} of cluster {}, answers: start that one \
                     on its own data directory and address, or evict it there if it is gone",
                    self.store.cluster()
                );
            }
            return Err(Refusal::OtherNode(me));
        }
        if cluster != self.store.cluster() {
            return Err(Refusal::OtherCluster(self.store.cluster()));
        }
        if !self.store.is_member(from) {
            return Err(Refusal::Stranger);
        }
        Ok(())
    }

    /// What the protocol has to say to that at once.
    async fn pulse(&self, from: NodeId, pulse: Pulse) -> Pulse {
        let (reply, answer) = oneshot::channel();
        // When there is no room it is lost, and so is the answer.
        let _ = self.pulse.try_send(Beat::Packet(from, pulse, reply));
        answer.await.unwrap_or_default()
    }

    /// Whose turn it is to send this node everything.
    pub(super) fn sweepers(&self) -> MutexGuard<'_, Sweepers> {
        self.sweepers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One sweeps at a time.
    fn turn(self: &Arc<House>, from: NodeId, piece: &Sweep) -> Result<Turn, Refusal> {
        match self.sweepers().takes(from, piece.opens(), self.age_ms()) {
            true => Ok(Turn { house: self.clone(), from, ends: piece.through.is_none() }),
            false => Err(Refusal::NotNow("another member is sending it everything".into())),
        }
    }
}

/// Whose piece of a sweep is being taken in, until it is.
struct Turn {
    house: Arc<House>,
    from: NodeId,
    /// Is it the last one?
    ends: bool,
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.house.sweepers().taken(self.from, self.ends, self.house.age_ms());
    }
}

/// Nobody speaks for another.
fn own(sender: NodeId, from: NodeId) -> Result<(), Refusal> {
    match sender == from {
        true => Ok(()),
        false => Err(Refusal::Malformed("it is not the sender's own".into())),
    }
}

fn checked(check: Result<(), crate::replica::Malformed>) -> Result<(), Refusal> {
    check.map_err(|e| Refusal::Malformed(e.to_string()))
}
