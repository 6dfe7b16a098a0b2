//! Somebody who asks for health and metrics all the time, and notes how long the answers take, and how long the machine
//! stood still in that very time.

use super::judge::Answers;
use crate::server::{Server, get};
use crate::standstill;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How often it asks.
const POLL: Duration = Duration::from_millis(100);

/// Asks for health and metrics, over and over.
pub struct Asking {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Answers>,
}

impl Asking {
    /// Begins to ask.
    pub fn start(server: &Server) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let (stopped, urls) = (stop.clone(), [server.health_url("/healthz"), server.health_url("/metrics")]);
        let thread = std::thread::spawn(move || {
            // Who scrapes is on another machine: what is measured is the server, not how this one shares its processors
            // between us and the encoders, viewers and players of the scenario. Without root it shares them.
            if !standstill::hurry() {
                eprintln!(
                    "who asks for health and metrics has no real-time priority: answers look later than they are"
                );
            }
            let (mut times, mut failed) = (Vec::new(), 0);
            while !stopped.load(Ordering::Relaxed) {
                for url in &urls {
                    let begun = Instant::now();
                    match get(url) {
                        Ok(_) => times.push((begun, begun.elapsed())),
                        Err(_) => failed += 1,
                    }
                }
                // The pace of the questions, so that asking is not what makes answers late.
                std::thread::sleep(POLL);
            }
            let stood = |(begun, took): (Instant, Duration)| (took, standstill::within(begun, begun + took));
            Answers::of(&times.into_iter().map(stood).collect::<Vec<_>>(), failed)
        });
        Self { stop, thread }
    }

    /// What came of it.
    pub fn stop(self) -> Answers {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_default()
    }
}
