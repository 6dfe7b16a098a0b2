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
    /// When it asked for the first time; it asks again while it waits.
    pub since: Instant,
    /// Until when it waits for an answer.
    pub deadline: Instant,
}

/// An ask is its session's, however often it is sent.
impl PartialEq for Ask {
    fn eq(&self, other: &Self) -> bool {
        self.session.get_id() == other.session.get_id()
    }
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
    /// The server is being stopped.
    #[error("this server is being stopped or upgraded; try again in a second")]
    Stopping,
    /// The stream's tree could not be started.
    #[error("the stream could not be opened; try again in a second")]
    NotOpened,
}

/// Why a session is told to leave.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Farewell {
    /// It sent no media, and lost the stream.
    Silent,
    /// Another encoder took the stream over.
    TakenOver,
    /// The server is being stopped.
    Stopping,
}

impl Farewell {
    /// For its user.
    pub fn text(self) -> &'static str {
        match self {
            Farewell::Silent => "no media came from you for too long; publish again",
            Farewell::TakenOver => "another encoder took this stream over",
            Farewell::Stopping => "this server is being stopped or upgraded; publish again",
        }
    }
}

impl Denial {
    /// Value of the metric's `reason` label.
    pub fn label(self) -> &'static str {
        match self {
            Denial::Taken => "taken",
            Denial::Closing => "closing",
            Denial::TooManyStreams => "too_many_streams",
            Denial::NotOpened => "not_opened",
            Denial::Stopping => "stopping",
        }
    }
}

impl Ask {
    /// Answers the session. One that has ended meanwhile needs no answer.
    pub fn answer(&self, answer: Result<Grant, Denial>) {
        let _ = self.session.send_message(session::Msg::Answer(answer));
    }
}
