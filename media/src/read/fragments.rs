//! Movie fragments (ISO/IEC 14496-12, 8.8), as `cmaf` writes them.

use super::{Read, Unreadable};
use crate::sample::{Sample, TICKS_PER_SECOND, TrackKind, Tracks};
use crate::{AacConfig, AvcConfig};
use bytes::{Buf, Bytes};
use mp4_atom::{Atom, Codec, Decode, FourCC, Header, Moof, Moov, Traf};
use std::sync::Arc;

/// sample_is_non_sync_sample (8.8.3.1).
const NON_SYNC: u32 = 0x0001_0000;
/// Bytes of a box header with a 32-bit size.
const HEADER: usize = 8;

/// Reads a segment and its initialization section.
pub fn fragments(init: &Bytes, segment: &Bytes) -> Result<Read, Unreadable> {
    let moov = boxes(init)?.into_iter().find(|found| found.kind == Moov::KIND);
    let moov = moov.ok_or(Unreadable("the initialization section has no moov"))?;
    let moov = Moov::decode_body(&mut &moov.body[..]).map_err(|_| Unreadable("moov"))?;
    let (tracks, ids) = tracks_of(&moov)?;
    let mut samples = Vec::new();
    for found in boxes(segment)?.iter().filter(|found| found.kind == Moof::KIND) {
        let moof = Moof::decode_body(&mut &found.body[..]).map_err(|_| Unreadable("moof"))?;
        for traf in &moof.traf {
            let id = ids.iter().find(|(id, _)| *id == traf.tfhd.track_id);
            let (_, kind) = *id.ok_or(Unreadable("a track that is not in the initialization section"))?;
            add(&mut samples, kind, traf, segment, found.at)?;
        }
    }
    Ok(Read { tracks, samples })
}

struct Found {
    kind: FourCC,
    at: usize,
    body: Bytes,
}

/// The boxes of a file, one after the other.
fn boxes(file: &Bytes) -> Result<Vec<Found>, Unreadable> {
    let (mut at, mut found) = (0, Vec::new());
    while at < file.len() {
        let mut rest = &file[at..];
        let header = Header::decode(&mut rest).map_err(|_| Unreadable("a box is cut short"))?;
        let body = file.len() - rest.remaining();
        let end = header.size.and_then(|size| body.checked_add(size)).filter(|end| *end <= file.len());
        let end = end.ok_or(Unreadable("a box is cut short"))?;
        found.push(Found { kind: header.kind, at, body: file.slice(body..end) });
        at = end.max(at + HEADER);
    }
    Ok(found)
}

fn tracks_of(moov: &Moov) -> Result<(Tracks, Vec<(u32, TrackKind)>), Unreadable> {
    let (mut tracks, mut ids) = (Tracks::default(), Vec::new());
    for trak in &moov.trak {
        if i64::from(trak.mdia.mdhd.timescale) != TICKS_PER_SECOND {
            return Err(Unreadable("its timescale is not 90000"));
        }
        let kind = match trak.mdia.minf.stbl.stsd.codecs.first() {
            Some(Codec::Avc1(avc1)) => {
                let mut record = Vec::new();
                avc1.avcc.encode_body(&mut record).map_err(|_| Unreadable("avcC"))?;
                let config = AvcConfig::parse(record.into()).map_err(|_| Unreadable("avcC"))?;
                tracks.video = Some(Arc::new(config));
                TrackKind::Video
            }
            Some(Codec::Mp4a(mp4a)) => {
                let specific = mp4a.esds.es_desc.dec_config.dec_specific.as_ref();
                let raw = specific.map(|specific| specific.raw.clone()).unwrap_or_default();
                let config = AacConfig::parse(raw.into()).map_err(|_| Unreadable("AudioSpecificConfig"))?;
                tracks.audio = Some(Arc::new(config));
                TrackKind::Audio
            }
            _ => return Err(Unreadable("a codec that is not ours")),
        };
        ids.push((trak.tkhd.track_id, kind));
    }
    Ok((tracks, ids))
}

/// Samples of a track fragment. `moof_at` is where its moof begins, which data offsets count from.
fn add(
    samples: &mut Vec<Sample>,
    kind: TrackKind,
    traf: &Traf,
    segment: &Bytes,
    moof_at: usize,
) -> Result<(), Unreadable> {
    let tfdt = traf.tfdt.as_ref().ok_or(Unreadable("a track fragment without tfdt"))?;
    let mut dts = i64::try_from(tfdt.base_media_decode_time).map_err(|_| Unreadable("tfdt"))?;
    for trun in &traf.trun {
        let offset = trun.data_offset.and_then(|offset| usize::try_from(offset).ok());
        let mut at = moof_at.saturating_add(offset.ok_or(Unreadable("a run without its offset"))?);
        for entry in trun.samples.iter() {
            let (Some(size), Some(duration)) = (entry.size, entry.duration) else {
                return Err(Unreadable("a sample without size or duration"));
            };
            let end = at.checked_add(size as usize).filter(|end| *end <= segment.len());
            let end = end.ok_or(Unreadable("a sample beyond the end"))?;
            samples.push(Sample {
                kind,
                dts,
                composition: entry.cts.and_then(|offset| i32::try_from(offset).ok()).unwrap_or(0),
                random_access: entry.flags.is_some_and(|flags| flags & NON_SYNC == 0),
                data: segment.slice(at..end),
            });
            (at, dts) = (end, dts.saturating_add(i64::from(duration)));
        }
    }
    Ok(())
}
