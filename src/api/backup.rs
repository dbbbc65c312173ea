//! `GET /backup`: all that the node holds, as one stream (`backup/`), as fast as it is read.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use actix_web::http::Method;
use actix_web::web::Bytes;
use actix_web::{HttpRequest, HttpResponse};
use futures_core::Stream;
use tokio::sync::OwnedSemaphorePermit;

use super::about;
use super::app::App;
use super::keys::Untold;
use super::problem::Problem;
use super::request;
use crate::backup::Collector;
use crate::storage;

/// `GET /backup`.
pub fn backup(app: &Arc<App>, request: &HttpRequest) -> Result<HttpResponse, Problem> {
    request::no_parameters(request)?;
    let store = app.store()?;
    about::arrived(app, store)?;
    let turn = app.backup_turn()?;
    let mut answer = HttpResponse::Ok();
    answer.content_type("application/octet-stream");
    if *request.method() == Method::HEAD {
        return Ok(answer.body(Untold));
    }
    let collector = Collector::new(store.clone(), app.now_ms);
    Ok(answer.streaming(Blocks { app: app.clone(), next: Some(block(collector)), _turn: turn }))
}

type Next = (Collector, Result<Option<Vec<u8>>, storage::Error>);

fn block(mut collector: Collector) -> Pin<Box<dyn Future<Output = Next>>> {
    Box::pin(async move {
        let next = collector.next().await;
        (collector, next)
    })
}

/// Blocks, each made when the one before it is out.
struct Blocks {
    app: Arc<App>,
    next: Option<Pin<Box<dyn Future<Output = Next>>>>,
    _turn: OwnedSemaphorePermit,
}

impl Stream for Blocks {
    type Item = Result<Bytes, storage::Error>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        // A stream that ends with an error is cut off, and the client sees that.
        if self.next.is_some() && self.app.stopping() {
            self.next = None;
            return Poll::Ready(Some(Err(storage::Error::Refused("the node is stopping".into()))));
        }
        let Some(next) = &mut self.next else { return Poll::Ready(None) };
        let (collector, made) = ready!(next.as_mut().poll(cx));
        self.next = None;
        Poll::Ready(match made {
            Ok(Some(bytes)) => {
                self.next = Some(block(collector));
                Some(Ok(bytes.into()))
            }
            Ok(None) => None,
            Err(error) => {
                log::error!("a backup was cut off: {error}");
                Some(Err(error))
            }
        })
    }
}
