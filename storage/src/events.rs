//! What storage logs and counts.

/// A job on a disk thread panicked: a bug of ours that cost one operation.
pub fn job_panicked() {
    metrics::counter!("steadycast_storage_job_panics_total").increment(1);
    tracing::error!("a storage job panicked");
}
