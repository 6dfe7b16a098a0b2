//! Syncs, grouped: one answers all requests that came before it.

use super::{Busy, HUNG_AFTER, MAX_LOST, MAX_QUEUED, Worker, locked, set_busy};
use crossbeam_channel::{Receiver, Sender, bounded};
use std::io;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// How often what was written is made durable, at most.
const SYNC_EVERY: Duration = Duration::from_secs(1);
/// How long a sync waits for others that want one: streams write at the same moments.
const GATHER: Duration = Duration::from_millis(250);

type Work = Arc<dyn Fn() -> io::Result<()> + Send + std::marker::Sync>;
type Synced = Box<dyn FnOnce(io::Result<()>) + Send>;

/// The thread that syncs; one that hangs is given up and replaced.
pub(super) struct Syncs {
    sync: Work,
    requests: Sender<Synced>,
    queue: Receiver<Synced>,
    /// The last is the one at work, the others were given up.
    pub(super) workers: Mutex<Vec<Arc<Worker>>>,
}

impl Syncs {
    /// Starts the thread, which calls `sync`.
    pub fn start(sync: Work) -> io::Result<Self> {
        let (requests, queue) = bounded(MAX_QUEUED);
        let syncs = Self { sync, requests, queue, workers: Mutex::default() };
        syncs.start_worker()?;
        Ok(syncs)
    }

    /// Calls back once everything written before this call is durable.
    pub fn submit(&self, synced: impl FnOnce(io::Result<()>) + Send + 'static) -> Result<(), Busy> {
        self.requests.try_send(Box::new(synced)).map_err(|_| Busy)
    }

    /// How many syncs hang; a thread is replaced unless the breaker says that the next one would hang, too.
    pub fn check(&self, now: Instant, is_open: bool) -> usize {
        let (mut hung, mut lost) = (0, 0);
        let idle = {
            let mut workers = locked(&self.workers);
            workers.retain(|worker| Arc::strong_count(worker) > 1);
            for worker in workers.iter() {
                let mut busy = locked(&worker.busy);
                let inside = busy.since.map_or(Duration::ZERO, |since| now.saturating_duration_since(since));
                busy.lost |= inside > HUNG_AFTER;
                lost += usize::from(busy.lost);
                hung += usize::from(busy.lost && !busy.elsewhere);
            }
            workers.len() - lost
        };
        if idle == 0 && !is_open && lost <= MAX_LOST {
            // Without a thread it is tried again with the next look.
            let _ = self.start_worker();
        }
        hung
    }

    fn start_worker(&self) -> io::Result<()> {
        let worker = Arc::new(Worker::default());
        let (mine, sync, queue) = (worker.clone(), self.sync.clone(), self.queue.clone());
        thread::Builder::new().name("disk-sync".to_owned()).spawn(move || work(&mine, &*sync, &queue))?;
        locked(&self.workers).push(worker);
        Ok(())
    }
}

fn work(worker: &Worker, sync: &dyn Fn() -> io::Result<()>, requests: &Receiver<Synced>) {
    let mut last: Option<Instant> = None;
    while let Ok(first) = requests.recv() {
        let mut group = vec![first];
        let due = last.map_or(Instant::now(), |last| last + SYNC_EVERY).max(Instant::now() + GATHER);
        // Syncs are `SYNC_EVERY` apart. It sleeps and does not wait for requests: each would wake this thread, which answers none
        // before.
        thread::sleep(due.saturating_duration_since(Instant::now()));
        group.extend(requests.try_iter().take(MAX_QUEUED - 1));
        last = Some(Instant::now());
        set_busy(worker, last);
        let result = sync();
        let is_lost = set_busy(worker, None);
        for synced in group {
            // An io::Error cannot be cloned; its code can.
            synced(match &result {
                Ok(()) => Ok(()),
                Err(error) => {
                    Err(error.raw_os_error().map_or_else(|| error.kind().into(), io::Error::from_raw_os_error))
                }
            });
        }
        if is_lost {
            return;
        }
    }
}
