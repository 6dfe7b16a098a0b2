//! What encoders do at the edges, and any sequence of what they may do.

use super::*;

#[test]
fn audio_that_outlasts_video_is_part_of_what_playlists_say() {
    let mut entries = show(900_000, 100, 25, true);
    entries.extend((0..40).map(|n| audio(900_000 + 100 * FRAME + n * 1920)));
    let total: f64 = seconds(&package_show(2, entries)).iter().sum();
    assert!((4.7..4.9).contains(&total), "4 s of video and 0.85 s of audio alone: {total}");
}

#[test]
fn tracks_that_are_seconds_apart_are_cut_at_key_frames_all_the_same() {
    let skewed = |entry: Entry| match entry {
        Entry::Sample(sample) if sample.kind == TrackKind::Audio => audio(sample.dts + 5 * TICKS_PER_SECOND),
        entry => entry,
    };
    let entries: Vec<_> = show(900_000, 500, 50, true).into_iter().map(skewed).collect();
    let segments = package_show(2, entries.clone());
    assert!(segments.iter().all(|segment| segment.independent), "{:?}", seconds(&segments));
    assert!(seconds(&segments).iter().all(|length| (length - 2.0).abs() < 0.1), "{:?}", seconds(&segments));
    assert_eq!(all_marks(&segments).len(), sent_marks(&entries).len());
}

#[test]
fn the_first_segment_comes_within_a_target_duration_and_a_gop() {
    // Frames a GOP, least target, decode time of the sample with which something is published, and what that fixes.
    for (gop, least, seconds, target) in
        [(25, 2, 2.0, 2), (40, 2, 3.12, 2), (50, 2, 3.52, 2), (60, 2, 4.8, 3), (100, 2, 7.52, 4), (50, 6, 6.0, 6)]
    {
        let mut packager = Packager::new(settings(Container::Cmaf, least));
        package(&mut packager, &[epoch(), avc()]);
        let first = show(900_000, 300, gop, false).into_iter().find_map(|entry| {
            let output = packager.push(&entry).into_iter().next()?;
            let (Entry::Sample(sample), Output::Segment(segment)) = (entry, output) else { return None };
            Some(((sample.dts - 900_000) as f64 / 90_000.0, segment.target_duration, segment.duration))
        });
        let gops = if 2 * gop <= i64::from(least) * 25 { i64::from(least) * 25 / gop } else { 1 };
        assert_eq!(first, Some((seconds, target, gops * gop * FRAME)), "GOPs of {gop} frames, target {least} s");
        assert!(seconds <= f64::from(target) + gop as f64 / 25.0 - 0.4, "and what is read late still is");
    }
}

#[test]
fn a_first_gop_well_below_the_target_costs_the_others_nothing_and_a_longer_one_is_believed() {
    for (first, target) in [(1, 4), (5, 4), (30, 4), (37, 4), (38, 2), (50, 2)] {
        let entries = [show(900_000, first, first, true), show(900_000 + first * FRAME, 500, 100, true)].concat();
        let segments = package_show(2, entries);
        assert!(segments.iter().all(|segment| segment.target_duration == target), "{first} frames");
        assert_eq!(segments.iter().all(|segment| segment.independent), target == 4, "{first} frames");
    }
}

#[test]
fn long_gops_are_known_for_what_they_are_though_sound_is_ahead_of_them() {
    let skewed = |entry: Entry| match entry {
        Entry::Sample(sample) if sample.kind == TrackKind::Audio => audio(sample.dts + 5 * TICKS_PER_SECOND),
        entry => entry,
    };
    let entries = show(900_000, 1000, 200, true).into_iter().map(skewed).collect();
    assert!(package_show(2, entries).iter().all(|segment| segment.target_duration == 8));
}

#[test]
fn samples_are_counted_until_their_segment_is_finished() {
    let mut packager = Packager::new(settings(Container::Cmaf, 2));
    let entries = [vec![epoch(), avc(), aac()], show(900_000, 170, 50, true), vec![Entry::EpochEnd]].concat();
    let (mut came, mut gone) = (0, 0);
    for entry in &entries {
        came += entry.payload_len();
        let (segments, _) = package(&mut packager, std::slice::from_ref(entry));
        // Each has brackets, and lies behind four bytes of its length.
        gone += all_marks(&segments).iter().map(|mark| 6 + mark.len()).sum::<usize>();
        assert_eq!(packager.held_bytes(), came - gone);
    }
    assert_eq!(came, gone);
}

#[test]
fn video_that_stops_while_it_is_gathered_does_not_hold_audio_back() {
    let mut entries = show(900_000, 240, 300, true);
    entries.extend((0..30).map(|n| audio(900_000 + 240 * FRAME + n * 1920)));
    let mut packager = Packager::new(settings(Container::Cmaf, 2));
    let (segments, _) = package(&mut packager, &[vec![epoch(), avc(), aac()], entries].concat());
    assert!(!segments.is_empty());
}

#[test]
fn time_that_stands_still_does_not_grow_a_segment_for_ever() {
    let mut packager = Packager::new(settings(Container::Cmaf, 2));
    package(&mut packager, &[epoch(), avc()]);
    let data = Bytes::from(vec![0; 1 << 20]);
    let mut largest = 0;
    for n in 0..300 {
        let sample = Sample {
            kind: TrackKind::Video,
            dts: 900_000 + n,
            composition: 0,
            random_access: n == 0,
            data: data.clone(),
        };
        let (segments, _) = package(&mut packager, &[Entry::Sample(sample)]);
        largest = segments.iter().map(|segment| segment.bytes.len()).fold(largest, usize::max);
    }
    assert!(largest > 0 && largest <= MAX_SEGMENT_BYTES + (1 << 20), "{largest}");
}

#[test]
fn media_without_a_random_access_point_is_dropped_and_counted() {
    let mut packager = Packager::new(settings(Container::Cmaf, 2));
    let entries: Vec<_> = (0..200).map(|n| video(900_000 + n * FRAME, false)).collect();
    let (segments, _) = package(&mut packager, &[vec![epoch(), avc()], entries, vec![Entry::EpochEnd]].concat());
    assert!(segments.is_empty());
    assert_eq!(packager.take_counts().undecodable, 200);
}

#[derive(Debug, Clone)]
enum Move {
    Video(bool, i64),
    Audio(i64),
    Pause(i64),
    Jump,
    OtherVideo,
    Reconnect,
}

fn moves() -> impl Strategy<Value = Move> {
    prop_oneof![
        20 => (prop::bool::weighted(0.05), 1i64..9000).prop_map(|(random_access, step)| Move::Video(random_access, step)),
        20 => (1i64..9000).prop_map(Move::Audio),
        1 => (1i64..900_000).prop_map(Move::Pause),
        1 => Just(Move::Jump),
        1 => Just(Move::OtherVideo),
        1 => Just(Move::Reconnect),
    ]
}

fn entries_of(moves: &[Move]) -> Vec<Entry> {
    let (mut at, mut entries, mut other) = ([900_000i64; 2], vec![epoch(), avc(), aac()], false);
    for step in moves {
        match step {
            Move::Video(random_access, step) => {
                at[0] += step;
                entries.push(video(at[0], *random_access));
            }
            Move::Audio(step) => {
                at[1] += step;
                entries.push(audio(at[1]));
            }
            Move::Pause(time) => at = [at[0] + time, at[1] + time],
            Move::Jump => entries.push(Entry::Discontinuity),
            Move::OtherVideo => {
                other = !other;
                entries.push(if other { other_avc() } else { avc() });
            }
            Move::Reconnect => {
                at = [at[0].max(at[1]) + 90_000; 2];
                entries.extend([Entry::EpochEnd, epoch(), if other { other_avc() } else { avc() }, aac()]);
            }
        }
    }
    entries.push(Entry::EpochEnd);
    entries
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    /// Resuming from the state kept at any cut gives the very bytes an undisturbed packager gives.
    #[test]
    fn a_packager_resumed_at_any_cut_goes_on_byte_for_byte(moves in prop::collection::vec(moves(), 0..600), ts: bool, fail_at in 0usize..600) {
        let container = if ts { Container::MpegTs } else { Container::Cmaf };
        let entries = entries_of(&moves);
        let (undisturbed, _) = package(&mut Packager::new(settings(container, 2)), &entries);
        let mut packager = Packager::new(settings(container, 2));
        let (mut kept, mut segments, mut at, mut failed) = ((packager.clone(), 0), Vec::new(), 0, false);
        while at < entries.len() {
            if at == fail_at && !failed {
                failed = true;
                (packager, at) = kept.clone();
                continue;
            }
            let (made, _) = package(&mut packager, &entries[at..=at]);
            at += 1;
            if !made.is_empty() {
                segments.extend(made);
                kept = (packager.clone(), at);
            }
        }
        prop_assert_eq!(segments.len(), undisturbed.len());
        for (resumed, plain) in segments.iter().zip(&undisturbed) {
            prop_assert_eq!(&resumed.bytes, &plain.bytes);
            prop_assert_eq!((resumed.start, resumed.duration, resumed.discontinuity), (plain.start, plain.duration, plain.discontinuity));
        }
    }

    /// Whatever comes, no sample is packaged twice, what is missing is counted, and the target holds.
    #[test]
    fn nothing_is_repeated_and_what_is_missing_is_counted(moves in prop::collection::vec(moves(), 0..600)) {
        let entries = entries_of(&moves);
        let mut packager = Packager::new(settings(Container::Cmaf, 2));
        let (segments, _) = package(&mut packager, &entries);
        let (packaged, sent) = (all_marks(&segments), sent_marks(&entries));
        prop_assert_eq!(packaged.iter().collect::<HashSet<_>>().len(), packaged.len());
        prop_assert_eq!(packaged.len() as u64 + packager.take_counts().undecodable, sent.len() as u64);
        for segment in &segments {
            let rounded = (segment.duration + TICKS_PER_SECOND / 2) / TICKS_PER_SECOND;
            prop_assert!(rounded <= i64::from(segment.target_duration), "{} of {}", segment.duration, segment.target_duration);
            prop_assert!(segment.duration > 0);
        }
    }
}
