//! What flows from an encoder to the packager: samples and, in line with them, what changes their meaning.

use crate::{AacConfig, AvcConfig};
use bytes::Bytes;
use memory::{MAX_PACKED, taken};
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

/// Copies the media of entries out of what it came in, so that this can be used again: what came together goes together.
///
/// What one sample keeps the others of its pack keep, so nothing lies together of which a part may be dropped, or goes earlier:
/// tracks lie apart, and so does what comes before a change of configurations, or before a picture that decoding can start at,
/// which a segment may begin with. Samples that were put together from several chunks have memory of their own already.
pub fn pack(entries: &mut [Entry]) {
    let goes_on = |next: &Entry| matches!(next, Entry::Sample(_)) && !next.is_random_access();
    for run in entries.chunk_by_mut(|before, next| matches!(before, Entry::Sample(_)) && goes_on(next)) {
        for kind in [TrackKind::Video, TrackKind::Audio] {
            let of_track = run.iter_mut().filter_map(|entry| match entry {
                Entry::Sample(sample) if sample.kind == kind && !sample.data.is_unique() => Some(sample),
                _ => None,
            });
            let mut left: &mut [&mut Sample] = &mut of_track.collect::<Vec<_>>();
            let lengths: Vec<_> = left.iter().map(|sample| sample.data.len()).collect();
            for count in packs(&lengths) {
                let (together, later) = left.split_at_mut(count);
                let mut copied = Vec::with_capacity(together.iter().map(|sample| sample.data.len()).sum());
                together.iter().for_each(|sample| copied.extend_from_slice(&sample.data));
                let mut copied = Bytes::from(copied);
                together.iter_mut().for_each(|sample| sample.data = copied.split_to(sample.data.len()));
                left = later;
            }
        }
    }
}

/// Samples that lie together at most, so that finding out how they do best stays cheap.
const MAX_SAMPLES: usize = 32;
/// Samples beyond which nothing is found out: no encoder sends so many between two reads.
const MAX_CHOICE: usize = 512;
/// What each pack takes besides its bytes, for counting its readers and for the allocator to know it.
const PACK: usize = 128;

/// How many lie together, one pack after the other, so that all of them take the least memory.
fn packs(lengths: &[usize]) -> Vec<usize> {
    if lengths.len() > MAX_CHOICE {
        return in_order(lengths);
    }
    // From each sample to the end: the least that packs take, and how many are in the first of them.
    let mut best = vec![(0, 0); lengths.len() + 1];
    for from in (0..lengths.len()).rev() {
        let mut together = lengths[from];
        best[from] = (PACK + taken(together) + best[from + 1].0, 1);
        for (length, count) in lengths[from + 1..].iter().zip(2..=MAX_SAMPLES) {
            together += length;
            if together > MAX_PACKED {
                break;
            }
            best[from] = best[from].min((PACK + taken(together) + best[from + count].0, count));
        }
    }
    let (mut from, mut counts) = (0, Vec::new());
    while from < lengths.len() {
        counts.push(best[from].1);
        from += best[from].1;
    }
    counts
}

/// As many as fit, one pack after the other.
fn in_order(lengths: &[usize]) -> Vec<usize> {
    let (mut counts, mut together) = (vec![0], 0);
    for length in lengths {
        together += length;
        match counts.last_mut() {
            Some(count) if *count == 0 || together <= MAX_PACKED => *count += 1,
            _ => {
                counts.push(1);
                together = *length;
            }
        }
    }
    counts
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
    use memory::PAGE;
    use proptest::prelude::*;

    fn sample(kind: TrackKind, random_access: bool, data: Bytes) -> Sample {
        Sample { kind, dts: 0, composition: 0, random_access, data }
    }

    fn data(entries: Vec<Entry>) -> Vec<Bytes> {
        let data = entries
            .into_iter()
            .filter_map(|entry| if let Entry::Sample(sample) = entry { Some(sample.data) } else { None });
        data.collect()
    }

    /// Whether one sample ends where the other begins.
    fn adjoin(samples: &[Bytes], one: usize, other: usize) -> bool {
        samples[one].as_ptr().addr() + samples[one].len() == samples[other].as_ptr().addr()
    }

    proptest! {
        #[test]
        fn what_is_packed_is_what_it_was_and_nowhere_where_it_was(
            parts in prop::collection::vec((0_usize..40_000, any::<bool>(), any::<bool>(), any::<bool>()), 0..40)
        ) {
            let read = Bytes::from((0..40_000_u32).map(|n| (n / 7) as u8).collect::<Vec<_>>());
            let entry = |(length, video, random_access, is_sample)| {
                let kind = if video { TrackKind::Video } else { TrackKind::Audio };
                let data = read.slice(40_000 - length..);
                if is_sample { Entry::Sample(sample(kind, random_access, data)) } else { Entry::Discontinuity }
            };
            let mut entries: Vec<Entry> = parts.into_iter().map(entry).collect();
            let before = data(entries.clone());
            pack(&mut entries);
            let after = data(entries);
            prop_assert_eq!(&before, &after);
            drop(before);
            prop_assert!(read.is_unique());
        }
    }

    #[test]
    fn what_may_go_at_another_time_lies_apart() {
        let read = Bytes::from(vec![5; 6000]);
        let part = |kind, random_access| Entry::Sample(sample(kind, random_access, read.slice(..1000)));
        let (video, key, audio) =
            (part(TrackKind::Video, false), part(TrackKind::Video, true), part(TrackKind::Audio, true));
        let mut entries =
            [video.clone(), audio.clone(), video.clone(), audio.clone(), key, audio, Entry::Discontinuity, video];
        pack(&mut entries);
        let samples = data(entries.to_vec());
        let pairs = (0..samples.len()).flat_map(|one| (one + 1..7).map(move |other| (one, other)));
        let together: Vec<_> = pairs.filter(|(one, other)| adjoin(&samples, *one, *other)).collect();
        assert_eq!(together, [(0, 2), (1, 3)]);
    }

    #[test]
    fn what_has_memory_of_its_own_stays_there() {
        let own = Bytes::from(vec![7; 3000]);
        let place = own.as_ptr();
        let mut entries = [Entry::Sample(sample(TrackKind::Video, false, own))];
        pack(&mut entries);
        assert_eq!(data(entries.to_vec())[0].as_ptr(), place);
    }

    /// The least memory that packs take, by trying all of them.
    fn least(lengths: &[usize]) -> usize {
        let first = |count: usize| {
            let together: usize = lengths[..count].iter().sum();
            (count == 1 || together <= MAX_PACKED).then(|| PACK + taken(together) + least(&lengths[count..]))
        };
        (1..=lengths.len()).filter_map(first).min().unwrap_or(0)
    }

    proptest! {
        #[test]
        fn packs_take_the_least_memory(lengths in prop::collection::vec(0_usize..20_000, 0..9)) {
            let (mut left, mut takes) = (&lengths[..], 0);
            for count in packs(&lengths) {
                takes += PACK + taken(left[..count].iter().sum());
                left = &left[count..];
            }
            prop_assert_eq!((takes, left), (least(&lengths), &[][..]));
        }
    }

    #[test]
    fn what_lies_together_is_no_longer_than_it_may_be() {
        assert_eq!(packs(&[12_000, 5 * PAGE - 12_000, 5000]), [2, 1], "five pages are full");
        assert_eq!(packs(&[1000; 4]), [4], "one page");
        assert_eq!(packs(&[0; 4]), [4]);
        for lengths in [&[MAX_PACKED + 1, 5][..], &[MAX_PACKED / 2, MAX_PACKED]] {
            assert_eq!((packs(lengths), in_order(lengths)), (vec![1, 1], vec![1, 1]));
        }
        assert!(packs(&[1; MAX_CHOICE]).iter().all(|count| *count <= MAX_SAMPLES));
        for (length, count) in [(0, MAX_CHOICE + 1), (1000, MAX_PACKED / 1000), (MAX_PACKED, 1)] {
            let packs = packs(&[length; MAX_CHOICE + 1]);
            assert_eq!((packs[0], packs.iter().sum()), (count, MAX_CHOICE + 1));
        }
    }
}
