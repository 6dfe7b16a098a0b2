//! Health: answered by a thread that shares no lock with what it reports on, except for an instant.

use actors::Vitals;
use actors::vitals::Inside;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};
use storage::Mounts;
use supervisors::watchdog::Pulse;

/// A handler or a runtime that makes no progress for this long is stuck.
pub const STUCK_AFTER: Duration = Duration::from_secs(5);

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
    /// Handlers that do not return.
    pub stuck: Vec<Stuck>,
}

/// What is told of readiness.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Readiness {
    /// Encoders and viewers are served, whatever storage does.
    pub ready: bool,
    /// How each archive is doing: `healthy`, `slow`, `full`, `failing` or `hung`.
    pub storage: BTreeMap<String, &'static str>,
}

/// A handler that does not return.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Stuck {
    /// The actor.
    pub actor: String,
    /// The message it handles.
    pub message: &'static str,
    /// For how long, seconds.
    pub seconds: f64,
}

impl Health {
    /// The state of things.
    pub fn report(&self, now: Instant) -> Report {
        let (actors, delivery) = (self.actors.age(now), self.delivery.age(now));
        let inside = self.vitals.inside_longer_than(STUCK_AFTER, now);
        Report {
            healthy: inside.is_empty() && actors.max(delivery) < STUCK_AFTER,
            actors_idle_seconds: actors.as_secs_f64(),
            delivery_idle_seconds: delivery.as_secs_f64(),
            stuck: inside.into_iter().map(Stuck::from).collect(),
        }
    }
}

impl Health {
    /// Whether the process serves, which degraded storage does not change.
    pub fn readiness(&self, now: Instant) -> Readiness {
        let storage = self.mounts.all().map(|mount| (mount.label.to_string(), mount.signs.health().label()));
        let ready = self.actors.age(now).max(self.delivery.age(now)) < STUCK_AFTER;
        Readiness { ready, storage: storage.collect() }
    }
}

impl From<Inside> for Stuck {
    fn from(inside: Inside) -> Self {
        Self { actor: inside.actor, message: inside.message, seconds: inside.time.as_secs_f64() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use storage::disk::SyncPolicy;

    #[test]
    fn a_stuck_handler_or_runtime_is_not_healthy() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let mounts = Mounts::start(directory.path(), &BTreeMap::new(), SyncPolicy::Never).expect("threads");
        let health = Health { vitals: Arc::default(), actors: Arc::default(), delivery: Arc::default(), mounts };
        health.mounts.default().signs.set_health(storage::signs::Health::Full);
        let readiness = health.readiness(Instant::now());
        assert!(readiness.ready && readiness.storage["*"] == "full");
        assert!(!health.readiness(Instant::now() + STUCK_AFTER).ready);
        assert!(health.report(Instant::now()).healthy);
        let vital = health.vitals.register("segmenter live/show".to_owned());
        let _busy = vital.enter("Pump");
        let later = Instant::now() + STUCK_AFTER + Duration::from_secs(1);
        let report = health.report(later);
        assert!(!report.healthy);
        assert_eq!(report.stuck[0].actor, "segmenter live/show");
    }
}
