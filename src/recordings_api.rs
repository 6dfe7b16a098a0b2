//! Recordings over HTTP: listed for everybody who may watch, removed from the health address only.

use axum::extract::{Path, Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use futures_util::future::join_all;
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use storage::continuity::Records;
use storage::recording::{RecordingId, SessionRecord};
use storage::recordings::{DIRECTORY, MOVIE};
use storage::snapshot::MULTIVARIANT_PLAYLIST;
use storage::{LiveStream, Mount, Mounts, Publisher, Recordings, Registry, StreamName};
use tokio::sync::Semaphore;
use tracing::{info, warn};

/// Recordings in one answer, unless fewer are asked for.
const MAX_PAGE: usize = 100;
/// Requests that may wait for an archive at once: it may hang, and each takes a thread.
const MAX_WAITING: usize = 4;
/// Recordings of an archive that are exported at once: one keeps its device busy.
const MAX_EXPORTS: usize = 1;
/// Exports of an archive that failed, at most, of which it is said why; the oldest is forgotten first.
const MAX_FAILED: usize = 64;
/// How long an archive may take to answer.
const ANSWERED_WITHIN: Duration = Duration::from_secs(10);
/// What to do where only a look was taken.
const TRY_AGAIN: &str = "try again later";

/// Why a request is not done.
type Refusal = (StatusCode, String);

/// What requests need.
#[derive(Clone)]
pub struct Context {
    archives: Arc<[Asked]>,
    mounts: Mounts,
    registry: Arc<Registry>,
    records: Records,
}

/// An archive, and room for requests that wait for it: one that hangs keeps nobody from the others.
struct Asked {
    mount: Mount,
    /// For those who look, and for those who change something: the public does not keep the operator out.
    looking: Arc<Semaphore>,
    changing: Arc<Semaphore>,
    exporting: Arc<Semaphore>,
    failed: Failures,
}

impl Context {
    /// Recordings of all archives.
    pub fn new(mounts: Mounts, registry: Arc<Registry>, records: Records) -> Self {
        let asked = |mount: &Mount| Asked {
            mount: mount.clone(),
            looking: Arc::new(Semaphore::new(MAX_WAITING)),
            changing: Arc::new(Semaphore::new(MAX_WAITING)),
            exporting: Arc::new(Semaphore::new(MAX_EXPORTS)),
            failed: Failures::default(),
        };
        Self { archives: mounts.all().map(asked).collect(), mounts, registry, records }
    }

    /// The recording that a request is for; it must not be written to any more.
    fn ended(&self, (app, name, session): (String, String, String)) -> Result<RecordingId, Refusal> {
        let id = StreamName::new(&app, &name).ok().and_then(|stream| RecordingId::new(stream, &session));
        let id = id.ok_or_else(absent)?;
        being_recorded(&id, &self.registry).map_or(Ok(id), Err)
    }

    /// The archive of a stream.
    fn of(&self, stream: &StreamName) -> &Asked {
        let label = &self.mounts.of(stream).label;
        self.archives.iter().find(|asked| asked.mount.label == *label).unwrap_or(&self.archives[0])
    }
}

/// What is said of a recording that is written to; none if it is not.
fn being_recorded(id: &RecordingId, registry: &Registry) -> Option<Refusal> {
    let sentence = if is_over(id, registry) {
        "its last segments wait for storage; try again later\n"
    } else {
        "the session is live; stop its encoder, and wait until its grace period is over\n"
    };
    registry.is_recording(id).then(|| (StatusCode::CONFLICT, sentence.to_owned()))
}

/// Why exports failed.
#[derive(Clone, Default)]
struct Failures(Arc<Mutex<VecDeque<(RecordingId, String)>>>);

impl Failures {
    /// Notes how the last export of a recording failed, if it did.
    fn note(&self, id: &RecordingId, failure: Option<String>) {
        let mut failures = self.lock();
        failures.retain(|(other, _)| other != id);
        failures.extend(failure.map(|failure| (id.clone(), failure)));
        if failures.len() > MAX_FAILED {
            failures.pop_front();
        }
    }

    fn of(&self, id: &RecordingId) -> Option<String> {
        self.lock().iter().find(|(other, _)| other == id).map(|(_, failure)| failure.clone())
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<(RecordingId, String)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Asked {
    /// Asks storage on a thread that may wait; an answer that does not come is given up.
    async fn ask<T: Send + 'static>(
        &self,
        room: &Arc<Semaphore>,
        late: &'static str,
        question: impl FnOnce(&Recordings) -> io::Result<T> + Send + 'static,
    ) -> Result<T, Refusal> {
        let busy = |sentence: String| (StatusCode::SERVICE_UNAVAILABLE, format!("{sentence}\n"));
        let Ok(permit) = room.clone().try_acquire_owned() else {
            return Err(busy("storage is busy; try again later".to_owned()));
        };
        let recordings = self.mount.recordings.clone();
        let asked = tokio::task::spawn_blocking(move || {
            let answer = question(&recordings);
            drop(permit);
            answer
        });
        match tokio::time::timeout(ANSWERED_WITHIN, asked).await {
            Ok(Ok(Ok(answer))) => Ok(answer),
            Ok(Ok(Err(error))) => Err(busy(format!("storage answers: {error}"))),
            Ok(Err(error)) => Err(busy(error.to_string())),
            Err(_) => Err(busy(format!("storage does not answer; {late}"))),
        }
    }
}

/// `GET /api/v1/recordings`.
pub fn reading(context: Context) -> Router {
    Router::new().route("/api/v1/recordings", get(list)).with_state(context)
}

/// `DELETE /api/v1/recordings/APPLICATION/NAME/SESSION`, and `POST …/export` for one MP4 file of it.
pub fn changing(context: Context) -> Router {
    Router::new()
        .route("/api/v1/recordings/{app}/{name}/{session}", delete(remove))
        .route("/api/v1/recordings/{app}/{name}/{session}/export", post(export))
        .with_state(context)
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
    /// One of `live`, `finishing` (the session is over; its last segments wait for storage), `ended`, and `unfinished` (its
    /// end was not written; it will be when the archive is well again, or at the next start).
    state: &'static str,
    published_at_ms: i64,
    ended_at_ms: Option<i64>,
    ended_because: Option<String>,
    codecs: Option<String>,
    epoch: u64,
    segments: u64,
    gaps: u64,
    storage_errors: u64,
    bytes: u64,
    duration_ms: i64,
    /// Once it has ended, if it holds anything.
    playlist: Option<String>,
    /// Once it was exported.
    movie: Option<String>,
    movie_bytes: Option<u64>,
    /// Why the last export did not make one, or what it lacks.
    movie_error: Option<String>,
}

async fn list(State(context): State<Context>, Query(page): Query<Page>) -> Response {
    let (mut records, mut unavailable) = (Vec::new(), Vec::new());
    let limit = page.limit.unwrap_or(MAX_PAGE).clamp(1, MAX_PAGE);
    let after = match page
        .after
        .as_deref()
        .filter(|text| !text.is_empty())
        .map(|text| text.parse::<RecordingId>().map_err(|_| text))
        .transpose()
    {
        Ok(after) => after,
        Err(text) => {
            let sentence = format!("after={text}: not the id of a recording; take `next` of the page before\n");
            return (StatusCode::BAD_REQUEST, sentence).into_response();
        }
    };
    let asked =
        context.archives.iter().map(|asked| {
            let after = after.clone();
            // One more than fits tells whether there is another page.
            async move {
                (asked, asked.ask(&asked.looking, TRY_AGAIN, move |all| all.page(after.as_ref(), limit + 1)).await)
            }
        });
    for (asked, answer) in join_all(asked).await {
        match answer {
            Ok(found) => records.extend(found),
            Err(_) => unavailable.push(&*asked.mount.label),
        }
    }
    records.sort_by(|a, b| a.id.cmp(&b.id));
    let next = (records.len() > limit).then(|| path(&records[limit - 1].id));
    let page: Vec<_> = records.into_iter().take(limit).map(|record| of(record, &context)).collect();
    // What other archives have is worth an answer; nothing at all is not.
    let none = unavailable.len() == context.archives.len();
    let status = if none { StatusCode::SERVICE_UNAVAILABLE } else { StatusCode::OK };
    (status, Json(serde_json::json!({ "recordings": page, "next": next, "unavailable": unavailable }))).into_response()
}

fn of(record: SessionRecord, context: &Context) -> Recording {
    let (id, registry) = (path(&record.id), &context.registry);
    let movie_error = context.of(&record.id.stream).failed.of(&record.id);
    let ended = record.ended_at_ms.is_some();
    Recording {
        state: if ended {
            "ended"
        } else if is_over(&record.id, registry) {
            "finishing"
        } else if registry.is_recording(&record.id) {
            "live"
        } else {
            "unfinished"
        },
        published_at_ms: record.published_at_ms,
        ended_at_ms: record.ended_at_ms,
        ended_because: record.ended_because,
        codecs: record.codecs,
        epoch: record.epoch,
        segments: record.segments,
        gaps: record.gaps,
        storage_errors: record.storage_errors,
        bytes: record.bytes,
        duration_ms: record.duration_ms,
        playlist: (ended && record.segments > 0).then(|| format!("/{DIRECTORY}/{id}/{MULTIVARIANT_PLAYLIST}")),
        movie: record.movie_bytes.map(|_| format!("/{DIRECTORY}/{id}/{MOVIE}")),
        movie_bytes: record.movie_bytes,
        movie_error,
        id,
    }
}

type Named = Path<(String, String, String)>;

async fn remove(State(context): State<Context>, Path(named): Named) -> Result<StatusCode, Refusal> {
    let id = context.ended(named)?;
    let (asked, records, registry) = (context.of(&id.stream), context.records.clone(), context.registry.clone());
    let removed = asked.ask(&asked.changing, "the recording is removed when it does", move |recordings| {
        // Nobody makes it again of what was to be recorded: whoever does now has said so before he looks for it again.
        let left = records.read_left(&id);
        records.forget_left(&id);
        let removed = match being_recorded(&id, &registry) {
            Some(refusal) => Ok(Err(refusal)),
            None => recordings.remove(&id).map(Ok),
        };
        match &removed {
            Ok(Ok(())) => info!(stream = %id.stream, session = id.session, "recording removed on request"),
            // It is still there, or may be when its mount is back. Without what is remembered its gaps are not told.
            Ok(Err(_)) | Err(_) => {
                if let Some(error) = left.and_then(|left| records.write_left(&left).err()) {
                    warn!(stream = %id.stream, session = id.session, %error, "gaps of a recording may not be told");
                }
            }
        }
        match removed {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Err(absent())),
            removed => removed,
        }
    });
    removed.await??;
    Ok(StatusCode::NO_CONTENT)
}

/// Makes the file on a thread of its own, for as long as that takes; the list of recordings tells when it is there.
async fn export(State(context): State<Context>, Path(named): Named) -> Result<StatusCode, Refusal> {
    let id = context.ended(named)?;
    let asked = context.of(&id.stream);
    let found = id.clone();
    if asked.ask(&asked.changing, TRY_AGAIN, move |recordings| recordings.read(&found)).await?.is_none() {
        return Err(absent());
    }
    let Ok(permit) = asked.exporting.clone().try_acquire_owned() else {
        let sentence = "another recording is being exported; try again later\n";
        return Err((StatusCode::SERVICE_UNAVAILABLE, sentence.to_owned()));
    };
    let recordings = asked.mount.recordings.clone();
    let failed = asked.failed.clone();
    failed.note(&id, None);
    let work = move || {
        let failure = match recordings.keep_movie(&id) {
            Ok(exported) if exported.damaged == 0 => {
                info!(recording = path(&id), exported.bytes, "exported");
                None
            }
            Ok(exported) => {
                warn!(recording = path(&id), exported.damaged, "exported without damaged segments");
                Some(format!("{} segments are missing or damaged, and not in it", exported.damaged))
            }
            Err(error) => {
                warn!(recording = path(&id), %error, "not exported");
                Some(error.to_string())
            }
        };
        failed.note(&id, failure);
        drop(permit);
    };
    match std::thread::Builder::new().name("export".to_owned()).spawn(work) {
        Ok(_) => Ok(StatusCode::ACCEPTED),
        Err(error) => Err((StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n"))),
    }
}

fn absent() -> Refusal {
    (StatusCode::NOT_FOUND, "there is no such recording\n".to_owned())
}

fn path(id: &RecordingId) -> String {
    format!("{}/{}", id.stream, id.session)
}

/// Whether its session is over and its recording is not.
fn is_over(id: &RecordingId, registry: &Registry) -> bool {
    let stream = registry.get(&id.stream.to_string());
    let is_ended = |stream: &LiveStream| stream.publisher() == Publisher::Ended && !stream.spool.is_finished();
    registry.is_finishing(id) || stream.is_some_and(|stream| stream.session.id == id.session && is_ended(&stream))
}
