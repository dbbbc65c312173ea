//! The cluster, as this node sees it: `/membership`, `/membership/{id}`, `/replication/{version}`, and the members' part of
//! `/stats`.

use actix_web::{HttpRequest, HttpResponse};
use serde::Serialize;

use super::app::App;
use super::problem::{Code, Problem};
use super::request;
use crate::limits::{HOLDING_MS, UNEQUAL_LOOKS};
use crate::replica::{NodeId, Records, Token, VersionVector};
use crate::storage::{Action, Store};
use crate::time;

/// A member.
#[derive(Serialize)]
pub struct Shown {
    id: String,
    address: String,
    state: &'static str,
    joined_at: String,
    last_seen: Option<String>,
    /// Null when this node has not heard from it since it started, as the next is then.
    lag: Option<u64>,
    lag_seconds: Option<u64>,
    clock_skew_ms: i64,
    /// The digest of what it held when it last told, if its vector was what ours is now.
    digest: Option<String>,
    /// Since when what deletes leave behind waits for this member, if it does.
    #[serde(skip_serializing_if = "Option::is_none")]
    holds_forgetting_since: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    trouble: Option<String>,
}

/// `GET /membership`.
pub async fn all(app: &App, request: &HttpRequest) -> Result<HttpResponse, Problem> {
    request::no_parameters(request)?;
    let store = app.store()?;
    let members = list(app, store).await?;
    #[derive(Serialize)]
    struct Membership {
        cluster: String,
        #[serde(rename = "self")]
        me: String,
        #[serde(skip_serializing_if = "Option::is_none")]
        trouble: Option<&'static str>,
        members: Vec<Shown>,
    }
    let (cluster, me) = (store.cluster().to_string(), store.me().to_string());
    let trouble = trouble(app, store, store.is_out());
    Ok(HttpResponse::Ok().json(Membership { cluster, me, trouble, members }))
}

/// Why this node is no member, as far as it can tell.
fn trouble(app: &App, store: &Store, out: bool) -> Option<&'static str> {
    if store.cluster() == NodeId::NOBODY {
        return Some(
            "this node has left its cluster, and no member has taken it in since: its log says why. Give it the address of a \
             member to join",
        );
    }
    if out {
        return Some(
            "this node is no member any more: it was evicted, or it leaves. Start it again to let it join again",
        );
    }
    let others: Vec<_> = store.members().into_iter().filter(|id| *id != store.me()).collect();
    let (deny, admit) = app.peers.opinions(&others);
    (deny > 0 && admit == 0).then_some(
        "no member that answers takes this node for one: it asks them why. If its log says that it was evicted, start it again \
         to let it join again",
    )
}

/// All members.
pub async fn list(app: &App, store: &Store) -> Result<Vec<Shown>, Problem> {
    let mut members = Vec::new();
    for id in store.members() {
        members.extend(shown(app, store, id).await?);
    }
    Ok(members)
}

async fn shown(app: &App, store: &Store, id: NodeId) -> Result<Option<Shown>, Problem> {
    let now_ms = (app.now_ms)();
    let Some(member) = store.records(id).await?.standing() else { return Ok(None) };
    let mut shown = Shown {
        id: id.to_string(),
        address: member.address,
        state: "alive",
        joined_at: time::text(member.joined_at_ms),
        last_seen: Some(time::text(now_ms)),
        lag: Some(0),
        lag_seconds: Some(0),
        clock_skew_ms: 0,
        digest: Some(store.published().totals.digest.to_string()),
        holds_forgetting_since: None,
        trouble: None,
    };
    if id != store.me() {
        let peer = app.peers.get(id);
        let published = store.published();
        let own = published.vv.get(store.me());
        let said = store.said_by(id).unwrap_or_default();
        let heard = peer.state.is_some() || !said.vv.is_empty();
        shown.state = peer.liveness.word();
        shown.last_seen = peer.seen_ms.map(time::text);
        shown.lag = heard.then(|| own.saturating_sub(said.vv.get(store.me())));
        let since = peer.owed.map(|(_, since)| since);
        shown.lag_seconds = heard.then(|| since.map_or(0, |since| now_ms.saturating_sub(since) / 1_000));
        let holds = |since: &u64| now_ms.saturating_sub(*since) > HOLDING_MS && !store.lapsed(&said);
        shown.holds_forgetting_since = since.filter(holds).map(time::text);
        shown.digest =
            peer.state.filter(|(its, _)| *its == published.vv).map(|(_, digest)| digest.to_string());
        shown.clock_skew_ms = peer.skew_ms;
        let unheard = "it answers this node, and has asked it nothing for long: it may not reach this node";
        shown.trouble = peer.trouble.or(peer.unheard.then(|| unheard.into()));
        if peer.unequal >= UNEQUAL_LOOKS {
            shown.trouble = Some("it has incorporated the same events and holds something else".into());
        }
    }
    Ok(Some(shown))
}

/// The node id in a path, who must be a member.
async fn named(store: &Store, request: &HttpRequest) -> Result<NodeId, Problem> {
    let id = request.path().trim_start_matches("/membership/");
    let id: NodeId = id.parse().map_err(|_| {
        Problem::new(Code::InvalidParameter, "a node id is 16 hex digits, as /membership shows them")
    })?;
    match store.is_member(id) {
        true => Ok(id),
        false => Err(Problem::new(Code::NoSuchMember, format!("{id} is no member"))),
    }
}

/// `GET /membership/{id}`: the member, and what its eviction would mean.
pub async fn one(app: &App, request: &HttpRequest) -> Result<HttpResponse, Problem> {
    request::no_parameters(request)?;
    let store = app.store()?;
    let id = named(store, request).await?;
    let Some(member) = shown(app, store, id).await? else {
        return Err(Problem::new(Code::NoSuchMember, format!("{id} is no member")));
    };
    #[derive(Serialize)]
    struct One {
        #[serde(flatten)]
        member: Shown,
        /// Events that it has said to have and no other member has: its eviction may lose them. Null when this node has not
        /// heard from it since it started.
        events_held_only_there: Option<u64>,
    }
    // What all the others have, together.
    let own = store.published().vv.clone();
    let mut elsewhere = own.clone();
    if id == store.me() {
        elsewhere = VersionVector::new();
    }
    let said = store.said();
    said.iter().filter(|(peer, _)| **peer != id).for_each(|(_, said)| elsewhere.join(&said.vv));
    let its = if id == store.me() {
        Some(own)
    } else {
        // Its answers tell as well as what it asks, which may not get here.
        let answered = said.get(&id).map(|said| &said.vv).filter(|vv| !vv.is_empty()).cloned();
        let asked = app.peers.get(id).state.map(|(vv, _)| vv);
        answered.into_iter().chain(asked).reduce(|mut vv, more| {
            vv.join(&more);
            vv
        })
    };
    let events_held_only_there = its.map(|vv| vv.beyond(&elsewhere, |_| true));
    Ok(HttpResponse::Ok().json(One { member, events_held_only_there }))
}

/// `DELETE /membership/{id}`: evicts it.
pub async fn evict(app: &App, request: &HttpRequest) -> Result<HttpResponse, Problem> {
    request::no_parameters(request)?;
    let store = app.store()?;
    let id = named(store, request).await?;
    if id == store.me() {
        return Err(Problem::new(
            Code::CantEvictItself,
            "ask another member, or let this one leave (POST /cluster/leave)",
        ));
    }
    if store.is_out() {
        return Err(Problem::new(
            Code::NoMember,
            "this node was evicted itself, or it leaves: ask another one",
        ));
    }
    let now_ms = (app.now_ms)();
    // It may have begun to stop since it was asked, and whoever leaves does not wait for ever.
    let mark = |records: &Records| {
        let mark = records.evicted(now_ms).filter(|_| !app.stopping())?;
        Some(Action::Put(mark.text(), None))
    };
    let Some(written) = store.change_records(id, mark).await? else {
        app.store()?;
        return Err(Problem::new(Code::NoSuchMember, format!("{id} is no member")));
    };
    log::warn!("member {id} was evicted by a client of this node");
    #[derive(Serialize)]
    struct Evicted {
        evicted: String,
        version: String,
    }
    Ok(HttpResponse::Ok().json(Evicted { evicted: id.to_string(), version: written.dot.to_string() }))
}

/// `GET /replication/{version}`: a receipt.
pub fn receipt(app: &App, request: &HttpRequest) -> Result<HttpResponse, Problem> {
    request::no_parameters(request)?;
    let store = app.store()?;
    let text = request.path().trim_start_matches("/replication/");
    let version: Token = text
        .parse()
        .map_err(|_| Problem::new(Code::InvalidParameter, "a version is written as answers show it"))?;
    #[derive(Serialize)]
    struct Receipt {
        version: String,
        replicas: usize,
        members: usize,
        held_by: Vec<String>,
    }
    let held_by: Vec<String> = store.holders(version.dots()).iter().map(ToString::to_string).collect();
    let members = store.members().len();
    let receipt = Receipt { version: version.to_string(), replicas: held_by.len(), members, held_by };
    Ok(HttpResponse::Ok().json(receipt))
}
