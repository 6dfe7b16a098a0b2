//! Admin API, metrics and health over HTTP.

use crate::exporter::Exporter;
use crate::health::Health;
use actors::Fault;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use ractor::ActorRef;
use serde::{Deserialize, Serialize};
use std::sync::Arc;
use std::time::{Duration, Instant};
use storage::live::Publisher;
use storage::{LiveStream, Registry, StreamName};
use supervisors::root;
use supervisors::tree::{Blow, Strike};
use supervisors::view::View;

/// Content type of the Prometheus text format.
const PROMETHEUS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// `/metrics`, `/healthz` and `/readyz`, on both addresses.
pub fn monitoring(exporter: Exporter, health: Health) -> Router {
    Router::new()
        .route("/metrics", get(metrics).with_state(exporter))
        .route("/healthz", get(healthz).with_state(health.clone()))
        .route("/readyz", get(readyz).with_state(health))
}

async fn metrics(State(exporter): State<Exporter>) -> Response {
    // Thousands of series take milliseconds: not on a thread that serves viewers.
    match tokio::task::spawn_blocking(move || exporter.render()).await {
        Ok(text) => ([(CONTENT_TYPE, PROMETHEUS)], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn healthz(State(health): State<Health>) -> Response {
    let report = health.report(Instant::now());
    let status = if report.healthy { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(report)).into_response()
}

async fn readyz(State(health): State<Health>) -> Response {
    let readiness = health.readiness(Instant::now());
    let status = if readiness.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(readiness)).into_response()
}

/// `/api/v1/…`
pub fn api(registry: Arc<Registry>, view: Arc<View>) -> Router {
    Router::new()
        .route("/api/v1/streams", get(streams).with_state(registry))
        .route("/api/v1/tree", get(tree).with_state(view))
}

/// The supervision tree: who runs, in which generation, restarted how often and why.
async fn tree(State(view): State<Arc<View>>) -> Response {
    Json(serde_json::json!({ "supervisors": view.all() })).into_response()
}

#[derive(Debug, Serialize)]
struct StreamState {
    name: String,
    session: String,
    published_at_ms: i64,
    /// One of `free`, `publishing`, `waiting` (for its encoder to come back) and `ended`.
    state: &'static str,
    epoch: u64,
    codecs: Option<String>,
    width: Option<u16>,
    height: Option<u16>,
    media_sequence: u64,
    target_duration: u32,
    bandwidth: u64,
    playlist: String,
}

async fn streams(State(registry): State<Arc<Registry>>) -> Response {
    let mut streams: Vec<_> = registry.all().iter().map(|stream| state_of(stream)).collect();
    streams.sort_by(|a, b| a.name.cmp(&b.name));
    Json(serde_json::json!({ "streams": streams })).into_response()
}

fn state_of(stream: &LiveStream) -> StreamState {
    let snapshot = stream.window.snapshot();
    let tracks = snapshot.tracks();
    let video = tracks.and_then(|tracks| tracks.video.as_deref());
    StreamState {
        name: stream.name.to_string(),
        session: stream.session.id.clone(),
        published_at_ms: stream.session.published_at_ms,
        state: match stream.publisher() {
            Publisher::Free => "free",
            Publisher::Held { .. } => "publishing",
            Publisher::Grace { .. } => "waiting",
            Publisher::Ended => "ended",
        },
        epoch: stream.epoch(),
        codecs: tracks.map(|tracks| tracks.codecs()),
        width: video.map(|config| config.width),
        height: video.map(|config| config.height),
        media_sequence: snapshot.listed.first().map_or(snapshot.next_sequence, |first| first.sequence),
        target_duration: snapshot.target_duration,
        bandwidth: snapshot.bandwidth(),
        playlist: format!("/{}/index.m3u8", stream.name),
    }
}

/// Fault injection: `POST /chaos/v1/strike?stream=live/show&child=segmenter&blow=panic`.
pub fn chaos(root: ActorRef<root::Msg>) -> Router {
    Router::new().route("/chaos/v1/strike", post(deal)).with_state(root)
}

#[derive(Debug, Deserialize)]
struct StrikeQuery {
    stream: Option<String>,
    child: String,
    blow: String,
    milliseconds: Option<u64>,
    times: Option<u32>,
}

async fn deal(
    State(root): State<ActorRef<root::Msg>>,
    Query(query): Query<StrikeQuery>,
) -> Result<StatusCode, (StatusCode, String)> {
    let bad = |sentence: &str| (StatusCode::BAD_REQUEST, format!("{sentence}\n"));
    let stream = match query.stream.as_deref().map(|path| path.split_once('/')) {
        None => None,
        Some(Some((app, name))) => Some(StreamName::new(app, name).map_err(|error| bad(&error.to_string()))?),
        Some(None) => return Err(bad("stream is to be application/name")),
    };
    let blow = match query.blow.as_str() {
        "panic" => Blow::Fault(Fault::Panic),
        "error" => Blow::Fault(Fault::Error),
        "block" => Blow::Fault(Fault::Block(Duration::from_millis(query.milliseconds.unwrap_or(1000).min(600_000)))),
        "kill" => Blow::Kill,
        "stillborn" => Blow::Stillborn(query.times.unwrap_or(1).min(10)),
        _ => return Err(bad("blow is to be one of: panic, error, block, kill, stillborn")),
    };
    let strike = Strike { stream, child: query.child, blow };
    root.send_message(root::Msg::Strike(strike))
        .map_err(|_| (StatusCode::SERVICE_UNAVAILABLE, "the tree is gone\n".to_owned()))?;
    Ok(StatusCode::ACCEPTED)
}
