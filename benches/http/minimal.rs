//! The least that an actix-web server can do: what the framework alone costs. It runs in a process of its own, with as
//! many workers as the node has by default, and stores nothing.

use actix_web::{App, HttpResponse, HttpServer, web};

use crate::shared::Failure;

/// Serves on a free port of loopback until it is killed.
pub fn serve() -> Result<(), Failure> {
    actix_web::rt::System::new().block_on(async {
        let routes = || {
            App::new().route("/key/{key:.*}", web::get().to(get)).route("/key/{key:.*}", web::put().to(put))
        };
        let server = HttpServer::new(routes).bind("127.0.0.1:0")?;
        eprintln!("serving address={}", server.addrs()[0]);
        Ok::<(), Failure>(server.run().await?)
    })
}

async fn get() -> HttpResponse {
    HttpResponse::Ok().content_type("application/json").body(ANSWER)
}

async fn put(body: web::Bytes) -> HttpResponse {
    if body.is_empty() {
        return HttpResponse::BadRequest().finish();
    }
    HttpResponse::Ok().content_type("application/json").body(STORED)
}

/// 150 bytes, as an answer with a small value would have.
pub const ANSWER: &str = concat!(
    r#"{"key":"key:000000000000","value":"012345678901234567890123456789012345678901","#,
    r#""version":"0123456789abcdef-1","updated_at":"2026-01-01T00:00:00.000Z"}"#
);
const STORED: &str = r#"{"key":"key:000000000000","version":"0123456789abcdef-1","replicas":1}"#;
