//! A viewer whose server is away now and then: it fetches everything that is listed each time anew, and checks that no
//! number and no name is ever anything else than before.

use super::witness::{Sha, sha};
use crate::broken::Broken;
use crate::server::get;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

/// How often it looks.
const POLL: Duration = Duration::from_millis(100);
/// Promises that are told of, at most.
const MAX_BROKEN: usize = 50;

/// Notes a promise that was broken.
pub fn check(broken: &mut Vec<Broken>, kept: bool, sentence: impl FnOnce() -> String) {
    if !kept && broken.len() < MAX_BROKEN {
        broken.push(sentence().into());
    }
}

/// Whether a segment is listed as one that cannot be had.
pub fn is_gap(segment: &m3u8_rs::MediaSegment) -> bool {
    segment.unknown_tags.iter().any(|tag| tag.tag == "X-GAP")
}

/// What a viewer saw, whose server is away now and then.
#[derive(Debug, Default)]
pub struct Seen {
    /// Digests of segments by name.
    pub bytes: BTreeMap<String, Sha>,
    /// EXT-X-GAPs seen.
    pub gaps: BTreeSet<String>,
    /// Names by media sequence number.
    pub numbers: BTreeMap<u64, String>,
    /// The last EXT-X-MEDIA-SEQUENCE.
    pub media_sequence: u64,
    /// The last EXT-X-DISCONTINUITY-SEQUENCE.
    pub discontinuity_sequence: u64,
    /// Absolute number of the first discontinuity seen.
    pub first_discontinuity: Option<u64>,
    /// Discontinuities after that.
    pub discontinuities: u64,
    /// Promises that were broken.
    pub broken: Vec<Broken>,
}

pub struct Viewer {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Seen>>,
    thread: std::thread::JoinHandle<()>,
}

impl Viewer {
    /// Follows a Media Playlist.
    pub fn start(url: String) -> Self {
        let (stop, seen) = (Arc::new(AtomicBool::new(false)), Arc::<Mutex<Seen>>::default());
        let (stopped, theirs) = (stop.clone(), seen.clone());
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::Relaxed) {
                // While the process restarts nobody answers.
                if let Ok(text) = get(&url) {
                    theirs.lock().unwrap_or_else(PoisonError::into_inner).look(&url, &text);
                }
                // The pace of a viewer's looks.
                std::thread::sleep(POLL);
            }
        });
        Self { stop, seen, thread }
    }

    /// Segments it has by now.
    pub fn segments(&self) -> usize {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner).bytes.len()
    }

    /// What it saw, and no more.
    pub fn stop(self) -> Seen {
        self.stop.store(true, Ordering::Relaxed);
        let _ = self.thread.join();
        std::mem::take(&mut *self.seen.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Seen {
    fn look(&mut self, url: &str, text: &[u8]) {
        let Ok(playlist) = m3u8_rs::parse_media_playlist_res(text) else {
            return check(&mut self.broken, false, || "a torn playlist was served".to_owned());
        };
        let (before, now) = (self.media_sequence, playlist.media_sequence);
        check(&mut self.broken, now >= before, || format!("EXT-X-MEDIA-SEQUENCE was {before} and is {now}"));
        let (before, mut number) = (self.discontinuity_sequence, playlist.discontinuity_sequence);
        check(&mut self.broken, number >= before, || {
            format!("the discontinuity sequence was {before} and is {number}")
        });
        (self.media_sequence, self.discontinuity_sequence) = (now, number);
        for (sequence, segment) in (now..).zip(&playlist.segments) {
            number += u64::from(segment.discontinuity);
            let first = *self.first_discontinuity.get_or_insert(number);
            self.discontinuities = self.discontinuities.max(number.saturating_sub(first));
            let known = self.numbers.entry(sequence).or_insert_with(|| segment.uri.clone()).clone();
            check(&mut self.broken, known == segment.uri, || {
                format!("number {sequence} was {known}, is {}", segment.uri)
            });
            if is_gap(segment) {
                self.gaps.insert(segment.uri.clone());
            } else {
                self.fetch(url, &segment.uri);
            }
        }
    }

    /// Fetches what is listed each time anew: a name never has other bytes than before.
    fn fetch(&mut self, playlist: &str, uri: &str) {
        let status = match ureq::get(&crate::audit::fetch::beside(playlist, uri)).call() {
            Ok(mut response) => match response.body_mut().with_config().limit(1 << 30).read_to_vec() {
                Ok(bytes) => {
                    let digest = sha(&bytes);
                    let known = *self.bytes.entry(uri.to_owned()).or_insert(digest);
                    return check(&mut self.broken, known == digest, || format!("{uri} has other bytes than before"));
                }
                // Killed in the middle of an answer.
                Err(_) => return,
            },
            // Lost with the process before: the next playlist tells that it is a gap.
            Err(ureq::Error::StatusCode(503)) => return,
            Err(ureq::Error::StatusCode(status)) => status,
            Err(_) => return,
        };
        check(&mut self.broken, false, || format!("{uri} is listed and answered with {status}"));
    }
}
