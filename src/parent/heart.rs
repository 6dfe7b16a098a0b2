//! Heart: a parent listens for its worker's signs of life, on a socket that the worker inherits.

use std::io;
use std::os::unix::net;
use std::time::Duration;
use tokio::net::UnixDatagram;
use tokio::time::{Instant, sleep_until};

/// How often a worker shows that it makes progress.
pub const EVERY: Duration = Duration::from_secs(2);
/// A worker that has shown it, and shows it no more for this long, is stopped, or stuck as a whole.
const SILENT: Duration = Duration::from_secs(10);
/// From its start to its first sign of life: locks and what it adopts are waited for seconds at most.
const START_WITHIN: Duration = Duration::from_secs(60);
/// Silence is waited for in steps: one that takes this much longer says that the parent itself was stopped, and perhaps
/// its worker with it.
const STEP: Duration = Duration::from_secs(1);

/// Where one worker's signs of life come in.
pub struct Heart {
    socket: UnixDatagram,
    /// When its silence has lasted too long.
    until: Instant,
}

impl Heart {
    /// One for a new worker, and the end that it is to inherit.
    pub fn of_worker() -> io::Result<(Self, net::UnixDatagram)> {
        let (ours, theirs) = net::UnixDatagram::pair()?;
        ours.set_nonblocking(true)?;
        // Its worker must not hang when nobody listens.
        theirs.set_nonblocking(true)?;
        let until = Instant::now() + START_WITHIN;
        Ok((Self { socket: UnixDatagram::from_std(ours)?, until }, theirs))
    }

    /// Returns when the worker has been silent for too long.
    pub async fn stops(&mut self) {
        let mut message = [0; 16];
        loop {
            let step = Instant::now() + STEP;
            tokio::select! {
                // What has come counts, however late this process itself was.
                biased;
                received = self.socket.recv(&mut message) => match received {
                    Ok(_) => self.until = Instant::now() + SILENT,
                    // Nothing can be heard any more: nobody is killed for that.
                    Err(_) => return std::future::pending().await,
                },
                () = sleep_until(step) => {
                    let now = Instant::now();
                    if now.saturating_duration_since(step) > STEP {
                        self.until = self.until.max(now + SILENT);
                    }
                    if now >= self.until {
                        // Told once: it is killed, and its end is waited for.
                        self.until = now + START_WITHIN;
                        return;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::{advance, timeout};

    #[tokio::test(start_paused = true)]
    async fn a_worker_that_is_silent_has_stopped_and_one_that_never_spoke_has_more_time() {
        let (mut heart, worker) = Heart::of_worker().expect("sockets");
        assert!(timeout(START_WITHIN - STEP, heart.stops()).await.is_err(), "it may be starting");
        heart.stops().await;
        worker.send(b"1").expect("sent");
        let begun = Instant::now();
        heart.stops().await;
        assert!((SILENT..SILENT + 2 * STEP).contains(&begun.elapsed()), "{:?}", begun.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_parent_that_was_stopped_itself_gives_its_worker_time() {
        let (mut heart, worker) = Heart::of_worker().expect("sockets");
        worker.send(b"1").expect("sent");
        assert!(timeout(STEP * 2, heart.stops()).await.is_err());
        let stops = async {
            heart.stops().await;
            Instant::now()
        };
        let frozen = async {
            // Past its first step, and for longer than a worker may be silent.
            tokio::task::yield_now().await;
            advance(SILENT * 3).await;
            Instant::now()
        };
        let (stopped, thawed) = tokio::join!(stops, frozen);
        assert!(stopped - thawed >= SILENT - STEP, "{:?}", stopped - thawed);
    }
}
