//! AAC: AudioSpecificConfig (ISO/IEC 14496-3, 1.6.2.1) and ADTS headers (1.A.2.2).

use super::CodecError;
use bytes::Bytes;

const MALFORMED: CodecError = CodecError::Malformed("AudioSpecificConfig");
/// samplingFrequencyIndex (ISO/IEC 14496-3, table 1.18), hertz.
const SAMPLE_RATES: [u32; 13] =
    [96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000, 7350];
/// Audio object types (ISO/IEC 14496-3, table 1.17).
const SBR: u8 = 5;
const PS: u8 = 29;
/// Longest frame an ADTS header can announce, bytes.
const MAX_ADTS_FRAME: usize = 0x1FFF;
/// Length of an ADTS header without CRC, bytes.
pub const ADTS_HEADER_LEN: usize = 7;

/// How to decode the audio samples that follow.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AacConfig {
    /// The AudioSpecificConfig as sent.
    pub config: Bytes,
    /// Audio object type as signalled: 2 is LC, 5 HE, 29 HE v2.
    pub object_type: u8,
    /// Object type of the core coder.
    pub core_object_type: u8,
    /// Sampling rate of the core coder, hertz. HE plays at twice this.
    pub core_sample_rate: u32,
    /// Channels of the core coder, 1 to 8.
    pub channels: u8,
    /// channelConfiguration.
    pub channel_configuration: u8,
    /// Samples in a frame at the core rate: 1024 or 960.
    pub frame_samples: u32,
}

impl AacConfig {
    /// Reads an AudioSpecificConfig.
    pub fn parse(config: Bytes) -> Result<Self, CodecError> {
        let mut bits = Bits { bytes: &config, at: 0 };
        let object_type = bits.object_type()?;
        let core_sample_rate = bits.sample_rate()?;
        let channel_configuration = bits.take(4)? as u8;
        let mut core_object_type = object_type;
        if object_type == SBR || object_type == PS {
            bits.sample_rate()?;
            core_object_type = bits.object_type()?;
        }
        if !matches!(core_object_type, 1..=4) {
            return Err(CodecError::Unsupported(format!("AAC audio object type {core_object_type}")));
        }
        let channels = match channel_configuration {
            0 => return Err(CodecError::Unsupported("AAC with a program config element".to_owned())),
            1..=6 => channel_configuration,
            7 => 8,
            _ => return Err(MALFORMED),
        };
        let frame_samples = if bits.take(1)? == 1 { 960 } else { 1024 };
        Ok(Self {
            config,
            object_type,
            core_object_type,
            core_sample_rate,
            channels,
            channel_configuration,
            frame_samples,
        })
    }

    /// The config an ADTS header stands for.
    pub fn of_adts(header: &[u8]) -> Result<Self, CodecError> {
        let [0xFF, _, third, fourth, ..] = *header else { return Err(MALFORMED) };
        let (object_type, rate) = ((third >> 6) + 1, third >> 2 & 0x0F);
        let channels = (third & 1) << 2 | fourth >> 6;
        Self::parse(Bytes::copy_from_slice(&[object_type << 3 | rate >> 1, rate << 7 | channels << 3]))
    }

    /// RFC 6381 codec string.
    pub fn codec_string(&self) -> String {
        format!("mp4a.40.{}", self.object_type)
    }

    /// Duration of a frame in ticks of 1/90000 s, rounded.
    pub fn frame_ticks(&self) -> i64 {
        let ticks = u64::from(self.frame_samples) * 90_000;
        let rate = u64::from(self.core_sample_rate);
        ((ticks + rate / 2) / rate) as i64
    }

    /// ADTS header of a frame. The nearest rate stands in where ADTS has no index for ours.
    pub fn adts_header(&self, frame_len: usize) -> Result<[u8; ADTS_HEADER_LEN], CodecError> {
        let length = frame_len + ADTS_HEADER_LEN;
        if length > MAX_ADTS_FRAME {
            return Err(CodecError::Malformed("AAC frame (longer than ADTS allows)"));
        }
        let rate = self.core_sample_rate;
        let nearest =
            (0..SAMPLE_RATES.len()).min_by_key(|index| SAMPLE_RATES[*index].abs_diff(rate)).unwrap_or(4) as u8;
        let (profile, channels) = (self.core_object_type - 1, self.channel_configuration);
        Ok([
            0xFF,
            0xF1,
            profile << 6 | nearest << 2 | channels >> 2,
            (channels & 3) << 6 | (length >> 11) as u8,
            (length >> 3) as u8,
            ((length & 7) << 5) as u8 | 0x1F,
            0xFC,
        ])
    }
}

struct Bits<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl Bits<'_> {
    fn take(&mut self, count: usize) -> Result<u32, CodecError> {
        let mut value = 0;
        for _ in 0..count {
            let byte = self.bytes.get(self.at / 8).ok_or(MALFORMED)?;
            value = value << 1 | u32::from(byte >> (7 - self.at % 8) & 1);
            self.at += 1;
        }
        Ok(value)
    }

    fn object_type(&mut self) -> Result<u8, CodecError> {
        Ok(match self.take(5)? {
            31 => 32 + self.take(6)? as u8,
            object_type => object_type as u8,
        })
    }

    fn sample_rate(&mut self) -> Result<u32, CodecError> {
        let rate = match self.take(4)? {
            15 => self.take(24)?,
            index => *SAMPLE_RATES.get(index as usize).ok_or(MALFORMED)?,
        };
        if (7350..=96_000).contains(&rate) { Ok(rate) } else { Err(MALFORMED) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(bytes: &[u8]) -> Result<AacConfig, CodecError> {
        AacConfig::parse(Bytes::copy_from_slice(bytes))
    }

    #[test]
    fn lc_he_and_he_v2_are_told_apart() {
        for (bytes, codec, rate, channels) in [
            (&[0x12, 0x10][..], "mp4a.40.2", 44100, 2),
            (&[0x11, 0x90], "mp4a.40.2", 48000, 2),
            (&[0x2B, 0x11, 0x88, 0x00], "mp4a.40.5", 24000, 2),
            (&[0xEB, 0x09, 0x88, 0x00], "mp4a.40.29", 24000, 1),
        ] {
            let config = parse(bytes).expect("valid config");
            assert_eq!(
                (config.codec_string().as_str(), config.core_sample_rate, config.channels),
                (codec, rate, channels)
            );
            assert_eq!(config.core_object_type, 2);
        }
    }

    #[test]
    fn what_cannot_be_packaged_is_named() {
        let main_480 = parse(&[0xF8, 0xE6, 0x20, 0x00]).expect_err("ELD or USAC");
        assert!(main_480.to_string().contains("audio object type"), "{main_480}");
        assert!(parse(&[0x12, 0x00]).expect_err("PCE").to_string().contains("program config"));
        assert_eq!(parse(&[]), Err(MALFORMED));
        assert_eq!(parse(&[0x16, 0x90]), Err(MALFORMED));
    }

    #[test]
    fn an_adts_header_describes_its_frame() {
        let header = parse(&[0x12, 0x10]).expect("valid").adts_header(200).expect("fits");
        assert_eq!(header, [0xFF, 0xF1, 0x50, 0x80, 0x19, 0xFF, 0xFC]);
        assert_eq!(AacConfig::of_adts(&header), parse(&[0x12, 0x10]));
        assert_eq!(AacConfig::of_adts(&[0xFF]), Err(MALFORMED));
        assert!(parse(&[0x12, 0x10]).expect("valid").adts_header(0x1FFF).is_err());
    }

    #[test]
    fn a_frame_lasts_what_its_samples_do() {
        assert_eq!(parse(&[0x11, 0x90]).expect("48 kHz").frame_ticks(), 1920);
        assert_eq!(parse(&[0x12, 0x10]).expect("44.1 kHz").frame_ticks(), 2090);
    }

    proptest! {
        #[test]
        fn random_configs_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..12)) {
            let _ = parse(&bytes);
        }
    }
}
