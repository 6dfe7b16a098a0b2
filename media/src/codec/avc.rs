//! H.264: AVCDecoderConfigurationRecord (ISO/IEC 14496-15, 5.3.3.1) and length-prefixed NAL units.

use super::CodecError;
use bytes::Bytes;
use h264_reader::nal::sps::SeqParameterSet;
use h264_reader::nal::{Nal, RefNal};

const MALFORMED: CodecError = CodecError::Malformed("AVCDecoderConfigurationRecord");
/// Largest width and height of level 6.2, rounded up.
const MAX_DIMENSION: u32 = 16_384;
/// Frame rates beyond this are a lie of the stream's timing information.
const MAX_FRAME_RATE: f64 = 480.0;

/// NAL unit types (ISO/IEC 14496-10, table 7-1).
pub mod nal_type {
    /// Sequence parameter set.
    pub const SPS: u8 = 7;
    /// Picture parameter set.
    pub const PPS: u8 = 8;
    /// Access unit delimiter.
    pub const AUD: u8 = 9;
}

/// How to decode the video samples that follow.
#[derive(Debug, Clone, PartialEq)]
pub struct AvcConfig {
    /// The record as sent.
    pub record: Bytes,
    /// Bytes of each NAL unit's length: 1, 2 or 4.
    pub nal_length_size: usize,
    /// Sequence parameter sets.
    pub sps: Vec<Bytes>,
    /// Picture parameter sets.
    pub pps: Vec<Bytes>,
    /// Width in pixels after cropping.
    pub width: u16,
    /// Height in pixels after cropping.
    pub height: u16,
    /// Frames a second, if the stream says so.
    pub frame_rate: Option<f64>,
}

/// Two configurations are the same if their records are: all else derives from it.
impl Eq for AvcConfig {}

impl AvcConfig {
    /// Reads a record.
    pub fn parse(record: Bytes) -> Result<Self, CodecError> {
        if record.len() < 7 || record[0] != 1 {
            return Err(MALFORMED);
        }
        let nal_length_size = usize::from(record[4] & 3) + 1;
        let mut at = 6;
        let sps = parameter_sets(&record, &mut at, usize::from(record[5] & 0x1F))?;
        let pps_count = usize::from(*record.get(at).ok_or(MALFORMED)?);
        at += 1;
        let pps = parameter_sets(&record, &mut at, pps_count)?;
        let first = sps.first().ok_or(MALFORMED)?;
        if nal_length_size == 3 || pps.is_empty() || first.len() < 4 {
            return Err(MALFORMED);
        }
        let parsed = SeqParameterSet::from_bits(RefNal::new(first, &[], true).rbsp_bits()).map_err(|_| MALFORMED)?;
        let (width, height) = parsed.pixel_dimensions().map_err(|_| MALFORMED)?;
        if width == 0 || height == 0 || width > MAX_DIMENSION || height > MAX_DIMENSION {
            return Err(MALFORMED);
        }
        Ok(Self {
            nal_length_size,
            width: width as u16,
            height: height as u16,
            frame_rate: parsed.fps().filter(|fps| (1.0..=MAX_FRAME_RATE).contains(fps)),
            record,
            sps,
            pps,
        })
    }

    /// RFC 6381 codec string, from the first SPS: `avc1.PPCCLL`.
    pub fn codec_string(&self) -> String {
        let sps = &self.sps[0];
        format!("avc1.{:02x}{:02x}{:02x}", sps[1], sps[2], sps[3])
    }

    /// The NAL units of a sample. Ends early where a length runs past the sample's end.
    pub fn nal_units<'a>(&self, sample: &'a [u8]) -> NalUnits<'a> {
        NalUnits { rest: sample, length_size: self.nal_length_size }
    }
}

/// Iterator over length-prefixed NAL units; empty ones are skipped.
#[derive(Debug, Clone)]
pub struct NalUnits<'a> {
    rest: &'a [u8],
    length_size: usize,
}

impl<'a> Iterator for NalUnits<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        loop {
            let (prefix, rest) = self.rest.split_at_checked(self.length_size)?;
            let length = prefix.iter().fold(0usize, |length, byte| length << 8 | usize::from(*byte));
            let (unit, rest) = rest.split_at_checked(length)?;
            self.rest = rest;
            if !unit.is_empty() {
                return Some(unit);
            }
        }
    }
}

fn parameter_sets(record: &Bytes, at: &mut usize, count: usize) -> Result<Vec<Bytes>, CodecError> {
    let mut sets = Vec::new();
    for _ in 0..count {
        let length = record.get(*at..*at + 2).ok_or(MALFORMED)?;
        let length = usize::from(u16::from_be_bytes([length[0], length[1]]));
        let range = *at + 2..*at + 2 + length;
        if range.end > record.len() {
            return Err(MALFORMED);
        }
        *at = range.end;
        sets.push(record.slice(range));
    }
    Ok(sets)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// What x264 writes for 640x360, 30 frames a second, High profile, level 3.0.
    pub(crate) const RECORD: [u8; 47] = [
        1, 0x64, 0, 0x1e, 0xff, 0xe1, 0, 0x1a, 0x67, 0x64, 0x00, 0x1e, 0xac, 0xd9, 0x40, 0xa0, 0x2f, 0xf9, 0x70, 0x11,
        0x00, 0x00, 0x03, 0x00, 0x01, 0x00, 0x00, 0x03, 0x00, 0x3c, 0x0f, 0x16, 0x2d, 0x96, 1, 0, 6, 0x68, 0xeb, 0xe3,
        0xcb, 0x22, 0xc0, 0xfd, 0xf8, 0xf8, 0,
    ];

    #[test]
    fn an_x264_record_is_read() {
        let config = AvcConfig::parse(Bytes::from_static(&RECORD)).expect("valid record");
        assert_eq!((config.width, config.height, config.nal_length_size), (640, 360, 4));
        assert_eq!(config.frame_rate, Some(30.0));
        assert_eq!(config.codec_string(), "avc1.64001e");
    }

    #[test]
    fn every_truncation_is_an_error() {
        for length in 0..41 {
            let cut = Bytes::copy_from_slice(&RECORD[..length]);
            assert!(AvcConfig::parse(cut).is_err(), "{length} bytes");
        }
    }

    #[test]
    fn nal_units_are_split_and_a_lying_length_ends_them() {
        let config = AvcConfig::parse(Bytes::from_static(&RECORD)).expect("valid record");
        let sample = [0, 0, 0, 2, 9, 0xF0, 0, 0, 0, 0, 0, 0, 0, 1, 0x65, 0xFF, 0xFF, 0xFF, 0xFF, 1];
        assert_eq!(config.nal_units(&sample).collect::<Vec<_>>(), [&[9, 0xF0][..], &[0x65]]);
    }

    proptest! {
        #[test]
        fn mutated_records_never_panic(index in 0usize..47, value: u8, length in 0usize..48) {
            let mut record = RECORD.to_vec();
            record[index] = value;
            record.truncate(length);
            let _ = AvcConfig::parse(record.into());
        }
    }
}
