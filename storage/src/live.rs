//! What belongs to a stream and not to an actor.

use crate::archive::Ledger;
use crate::log::SampleLog;
use crate::name::StreamName;
use crate::numbers::Numbers;
use crate::snapshot::Snapshot;
use crate::spool::Spool;
use crate::window::Window;
use media::Container;
use media::packager::Settings;
use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};
use thiserror::Error;
use tokio::time::{Duration, Instant};

/// Segment numbers count from here when there is no record: 2020-01-01, seconds since 1970.
const NUMBERS_SINCE: u64 = 1_577_836_800;

/// One show: from its first publisher to the end, across reconnects and restarts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Session {
    /// Unique for the stream name.
    pub id: String,
    /// When it was first published, milliseconds since 1970. Never reset.
    pub published_at_ms: i64,
}

impl Session {
    /// A session that begins now.
    pub fn beginning_at(now_ms: i64) -> Self {
        Self { id: format!("{now_ms:x}"), published_at_ms: now_ms }
    }
}

/// Who publishes. Written by `publisher_lock` only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Publisher {
    /// Nobody has yet.
    Free,
    /// A publisher holds the stream.
    Held {
        /// Its fencing token.
        epoch: u64,
        /// Since when.
        since: Instant,
    },
    /// The last publisher is gone; the session waits for one to come back.
    Grace {
        /// Until when.
        until: Instant,
    },
    /// The session is over.
    Ended,
}

/// Limits and formats of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LiveSettings {
    /// Container and target duration.
    pub packaging: Settings,
    /// Segments in the live playlist.
    pub window: usize,
    /// How long a session waits for a publisher that was lost.
    pub grace: Duration,
    /// How long it waits for one that ended its publication itself.
    pub grace_unpublished: Duration,
    /// While the publisher is away, a slate is shown.
    pub slate: bool,
    /// The newest publisher wins; otherwise the one that holds the stream, while it sends.
    pub takeover: bool,
    /// Whether sessions are recorded.
    pub record: bool,
    /// Bytes a stream may hold for its recording while storage does not take them.
    pub spool_bytes: usize,
}

impl Default for LiveSettings {
    fn default() -> Self {
        Self {
            packaging: Settings { container: Container::Cmaf, target_duration: 2 },
            window: 6,
            grace: Duration::from_secs(30),
            grace_unpublished: Duration::from_secs(30),
            slate: false,
            takeover: false,
            record: false,
            spool_bytes: 0,
        }
    }
}

/// Limits and formats of all streams.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamSettings {
    /// Of every stream.
    pub all: LiveSettings,
    /// Applications in which the newest publisher wins.
    pub takeover: Arc<BTreeSet<String>>,
}

impl StreamSettings {
    /// Those of one stream.
    pub fn of(&self, name: &StreamName) -> LiveSettings {
        LiveSettings { takeover: self.takeover.contains(name.app()), ..self.all }
    }
}

/// A position that made a segmenter fail, and how often.
#[derive(Debug, Default)]
pub struct Trial {
    /// Being worked on, plus one: zero means none.
    position: AtomicU64,
    /// Where the last failure was, plus one.
    failed: AtomicU64,
    failures: AtomicU32,
}

impl Trial {
    /// Notes that work on `position` begins.
    pub fn begin(&self, position: u64) {
        self.position.store(position + 1, Ordering::Relaxed);
    }

    /// Notes that nothing is being worked on.
    pub fn done(&self) {
        self.position.store(0, Ordering::Relaxed);
    }

    /// Called by a new segmenter: the position its predecessor failed at, and how many did so in a row.
    pub fn failed_at(&self) -> Option<(u64, u32)> {
        let position = self.position.swap(0, Ordering::Relaxed);
        let failed = position.checked_sub(1)?;
        let again = self.failed.swap(position, Ordering::Relaxed) == position;
        let failures = if again { self.failures.load(Ordering::Relaxed) + 1 } else { 1 };
        self.failures.store(failures, Ordering::Relaxed);
        Some((failed, failures))
    }
}

/// Counters of one stream. They live and go with it, so the number of series is bounded by the streams.
#[derive(Debug, Default)]
pub struct Stats {
    /// Bytes received from publishers.
    pub received_bytes: AtomicU64,
    /// Segments published.
    pub segments: AtomicU64,
    /// Bytes of segments published.
    pub segment_bytes: AtomicU64,
    /// Discontinuities published.
    pub discontinuities: AtomicU64,
    /// Segments cut inside a GOP.
    pub forced_cuts: AtomicU64,
    /// Samples that are in no segment.
    pub samples_dropped: AtomicU64,
    /// Operations on storage that failed or did not come back.
    pub storage_errors: AtomicU64,
}

/// The shared state of one stream. Actors come and go around it.
#[derive(Debug)]
pub struct LiveStream {
    /// Public name.
    pub name: StreamName,
    /// How it is packaged.
    pub settings: LiveSettings,
    /// The show.
    pub session: Session,
    /// Samples not yet in segments.
    pub log: SampleLog,
    /// What viewers get.
    pub window: Window,
    /// Position the segmenter works on, for its successor.
    pub trial: Trial,
    /// What the archive is known to hold.
    pub ledger: Ledger,
    /// What its recording still lacks.
    pub spool: Spool,
    /// What operators see of it.
    pub stats: Stats,
    claimed: Mutex<Claimed>,
    opened: Instant,
}

/// What a lock leaves to its successor.
#[derive(Debug)]
struct Claimed {
    publisher: Publisher,
    /// The last epoch that was given out.
    epoch: u64,
    /// Which lock decides: counts those that have started.
    lock: u64,
    /// The epoch whose publisher has ended its publication itself.
    unpublished: u64,
}

/// Another lock decides by now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("this publisher lock was replaced")]
pub struct Replaced;

impl LiveStream {
    /// A stream whose window goes on from `snapshot` and whose epochs go on after `epoch`.
    pub fn new(
        name: StreamName,
        settings: LiveSettings,
        session: Session,
        snapshot: Snapshot,
        epoch: u64,
    ) -> Arc<Self> {
        // What is listed is of this session; what has expired may be of the one before.
        let first = snapshot.listed.first().map_or(snapshot.next_sequence, |segment| segment.sequence);
        Arc::new(Self {
            name,
            settings,
            session,
            log: SampleLog::default(),
            window: Window::holding(snapshot),
            trial: Trial::default(),
            ledger: Ledger::default(),
            spool: Spool::starting_at(first),
            stats: Stats::default(),
            claimed: Mutex::new(Claimed { publisher: Publisher::Free, epoch, lock: 0, unpublished: 0 }),
            opened: Instant::now(),
        })
    }

    /// Who publishes.
    pub fn publisher(&self) -> Publisher {
        self.claimed().publisher
    }

    /// Says who publishes, before the stream has a tree; then its lock does, by [`LiveStream::decide`].
    pub fn set_publisher(&self, publisher: Publisher) {
        self.claimed().publisher = publisher;
    }

    /// The last epoch given out.
    pub fn epoch(&self) -> u64 {
        self.claimed().epoch
    }

    /// A lock starts: those before it decide nothing any more. Its number.
    pub fn next_lock(&self) -> u64 {
        let mut claimed = self.claimed();
        claimed.lock += 1;
        claimed.lock
    }

    /// What the lock of this number has decided: a lock that was stuck, and replaced, must not decide when it wakes.
    pub fn decide(&self, lock: u64, publisher: Publisher, epoch: u64) -> Result<(), Replaced> {
        let mut claimed = self.claimed();
        if claimed.lock != lock {
            return Err(Replaced);
        }
        (claimed.publisher, claimed.epoch) = (publisher, epoch);
        Ok(())
    }

    /// The publisher of this epoch has ended its publication itself: known to whichever lock decides.
    pub fn unpublish(&self, epoch: u64) {
        self.claimed().unpublished = epoch;
    }

    /// Whether the publisher that holds the stream has ended its publication itself.
    pub fn has_unpublished(&self) -> bool {
        let claimed = self.claimed();
        matches!(claimed.publisher, Publisher::Held { epoch, .. } if epoch == claimed.unpublished)
    }

    /// Critical sections only copy.
    fn claimed(&self) -> MutexGuard<'_, Claimed> {
        self.claimed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Time since the stream was opened in this process.
    pub fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(self.opened)
    }
}

/// Numbers for a window without a record: the clock's (invariant I3), which no counting of segments can outrun.
///
/// Discontinuities are counted in hours, not in seconds: hls.js keeps an array with a place for every number up to
/// the discontinuity sequence and walks through it whenever it loads a playlist; with seconds since 2020 that held
/// a page up for two seconds each time. What outruns the hours is remembered while the process runs, and read from
/// the archive's playlists when it starts.
pub fn clock_numbers(now: SystemTime) -> Numbers {
    let seconds = now.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs()).saturating_sub(NUMBERS_SINCE);
    Numbers { media_sequence: seconds, discontinuity_sequence: seconds / 3600 }
}

/// Milliseconds since 1970.
pub fn wall_ms(now: SystemTime) -> i64 {
    now.duration_since(UNIX_EPOCH).map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_position_that_fails_again_is_counted_and_success_forgets_it() {
        let trial = Trial::default();
        assert_eq!(trial.failed_at(), None);
        let fail_at = |position| {
            trial.begin(0);
            trial.done();
            trial.begin(position);
            trial.failed_at()
        };
        assert_eq!([fail_at(7), fail_at(7), fail_at(8)], [Some((7, 1)), Some((7, 2)), Some((8, 1))]);
        trial.done();
        assert_eq!(trial.failed_at(), None);
    }

    #[test]
    fn numbers_without_a_record_come_from_the_clock() {
        let now = UNIX_EPOCH + Duration::from_secs(NUMBERS_SINCE + 7277);
        assert_eq!(clock_numbers(now), Numbers { media_sequence: 7277, discontinuity_sequence: 2 });
    }
}
