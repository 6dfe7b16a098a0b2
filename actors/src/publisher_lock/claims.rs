//! Claims: who may publish, decided from what was asked, heard and waited for. Pure: the time is given.
//!
//! A claim on a stream that is held waits, and is not refused: at the holder's next sample it is known that the holder
//! lives, and who asked is told; after [`STALE_WHEN_ASKED`] without one the holder loses the stream.

use crate::door::Denial;
use crate::encoder_socket::STEP;
use std::collections::VecDeque;
use storage::Publisher;
use tokio::time::{Duration, Instant};

/// A holder that sends no media for this long loses the stream to another encoder that asks.
pub const STALE_WHEN_ASKED: Duration = Duration::from_secs(3);
/// A holder that sends no media for this long loses the stream even if nobody asks.
pub const STALE: Duration = Duration::from_secs(15);
/// A socket that was not read for longer than this tells nothing of its peer: it is we who are late.
const READ_LATE: Duration = STEP.saturating_mul(2).saturating_add(Duration::from_millis(50));
/// What is read within a step after a claim may have been sent before it: by an encoder that has died since.
const SETTLE: Duration = STEP.saturating_add(Duration::from_millis(50));
/// A look that comes later than this after the one before says that the process did not run.
const LOOK_LATE: Duration = Duration::from_secs(2);
/// How long a claim may wait: until a holder is found stale, or a session that is stuck is replaced, and some more.
pub const ANSWER_DEADLINE: Duration = Duration::from_secs(10);
/// Claims that wait for one stream. A live encoder asks once; more are refused at once.
pub const MAX_WAITING: usize = 8;

/// What happens to a claim on a stream that is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Policy {
    /// The holder keeps the stream while it sends.
    #[default]
    Hold,
    /// The newest encoder wins.
    Takeover,
}

/// How long a session waits for an encoder, by how the last one left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Graces {
    /// After it ended its publication itself.
    pub unpublished: Duration,
    /// After it was lost.
    pub lost: Duration,
}

/// How a holder has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Leaving {
    /// It ended its publication.
    Unpublished,
    /// Its connection, or what served it, is gone.
    Lost,
}

/// When the holder was last heard.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Heard {
    /// Its last media; none if it has sent nothing yet.
    pub media: Option<Instant>,
    /// When its socket was last read.
    pub read: Instant,
}

impl Heard {
    /// Silence of the holder since its media, or since it was granted the stream: time in which we did not read its socket
    /// is not its silence.
    fn silence(&self, granted: Instant, now: Instant) -> Duration {
        let is_read = now.saturating_duration_since(self.read) <= READ_LATE;
        (if is_read { now } else { self.read }).saturating_duration_since(self.media.unwrap_or(granted))
    }

    /// Whether it has lost the stream by its silence, and what that is called.
    fn stale(&self, granted: Instant, is_asked: bool, awake: Instant, now: Instant) -> Option<&'static str> {
        let silence = self.silence(granted, now);
        if is_asked && silence >= STALE_WHEN_ASKED {
            Some("stale")
        } else if silence >= STALE {
            Some("silent")
        } else if now.saturating_duration_since(self.read.max(awake)) >= STALE {
            // Nobody reads it, and nobody has said that it ended: no holder is for ever.
            Some("unread")
        } else {
            None
        }
    }
}

/// What is to be done, in order.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision<A> {
    /// The holder of this epoch loses the stream, for this reason.
    Evict(u64, &'static str),
    /// Nobody holds the stream any more; what this epoch left is to be published.
    Close(u64, Leaving),
    /// The stream is this asker's, with this epoch.
    Grant(A, u64),
    /// This asker is told why not.
    Refuse(A, Denial),
    /// Grace has passed: the session ends.
    End,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Waiting<A> {
    asker: A,
    since: Instant,
}

/// The state of one stream's lock.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Claims<A> {
    policy: Policy,
    graces: Graces,
    publisher: Publisher,
    epoch: u64,
    waiting: VecDeque<Waiting<A>>,
    /// When it last looked, ...
    looked: Instant,
    /// ... and since when it has done so in time: before that the process did not run, and read nobody's socket.
    awake: Instant,
}

impl<A: Clone + PartialEq> Claims<A> {
    /// Goes on from what outlives a lock: who publishes, and the last epoch given out.
    pub fn resuming(policy: Policy, graces: Graces, publisher: Publisher, epoch: u64, now: Instant) -> Self {
        Self { policy, graces, publisher, epoch, waiting: VecDeque::new(), looked: now, awake: now }
    }

    /// Who publishes.
    pub fn publisher(&self) -> Publisher {
        self.publisher
    }

    /// The last epoch given out.
    pub fn epoch(&self) -> u64 {
        self.epoch
    }

    /// How many claims wait.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Somebody asked at `since` for the stream; who asks again while it waits is not counted twice.
    pub fn claim(&mut self, asker: A, since: Instant, heard: Heard, now: Instant) -> Vec<Decision<A>> {
        if self.waiting.iter().any(|waiting| waiting.asker == asker) {
            return Vec::new();
        }
        match self.publisher {
            Publisher::Free | Publisher::Grace { .. } => vec![self.grant(asker, now)],
            Publisher::Ended => vec![Decision::Refuse(asker, Denial::Closing)],
            Publisher::Held { epoch, .. } if self.policy == Policy::Takeover => {
                vec![Decision::Evict(epoch, "takeover"), Decision::Close(epoch, Leaving::Lost), self.grant(asker, now)]
            }
            Publisher::Held { .. } if self.waiting.len() == MAX_WAITING => {
                vec![Decision::Refuse(asker, Denial::Taken)]
            }
            Publisher::Held { .. } => {
                self.waiting.push_back(Waiting { asker, since });
                self.look(heard, now)
            }
        }
    }

    /// The holder of `epoch` has ended. One that had lost the stream before changes nothing.
    pub fn ended(&mut self, epoch: u64, leaving: Leaving, now: Instant) -> Vec<Decision<A>> {
        if !matches!(self.publisher, Publisher::Held { epoch: held, .. } if held == epoch) {
            return Vec::new();
        }
        let mut decisions = vec![Decision::Close(epoch, leaving)];
        let grace = if leaving == Leaving::Unpublished { self.graces.unpublished } else { self.graces.lost };
        self.publisher = Publisher::Grace { until: now + grace };
        decisions.extend(self.grant_next(now));
        decisions
    }

    /// The session is over, because it never showed anything.
    pub fn end(&mut self) {
        self.publisher = Publisher::Ended;
    }

    /// Looks at silence, at those who wait, and at grace.
    pub fn look(&mut self, heard: Heard, now: Instant) -> Vec<Decision<A>> {
        if now.saturating_duration_since(std::mem::replace(&mut self.looked, now)) > LOOK_LATE {
            self.awake = now;
        }
        self.waiting.retain(|waiting| now.saturating_duration_since(waiting.since) < ANSWER_DEADLINE);
        match self.publisher {
            Publisher::Free | Publisher::Ended => Vec::new(),
            Publisher::Grace { until } if now >= until => {
                self.publisher = Publisher::Ended;
                vec![Decision::End]
            }
            Publisher::Grace { .. } => Vec::new(),
            Publisher::Held { epoch, since } => match heard.stale(since, !self.waiting.is_empty(), self.awake, now) {
                Some(reason) => {
                    let mut decisions = vec![Decision::Evict(epoch, reason)];
                    decisions.extend(self.ended(epoch, Leaving::Lost, now));
                    decisions
                }
                None => self.refuse_those_before(heard.media),
            },
        }
    }

    /// The holder lives: it was heard after these had asked.
    fn refuse_those_before(&mut self, media: Option<Instant>) -> Vec<Decision<A>> {
        let lives = |waiting: &Waiting<A>| media.is_some_and(|media| media >= waiting.since + SETTLE);
        let (refused, waiting): (VecDeque<_>, VecDeque<_>) =
            std::mem::take(&mut self.waiting).into_iter().partition(lives);
        self.waiting = waiting;
        refused.into_iter().map(|waiting| Decision::Refuse(waiting.asker, Denial::Taken)).collect()
    }

    /// The first that waits gets the stream; to the others it is a new holder.
    fn grant_next(&mut self, now: Instant) -> Option<Decision<A>> {
        let next = self.waiting.pop_front()?;
        Some(self.grant(next.asker, now))
    }

    fn grant(&mut self, asker: A, now: Instant) -> Decision<A> {
        self.epoch += 1;
        self.publisher = Publisher::Held { epoch: self.epoch, since: now };
        Decision::Grant(asker, self.epoch)
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
