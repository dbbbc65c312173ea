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
pub fn routes(config: &mut ServiceConfig, app: Arc<App>) {
    config.app_data(app);
    config.service(web::resource("/key/{key:.*}").to(key));
    for path in ["/health", "/ready", "/stats", "/membership"] {
        config.service(web::resource(path).to(node));
    }
    config.default_service(web::to(nowhere));
}

/// Methods of `/key/{key}`.
const KEY_METHODS: &str = "GET, HEAD, PUT, DELETE";
/// Methods of the paths about the node.
const NODE_METHODS: &str = "GET, HEAD";

async fn key(request: HttpRequest, payload: Payload) -> HttpResponse {
    let app = app(&request);
    let serving = app.serve();
    let answer = match *request.method() {
        Method::GET | Method::HEAD => keys::get(app, &request, serving).await,
        Method::PUT => {
            let answer = keys::put(app, &request, payload).await;
            drop(serving);
            answer
        }
        Method::DELETE => {
            let answer = keys::delete(app, &request).await;
            drop(serving);
            answer
        }
        _ => Err(Problem::not_allowed(request.method().as_str(), KEY_METHODS)),
    };
    finish(app, answer)
}

async fn node(request: HttpRequest) -> HttpResponse {
    let app = app(&request);
    let answer = match (request.method(), request.path()) {
        (&(Method::GET | Method::HEAD), "/health") => about::health(&request),
        (&(Method::GET | Method::HEAD), "/ready") => about::ready(app, &request),
        (&(Method::GET | Method::HEAD), "/stats") => about::stats(app, &request),
        (&(Method::GET | Method::HEAD), "/membership") => about::membership(app, &request).await,
        (&(Method::GET | Method::HEAD), path) => Err(no_such_path(path)),
        (method, _) => Err(Problem::not_allowed(method.as_str(), NODE_METHODS)),
    };
    finish(app, answer)
}

async fn nowhere(request: HttpRequest) -> HttpResponse {
    finish(app(&request), Err(no_such_path(request.path())))
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
