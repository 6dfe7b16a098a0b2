//! Meter: how much a publisher sends, and whether that is too much to be an encoder's.

use thiserror::Error;
use tokio::time::{Duration, Instant};

/// What is averaged over: an encoder that was cut off sends what it held back all at once.
const PERIOD: Duration = Duration::from_secs(10);
/// Messages in a second, on average: sixty pictures and audio are 110, and some encoders send audio in tiny ones.
const MAX_MESSAGES_PER_SECOND: u64 = 2_000;

/// A publisher sends too much.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Excess {
    /// Too many bits.
    #[error("it sends more than {0} bits per second; raise max-bitrate if it is to")]
    Bitrate(u64),
    /// Too many messages.
    #[error("it sends more than {MAX_MESSAGES_PER_SECOND} messages per second")]
    Messages,
}

impl Excess {
    /// Value of the metric's `reason` label.
    pub fn label(self) -> &'static str {
        match self {
            Excess::Bitrate(_) => "bitrate",
            Excess::Messages => "message_rate",
        }
    }
}

/// Counts what came in a period.
#[derive(Debug)]
pub struct Meter {
    max_bitrate: u64,
    since: Instant,
    bytes: u64,
    messages: u64,
}

impl Meter {
    /// A meter that begins to count now.
    pub fn starting(now: Instant, max_bitrate: u64) -> Self {
        Self { max_bitrate, since: now, bytes: 0, messages: 0 }
    }

    /// Counts; whether it is too much for a whole period, however soon it came.
    pub fn count(&mut self, bytes: usize, messages: u64, now: Instant) -> Option<Excess> {
        if now.saturating_duration_since(self.since) >= PERIOD {
            *self = Self::starting(now, self.max_bitrate);
        }
        self.bytes += bytes as u64;
        self.messages += messages;
        let seconds = PERIOD.as_secs();
        if self.bytes.saturating_mul(8) > self.max_bitrate.saturating_mul(seconds) {
            Some(Excess::Bitrate(self.max_bitrate))
        } else {
            (self.messages > MAX_MESSAGES_PER_SECOND * seconds).then_some(Excess::Messages)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_encoder_held_back_is_not_too_much_and_a_flood_is() {
        let start = Instant::now();
        let mut meter = Meter::starting(start, 8_000_000);
        assert_eq!(meter.count(10_000_000, 1_000, start), None, "ten seconds at once");
        assert_eq!(meter.count(1, 1, start), Some(Excess::Bitrate(8_000_000)));
        assert_eq!(meter.count(10_000_000, 1, start + PERIOD), None);
        assert_eq!(meter.count(0, 20_000, start + PERIOD), Some(Excess::Messages));
    }
}
