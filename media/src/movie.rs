//! Movie: one MP4 file (ISO/IEC 14496-12, 14496-14) of a whole recording, playable and seekable from its first byte
//! on: all tables come before the media.
//!
//! Segments are read twice: once for the tables, once for the media. What is kept in between is a few bytes a sample.

use crate::cmaf::{AUDIO_TRACK, audio_track, encode, video_track};
use crate::read::Read;
use crate::sample::{Sample, TICKS_PER_SECOND, TrackKind, Tracks};
use bytes::Bytes;
use mp4_atom::{
    Co64, Codec, Ctts, CttsEntry, Edts, Elst, ElstEntry, Ftyp, Moov, Mvhd, Stbl, Stsc, StscEntry, Stss, Stsz,
    StszSamples, Stts, SttsEntry, Trak,
};
use thiserror::Error;

/// Samples of one track, at most: a day and a half of 30 frames a second. Their tables are held in memory, 60 MB of them.
const MAX_SAMPLES: usize = 4_000_000;
/// Bytes of an mdat header with a 64-bit size.
const MDAT_HEADER: u64 = 16;
/// Timestamps of MPEG-TS begin anew at this.
const WRAP: i64 = 1 << 33;
/// How far timestamps may be from where they are expected before they must have begun anew.
const FAR: i64 = WRAP / 2;

/// A recording that does not fit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum MovieError {
    /// Too many samples.
    #[error("it is too long for one file: more than {MAX_SAMPLES} samples in a track")]
    TooLong,
    /// No samples.
    #[error("there is no media in it")]
    Empty,
}

/// A file in the making.
#[derive(Debug, Default)]
pub struct Movie {
    video: Option<Track>,
    audio: Option<Track>,
    /// Chunks as they follow each other in the file.
    order: Vec<TrackKind>,
    /// What is added to timestamps of segments to get times of the file.
    shift: i64,
    /// Where the last sample ends, file time.
    end: i64,
    /// Where the last picture has been shown. An encoder that is cut off leaves pictures that were to be shown after others
    /// that never came, so this may be later than the end.
    shown: i64,
}

#[derive(Debug)]
struct Track {
    trak: Trak,
    entries: Vec<Codec>,
    samples: Vec<Stored>,
    chunks: Vec<Chunk>,
    /// Decode time of the first and the last sample.
    first: i64,
    last: i64,
}

#[derive(Debug, Clone, Copy)]
struct Stored {
    size: u32,
    /// Ticks until the next.
    duration: u32,
    composition: i32,
    random_access: bool,
}

#[derive(Debug, Clone, Copy)]
struct Chunk {
    samples: u32,
    bytes: u64,
    /// sample_description_index, from one.
    entry: u32,
}

/// The media of a segment as it lies in the file: a chunk of video, then one of audio.
pub fn payload(read: &Read) -> impl Iterator<Item = &Bytes> {
    [TrackKind::Video, TrackKind::Audio].into_iter().flat_map(|kind| samples(read, kind)).map(|sample| &sample.data)
}

fn samples(read: &Read, kind: TrackKind) -> impl Iterator<Item = &Sample> {
    read.samples.iter().filter(move |sample| sample.kind == kind && read.tracks.has(kind))
}

impl Movie {
    /// Adds a segment that begins at `at` ticks of the recording; `continues` if its timestamps go on from those of
    /// the one before.
    pub fn add(&mut self, read: &Read, at: i64, continues: bool) -> Result<(), MovieError> {
        let firsts = || [TrackKind::Video, TrackKind::Audio].into_iter().filter_map(|kind| samples(read, kind).next());
        let Some(reference) = firsts().next().map(|sample| sample.dts) else { return Ok(()) };
        if !continues || self.order.is_empty() {
            let first = firsts().map(|sample| near(sample.dts, reference)).min().unwrap_or(reference);
            self.shift = at.max(self.end) - first;
            // No picture is shown before one that was decoded before it.
            let shows = samples(read, TrackKind::Video).map(|sample| near(sample.dts, reference) + composition(sample));
            let early = shows.min().map_or(0, |shows| self.shown - (shows + self.shift));
            self.shift += early.max(0);
        } else {
            self.shift = near(reference + self.shift, self.end) - reference;
        }
        for kind in [TrackKind::Video, TrackKind::Audio] {
            self.add_chunk(read, kind)?;
        }
        Ok(())
    }

    fn add_chunk(&mut self, read: &Read, kind: TrackKind) -> Result<(), MovieError> {
        let Some(trak) = trak(&read.tracks, kind) else { return Ok(()) };
        if samples(read, kind).next().is_none() {
            return Ok(());
        }
        let (shift, mut expected) = (self.shift, self.expected(read));
        let track = match kind {
            TrackKind::Video => &mut self.video,
            TrackKind::Audio => &mut self.audio,
        };
        let track = track.get_or_insert_with(|| Track::new(trak.clone()));
        let entry = track.entry(&trak);
        let (mut count, mut bytes) = (0, 0);
        // Of a single sample nothing is known.
        let mut usual = track.samples.last().map(|stored| stored.duration).filter(|_| track.samples.len() > 1);
        for sample in samples(read, kind) {
            // Timestamps of MPEG-TS may begin anew inside a segment, too.
            let dts = near(sample.dts + shift, expected);
            expected = dts;
            track.push(sample, dts)?;
            // What is before the first may have been stretched over a gap; it lasts no longer than that was thought to.
            if let (Some(usual), Some(first)) = (usual.take(), track.samples.last_mut()) {
                first.duration = first.duration.min(usual);
            }
            if kind == TrackKind::Video {
                let duration = track.samples.last().map_or(0, |stored| i64::from(stored.duration));
                self.shown = self.shown.max(dts + composition(sample) + duration);
            }
            (count, bytes) = (count + 1, bytes + sample.data.len() as u64);
        }
        track.chunks.push(Chunk { samples: count, bytes, entry });
        self.end = self.end.max(track.end());
        self.order.push(kind);
        Ok(())
    }

    /// Where a segment begins, file time.
    fn expected(&self, read: &Read) -> i64 {
        let first = [TrackKind::Video, TrackKind::Audio].into_iter().find_map(|kind| samples(read, kind).next());
        first.map_or(self.end, |sample| sample.dts + self.shift)
    }

    /// Everything before the media: `ftyp`, `moov`, and the header of `mdat`.
    pub fn head(&self) -> Result<Vec<u8>, MovieError> {
        if self.order.is_empty() {
            return Err(MovieError::Empty);
        }
        let ftyp = Ftyp {
            major_brand: b"isom".into(),
            minor_version: 0,
            compatible_brands: vec![b"isom".into(), b"iso2".into(), b"avc1".into(), b"mp41".into()],
        };
        let mut head = Vec::new();
        encode(&ftyp, &mut head);
        let before = head.len();
        // Offsets are 64 bits wide whatever they are: measure first, then write.
        encode(&self.moov(0), &mut head);
        let media_at = head.len() as u64 + MDAT_HEADER;
        head.truncate(before);
        encode(&self.moov(media_at), &mut head);
        let media: u64 = self.tracks().flat_map(|track| &track.chunks).map(|chunk| chunk.bytes).sum();
        head.extend(1u32.to_be_bytes());
        head.extend(b"mdat");
        head.extend((MDAT_HEADER + media).to_be_bytes());
        Ok(head)
    }

    fn tracks(&self) -> impl Iterator<Item = &Track> {
        self.video.iter().chain(&self.audio)
    }

    fn moov(&self, media_at: u64) -> Moov {
        let mut offsets = [Vec::new(), Vec::new()];
        let mut at = media_at;
        let mut chunks = [&self.video, &self.audio].map(|track| track.iter().flat_map(|track| &track.chunks));
        for kind in &self.order {
            let track = usize::from(*kind == TrackKind::Audio);
            offsets[track].push(at);
            at += chunks[track].next().map_or(0, |chunk| chunk.bytes);
        }
        let [video, audio] = offsets;
        let duration = self.tracks().map(|track| track.end().cast_unsigned()).max().unwrap_or(0);
        let trak = self.video.iter().zip([video]).chain(self.audio.iter().zip([audio]));
        Moov {
            mvhd: Mvhd {
                timescale: TICKS_PER_SECOND as u32,
                duration,
                next_track_id: AUDIO_TRACK + 1,
                ..Mvhd::default()
            },
            trak: trak.map(|(track, offsets)| track.trak(offsets)).collect(),
            ..Moov::default()
        }
    }
}

fn composition(sample: &Sample) -> i64 {
    i64::from(sample.composition)
}

/// A timestamp as it is counted near another: those of MPEG-TS begin anew, others are never far.
fn near(timestamp: i64, other: i64) -> i64 {
    match timestamp - other {
        distance if distance > FAR => timestamp - WRAP,
        distance if distance < -FAR => timestamp + WRAP,
        _ => timestamp,
    }
}

fn trak(tracks: &Tracks, kind: TrackKind) -> Option<Trak> {
    match kind {
        TrackKind::Video => tracks.video.as_deref().map(video_track),
        TrackKind::Audio => tracks.audio.as_deref().map(audio_track),
    }
}

impl Track {
    fn new(trak: Trak) -> Self {
        Self { trak, entries: Vec::new(), samples: Vec::new(), chunks: Vec::new(), first: 0, last: 0 }
    }

    /// Where the last sample ends; it lasts as long as the one before.
    fn end(&self) -> i64 {
        self.last + self.samples.last().map_or(0, |sample| i64::from(sample.duration))
    }

    /// sample_description_index of how a track is decoded, from one.
    fn entry(&mut self, trak: &Trak) -> u32 {
        let entries = &trak.mdia.minf.stbl.stsd.codecs;
        let known = self.entries.iter().position(|entry| entries.first() == Some(entry));
        let index = known.unwrap_or_else(|| {
            self.entries.extend(entries.iter().take(1).cloned());
            self.entries.len() - 1
        });
        index as u32 + 1
    }

    fn push(&mut self, sample: &Sample, dts: i64) -> Result<(), MovieError> {
        if self.samples.len() == MAX_SAMPLES {
            return Err(MovieError::TooLong);
        }
        let mut dts = dts.max(0);
        let mut duration = 1;
        if let Some(before) = self.samples.last_mut() {
            // Decode times rise strictly; where a gap ends they may have to be pushed for it.
            dts = dts.max(self.last + 1);
            before.duration = u32::try_from(dts - self.last).unwrap_or(u32::MAX);
            duration = before.duration;
        } else {
            self.first = dts;
        }
        self.last = dts;
        // A sample is bounded far below 4 GiB.
        let size = sample.data.len() as u32;
        let (composition, random_access) = (sample.composition, sample.random_access);
        self.samples.push(Stored { size, duration, composition, random_access });
        Ok(())
    }

    fn trak(&self, offsets: Vec<u64>) -> Trak {
        let mut trak = self.trak.clone();
        let media = (self.end() - self.first).cast_unsigned();
        trak.tkhd.duration = self.end().cast_unsigned();
        trak.mdia.mdhd.duration = media;
        trak.edts = (self.first > 0).then(|| {
            let edit = |segment_duration, media_time| ElstEntry { segment_duration, media_time, media_rate: 1.into() };
            let entries = vec![edit(self.first.cast_unsigned(), None), edit(media, Some(0))];
            Edts { elst: Some(Elst { entries }) }
        });
        let stbl = &mut trak.mdia.minf.stbl;
        stbl.stsd.codecs.clone_from(&self.entries);
        self.tables(stbl);
        stbl.stco = None;
        stbl.co64 = Some(Co64 { entries: offsets });
        trak
    }

    fn tables(&self, stbl: &mut Stbl) {
        let durations = self.samples.chunk_by(|a, b| a.duration == b.duration);
        let entries = durations.map(|run| SttsEntry { sample_count: run.len() as u32, sample_delta: run[0].duration });
        stbl.stts = Stts { entries: entries.collect() };
        let compositions = self.samples.chunk_by(|a, b| a.composition == b.composition);
        let entries = compositions
            .map(|run| CttsEntry { sample_count: run.len() as u32, sample_offset: i64::from(run[0].composition) });
        let is_composed = self.samples.iter().any(|sample| sample.composition != 0);
        stbl.ctts = is_composed.then(|| Ctts { entries: entries.collect() });
        // Without the box every sample is one at which decoding can start (8.6.2).
        let starts = self.samples.iter().zip(1..).filter(|(sample, _)| sample.random_access);
        let all = self.samples.iter().all(|sample| sample.random_access);
        stbl.stss = (!all).then(|| Stss { entries: starts.map(|(_, number)| number).collect() });
        let sizes = self.samples.iter().map(|sample| sample.size).collect();
        stbl.stsz = Stsz { samples: StszSamples::Different { sizes } };
        let runs = self.chunks.iter().zip(1..).collect::<Vec<_>>();
        let runs = runs.chunk_by(|(a, _), (b, _)| a.samples == b.samples && a.entry == b.entry);
        let entries = runs.map(|run| StscEntry {
            first_chunk: run[0].1,
            samples_per_chunk: run[0].0.samples,
            sample_description_index: run[0].0.entry,
        });
        stbl.stsc = Stsc { entries: entries.collect() };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::avc::tests::RECORD;
    use crate::{AacConfig, AvcConfig};
    use mp4_atom::{Atom, Decode, Header};
    use std::sync::Arc;

    const SECOND: i64 = TICKS_PER_SECOND;

    /// A second of audio frames of a tenth each.
    fn second(from: i64, fill: u8) -> Read {
        let config = AacConfig::parse(Bytes::from_static(&[0x12, 0x10])).expect("valid");
        let sample = |n: i64| Sample {
            kind: TrackKind::Audio,
            dts: from + n * SECOND / 10,
            composition: 0,
            random_access: true,
            data: vec![fill; 10 + n as usize].into(),
        };
        Read { tracks: Tracks { video: None, audio: Some(Arc::new(config)) }, samples: (0..10).map(sample).collect() }
    }

    fn moov(head: &[u8]) -> Moov {
        let mut rest = head;
        loop {
            let header = Header::decode(&mut rest).expect("a box");
            let (mut body, after) = rest.split_at(header.size.expect("a size"));
            if header.kind == Moov::KIND {
                return Moov::decode_body(&mut body).expect("moov");
            }
            rest = after;
        }
    }

    #[test]
    fn a_gap_lasts_as_long_in_the_file_and_timestamps_that_begin_anew_do_not_show() {
        let mut movie = Movie::default();
        // Two seconds, the second of which crosses the wrap; a gap of three; one second with other timestamps.
        movie.add(&second(WRAP - SECOND, 1), 0, false).expect("short");
        movie.add(&second(0, 2), SECOND, true).expect("short");
        movie.add(&second(70 * SECOND, 3), 5 * SECOND, false).expect("short");
        let head = movie.head().expect("media");
        let moov = moov(&head);
        let stbl = &moov.trak[0].mdia.minf.stbl;
        let (step, to_the_end) = (SECOND as u32 / 10, 3 * SECOND as u32);
        let durations: Vec<_> = stbl.stts.entries.iter().map(|run| (run.sample_count, run.sample_delta)).collect();
        assert_eq!(durations, [(19, step), (1, step + to_the_end), (10, step)]);
        assert_eq!(moov.mvhd.duration, 6 * SECOND.cast_unsigned());
        // Chunks lie one after the other behind the head.
        let chunk = (10..20).sum::<u64>();
        let offsets = &stbl.co64.as_ref().expect("offsets").entries;
        assert_eq!(*offsets, [0, 1, 2].map(|n| head.len() as u64 + n * chunk));
        assert_eq!(payload(&second(0, 2)).map(|data| data.len() as u64).sum::<u64>(), chunk);
    }

    /// A second of ten pictures.
    fn pictures(from: i64) -> Read {
        let config = AvcConfig::parse(Bytes::from_static(&RECORD)).expect("valid");
        let Read { samples, .. } = second(from, 1);
        let samples = samples.into_iter().map(|sample| Sample { kind: TrackKind::Video, ..sample }).collect();
        Read { tracks: Tracks { video: Some(Arc::new(config)), audio: None }, samples }
    }

    #[test]
    fn what_begins_anew_soon_after_a_gap_is_not_kept_waiting_for_as_long_as_the_gap() {
        let mut movie = Movie::default();
        movie.add(&pictures(0), 0, false).expect("short");
        // Nine seconds are missing; then the encoder goes on, and another one comes.
        movie.add(&pictures(10 * SECOND), 10 * SECOND, true).expect("short");
        movie.add(&pictures(0), 11 * SECOND, false).expect("short");
        let moov = moov(&movie.head().expect("media"));
        assert_eq!(moov.mvhd.duration, 12 * SECOND.cast_unsigned());
        let stts = &moov.trak[0].mdia.minf.stbl.stts;
        let (step, gap) = (SECOND as u32 / 10, 9 * SECOND as u32);
        let durations: Vec<_> = stts.entries.iter().map(|run| (run.sample_count, run.sample_delta)).collect();
        assert_eq!(durations, [(9, step), (1, step + gap), (20, step)]);
    }

    #[test]
    fn of_two_segments_with_a_picture_each_the_last_is_shown_as_long_as_the_first() {
        let mut movie = Movie::default();
        let step = SECOND / 10;
        for n in 0..2 {
            let Read { tracks, mut samples } = pictures(n * step);
            samples.truncate(1);
            movie.add(&Read { tracks, samples }, n * step, false).expect("short");
        }
        let moov = moov(&movie.head().expect("media"));
        let stts = &moov.trak[0].mdia.minf.stbl.stts;
        let durations: Vec<_> = stts.entries.iter().map(|run| (run.sample_count, run.sample_delta)).collect();
        assert_eq!(durations, [(2, step as u32)]);
    }

    #[test]
    fn a_recording_without_media_is_no_movie() {
        let mut movie = Movie::default();
        movie.add(&Read::default(), 0, false).expect("nothing to add");
        assert_eq!(movie.head(), Err(MovieError::Empty));
    }
}
