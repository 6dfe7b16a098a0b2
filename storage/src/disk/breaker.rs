//! Breaker: keeps a storage that hangs from taking thread after thread. One question at a time is asked, each on a
//! thread of its own; while there is no answer, no job is taken.

use super::{Busy, HUNG_AFTER, Job, MAX_LOST, locked, run};
use crate::archive::Archive;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// A question that is not answered by then is given up and another one asked: what was mounted there may be gone for
/// good, and something else in its place. Twice as long for each that was given up before: each has a thread that may
/// never come back.
pub const ASK_AGAIN: Duration = Duration::from_secs(60);
/// No question waits for longer. With [`MAX_LOST`] threads that is more than a day of one hang.
const LONGEST: Duration = Duration::from_secs(3600);

/// Open while there is no answer.
#[derive(Debug, Default)]
pub(super) struct Breaker(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    /// The question that is being asked, and since when.
    asked: Option<(u64, Instant)>,
    questions: u64,
    /// Threads whose question was given up.
    lost: usize,
    is_open: bool,
}

impl Breaker {
    /// Asks a question, unless one is being asked.
    pub fn ask(&self, archive: Arc<dyn Archive>, question: Job, now: Instant) -> Result<(), Busy> {
        let mut state = locked(&self.0);
        if state.asked.is_some() || state.lost >= MAX_LOST {
            return Err(Busy);
        }
        state.questions += 1;
        let (number, shared) = (state.questions, self.0.clone());
        let ask = move || {
            run(question, &*archive);
            locked(&shared).answered(number);
        };
        thread::Builder::new().name("disk-probe".to_owned()).spawn(ask).map_err(|_| Busy)?;
        state.asked = Some((number, now));
        Ok(())
    }

    /// Opens if the question is unanswered for too long; whether it is open.
    pub fn check(&self, now: Instant) -> bool {
        let mut state = locked(&self.0);
        let waiting = state.asked.map_or(Duration::ZERO, |(_, asked)| now.saturating_duration_since(asked));
        state.is_open |= waiting > HUNG_AFTER;
        if waiting >= state.patience() {
            state.asked = None;
            state.lost += 1;
        }
        state.is_open
    }

    /// Whether it is open.
    pub fn is_open(&self) -> bool {
        locked(&self.0).is_open
    }
}

impl State {
    /// How long the question that is asked may take.
    fn patience(&self) -> Duration {
        let doublings = u32::try_from(self.lost).unwrap_or(u32::MAX);
        ASK_AGAIN.saturating_mul(2_u32.saturating_pow(doublings)).min(LONGEST)
    }

    /// An answer, whatever it is, closes the breaker. One that comes too late frees its thread and says that something
    /// moves: another one may be asked.
    fn answered(&mut self, number: u64) {
        if self.asked.is_some_and(|(asked, _)| asked == number) {
            (self.asked, self.is_open) = (None, false);
        } else if !(self.is_open && self.asked.take().is_some()) {
            // Otherwise the one that was being asked is given up in its place.
            self.lost = self.lost.saturating_sub(1);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::LocalDirectory;
    use std::sync::mpsc::{SyncSender, sync_channel};

    /// Asks a question that hangs until what is returned is dropped.
    fn hangs(breaker: &Breaker, now: Instant) -> Result<SyncSender<()>, Busy> {
        let (release, gate) = sync_channel::<()>(0);
        let archive = Arc::new(LocalDirectory::at(std::path::Path::new("/nowhere")));
        breaker.ask(archive, Box::new(move |_: &dyn Archive| gate.recv().unwrap_or_default()), now).map(|()| release)
    }

    #[test]
    fn a_question_is_given_up_later_the_more_of_them_hang_and_a_late_answer_has_another_one_asked() {
        let (breaker, begun) = (Breaker::default(), Instant::now());
        let first = hangs(&breaker, begun).expect("it is asked");
        assert!(breaker.check(begun + ASK_AGAIN));
        let again = begun + ASK_AGAIN;
        let second = hangs(&breaker, again).expect("the first was given up");
        breaker.check(again + ASK_AGAIN);
        assert!(hangs(&breaker, again).is_err(), "the second may take longer");
        breaker.check(again + 2 * ASK_AGAIN);
        let third = hangs(&breaker, again + 2 * ASK_AGAIN).expect("the second was given up");
        drop(first);
        let fourth = loop {
            if let Ok(fourth) = hangs(&breaker, again + 2 * ASK_AGAIN) {
                break fourth;
            }
            thread::yield_now();
        };
        assert!(breaker.is_open(), "the first says nothing of how storage is now");
        assert_eq!(locked(&breaker.0).lost, 2, "the second and the third");
        drop(fourth);
        while breaker.is_open() {
            thread::yield_now();
        }
        drop((second, third));
        while locked(&breaker.0).lost > 0 {
            thread::yield_now();
        }
    }

    #[test]
    fn questions_that_hang_for_days_are_bounded() {
        let (breaker, mut now) = (Breaker::default(), Instant::now());
        let begun = now;
        let mut threads = Vec::new();
        while let Ok(release) = hangs(&breaker, now) {
            threads.push(release);
            // No longer than each is waited for.
            while locked(&breaker.0).asked.is_some() {
                now += ASK_AGAIN;
                breaker.check(now);
            }
        }
        assert_eq!(threads.len(), MAX_LOST);
        assert!(now - begun > Duration::from_secs(24 * 3600));
    }
}
