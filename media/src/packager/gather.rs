//! Gathering: the first samples after a discontinuity, held until it is known what they are part of.

use super::{MAX_TARGET_DURATION, TOLERANCE};
use crate::sample::{Sample, TICKS_PER_SECOND, TrackKind, Tracks};
use crate::segment::MAX_SEGMENT_BYTES;

/// How long a second track is waited for that nothing has announced, ticks.
const SETTLE: i64 = TICKS_PER_SECOND;
/// How long it is waited for once its sequence header has come, ticks: encoders with a long
/// look-ahead send audio seconds before the first frame.
const SETTLE_ANNOUNCED: i64 = 5 * TICKS_PER_SECOND;
/// A second GOP is looked at until a target duration after its beginning, but for this, ticks: longer than the time between two
/// reads of an encoder's socket, so that a segment is listed within a target duration and a GOP of the first sample.
const FORESIGHT: i64 = TICKS_PER_SECOND / 2;

/// The target duration, seconds, that a GOP of so many ticks demands where it is at least `least`.
pub(super) fn target_for(gop: i64, least: u32) -> u32 {
    let rounded = (gop - TOLERANCE).max(0).unsigned_abs().div_ceil(TICKS_PER_SECOND.unsigned_abs());
    (rounded as u32).clamp(least, MAX_TARGET_DURATION)
}

/// Samples held back, each with the configurations in force when it came.
#[derive(Debug, Clone, Default)]
pub(super) struct Gathering {
    samples: Vec<(Sample, Tracks)>,
    bytes: usize,
    /// Decode times of the random access points.
    random_access: Vec<i64>,
    first: Option<i64>,
    last: i64,
    last_video: i64,
    /// The latest of all when that came.
    last_with_video: i64,
    seen: [bool; 2],
    announced: [bool; 2],
}

impl Gathering {
    pub fn is_empty(&self) -> bool {
        self.samples.is_empty()
    }

    /// Bytes of the samples.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Holds a sample; false if nothing could decode it: video before a random access point.
    pub fn push(&mut self, sample: Sample, configs: &Tracks) -> bool {
        let video = sample.kind == TrackKind::Video;
        self.announced = [configs.video.is_some(), configs.audio.is_some()];
        if video && sample.random_access {
            self.random_access.push(sample.dts);
        } else if video && self.random_access.is_empty() {
            return false;
        }
        self.seen[sample.kind as usize] = true;
        self.first = Some(self.first.map_or(sample.dts, |first| first.min(sample.dts)));
        self.last = self.last.max(sample.dts);
        if video {
            (self.last_video, self.last_with_video) = (sample.dts, self.last);
        }
        self.bytes += sample.data.len();
        self.samples.push((sample, configs.clone()));
        true
    }

    /// Whether enough is known to run, with a target duration of at least `least` seconds to fix, or with a fixed one.
    pub fn is_ready(&self, least: Option<u32>) -> bool {
        if self.bytes > MAX_SEGMENT_BYTES / 2 {
            return true;
        }
        let video = self.seen[TrackKind::Video as usize];
        self.tracks_known() && least.is_none_or(|least| !video || self.gops_known(least))
    }

    /// The longest of the first two GOPs, the unfinished one included if the others are missing.
    pub fn longest_gop(&self) -> i64 {
        let ends =
            self.random_access.iter().skip(1).copied().chain((self.random_access.len() < 3).then_some(self.last_video));
        self.random_access.iter().zip(ends).take(2).map(|(start, end)| end - start).max().unwrap_or(0)
    }

    /// Where the first segment begins: at the first video sample, if there is one.
    pub fn first_dts(&self) -> Option<i64> {
        self.random_access.first().copied().or(self.first)
    }

    /// The tracks that have samples, as first configured.
    pub fn tracks(&self) -> Tracks {
        let first = |kind| self.samples.iter().find(|(sample, _)| sample.kind == kind).map(|(_, configs)| configs);
        Tracks {
            video: first(TrackKind::Video).and_then(|configs| configs.video.clone()),
            audio: first(TrackKind::Audio).and_then(|configs| configs.audio.clone()),
        }
    }

    pub fn into_samples(self) -> impl Iterator<Item = (Sample, Tracks)> {
        self.samples.into_iter()
    }

    fn tracks_known(&self) -> bool {
        let both_announced = self.announced == [true, true];
        let patience = if both_announced { SETTLE_ANNOUNCED } else { SETTLE };
        self.seen == [true, true] || self.first.is_some_and(|first| self.last - first >= patience)
    }

    /// Whether the first two GOPs are known: ended, foreseen, or longer than any target allows.
    ///
    /// Behind a first GOP that about fills the least target, or more, the end of the second is not awaited if it is late. Behind a
    /// shorter one it is: encoders that make a key frame for who connects, and keep their intervals, begin with any length.
    fn gops_known(&self, least: u32) -> bool {
        let longest = i64::from(MAX_TARGET_DURATION) * TICKS_PER_SECOND + TOLERANCE;
        // Audio goes on where video has stopped.
        let gone_on = self.last - self.last_with_video;
        let endless = |start: i64| self.last_video - start + gone_on > longest;
        match self.random_access[..] {
            [] => false,
            [start] => endless(start),
            [first, second] => {
                let gop = second - first;
                let enough = i64::from(target_for(gop, least)) * TICKS_PER_SECOND - FORESIGHT;
                let fills = gop >= i64::from(least) * TICKS_PER_SECOND - FORESIGHT;
                endless(second) || fills && self.last_video - second >= enough
            }
            _ => true,
        }
    }
}
