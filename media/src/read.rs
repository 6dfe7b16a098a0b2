//! Reading back the segments we write: tracks and access units, for one file of a whole recording.

mod fragments;
mod transport;

pub use fragments::fragments;
pub use transport::transport_stream;

use crate::sample::{Sample, Tracks};
use thiserror::Error;

/// What a segment holds.
#[derive(Debug, Clone, Default)]
pub struct Read {
    /// How its samples are decoded.
    pub tracks: Tracks,
    /// Its samples: those of a track in decode order.
    pub samples: Vec<Sample>,
}

/// The bytes are no segment of ours: they were damaged, or written by something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("not a segment as this server writes them: {0}")]
pub struct Unreadable(pub &'static str);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::avc::tests::RECORD;
    use crate::segment::TimedSample;
    use crate::{AacConfig, AvcConfig, TrackKind, cmaf, mpegts};
    use bytes::Bytes;
    use memory::FileWriter;
    use proptest::prelude::*;
    use std::sync::Arc;

    fn tracks() -> Tracks {
        Tracks {
            video: Some(Arc::new(AvcConfig::parse(Bytes::from_static(&RECORD)).expect("valid"))),
            audio: Some(Arc::new(AacConfig::parse(Bytes::from_static(&[0x12, 0x10])).expect("valid"))),
        }
    }

    /// Half a second of each track; `sizes` are those of the pictures.
    fn half_second(sizes: &[usize], from: i64) -> Vec<TimedSample> {
        let video = sizes.iter().zip(0..).map(|(size, n)| {
            let slice: Vec<u8> = (0..*size).map(|n| (n % 3 + n % 250) as u8).collect();
            // A slice ends with its stop bit, never with a zero (ISO/IEC 14496-10, 7.3.2.11).
            let unit = [&[if n == 0 { 0x65 } else { 0x41 }][..], &slice, &[0x80]].concat();
            let data = [&(unit.len() as u32).to_be_bytes()[..], &unit].concat();
            let composition = if n % 2 == 0 { 0 } else { 6000 };
            let (kind, dts) = (TrackKind::Video, from + 3000 * n);
            TimedSample {
                sample: Sample { kind, dts, composition, random_access: n == 0, data: data.into() },
                duration: 3000,
            }
        });
        let audio = (0..20).map(|n| {
            let (kind, dts, data) = (TrackKind::Audio, from + 2090 * n, vec![n as u8; 100 + n as usize].into());
            TimedSample { sample: Sample { kind, dts, composition: 0, random_access: true, data }, duration: 2090 }
        });
        video.chain(audio).collect()
    }

    fn fragmented(samples: &[TimedSample]) -> Bytes {
        let mut file = FileWriter::expecting(1 << 20);
        cmaf::chunk(1, samples, &mut file);
        file.finish().to_bytes()
    }

    fn transported(samples: &[TimedSample]) -> Bytes {
        let (mut muxer, mut out) = (mpegts::Muxer::default(), FileWriter::expecting(0));
        muxer.tables(&tracks(), &mut out);
        samples.iter().for_each(|timed| muxer.sample(&tracks(), timed, &mut out));
        out.finish().to_bytes()
    }

    fn plain(samples: &[TimedSample]) -> Vec<Sample> {
        samples.iter().map(|timed| timed.sample.clone()).collect()
    }

    fn of(kind: TrackKind, samples: &[Sample]) -> Vec<Sample> {
        samples.iter().filter(|sample| sample.kind == kind).cloned().collect()
    }

    proptest! {
        #[test]
        fn what_was_written_is_read_back(sizes in prop::collection::vec(1usize..3000, 1..16), from in 0i64..1 << 33) {
            let samples = half_second(&sizes, from);
            let read = fragments(&cmaf::init(&tracks()), &fragmented(&samples)).expect("readable");
            prop_assert_eq!(&read.tracks, &tracks());
            prop_assert_eq!(read.samples, plain(&samples));
            let read = transport_stream(&transported(&samples)).expect("readable");
            prop_assert_eq!(&read.tracks.audio, &tracks().audio);
            prop_assert_eq!(&read.tracks.video.as_ref().expect("video").sps, &tracks().video.expect("video").sps);
            for kind in [TrackKind::Video, TrackKind::Audio] {
                // 33 bits of decode times are written.
                let mut expected = of(kind, &plain(&samples));
                expected.iter_mut().for_each(|sample| sample.dts &= (1 << 33) - 1);
                prop_assert_eq!(of(kind, &read.samples), expected);
            }
        }

        #[test]
        fn damage_is_an_error_and_nothing_worse(at in 0usize..4000, byte: u8, cut in 0usize..4000) {
            let samples = half_second(&[500, 500], 90_000);
            for whole in [fragmented(&samples), transported(&samples)] {
                let mut damaged = whole.to_vec();
                let at = at % damaged.len();
                damaged[at] = byte;
                let damaged = Bytes::from(damaged);
                for bytes in [damaged.clone(), damaged.slice(..cut.min(damaged.len()))] {
                    let _ = fragments(&cmaf::init(&tracks()), &bytes);
                    let _ = fragments(&bytes, &whole);
                    let _ = transport_stream(&bytes);
                }
            }
        }
    }
}
