//! Timeline: 32-bit RTMP milliseconds become 64-bit ticks that rise within each track.

use crate::sample::{TICKS_PER_MS, TrackKind};

/// A step larger than this, either way, is a jump of the encoder's clock and not a pause: 10 s,
/// the longest a segment may be, so that no jump can make one longer.
pub const JUMP_MS: i64 = 10_000;
/// A track that goes back by more than this has begun anew: reordering in an encoder is below it.
const BACK_MS: i64 = 500;
/// How far after the last sample the timeline goes on after a jump.
const RESUME_MS: i64 = 40;
/// Samples for which the clock before a jump is still honoured: the other track of an interleaved
/// stream arrives late by less than this.
const LATE_SAMPLES: u32 = 64;

/// A mapping from the encoder's clock to ours.
#[derive(Debug, Clone, Copy)]
struct Clock {
    /// The last timestamp read by this clock, as sent.
    last: u32,
    /// The same on our timeline, milliseconds.
    last_ms: i64,
}

impl Clock {
    /// Our time of `timestamp` if it is no jump. 32-bit wrapping is a small step like any other.
    fn place(&self, timestamp: u32) -> Option<i64> {
        let step = i64::from(timestamp.wrapping_sub(self.last).cast_signed());
        (step.abs() <= JUMP_MS).then_some(self.last_ms + step)
    }
}

/// Where a sample falls.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Placed {
    /// Decode time in ticks.
    pub dts: i64,
    /// The encoder's clock jumped before this sample.
    pub jumped: bool,
}

/// The timeline of one epoch.
#[derive(Debug, Clone)]
pub struct Timeline {
    start_ms: i64,
    clock: Option<Clock>,
    before_jump: Option<(Clock, u32)>,
    last_dts: [Option<i64>; 2],
}

impl Timeline {
    /// A timeline whose first sample falls at `start_ms`, whatever its timestamp.
    pub fn starting_at(start_ms: i64) -> Self {
        Self { start_ms, clock: None, before_jump: None, last_dts: [None; 2] }
    }

    /// The latest time placed, milliseconds.
    pub fn last_ms(&self) -> Option<i64> {
        self.last_dts.iter().flatten().max().map(|dts| dts / TICKS_PER_MS)
    }

    /// Places a sample. Time stands still or goes back a little in some encoders: the tracks' decode
    /// times rise by a tick at least.
    pub fn place(&mut self, kind: TrackKind, timestamp: u32) -> Placed {
        let (ms, jumped) = self.place_ms(kind, timestamp);
        let last = &mut self.last_dts[kind as usize];
        let dts = last.map_or(ms * TICKS_PER_MS, |last| (ms * TICKS_PER_MS).max(last + 1));
        *last = Some(dts);
        Placed { dts, jumped }
    }

    fn place_ms(&mut self, kind: TrackKind, timestamp: u32) -> (i64, bool) {
        let Some(clock) = self.clock else {
            self.clock = Some(Clock { last: timestamp, last_ms: self.start_ms });
            return (self.start_ms, false);
        };
        let floor = self.last_dts[kind as usize].map_or(i64::MIN, |dts| dts / TICKS_PER_MS - BACK_MS);
        if let Some(ms) = clock.place(timestamp).filter(|ms| *ms >= floor) {
            self.clock = Some(Clock { last: timestamp, last_ms: ms });
            return (ms, false);
        }
        if let Some((before, late)) = &mut self.before_jump
            && *late > 0
            && let Some(ms) = before.place(timestamp).filter(|ms| *ms >= floor)
        {
            *late -= 1;
            return (ms, false);
        }
        let last_ms = self.last_ms().unwrap_or(self.start_ms);
        let resumed = last_ms + RESUME_MS;
        self.before_jump = Some((clock, LATE_SAMPLES));
        self.clock = Some(Clock { last: timestamp, last_ms: resumed });
        (resumed, true)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use TrackKind::{Audio, Video};
    use proptest::prelude::*;

    fn place_all(samples: &[(TrackKind, u32)]) -> Vec<(i64, bool)> {
        let mut timeline = Timeline::starting_at(1000);
        samples.iter().map(|&(kind, timestamp)| timeline.place(kind, timestamp)).map(|p| (p.dts, p.jumped)).collect()
    }

    #[test]
    fn milliseconds_become_ticks_from_the_start() {
        let placed = place_all(&[(Video, 5000), (Audio, 5010), (Video, 5040), (Audio, 5033)]);
        assert_eq!(placed, [(90_000, false), (90_900, false), (93_600, false), (92_970, false)]);
    }

    #[test]
    fn the_32_bit_wrap_is_no_jump() {
        let placed = place_all(&[(Video, u32::MAX - 19), (Video, 20)]);
        assert_eq!(placed, [(90_000, false), (90_000 + 40 * 90, false)]);
    }

    #[test]
    fn a_jump_is_one_discontinuity_even_if_the_other_track_is_late() {
        let samples = [
            (Video, 0),
            (Audio, 0),
            (Video, 40),
            (Video, 9_000_000),
            (Audio, 23),
            (Audio, 9_000_006),
            (Video, 9_000_040),
        ];
        let placed = place_all(&samples);
        assert_eq!(placed.iter().filter(|(_, jumped)| *jumped).count(), 1);
        assert_eq!(placed[6].0 - placed[3].0, 40 * 90);
        assert_eq!(placed[4].0, (1000 + 23) * 90);
    }

    #[test]
    fn a_short_clip_that_begins_anew_is_a_jump_and_keeps_its_pace() {
        let samples: Vec<_> = (0..3).flat_map(|_| (0..125).map(|n| (Video, n * 40))).collect();
        let placed = place_all(&samples);
        assert_eq!(placed.iter().filter(|(_, jumped)| *jumped).count(), 2);
        assert!(placed.windows(2).all(|pair| pair[1].0 - pair[0].0 == 40 * 90));
    }

    #[test]
    fn time_that_stands_still_or_goes_back_still_rises() {
        let placed = place_all(&[(Video, 100), (Video, 100), (Video, 60)]);
        assert_eq!(placed.iter().map(|p| p.0).collect::<Vec<_>>(), [90_000, 90_001, 90_002]);
    }

    proptest! {
        #[test]
        fn each_track_rises_strictly_whatever_the_encoder_sends(samples in prop::collection::vec((any::<bool>(), any::<u32>()), 0..200)) {
            let mut timeline = Timeline::starting_at(0);
            let mut last = [i64::MIN; 2];
            for (video, timestamp) in samples {
                let kind = if video { Video } else { Audio };
                let dts = timeline.place(kind, timestamp).dts;
                prop_assert!(dts > last[kind as usize]);
                last[kind as usize] = dts;
            }
        }

        #[test]
        fn steps_are_kept_to_the_millisecond(first: u32, steps in prop::collection::vec(1u32..=10_000, 1..100)) {
            let mut timeline = Timeline::starting_at(0);
            let (mut timestamp, mut expected) = (first, 0i64);
            timeline.place(Video, timestamp);
            for step in steps {
                timestamp = timestamp.wrapping_add(step);
                expected += i64::from(step) * TICKS_PER_MS;
                prop_assert_eq!(timeline.place(Video, timestamp), Placed { dts: expected, jumped: false });
            }
        }
    }
}
