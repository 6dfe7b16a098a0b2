//! The pictures of a Media Segment, byte for byte as an encoder sent them over RTMP: NAL units with their lengths
//! before them (ISO/IEC 14496-15, 5.3.4.2), whatever the container has made of them.

use super::content::{boxes, tracks_of};
use anyhow::{Context, bail};
use mp4_atom::{Any, DecodeMaybe};
use mpeg2ts::pes::{PesPacketReader, ReadPesPacket};
use mpeg2ts::ts::TsPacketReader;
use std::borrow::Cow;
use std::io::Cursor;

/// NAL unit types that MPEG-TS has in the stream and CMAF in the initialization section, as RTMP has them in the
/// decoder configuration: parameter sets; and delimiters, which RTMP has none of (ISO/IEC 14496-10, table 7-1).
const NOT_IN_SAMPLES: [u8; 3] = [7, 8, 9];

/// The access units of the video track, in decode order; `init` is the initialization section, if there is one.
pub fn pictures<'a>(segment: &'a [u8], init: Option<&[u8]>) -> anyhow::Result<Vec<Cow<'a, [u8]>>> {
    match init {
        Some(init) => of_cmaf(segment, init),
        None => of_ts(segment),
    }
}

fn of_cmaf<'a>(segment: &'a [u8], init: &[u8]) -> anyhow::Result<Vec<Cow<'a, [u8]>>> {
    let moov = boxes(init)?.into_iter().find_map(|found| if let Any::Moov(moov) = found { Some(moov) } else { None });
    let known = tracks_of(&moov.context("the initialization section has no moov")?);
    let (mut rest, mut pictures) = (segment, Vec::new());
    while !rest.is_empty() {
        let moof_at = segment.len() - rest.len();
        let Some(found) = Any::decode_maybe(&mut rest)? else { bail!("a box is cut short") };
        let Any::Moof(moof) = found else { continue };
        let video = moof.traf.iter().filter(|traf| known.get(&traf.tfhd.track_id).is_some_and(|track| track.video));
        for run in video.flat_map(|traf| &traf.trun) {
            let offset = usize::try_from(run.data_offset.context("a run without its offset")?)?;
            let mut at = moof_at + offset;
            for entry in run.samples.iter() {
                let end = at + entry.size.context("a sample without size")? as usize;
                pictures.push(segment.get(at..end).context("a sample beyond the end")?.into());
                at = end;
            }
        }
    }
    Ok(pictures)
}

fn of_ts(segment: &[u8]) -> anyhow::Result<Vec<Cow<'static, [u8]>>> {
    let mut reader = PesPacketReader::new(TsPacketReader::new(Cursor::new(segment)));
    let mut pictures = Vec::new();
    while let Some(packet) = reader.read_pes_packet()? {
        if packet.header.stream_id.is_video() {
            pictures.push(sample(&packet.data)?.into());
        }
    }
    Ok(pictures)
}

/// A byte stream (ISO/IEC 14496-10, annex B) as a sample.
fn sample(byte_stream: &[u8]) -> anyhow::Result<Vec<u8>> {
    let starts: Vec<_> = byte_stream.windows(3).enumerate().filter(|(_, code)| *code == [0, 0, 1]).collect();
    let ends = starts.iter().skip(1).map(|(at, _)| *at).chain([byte_stream.len()]);
    let mut sample = Vec::with_capacity(byte_stream.len() + starts.len());
    for ((at, _), end) in starts.iter().zip(ends) {
        let unit = &byte_stream[at + 3..end];
        // Zeros after a unit belong to the next start code.
        let unit = &unit[..unit.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1)];
        let kind = unit.first().context("an empty NAL unit")? & 0x1f;
        if !NOT_IN_SAMPLES.contains(&kind) {
            sample.extend(u32::try_from(unit.len())?.to_be_bytes());
            sample.extend(unit);
        }
    }
    Ok(sample)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_byte_stream_becomes_the_sample_it_was() {
        let key = [0, 0, 0, 1, 9, 0xf0, 0, 0, 0, 1, 0x67, 1, 0, 0, 0, 1, 0x68, 2, 0, 0, 1, 0x65, 3, 4, 0, 0, 1, 6, 5];
        assert_eq!(sample(&key).expect("a sample"), [0, 0, 0, 3, 0x65, 3, 4, 0, 0, 0, 2, 6, 5]);
        assert!(sample(&[]).expect("an empty one").is_empty());
        assert!(sample(&[0, 0, 1, 0, 0, 1, 0x65]).is_err(), "an empty unit");
    }
}
