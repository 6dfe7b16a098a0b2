//! `chaos`: the instruments, from the command line.

use chaos::audit::{self, Audit};
use chaos::bench::report::{self, Bench};
use chaos::frames;
use chaos::load::{self, Load};
use clap::{Parser, Subcommand};
use std::path::PathBuf;
use std::time::Duration;

/// Instruments that prove what a live-streaming server promises.
#[derive(Debug, Parser)]
#[command(version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Publishes one clip under many names in real time; prints lag, errors and disconnects as JSON.
    Load {
        /// Where to publish, such as rtmp://localhost/live/load: names get -0, -1, … appended.
        url: String,
        /// FLV file with H.264 and AAC, looped.
        #[arg(long)]
        clip: PathBuf,
        /// How many publishers.
        #[arg(long, default_value_t = 10)]
        streams: usize,
        /// For how long, seconds.
        #[arg(long, default_value_t = 30)]
        seconds: u64,
    },
    /// Follows live playlists and checks what RFC 8216 demands over time; prints what it found as JSON.
    Audit {
        /// Multivariant or Media Playlists, all at once.
        #[arg(required = true)]
        urls: Vec<String>,
        /// For how long, seconds.
        #[arg(long, default_value_t = 60)]
        seconds: u64,
        /// The playlists are expected to end meanwhile.
        #[arg(long)]
        expect_end: bool,
    },
    /// Makes an FLV file whose pictures carry their number.
    Numbered {
        /// The file.
        file: PathBuf,
        /// Frames a second.
        #[arg(long, default_value_t = 30)]
        fps: u32,
        /// Its length, seconds.
        #[arg(long, default_value_t = 60)]
        seconds: u32,
        /// Number of the first picture.
        #[arg(long, default_value_t = 0)]
        first: u32,
    },
    /// Plays numbered pictures from a file or playlist; prints which are missing, repeated or misordered as JSON.
    Count {
        /// File or playlist.
        input: String,
        /// Of media, seconds; without it to the end.
        #[arg(long)]
        seconds: Option<u32>,
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
        #[arg(long, value_delimiter = ',', default_value = "200,500")]
        streams: Vec<usize>,
        /// Streams at which only we are measured; 0 for none.
        #[arg(long, default_value_t = 1500)]
        most: usize,
        /// Rounds in which contenders take turns.
        #[arg(long, default_value_t = 2)]
        rounds: usize,
        /// How long each run measures, seconds.
        #[arg(long, default_value_t = 20)]
        seconds: u64,
        /// The report.
        #[arg(long, default_value = "docs/benchmarks.md")]
        report: PathBuf,
    },
}

fn main() -> anyhow::Result<()> {
    let (url, clip, streams, seconds) = match Cli::parse().command {
        Command::Load { url, clip, streams, seconds } => (url, clip, streams, seconds),
        Command::Numbered { file, fps, seconds, first } => return frames::make(&file, fps, seconds, first),
        Command::Count { input, seconds } => return count(&input, seconds),
        Command::Audit { urls, seconds, expect_end } => return audit_all(urls, seconds, expect_end),
        Command::Bench { program, directory, streams, most, rounds, seconds, report } => {
            let window = Duration::from_secs(seconds);
            return report::run(&Bench { program, directory, streams, most, rounds, window, report });
        }
    };
    let report = load::run(&Load { url, clip, streams, duration: Duration::from_secs(seconds) }, || ())?;
    println!("{}", serde_json::to_string_pretty(&report)?);
    anyhow::ensure!(report.disconnected == 0, "{} publishers were disconnected", report.disconnected);
    Ok(())
}

/// Audits playlists side by side; fails if anything was found.
fn audit_all(urls: Vec<String>, seconds: u64, expect_end: bool) -> anyhow::Result<()> {
    let audits = urls.into_iter().map(|url| Audit { url, duration: Duration::from_secs(seconds), expect_end });
    let audits: Vec<_> = audits.map(|audit| std::thread::spawn(move || audit::run(&audit))).collect();
    let mut reports = Vec::new();
    for audit in audits {
        reports.extend(audit.join().map_err(|_| anyhow::anyhow!("an auditor panicked"))??);
    }
    println!("{}", serde_json::to_string_pretty(&reports)?);
    let found: usize = reports.iter().map(|report| report.findings.len()).sum();
    anyhow::ensure!(found == 0, "{found} findings");
    Ok(())
}

/// Counts pictures; fails if they are not all there once and in order.
fn count(input: &str, seconds: Option<u32>) -> anyhow::Result<()> {
    let counted = frames::count(input, seconds)?;
    println!("{}", serde_json::to_string_pretty(&counted)?);
    anyhow::ensure!(counted.is_whole(), "the frames are not all there once and in order");
    Ok(())
}
