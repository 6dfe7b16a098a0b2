//! One file an actor. A handler is a routing table; the work is in its `State`, tested without a runtime.
//!
//! Media never travels by mailbox: mailboxes are unbounded. It goes through the sample log.

pub mod archiver;
pub mod authorizer;
pub mod door;
pub mod encoder_socket;
pub mod events;
pub mod fault;
pub mod interrupted;
pub mod operations;
pub mod publisher_lock;
pub mod recorder;
pub mod retention;
pub mod rtmp_listener;
pub mod segmenter;
pub mod session;
pub mod slate;
pub mod steps;
pub mod storage_probe;
pub mod task;
pub mod vitals;
pub mod watcher;

pub use authorizer::{Authorizer, Verdict};
pub use door::{Ask, Denial, Grant};
pub use fault::Fault;
pub use vitals::{Place, Vital, Vitals};
