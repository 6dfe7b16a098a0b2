//! Recordings of sessions that are over, as long as storage does not take them.

use actors::recorder;
use std::sync::Arc;
use storage::LiveStream;
use tokio::time::Instant;

/// A recording that is not complete although its stream's tree is gone.
#[derive(Debug)]
pub struct Unfinished {
    pub(super) stream: Arc<LiveStream>,
    /// Recorders that failed or hung over it.
    pub(super) failed: u32,
    /// When there is no more to be hoped for.
    pub(super) until: Instant,
    /// It is among those that have a recorder or wait for one.
    pub(super) is_accepted: bool,
}

impl Unfinished {
    /// Of a session that is over.
    pub fn new(stream: &Arc<LiveStream>) -> Self {
        Self { stream: stream.clone(), failed: 0, until: Instant::now() + recorder::FINISH_WITHIN, is_accepted: false }
    }
}

/// Whether there is something of a session that storage has not taken yet.
pub(super) fn is_unfinished(stream: &LiveStream) -> bool {
    stream.settings.record && stream.window.snapshot().has_playlist() && !stream.spool.is_finished()
}
