//! One key: read, write, delete.

use std::pin::Pin;
use std::task::{Context, Poll};

use actix_web::body::{BodySize, MessageBody};
use actix_web::http::header::{self, HeaderValue};
use actix_web::http::{Method, StatusCode};
use actix_web::web::{Bytes, Payload};
use actix_web::{HttpRequest, HttpResponse};
use serde::Serialize;
use tokio::sync::OwnedSemaphorePermit;

use super::app::{App, Serving};
use super::problem::{Code, Problem};
use super::request::{self, Options, SESSION_TOKEN, Wanted};
use super::shown::{body, member, quote};
use crate::limits::{
    CHUNK_READ_RETRIES_MAX, CONFLICTS_SHOWN, TRANSIT_BYTES_MAX, TRANSIT_FREE_BYTES, WAIT_MS_DEFAULT,
};
use crate::replica::{Dot, Entry, Kind, NodeId, Token, Value, Version, VersionVector};
use crate::storage::{Action, Condition, Rejection, Request, Said, Shown, Store, Written};
use crate::time;

/// `GET` and `HEAD /key/{key}`.
pub async fn get(app: &App, request: &HttpRequest, serving: Serving) -> Result<HttpResponse, Problem> {
    app.metrics.reads.one();
    let store = app.store()?;
    let timeout_ms = request::read_timeout_ms(request)?;
    let key = request::key(request)?;
    let condition = request::condition(request)?;
    let mut session = request::session(request)?;
    catch_up(app, store, (&session, Some(&key)), timeout_ms).await?;
    let now_ms = (app.now_ms)();
    for _ in 0..CHUNK_READ_RETRIES_MAX {
        let entry = store.entry(Kind::Data, &key).await?;
        // What it says is of this moment or newer: an entry may be ahead of the vector.
        session.join(&store.published().vv);
        session.join(entry.context());
        let Some(token) = entry.token(now_ms) else {
            return Err(absent(&condition).in_session(session.to_string()));
        };
        if !(Condition { matches_none: None, ..condition.clone() }).holds(Some(&token)) {
            return Err(refused(Rejection::Precondition(Some(token)), store, session));
        }
        if !(Condition { matches: None, ..condition.clone() }).holds(Some(&token)) {
            let mut answer = HttpResponse::NotModified();
            answer
                .insert_header((header::ETAG, tag(&token)))
                .insert_header((SESSION_TOKEN, session.to_string()));
            return Ok(answer.finish());
        }
        let mut answer = HttpResponse::Ok();
        answer.insert_header((header::CONTENT_TYPE, HeaderValue::from_static("application/json")));
        answer.insert_header((header::ETAG, tag(&token)));
        answer.insert_header((SESSION_TOKEN, session.to_string()));
        if *request.method() == Method::HEAD {
            let shown: Vec<Shown> = entry.into_visible(now_ms).map(|version| (version, Vec::new())).collect();
            let texts: u64 = shown.iter().map(|(version, _)| version.value.bytes()).sum();
            let bytes = body(&key, &shown, &token).len() as u64 + texts;
            return Ok(answer.no_chunking(bytes).body(Untold));
        }
        let room = room(app, &entry, now_ms)?;
        let Some(shown) = store.texts(Kind::Data, &key, entry, now_ms).await? else { continue };
        let body = body(&key, &shown, &token);
        return match room {
            None => Ok(answer.body(body)),
            Some(room) => Ok(answer.body(Large { body: body.into(), _room: room, _serving: serving })),
        };
    }
    Err(Problem::new(Code::Busy, "the key is overwritten faster than it can be read"))
}

/// `GET /conflicts`: the keys that hold values which did not see each other, and what names all of them.
pub async fn conflicts(app: &App, request: &HttpRequest) -> Result<HttpResponse, Problem> {
    let page = request::page(request, &["after", "limit"], CONFLICTS_SHOWN)?;
    let seen = request::session(request)?;
    catch_up(app, app.store()?, (&seen, None), WAIT_MS_DEFAULT).await?;
    let store = app.store()?;
    let now_ms = (app.now_ms)();
    let found = store.conflicts(page.after, page.limit, now_ms).await?;
    #[derive(Serialize)]
    struct Sibling {
        version: String,
        updated_at: String,
        origin: String,
    }
    #[derive(Serialize)]
    struct Conflict {
        key: String,
        version: Option<String>,
        siblings: Vec<Sibling>,
    }
    #[derive(Serialize)]
    struct Conflicts {
        keys: Vec<Conflict>,
        #[serde(skip_serializing_if = "Option::is_none")]
        next: Option<String>,
    }
    let text = |key: &[u8]| String::from_utf8_lossy(key).into_owned();
    let sibling = |seen: &Version| Sibling {
        version: seen.dot.to_string(),
        updated_at: time::text(seen.hlc.ms()),
        origin: seen.dot.origin.to_string(),
    };
    let keys = found.keys.iter().map(|(key, entry)| Conflict {
        key: text(key),
        version: entry.token(now_ms).map(|token| token.to_string()),
        siblings: entry.visible(now_ms).map(sibling).collect(),
    });
    let shown = Conflicts { keys: keys.collect(), next: found.next.as_deref().map(text) };
    let mut session = store.published().vv.clone();
    found.keys.iter().for_each(|(_, entry)| session.join(entry.context()));
    Ok(HttpResponse::Ok().insert_header((SESSION_TOKEN, session.to_string())).json(shown))
}

/// Waits until the node has all that the client has seen, of this key if it is about one only.
pub(super) async fn catch_up(
    app: &App,
    store: &Store,
    (session, key): (&VersionVector, Option<&[u8]>),
    timeout_ms: u64,
) -> Result<(), Problem> {
    if session.is_empty() || store.published().vv.covers_all(session) {
        return Ok(());
    }
    if let Some(key) = key {
        // An entry may be ahead of the vector: who has read it here need not wait to see it again.
        let (entry, vv) = (store.entry(Kind::Data, key).await?, &store.published().vv);
        if session.iter().all(|dot| vv.covers(dot) || entry.context().covers(dot)) {
            return Ok(());
        }
    }
    let caught_up = store.until_incorporated(session);
    let timeout = std::time::Duration::from_millis(timeout_ms);
    match app.unless_stopping(tokio::time::timeout(timeout, caught_up)).await {
        Some(Ok(())) => return Ok(()),
        Some(Err(_)) => {}
        None => return Err(Problem::stopping()),
    }
    let published = store.published();
    let mut lost = session.iter().filter(|dot| !published.vv.covers(*dot) && !store.is_member(dot.origin));
    let advice = match lost.next() {
        // It left, or its disk is gone: what it had told nobody, nobody will ever have.
        Some(Dot { origin, .. }) => format!(
            "it waits for writes of {origin}, which is no member any more and may have taken them along: leave Session-Token \
             out to go on without them"
        ),
        None => "try again, or ask another node".into(),
    };
    // Lists don't take the parameter.
    let parameter = if key.is_some() { " (timeout_ms)" } else { "" };
    Err(Problem::new(Code::Behind, format!("not within {timeout_ms} ms{parameter}: {advice}")))
}

/// A refusal tells what the key holds as well as an answer does.
fn refused(rejection: Rejection, store: &Store, mut session: VersionVector) -> Problem {
    session.join(&store.published().vv);
    if let Rejection::Precondition(Some(token)) = &rejection {
        // An entry may be ahead of the vector.
        token.dots().iter().for_each(|dot| session.raise(*dot));
    }
    Problem::from(rejection).in_session(session.to_string())
}

fn absent(condition: &Condition) -> Problem {
    if condition.matches.is_some() {
        return Problem::new(Code::PreconditionFailed, "there is nothing under the key");
    }
    Problem::new(Code::NotFound, "nothing was written here, or it was deleted or has expired")
}

/// The room in memory for what is to be seen of an entry, when that is large.
fn room(app: &App, entry: &Entry, now_ms: u64) -> Result<Option<OwnedSemaphorePermit>, Problem> {
    let chunked = |version: &&Version| matches!(version.value, Value::Chunked { .. });
    if !entry.visible(now_ms).any(|version| chunked(&version)) {
        return Ok(None);
    }
    let bytes: u64 = entry.visible(now_ms).map(|version| version.value.bytes()).sum();
    // The pieces, the answer made of them, and what waits in the socket. A key may take all the room there is.
    let bytes = (2 * bytes as usize).min(TRANSIT_BYTES_MAX);
    if bytes > TRANSIT_FREE_BYTES { app.room(bytes).map(Some) } else { Ok(None) }
}

/// `PUT /key/{key}`.
pub async fn put(app: &App, request: &HttpRequest, payload: &mut Payload) -> Result<HttpResponse, Problem> {
    app.metrics.puts.one();
    let store = app.store()?;
    let key = request::key(request)?;
    let options = request::options(request)?;
    let (condition, token) = (request::condition(request)?, request::token(request)?);
    let session = request::session(request)?;
    let (body, room) = request::body(request, payload, app).await?;
    let put = request::put(&body, app.value_bytes_max)?;
    drop(body);
    catch_up(app, store, (&session, Some(&key)), options.timeout_ms).await?;
    let action = Action::Put(put.text, put.ttl_ms);
    let write = Request { kind: Kind::Data, key: key.clone(), action, condition, token, room };
    let written = perform(app, write, &session).await?;
    let status = if written.created { StatusCode::CREATED } else { StatusCode::OK };
    written_answer(status, &key, written, options, (app, store), session).await
}

/// `DELETE /key/{key}`.
pub async fn delete(app: &App, request: &HttpRequest) -> Result<HttpResponse, Problem> {
    app.metrics.deletes.one();
    let store = app.store()?;
    let key = request::key(request)?;
    let options = request::options(request)?;
    let (condition, token) = (request::condition(request)?, request::token(request)?);
    let session = request::session(request)?;
    catch_up(app, store, (&session, Some(&key)), options.timeout_ms).await?;
    let action = Action::Delete;
    let write = Request { kind: Kind::Data, key: key.clone(), action, condition, token, room: None };
    let written = perform(app, write, &session).await?;
    written_answer(StatusCode::OK, &key, written, options, (app, store), session).await
}

/// Has the write decided, unless the node stops: it may have begun to while the body came, or what the session had seen. Who
/// leaves waits for the requests that are under way, but not for ever, and what it takes after that no other member has.
async fn perform(app: &App, write: Request, session: &VersionVector) -> Result<Written, Problem> {
    let store = app.store()?;
    store.write(write).await.map_err(|rejection| refused(rejection, store, session.clone()))
}

/// The answer to a write that is on the disk here, once as many members have it as the client wants; or 202, when they have not
/// in time, or the node stops.
async fn written_answer(
    status: StatusCode,
    key: &[u8],
    written: Written,
    options: Options,
    (app, store): (&App, &Store),
    mut session: VersionVector,
) -> Result<HttpResponse, Problem> {
    let put = written.put;
    let (reached, holders) = replicas(options, written.dot, (app, store)).await;
    let status = if reached { status } else { StatusCode::ACCEPTED };
    let version = written.dot.to_string();
    let mut body = Vec::with_capacity(80 + key.len());
    body.extend_from_slice(b"{\"key\":");
    quote(&mut body, key);
    member(&mut body, "version", &version);
    body.extend_from_slice(format!(",\"replicas\":{}", holders.len()).as_bytes());
    if !reached {
        let names: Vec<String> = holders.iter().map(|id| format!("\"{id}\"")).collect();
        body.extend_from_slice(format!(",\"held_by\":[{}]", names.join(",")).as_bytes());
    }
    body.push(b'}');
    let mut answer = HttpResponse::build(status);
    answer.insert_header((header::CONTENT_TYPE, HeaderValue::from_static("application/json")));
    if put {
        answer.insert_header((header::ETAG, format!("\"{version}\"")));
    }
    session.join(&store.published().vv);
    session.raise(written.dot);
    answer.insert_header((SESSION_TOKEN, session.to_string()));
    Ok(answer.body(body))
}

/// Waits until as many members have the write on the disk as are wanted, this one included; whether they do, and which. More
/// than there are would be waited for in vain: one that joins later has it late enough.
async fn replicas(options: Options, dot: Dot, (app, store): (&App, &Store)) -> (bool, Vec<NodeId>) {
    if options.wanted == Wanted::Members(1) {
        return (true, vec![store.me()]);
    }
    let me = store.me();
    let mut reached = false;
    let over = store.until_said(|said| {
        // Of those that are members now: one may have been evicted meanwhile.
        let wanted = match options.wanted {
            Wanted::Members(wanted) => wanted as usize,
            Wanted::Majority => said.len() / 2 + 1,
            Wanted::All => said.len(),
        };
        let has = |(id, said): &(&NodeId, &Said)| **id == me || said.vv.covers(dot);
        reached = said.iter().filter(has).count() >= wanted;
        reached || said.len() < wanted
    });
    let timeout = std::time::Duration::from_millis(options.timeout_ms);
    // Whatever ends it, the last look counts.
    let _ = app.unless_stopping(tokio::time::timeout(timeout, over)).await;
    (reached, store.holders(&[dot]))
}

fn tag(token: &Token) -> String {
    format!("\"{token}\"")
}

/// The body that a HEAD does not get; its length is told in the head, when it is known.
pub(super) struct Untold;

impl MessageBody for Untold {
    type Error = std::convert::Infallible;

    /// Not `Sized`: the library would count the bytes that do not come.
    fn size(&self) -> BodySize {
        BodySize::Stream
    }

    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        Poll::Ready(None)
    }
}

/// A large answer: its room in memory is given back, and its request counts as served, when it has been taken.
struct Large {
    body: Bytes,
    _room: OwnedSemaphorePermit,
    _serving: Serving,
}

impl MessageBody for Large {
    type Error = std::convert::Infallible;

    fn size(&self) -> BodySize {
        BodySize::Sized(self.body.len() as u64)
    }

    fn poll_next(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Bytes, Self::Error>>> {
        /// The server copies what it is given into a buffer per connection: small steps keep that small.
        const STEP_BYTES: usize = 64 << 10;
        let step = self.body.len().min(STEP_BYTES);
        let piece = self.body.split_to(step);
        Poll::Ready((step > 0).then_some(Ok(piece)))
    }
}
