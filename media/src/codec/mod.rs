//! Decoder configuration records, read from strangers: every number is range-checked.

pub mod aac;
pub mod avc;
pub mod silence;

use thiserror::Error;

/// Why a publisher's codec configuration or tag cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum CodecError {
    /// Well-formed, and something we do not package. The text names it for the encoder's user.
    #[error("{0} cannot be packaged here yet; publish H.264 video and AAC audio")]
    Unsupported(String),
    /// The bytes are not what they claim to be.
    #[error("malformed {0}")]
    Malformed(&'static str),
}
