//! Recordings whose sessions ended without them, because the process ended or storage was away, are finished: when the
//! process starts, and whenever an archive is well again. On disk threads: nobody waits for that.

use crate::events;
use std::collections::HashMap;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};
use storage::continuity::{Record, Records};
use storage::live::StreamSettings;
use storage::recording::RecordingId;
use storage::{Archive, LiveStream, Mount, Mounts, Registry};

/// How soon a session is handed back again that its recorder could not finish: it has tried for ten minutes. Twice as long
/// each time, up to [`LONGEST_WAIT`].
const AGAIN: Duration = Duration::from_secs(15 * 60);
/// However often it was tried.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);

/// Takes a session that is over, and whose recording is to go on.
pub type Returned = Arc<dyn Fn(Arc<LiveStream>) + Send + Sync>;

/// What is known of sessions that are over.
#[derive(Clone)]
pub struct Left {
    /// Those whose recordings are not interrupted.
    pub registry: Arc<Registry>,
    /// What is remembered of the others.
    pub records: Records,
    /// How they were packaged.
    pub settings: StreamSettings,
    /// Where those go of which something is remembered: a recorder tells what they lack.
    pub returned: Returned,
}

/// Who finishes an archive's, one pass at a time.
#[derive(Clone)]
pub struct Finisher {
    mount: Mount,
    mounts: Mounts,
    left: Left,
    is_busy: Arc<AtomicBool>,
    is_left: Arc<AtomicBool>,
    returned: Arc<Mutex<HandedBack>>,
}

/// Sessions that were handed back and are still remembered: how often, and when they may be again.
#[derive(Debug, Default)]
struct HandedBack(HashMap<RecordingId, (u32, Instant)>);

impl HandedBack {
    /// Whether a session may be handed back: the last time is long ago.
    fn is_due(&self, id: &RecordingId, now: Instant) -> bool {
        self.0.get(id).is_none_or(|(_, again)| *again <= now)
    }

    fn note(&mut self, id: RecordingId, now: Instant) {
        let times = self.0.get(&id).map_or(0, |(times, _)| *times);
        let wait = AGAIN.saturating_mul(2_u32.saturating_pow(times)).min(LONGEST_WAIT);
        self.0.insert(id, (times.saturating_add(1), now + wait));
    }
}

/// What a pass looks through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scope {
    /// The whole archive.
    All,
    /// Sessions of which something is remembered.
    Remembered,
}

impl Finisher {
    /// Of one of these archives.
    pub fn new(mount: Mount, mounts: Mounts, left: Left) -> Self {
        Self { mount, mounts, left, is_busy: Arc::default(), is_left: Arc::default(), returned: Arc::default() }
    }

    /// Without a pass that may never come to an end.
    pub fn afresh(&self) -> Self {
        Self::new(self.mount.clone(), self.mounts.clone(), self.left.clone())
    }

    /// Has all of them finished; false if that is being done.
    pub fn begin(&self) -> bool {
        self.start(Scope::All)
    }

    /// Has those finished of which something is remembered, if there are any: archives are not looked through for them.
    pub fn begin_left(&self) -> bool {
        !self.remembered(Instant::now()).is_empty() && self.start(Scope::Remembered)
    }

    /// Whether a pass is under way.
    pub fn is_busy(&self) -> bool {
        self.is_busy.load(Ordering::Acquire)
    }

    /// Whether the last pass over the whole archive left some.
    pub fn is_left(&self) -> bool {
        self.is_left.load(Ordering::Acquire)
    }

    fn start(&self, scope: Scope) -> bool {
        let is_new = !self.is_busy.swap(true, Ordering::AcqRel);
        if is_new {
            let end = Err("storage did not take it, or it panicked".to_owned());
            Pass { finisher: self.clone(), scope, failed: false, end }.begin();
        }
        is_new
    }

    /// Sessions of which something is remembered, and that nobody records.
    fn remembered(&self, now: Instant) -> Vec<RecordingId> {
        let mut sessions = self.left.records.left_sessions().unwrap_or_default();
        let mut returned = self.returned();
        returned.0.retain(|id, _| sessions.contains(id));
        let is_here = |id: &RecordingId| self.mounts.of(&id.stream).label == self.mount.label;
        sessions.retain(|id| is_here(id) && returned.is_due(id, now) && !self.left.registry.is_recording(id));
        sessions
    }

    /// Critical sections only look up and change the table.
    fn returned(&self) -> MutexGuard<'_, HandedBack> {
        self.returned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has a recorder go on with a session of which something is remembered.
    fn give_back(&self, id: &RecordingId, archive: &dyn Archive) {
        if let Some(record) = self.left.records.read_left(id).filter(|record| !record.recorded) {
            self.restore(&record, archive);
        }
    }

    /// A recorder goes on with a session, with what its archive holds of it.
    fn restore(&self, record: &Record, archive: &dyn Archive) {
        let id = record.id();
        let mut read =
            |name: &str| archive.read(&record.stream, name).or_else(|_| archive.read_aside(&record.stream, name)).ok();
        let stream = record.restore(&mut read, &self.left.settings);
        let Left { registry, records, returned, .. } = &self.left;
        if !registry.finish_later(&stream) {
            return;
        }
        // Reading may have taken long: somebody may have finished it meanwhile, or removed it. Who removes it now is told
        // that it is written to.
        let Some(before) = records.read_left(&id) else { return registry.finish_no_more(&stream) };
        if before != *record {
            // Not recorded any more: handed back again, should its recorder give up. What is there stays if this cannot be
            // written, and is handed back when the archive is looked through.
            let _ = records.write_left(record);
        }
        self.returned().note(id, Instant::now());
        returned(stream);
    }

    /// Has a recorder go on with a session if anything is known of it; false if nothing is. One that was recorded lacks
    /// something where it is found now, as a mount that was away at its end does.
    fn goes_on(&self, id: &RecordingId, archive: &dyn Archive) -> bool {
        let Left { registry, records, .. } = &self.left;
        if registry.is_recording(id) {
            return true;
        }
        let shown = registry.get(&id.stream.to_string()).filter(|shown| shown.session.id == id.session);
        match (shown, records.read_left(id)) {
            (Some(shown), _) => {
                shown.spool.reopen();
                if registry.finish_later(&shown) {
                    (self.left.returned)(shown);
                }
            }
            (None, Some(mut record)) if self.returned().is_due(id, Instant::now()) => {
                record.recorded = false;
                self.restore(&record, archive);
            }
            (None, Some(_)) => {}
            (None, None) => return false,
        }
        true
    }
}

/// A pass over an archive. It is over when this is dropped, also by a disk that does not run it, or that it panics on.
struct Pass {
    finisher: Finisher,
    scope: Scope,
    /// Some could not be finished.
    failed: bool,
    end: Result<(), String>,
}

impl Pass {
    /// Those first of which something is remembered.
    fn begin(self) {
        let remembered = self.finisher.remembered(Instant::now());
        self.give_back(remembered);
    }

    /// One after the other, each in a job of its own: a window is some MB, and a job that takes long looks like storage that
    /// hangs.
    fn give_back(self, mut remembered: Vec<RecordingId>) {
        let disk = self.finisher.mount.disk.clone();
        let work = move |archive: &dyn Archive| match (remembered.pop(), self.scope) {
            (Some(id), _) => {
                self.finisher.give_back(&id, archive);
                self.give_back(remembered);
            }
            (None, Scope::All) => self.go_on(None),
            (None, Scope::Remembered) => self.ends(Ok(())),
        };
        // One that is not taken is dropped with the pass.
        let _ = disk.submit(work);
    }

    /// Some of the others, and then the next.
    fn go_on(self, after: Option<RecordingId>) {
        let disk = self.finisher.mount.disk.clone();
        let work = move |archive: &dyn Archive| self.some(after, archive);
        // As above.
        let _ = disk.submit(work);
    }

    fn some(mut self, after: Option<RecordingId>, archive: &dyn Archive) {
        let finisher = self.finisher.clone();
        let Finisher { mount, left, .. } = &finisher;
        let is_live = |id: &RecordingId| finisher.goes_on(id, archive);
        let tried = |id: &RecordingId, finished: io::Result<()>| match finished {
            Ok(()) => {
                left.records.forget(id);
                events::interrupted_finished(id);
            }
            Err(error) => {
                self.failed = true;
                events::interrupted_failed(id, &error);
            }
        };
        match mount.recordings.finish_interrupted(after, is_live, tried) {
            Ok(Some(next)) => self.go_on(Some(next)),
            Ok(None) => self.ends(Ok(())),
            Err(error) => self.ends(Err(error.to_string())),
        }
    }

    fn ends(mut self, end: Result<(), String>) {
        self.end = end;
    }
}

impl Drop for Pass {
    fn drop(&mut self) {
        let Finisher { mount, is_left, is_busy, .. } = &self.finisher;
        if self.scope == Scope::All {
            let was_left = is_left.swap(self.failed || self.end.is_err(), Ordering::AcqRel);
            if let Err(error) = &self.end
                && !was_left
            {
                // Once, however often it is tried.
                events::interrupted_left(&mount.label, error);
            }
        }
        is_busy.store(false, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::sync_channel;
    use std::thread;
    use storage::disk::{HUNG_AFTER, SyncPolicy};
    use storage::live::LiveSettings;

    #[test]
    fn a_session_that_is_handed_back_in_vain_waits_longer_each_time_and_up_to_an_hour() {
        let stream = storage::StreamName::new("live", "show").expect("valid name");
        let id = RecordingId::new(stream, "2026112112000000").expect("a session");
        let (mut returned, begun) = (HandedBack::default(), Instant::now());
        assert!(returned.is_due(&id, begun));
        let mut now = begun;
        for minutes in [15, 30, 60, 60] {
            returned.note(id.clone(), now);
            let due = now + Duration::from_secs(minutes * 60);
            assert!(!returned.is_due(&id, due - Duration::from_secs(1)) && returned.is_due(&id, due), "{minutes}");
            now = due;
        }
    }

    #[test]
    fn a_pass_that_storage_does_not_take_or_that_fails_can_be_tried_again() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let data = directory.path().join("data");
        let mount = Mount::start("*", &data, SyncPolicy::Never).expect("threads");
        let records = Records::open(&directory.path().join("state")).expect("a directory");
        let disk = mount.disk.clone();
        let settings = StreamSettings { all: LiveSettings::default(), takeover: Arc::default() };
        let registry = Registry::settling_until(tokio::time::Instant::now());
        let left = Left { registry, records, settings, returned: Arc::new(|_| ()) };
        let finisher = Finisher::new(mount.clone(), Mounts::only(mount), left);
        let pass = || {
            assert!(finisher.begin());
            while finisher.is_busy.load(Ordering::Acquire) {
                thread::yield_now();
            }
            finisher.is_left()
        };
        assert!(pass(), "there is no archive");
        std::fs::create_dir(&data).expect("an archive");
        assert!(!pass());
        let (release, gate) = sync_channel::<()>(0);
        disk.probe(move |_| gate.recv().unwrap_or_default()).expect("it is asked");
        disk.check(Instant::now() + HUNG_AFTER + Duration::from_secs(1));
        assert!(pass(), "the archive hangs");
        drop(release);
        while disk.is_open() {
            thread::yield_now();
        }
        assert!(!pass());
    }
}
