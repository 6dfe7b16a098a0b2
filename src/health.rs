//! Health: told by threads that share no lock with what they report on, except for an instant.

use actors::Vitals;
use actors::vitals::{STUCK_AFTER, Stuck};
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};
use storage::Mounts;
use supervisors::watchdog::Pulse;

/// A runtime that ran nothing for this long is not healthy: its heart beats twice a second.
pub const PULSE_LATE: Duration = Duration::from_secs(3);
/// A runtime that ran nothing for this long will not again: the process ends for its parent to start anew.
pub const PULSE_GONE: Duration = Duration::from_secs(5);

/// Where the signs of life are.
#[derive(Clone)]
pub struct Health {
    /// Of every actor.
    pub vitals: Arc<Vitals>,
    /// Of the actors' runtime.
    pub actors: Arc<Pulse>,
    /// Of delivery's runtime.
    pub delivery: Arc<Pulse>,
    /// Archives.
    pub mounts: Mounts,
    /// Threads of the actors' runtime.
    pub threads: usize,
    /// The process was told to stop.
    pub draining: Arc<AtomicBool>,
    /// It is about to end by itself: what does not run any more is not to be missed.
    pub ending: Arc<AtomicBool>,
    /// Since when the process has run without being stopped or starved itself; time before tells nothing of actors.
    pub awake_since: Arc<Mutex<Instant>>,
}

/// What is told of health.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Everything makes progress.
    pub healthy: bool,
    /// Seconds since the actors' runtime last ran a task.
    pub actors_idle_seconds: f64,
    /// Seconds since delivery's runtime last ran a task.
    pub delivery_idle_seconds: f64,
    /// Actors that make no progress.
    pub stuck: Vec<Told>,
}

/// What is told of readiness.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Readiness {
    /// Encoders and viewers are served, whatever storage does.
    pub ready: bool,
    /// The process was told to stop.
    pub draining: bool,
    /// How each archive is doing: `healthy`, `slow`, `full`, `failing` or `hung`.
    pub storage: BTreeMap<String, &'static str>,
}

/// An actor that makes no progress.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Told {
    /// The actor.
    pub actor: String,
    /// The message it handles.
    pub message: &'static str,
    /// For how long, seconds.
    pub seconds: f64,
    /// Another one has taken its place.
    pub replaced: bool,
}

/// What keeps the process from going on.
#[derive(Debug, Clone, PartialEq)]
pub enum Wedged {
    /// This runtime runs nothing.
    Runtime(&'static str),
    /// All threads of the actors' runtime but one, or all, are blocked.
    Threads(usize),
    /// The supervisor of everything is stuck, and nobody can replace it.
    Root,
}

impl Health {
    /// The state of things.
    pub fn report(&self, now: Instant) -> Report {
        let (actors, delivery) = self.idle(now);
        let stuck = self.stuck(now);
        let replaced = stuck.iter().all(|stuck| stuck.is_replaced);
        Report {
            healthy: replaced && actors.max(delivery) < PULSE_LATE && self.wedged(&stuck, now).is_none(),
            actors_idle_seconds: actors.as_secs_f64(),
            delivery_idle_seconds: delivery.as_secs_f64(),
            stuck: stuck.iter().map(Told::of).collect(),
        }
    }

    /// Whether the process serves, which degraded storage does not change.
    pub fn readiness(&self, now: Instant) -> Readiness {
        let storage = self.mounts.all().map(|mount| (mount.label.to_string(), mount.signs.health().label()));
        let (actors, delivery) = self.idle(now);
        let draining = self.draining.load(Ordering::Relaxed);
        Readiness { ready: !draining && actors.max(delivery) < PULSE_LATE, draining, storage: storage.collect() }
    }

    /// Actors that make no progress.
    pub fn stuck(&self, now: Instant) -> Vec<Stuck> {
        self.vitals.stuck(self.awake_since(), now)
    }

    /// Whether the process cannot go on, with these actors stuck.
    pub fn wedged(&self, stuck: &[Stuck], now: Instant) -> Option<Wedged> {
        let (actors, delivery) = self.idle(now);
        let blocked = stuck.iter().filter(|stuck| stuck.blocks && stuck.time >= STUCK_AFTER).count();
        if blocked + 1 >= self.threads {
            Some(Wedged::Threads(blocked))
        } else if actors >= PULSE_GONE {
            Some(Wedged::Runtime("actors"))
        } else if delivery >= PULSE_GONE {
            Some(Wedged::Runtime("delivery"))
        } else {
            stuck.iter().any(|stuck| stuck.child == "root").then_some(Wedged::Root)
        }
    }

    /// The process itself did not run until now.
    pub fn woke(&self, now: Instant) {
        *self.awake_since.lock().unwrap_or_else(PoisonError::into_inner) = now;
    }

    /// Time since each runtime ran something.
    fn idle(&self, now: Instant) -> (Duration, Duration) {
        let awake = now.saturating_duration_since(self.awake_since());
        (self.actors.age(now).min(awake), self.delivery.age(now).min(awake))
    }

    fn awake_since(&self) -> Instant {
        *self.awake_since.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Told {
    /// For people.
    pub fn of(stuck: &Stuck) -> Self {
        Self {
            actor: stuck.to_string(),
            message: stuck.message,
            seconds: stuck.time.as_secs_f64(),
            replaced: stuck.is_replaced,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use actors::Place;
    use ractor::ActorId;
    use storage::disk::SyncPolicy;

    fn health(directory: &std::path::Path) -> Health {
        Health {
            vitals: Arc::default(),
            actors: Arc::default(),
            delivery: Arc::default(),
            mounts: Mounts::start(directory, &BTreeMap::new(), SyncPolicy::Never).expect("threads"),
            threads: 4,
            draining: Arc::default(),
            ending: Arc::default(),
            awake_since: Arc::new(Mutex::new(Instant::now())),
        }
    }

    fn wedged(health: &Health, now: Instant) -> Option<Wedged> {
        health.wedged(&health.stuck(now), now)
    }

    #[test]
    fn a_runtime_that_runs_nothing_is_told_before_it_ends_the_process() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let (health, now) = (health(directory.path()), Instant::now());
        health.mounts.default().signs.set_health(storage::signs::Health::Full);
        let readiness = health.readiness(now);
        assert!(readiness.ready && readiness.storage["*"] == "full" && health.report(now).healthy);
        let late = now + PULSE_LATE + Duration::from_millis(10);
        assert!(!health.report(late).healthy && !health.readiness(late).ready && wedged(&health, late).is_none());
        let gone = now + PULSE_GONE + Duration::from_millis(10);
        assert_eq!(wedged(&health, gone), Some(Wedged::Runtime("actors")));
        // The process was stopped all the time, and has just gone on.
        health.woke(gone);
        assert_eq!(wedged(&health, gone), None);
        health.draining.store(true, Ordering::Relaxed);
        assert!(!health.readiness(now).ready);
    }

    #[test]
    fn stuck_actors_are_told_and_too_many_of_them_end_the_process() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let health = health(directory.path());
        let register = |n: u64, child| health.vitals.register(child, Place::Root, ActorId::Local(n), None);
        let vitals = [register(1, "archiver"), register(2, "watcher"), register(3, "retention")];
        let mut busy = vec![vitals[0].enter("Tick"), vitals[1].enter("Check")];
        let beat_then = |time| {
            health.woke(Instant::now().checked_sub(Duration::from_secs(60)).expect("the machine runs for longer"));
            Instant::now() + time
        };
        let later = beat_then(Duration::from_secs(6));
        assert_eq!(health.stuck(later).len(), 2);
        assert!(!health.report(later).healthy);
        health.vitals.replaced(ActorId::Local(1));
        health.vitals.replaced(ActorId::Local(2));
        let told = health.report(later).stuck;
        assert!(told.iter().all(|told| told.replaced && told.seconds >= 5.0), "{told:?}");
        // Of four threads two are left, and then one. (No heart beats here.)
        assert_eq!(wedged(&health, later), Some(Wedged::Runtime("actors")));
        busy.push(vitals[2].enter("Tick"));
        let later = beat_then(Duration::from_secs(6));
        assert_eq!(wedged(&health, later), Some(Wedged::Threads(3)));
        // Those that were blocked for less than an actor may be do not count.
        assert_eq!(wedged(&health, beat_then(Duration::from_secs(2))), None);
    }
}
