//! Recordings whose sessions ended without them, because the process ended or storage was away, are finished: when the
//! process starts, and whenever an archive is well again. On disk threads: nobody waits for that.

use crate::events;
use std::sync::Arc;
use storage::recording::RecordingId;
use storage::{Mount, Registry};

/// Has all of an archive finished.
pub fn finish(mount: &Mount, registry: &Arc<Registry>) {
    go_on(mount.clone(), registry.clone(), None);
}

/// Some of them, and then the next.
fn go_on(mount: Mount, registry: Arc<Registry>, after: Option<RecordingId>) {
    let (disk, label) = (mount.disk.clone(), mount.label.clone());
    let work = move |_: &dyn storage::Archive| match mount
        .recordings
        .finish_interrupted(after.as_ref(), |id| registry.is_recording(id))
    {
        Ok((finished, next)) => {
            events::interrupted_finished(&mount.label, finished);
            if next.is_some() {
                go_on(mount, registry, next);
            }
        }
        Err(error) => events::interrupted_left(&mount.label, &error.to_string()),
    };
    if disk.submit(work).is_err() {
        events::interrupted_left(&label, "storage is busy");
    }
}
