//! Storage fails while streams are live: faults side by side, each on a mount and a stream of its own.

use super::asking::Asking;
use super::browser::Browser;
use super::judge::{Observed, Recorded};
use super::late::{self, Late};
use super::matrix::{Cell, Fault};
use super::report::{Outcome, Row, Told};
use super::stage::Removed;
use super::witness::{Pictures, Testimony, Witness, sha};
use super::{Setting, clip};
use crate::broken::Broken;
use crate::faultfs::Mount;
use crate::load::{self, Begin, Load};
use crate::server::{Server, get, wait_for};
use crate::standstill;
use anyhow::Context;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Faults at a time: as many archives as the server has of applications' own.
const SIDE_BY_SIDE: usize = 16;
/// From a stream's first sample until it is listed, at most.
const LISTED: Duration = Duration::from_secs(20);
/// The show before the fault.
const BEFORE: Duration = Duration::from_secs(6);
/// The show after everything is whole again.
const AFTER: Duration = Duration::from_secs(4);
/// How long the server waits for publishers that are gone, seconds.
const GRACE: &str = "2";
/// From the end of the publishers to the end of their recordings.
const RECORDED: Duration = Duration::from_secs(60);
/// How often things are looked at.
const POLL: Duration = Duration::from_millis(100);
/// Target duration of the server's segments.
const TARGET: Duration = Duration::from_secs(2);

/// What there is beside the streams whose storage fails.
#[derive(Debug, Clone, Copy)]
pub struct Beside {
    /// Container of all segments, as `--container` has it.
    pub container: &'static str,
    /// Streams.
    pub streams: usize,
    /// hls.js in Chromium plays the first stream whose storage fails.
    pub browser: bool,
}

/// Runs groups of faults that last equally long, beside other streams on healthy storage.
pub fn run(setting: &Setting, groups: &[Vec<Cell>], beside: Beside) -> anyhow::Result<Outcome> {
    let clip = clip(&setting.directory)?;
    let known = Arc::new(Pictures::of(&std::fs::read(&clip)?)?);
    let (mut outcome, kept) = (Outcome::default(), setting.kept.as_deref());
    for (number, cells) in groups.iter().flat_map(|group| group.chunks(SIDE_BY_SIDE)).enumerate() {
        let name = format!("{}.{number}", beside.container);
        if let Some(part) = kept.and_then(|kept| kept.find_part(&name)) {
            eprintln!("{name}: judged before");
            outcome.add(part);
            continue;
        }
        let others = beside.streams.saturating_sub(2 * cells.len());
        let played = Outcome::judged(setting.patience, || {
            let stage = Stage::set(setting, cells, &clip, beside.container)?;
            stage.play(cells, &known, Beside { streams: others, ..beside })
        });
        let whole = played.rows.iter().filter(|row| row.broken.is_empty()).count();
        eprintln!("{name}: {whole} of {} kept", played.rows.len());
        played.broken().iter().for_each(|broken| eprintln!("broken: {broken}"));
        if let Some(Err(error)) = kept.map(|kept| kept.keep_part(&name, &played)) {
            eprintln!("{name}: cannot be kept, and is played again by the next run: {error:#}");
        }
        outcome.add(played);
    }
    Ok(outcome)
}

/// A mount with its fault.
struct Place {
    mount: Option<Mount>,
    source: PathBuf,
    point: PathBuf,
    stream: String,
}

/// Everything that runs, and is taken down in this order.
struct Stage {
    server: Server,
    places: Vec<Place>,
    clip: PathBuf,
    _removed: [Removed; 2],
}

impl Drop for Stage {
    fn drop(&mut self) {
        // What hangs is released first: a process inside a hung operation does not end.
        for place in &self.places {
            let _ = place.mount.as_ref().map(|mount| mount.rules().set(Vec::new()));
        }
    }
}

impl Stage {
    fn set(setting: &Setting, cells: &[Cell], clip: &Path, container: &str) -> anyhow::Result<Self> {
        let directory = setting.directory.join(format!("storage-{}", crate::alone::number()));
        let mut options: Vec<String> =
            ["--record", "--grace", GRACE, "--container", container, "--data"].map(str::to_owned).to_vec();
        options.push(directory.join("data").display().to_string());
        let runtime = crate::alone::memory("storage");
        options.extend(["--runtime-dir".to_owned(), runtime.clone()]);
        let mut places = Vec::new();
        for number in 0..cells.len() {
            let [source, point] = ["source", "mount"].map(|name| directory.join(format!("{name}-{number}")));
            std::fs::create_dir_all(&source)?;
            std::fs::create_dir_all(&point)?;
            let mount = Some(Mount::new(&source, &point, setting.seed.wrapping_add(number as u64))?);
            options.extend(["--archive".to_owned(), format!("fault{number}={}", point.display())]);
            places.push(Place { mount, source, point, stream: format!("fault{number}/show-0") });
        }
        let server = Server::start(&setting.program, &options)?;
        let removed = [Removed(directory), Removed(runtime.into())];
        Ok(Self { server, places, clip: clip.to_owned(), _removed: removed })
    }

    fn play(mut self, cells: &[Cell], known: &Arc<Pictures>, beside: Beside) -> anyhow::Result<Outcome> {
        let longest = cells.iter().map(|cell| cell.lasts).max().unwrap_or_default();
        let heal = Observed::heal_limit(longest, TARGET);
        let watched = BEFORE + late::LEAD + longest + heal + AFTER;
        let published = LISTED + watched + Duration::from_secs(2);
        let publisher = |app: &str, streams: usize| {
            let load = Load {
                url: self.server.publish_url(&format!("{app}/show")),
                clip: self.clip.clone(),
                streams,
                duration: published,
                begin: Begin::Together,
            };
            std::thread::spawn(move || load::run(&load, || ()))
        };
        let publishers: Vec<_> = (0..cells.len()).map(|number| publisher(&format!("fault{number}"), 1)).collect();
        let crowd = publisher("others", beside.streams.max(1));
        let streams: Vec<_> =
            self.places.iter().map(|place| place.stream.clone()).chain(["others/show-0".to_owned()]).collect();
        for stream in &streams {
            let url = self.server.url(&format!("/{stream}/0.m3u8"));
            wait_for(&url, LISTED, || get(&url).is_ok())?;
        }
        let follow =
            |stream: &String| Witness::follow(self.server.url(&format!("/{stream}/0.m3u8")), watched, known.clone());
        let witnesses: Vec<_> = streams.iter().map(follow).collect();
        let playlist = self.server.url(&format!("/{}/index.m3u8", streams[0]));
        let browser = beside.browser.then(|| Browser::play(&playlist, watched)).transpose()?;
        let asking = Asking::start(&self.server);
        // A show that is well before the faults: what is measured, and nothing that is waited for.
        std::thread::sleep(BEFORE);
        let before = sessions(&self.server)?;
        let time = late::LEAD + longest + heal + AFTER;
        let late = self.begin_late(cells.len(), time)?;
        let mut observed = self.endure(cells, longest + heal)?;
        let after = sessions(&self.server)?;
        let testimonies = witnesses.into_iter().map(Witness::finish).collect::<anyhow::Result<Vec<_>>>()?;
        let answers = asking.stop();
        let late: Vec<_> = late.into_iter().map(finished).collect();
        let reports = publishers.into_iter().chain([crowd]).map(finished).collect::<anyhow::Result<Vec<_>>>()?;
        let healthy = format!("none (one of {} other streams)", beside.streams.max(1));
        observed.push(Observed { healed_after: Some(0.0), ..Observed::undisturbed(healthy, TARGET) });
        let mut played = browser.map(Browser::finish).transpose()?;
        let mut rows = Vec::new();
        let recordings = self.recordings()?;
        let whole = observed.into_iter().zip(testimonies).zip(reports).zip(&streams);
        for (number, (((mut observed, testimony), report), stream)) in whole.enumerate() {
            observed.disconnected = report.disconnected > 0;
            observed.generator_lag = report.generator_lag_ms as f64 / 1000.0;
            observed.session_changed = before.get(stream) != after.get(stream) || !before.contains_key(stream);
            observed.recorded = self.recorded(number, stream, &testimony, &recordings, cells.get(number))?;
            observed.saw(testimony);
            observed.played = played.take();
            observed.late = late.get(number).map(|report| Late::of(number, report, &recordings, time));
            rows.push(Row { broken: observed.broken(), observed });
        }
        Ok(Outcome { rows, answers: vec![answers], told: self.blocked().into_iter().collect(), ..Outcome::default() })
    }

    /// Sessions that begin so that the faults meet their first segments.
    fn begin_late(
        &self,
        count: usize,
        time: Duration,
    ) -> anyhow::Result<Vec<JoinHandle<anyhow::Result<load::Report>>>> {
        let late = (0..count).map(|number| late::publish(&self.server, number, &self.clip, time)).collect();
        wait_for("late streams", LISTED, || {
            let there = sessions(&self.server).unwrap_or_default();
            (0..count).all(|number| there.contains_key(&late::stream(number)))
        })?;
        // Not waited for anything: the moment at which the fault is to meet them. If it does not, the judge says so.
        std::thread::sleep(late::LEAD);
        Ok(late)
    }

    /// Whether a handler has waited for storage: an actor would have been found stuck.
    fn blocked(&self) -> Option<Told> {
        let stuck = self.server.logged("stuck, another one takes its place");
        let broken = vec![Broken::Late(format!("{stuck} actors were stuck while storage failed"))];
        let text = "No handler may wait for storage.".to_owned();
        (stuck > 0).then(|| Told { text, figures: serde_json::json!({ "stuck": stuck }), broken })
    }

    /// Has all faults strike at once, each for its time, and looks when every archive is a replica of its window again.
    fn endure(&mut self, cells: &[Cell], time: Duration) -> anyhow::Result<Vec<Observed>> {
        for (place, cell) in self.places.iter_mut().zip(cells) {
            match &cell.fault {
                Fault::Rule(rule) => place.mount()?.rules().set(vec![rule.clone()])?,
                Fault::DirectoryDeleted => place.delete("live")?,
                Fault::MountReplaced => place.replace()?,
                Fault::RecordingsDeleted => place.delete("recordings")?,
                Fault::MountAway => drop(place.mount.take()),
            }
        }
        let begun = Instant::now();
        let mut over: Vec<Option<Duration>> = vec![None; cells.len()];
        let mut healed: Vec<Option<Duration>> = vec![None; cells.len()];
        let looks = |healed: &[Option<Duration>]| {
            // One that is late is still looked at for as long as viewers watch.
            begun.elapsed() < time || begun.elapsed() < time + AFTER && healed.iter().any(Option::is_none)
        };
        while looks(&healed) {
            for (number, (place, cell)) in self.places.iter_mut().zip(cells).enumerate() {
                let now = begun.elapsed();
                match over[number] {
                    None if now >= cell.lasts || (cell.once && place.struck()? > 0) => {
                        over[number] = Some(now);
                        place.heal()?;
                    }
                    None => {}
                    Some(over) if healed[number].is_none() && place.is_replica(&self.server, &late::stream(number)) => {
                        healed[number] = Some(begun.elapsed().saturating_sub(over));
                    }
                    Some(_) => {}
                }
            }
            // The pace of the looks; how long faults last is measured by the clock.
            std::thread::sleep(POLL);
        }
        let looked = begun.elapsed();
        let all = self.places.iter().zip(cells).zip(over.into_iter().zip(healed));
        all.map(|((place, cell), (over, healed))| {
            let lasted = over.unwrap_or(time);
            let heals = begun + lasted;
            // What the machine stood still meanwhile is on top of what is allowed.
            let looked_for = looked.saturating_sub(lasted);
            let stood = standstill::within(heals, heals + healed.unwrap_or(looked_for));
            Ok(Observed {
                must_strike: true,
                struck: if matches!(cell.fault, Fault::Rule(_)) { place.struck()? } else { 1 },
                fault_seconds: lasted.as_secs_f64(),
                healed_after: healed.map(|healed| healed.as_secs_f64()),
                looked_for: looked_for.as_secs_f64(),
                heal_within: (Observed::heal_limit(lasted, TARGET) + stood).as_secs_f64(),
                ..Observed::undisturbed(cell.name.clone(), TARGET)
            })
        })
        .collect()
    }

    /// All recordings by their stream, once all have ended.
    fn recordings(&self) -> anyhow::Result<BTreeMap<String, Value>> {
        let mut all = BTreeMap::new();
        let list = || -> anyhow::Result<BTreeMap<String, Value>> {
            let answer: Value = serde_json::from_slice(&get(&self.server.url("/api/v1/recordings?limit=100"))?)?;
            let recordings = answer["recordings"].as_array().context("recordings")?;
            let by_stream = recordings.iter().filter_map(|recording| {
                let (stream, _) = recording["id"].as_str()?.rsplit_once('/')?;
                Some((stream.to_owned(), recording.clone()))
            });
            Ok(by_stream.collect())
        };
        // What has not ended by then is the judge's business.
        let _ = wait_for("recordings end", RECORDED, || {
            all = list().unwrap_or_default();
            let ended = |stream: &String| all.get(stream).is_some_and(|recording| recording["state"] == "ended");
            let late: Vec<_> = (0..self.places.len()).map(late::stream).collect();
            self.places.iter().map(|place| &place.stream).chain(&late).all(ended)
        });
        Ok(all)
    }

    /// Compares a recording with what viewers got.
    fn recorded(
        &self,
        number: usize,
        stream: &str,
        testimony: &Testimony,
        recordings: &BTreeMap<String, Value>,
        cell: Option<&Cell>,
    ) -> anyhow::Result<Option<Recorded>> {
        let Some(place) = self.places.get(number) else { return Ok(None) };
        let ended = recordings.get(stream).filter(|recording| recording["state"] == "ended");
        // Nothing is recorded of what has no end.
        let Some(recording) = ended else { return Ok(Some(Recorded::default())) };
        let id = recording["id"].as_str().context("an id")?;
        let directory = place.source.join("recordings").join(id);
        let text = std::fs::read(directory.join("0.m3u8")).context("the VOD playlist")?;
        let playlist = m3u8_rs::parse_media_playlist_res(&text).map_err(|error| anyhow::anyhow!("{error:?}"))?;
        let told_gaps = recording["gaps"].as_u64().context("gaps")? as usize;
        // A minute of these streams is a ninth of the spool; what lay on a mount that is gone is another matter.
        let fits = cell.is_none_or(|cell| cell.fault != Fault::MountReplaced);
        let mut recorded = Recorded { told_gaps, fits, ..Recorded::default() };
        let mut listed = BTreeSet::new();
        for segment in &playlist.segments {
            let name = segment.uri.rsplit('/').next().unwrap_or(&segment.uri).to_owned();
            match std::fs::read(directory.join(&segment.uri)) {
                Err(_) => recorded.absent.push(name.clone()),
                Ok(bytes) => match testimony.segments.get(&name) {
                    Some(seen) if *seen != sha(&bytes) => recorded.different.push(name.clone()),
                    Some(_) => recorded.same += 1,
                    None => {}
                },
            }
            listed.insert(name);
        }
        recorded.gaps = testimony.segments.keys().filter(|name| !listed.contains(*name)).count();
        Ok(Some(recorded))
    }
}

impl Place {
    fn mount(&self) -> anyhow::Result<&Mount> {
        self.mount.as_ref().context("it is not mounted")
    }

    fn struck(&self) -> anyhow::Result<u64> {
        Ok(self.mount()?.rules().counts().struck.values().sum())
    }

    fn delete(&self, name: &str) -> anyhow::Result<()> {
        // Renamed first: it is written into meanwhile.
        let gone = self.source.join("gone");
        std::fs::rename(self.source.join(name), &gone)?;
        Ok(std::fs::remove_dir_all(gone)?)
    }

    /// Ends the fault.
    fn heal(&mut self) -> anyhow::Result<()> {
        match &self.mount {
            Some(mount) => mount.rules().set(Vec::new())?,
            None => self.mount = Some(Mount::new(&self.source, &self.point, 1)?),
        }
        Ok(())
    }

    fn replace(&mut self) -> anyhow::Result<()> {
        drop(self.mount.take());
        self.source = self.source.with_extension("replaced");
        std::fs::create_dir_all(&self.source)?;
        self.mount = Some(Mount::new(&self.source, &self.point, 1)?);
        Ok(())
    }

    /// Whether the archive has what viewers of its stream and of a late one can fetch.
    fn is_replica(&self, server: &Server, late: &str) -> bool {
        [self.stream.as_str(), late].iter().all(|stream| self.is_replica_of(server, stream))
    }

    /// The playlist, and every file it names.
    fn is_replica_of(&self, server: &Server, stream: &str) -> bool {
        let directory = self.source.join("live").join(stream);
        let served = |name: &str| get(&server.url(&format!("/{stream}/{name}"))).ok();
        let (Some(playlist), Ok(kept)) = (served("0.m3u8"), std::fs::read(directory.join("0.m3u8"))) else {
            return false;
        };
        let text = String::from_utf8_lossy(&playlist).into_owned();
        let mut names = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#'));
        playlist == kept && names.all(|name| std::fs::read(directory.join(name)).ok() == served(name))
    }
}

fn finished(publisher: JoinHandle<anyhow::Result<load::Report>>) -> anyhow::Result<load::Report> {
    publisher.join().map_err(|_| anyhow::anyhow!("a publisher panicked"))?
}

/// Session and published-at of every stream.
fn sessions(server: &Server) -> anyhow::Result<BTreeMap<String, (String, i64)>> {
    let answer: Value = serde_json::from_slice(&get(&server.url("/api/v1/streams"))?)?;
    let streams = answer["streams"].as_array().context("streams")?.iter().filter_map(|stream| {
        let session = (stream["session"].as_str()?.to_owned(), stream["published_at_ms"].as_i64()?);
        Some((stream["name"].as_str()?.to_owned(), session))
    });
    Ok(streams.collect())
}
