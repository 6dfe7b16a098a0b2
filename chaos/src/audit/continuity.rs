//! Media across segments: what one segment ends with, the next begins with.

use super::content::{Content, Track};
use super::finding::{Findings, Rule};
use super::playlist::Entry;

/// Rounding of timestamps to the milliseconds of RTMP, seconds.
const ROUNDING: f64 = 0.002;
/// How far audio and video may begin apart in a segment, seconds: a long frame of each.
const MAX_APART: f64 = 0.5;

/// The segment before.
#[derive(Debug, Default)]
pub struct Continuity {
    before: Option<(u64, Entry, Content)>,
    /// Audio's start minus video's in the first segment of this discontinuity number.
    apart: Option<f64>,
}

impl Continuity {
    /// Takes the next segment that could be read.
    pub fn take(&mut self, sequence: u64, entry: &Entry, content: Content, independent: bool, findings: &mut Findings) {
        let Some(leading) = content.leading() else { return };
        findings.check(!independent || leading.random_access, Rule::NotIndependent, &entry.uri, || {
            "it does not begin with a random access point".into()
        });
        let own = leading.end - leading.start;
        let frame = leading.step.max(ROUNDING);
        // Its last frame's duration is not known in MPEG-TS: one frame more is given there.
        findings.check((own - entry.duration).abs() <= 2.0 * frame + ROUNDING, Rule::Duration, &entry.uri, || {
            format!("EXTINF is {:.3} s, its media {own:.3} s", entry.duration)
        });
        let before = self.before.take().filter(|(last, ..)| last + 1 == sequence);
        match before {
            Some((_, before, earlier)) if before.discontinuity_number == entry.discontinuity_number => {
                check_follows(&before, &earlier, entry, &content, findings);
            }
            _ => self.apart = None,
        }
        self.check_apart(entry, &content, findings);
        self.before = Some((sequence, entry.clone(), content));
    }

    fn check_apart(&mut self, entry: &Entry, content: &Content, findings: &mut Findings) {
        let track = |video| content.tracks.values().find(|track| track.video == video);
        let (Some(video), Some(audio)) = (track(true), track(false)) else { return };
        let apart = content.distance(video.start, audio.start);
        let first = *self.apart.get_or_insert(apart);
        let frames = video.step + audio.step;
        findings.check(
            apart.abs() <= MAX_APART && (apart - first).abs() <= frames + MAX_APART / 2.0,
            Rule::AudioVideo,
            &entry.uri,
            || format!("audio begins {apart:.3} s after video; it was {first:.3} s"),
        );
    }
}

fn check_follows(before: &Entry, earlier: &Content, entry: &Entry, content: &Content, findings: &mut Findings) {
    let uri = &entry.uri;
    for (id, track) in &content.tracks {
        let Some(last) = earlier.tracks.get(id) else { continue };
        let gap = content.distance(last.end, track.start);
        findings.check(gap.abs() <= frame(last, track), Rule::Timestamps, uri, || {
            format!("track {id} begins {gap:.3} s after the segment before has ended")
        });
    }
    if let (Some(last), Some(first)) = (earlier.leading(), content.leading()) {
        let real = content.distance(last.start, first.start);
        findings.check((real - before.duration).abs() <= frame(last, first), Rule::Duration, &before.uri, || {
            format!("EXTINF is {:.3} s, the next segment begins {real:.3} s later", before.duration)
        });
    }
    for (pid, (first, _)) in &content.counters {
        let Some((_, last)) = earlier.counters.get(pid) else { continue };
        findings.check((last + 1) & 15 == *first, Rule::ContinuityCounter, uri, || {
            format!("PID {pid}: {first} follows {last}")
        });
    }
}

fn frame(before: &Track, after: &Track) -> f64 {
    before.step.max(after.step) + ROUNDING
}
