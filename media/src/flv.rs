//! FLV tag bodies as RTMP carries them (FLV 10.1, E.4.2 and E.4.3; Enhanced RTMP, ExVideoTagHeader and ExAudioTagHeader).

use crate::codec::CodecError;
use crate::sample::TrackKind;
use bytes::Bytes;
use thiserror::Error;

/// Body of a video message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum VideoTag {
    /// An AVCDecoderConfigurationRecord.
    SequenceHeader(Bytes),
    /// An access unit.
    CodedFrames {
        /// The encoder says decoding can start here.
        key_frame: bool,
        /// Composition time offset, milliseconds; 24 bits with sign.
        composition_ms: i32,
        /// Length-prefixed NAL units.
        data: Bytes,
    },
    /// Nothing to package: end of sequence, command frames, metadata, empty tags.
    Ignored,
}

/// Body of an audio message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AudioTag {
    /// An AudioSpecificConfig.
    SequenceHeader(Bytes),
    /// A raw AAC frame.
    CodedFrames(Bytes),
    /// Nothing to package.
    Ignored,
}

/// Length of the file header and of the first back pointer (E.2, E.3).
const FILE_HEADER: usize = 13;
/// Length of a tag's header, and of the back pointer after it (E.4.1).
const TAG_HEADER: usize = 11;
const BACK_POINTER: usize = 4;

/// The bytes are no FLV file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum FileError {
    /// They do not begin like one.
    #[error("it is not an FLV file; make one with ffmpeg -i FILE -c:v libx264 -bf 0 -c:a aac slate.flv")]
    NotFlv,
    /// A tag is longer than the file.
    #[error("it is cut short")]
    CutShort,
}

/// A tag of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileTag {
    /// Whose it is.
    pub kind: TrackKind,
    /// Milliseconds.
    pub timestamp: u32,
    /// As a message would carry it.
    pub body: Bytes,
}

/// Audio and video tags of a file (E.2).
pub fn file(bytes: &Bytes) -> Result<Vec<FileTag>, FileError> {
    if !bytes.starts_with(b"FLV") || bytes.len() < FILE_HEADER {
        return Err(FileError::NotFlv);
    }
    let (mut at, mut tags) = (FILE_HEADER, Vec::new());
    while let Some(header) = bytes.get(at..at + TAG_HEADER) {
        let length = u32::from_be_bytes([0, header[1], header[2], header[3]]) as usize;
        let timestamp = u32::from_be_bytes([header[7], header[4], header[5], header[6]]);
        let kind = match header[0] & 0x1F {
            8 => Some(TrackKind::Audio),
            9 => Some(TrackKind::Video),
            _ => None,
        };
        let (from, to) = (at + TAG_HEADER, at + TAG_HEADER + length);
        if to > bytes.len() {
            return Err(FileError::CutShort);
        }
        tags.extend(kind.map(|kind| FileTag { kind, timestamp, body: bytes.slice(from..to) }));
        at = to + BACK_POINTER;
    }
    Ok(tags)
}

/// Reads the body of a video message.
pub fn video(body: &Bytes) -> Result<VideoTag, CodecError> {
    let Some(&first) = body.first() else { return Ok(VideoTag::Ignored) };
    if first & 0x80 != 0 {
        return enhanced_video(body, first);
    }
    let (frame_type, codec) = (first >> 4, first & 0x0F);
    if frame_type == 5 {
        // Video info or command frame: one byte that tells a player to seek.
        return Ok(VideoTag::Ignored);
    }
    if codec != 7 {
        return Err(CodecError::Unsupported(legacy_video_codec(codec)));
    }
    match body.get(1) {
        Some(0) => Ok(video_header(after(body, 5)?)),
        Some(1) => frames(frame_type, composition(body, 2)?, after(body, 5)?),
        // AVC end of sequence: five bytes with no payload.
        _ => Ok(VideoTag::Ignored),
    }
}

/// Reads the body of an audio message.
pub fn audio(body: &Bytes) -> Result<AudioTag, CodecError> {
    let Some(&first) = body.first() else { return Ok(AudioTag::Ignored) };
    match first >> 4 {
        9 => enhanced_audio(body, first & 0x0F),
        10 => match body.get(1) {
            Some(0) => Ok(audio_header(after(body, 2)?)),
            Some(1) => Ok(coded_audio(after(body, 2)?)),
            _ => Ok(AudioTag::Ignored),
        },
        format => Err(CodecError::Unsupported(legacy_audio_codec(format))),
    }
}

fn enhanced_video(body: &Bytes, first: u8) -> Result<VideoTag, CodecError> {
    let (frame_type, packet_type) = (first >> 4 & 0x07, first & 0x0F);
    if packet_type >= 6 {
        return Err(CodecError::Unsupported("Enhanced RTMP multitrack or ModEx video".to_owned()));
    }
    let four_cc = body.get(1..5).ok_or(CodecError::Malformed("ExVideoTagHeader"))?;
    if four_cc != b"avc1" {
        return Err(CodecError::Unsupported(format!("video codec {}", printable(four_cc))));
    }
    match packet_type {
        0 => Ok(video_header(after(body, 5)?)),
        1 => frames(frame_type, composition(body, 5)?, after(body, 8)?),
        3 => frames(frame_type, 0, after(body, 5)?),
        // SequenceEnd, Metadata and MPEG2TSSequenceStart.
        _ => Ok(VideoTag::Ignored),
    }
}

fn enhanced_audio(body: &Bytes, packet_type: u8) -> Result<AudioTag, CodecError> {
    if packet_type == 5 || packet_type == 7 {
        return Err(CodecError::Unsupported("Enhanced RTMP multitrack or ModEx audio".to_owned()));
    }
    let four_cc = body.get(1..5).ok_or(CodecError::Malformed("ExAudioTagHeader"))?;
    if four_cc != b"mp4a" {
        return Err(CodecError::Unsupported(format!("audio codec {}", printable(four_cc))));
    }
    match packet_type {
        0 => Ok(audio_header(after(body, 5)?)),
        1 => Ok(coded_audio(after(body, 5)?)),
        _ => Ok(AudioTag::Ignored),
    }
}

fn frames(frame_type: u8, composition_ms: i32, data: Bytes) -> Result<VideoTag, CodecError> {
    if data.is_empty() {
        return Ok(VideoTag::Ignored);
    }
    Ok(VideoTag::CodedFrames { key_frame: frame_type == 1, composition_ms, data })
}

/// Some encoders announce a track with an empty header first.
fn video_header(data: Bytes) -> VideoTag {
    if data.is_empty() { VideoTag::Ignored } else { VideoTag::SequenceHeader(data) }
}

fn audio_header(data: Bytes) -> AudioTag {
    if data.is_empty() { AudioTag::Ignored } else { AudioTag::SequenceHeader(data) }
}

fn coded_audio(data: Bytes) -> AudioTag {
    if data.is_empty() { AudioTag::Ignored } else { AudioTag::CodedFrames(data) }
}

fn composition(body: &Bytes, at: usize) -> Result<i32, CodecError> {
    let field = body.get(at..at + 3).ok_or(CodecError::Malformed("video tag header"))?;
    Ok(i32::from_be_bytes([field[0], field[1], field[2], 0]) >> 8)
}

fn after(body: &Bytes, header: usize) -> Result<Bytes, CodecError> {
    if body.len() < header {
        return Err(CodecError::Malformed("tag header"));
    }
    Ok(body.slice(header..))
}

fn printable(four_cc: &[u8]) -> String {
    four_cc.iter().map(|byte| if byte.is_ascii_graphic() { char::from(*byte) } else { '?' }).collect()
}

/// CodecID (FLV 10.1, E.4.3.1); 12 is the HEVC of encoders older than Enhanced RTMP.
fn legacy_video_codec(codec: u8) -> String {
    match codec {
        2 => "Sorenson H.263 video".to_owned(),
        3 | 6 => "Screen video".to_owned(),
        4 | 5 => "VP6 video".to_owned(),
        12 => "HEVC video".to_owned(),
        codec => format!("video codec id {codec}"),
    }
}

/// SoundFormat (FLV 10.1, E.4.2.1).
fn legacy_audio_codec(format: u8) -> String {
    match format {
        0 | 3 => "PCM audio".to_owned(),
        1 => "ADPCM audio".to_owned(),
        2 | 14 => "MP3 audio".to_owned(),
        4..=6 => "Nellymoser audio".to_owned(),
        7 | 8 => "G.711 audio".to_owned(),
        11 => "Speex audio".to_owned(),
        format => format!("audio codec id {format}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use scuffle_flv::video::header::legacy::{LegacyVideoTagHeader, LegacyVideoTagHeaderAvcPacket};
    use scuffle_flv::video::header::{VideoTagHeader, VideoTagHeaderData};

    fn read_video(bytes: &[u8]) -> Result<VideoTag, CodecError> {
        video(&Bytes::copy_from_slice(bytes))
    }

    #[test]
    fn legacy_and_enhanced_h264_are_the_same() {
        let frame = |key_frame, composition_ms| VideoTag::CodedFrames {
            key_frame,
            composition_ms,
            data: Bytes::from_static(&[7]),
        };
        for (bytes, expected) in [
            (&[0x17, 0, 0, 0, 0, 7][..], VideoTag::SequenceHeader(Bytes::from_static(&[7]))),
            (&[0x90, b'a', b'v', b'c', b'1', 7], VideoTag::SequenceHeader(Bytes::from_static(&[7]))),
            (&[0x17, 1, 0, 0, 40, 7], frame(true, 40)),
            (&[0x27, 1, 0xFF, 0xFF, 0xD8, 7], frame(false, -40)),
            (&[0xA1, b'a', b'v', b'c', b'1', 0, 0, 40, 7], frame(false, 40)),
            (&[0x93, b'a', b'v', b'c', b'1', 7], frame(true, 0)),
            (&[0x17, 2, 0, 0, 0], VideoTag::Ignored),
            (&[0x57, 0], VideoTag::Ignored),
            (&[0x17, 1, 0, 0, 0], VideoTag::Ignored),
            (&[], VideoTag::Ignored),
        ] {
            assert_eq!(read_video(bytes), Ok(expected), "{bytes:?}");
        }
    }

    #[test]
    fn a_codec_that_cannot_be_packaged_is_named() {
        for (bytes, name) in [
            (&[0x1C, 0, 0, 0, 0][..], "HEVC"),
            (&[0x12, 0], "Sorenson"),
            (&[0x90, b'h', b'v', b'c', b'1'], "hvc1"),
            (&[0x96, 0], "multitrack"),
        ] {
            assert!(read_video(bytes).expect_err("unsupported").to_string().contains(name), "{name}");
        }
        for (bytes, name) in [(&[0x2F, 0][..], "MP3"), (&[0x90, b'O', b'p', b'u', b's'], "Opus"), (&[0xB2], "Speex")] {
            assert!(
                audio(&Bytes::copy_from_slice(bytes)).expect_err("unsupported").to_string().contains(name),
                "{name}"
            );
        }
    }

    #[test]
    fn aac_is_read() {
        for (bytes, expected) in [
            (&[0xAF, 0, 0x12, 0x10][..], AudioTag::SequenceHeader(Bytes::from_static(&[0x12, 0x10]))),
            (&[0xAF, 1, 5], AudioTag::CodedFrames(Bytes::from_static(&[5]))),
            (&[0x91, b'm', b'p', b'4', b'a', 5], AudioTag::CodedFrames(Bytes::from_static(&[5]))),
            (&[0xAF, 1], AudioTag::Ignored),
            (&[0xAF], AudioTag::Ignored),
        ] {
            assert_eq!(audio(&Bytes::copy_from_slice(bytes)), Ok(expected), "{bytes:?}");
        }
    }

    proptest! {
        #[test]
        fn random_tags_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..40)) {
            let body = Bytes::from(bytes);
            let _ = (video(&body), audio(&body));
        }

        #[test]
        fn scuffle_reads_the_same_composition_times(key_frame: bool, composition in 0u32..0x80_0000, data in prop::collection::vec(any::<u8>(), 1..9)) {
            let header = [if key_frame { 0x17 } else { 0x27 }, 1, (composition >> 16) as u8, (composition >> 8) as u8, composition as u8];
            let body = Bytes::from([&header[..], &data].concat());
            let theirs = VideoTagHeader::demux(&mut std::io::Cursor::new(body.clone())).expect("valid tag");
            let nalu = LegacyVideoTagHeaderAvcPacket::Nalu { composition_time_offset: composition };
            prop_assert_eq!(theirs.data, VideoTagHeaderData::Legacy(LegacyVideoTagHeader::AvcPacket(nalu)));
            let ours = VideoTag::CodedFrames { key_frame, composition_ms: composition as i32, data: data.into() };
            prop_assert_eq!(video(&body), Ok(ours));
        }
    }
}
