use super::*;
use crate::codec::avc::tests::RECORD;
use crate::{AacConfig, AvcConfig};
use bytes::Bytes;
use proptest::prelude::*;
use std::collections::HashSet;
use std::sync::Arc;

const FRAME: i64 = 3600;

fn avc() -> Entry {
    Entry::Video(Arc::new(AvcConfig::parse(Bytes::from_static(&RECORD)).expect("valid")))
}

/// The same with another level, hence another record.
fn other_avc() -> Entry {
    let mut record = RECORD;
    record[3] = 0x1F;
    Entry::Video(Arc::new(AvcConfig::parse(Bytes::copy_from_slice(&record)).expect("valid")))
}

fn aac() -> Entry {
    Entry::Audio(Arc::new(AacConfig::parse(Bytes::from_static(&[0x11, 0x90])).expect("valid")))
}

fn epoch() -> Entry {
    Entry::Epoch { epoch: 1, wall_ms_at_zero: 1_800_000_000_000 }
}

fn sample(kind: TrackKind, dts: i64, random_access: bool) -> Entry {
    // A payload of its own for each sample, so that it is found again in a segment's bytes.
    let mark = format!("<{kind:?}@{dts}>");
    let data = [(mark.len() as u32).to_be_bytes().to_vec(), mark.into_bytes()].concat();
    Entry::Sample(Sample { kind, dts, composition: 0, random_access, data: data.into() })
}

fn video(dts: i64, random_access: bool) -> Entry {
    sample(TrackKind::Video, dts, random_access)
}

fn audio(dts: i64) -> Entry {
    sample(TrackKind::Audio, dts, true)
}

/// An encoder's output: 25 frames a second from `start`, a random access point every `gop` frames, and audio.
fn show(start: i64, frames: i64, gop: i64, with_audio: bool) -> Vec<Entry> {
    let mut entries = Vec::new();
    let mut audio_dts = start;
    for n in 0..frames {
        let dts = start + n * FRAME;
        entries.push(video(dts, n % gop == 0));
        while with_audio && audio_dts < dts + FRAME {
            entries.push(audio(audio_dts));
            audio_dts += 1920;
        }
    }
    entries
}

fn settings(container: Container, target_duration: u32) -> Settings {
    Settings { container, target_duration }
}

fn package(packager: &mut Packager, entries: &[Entry]) -> (Vec<Segment>, bool) {
    let (mut segments, mut ended) = (Vec::new(), false);
    for output in entries.iter().flat_map(|entry| packager.push(entry)) {
        match output {
            Output::Segment(segment) => segments.push(segment),
            Output::End => ended = true,
        }
    }
    (segments, ended)
}

fn package_show(target: u32, entries: Vec<Entry>) -> Vec<Segment> {
    let mut packager = Packager::new(settings(Container::Cmaf, target));
    let all = [vec![epoch(), avc(), aac()], entries, vec![Entry::EpochEnd]].concat();
    package(&mut packager, &all).0
}

fn seconds(segments: &[Segment]) -> Vec<f64> {
    segments.iter().map(|segment| segment.duration as f64 / TICKS_PER_SECOND as f64).collect()
}

/// The marks of the samples in a file, in the order they lie there.
fn marks(bytes: &[u8]) -> Vec<String> {
    let text = String::from_utf8_lossy(bytes);
    text.split('<')
        .skip(1)
        .filter_map(|rest| rest.split_once('>'))
        .map(|(mark, _)| mark.to_owned())
        .filter(|mark| mark.starts_with("Video@") || mark.starts_with("Audio@"))
        .collect()
}

fn all_marks(segments: &[Segment]) -> Vec<String> {
    segments.iter().flat_map(|segment| marks(&segment.bytes.to_bytes())).collect()
}

fn sent_marks(entries: &[Entry]) -> Vec<String> {
    entries
        .iter()
        .flat_map(|entry| if let Entry::Sample(sample) = entry { marks(&sample.data) } else { vec![] })
        .collect()
}

#[test]
fn segments_are_cut_at_random_access_points_within_the_target() {
    for (gop, target, expected_target, length) in
        [(25, 2, 2, 2.0), (12, 2, 2, 1.92), (50, 2, 2, 2.0), (75, 2, 3, 3.0), (100, 6, 6, 4.0)]
    {
        let segments = package_show(target, show(900_000, gop * 10, gop, true));
        assert!(
            segments.iter().all(|segment| segment.target_duration == expected_target && segment.independent),
            "gop {gop}"
        );
        let lengths = seconds(&segments);
        assert!(lengths[..lengths.len() - 1].iter().all(|l| (l - length).abs() < 1e-9), "gop {gop}: {lengths:?}");
    }
}

#[test]
fn sixty_frames_at_29_97_fit_into_two_seconds() {
    let entries: Vec<_> = (0..300).map(|n| video(900_000 + n * 3003, n % 60 == 0)).collect();
    let segments = package_show(2, entries);
    assert_eq!(segments[0].target_duration, 2);
    assert!((seconds(&segments)[0] - 2.002).abs() < 1e-9);
}

#[test]
fn a_gop_beyond_the_target_is_cut_by_force_and_independence_is_claimed_no_more() {
    let mut entries = show(900_000, 100, 25, false);
    entries.extend(show(900_000 + 100 * FRAME, 200, 150, false));
    let mut packager = Packager::new(settings(Container::Cmaf, 2));
    let (segments, _) = package(&mut packager, &[vec![epoch(), avc()], entries, vec![Entry::EpochEnd]].concat());
    assert!(seconds(&segments).iter().all(|length| length.round() <= 2.0), "{:?}", seconds(&segments));
    assert!(segments[0].all_independent && !segments.last().expect("segments").all_independent);
    assert!(segments.iter().any(|segment| !segment.independent));
    assert!(packager.take_counts().forced_cuts > 0);
}

#[test]
fn a_gop_of_twelve_seconds_is_listed_after_ten() {
    let segments = package_show(2, show(900_000, 900, 300, true));
    assert!(segments.iter().all(|segment| segment.target_duration == 10));
    assert!(seconds(&segments).iter().all(|length| length.round() <= 10.0));
}

#[test]
fn every_sample_is_packaged_once_and_in_the_order_of_its_track() {
    for container in [Container::Cmaf, Container::MpegTs] {
        for gop in [12, 25, 80, 400] {
            let entries = show(900_000, 500, gop, true);
            let mut packager = Packager::new(settings(container, 2));
            let all = [vec![epoch(), avc(), aac()], entries.clone(), vec![Entry::EpochEnd]].concat();
            let (segments, _) = package(&mut packager, &all);
            let packaged = all_marks(&segments);
            for kind in ["Video", "Audio"] {
                let of =
                    |marks: &[String]| marks.iter().filter(|mark| mark.starts_with(kind)).cloned().collect::<Vec<_>>();
                assert_eq!(of(&packaged), of(&sent_marks(&entries)), "{container:?}, gop {gop}, {kind}");
            }
            assert_eq!(packager.take_counts().undecodable, 0);
        }
    }
}

#[test]
fn segments_follow_one_another_without_gap_or_overlap() {
    let segments = package_show(2, show(900_000, 500, 25, true));
    for pair in segments.windows(2) {
        assert_eq!(pair[0].start + pair[0].duration, pair[1].start);
        let ms = (pair[1].start - pair[0].start) / 90;
        assert_eq!(pair[1].program_date_time_ms - pair[0].program_date_time_ms, ms);
    }
}

#[test]
fn parts_cover_their_segment() {
    for container in [Container::Cmaf, Container::MpegTs] {
        let mut packager = Packager::new(settings(container, 2));
        let (segments, _) =
            package(&mut packager, &[vec![epoch(), avc(), aac()], show(900_000, 200, 25, true)].concat());
        for segment in &segments {
            let mut at = 0;
            for part in &segment.parts {
                assert_eq!(part.offset, at);
                at += part.length;
            }
            assert_eq!(at, segment.bytes.len());
            assert!(segment.parts.len() >= 3 && segment.parts[0].independent, "{:?}", segment.parts);
            use sha2::Digest;
            assert_eq!(segment.digest, <[u8; 32]>::from(sha2::Sha256::digest(segment.bytes.to_bytes())));
        }
    }
}

#[test]
fn one_track_is_enough() {
    let audio_only: Vec<_> = (0..500).map(|n| audio(900_000 + n * 1920)).collect();
    let segments = package_show(2, audio_only.clone());
    assert!(segments[0].init.tracks.video.is_none());
    assert_eq!(all_marks(&segments), sent_marks(&audio_only));
    assert!(seconds(&segments)[..3].iter().all(|length| (1.9..=2.0).contains(length)), "{:?}", seconds(&segments));
    let segments = package_show(2, show(900_000, 200, 25, false));
    assert!(segments[0].init.tracks.audio.is_none());
}

#[test]
fn a_change_of_resolution_makes_a_new_initialization_after_a_discontinuity() {
    let mut entries = show(900_000, 100, 25, true);
    entries.push(other_avc());
    entries.extend(show(900_000 + 100 * FRAME, 100, 25, true));
    let segments = package_show(2, entries.clone());
    let changed: Vec<_> = segments.iter().map(|segment| segment.discontinuity).collect();
    assert_eq!(changed.iter().filter(|changed| **changed).count(), 2, "the first and the changed one: {changed:?}");
    assert_eq!(segments.iter().map(|s| s.init.bytes.clone()).collect::<HashSet<_>>().len(), 2);
    assert_eq!(all_marks(&segments).len(), sent_marks(&entries).len());
}

#[test]
fn a_repeated_sequence_header_changes_nothing() {
    let mut entries = show(900_000, 100, 25, true);
    entries.extend([avc(), aac()]);
    entries.extend(show(900_000 + 100 * FRAME, 100, 25, true));
    assert_eq!(package_show(2, entries).iter().filter(|segment| segment.discontinuity).count(), 1);
}

#[test]
fn audio_that_appears_late_joins_at_a_random_access_point() {
    let mut packager = Packager::new(settings(Container::Cmaf, 2));
    let mut entries = vec![epoch(), avc()];
    entries.extend(show(900_000, 100, 25, false));
    entries.push(aac());
    entries.extend(show(900_000 + 100 * FRAME, 200, 25, true));
    entries.push(Entry::EpochEnd);
    let (segments, _) = package(&mut packager, &entries);
    let joined: Vec<_> = segments.iter().map(|segment| segment.init.tracks.audio.is_some()).collect();
    assert_eq!((joined[0], joined.last()), (false, Some(&true)));
    assert!(packager.take_counts().undecodable < 60);
}

#[test]
fn a_new_epoch_keeps_the_target_and_never_turns_the_wall_clock_back() {
    let mut packager = Packager::new(settings(Container::Cmaf, 2));
    let first = [vec![epoch(), avc(), aac()], show(900_000, 200, 75, true), vec![Entry::EpochEnd]].concat();
    let (before, _) = package(&mut packager, &first);
    // Its clock says ten seconds earlier.
    let start = 900_000 + 300 * FRAME;
    let late = Entry::Epoch { epoch: 2, wall_ms_at_zero: 1_800_000_000_000 - 22_000 };
    let second = [vec![late, avc(), aac()], show(start, 200, 25, true), vec![Entry::EpochEnd, Entry::End]].concat();
    let (after, ended) = package(&mut packager, &second);
    assert!(ended && after[0].discontinuity);
    assert!(after.iter().all(|segment| segment.target_duration == 3));
    let last = before.last().expect("segments");
    assert!(after[0].program_date_time_ms >= last.program_date_time_ms + last.duration / 90);
}

#[test]
fn a_jump_of_the_clock_is_a_discontinuity_and_loses_nothing() {
    let mut entries = show(900_000, 110, 25, true);
    entries.push(Entry::Discontinuity);
    entries.extend(show(900_000 + 111 * FRAME, 90, 25, true));
    let segments = package_show(2, entries.clone());
    assert_eq!(segments.iter().filter(|segment| segment.discontinuity).count(), 2);
    assert_eq!(all_marks(&segments).len(), sent_marks(&entries).len());
}

#[test]
fn a_pause_of_the_encoder_is_a_discontinuity_and_no_segment_is_longer_for_it() {
    for (with_audio, pause) in [(true, 3), (true, 5), (false, 5), (true, 9), (false, 9)] {
        let mut entries = show(900_000, 110, 25, with_audio);
        let later = 900_000 + 110 * FRAME + pause * TICKS_PER_SECOND;
        entries.extend(show(later, 90, 25, with_audio));
        let segments = package_show(2, entries.clone());
        assert!(seconds(&segments).iter().all(|length| length.round() <= 2.0), "{pause} s: {:?}", seconds(&segments));
        assert_eq!(all_marks(&segments).len(), sent_marks(&entries).len());
    }
}

#[path = "tests/edges.rs"]
mod edges;
