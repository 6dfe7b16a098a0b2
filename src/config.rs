//! Configuration: one TOML file, overridden by environment and command line. All mistakes are reported at once.

mod describe;
mod file;
mod values;

pub use describe::describe;

use media::Container;
use media::packager::{MAX_TARGET_DURATION, MIN_TARGET_DURATION, Settings};
use media::slate::{Clip, ClipError, MAX_CLIP_BYTES};
use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use storage::StreamName;
use storage::disk::SyncPolicy;
use storage::live::{LiveSettings, StreamSettings};
use storage::retention::Limits;
use thiserror::Error;
use values::{address, directory, number, one_of};

/// Fewest segments that keep three target durations and one segment in the playlist.
const MIN_WINDOW: usize = 3;
/// Most: the window is held in memory.
const MAX_WINDOW: usize = 1000;
/// Most a stream may hold back for its recording, MiB: all streams together may hold no more than that.
const MAX_SPOOL_MIB: usize = storage::spool::MAX_BYTES_TOGETHER >> 20;
/// Held back by default, MiB: nine minutes of a megabit per second.
const DEFAULT_SPOOL_MIB: usize = 64;
/// Most archives of applications' own: each has threads of its own, and is waited for at the start.
const MAX_ARCHIVES: usize = 16;
/// Longest grace: a day.
const MAX_GRACE_S: u64 = 86_400;
/// Most a publisher may be allowed to send, Mbit/s: a segment is held in memory.
const MAX_BITRATE_MBIT: u64 = 1000;
/// Longest that viewers are served after the process was told to stop: service managers kill it soon after.
const MAX_DRAIN_S: u64 = 60;

/// One thing that is wrong with the configuration, and where.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{field}: {mistake}")]
pub struct Problem {
    /// The field, or the file.
    pub field: String,
    /// What is wrong and what would be right.
    pub mistake: String,
}

/// How the log is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// Human on a terminal, JSON otherwise.
    Auto,
    /// For people.
    Human,
    /// One JSON object a line.
    Json,
}

/// What is shown while an encoder is away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Slate {
    /// Nothing: the playlist waits.
    Off,
    /// The last picture, and silence.
    Hold,
    /// An FLV file, over and over.
    Clip(PathBuf),
}

/// Everything that can be configured.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Where encoders connect.
    pub rtmp: SocketAddr,
    /// Where viewers, console, API and metrics are served.
    pub http: SocketAddr,
    /// Where health is answered.
    pub health: SocketAddr,
    /// Directory of the archive.
    pub data: PathBuf,
    /// Directories of applications that have an archive of their own.
    pub archives: BTreeMap<String, PathBuf>,
    /// Directory of continuity records.
    pub runtime_dir: PathBuf,
    /// Target duration of segments, seconds.
    pub target_duration: u32,
    /// Segments in the live playlist.
    pub window: usize,
    /// Container of segments.
    pub container: Container,
    /// How long a session waits for an encoder that was lost.
    pub grace: Duration,
    /// How long it waits for one that ended its publication itself; none for as long as for one that was lost.
    pub grace_unpublished: Option<Duration>,
    /// Applications in which the newest encoder wins.
    pub takeover: BTreeSet<String>,
    /// What is shown while an encoder is away.
    pub slate: Slate,
    /// Most a publisher may send, Mbit/s.
    pub max_bitrate_mbit: u64,
    /// How long viewers are served after the process was told to stop.
    pub drain: Duration,
    /// When archived segments count as durable.
    pub sync: SyncPolicy,
    /// Whether sessions are recorded.
    pub record: bool,
    /// What a stream may hold for its recording while storage fails, MiB.
    pub spool_mib: usize,
    /// Hours a recording is kept after its end; 0 for ever.
    pub keep_hours: u32,
    /// GiB of recordings in an archive; 0 without limit.
    pub keep_gib: u32,
    /// GiB that are to be free on an archive's file system; 0 for no matter what.
    pub free_gib: u32,
    /// How the log is written.
    pub log: LogFormat,
    /// Stream keys by `application/name` or `application/*`.
    pub keys: BTreeMap<String, String>,
    /// Fault injection is offered.
    pub chaos: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            rtmp: SocketAddr::from(([0, 0, 0, 0], 1935)),
            http: SocketAddr::from(([0, 0, 0, 0], 8080)),
            health: SocketAddr::from(([127, 0, 0, 1], 8081)),
            data: PathBuf::from("steadycast-data"),
            archives: BTreeMap::new(),
            runtime_dir: default_runtime_dir(),
            target_duration: 2,
            window: 6,
            container: Container::Cmaf,
            grace: Duration::from_secs(30),
            grace_unpublished: None,
            takeover: BTreeSet::new(),
            slate: Slate::Off,
            max_bitrate_mbit: 100,
            drain: Duration::from_secs(2),
            sync: SyncPolicy::Grouped,
            record: false,
            spool_mib: DEFAULT_SPOOL_MIB,
            keep_hours: 0,
            keep_gib: 0,
            free_gib: 0,
            log: LogFormat::Auto,
            keys: BTreeMap::new(),
            chaos: false,
        }
    }
}

impl Config {
    /// Limits and formats of new streams.
    pub fn stream_settings(&self) -> StreamSettings {
        let packaging = Settings { container: self.container, target_duration: self.target_duration };
        let all = LiveSettings {
            packaging,
            window: self.window,
            grace: self.grace,
            grace_unpublished: self.grace_unpublished.unwrap_or(self.grace),
            slate: self.slate != Slate::Off,
            takeover: false,
            record: self.record,
            spool_bytes: self.spool_mib << 20,
        };
        StreamSettings { all, takeover: Arc::new(self.takeover.clone()) }
    }

    /// Which recordings are kept.
    pub fn retention(&self) -> Limits {
        let limit = |value: u32| Some(u64::from(value)).filter(|value| *value > 0);
        Limits {
            age: limit(self.keep_hours).map(|hours| Duration::from_secs(3600 * hours)),
            bytes: limit(self.keep_gib).map(|gib| gib << 30),
            free: limit(self.free_gib).map(|gib| gib << 30),
        }
    }

    /// Directories of all archives, and the option of each.
    pub fn directories(&self) -> impl Iterator<Item = (&'static str, &Path)> {
        std::iter::once(("data", &*self.data)).chain(self.archives.values().map(|directory| ("archive", &**directory)))
    }

    /// Directories that are something else already.
    pub fn check_directories(&self) -> Vec<Problem> {
        let records = ("runtime-dir", &*self.runtime_dir);
        let wrong = self.directories().chain([records]).filter(|(_, path)| path.exists() && !path.is_dir());
        let problem = |(field, path): (&str, &Path)| Problem {
            field: field.to_owned(),
            mistake: format!("{} is no directory; name another, or move it away", path.display()),
        };
        wrong.map(problem).collect()
    }

    /// The clip that is shown while an encoder is away, if one is configured. Read when it is needed, and not with the
    /// configuration: storage that has lost it must not keep a worker from starting, or keys from being read again.
    pub fn slate_clip(&self) -> Result<Option<Arc<Clip>>, String> {
        let Slate::Clip(path) = &self.slate else { return Ok(None) };
        let failed = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
        let metadata = std::fs::metadata(path).map_err(|error| failed(&error))?;
        if !metadata.is_file() {
            return Err(failed(&"it is no file"));
        }
        if metadata.len() > MAX_CLIP_BYTES as u64 {
            return Err(failed(&ClipError::TooLarge));
        }
        let file = std::fs::read(path).map_err(|error| failed(&error))?;
        Ok(Some(Arc::new(Clip::read(&file.into()).map_err(|error| failed(&error))?)))
    }

    /// What is wrong only together.
    fn check_together(&self, problems: &mut Vec<Problem>) {
        let addresses = [("rtmp", self.rtmp), ("http", self.http), ("health", self.health)];
        for (n, (field, address)) in addresses.iter().enumerate() {
            let taken = addresses[..n].iter().find(|(_, other)| other == address && address.port() != 0);
            let mistake =
                taken.map(|(other, _)| Err(format!("{address} is the address of {other}, too; each needs its own")));
            note(problems, (*field).to_owned(), mistake.unwrap_or(Ok(())));
        }
        let directories: Vec<_> = self.directories().chain([("runtime-dir", &*self.runtime_dir)]).collect();
        let absolute = |path: &Path| without_dots(&std::path::absolute(path).unwrap_or_else(|_| path.to_owned()));
        let directories: Vec<_> = directories.into_iter().map(|(field, path)| (field, absolute(path))).collect();
        for (n, (field, directory)) in directories.iter().enumerate() {
            // Records may lie beside what an archive holds.
            let nested = |other: &PathBuf| directory.starts_with(other) || other.starts_with(directory);
            let inside = |other: &PathBuf| other == directory || *field != "runtime-dir" && nested(other);
            if let Some((_, other)) = directories[..n].iter().find(|(_, other)| inside(other)) {
                let mistake = format!(
                    "{} and {} are the same, or one is inside the other; each archive and the records need their own",
                    directory.display(),
                    other.display()
                );
                note(problems, (*field).to_owned(), Err(mistake));
            }
        }
    }

    /// Sets one field from text; what is wrong with it otherwise.
    fn set(&mut self, field: &str, value: &str) -> Result<(), String> {
        match field {
            "rtmp" => self.rtmp = address(value)?,
            "http" => self.http = address(value)?,
            "health" => self.health = address(value)?,
            "data" => self.data = directory(value)?,
            "archive" => {
                let (app, at) = value.split_once('=').ok_or("is to be APPLICATION=DIRECTORY")?;
                self.set_archive(app, at)?;
            }
            "runtime-dir" => self.runtime_dir = directory(value)?,
            "target-duration" => self.target_duration = number(value, MIN_TARGET_DURATION, MAX_TARGET_DURATION)?,
            "window" => self.window = number(value, MIN_WINDOW, MAX_WINDOW)?,
            "grace" => self.grace = Duration::from_secs(number(value, 0, MAX_GRACE_S)?),
            "grace-unpublished" => {
                self.grace_unpublished = Some(Duration::from_secs(number(value, 0, MAX_GRACE_S)?));
            }
            "takeover" => {
                StreamName::new(value, "any").map_err(|error| error.to_string())?;
                self.takeover.insert(value.to_owned());
            }
            "slate" => {
                self.slate = match value {
                    "off" => Slate::Off,
                    "hold" => Slate::Hold,
                    "" => return Err("is to be off, hold, or an FLV file".to_owned()),
                    file => Slate::Clip(PathBuf::from(file)),
                }
            }
            "max-bitrate" => self.max_bitrate_mbit = number(value, 1, MAX_BITRATE_MBIT)?,
            "drain" => self.drain = Duration::from_secs(number(value, 0, MAX_DRAIN_S)?),
            "container" => {
                self.container = one_of(value, &[("cmaf", Container::Cmaf), ("mpegts", Container::MpegTs)])?;
            }
            "sync" => self.sync = one_of(value, &[("grouped", SyncPolicy::Grouped), ("never", SyncPolicy::Never)])?,
            "record" => self.record = one_of(value, &[("true", true), ("false", false)])?,
            "spool" => self.spool_mib = number(value, 0, MAX_SPOOL_MIB)?,
            "keep-hours" => self.keep_hours = number(value, 0, u32::MAX)?,
            "keep-gib" => self.keep_gib = number(value, 0, u32::MAX)?,
            "free-gib" => self.free_gib = number(value, 0, u32::MAX)?,
            "log" => {
                self.log = one_of(
                    value,
                    &[("auto", LogFormat::Auto), ("human", LogFormat::Human), ("json", LogFormat::Json)],
                )?;
            }
            "chaos" => self.chaos = one_of(value, &[("true", true), ("false", false)])?,
            "key" => {
                let (stream, key) = value
                    .split_once('=')
                    .ok_or("is to be application/name=KEY (commas separate several, so a key holds none)")?;
                self.set_key(stream, key)?;
            }
            _ => return Err("there is no such field; see `steadycast --help`".to_owned()),
        }
        Ok(())
    }

    fn set_archive(&mut self, app: &str, at: &str) -> Result<(), String> {
        StreamName::new(app, "any").map_err(|error| error.to_string())?;
        self.archives.insert(app.to_owned(), directory(at)?);
        if self.archives.len() > MAX_ARCHIVES {
            return Err(format!("more than {MAX_ARCHIVES} archives; each has threads of its own"));
        }
        Ok(())
    }

    fn set_key(&mut self, stream: &str, key: &str) -> Result<(), String> {
        let (app, name) =
            stream.split_once('/').ok_or("is to name application/name, or application/* for all its streams")?;
        let name_or_any = if name == "*" { "any" } else { name };
        StreamName::new(app, name_or_any).map_err(|error| error.to_string())?;
        if key.is_empty() {
            return Err(format!("the key of {stream} is empty"));
        }
        self.keys.insert(stream.to_owned(), key.to_owned());
        Ok(())
    }
}

/// A path without `.` and `..`, as it is written: storage is not asked, it may hang.
fn without_dots(path: &Path) -> PathBuf {
    let mut plain = PathBuf::new();
    for component in path.components() {
        match component {
            Component::ParentDir => drop(plain.pop()),
            Component::CurDir => {}
            other => plain.push(other),
        }
    }
    plain
}

/// Reads the file, applies the overrides, reports every mistake of both.
pub fn load(file: Option<&Path>, overrides: &[(&'static str, String)]) -> Result<Config, Vec<Problem>> {
    let (mut config, mut problems) = (Config::default(), Vec::new());
    if let Some(path) = file {
        file::read(path, &mut config, &mut problems);
    }
    let mut named = BTreeSet::new();
    for (field, value) in overrides {
        let variable = field.to_uppercase().replace('-', "_");
        let given = format!("--{field} (STEADYCAST_{variable}) {}", shown(field, value));
        // What is of one application or stream is given once; it may be given otherwise in the file.
        let of = value.split_once('=').filter(|_| matches!(*field, "archive" | "key")).map(|(of, _)| of);
        let set = match of {
            Some(of) if !named.insert((field, of)) => Err(format!("{of} is given twice; leave out one of them")),
            _ => config.set(field, value),
        };
        note(&mut problems, given, set);
    }
    config.check_together(&mut problems);
    if problems.is_empty() { Ok(config) } else { Err(problems) }
}

fn note(problems: &mut Vec<Problem>, field: String, result: Result<(), String>) {
    problems.extend(result.err().map(|mistake| Problem { field, mistake }));
}

/// The value for a message; keys are never shown.
fn shown<'a>(field: &str, value: &'a str) -> &'a str {
    if field == "key" { "…" } else { value }
}

fn default_runtime_dir() -> PathBuf {
    if rustix::process::geteuid().is_root() {
        return PathBuf::from("/run/steadycast");
    }
    match std::env::var_os("XDG_RUNTIME_DIR") {
        Some(directory) => Path::new(&directory).join("steadycast"),
        None => PathBuf::from(format!("/dev/shm/steadycast-{}", rustix::process::geteuid().as_raw())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load_text(text: &str, overrides: &[(&'static str, &str)]) -> Result<Config, Vec<Problem>> {
        let directory = tempfile::tempdir().expect("temporary directory");
        let file = directory.path().join("steadycast.toml");
        std::fs::write(&file, text).expect("written");
        let overrides: Vec<_> = overrides.iter().map(|(field, value)| (*field, (*value).to_owned())).collect();
        load(Some(&file), &overrides)
    }

    #[test]
    fn every_mistake_is_reported_at_once() {
        let text =
            "rtmp = 'nonsense'\ngrace = -1\nspeed = 7\ntarget-duration = 99\n[keys]\n'nonsense' = 'x'\n'live/ok' = 7\n";
        let problems = load_text(text, &[("container", "avi"), ("key", "live/show=")]).expect_err("mistakes");
        let all = problems.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
        assert_eq!(problems.len(), 8, "{all}");
        for part in ["rtmp", "grace", "speed", "from 2 to 10", "nonsense", "live/ok", "cmaf, mpegts", "empty"] {
            assert!(all.contains(part), "{part} in\n{all}");
        }
    }

    #[test]
    fn the_command_line_overrides_the_file() {
        let config =
            load_text("grace = 7\nwindow = 9\n[keys]\n'live/*' = 'a'\n", &[("grace", "8"), ("key", "live/b=c")])
                .expect("valid");
        assert_eq!((config.grace.as_secs(), config.window, config.keys.len()), (8, 9, 2));
    }

    #[test]
    fn addresses_and_directories_that_collide_are_mistakes() {
        let text = "rtmp = '127.0.0.1:9'\nhealth = '127.0.0.1:9'\ndata = '/tmp/x'\nruntime-dir = '/tmp/x'\n";
        assert_eq!(load_text(text, &[]).expect_err("mistakes").len(), 2);
        let nested = "data = '/tmp/x'\n[archives]\nvod = '/tmp/./x/vod'\n";
        assert_eq!(load_text(nested, &[]).expect_err("mistake").len(), 1);
        assert!(load_text("rtmp = '127.0.0.1:0'\nhttp = '127.0.0.1:0'\n", &[]).is_ok());
    }

    #[test]
    fn archives_of_applications_need_a_directory_each() {
        let config = load_text("[archives]\nvod = '/tmp/a'\n", &[("archive", "news=/tmp/b")]).expect("valid");
        assert_eq!(config.directories().count(), 3);
        let text = "data = '/tmp/a'\n[archives]\nvod = '/tmp/a'\n'../up' = '/tmp/b'\nlive = 7\n";
        let twice = [("archive", "news=/tmp/b"), ("archive", "news=/tmp/c")];
        assert_eq!(load_text("", &twice).expect_err("which?").len(), 1);
        assert_eq!(load_text("data = '/tmp/a'", &[("archive", "q=/tmp/b/../a/.")]).expect_err("the same").len(), 1);
        assert_eq!(load_text(text, &[("archive", "/tmp/c")]).expect_err("mistakes").len(), 4);
    }

    #[test]
    fn what_is_described_is_read_back_and_keys_are_not_shown() {
        let config = load_text(
            "record = true\nkeep-hours = 24\nkeep-gib = 5\nfree-gib = 1\ngrace-unpublished = 5\ntakeover = ['live', 'events']\ncontainer = 'mpegts'\ndata = '/tmp/a b'\nsync = 'never'\n[archives]\n'vod' = '/tmp/c'\n",
            &[],
        )
        .expect("valid");
        assert_eq!(load_text(&describe(&config), &[]).expect("valid"), config);
        let secret = load_text("[keys]\n'live/show' = 'hunter2'\n", &[]).expect("valid");
        assert!(!describe(&secret).contains("hunter2"));
        let problems = load_text("", &[("key", "hunter2")]).expect_err("mistake");
        assert!(!problems[0].to_string().contains("hunter2"));
    }

    #[test]
    fn the_example_configuration_says_the_defaults() {
        let example = load(Some(Path::new("steadycast.example.toml")), &[]).expect("valid");
        assert_eq!(example, Config::default());
    }
}
