//! A live Media Playlist over time: what must stay the same, what may only rise.

use super::finding::{Findings, Rule};
use super::parse;
use m3u8_rs::{MediaPlaylist, MediaPlaylistType, MediaSegment};
use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

/// Segments listed at most: close to three hours of two-second segments. All are looked at with every reading.
const MAX_LISTED: usize = 5000;
/// Segments remembered: those listed, and those that have left and must stay fetchable for as long again, with room to spare.
const MAX_REMEMBERED: usize = 3 * MAX_LISTED;
/// Longest segment, and target duration, that is believed, seconds: a day.
const MAX_DURATION: f64 = 86_400.0;
/// Slack of the announced wall clock, seconds: it is announced in milliseconds.
const CLOCK_SLACK: f64 = 0.1;

/// A segment as it was listed.
#[derive(Debug, Clone, PartialEq)]
pub struct Entry {
    /// As listed.
    pub uri: String,
    /// EXTINF, seconds.
    pub duration: f64,
    /// Its absolute discontinuity number (RFC 8216 section 6.2.1).
    pub discontinuity_number: u64,
    /// EXT-X-DISCONTINUITY before it.
    pub discontinuity: bool,
    /// EXT-X-MAP in force.
    pub map: Option<String>,
    /// EXT-X-PROGRAM-DATE-TIME, seconds since 1970.
    pub wall: Option<f64>,
    /// EXT-X-GAP.
    pub gap: bool,
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {:.3} s", self.uri, self.duration)?;
        let map = self.map.iter().map(|map| format!(" with {map}"));
        let wall = self.wall.iter().map(|wall| format!(" at {wall:.3} s since 1970"));
        map.chain(wall).try_for_each(|text| f.write_str(&text))?;
        f.write_str(if self.discontinuity { " after a discontinuity" } else { "" })?;
        f.write_str(if self.gap { ", a gap" } else { "" })
    }
}

/// What has been seen of a playlist.
#[derive(Debug, Default)]
pub struct History {
    entries: BTreeMap<u64, Entry>,
    media_sequence: Option<u64>,
    discontinuity_sequence: u64,
    target_duration: Option<u64>,
    /// The text with ENDLIST.
    ended: Option<String>,
    /// The text that was read first.
    first_text: Option<String>,
    /// The number behind the last segment that was listed.
    end: u64,
    /// Readings since something new was listed.
    idle: u32,
    /// For how long nobody looked before this reading, because segments were fetched.
    pub away: Duration,
    last_new: Option<Duration>,
    /// Longest time without a new segment.
    pub longest_wait: Duration,
    /// EXT-X-INDEPENDENT-SEGMENTS.
    pub independent: bool,
}

/// What one reading of a playlist showed.
#[derive(Debug, Default)]
pub struct Reading {
    /// Numbers listed for the first time, in order.
    pub new: Vec<u64>,
    /// All numbers listed, in order.
    pub listed: Vec<u64>,
    /// Length of the playlist, seconds.
    pub length: f64,
}

impl History {
    /// A segment by its number.
    pub fn entry(&self, sequence: u64) -> Option<&Entry> {
        self.entries.get(&sequence)
    }

    /// EXT-X-TARGETDURATION, once read.
    pub fn target_duration(&self) -> Option<Duration> {
        self.target_duration.map(|target| Duration::from_secs(target.min(MAX_DURATION as u64)))
    }

    /// Whether ENDLIST was seen.
    pub fn has_ended(&self) -> bool {
        self.ended.is_some()
    }

    /// Discontinuities among the segments seen.
    pub fn discontinuities(&self) -> u64 {
        self.entries.values().filter(|entry| entry.discontinuity).count() as u64
    }

    /// Takes the text that was read at `at`; `wall` is the time of day, seconds since 1970.
    pub fn read(&mut self, text: &str, at: Duration, wall: f64, findings: &mut Findings) -> Reading {
        let playlist = match parse::media_playlist(text.as_bytes()) {
            Ok(playlist) => playlist,
            Err(why) => {
                findings.add(Rule::Unreadable, "playlist", why);
                return Reading::default();
            }
        };
        if let Some(what) = parse::not_supported(&playlist) {
            findings.add(Rule::NotSupported, "playlist", format!("{what}: what it lists is not audited"));
            return Reading::default();
        }
        let listed = playlist.segments.len();
        if listed > MAX_LISTED {
            findings.add(Rule::NotSupported, "playlist", format!("{listed} segments, of {MAX_LISTED} at most"));
            return Reading::default();
        }
        if let Some(ended) = &self.ended {
            findings.check(ended == text, Rule::ChangedAfterEnd, "playlist", || "it differs from what ended it".into());
        } else if playlist.end_list {
            self.ended = Some(text.to_owned());
        }
        self.check_header(&playlist, findings);
        self.check_type(&playlist, text, findings);
        let reading = self.take_entries(&playlist, wall, findings);
        self.check_progress(&reading, at, findings);
        self.forget(reading.listed.first().copied());
        reading
    }

    /// Forgets what is too much: what has left the playlist, or what was listed before its numbers went back.
    fn forget(&mut self, first: Option<u64>) {
        while self.entries.len() > MAX_REMEMBERED {
            let has_left = self.entries.keys().next() < first.as_ref();
            if has_left {
                self.entries.pop_first()
            } else {
                self.entries.pop_last()
            };
        }
    }

    fn check_header(&mut self, playlist: &MediaPlaylist, findings: &mut Findings) {
        let target = *self.target_duration.get_or_insert(playlist.target_duration);
        findings.check(target == playlist.target_duration, Rule::TargetDurationChanged, "playlist", || {
            format!("{target} s became {} s", playlist.target_duration)
        });
        // What has been announced cannot be taken back; what is removed goes from the beginning.
        let end = playlist.media_sequence.saturating_add(playlist.segments.len() as u64);
        let before = std::mem::replace(&mut self.end, end);
        findings.check(before <= end, Rule::Withdrawn, "playlist", || {
            format!("it lists segments below {end}, and did list those below {before}")
        });
        // A server may withdraw the claim when an encoder breaks it.
        self.independent = playlist.independent_segments;
        let before = self.media_sequence.replace(playlist.media_sequence).unwrap_or(playlist.media_sequence);
        findings.check(before <= playlist.media_sequence, Rule::MediaSequence, "playlist", || {
            format!("{} after {before}", playlist.media_sequence)
        });
        let before = std::mem::replace(&mut self.discontinuity_sequence, playlist.discontinuity_sequence);
        findings.check(before <= playlist.discontinuity_sequence, Rule::DiscontinuitySequence, "playlist", || {
            format!("{} after {before}", playlist.discontinuity_sequence)
        });
    }

    fn check_type(&mut self, playlist: &MediaPlaylist, text: &str, findings: &mut Findings) {
        let first_text = self.first_text.get_or_insert_with(|| text.to_owned());
        let (holds, allowed) = match playlist.playlist_type {
            Some(MediaPlaylistType::Vod) => (first_text == text, "it is VOD and must not change"),
            // Nothing of an event is removed: it begins where it began.
            Some(MediaPlaylistType::Event) => {
                let begins = self.entries.keys().next().is_none_or(|oldest| *oldest >= playlist.media_sequence);
                (begins, "it is an EVENT, of which nothing may be removed")
            }
            _ => (true, ""),
        };
        findings.check(holds, Rule::PlaylistType, "playlist", || allowed.into());
        // Decimal EXTINF since 3, EXT-X-MAP without EXT-X-I-FRAMES-ONLY since 6.
        let has = |is: fn(&MediaSegment) -> bool| playlist.segments.iter().any(is);
        let needed = match (has(|segment| segment.map.is_some()), has(|segment| segment.duration.fract() != 0.0)) {
            (true, _) => 6,
            (false, true) => 3,
            (false, false) => 1,
        };
        let version = playlist.version.unwrap_or(1);
        findings.check(version >= needed, Rule::Version, "playlist", || format!("{version}, and {needed} is needed"));
    }

    /// Whether nothing new was listed in as many readings, one every `poll`, as take three target durations: a machine that stood
    /// still did not read so often.
    pub fn has_stopped(&self, poll: Duration) -> bool {
        self.ended.is_none() && self.target_duration().is_some_and(|target| poll * self.idle >= 3 * target)
    }

    fn take_entries(&mut self, playlist: &MediaPlaylist, wall: f64, findings: &mut Findings) -> Reading {
        let mut reading = Reading::default();
        let (mut number, mut map) = (playlist.discontinuity_sequence, None);
        for (sequence, segment) in (playlist.media_sequence..=u64::MAX).zip(&playlist.segments) {
            number = number.saturating_add(segment.discontinuity.into());
            map = segment.map.as_ref().map(|map| map.uri.clone()).or(map);
            let entry = entry_of(segment, number, map.clone());
            let announced = f64::from(segment.duration);
            findings.check(is_duration(announced), Rule::Duration, &entry.uri, || format!("EXTINF of {announced} s"));
            reading.length += entry.duration;
            reading.listed.push(sequence);
            findings.check(
                entry.duration.round() as u64 <= playlist.target_duration,
                Rule::TargetDurationExceeded,
                &entry.uri,
                || format!("{:.3} s of {} s", entry.duration, playlist.target_duration),
            );
            match self.entries.get(&sequence) {
                Some(seen) => check_same(seen, &entry, reading.listed.len() == 1, findings),
                None => {
                    self.check_new(sequence, &entry, wall, findings);
                    self.entries.insert(sequence, entry);
                    reading.new.push(sequence);
                }
            }
        }
        reading
    }

    fn check_new(&self, sequence: u64, entry: &Entry, wall: f64, findings: &mut Findings) {
        let reused = self.entries.values().any(|seen| seen.uri == entry.uri);
        findings.check(!reused, Rule::MediaSequence, &entry.uri, || {
            format!("listed before with another number than {sequence}")
        });
        // After an outage, ours or theirs, the neighbour may be missing.
        let Some(before) = sequence.checked_sub(1).and_then(|last| self.entries.get(&last)) else { return };
        let Some((announced, last_announced)) = entry.wall.zip(before.wall) else { return };
        let step = announced - last_announced;
        let continues = entry.discontinuity || (step - before.duration).abs() <= CLOCK_SLACK;
        findings.check(step >= 0.0 && continues, Rule::ProgramDateTime, &entry.uri, || {
            format!("{step:.3} s after the one before, which lasts {:.3} s", before.duration)
        });
        // It was recorded before it was listed, and not long before. The first reading lists old ones, too.
        if self.last_new.is_none() {
            return;
        }
        let age = wall - (announced + entry.duration);
        let oldest = 3.0 * self.target_duration().map_or(10.0, |target| target.as_secs_f64()) + 10.0;
        findings.check((-2.0..oldest).contains(&age), Rule::ProgramDateTime, &entry.uri, || {
            format!("it says it ended {age:.1} s ago when it was new")
        });
    }

    fn check_progress(&mut self, reading: &Reading, at: Duration, findings: &mut Findings) {
        let since = self.last_new.map_or(Duration::ZERO, |last| at.saturating_sub(last));
        self.idle = self.idle.saturating_add(1);
        if !reading.new.is_empty() || self.last_new.is_none() {
            (self.last_new, self.idle) = (Some(at), 0);
        }
        let Some(target) = self.target_duration().filter(|_| self.ended.is_none()) else { return };
        self.longest_wait = self.longest_wait.max(since);
        // What came while nobody looked may have come in time.
        let looked = self.away <= target / 2 || reading.new.is_empty();
        findings.check(!looked || since <= target.mul_f64(1.5), Rule::NoNewSegment, "playlist", || {
            format!("for more than {:.1} s", since.as_secs_f64())
        });
        // What is short at the beginning is not short for ever; what was removed cannot excuse it.
        let slid =
            reading.listed.first().is_some_and(|first| self.entries.keys().next().is_some_and(|oldest| oldest < first));
        findings.check(!slid || reading.length >= 3.0 * target.as_secs_f64(), Rule::ShortPlaylist, "playlist", || {
            format!("{:.1} s of three times {:.0} s", reading.length, target.as_secs_f64())
        });
    }
}

fn is_duration(seconds: f64) -> bool {
    (0.0..=MAX_DURATION).contains(&seconds)
}

fn entry_of(segment: &MediaSegment, discontinuity_number: u64, map: Option<String>) -> Entry {
    let announced = f64::from(segment.duration);
    Entry {
        uri: segment.uri.clone(),
        duration: if is_duration(announced) { announced } else { 0.0 },
        discontinuity_number,
        discontinuity: segment.discontinuity,
        map,
        wall: segment.program_date_time.map(|time| time.timestamp_millis() as f64 / 1000.0),
        gap: segment.unknown_tags.iter().any(|tag| tag.tag == "X-GAP"),
    }
}

/// The first entry of a playlist may lose its tag to EXT-X-DISCONTINUITY-SEQUENCE; its number stays.
fn check_same(seen: &Entry, entry: &Entry, first: bool, findings: &mut Findings) {
    let numbered = seen.discontinuity_number == entry.discontinuity_number;
    findings.check(numbered, Rule::DiscontinuitySequence, &entry.uri, || {
        format!("discontinuity number {} became {}", seen.discontinuity_number, entry.discontinuity_number)
    });
    let entry = Entry { discontinuity: if first { seen.discontinuity } else { entry.discontinuity }, ..entry.clone() };
    // Some servers tell the time of the first entry only.
    let wall = entry.wall.and(seen.wall).map_or(seen.wall, |_| entry.wall);
    let same = Entry { discontinuity_number: seen.discontinuity_number, gap: seen.gap, wall, ..entry.clone() } == *seen;
    findings.check(same, Rule::EntryChanged, &seen.uri, || format!("{seen} became {entry}"));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(text: &str) -> (Vec<Rule>, Reading) {
        let (mut history, mut findings) = (History::default(), Findings::default());
        let reading = history.read(text, Duration::ZERO, 0.0, &mut findings);
        history.read(text, Duration::from_secs(3600), 0.0, &mut findings);
        (findings.into_list().iter().map(|finding| finding.rule).collect(), reading)
    }

    /// The rules that playlists break when they are read one after the other.
    fn found_over(texts: &[&str]) -> Vec<Rule> {
        let (mut history, mut findings) = (History::default(), Findings::default());
        for (at, text) in (0..).zip(texts) {
            history.read(&format!("#EXTM3U\n{text}"), Duration::from_millis(200 * at), 0.0, &mut findings);
        }
        findings.into_list().iter().map(|finding| finding.rule).collect()
    }

    #[test]
    fn what_was_listed_cannot_be_taken_back_and_types_and_versions_are_kept_to() {
        const TARGET: &str = "#EXT-X-TARGETDURATION:1\n";
        let list = |head: &str, numbers: std::ops::Range<u64>| {
            let entries: String = numbers.clone().map(|n| format!("#EXTINF:1,\n{n}.ts\n")).collect();
            format!("{TARGET}{head}#EXT-X-MEDIA-SEQUENCE:{}\n{entries}", numbers.start)
        };
        let (vod, event) = ("#EXT-X-PLAYLIST-TYPE:VOD\n", "#EXT-X-PLAYLIST-TYPE:EVENT\n");
        for (head, readings, expected) in [
            ("", [1..5, 1..5, 2..6], vec![]),
            ("", [1..5, 1..3, 2..6], vec![Rule::Withdrawn]),
            (vod, [1..5, 1..5, 1..5], vec![]),
            (vod, [1..5, 1..6, 1..6], vec![Rule::PlaylistType]),
            (event, [1..5, 1..6, 1..7], vec![]),
            (event, [1..5, 1..6, 2..7], vec![Rule::PlaylistType]),
        ] {
            let texts = readings.clone().map(|numbers| list(head, numbers));
            assert_eq!(found_over(&texts.each_ref().map(String::as_str)), expected, "{head} {readings:?}");
        }
        for (version, rest, expected) in [
            ("", "#EXTINF:1,\na.ts\n", vec![]),
            ("#EXT-X-VERSION:2\n", "#EXTINF:0.5,\na.ts\n", vec![Rule::Version]),
            ("#EXT-X-VERSION:3\n", "#EXTINF:0.5,\na.ts\n", vec![]),
            ("#EXT-X-VERSION:5\n", "#EXT-X-MAP:URI=\"i\"\n#EXTINF:1,\na.m4s\n", vec![Rule::Version]),
            ("#EXT-X-VERSION:6\n", "#EXT-X-MAP:URI=\"i\"\n#EXTINF:1,\na.m4s\n", vec![]),
            ("", "#EXT-X-KEY:METHOD=AES-128,URI=\"k\"\n#EXTINF:1,\na.ts\n", vec![Rule::NotSupported]),
        ] {
            assert_eq!(found_over(&[&format!("{version}{TARGET}{rest}")]), expected, "{version}{rest}");
        }
    }

    #[test]
    fn what_came_while_segments_were_fetched_is_not_late_and_what_never_comes_has_stopped() {
        let text = |end: u64| {
            let entries: String = (0..end).map(|n| format!("#EXTINF:1,\n{n}.ts\n")).collect();
            format!("#EXTM3U\n#EXT-X-TARGETDURATION:1\n{entries}")
        };
        let poll = Duration::from_secs(1);
        for (away, expected) in [(Duration::ZERO, vec![Rule::NoNewSegment]), (9 * poll, vec![])] {
            let (mut history, mut findings) = (History::default(), Findings::default());
            history.read(&text(4), Duration::ZERO, 0.0, &mut findings);
            history.away = away;
            history.read(&text(5), 10 * poll, 0.0, &mut findings);
            let rules: Vec<_> = findings.into_list().iter().map(|finding| finding.rule).collect();
            assert_eq!((rules, history.longest_wait), (expected, 10 * poll));
            assert!(!history.has_stopped(poll));
            let mut findings = Findings::default();
            (11..14).for_each(|at| _ = history.read(&text(5), at * poll, 0.0, &mut findings));
            assert!(history.has_stopped(poll) && !history.has_stopped(poll / 2));
        }
    }

    #[test]
    fn absurd_numbers_are_findings() {
        let head = format!("#EXTM3U\n#EXT-X-TARGETDURATION:{0}\n#EXT-X-MEDIA-SEQUENCE:{0}\n", u64::MAX);
        let (rules, reading) = found(&format!("{head}#EXTINF:99999999999999999999,\na.ts\n#EXTINF:1,\nb.ts\n"));
        assert_eq!((rules, reading.length), (vec![Rule::Duration], 0.0));
        assert_eq!(reading.new, [u64::MAX], "there is no number for the second");
    }

    #[test]
    fn numbers_that_begin_anew_are_new_once_however_much_is_remembered() {
        let (mut history, mut findings) = (History::default(), Findings::default());
        let list = |first: u64, segments: u64| {
            let head = format!("#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXT-X-MEDIA-SEQUENCE:{first}\n");
            (first..first + segments).fold(head, |text, n| format!("{text}#EXTINF:2,\n{n}.ts\n"))
        };
        let most = MAX_LISTED as u64;
        let mut read = |text: &str| history.read(text, Duration::ZERO, 0.0, &mut findings).new.len();
        for first in [100, 100 + most, 100 + 2 * most, 100 + 3 * most] {
            assert_eq!(read(&list(first, most)), MAX_LISTED);
        }
        assert_eq!([read(&list(0, 6)), read(&list(0, 6)), read(&list(0, 7))], [6, 0, 1]);
        let removed = 100 + 2 * most;
        assert!(history.entries.len() <= MAX_REMEMBERED && history.entry(removed).is_some());
    }

    #[test]
    fn more_segments_than_are_read_are_a_finding() {
        let list = |segments: usize| {
            let head = "#EXTM3U\n#EXT-X-TARGETDURATION:9000\n".to_owned();
            (0..segments).fold(head, |text, n| format!("{text}#EXTINF:2,\n{n}.ts\n"))
        };
        let (rules, reading) = found(&list(MAX_LISTED));
        assert_eq!((rules, reading.listed.len()), (vec![], MAX_LISTED));
        let (rules, reading) = found(&list(MAX_LISTED + 1));
        assert_eq!((rules, reading.listed.len()), (vec![Rule::NotSupported], 0));
    }
}
