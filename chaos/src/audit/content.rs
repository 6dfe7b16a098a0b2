//! What a Media Segment holds, as libraries read it that our server is not written with (MPEG-TS), and as its
//! boxes say (CMAF). `tests/auditor.rs` holds both against ffprobe.

use anyhow::{Context, bail, ensure};
use mp4_atom::{Any, DecodeMaybe, Moof, Moov};
use mpeg2ts::ts::{ReadTsPacket, TsPacketReader, TsPayload};
use std::collections::BTreeMap;
use std::io::Cursor;

/// MPEG-TS timestamps count to here and begin anew.
const TS_WRAP: i64 = 1 << 33;
const TS_SECOND: f64 = 90_000.0;

/// The samples of one track of a segment, in seconds.
#[derive(Debug, Clone, PartialEq)]
pub struct Track {
    /// Video, as opposed to audio.
    pub video: bool,
    /// Decode time of the first sample.
    pub start: f64,
    /// Where the last sample ends; in MPEG-TS, which has no durations, where it usually would.
    pub end: f64,
    /// Usual duration of a sample.
    pub step: f64,
    /// Samples.
    pub samples: usize,
    /// It begins with a random access point.
    pub random_access: bool,
}

/// A segment, read.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Content {
    /// By track id, or by PID.
    pub tracks: BTreeMap<u32, Track>,
    /// First and last continuity counter by PID (MPEG-TS).
    pub counters: BTreeMap<u16, (u8, u8)>,
    /// Timestamps begin anew here, seconds; zero if they never do.
    pub wrap: f64,
}

impl Content {
    /// The track that leads: video, if there is one.
    pub fn leading(&self) -> Option<&Track> {
        self.tracks.values().find(|track| track.video).or_else(|| self.tracks.values().next())
    }

    /// `later` minus `earlier`, across a wrap.
    pub fn distance(&self, earlier: f64, later: f64) -> f64 {
        let distance = later - earlier;
        if self.wrap == 0.0 {
            return distance;
        }
        distance - (distance / self.wrap).round() * self.wrap
    }
}

/// Reads a segment; `init` is its initialization section, if it has one.
pub fn read(segment: &[u8], init: Option<&[u8]>) -> anyhow::Result<Content> {
    match init {
        Some(init) => read_cmaf(segment, init),
        None => read_ts(segment),
    }
}

/// What the initialization section says of a track.
pub(super) struct Known {
    /// Video, as opposed to audio.
    pub(super) video: bool,
    timescale: f64,
    duration: u32,
    flags: u32,
}

fn read_cmaf(segment: &[u8], init: &[u8]) -> anyhow::Result<Content> {
    let moov = boxes(init)?.into_iter().find_map(|found| if let Any::Moov(moov) = found { Some(moov) } else { None });
    let known = tracks_of(&moov.context("the initialization section has no moov")?);
    let mut content = Content::default();
    let mut fragments = 0;
    for found in boxes(segment)? {
        if let Any::Moof(moof) = found {
            fragments += 1;
            add_fragment(&mut content, &moof, &known)?;
        }
    }
    ensure!(fragments > 0, "no movie fragment");
    Ok(content)
}

/// All boxes of a file.
pub(super) fn boxes(bytes: &[u8]) -> anyhow::Result<Vec<Any>> {
    let (mut rest, mut found) = (bytes, Vec::new());
    while !rest.is_empty() {
        let Some(next) = Any::decode_maybe(&mut rest)? else { bail!("a box is cut short") };
        found.push(next);
    }
    Ok(found)
}

/// Tracks by their id.
pub(super) fn tracks_of(moov: &Moov) -> BTreeMap<u32, Known> {
    let defaults = |id| moov.mvex.iter().flat_map(|mvex| &mvex.trex).find(move |trex| trex.track_id == id);
    let tracks = moov.trak.iter().map(|trak| {
        let id = trak.tkhd.track_id;
        let known = Known {
            video: trak.mdia.hdlr.handler == b"vide".into(),
            timescale: f64::from(trak.mdia.mdhd.timescale.max(1)),
            duration: defaults(id).map_or(0, |trex| trex.default_sample_duration),
            flags: defaults(id).map_or(0, |trex| trex.default_sample_flags),
        };
        (id, known)
    });
    tracks.collect()
}

/// sample_is_non_sync_sample (ISO/IEC 14496-12, 8.8.3.1).
const NON_SYNC: u32 = 0x0001_0000;

fn add_fragment(content: &mut Content, moof: &Moof, known: &BTreeMap<u32, Known>) -> anyhow::Result<()> {
    for traf in &moof.traf {
        let id = traf.tfhd.track_id;
        let track = known.get(&id).with_context(|| format!("track {id} is not in the initialization section"))?;
        let start = traf.tfdt.as_ref().context("a track fragment has no tfdt")?.base_media_decode_time as f64;
        let (mut ticks, mut samples, mut first_flags) = (0u64, 0, None);
        for entry in traf.trun.iter().flat_map(|trun| trun.samples.iter()) {
            let duration = entry.duration.or(traf.tfhd.default_sample_duration).unwrap_or(track.duration);
            first_flags.get_or_insert(entry.flags.or(traf.tfhd.default_sample_flags).unwrap_or(track.flags));
            ticks += u64::from(duration);
            samples += 1;
        }
        let (start, length) = (start / track.timescale, ticks as f64 / track.timescale);
        let whole = content.tracks.entry(id).or_insert_with(|| Track {
            video: track.video,
            start,
            end: start,
            step: 0.0,
            samples: 0,
            random_access: first_flags.is_some_and(|flags| flags & NON_SYNC == 0),
        });
        // Fragments of a segment follow one another without a gap; half a sample is rounding.
        ensure!(
            (start - whole.end).abs() <= whole.step.max(0.001) / 2.0,
            "track {id}: a fragment begins at {start} s and the one before ended at {} s",
            whole.end
        );
        whole.end = start + length;
        whole.samples += samples;
        whole.step = (whole.end - whole.start) / whole.samples.max(1) as f64;
    }
    Ok(())
}

#[derive(Default)]
struct Stream {
    video: bool,
    decode_times: Vec<i64>,
    random_access: bool,
}

fn read_ts(segment: &[u8]) -> anyhow::Result<Content> {
    ensure!(segment.len().is_multiple_of(188), "{} bytes are no whole transport stream packets", segment.len());
    let mut reader = TsPacketReader::new(Cursor::new(segment));
    let mut streams: BTreeMap<u16, Stream> = BTreeMap::new();
    let mut content = Content { wrap: TS_WRAP as f64 / TS_SECOND, ..Content::default() };
    let (mut pat, mut pmt) = (false, false);
    while let Some(packet) = reader.read_ts_packet()? {
        let pid = packet.header.pid.as_u16();
        if packet.payload.is_some() {
            count(&mut content, pid, packet.header.continuity_counter.as_u8())?;
        }
        let random_access = packet.adaptation_field.is_some_and(|field| field.random_access_indicator);
        match packet.payload {
            Some(TsPayload::Pat(_)) => pat = true,
            Some(TsPayload::Pmt(_)) => pmt = true,
            Some(TsPayload::PesStart(pes)) => {
                ensure!(pat && pmt, "media comes before the PAT and the PMT");
                let stream = streams.entry(pid).or_default();
                let decode_time = pes.header.dts.or(pes.header.pts).context("a PES packet has no timestamp")?;
                stream.random_access |= stream.decode_times.is_empty() && random_access;
                stream.video = pes.header.stream_id.is_video();
                stream.decode_times.push(decode_time.as_u64() as i64);
            }
            _ => {}
        }
    }
    ensure!(!streams.is_empty(), "no media");
    content.tracks = streams.into_iter().map(|(pid, stream)| (u32::from(pid), stream.track())).collect();
    Ok(content)
}

fn count(content: &mut Content, pid: u16, counter: u8) -> anyhow::Result<()> {
    let (_, last) = content.counters.entry(pid).or_insert((counter, counter.wrapping_sub(1) & 15));
    ensure!((*last + 1) & 15 == counter, "PID {pid}: continuity counter {counter} follows {last}");
    *last = counter;
    Ok(())
}

impl Stream {
    fn track(self) -> Track {
        let times = &self.decode_times;
        let unwrap = |time: i64| if time < times[0] - TS_WRAP / 2 { time + TS_WRAP } else { time };
        let (first, last) = (times[0], unwrap(times[times.len() - 1]));
        let step = (last - first) as f64 / TS_SECOND / (times.len() - 1).max(1) as f64;
        let (start, end) = (first as f64 / TS_SECOND, last as f64 / TS_SECOND + step);
        Track { video: self.video, start, end, step, samples: times.len(), random_access: self.random_access }
    }
}
