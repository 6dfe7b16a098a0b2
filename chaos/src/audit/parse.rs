//! Text of a Media Playlist, read by m3u8-rs.

use m3u8_rs::{KeyMethod, MediaPlaylist};

/// Of every Media Playlist (RFC 8216 section 4.3.3.1); m3u8-rs takes its absence for zero.
const TARGET_DURATION: &str = "#EXT-X-TARGETDURATION:";
/// What is before the duration of a segment (section 4.3.2.1).
const SEGMENT: &str = "#EXTINF:";

/// Reads a Media Playlist; else what is wrong with it.
pub fn media_playlist(text: &[u8]) -> Result<MediaPlaylist, String> {
    let text = String::from_utf8_lossy(text);
    if !text.contains(TARGET_DURATION) {
        return Err(format!(
            "no {}, which every Media Playlist has: {text:.80}",
            TARGET_DURATION.trim_end_matches(':')
        ));
    }
    // Titles are free text, and m3u8-rs takes what is behind a comma in one for a URI.
    let untitled = |line: &str| match line.find(',').filter(|_| line.starts_with(SEGMENT)) {
        Some(comma) => format!("{}\n", &line[..=comma]),
        None => format!("{line}\n"),
    };
    let text: String = text.lines().map(untitled).collect();
    m3u8_rs::parse_media_playlist_res(text.as_bytes()).map_err(|_| format!("no Media Playlist: {text:.80}"))
}

/// What a playlist uses and this auditor does not read.
pub fn not_supported(playlist: &MediaPlaylist) -> Option<&'static str> {
    let any = |is: fn(&m3u8_rs::MediaSegment) -> bool| playlist.segments.iter().any(is);
    if any(|segment| segment.key.as_ref().is_some_and(|key| key.method != KeyMethod::None)) {
        Some("EXT-X-KEY")
    } else if any(|segment| {
        segment.byte_range.is_some() || segment.map.as_ref().is_some_and(|map| map.byte_range.is_some())
    }) {
        Some("byte ranges")
    } else {
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEAD: &str = "#EXTM3U\n#EXT-X-TARGETDURATION:2\n";

    #[test]
    fn titles_are_free_text() {
        for title in ["", "Artist", "Artist, Song", "a,b,c", "#EXTINF:9,"] {
            let playlist = media_playlist(format!("{HEAD}#EXTINF:2.0,{title}\r\na,b.ts\r\n").as_bytes()).expect(title);
            let [segment] = &playlist.segments[..] else { panic!("{title}: {playlist:?}") };
            assert_eq!((segment.uri.as_str(), segment.duration), ("a,b.ts", 2.0), "{title}");
        }
    }

    #[test]
    fn what_has_no_target_duration_is_refused_by_its_name() {
        let error = media_playlist(b"#EXTM3U\n#EXTINF:2,\na.ts\n").expect_err("refused");
        assert!(error.contains("EXT-X-TARGETDURATION"), "{error}");
        assert!(media_playlist(b"<html>").is_err() && media_playlist(b"").is_err());
    }

    #[test]
    fn what_is_not_read_is_known() {
        for (tags, expected) in [
            ("", None),
            ("#EXT-X-KEY:METHOD=NONE\n", None),
            ("#EXT-X-MAP:URI=\"init.mp4\"\n", None),
            ("#EXT-X-KEY:METHOD=AES-128,URI=\"key\"\n", Some("EXT-X-KEY")),
            ("#EXT-X-BYTERANGE:100@0\n", Some("byte ranges")),
            ("#EXT-X-MAP:URI=\"all.mp4\",BYTERANGE=\"100@0\"\n", Some("byte ranges")),
        ] {
            let playlist = media_playlist(format!("{HEAD}{tags}#EXTINF:2,\na.ts\n").as_bytes()).expect(tags);
            assert_eq!(not_supported(&playlist), expected, "{tags}");
        }
    }
}
