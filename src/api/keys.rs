//! One key: read, write, delete.

use std::pin::Pin;
use std::task::{Context, Poll};

use actix_web::body::{BodySize, MessageBody};
use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderValue};
use actix_web::web::{Bytes, Payload};
use actix_web::{HttpRequest, HttpResponse};
use tokio::sync::OwnedSemaphorePermit;

use super::app::{App, Serving};
use super::problem::{Code, Problem};
use super::request::{self, Options, Wanted};
use super::time;
use crate::limits::TRANSIT_FREE_BYTES;
use crate::replica::{Kind, Token, Value, Version};
use crate::storage::{Action, Request, Store, Written};

/// `GET` and `HEAD /key/{key}`.
pub async fn get(app: &App, request: &HttpRequest, serving: Serving) -> Result<HttpResponse, Problem> {
    app.metrics.reads.one();
    let store = app.store()?;
    request::no_parameters(request)?;
    let key = request::key(request)?;
    let condition = request::condition(request)?;
    let now_ms = (app.now_ms)();
    let (shown, room) = read(app, store, &key, now_ms).await?;
    let Some((winner, text)) = shown.first() else {
        if condition.matches.is_some() {
            return Err(Problem::new(Code::PreconditionFailed, "there is nothing under the key"));
        }
        return Err(Problem::new(
            Code::NotFound,
            "nothing was written here, or it was deleted or has expired",
        ));
    };
    let token = Token::new(shown.iter().map(|(version, _)| version.dot).collect());
    let tag = tag(&token);
    let only_matches = crate::storage::Condition { matches: condition.matches, matches_none: None };
    if !only_matches.holds(Some(&token)) {
        return Err(crate::storage::Rejection::Precondition(Some(token)).into());
    }
    let unchanged = crate::storage::Condition { matches: None, matches_none: condition.matches_none };
    if !unchanged.holds(Some(&token)) {
        return Ok(HttpResponse::NotModified().insert_header((header::ETAG, tag)).finish());
    }
    let mut body = Vec::with_capacity(256 + key.len() + text.len());
    body.extend_from_slice(b"{\"key\":");
    quote(&mut body, &key);
    body.push(b',');
    version(&mut body, winner, text, &token.to_string());
    if let Some(at) = winner.expires_at_ms {
        member(&mut body, "expires_at", &time::text(at));
    }
    if shown.len() > 1 {
        body.extend_from_slice(b",\"conflicts\":[");
        for (i, (sibling, text)) in shown.iter().enumerate().skip(1) {
            body.extend_from_slice(if i > 1 { b",{" } else { b"{" });
            version(&mut body, sibling, text, &sibling.dot.to_string());
            body.push(b'}');
        }
        body.push(b']');
    }
    body.push(b'}');
    let mut answer = HttpResponse::Ok();
    answer.insert_header((header::CONTENT_TYPE, HeaderValue::from_static("application/json")));
    answer.insert_header((header::ETAG, tag));
    match room {
        None => Ok(answer.body(body)),
        Some(room) => Ok(answer.body(Large { body: body.into(), _room: room, _serving: serving })),
    }
}

/// What is to be seen under a key, and the room in memory for it when it is large.
async fn read(
    app: &App,
    store: &Store,
    key: &[u8],
    now_ms: u64,
) -> Result<(Vec<(Version, Vec<u8>)>, Option<OwnedSemaphorePermit>), Problem> {
    let entry = store.entry(Kind::Data, key).await?;
    if entry.visible(now_ms).all(|version| matches!(version.value, Value::Inline(_))) {
        let inline = |version: Version| match version.value.clone() {
            Value::Inline(text) => (version, text),
            Value::Chunked { .. } => (version, Vec::new()),
        };
        return Ok((entry.into_visible(now_ms).map(inline).collect(), None));
    }
    let bytes: u64 = entry.visible(now_ms).map(|version| version.value.bytes()).sum();
    // The pieces, the answer made of them, and what waits in the socket.
    let room = if bytes as usize > TRANSIT_FREE_BYTES { Some(app.room(2 * bytes as usize)?) } else { None };
    Ok((store.read(Kind::Data, key, now_ms).await?, room))
}

/// `PUT /key/{key}`.
pub async fn put(app: &App, request: &HttpRequest, payload: &mut Payload) -> Result<HttpResponse, Problem> {
    app.metrics.puts.one();
    let store = app.store()?;
    let key = request::key(request)?;
    let options = request::options(request)?;
    let (condition, token) = (request::condition(request)?, request::token(request)?);
    let (body, room) = request::body(request, payload, app).await?;
    let put = request::put(&body, app.value_bytes_max)?;
    drop(body);
    let action = Action::Put(put.text, put.ttl_ms);
    let write = Request { kind: Kind::Data, key: key.clone(), action, condition, token, room };
    let written = store.write(write).await?;
    let status = if written.created { StatusCode::CREATED } else { StatusCode::OK };
    Ok(written_answer(status, &key, written, options, store, true).await)
}

/// `DELETE /key/{key}`.
pub async fn delete(app: &App, request: &HttpRequest) -> Result<HttpResponse, Problem> {
    app.metrics.deletes.one();
    let store = app.store()?;
    let key = request::key(request)?;
    let options = request::options(request)?;
    let (condition, token) = (request::condition(request)?, request::token(request)?);
    let action = Action::Delete;
    let write = Request { kind: Kind::Data, key: key.clone(), action, condition, token, room: None };
    let written = store.write(write).await?;
    Ok(written_answer(StatusCode::OK, &key, written, options, store, false).await)
}

/// The answer to a write that is on the disk here, once as many members have it as the client wants; or 202.
async fn written_answer(
    status: StatusCode,
    key: &[u8],
    written: Written,
    options: Options,
    store: &Store,
    put: bool,
) -> HttpResponse {
    let (reached, replicas) = replicas(options, store).await;
    let status = if reached { status } else { StatusCode::ACCEPTED };
    let version = written.dot.to_string();
    let mut body = Vec::with_capacity(80 + key.len());
    body.extend_from_slice(b"{\"key\":");
    quote(&mut body, key);
    member(&mut body, "version", &version);
    if put || !reached {
        body.extend_from_slice(format!(",\"replicas\":{replicas}").as_bytes());
    }
    body.push(b'}');
    let mut answer = HttpResponse::build(status);
    answer.insert_header((header::CONTENT_TYPE, HeaderValue::from_static("application/json")));
    if put {
        answer.insert_header((header::ETAG, format!("\"{version}\"")));
    }
    answer.body(body)
}

/// How many members have the write on the disk: this one, for it is the only one in this release.
async fn replicas(options: Options, _store: &Store) -> (bool, u32) {
    match options.wanted {
        Wanted::Members(1) | Wanted::Majority | Wanted::All => (true, 1),
        Wanted::Members(_) => {
            tokio::time::sleep(std::time::Duration::from_millis(options.timeout_ms)).await;
            (false, 1)
        }
    }
}

fn tag(token: &Token) -> String {
    format!("\"{token}\"")
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
fn member(out: &mut Vec<u8>, name: &str, text: &str) {
    for piece in [",\"", name, "\":\"", text, "\""] {
        out.extend_from_slice(piece.as_bytes());
    }
}

/// A key as a JSON string; keys are UTF-8, checked when they come in.
fn quote(out: &mut Vec<u8>, key: &[u8]) {
    let key = String::from_utf8_lossy(key);
    // Writing into memory does not fail.
    let _ = serde_json::to_writer(out, &key);
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
