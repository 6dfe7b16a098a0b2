//! Vitals: which handler each actor is in and since when, readable by a thread that shares nothing with them.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::{Duration, Instant};

/// One actor's sign of life.
#[derive(Debug)]
pub struct Vital {
    label: String,
    inside: Mutex<Option<(&'static str, Instant)>>,
}

/// Held while a handler runs.
#[derive(Debug)]
pub struct Busy(Arc<Vital>);

/// A handler that has not returned.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inside {
    /// The actor.
    pub actor: String,
    /// The message it handles.
    pub message: &'static str,
    /// For how long.
    pub time: Duration,
}

/// All actors of the process. Bounded by them: an ended actor's entry goes when it is next looked at.
#[derive(Debug, Default)]
pub struct Vitals {
    actors: Mutex<HashMap<u64, Weak<Vital>>>,
    next: AtomicU64,
}

impl Vitals {
    /// Registers an actor for as long as it keeps what is returned.
    pub fn register(&self, label: String) -> Arc<Vital> {
        let vital = Arc::new(Vital { label, inside: Mutex::new(None) });
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let mut actors = lock(&self.actors);
        // Doubles before it is swept, so that registering stays cheap.
        if actors.len() == actors.capacity() {
            actors.retain(|_, vital| vital.strong_count() > 0);
        }
        actors.insert(id, Arc::downgrade(&vital));
        vital
    }

    /// Handlers that have run for longer than `limit`.
    pub fn inside_longer_than(&self, limit: Duration, now: Instant) -> Vec<Inside> {
        let mut actors = lock(&self.actors);
        actors.retain(|_, vital| vital.strong_count() > 0);
        let inside = actors.values().filter_map(Weak::upgrade).filter_map(|vital| vital.inside(now));
        inside.filter(|inside| inside.time > limit).collect()
    }
}

impl Vital {
    /// Marks the start of a handler; its end is when the guard is dropped, however that comes about.
    pub fn enter(self: &Arc<Self>, message: &'static str) -> Busy {
        *lock(&self.inside) = Some((message, Instant::now()));
        Busy(self.clone())
    }

    fn inside(&self, now: Instant) -> Option<Inside> {
        let (message, since) = (*lock(&self.inside))?;
        Some(Inside { actor: self.label.clone(), message, time: now.saturating_duration_since(since) })
    }
}

impl Drop for Busy {
    fn drop(&mut self) {
        *lock(&self.0.inside) = None;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_handler_that_does_not_return_is_seen_and_one_that_does_is_not() {
        let vitals = Vitals::default();
        let (stuck, idle) = (vitals.register("segmenter".to_owned()), vitals.register("watcher".to_owned()));
        let _busy = stuck.enter("Pump");
        drop(idle.enter("Check"));
        let later = Instant::now() + Duration::from_secs(7);
        let inside = vitals.inside_longer_than(Duration::from_secs(5), later);
        assert_eq!(inside.iter().map(|i| (i.actor.as_str(), i.message)).collect::<Vec<_>>(), [("segmenter", "Pump")]);
    }

    #[test]
    fn actors_that_ended_are_forgotten() {
        let vitals = Vitals::default();
        for _ in 0..10_000 {
            vitals.register("connection".to_owned());
        }
        assert!(lock(&vitals.actors).len() < 100);
    }
}
