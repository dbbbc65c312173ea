//! What a request says: its key, its conditions, its options, its body. Refuses what it can't understand, and says where.

use std::pin::Pin;
use std::str::FromStr;
use std::task::Poll;

use actix_web::HttpRequest;
use actix_web::error::PayloadError;
use actix_web::http::header::{self, HeaderName};
use actix_web::web::{Bytes, BytesMut, Payload};
use futures_core::Stream;
use tokio::sync::OwnedSemaphorePermit;

use super::app::App;
use super::json;
use super::problem::{Code, Problem};
use super::wire::Turn;
use crate::limits::{
    BODY_OVERHEAD_BYTES, KEY_BYTES_MAX, TAGS_MAX, TRANSIT_FREE_BYTES, TTL_SECONDS_MAX, WAIT_MS_DEFAULT,
    WAIT_MS_MAX,
};
use crate::replica::{Token, VersionVector};
use crate::storage::{Condition, Tags};

/// The key of a request: everything after `/key/`, percent-decoded once, slashes included.
pub fn key(request: &HttpRequest) -> Result<Vec<u8>, Problem> {
    let raw = request.uri().path().strip_prefix("/key/");
    let raw = raw.ok_or_else(|| Problem::new(Code::NoSuchPath, "keys live under /key/"))?;
    let refuse = |why: String| Err(Problem::new(Code::InvalidKey, why));
    let Some(key) = decoded(raw) else {
        return refuse(
            "a '%' in the path must be followed by two hex digits; a '%' itself is written %25".into(),
        );
    };
    if key.is_empty() || key.len() > KEY_BYTES_MAX {
        return refuse(format!("a key has 1 to {KEY_BYTES_MAX} bytes, this one has {}", key.len()));
    }
    match std::str::from_utf8(&key) {
        Ok(_) => Ok(key),
        Err(e) => refuse(format!("a key is UTF-8, this one is not at byte {}", e.valid_up_to())),
    }
}

/// Percent-decoded once; `None` when a percent sign stands there without its two hex digits.
fn decoded(raw: &str) -> Option<Vec<u8>> {
    let mut rest = raw.as_bytes().iter();
    while let Some(byte) = rest.next() {
        let mut digit = || rest.next().is_some_and(u8::is_ascii_hexdigit);
        if *byte == b'%' && !(digit() && digit()) {
            return None;
        }
    }
    Some(percent_encoding::percent_decode_str(raw).collect())
}

/// Who must have a write on the disk before it is answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wanted {
    /// So many members, this one included.
    Members(u32),
    /// More than half of them.
    Majority,
    /// Every one.
    All,
}

/// The options in a query.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// `w`
    pub wanted: Wanted,
    /// `timeout_ms`
    pub timeout_ms: u64,
}

/// Reads `?w=` and `?timeout_ms=` of a write; anything else is refused, or a misspelt option would do nothing in silence.
pub fn options(request: &HttpRequest) -> Result<Options, Problem> {
    read_options(request, &["w", "timeout_ms"])
}

/// Reads `?timeout_ms=` of a read.
pub fn read_timeout_ms(request: &HttpRequest) -> Result<u64, Problem> {
    read_options(request, &["timeout_ms"]).map(|options| options.timeout_ms)
}

fn read_options(request: &HttpRequest, names: &[&str]) -> Result<Options, Problem> {
    let mut options = Options { wanted: Wanted::Members(1), timeout_ms: WAIT_MS_DEFAULT };
    let mut seen = Vec::new();
    for (name, value) in parameters(request) {
        let refuse = |why: &str| Err(Problem::new(Code::InvalidParameter, format!("{name}={value}: {why}")));
        if seen.contains(&name) {
            return refuse("it stands twice");
        }
        seen.push(name);
        // A sign would be read by Rust, and is none of a count.
        let number = value.starts_with(|first: char| first.is_ascii_digit());
        let number = number.then(|| value.parse::<u64>().ok()).flatten();
        match name {
            _ if !names.contains(&name) => {
                // Maybe it is the rest of a key.
                return refuse(&format!(
                    "the parameters of this request are: {}; a '?' in a key is written %3F",
                    names.join(", ")
                ));
            }
            "w" => match (value, number.map(u32::try_from)) {
                ("majority", _) => options.wanted = Wanted::Majority,
                ("all", _) => options.wanted = Wanted::All,
                (_, Some(Ok(members @ 1..))) => options.wanted = Wanted::Members(members),
                _ => return refuse("w is a number from 1, 'majority' or 'all'"),
            },
            _ => match number {
                Some(ms @ 0..=WAIT_MS_MAX) => options.timeout_ms = ms,
                _ => return refuse(&format!("timeout_ms is a number from 0 to {WAIT_MS_MAX}")),
            },
        }
    }
    Ok(options)
}

/// A page of a list: `?prefix=`, `?after=` and `?limit=`.
pub struct Page {
    /// How its keys begin.
    pub prefix: Vec<u8>,
    /// The key after which it begins.
    pub after: Option<Vec<u8>>,
    /// How many at most.
    pub limit: usize,
}

/// Reads which page of a list is wanted; `limits` are the usual length and the longest.
pub fn page(request: &HttpRequest, names: &[&str], limits: (usize, usize)) -> Result<Page, Problem> {
    let mut page = Page { prefix: Vec::new(), after: None, limit: limits.0 };
    let mut seen = Vec::new();
    for (name, value) in parameters(request) {
        let refuse = |why: &str| Err(Problem::new(Code::InvalidParameter, format!("{name}={value}: {why}")));
        if seen.contains(&name) {
            return refuse("it stands twice");
        }
        seen.push(name);
        let key = match decoded(value) {
            Some(key) if key.len() <= KEY_BYTES_MAX => Ok(key),
            Some(_) => Err(format!("a key has at most {KEY_BYTES_MAX} bytes")),
            None => Err("a '%' must be followed by two hex digits; a '%' itself is written %25".into()),
        };
        let plain = value.bytes().all(|byte| byte.is_ascii_digit());
        match (name, value.parse::<usize>().ok().filter(|_| plain)) {
            _ if !names.contains(&name) => {
                return refuse(&format!("the parameters of this request are: {}", names.join(", ")));
            }
            ("prefix" | "after", _) => match key {
                Ok(key) if name == "after" => page.after = Some(key),
                Ok(key) => page.prefix = key,
                Err(why) => return refuse(&why),
            },
            (_, Some(limit)) if (1..=limits.1).contains(&limit) => page.limit = limit,
            _ => return refuse(&format!("limit is a number from 1 to {}", limits.1)),
        }
    }
    Ok(page)
}

/// For paths that take no query at all.
pub fn no_parameters(request: &HttpRequest) -> Result<(), Problem> {
    match parameters(request).next() {
        None => Ok(()),
        Some((name, _)) => {
            Err(Problem::new(Code::InvalidParameter, format!("{name}: this path takes no parameters")))
        }
    }
}

fn parameters(request: &HttpRequest) -> impl Iterator<Item = (&str, &str)> {
    let pairs = request.query_string().split('&').filter(|pair| !pair.is_empty());
    pairs.map(|pair| pair.split_once('=').unwrap_or((pair, "")))
}

/// `If-Match` and `If-None-Match` of a write, compared strongly (RFC 9110 section 13.1.1) and weakly (13.1.2).
pub fn condition(request: &HttpRequest) -> Result<Condition, Problem> {
    Ok(Condition {
        matches: tags(request, header::IF_MATCH, false)?,
        matches_none: tags(request, header::IF_NONE_MATCH, true)?,
    })
}

/// The versions that a client says it has seen.
pub fn token(request: &HttpRequest) -> Result<Option<Token>, Problem> {
    let mut values = request.headers().get_all(HeaderName::from_static("causality-token"));
    let Some(value) = values.next() else { return Ok(None) };
    let refuse = |why| Err(Problem::new(Code::InvalidHeader, why));
    if values.next().is_some() {
        return refuse("Causality-Token stands twice; several versions are joined by '.'");
    }
    let text = value.to_str().unwrap_or("").trim();
    let text = text.strip_prefix('"').and_then(|t| t.strip_suffix('"')).unwrap_or(text);
    match Token::from_str(text) {
        Ok(token) => Ok(Some(token)),
        Err(_) => refuse("Causality-Token is a version, as an answer shows it"),
    }
}

/// What a client has seen, as answers tell it and requests bring it back.
pub const SESSION_TOKEN: HeaderName = HeaderName::from_static("session-token");

/// What the client has seen, here or elsewhere; nothing when it does not say.
pub fn session(request: &HttpRequest) -> Result<VersionVector, Problem> {
    let mut values = request.headers().get_all(SESSION_TOKEN);
    let Some(value) = values.next() else { return Ok(VersionVector::new()) };
    let read = |text: &str| match text.trim() {
        // So says a node that waits to be taken in, and has nothing.
        "" => Some(VersionVector::new()),
        text => text.parse().ok(),
    };
    let seen = value.to_str().ok().and_then(read).filter(|_| values.next().is_none());
    seen.ok_or_else(|| {
        Problem::new(
            Code::InvalidHeader,
            "Session-Token is what the last answer said, as it said it, and stands once",
        )
    })
}

/// A list of entity tags; one that is not a version of ours matches nothing, but it must be a tag.
fn tags(request: &HttpRequest, name: HeaderName, weak: bool) -> Result<Option<Tags>, Problem> {
    let mut listed = None;
    for value in request.headers().get_all(&name) {
        let refuse = |what: String| Err(Problem::new(Code::InvalidHeader, format!("{name}: {what}")));
        // A tag may hold any byte but controls, space and quotes; what is not ASCII is no version of ours.
        let text = String::from_utf8_lossy(value.as_bytes());
        if text.trim() == "*" {
            return Ok(Some(Tags::Any));
        }
        let tokens = listed.get_or_insert_with(Vec::new);
        let mut rest = text.trim_start_matches([' ', '\t', ',']);
        let mut count = 0;
        while !rest.is_empty() {
            let (is_weak, tag) = rest.strip_prefix("W/").map_or((false, rest), |tag| (true, tag));
            let Some((inner, after)) = tag.strip_prefix('"').and_then(|tag| tag.split_once('"')) else {
                return refuse("an entity tag stands in double quotes, as in ETag, or is *".into());
            };
            rest = after.trim_start_matches([' ', '\t']);
            if !rest.is_empty() && !rest.starts_with(',') {
                return refuse("entity tags are separated by commas".into());
            }
            rest = rest.trim_start_matches([' ', '\t', ',']);
            count += 1;
            if count > TAGS_MAX {
                return refuse(format!("more than {TAGS_MAX} entity tags"));
            }
            tokens.extend(Token::from_str(inner).ok().filter(|_| weak || !is_weak));
        }
    }
    Ok(listed.map(Tags::These))
}

/// What a PUT stores.
#[derive(Debug)]
pub struct Put {
    /// The value's JSON text, as the client wrote it.
    pub text: Vec<u8>,
    /// How long it lives, in ms.
    pub ttl_ms: Option<u64>,
}

/// Reads `{"value": …, "ttl_seconds"?: …}`.
pub fn put(body: &[u8], value_bytes_max: usize) -> Result<Put, Problem> {
    let (mut text, mut ttl_ms) = (None, None);
    let members = json::object(body)?;
    for member in &members {
        let refuse = |what: String| Err(Problem::from(json::fault(body, member.at, what)));
        match member.name.as_ref() {
            "value" => text = Some(member.text),
            "ttl_seconds" => {
                let seconds = member.text.parse::<f64>().ok().filter(|s| *s > 0.0 && *s <= TTL_SECONDS_MAX);
                match seconds {
                    Some(seconds) => ttl_ms = Some((seconds * 1_000.0).ceil() as u64),
                    None => {
                        return refuse(format!(
                            "ttl_seconds is a number above 0 and up to {TTL_SECONDS_MAX}"
                        ));
                    }
                }
            }
            name => {
                return refuse(format!(
                    "unknown member {name:?}: the body is {{\"value\": …, \"ttl_seconds\"?: …}}"
                ));
            }
        }
    }
    let Some(text) = text else {
        return Err(json::fault(body, body.len(), "the member \"value\" is missing").into());
    };
    if text.len() > value_bytes_max {
        return Err(too_large(value_bytes_max));
    }
    Ok(Put { text: text.as_bytes().to_vec(), ttl_ms })
}

fn too_large(value_bytes_max: usize) -> Problem {
    Problem::new(
        Code::TooLarge,
        format!("a value has at most {value_bytes_max} bytes of JSON text on this node"),
    )
}

/// A whole body, and the room in memory that it takes.
pub async fn body(
    request: &HttpRequest,
    payload: &mut Payload,
    app: &App,
) -> Result<(Bytes, Option<OwnedSemaphorePermit>), Problem> {
    let limit = app.value_bytes_max + BODY_OVERHEAD_BYTES;
    let declared =
        request.headers().get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse::<u64>().ok());
    if declared.is_some_and(|bytes| bytes > limit as u64) {
        return Err(too_large(app.value_bytes_max));
    }
    match tokio::time::timeout(app.request_timeout, collect(payload, limit, app)).await {
        Ok(collected) => collected,
        Err(_) => Err(Problem::new(Code::RequestTimeout, "the body did not arrive in time")),
    }
}

async fn collect(
    payload: &mut Payload,
    limit: usize,
    app: &App,
) -> Result<(Bytes, Option<OwnedSemaphorePermit>), Problem> {
    let mut whole = BytesMut::new();
    let mut room: Option<OwnedSemaphorePermit> = None;
    while let Some(piece) = std::future::poll_fn(|cx| Pin::new(&mut *payload).poll_next(cx)).await {
        let piece = piece.map_err(|e| Problem::new(Code::InvalidBody, broken_off(&e)))?;
        if whole.len() + piece.len() > limit {
            return Err(too_large(app.value_bytes_max));
        }
        // Room is taken as bytes come in, so that a slow client can't hold more than it has sent.
        let over = (whole.len() + piece.len()).saturating_sub(whole.len().max(TRANSIT_FREE_BYTES));
        if over > 0 {
            let more = app.room(over)?;
            match &mut room {
                Some(room) => room.merge(more),
                None => room = Some(more),
            }
        }
        whole.extend_from_slice(&piece);
    }
    Ok((whole.freeze(), room))
}

fn broken_off(error: &PayloadError) -> String {
    match error {
        PayloadError::Incomplete(_) => "the body ended before its announced length".into(),
        error => format!("the body broke off: {error}"),
    }
}

/// Takes what has arrived of a body that nobody wants; `false` when more may come, which nobody will wait for.
pub async fn drained(payload: &mut Payload, turn: &Turn) -> bool {
    let mut taken = 0;
    std::future::poll_fn(|cx| {
        loop {
            match Pin::new(&mut *payload).poll_next(cx) {
                Poll::Ready(None) => return Poll::Ready(true),
                Poll::Ready(Some(Ok(piece))) if taken < TRANSIT_FREE_BYTES => taken += piece.len(),
                Poll::Pending if turn.owes() => return Poll::Pending,
                _ => return Poll::Ready(false),
            }
        }
    })
    .await
}
