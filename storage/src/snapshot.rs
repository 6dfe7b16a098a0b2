//! Snapshot: one immutable state of a stream's window, all renditions together.
//!
//! What a playlist names, its digests and the files themselves change in one instant (invariant I2),
//! because they are one value.

use crate::bit_rate::{peak, rate};
pub use crate::document::{Document, hex};
use crate::extents::Extents;
use crate::numbers::Numbers;
use media::hls::{ListedSegment, Measured, MediaPlaylist, multivariant};
use media::packager::Settings;
use media::sample::{TICKS_PER_MS, Tracks};
use media::segment::{FileDigest, Initialization};
use media::{Packager, Segment, TICKS_PER_SECOND};
use memory::Content;
use std::collections::BTreeMap;
use std::iter::once;
use std::sync::Arc;
use tokio::time::{Duration, Instant};

/// Media Playlist of the one rendition there is so far.
pub const MEDIA_PLAYLIST: &str = "0.m3u8";
/// Multivariant Playlist.
pub const MULTIVARIANT_PLAYLIST: &str = "index.m3u8";
/// Digests of every file that can be fetched, as PeerTube's players expect them.
pub const DIGESTS: &str = "segments-sha256.json";
/// Segments beyond the window that may be listed because they are short: an encoder that reconnects or
/// changes again and again makes such. Beyond it the minimum below gives way.
const MAX_SHORT: usize = 64;
/// The window holds at least this many target durations and one segment (RFC 8216 section 6.2.2).
const MIN_TARGET_DURATIONS: i64 = 3;

/// A file of the window.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct File {
    /// Last component of its URL; never used for other bytes.
    pub name: String,
    /// Its contents; empty if they were lost (the segment is a gap).
    pub bytes: Content,
    /// SHA-256.
    pub digest: FileDigest,
}

/// A segment with its number and name.
#[derive(Debug, Clone)]
pub struct Published {
    /// Media sequence number.
    pub sequence: u64,
    /// As playlists list it.
    pub listed: ListedSegment,
    /// The file.
    pub file: File,
    /// Its initialization section; none for MPEG-TS.
    pub map: Option<Arc<File>>,
}

/// A segment that has left the playlist and can still be fetched.
#[derive(Debug, Clone)]
pub struct Expired {
    /// The segment.
    pub segment: Arc<Published>,
    /// Until when (RFC 8216 section 6.2.2).
    pub until: Instant,
    /// The first version that did not list it.
    pub left_with: u64,
}

/// Where a restarted segmenter goes on: the packager as it was when this snapshot was made.
#[derive(Debug, Clone)]
pub struct Resume {
    /// Its state.
    pub packager: Packager,
    /// The first log position it has not seen.
    pub position: u64,
}

/// One state of a window.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// Counts publications of this window.
    pub version: u64,
    /// Segments in the playlist, oldest first.
    pub listed: Vec<Arc<Published>>,
    /// Segments that have left it.
    pub expired: Vec<Expired>,
    /// Playlists that named something which is still listed.
    pub extents: Extents,
    /// Number of the next segment.
    pub next_sequence: u64,
    /// EXT-X-DISCONTINUITY-SEQUENCE.
    pub discontinuity_sequence: u64,
    /// Seconds; zero before the first segment.
    pub target_duration: u32,
    /// EXT-X-ENDLIST has been written.
    pub ended: bool,
    /// [`MEDIA_PLAYLIST`].
    pub media_playlist: Document,
    /// [`MULTIVARIANT_PLAYLIST`].
    pub multivariant: Document,
    /// [`DIGESTS`].
    pub digests: Document,
    /// When it was published.
    pub published_at: Option<Instant>,
    /// Where to resume.
    pub resume: Option<Resume>,
    pub(crate) init: Option<(Arc<Initialization>, Option<Arc<File>>)>,
    pub(crate) measured: Measured,
    pub(crate) independent: bool,
}

/// What is known of a window that another process published.
#[derive(Debug)]
pub struct Adopted {
    /// Its segments; those whose bytes are lost are gaps.
    pub listed: Vec<Arc<Published>>,
    /// Number of the next segment.
    pub next_sequence: u64,
    /// EXT-X-DISCONTINUITY-SEQUENCE.
    pub discontinuity_sequence: u64,
    /// Seconds.
    pub target_duration: u32,
    /// EXT-X-INDEPENDENT-SEGMENTS.
    pub independent: bool,
    /// Text of the Multivariant Playlist.
    pub multivariant: String,
    /// EXT-X-ENDLIST.
    pub ended: bool,
}

impl Snapshot {
    /// An empty window.
    pub fn starting_at(numbers: Numbers) -> Self {
        Self {
            next_sequence: numbers.media_sequence,
            discontinuity_sequence: numbers.discontinuity_sequence,
            ..Self::default()
        }
    }

    /// A window as a record describes it; its next segment follows a discontinuity.
    pub fn adopted(adopted: Adopted) -> Self {
        let mut snapshot = Self {
            version: 1,
            listed: adopted.listed,
            next_sequence: adopted.next_sequence,
            discontinuity_sequence: adopted.discontinuity_sequence,
            target_duration: adopted.target_duration,
            independent: adopted.independent,
            multivariant: Document::new(adopted.multivariant),
            ended: adopted.ended,
            ..Self::default()
        };
        // What players were told of the bit rate stays true of what is listed.
        let peaks = (1..=snapshot.listed.len()).map(|n| peak(lengths(&snapshot.listed[..n]), snapshot.target_duration));
        snapshot.measured.peak = peaks.max().unwrap_or(0);
        snapshot.note_extent();
        snapshot.render();
        snapshot
    }

    /// A packager for what follows this snapshot when there is none to resume: of a new session, or of
    /// one that another process began.
    pub fn packager(&self, settings: Settings) -> Packager {
        let Some(last) = self.listed.last().filter(|_| self.target_duration > 0) else {
            return Packager::new(settings);
        };
        let last_end_ms = last.listed.program_date_time_ms + last.listed.duration / TICKS_PER_MS;
        Packager::continuing(settings, self.target_duration, self.independent, last_end_ms)
    }

    /// Whether there is a playlist to serve.
    pub fn has_playlist(&self) -> bool {
        !self.media_playlist.bytes.is_empty()
    }

    /// The tracks of the latest segment.
    pub fn tracks(&self) -> Option<&Tracks> {
        self.init.as_ref().map(|(init, _)| &init.tracks)
    }

    /// BANDWIDTH, bits per second.
    pub fn bandwidth(&self) -> u64 {
        self.measured.peak
    }

    /// A file by name: a segment or an initialization section, listed or still fetchable.
    pub fn file(&self, name: &str) -> Option<&File> {
        let segments = || self.listed.iter().rev().chain(self.expired.iter().map(|expired| &expired.segment).rev());
        let named = |segment: &&Arc<Published>| segment.file.name == name && !segment.listed.gap;
        let map = || segments().filter_map(|segment| segment.map.as_deref()).find(|file| file.name == name);
        segments().find(named).map(|segment| &segment.file).or_else(map)
    }

    /// Whether a segment of this name was published and cannot be fetched: it is a gap.
    pub fn is_lost(&self, name: &str) -> bool {
        self.listed.iter().any(|segment| segment.listed.gap && segment.file.name == name)
    }

    /// Every file that can be fetched.
    pub fn files(&self) -> BTreeMap<&str, &File> {
        let segments = self.listed.iter().chain(self.expired.iter().map(|expired| &expired.segment));
        let files = segments.flat_map(|s| Some(&s.file).filter(|_| !s.listed.gap).into_iter().chain(s.map.as_deref()));
        files.map(|file| (file.name.as_str(), file)).collect()
    }

    /// Bytes of all that can be fetched, files, playlists and digests, and of samples that came before this was published and are in
    /// none of them: of the key frame, for one, that the next segment begins with.
    pub fn held_bytes(&self) -> usize {
        let samples = self.resume.as_ref().map_or(0, |resume| resume.packager.held_bytes());
        let documents = [&self.media_playlist, &self.multivariant, &self.digests];
        let documents: usize = documents.iter().map(|document| document.bytes.len()).sum();
        samples + documents + self.files().values().map(|file| file.bytes.len()).sum::<usize>()
    }

    /// The next state: `segments` appended, old ones expired, playlists rendered anew.
    pub fn next(&self, segments: Vec<Segment>, end: bool, window: usize, resume: Option<Resume>, now: Instant) -> Self {
        let mut next = self.carried(resume, now);
        for segment in segments {
            next.append(segment);
        }
        next.slide(window, now);
        next.note_extent();
        next.ended = end || self.ended && next.next_sequence == self.next_sequence;
        next.render();
        next
    }

    /// What a new session of the same name starts from: numbers go on, old segments stay fetchable.
    pub fn new_session(&self, now: Instant) -> Self {
        let mut next = self.carried(None, now);
        let listed = std::mem::take(&mut next.listed);
        next.discontinuity_sequence += 1 + discontinuities(&listed);
        listed.into_iter().for_each(|segment| next.expire(segment, now));
        next.extents = Extents::default();
        let (init, multivariant, measured) = (None, Document::default(), Measured::default());
        Self { target_duration: 0, independent: false, init, multivariant, measured, ..next }
    }

    fn carried(&self, resume: Option<Resume>, now: Instant) -> Self {
        Self {
            version: self.version + 1,
            listed: self.listed.clone(),
            expired: self.expired.iter().filter(|expired| expired.until > now).cloned().collect(),
            extents: self.extents.clone(),
            next_sequence: self.next_sequence,
            discontinuity_sequence: self.discontinuity_sequence,
            target_duration: self.target_duration,
            // Of a window that was adopted nobody knows the tracks: what players were told stays true.
            multivariant: match self.init {
                None if self.has_playlist() => Document::new(self.multivariant.bytes.clone()),
                _ => Document::default(),
            },
            published_at: Some(now),
            resume,
            init: self.init.clone(),
            measured: self.measured,
            independent: self.independent,
            ..Self::default()
        }
    }

    fn append(&mut self, segment: Segment) {
        let sequence = self.next_sequence;
        self.next_sequence += 1;
        let map = self.map_of(&segment, sequence);
        // A segment that follows nothing listed has nothing to be discontinuous with.
        let first = self.listed.is_empty();
        self.target_duration = segment.target_duration;
        self.independent = segment.all_independent;
        self.measure(&segment);
        let extension = if map.is_some() { "m4s" } else { "ts" };
        let name = format!("0-{sequence}.{extension}");
        let listed = ListedSegment {
            uri: name.clone(),
            map: map.as_ref().map(|file| file.name.clone()),
            duration: segment.duration,
            discontinuity: segment.discontinuity && !first,
            program_date_time_ms: segment.program_date_time_ms,
            gap: false,
        };
        let file = File { name, bytes: segment.bytes, digest: segment.digest };
        self.listed.push(Arc::new(Published { sequence, listed, file, map }));
    }

    /// The file of the segment's initialization section, named after the first segment that uses it.
    fn map_of(&mut self, segment: &Segment, sequence: u64) -> Option<Arc<File>> {
        if let Some((init, file)) = &self.init
            && init.digest == segment.init.digest
            && init.tracks == segment.init.tracks
        {
            return file.clone();
        }
        let (bytes, digest) = (Content::from(segment.init.bytes.clone()), segment.init.digest);
        let file = (!bytes.is_empty()).then(|| Arc::new(File { name: format!("0-{sequence}.mp4"), bytes, digest }));
        self.init = Some((segment.init.clone(), file.clone()));
        file
    }

    fn measure(&mut self, segment: &Segment) {
        let newest_first = once((segment.bytes.len(), segment.duration)).chain(lengths(&self.listed));
        self.measured.peak = self.measured.peak.max(peak(newest_first, segment.target_duration));
        let (bytes, ticks) =
            self.listed.iter().fold((segment.bytes.len(), segment.duration), |(bytes, ticks), listed| {
                (bytes + listed.file.bytes.len(), ticks + listed.listed.duration)
            });
        // Told anew only when it is wrong by a tenth: a Multivariant Playlist that stays the same can be cached.
        let average = rate(bytes, ticks).min(self.measured.peak);
        if average.abs_diff(self.measured.average) > self.measured.average / 10 {
            self.measured.average = average;
        }
        if segment.video_samples > 1 && segment.init.tracks.video.is_some() {
            let seconds = segment.duration as f64 / TICKS_PER_SECOND as f64;
            self.measured.frame_rate.get_or_insert((f64::from(segment.video_samples) / seconds).round().max(1.0));
        }
    }

    /// Takes the oldest segments out of the playlist while enough remain.
    fn slide(&mut self, window: usize, now: Instant) {
        let minimum = MIN_TARGET_DURATIONS * i64::from(self.target_duration) * TICKS_PER_SECOND;
        let mut remaining = ticks(&self.listed);
        while self.listed.len() > window.max(2) {
            remaining -= self.listed[0].listed.duration;
            // The minimum must hold without the newest segment: "three target durations and one segment".
            let newest = self.listed.last().map_or(0, |segment| segment.listed.duration);
            if remaining - newest < minimum && self.listed.len() <= window + MAX_SHORT {
                break;
            }
            let segment = self.listed.remove(0);
            // Its own tag, if it had one, leaves with it (RFC 8216 section 6.2.2).
            self.discontinuity_sequence += u64::from(segment.listed.discontinuity);
            self.expire(segment, now);
        }
    }

    /// A segment that leaves the playlist at `now` stays for its own duration and that of the longest playlist that listed
    /// it, and no shorter than those before it: what can be fetched has no holes.
    fn expire(&mut self, segment: Arc<Published>, now: Instant) {
        let longest = self.extents.longest_naming(segment.sequence).unwrap_or(0);
        let ticks = (segment.listed.duration + longest).max(0).unsigned_abs();
        let until = now + Duration::from_micros(ticks * 1_000_000 / TICKS_PER_SECOND.unsigned_abs());
        let until = self.expired.last().map_or(until, |before| until.max(before.until));
        self.expired.push(Expired { segment, until, left_with: self.version });
    }

    fn note_extent(&mut self) {
        if let (Some(oldest), Some(newest)) = (self.listed.first(), self.listed.last()) {
            self.extents.note(oldest.sequence, newest.sequence, ticks(&self.listed));
        }
    }

    /// Notes that it is in force from now on. What it does not list any more was listed until now, however long it took to
    /// get there.
    pub(crate) fn comes_into_force(&mut self, now: Instant) {
        let late = self.published_at.map_or(Duration::ZERO, |made| now.saturating_duration_since(made));
        let just_left = |expired: &&mut Expired| expired.left_with == self.version;
        self.expired.iter_mut().filter(just_left).for_each(|expired| expired.until += late);
        self.published_at = Some(now);
    }

    fn render(&mut self) {
        let files: BTreeMap<&str, String> =
            self.files().into_iter().map(|(name, file)| (name, hex(&file.digest))).collect();
        let digests = serde_json::to_vec(&files).unwrap_or_default();
        self.digests = Document::new(digests);
        let Some(first) = self.listed.first() else { return };
        let playlist = MediaPlaylist {
            target_duration: self.target_duration,
            media_sequence: first.sequence,
            discontinuity_sequence: self.discontinuity_sequence,
            independent_segments: self.independent,
            vod: false,
            end: self.ended,
        };
        let text = playlist.render(self.listed.iter().map(|segment| &segment.listed));
        self.media_playlist = Document::new(text);
        if let Some((init, _)) = &self.init {
            self.multivariant =
                Document::new(multivariant(MEDIA_PLAYLIST, &init.tracks, self.measured, self.independent));
        }
    }
}

/// Bytes and ticks of segments, the newest first, up to one that is lost.
fn lengths(listed: &[Arc<Published>]) -> impl Iterator<Item = (usize, i64)> {
    let there = listed.iter().rev().take_while(|segment| !segment.listed.gap);
    there.map(|segment| (segment.file.bytes.len(), segment.listed.duration))
}

/// Length of a playlist.
fn ticks(listed: &[Arc<Published>]) -> i64 {
    listed.iter().map(|segment| segment.listed.duration).sum()
}

fn discontinuities(listed: &[Arc<Published>]) -> u64 {
    listed.iter().filter(|segment| segment.listed.discontinuity).count() as u64
}

#[cfg(test)]
#[path = "snapshot_tests.rs"]
pub(crate) mod tests;
