//! Disk: threads that may block on storage so that nobody else has to.
//!
//! A few threads a mount take jobs from a bounded queue; a thread that hangs is given up and replaced,
//! up to a limit. Syncs are grouped: one a second for all streams of the mount.
//!
//! A breaker keeps a storage that hangs from taking thread after thread: while it is open, no job is taken, and a
//! thread of its own asks storage one question. Its answer closes the breaker.

mod breaker;
mod syncs;

pub use breaker::ASK_AGAIN;

use crate::archive::Archive;
use breaker::Breaker;
use crossbeam_channel::{Receiver, Sender, bounded};
use std::cell::RefCell;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::{Duration, Instant};
use syncs::Syncs;
use thiserror::Error;

/// Threads for one mount: storage answers in parallel, and one hung directory must not stop the others.
const THREADS: usize = 4;
/// Jobs that may wait: two for each of [`crate::registry::MAX_STREAMS`].
const MAX_QUEUED: usize = 8192;
/// A job that takes longer without an answer of storage is hung: its thread is given up.
pub const HUNG_AFTER: Duration = Duration::from_secs(10);
/// Threads that may be lost to hung jobs before no more are started.
const MAX_LOST: usize = 32;
/// Files read back in a second, at most: storage has other things to do.
const MAX_SCRUBBED: u32 = 100;
/// No job is taken: too many wait already, or storage hangs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("storage is far behind, or hangs")]
pub struct Busy;

type Job = Box<dyn FnOnce(&dyn Archive) + Send>;

thread_local! {
    /// The worker this thread is, if it is one.
    static WORKER: RefCell<Option<Arc<Worker>>> = const { RefCell::new(None) };
}

/// Says that the job of this thread goes on: what it has asked storage so far was answered. One that reads what there is of
/// everything takes long on large archives, and does not hang.
pub(crate) fn goes_on() {
    WORKER.with_borrow(|worker| {
        if let Some(worker) = worker {
            locked(&worker.busy).since = Some(Instant::now());
        }
    });
}

/// When finished writes count as durable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SyncPolicy {
    /// After a sync of the whole file system, at most once a second.
    Grouped,
    /// At once: the kernel writes back when it will.
    Never,
}

/// How a mount's threads are doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DiskState {
    /// Threads inside a job, and without an answer of storage, for longer than [`HUNG_AFTER`].
    pub hung: usize,
    /// Longest time a thread has been inside its job without an answer.
    pub longest: Duration,
}

/// The threads of one mount.
pub struct Disk {
    archive: Arc<dyn Archive>,
    jobs: Sender<Job>,
    queue: Receiver<Job>,
    syncs: Option<Syncs>,
    breaker: Breaker,
    scrubbed: Mutex<Scrubbed>,
    workers: Mutex<Vec<Arc<Worker>>>,
}

/// Files read back lately.
#[derive(Debug, Default)]
struct Scrubbed {
    since: Option<Instant>,
    files: u32,
}

/// One thread: since when it is inside a job, or its job last said that it goes on, and whether it was given up.
#[derive(Default)]
struct Worker {
    busy: Mutex<Busyness>,
}

#[derive(Default)]
struct Busyness {
    since: Option<Instant>,
    lost: bool,
    /// What it waits for may be mounted there no more.
    elsewhere: bool,
}

impl Disk {
    /// Starts the threads.
    pub fn start(archive: Arc<dyn Archive>, policy: SyncPolicy) -> io::Result<Arc<Self>> {
        let (jobs, queue) = bounded(MAX_QUEUED);
        let syncs = match policy {
            SyncPolicy::Grouped => {
                let archive = archive.clone();
                Some(Syncs::start(Arc::new(move || archive.sync()))?)
            }
            SyncPolicy::Never => None,
        };
        let (breaker, scrubbed, workers) = (Breaker::default(), Mutex::default(), Mutex::default());
        let disk = Self { archive, jobs, queue, syncs, breaker, scrubbed, workers };
        for _ in 0..THREADS {
            disk.start_worker()?;
        }
        Ok(Arc::new(disk))
    }

    /// Queues a job. It runs on a thread of the mount and reports by itself, usually with a message to an actor.
    pub fn submit(&self, job: impl FnOnce(&dyn Archive) + Send + 'static) -> Result<(), Busy> {
        if self.is_open() {
            return Err(Busy);
        }
        self.jobs.try_send(Box::new(job)).map_err(|_| Busy)
    }

    /// Asks storage the breaker's question, also while that is open; one at a time.
    pub fn probe(&self, job: impl FnOnce(&dyn Archive) + Send + 'static) -> Result<(), Busy> {
        self.breaker.ask(self.archive.clone(), Box::new(job), Instant::now())
    }

    /// Whether the breaker is open.
    pub fn is_open(&self) -> bool {
        self.breaker.is_open()
    }

    /// Calls back once everything written before this call is durable.
    pub fn sync(&self, synced: impl FnOnce(io::Result<()>) + Send + 'static) -> Result<(), Busy> {
        match &self.syncs {
            Some(syncs) => syncs.submit(synced),
            None => {
                synced(Ok(()));
                Ok(())
            }
        }
    }

    /// Whether so many more files may be read back now to see whether they are what they should be.
    pub fn may_scrub(&self, files: u32, now: Instant) -> bool {
        let mut scrubbed = locked(&self.scrubbed);
        if scrubbed.since.is_none_or(|since| now.saturating_duration_since(since) >= Duration::from_secs(1)) {
            *scrubbed = Scrubbed { since: Some(now), files: 0 };
        }
        scrubbed.files = scrubbed.files.saturating_add(files);
        scrubbed.files <= MAX_SCRUBBED
    }

    /// Something else is mounted there: threads that hang on what was there before tell nothing of it. They still count
    /// among those that are lost.
    pub fn replaced(&self) {
        let syncs = self.syncs.iter().flat_map(|syncs| locked(&syncs.workers).clone());
        for worker in locked(&self.workers).iter().cloned().chain(syncs) {
            let mut busy = locked(&worker.busy);
            busy.elsewhere = busy.since.is_some();
        }
    }

    /// Looks at the threads; replaces those that hang. Called every second by the storage probe.
    pub fn check(&self, now: Instant) -> DiskState {
        let mut state = DiskState::default();
        let is_open = self.breaker.check(now);
        let (missing, lost) = {
            let mut workers = locked(&self.workers);
            workers.retain(|worker| Arc::strong_count(worker) > 1);
            let mut lost = 0;
            for worker in workers.iter() {
                let mut busy = locked(&worker.busy);
                let inside = busy.since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
                busy.lost |= inside > HUNG_AFTER;
                lost += usize::from(busy.lost);
                if !busy.elsewhere {
                    state.longest = state.longest.max(inside);
                    state.hung += usize::from(busy.lost);
                }
            }
            ((THREADS + lost).saturating_sub(workers.len()), lost)
        };
        // While the breaker is open, new threads would only take what waits in the queue, and hang with it.
        let startable = if is_open { 0 } else { missing.min((THREADS + MAX_LOST).saturating_sub(lost)) };
        for _ in 0..startable {
            if self.start_worker().is_err() {
                break;
            }
        }
        state.hung += self.syncs.as_ref().map_or(0, |syncs| syncs.check(now, is_open));
        state
    }

    fn start_worker(&self) -> io::Result<()> {
        let worker = Arc::new(Worker::default());
        let (mine, queue, archive) = (worker.clone(), self.queue.clone(), self.archive.clone());
        thread::Builder::new().name("disk".to_owned()).spawn(move || {
            WORKER.set(Some(mine.clone()));
            work(&mine, &queue, &*archive);
        })?;
        locked(&self.workers).push(worker);
        Ok(())
    }
}

/// Runs jobs until the disk is dropped or the thread was given up.
fn work(worker: &Worker, queue: &Receiver<Job>, archive: &dyn Archive) {
    while let Ok(job) = queue.recv() {
        set_busy(worker, Some(Instant::now()));
        run(job, archive);
        if set_busy(worker, None) {
            return;
        }
    }
}

/// Notes what the thread does; whether it was given up.
fn set_busy(worker: &Worker, since: Option<Instant>) -> bool {
    let mut busy = locked(&worker.busy);
    (busy.since, busy.elsewhere) = (since, false);
    busy.lost
}

/// Critical sections leave the state whole at every step.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Runs a job. One that panics costs nobody its thread.
fn run(job: Job, archive: &dyn Archive) {
    if std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| job(archive))).is_err() {
        crate::events::job_panicked();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::LocalDirectory;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc::sync_channel;

    fn disk() -> (tempfile::TempDir, Arc<Disk>) {
        let directory = tempfile::tempdir().expect("temporary directory");
        let archive = Arc::new(LocalDirectory::at(directory.path()));
        let disk = Disk::start(archive, SyncPolicy::Grouped).expect("threads");
        (directory, disk)
    }

    #[test]
    fn hung_threads_are_replaced_and_the_rest_goes_on() {
        let (_directory, disk) = disk();
        let (release, gate) = sync_channel::<()>(1);
        let gate = Arc::new(Mutex::new(gate));
        let (started, starts) = sync_channel(64);
        for _ in 0..THREADS {
            let (gate, started) = (gate.clone(), started.clone());
            disk.submit(move |_| {
                started.send(()).expect("test waits");
                drop(gate.lock().map(|gate| gate.recv()));
            })
            .expect("room");
        }
        for _ in 0..THREADS {
            starts.recv().expect("all threads are inside a job");
        }
        let later = Instant::now() + HUNG_AFTER + Duration::from_secs(1);
        assert_eq!(disk.check(later).hung, THREADS);
        let (done, finished) = sync_channel(64);
        disk.submit(move |archive| done.send(archive.probe().is_ok()).expect("test waits")).expect("room");
        assert_eq!(finished.recv_timeout(Duration::from_secs(10)), Ok(true));
        drop(release);
    }

    #[test]
    fn a_job_that_takes_long_and_goes_on_does_not_hang() {
        let (_directory, disk) = disk();
        let (tell, told) = sync_channel::<()>(0);
        let (done, went) = sync_channel(0);
        disk.submit(move |_| {
            while told.recv().is_ok() {
                let before = Instant::now();
                goes_on();
                done.send(before).expect("test waits");
            }
        })
        .expect("room");
        for _ in 0..3 {
            tell.send(()).expect("it waits");
            let at = went.recv().expect("it goes on");
            assert_eq!(disk.check(at + HUNG_AFTER).hung, 0, "however long ago it began");
        }
        assert_eq!(disk.check(Instant::now() + HUNG_AFTER + Duration::from_secs(1)).hung, 1, "it goes on no more");
        // Another thread has no job.
        goes_on();
    }

    #[test]
    fn while_storage_hangs_the_breaker_takes_no_job_and_starts_no_thread_and_an_answer_closes_it() {
        let (_directory, disk) = disk();
        let (release, gate) = sync_channel::<()>(1);
        let hangs = move |_: &dyn Archive| {
            let _ = gate.recv();
        };
        disk.probe(hangs).expect("it is asked");
        assert_eq!(disk.probe(|_| ()), Err(Busy), "one at a time");
        let now = Instant::now();
        disk.check(now);
        let (done, finished) = sync_channel(1);
        assert_eq!(disk.submit(move |_| done.send(()).expect("test waits")), Ok(()));
        finished.recv_timeout(Duration::from_secs(10)).expect("it answers");
        // Its thread has nothing to do any more: one that has would be found hung below.
        let is_idle =
            || disk.workers.lock().expect("no panic").iter().all(|worker| locked(&worker.busy).since.is_none());
        while !is_idle() {
            thread::yield_now();
        }
        disk.check(now + HUNG_AFTER + Duration::from_secs(1));
        assert_eq!(disk.submit(|_| ()), Err(Busy));
        let threads = || disk.workers.lock().expect("no panic").len();
        let before = threads();
        disk.check(now + 2 * HUNG_AFTER);
        assert_eq!(threads(), before);
        // What hangs may hang for ever: then another question is asked, and its answer counts.
        disk.check(now + ASK_AGAIN + Duration::from_secs(1));
        assert_eq!(disk.submit(|_| ()), Err(Busy));
        disk.probe(|_| ()).expect("another question");
        while disk.is_open() {
            thread::yield_now();
        }
        assert_eq!(disk.submit(|_| ()), Ok(()));
        drop(release);
    }

    #[test]
    fn a_sync_that_hangs_is_told_of_and_another_thread_goes_on() {
        let (release, gate) = sync_channel::<()>(1);
        let gate = Mutex::new(gate);
        let (done, finished) = sync_channel(8);
        let syncs = Syncs::start(Arc::new(move || {
            // The first hangs as long as it is not released, the second has nothing to wait for.
            gate.try_lock().map_or(Ok(()), |gate| gate.recv().map_err(io::Error::other))
        }))
        .expect("a thread");
        let ask = |done: std::sync::mpsc::SyncSender<bool>| {
            syncs.submit(move |result| done.send(result.is_ok()).expect("test waits")).expect("room");
        };
        ask(done.clone());
        while syncs.check(Instant::now() + HUNG_AFTER + Duration::from_secs(1), false) == 0 {
            thread::yield_now();
        }
        ask(done.clone());
        assert_eq!(finished.recv_timeout(Duration::from_secs(10)), Ok(true), "another thread answers");
        release.send(()).expect("the first goes on");
        assert_eq!(finished.recv_timeout(Duration::from_secs(10)), Ok(true));
    }

    #[test]
    fn a_job_that_panics_does_not_stop_its_thread() {
        let (_directory, disk) = disk();
        for _ in 0..THREADS * 2 {
            disk.submit(|_| panic!("a bug in a job")).expect("room");
        }
        let (done, finished) = sync_channel(64);
        disk.submit(move |_| done.send(()).expect("test waits")).expect("room");
        assert_eq!(finished.recv_timeout(Duration::from_secs(10)), Ok(()));
    }

    #[test]
    fn no_more_than_a_hundred_files_are_read_back_in_a_second() {
        let (_directory, disk) = disk();
        let now = Instant::now();
        assert_eq!((0..500).filter(|_| disk.may_scrub(1, now)).count(), 100);
        let later = now + Duration::from_secs(1);
        assert_eq!((0..500).filter(|_| disk.may_scrub(3, later)).count(), 33);
    }

    #[test]
    fn a_sync_answers() {
        let (_directory, disk) = disk();
        let (done, finished) = sync_channel(1);
        disk.sync(move |result| done.send(result.is_ok()).expect("test waits")).expect("room");
        assert_eq!(finished.recv_timeout(Duration::from_secs(30)), Ok(true));
    }

    #[test]
    fn syncs_are_grouped() {
        let count = Arc::new(AtomicUsize::new(0));
        let counted = count.clone();
        let syncs = Syncs::start(Arc::new(move || {
            counted.fetch_add(1, Ordering::Relaxed);
            Ok(())
        }));
        let (syncs, (done, finished)) = (syncs.expect("a thread"), sync_channel(64));
        for _ in 0..50 {
            let done = done.clone();
            syncs.submit(move |result| done.send(result.is_ok()).expect("test waits")).expect("room");
        }
        let all: Vec<bool> = (0..50).map(|_| finished.recv_timeout(Duration::from_secs(30)).expect("synced")).collect();
        assert!(all.iter().all(|synced| *synced));
        assert!(count.load(Ordering::Relaxed) <= 2, "one at most before the last was asked for, and one after");
    }
}
