//! Recordings over HTTP: listed for everybody who may watch, removed from the health address only.

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get};
use axum::{Json, Router};
use serde::{Deserialize, Serialize};
use std::io;
use std::sync::Arc;
use storage::disk::Disk;
use storage::recording::{RecordingId, SessionRecord};
use storage::recordings::DIRECTORY;
use storage::snapshot::MULTIVARIANT_PLAYLIST;
use storage::{Recordings, Registry, StreamName};
use tokio::sync::Semaphore;
use tracing::{info, warn};

/// Recordings in one answer, unless fewer are asked for.
const MAX_PAGE: usize = 100;
/// Requests that may wait for storage at once: it may hang, and each takes a thread.
const MAX_WAITING: usize = 4;

#[derive(Clone)]
struct Context {
    recordings: Arc<Recordings>,
    registry: Arc<Registry>,
    waiting: Arc<Semaphore>,
}

impl Context {
    fn new(recordings: Arc<Recordings>, registry: Arc<Registry>) -> Self {
        Self { recordings, registry, waiting: Arc::new(Semaphore::new(MAX_WAITING)) }
    }

    /// Asks storage on a thread that may wait.
    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Recordings) -> io::Result<T> + Send + 'static,
    ) -> Result<T, Response> {
        let busy = |sentence: String| (StatusCode::SERVICE_UNAVAILABLE, format!("{sentence}\n")).into_response();
        let Ok(permit) = self.waiting.clone().try_acquire_owned() else {
            return Err(busy("storage is busy; try again later".to_owned()));
        };
        let recordings = self.recordings.clone();
        let asked = tokio::task::spawn_blocking(move || {
            let answer = question(&recordings);
            drop(permit);
            answer
        });
        match asked.await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(error)) => Err(busy(format!("storage answers: {error}"))),
            Err(error) => Err(busy(error.to_string())),
        }
    }
}

/// `GET /api/v1/recordings`.
pub fn reading(recordings: Arc<Recordings>, registry: Arc<Registry>) -> Router {
    Router::new().route("/api/v1/recordings", get(list)).with_state(Context::new(recordings, registry))
}

/// `DELETE /api/v1/recordings/APPLICATION/NAME/SESSION`.
pub fn removing(recordings: Arc<Recordings>, registry: Arc<Registry>) -> Router {
    Router::new()
        .route("/api/v1/recordings/{app}/{name}/{session}", delete(remove))
        .with_state(Context::new(recordings, registry))
}

#[derive(Debug, Deserialize)]
struct Page {
    /// Only recordings after this one.
    after: Option<String>,
    limit: Option<usize>,
}

#[derive(Debug, Serialize)]
struct Recording {
    id: String,
    /// One of `live`, `ended`, and `unfinished` (its end was not written; it will be at the next start).
    state: &'static str,
    published_at_ms: i64,
    ended_at_ms: Option<i64>,
    ended_because: Option<String>,
    codecs: Option<String>,
    epochs: u64,
    segments: u64,
    gaps: u64,
    bytes: u64,
    duration_ms: i64,
    /// Once it has ended.
    playlist: Option<String>,
}

async fn list(State(context): State<Context>, Query(page): Query<Page>) -> Response {
    let records = match context.ask(Recordings::all).await {
        Ok(records) => records,
        Err(response) => return response,
    };
    let limit = page.limit.unwrap_or(MAX_PAGE).clamp(1, MAX_PAGE);
    let mut all: Vec<_> = records.into_iter().map(|record| of(record, &context.registry)).collect();
    all.sort_by(|a, b| a.id.cmp(&b.id));
    let mut page: Vec<_> =
        all.into_iter().filter(|found| page.after.as_ref().is_none_or(|after| found.id > *after)).collect();
    let next = (page.len() > limit).then(|| page[limit - 1].id.clone());
    page.truncate(limit);
    Json(serde_json::json!({ "recordings": page, "next": next })).into_response()
}

fn of(record: SessionRecord, registry: &Registry) -> Recording {
    let id = path(&record.id);
    let ended = record.ended_at_ms.is_some();
    Recording {
        state: if ended {
            "ended"
        } else if is_live(&record.id, registry) {
            "live"
        } else {
            "unfinished"
        },
        published_at_ms: record.published_at_ms,
        ended_at_ms: record.ended_at_ms,
        ended_because: record.ended_because,
        codecs: record.codecs,
        epochs: record.epochs,
        segments: record.segments,
        gaps: record.gaps,
        bytes: record.bytes,
        duration_ms: record.duration_ms,
        playlist: ended.then(|| format!("/{DIRECTORY}/{id}/{MULTIVARIANT_PLAYLIST}")),
        id,
    }
}

async fn remove(
    State(context): State<Context>,
    Path((app, name, session)): Path<(String, String, String)>,
) -> Result<StatusCode, Response> {
    let absent = || (StatusCode::NOT_FOUND, "there is no such recording\n").into_response();
    let id = StreamName::new(&app, &name).ok().and_then(|stream| RecordingId::new(stream, &session));
    let id = id.ok_or_else(absent)?;
    if is_live(&id, &context.registry) {
        let sentence = "the session is live; end it first\n";
        return Err((StatusCode::CONFLICT, sentence).into_response());
    }
    let removed = context.ask(move |recordings| match recordings.remove(&id) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    });
    if removed.await? { Ok(StatusCode::NO_CONTENT) } else { Err(absent()) }
}

fn path(id: &RecordingId) -> String {
    format!("{}/{}", id.stream, id.session)
}

/// Whether a recorder may still write to it: the session goes on, or its last segments are on their way.
fn is_live(id: &RecordingId, registry: &Registry) -> bool {
    let stream = registry.get(&id.stream.to_string());
    stream.is_some_and(|stream| stream.session.id == id.session && !stream.spool.is_finished())
}

/// Has recordings finished whose sessions ended without it, on a disk thread: nobody waits for that.
pub fn finish_interrupted(recordings: &Arc<Recordings>, disk: &Disk, registry: &Arc<Registry>) {
    let (recordings, registry) = (recordings.clone(), registry.clone());
    let submitted = disk.submit(move |_| match recordings.finish_interrupted(|id| is_live(id, &registry)) {
        Ok(0) => {}
        Ok(finished) => info!(finished, "recordings finished whose sessions had been interrupted"),
        Err(error) => warn!(%error, "interrupted recordings cannot be finished; the next start tries again"),
    });
    if submitted.is_err() {
        warn!("interrupted recordings are not finished: storage is busy; the next start tries again");
    }
}
