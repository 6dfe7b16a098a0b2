//! `chaos`: the instruments, from the command line.

mod commands;

use chaos::alone;
use chaos::bench::report::{self, Bench};
use chaos::frames;
use chaos::interrupted;
use chaos::load::{Begin, Load};
use chaos::scenario::{self, Pages, Plan, SCENARIOS, Scenario, Setting};
use clap::{Args, Parser, Subcommand};
use commands::{audit_all, count, faultfs, load_with, print, punctual};
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

/// No run is longer: a hundred days, seconds.
const MAX_SECONDS: u64 = 100 * 24 * 3600;
/// Streams of a run, and viewers, at most: what one machine has ports for. More rounds than that no run has either.
const MAX_PEERS: usize = 20_000;

/// Instruments that prove what a live-streaming server promises.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Publishes one clip under many names in real time; prints lag, errors and disconnects as JSON. A server that does not read is
    /// noticed once the system's buffers for its connections are full, which takes a while with little media: viewers tell sooner.
    Load {
        /// Where to publish, such as rtmp://localhost/live/load?key=…: names get -0, -1, … appended.
        url: String,
        /// FLV file with H.264 or AAC, or both, looped.
        #[arg(long)]
        clip: PathBuf,
        /// How many publishers.
        #[arg(long, default_value_t = 10, value_parser = some)]
        streams: usize,
        /// For how long, seconds.
        #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u64).range(1..=MAX_SECONDS))]
        seconds: u64,
        /// How many viewers follow them, from when all publish to a second before the end. That nothing is listed yet is no error for
        /// fifteen seconds; the first picture's time is reported.
        #[arg(long, default_value_t = 0, value_parser = any)]
        viewers: usize,
        /// Media Playlist of a stream; {} is its number: http://localhost:8080/live/load-{}/0.m3u8
        #[arg(long, requires = "viewers")]
        play: Option<String>,
    },
    /// Follows live playlists and checks what RFC 8216 demands over time; prints what it found as JSON. Ends with 1 if
    /// that is something, or if a playlist cannot be audited, with 3 if it is only that segments came late.
    Audit {
        /// Multivariant or Media Playlists, all at once.
        #[arg(required = true)]
        urls: Vec<String>,
        /// For how long, seconds.
        #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u64).range(1..=MAX_SECONDS))]
        seconds: u64,
        /// The playlists are expected to end meanwhile. A server that waits for its encoder before it ends them lists nothing new for as
        /// long, which is found; with Steadycast, end the stream over its API, or set grace-unpublished to 0.
        #[arg(long)]
        expect_end: bool,
    },
    /// Runs a command, and again, four times at most, if it ends with 3 (something was late) while the machine stood still.
    /// Needs root: without it nobody can tell that the machine did.
    Punctual {
        /// For how long a machine that stands still is waited for, seconds, before the command is run again.
        #[arg(long, default_value_t = 1200)]
        patience: u64,
        /// The command.
        #[arg(required = true, last = true)]
        command: Vec<String>,
    },
    /// Makes an FLV file whose pictures carry their number; one that is there is replaced.
    Numbered {
        /// The file.
        file: PathBuf,
        /// Frames a second.
        #[arg(long, default_value_t = 30, value_parser = clap::value_parser!(u32).range(1..=240))]
        fps: u32,
        /// Its length, seconds.
        #[arg(long, default_value_t = 60, value_parser = clap::value_parser!(u32).range(1..=100_000))]
        seconds: u32,
        /// Number of the first picture.
        #[arg(long, default_value_t = 0)]
        first: u32,
    },
    /// Plays numbered pictures from a file or playlist; prints which are missing, repeated or misordered as JSON. Fails if any are,
    /// if a segment or a live playlist cannot be fetched, or if there is less media than was asked for.
    Count {
        /// File or playlist.
        input: String,
        /// Of media, seconds; without it to the end.
        #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
        seconds: Option<u32>,
        /// For how long no picture may come, seconds: longer than a show stands still when its encoder is away. ffmpeg, which plays,
        /// itself gives up on a server that refuses connections, within a second or two.
        #[arg(long, default_value_t = 90, value_parser = clap::value_parser!(u64).range(1..=MAX_SECONDS))]
        patience: u64,
    },
    /// Mounts a directory elsewhere, with faults. Each line read is a JSON array of rules that are in force from then
    /// on, such as [{"operation":"write","path":"show","effect":{"errno":5},"probability":0.5,"count":10}] (effects:
    /// {"errno":N}, {"delay_ms":N}, "hang", "short_write"); printed is what was asked and struck so far. [] ends all
    /// faults; the end of the input, Ctrl-C or SIGTERM unmounts. Needs root.
    Faultfs {
        /// The directory whose files it shows.
        source: PathBuf,
        /// Where they are shown.
        point: PathBuf,
        /// What probabilities follow.
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
    /// Lists the scenarios.
    List,
    /// Runs scenarios: the real server, real publishers and viewers, faults, and a judge. Needs root.
    Run {
        /// Their names; see `list`.
        #[arg(required = true)]
        scenarios: Vec<String>,
        /// What chance follows.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        #[command(flatten)]
        files: Files,
    },
    /// Faults of all kinds at random while streams are live; afterwards everything must be well again. Needs root.
    Monkey {
        /// What chance follows.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// For how long.
        #[arg(long, default_value_t = 10, value_parser = clap::value_parser!(u64).range(1..=MAX_SECONDS / 60))]
        minutes: u64,
        /// How many streams.
        #[arg(long, default_value_t = 6, value_parser = some)]
        streams: usize,
        /// The worker is never killed, and its memory must not grow.
        #[arg(long)]
        soak: bool,
        #[command(flatten)]
        files: Files,
    },
    /// Runs everything that is in docs/chaos-report.md; goes on where a run of the same programs and seed was interrupted, or
    /// where the machine stood still so that something could not be judged. What was judged stays so. Needs root.
    Matrix {
        /// What chance follows.
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Forgets what was judged before.
        #[arg(long)]
        anew: bool,
        #[command(flatten)]
        files: Files,
    },
    /// Measures what publishing and viewing cost, beside nginx-rtmp, and writes a report. Needs root.
    Bench {
        /// Our binary.
        #[arg(long, default_value = "target/release/steadycast")]
        program: PathBuf,
        /// Where clips, archives and file systems go.
        #[arg(long, default_value = "target/bench")]
        directory: PathBuf,
        /// Streams at which all are measured.
        #[arg(long, value_delimiter = ',', default_value = "200,500", value_parser = some)]
        streams: Vec<usize>,
        /// Streams at which only we are measured; 0 for none.
        #[arg(long, default_value_t = 1500, value_parser = any)]
        most: usize,
        /// Rounds in which contenders take turns.
        #[arg(long, default_value_t = 2, value_parser = some)]
        rounds: usize,
        /// How long each run measures, seconds; it warms up for forty before that.
        #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u64).range(1..=MAX_SECONDS))]
        seconds: u64,
        /// The report.
        #[arg(long, default_value = "docs/benchmarks.md")]
        report: PathBuf,
    },
}

/// Where scenarios find and leave things.
#[derive(Debug, Args)]
struct Files {
    /// Our binary.
    #[arg(long, default_value = "target/release/steadycast")]
    program: PathBuf,
    /// Where clips, archives and mounts go.
    #[arg(long, default_value = "target/chaos")]
    directory: PathBuf,
    /// Page to write; without it, it is printed.
    #[arg(long)]
    report: Option<PathBuf>,
    /// Everything that was observed, as JSON.
    #[arg(long)]
    json: Option<PathBuf>,
    /// For how long a machine that stands still is waited for, seconds, before what seemed late is played again.
    #[arg(long, default_value_t = 1200)]
    patience: u64,
}

impl Files {
    fn pages(&self) -> Pages<'_> {
        Pages { markdown: self.report.as_deref(), json: self.json.as_deref() }
    }

    fn setting(&self, seed: u64) -> Setting {
        let (program, directory) = (self.program.clone(), self.directory.clone());
        Setting { program, directory, seed, patience: Duration::from_secs(self.patience), kept: None }
    }
}

/// What failed is said in a line, whether backtraces are asked for or not: those who read a long run read its end.
fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> anyhow::Result<()> {
    if matches!(command, Command::Run { .. } | Command::Matrix { .. } | Command::Monkey { .. })
        && let Some(ended) = alone::run_alone()?
    {
        std::process::exit(ended.code().unwrap_or(1));
    }
    if let Command::Run { files, .. } | Command::Matrix { files, .. } | Command::Monkey { files, .. } = &command {
        report::present(&files.program)?;
    }
    match command {
        Command::Load { url, clip, streams, seconds, viewers, play } => {
            interrupted::watch()?;
            let load = Load { url, clip, streams, duration: Duration::from_secs(seconds), begin: Begin::Apart };
            load_with(&load, viewers, play.as_deref())
        }
        Command::Numbered { file, fps, seconds, first } => {
            interrupted::watch()?;
            frames::make(&file, fps, seconds, first)
        }
        Command::Count { input, seconds, patience } => count(&input, seconds, Duration::from_secs(patience)),
        Command::Audit { urls, seconds, expect_end } => audit_all(urls, seconds, expect_end),
        Command::Punctual { patience, command } => punctual(Duration::from_secs(patience), &command),
        Command::List => {
            let line = |scenario: &Scenario| format!("{:14} {}\n", scenario.name, scenario.what);
            print(&SCENARIOS.iter().map(line).collect::<String>())
        }
        Command::Run { scenarios, seed, files } => run_scenarios(&scenarios, seed, &files),
        Command::Matrix { seed, anew, files } => scenario::matrix(&files.setting(seed), anew, files.pages()),
        Command::Monkey { seed, minutes, streams, soak, files } => {
            let plan = Plan { minutes, streams, kills: !soak };
            scenario::monkey(plan, &files.setting(seed), files.pages())
        }
        Command::Faultfs { source, point, seed } => faultfs(&source, &point, seed),
        Command::Bench { program, directory, streams, most, rounds, seconds, report } => {
            let window = Duration::from_secs(seconds);
            report::run(&Bench { program, directory, streams, most, rounds, window, report })
        }
    }
}

fn run_scenarios(names: &[String], seed: u64, files: &Files) -> anyhow::Result<()> {
    scenario::run(names, &files.setting(seed), files.pages())
}

/// How many of something there are to be, if it may be none.
fn any(text: &str) -> Result<usize, String> {
    let number = text.parse().ok().filter(|number| *number <= MAX_PEERS);
    number.ok_or_else(|| format!("a number up to {MAX_PEERS} is wanted"))
}

/// How many of something there are to be: one at least.
fn some(text: &str) -> Result<usize, String> {
    any(text).ok().filter(|number| *number > 0).ok_or_else(|| format!("a number from 1 to {MAX_PEERS} is wanted"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn nothing_to_do_and_more_than_a_machine_can_do_is_refused() {
        let load = "chaos load rtmp://a/live/x --clip x.flv";
        for refused in [
            format!("{load} --streams 0"),
            format!("{load} --streams 20001"),
            format!("{load} --seconds 0"),
            format!("{load} --viewers 20001 --play x"),
            format!("{load} --play x"),
            "chaos monkey --streams 0".to_owned(),
            "chaos monkey --minutes 0".to_owned(),
            format!("chaos monkey --minutes {}", u64::MAX / 60),
            "chaos bench --rounds 0".to_owned(),
            "chaos bench --streams 200,0".to_owned(),
            "chaos bench --most 20001".to_owned(),
            "chaos audit http://a/x.m3u8 --seconds 0".to_owned(),
            "chaos count x.flv --seconds 0".to_owned(),
            "chaos numbered x.flv --fps 0".to_owned(),
        ] {
            assert!(Cli::try_parse_from(refused.split(' ')).is_err(), "{refused}");
        }
        for taken in [
            format!("{load} --streams 20000 --seconds 1 --viewers 2 --play x"),
            "chaos monkey --streams 1 --minutes 1".to_owned(),
            "chaos bench --rounds 1 --most 0 --streams 1,2".to_owned(),
            "chaos audit http://a/x.m3u8 --seconds 1".to_owned(),
            "chaos count x.flv --seconds 1 --patience 1".to_owned(),
            "chaos numbered x.flv --fps 1".to_owned(),
        ] {
            assert!(Cli::try_parse_from(taken.split(' ')).is_ok(), "{taken}");
        }
    }
}
