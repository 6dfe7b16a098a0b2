//! Signs of a mount's health: how its operations have gone lately, noted by those who wait for them.

use crate::events;
use std::io::{self, ErrorKind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// An error is a sign for this long: whoever failed tries again well before.
const RECENT: Duration = Duration::from_secs(10);
/// The kind of the storage probe's own operation.
pub const PROBE: &str = "probe";
/// The kind of what removes recordings.
pub const REMOVE: &str = "remove_recording";

/// How an archive is doing; the worst that is true.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Health {
    /// It answers.
    #[default]
    Healthy,
    /// It answers late.
    Slow,
    /// It has no room.
    Full,
    /// It answers with other errors.
    Failing,
    /// It does not answer.
    Hung,
}

impl Health {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Healthy, Self::Slow, Self::Full, Self::Failing, Self::Hung];

    /// Its name for people and machines.
    pub fn label(self) -> &'static str {
        match self {
            Health::Healthy => "healthy",
            Health::Slow => "slow",
            Health::Full => "full",
            Health::Failing => "failing",
            Health::Hung => "hung",
        }
    }
}

/// When operations last failed, and what the storage probe makes of it.
#[derive(Debug)]
pub struct Signs {
    health: Mutex<Health>,
    /// What failed last, and how.
    last: Mutex<Option<(&'static str, String, Instant)>>,
    began: Instant,
    /// Milliseconds after `began`, plus one; zero means never.
    failed: AtomicU64,
    full: AtomicU64,
}

impl Default for Signs {
    fn default() -> Self {
        Self {
            health: Mutex::default(),
            last: Mutex::default(),
            began: Instant::now(),
            failed: AtomicU64::new(0),
            full: AtomicU64::new(0),
        }
    }
}

impl Signs {
    /// Waits for an operation of this kind, and notes how long it took and how it went.
    pub fn wait<T>(&self, kind: &'static str, operation: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let begun = Instant::now();
        let result = operation();
        let now = Instant::now();
        events::operation(kind, now.saturating_duration_since(begun));
        result.inspect_err(|error| {
            events::operation_failed(kind, error);
            self.note(kind, error, now);
        })
    }

    fn note(&self, kind: &'static str, error: &io::Error, now: Instant) {
        // Something that is not there is damage, which the watcher mends, and not a storage that fails; but the probe makes
        // what it needs, and tells what it finds.
        let is_damage = error.kind() == ErrorKind::NotFound;
        if kind == REMOVE && error.kind() == ErrorKind::PermissionDenied {
            // Somebody protects a recording: storage that takes nothing is told of by other operations.
            return;
        }
        if !is_damage || kind == PROBE {
            *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some((kind, error.to_string(), now));
        }
        if is_damage {
            return;
        }
        let is_full = matches!(error.kind(), ErrorKind::StorageFull | ErrorKind::QuotaExceeded);
        let since = now.saturating_duration_since(self.began).as_millis();
        let sign = if is_full { &self.full } else { &self.failed };
        sign.store(u64::try_from(since).unwrap_or(u64::MAX - 1) + 1, Ordering::Relaxed);
    }

    /// The operation that failed last, and its error, if that was lately: an older one is not why storage is ill now.
    pub fn last_error(&self, now: Instant) -> Option<String> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let recent = last.as_ref().filter(|(_, _, at)| now.saturating_duration_since(*at) < RECENT);
        recent.map(|(kind, error, _)| format!("{kind}: {error}"))
    }

    /// What the storage probe said last.
    pub fn health(&self) -> Health {
        *self.health.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The storage probe's judgement; what it was before.
    pub fn set_health(&self, health: Health) -> Health {
        std::mem::replace(&mut *self.health.lock().unwrap_or_else(PoisonError::into_inner), health)
    }

    /// Whether an operation failed lately for want of room.
    pub fn is_full(&self, now: Instant) -> bool {
        self.is_recent(&self.full, now)
    }

    /// Whether an operation failed lately for another reason.
    pub fn is_failing(&self, now: Instant) -> bool {
        self.is_recent(&self.failed, now)
    }

    fn is_recent(&self, sign: &AtomicU64, now: Instant) -> bool {
        let at = sign.load(Ordering::Relaxed).checked_sub(1).map(|since| self.began + Duration::from_millis(since));
        at.is_some_and(|at| now.saturating_duration_since(at) < RECENT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_are_signs_for_a_while_and_a_full_disk_is_told_from_a_broken_one() {
        let (signs, now) = (Signs::default(), Instant::now());
        let later = now + Duration::from_secs(1) + RECENT;
        assert!(signs.wait("write", || Ok(())).is_ok());
        assert!(signs.wait::<()>("read", || Err(ErrorKind::NotFound.into())).is_err());
        assert!(!signs.is_full(now) && !signs.is_failing(now));
        assert!(signs.wait::<()>("write", || Err(ErrorKind::StorageFull.into())).is_err());
        assert!(signs.is_full(now) && !signs.is_failing(now));
        assert!(signs.wait::<()>("write", || Err(ErrorKind::ReadOnlyFilesystem.into())).is_err());
        assert!(signs.is_full(now) && signs.is_failing(now));
        let recordings = Signs::default();
        assert!(recordings.wait::<()>(REMOVE, || Err(ErrorKind::PermissionDenied.into())).is_err());
        assert!(!recordings.is_failing(now) && recordings.last_error(now).is_none(), "one is protected");
        assert!(recordings.wait::<()>(REMOVE, || Err(ErrorKind::ReadOnlyFilesystem.into())).is_err());
        assert!(recordings.is_failing(now));
        assert!(signs.last_error(now).is_some_and(|error| error.starts_with("write: ")));
        assert_eq!(signs.last_error(later), None);
        assert!(!signs.is_full(later) && !signs.is_failing(later));
    }
}
