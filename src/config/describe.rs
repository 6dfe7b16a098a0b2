//! The configuration in effect, as text.

use super::{Config, LogFormat, Slate};
use media::Container;
use std::fmt::Write;
use std::path::Path;
use storage::disk::SyncPolicy;

/// What is in effect, as a file that could be read back; keys are not shown.
pub fn describe(config: &Config) -> String {
    let container = if config.container == Container::Cmaf { "cmaf" } else { "mpegts" };
    let sync = if config.sync == SyncPolicy::Grouped { "grouped" } else { "never" };
    let log = match config.log {
        LogFormat::Auto => "auto",
        LogFormat::Human => "human",
        LogFormat::Json => "json",
    };
    let mut text = format!(
        "rtmp = \"{}\"\nhttp = \"{}\"\nhealth = \"{}\"\ndata = {:?}\nruntime-dir = {:?}\ntarget-duration = {}\nwindow = {}\n\
         container = \"{container}\"\ngrace = {}\nsync = \"{sync}\"\nrecord = {}\nspool = {}\nkeep-hours = {}\nkeep-gib = {}\nfree-gib = {}\nlog = \"{log}\"\ndrain = {}\nmax-bitrate = {}\n",
        config.rtmp,
        config.http,
        config.health,
        config.data,
        config.runtime_dir,
        config.target_duration,
        config.window,
        config.grace.as_secs(),
        config.record,
        config.spool_mib,
        config.keep_hours,
        config.keep_gib,
        config.free_gib,
        config.drain.as_secs(),
        config.max_bitrate_mbit,
    );
    // Writing to a String cannot fail.
    if let Some(grace) = config.grace_unpublished {
        let _ = writeln!(text, "grace-unpublished = {}", grace.as_secs());
    }
    let slate = match &config.slate {
        Slate::Off => Path::new("off"),
        Slate::Hold => Path::new("hold"),
        Slate::Clip(file) => file,
    };
    let _ = writeln!(text, "slate = {slate:?}");
    if !config.takeover.is_empty() {
        let _ = writeln!(text, "takeover = {:?}", config.takeover.iter().collect::<Vec<_>>());
    }
    if !config.archives.is_empty() {
        text.push_str("\n[archives]\n");
    }
    for (app, directory) in &config.archives {
        let _ = writeln!(text, "\"{app}\" = {directory:?}");
    }
    if config.keys.is_empty() {
        text.push_str("# no keys: publishing is allowed from this machine only\n");
    } else {
        text.push_str("\n[keys]\n");
    }
    for stream in config.keys.keys() {
        let _ = writeln!(text, "\"{stream}\" = \"…\"");
    }
    text
}
