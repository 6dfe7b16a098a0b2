//! SampleLog: one per stream, one writer, any number of cursors; the writer never waits.
//!
//! A ring bounded in bytes and entries. A cursor that falls off its tail goes on at the next random
//! access point, with the configuration in force there, and is told what it missed.

use media::sample::{TICKS_PER_MS, Tracks};
use media::{AacConfig, AvcConfig, Entry, Sample, TICKS_PER_SECOND, TrackKind};
use memory::Blocks;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use thiserror::Error;
use tokio::sync::Notify;
use tokio::time::Instant;

/// Most payload bytes a log holds: the largest segment and half of the next.
pub const MAX_BYTES: usize = 96 << 20;
/// Most entries: 65 s at a thousand samples a second, six times the longest segment.
pub const MAX_ENTRIES: usize = 65_536;

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
    entries: Blocks<Entry>,
    /// Position of the first entry held.
    first: u64,
    bytes: usize,
    epoch: u64,
    /// What was in force before the first entry held.
    before: InForce,
    /// The last epoch that was opened.
    opened: u64,
    /// An epoch that is opened in earnest when its media can be shown: until then a slate goes on.
    pending: Option<Pending>,
    /// The slate whose entries are taken.
    slate: Option<u64>,
    /// How many slates there were.
    slates: u64,
    ended: bool,
    /// What is added to the current epoch's decode times, so that they come after a slate's.
    shift: i64,
    /// In force at the end.
    at_end: InForce,
    last_dts: i64,
    last_media: Option<Instant>,
    /// When the publisher's socket was last read.
    last_read: Option<Instant>,
}

/// An epoch whose first decodable sample has not come.
#[derive(Debug)]
struct Pending {
    epoch: u64,
    wall_ms_at_zero: i64,
    configured: InForce,
    /// Decode time of its first sample.
    heard: Option<i64>,
    /// It has sent video.
    seen: bool,
}

/// How long audio may come without video before it is the show, ticks, ...
const AUDIO_ALONE: i64 = TICKS_PER_SECOND;
/// ... if video was announced by its sequence header: as long as a packager waits for it, ...
const VIDEO_ANNOUNCED: i64 = 5 * TICKS_PER_SECOND;
/// ... and if video comes that cannot be decoded yet: for the longest GOP there is.
const VIDEO_SENT: i64 = 10 * TICKS_PER_SECOND;

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
    /// While there is a slate, it goes on until the epoch has something to show.
    pub fn open_epoch(&self, epoch: u64, wall_ms_at_zero: i64, now: Instant) {
        let mut ring = self.lock();
        if epoch <= ring.opened {
            return;
        }
        ring.opened = epoch;
        (ring.last_media, ring.last_read) = (None, Some(now));
        let pending = Pending { epoch, wall_ms_at_zero, configured: InForce::default(), heard: None, seen: false };
        if ring.slate.is_some() {
            ring.pending = Some(pending);
        } else {
            ring.begin(pending, None);
        }
        drop(ring);
        self.added.notify_one();
    }

    /// Ends the current epoch, if it is `epoch`: what its writer still sends is dropped.
    pub fn close_epoch(&self, epoch: u64) {
        let mut ring = self.lock();
        ring.pending.take_if(|pending| pending.epoch == epoch);
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
        (ring.epoch, ring.pending, ring.slate, ring.ended) = (0, None, None, true);
        ring.push(Entry::End);
        drop(ring);
        self.added.notify_one();
    }

    /// Appends what a publisher sent; refused if its epoch is not the current one.
    pub fn append(&self, epoch: u64, entries: impl IntoIterator<Item = Entry>, now: Instant) -> Result<(), Fenced> {
        let mut ring = self.lock();
        let is_pending = ring.pending.as_ref().is_some_and(|pending| pending.epoch == epoch);
        if epoch == 0 || ring.epoch != epoch && !is_pending {
            return Err(Fenced(epoch));
        }
        for entry in entries {
            if matches!(entry, Entry::Sample(_)) {
                ring.last_media = Some(now);
            }
            ring.take(entry);
        }
        ring.last_read = Some(now);
        drop(ring);
        self.added.notify_one();
        Ok(())
    }

    /// Begins a slate, if nobody publishes: `configurations` come before its samples. Its number; the one before it, if
    /// there is one, is heard no more.
    pub fn begin_slate(&self, wall_ms_at_zero: i64, configurations: impl IntoIterator<Item = Entry>) -> Option<u64> {
        let mut ring = self.lock();
        if ring.epoch != 0 || ring.pending.is_some() || ring.ended {
            return None;
        }
        ring.slates += 1;
        ring.slate = Some(ring.slates);
        let (epoch, number) = (ring.opened, ring.slates);
        ring.push(Entry::Epoch { epoch, wall_ms_at_zero });
        configurations.into_iter().for_each(|entry| ring.push(entry));
        drop(ring);
        self.added.notify_one();
        Some(number)
    }

    /// Appends samples of the slate of this number; false if it is over.
    pub fn append_slate(&self, number: u64, samples: impl IntoIterator<Item = Entry>) -> bool {
        let mut ring = self.lock();
        if ring.slate != Some(number) {
            return false;
        }
        samples.into_iter().for_each(|entry| ring.push(entry));
        drop(ring);
        self.added.notify_one();
        true
    }

    /// Whether a slate is shown.
    pub fn is_slate(&self) -> bool {
        self.lock().slate.is_some()
    }

    /// The tracks in force at its end.
    pub fn tracks(&self) -> Tracks {
        let ring = self.lock();
        Tracks { video: ring.at_end.video.clone(), audio: ring.at_end.audio.clone() }
    }

    /// The publisher's socket was read, and nothing of its media was in it.
    pub fn looked(&self, epoch: u64, now: Instant) {
        let mut ring = self.lock();
        if ring.epoch == epoch || ring.pending.as_ref().is_some_and(|pending| pending.epoch == epoch) {
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
    /// Takes an entry of the epoch that is open, or of the one that is to be.
    fn take(&mut self, entry: Entry) {
        let Some(pending) = &mut self.pending else { return self.push_shifted(entry) };
        let Entry::Sample(sample) = &entry else { return pending.configured.apply(&entry) };
        pending.seen |= sample.kind == TrackKind::Video;
        let heard = *pending.heard.get_or_insert(sample.dts);
        let patience = match (pending.seen, &pending.configured.video) {
            (true, _) => VIDEO_SENT,
            (false, Some(_)) => VIDEO_ANNOUNCED,
            (false, None) => AUDIO_ALONE,
        };
        let alone = sample.kind == TrackKind::Audio && sample.dts - heard >= patience;
        // What comes before a random access point could not be decoded, or would be sound without its picture.
        if (entry.is_random_access() || alone)
            && let Some(pending) = self.pending.take()
        {
            self.begin(pending, Some(sample.dts));
            self.push_shifted(entry);
        }
    }

    /// Opens an epoch in earnest; `first` is the decode time of its first sample, if that is known.
    fn begin(&mut self, pending: Pending, first: Option<i64>) {
        // Behind a slate that has gone on meanwhile.
        let shift = first.map_or(0, |first| (self.last_dts + TICKS_PER_SECOND - first).max(0));
        (self.epoch, self.shift, self.slate) = (pending.epoch, shift, None);
        let wall_ms_at_zero = pending.wall_ms_at_zero - shift / TICKS_PER_MS;
        self.push(Entry::Epoch { epoch: pending.epoch, wall_ms_at_zero });
        pending.configured.entries().for_each(|entry| self.push(entry));
    }

    fn push_shifted(&mut self, entry: Entry) {
        let shift = self.shift;
        self.push(match entry {
            Entry::Sample(sample) => Entry::Sample(Sample { dts: sample.dts + shift, ..sample }),
            other => other,
        });
    }

    fn push(&mut self, entry: Entry) {
        if let Entry::Sample(sample) = &entry {
            self.last_dts = self.last_dts.max(sample.dts);
        }
        self.at_end.apply(&entry);
        self.bytes += entry.payload_len();
        self.entries.push(entry);
        while self.bytes > MAX_BYTES || self.entries.len() > MAX_ENTRIES {
            self.drop_first();
        }
    }

    fn drop_first(&mut self) {
        if let Some(entry) = self.entries.pop() {
            self.bytes -= entry.payload_len();
            self.first += 1;
            self.before.apply(&entry);
        }
    }

    fn read(&self, position: u64, max: usize) -> Read {
        if position >= self.first {
            // Positions beyond usize cannot be held; the skip then ends the iterator.
            let skip = usize::try_from(position - self.first).unwrap_or(usize::MAX);
            return Read { entries: self.from(skip, max).collect(), missed: 0 };
        }
        self.read_after_loss(position, max)
    }

    fn read_after_loss(&self, position: u64, max: usize) -> Read {
        let mut in_force = self.before.clone();
        let mut start = None;
        for (n, entry) in self.entries.from(0).enumerate() {
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
        Read { entries: prefix.chain(self.from(start, max)).collect(), missed: at - position }
    }

    /// Up to `max` entries behind so many, with their positions.
    fn from(&self, skip: usize, max: usize) -> impl Iterator<Item = (u64, Entry)> {
        (self.first + skip as u64..).zip(self.entries.from(skip).take(max).cloned())
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
    fn a_slate_goes_on_until_the_next_epoch_has_a_picture_that_can_be_decoded() {
        let log = opened();
        log.append(1, [video(0, true, 1)], Instant::now()).expect("current epoch");
        assert_eq!(log.begin_slate(0, []), None, "somebody publishes");
        log.close_epoch(1);
        let stuck = log.begin_slate(0, []).expect("nobody publishes");
        let slate = log.begin_slate(0, []).expect("nobody publishes");
        assert!(!log.append_slate(stuck, [video(8_000_000, true, 1)]), "another one took its place");
        assert!(log.append_slate(slate, [video(9_000_000, true, 1)]));
        log.open_epoch(2, 50_000, Instant::now());
        log.append(2, [video(1_000, false, 1)], Instant::now()).expect("current epoch");
        assert!(log.is_slate() && log.append_slate(slate, [video(9_090_000, true, 1)]));
        // Its silence counts although nothing of it is shown yet.
        let later = Instant::now() + std::time::Duration::from_secs(2);
        log.looked(2, later);
        assert_eq!(log.last_heard().1, Some(later));
        let from = log.head();
        log.append(2, [video(4_000, false, 1), video(7_000, true, 1), video(10_000, false, 1)], Instant::now())
            .expect("current epoch");
        assert!(!log.is_slate() && !log.append_slate(slate, [video(9_180_000, true, 1)]));
        let read = log.read(from, 100);
        assert_eq!(dts(&read), [9_180_000, 9_183_000], "behind the slate, and as far apart as they were");
        let shifted = 50_000 - (9_180_000 - 7_000) / 90;
        assert!(matches!(read.entries[0].1, Entry::Epoch { epoch: 2, wall_ms_at_zero } if wall_ms_at_zero == shifted));
    }

    #[test]
    fn a_publisher_that_leaves_before_it_shows_anything_does_not_end_a_slate_and_the_end_does() {
        let log = opened();
        log.close_epoch(1);
        let slate = log.begin_slate(0, []).expect("nobody publishes");
        log.open_epoch(2, 0, Instant::now());
        log.close_epoch(2);
        assert!(log.append_slate(slate, [video(1, true, 1)]));
        assert_eq!(log.append(2, [video(2, true, 1)], Instant::now()), Err(Fenced(2)));
        log.end();
        assert!(!log.append_slate(slate, [video(3, true, 1)]) && log.begin_slate(0, []).is_none());
    }

    #[test]
    fn audio_takes_a_slate_s_place_when_no_picture_comes_and_not_before() {
        let audio = |seconds: i64| {
            let (kind, data) = (TrackKind::Audio, Bytes::from_static(b"a"));
            Entry::Sample(Sample { kind, dts: seconds * TICKS_PER_SECOND, composition: 0, random_access: true, data })
        };
        let tags = media::flv::file(&Bytes::from_static(include_bytes!("../../src/demo.flv"))).expect("FLV");
        let header = |body: &Bytes| match media::flv::video(body) {
            Ok(media::flv::VideoTag::SequenceHeader(record)) => AvcConfig::parse(record).ok(),
            _ => None,
        };
        let config = tags.iter().find_map(|tag| header(&tag.body)).map(|config| Entry::Video(Arc::new(config)));
        assert!(config.is_some());
        for (announced, patience) in [(None, 1), (config, 5), (Some(video(0, false, 1)), 10)] {
            let log = opened();
            log.close_epoch(1);
            log.begin_slate(0, []).expect("nobody publishes");
            log.open_epoch(2, 0, Instant::now());
            log.append(2, announced.clone().into_iter().chain((0..patience).map(audio)), Instant::now())
                .expect("it holds");
            assert!(log.is_slate(), "{announced:?}");
            log.append(2, [audio(patience)], Instant::now()).expect("it holds");
            assert!(!log.is_slate(), "{announced:?}");
        }
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
