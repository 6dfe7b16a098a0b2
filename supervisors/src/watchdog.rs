//! watchdog: shows that the actors' runtime runs. Read by the health thread, which shares nothing with it.

use ractor::{Actor, ActorProcessingErr, ActorRef};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// How often the heart beats.
pub const BEAT: Duration = Duration::from_millis(500);

/// When a runtime last ran a task.
#[derive(Debug)]
pub struct Pulse(Mutex<Instant>);

impl Default for Pulse {
    fn default() -> Self {
        Self(Mutex::new(Instant::now()))
    }
}

impl Pulse {
    /// The runtime runs.
    pub fn beat(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    /// Time since the last beat.
    pub fn age(&self, now: Instant) -> Duration {
        now.saturating_duration_since(*self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Messages to the watchdog.
#[derive(Debug)]
pub enum Msg {
    /// Time to beat.
    Beat,
}

/// The actor.
#[derive(Debug, Default)]
pub struct Watchdog;

impl Actor for Watchdog {
    type Msg = Msg;
    type State = Arc<Pulse>;
    type Arguments = Arc<Pulse>;

    async fn pre_start(&self, myself: ActorRef<Msg>, pulse: Arc<Pulse>) -> Result<Arc<Pulse>, ActorProcessingErr> {
        myself.send_after(Duration::ZERO, || Msg::Beat);
        Ok(pulse)
    }

    async fn handle(&self, myself: ActorRef<Msg>, msg: Msg, pulse: &mut Arc<Pulse>) -> Result<(), ActorProcessingErr> {
        match msg {
            Msg::Beat => {
                pulse.beat();
                myself.send_after(BEAT, || Msg::Beat);
            }
        }
        Ok(())
    }
}
