//! What flows from an encoder to the packager: samples and, in line with them, what changes their meaning.

use crate::{AacConfig, AvcConfig};
use bytes::Bytes;
use memory::FINE;
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

/// Copies the media of entries out of what it came in, so that this can be used again: what came together goes together, at
/// the latest with its segment. One may begin with any picture that decoding can start at; what is before that is apart.
pub fn pack(entries: &mut [Entry]) {
    let mut length = 0;
    let together = entries.chunk_by_mut(|before, next| {
        length += before.payload_len();
        let apart = matches!(next, Entry::Sample(_)) && next.is_random_access() || length + next.payload_len() > FINE;
        if apart {
            length = 0;
        }
        !apart
    });
    for together in together {
        let mut packed = Vec::with_capacity(together.iter().map(Entry::payload_len).sum());
        samples(together).for_each(|sample| packed.extend_from_slice(&sample.data));
        let mut packed = Bytes::from(packed);
        samples(together).for_each(|sample| sample.data = packed.split_to(sample.data.len()));
    }
}

fn samples(entries: &mut [Entry]) -> impl Iterator<Item = &mut Sample> {
    entries.iter_mut().filter_map(|entry| if let Entry::Sample(sample) = entry { Some(sample) } else { None })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_is_the_same_and_no_longer_where_it_was_and_apart_where_a_segment_may_begin() {
        let read = Bytes::from((0..60_u8).cycle().take(6000).collect::<Vec<_>>());
        let sample = |kind, random_access, from: usize, to: usize| {
            Entry::Sample(Sample { kind, dts: 0, composition: 0, random_access, data: read.slice(from..to) })
        };
        let mut entries = [
            sample(TrackKind::Audio, true, 0, 10),
            Entry::Discontinuity,
            sample(TrackKind::Video, false, 10, 2000),
            sample(TrackKind::Video, true, 2000, 5000),
            sample(TrackKind::Audio, true, 5000, 5000),
            sample(TrackKind::Audio, true, 5000, 6000),
        ];
        let data = |entries: &mut [Entry]| samples(entries).map(|sample| sample.data.clone()).collect::<Vec<_>>();
        let before = data(&mut entries);
        pack(&mut entries);
        let after = data(&mut entries);
        assert_eq!(before, after);
        let places = |bytes: &[Bytes]| bytes.iter().map(|data| data.as_ptr().addr()).collect::<Vec<_>>();
        let (was, is) = (read.as_ptr().addr()..read.as_ptr().addr() + read.len(), places(&after));
        assert!(is.iter().all(|place| !was.contains(place)), "{is:?} in {was:?}");
        assert_eq!([is[1] - is[0], is[4] - is[2]], [10, 3000], "what goes together lies together");
        // Nobody holds the first part any more: the second one is on its own.
        let second = after[2..].to_vec();
        drop((after, entries, before));
        assert!(second[0].len() == 3000 && second[2].len() == 1000);
        pack(&mut []);
    }
}
