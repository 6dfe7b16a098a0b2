//! SampleLog: one per stream, one writer, any number of cursors; the writer never waits.
//!
//! A ring bounded in bytes and entries. A cursor that falls off its tail goes on at the next random
//! access point, with the configuration in force there, and is told what it missed.

use media::{AacConfig, AvcConfig, Entry, TrackKind};
use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use thiserror::Error;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Most payload bytes a log holds: the largest segment and half of the next.
pub const MAX_BYTES: usize = 96 << 20;
/// Most entries: 65 s at a thousand samples a second, six times the longest segment.
pub const MAX_ENTRIES: usize = 65_536;

/// Entries for which room is made at once: half a second of ordinary media.
const STEP: usize = 48;

/// The writer's epoch is over: another publisher holds the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("epoch {0} has ended")]
pub struct Fenced(pub u64);

/// Samples of a stream between its publisher and its readers.
#[derive(Debug, Default)]
pub struct SampleLog {
    ring: Mutex<Ring>,
    /// Rings when something was added.
    added: Notify,
}

/// What a cursor gets.
#[derive(Debug, Default)]
pub struct Read {
    /// Entries with their positions, in order.
    pub entries: Vec<(u64, Entry)>,
    /// Samples that were lost because the cursor was too slow.
    pub missed: u64,
}

#[derive(Debug, Default)]
struct Ring {
    entries: VecDeque<Entry>,
    /// Position of the first entry held.
    first: u64,
    bytes: usize,
    epoch: u64,
    /// What was in force before the first entry held.
    before: InForce,
    /// The last epoch that was opened.
    opened: u64,
    last_dts: i64,
    last_media: Option<Instant>,
    /// When the publisher's socket was last read.
    last_read: Option<Instant>,
}

/// Latest epoch and configurations, for a cursor that lost its place.
#[derive(Debug, Clone, Default)]
struct InForce {
    epoch: Option<(u64, i64)>,
    video: Option<Arc<AvcConfig>>,
    audio: Option<Arc<AacConfig>>,
}

impl InForce {
    fn apply(&mut self, entry: &Entry) {
        match entry {
            Entry::Epoch { epoch, wall_ms_at_zero } => {
                *self = Self { epoch: Some((*epoch, *wall_ms_at_zero)), ..Self::default() }
            }
            Entry::Video(config) => self.video = Some(config.clone()),
            Entry::Audio(config) => self.audio = Some(config.clone()),
            Entry::EpochEnd | Entry::Discontinuity | Entry::Sample(_) | Entry::End => {}
        }
    }

    fn entries(self) -> impl Iterator<Item = Entry> {
        let epoch = self.epoch.map(|(epoch, wall_ms_at_zero)| Entry::Epoch { epoch, wall_ms_at_zero });
        let configs = [self.video.map(Entry::Video), self.audio.map(Entry::Audio)];
        [epoch].into_iter().chain(configs).flatten()
    }

    /// Whether a reader without history may start at `entry`.
    fn may_start(&self, entry: &Entry) -> bool {
        let audio_only =
            self.video.is_none() && matches!(entry, Entry::Sample(sample) if sample.kind == TrackKind::Audio);
        entry.is_random_access() || audio_only
    }
}

impl SampleLog {
    /// Opens an epoch: from here on only its writer is heard. One that is older than another that was opened is not.
    pub fn open_epoch(&self, epoch: u64, wall_ms_at_zero: i64, now: Instant) {
        let mut ring = self.lock();
        if epoch <= ring.opened {
            return;
        }
        (ring.epoch, ring.opened) = (epoch, epoch);
        (ring.last_media, ring.last_read) = (None, Some(now));
        ring.push(Entry::Epoch { epoch, wall_ms_at_zero });
        drop(ring);
        self.added.notify_one();
    }

    /// Ends the current epoch, if it is `epoch`: what its writer still sends is dropped.
    pub fn close_epoch(&self, epoch: u64) {
        let mut ring = self.lock();
        if ring.epoch == epoch {
            ring.epoch = 0;
            ring.push(Entry::EpochEnd);
        }
        drop(ring);
        self.added.notify_one();
    }

    /// Ends the session. Nothing is appended afterwards.
    pub fn end(&self) {
        let mut ring = self.lock();
        ring.epoch = 0;
        ring.push(Entry::End);
        drop(ring);
        self.added.notify_one();
    }

    /// Appends what a publisher sent; refused if its epoch is not the current one.
    pub fn append(&self, epoch: u64, entries: impl IntoIterator<Item = Entry>, now: Instant) -> Result<(), Fenced> {
        let mut ring = self.lock();
        if epoch == 0 || ring.epoch != epoch {
            return Err(Fenced(epoch));
        }
        for entry in entries {
            if let Entry::Sample(sample) = &entry {
                ring.last_dts = ring.last_dts.max(sample.dts);
                ring.last_media = Some(now);
            }
            ring.push(entry);
        }
        ring.last_read = Some(now);
        drop(ring);
        self.added.notify_one();
        Ok(())
    }

    /// The publisher's socket was read, and nothing of its media was in it.
    pub fn looked(&self, epoch: u64, now: Instant) {
        let mut ring = self.lock();
        if ring.epoch == epoch {
            ring.last_read = Some(now);
        }
    }

    /// Waits until something was added since the last wait ended: for the one reader. The caller sets the deadline.
    pub async fn added(&self) {
        self.added.notified().await;
    }

    /// Up to `max` entries from `position` on.
    pub fn read(&self, position: u64, max: usize) -> Read {
        self.lock().read(position, max)
    }

    /// Says that no reader needs what is before `position`: it is in published segments.
    pub fn release(&self, position: u64) {
        let mut ring = self.lock();
        while ring.first < position && !ring.entries.is_empty() {
            ring.drop_first();
        }
        ring.give_back();
    }

    /// The position the next entry will get.
    pub fn head(&self) -> u64 {
        let ring = self.lock();
        ring.first + ring.entries.len() as u64
    }

    /// Decode time of the latest sample so far, ticks; zero if there was none.
    pub fn last_dts(&self) -> i64 {
        self.lock().last_dts
    }

    /// When the publisher last sent media, if it has, and when its socket was last read.
    pub fn last_heard(&self) -> (Option<Instant>, Option<Instant>) {
        let ring = self.lock();
        (ring.last_media, ring.last_read)
    }

    /// Payload bytes held.
    pub fn bytes(&self) -> usize {
        self.lock().bytes
    }

    /// Critical sections only move entries; a panic in one cannot leave the ring half changed.
    fn lock(&self) -> MutexGuard<'_, Ring> {
        self.ring.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Ring {
    fn push(&mut self, entry: Entry) {
        self.bytes += entry.payload_len();
        if self.entries.len() == self.entries.capacity() {
            // By steps while there are few, half as many again when there are many.
            self.entries.reserve_exact(STEP.max(self.entries.len() / 2));
        }
        self.entries.push_back(entry);
        while self.bytes > MAX_BYTES || self.entries.len() > MAX_ENTRIES {
            self.drop_first();
        }
    }

    fn drop_first(&mut self) {
        if let Some(entry) = self.entries.pop_front() {
            self.bytes -= entry.payload_len();
            self.first += 1;
            self.before.apply(&entry);
        }
    }

    /// Gives room back that a burst or a long GOP needed once.
    fn give_back(&mut self) {
        if self.entries.capacity() > 2 * (self.entries.len() + STEP) {
            self.entries.shrink_to(self.entries.len() + STEP);
        }
    }

    fn read(&self, position: u64, max: usize) -> Read {
        if position >= self.first {
            // Positions beyond usize cannot be held; the skip then ends the iterator.
            let skip = usize::try_from(position - self.first).unwrap_or(usize::MAX);
            let entries = self.entries.iter().enumerate().skip(skip).take(max);
            return Read {
                entries: entries.map(|(n, entry)| (self.first + n as u64, entry.clone())).collect(),
                missed: 0,
            };
        }
        self.read_after_loss(position, max)
    }

    fn read_after_loss(&self, position: u64, max: usize) -> Read {
        let mut in_force = self.before.clone();
        let mut start = None;
        for (n, entry) in self.entries.iter().enumerate() {
            if in_force.may_start(entry) || matches!(entry, Entry::EpochEnd | Entry::End) {
                start = Some(n);
                break;
            }
            in_force.apply(entry);
        }
        // Without a place to start, wait at the head: the position stays behind and is asked for again.
        let Some(start) = start else { return Read::default() };
        let at = self.first + start as u64;
        let prefix = in_force.entries().map(|entry| (at, entry));
        let rest = self
            .entries
            .iter()
            .enumerate()
            .skip(start)
            .take(max)
            .map(|(n, entry)| (self.first + n as u64, entry.clone()));
        Read { entries: prefix.chain(rest).collect(), missed: at - position }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use media::Sample;

    fn video(dts: i64, random_access: bool, length: usize) -> Entry {
        let data = Bytes::from(vec![0; length]);
        Entry::Sample(Sample { kind: TrackKind::Video, dts, composition: 0, random_access, data })
    }

    fn opened() -> SampleLog {
        let log = SampleLog::default();
        log.open_epoch(1, 0, Instant::now());
        log
    }

    fn dts(read: &Read) -> Vec<i64> {
        let of = |entry: &Entry| if let Entry::Sample(sample) = entry { Some(sample.dts) } else { None };
        read.entries.iter().filter_map(|(_, entry)| of(entry)).collect()
    }

    #[test]
    fn a_cursor_reads_each_entry_once() {
        let log = opened();
        log.append(1, (0..10).map(|n| video(n, n == 0, 10)), Instant::now()).expect("current epoch");
        let (mut position, mut seen) = (1, Vec::new());
        loop {
            let read = log.read(position, 3);
            let Some((last, _)) = read.entries.last() else { break };
            position = last + 1;
            seen.extend(dts(&read));
        }
        assert_eq!(seen, (0..10).collect::<Vec<_>>());
    }

    #[test]
    fn samples_of_an_epoch_that_ended_are_refused() {
        let log = opened();
        log.open_epoch(2, 0, Instant::now());
        assert_eq!(log.append(1, [video(0, true, 1)], Instant::now()), Err(Fenced(1)));
        log.close_epoch(1);
        assert_eq!(log.append(2, [video(0, true, 1)], Instant::now()), Ok(()));
        log.close_epoch(2);
        assert_eq!(log.append(2, [video(1, true, 1)], Instant::now()), Err(Fenced(2)));
        assert_eq!(log.append(0, [video(1, true, 1)], Instant::now()), Err(Fenced(0)));
    }

    #[test]
    fn the_log_is_bounded_and_a_slow_cursor_goes_on_at_a_random_access_point() {
        let log = opened();
        let big = 1 << 20;
        for n in 0..200 {
            log.append(1, [video(n, n % 25 == 0, big)], Instant::now()).expect("current epoch");
        }
        assert!(log.bytes() <= MAX_BYTES);
        let read = log.read(0, 10);
        assert!(matches!(read.entries[0].1, Entry::Epoch { epoch: 1, .. }));
        assert_eq!(dts(&read)[0], 125);
        assert_eq!(read.missed, 126);
    }

    #[test]
    fn what_is_released_is_freed() {
        let log = opened();
        log.append(1, (0..10).map(|n| video(n, n == 0, 10)), Instant::now()).expect("current epoch");
        log.release(6);
        assert_eq!((log.bytes(), log.head()), (50, 11));
        assert_eq!(dts(&log.read(6, 100)), [5, 6, 7, 8, 9]);
    }
}
