//! Media Segments, made of parts, and the initialization section they need.

use crate::sample::{Sample, TICKS_PER_SECOND, TrackKind, Tracks};
use crate::{cmaf, mpegts};
use bytes::Bytes;
use memory::{Content, FileWriter};
use sha2::{Digest, Sha256};
use std::sync::Arc;

/// Target duration of a part, ticks: half a second, a fragment of its own in CMAF.
const PART_TARGET: i64 = TICKS_PER_SECOND / 2;
/// Largest segment, bytes: ten seconds of 50 Mbit/s. A larger one is cut by force.
pub const MAX_SEGMENT_BYTES: usize = 64 << 20;

/// Samples of a part for which room is made at once: those of ordinary media, as many as fill a length of the allocator's (2,560
/// bytes).
const STEP: usize = 45;

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
    /// The file.
    pub bytes: Content,
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

/// A segment being filled: the samples as they came, put together once it is known to be whole, so that
/// its bytes are held once and its buffer fits. `Clone` because the packager's state is kept at every cut.
#[derive(Debug, Clone)]
pub(crate) struct OpenSegment {
    pub init: Arc<Initialization>,
    pub start: i64,
    container: Container,
    /// Bytes it will have, at most.
    size: usize,
    parts: Vec<OpenPart>,
    /// Samples of the part that is open.
    samples: Vec<TimedSample>,
    part_start: Option<i64>,
    part_end: i64,
    part_independent: bool,
    video_samples: u32,
    independent: bool,
}

/// A part whose samples have all come.
#[derive(Debug, Clone)]
struct OpenPart {
    samples: Vec<TimedSample>,
    duration: i64,
    independent: bool,
}

/// What goes on from segment to segment.
#[derive(Debug, Clone, Default)]
pub(crate) struct Continuity {
    pub chunk_sequence: u32,
    pub muxer: mpegts::Muxer,
}

/// What a finished segment's bytes are; the packager adds its place in the session.
pub(crate) struct Finished {
    pub bytes: Content,
    pub digest: FileDigest,
    pub parts: Vec<Part>,
    pub independent: bool,
    pub video_samples: u32,
}

impl OpenSegment {
    pub fn new(container: Container, init: Arc<Initialization>, start: i64) -> Self {
        Self {
            init,
            start,
            container,
            size: 0,
            parts: Vec::new(),
            samples: Vec::new(),
            part_start: None,
            part_end: start,
            part_independent: true,
            video_samples: 0,
            independent: true,
        }
    }

    /// Bytes it will have with the samples so far, at most: tiny samples cost a packet each in MPEG-TS.
    pub fn len(&self) -> usize {
        self.size
    }

    /// Bytes of the samples so far.
    pub fn held_bytes(&self) -> usize {
        let samples = self.parts.iter().flat_map(|part| &part.samples).chain(&self.samples);
        samples.map(|timed| timed.sample.data.len()).sum()
    }

    pub fn append(&mut self, timed: TimedSample) {
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
        self.size += sample.data.len() + mpegts::PACKET_LEN;
        if self.samples.len() == self.samples.capacity() {
            // By steps while there are few, a quarter as many again when there are many.
            self.samples.reserve_exact(STEP.max(self.samples.len() / 4));
        }
        self.samples.push(timed);
        if leads && self.part_start.is_some_and(|start| end - start >= PART_TARGET) {
            self.end_part();
        }
    }

    fn end_part(&mut self) {
        let samples = std::mem::take(&mut self.samples);
        if samples.is_empty() && !self.parts.is_empty() {
            return;
        }
        let duration = self.part_start.map_or(0, |start| self.part_end - start);
        self.parts.push(OpenPart { samples, duration, independent: self.part_independent });
        self.part_start = None;
    }

    /// Puts the segment together.
    pub fn finish(mut self, continuity: &mut Continuity) -> Finished {
        self.end_part();
        let mut file = FileWriter::expecting(self.size);
        let parts = self.write(continuity, &mut file);
        let bytes = file.finish();
        let mut digest = Sha256::new();
        bytes.pieces().iter().for_each(|piece| digest.update(piece));
        let digest = digest.finalize().into();
        Finished { digest, bytes, parts, independent: self.independent, video_samples: self.video_samples }
    }

    /// Writes the file; its parts.
    fn write(&self, continuity: &mut Continuity, file: &mut FileWriter) -> Vec<Part> {
        if self.container == Container::MpegTs {
            continuity.muxer.tables(&self.init.tracks, file);
        }
        let (mut parts, mut offset) = (Vec::with_capacity(self.parts.len()), 0);
        for OpenPart { samples, duration, independent } in &self.parts {
            self.write_part(samples, continuity, file);
            let (length, duration, independent) = (file.len() - offset, *duration, *independent);
            parts.push(Part { offset, length, duration, independent });
            offset = file.len();
        }
        parts
    }

    fn write_part(&self, samples: &[TimedSample], continuity: &mut Continuity, file: &mut FileWriter) {
        match self.container {
            Container::MpegTs => {
                samples.iter().for_each(|timed| continuity.muxer.sample(&self.init.tracks, timed, file));
            }
            Container::Cmaf => {
                continuity.chunk_sequence = continuity.chunk_sequence.wrapping_add(1);
                cmaf::chunk(continuity.chunk_sequence, samples, file);
            }
        }
    }
}
