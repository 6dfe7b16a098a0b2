//! Vitals: which handler each actor is in and since when, readable by a thread that shares nothing with them.

use ractor::ActorId;
use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};
use storage::StreamName;

/// A segmenter that makes no progress for this long is stuck: viewers wait for it.
pub const SEGMENTER_STUCK_AFTER: Duration = Duration::from_secs(1);
/// Any other actor that makes no progress for this long is stuck.
pub const STUCK_AFTER: Duration = Duration::from_secs(5);
/// What is said of an actor that should have been given a thread for long, and was not: it waits behind one that blocks.
const NOT_RUN: &str = "none: it is not run";

/// Where an actor is in the tree, so that it can be found by who restarts it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// Below the root.
    Root,
    /// In a stream's tree.
    Stream(StreamName),
    /// A connection without a stream.
    Connection(SocketAddr),
}

/// One actor's sign of life.
#[derive(Debug)]
pub struct Vital {
    child: &'static str,
    id: ActorId,
    /// It does something at least this often; none if it only answers.
    every: Option<Duration>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    place: Place,
    inside: Option<(&'static str, Instant)>,
    seen: Instant,
    is_replaced: bool,
}

/// Held while a handler runs.
#[derive(Debug)]
pub struct Busy(Arc<Vital>);

/// An actor that makes no progress.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stuck {
    /// Its name among its siblings.
    pub child: &'static str,
    /// Where it is.
    pub place: Place,
    /// Which generation it is.
    pub id: ActorId,
    /// The message it handles.
    pub message: &'static str,
    /// For how long.
    pub time: Duration,
    /// It blocks a thread: that thread runs nobody else.
    pub blocks: bool,
    /// Another one has taken its place.
    pub is_replaced: bool,
}

/// All actors of the process. Bounded by them: an ended actor's entry goes when it is next looked at.
#[derive(Debug)]
pub struct Vitals {
    actors: Mutex<HashMap<u64, Weak<Vital>>>,
    next: AtomicU64,
    began: Instant,
}

impl Default for Vitals {
    fn default() -> Self {
        Self { actors: Mutex::default(), next: AtomicU64::new(0), began: Instant::now() }
    }
}

impl Vitals {
    /// Registers an actor for as long as it keeps what is returned.
    pub fn register(&self, child: &'static str, place: Place, id: ActorId, every: Option<Duration>) -> Arc<Vital> {
        let state = State { place, inside: None, seen: Instant::now(), is_replaced: false };
        let vital = Arc::new(Vital { child, id, every, state: Mutex::new(state) });
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        let mut actors = lock(&self.actors);
        // Doubles before it is swept, so that registering stays cheap.
        if actors.len() == actors.capacity() {
            actors.retain(|_, vital| vital.strong_count() > 0);
        }
        actors.insert(number, Arc::downgrade(&vital));
        vital
    }

    /// Actors that have made no progress for too long. Time before `awake_since` does not count: the whole process did
    /// not run then.
    pub fn stuck(&self, awake_since: Instant, now: Instant) -> Vec<Stuck> {
        let mut stuck = Vec::new();
        lock(&self.actors).retain(|_, vital| {
            let Some(vital) = vital.upgrade() else { return false };
            stuck.extend(vital.stuck(vital.limit(), awake_since, now));
            true
        });
        stuck
    }

    /// Handlers that have run for so long, stuck or not yet.
    pub fn inside(&self, limit: Duration, now: Instant) -> Vec<Stuck> {
        let actors = lock(&self.actors);
        let found = actors.values().filter_map(Weak::upgrade).filter_map(|vital| vital.stuck(limit, self.began, now));
        found.filter(|stuck| stuck.blocks).collect()
    }

    /// Notes that the place of this actor is taken by another.
    pub fn replaced(&self, id: ActorId) {
        for vital in lock(&self.actors).values().filter_map(Weak::upgrade).filter(|vital| vital.id == id) {
            lock(&vital.state).is_replaced = true;
        }
    }
}

impl Vital {
    /// Marks the start of a handler; its end is when the guard is dropped, however that comes about.
    pub fn enter(self: &Arc<Self>, message: &'static str) -> Busy {
        lock(&self.state).inside = Some((message, Instant::now()));
        Busy(self.clone())
    }

    /// It belongs elsewhere from now on.
    pub fn moved(&self, place: Place) {
        lock(&self.state).place = place;
    }

    fn limit(&self) -> Duration {
        if self.child == "segmenter" { SEGMENTER_STUCK_AFTER } else { STUCK_AFTER }
    }

    fn stuck(&self, limit: Duration, awake_since: Instant, now: Instant) -> Option<Stuck> {
        let state = lock(&self.state);
        let (message, since, limit) = match (state.inside, self.every) {
            (Some((message, since)), _) => (message, since, limit),
            (None, Some(every)) => (NOT_RUN, state.seen, every + STUCK_AFTER),
            (None, None) => return None,
        };
        let time = now.saturating_duration_since(since.max(awake_since));
        (time >= limit).then(|| Stuck {
            child: self.child,
            place: state.place.clone(),
            id: self.id,
            message,
            time,
            blocks: state.inside.is_some(),
            is_replaced: state.is_replaced,
        })
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        let mut state = lock(&self.0.state);
        (state.inside, state.seen) = (None, Instant::now());
    }
}

impl fmt::Display for Stuck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.place {
            Place::Root => f.write_str(self.child),
            Place::Stream(name) => write!(f, "{} {name}", self.child),
            Place::Connection(peer) => write!(f, "{} {peer}", self.child),
        }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn register(vitals: &Vitals, child: &'static str, every: Option<Duration>) -> Arc<Vital> {
        vitals.register(child, Place::Root, ActorId::Local(7), every)
    }

    fn stuck(vitals: &Vitals, begun: Instant, seconds: u64) -> Vec<(&'static str, &'static str)> {
        let found = vitals.stuck(begun, begun + Duration::from_secs(seconds));
        let mut found: Vec<_> = found.iter().map(|stuck| (stuck.child, stuck.message)).collect();
        found.sort_unstable();
        found
    }

    #[test]
    fn a_handler_that_does_not_return_is_seen_and_a_segmenter_s_sooner() {
        let (vitals, begun) = (Vitals::default(), Instant::now());
        let (segmenter, watcher) = (register(&vitals, "segmenter", None), register(&vitals, "watcher", None));
        let idle = register(&vitals, "archiver", None);
        let _busy = (segmenter.enter("Pump"), watcher.enter("Check"));
        drop(idle.enter("Tick"));
        assert_eq!(stuck(&vitals, begun, 2), [("segmenter", "Pump")]);
        assert_eq!(stuck(&vitals, begun, 7), [("segmenter", "Pump"), ("watcher", "Check")]);
        vitals.replaced(ActorId::Local(7));
        assert!(vitals.stuck(begun, begun + STUCK_AFTER * 2).iter().all(|stuck| stuck.is_replaced && stuck.blocks));
    }

    #[test]
    fn an_actor_that_is_not_run_is_stuck_and_a_process_that_slept_is_not() {
        let (vitals, begun) = (Vitals::default(), Instant::now());
        let _beating = register(&vitals, "watcher", Some(Duration::from_secs(5)));
        assert_eq!(stuck(&vitals, begun, 9), []);
        assert_eq!(stuck(&vitals, begun, 12), [("watcher", NOT_RUN)]);
        let awake = begun + Duration::from_secs(10);
        assert_eq!(vitals.stuck(awake, awake + Duration::from_secs(2)), []);
    }

    #[test]
    fn actors_that_ended_are_forgotten() {
        let vitals = Vitals::default();
        for _ in 0..10_000 {
            register(&vitals, "session", None);
        }
        assert!(lock(&vitals.actors).len() < 100);
    }
}
