//! The process is killed while it writes, at moments that a seed decides; the show goes on.

use super::chance::Chance;
use super::report::{Outcome, Told};
use super::viewer::{Seen, Viewer, check, is_gap};
use super::witness::sha;
use super::{Setting, clip};
use crate::broken::Broken;
use crate::faultfs::{Effect, Mount, Rule};
use crate::server::{Server, get, wait_for};
use anyhow::Context;
use serde::Serialize;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// The stream.
const STREAM: &str = "live/show";
/// How long the server waits for the encoder, seconds: longer than it takes to restart.
const GRACE: &str = "10";
/// Each storage operation takes this long, so that more kills strike inside one, milliseconds.
const DELAY_MS: u64 = 5;
/// A kill comes within this time after a segment was listed: one target duration has every phase of a write.
const SPREAD: Duration = Duration::from_millis(2000);
/// From a restart until new segments are listed, at most.
const RECOVERED: Duration = Duration::from_secs(30);
/// How often the viewer looks.
const POLL: Duration = Duration::from_millis(100);

/// What came of it.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Kills {
    /// Times the process was killed.
    pub kills: usize,
    /// Of those, how often a file was being written: it was found aside and not under its name.
    pub while_writing: usize,
    /// Segments seen.
    pub segments: usize,
    /// EXT-X-GAPs seen: published, and not on storage yet when the process was killed.
    pub gaps: usize,
    /// Discontinuities between them.
    pub discontinuities: u64,
    /// Longest time from a kill to a new segment, seconds.
    pub longest_recovery: f64,
    /// Segments in the recording that viewers got, all with the same bytes.
    pub recorded: usize,
    /// Promises that were broken.
    pub broken: Vec<Broken>,
}

/// Kills it so many times.
pub fn run(setting: &Setting, kills: usize) -> anyhow::Result<Outcome> {
    let directory = setting.directory.join(format!("kills-{}", crate::alone::number()));
    let [source, point] = ["source", "mount"].map(|name| directory.join(name));
    std::fs::create_dir_all(&source)?;
    std::fs::create_dir_all(&point)?;
    let runtime = crate::alone::memory("kills");
    let mount = Mount::new(&source, &point, setting.seed)?;
    mount.rules().set(vec![Rule::always(None, Effect::DelayMs(DELAY_MS))])?;
    let options = ["--record", "--grace", GRACE, "--runtime-dir", &runtime, "--data"].map(str::to_owned);
    let options: Vec<_> = options.into_iter().chain([point.display().to_string()]).collect();
    let mut server = Server::start(&setting.program, &options)?;
    let mut encoder = Encoder::start(clip(&setting.directory)?, server.publish_url(STREAM));
    let viewer = Viewer::start(server.url(&format!("/{STREAM}/0.m3u8")));
    wait_for("the stream is listed", RECOVERED, || viewer.segments() > 0)?;
    let before = session(&server)?;
    let (mut came, mut chance) = (Kills { kills, ..Kills::default() }, Chance::of(setting.seed));
    for number in 0..kills {
        let seen = viewer.segments();
        wait_for("a new segment", RECOVERED, || viewer.segments() > seen)?;
        // The moment of the kill is what the seed decides.
        std::thread::sleep(SPREAD.mul_f64(chance.share()));
        let (killed, seen) = (Instant::now(), viewer.segments());
        server.kill()?;
        came.while_writing += usize::from(look_at_disk(&source, number, &mut came.broken)?);
        server.restart()?;
        wait_for("new segments after a kill", RECOVERED, || viewer.segments() > seen)?;
        came.longest_recovery = came.longest_recovery.max(killed.elapsed().as_secs_f64());
    }
    let after = session(&server)?;
    check(&mut came.broken, before == after, || format!("the session was {before:?} and is {after:?}"));
    encoder.stop();
    let recording = recording(&server)?;
    let seen = viewer.stop();
    compare(&source, &recording, &seen, &mut came)?;
    (came.segments, came.gaps, came.discontinuities) = (seen.bytes.len(), seen.gaps.len(), seen.discontinuities);
    came.broken.extend(seen.broken);
    drop(server);
    drop(mount);
    for directory in [directory, runtime.into()] {
        let _ = std::fs::remove_dir_all(directory);
    }
    Ok(Outcome { told: vec![came.told()?], ..Outcome::default() })
}

impl Kills {
    fn told(self) -> anyhow::Result<Told> {
        let text = format!(
            "Killed {} times, {} of them while something lay written aside. Viewers saw {} segments, {} gaps (published, and not on storage yet when the process was killed) and {} discontinuities; the longest time from a kill to the next new segment was {:.1} s, the encoder's own start included. {} segments are in the one recording with the bytes that viewers got. Nothing torn may be served or listed, no name or number may have other bytes than before, and the session must go on.",
            self.kills,
            self.while_writing,
            self.segments,
            self.gaps,
            self.discontinuities,
            self.longest_recovery,
            self.recorded,
        );
        Ok(Told { text, figures: serde_json::to_value(&self)?, broken: self.broken })
    }
}

/// Looks at the archive as it was left: what its playlist lists is there, with the digest that is listed. Whether
/// something was being written.
fn look_at_disk(source: &Path, number: usize, broken: &mut Vec<Broken>) -> anyhow::Result<bool> {
    let directory = source.join("live").join(STREAM);
    let mut aside = false;
    for entry in std::fs::read_dir(&directory)? {
        let name = entry?.file_name().to_string_lossy().into_owned();
        aside |= name.starts_with("0-") && name.ends_with(".tmp");
    }
    let Ok(text) = std::fs::read(directory.join("0.m3u8")) else { return Ok(aside) };
    let playlist = m3u8_rs::parse_media_playlist_res(&text).map_err(|error| anyhow::anyhow!("{error:?}"));
    let digests: Result<BTreeMap<String, String>, _> =
        serde_json::from_slice(&std::fs::read(directory.join("segments-sha256.json"))?);
    let (Ok(playlist), Ok(digests)) = (playlist, digests) else {
        check(broken, false, || format!("kill {number}: a torn playlist or digests in the archive"));
        return Ok(aside);
    };
    for segment in playlist.segments.iter().filter(|segment| !is_gap(segment)) {
        let Ok(bytes) = std::fs::read(directory.join(&segment.uri)) else {
            check(broken, false, || format!("kill {number}: {} is listed in the archive and not there", segment.uri));
            continue;
        };
        let digest: String = sha(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        let listed = digests.get(&segment.uri);
        check(broken, listed == Some(&digest), || format!("kill {number}: {} has not its digest", segment.uri));
    }
    Ok(aside)
}

/// Session and published-at.
fn session(server: &Server) -> anyhow::Result<(String, i64)> {
    let answer: Value = serde_json::from_slice(&get(&server.url("/api/v1/streams"))?)?;
    let streams = answer["streams"].as_array().context("streams")?;
    let stream = streams.iter().find(|stream| stream["name"] == STREAM).context("the stream is gone")?;
    Ok((stream["session"].as_str().context("a session")?.to_owned(), stream["published_at_ms"].as_i64().unwrap_or(0)))
}

/// The one recording, once it has ended.
fn recording(server: &Server) -> anyhow::Result<Value> {
    let mut found = Vec::new();
    wait_for("the recording ends", 2 * RECOVERED, || {
        let answer = get(&server.url("/api/v1/recordings")).ok();
        let answer = answer.and_then(|answer| serde_json::from_slice::<Value>(&answer).ok()).unwrap_or_default();
        found = answer["recordings"].as_array().cloned().unwrap_or_default();
        !found.is_empty() && found.iter().all(|recording| recording["state"] == "ended")
    })?;
    anyhow::ensure!(found.len() == 1, "one session has {} recordings", found.len());
    found.pop().context("a recording")
}

/// What is recorded is what viewers got.
fn compare(source: &Path, recording: &Value, seen: &Seen, came: &mut Kills) -> anyhow::Result<()> {
    let directory = source.join("recordings").join(recording["id"].as_str().context("an id")?);
    let text = std::fs::read(directory.join("0.m3u8")).context("the VOD playlist")?;
    let playlist = m3u8_rs::parse_media_playlist_res(&text).map_err(|error| anyhow::anyhow!("{error:?}"))?;
    let mut listed = BTreeSet::new();
    for segment in &playlist.segments {
        let name = segment.uri.rsplit('/').next().unwrap_or(&segment.uri);
        match (std::fs::read(directory.join(&segment.uri)), seen.bytes.get(name)) {
            (Err(_), _) => check(&mut came.broken, false, || format!("{name} is recorded and not there")),
            (Ok(bytes), Some(expected)) => {
                came.recorded += 1;
                check(&mut came.broken, sha(&bytes) == *expected, || format!("{name} is recorded with other bytes"));
            }
            (Ok(_), None) => {}
        }
        listed.insert(name);
    }
    let missing: Vec<_> = seen.bytes.keys().filter(|name| !listed.contains(name.as_str())).collect();
    let told = recording["gaps"].as_u64().unwrap_or(0) as usize;
    check(&mut came.broken, missing.len() <= told, || format!("{told} gaps are told of, missing are {missing:?}"));
    Ok(())
}

/// An encoder that connects again whenever it loses its server.
struct Encoder {
    stop: Arc<AtomicBool>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Encoder {
    fn start(clip: std::path::PathBuf, url: String) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = stop.clone();
        let thread = std::thread::spawn(move || {
            let mut running: Option<Child> = None;
            while !stopped.load(Ordering::Relaxed) {
                if running.as_mut().is_none_or(|child| !matches!(child.try_wait(), Ok(None))) {
                    let mut ffmpeg = Command::new("ffmpeg");
                    ffmpeg.args(["-v", "quiet", "-nostdin", "-re", "-stream_loop", "-1", "-i"]).arg(&clip);
                    ffmpeg.args(["-c", "copy", "-f", "flv", &url]);
                    running = ffmpeg.stdin(Stdio::null()).stdout(Stdio::null()).spawn().ok();
                }
                // The pace at which an encoder that lost its server connects again.
                std::thread::sleep(POLL);
            }
            if let Some(mut child) = running {
                let _ = child.kill();
                let _ = child.wait();
            }
        });
        Self { stop, thread: Some(thread) }
    }

    fn stop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Drop for Encoder {
    fn drop(&mut self) {
        self.stop();
    }
}
