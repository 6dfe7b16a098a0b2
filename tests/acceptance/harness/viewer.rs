//! A viewer that sees everything: follows a playlist, keeps every segment, and checks what must always hold.

use super::{LIMIT, POLL, wait_for};
use m3u8_rs::MediaPlaylist;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// A segment as it was listed and fetched.
#[derive(Debug, Clone, PartialEq)]
pub struct Seen {
    pub uri: String,
    pub duration: f32,
    /// Its absolute discontinuity number (RFC 8216 section 6.2.1).
    pub discontinuity_number: u64,
    pub map: Option<String>,
    pub bytes: Vec<u8>,
}

/// Everything a viewer saw.
#[derive(Debug, Default)]
pub struct Recording {
    /// By media sequence number.
    pub segments: BTreeMap<u64, Seen>,
    pub maps: BTreeMap<String, Vec<u8>>,
    pub ended: bool,
    /// Longest time without a new segment, once there was one.
    pub longest_wait: Duration,
    /// Every EXT-X-TARGETDURATION, each time it changed.
    pub target_durations: Vec<u64>,
}

/// A viewer at work.
pub struct Viewer {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Recording>,
}

impl Viewer {
    /// Follows the Media Playlist of a stream until told to stop or the playlist ends.
    pub fn follow(playlist_url: String) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || follow(&playlist_url, &stopped));
        Self { stop, thread }
    }

    /// What it saw so far, and no more.
    pub fn stop(self) -> Recording {
        self.stop.store(true, Ordering::Relaxed);
        self.finish()
    }

    /// Waits for the playlist to end.
    pub fn finish(self) -> Recording {
        match self.thread.join() {
            Ok(recording) => recording,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }
}

fn follow(playlist_url: &str, stop: &AtomicBool) -> Recording {
    let (base, _) = playlist_url.rsplit_once('/').expect("URL");
    let (mut recording, begun, mut last_new) = (Recording::default(), Instant::now(), None::<Instant>);
    while !recording.ended && !stop.load(Ordering::Relaxed) {
        assert!(begun.elapsed() < LIMIT, "the playlist did not end within {LIMIT:?}");
        if let Some(text) = try_get(playlist_url) {
            let before = recording.segments.len();
            recording.look(base, &text);
            if recording.segments.len() > before
                && let Some(last) = last_new.replace(Instant::now())
            {
                recording.longest_wait = recording.longest_wait.max(last.elapsed());
            }
        }
        std::thread::sleep(POLL);
    }
    recording
}

impl Recording {
    fn look(&mut self, base: &str, text: &[u8]) {
        let (_, playlist) = m3u8_rs::parse_media_playlist(text)
            .unwrap_or_else(|_| panic!("playlist: {}", String::from_utf8_lossy(text)));
        if self.target_durations.last() != Some(&playlist.target_duration) {
            self.target_durations.push(playlist.target_duration);
        }
        let mut number = playlist.discontinuity_sequence;
        let mut map = None;
        for (n, segment) in playlist.segments.iter().enumerate() {
            number += u64::from(segment.discontinuity);
            map = segment.map.as_ref().map(|map| map.uri.clone()).or(map);
            let sequence = playlist.media_sequence + n as u64;
            self.check_listed(&playlist, sequence, number, segment);
            if !self.segments.contains_key(&sequence) {
                self.fetch(base, sequence, number, segment, map.clone());
            }
        }
        self.ended = playlist.end_list;
    }

    /// What was listed once is listed the same ever after, and no number goes back.
    fn check_listed(&self, playlist: &MediaPlaylist, sequence: u64, number: u64, segment: &m3u8_rs::MediaSegment) {
        assert!(
            segment.duration.round() as u64 <= playlist.target_duration,
            "EXTINF {} over the target",
            segment.duration
        );
        match self.segments.get(&sequence) {
            Some(seen) => {
                assert_eq!((&seen.uri, seen.discontinuity_number), (&segment.uri, number), "segment {sequence} changed")
            }
            None => assert!(
                self.segments.keys().next_back().is_none_or(|last| sequence > *last),
                "{sequence} after a later one"
            ),
        }
    }

    fn fetch(&mut self, base: &str, sequence: u64, number: u64, segment: &m3u8_rs::MediaSegment, map: Option<String>) {
        let whole = |uri: &str| fetch_listed(&format!("{base}/{uri}"));
        if let Some(map) = map.as_ref().filter(|map| !self.maps.contains_key(*map)) {
            self.maps.insert(map.clone(), whole(map));
        }
        let bytes = whole(&segment.uri);
        let seen =
            Seen { uri: segment.uri.clone(), duration: segment.duration, discontinuity_number: number, map, bytes };
        self.segments.insert(sequence, seen);
    }

    /// All segments behind their initialization section, as a file for other readers.
    pub fn write(&self, directory: &Path) -> PathBuf {
        let first = self.segments.values().next().expect("segments");
        let file = directory.join(if first.map.is_some() { "delivered.mp4" } else { "delivered.ts" });
        let mut bytes = first.map.as_ref().map(|map| self.maps[map].clone()).unwrap_or_default();
        assert!(self.segments.values().all(|segment| segment.map == first.map), "one initialization for all");
        bytes.extend(self.segments.values().flat_map(|segment| &segment.bytes));
        std::fs::write(&file, bytes).expect("written");
        file
    }

    /// The same for each stretch between discontinuities, each behind its own initialization section.
    pub fn write_stretches(&self, directory: &Path) -> Vec<PathBuf> {
        let mut stretches: BTreeMap<u64, Vec<&Seen>> = BTreeMap::new();
        for segment in self.segments.values() {
            stretches.entry(segment.discontinuity_number).or_default().push(segment);
        }
        let write = |(number, segments): (u64, Vec<&Seen>)| {
            let map = segments[0].map.as_ref();
            let file = directory.join(format!("stretch-{number}.{}", if map.is_some() { "mp4" } else { "ts" }));
            let mut bytes = map.map(|map| self.maps[map].clone()).unwrap_or_default();
            bytes.extend(segments.iter().flat_map(|segment| &segment.bytes));
            std::fs::write(&file, bytes).expect("written");
            file
        };
        stretches.into_iter().map(write).collect()
    }

    /// What is late if a new segment took this long.
    pub fn later_than(&self, limit: Duration) -> Vec<String> {
        let late = self.longest_wait >= limit;
        late.then(|| format!("{:?} without a new segment", self.longest_wait)).into_iter().collect()
    }

    /// Media sequence numbers without a hole.
    pub fn assert_consecutive(&self) {
        let numbers: Vec<u64> = self.segments.keys().copied().collect();
        assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1), "{numbers:?}");
    }

    /// How many discontinuities there were between the first segment and the last.
    pub fn discontinuities(&self) -> u64 {
        let numbers = || self.segments.values().map(|segment| segment.discontinuity_number);
        numbers().next_back().unwrap_or(0) - numbers().next().unwrap_or(0)
    }
}

/// The body of what a playlist names. While the process restarts nobody answers; an answer must be a 200. What was lost
/// with the process before, and is a gap in the next playlist, is a 503 and empty here.
fn fetch_listed(url: &str) -> Vec<u8> {
    wait_for(url, || match ureq::get(url).call() {
        Ok(mut response) => response.body_mut().with_config().limit(1 << 30).read_to_vec().ok(),
        Err(ureq::Error::StatusCode(503)) => Some(Vec::new()),
        Err(ureq::Error::StatusCode(status)) => panic!("{url} is listed and answered with {status}"),
        Err(_) => None,
    })
}

/// The body of a 200; none for any other status or a refused connection.
pub fn try_get(url: &str) -> Option<Vec<u8>> {
    let mut response = ureq::get(url).call().ok()?;
    response.body_mut().with_config().limit(1 << 30).read_to_vec().ok()
}
