//! Breaker: keeps a storage that hangs from taking thread after thread. One question at a time is asked, each on a
//! thread of its own; while there is no answer, no job is taken.

use super::{Busy, HUNG_AFTER, Job, MAX_LOST, locked, run};
use crate::archive::Archive;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

/// A question that is not answered by then is given up and another one asked: what was mounted there may be gone for
/// good, and something else in its place.
pub const ASK_AGAIN: Duration = Duration::from_secs(60);

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
        if waiting >= ASK_AGAIN {
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
    /// An answer, whatever it is, closes the breaker; one that comes too late frees its thread and says nothing.
    fn answered(&mut self, number: u64) {
        if self.asked.is_some_and(|(asked, _)| asked == number) {
            (self.asked, self.is_open) = (None, false);
        } else {
            self.lost = self.lost.saturating_sub(1);
        }
    }
}
