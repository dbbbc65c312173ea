//! What may a client ask? The table of contents: every public path with its methods, in one place.
//!
//! This room knows status codes, headers and the clients' JSON; it knows neither sled nor peers. It decides nothing about
//! versions: the committer does.

mod about;
mod app;
mod backup;
mod json;
mod keys;
mod listing;
mod members;
mod pace;
mod problem;
mod request;
mod shown;
mod wire;

use std::sync::Arc;

use actix_web::http::{ConnectionType, Method};
use actix_web::web::Payload;
use actix_web::{HttpRequest, HttpResponse};

pub use app::App;
pub use json::listed;
pub use problem::{Code, Problem};
pub use request::drained;
pub use shown::line;
pub use wire::{Answer, Turn, Wire};

/// Methods of `/key/{key}`.
const KEY_METHODS: &str = "GET, HEAD, PUT, DELETE";
/// Methods of `/membership/{id}`.
const MEMBER_METHODS: &str = "GET, HEAD, DELETE";
/// Methods of the paths about the node.
const NODE_METHODS: &str = "GET, HEAD";

/// Answers a client's request.
pub async fn answer(
    app: &Arc<App>,
    request: &HttpRequest,
    payload: &mut Payload,
) -> Result<HttpResponse, Problem> {
    match request.path() {
        path if path.starts_with("/key/") => key(app, request, payload).await,
        "/health" | "/ready" | "/stats" | "/membership" | "/conflicts" | "/backup" | "/keys" => {
            node(app, request).await
        }
        path if path.starts_with("/membership/") => member(app, request).await,
        path if path.starts_with("/replication/") => replication(app, request).await,
        path => Err(no_such_path(path)),
    }
}

async fn key(app: &Arc<App>, request: &HttpRequest, payload: &mut Payload) -> Result<HttpResponse, Problem> {
    let serving = app.serve();
    match *request.method() {
        Method::GET | Method::HEAD => keys::get(app, request, serving).await,
        Method::PUT => keys::put(app, request, payload).await,
        Method::DELETE => keys::delete(app, request).await,
        _ => Err(Problem::not_allowed(request.method().as_str(), KEY_METHODS)),
    }
}

async fn node(app: &Arc<App>, request: &HttpRequest) -> Result<HttpResponse, Problem> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return Err(Problem::not_allowed(request.method().as_str(), NODE_METHODS));
    }
    match request.path() {
        "/health" => about::health(request),
        "/ready" => about::ready(app, request),
        "/stats" => about::stats(app, request).await,
        "/conflicts" => keys::conflicts(app, request).await,
        "/backup" => backup::backup(app, request),
        "/keys" => listing::keys(app, request).await,
        _ => members::all(app, request).await,
    }
}

async fn member(app: &Arc<App>, request: &HttpRequest) -> Result<HttpResponse, Problem> {
    // An eviction is a write as well.
    let _serving = app.serve();
    match *request.method() {
        Method::GET | Method::HEAD => members::one(app, request).await,
        Method::DELETE => members::evict(app, request).await,
        _ => Err(Problem::not_allowed(request.method().as_str(), MEMBER_METHODS)),
    }
}

/// Does it ask to take a member out of the cluster? That is for those who may put one in.
pub fn is_eviction(request: &HttpRequest) -> bool {
    *request.method() == Method::DELETE && request.path().starts_with("/membership/")
}

async fn replication(app: &App, request: &HttpRequest) -> Result<HttpResponse, Problem> {
    match *request.method() {
        Method::GET | Method::HEAD => members::receipt(app, request),
        _ => Err(Problem::not_allowed(request.method().as_str(), NODE_METHODS)),
    }
}

/// The answer to a path that leads nowhere.
pub fn no_such_path(path: &str) -> Problem {
    let shown: String = path.chars().take(100).collect();
    Problem::new(
        Code::NoSuchPath,
        format!(
            "{shown}: keys live under /key/, /keys lists them, /conflicts those with siblings, /backup gives all; /health, \
             /ready, /stats, /membership and /replication tell about node and cluster"
        ),
    )
}

/// Errors become problem details, and are counted. A connection ends with an answer when the node stops, or when some of
/// the request is unread and would be taken for the next one.
pub fn finish(
    app: &App,
    answer: Result<HttpResponse, Problem>,
    turn: Turn,
    unread: Option<Payload>,
) -> HttpResponse<Answer> {
    let mut answer = answer.unwrap_or_else(|problem| {
        let status = problem.code.status();
        let counter =
            if status.is_server_error() { &app.metrics.server_errors } else { &app.metrics.client_errors };
        counter.one();
        problem.answer()
    });
    let last = app.stopping() || unread.is_some();
    if last {
        answer.head_mut().set_connection_type(ConnectionType::Close);
    }
    answer.map_body(|_, body| turn.end(body, last, unread))
}
