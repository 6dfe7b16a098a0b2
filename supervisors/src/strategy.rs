//! Strategy: whether and when an ended child is started again. Pure: the time is given, and the dice.

use std::collections::VecDeque;
use std::time::Duration;
use tokio::time::Instant;

/// First wait before a restart; it doubles with each failure in a row.
const FIRST_BACKOFF: Duration = Duration::from_millis(20);
/// Longest wait: a child always gets another try.
pub const MAX_BACKOFF: Duration = Duration::from_secs(5);
/// A child that lived this long has forgotten its failures.
const HEALTHY_AFTER: Duration = Duration::from_secs(30);

/// How an actor ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ending {
    /// It meant to.
    Stopped,
    /// It panicked, or returned an error that is a bug of ours.
    Failed,
    /// It returned an I/O error: not its fault, and no reason ever to give up.
    FailedIo,
    /// It was killed, or its task was cancelled.
    Killed,
    /// It makes no progress, and another one takes its place.
    Stuck,
    /// It did not start.
    NotStarted,
}

impl Ending {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Stopped, Self::Failed, Self::FailedIo, Self::Killed, Self::Stuck, Self::NotStarted];

    /// Value of the metric's `reason` label.
    pub fn label(self) -> &'static str {
        match self {
            Ending::Stopped => "stopped",
            Ending::Failed => "failed",
            Ending::FailedIo => "io",
            Ending::Killed => "killed",
            Ending::Stuck => "stuck",
            Ending::NotStarted => "not_started",
        }
    }
}

/// When a child is started again (OTP, supervisor principles).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Restart {
    /// Always.
    Permanent,
    /// Unless it meant to end.
    Transient,
    /// Never.
    Temporary,
}

/// How many restarts within a period are too many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Intensity {
    /// Restarts allowed.
    pub restarts: usize,
    /// Within this time.
    pub period: Duration,
}

/// What is to be done about an ended child.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// Start it again after this wait.
    RestartAfter(Duration),
    /// Leave it ended.
    Leave,
    /// It fails too often: its supervisor must fail in its turn.
    GiveUp,
}

/// One child's history.
#[derive(Debug, Clone)]
pub struct History {
    restart: Restart,
    intensity: Intensity,
    /// Recent restarts, at most `intensity.restarts + 1`.
    restarts: VecDeque<Instant>,
    longest_wait: Duration,
    in_a_row: u32,
    started: Instant,
}

impl History {
    /// A child that starts now.
    pub fn new(restart: Restart, intensity: Intensity, now: Instant) -> Self {
        let longest_wait = MAX_BACKOFF;
        Self { restart, intensity, restarts: VecDeque::new(), longest_wait, in_a_row: 0, started: now }
    }

    /// Another longest wait. It is not that of I/O errors: what failed then needs time to get well.
    pub fn putting_off(self, longest_wait: Duration) -> Self {
        Self { longest_wait, ..self }
    }

    /// Notes that the child has started again.
    pub fn started(&mut self, now: Instant) {
        self.started = now;
    }

    /// Decides about an ending. `dice` is between 0 and 1: full jitter keeps children that fail
    /// together from restarting together.
    pub fn ended(&mut self, ending: Ending, now: Instant, dice: f64) -> Decision {
        let leave = match (self.restart, ending) {
            (Restart::Permanent, _) => false,
            (Restart::Transient, Ending::Stopped) => true,
            (
                Restart::Transient,
                Ending::Failed | Ending::FailedIo | Ending::Killed | Ending::Stuck | Ending::NotStarted,
            ) => false,
            (Restart::Temporary, _) => true,
        };
        if leave {
            return Decision::Leave;
        }
        if now.saturating_duration_since(self.started) >= HEALTHY_AFTER {
            self.in_a_row = 0;
        }
        if ending == Ending::FailedIo {
            return self.restart(dice, MAX_BACKOFF);
        }
        self.restarts.push_back(now);
        while self.restarts.front().is_some_and(|first| now.saturating_duration_since(*first) > self.intensity.period) {
            self.restarts.pop_front();
        }
        if self.restarts.len() > self.intensity.restarts {
            self.restarts.clear();
            return Decision::GiveUp;
        }
        self.restart(dice, self.longest_wait)
    }

    fn restart(&mut self, dice: f64, longest: Duration) -> Decision {
        let wait = backoff(self.in_a_row, longest, dice);
        self.in_a_row = self.in_a_row.saturating_add(1);
        Decision::RestartAfter(wait)
    }
}

/// The wait before restart number `n` in a row, with full jitter.
pub fn backoff(n: u32, longest: Duration, dice: f64) -> Duration {
    FIRST_BACKOFF.saturating_mul(1 << n.min(16)).min(longest).mul_f64(dice.clamp(0.0, 1.0))
}

#[cfg(test)]
mod tests {
    use super::*;

    const INTENSITY: Intensity = Intensity { restarts: 3, period: Duration::from_secs(60) };

    fn history(restart: Restart) -> (History, Instant) {
        let now = Instant::now();
        (History::new(restart, INTENSITY, now), now)
    }

    #[test]
    fn who_is_restarted_depends_on_how_it_ended() {
        for (restart, ending, restarted) in [
            (Restart::Permanent, Ending::Stopped, true),
            (Restart::Permanent, Ending::Failed, true),
            (Restart::Permanent, Ending::Killed, true),
            (Restart::Permanent, Ending::NotStarted, true),
            (Restart::Transient, Ending::Stopped, false),
            (Restart::Transient, Ending::Failed, true),
            (Restart::Transient, Ending::Killed, true),
            (Restart::Temporary, Ending::Failed, false),
        ] {
            let (mut history, now) = history(restart);
            let decision = history.ended(ending, now, 0.0);
            assert_eq!(decision != Decision::Leave, restarted, "{restart:?} {ending:?}");
        }
    }

    #[test]
    fn a_child_that_fails_too_often_is_given_up_and_one_that_fails_rarely_never() {
        let (mut often, start) = history(Restart::Permanent);
        let decisions: Vec<_> =
            (0..4).map(|n| often.ended(Ending::Failed, start + Duration::from_secs(n), 1.0)).collect();
        assert!(decisions[..3].iter().all(|decision| matches!(decision, Decision::RestartAfter(_))));
        assert_eq!(decisions[3], Decision::GiveUp);
        let (mut io, start) = history(Restart::Permanent);
        assert!((0..1000).all(|_| io.ended(Ending::FailedIo, start, 1.0) != Decision::GiveUp));
        let (mut rarely, start) = history(Restart::Permanent);
        for n in 0..1000 {
            let now = start + Duration::from_secs(31 * n);
            assert_ne!(rarely.ended(Ending::Failed, now, 1.0), Decision::GiveUp);
            rarely.started(now);
        }
    }

    #[test]
    fn waits_double_up_to_a_cap_and_healthy_time_forgets_them() {
        let waits: Vec<_> = (0..20).map(|n| backoff(n, MAX_BACKOFF, 1.0)).collect();
        assert_eq!((waits[0], waits[1], waits[19]), (FIRST_BACKOFF, 2 * FIRST_BACKOFF, MAX_BACKOFF));
        assert_eq!(backoff(5, MAX_BACKOFF, 0.0), Duration::ZERO);
        let (mut history, start) = history(Restart::Permanent);
        history.ended(Ending::Failed, start, 1.0);
        history.started(start);
        let later = start + HEALTHY_AFTER;
        assert_eq!(history.ended(Ending::Failed, later, 1.0), Decision::RestartAfter(FIRST_BACKOFF));
    }
    #[test]
    fn our_own_failures_wait_no_longer_than_allowed_and_storage_gets_its_time() {
        const LONGEST: Duration = Duration::from_millis(100);
        let (history, start) = history(Restart::Permanent);
        let mut history = history.putting_off(LONGEST);
        for _ in 0..20 {
            history.ended(Ending::FailedIo, start, 1.0);
        }
        assert_eq!(history.ended(Ending::FailedIo, start, 1.0), Decision::RestartAfter(MAX_BACKOFF));
        assert_eq!(history.ended(Ending::Killed, start, 1.0), Decision::RestartAfter(LONGEST));
    }
}
