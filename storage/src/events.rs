//! What storage logs and counts.

use std::io;
use std::time::Duration;

/// A job on a disk thread panicked: a bug of ours that cost one operation.
pub fn job_panicked() {
    metrics::counter!("steadycast_storage_job_panics_total").increment(1);
    tracing::error!("a storage job panicked");
}

/// An operation came back.
pub fn operation(kind: &'static str, took: Duration) {
    metrics::histogram!("steadycast_storage_operation_seconds", "operation" => kind).record(took);
}

/// An operation failed.
pub fn operation_failed(kind: &'static str, error: &io::Error) {
    metrics::counter!("steadycast_storage_errors_total", "operation" => kind, "errno" => errno(error)).increment(1);
}

/// The value of an `errno` label: its number, or `none` for an error that is not the system's.
pub fn errno(error: &io::Error) -> String {
    error.raw_os_error().map_or_else(|| "none".to_owned(), |code| code.to_string())
}

/// A directory cannot be watched: the limit of watches is reached, or it is not there. The periodic check goes on.
pub fn hints_refused(error: &notify::Error) {
    metrics::counter!("steadycast_watch_hint_errors_total", "kind" => "watch").increment(1);
    tracing::debug!(%error, "no hints from inotify for a directory");
}

/// inotify could not be read.
pub fn hints_failed(error: &notify::Error) {
    metrics::counter!("steadycast_watch_hint_errors_total", "kind" => "read").increment(1);
    tracing::debug!(%error, "inotify cannot be read");
}

/// inotify could not be read over and over.
pub fn hints_ended(rest: Duration) {
    metrics::counter!("steadycast_watch_hint_restarts_total").increment(1);
    tracing::warn!(
        rest_s = rest.as_secs(),
        "no hints from inotify for a while; archives are checked every few seconds anyway"
    );
}
