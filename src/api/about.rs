//! The node about itself: `/health`, `/ready`, `/stats`, `/membership`.

use actix_web::{HttpRequest, HttpResponse};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value as Json, json};

use super::app::App;
use super::problem::Problem;
use super::{request, time};
use crate::replica::{Kind, NodeId, VersionVector};
use crate::storage::{FORMAT, Store, sync_calls};

/// `GET /health`: the process is alive.
pub fn health(request: &HttpRequest) -> Result<HttpResponse, Problem> {
    request::no_parameters(request)?;
    Ok(HttpResponse::Ok().json(json!({"status": "alive"})))
}

/// `GET /ready`: requests are served.
pub fn ready(app: &App, request: &HttpRequest) -> Result<HttpResponse, Problem> {
    request::no_parameters(request)?;
    app.store()?;
    Ok(HttpResponse::Ok().json(json!({"status": "ready"})))
}

/// A member, as the membership tree keeps it.
#[derive(Serialize, Deserialize, Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// Where it is reached, as host:port.
    pub address: String,
    /// When it joined, in ms since 1970.
    pub joined_at_ms: u64,
}

/// A member as it stands in the tree; `None` when nothing is to be seen of it.
pub async fn member(store: &Store, id: NodeId, now_ms: u64) -> Result<Option<Member>, Problem> {
    let shown = store.read(Kind::Membership, &id.0.to_be_bytes(), now_ms).await?;
    Ok(shown.first().and_then(|(_, text)| serde_json::from_slice(text).ok()))
}

#[derive(Serialize)]
struct Shown {
    id: String,
    address: String,
    state: &'static str,
    joined_at: String,
    last_seen: String,
    lag: u64,
}

/// `GET /membership`.
pub async fn membership(app: &App, request: &HttpRequest) -> Result<HttpResponse, Problem> {
    request::no_parameters(request)?;
    let store = app.store()?;
    let now_ms = (app.now_ms)();
    let mut members = Vec::new();
    for id in store.members()? {
        let Some(member) = member(store, id, now_ms).await? else { continue };
        members.push(Shown {
            id: id.to_string(),
            address: member.address,
            state: "alive",
            joined_at: time::text(member.joined_at_ms),
            last_seen: time::text(now_ms),
            lag: 0,
        });
    }
    #[derive(Serialize)]
    struct Membership {
        cluster: String,
        #[serde(rename = "self")]
        me: String,
        members: Vec<Shown>,
    }
    let me = store.me().to_string();
    Ok(HttpResponse::Ok().json(Membership { cluster: store.cluster().to_string(), me, members }))
}

/// `GET /stats`.
pub fn stats(app: &App, request: &HttpRequest) -> Result<HttpResponse, Problem> {
    request::no_parameters(request)?;
    let store = app.store()?;
    let (published, queue, space) = (store.published(), store.queue(), store.space()?);
    let metrics = &app.metrics;
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
