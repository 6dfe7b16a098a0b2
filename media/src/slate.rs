//! Slate: what is shown while an encoder is away. The last picture held, and silence; or a clip, over and over.
//!
//! It goes through the same log and packager as an encoder's media, so that nothing after it needs to know.

use crate::AacConfig;
use crate::codec::silence::silence;
use crate::flv::{self, FileError};
use crate::intake::Intake;
use crate::read::Read;
use crate::sample::{Entry, Sample, TICKS_PER_MS, TICKS_PER_SECOND, TrackKind, Tracks};
use bytes::Bytes;
use std::sync::Arc;
use thiserror::Error;

/// How often the held picture is repeated, ticks: twice a second. Rarer, a packager would take it for a pause; oftener, it
/// would cost more than the show did.
const REPEAT: i64 = TICKS_PER_SECOND / 2;
/// Shortest clip, ticks: a shorter one would be more seams than show.
const MIN_CLIP: i64 = TICKS_PER_SECOND;
/// Largest clip, bytes: it stays in memory.
pub const MAX_CLIP_BYTES: usize = 64 << 20;

/// Why a file is no slate.
#[derive(Debug, Error)]
pub enum ClipError {
    /// It is not FLV, or cut short.
    #[error(transparent)]
    File(#[from] FileError),
    /// Its codecs are not ours.
    #[error(transparent)]
    Codec(#[from] crate::codec::CodecError),
    /// It does not begin with a picture that can be decoded.
    #[error("its first picture is no key frame")]
    NoKeyFrame,
    /// It has no samples, or too few.
    #[error("it is shorter than a second")]
    TooShort,
    /// It is too large to be kept in memory.
    #[error("it is larger than {} MiB", MAX_CLIP_BYTES >> 20)]
    TooLarge,
}

/// A clip that was read.
#[derive(Debug, Clone, PartialEq)]
pub struct Clip {
    tracks: Tracks,
    /// By track; decode times count from zero.
    samples: [Vec<Sample>; 2],
    length: i64,
}

impl Clip {
    /// Reads an FLV file with H.264, AAC or both.
    pub fn read(file: &Bytes) -> Result<Self, ClipError> {
        if file.len() > MAX_CLIP_BYTES {
            return Err(ClipError::TooLarge);
        }
        let (mut intake, mut entries) = (Intake::starting_at(0), Vec::new());
        for tag in flv::file(file)? {
            match tag.kind {
                TrackKind::Video => intake.video(tag.timestamp, &tag.body, &mut entries)?,
                TrackKind::Audio => intake.audio(tag.timestamp, &tag.body, &mut entries)?,
            }
        }
        let (mut tracks, mut samples) = (Tracks::default(), [Vec::new(), Vec::new()]);
        for entry in entries {
            match entry {
                Entry::Video(config) => tracks.video = Some(config),
                Entry::Audio(config) => tracks.audio = Some(config),
                Entry::Sample(sample) if tracks.has(sample.kind) => samples[sample.kind as usize].push(sample),
                Entry::Sample(_) | Entry::Epoch { .. } | Entry::EpochEnd | Entry::Discontinuity | Entry::End => {}
            }
        }
        let video = &samples[TrackKind::Video as usize];
        if video.first().is_some_and(|first| !first.random_access) {
            return Err(ClipError::NoKeyFrame);
        }
        let length = samples.iter().map(|track| length(track)).max().unwrap_or(0);
        if length < MIN_CLIP {
            return Err(ClipError::TooShort);
        }
        Ok(Self { tracks, samples, length })
    }

    /// Whether it can stand in for a stream: it has the same tracks.
    pub fn fits(&self, tracks: &Tracks) -> bool {
        [TrackKind::Video, TrackKind::Audio].iter().all(|kind| self.tracks.has(*kind) == tracks.has(*kind))
    }
}

/// Where a track ends, its last sample as long as the one before.
fn length(track: &[Sample]) -> i64 {
    let Some(last) = track.last() else { return 0 };
    let step = track.len().checked_sub(2).map_or(0, |before| last.dts - track[before].dts);
    last.dts + step
}

/// What one track repeats.
#[derive(Debug)]
enum Repeated {
    /// Samples, over and over.
    Samples(Vec<Sample>, i64),
    /// A frame of silence after the other.
    Silence(Arc<AacConfig>, Bytes),
}

impl Repeated {
    /// Sample number `n`, its decode time counted from the start.
    fn sample(&self, n: usize) -> Option<Sample> {
        match self {
            Repeated::Samples(samples, length) => {
                let sample = samples.get(n % samples.len().max(1))?;
                let round = i64::try_from(n / samples.len()).ok()?;
                Some(Sample { dts: sample.dts + round * length, ..sample.clone() })
            }
            Repeated::Silence(config, frame) => {
                // Not a multiple of a rounded duration: that would drift.
                let samples = n as u64 * u64::from(config.frame_samples) * TICKS_PER_SECOND.unsigned_abs();
                let dts = i64::try_from(samples / u64::from(config.core_sample_rate)).ok()?;
                let data = frame.clone();
                Some(Sample { kind: TrackKind::Audio, dts, composition: 0, random_access: true, data })
            }
        }
    }
}

/// A slate under way.
#[derive(Debug)]
pub struct Slate {
    tracks: Tracks,
    start: i64,
    repeated: Vec<(Repeated, usize)>,
}

impl Slate {
    /// The last picture of a segment that decoding can start at, held, and silence. None if there is neither.
    pub fn held(segment: &Read, start: i64) -> Option<Self> {
        let picture =
            segment.samples.iter().rev().find(|sample| sample.kind == TrackKind::Video && sample.random_access);
        let video = picture.map(|picture| {
            // A copy: the segment it came in need not stay in memory.
            let data = Bytes::copy_from_slice(&picture.data);
            Repeated::Samples(vec![Sample { dts: 0, data, ..picture.clone() }], REPEAT)
        });
        let audio = segment.tracks.audio.as_ref().and_then(|config| Some((config.clone(), silence(config)?)));
        let tracks = Tracks {
            video: segment.tracks.video.clone().filter(|_| video.is_some()),
            audio: audio.as_ref().map(|(config, _)| config.clone()),
        };
        let audio = audio.map(|(config, frame)| Repeated::Silence(config, frame));
        let repeated: Vec<_> = video.into_iter().chain(audio).map(|track| (track, 0)).collect();
        (!repeated.is_empty()).then_some(Self { tracks, start, repeated })
    }

    /// A clip, over and over.
    pub fn of(clip: &Clip, start: i64) -> Self {
        let tracks = clip.samples.iter().filter(|track| !track.is_empty());
        let repeated = tracks.map(|track| (Repeated::Samples(track.clone(), clip.length), 0)).collect();
        Self { tracks: clip.tracks.clone(), start, repeated }
    }

    /// What must come before its samples.
    pub fn configurations(&self) -> impl Iterator<Item = Entry> {
        let video = self.tracks.video.clone().map(Entry::Video);
        video.into_iter().chain(self.tracks.audio.clone().map(Entry::Audio))
    }

    /// What comes next, up to a decode time.
    pub fn until(&mut self, dts: i64) -> Vec<Entry> {
        let mut samples = Vec::new();
        for (repeated, next) in &mut self.repeated {
            while let Some(sample) = repeated.sample(*next).filter(|sample| self.start + sample.dts < dts) {
                *next += 1;
                samples.push(Sample { dts: self.start + sample.dts, ..sample });
            }
        }
        samples.sort_by_key(|sample| sample.dts);
        samples.into_iter().map(Entry::Sample).collect()
    }

    /// Milliseconds of the timeline at which it starts.
    pub fn start_ms(&self) -> i64 {
        self.start / TICKS_PER_MS
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::AvcConfig;
    use crate::codec::avc::tests::RECORD;
    use proptest::prelude::*;

    const SECOND: i64 = TICKS_PER_SECOND;

    fn segment() -> Read {
        let sample = |n: i64, random_access| Sample {
            kind: TrackKind::Video,
            dts: n * 3000,
            composition: 6000,
            random_access,
            data: Bytes::from(vec![n as u8]),
        };
        let tracks = Tracks {
            video: Some(Arc::new(AvcConfig::parse(Bytes::from_static(&RECORD)).expect("valid"))),
            audio: Some(Arc::new(AacConfig::parse(Bytes::from_static(&[0x12, 0x10])).expect("valid"))),
        };
        Read { tracks, samples: vec![sample(0, true), sample(1, false), sample(2, true), sample(3, false)] }
    }

    fn samples(entries: &[Entry], kind: TrackKind) -> Vec<&Sample> {
        fn sample(entry: &Entry) -> Option<&Sample> {
            if let Entry::Sample(sample) = entry { Some(sample) } else { None }
        }
        entries.iter().filter_map(sample).filter(|sample| sample.kind == kind).collect()
    }

    #[test]
    fn the_last_picture_that_can_be_decoded_is_held_and_silence_does_not_drift() {
        let mut slate = Slate::held(&segment(), 10 * SECOND).expect("a picture");
        assert_eq!(slate.configurations().count(), 2);
        let mut entries = slate.until(11 * SECOND);
        entries.extend(slate.until(3610 * SECOND));
        let video = samples(&entries, TrackKind::Video);
        assert!(video.iter().all(|sample| sample.data[..] == [2] && sample.composition == 6000));
        assert_eq!((video.len(), video[1].dts - video[0].dts), (7200, SECOND / 2));
        let audio = samples(&entries, TrackKind::Audio);
        assert_eq!(audio.len(), (3600 * 44_100usize).div_ceil(1024));
        assert!(audio.windows(2).all(|pair| (2089..=2090).contains(&(pair[1].dts - pair[0].dts))));
        let mut silent = segment();
        silent.tracks.audio = None;
        silent.samples.clear();
        assert!(Slate::held(&silent, 0).is_none());
    }

    proptest! {
        #[test]
        fn damage_is_an_error_and_nothing_worse(at in 0usize..400_000, byte: u8, cut in 0usize..400_000) {
            let mut file = include_bytes!("../../src/demo.flv").to_vec();
            let (at, cut) = (at % file.len(), cut % file.len());
            file[at] = byte;
            let _ = Clip::read(&Bytes::from(file[..cut].to_vec()));
            let _ = Clip::read(&Bytes::from(file));
        }
    }

    #[test]
    fn a_clip_is_repeated_without_a_seam_and_must_have_the_stream_s_tracks() {
        let file = Bytes::from_static(include_bytes!("../../src/demo.flv"));
        let clip = Clip::read(&file).expect("a clip");
        assert!(clip.fits(&segment().tracks) && !clip.fits(&Tracks { audio: None, ..segment().tracks }));
        let mut slate = Slate::of(&clip, SECOND);
        let entries = slate.until(26 * SECOND);
        let video = samples(&entries, TrackKind::Video);
        assert!(video.windows(2).all(|pair| pair[1].dts > pair[0].dts && pair[1].dts - pair[0].dts < SECOND / 10));
        assert!((740..=751).contains(&video.len()), "{} pictures in 25 s", video.len());
        assert!(matches!(Clip::read(&file.slice(..40)), Err(ClipError::File(_) | ClipError::TooShort)));
        assert!(matches!(Clip::read(&Bytes::from_static(b"RIFF....AVI LIST")), Err(ClipError::File(_))));
    }
}
