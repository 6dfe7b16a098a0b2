//! Recording: what a session leaves behind. Entries of segments and the session's record as they lie on storage, and
//! the VOD playlists that are made of them at its end.
//!
//! Entries are appended as lines of JSON and never changed: after a crash the last line may be torn, and no other.

use crate::live::{LiveStream, Session};
use crate::name::StreamName;
use crate::snapshot::{Published, Snapshot, hex};
use media::hls::{ListedSegment, MediaPlaylist};
use media::sample::TICKS_PER_MS;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::str::FromStr;
use std::sync::atomic::Ordering;
use std::time::{Duration, UNIX_EPOCH};
use thiserror::Error;

/// Version of the formats; others are not read.
const FORMAT: u32 = 1;

/// Which recording: of a stream, one a session.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct RecordingId {
    /// The stream.
    pub stream: StreamName,
    /// Id of its session.
    pub session: String,
}

impl RecordingId {
    /// The recording of a stream's session. None if the id cannot be a session's: it becomes part of a path.
    pub fn new(stream: StreamName, session: &str) -> Option<Self> {
        let valid = (1..=16).contains(&session.len()) && session.bytes().all(|byte| byte.is_ascii_hexdigit());
        valid.then(|| Self { stream, session: session.to_owned() })
    }

    /// Of the session a stream is in.
    pub fn of(stream: &LiveStream) -> Self {
        Self { stream: stream.name.clone(), session: stream.session.id.clone() }
    }
}

impl FromStr for RecordingId {
    type Err = NoRecordingId;

    /// Of `application/name/session`.
    fn from_str(text: &str) -> Result<Self, NoRecordingId> {
        let (stream, session) = text.rsplit_once('/').ok_or(NoRecordingId)?;
        let (app, name) = stream.split_once('/').ok_or(NoRecordingId)?;
        StreamName::new(app, name).ok().and_then(|stream| Self::new(stream, session)).ok_or(NoRecordingId)
    }
}

/// It is not `application/name/session`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("not the id of a recording")]
pub struct NoRecordingId;

/// A file of a recording.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedFile {
    /// Relative to the recording: the hour and the name it had in the live playlist.
    pub uri: String,
    /// SHA-256, hexadecimal.
    pub sha256: String,
}

/// A segment of a recording, or a gap where one is missing.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecordedSegment {
    /// Media sequence number it had in the live playlist.
    pub sequence: u64,
    /// The segment; of a gap, where it would be.
    pub file: RecordedFile,
    /// Its initialization section, if it has one.
    pub map: Option<RecordedFile>,
    /// Ticks of 1/90000 s.
    pub duration: i64,
    /// It does not continue the timestamps or the format of the one before.
    pub discontinuity: bool,
    /// Wall clock at its first sample, milliseconds since 1970.
    pub program_date_time_ms: i64,
    /// Its bytes were lost before storage took them.
    pub gap: bool,
    /// Length, bytes.
    pub bytes: u64,
}

impl RecordedSegment {
    /// A published segment as it will be recorded. `map_hour` is the hour in which its initialization section lies.
    pub fn of(published: &Published, map_hour: &str) -> Self {
        let listed = &published.listed;
        let file =
            |hour: &str, name: &str, digest: &[u8]| RecordedFile { uri: format!("{hour}/{name}"), sha256: hex(digest) };
        Self {
            sequence: published.sequence,
            file: file(&hour(listed.program_date_time_ms), &published.file.name, &published.file.digest),
            map: published.map.as_deref().map(|map| file(map_hour, &map.name, &map.digest)),
            duration: listed.duration,
            discontinuity: listed.discontinuity,
            program_date_time_ms: listed.program_date_time_ms,
            gap: listed.gap,
            bytes: published.file.bytes.len() as u64,
        }
    }

    fn listed(&self) -> ListedSegment {
        ListedSegment {
            uri: self.file.uri.clone(),
            map: self.map.as_ref().map(|map| map.uri.clone()),
            duration: self.duration,
            discontinuity: self.discontinuity,
            program_date_time_ms: self.program_date_time_ms,
            gap: self.gap,
        }
    }
}

/// The directory of a recording in which the files of an hour lie: UTC, such as `2026112112`, so that no directory
/// grows without bound.
pub fn hour(ms: i64) -> String {
    let since_1970 = Duration::from_millis(ms.max(0).unsigned_abs());
    let text = humantime::format_rfc3339_seconds(UNIX_EPOCH + since_1970).to_string();
    text.chars().filter(char::is_ascii_digit).take(10).collect()
}

/// Gaps that one hole in a recording becomes at most: a day of segments of 2 s.
const MAX_HOLE: u64 = 43_200;

/// Gaps for segments that are not told of between two entries, or before the first one: they came and went while nobody
/// noted them, or were lost with a process. How long each was is not known any more; how long they were together is, and
/// before the first entry each is taken to be as long as that. The first of them, `max` at most.
pub fn gaps_between(
    after: Option<&RecordedSegment>,
    first: u64,
    before: &RecordedSegment,
    max: usize,
) -> Vec<RecordedSegment> {
    let next = after.map_or(first, |after| after.sequence + 1);
    let missing = before.sequence.saturating_sub(next).min(MAX_HOLE);
    let as_long = before.duration / TICKS_PER_MS * missing.cast_signed();
    let from_ms = after.map_or(before.program_date_time_ms.saturating_sub(as_long), |after| {
        after.program_date_time_ms + after.duration / TICKS_PER_MS
    });
    let each_ms = (before.program_date_time_ms - from_ms).max(0) / i64::try_from(missing.max(1)).unwrap_or(1);
    let gap = |sequence: u64| {
        let n = (sequence + missing - before.sequence).cast_signed();
        let program_date_time_ms = from_ms + each_ms * n;
        let uri = format!("{}/0-{sequence}", hour(program_date_time_ms));
        RecordedSegment {
            sequence,
            file: RecordedFile { uri, sha256: String::new() },
            map: before.map.clone(),
            duration: each_ms * TICKS_PER_MS,
            discontinuity: false,
            program_date_time_ms,
            gap: true,
            bytes: 0,
        }
    };
    (before.sequence - missing..before.sequence).take(max).map(gap).collect()
}

/// Entries in order, each number once, with gaps for those that are missing: the index of an hour may be lost.
pub fn whole(mut entries: Vec<RecordedSegment>, first: Option<u64>) -> Vec<RecordedSegment> {
    // Of a number that is there twice a segment comes before a gap, and stays.
    entries.sort_by_key(|entry| (entry.sequence, entry.gap));
    entries.dedup_by_key(|entry| entry.sequence);
    let mut whole: Vec<RecordedSegment> = Vec::with_capacity(entries.len());
    for entry in entries {
        let gaps = gaps_between(whole.last(), first.unwrap_or(entry.sequence), &entry, usize::MAX);
        whole.extend(gaps);
        whole.push(entry);
    }
    whole
}

/// What entries add up to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Totals {
    /// Segments, gaps not counted.
    pub segments: u64,
    /// Segments that are missing.
    pub gaps: u64,
    /// Bytes of all segments.
    pub bytes: u64,
    /// Sum of all durations, gaps included, ticks.
    pub duration: i64,
}

impl Totals {
    /// With these entries, too.
    pub fn and(self, entries: &[RecordedSegment]) -> Self {
        entries.iter().fold(self, |total, entry| Self {
            segments: total.segments + u64::from(!entry.gap),
            gaps: total.gaps + u64::from(entry.gap),
            bytes: total.bytes + if entry.gap { 0 } else { entry.bytes },
            duration: total.duration.saturating_add(entry.duration),
        })
    }
}

/// Lines for entries.
pub fn lines(entries: &[RecordedSegment]) -> Vec<u8> {
    let mut text = Vec::new();
    for entry in entries {
        // Plain data: it can always be written as JSON.
        let _ = serde_json::to_writer(&mut text, entry);
        text.push(b'\n');
    }
    text
}

/// Entries of lines. What is torn is left out, and what was written twice comes once; a gap takes no segment's place.
pub fn entries(text: &str) -> Vec<RecordedSegment> {
    let parsed = text.lines().filter_map(|line| serde_json::from_str::<RecordedSegment>(line).ok());
    let mut by_sequence: BTreeMap<u64, RecordedSegment> = BTreeMap::new();
    for entry in parsed {
        if !entry.gap || by_sequence.get(&entry.sequence).is_none_or(|before| before.gap) {
            by_sequence.insert(entry.sequence, entry);
        }
    }
    by_sequence.into_values().collect()
}

/// What is known of a session, as it lies in `session.json`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SessionRecord {
    format: u32,
    /// Which recording it is.
    #[serde(flatten)]
    pub id: RecordingId,
    /// When it was first published, milliseconds since 1970.
    pub published_at_ms: i64,
    /// When it ended; none while it is live, or was when the process last ended.
    pub ended_at_ms: Option<i64>,
    /// Why it ended.
    pub ended_because: Option<String>,
    /// Epoch of its last publisher: it rises with each that the stream's name has had.
    pub epoch: u64,
    /// CODECS attribute.
    pub codecs: Option<String>,
    /// EXT-X-TARGETDURATION, seconds.
    pub target_duration: u32,
    /// EXT-X-INDEPENDENT-SEGMENTS.
    pub independent_segments: bool,
    /// Text of the Multivariant Playlist.
    pub multivariant: String,
    /// Segments, gaps not counted. This and what follows is a minute behind while it is live.
    pub segments: u64,
    /// Segments that are missing.
    pub gaps: u64,
    /// Bytes of all segments.
    pub bytes: u64,
    /// Sum of all durations, gaps included, milliseconds.
    pub duration_ms: i64,
    /// Operations on storage that failed or did not come back, since the process started.
    #[serde(default)]
    pub storage_errors: u64,
    /// Length of the MP4 file, if one was made.
    #[serde(default)]
    pub movie_bytes: Option<u64>,
    /// Media sequence number of its first segment.
    #[serde(default)]
    pub first_sequence: Option<u64>,
}

impl SessionRecord {
    /// Bytes of its files, as far as they are known.
    pub fn size(&self) -> u64 {
        self.bytes.saturating_add(self.movie_bytes.unwrap_or(0))
    }

    /// Of a stream whose window is `snapshot`, still live.
    pub fn of(stream: &LiveStream, snapshot: &Snapshot, totals: Totals) -> Self {
        let Session { published_at_ms, .. } = stream.session;
        Self {
            format: FORMAT,
            id: RecordingId::of(stream),
            published_at_ms,
            ended_at_ms: None,
            ended_because: None,
            epoch: stream.epoch(),
            codecs: snapshot.tracks().map(|tracks| tracks.codecs()),
            target_duration: snapshot.target_duration,
            independent_segments: snapshot.independent,
            multivariant: String::from_utf8_lossy(&snapshot.multivariant.bytes).into_owned(),
            segments: totals.segments,
            gaps: totals.gaps,
            bytes: totals.bytes,
            duration_ms: totals.duration / TICKS_PER_MS,
            storage_errors: stream.stats.storage_errors.load(Ordering::Relaxed),
            movie_bytes: None,
            first_sequence: Some(stream.spool.first()),
        }
    }

    /// Reads what was written; none if it is not a record of this format.
    pub fn parse(text: &[u8]) -> Option<Self> {
        serde_json::from_slice(text).ok().filter(|record: &Self| record.format == FORMAT)
    }

    /// The text to be written.
    pub fn to_json(&self) -> Vec<u8> {
        serde_json::to_vec_pretty(self).unwrap_or_default()
    }

    /// Whether nothing but what entries add up to differs from an earlier record of the same session.
    pub fn is_but_longer_than(&self, before: &Self) -> bool {
        let Self { segments, gaps, bytes, duration_ms, storage_errors, .. } = before.clone();
        Self { segments, gaps, bytes, duration_ms, storage_errors, ..self.clone() } == *before
    }

    /// The record of the session once it is over, with what its entries add up to.
    pub fn ended(mut self, entries: &[RecordedSegment], because: &str) -> Self {
        let last = entries.iter().map(|entry| entry.program_date_time_ms + entry.duration / TICKS_PER_MS).max();
        self.ended_at_ms = Some(last.unwrap_or(self.published_at_ms));
        self.ended_because = Some(because.to_owned());
        let totals = Totals::default().and(entries);
        (self.gaps, self.segments, self.bytes) = (totals.gaps, totals.segments, totals.bytes);
        self.duration_ms = totals.duration / TICKS_PER_MS;
        self
    }

    /// The VOD Media Playlist over what was recorded (RFC 8216 section 4.3.3.5: it never changes). A gap is a
    /// discontinuity at which EXT-X-PROGRAM-DATE-TIME jumps: EXT-X-GAP stops stock hls.js for good.
    pub fn playlist(&self, entries: &[RecordedSegment]) -> String {
        let mut listed: Vec<ListedSegment> = Vec::new();
        let mut after_gap = false;
        for entry in entries {
            if !entry.gap {
                let discontinuity = (entry.discontinuity || after_gap) && !listed.is_empty();
                listed.push(ListedSegment { discontinuity, ..entry.listed() });
            }
            after_gap = entry.gap;
        }
        let playlist = MediaPlaylist {
            target_duration: self.target_duration,
            media_sequence: 0,
            discontinuity_sequence: 0,
            independent_segments: self.independent_segments,
            vod: true,
            end: true,
        };
        playlist.render(listed.iter())
    }

    /// Digests of all files of the recording, by the last component of their URLs.
    pub fn digests(entries: &[RecordedSegment]) -> Vec<u8> {
        let files =
            entries.iter().flat_map(|entry| Some(&entry.file).filter(|_| !entry.gap).into_iter().chain(&entry.map));
        let named = files.map(|file| (file.uri.rsplit('/').next().unwrap_or(&file.uri), &file.sha256));
        serde_json::to_vec(&named.collect::<BTreeMap<_, _>>()).unwrap_or_default()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    pub fn entry(sequence: u64) -> RecordedSegment {
        let file = |name: String| RecordedFile { uri: format!("2026112112/{name}"), sha256: "ab".repeat(32) };
        RecordedSegment {
            sequence,
            file: file(format!("0-{sequence}.m4s")),
            map: Some(file("0-1.mp4".to_owned())),
            duration: 180_000,
            discontinuity: sequence == 3,
            program_date_time_ms: 1_790_000_000_000 + 2000 * sequence.cast_signed(),
            gap: sequence == 5,
            bytes: 1000,
        }
    }

    pub fn record() -> SessionRecord {
        let id = RecordingId::new(StreamName::new("live", "show").expect("valid"), "19aa").expect("valid");
        SessionRecord {
            format: FORMAT,
            id,
            published_at_ms: 1_790_000_000_000,
            ended_at_ms: None,
            ended_because: None,
            epoch: 2,
            codecs: Some("avc1.64001f,mp4a.40.2".to_owned()),
            target_duration: 2,
            independent_segments: true,
            multivariant: "#EXTM3U\n".to_owned(),
            segments: 0,
            gaps: 0,
            bytes: 0,
            duration_ms: 0,
            storage_errors: 0,
            movie_bytes: None,
            first_sequence: None,
        }
    }

    #[test]
    fn a_vod_lists_everything_and_says_what_is_missing() {
        let entries: Vec<_> = (1..8).map(entry).collect();
        let text = record().playlist(&entries);
        let playlist = m3u8_rs::parse_media_playlist(text.as_bytes()).expect("valid").1;
        assert_eq!(playlist.playlist_type, Some(m3u8_rs::MediaPlaylistType::Vod));
        assert!(playlist.end_list && playlist.segments.len() == 6);
        assert_eq!(text.matches("#EXT-X-GAP").count(), 0);
        let discontinuities: Vec<_> = playlist.segments.iter().map(|segment| segment.discontinuity).collect();
        assert_eq!(discontinuities, [false, false, true, false, true, false], "its own, and where one is missing");
        assert!(playlist.segments[0].map.is_some());
        let ended = record().ended(&entries, "publisher gone");
        assert_eq!((ended.segments, ended.gaps, ended.bytes, ended.duration_ms), (6, 1, 6000, 14_000));
        assert_eq!(ended.ended_at_ms, Some(1_790_000_000_000 + 16_000));
        assert_eq!(SessionRecord::parse(&ended.to_json()), Some(ended));
        let digests: BTreeMap<String, String> =
            serde_json::from_slice(&SessionRecord::digests(&entries)).expect("JSON");
        assert_eq!(digests.len(), 7, "six segments and their initialization section");
        assert!(!digests.contains_key("0-5.m4s") && digests.contains_key("0-1.mp4"));
    }

    #[test]
    fn hours_are_directories() {
        assert_eq!(hour(1_795_263_000_123), "2026112112");
    }

    #[test]
    fn ids_that_are_no_sessions_become_no_path() {
        let id = |session| RecordingId::new(StreamName::new("live", "show").expect("valid"), session);
        assert!(id("19aaFF").is_some());
        for session in ["", "..", "a/b", ".", "x", "0123456789abcdef0"] {
            assert_eq!(id(session), None, "{session}");
        }
        assert_eq!("live/show/19aaFF".parse().ok(), id("19aaFF"));
        for text in ["", "19aa", "show/19aa", "live/show/", "live/show/..", "live/../19aa", "a/b/c/19aa"] {
            assert_eq!(text.parse::<RecordingId>(), Err(NoRecordingId), "{text}");
        }
    }

    #[test]
    fn segments_that_are_not_told_of_are_gaps_as_long_as_they_were_together() {
        let (second, sixth) = (entry(2), entry(6));
        let gaps = gaps_between(Some(&second), 1, &sixth, 100);
        assert_eq!(gaps.iter().map(|gap| gap.sequence).collect::<Vec<_>>(), [3, 4, 5]);
        assert!(gaps.iter().all(|gap| gap.gap && gap.duration == 180_000), "{gaps:?}");
        assert_eq!(gaps[0].program_date_time_ms, second.program_date_time_ms + 2000);
        // Before the first entry nothing says when they began.
        let gaps = gaps_between(None, 4, &sixth, 100);
        let told: Vec<_> = gaps.iter().map(|gap| (gap.sequence, gap.duration, gap.program_date_time_ms)).collect();
        assert_eq!(told, [4, 5].map(|n| (n, 180_000, entry(n).program_date_time_ms)));
        assert!(gaps_between(Some(&entry(5)), 1, &sixth, 9).is_empty() && gaps_between(None, 6, &sixth, 9).is_empty());
        assert_eq!(gaps_between(None, 0, &entry(1_000_000), usize::MAX).len() as u64, MAX_HOLE);
    }

    #[test]
    fn what_an_index_lacks_is_a_gap_and_a_segment_that_is_told_of_as_one_stays() {
        let lost = RecordedSegment { gap: true, ..entry(7) };
        let entries = whole(vec![entry(9), entry(4), lost, entry(7)], Some(2));
        let told: Vec<_> = entries.iter().map(|entry| (entry.sequence, entry.gap)).collect();
        assert_eq!(told, [(2, true), (3, true), (4, false), (5, true), (6, true), (7, false), (8, true), (9, false)]);
        assert_eq!(whole(vec![entry(4)], None), [entry(4)]);
    }

    proptest! {
        #[test]
        fn entries_are_read_back_whatever_was_torn_or_written_twice(count in 1u64..20, cut in 0usize..400, again in 0u64..20) {
            let written: Vec<_> = (0..count).map(entry).collect();
            let mut text = lines(&written);
            let torn = text.split_off(text.len().saturating_sub(cut.min(text.len())));
            let whole = text.iter().filter(|byte| **byte == b'\n').count();
            text.push(b'\n');
            text.extend(lines(&written[usize::try_from(again.min(count - 1)).expect("small")..]));
            let read = entries(&String::from_utf8_lossy(&text));
            let expected: Vec<_> = written.iter().enumerate().filter(|(n, entry)| *n < whole || entry.sequence >= again.min(count - 1)).map(|(_, entry)| entry.clone()).collect();
            prop_assert!(torn.len() <= 400);
            prop_assert!(expected.iter().all(|entry| read.contains(entry)));
            prop_assert!(read.windows(2).all(|pair| pair[0].sequence < pair[1].sequence));
        }
    }
}
