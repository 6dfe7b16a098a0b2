//! Bit rates of a rendition, as its segments measure.

use media::TICKS_PER_SECOND;

/// Bits per second, rounded up.
pub fn rate(bytes: usize, ticks: i64) -> u64 {
    (bytes as u64 * 8 * TICKS_PER_SECOND.unsigned_abs()).div_ceil(ticks.max(1).unsigned_abs())
}

/// The highest bit rate of contiguous segments that end with the newest and last half a target duration to one and a half
/// together; the highest of these over time is the peak segment bit rate (RFC 8216 section 4.1). Where the first that are long
/// enough are too long, by what a segment may exceed its target, they count. Bytes and ticks, the newest first.
pub fn peak(newest_first: impl Iterator<Item = (usize, i64)>, target_duration: u32) -> u64 {
    let target = i64::from(target_duration) * TICKS_PER_SECOND;
    let (mut bytes, mut ticks, mut peak) = (0, 0, None);
    for (length, duration) in newest_first {
        (bytes, ticks) = (bytes + length, ticks + duration);
        if peak.is_none() || ticks <= target * 3 / 2 {
            peak = peak.max((ticks >= target / 2).then(|| rate(bytes, ticks)));
        }
        if ticks > target * 3 / 2 {
            break;
        }
    }
    // What is shorter has nothing before it that is known.
    peak.unwrap_or_else(|| rate(bytes, ticks.max(target / 2)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of segments with so many bytes and tenths of a second, the newest first, and a target duration of 2 s.
    fn peak_of(segments: &[(usize, i64)]) -> u64 {
        peak(segments.iter().map(|(bytes, tenths)| (*bytes, tenths * TICKS_PER_SECOND / 10)), 2)
    }

    #[test]
    fn the_peak_is_of_half_a_target_duration_to_one_and_a_half() {
        assert_eq!(peak_of(&[(1000, 20)]), 4000);
        assert_eq!(peak_of(&[(1000, 20), (5000, 20)]), 4000, "both last 4 s");
        assert_eq!(peak_of(&[(1000, 20), (5000, 10)]), 16_000, "both last 3 s");
        assert_eq!(peak_of(&[(1000, 2)]), 8000, "a short one alone counts as half a target duration");
        assert_eq!(peak_of(&[(1000, 2), (3000, 8), (100, 20)]), 32_000, "with the one before it it has that");
        assert_eq!(
            peak_of(&[(1000, 9), (1000, 22)]),
            5162,
            "none that ends with the newest lasts as long as it should"
        );
        assert_eq!((peak_of(&[]), peak([].into_iter(), 0)), (0, 0));
    }
}
