//! Window: the current snapshot of a stream, swapped by one writer, read by everybody.

use crate::snapshot::{Numbers, Snapshot};
use arc_swap::ArcSwap;
use std::sync::Arc;
use tokio::sync::watch;

/// The snapshot in force and the signal that there is a newer one.
#[derive(Debug)]
pub struct Window {
    current: ArcSwap<Snapshot>,
    version: watch::Sender<u64>,
}

impl Window {
    /// An empty window.
    pub fn starting_at(numbers: Numbers) -> Self {
        Self::holding(Snapshot::starting_at(numbers))
    }

    /// A window that goes on from a snapshot.
    pub fn holding(snapshot: Snapshot) -> Self {
        Self { version: watch::Sender::new(snapshot.version), current: ArcSwap::from_pointee(snapshot) }
    }

    /// The snapshot in force.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// Publishes a snapshot. Only the segmenter calls this.
    pub fn publish(&self, snapshot: Snapshot) {
        let version = snapshot.version;
        self.current.store(Arc::new(snapshot));
        self.version.send_replace(version);
    }

    /// Waits for a snapshot newer than `version`. The caller sets the deadline.
    pub async fn newer_than(&self, version: u64) -> Arc<Snapshot> {
        let mut versions = self.version.subscribe();
        // The sender lives as long as `self`: this cannot fail.
        let _ = versions.wait_for(|current| *current > version).await;
        self.snapshot()
    }
}
