//! CMAF (ISO/IEC 23000-19): initialization sections and chunks (moof + mdat), by mp4-atom.

use crate::sample::{TICKS_PER_SECOND, TrackKind, Tracks};
use crate::segment::TimedSample;
use crate::{AacConfig, AvcConfig};
use bytes::Bytes;
use memory::FileWriter;
use mp4_atom::esds::{DecoderConfig, DecoderSpecific, EsDescriptor, SLConfig};
use mp4_atom::{
    Atom, Audio, Avc1, Avcc, Codec, Dinf, Dref, DrefEntry, Encode, Esds, FixedPoint, Ftyp, Hdlr, Mdhd, Mdia, Mfhd,
    Minf, Moof, Moov, Mp4a, Mvex, Mvhd, Smhd, Stbl, Stco, Stsd, Tfdt, Tfhd, Tkhd, Traf, Trak, Trex, Trun, TrunEntry,
    TrunSamples, Url, Visual, Vmhd,
};

/// Track ID of the video track.
const VIDEO_TRACK: u32 = 1;
/// Track ID of the audio track.
pub(crate) const AUDIO_TRACK: u32 = 2;
/// sample_depends_on = 2: an access unit that depends on no other (ISO/IEC 14496-12, 8.6.4.3).
const SYNC_FLAGS: u32 = 0x0200_0000;
/// sample_depends_on = 1 and sample_is_non_sync_sample.
const NON_SYNC_FLAGS: u32 = 0x0101_0000;
/// Bytes of an mdat header.
const MDAT_HEADER: usize = 8;
/// Bytes of a fragment's boxes without its samples' entries, at most: 152 of `moof` with two tracks, and the header of `mdat`.
const FRAGMENT_HEADERS: usize = 160;
/// Bytes of a sample's entry in `trun`: duration, size, flags, composition time.
const SAMPLE_ENTRY: usize = 16;

/// The initialization section (EXT-X-MAP) of a set of tracks.
pub fn init(tracks: &Tracks) -> Bytes {
    let ftyp = Ftyp {
        major_brand: b"iso6".into(),
        minor_version: 0,
        compatible_brands: vec![b"iso6".into(), b"cmfc".into(), b"mp41".into()],
    };
    let video = tracks.video.as_deref().map(video_track);
    let audio = tracks.audio.as_deref().map(audio_track);
    let trak: Vec<Trak> = video.into_iter().chain(audio).collect();
    let trex = trak.iter().map(|trak| Trex {
        track_id: trak.tkhd.track_id,
        default_sample_description_index: 1,
        ..Trex::default()
    });
    let moov = Moov {
        mvhd: Mvhd { timescale: TICKS_PER_SECOND as u32, next_track_id: AUDIO_TRACK + 1, ..Mvhd::default() },
        mvex: Some(Mvex { mehd: None, trex: trex.collect() }),
        trak,
        ..Moov::default()
    };
    let mut out = Vec::new();
    encode(&ftyp, &mut out);
    encode(&moov, &mut out);
    out.into_boxed_slice().into()
}

/// Appends one chunk: a movie fragment and its samples, the video samples first.
///
/// `sequence_number` is mfhd's and rises with every chunk.
pub fn chunk(sequence_number: u32, samples: &[TimedSample], file: &mut FileWriter) {
    let of = |kind: TrackKind| samples.iter().filter(move |timed| timed.sample.kind == kind);
    let (video, audio) = (of(TrackKind::Video), of(TrackKind::Audio));
    let (video_bytes, audio_bytes) = (payload(video.clone()), payload(audio.clone()));
    let tracks = [
        track_fragment(VIDEO_TRACK, video.clone(), MDAT_HEADER),
        track_fragment(AUDIO_TRACK, audio.clone(), MDAT_HEADER + video_bytes),
    ];
    let mut moof = Moof { mfhd: Mfhd { sequence_number }, traf: tracks.into_iter().flatten().collect() };
    // The offsets' width does not depend on their values: measure first, then write.
    let mut head = Vec::with_capacity(FRAGMENT_HEADERS + samples.len() * SAMPLE_ENTRY);
    encode(&moof, &mut head);
    let moof_len = head.len() as i32;
    head.clear();
    for trun in moof.traf.iter_mut().flat_map(|traf| &mut traf.trun) {
        trun.data_offset = trun.data_offset.map(|offset| offset + moof_len);
    }
    encode(&moof, &mut head);
    // A segment is bounded far below 4 GiB (MAX_SEGMENT_BYTES).
    head.extend(((MDAT_HEADER + video_bytes + audio_bytes) as u32).to_be_bytes());
    head.extend(b"mdat");
    file.put(&head);
    for sample in video.chain(audio) {
        file.put(&sample.sample.data);
    }
}

fn payload<'a>(samples: impl Iterator<Item = &'a TimedSample>) -> usize {
    samples.map(|timed| timed.sample.data.len()).sum()
}

pub(crate) fn encode<T: Encode>(atom: &T, out: &mut Vec<u8>) {
    // Encoding into memory fails only for boxes beyond 4 GiB.
    let start = out.len();
    if atom.encode(out).is_err() {
        out.truncate(start);
    }
}

/// A track's part of a fragment; none if it has no sample in it.
fn track_fragment<'a>(
    track_id: u32,
    samples: impl Iterator<Item = &'a TimedSample> + Clone,
    data_at: usize,
) -> Option<Traf> {
    let first = samples.clone().next()?;
    let entries = samples.map(|timed| TrunEntry {
        duration: Some(timed.duration),
        size: Some(timed.sample.data.len() as u32),
        flags: Some(if timed.sample.random_access { SYNC_FLAGS } else { NON_SYNC_FLAGS }),
        cts: (timed.sample.kind == TrackKind::Video).then_some(i64::from(timed.sample.composition)),
    });
    Some(Traf {
        tfhd: Tfhd { track_id, default_base_is_moof: true, ..Tfhd::default() },
        // Timelines start above zero, so that no decode time is negative.
        tfdt: Some(Tfdt { base_media_decode_time: first.sample.dts.max(0).cast_unsigned() }),
        trun: vec![Trun { data_offset: Some(data_at as i32), samples: TrunSamples::Explicit(entries.collect()) }],
        ..Traf::default()
    })
}

pub(crate) fn video_track(config: &AvcConfig) -> Trak {
    let visual = Visual {
        data_reference_index: 1,
        width: config.width,
        height: config.height,
        horizresolution: FixedPoint::new(0x48, 0),
        vertresolution: FixedPoint::new(0x48, 0),
        frame_count: 1,
        depth: 0x18,
        ..Visual::default()
    };
    let codec = Codec::Avc1(Avc1 {
        visual,
        avcc: avcc(config),
        btrt: None,
        colr: None,
        pasp: None,
        taic: None,
        fiel: None,
        spatial: None,
    });
    let tkhd = Tkhd { width: config.width.into(), height: config.height.into(), ..track_header(VIDEO_TRACK) };
    track(tkhd, b"vide", Minf { vmhd: Some(Vmhd::default()), ..media_information(codec) })
}

/// The record as sent, its chroma extension included; by hand if mp4-atom will not have the extension.
fn avcc(config: &AvcConfig) -> Avcc {
    let sps = &config.sps[0];
    Avcc::decode_body(&mut &config.record[..]).unwrap_or_else(|_| Avcc {
        configuration_version: 1,
        avc_profile_indication: sps[1],
        profile_compatibility: sps[2],
        avc_level_indication: sps[3],
        length_size: config.nal_length_size as u8,
        sequence_parameter_sets: config.sps.iter().map(|set| set.to_vec()).collect(),
        picture_parameter_sets: config.pps.iter().map(|set| set.to_vec()).collect(),
        ext: None,
    })
}

pub(crate) fn audio_track(config: &AacConfig) -> Trak {
    let audio = Audio {
        data_reference_index: 1,
        channel_count: u16::from(config.channels),
        sample_size: 16,
        // 16.16 fixed point: rates above 65535 cannot be said here; decoders read the AudioSpecificConfig.
        sample_rate: FixedPoint::new(u16::try_from(config.core_sample_rate).unwrap_or(0), 0),
    };
    let dec_config = DecoderConfig {
        object_type_indication: 0x40,
        stream_type: 5,
        dec_specific: Some(DecoderSpecific { raw: config.config.to_vec(), ..DecoderSpecific::default() }),
        ..DecoderConfig::default()
    };
    let es_desc = EsDescriptor {
        es_id: AUDIO_TRACK as u16,
        dec_config,
        sl_config: SLConfig::default(),
        ..EsDescriptor::default()
    };
    let codec = Codec::Mp4a(Mp4a { audio, esds: Esds { es_desc }, btrt: None, taic: None });
    let tkhd = Tkhd { alternate_group: 1, volume: FixedPoint::new(1, 0), ..track_header(AUDIO_TRACK) };
    track(tkhd, b"soun", Minf { smhd: Some(Smhd::default()), ..media_information(codec) })
}

fn track_header(track_id: u32) -> Tkhd {
    Tkhd { track_id, enabled: true, in_movie: true, ..Tkhd::default() }
}

fn media_information(codec: Codec) -> Minf {
    let stsd = Stsd { codecs: vec![codec] };
    // One entry without a location: the media is in this file (ISO/IEC 14496-12, 8.7.2).
    let dref = Dref { entries: vec![DrefEntry::Url(Url { location: String::new() })] };
    Minf { dinf: Dinf { dref }, stbl: Stbl { stsd, stco: Some(Stco::default()), ..Stbl::default() }, ..Minf::default() }
}

fn track(tkhd: Tkhd, handler: &[u8; 4], minf: Minf) -> Trak {
    let mdhd = Mdhd { timescale: TICKS_PER_SECOND as u32, language: "und".to_owned(), ..Mdhd::default() };
    let hdlr = Hdlr { handler: handler.into(), name: String::new() };
    Trak { tkhd, mdia: Mdia { mdhd, hdlr, minf }, ..Trak::default() }
}
