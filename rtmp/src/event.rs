//! What a server session tells its caller, and is told in return.

use crate::amf0::Value;
use bytes::Bytes;

/// What a peer did that the server must act on.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The peer asks to publish; answer with [`ServerSession::accept`](crate::ServerSession::accept) or [`ServerSession::refuse`](crate::ServerSession::refuse).
    Publish(PublishRequest),
    /// The publisher ended its publication by a command.
    Unpublish,
    /// The `connect` was rejected; nothing more is read.
    Rejected,
    /// `onMetaData` of the publisher.
    Metadata(Value),
    /// An audio message: one FLV audio tag body.
    Audio {
        /// Milliseconds, wrapping at 2^32.
        timestamp: u32,
        /// FLV AudioTagHeader and data.
        payload: Bytes,
    },
    /// A video message: one FLV video tag body.
    Video {
        /// Milliseconds, wrapping at 2^32.
        timestamp: u32,
        /// FLV VideoTagHeader and data.
        payload: Bytes,
    },
}

/// A request to publish, with the queries taken off its names.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct PublishRequest {
    /// Application, as in `rtmp://host/app/name`.
    pub app: String,
    /// Publishing name without its query.
    pub name: String,
    /// Parameters of the queries on name and application, the name's first.
    pub parameters: Vec<(String, String)>,
    /// URL the encoder was given, for logs of refusals; never trusted.
    pub tc_url: String,
}

/// How a `publish` is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    /// The name cannot be used now: taken, or not a valid name (`NetStream.Publish.BadName`).
    BadName,
    /// The peer may not publish here (`NetStream.Publish.Denied`).
    Denied,
}
