//! MPEG-TS (ISO/IEC 13818-1): one program, H.264 and AAC in ADTS, one PES packet an access unit.
//!
//! One access unit a PES packet costs some stuffing for audio and keeps every timestamp exact.

use crate::codec::avc::nal_type;
use crate::sample::{TrackKind, Tracks};
use crate::segment::TimedSample;
use crate::{AacConfig, AvcConfig};
use memory::FileWriter;
use std::ops::Deref;

/// Bytes of a transport stream packet.
pub const PACKET_LEN: usize = 188;
const PMT_PID: u16 = 0x1000;
pub(crate) const VIDEO_PID: u16 = 0x100;
pub(crate) const AUDIO_PID: u16 = 0x101;
/// How far the program clock runs behind decode time, ticks: half a second for the other track to arrive.
const PCR_LEAD: i64 = 45_000;
const START_CODE: [u8; 4] = [0, 0, 0, 1];
/// Access unit delimiter, any slice type (ISO/IEC 14496-10, 7.3.2.4); MPEG-TS requires one an access unit.
const AUD: [u8; 6] = [0, 0, 0, 1, 9, 0xF0];

/// Writes packets; continuity counters go on from segment to segment.
#[derive(Debug, Clone, Default)]
pub struct Muxer {
    pat: u8,
    pmt: u8,
    video: u8,
    audio: u8,
}

/// What the first packet of a PES packet says besides its payload.
#[derive(Clone, Copy)]
struct Lead {
    pid: u16,
    random_access: bool,
    pcr: Option<i64>,
}

/// Bytes of a field of one or the other length, the longer at most `N`.
struct Field<const N: usize> {
    bytes: [u8; N],
    length: usize,
}

impl<const N: usize> Deref for Field<N> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes[..self.length]
    }
}

impl Muxer {
    /// PAT and PMT, due at the start of every segment (RFC 8216 section 3.2).
    pub fn tables(&mut self, tracks: &Tracks, out: &mut FileWriter) {
        let pat = [0, 1, 0xE0 | (PMT_PID >> 8) as u8, PMT_PID as u8];
        section(0, 0x00, &pat, &mut self.pat, out);
        let pcr = if tracks.video.is_some() { VIDEO_PID } else { AUDIO_PID };
        let mut pmt = vec![0xE0 | (pcr >> 8) as u8, pcr as u8, 0xF0, 0];
        let video = tracks.video.iter().map(|_| (0x1B, VIDEO_PID));
        let audio = tracks.audio.iter().map(|_| (0x0F, AUDIO_PID));
        for (stream_type, pid) in video.chain(audio) {
            pmt.extend([stream_type, 0xE0 | (pid >> 8) as u8, pid as u8, 0xF0, 0]);
        }
        section(PMT_PID, 0x02, &pmt, &mut self.pmt, out);
    }

    /// One access unit, if its track is in `tracks`.
    pub fn sample(&mut self, tracks: &Tracks, timed: &TimedSample, out: &mut FileWriter) {
        match (timed.sample.kind, &tracks.video, &tracks.audio) {
            (TrackKind::Video, Some(config), _) => self.video(config, timed, out),
            (TrackKind::Audio, video, Some(config)) => self.audio(config, timed, video.is_none(), out),
            (TrackKind::Video, None, _) | (TrackKind::Audio, _, None) => {}
        }
    }

    fn video(&mut self, config: &AvcConfig, timed: &TimedSample, out: &mut FileWriter) {
        let sample = &timed.sample;
        let units = || config.nal_units(&sample.data).filter(|unit| unit[0] & 0x1F != nal_type::AUD);
        let with_sets = sample.random_access && !units().any(|unit| unit[0] & 0x1F == nal_type::SPS);
        let sets = config.sps.iter().chain(&config.pps).filter(|_| with_sets).map(|set| &set[..]);
        let pts = sample.dts + i64::from(sample.composition);
        let header = pes_header(0xE0, pts, Some(sample.dts), 0);
        let after_start_codes = sets.chain(units());
        let length: usize = after_start_codes.clone().map(|unit| START_CODE.len() + unit.len()).sum();
        let lead = Lead { pid: VIDEO_PID, random_access: sample.random_access, pcr: Some(sample.dts - PCR_LEAD) };
        let mut packets = Packets::new(lead, header.len() + AUD.len() + length, &mut self.video, out);
        packets.put(&header);
        packets.put(&AUD);
        for unit in after_start_codes {
            packets.put(&START_CODE);
            packets.put(unit);
        }
    }

    fn audio(&mut self, config: &AacConfig, timed: &TimedSample, carries_clock: bool, out: &mut FileWriter) {
        let sample = &timed.sample;
        // A frame too long for ADTS cannot be said in MPEG-TS; `Intake` refuses such frames.
        let Ok(adts) = config.adts_header(sample.data.len()) else { return };
        let lead = Lead { pid: AUDIO_PID, random_access: true, pcr: carries_clock.then_some(sample.dts - PCR_LEAD) };
        let payload = adts.len() + sample.data.len();
        let header = pes_header(0xC0, sample.dts, None, payload);
        let mut packets = Packets::new(lead, header.len() + payload, &mut self.audio, out);
        packets.put(&header);
        packets.put(&adts);
        packets.put(&sample.data);
    }
}

/// PES header with PTS, and DTS where given (2.4.3.6). `payload` 0 leaves the length open, allowed for video.
fn pes_header(stream_id: u8, pts: i64, dts: Option<i64>, payload: usize) -> Field<19> {
    let stamps = if dts.is_some() { 10 } else { 5 };
    let length = if payload == 0 { 0 } else { u16::try_from(payload + 3 + stamps).unwrap_or(0) };
    let mut bytes = [0; 19];
    bytes[..6].copy_from_slice(&[0, 0, 1, stream_id, (length >> 8) as u8, length as u8]);
    bytes[6..9].copy_from_slice(&[0x84, if dts.is_some() { 0xC0 } else { 0x80 }, stamps as u8]);
    bytes[9..14].copy_from_slice(&timestamp(if dts.is_some() { 3 } else { 2 }, pts));
    if let Some(dts) = dts {
        bytes[14..].copy_from_slice(&timestamp(1, dts));
    }
    Field { bytes, length: 9 + stamps }
}

/// 33 bits in five bytes with marker bits.
fn timestamp(prefix: u8, ticks: i64) -> [u8; 5] {
    [
        prefix << 4 | (ticks >> 29) as u8 & 0x0E | 1,
        (ticks >> 22) as u8,
        (ticks >> 14) as u8 | 1,
        (ticks >> 7) as u8,
        (ticks << 1) as u8 | 1,
    ]
}

/// A PES packet on its way into transport stream packets (2.4.3.2), the last one stuffed.
struct Packets<'a> {
    lead: Lead,
    counter: &'a mut u8,
    out: &'a mut FileWriter,
    /// Bytes for packets that are not begun.
    remaining: usize,
    /// Room in the packet that is begun.
    room: usize,
}

impl<'a> Packets<'a> {
    /// Begins a PES packet of so many bytes, all of which must be put.
    fn new(lead: Lead, length: usize, counter: &'a mut u8, out: &'a mut FileWriter) -> Self {
        let mut packets = Self { lead, counter, out, remaining: length, room: 0 };
        packets.begin(&adaptation_flags(lead), true);
        packets
    }

    fn put(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.room == 0 {
                self.begin(&[], false);
            }
            let (now, later) = bytes.split_at(self.room.min(bytes.len()));
            self.out.put(now);
            (bytes, self.room) = (later, self.room - now.len());
        }
    }

    fn begin(&mut self, flags: &[u8], is_first: bool) {
        debug_assert!(self.remaining > 0, "more was put than was said");
        let most = PACKET_LEN - 4 - if flags.is_empty() { 0 } else { 1 + flags.len() };
        self.room = self.remaining.min(most);
        self.remaining -= self.room;
        packet_header(self.lead.pid, is_first, self.counter, flags, most - self.room, self.out);
    }
}

/// Flags byte and PCR of an adaptation field; empty if there is nothing to say (2.4.3.5).
fn adaptation_flags(lead: Lead) -> Field<7> {
    let mut bytes = [0; 7];
    bytes[0] = u8::from(lead.random_access) << 6 | u8::from(lead.pcr.is_some()) << 4;
    if let Some(pcr) = lead.pcr {
        let base = pcr & 0x1_FFFF_FFFF;
        // 33 bits, six reserved ones, and nine of the extension.
        bytes[1..].copy_from_slice(&(base.cast_unsigned() << 15 | 0x7E00).to_be_bytes()[2..]);
    }
    let length = if lead.pcr.is_some() { 7 } else { usize::from(lead.random_access) };
    Field { bytes, length }
}

/// The four header bytes and the adaptation field, grown by `stuffing` bytes.
fn packet_header(pid: u16, start: bool, counter: &mut u8, flags: &[u8], stuffing: usize, out: &mut FileWriter) {
    let adaptation = !flags.is_empty() || stuffing > 0;
    let control = 0x10 | u8::from(adaptation) << 5 | *counter;
    *counter = (*counter + 1) & 0x0F;
    let header = [0x47, u8::from(start) << 6 | (pid >> 8) as u8, pid as u8, control];
    // Most packets have nothing else.
    if !adaptation {
        return out.put(&header);
    }
    let mut bytes = [0xFF; PACKET_LEN];
    bytes[..4].copy_from_slice(&header);
    let length = if flags.is_empty() {
        // The length byte itself is the first byte of stuffing, the flags byte the second.
        bytes[4] = (stuffing - 1) as u8;
        if stuffing > 1 {
            bytes[5] = 0;
        }
        4 + stuffing
    } else {
        bytes[4] = (flags.len() + stuffing) as u8;
        bytes[5..5 + flags.len()].copy_from_slice(flags);
        5 + flags.len() + stuffing
    };
    out.put(&bytes[..length]);
}

/// One program-specific section in a packet of its own (2.4.4).
fn section(pid: u16, table_id: u8, body: &[u8], counter: &mut u8, out: &mut FileWriter) {
    let length = 5 + body.len() + 4;
    let mut packet = Vec::with_capacity(PACKET_LEN);
    packet.extend([0x47, 0x40 | (pid >> 8) as u8, pid as u8, 0x10 | *counter, 0]);
    *counter = (*counter + 1) & 0x0F;
    let begins = packet.len();
    packet.extend([table_id, 0xB0 | (length >> 8) as u8, length as u8, 0, 1, 0xC1, 0, 0]);
    packet.extend(body);
    packet.extend(crc32(&packet[begins..]).to_be_bytes());
    debug_assert!(packet.len() <= PACKET_LEN, "a section in a packet of its own");
    packet.resize(PACKET_LEN, 0xFF);
    out.put(&packet);
}

/// CRC of Annex A.
fn crc32(bytes: &[u8]) -> u32 {
    bytes.iter().fold(u32::MAX, |crc, byte| {
        (0..8).fold(crc ^ u32::from(*byte) << 24, |crc, _| crc << 1 ^ if crc >> 31 == 1 { 0x04C1_1DB7 } else { 0 })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Sample;
    use crate::codec::avc::tests::RECORD;
    use bytes::Bytes;
    use mpeg2ts::ts::{ReadTsPacket, TsPacketReader, TsPayload};
    use proptest::prelude::*;
    use std::sync::Arc;

    fn tracks() -> Tracks {
        Tracks {
            video: Some(Arc::new(AvcConfig::parse(Bytes::from_static(&RECORD)).expect("valid"))),
            audio: Some(Arc::new(AacConfig::parse(Bytes::from_static(&[0x12, 0x10])).expect("valid"))),
        }
    }

    fn written(out: FileWriter) -> Bytes {
        out.finish().to_bytes()
    }

    fn timed(kind: TrackKind, dts: i64, random_access: bool, data: Vec<u8>) -> TimedSample {
        TimedSample { sample: Sample { kind, dts, composition: 0, random_access, data: data.into() }, duration: 3600 }
    }

    fn unit(length: usize) -> Vec<u8> {
        [(length as u32).to_be_bytes().to_vec(), vec![0x65], (1..length).map(|n| n as u8).collect()].concat()
    }

    /// Reads with mpeg2ts: PES payloads by PID, and that counters are continuous.
    fn demux(bytes: &[u8]) -> Vec<(u16, Vec<u8>)> {
        let mut reader = TsPacketReader::new(bytes);
        let mut units: Vec<(u16, Vec<u8>)> = Vec::new();
        let mut counters = std::collections::HashMap::new();
        while let Some(packet) = reader.read_ts_packet().expect("valid packet") {
            let pid = packet.header.pid.as_u16();
            let counter = packet.header.continuity_counter.as_u8();
            let last = counters.insert(pid, counter);
            assert!(last.is_none_or(|last| (last + 1) & 15 == counter), "continuity of {pid}");
            match packet.payload {
                Some(TsPayload::PesStart(pes)) => units.push((pid, pes.data.to_vec())),
                Some(TsPayload::PesContinuation(data)) => {
                    units.iter_mut().rev().find(|unit| unit.0 == pid).expect("started").1.extend_from_slice(&data);
                }
                _ => {}
            }
        }
        units
    }

    #[test]
    fn a_second_segment_continues_the_counters() {
        let (tracks, mut muxer, mut out) = (tracks(), Muxer::default(), FileWriter::expecting(0));
        for segment in 0..2 {
            muxer.tables(&tracks, &mut out);
            for n in 0..20 {
                let dts = 900_000 + segment * 180_000 + n * 3600;
                muxer.sample(&tracks, &timed(TrackKind::Video, dts, n == 0, unit(500)), &mut out);
                muxer.sample(&tracks, &timed(TrackKind::Audio, dts, true, vec![5; 300]), &mut out);
            }
        }
        assert_eq!(out.len() % PACKET_LEN, 0);
        assert_eq!(demux(&written(out)).len(), 80);
    }

    #[test]
    fn parameter_sets_precede_a_random_access_point_once() {
        let (tracks, mut muxer, mut out) = (tracks(), Muxer::default(), FileWriter::expecting(0));
        muxer.tables(&tracks, &mut out);
        muxer.sample(&tracks, &timed(TrackKind::Video, 900_000, true, unit(9)), &mut out);
        let video = tracks.video.as_ref().expect("video");
        let expected =
            [&AUD[..], &START_CODE, &video.sps[0], &START_CODE, &video.pps[0], &START_CODE, &unit(9)[4..]].concat();
        assert_eq!(demux(&written(out))[0].1, expected);
    }

    #[test]
    fn adaptation_fields_say_where_decoding_can_start_and_what_time_it_is() {
        let flags = |random_access, pcr| adaptation_flags(Lead { pid: 0, random_access, pcr }).to_vec();
        assert!(flags(false, None).is_empty());
        assert_eq!(flags(true, None), [0x40]);
        assert_eq!(flags(false, Some(0)), [0x10, 0, 0, 0, 0, 0x7E, 0]);
        assert_eq!(flags(true, Some(0x1_2345_6789)), [0x50, 0x91, 0xA2, 0xB3, 0xC4, 0xFE, 0]);
        assert_eq!(flags(true, Some(0x1_FFFF_FFFF)), [0x50, 0xFF, 0xFF, 0xFF, 0xFF, 0xFE, 0]);
        assert_eq!(flags(true, Some(0x2_0000_0001)), flags(true, Some(1)), "33 bits");
        assert_eq!(flags(true, Some(-1)), flags(true, Some(0x1_FFFF_FFFF)));
    }

    #[test]
    fn a_frame_of_sound_lies_in_its_packet_as_it_should() {
        let (tracks, mut muxer, mut out) = (tracks(), Muxer::default(), FileWriter::expecting(0));
        muxer.sample(&tracks, &timed(TrackKind::Audio, 0x1_2345_6789, true, vec![5; 100]), &mut out);
        let out = written(out);
        // Header; adaptation field of 188 - 4 - 1 - 14 - 107 bytes, a flags byte and stuffing.
        assert_eq!(out[..7], [0x47, 0x41, 0x01, 0x30, 62, 0x40, 0xFF]);
        assert!(out[7..67].iter().all(|byte| *byte == 0xFF));
        // PES packet of 3 + 5 + 107 bytes; PTS only.
        assert_eq!(out[67..81], [0, 0, 1, 0xC0, 0, 115, 0x84, 0x80, 5, 0x29, 0x8D, 0x15, 0xCF, 0x13]);
        assert_eq!((out[81], out[88], out.len()), (0xFF, 5, PACKET_LEN));
    }

    proptest! {
        #[test]
        fn every_size_is_packed_and_read_back(video in 1usize..800, audio in 1usize..800, dts in 0i64..0x1_FFFF_FFFF) {
            let (tracks, mut muxer, mut out) = (tracks(), Muxer::default(), FileWriter::expecting(0));
            muxer.tables(&tracks, &mut out);
            muxer.sample(&tracks, &timed(TrackKind::Video, dts, false, unit(video)), &mut out);
            muxer.sample(&tracks, &timed(TrackKind::Audio, dts, true, vec![5; audio]), &mut out);
            prop_assert_eq!(out.len() % PACKET_LEN, 0);
            let units = demux(&written(out));
            prop_assert_eq!(&units[0].1, &[&AUD[..], &START_CODE, &unit(video)[4..]].concat());
            prop_assert_eq!(units[1].1.len(), audio + 7);
        }
    }
}
