//! `chaos`: the instruments, from the command line.

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
}

fn main() -> anyhow::Result<()> {
    let Command::Load { url, clip, streams, seconds } = Cli::parse().command;
    let report = load::run(&Load { url, clip, streams, duration: Duration::from_secs(seconds) })?;
    println!("{}", serde_json::to_string_pretty(&report)?);
    anyhow::ensure!(report.disconnected == 0, "{} publishers were disconnected", report.disconnected);
    Ok(())
}
