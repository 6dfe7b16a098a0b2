//! RTMP without I/O: bytes of a peer in, events and answers out.
//!
//! Handshake, chunk serializer and message types are `rml_rtmp`'s. Whatever reads bytes of
//! strangers is ours, because a peer's mistake may end that peer's connection and nothing else.

mod aggregate;
pub mod amf0;
pub mod chunk;
mod command;
pub mod event;
pub mod session;
mod writer;

pub use chunk::{ChunkError, ChunkReader, Message};
pub use event::{Event, PublishRequest, Refusal};
pub use session::{ServerSession, SessionError};
