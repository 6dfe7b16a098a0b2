//! Window: the current snapshot of a stream, swapped by one writer, read by everybody.

use crate::snapshot::Snapshot;
use arc_swap::ArcSwap;
use std::sync::{Arc, Mutex, PoisonError};
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
    /// Held while a snapshot is published: what is done first is done by nobody who is superseded.
    publishing: Mutex<()>,
    version: watch::Sender<u64>,
}

impl Window {
    /// A window that goes on from a snapshot.
    pub fn holding(snapshot: Snapshot) -> Self {
        Self {
            version: watch::Sender::new(snapshot.version),
            current: ArcSwap::from_pointee(snapshot),
            publishing: Mutex::new(()),
        }
    }

    /// The snapshot in force.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.current.load_full()
    }

    /// Publishes what follows `before`, unless something else was published meanwhile: a segmenter that
    /// was given up while it worked must not publish after its successor has begun.
    pub fn publish(&self, before: &Arc<Snapshot>, next: Snapshot) -> Result<(), Superseded> {
        self.publish_after(before, next, || ())
    }

    /// The same, with something that is to be done before, and only by who publishes indeed.
    pub fn publish_after(
        &self,
        before: &Arc<Snapshot>,
        next: Snapshot,
        first: impl FnOnce(),
    ) -> Result<(), Superseded> {
        let _publishing = self.publishing.lock().unwrap_or_else(PoisonError::into_inner);
        if !Arc::ptr_eq(&self.current.load(), before) {
            return Err(Superseded);
        }
        first();
        let version = next.version;
        self.current.store(Arc::new(next));
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
        let untouched = || panic!("done by one who is superseded");
        assert_eq!(window.publish_after(&before, next(), untouched), Err(Superseded));
        assert_eq!(window.snapshot().version, 1);
    }
}
