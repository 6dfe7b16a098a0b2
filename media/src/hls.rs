//! HLS playlists (RFC 8216): live Media Playlists by hand, Multivariant Playlists by m3u8-rs.

use crate::sample::{TICKS_PER_SECOND, Tracks};
use m3u8_rs::{MasterPlaylist, VariantStream};
use std::fmt::Write;
use std::time::{Duration, UNIX_EPOCH};

/// A Media Segment as a playlist lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListedSegment {
    /// URI, relative to the playlist.
    pub uri: String,
    /// URI of its initialization section, if it has one.
    pub map: Option<String>,
    /// Ticks.
    pub duration: i64,
    /// Preceded by EXT-X-DISCONTINUITY.
    pub discontinuity: bool,
    /// Wall clock at its first sample, milliseconds since 1970.
    pub program_date_time_ms: i64,
    /// It cannot be fetched (EXT-X-GAP).
    pub gap: bool,
}

/// What a Media Playlist says besides its segments.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct MediaPlaylist {
    /// EXT-X-TARGETDURATION, seconds.
    pub target_duration: u32,
    /// EXT-X-MEDIA-SEQUENCE: number of the first segment listed.
    pub media_sequence: u64,
    /// EXT-X-DISCONTINUITY-SEQUENCE: discontinuities that have left the playlist.
    pub discontinuity_sequence: u64,
    /// EXT-X-INDEPENDENT-SEGMENTS.
    pub independent_segments: bool,
    /// EXT-X-PLAYLIST-TYPE:VOD: it will not change.
    pub vod: bool,
    /// EXT-X-ENDLIST.
    pub end: bool,
}

impl MediaPlaylist {
    /// The playlist's text (RFC 8216 section 4.3).
    pub fn render<'a>(&self, segments: impl Iterator<Item = &'a ListedSegment> + Clone) -> String {
        let mut text = String::with_capacity(1024);
        let version = if segments.clone().any(|segment| segment.gap) { 8 } else { 6 };
        // Writing to a String cannot fail.
        let _ = write!(
            text,
            "#EXTM3U\n#EXT-X-VERSION:{version}\n#EXT-X-TARGETDURATION:{}\n#EXT-X-MEDIA-SEQUENCE:{}\n",
            self.target_duration, self.media_sequence
        );
        if self.discontinuity_sequence > 0 {
            let _ = writeln!(text, "#EXT-X-DISCONTINUITY-SEQUENCE:{}", self.discontinuity_sequence);
        }
        if self.vod {
            text.push_str("#EXT-X-PLAYLIST-TYPE:VOD\n");
        }
        if self.independent_segments {
            text.push_str("#EXT-X-INDEPENDENT-SEGMENTS\n");
        }
        let mut map = None;
        for segment in segments {
            render_segment(&mut text, segment, segment.map != map);
            map.clone_from(&segment.map);
        }
        if self.end {
            text.push_str("#EXT-X-ENDLIST\n");
        }
        text
    }
}

fn render_segment(text: &mut String, segment: &ListedSegment, new_map: bool) {
    if segment.discontinuity {
        text.push_str("#EXT-X-DISCONTINUITY\n");
    }
    if let Some(map) = segment.map.as_ref().filter(|_| new_map || segment.discontinuity) {
        let _ = writeln!(text, "#EXT-X-MAP:URI=\"{map}\"");
    }
    let _ = writeln!(text, "#EXT-X-PROGRAM-DATE-TIME:{}", date_time(segment.program_date_time_ms));
    if segment.gap {
        text.push_str("#EXT-X-GAP\n");
    }
    let micros = segment.duration.max(0) * 1_000_000 / TICKS_PER_SECOND;
    let _ = writeln!(text, "#EXTINF:{}.{:06},\n{}", micros / 1_000_000, micros % 1_000_000, segment.uri);
}

/// ISO 8601 in UTC with milliseconds (RFC 8216 section 4.3.2.6).
fn date_time(ms: i64) -> String {
    let since_1970 = Duration::from_millis(ms.max(0).unsigned_abs());
    humantime::format_rfc3339_millis(UNIX_EPOCH + since_1970).to_string()
}

/// Bits per second of a rendition, as its segments measure.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Measured {
    /// BANDWIDTH: the peak segment bit rate (RFC 8216 section 4.1).
    pub peak: u64,
    /// AVERAGE-BANDWIDTH.
    pub average: u64,
    /// Frames a second, where the stream itself does not say.
    pub frame_rate: Option<f64>,
}

/// The Multivariant Playlist of one variant (RFC 8216 section 4.3.4.2).
pub fn multivariant(uri: &str, tracks: &Tracks, measured: Measured, independent_segments: bool) -> String {
    let video = tracks.video.as_deref();
    let frame_rate = video.and_then(|config| config.frame_rate.or(measured.frame_rate));
    let variant = VariantStream {
        uri: uri.to_owned(),
        bandwidth: measured.peak,
        average_bandwidth: Some(measured.average),
        codecs: Some(tracks.codecs()),
        resolution: video.map(|c| m3u8_rs::Resolution { width: c.width.into(), height: c.height.into() }),
        // Three decimals at most.
        frame_rate: frame_rate.map(|rate| (rate * 1000.0).round() / 1000.0),
        ..VariantStream::default()
    };
    let playlist =
        MasterPlaylist { version: Some(6), independent_segments, variants: vec![variant], ..MasterPlaylist::default() };
    let mut text = Vec::new();
    // Writing to memory cannot fail.
    let _ = playlist.write_to(&mut text);
    String::from_utf8_lossy(&text).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::avc::tests::RECORD;
    use crate::{AacConfig, AvcConfig};
    use bytes::Bytes;
    use proptest::prelude::*;
    use std::sync::Arc;

    fn listed(sequence: u64) -> ListedSegment {
        ListedSegment {
            uri: format!("0-{sequence}.m4s"),
            map: Some("0-7.mp4".to_owned()),
            duration: 180_180,
            discontinuity: false,
            program_date_time_ms: 1_800_000_000_123,
            gap: false,
        }
    }

    const PLAYLIST: MediaPlaylist = MediaPlaylist {
        target_duration: 2,
        media_sequence: 7,
        discontinuity_sequence: 3,
        independent_segments: true,
        vod: false,
        end: false,
    };

    #[test]
    fn a_playlist_is_rendered_as_the_rfc_says() {
        let mut segments = [listed(7), listed(8), listed(9)];
        segments[1].discontinuity = true;
        segments[2].gap = true;
        let text = MediaPlaylist { end: true, ..PLAYLIST }.render(segments.iter());
        let expected = "#EXTM3U\n#EXT-X-VERSION:8\n#EXT-X-TARGETDURATION:2\n#EXT-X-MEDIA-SEQUENCE:7\n\
            #EXT-X-DISCONTINUITY-SEQUENCE:3\n#EXT-X-INDEPENDENT-SEGMENTS\n\
            #EXT-X-MAP:URI=\"0-7.mp4\"\n#EXT-X-PROGRAM-DATE-TIME:2027-01-15T08:00:00.123Z\n#EXTINF:2.002000,\n0-7.m4s\n\
            #EXT-X-DISCONTINUITY\n#EXT-X-MAP:URI=\"0-7.mp4\"\n#EXT-X-PROGRAM-DATE-TIME:2027-01-15T08:00:00.123Z\n#EXTINF:2.002000,\n0-8.m4s\n\
            #EXT-X-PROGRAM-DATE-TIME:2027-01-15T08:00:00.123Z\n#EXT-X-GAP\n#EXTINF:2.002000,\n0-9.m4s\n#EXT-X-ENDLIST\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn a_multivariant_playlist_names_what_a_player_must_decode() {
        let tracks = Tracks {
            video: Some(Arc::new(AvcConfig::parse(Bytes::from_static(&RECORD)).expect("valid"))),
            audio: Some(Arc::new(AacConfig::parse(Bytes::from_static(&[0x12, 0x10])).expect("valid"))),
        };
        let text =
            multivariant("0.m3u8", &tracks, Measured { peak: 900_000, average: 800_000, frame_rate: None }, true);
        for part in [
            "BANDWIDTH=900000",
            "AVERAGE-BANDWIDTH=800000",
            "CODECS=\"avc1.64001e,mp4a.40.2\"",
            "RESOLUTION=640x360",
            "FRAME-RATE=30",
            "\n0.m3u8\n",
            "#EXT-X-INDEPENDENT-SEGMENTS",
        ] {
            assert!(text.contains(part), "{part} in {text}");
        }
    }

    proptest! {
        #[test]
        fn m3u8_rs_reads_back_what_is_rendered(
            durations in prop::collection::vec((1i64..900_000, any::<bool>()), 1..20),
            media_sequence in 0u64..1 << 40, discontinuity_sequence in 0u64..1 << 40, end: bool,
        ) {
            let segments: Vec<_> = durations.iter().map(|&(duration, discontinuity)| ListedSegment { duration, discontinuity, ..listed(1) }).collect();
            let text = MediaPlaylist { media_sequence, discontinuity_sequence, end, ..PLAYLIST }.render(segments.iter());
            let (_, read) = m3u8_rs::parse_media_playlist(text.as_bytes()).expect("valid playlist");
            prop_assert_eq!((read.media_sequence, read.discontinuity_sequence, read.end_list), (media_sequence, discontinuity_sequence, end));
            prop_assert_eq!(read.segments.len(), segments.len());
            for (read, ours) in read.segments.iter().zip(&segments) {
                prop_assert!((f64::from(read.duration) - ours.duration as f64 / 90_000.0).abs() < 1e-4);
                prop_assert_eq!(read.discontinuity, ours.discontinuity);
            }
        }
    }
}
