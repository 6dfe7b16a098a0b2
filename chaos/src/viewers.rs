//! Viewers: many that follow live playlists as players do, each with a buffer that can run dry.

use crate::audit::{fetch, parse};
use crate::interrupted::{is_interrupted, sleep_unless};
use serde::Serialize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use ureq::ResponseExt;

/// Stack of a viewer's thread, bytes: there may be many.
const STACK: usize = 256 << 10;
/// A player begins this many segments before the end of the playlist (RFC 8216 section 6.3.3: three target durations).
const BEHIND: usize = 3;
/// What only Multivariant Playlists have (RFC 8216 section 4.3.4.2).
const MULTIVARIANT: &[u8] = b"#EXT-X-STREAM-INF";
/// For how long a buffer may be dry: a player whose clock stands still for less goes on unnoticed.
const STALL: Duration = Duration::from_millis(250);
/// Longest time between two looks at a playlist, whatever it says.
const MAX_TARGET: u64 = 60;
/// How soon a viewer that waits notices that it is to stop.
const LOOK: Duration = Duration::from_secs(1);
/// From its first question a viewer's stream may be so long on its way into a playlist: the longest GOP we test, and a segment.
const HEAD_START: Duration = Duration::from_secs(15);
/// How long a viewer waits after an error.
const AFTER_ERROR: Duration = Duration::from_millis(500);

/// What viewers saw, added up.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct Seen {
    /// Viewers.
    pub viewers: usize,
    /// Of those, how many played anything.
    pub played: usize,
    /// Requests that were answered with 200.
    pub requests: u64,
    /// Requests that were not, and answers that were no Media Playlist.
    pub errors: u64,
    /// Longest time from a viewer's first question to its first segment, seconds.
    pub first_segment: f64,
    /// The first error, as it was reported.
    pub first_error: Option<String>,
    /// Bytes of segments.
    pub bytes: u64,
    /// Times a buffer was dry for a quarter of a second or more.
    pub stalls: u64,
    /// For how long all together, seconds.
    pub stalled_seconds: f64,
}

/// Viewers at work.
pub struct Viewers {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Seen>>,
}

impl Viewers {
    /// Starts `viewers`; viewer `n` plays the URL with `{}` replaced by `n` modulo `streams`.
    pub fn start(viewers: usize, streams: usize, template: &str) -> std::io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let thread = |n: usize| {
            let (stop, url) = (stop.clone(), template.replace("{}", &(n % streams.max(1)).to_string()));
            std::thread::Builder::new().stack_size(STACK).spawn(move || Viewer::new(url).watch(&stop))
        };
        let threads = (0..viewers).map(thread).collect::<std::io::Result<_>>()?;
        Ok(Self { stop, threads })
    }

    /// Ends them; what they saw.
    pub fn stop(self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        let each = self.threads.into_iter().map(|thread| thread.join().unwrap_or_default());
        each.fold(Seen::default(), |all, one| Seen {
            viewers: all.viewers + 1,
            played: all.played + usize::from(one.bytes > 0),
            requests: all.requests + one.requests,
            errors: all.errors + one.errors,
            first_segment: all.first_segment.max(one.first_segment),
            first_error: all.first_error.or(one.first_error),
            bytes: all.bytes + one.bytes,
            stalls: all.stalls + one.stalls,
            stalled_seconds: all.stalled_seconds + one.stalled_seconds,
        })
    }
}

impl Seen {
    /// What is to be said against it.
    pub fn wrong(&self) -> Vec<String> {
        let mut wrong = Vec::new();
        if self.errors > 0 {
            let first = self.first_error.as_deref().unwrap_or_default();
            wrong.push(format!("requests that were of no use to viewers: {}, the first: {first}", self.errors));
        }
        if self.stalls > 0 {
            wrong.push(format!("stalls: {}, {:.1} s all together", self.stalls, self.stalled_seconds));
        }
        if self.played < self.viewers {
            wrong.push(format!("{} of {} viewers played", self.played, self.viewers));
        }
        wrong
    }
}

struct Viewer {
    url: String,
    begun: Instant,
    /// Why there was nothing to play yet.
    not_yet: Option<String>,
    agent: ureq::Agent,
    seen: Seen,
    buffer: Buffer,
    /// Number of the next segment to fetch.
    next: Option<u64>,
}

/// Media that was fetched and not shown yet.
#[derive(Debug, Default)]
struct Buffer {
    /// When what was fetched will have been shown.
    dry_at: Option<Instant>,
}

impl Buffer {
    /// Adds a segment; how long the buffer had been dry.
    fn add(&mut self, media: Duration, now: Instant) -> Option<Duration> {
        let dry_at = *self.dry_at.get_or_insert(now);
        let dry = now.checked_duration_since(dry_at).filter(|dry| *dry >= STALL);
        self.dry_at = Some(dry_at.max(now) + media);
        dry
    }
}

impl Viewer {
    fn new(url: String) -> Self {
        let agent = ureq::Agent::new_with_config(
            ureq::Agent::config_builder().timeout_global(Some(Duration::from_secs(10))).build(),
        );
        let (begun, not_yet) = (Instant::now(), None);
        Self { url, begun, not_yet, agent, seen: Seen::default(), buffer: Buffer::default(), next: None }
    }

    fn watch(mut self, stop: &AtomicBool) -> Seen {
        loop {
            let wait = self.poll().unwrap_or(AFTER_ERROR);
            if stop.load(Ordering::Relaxed) || is_interrupted() {
                break;
            }
            sleep_unless(wait, LOOK, || stop.load(Ordering::Relaxed));
        }
        // What never began has not merely begun late.
        if let Some(error) = self.not_yet.take().filter(|_| self.seen.bytes == 0 && self.seen.errors == 0) {
            (self.seen.errors, self.seen.first_error) = (1, Some(error));
        }
        // A buffer that was dry when it ended was a stall, too.
        let dry = self.buffer.dry_at.and_then(|at| Instant::now().checked_duration_since(at));
        self.note_stall(dry.filter(|dry| *dry >= STALL && self.seen.bytes > 0));
        self.seen
    }

    /// Reads the playlist once and fetches what is new; how long to wait until the next time (section 6.3.4).
    fn poll(&mut self) -> Option<Duration> {
        let (base, text) = self.get(&self.url.clone())?;
        let is_multivariant = text.windows(MULTIVARIANT.len()).any(|window| window == MULTIVARIANT);
        let Some(playlist) = parse::media_playlist(&text).ok().filter(|_| !is_multivariant) else {
            return self.failed(&self.url.clone(), "it is no Media Playlist: name one, such as …/0.m3u8");
        };
        let target = Duration::from_secs(playlist.target_duration.clamp(1, MAX_TARGET));
        let end = playlist.media_sequence.saturating_add(playlist.segments.len() as u64);
        let first = end.saturating_sub(BEHIND as u64);
        let next = self.next.unwrap_or(first).max(playlist.media_sequence);
        for (sequence, segment) in
            (playlist.media_sequence..=u64::MAX).zip(&playlist.segments).filter(|(n, _)| *n >= next)
        {
            if is_interrupted() {
                break;
            }
            let (_, bytes) = self.get(&fetch::beside(&base, &segment.uri))?;
            if self.seen.bytes == 0 {
                self.seen.first_segment = self.begun.elapsed().as_secs_f64();
            }
            self.seen.bytes += bytes.len() as u64;
            let dry = self.buffer.add(Duration::from_secs_f32(segment.duration.clamp(0.0, 60.0)), Instant::now());
            self.note_stall(dry);
            self.next = Some(sequence.saturating_add(1));
        }
        Some(if self.next == Some(next) { target / 2 } else { target })
    }

    fn note_stall(&mut self, dry: Option<Duration>) {
        if let Some(dry) = dry {
            self.seen.stalls += 1;
            self.seen.stalled_seconds += dry.as_secs_f64();
        }
    }

    /// Where it came from in the end, and what it is.
    fn get(&mut self, url: &str) -> Option<(String, Vec<u8>)> {
        let answer = self.agent.get(url).call().and_then(|mut response| {
            let from = response.get_uri().to_string();
            Ok((from, response.body_mut().with_config().limit(256 << 20).read_to_vec()?))
        });
        match answer {
            Ok(answer) => {
                self.seen.requests += 1;
                Some(answer)
            }
            Err(error) => self.failed(url, &error.to_string()),
        }
    }

    fn failed<T>(&mut self, url: &str, why: &str) -> Option<T> {
        let error = format!("{url}: {why}");
        if self.seen.bytes == 0 && self.begun.elapsed() < HEAD_START {
            self.not_yet = Some(error);
        } else {
            self.seen.errors += 1;
            self.seen.first_error.get_or_insert(error);
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_that_is_filled_in_time_never_runs_dry_and_one_that_is_not_does_for_as_long() {
        let second = Duration::from_secs(1);
        let start = Instant::now();
        let mut buffer = Buffer::default();
        assert_eq!(buffer.add(2 * second, start), None, "nothing was played yet");
        assert_eq!(buffer.add(2 * second, start + second), None);
        assert_eq!(buffer.add(2 * second, start + 7 * second), Some(3 * second));
        let hardly = Duration::from_millis(249);
        assert_eq!(Buffer { dry_at: Some(start) }.add(second, start + hardly), None, "nobody notices that");
        assert_eq!(buffer.add(2 * second, start + 8 * second), None, "it goes on from there");
    }

    #[test]
    fn an_origin_that_is_not_there_is_an_error_and_nobody_plays() {
        let viewers = Viewers::start(3, 2, "http://127.0.0.1:9/live/x-{}/0.m3u8").expect("threads");
        let seen = viewers.stop();
        assert_eq!((seen.viewers, seen.played), (3, 0));
        assert!(seen.errors >= 3 && seen.first_error.is_some_and(|error| error.contains("/live/x-")));
    }
}
