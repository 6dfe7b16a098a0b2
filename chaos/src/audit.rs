//! Auditor: follows live playlists and checks what RFC 8216 and ours promise, over time.
//!
//! It believes nobody: everything that is listed is fetched when it is new, again before it leaves the playlist,
//! and again while it must still be there, and read.

pub mod content;
mod continuity;
pub(crate) mod fetch;
pub mod finding;
pub(crate) mod parse;
pub mod pictures;
mod playlist;

use crate::interrupted::is_interrupted;
use anyhow::Context;
use continuity::Continuity;
use fetch::{ANSWER, Answer, beside, get};
use finding::{Findings, Report, Rule};
use playlist::{History, Reading};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::SyncSender;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// How often playlists are read.
const POLL: Duration = Duration::from_millis(200);
/// Before a removed segment may go, it is fetched once more this long before.
const MARGIN: Duration = Duration::from_millis(700);
/// Largest segment that is read, bytes.
const MAX_BODY: u64 = 256 << 20;
/// Largest playlist, and list of digests, bytes: as many segments as are listed at most, with URIs of a kilobyte and a half.
const MAX_PLAYLIST: u64 = 8 << 20;
/// Most renditions that are followed, each by a thread.
const MAX_RENDITIONS: usize = 100;
/// Where digests are published beside a playlist, if they are.
const DIGESTS: &str = "segments-sha256.json";

/// What to audit.
#[derive(Debug, Clone)]
pub struct Audit {
    /// A Multivariant or Media Playlist.
    pub url: String,
    /// For how long.
    pub duration: Duration,
    /// The playlist is expected to end meanwhile.
    pub expect_end: bool,
    /// Who wants to see what is fetched; who does not take it in time slows the audit.
    pub seen: Option<SyncSender<Seen>>,
}

/// A segment that was fetched when it was new.
#[derive(Debug)]
pub struct Seen {
    /// Media sequence number.
    pub sequence: u64,
    /// As listed.
    pub uri: String,
    /// Its bytes.
    pub body: Vec<u8>,
    /// Its initialization section, if it has one.
    pub map: Option<Vec<u8>>,
}

/// Audits every rendition of a playlist at once; a report for each.
pub fn run(audit: &Audit) -> anyhow::Result<Vec<Report>> {
    let url = &audit.url;
    anyhow::ensure!(url.starts_with("http://"), "{url}: a playlist's URL begins with http:// (https is not supported)");
    let first = get(url, MAX_PLAYLIST).with_context(|| format!("{url} cannot be read"))?;
    let urls: BTreeSet<_> = match m3u8_rs::parse_playlist_res(&first.body) {
        Ok(m3u8_rs::Playlist::MasterPlaylist(multivariant)) => {
            let variants = multivariant.variants.iter().map(|variant| variant.uri.clone());
            let renditions = multivariant.alternatives.iter().filter_map(|rendition| rendition.uri.clone());
            variants.chain(renditions).map(|uri| beside(&first.url, &uri)).collect()
        }
        _ => BTreeSet::from([audit.url.clone()]),
    };
    let renditions = urls.len();
    anyhow::ensure!(renditions <= MAX_RENDITIONS, "{url} has {renditions} renditions, more than {MAX_RENDITIONS}");
    let followers: Vec<_> = urls
        .into_iter()
        .map(|url| {
            let audit = audit.clone();
            std::thread::spawn(move || Follower::new(url, audit.seen.clone()).follow(&audit))
        })
        .collect();
    followers
        .into_iter()
        .map(|follower| follower.join().map_err(|_| anyhow::anyhow!("the auditor of {url} panicked")))
        .collect()
}

/// Why something cannot be read, without where in a library that was noticed.
fn reason(error: &anyhow::Error) -> String {
    let text = format!("{error:#}");
    let line = text.lines().next().unwrap_or_default();
    line.split(" (at /").next().unwrap_or_default().to_owned()
}

/// A segment that is to be fetched again.
struct Again {
    /// When it left the playlist and may go, if it has left.
    until: Option<Duration>,
    /// Length of the longest playlist that listed it, seconds.
    longest: f64,
    digest: [u8; 32],
    refetched: bool,
}

struct Follower {
    url: String,
    /// Where it was read last, after redirections.
    base: String,
    history: History,
    continuity: Continuity,
    findings: Findings,
    maps: BTreeMap<String, Vec<u8>>,
    /// By number.
    again: BTreeMap<u64, Again>,
    /// When the playlist was last asked for: the answer may have been a while on its way.
    last_asked: Duration,
    digests: bool,
    polls: u64,
    segments: u64,
    refetched: u64,
    first_segment: Duration,
    seen: Option<SyncSender<Seen>>,
}

impl Follower {
    fn new(url: String, seen: Option<SyncSender<Seen>>) -> Self {
        Self {
            base: url.clone(),
            url,
            seen,
            history: History::default(),
            continuity: Continuity::default(),
            findings: Findings::default(),
            maps: BTreeMap::new(),
            again: BTreeMap::new(),
            last_asked: Duration::ZERO,
            digests: false,
            polls: 0,
            segments: 0,
            refetched: 0,
            first_segment: Duration::ZERO,
        }
    }

    fn follow(mut self, audit: &Audit) -> Report {
        let begun = Instant::now();
        while begun.elapsed() < audit.duration && !is_interrupted() {
            let due = begun.elapsed() + POLL;
            self.findings.now = begun.elapsed();
            let reading = self.poll(begun, audit.expect_end).unwrap_or_default();
            let read = begun.elapsed();
            self.fetch_what_is_listed(&reading, begun, audit.duration);
            self.fetch_what_leaves(begun);
            self.history.away = begun.elapsed() - read;
            std::thread::sleep(due.saturating_sub(begun.elapsed()));
        }
        let ended = self.history.has_ended();
        let may_go_on = !audit.expect_end || is_interrupted();
        self.findings.check(may_go_on || ended, Rule::NotEnded, "playlist", || "it has no ENDLIST".into());
        Report {
            url: self.url,
            polls: self.polls,
            segments: self.segments,
            refetched: self.refetched,
            discontinuities: self.history.discontinuities(),
            longest_wait: self.history.longest_wait,
            stopped: self.history.has_stopped(POLL),
            first_segment: self.first_segment,
            digests: self.digests,
            findings: self.findings.into_list(),
        }
    }

    /// Reads the playlist once.
    fn poll(&mut self, begun: Instant, expect_end: bool) -> Option<Reading> {
        self.polls += 1;
        let asked = begun.elapsed();
        let answer = match get(&self.url, MAX_PLAYLIST) {
            Ok(answer) => answer,
            Err(error) => {
                self.findings.add(Rule::Status, "playlist", error.to_string());
                return None;
            }
        };
        self.base.clone_from(&answer.url);
        let at = begun.elapsed();
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64());
        let text = String::from_utf8_lossy(&answer.body).into_owned();
        let had_ended = self.history.has_ended();
        let reading = self.history.read(&text, at, wall, &mut self.findings);
        if self.segments == 0 && !reading.new.is_empty() {
            self.first_segment = at;
        }
        self.check_playlist_headers(&answer);
        let ends = self.history.has_ended() && !had_ended;
        self.findings.check(expect_end || !ends, Rule::EndedUnexpectedly, "playlist", || "it has ENDLIST".into());
        self.note_removed(&reading);
        self.last_asked = asked;
        Some(reading)
    }

    fn fetch_what_is_listed(&mut self, reading: &Reading, begun: Instant, until: Duration) {
        let digests = if reading.new.is_empty() { None } else { self.read_digests() };
        // Each may take as long as an answer may: those that are left when the time is over were not asked for, nor are those that
        // may be gone by now. The last that is listed stays for the playlist's length after it has left.
        let until = until.min(begun.elapsed() + Duration::from_secs_f64(reading.length));
        for sequence in reading.new.iter().take_while(|_| begun.elapsed() < until && !is_interrupted()) {
            self.findings.now = begun.elapsed();
            self.fetch_new(*sequence, digests.as_ref());
        }
        for sequence in &reading.listed {
            if let Some(again) = self.again.get_mut(sequence) {
                again.longest = again.longest.max(reading.length);
            }
        }
        self.findings.now = begun.elapsed();
        // The oldest may leave with the next reading.
        if let Some(oldest) = reading.listed.first().filter(|_| reading.listed.len() > 3) {
            self.refetch(*oldest);
        }
    }

    fn check_playlist_headers(&mut self, answer: &Answer) {
        let expected = ["application/vnd.apple.mpegurl", "audio/mpegurl", "application/x-mpegurl"];
        let kind = answer.content_type.to_ascii_lowercase();
        self.findings
            .check(expected.iter().any(|name| kind.starts_with(name)), Rule::ContentType, "playlist", || kind.clone());
        // What does not change any more may be kept.
        if self.history.has_ended() {
            return;
        }
        let target = self.history.target_duration().map_or(10, |target| target.as_secs());
        let control = answer.cache_control.as_deref().unwrap_or_default().to_ascii_lowercase();
        let age = control.split("max-age=").nth(1).and_then(|rest| rest.split([',', ' ']).next()?.parse::<u64>().ok());
        let fresh =
            control.contains("no-cache") || control.contains("no-store") || age.is_some_and(|age| age <= target);
        self.findings.check(fresh, Rule::Caching, "playlist", || format!("Cache-Control: {control:?}"));
    }

    /// A removed segment stays for its own duration and that of the longest playlist that listed it.
    fn note_removed(&mut self, reading: &Reading) {
        let Some(oldest) = reading.listed.first() else { return };
        for (sequence, again) in self.again.range_mut(..oldest) {
            if again.until.is_none() {
                let own = self.history.entry(*sequence).map_or(0.0, |entry| entry.duration);
                // It was removed after the playlist before this one was asked for.
                again.until = Some(self.last_asked + Duration::from_secs_f64(own + again.longest));
            }
        }
    }

    fn read_digests(&mut self) -> Option<BTreeMap<String, String>> {
        let answer = get(&beside(&self.base, DIGESTS), MAX_PLAYLIST);
        if let Err(error) = &answer {
            self.findings.check(!self.digests, Rule::Digest, DIGESTS, || error.to_string());
        }
        let digests = serde_json::from_slice(&answer.ok()?.body);
        self.digests = true;
        self.findings.check(digests.is_ok(), Rule::Digest, DIGESTS, || "it is no object of digests".into());
        digests.ok()
    }

    fn fetch_new(&mut self, sequence: u64, digests: Option<&BTreeMap<String, String>>) {
        let Some(entry) = self.history.entry(sequence).cloned().filter(|entry| !entry.gap) else { return };
        if let Some(map) = entry.map.as_ref().filter(|map| !self.maps.contains_key(*map)) {
            match get(&beside(&self.base, map), MAX_BODY) {
                Ok(answer) => {
                    self.check_digest(map, &answer.body, digests);
                    self.maps.insert(map.clone(), answer.body);
                }
                Err(error) => self.findings.add(Rule::Status, map, error.to_string()),
            }
        }
        if is_interrupted() {
            return;
        }
        let asked = Instant::now();
        let answer = match get(&beside(&self.base, &entry.uri), MAX_BODY) {
            Ok(answer) => answer,
            Err(error) => return self.findings.add(Rule::Status, &entry.uri, error.to_string()),
        };
        self.segments += 1;
        let (took, target) = (asked.elapsed(), self.history.target_duration().unwrap_or(ANSWER));
        self.findings.check(took <= target.mul_f64(1.5), Rule::SlowSegment, "segments", || {
            format!(
                "{} came after {:.1} s, with a target duration of {} s",
                entry.uri,
                took.as_secs_f64(),
                target.as_secs()
            )
        });
        self.check_digest(&entry.uri, &answer.body, digests);
        let expected: &[&str] =
            if entry.map.is_some() { &["video/mp4", "audio/mp4", "video/iso.segment"] } else { &["video/mp2t"] };
        let kind = answer.content_type.to_ascii_lowercase();
        // A server has the same for all: once, and how often.
        let expects = expected.contains(&kind.as_str());
        self.findings.check(expects, Rule::ContentType, "segments", || format!("{} is {kind:?}", entry.uri));
        let digest = Sha256::digest(&answer.body).into();
        self.again.insert(sequence, Again { until: None, longest: 0.0, digest, refetched: false });
        let map = entry.map.as_ref().and_then(|map| self.maps.get(map));
        match content::read(&answer.body, map.map(Vec::as_slice)) {
            Ok(content) => {
                self.continuity.take(sequence, &entry, content, self.history.independent, &mut self.findings);
            }
            Err(error) => self.findings.add(Rule::Unreadable, &entry.uri, reason(&error)),
        }
        if let Some(seen) = &self.seen {
            // Who has gone wants to see nothing more.
            let _ = seen.send(Seen { sequence, uri: entry.uri, body: answer.body, map: map.cloned() });
        }
    }

    fn check_digest(&mut self, uri: &str, body: &[u8], digests: Option<&BTreeMap<String, String>>) {
        let Some(digests) = digests else { return };
        let name = uri.split('?').next().and_then(|path| path.rsplit('/').next()).unwrap_or(uri);
        let real: String = Sha256::digest(body).iter().map(|byte| format!("{byte:02x}")).collect();
        let listed = digests.get(name);
        self.findings.check(listed == Some(&real), Rule::Digest, uri, || match listed {
            Some(listed) => format!("listed {listed}, is {real}"),
            None => format!("not listed, is {real}"),
        });
    }

    /// Fetches a segment a second time, while it is still listed.
    fn refetch(&mut self, sequence: u64) {
        let Some(again) = self.again.get_mut(&sequence).filter(|again| !again.refetched) else { return };
        again.refetched = true;
        let expected = again.digest;
        if let Some((uri, error)) = self.fetch_again(sequence, expected) {
            self.findings.add(Rule::Status, &uri, error.to_string());
        }
    }

    /// Fetches it and compares, unless a signal came; whether it is there is for the caller to judge.
    fn fetch_again(&mut self, sequence: u64, expected: [u8; 32]) -> Option<(String, anyhow::Error)> {
        if is_interrupted() {
            return None;
        }
        let uri = self.history.entry(sequence)?.uri.clone();
        self.refetched += 1;
        match get(&beside(&self.base, &uri), MAX_BODY) {
            Ok(answer) => {
                let same = <[u8; 32]>::from(Sha256::digest(&answer.body)) == expected;
                self.findings.check(same, Rule::BytesChanged, &uri, || "other bytes than when it was new".into());
                None
            }
            Err(error) => Some((uri, error)),
        }
    }

    /// Fetches removed segments a last time, shortly before they may go.
    fn fetch_what_leaves(&mut self, begun: Instant) {
        let at = begun.elapsed();
        let due = |again: &Again| again.until.is_some_and(|until| at + MARGIN >= until);
        let leaving: Vec<u64> = self.again.iter().filter(|(_, again)| due(again)).map(|(n, _)| *n).collect();
        for sequence in leaving {
            let Some(again) = self.again.remove(&sequence) else { continue };
            self.findings.now = begun.elapsed();
            let may_be_gone = || again.until.is_none_or(|until| begun.elapsed() >= until);
            // An audit that was held up itself, before or meanwhile, has nothing to say.
            if !may_be_gone()
                && let Some((uri, error)) = self.fetch_again(sequence, again.digest)
                && !may_be_gone()
            {
                self.findings.add(Rule::GoneTooEarly, &uri, error.to_string());
            }
        }
    }
}
