//! The door: how a session asks for a stream and is answered.

use crate::publisher_lock;
use crate::session;
use ractor::ActorRef;
use std::sync::Arc;
use storage::{LiveStream, StreamName};
use thiserror::Error;
use tokio::time::Instant;

/// A session asks to publish. It has been authorized.
#[derive(Debug, Clone)]
pub struct Ask {
    /// What it wants to publish.
    pub stream: StreamName,
    /// Who asks; answered with [`session::Msg::Answer`].
    pub session: ActorRef<session::Msg>,
    /// Until when it waits for an answer.
    pub deadline: Instant,
}

/// The stream is the session's.
#[derive(Debug, Clone)]
pub struct Grant {
    /// The stream.
    pub stream: Arc<LiveStream>,
    /// Fencing token: carried by every sample.
    pub epoch: u64,
    /// Where the session's first sample falls on the stream's timeline, milliseconds.
    pub start_ms: i64,
    /// Whom to tell when the publication ends before the connection does.
    pub lock: ActorRef<publisher_lock::Msg>,
}

/// Why a session may not publish now. The text is for the encoder's user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum Denial {
    /// A live encoder holds the stream.
    #[error("another encoder is publishing this stream; stop it first, or publish under another name")]
    Taken,
    /// The session before has just ended and is being closed.
    #[error("the previous session of this stream is closing; try again in a second")]
    Closing,
    /// No room for another stream.
    #[error("this server carries as many streams as it can; try again later")]
    TooManyStreams,
    /// The stream's tree could not be started.
    #[error("the stream could not be opened; try again in a second")]
    NotOpened,
}

impl Denial {
    /// Value of the metric's `reason` label.
    pub fn label(self) -> &'static str {
        match self {
            Denial::Taken => "taken",
            Denial::Closing => "closing",
            Denial::TooManyStreams => "too_many_streams",
            Denial::NotOpened => "not_opened",
        }
    }
}

impl Ask {
    /// Answers the session. One that has ended meanwhile needs no answer.
    pub fn answer(&self, answer: Result<Grant, Denial>) {
        let _ = self.session.send_message(session::Msg::Answer(answer));
    }
}
