use super::*;
use crate::live::{LiveSettings, LiveStream, Session};
use crate::name::StreamName;
use bytes::Bytes;
use media::Container;
use media::packager::Settings;
use media::sample::Tracks;
use proptest::prelude::*;
use sha2::{Digest, Sha256};

const WINDOW: usize = 6;

fn segment(sequence: u64, duration: i64, discontinuity: bool, init: &Arc<Initialization>) -> Segment {
    let bytes = Bytes::from(format!("segment {sequence}"));
    Segment {
        digest: Sha256::digest(&bytes).into(),
        bytes: bytes.into(),
        parts: Vec::new(),
        start: 0,
        duration,
        independent: true,
        discontinuity,
        program_date_time_ms: sequence as i64 * 2000,
        init: init.clone(),
        video_samples: 50,
        target_duration: 2,
        all_independent: true,
    }
}

fn init() -> Arc<Initialization> {
    Initialization::new(Container::Cmaf, Tracks::default())
}

/// A stream and a window after `segments` segments of two seconds, every fourth after a discontinuity.
pub(crate) fn published_window(segments: u64) -> (Arc<LiveStream>, Snapshot) {
    let mut snapshot = Snapshot::starting_at(Numbers { media_sequence: 100, discontinuity_sequence: 40 });
    let (init, now) = (init(), Instant::now());
    for n in 0..segments {
        snapshot = snapshot.next(
            vec![segment(n, 180_000, n % 4 == 0, &init)],
            false,
            WINDOW,
            None,
            now + Duration::from_secs(2 * n),
        );
    }
    let packaging = Settings { container: Container::Cmaf, target_duration: 2 };
    let settings = LiveSettings { packaging, window: WINDOW, ..LiveSettings::default() };
    let name = StreamName::new("live", "show").expect("valid name");
    (LiveStream::new(name, settings, Session::beginning_at(5), Snapshot::default(), 3), snapshot)
}

fn playlist(snapshot: &Snapshot) -> m3u8_rs::MediaPlaylist {
    m3u8_rs::parse_media_playlist(&snapshot.media_playlist.bytes).expect("valid playlist").1
}

#[test]
fn a_short_segment_makes_the_bit_rate_no_higher_than_half_a_target_duration_of_it_would() {
    let snapshot = Snapshot::starting_at(Numbers::default());
    let of = |bytes: usize, ticks| Segment { bytes: vec![0; bytes][..].into(), ..segment(0, ticks, false, &init()) };
    let snapshot = snapshot.next(vec![of(1000, 9000)], false, WINDOW, None, Instant::now());
    assert_eq!(snapshot.bandwidth(), 8000);
    let snapshot = snapshot.next(vec![of(3000, 180_000)], false, WINDOW, None, Instant::now());
    assert_eq!(snapshot.bandwidth(), 15_239, "4000 bytes in 2.1 s");
    let adopted = Snapshot::adopted(Adopted {
        listed: snapshot.listed.clone(),
        next_sequence: 2,
        discontinuity_sequence: 0,
        target_duration: 2,
        independent: true,
        multivariant: String::new(),
        ended: false,
    });
    assert_eq!(adopted.bandwidth(), snapshot.bandwidth());
}

#[test]
fn the_window_slides_and_numbers_rise_with_it() {
    let (_, snapshot) = published_window(9);
    let playlist = playlist(&snapshot);
    assert_eq!((playlist.segments.len(), playlist.media_sequence), (6, 103));
    assert_eq!(playlist.segments[0].uri, "0-103.m4s");
    // The first segment's tag was left out (nothing precedes it), the one of 104 is listed, that of 108 too.
    assert_eq!(playlist.discontinuity_sequence, 40);
    assert_eq!(playlist.segments.iter().filter(|segment| segment.discontinuity).count(), 2);
    let (_, later) = published_window(12);
    assert_eq!(m3u8_rs::parse_media_playlist(&later.media_playlist.bytes).expect("valid").1.discontinuity_sequence, 41);
}

#[test]
fn an_expired_segment_stays_for_its_duration_and_that_of_the_playlist() {
    let (init, now) = (init(), Instant::now());
    let mut snapshot = Snapshot::starting_at(Numbers { media_sequence: 0, discontinuity_sequence: 0 });
    for n in 0..7 {
        snapshot = snapshot.next(vec![segment(n, 180_000, false, &init)], false, WINDOW, None, now);
    }
    assert!(snapshot.file("0-0.m4s").is_some());
    let next =
        |at| snapshot.next(vec![segment(7, 180_000, false, &init)], false, WINDOW, None, now + Duration::from_secs(at));
    assert!(next(13).file("0-0.m4s").is_some());
    assert!(next(15).file("0-0.m4s").is_none());
}

#[test]
fn an_expired_segment_stays_for_the_longest_playlist_that_listed_it() {
    let (init, now) = (init(), Instant::now());
    let mut snapshot = Snapshot::starting_at(Numbers { media_sequence: 0, discontinuity_sequence: 0 });
    // Six segments of ten seconds, then short ones: 0-5 is listed with all of the long ones, and leaves a playlist of 20 s.
    let lengths = [900_000; 6].into_iter().chain([180_000; 60]);
    for (n, length) in lengths.enumerate() {
        snapshot = snapshot.next(vec![segment(n as u64, length, false, &init)], false, WINDOW, None, now);
        assert!(snapshot.extents.len() <= snapshot.listed.len());
    }
    let first_listed = snapshot.listed[0].sequence;
    assert!(first_listed > 5, "{first_listed}");
    let left =
        |sequence: u64| snapshot.expired.iter().find(|expired| expired.segment.sequence == sequence).expect("kept");
    assert_eq!(left(5).until, now + Duration::from_secs(10 + 60));
    // Its own playlist was of 52 s; it stays for as long as the one before it.
    assert_eq!(left(6).until, now + Duration::from_secs(10 + 60));
    // A process that adopts a window knows of the last playlist.
    let adopted = Adopted {
        listed: snapshot.listed.clone(),
        next_sequence: snapshot.next_sequence,
        discontinuity_sequence: 0,
        target_duration: 2,
        independent: true,
        multivariant: String::new(),
        ended: false,
    };
    let mut snapshot = Snapshot::adopted(adopted);
    let last = snapshot.next_sequence - 1;
    for n in 0..9 {
        snapshot = snapshot.next(vec![segment(n, 90_000, false, &init)], false, WINDOW, None, now);
    }
    let left =
        |sequence: u64| snapshot.expired.iter().find(|expired| expired.segment.sequence == sequence).expect("kept");
    assert_eq!(left(last).until, now + Duration::from_secs(2 + 12));
}

#[test]
fn what_leaves_the_playlist_stays_for_its_time_from_when_that_is_seen() {
    let (init, now) = (init(), Instant::now());
    let mut snapshot = Snapshot::starting_at(Numbers { media_sequence: 0, discontinuity_sequence: 0 });
    for n in 0..8 {
        snapshot = snapshot.next(vec![segment(n, 180_000, false, &init)], false, WINDOW, None, now);
    }
    let before: Vec<_> = snapshot.expired.iter().map(|expired| expired.until).collect();
    snapshot.comes_into_force(now + Duration::from_secs(3));
    let after: Vec<_> = snapshot.expired.iter().map(|expired| expired.until).collect();
    // The first one left with the version before.
    assert_eq!(after, [before[0], before[1] + Duration::from_secs(3)]);
}

#[test]
fn everything_a_playlist_names_can_be_fetched_and_has_its_digest() {
    let (_, snapshot) = published_window(9);
    let digests: BTreeMap<String, String> = serde_json::from_slice(&snapshot.digests.bytes).expect("flat object");
    let playlist = playlist(&snapshot);
    let map = playlist.segments[0].map.as_ref().expect("map").uri.clone();
    for name in playlist.segments.iter().map(|segment| &segment.uri).chain([&map]) {
        let file = snapshot.file(name).expect("fetchable");
        assert_eq!(digests[name], hex(&Sha256::digest(file.bytes.to_bytes())));
    }
    assert_eq!(digests.len(), snapshot.files().len());
}

#[test]
fn a_new_session_goes_on_with_the_numbers_and_lists_nothing_old() {
    let (_, snapshot) = published_window(9);
    let now = Instant::now();
    let fresh = snapshot.new_session(now);
    assert!(fresh.listed.is_empty() && !fresh.has_playlist());
    assert!(fresh.file("0-108.m4s").is_some());
    let first = fresh.next(vec![segment(0, 180_000, true, &init())], false, WINDOW, None, now);
    let playlist = playlist(&first);
    assert_eq!((playlist.media_sequence, playlist.segments[0].discontinuity), (109, false));
    assert_eq!(playlist.discontinuity_sequence, 40 + 2 + 1);
}

#[test]
fn an_end_is_listed_and_stays() {
    let (_, snapshot) = published_window(3);
    let ended = snapshot.next(vec![], true, WINDOW, None, Instant::now());
    assert!(playlist(&ended).end_list);
    assert!(playlist(&ended.next(vec![], false, WINDOW, None, Instant::now())).end_list);
}

#[test]
fn a_document_compresses_to_itself() {
    use std::io::Read;
    let (_, snapshot) = published_window(9);
    let mut text = Vec::new();
    flate2::read::GzDecoder::new(&snapshot.media_playlist.gzip()[..]).read_to_end(&mut text).expect("gzip");
    assert_eq!(text, snapshot.media_playlist.bytes);
}

proptest! {
    /// Over any history: numbers only rise, a name never has other bytes, and the RFC's minimum holds.
    #[test]
    fn names_are_never_reused_and_numbers_never_go_back(steps in prop::collection::vec((1i64..=180_000, any::<bool>(), prop::bool::weighted(0.05)), 1..80)) {
        let (init, mut now) = (init(), Instant::now());
        let mut snapshot = Snapshot::starting_at(Numbers { media_sequence: 7, discontinuity_sequence: 7 });
        let mut seen: BTreeMap<String, Bytes> = BTreeMap::new();
        let mut discontinuities_of = BTreeMap::new();
        let mut session_start = 7;
        for (n, (duration, discontinuity, new_session)) in steps.into_iter().enumerate() {
            now += Duration::from_micros(duration.unsigned_abs() * 100 / 9);
            if new_session {
                snapshot = snapshot.new_session(now);
                session_start = snapshot.next_sequence;
            }
            let before = (snapshot.next_sequence, snapshot.discontinuity_sequence);
            snapshot = snapshot.next(vec![segment(n as u64, duration, discontinuity, &init)], false, WINDOW, None, now);
            prop_assert!(snapshot.next_sequence > before.0 && snapshot.discontinuity_sequence >= before.1);
            let lengths: Vec<i64> = snapshot.listed.iter().map(|segment| segment.listed.duration).collect();
            let without_newest: i64 = lengths[..lengths.len() - 1].iter().sum();
            let whole_session = snapshot.listed.first().is_some_and(|first| first.sequence == session_start);
            prop_assert!(whole_session || without_newest >= 3 * 180_000 || lengths.len() >= WINDOW + MAX_SHORT, "{lengths:?}");
            prop_assert!(lengths.len() <= WINDOW + MAX_SHORT);
            // Absolute discontinuity numbers of a segment never change (RFC 8216 section 6.2.1).
            let mut number = snapshot.discontinuity_sequence;
            for listed in &snapshot.listed {
                number += u64::from(listed.listed.discontinuity);
                prop_assert_eq!(*discontinuities_of.entry(listed.sequence).or_insert(number), number);
            }
            for (name, file) in snapshot.files() {
                prop_assert_eq!(seen.entry(name.to_owned()).or_insert_with(|| file.bytes.to_bytes()), &file.bytes.to_bytes());
            }
        }
    }
}
