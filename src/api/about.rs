//! The node about itself: `/health`, `/ready`, `/stats`.

use actix_web::{HttpRequest, HttpResponse};
use serde_json::{Map, Value as Json, json};

use super::app::App;
use super::problem::{Code, Problem};
use super::{members, request};
use crate::peers::Arrival;
use crate::replica::VersionVector;
use crate::storage::{FORMAT, Store, sync_calls};
use crate::time;

/// `GET /health`: the process is alive.
pub fn health(request: &HttpRequest) -> Result<HttpResponse, Problem> {
    request::no_parameters(request)?;
    Ok(HttpResponse::Ok().json(json!({"status": "alive"})))
}

/// `GET /ready`: requests are served, and there is something to be read: a new member has what its cluster had when it joined.
/// Who was evicted serves what it is asked, but nobody hears of what is written there.
pub fn ready(app: &App, request: &HttpRequest) -> Result<HttpResponse, Problem> {
    request::no_parameters(request)?;
    let store = app.store()?;
    arrived(app, store)?;
    if store.is_out() {
        return Err(Problem::new(Code::Out, "this node is no member any more: it was evicted, or it leaves"));
    }
    Ok(HttpResponse::Ok().json(json!({"status": "ready"})))
}

/// Has the node what its cluster had when it joined?
pub fn arrived(app: &App, store: &Store) -> Result<(), Problem> {
    match app.peers.arrival() {
        None => Ok(()),
        Some(Arrival::Asking) => {
            let why =
                app.peers.hindrance().map_or_else(String::new, |why| format!(": it can't join by {why}"));
            let what = format!("no member of a cluster has taken this node in yet{why}");
            Err(Problem::new(Code::Starting, what))
        }
        Some(Arrival::Behind(vv)) if !store.published().vv.covers_all(&vv) => {
            Err(Problem::new(Code::Starting, "it is being sent what its cluster holds"))
        }
        Some(Arrival::Behind(_)) => Ok(()),
    }
}

/// `GET /stats`.
pub async fn stats(app: &App, request: &HttpRequest) -> Result<HttpResponse, Problem> {
    request::no_parameters(request)?;
    let store = app.store()?;
    let (published, queue, space) = (store.published(), store.queue(), store.space()?);
    let metrics = &app.metrics;
    let members = members::list(app, store).await?;
    Ok(HttpResponse::Ok().json(json!({
        "node_id": store.me().to_string(),
        "cluster_id": store.cluster().to_string(),
        "release": env!("CARGO_PKG_VERSION"),
        "format": FORMAT,
        "uptime_seconds": app.started.elapsed().as_secs(),
        "keys": published.totals.keys,
        "versions": published.totals.versions,
        "digest": published.totals.digest.to_string(),
        "version_vector": vector(&published.vv),
        "floor": vector(&published.floor),
        "members": members,
        "clock": {
            "hlc": published.clock.last().0,
            "time": time::text(published.clock.last().ms()),
            "far_future_versions": published.far_future,
        },
        "requests": {
            "reads": metrics.reads.get(),
            "puts": metrics.puts.get(),
            "deletes": metrics.deletes.get(),
            "client_errors": metrics.client_errors.get(),
            "server_errors": metrics.server_errors.get(),
            "reads_waited": metrics.reads_waited.get(),
        },
        "commits": metrics.commits.get(),
        "committed_writes": metrics.writes.get(),
        "expired_versions": metrics.expired.get(),
        "queue": {"depth": queue.depth, "capacity": queue.capacity, "refused": metrics.refused_busy.get()},
        "disk": {
            "store_bytes": space.store_bytes,
            "blobs_files": space.blob_files,
            "free_bytes": space.free_bytes,
            "reserve_bytes": space.reserve_bytes,
            "full": space.free_bytes < space.reserve_bytes,
            "refused": metrics.refused_disk_full.get(),
        },
        "sync_calls": sync_calls(),
    })))
}

fn vector(vector: &VersionVector) -> Json {
    let pairs = vector.iter().map(|dot| (dot.origin.to_string(), Json::from(dot.seq)));
    Json::Object(pairs.collect::<Map<_, _>>())
}
