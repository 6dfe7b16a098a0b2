//! What viewers ask for: playlists, segments, digests. A lookup and a clone of `Bytes`; no actor is met.

use crate::files::{allow_any_origin, document, segment};
use crate::{console, events};
use axum::Router;
use axum::extract::{Path, State};
use axum::http::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_MAX_AGE, CACHE_CONTROL, LOCATION,
    RETRY_AFTER,
};
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use std::sync::Arc;
use storage::snapshot::{DIGESTS, MEDIA_PLAYLIST, MULTIVARIANT_PLAYLIST};
use storage::{Document, LiveStream, Registry, Snapshot, StreamName};
use tokio::sync::Semaphore;
use tokio::time::{Duration, Instant, timeout_at};

/// How long a request waits for a stream that is known to be live, or may still turn out to be (invariant I9).
pub const MAX_WAIT: Duration = Duration::from_secs(3);
/// Requests that may wait at the same time; beyond them viewers are told to come back.
const MAX_WAITING: usize = 4096;

/// Streams and how many requests wait for them.
#[derive(Clone)]
pub struct Viewers {
    registry: Arc<Registry>,
    waiting: Arc<Semaphore>,
}

/// Everything viewers can ask for, and the console.
pub fn router(registry: Arc<Registry>) -> Router {
    let viewers = Viewers { registry, waiting: Arc::new(Semaphore::new(MAX_WAITING)) };
    Router::new()
        .route("/{app}/{file}", get(redirect).options(preflight))
        .route("/{app}/{name}/{file}", get(file).options(preflight))
        .with_state(viewers)
        .merge(console::router())
}

/// `/live/name.m3u8` leads to `/live/name/index.m3u8`: the short form people type.
async fn redirect(Path((app, file)): Path<(String, String)>) -> Response {
    let name = file.strip_suffix(".m3u8").and_then(|name| StreamName::new(&app, name).ok());
    let Some(name) = name else {
        return refusal(StatusCode::NOT_FOUND, "there is nothing here; a stream plays at /application/name/index.m3u8");
    };
    let mut response = StatusCode::TEMPORARY_REDIRECT.into_response();
    // A stream name holds only characters that are valid in a header.
    if let Ok(location) = HeaderValue::from_str(&format!("/{name}/{MULTIVARIANT_PLAYLIST}")) {
        response.headers_mut().insert(LOCATION, location);
    }
    allow_any_origin(&mut response);
    response
}

async fn file(
    State(viewers): State<Viewers>,
    Path((app, name, file)): Path<(String, String, String)>,
    headers: HeaderMap,
) -> Response {
    let begun = Instant::now();
    let document: Option<fn(&Snapshot) -> &Document> = match file.as_str() {
        MULTIVARIANT_PLAYLIST => Some(|snapshot| &snapshot.multivariant),
        MEDIA_PLAYLIST => Some(|snapshot| &snapshot.media_playlist),
        DIGESTS => Some(|snapshot| &snapshot.digests),
        _ => None,
    };
    let path = format!("{app}/{name}");
    let response = match document {
        Some(pick) => viewers.document(&path, &file, pick, &headers, begun).await,
        None => viewers.segment(&path, &file, &headers),
    };
    events::served(if document.is_some() { "document" } else { "segment" }, response.status(), begun.elapsed());
    response
}

impl Viewers {
    fn segment(&self, path: &str, name: &str, headers: &HeaderMap) -> Response {
        let Some(stream) = self.registry.get(path) else { return self.unknown(path) };
        let snapshot = stream.window.snapshot();
        match snapshot.file(name) {
            Some(file) => segment(headers, file),
            // Who asks has a playlist of the process before: the next one tells that it is a gap.
            None if snapshot.is_lost(name) => unavailable("this segment was lost when the server was restarted"),
            None => refusal(StatusCode::NOT_FOUND, "this segment is not in the stream's window (any more)"),
        }
    }

    async fn document(
        &self,
        path: &str,
        name: &str,
        pick: fn(&Snapshot) -> &Document,
        headers: &HeaderMap,
        begun: Instant,
    ) -> Response {
        let known = self.registry.get(path);
        if let Some(snapshot) = known.as_ref().map(|stream| stream.window.snapshot()).filter(|s| s.has_playlist()) {
            return document(headers, name, pick(&snapshot));
        }
        if known.is_none() && !self.may_appear(path, begun) {
            return self.unknown(path);
        }
        let Ok(_waiting) = self.waiting.try_acquire() else {
            return unavailable("too many viewers wait for streams to start; try again");
        };
        match timeout_at(begun + MAX_WAIT, self.first_playlist(path, known)).await {
            Ok(snapshot) => document(headers, name, pick(&snapshot)),
            Err(_) => unavailable("the stream is starting; try again"),
        }
    }

    /// Waits for the stream and its first playlist. The caller sets the deadline.
    async fn first_playlist(&self, path: &str, known: Option<Arc<LiveStream>>) -> Arc<Snapshot> {
        let stream = match known {
            Some(stream) => stream,
            None => self.registry.wait_for(path).await,
        };
        let mut snapshot = stream.window.snapshot();
        while !snapshot.has_playlist() {
            snapshot = stream.window.newer_than(snapshot.version).await;
        }
        snapshot
    }

    /// Right after a start any valid name may be that of a stream whose encoder is on its way back.
    fn may_appear(&self, path: &str, now: Instant) -> bool {
        let valid = path.split_once('/').is_some_and(|(app, name)| StreamName::new(app, name).is_ok());
        valid && self.registry.is_settling(now)
    }

    fn unknown(&self, path: &str) -> Response {
        if self.may_appear(path, Instant::now()) {
            return unavailable("the server has just started; try again");
        }
        refusal(StatusCode::NOT_FOUND, "no such stream is live; publish to rtmp://host/application/name first")
    }
}

async fn preflight(method: Method) -> Response {
    debug_assert_eq!(method, Method::OPTIONS);
    let mut response = StatusCode::NO_CONTENT.into_response();
    let headers = response.headers_mut();
    headers.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, HEAD, OPTIONS"));
    headers.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static("*"));
    headers.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("86400"));
    allow_any_origin(&mut response);
    response
}

/// 503 with Retry-After: stock hls.js retries it, and not a 404.
fn unavailable(sentence: &'static str) -> Response {
    let mut response = refusal(StatusCode::SERVICE_UNAVAILABLE, sentence);
    response.headers_mut().insert(RETRY_AFTER, HeaderValue::from_static("1"));
    response
}

fn refusal(status: StatusCode, sentence: &'static str) -> Response {
    let mut response = (status, format!("{sentence}\n")).into_response();
    // A stream may begin the next second: nobody is to keep this answer.
    response.headers_mut().insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    allow_any_origin(&mut response);
    response
}
