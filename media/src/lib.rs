//! Formats, and nothing else: samples in, parts, segments and playlists out.
//!
//! Pure: no I/O, no clock, no task, no log. The same input gives the same bytes, which is what
//! lets a restarted segmenter go on where the published window ends.

pub mod cmaf;
pub mod codec;
pub mod flv;
pub mod hls;
pub mod intake;
pub mod movie;
pub mod mpegts;
pub mod packager;
pub mod read;
pub mod sample;
pub mod segment;
pub mod slate;
pub mod timeline;

pub use codec::{CodecError, aac::AacConfig, avc::AvcConfig};
pub use intake::Intake;
pub use packager::Packager;
pub use sample::{Entry, Sample, TICKS_PER_SECOND, TrackKind, Tracks, pack};
pub use segment::{Container, Segment};
