//! Window: the current snapshot of a stream, swapped by one writer, read by everybody.

use crate::snapshot::Snapshot;
use arc_swap::ArcSwap;
use std::sync::Arc;
use thiserror::Error;
use tokio::sync::watch;

/// Another writer has published since.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("the window has another writer by now")]
pub struct Superseded;

/// The snapshot in force and the signal that there is a newer one.
#[derive(Debug)]
pub struct Window {
    current: ArcSwap<Snapshot>,
    version: watch::Sender<u64>,
}

impl Window {
    /// A window that goes on from a snapshot.
    pub fn holding(snapshot: Snapshot) -> Self {
        Self { version: watch::Sender::new(snapshot.version), current: ArcSwap::from_pointee(snapshot) }
    }

    /// The snapshot in force.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// Publishes what follows `before`, unless something else was published meanwhile: a segmenter that
    /// was given up while it worked must not publish after its successor has begun.
    pub fn publish(&self, before: &Arc<Snapshot>, next: Snapshot) -> Result<(), Superseded> {
        let version = next.version;
        let found = self.current.compare_and_swap(before, Arc::new(next));
        if !Arc::ptr_eq(&found, before) {
            return Err(Superseded);
        }
        self.version.send_replace(version);
        Ok(())
    }

    /// Waits for a snapshot newer than `version`. The caller sets the deadline.
    pub async fn newer_than(&self, version: u64) -> Arc<Snapshot> {
        let mut versions = self.version.subscribe();
        // The sender lives as long as `self`: this cannot fail.
        let _ = versions.wait_for(|current| *current > version).await;
        self.snapshot()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::Instant;

    #[test]
    fn a_writer_that_was_superseded_publishes_nothing() {
        let window = Window::holding(Snapshot::default());
        let before = window.snapshot();
        let next = || before.next(vec![], false, 6, None, Instant::now());
        assert_eq!(window.publish(&before, next()), Ok(()));
        assert_eq!(window.publish(&before, next()), Err(Superseded));
        assert_eq!(window.snapshot().version, 1);
    }
}
