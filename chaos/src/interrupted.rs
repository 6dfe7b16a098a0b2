//! Ctrl-C, and SIGTERM: what was seen so far is told; a second one ends at once.

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

/// How soon a wait notices.
const SLICE: Duration = Duration::from_millis(100);

/// Set by a signal, once somebody wants to be told.
static INTERRUPTED: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// From now on a signal does not end the process by itself: who measures looks at [`is_interrupted`].
pub fn watch() -> io::Result<()> {
    let interrupted = INTERRUPTED.get_or_init(Arc::default);
    for signal in [SIGINT, SIGTERM] {
        flag::register_conditional_default(signal, interrupted.clone())?;
        flag::register(signal, interrupted.clone())?;
    }
    Ok(())
}

/// Whether a signal came that was watched for.
pub fn is_interrupted() -> bool {
    INTERRUPTED.get().is_some_and(|interrupted| interrupted.load(Ordering::Relaxed))
}

/// Lets this time go by, or what is left of it when a signal comes.
pub fn sleep(time: Duration) {
    let begun = Instant::now();
    while !is_interrupted() && begun.elapsed() < time {
        thread::sleep(SLICE.min(time - begun.elapsed().min(time)));
    }
}
