//! Intake: RTMP media messages of one publisher become entries of the sample log.

use crate::codec::{CodecError, aac::ADTS_HEADER_LEN};
use crate::flv::{self, AudioTag, VideoTag};
use crate::sample::{Entry, Sample, TICKS_PER_MS, TrackKind};
use crate::timeline::Timeline;
use crate::{AacConfig, AvcConfig};
use bytes::Bytes;
use std::sync::Arc;

/// Longest AAC frame, bytes: what an ADTS header can announce. Real frames have 6144 bits a channel at most.
const MAX_AAC_FRAME: usize = 0x1FFF - ADTS_HEADER_LEN;

/// Changes of configuration and jumps of the clock a publication may have at once, ...
const UPHEAVALS: i64 = 16;
/// ... and one more for each of these periods of media, milliseconds. Each costs viewers a discontinuity
/// and ends a segment early; without a bound a publisher could have a segment a frame.
const UPHEAVAL_PERIOD_MS: i64 = 5_000;

/// How long a publisher may send nothing that can be decoded, milliseconds of its media: no key frame comes later than
/// this from an encoder that means to be seen.
const UNDECODABLE_MS: i64 = 60_000;

/// One publisher's clock and current configurations.
#[derive(Debug)]
pub struct Intake {
    timeline: Timeline,
    video: Option<Arc<AvcConfig>>,
    audio: Option<Arc<AacConfig>>,
    start_ms: i64,
    upheavals: i64,
    /// Something came that can be decoded.
    is_decodable: bool,
}

impl Intake {
    /// An intake whose first sample falls at `start_ms` of the stream's timeline.
    pub fn starting_at(start_ms: i64) -> Self {
        Self {
            timeline: Timeline::starting_at(start_ms),
            video: None,
            audio: None,
            start_ms,
            upheavals: 0,
            is_decodable: false,
        }
    }

    /// Takes the body of a video message.
    pub fn video(&mut self, timestamp: u32, body: &Bytes, entries: &mut Vec<Entry>) -> Result<(), CodecError> {
        match flv::video(body)? {
            VideoTag::SequenceHeader(record) => {
                if self.video.as_ref().is_none_or(|config| config.record != record) {
                    let config = Arc::new(AvcConfig::parse(kept(&record))?);
                    self.video = Some(config.clone());
                    entries.push(Entry::Video(config));
                    self.upheaval()?;
                }
            }
            VideoTag::CodedFrames { key_frame, composition_ms, data } => {
                let composition = i64::from(composition_ms) * TICKS_PER_MS;
                // 24 bits of milliseconds fit 32 bits of ticks but for the outermost values, which are no real offsets.
                let composition = i32::try_from(composition).map_err(|_| CodecError::Malformed("composition time"))?;
                return self.sample(TrackKind::Video, timestamp, composition, key_frame, data, entries);
            }
            VideoTag::Ignored => {}
        }
        Ok(())
    }

    /// Takes the body of an audio message.
    pub fn audio(&mut self, timestamp: u32, body: &Bytes, entries: &mut Vec<Entry>) -> Result<(), CodecError> {
        match flv::audio(body)? {
            AudioTag::SequenceHeader(record) => {
                if self.audio.as_ref().is_none_or(|config| config.config != record) {
                    let config = Arc::new(AacConfig::parse(kept(&record))?);
                    self.audio = Some(config.clone());
                    entries.push(Entry::Audio(config));
                    self.upheaval()?;
                }
            }
            AudioTag::CodedFrames(data) if data.len() > MAX_AAC_FRAME => {
                return Err(CodecError::Malformed("AAC frame"));
            }
            AudioTag::CodedFrames(data) => return self.sample(TrackKind::Audio, timestamp, 0, true, data, entries),
            AudioTag::Ignored => {}
        }
        Ok(())
    }

    fn sample(
        &mut self,
        kind: TrackKind,
        timestamp: u32,
        composition: i32,
        random_access: bool,
        data: Bytes,
        entries: &mut Vec<Entry>,
    ) -> Result<(), CodecError> {
        let placed = self.timeline.place(kind, timestamp);
        self.is_decodable |= match kind {
            TrackKind::Video => random_access && self.video.is_some(),
            TrackKind::Audio => self.audio.is_some(),
        };
        if !self.is_decodable && placed.dts / TICKS_PER_MS - self.start_ms > UNDECODABLE_MS {
            return Err(CodecError::Malformed(
                "media: nothing in its first minute can be decoded, for want of a key frame or of a sequence header",
            ));
        }
        if placed.jumped {
            entries.push(Entry::Discontinuity);
            self.upheaval()?;
        }
        entries.push(Entry::Sample(Sample { kind, dts: placed.dts, composition, random_access, data }));
        Ok(())
    }

    fn upheaval(&mut self) -> Result<(), CodecError> {
        self.upheavals += 1;
        let media_ms = self.timeline.last_ms().map_or(0, |last| last - self.start_ms);
        if self.upheavals > UPHEAVALS + media_ms / UPHEAVAL_PERIOD_MS {
            return Err(CodecError::Malformed("media: its timestamps or configuration change again and again"));
        }
        Ok(())
    }
}

/// A copy of what is kept for long: it must not hold up the memory of the samples beside which it came.
fn kept(record: &Bytes) -> Bytes {
    Bytes::copy_from_slice(record)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::avc::tests::RECORD;

    fn header() -> Bytes {
        Bytes::from([&[0x17, 0, 0, 0, 0][..], &RECORD].concat())
    }

    #[test]
    fn a_sequence_header_is_an_entry_when_it_changes_something() {
        let (mut intake, mut entries) = (Intake::starting_at(0), Vec::new());
        for _ in 0..3 {
            intake.video(0, &header(), &mut entries).expect("valid header");
        }
        intake.video(0, &Bytes::from_static(&[0x17, 1, 0, 0, 40, 7]), &mut entries).expect("valid frame");
        assert!(matches!(
            entries[..],
            [Entry::Video(_), Entry::Sample(Sample { composition: 3600, random_access: true, .. })]
        ));
    }

    #[test]
    fn a_clock_that_jumps_with_every_frame_ends_the_publication() {
        let (mut intake, mut entries) = (Intake::starting_at(0), Vec::new());
        let frame = Bytes::from_static(&[0xAF, 1, 5]);
        let mut jumps = (0..1000u32).map(|n| intake.audio(n.wrapping_mul(77_777), &frame, &mut entries));
        assert!(jumps.any(|taken| taken.is_err()));
        assert!(entries.len() < 100);
    }

    #[test]
    fn a_publication_without_any_key_frame_ends_and_one_with_audio_goes_on() {
        let (mut intake, mut entries) = (Intake::starting_at(0), Vec::new());
        let frame = Bytes::from_static(&[0x27, 1, 0, 0, 0, 7]);
        intake.video(0, &header(), &mut entries).expect("valid header");
        let mut frames = (0..3000u32).map(|n| intake.video(n * 40, &frame, &mut entries));
        assert_eq!(frames.position(|taken| taken.is_err()), Some(1501));
        let (mut intake, mut entries) = (Intake::starting_at(0), Vec::new());
        intake.audio(0, &Bytes::from_static(&[0xAF, 0, 0x11, 0x90]), &mut entries).expect("valid header");
        intake.audio(0, &Bytes::from_static(&[0xAF, 1, 5]), &mut entries).expect("valid frame");
        assert!((0..3000u32).all(|n| intake.video(n * 40, &frame, &mut entries).is_ok()));
    }

    #[test]
    fn a_jump_is_an_entry_before_its_sample() {
        let (mut intake, mut entries) = (Intake::starting_at(0), Vec::new());
        for timestamp in [0, 40, 50_000] {
            intake.audio(timestamp, &Bytes::from_static(&[0xAF, 1, 5]), &mut entries).expect("valid frame");
        }
        assert!(matches!(entries[..], [Entry::Sample(_), Entry::Sample(_), Entry::Discontinuity, Entry::Sample(_)]));
    }
}
