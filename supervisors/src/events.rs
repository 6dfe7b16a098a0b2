//! What supervisors log and count.

use crate::strategy::Ending;
use metrics::{counter, gauge};
use tracing::{error, info, warn};

/// Actors that are restarted.
const ACTORS: [&str; 12] = [
    "streams",
    "storage_probe",
    "retention",
    "watchdog",
    "rtmp_listener",
    "publisher_lock",
    "segmenter",
    "archiver",
    "recorder",
    "watcher",
    "slate",
    "stream",
];

/// Lets every counter begin at zero: who asks for an increase misses the first one of a series that was not there.
pub fn register() {
    for ending in Ending::ALL {
        for actor in ACTORS {
            counter!("steadycast_supervisor_gave_up_total", "actor" => actor).increment(0);
            counter!("steadycast_actor_restarts_total", "actor" => actor, "reason" => ending.label()).increment(0);
        }
        counter!("steadycast_actor_failures_total", "actor" => "session", "reason" => ending.label()).increment(0);
        counter!("steadycast_stream_rebuilds_total", "reason" => ending.label()).increment(0);
    }
    counter!("steadycast_sessions_adopted_total").increment(0);
}

/// A child ended and will be started again.
pub fn restarting(scope: &str, child: &'static str, generation: u64, ending: Ending, reason: &str) {
    counter!("steadycast_actor_restarts_total", "actor" => child, "reason" => ending.label()).increment(1);
    warn!(scope, child, generation, ending = ending.label(), reason, "restarting");
}

/// A publishing session ended; only its own wish is no failure of ours.
pub fn session_ended(ending: Ending) {
    if ending != Ending::Stopped {
        counter!("steadycast_actor_failures_total", "actor" => "session", "reason" => ending.label()).increment(1);
        error!(ending = ending.label(), "a publishing session failed; its encoder must reconnect");
    }
}

/// A child fails too often.
pub fn gave_up(scope: &str, child: &'static str, reason: &str) {
    counter!("steadycast_supervisor_gave_up_total", "actor" => child).increment(1);
    error!(scope, child, reason, "restarted too often, its tree is rebuilt");
}

/// A stream's tree is built again around the same shared state.
pub fn rebuilding(stream: &str, ending: Ending) {
    counter!("steadycast_stream_rebuilds_total", "reason" => ending.label()).increment(1);
    warn!(stream, ending = ending.label(), "rebuilding the stream's tree");
}

/// How many streams have a tree.
pub fn streams(count: usize) {
    gauge!("steadycast_streams").set(count as f64);
}

/// A session that had ended was found at start: who watches it may see its end.
pub fn adopted_ended(stream: &str, session: &str) {
    info!(stream, session, "an ended session is shown a little longer");
}

/// A live session was found at start and goes on.
pub fn adopted(stream: &str, session: &str, segments: usize, gaps: usize) {
    counter!("steadycast_sessions_adopted_total").increment(1);
    info!(stream, session, segments, gaps, "session adopted, waiting for its publisher");
}

/// A recording is not finished now, because storage does not take it; it is when the archive is well again, or at the next
/// start.
pub fn recording_left(stream: &str) {
    counter!("steadycast_recordings_left_total").increment(1);
    warn!(stream, "recording left unfinished, until its archive is well again or the next start");
}
