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
