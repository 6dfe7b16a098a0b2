//! Transport streams (ISO/IEC 13818-1), as `mpegts` writes them: one access unit a PES packet.

use super::{Read, Unreadable};
use crate::codec::aac::ADTS_HEADER_LEN;
use crate::codec::avc::nal_type;
use crate::mpegts::{AUDIO_PID, PACKET_LEN, VIDEO_PID};
use crate::sample::{Sample, TrackKind};
use crate::{AacConfig, AvcConfig};
use bytes::Bytes;
use std::sync::Arc;

/// Bytes of a PES header before its optional fields (2.4.3.6).
const PES_HEADER: usize = 9;
/// Timestamps have this many bits, and begin anew.
const TIMESTAMP_BITS: u32 = 33;

/// Reads a segment.
pub fn transport_stream(segment: &Bytes) -> Result<Read, Unreadable> {
    let mut read = Read::default();
    let mut open: [Unit; 2] = Default::default();
    if !segment.len().is_multiple_of(PACKET_LEN) {
        return Err(Unreadable("its length is no multiple of 188"));
    }
    for packet in segment.chunks_exact(PACKET_LEN) {
        let part = part(packet)?;
        let track = match part.pid {
            VIDEO_PID => 0,
            AUDIO_PID => 1,
            _ => continue,
        };
        if part.starts {
            read.finish(track, &open[track])?;
            open[track] = Unit { bytes: Vec::new(), random_access: part.random_access };
        }
        open[track].bytes.extend_from_slice(part.payload);
    }
    for (track, unit) in open.iter().enumerate() {
        read.finish(track, unit)?;
    }
    Ok(read)
}

/// A PES packet, as far as it was read.
#[derive(Default)]
struct Unit {
    bytes: Vec<u8>,
    random_access: bool,
}

/// What a packet has of a PES packet.
struct Part<'a> {
    pid: u16,
    starts: bool,
    random_access: bool,
    payload: &'a [u8],
}

/// Reads a packet (2.4.3.2) and its adaptation field (2.4.3.4).
fn part(packet: &[u8]) -> Result<Part<'_>, Unreadable> {
    if packet[0] != 0x47 {
        return Err(Unreadable("a packet without its sync byte"));
    }
    let length = if packet[3] & 0x20 == 0 { None } else { Some(usize::from(packet[4])) };
    let payload = packet.get(4 + length.map_or(0, |length| length + 1)..);
    Ok(Part {
        pid: u16::from_be_bytes([packet[1] & 0x1F, packet[2]]),
        starts: packet[1] & 0x40 != 0,
        random_access: length.is_some_and(|length| length > 0) && packet[5] & 0x40 != 0,
        payload: payload.ok_or(Unreadable("an adaptation field beyond its packet"))?,
    })
}

impl Read {
    fn finish(&mut self, track: usize, unit: &Unit) -> Result<(), Unreadable> {
        let Unit { bytes: unit, random_access } = unit;
        // Nothing came before the first of a track.
        if unit.is_empty() {
            return Ok(());
        }
        if unit.len() < PES_HEADER || unit[..3] != [0, 0, 1] {
            return Err(Unreadable("a PES packet without its start code"));
        }
        let (flags, data) = (unit[7] >> 6, PES_HEADER + usize::from(unit[8]));
        let pts = timestamp(unit.get(9..14));
        let dts = if flags == 3 { timestamp(unit.get(14..19)) } else { pts };
        let (Some(pts), Some(dts), Some(data)) = (pts, dts, unit.get(data..)) else {
            return Err(Unreadable("a PES packet without its timestamps"));
        };
        if track == 0 { self.video(pts, dts, *random_access, data) } else { self.audio(dts, data) }
    }

    fn video(&mut self, pts: i64, dts: i64, random_access: bool, data: &[u8]) -> Result<(), Unreadable> {
        let units = nal_units(data);
        let of = |kind: u8| units.iter().filter(move |unit| unit[0] & 0x1F == kind).copied();
        if let (Some(sps), Some(pps)) = (of(nal_type::SPS).next(), of(nal_type::PPS).next()) {
            let config = AvcConfig::parse(record(sps, pps)).map_err(|_| Unreadable("parameter sets"))?;
            self.tracks.video = Some(Arc::new(config));
        }
        // What a record says need not be said in samples (ISO/IEC 14496-15, 5.3.3).
        let said = [nal_type::AUD, nal_type::SPS, nal_type::PPS];
        let kept = units.iter().filter(|unit| !said.contains(&(unit[0] & 0x1F)));
        // Units are slices of a segment, which is bounded far below 4 GiB.
        let data: Vec<u8> =
            kept.flat_map(|unit| (unit.len() as u32).to_be_bytes().into_iter().chain(unit.iter().copied())).collect();
        // Both are 33 bits of larger numbers, and are never far from each other.
        let shift = 64 - TIMESTAMP_BITS;
        let composition = ((pts - dts) << shift) >> shift;
        let composition = i32::try_from(composition).map_err(|_| Unreadable("PTS far from DTS"))?;
        self.samples.push(Sample { kind: TrackKind::Video, dts, composition, random_access, data: data.into() });
        Ok(())
    }

    fn audio(&mut self, dts: i64, data: &[u8]) -> Result<(), Unreadable> {
        let (header, frame) = data.split_at_checked(ADTS_HEADER_LEN).ok_or(Unreadable("an ADTS frame cut short"))?;
        if self.tracks.audio.is_none() {
            let config = AacConfig::of_adts(header).map_err(|_| Unreadable("an ADTS header"))?;
            self.tracks.audio = Some(Arc::new(config));
        }
        let data = Bytes::copy_from_slice(frame);
        self.samples.push(Sample { kind: TrackKind::Audio, dts, composition: 0, random_access: true, data });
        Ok(())
    }
}

/// 33 bits in five bytes with marker bits.
fn timestamp(bytes: Option<&[u8]>) -> Option<i64> {
    let [a, b, c, d, e] = *bytes?.first_chunk()?;
    let bits = [(a >> 1 & 7, 3), (b, 8), (c >> 1, 7), (d, 8), (e >> 1, 7)];
    Some(bits.into_iter().fold(0, |value, (bits, width)| value << width | i64::from(bits)))
}

/// NAL units between start codes (ISO/IEC 14496-10, annex B). Units are not empty.
fn nal_units(data: &[u8]) -> Vec<&[u8]> {
    let mut starts: Vec<usize> = Vec::new();
    let mut at = 0;
    while let Some(code) = data.get(at..at + 3) {
        if code == [0, 0, 1] {
            starts.push(at + 3);
            at += 3;
        } else {
            // No start code can begin before what is not zero.
            at += if code[2] > 1 { 3 } else { 1 };
        }
    }
    let ends = starts.iter().skip(1).map(|next| next - 3).chain([data.len()]);
    let units = starts.iter().zip(ends).map(|(start, end)| {
        let unit = &data[*start..end];
        // trailing_zero_8bits, or the first byte of a start code of four.
        let zeros = unit.iter().rev().take_while(|byte| **byte == 0).count();
        &unit[..unit.len() - zeros]
    });
    units.filter(|unit| !unit.is_empty()).collect()
}

/// An AVCDecoderConfigurationRecord with lengths of four bytes (ISO/IEC 14496-15, 5.3.3.1).
fn record(sps: &[u8], pps: &[u8]) -> Bytes {
    let mut record = vec![1];
    record.extend(sps.get(1..4).unwrap_or(&[0; 3]));
    record.extend([0xFF, 0xE1]);
    record.extend((sps.len() as u16).to_be_bytes());
    record.extend(sps);
    record.push(1);
    record.extend((pps.len() as u16).to_be_bytes());
    record.extend(pps);
    record.into()
}
