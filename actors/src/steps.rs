//! Steps: everything that works in intervals does so at the same moments, so that the process wakes once for all
//! of it. With a timer of its own each, a few hundred streams wake it at every millisecond.

use std::sync::LazyLock;
use tokio::time::{Duration, Instant};

/// All steps are counted from here.
static BEGINNING: LazyLock<Instant> = LazyLock::new(Instant::now);

/// The first moment after `now` at which everything works that does so this often.
pub fn next_step(now: Instant, every: Duration) -> Instant {
    // A clock that is set by a test may be before the beginning.
    let Some(since) = now.checked_duration_since(*BEGINNING) else { return now + every };
    let steps = since.as_micros() / every.as_micros() + 1;
    u32::try_from(steps).map_or(now + every, |steps| *BEGINNING + every * steps)
}

/// Time until the next step.
pub fn until_step(every: Duration) -> Duration {
    let now = Instant::now();
    next_step(now, every) - now
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_coincide_whenever_they_are_asked_for_and_whatever_their_interval() {
        let at = |ms| *BEGINNING + Duration::from_millis(ms);
        let every = Duration::from_millis;
        assert_eq!(next_step(at(1234), every(50)), at(1250));
        assert_eq!(next_step(at(1249), every(50)), at(1250));
        assert_eq!(next_step(at(1250), every(50)), at(1300));
        assert_eq!(next_step(at(1234), every(250)), at(1250));
        let before = at(0) - every(1);
        assert_eq!(next_step(before, every(50)), before + every(50));
    }
}
