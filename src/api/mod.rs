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

use std::sync::Arc;

use actix_web::http::Method;
use actix_web::web::{self, Payload, ServiceConfig};
use actix_web::{HttpRequest, HttpResponse};

pub use about::{Member, member};
pub use app::App;
use problem::{Code, Problem};

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

async fn route(request: HttpRequest, payload: Payload) -> HttpResponse {
    let app = app(&request);
    let answer = match request.path() {
        path if path.starts_with("/key/") => key(app, &request, payload).await,
        "/health" | "/ready" | "/stats" | "/membership" => node(app, &request).await,
        path => Err(no_such_path(path)),
    };
    finish(app, answer)
}

async fn key(app: &Arc<App>, request: &HttpRequest, payload: Payload) -> Result<HttpResponse, Problem> {
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

/// Errors become problem details, and are counted; while the node stops, every answer ends its connection.
fn finish(app: &App, answer: Result<HttpResponse, Problem>) -> HttpResponse {
    match answer {
        Ok(mut answer) => {
            if app.stopping() {
                answer.head_mut().set_connection_type(actix_web::http::ConnectionType::Close);
            }
            answer
        }
        Err(problem) => {
            let status = problem.code.status();
            let counter = if status.is_server_error() {
                &app.metrics.server_errors
            } else {
                &app.metrics.client_errors
            };
            counter.one();
            // What is left of a body that was given up is not worth reading.
            let broken_off = matches!(problem.code, Code::RequestTimeout | Code::TooLarge);
            problem.answer(app.stopping() || broken_off)
        }
    }
}

fn app(request: &HttpRequest) -> &Arc<App> {
    request.app_data::<Arc<App>>().expect("mounted with every route")
}
