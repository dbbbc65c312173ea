//! What may a client ask? The table of contents: every public path with its methods, in one place.
//!
//! This room knows status codes, headers and the clients' JSON; it knows neither sled nor peers. It decides nothing about
//! versions: the committer does.

mod about;
mod app;
mod json;
mod keys;
mod problem;
mod request;
mod time;
mod wire;

use std::sync::Arc;

use actix_web::http::{ConnectionType, Method};
use actix_web::web::{self, Payload, ServiceConfig};
use actix_web::{HttpRequest, HttpResponse};

pub use about::{Member, member};
pub use app::App;
use problem::{Code, Problem};
use wire::Answer;
pub use wire::{Turn, Wire};

/// Mounts every route; `app` is shared by all workers.
///
/// One service takes every path and matches it here: the framework's own router runs a regular expression on each
/// request, which costs as much as the whole read of a key.
pub fn routes(config: &mut ServiceConfig, app: Arc<App>) {
    config.app_data(app).default_service(web::to(route));
}

/// Methods of `/key/{key}`.
const KEY_METHODS: &str = "GET, HEAD, PUT, DELETE";
/// Methods of the paths about the node.
const NODE_METHODS: &str = "GET, HEAD";

async fn route(request: HttpRequest, mut payload: Payload) -> HttpResponse<Answer> {
    let app = app(&request);
    let turn = request.conn_data::<Turn>().expect("put there with every connection").clone();
    turn.begin(request.method(), request.headers());
    let answer = match request.path() {
        path if path.starts_with("/key/") => key(app, &request, &mut payload).await,
        "/health" | "/ready" | "/stats" | "/membership" => node(app, &request).await,
        path => Err(no_such_path(path)),
    };
    // What nobody has read of the body stands before the next request of the connection.
    let clean = request::drained(&mut payload, &turn).await;
    finish(app, answer, turn, clean)
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

async fn node(app: &App, request: &HttpRequest) -> Result<HttpResponse, Problem> {
    if !matches!(*request.method(), Method::GET | Method::HEAD) {
        return Err(Problem::not_allowed(request.method().as_str(), NODE_METHODS));
    }
    match request.path() {
        "/health" => about::health(request),
        "/ready" => about::ready(app, request),
        "/stats" => about::stats(app, request),
        _ => about::membership(app, request).await,
    }
}

fn no_such_path(path: &str) -> Problem {
    let shown: String = path.chars().take(100).collect();
    Problem::new(
        Code::NoSuchPath,
        format!(
            "{shown}: keys live under /key/; /health, /ready, /stats and /membership tell about the node"
        ),
    )
}

/// Errors become problem details, and are counted. A connection ends with an answer when the node stops, or when it is not
/// `clean` and the rest of the request would be taken for the next one.
fn finish(app: &App, answer: Result<HttpResponse, Problem>, turn: Turn, clean: bool) -> HttpResponse<Answer> {
    let mut answer = answer.unwrap_or_else(|problem| {
        let status = problem.code.status();
        let counter =
            if status.is_server_error() { &app.metrics.server_errors } else { &app.metrics.client_errors };
        counter.one();
        problem.answer()
    });
    let last = app.stopping() || !clean;
    if last {
        answer.head_mut().set_connection_type(ConnectionType::Close);
    }
    answer.map_body(|_, body| turn.end(body, last))
}

fn app(request: &HttpRequest) -> &Arc<App> {
    request.app_data::<Arc<App>>().expect("mounted with every route")
}
