//! Many keys: `GET /keys`, a line of JSON each, for as long as the client reads.
//!
//! The next stretch is read when the one before it has been taken, on a thread that may block: memory is bounded by the
//! stretch, and a client that takes its time holds nothing but its turn. An answer that can't go on is cut off without the
//! last chunk, so that no client takes a part for the whole.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use actix_web::body::{BodySize, MessageBody};
use actix_web::http::header::{self, HeaderValue};
use actix_web::http::{Method, Version};
use actix_web::web::Bytes;
use actix_web::{HttpRequest, HttpResponse};
use tokio::sync::OwnedSemaphorePermit;

use super::app::App;
use super::keys::{Untold, catch_up};
use super::problem::{Code, Problem};
use super::{request, shown};
use crate::limits::WAIT_MS_DEFAULT;
use crate::storage::{Asked, Store, Stretch};

/// `GET` and `HEAD /keys`.
pub async fn keys(app: &Arc<App>, request: &HttpRequest) -> Result<HttpResponse, Problem> {
    let page = request::page(request, &["prefix", "after", "limit"], (usize::MAX, usize::MAX))?;
    let session = request::session(request)?;
    if request.version() < Version::HTTP_11 {
        let why = "a list of keys ends with a last chunk, which HTTP/1.0 does not have: ask in HTTP/1.1";
        return Err(Problem::new(Code::InvalidRequest, why));
    }
    let store = app.store()?.clone();
    catch_up(app, &store, (&session, None), WAIT_MS_DEFAULT).await?;
    let mut answer = HttpResponse::Ok();
    answer.insert_header((header::CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson")));
    if *request.method() == Method::HEAD {
        return Ok(answer.body(Untold));
    }
    let turn = app.listing()?;
    let asked = Asked { prefix: page.prefix, after: page.after, keys: page.limit, now_ms: 0, room: 0 };
    let first = read(app.clone(), store.clone(), asked.clone()).await?;
    let mut listing = Listing {
        app: app.clone(),
        store,
        asked,
        over: false,
        text: Bytes::new(),
        room: None,
        reading: None,
        _turn: turn,
    };
    listing.take(first);
    Ok(answer.body(listing))
}

/// A stretch, and the room in memory that it takes when it is large.
type Read = (Stretch, Option<OwnedSemaphorePermit>);

type Reading = Pin<Box<dyn Future<Output = Result<Read, Problem>>>>;

/// Reads the next stretch, once there is room for it.
async fn read(app: Arc<App>, store: Store, mut asked: Asked) -> Result<Read, Problem> {
    let mut room = None;
    loop {
        asked.now_ms = (app.now_ms)();
        let stretch = app.unless_stopping(store.stretch(asked.clone(), shown::line)).await;
        let stretch = stretch.ok_or_else(Problem::stopping)??;
        let Some(bytes) = stretch.large.filter(|_| stretch.keys == 0) else { return Ok((stretch, room)) };
        drop(room.take());
        // The pieces, and the line made of them.
        let more = app.unless_stopping(app.room_in_turn(2 * bytes as usize)).await;
        room = more.ok_or_else(Problem::stopping)?;
        (asked.room, asked.after) = (bytes, stretch.through);
    }
}

/// The body of the answer.
struct Listing {
    app: Arc<App>,
    store: Store,
    asked: Asked,
    over: bool,
    /// What has not been taken yet.
    text: Bytes,
    room: Option<OwnedSemaphorePermit>,
    reading: Option<Reading>,
    _turn: OwnedSemaphorePermit,
}

/// The list is not whole.
#[derive(Debug, thiserror::Error)]
#[error("a list of keys was cut off: {0}")]
struct Cut(String);

impl Listing {
    fn take(&mut self, (stretch, room): Read) {
        self.asked.keys -= stretch.keys;
        self.asked.after = stretch.through;
        self.over = stretch.over || self.asked.keys == 0;
        (self.text, self.room) = (stretch.text.into(), room);
    }
}

impl MessageBody for Listing {
    type Error = Cut;

    fn size(&self) -> BodySize {
        BodySize::Stream
    }

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Bytes, Cut>>> {
        /// The server copies what it is given into a buffer per connection: small steps keep that small.
        const STEP_BYTES: usize = 64 << 10;
        let this = &mut *self;
        loop {
            if !this.text.is_empty() {
                let step = this.text.len().min(STEP_BYTES);
                return Poll::Ready(Some(Ok(this.text.split_to(step))));
            }
            if this.over {
                return Poll::Ready(None);
            }
            this.room = None;
            let next = || Box::pin(read(this.app.clone(), this.store.clone(), this.asked.clone()));
            let reading = this.reading.get_or_insert_with(|| next());
            let read = ready!(reading.as_mut().poll(cx));
            this.reading = None;
            match read {
                Ok(read) => this.take(read),
                Err(problem) => return Poll::Ready(Some(Err(Cut(problem.text())))),
            }
        }
    }
}
