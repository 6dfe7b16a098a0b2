//! Ctrl-C, and SIGTERM: what was seen so far is told; a second one, later, ends at once.

use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::{flag, low_level};
use std::io::{self, Read};
use std::os::unix::net::UnixStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

/// How soon a wait notices.
const SLICE: Duration = Duration::from_millis(100);
/// Signals so soon after the first mean the same: `timeout` sends one to the process and one to its group.
const SAME: Duration = Duration::from_secs(1);

/// Set by a signal, once somebody wants to be told.
static INTERRUPTED: OnceLock<Arc<AtomicBool>> = OnceLock::new();

/// From now on a signal does not end the process by itself: who measures looks at [`is_interrupted`].
pub fn watch() -> io::Result<()> {
    let (interrupted, ends) = (INTERRUPTED.get_or_init(Arc::default), Arc::new(AtomicBool::new(false)));
    let (mut came, tell) = UnixStream::pair()?;
    for signal in [SIGINT, SIGTERM] {
        flag::register_conditional_default(signal, ends.clone())?;
        flag::register(signal, interrupted.clone())?;
        low_level::pipe::register(signal, tell.try_clone()?)?;
    }
    thread::spawn(move || {
        if came.read_exact(&mut [0]).is_ok() {
            thread::sleep(SAME);
            ends.store(true, Ordering::Relaxed);
        }
    });
    Ok(())
}

/// Whether a signal came that was watched for.
pub fn is_interrupted() -> bool {
    INTERRUPTED.get().is_some_and(|interrupted| interrupted.load(Ordering::Relaxed))
}

/// Lets this time go by, unless a signal comes.
pub fn sleep(time: Duration) {
    sleep_unless(time, SLICE, || false);
}

/// Lets this time go by, unless a signal comes or it is `over`, which is looked at every `slice`.
pub fn sleep_unless(time: Duration, slice: Duration, over: impl Fn() -> bool) {
    let begun = Instant::now();
    while !is_interrupted() && !over() {
        let left = time.saturating_sub(begun.elapsed());
        if left.is_zero() {
            break;
        }
        thread::sleep(slice.min(left));
    }
}
