//! What an audit can find.

use crate::broken::Broken;
use clap::ValueEnum;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// A rule that was broken. The number is the section of RFC 8216 it comes from, where it comes from there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Rule {
    /// A playlist or what it names is not answered with 200 (6.2.1).
    Status,
    /// A media type that players do not expect (4).
    ContentType,
    /// A live playlist that caches may keep longer than a target duration, or that says nothing about it, which is left to caches
    /// then (6.2.1, RFC 9111 section 4.2.2).
    Caching,
    /// A playlist or a segment that cannot be read.
    Unreadable,
    /// A playlist with something that this auditor does not read: keys, byte ranges, thousands of segments. Its segments are not audited.
    NotSupported,
    /// EXT-X-VERSION is lower than what the playlist uses demands (7).
    Version,
    /// A playlist changed otherwise than EXT-X-PLAYLIST-TYPE allows (4.3.3.5).
    PlaylistType,
    /// Segments that were listed are gone from the end: only the oldest may be removed (6.2.2).
    Withdrawn,
    /// EXT-X-MEDIA-SEQUENCE does not count the segments that were removed (6.2.2).
    MediaSequence,
    /// EXT-X-DISCONTINUITY-SEQUENCE does not count the discontinuities that were removed (6.2.2).
    DiscontinuitySequence,
    /// What was listed once is listed differently later (6.2.1).
    EntryChanged,
    /// A URI that once had other bytes (6.2.1).
    BytesChanged,
    /// EXT-X-TARGETDURATION changed (6.2.1).
    TargetDurationChanged,
    /// EXTINF, rounded, is above the target duration (4.3.3.1).
    TargetDurationExceeded,
    /// The playlist ended and was not expected to (4.3.3.4).
    EndedUnexpectedly,
    /// The playlist did not end and was expected to (4.3.3.4).
    NotEnded,
    /// The playlist changed after its end (6.2.1).
    ChangedAfterEnd,
    /// No new segment for more than one and a half target durations (6.2.2).
    NoNewSegment,
    /// A segment takes longer than one and a half target durations to be fetched: players run dry.
    SlowSegment,
    /// The playlist is shorter than three target durations (6.2.2).
    ShortPlaylist,
    /// A segment that left the playlist went away too early (6.2.2).
    GoneTooEarly,
    /// EXT-X-PROGRAM-DATE-TIME goes back, jumps without a discontinuity, or is not the time of day (4.3.2.6).
    ProgramDateTime,
    /// EXTINF is not the duration of the segment's media (4.3.2.1).
    Duration,
    /// Timestamps are not continued where no discontinuity is announced (4.3.2.3).
    Timestamps,
    /// Continuity counters are not continued (ISO/IEC 13818-1, 2.4.3.3).
    ContinuityCounter,
    /// A segment does not begin with a random access point although it is claimed (4.3.5.1).
    NotIndependent,
    /// Audio and video are apart, or drift apart.
    AudioVideo,
    /// A file is not among the digests when it is listed, or its digest is another.
    Digest,
}

impl Rule {
    /// Whether it is about time alone: on a machine that stands still now and then, anybody breaks it.
    pub fn is_late(self) -> bool {
        matches!(self, Self::NoNewSegment | Self::SlowSegment)
    }
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// The rule.
    pub rule: Rule,
    /// What it was found at.
    pub subject: String,
    /// What was expected and what was there, the first time.
    pub detail: String,
    /// When that was asked for in which it was found, milliseconds from the beginning of the audit.
    #[serde(default)]
    pub at_ms: u64,
    /// When it was found last.
    #[serde(default)]
    pub last_ms: u64,
    /// How often.
    #[serde(default = "once")]
    pub times: u64,
}

fn once() -> u64 {
    1
}

impl Finding {
    /// What was found once, at the beginning.
    pub fn new(rule: Rule, subject: impl Into<String>, detail: impl Into<String>) -> Self {
        Self { rule, subject: subject.into(), detail: detail.into(), at_ms: 0, last_ms: 0, times: 1 }
    }

    /// As a promise that was broken.
    pub fn broken(&self) -> Broken {
        let sentence = format!("{:?} at {}: {}", self.rule, self.subject, self.detail);
        if self.rule.is_late() { Broken::Late(sentence) } else { Broken::Wrong(sentence) }
    }
}

/// Findings are kept up to this many; more of the same tell nothing new.
const MAX_FINDINGS: usize = 500;

/// What was found so far.
#[derive(Debug, Default)]
pub struct Findings {
    list: Vec<Finding>,
    /// The time, from the beginning of the audit: of what is added now.
    pub now: Duration,
}

impl Findings {
    /// Adds a finding; if the same rule was found broken at the same place, that it was once more.
    pub fn add(&mut self, rule: Rule, subject: &str, detail: impl Into<String>) {
        let now_ms = self.now.as_millis() as u64;
        if let Some(known) = self.list.iter_mut().find(|known| known.rule == rule && known.subject == subject) {
            known.last_ms = now_ms;
            known.times += 1;
        } else if self.list.len() < MAX_FINDINGS {
            self.list.push(Finding { at_ms: now_ms, last_ms: now_ms, ..Finding::new(rule, subject, detail) });
        }
    }

    /// Adds a finding if `holds` is false.
    pub fn check(&mut self, holds: bool, rule: Rule, subject: &str, detail: impl FnOnce() -> String) {
        if !holds {
            self.add(rule, subject, detail());
        }
    }

    /// All of them.
    pub fn into_list(self) -> Vec<Finding> {
        self.list
    }
}

/// What an audit of one Media Playlist saw.
#[derive(Debug, Clone, Serialize)]
pub struct Report {
    /// The playlist.
    pub url: String,
    /// Times it was read.
    pub polls: u64,
    /// Segments that were listed, fetched and read.
    pub segments: u64,
    /// Fetches of segments that were seen before, all with the same bytes if there is no finding.
    pub refetched: u64,
    /// Discontinuities among them.
    pub discontinuities: u64,
    /// Longest time without a new segment.
    #[serde(serialize_with = "seconds")]
    pub longest_wait: Duration,
    /// Nothing new came in the last three target durations, and the playlist has no end: not late, but not coming.
    pub stopped: bool,
    /// From the start of the audit to the first segment.
    #[serde(serialize_with = "seconds")]
    pub first_segment: Duration,
    /// Whether digests were published and checked.
    pub digests: bool,
    /// What was found.
    pub findings: Vec<Finding>,
}

fn seconds<S: serde::Serializer>(time: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(time.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_found_again_is_counted_and_keeps_its_first_words() {
        let mut findings = Findings::default();
        for (seconds, detail) in [(1, "first"), (2, "second"), (5, "third")] {
            findings.now = Duration::from_secs(seconds);
            findings.add(Rule::Status, "playlist", detail);
        }
        findings.add(Rule::Status, "segment", "another");
        let list = findings.into_list();
        let [playlist, segment] = &list[..] else { panic!("{list:?}") };
        assert_eq!((playlist.at_ms, playlist.last_ms, playlist.times), (1000, 5000, 3));
        assert_eq!((playlist.detail.as_str(), segment.at_ms, segment.times), ("first", 5000, 1));
    }

    #[test]
    fn every_rule_is_explained_under_the_name_it_is_reported_with() {
        let page = include_str!("../../../docs/audit.md");
        for rule in Rule::value_variants() {
            let name = serde_json::to_string(rule).expect("JSON").replace('"', "`");
            assert_eq!(page.matches(&format!("| {name} |")).count(), 1, "{name} in docs/audit.md");
        }
    }

    #[test]
    fn findings_are_bounded_and_those_of_an_older_record_were_found_once() {
        let mut findings = Findings::default();
        (0..2 * MAX_FINDINGS).for_each(|n| findings.add(Rule::Status, &n.to_string(), ""));
        assert_eq!(findings.into_list().len(), MAX_FINDINGS);
        let older = r#"{"rule":"status","subject":"playlist","detail":"404"}"#;
        assert_eq!(serde_json::from_str::<Finding>(older).expect("read").times, 1);
    }
}
