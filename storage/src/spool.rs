//! Spool: what a recording still lacks, held in memory until storage has taken it.
//!
//! It belongs to the stream, so that it outlives its recorder. It shares its bytes with the window; what storage
//! does not take in time leaves it as a gap, the oldest first (invariant I4).

use crate::recording::{RecordedFile, RecordedSegment, hour};
use crate::snapshot::{File, Published, Snapshot};
use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// Bytes of all spools of the process together, at most: some minutes of a hundred streams. More would end the
/// process before storage is back.
pub const MAX_BYTES_TOGETHER: usize = 1 << 30;
/// Entries that wait, at most: four hours of segments of 2 s, a few MB. The oldest beyond that is forgotten, and becomes
/// a gap when those after it are recorded.
const MAX_WAITING: usize = 7200;
/// How long a recording that has lost more than memory gives back is not finished: its mount may be away for a moment, and
/// what was recorded is there again with it.
const MAY_RETURN_WITHIN: Duration = Duration::from_secs(60);

/// Bytes of all spools together.
static TOGETHER: AtomicUsize = AtomicUsize::new(0);
/// Spools that hold any.
static HOLDING: AtomicUsize = AtomicUsize::new(0);

/// A segment that is to be recorded.
#[derive(Debug, Clone)]
pub struct Waiting {
    /// What will be said of it.
    pub entry: RecordedSegment,
    /// The segment; none if it is a gap.
    pub published: Option<Arc<Published>>,
}

impl Waiting {
    /// Its files: the initialization section first.
    pub fn files(&self) -> impl Iterator<Item = (&RecordedFile, &File)> {
        let published = self.published.as_deref();
        let map = self.entry.map.as_ref().zip(published.and_then(|published| published.map.as_deref()));
        map.into_iter().chain(published.map(|published| (&self.entry.file, &published.file)))
    }

    fn bytes(&self) -> usize {
        self.published.as_ref().map_or(0, |published| published.file.bytes.len())
    }
}

/// What waits to be recorded.
#[derive(Debug, Default)]
pub struct Spool(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// Number of the next segment to be noted.
    next: u64,
    /// Number of the session's first segment.
    first: u64,
    /// Number of the segment after the last that is recorded.
    recorded: u64,
    /// The same of all that ever was, though its index may be lost.
    high: u64,
    /// Most segments that the index was seen to hold, how many it holds, and since when it has lost some.
    most: u64,
    held: u64,
    lacks_since: Option<Instant>,
    /// The index was seen to have lost some.
    was_lost: bool,
    /// The initialization section in use.
    map: Option<RecordedFile>,
    waiting: VecDeque<Waiting>,
    /// How many of them have left the window, and their bytes: the others are in memory anyway.
    left: usize,
    bytes: usize,
    gaps: u64,
    finished: bool,
}

impl Drop for State {
    fn drop(&mut self) {
        let bytes = self.bytes;
        self.give_back(bytes);
    }
}

impl Spool {
    /// A spool for a session whose first segment has this number.
    pub fn starting_at(sequence: u64) -> Self {
        let spool = Self::default();
        {
            let mut state = spool.lock();
            (state.next, state.first) = (sequence, sequence);
        }
        spool
    }

    /// Told that the session began before what is known of it.
    pub fn began_at(&self, sequence: u64) {
        let mut state = self.lock();
        state.first = state.first.min(sequence);
    }

    /// Notes what was published since the last call, and keeps at most this many bytes of what has left the window.
    pub fn note(&self, snapshot: &Snapshot, max_bytes: usize) {
        let mut state = self.lock();
        let expired = snapshot.expired.iter().map(|expired| &expired.segment);
        for published in expired.chain(&snapshot.listed) {
            if published.sequence >= state.next {
                state.add(published);
            }
        }
        let oldest = snapshot.expired.first().map(|expired| expired.segment.sequence);
        let oldest = oldest.or(snapshot.listed.first().map(|published| published.sequence)).unwrap_or(state.next);
        state.count(oldest);
        state.shrink(max_bytes);
    }

    /// Told what the recording ended with when it was opened: nothing of that is recorded again, and what it has lost is,
    /// if it is in memory. How many segments it has lost.
    pub fn opened(&self, last: Option<&RecordedSegment>, snapshot: &Snapshot) -> u64 {
        let mut state = self.lock();
        let from = last.map_or(state.first, |last| last.sequence + 1);
        let lost = state.recorded.saturating_sub(from);
        state.recorded = from;
        state.was_lost |= lost > 0;
        state.adopt(last);
        state.relist(from, snapshot);
        lost
    }

    /// The first that are ready, in order.
    pub fn batch(&self, max: usize, is_ready: impl Fn(&Waiting) -> bool) -> Vec<Waiting> {
        self.lock().waiting.iter().take(max).take_while(|waiting| is_ready(waiting)).cloned().collect()
    }

    /// Storage has everything up to this number.
    pub fn recorded(&self, sequence: u64) {
        self.lock().recorded(sequence);
    }

    /// The recording is complete: its playlist is written.
    pub fn finish(&self) {
        self.lock().finished = true;
    }

    /// So it is, and so many gaps are in it: those that were found on storage, too.
    pub fn finish_with(&self, gaps: u64) {
        let mut state = self.lock();
        state.finished = true;
        state.gaps = state.gaps.max(gaps);
    }

    /// Whether the recording is complete.
    pub fn is_finished(&self) -> bool {
        self.lock().finished
    }

    /// It is not: there is another place where some of it is missing.
    pub fn reopen(&self) {
        self.lock().finished = false;
    }

    /// Whether the recording has been lost, in whole or in part, and made again of what was in memory: its mount may have
    /// been away, and come back with what is missing, and without what was made.
    pub fn was_lost(&self) -> bool {
        self.lock().was_lost
    }

    /// Whether this segment is recorded, and more of the recording is to come: nobody may have removed it.
    pub fn is_recorded(&self, sequence: u64) -> bool {
        let state = self.lock();
        !state.finished && (state.first..state.recorded).contains(&sequence)
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.lock().waiting.is_empty()
    }

    /// The initialization section in use, as it is recorded.
    pub fn map(&self) -> Option<RecordedFile> {
        self.lock().map.clone()
    }

    /// Bytes that wait and are in no window any more.
    pub fn bytes(&self) -> usize {
        self.lock().bytes
    }

    /// Number of the session's first segment.
    pub fn first(&self) -> u64 {
        self.lock().first
    }

    /// Told how many segments the index holds.
    pub fn indexed(&self, segments: u64, now: Instant) {
        let mut state = self.lock();
        state.most = state.most.max(segments);
        if segments < state.held {
            state.lacks_since = Some(now);
        }
        state.lacks_since = state.lacks_since.filter(|_| segments < state.most);
        state.held = segments;
    }

    /// Whether what the index lacks may be there again soon: it has lost segments a moment ago.
    pub fn may_return(&self, now: Instant) -> bool {
        let since = self.lock().lacks_since;
        since.is_some_and(|since| now.saturating_duration_since(since) < MAY_RETURN_WITHIN)
    }

    /// Counts segments that were lost unnoticed. Those that were recorded, and whose index was lost, are not: it may be
    /// there again.
    pub fn add_gaps(&self, sequences: impl Iterator<Item = u64>) {
        let mut state = self.lock();
        let high = state.high;
        state.gaps += sequences.filter(|sequence| *sequence >= high).count() as u64;
    }

    /// Segments that were lost to the recording.
    pub fn gaps(&self) -> u64 {
        self.lock().gaps
    }

    /// Critical sections leave the state whole at every step.
    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn adopt(&mut self, last: Option<&RecordedSegment>) {
        let Some(last) = last else { return };
        self.recorded(last.sequence);
        self.next = self.next.max(last.sequence + 1);
        // What is noted already may lie in the same initialization section, in the directory of an earlier hour.
        let Some(map) = &last.map else { return };
        let name = |file: &RecordedFile| file.uri.rsplit('/').next().map(str::to_owned);
        let same = |file: &Option<RecordedFile>| file.as_ref().is_some_and(|file| name(file) == name(map));
        for waiting in &mut self.waiting {
            if same(&waiting.entry.map) {
                waiting.entry.map = Some(map.clone());
            }
        }
        if self.map.is_none() || same(&self.map) {
            self.map = Some(map.clone());
        }
    }

    /// Has those wait again that were recorded, from this number on.
    fn relist(&mut self, from: u64, snapshot: &Snapshot) {
        let to = self.waiting.front().map_or(self.next, |waiting| waiting.entry.sequence);
        let expired = snapshot.expired.iter().map(|expired| &expired.segment);
        let lost = expired.chain(&snapshot.listed).filter(|published| (from..to).contains(&published.sequence));
        let lost: Vec<_> = lost.map(|published| self.waiting(published)).collect();
        lost.into_iter().rev().for_each(|waiting| self.waiting.push_front(waiting));
    }

    /// What is to be recorded of a segment.
    fn waiting(&self, published: &Arc<Published>) -> Waiting {
        let map_hour = match (&self.map, published.map.as_deref()) {
            (Some(map), Some(file)) => {
                map.uri.split_once('/').filter(|(_, name)| *name == file.name).map(|(hour, _)| hour)
            }
            _ => None,
        };
        let map_hour = map_hour.map_or_else(|| hour(published.listed.program_date_time_ms), str::to_owned);
        let entry = RecordedSegment::of(published, &map_hour);
        let gap = entry.gap;
        Waiting { entry, published: Some(published.clone()).filter(|_| !gap) }
    }

    fn add(&mut self, published: &Arc<Published>) {
        let waiting = self.waiting(published);
        self.map.clone_from(&waiting.entry.map);
        self.next = waiting.entry.sequence + 1;
        self.gaps += u64::from(waiting.entry.gap);
        self.push(waiting);
    }

    fn push(&mut self, waiting: Waiting) {
        self.waiting.push_back(waiting);
        if self.waiting.len() > MAX_WAITING {
            self.pop();
        }
    }

    fn pop(&mut self) {
        let Some(waiting) = self.waiting.pop_front() else { return };
        if self.left > 0 {
            self.left -= 1;
            self.give_back(waiting.bytes());
        }
    }

    /// Counts those that are older than everything in the window.
    fn count(&mut self, oldest: u64) {
        while self.waiting.get(self.left).is_some_and(|waiting| waiting.entry.sequence < oldest) {
            let bytes = self.waiting[self.left].bytes();
            HOLDING.fetch_add(usize::from(self.bytes == 0 && bytes > 0), Ordering::Relaxed);
            self.bytes += bytes;
            TOGETHER.fetch_add(bytes, Ordering::Relaxed);
            self.left += 1;
        }
    }

    fn give_back(&mut self, bytes: usize) {
        HOLDING.fetch_sub(usize::from(bytes > 0 && self.bytes == bytes), Ordering::Relaxed);
        self.bytes -= bytes;
        TOGETHER.fetch_sub(bytes, Ordering::Relaxed);
    }

    fn recorded(&mut self, sequence: u64) {
        self.recorded = self.recorded.max(sequence + 1);
        self.high = self.high.max(self.recorded);
        while self.waiting.front().is_some_and(|waiting| waiting.entry.sequence <= sequence) {
            self.pop();
        }
    }

    /// Makes gaps of the oldest segments until the rest is within bounds.
    fn shrink(&mut self, max_bytes: usize) {
        for n in 0..self.left {
            // Beyond the bound of all together those give way that hold more than their share.
            let share = MAX_BYTES_TOGETHER / HOLDING.load(Ordering::Relaxed).max(1);
            let is_greedy = TOGETHER.load(Ordering::Relaxed) > MAX_BYTES_TOGETHER && self.bytes > share;
            if self.bytes <= max_bytes && !is_greedy {
                break;
            }
            let waiting = &mut self.waiting[n];
            let bytes = waiting.bytes();
            if waiting.published.take().is_some() {
                waiting.entry.gap = true;
                self.gaps += 1;
                self.give_back(bytes);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use media::hls::ListedSegment;

    const LENGTH: usize = 1000;

    fn published(sequence: u64) -> Arc<Published> {
        let name = format!("0-{sequence}.m4s");
        let listed = ListedSegment {
            uri: name.clone(),
            map: Some("0-1.mp4".to_owned()),
            duration: 180_000,
            discontinuity: false,
            program_date_time_ms: 1_800_000_000_000 + 2000 * sequence.cast_signed(),
            gap: false,
        };
        let file = |name: &str| File {
            name: name.to_owned(),
            bytes: bytes::Bytes::from(vec![1; LENGTH]).into(),
            digest: [7; 32],
        };
        let map = Some(Arc::new(file("0-1.mp4")));
        Arc::new(Published { sequence, listed, file: file(&name), map })
    }

    /// A window that lists the segments of a range.
    fn window(listed: std::ops::Range<u64>) -> Snapshot {
        Snapshot { listed: listed.map(published).collect(), ..Snapshot::default() }
    }

    fn all(spool: &Spool) -> Vec<(u64, bool)> {
        spool.batch(100, |_| true).iter().map(|waiting| (waiting.entry.sequence, waiting.entry.gap)).collect()
    }

    #[test]
    fn what_is_published_is_noted_once_and_leaves_when_it_is_recorded() {
        let spool = Spool::starting_at(1);
        spool.note(&window(1..4), 0);
        spool.note(&window(2..6), usize::MAX);
        assert_eq!(all(&spool), (1..6).map(|n| (n, false)).collect::<Vec<_>>());
        assert_eq!(spool.bytes(), LENGTH, "the others are in the window");
        spool.recorded(4);
        assert_eq!((all(&spool), spool.bytes(), spool.gaps()), (vec![(5, false)], 0, 0));
    }

    #[test]
    fn an_index_that_has_lost_segments_may_be_there_again_for_a_while() {
        let (spool, now) = (Spool::starting_at(1), Instant::now());
        let later = now + MAY_RETURN_WITHIN;
        spool.indexed(0, now);
        spool.indexed(100, now);
        assert!(!spool.may_return(now));
        spool.indexed(6, now);
        spool.indexed(7, later);
        assert!(spool.may_return(later - Duration::from_secs(1)) && !spool.may_return(later));
        spool.indexed(0, later);
        assert!(spool.may_return(later), "it has lost some again");
        spool.indexed(100, later);
        assert!(!spool.may_return(later), "it is");
    }

    #[test]
    fn gaps_of_what_was_recorded_before_are_not_counted() {
        let spool = Spool::starting_at(1);
        spool.add_gaps(1..3);
        spool.recorded(9);
        spool.opened(None, &Snapshot::default());
        spool.add_gaps(1..12);
        assert_eq!(spool.gaps(), 4, "1 and 2, 10 and 11");
    }

    #[test]
    fn what_the_spool_cannot_hold_is_a_gap_and_the_oldest_goes_first() {
        let spool = Spool::starting_at(1);
        spool.note(&window(1..7), 2 * LENGTH);
        spool.note(&window(6..9), 2 * LENGTH);
        let gaps = all(&spool).into_iter().filter(|(_, gap)| *gap).map(|(sequence, _)| sequence).collect::<Vec<_>>();
        assert_eq!((gaps, spool.bytes(), spool.gaps()), (vec![1, 2, 3], 2 * LENGTH, 3));
        assert_eq!(spool.batch(1, |_| true)[0].files().count(), 0);
    }

    #[test]
    fn segments_that_nobody_noted_do_not_wait() {
        let spool = Spool::starting_at(1);
        spool.note(&window(3..4), usize::MAX);
        spool.note(&window(6..7), usize::MAX);
        assert_eq!(all(&spool), [(3, false), (6, false)]);
        assert_eq!(spool.first(), 1, "what is missing is told when these are recorded");
    }

    #[test]
    fn a_recording_that_is_opened_again_goes_on_where_it_ended() {
        let spool = Spool::starting_at(1);
        spool.note(&window(1..5), usize::MAX);
        let mut last = RecordedSegment::of(&published(2), "2026010100");
        last.map = Some(RecordedFile { uri: "2026010100/0-1.mp4".to_owned(), sha256: "aa".to_owned() });
        assert_eq!(spool.opened(Some(&last), &window(1..5)), 0);
        spool.note(&window(3..6), usize::MAX);
        assert_eq!(all(&spool), [(3, false), (4, false), (5, false)]);
        let maps = spool.batch(100, |_| true).into_iter().filter_map(|waiting| waiting.entry.map);
        assert!(maps.into_iter().all(|map| map.uri == "2026010100/0-1.mp4"));
    }

    #[test]
    fn what_has_expired_and_can_still_be_fetched_is_in_memory_anyway() {
        let spool = Spool::starting_at(1);
        spool.note(&window(1..4), 0);
        let expired = crate::snapshot::Expired { segment: published(3), until: Instant::now(), left_with: 0 };
        spool.note(&Snapshot { expired: vec![expired], ..window(4..6) }, 0);
        assert_eq!(all(&spool), [(1, true), (2, true), (3, false), (4, false), (5, false)]);
    }

    #[test]
    fn what_a_recording_has_lost_waits_again_if_it_is_in_memory() {
        let spool = Spool::starting_at(1);
        spool.note(&window(1..6), usize::MAX);
        spool.recorded(4);
        assert!(spool.is_recorded(4) && !spool.is_recorded(5));
        let last = RecordedSegment::of(&published(2), "2026010100");
        assert_eq!(spool.opened(Some(&last), &window(2..6)), 2);
        assert!(spool.is_recorded(2) && !spool.is_recorded(3));
        assert_eq!(all(&spool), [(3, false), (4, false), (5, false)]);
        spool.recorded(5);
        assert_eq!(spool.opened(None, &window(4..6)), 5);
        assert_eq!(all(&spool), [(4, false), (5, false)], "what is before them is told when these are recorded");
        spool.note(&window(5..7), usize::MAX);
        assert_eq!(all(&spool), [(4, false), (5, false), (6, false)]);
        assert_eq!(spool.bytes(), LENGTH);
        spool.finish();
        assert!(!spool.is_recorded(1), "somebody may have removed it");
    }
}
