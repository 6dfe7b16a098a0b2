//! Authorizer: who may publish what.

use std::net::SocketAddr;
use storage::StreamName;

/// The answer to a request to publish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The peer may publish.
    Granted,
    /// It may not; the reason is sent to the encoder.
    Denied(String),
}

/// Decides at once and from memory: it is asked on the live path.
pub trait Authorizer: Send + Sync + 'static {
    /// Whether `peer` may publish `stream` with these query parameters.
    fn authorize(&self, stream: &StreamName, parameters: &[(String, String)], peer: SocketAddr) -> Verdict;
}
