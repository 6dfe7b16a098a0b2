//! What each stage of the pipeline costs in instructions and allocations, on a fixed clip: figures that do not depend
//! on what else the machine does. `make stages` runs it and writes `docs/stages.md`.
//!
//! The program runs itself under valgrind, with more and more of the pipeline and with four rounds of the clip
//! and with six; differences are what a stage costs in the steady state.

use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use chaos::clip::Clip;
use media::packager::{Output, Settings};
use media::{Container, Entry, Intake, Packager, Segment, pack};
use rtmp::{ChunkReader, Message};
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use storage::Numbers;
use storage::continuity::{Record, Records};
use storage::live::{LiveSettings, Session};
use storage::snapshot::Resume;
use storage::{Archive, LiveStream, SampleLog, Snapshot, StreamName};
use tokio::time::{Duration, Instant};

/// Stages in the order in which media passes through them; each run has those before it, too.
const STAGES: [(&str, &str); 8] = [
    ("start", "reading the clip"),
    ("chunks", "RTMP chunks to messages"),
    ("intake", "messages to samples"),
    ("log", "samples into the log and out again"),
    ("package", "samples to segments, with their digests"),
    ("publish", "window, playlists, digests document"),
    ("record", "continuity record on tmpfs"),
    ("archive", "segment, digests, playlist to files"),
];
/// Bytes read from a socket at once: 200 ms of the clip.
const READ: usize = 24 << 10;
/// Rounds of the short run, after which the window is full and old segments expire; the long run has two more.
const ROUNDS: usize = 4;
/// Segments in the window.
const WINDOW: usize = 6;

fn main() -> anyhow::Result<()> {
    // `cargo bench` and `cargo test --benches` add options of their own.
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    match &arguments[..] {
        [run, stage, container, rounds, clip] if run == "run" => {
            Pipeline::new(stage, container, Path::new(clip))?.run(rounds.parse()?)
        }
        [report, clip, file] if report == "report" => write_report(Path::new(clip), Path::new(file)),
        _ => bail!("stages report CLIP.flv FILE.md: run `make stages`"),
    }
}

/// The pipeline up to a stage.
struct Pipeline {
    depth: usize,
    clip: Clip,
    chunks: ChunkReader,
    intake: Intake,
    log: SampleLog,
    position: u64,
    packager: Packager,
    window: Snapshot,
    now: Instant,
    stream: Arc<LiveStream>,
    records: Records,
    archive: storage::archive::LocalDirectory,
    _directory: tempfile::TempDir,
}

impl Pipeline {
    fn new(stage: &str, container: &str, clip: &Path) -> anyhow::Result<Self> {
        let depth = STAGES.iter().position(|(name, _)| *name == stage).context("no such stage")?;
        let container = if container == "cmaf" { Container::Cmaf } else { Container::MpegTs };
        let packaging = Settings { container, target_duration: 2 };
        let settings = LiveSettings { packaging, window: WINDOW, ..LiveSettings::default() };
        let directory = tempfile::tempdir_in("/dev/shm")?;
        let stream = LiveStream::new(
            StreamName::new("live", "show")?,
            settings,
            Session::beginning_at(0),
            Snapshot::starting_at(Numbers::default()),
            0,
        );
        let mut chunks = ChunkReader::default();
        chunks.set_max_message(64 << 20);
        let mut this = Self {
            depth,
            clip: Clip::read(clip)?,
            chunks,
            intake: Intake::starting_at(0),
            log: SampleLog::default(),
            position: 0,
            packager: Packager::new(packaging),
            window: Snapshot::starting_at(Numbers::default()),
            now: Instant::now(),
            stream,
            records: Records::open(directory.path())?,
            archive: storage::archive::LocalDirectory::at(directory.path()),
            _directory: directory,
        };
        this.log.open_epoch(1, 0, Instant::now());
        this.receive(&set_chunk_size().into());
        let headers = this.clip.headers.clone();
        this.receive(&headers.into());
        Ok(this)
    }

    fn run(&mut self, rounds: usize) -> anyhow::Result<()> {
        let bytes = self.clip.bytes(0, self.clip.len()).to_vec();
        for _ in 0..rounds {
            let mut tail = Vec::new();
            for slice in bytes.chunks(READ) {
                let read = Bytes::from([&tail, slice].concat());
                let used = self.receive(&read);
                tail = read[used..].to_vec();
            }
            ensure!(tail.is_empty(), "the clip ends inside a message");
        }
        Ok(())
    }

    /// One read: what a session does, then what the segmenter and the archiver do with it.
    fn receive(&mut self, bytes: &Bytes) -> usize {
        if self.depth < 1 {
            return bytes.len();
        }
        let mut rest = bytes.clone();
        let mut messages = Vec::new();
        while let Ok(Some(message)) = self.chunks.next(&mut rest) {
            messages.push(message);
        }
        self.messages(&messages);
        bytes.len() - rest.len()
    }

    fn messages(&mut self, messages: &[Message]) {
        if self.depth < 2 {
            return;
        }
        let mut entries = Vec::new();
        for message in messages {
            let taken = match message.type_id {
                9 => self.intake.video(message.timestamp, &message.payload, &mut entries),
                8 => self.intake.audio(message.timestamp, &message.payload, &mut entries),
                _ => Ok(()),
            };
            taken.expect("a clip of ffmpeg's");
        }
        if self.depth < 3 {
            return;
        }
        pack(&mut entries);
        self.log.append(1, entries, Instant::now()).expect("the only epoch");
        let read = self.log.read(self.position, usize::MAX);
        for (position, entry) in read.entries {
            self.position = position + 1;
            self.package(&entry);
        }
    }

    fn package(&mut self, entry: &Entry) {
        if self.depth < 4 {
            self.log.release(self.position);
            return;
        }
        for output in self.packager.push(entry) {
            if let Output::Segment(segment) = output {
                self.publish(segment);
                self.log.release(self.position);
            }
        }
    }

    fn publish(&mut self, segment: Segment) {
        if self.depth < 5 {
            return;
        }
        // Media's clock, not this machine's: under valgrind it runs slowly.
        self.now += Duration::from_micros((segment.duration * 100 / 9).unsigned_abs());
        let resume = Some(Resume { packager: self.packager.clone(), position: self.position });
        self.window = self.window.next(vec![segment], false, WINDOW, resume, self.now);
        if self.depth < 6 {
            return;
        }
        self.records.write(&Record::of(&self.stream, &self.window)).expect("tmpfs");
        if self.depth < 7 {
            return;
        }
        let name = &self.stream.name;
        let newest = &self.window.listed.last().expect("just published").file;
        let files = [
            (newest.name.as_str(), newest.bytes.clone()),
            ("segments-sha256.json", self.window.digests.content()),
            ("0.m3u8", self.window.media_playlist.content()),
        ];
        for (file, content) in &files {
            let aside = self.archive.write_aside(name, file, content).expect("tmpfs");
            self.archive.commit(name, file, aside).expect("tmpfs");
        }
    }
}

/// SetChunkSize (RTMP 1.0 section 5.4.1) to what the clip's chunks have.
fn set_chunk_size() -> Vec<u8> {
    let mut bytes = vec![2, 0, 0, 0, 0, 0, 4, 1, 0, 0, 0, 0];
    bytes.extend(chaos::clip::CHUNK_SIZE.to_be_bytes());
    bytes
}

/// Instructions and allocations of a run.
#[derive(Clone, Copy, Default)]
struct Cost {
    instructions: f64,
    allocations: f64,
    allocated: f64,
}

impl std::ops::Sub for Cost {
    type Output = Self;

    fn sub(self, other: Self) -> Self {
        Self {
            instructions: self.instructions - other.instructions,
            allocations: self.allocations - other.allocations,
            allocated: self.allocated - other.allocated,
        }
    }
}

/// What two rounds of the clip cost in the steady state, up to a stage.
fn cost_of(stage: &str, container: &str, clip: &Path) -> anyhow::Result<Cost> {
    let [short, long] = [ROUNDS, ROUNDS + 2].map(|rounds| {
        let run = ["run", stage, container, &rounds.to_string(), &clip.to_string_lossy()].map(str::to_owned);
        anyhow::Ok(Cost { instructions: instructions(&run)?, ..allocations(&run)? })
    });
    Ok(long? - short?)
}

fn valgrind(options: &[&str], run: &[String]) -> anyhow::Result<String> {
    let mut command = Command::new("valgrind");
    command.args(options).arg(std::env::current_exe()?).args(run);
    let output = command.output().context("valgrind: run `make stages`, which installs it")?;
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    ensure!(output.status.success(), "{command:?}: {text}");
    Ok(text)
}

fn instructions(run: &[String]) -> anyhow::Result<f64> {
    let text = valgrind(&["--tool=callgrind", "--callgrind-out-file=/dev/null"], run)?;
    number_after(&text, "Collected :").context("callgrind says how many instructions it collected")
}

fn allocations(run: &[String]) -> anyhow::Result<Cost> {
    let text = valgrind(&["--tool=memcheck", "--leak-check=no", "--undef-value-errors=no"], run)?;
    let allocations = number_after(&text, "total heap usage:").context("memcheck says how many allocations it saw")?;
    let allocated = number_after(&text, "frees,").context("memcheck says how many bytes were allocated")?;
    Ok(Cost { allocations, allocated, ..Cost::default() })
}

/// The number behind a label, its thousands separated by commas.
fn number_after(text: &str, label: &str) -> Option<f64> {
    text.split_once(label)?.1.split_whitespace().next()?.replace(',', "").parse().ok()
}

fn write_report(clip: &Path, file: &Path) -> anyhow::Result<()> {
    let read = Clip::read(clip)?;
    let seconds = 2.0 * f64::from(read.round_ms) / 1000.0;
    let samples = 2.0 * read.len() as f64;
    let mut text = String::from(HEAD);
    writeln!(
        text,
        "Clip: {:.1} s, {} samples, {:.0} kbit/s.\n",
        seconds / 2.0,
        read.len(),
        read.bytes(0, read.len()).len() as f64 * 8.0 / f64::from(read.round_ms)
    )?;
    for container in ["cmaf", "mpegts"] {
        writeln!(text, "## {container}\n")?;
        writeln!(text, "| stage | instructions a stream-second | allocations a sample | bytes allocated a sample |")?;
        writeln!(text, "|---|---:|---:|---:|")?;
        let mut before = cost_of(STAGES[0].0, container, clip)?;
        let first = before;
        for (stage, what) in &STAGES[1..] {
            let cost = cost_of(stage, container, clip)?;
            row(&mut text, &format!("{stage}: {what}"), cost - before, seconds, samples)?;
            eprintln!("{container}, {stage}");
            before = cost;
        }
        row(&mut text, "all", before - first, seconds, samples)?;
        writeln!(text)?;
    }
    std::fs::write(PathBuf::from(file), text).context("the report")
}

fn row(text: &mut String, name: &str, cost: Cost, seconds: f64, samples: f64) -> std::fmt::Result {
    writeln!(
        text,
        "| {name} | {:.0} | {:.2} | {:.0} |",
        cost.instructions / seconds,
        cost.allocations / samples,
        cost.allocated / samples
    )
}

const HEAD: &str = "\
# What each stage costs

Written by `make stages`: instructions counted by callgrind, allocations by memcheck, on a fixed clip, as the difference \
between four rounds of it and six, and between the pipeline up to a stage and up to the one before. Neither depends on \
what else the machine does. Not counted is what the kernel does, nor timers, wake-ups and mailboxes of actors. valgrind \
knows no SHA instructions: digests are most of `package` here, and far less on a processor that has them. \
Allocations that a later stage gives back sooner or later than the one before show as small differences.

";
