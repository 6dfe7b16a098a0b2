//! Media Segments, made of parts, and the initialization section they need.

use crate::sample::{Sample, TICKS_PER_SECOND, TrackKind, Tracks};
use crate::{cmaf, mpegts};
use bytes::Bytes;
use sha2::{Digest, Sha256};
use std::sync::Arc;

/// Target duration of a part, ticks: half a second, a fragment of its own in CMAF.
const PART_TARGET: i64 = TICKS_PER_SECOND / 2;
/// Largest segment, bytes: ten seconds of 50 Mbit/s. A larger one is cut by force.
pub const MAX_SEGMENT_BYTES: usize = 64 << 20;

/// SHA-256 of a file viewers can fetch.
pub type FileDigest = [u8; 32];

/// Container format of a stream's segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Container {
    /// Fragmented MP4 (ISO/IEC 23000-19).
    Cmaf,
    /// MPEG-2 transport stream (ISO/IEC 13818-1).
    MpegTs,
}

impl Container {
    /// File extension of segments.
    pub fn extension(self) -> &'static str {
        match self {
            Container::Cmaf => "m4s",
            Container::MpegTs => "ts",
        }
    }
}

/// A sample and how long it lasts, in ticks.
#[derive(Debug, Clone)]
pub struct TimedSample {
    /// The sample.
    pub sample: Sample,
    /// Ticks until the next sample of its track.
    pub duration: u32,
}

/// What a player must read before the segments of these tracks.
#[derive(Debug)]
pub struct Initialization {
    /// The tracks.
    pub tracks: Tracks,
    /// The section; empty for MPEG-TS, which repeats its tables in every segment.
    pub bytes: Bytes,
    /// SHA-256 of `bytes`.
    pub digest: FileDigest,
}

impl Initialization {
    /// The initialization of `tracks` in a container.
    pub fn new(container: Container, tracks: Tracks) -> Arc<Self> {
        let bytes = match container {
            Container::Cmaf => cmaf::init(&tracks),
            Container::MpegTs => Bytes::new(),
        };
        let digest = Sha256::digest(&bytes).into();
        Arc::new(Self { tracks, bytes, digest })
    }
}

/// A range of a segment that can be sent on its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// Where it begins in the segment, bytes.
    pub offset: usize,
    /// Its length, bytes.
    pub length: usize,
    /// Its duration, ticks.
    pub duration: i64,
    /// It begins with a random access point.
    pub independent: bool,
}

/// A finished Media Segment.
#[derive(Debug, Clone)]
pub struct Segment {
    /// The file, contiguous.
    pub bytes: Bytes,
    /// SHA-256 of `bytes`.
    pub digest: FileDigest,
    /// Its parts, in order and without gaps.
    pub parts: Vec<Part>,
    /// Decode time of its first sample, ticks.
    pub start: i64,
    /// Ticks to the start of the next segment.
    pub duration: i64,
    /// It begins with a random access point.
    pub independent: bool,
    /// It does not continue the timestamps or the format of the one before.
    pub discontinuity: bool,
    /// Wall clock at `start`, milliseconds since 1970.
    pub program_date_time_ms: i64,
    /// What it needs to be decoded.
    pub init: Arc<Initialization>,
    /// Video samples in it.
    pub video_samples: u32,
    /// EXT-X-TARGETDURATION of its session, seconds.
    pub target_duration: u32,
    /// All segments of the session so far begin with a random access point.
    pub all_independent: bool,
}

/// A segment being filled. `Clone` because the packager's state is kept at every cut.
#[derive(Debug, Clone)]
pub(crate) struct OpenSegment {
    pub init: Arc<Initialization>,
    pub start: i64,
    container: Container,
    out: Vec<u8>,
    parts: Vec<Part>,
    /// Where the part being filled begins.
    part_offset: usize,
    part_start: Option<i64>,
    part_end: i64,
    part_independent: bool,
    /// Samples of the CMAF chunk being gathered; MPEG-TS writes at once.
    video: Vec<TimedSample>,
    audio: Vec<TimedSample>,
    gathered: usize,
    video_samples: u32,
    independent: bool,
    hasher: Sha256,
}

/// Counters that go on from segment to segment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Continuity {
    pub chunk_sequence: u32,
    pub muxer: mpegts::Muxer,
}

/// What a finished segment's bytes are; the packager adds its place in the session.
pub(crate) struct Finished {
    pub bytes: Bytes,
    pub digest: FileDigest,
    pub parts: Vec<Part>,
    pub independent: bool,
    pub video_samples: u32,
}

impl OpenSegment {
    pub fn new(
        container: Container,
        init: Arc<Initialization>,
        start: i64,
        capacity: usize,
        continuity: &mut Continuity,
    ) -> Self {
        let mut out = Vec::with_capacity(capacity);
        if container == Container::MpegTs {
            continuity.muxer.tables(&init.tracks, &mut out);
        }
        Self {
            init,
            start,
            container,
            out,
            parts: Vec::new(),
            part_offset: 0,
            part_start: None,
            part_end: start,
            part_independent: true,
            video: Vec::new(),
            audio: Vec::new(),
            gathered: 0,
            video_samples: 0,
            independent: true,
            hasher: Sha256::new(),
        }
    }

    /// Bytes so far, what is gathered included.
    pub fn len(&self) -> usize {
        self.out.len() + self.gathered
    }

    pub fn append(&mut self, timed: TimedSample, continuity: &mut Continuity) {
        let sample = &timed.sample;
        let leads = sample.kind == TrackKind::Video || self.init.tracks.video.is_none();
        let end = sample.dts + i64::from(timed.duration);
        if leads && self.part_start.is_none() {
            self.part_start = Some(sample.dts);
            self.part_independent = sample.random_access;
        }
        if sample.kind == TrackKind::Video {
            self.independent &= self.video_samples > 0 || sample.random_access;
            self.video_samples += 1;
        }
        self.part_end = if leads { end } else { self.part_end };
        match (self.container, sample.kind) {
            (Container::MpegTs, _) => continuity.muxer.sample(&self.init.tracks, &timed, &mut self.out),
            (Container::Cmaf, kind) => {
                self.gathered += sample.data.len();
                if kind == TrackKind::Video { self.video.push(timed) } else { self.audio.push(timed) }
            }
        }
        if leads && self.part_start.is_some_and(|start| end - start >= PART_TARGET) {
            self.close_part(continuity);
        }
    }

    pub fn finish(mut self, continuity: &mut Continuity) -> Finished {
        self.close_part(continuity);
        Finished {
            bytes: self.out.into(),
            digest: self.hasher.finalize().into(),
            parts: self.parts,
            independent: self.independent,
            video_samples: self.video_samples,
        }
    }

    fn close_part(&mut self, continuity: &mut Continuity) {
        if self.gathered > 0 {
            continuity.chunk_sequence = continuity.chunk_sequence.wrapping_add(1);
            cmaf::chunk(continuity.chunk_sequence, &self.video, &self.audio, &mut self.out);
            self.video.clear();
            self.audio.clear();
            self.gathered = 0;
        }
        let (offset, length) = (self.part_offset, self.out.len() - self.part_offset);
        if length == 0 {
            return;
        }
        self.hasher.update(&self.out[offset..]);
        let duration = self.part_start.map_or(0, |start| self.part_end - start);
        self.parts.push(Part { offset, length, duration, independent: self.part_independent });
        self.part_offset = self.out.len();
        self.part_start = None;
    }
}
