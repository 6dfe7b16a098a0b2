//! Recordings whose sessions ended without them, because the process ended or storage was away, are finished: when the
//! process starts, and whenever an archive is well again. On disk threads: nobody waits for that.

use crate::events;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use storage::continuity::Records;
use storage::recording::RecordingId;
use storage::{Archive, Mount, Registry};

/// Who finishes an archive's, one pass at a time.
#[derive(Clone)]
pub struct Finisher {
    mount: Mount,
    registry: Arc<Registry>,
    records: Records,
    is_busy: Arc<AtomicBool>,
}

impl Finisher {
    /// Of an archive. What is finished is remembered no more.
    pub fn new(mount: Mount, registry: Arc<Registry>, records: Records) -> Self {
        Self { mount, registry, records, is_busy: Arc::default() }
    }

    /// Has all of them finished, unless that is being done.
    pub fn begin(&self) {
        if !self.is_busy.swap(true, Ordering::AcqRel) {
            self.clone().go_on(None);
        }
    }

    /// Some of them, and then the next.
    fn go_on(self, after: Option<RecordingId>) {
        let waiting = self.clone();
        let work = move |_: &dyn Archive| {
            let finished = |id: &RecordingId| {
                self.records.forget(id);
                events::interrupted_finished(id);
            };
            let is_live = |id: &RecordingId| self.registry.is_recording(id);
            match self.mount.recordings.finish_interrupted(after, is_live, finished) {
                Ok(Some(next)) => self.go_on(Some(next)),
                Ok(None) => self.is_busy.store(false, Ordering::Release),
                Err(error) => self.leave(&error.to_string()),
            }
        };
        if waiting.mount.disk.submit(work).is_err() {
            waiting.leave("storage is busy");
        }
    }

    fn leave(&self, error: &str) {
        self.is_busy.store(false, Ordering::Release);
        events::interrupted_left(&self.mount.label, error);
    }
}
