//! Operations of an actor on storage: one at a time, on the mount's threads, each with a ticket that tells its answer
//! from that of one that was given up; and the wait after one that failed.

use ractor::{ActorRef, Message};
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use storage::Archive;
use storage::disk::{Busy, Disk, HUNG_AFTER};
use tokio::time::{Duration, Instant};

/// First wait after a failed operation; it doubles up to the longest.
const FIRST_BACKOFF: Duration = Duration::from_millis(500);
/// Longest wait after a failed operation: storage that heals is used again within this.
const MAX_BACKOFF: Duration = Duration::from_secs(5);

/// What the next operation may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// Begin.
    Begin,
    /// Wait, for the one in flight or for the time after a failure to pass.
    Wait,
    /// The one in flight does not come back.
    GiveUp,
}

/// What an answer is.
#[derive(Debug)]
pub enum Answer<T> {
    /// Of the operation in flight.
    Done(T),
    /// Of the operation in flight, which failed.
    Failed(io::Error),
    /// Of one that was given up.
    Stale,
}

/// One operation at a time.
pub struct Operations {
    disk: Arc<Disk>,
    ticket: u64,
    in_flight: Option<Instant>,
    failures: u32,
    retry_at: Option<Instant>,
    given_up: Arc<AtomicBool>,
    /// How long one may take before it is given up.
    patience: Duration,
}

/// What still waits for a thread when its actor ends is not done any more.
impl Drop for Operations {
    fn drop(&mut self) {
        self.given_up.store(true, Ordering::Release);
    }
}

impl Operations {
    /// On the threads of this mount.
    pub fn on(disk: Arc<Disk>) -> Self {
        Self::patient(disk, 2 * HUNG_AFTER)
    }

    /// The same, where one may take so long.
    pub fn patient(disk: Arc<Disk>, patience: Duration) -> Self {
        Self { disk, ticket: 0, in_flight: None, failures: 0, retry_at: None, given_up: Arc::default(), patience }
    }

    /// Set when the next one that begins is given up.
    pub fn given_up(&self) -> Arc<AtomicBool> {
        self.given_up.clone()
    }

    /// Whether the next may begin.
    pub fn turn(&self, now: Instant) -> Turn {
        match (self.in_flight, self.retry_at) {
            (Some(since), _) if now.saturating_duration_since(since) >= self.patience => Turn::GiveUp,
            (Some(_), _) => Turn::Wait,
            (None, Some(at)) if now < at => Turn::Wait,
            (None, _) => Turn::Begin,
        }
    }

    /// Begins one; its result comes as a message.
    pub fn begin<M: Message, T: Send + 'static>(
        &mut self,
        myself: &ActorRef<M>,
        now: Instant,
        operation: impl FnOnce(&dyn Archive) -> io::Result<T> + Send + 'static,
        answer: impl FnOnce(u64, io::Result<T>) -> M + Send + 'static,
    ) -> Result<(), Busy> {
        self.ticket += 1;
        let (myself, ticket, given_up) = (myself.clone(), self.ticket, self.given_up.clone());
        let job = move |archive: &dyn Archive| {
            if given_up.load(Ordering::Acquire) {
                return;
            }
            let _ = myself.send_message(answer(ticket, operation(archive)));
        };
        self.disk.submit(job)?;
        self.in_flight = Some(now);
        Ok(())
    }

    /// Has everything written so far made durable; the result comes as a message.
    pub fn sync<M: Message>(
        &mut self,
        myself: &ActorRef<M>,
        now: Instant,
        answer: impl FnOnce(u64, io::Result<()>) -> M + Send + 'static,
    ) -> Result<(), Busy> {
        self.ticket += 1;
        let (myself, ticket) = (myself.clone(), self.ticket);
        self.disk.sync(move |result| drop(myself.send_message(answer(ticket, result))))?;
        self.in_flight = Some(now);
        Ok(())
    }

    /// What an answer is of.
    pub fn answered<T>(&mut self, ticket: u64, result: io::Result<T>) -> Answer<T> {
        if ticket != self.ticket {
            return Answer::Stale;
        }
        self.in_flight = None;
        match result {
            Ok(value) => Answer::Done(value),
            Err(error) => Answer::Failed(error),
        }
    }

    /// What was begun has led to its end: the next failure is a first one.
    pub fn succeeded(&mut self) {
        self.failures = 0;
    }

    /// Gives up what is in flight; the next waits. `dice` is between 0 and 1: full jitter keeps streams whose storage
    /// failed at one moment from coming back at one moment.
    pub fn failed(&mut self, now: Instant, dice: f64) {
        self.ticket += 1;
        self.in_flight = None;
        self.given_up.store(true, Ordering::Release);
        self.given_up = Arc::default();
        let backoff = FIRST_BACKOFF.saturating_mul(1 << self.failures.min(8)).min(MAX_BACKOFF);
        self.failures = self.failures.saturating_add(1);
        self.retry_at = Some(now + backoff.mul_f64(dice));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use storage::archive::LocalDirectory;
    use storage::disk::SyncPolicy;

    #[test]
    fn after_failures_the_next_waits_longer_and_longer_and_what_was_given_up_is_not_taken_for_an_answer() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let disk = Disk::start(Arc::new(LocalDirectory::at(directory.path())), SyncPolicy::Never).expect("threads");
        let (mut operations, now) = (Operations::on(disk), Instant::now());
        assert_eq!(operations.turn(now), Turn::Begin);
        operations.in_flight = Some(now);
        assert_eq!(operations.turn(now + HUNG_AFTER), Turn::Wait);
        assert_eq!(operations.turn(now + 2 * HUNG_AFTER), Turn::GiveUp);
        let given_up = operations.ticket;
        operations.failed(now, 1.0);
        assert!(matches!(operations.answered(given_up, Ok(())), Answer::Stale));
        assert_eq!(operations.turn(now), Turn::Wait);
        assert_eq!(operations.turn(now + FIRST_BACKOFF), Turn::Begin);
        for _ in 0..100 {
            operations.failed(now, 1.0);
        }
        assert_eq!(operations.turn(now + MAX_BACKOFF - Duration::from_millis(1)), Turn::Wait);
        assert_eq!(operations.turn(now + MAX_BACKOFF), Turn::Begin);
        operations.failed(now, 0.0);
        assert_eq!(operations.turn(now), Turn::Begin, "the dice decide");
        operations.succeeded();
        operations.failed(now, 1.0);
        assert_eq!(operations.turn(now + FIRST_BACKOFF), Turn::Begin);
    }
}
