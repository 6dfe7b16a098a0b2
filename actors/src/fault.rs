//! Faults put into a running actor on purpose, to see that the show goes on.

use ractor::ActorProcessingErr;
use std::time::Duration;
use thiserror::Error;

/// What an actor is made to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Panic in the handler.
    Panic,
    /// Return an error from the handler.
    Error,
    /// Block the handler's thread for this long.
    Block(Duration),
}

/// The error of [`Fault::Error`].
#[derive(Debug, Error)]
#[error("failed on request")]
pub struct Requested;

impl Fault {
    /// Does it.
    pub fn strike(self) -> Result<(), ActorProcessingErr> {
        match self {
            Fault::Panic => panic!("panicked on request"),
            Fault::Error => Err(Box::new(Requested)),
            Fault::Block(time) => {
                // The very thing handlers must never do.
                std::thread::sleep(time);
                Ok(())
            }
        }
    }
}
