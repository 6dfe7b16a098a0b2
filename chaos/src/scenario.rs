//! Scenarios: the real binary, real publishers and viewers, faults by a seed, and a judge that knows what was promised.

mod actors;
mod asking;
mod browser;
mod caught;
mod chance;
mod encoders;
mod hang;
pub mod judge;
mod kept;
mod kills;
mod late;
mod limits;
mod matrix;
pub mod monkey;
mod report;
mod stage;
mod storage;
mod viewer;
mod watching;
pub mod witness;
mod worker;

use anyhow::{Context, ensure};
pub use kept::Kept;
pub use monkey::Plan;
use report::{Outcome, Section};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;
use storage::Beside;

/// Longest clip a scenario publishes, seconds: no picture comes twice in it.
const CLIP_SECONDS: u64 = 150;

/// Container of the scenarios that do not tell of another.
const CMAF: &str = "cmaf";

/// How a scenario is run.
#[derive(Debug, Clone)]
pub struct Setting {
    /// The server's binary.
    pub program: PathBuf,
    /// Where clips, archives and mounts go.
    pub directory: PathBuf,
    /// What chance follows.
    pub seed: u64,
    /// For how long a machine that stands still is waited for before something is played again.
    pub patience: Duration,
    /// Where parts of what takes long are kept, if they are.
    pub kept: Option<Arc<Kept>>,
}

/// Something that can be run.
pub struct Scenario {
    /// Its name.
    pub name: &'static str,
    /// What happens in it.
    pub what: &'static str,
    run: fn(&Setting) -> anyhow::Result<Outcome>,
}

/// All of them.
pub const SCENARIOS: [Scenario; 22] = [
    Scenario {
        name: "storage",
        what: "each operation fails with each error, once, for 5 s and for 60 s; hangs, delays, short writes, directories \
               deleted, mounts replaced: the whole matrix, 16 faults at a time on mounts of their own, beside 100 streams; a stock \
               hls.js in Chromium plays one of the streams of each group",
        run: |setting| {
            storage::run(setting, &matrix::whole(setting.seed), Beside { container: CMAF, streams: 100, browser: true })
        },
    },
    Scenario {
        name: "storage-ts",
        what: "each operation fails with EIO for 5 s, and hangs, delays, short writes, directories deleted and mounts replaced, \
               where segments are of MPEG-TS",
        run: |setting| {
            storage::run(
                setting,
                &matrix::part(setting.seed),
                Beside { container: "mpegts", streams: 20, browser: true },
            )
        },
    },
    Scenario {
        name: "storage-short",
        what: "a dozen faults of that matrix, for 5 s, side by side",
        run: |setting| storage::run(setting, &matrix::short(), Beside { container: CMAF, streams: 0, browser: false }),
    },
    Scenario {
        name: "kills",
        what: "the process is killed with -9 at 30 random moments while it writes",
        run: |setting| kills::run(setting, 30),
    },
    Scenario {
        name: "hang",
        what: "storage hangs for ten minutes while fifty streams are recorded",
        run: |setting| hang::run(setting, Duration::from_secs(600)),
    },
    Scenario {
        name: "caught",
        what: "the live path is made to wait on purpose, as for storage, and the judge must not miss it",
        run: caught::run,
    },
    Scenario { name: "kills-short", what: "what `kills` does, 4 times", run: |setting| kills::run(setting, 4) },
    Scenario {
        name: "encoders",
        what: "encoders are killed, frozen, cut off without FIN, or send acknowledgements only, and come back at once",
        run: |setting| encoders::deaths(setting, 100),
    },
    Scenario { name: "encoders-short", what: "the same, 5 of each", run: |setting| encoders::deaths(setting, 5) },
    Scenario {
        name: "fight",
        what: "a thousand attempts to take the stream of a healthy encoder",
        run: |setting| encoders::fight(setting, 1000),
    },
    Scenario { name: "fight-short", what: "the same, 60 attempts", run: |setting| encoders::fight(setting, 60) },
    Scenario {
        name: "flap",
        what: "an encoder is killed and comes back 200 times in 90 s",
        run: |setting| encoders::flap(setting, 200, Duration::from_secs(90)),
    },
    Scenario { name: "actors", what: "every actor of a stream's tree fails in every way", run: actors::run },
    Scenario { name: "actors-short", what: "a part of that", run: actors::short },
    Scenario {
        name: "worker",
        what: "the worker process of a hundred live streams is killed with -9 five times, and upgraded",
        run: |setting| worker::kill(setting, 100, 5, true),
    },
    Scenario {
        name: "worker-short",
        what: "the same with five streams, once, without a browser",
        run: |setting| worker::kill(setting, 5, 1, false),
    },
    Scenario { name: "wedge", what: "every thread of the actors' runtime is blocked", run: worker::wedge },
    Scenario { name: "descriptors", what: "the process has no descriptors left", run: limits::descriptors },
    Scenario { name: "memory", what: "the worker may have no more memory than a little", run: limits::memory },
    Scenario {
        name: "slow-viewers",
        what: "four hundred viewers who ask and do not read, or never finish their questions",
        run: limits::slow_viewers,
    },
    Scenario {
        name: "watching",
        what: "a stock hls.js watches while encoders go and come back, with a slate and without, and while actors fail",
        run: watching::run,
    },
    Scenario {
        name: "monkey",
        what: "faults of all kinds at random, for three minutes; see `chaos monkey`",
        run: |setting| monkey::run(setting, Plan { minutes: 3, streams: 6, kills: true }),
    },
];

/// Those whose outcome is `docs/chaos-report.md`.
pub const MATRIX: [&str; 16] = [
    "encoders",
    "fight",
    "flap",
    "actors",
    "worker",
    "wedge",
    "descriptors",
    "memory",
    "slow-viewers",
    "watching",
    "monkey",
    "kills",
    "caught",
    "storage",
    "storage-ts",
    "hang",
];

/// Faults at random, for as long as it is planned.
pub fn monkey(plan: Plan, setting: &Setting, pages: Pages<'_>) -> anyhow::Result<()> {
    let setting = prepared(setting)?;
    let outcome = monkey::run(&setting, plan)?;
    conclude(&[Section::of("monkey", "faults of all kinds at random", &outcome)?], &setting, pages)
}

fn prepared(setting: &Setting) -> anyhow::Result<Setting> {
    std::fs::create_dir_all(&setting.directory)?;
    Ok(Setting { directory: std::fs::canonicalize(&setting.directory)?, ..setting.clone() })
}

/// Where what came of it is written.
#[derive(Debug, Clone, Copy)]
pub struct Pages<'a> {
    /// For people; without it, it is printed.
    pub markdown: Option<&'a Path>,
    /// Everything that was observed.
    pub json: Option<&'a Path>,
}

/// Runs all that are in the report, but for those that could be judged before: a run that was interrupted goes on, unless
/// it is to be `anew`.
pub fn matrix(setting: &Setting, anew: bool, pages: Pages<'_>) -> anyhow::Result<()> {
    let setting = prepared(setting)?;
    let kept = Arc::new(Kept::of(&setting)?);
    if anew {
        kept.clear()?;
    }
    let scenarios = MATRIX.map(find).into_iter().collect::<anyhow::Result<Vec<_>>>()?;
    play(&scenarios, &Setting { kept: Some(kept), ..setting }, pages)
}

/// Runs scenarios one after the other and writes what came of them; fails if a promise was broken.
pub fn run(names: &[String], setting: &Setting, pages: Pages<'_>) -> anyhow::Result<()> {
    let scenarios = names.iter().map(|name| find(name)).collect::<anyhow::Result<Vec<_>>>()?;
    play(&scenarios, &prepared(setting)?, pages)
}

fn find(name: &str) -> anyhow::Result<&'static Scenario> {
    let known = || SCENARIOS.iter().map(|scenario| scenario.name).collect::<Vec<_>>().join(", ");
    let found = SCENARIOS.iter().find(|scenario| scenario.name == name);
    found.with_context(|| format!("there is no scenario {name}; there are: {}", known()))
}

fn play(scenarios: &[&Scenario], setting: &Setting, pages: Pages<'_>) -> anyhow::Result<()> {
    let (mut sections, kept) = (Vec::new(), setting.kept.as_deref());
    for scenario in scenarios {
        if let Some(section) = kept.and_then(|kept| kept.find(scenario.name)) {
            eprintln!(
                "{} (seed {}): judged before, {} promises broken",
                scenario.name,
                setting.seed,
                section.broken.len()
            );
            sections.push(section);
            continue;
        }
        eprintln!("{} (seed {})", scenario.name, setting.seed);
        // One that cannot be played is a broken promise of its own, and keeps no other from being played.
        let outcome = Outcome::judged(setting.patience, || (scenario.run)(setting));
        outcome.broken().iter().for_each(|broken| eprintln!("broken: {broken}"));
        let section = Section::of(scenario.name, scenario.what, &outcome)?;
        kept.map_or(Ok(()), |kept| kept.keep(&section))?;
        sections.push(section);
    }
    conclude(&sections, setting, pages)
}

/// Writes what came of it; fails if a promise was broken.
fn conclude(sections: &[Section], setting: &Setting, pages: Pages<'_>) -> anyhow::Result<()> {
    let text = report::markdown(sections, setting.seed);
    match pages.markdown {
        Some(file) => std::fs::write(file, text).with_context(|| file.display().to_string())?,
        None => println!("{text}"),
    }
    if let Some(file) = pages.json {
        std::fs::write(file, serde_json::to_string_pretty(sections)?).with_context(|| file.display().to_string())?;
    }
    let broken: Vec<_> = sections.iter().flat_map(|section| &section.broken).collect();
    // What is said last is what is read of a long run: all of them once more.
    broken.iter().for_each(|sentence| eprintln!("broken: {sentence}"));
    ensure!(broken.is_empty(), "{} promises were broken", broken.len());
    Ok(())
}

/// A clip of 945 kbit/s with a key frame every two seconds, in which no picture is there twice; made once.
fn clip(directory: &Path) -> anyhow::Result<PathBuf> {
    let file = directory.join("scenario.flv");
    if file.exists() {
        return Ok(file);
    }
    // Written aside: half a clip would be taken for a whole one the next time.
    let aside = directory.join("scenario.tmp.flv");
    let (video, audio) = (
        format!("testsrc2=size=640x360:rate=30:duration={CLIP_SECONDS}"),
        format!("anoisesrc=sample_rate=44100:duration={CLIP_SECONDS}:amplitude=0.1:seed=1"),
    );
    let mut ffmpeg = Command::new("ffmpeg");
    ffmpeg.args(["-v", "error", "-y", "-f", "lavfi", "-i", &video, "-f", "lavfi", "-i", &audio]);
    ffmpeg.args(["-c:v", "libx264", "-preset", "ultrafast", "-pix_fmt", "yuv420p", "-bf", "0", "-g", "60"]);
    ffmpeg.args(["-keyint_min", "60", "-sc_threshold", "0", "-nal-hrd", "cbr", "-b:v", "850k", "-minrate", "850k"]);
    ffmpeg.args(["-maxrate", "850k", "-bufsize", "850k", "-c:a", "aac", "-b:a", "96k", "-f", "flv"]).arg(&aside);
    anyhow::ensure!(ffmpeg.status().context("ffmpeg: run `make tools`")?.success(), "{ffmpeg:?}");
    std::fs::rename(aside, &file)?;
    Ok(file)
}
