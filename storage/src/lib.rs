//! What viewers and the archive are served from.
//!
//! The live path ends here in memory: [`SampleLog`] and [`Window`] belong to a stream, not to an
//! actor, so that they outlive every restart of one. The archive is a replica of the window.

pub mod archive;
mod bit_rate;
pub mod continuity;
pub mod disk;
pub mod document;
pub mod events;
pub mod export;
pub mod extents;
pub mod hints;
pub mod live;
pub mod log;
pub mod metered;
pub mod mounts;
pub mod name;
pub mod numbers;
pub mod recording;
pub mod recordings;
pub mod registry;
pub mod retention;
pub mod signs;
pub mod snapshot;
pub mod spool;
pub mod window;
mod write;

pub use archive::{Archive, Ledger, Room};
pub use hints::Hints;
pub use live::{LiveStream, Publisher, Session};
pub use log::SampleLog;
pub use mounts::{Mount, Mounts};
pub use name::StreamName;
pub use numbers::Numbers;
pub use recordings::Recordings;
pub use registry::Registry;
pub use signs::Signs;
pub use snapshot::{Document, Snapshot};
pub use spool::Spool;
pub use window::Window;
