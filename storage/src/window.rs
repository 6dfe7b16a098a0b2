//! Window: the current snapshot of a stream, swapped by one writer, read by everybody.

use crate::snapshot::Snapshot;
use arc_swap::ArcSwap;
use std::sync::{Arc, Mutex, TryLockError};
use thiserror::Error;
use tokio::sync::watch;
use tokio::time::Instant;

/// Why nothing was published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum NotPublished {
    /// Another writer has published since.
    #[error("the window has another writer by now")]
    Superseded,
    /// Another writer is at it, and does not come to an end: to wait for it would be to hang with it.
    #[error("another writer of the window hangs")]
    Busy,
}

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
    pub fn publish(&self, before: &Arc<Snapshot>, next: Snapshot) -> Result<Arc<Snapshot>, NotPublished> {
        self.publish_after(before, next, || ())
    }

    /// The same, with something that is to be done before, and only by who publishes indeed.
    pub fn publish_after(
        &self,
        before: &Arc<Snapshot>,
        mut next: Snapshot,
        first: impl FnOnce(),
    ) -> Result<Arc<Snapshot>, NotPublished> {
        let _publishing = match self.publishing.try_lock() {
            Ok(publishing) => publishing,
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return Err(NotPublished::Busy),
        };
        if !Arc::ptr_eq(&self.current.load(), before) {
            return Err(NotPublished::Superseded);
        }
        first();
        let version = next.version;
        next.comes_into_force(Instant::now());
        let next = Arc::new(next);
        self.current.store(next.clone());
        self.version.send_replace(version);
        Ok(next)
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

    #[test]
    fn a_writer_that_was_superseded_publishes_nothing() {
        let window = Window::holding(Snapshot::default());
        let before = window.snapshot();
        let next = || before.next(vec![], false, 6, None, Instant::now());
        assert!(window.publish(&before, next()).is_ok());
        let untouched = || panic!("done by one who is superseded");
        assert_eq!(window.publish_after(&before, next(), untouched).err(), Some(NotPublished::Superseded));
        let now = window.snapshot();
        let inside = || {
            let second = now.next(vec![], false, 6, None, Instant::now());
            assert_eq!(window.publish(&now, second).err(), Some(NotPublished::Busy), "the first one has not come back");
        };
        assert!(window.publish_after(&now, now.next(vec![], false, 6, None, Instant::now()), inside).is_ok());
        assert_eq!(window.snapshot().version, 2);
    }
}
