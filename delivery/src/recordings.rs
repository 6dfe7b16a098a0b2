//! Recordings, read from storage. The only thing viewers get that may have to wait for it, and therefore bounded.

use crate::files::{IMMUTABLE, REVALIDATE, allow_any_origin, content_type};
use axum::Router;
use axum::body::{Body, HttpBody};
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::http::header::{CACHE_CONTROL, CONTENT_TYPE, RETRY_AFTER};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use hyper::body::{Frame, SizeHint};
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use storage::recordings::{DIRECTORY, MOVIE, REMOVED};
use storage::snapshot::DIGESTS;
use storage::{Mount, Mounts};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tower_http::services::ServeDir;

/// Responses read from all archives at once, each with its share: one may hang, and each may take a thread of the 512
/// there are.
const MAX_READING: usize = 256;

/// `/recordings/APPLICATION/NAME/SESSION/…`, from the archive of each application.
pub fn router(mounts: &Mounts) -> Router {
    let share = MAX_READING / mounts.all().count();
    let own = |app: &str, mount: &Mount| (format!("/{DIRECTORY}/{app}"), served(&mount.directory, app, share));
    let with_own = mounts.by_app().map(|(app, mount)| own(app, mount));
    let others = (format!("/{DIRECTORY}"), served(&mounts.default().directory, "", share));
    with_own.chain([others]).fold(Router::new(), |router, (path, files)| router.nest(&path, files))
}

/// Files of one archive, with bounds of its own: one that hangs keeps nobody from the others.
fn served(data: &Path, app: &str, share: usize) -> Router {
    let files = ServeDir::new(data.join(DIRECTORY).join(app)).append_index_html_on_directories(false);
    let reading = Arc::new(Semaphore::new(share));
    Router::new().fallback_service(files).layer(from_fn_with_state(reading, bounded))
}

/// What is for viewers: playlists, digests, segments, initialization sections, and the one file. Not what is being
/// written or removed, nor the server's own records.
fn is_public(path: &str) -> bool {
    let mut parts = path.rsplit('/');
    let name = parts.next().unwrap_or_default();
    // Of the directories above, the session's is the first that is no hour; streams may be called what they like.
    let is_hour = |part: &&str| part.len() == 10 && part.bytes().all(|byte| byte.is_ascii_digit());
    let session = parts.find(|part| !is_hour(part)).unwrap_or_default();
    let is_media = [".m4s", ".mp4", ".ts", ".m3u8"].iter().any(|extension| name.ends_with(extension));
    (is_media || name == DIGESTS) && session.rsplit_once('.').is_none_or(|(_, extension)| extension != REMOVED)
}

async fn bounded(State(reading): State<Arc<Semaphore>>, request: Request, next: Next) -> Response {
    if !is_public(request.uri().path()) {
        let mut response = StatusCode::NOT_FOUND.into_response();
        allow_any_origin(&mut response);
        return response;
    }
    let Ok(permit) = reading.try_acquire_owned() else {
        return (StatusCode::SERVICE_UNAVAILABLE, [(RETRY_AFTER, "1")]).into_response();
    };
    let name = request.uri().path().to_owned();
    let mut response = next.run(request).await;
    if response.status().is_success() {
        let changes = name.ends_with(".m3u8") || name.ends_with(".json") || name.ends_with(MOVIE);
        response.headers_mut().insert(CONTENT_TYPE, content_type(&name));
        response.headers_mut().insert(CACHE_CONTROL, if changes { REVALIDATE } else { IMMUTABLE });
    }
    allow_any_origin(&mut response);
    response.map(|body| Body::new(Reading { body, _permit: permit }))
}

/// A body that counts as being read until it is dropped.
struct Reading {
    body: Body,
    _permit: OwnedSemaphorePermit,
}

impl HttpBody for Reading {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_being_written_or_removed_is_nobody_s_business() {
        for path in ["/show/19aa/0.m3u8", "/show/19aa/2026112112/0-7.m4s", "/a.b/19aa/2026112112/0-7.ts"] {
            assert!(is_public(path), "{path}");
        }
        assert!(is_public("/show/19aa/segments-sha256.json") && is_public("/show.removed/19aa/recording.mp4"));
        for path in ["/show/19aa/session.json", "/show/19aa/2026112112/segments.jsonl", "/show/19aa.removed/0.m3u8"] {
            assert!(!is_public(path), "{path}");
        }
        assert!(!is_public("/show/19aa.removed/2026112112/0-7.m4s"));
        assert!(!is_public("/show/19aa/recording.mp4.tmp") && !is_public("/show/19aa/2026112112/0-7.m4s.3.tmp"));
    }
}
