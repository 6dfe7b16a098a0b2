//! Running: the tracks are known; samples go into the open segment.

use super::VIDEO_PATIENCE;
use crate::sample::{Sample, TrackKind};
use crate::segment::{Initialization, OpenSegment};
use std::sync::Arc;

#[derive(Debug, Clone)]
pub(super) struct Running {
    pub init: Arc<Initialization>,
    pub open: Option<OpenSegment>,
    /// Where the segment that is open, or will be, begins.
    pub start: Option<i64>,
    /// The last sample of each track, waiting for the one after it.
    pub pending: [Option<Sample>; 2],
    pub last_duration: [Option<i64>; 2],
    /// Where the last packaged sample of each track ends.
    pub end: [Option<i64>; 2],
    /// The latest sample of each track, ...
    pub latest: [Option<i64>; 2],
    /// ... and that of the other track when it came: how long a track has been missing is told by the
    /// other's clock, however far apart the encoder keeps the two.
    pub other_at: [Option<i64>; 2],
    pub gop_start: Option<i64>,
    /// The longest GOP that was gathered, until the first cut: the first one may be shorter than those to come.
    pub longest_gop: i64,
    /// A track that is not in `init` has samples; it joins at the next random access point.
    pub late_track: bool,
}

impl Running {
    pub fn new(init: Arc<Initialization>, start: Option<i64>) -> Self {
        let (pending, last_duration) = ([None, None], [None, None]);
        Self {
            init,
            open: None,
            start,
            pending,
            last_duration,
            end: [None; 2],
            latest: [None; 2],
            other_at: [None; 2],
            gop_start: None,
            longest_gop: 0,
            late_track: false,
        }
    }
}

impl Running {
    /// Notes that a sample has come.
    pub fn came(&mut self, kind: TrackKind, dts: i64) {
        let (own, other) = (kind as usize, 1 - kind as usize);
        self.latest[own] = Some(dts);
        self.other_at[own] = self.latest[other];
    }

    /// Ticks the other track has gone on by since the latest sample of this one.
    pub fn gone_on_without(&self, kind: TrackKind) -> i64 {
        let (own, other) = (kind as usize, 1 - kind as usize);
        self.latest[other].zip(self.other_at[own]).map_or(0, |(now, then)| (now - then).max(0))
    }

    /// Where what is packaged ends. Video leads; where it has stopped, audio goes on alone.
    pub fn packaged_end(&self) -> Option<i64> {
        let [video_end, audio_end] = self.end;
        let Some(video_end) = video_end else { return audio_end };
        let alone = self.gone_on_without(TrackKind::Video);
        Some(if alone > VIDEO_PATIENCE { video_end + alone } else { video_end })
    }
}
