//! What flows from an encoder to the packager: samples and, in line with them, what changes their meaning.

use crate::{AacConfig, AvcConfig};
use bytes::Bytes;
use std::sync::Arc;

/// Ticks of the media clock in a second, as in MPEG-TS (ISO/IEC 13818-1).
pub const TICKS_PER_SECOND: i64 = 90_000;
/// Ticks in a millisecond, the unit of RTMP timestamps.
pub const TICKS_PER_MS: i64 = 90;

/// Which track a sample belongs to. A stream has at most one of each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum TrackKind {
    /// H.264.
    Video,
    /// AAC.
    Audio,
}

/// One access unit of a track.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sample {
    /// The track.
    pub kind: TrackKind,
    /// Decode time in ticks; rises strictly within a track.
    pub dts: i64,
    /// Composition time offset in ticks (ISO/IEC 14496-12, 8.6.1.3); may be negative.
    pub composition: i32,
    /// Decoding can start here. Always true for audio.
    pub random_access: bool,
    /// Length-prefixed NAL units, or a raw AAC frame.
    pub data: Bytes,
}

/// One entry of the sample log.
#[derive(Debug, Clone)]
pub enum Entry {
    /// A publisher holds the stream from here on; its samples follow a discontinuity.
    Epoch {
        /// The publisher lock's fencing token.
        epoch: u64,
        /// Wall clock at `dts` zero of this epoch, milliseconds since 1970.
        wall_ms_at_zero: i64,
    },
    /// The publisher of the current epoch is gone; what it left is to be published.
    EpochEnd,
    /// Video samples from here on are decoded with this.
    Video(Arc<AvcConfig>),
    /// Audio samples from here on are decoded with this.
    Audio(Arc<AacConfig>),
    /// The encoder's clock jumped; timestamps before and after do not relate.
    Discontinuity,
    /// An access unit.
    Sample(Sample),
    /// The session is over: nothing follows, the playlist ends.
    End,
}

impl Entry {
    /// Payload bytes the entry keeps alive.
    pub fn payload_len(&self) -> usize {
        if let Entry::Sample(sample) = self { sample.data.len() } else { 0 }
    }

    /// Whether a reader that lost its place may start here.
    pub fn is_random_access(&self) -> bool {
        match self {
            Entry::Epoch { .. } => true,
            Entry::Sample(sample) => sample.kind == TrackKind::Video && sample.random_access,
            Entry::EpochEnd | Entry::Video(_) | Entry::Audio(_) | Entry::Discontinuity | Entry::End => false,
        }
    }
}

/// The tracks an initialization section describes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tracks {
    /// The video track, if there is one.
    pub video: Option<Arc<AvcConfig>>,
    /// The audio track, if there is one.
    pub audio: Option<Arc<AacConfig>>,
}

impl Tracks {
    /// Whether the set has a track of this kind.
    pub fn has(&self, kind: TrackKind) -> bool {
        match kind {
            TrackKind::Video => self.video.is_some(),
            TrackKind::Audio => self.audio.is_some(),
        }
    }

    /// CODECS attribute (RFC 8216 section 4.3.4.2; RFC 6381).
    pub fn codecs(&self) -> String {
        let video = self.video.iter().map(|config| config.codec_string());
        let audio = self.audio.iter().map(|config| config.codec_string());
        video.chain(audio).collect::<Vec<_>>().join(",")
    }
}
