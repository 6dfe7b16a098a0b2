//! Command line and environment. Every option overrides the same field of the configuration file.

use crate::config::{Config, Problem, load};
use crate::parent;
use clap::{Args, CommandFactory, Parser, Subcommand};
use std::ffi::OsString;
use std::path::PathBuf;

/// A live-streaming server: encoders publish over RTMP, viewers play HLS, and the show goes on.
#[derive(Debug, Parser)]
#[command(version, max_term_width = 100, after_help = EXAMPLES)]
pub struct Cli {
    /// What to do; without a command: serve.
    #[command(subcommand)]
    pub command: Option<Command>,
    /// Configuration file (TOML). Options and STEADYCAST_… variables override it.
    #[arg(long, global = true, value_name = "FILE", env = "STEADYCAST_CONFIG")]
    pub config: Option<PathBuf>,
    /// Overrides.
    #[command(flatten)]
    pub overrides: Overrides,
}

const EXAMPLES: &str = "\
Try it:
  steadycast demo                                    a built-in stream, and a page that plays it

Publish and play:
  steadycast                                         serve; publishing is allowed from this machine only
  ffmpeg -re -i FILE -c copy -f flv rtmp://localhost/live/show
  open http://localhost:8080/watch/live/show         or play http://localhost:8080/live/show/index.m3u8

Let others publish, with a stream key:
  steadycast --key live/show=SECRET
  ffmpeg … -f flv 'rtmp://HOST/live/show?key=SECRET'";

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq, Subcommand)]
pub enum Command {
    /// Serve until told to stop.
    Serve,
    /// Serve in a process of its own, started again whenever it ends. Meanwhile connections wait: nobody is refused. SIGUSR2
    /// starts it again from the program's file: an upgrade.
    Supervise,
    /// Serve, and publish a built-in looping clip to live/demo.
    Demo,
    /// Check the configuration, print what is in effect, and exit.
    CheckConfig,
    /// Write a recording into one MP4 file, without encoding it again; also while the server runs.
    Export {
        /// The session, as in the list of recordings: APPLICATION/NAME/SESSION, or SESSION alone.
        session: String,
        /// The file [default: NAME-SESSION.mp4].
        #[arg(long, value_name = "FILE")]
        to: Option<PathBuf>,
        /// What there is so far of a session that goes on, or whose recording is not finished.
        #[arg(long)]
        unfinished: bool,
    },
}

/// Options by the name of the field they override.
#[derive(Debug, Default, Args)]
pub struct Overrides {
    /// Where encoders connect [default: 0.0.0.0:1935].
    #[arg(long, global = true, value_name = "ADDR", env = "STEADYCAST_RTMP")]
    rtmp: Option<String>,
    /// Where viewers, console, API and metrics are served [default: 0.0.0.0:8080].
    #[arg(long, global = true, value_name = "ADDR", env = "STEADYCAST_HTTP")]
    http: Option<String>,
    /// Where health is answered, by a thread of its own [default: 127.0.0.1:8081].
    #[arg(long, global = true, value_name = "ADDR", env = "STEADYCAST_HEALTH")]
    health: Option<String>,
    /// Directory of the archive [default: steadycast-data].
    #[arg(long, global = true, value_name = "DIR", env = "STEADYCAST_DATA")]
    data: Option<String>,
    /// An archive of its own for an application: APPLICATION=DIRECTORY, such as live=/mnt/nas. Repeat it for others.
    #[arg(long, global = true, value_name = "APP=DIR", env = "STEADYCAST_ARCHIVE", value_delimiter = ',')]
    archive: Vec<String>,
    /// Directory for continuity records; should be on tmpfs [default: /run/steadycast or the user's].
    #[arg(long, global = true, value_name = "DIR", env = "STEADYCAST_RUNTIME_DIR")]
    runtime_dir: Option<String>,
    /// Target duration of segments, 2 to 10 [default: 2].
    #[arg(long, global = true, value_name = "SECONDS", env = "STEADYCAST_TARGET_DURATION")]
    target_duration: Option<String>,
    /// Segments in the live playlist, 3 to 1000; short ones stay until three target durations are listed [default: 6].
    #[arg(long, global = true, value_name = "SEGMENTS", env = "STEADYCAST_WINDOW")]
    window: Option<String>,
    /// Container of segments: cmaf or mpegts [default: cmaf].
    #[arg(long, global = true, value_name = "FORMAT", env = "STEADYCAST_CONTAINER")]
    container: Option<String>,
    /// How long a session waits for its encoder to come back, 0 to 86400 [default: 30].
    #[arg(long, global = true, value_name = "SECONDS", env = "STEADYCAST_GRACE")]
    grace: Option<String>,
    /// The same for an encoder that ended its publication itself [default: as long as --grace].
    #[arg(long, global = true, value_name = "SECONDS", env = "STEADYCAST_GRACE_UNPUBLISHED")]
    grace_unpublished: Option<String>,
    /// An application in which the newest encoder takes a stream over; otherwise the one that holds it keeps it while it
    /// sends. Repeat it for others.
    #[arg(long, global = true, value_name = "APP", env = "STEADYCAST_TAKEOVER", value_delimiter = ',')]
    takeover: Vec<String>,
    /// What viewers see while an encoder is away, within grace: off (the playlist waits), hold (the last picture, and
    /// silence), or an FLV file with H.264 and AAC that is repeated [default: off].
    #[arg(long, global = true, value_name = "SLATE", env = "STEADYCAST_SLATE")]
    slate: Option<String>,
    /// Most a publisher may send, Mbit/s, averaged over 10 s; one that sends more is ended [default: 100].
    #[arg(long, global = true, value_name = "MBIT", env = "STEADYCAST_MAX_BITRATE")]
    max_bitrate: Option<String>,
    /// How long viewers are still served after the process was told to stop, 0 to 60 [default: 2].
    #[arg(long, global = true, value_name = "SECONDS", env = "STEADYCAST_DRAIN")]
    drain: Option<String>,
    /// When archived segments count as durable: grouped (one sync a second) or never [default: grouped].
    #[arg(long, global = true, value_name = "POLICY", env = "STEADYCAST_SYNC")]
    sync: Option<String>,
    /// Record sessions: true or false [default: false].
    #[arg(long, global = true, value_name = "BOOL", num_args = 0..=1, require_equals = true, default_missing_value = "true", env = "STEADYCAST_RECORD")]
    record: Option<String>,
    /// What a stream may hold in memory for its recording while storage fails, MiB, 0 to 1024 [default: 64].
    #[arg(long, global = true, value_name = "MIB", env = "STEADYCAST_SPOOL")]
    spool: Option<String>,
    /// Hours a recording is kept after its end; 0 for ever [default: 0].
    #[arg(long, global = true, value_name = "HOURS", env = "STEADYCAST_KEEP_HOURS")]
    keep_hours: Option<String>,
    /// GiB of recordings an archive keeps, the latest; 0 without limit [default: 0].
    #[arg(long, global = true, value_name = "GIB", env = "STEADYCAST_KEEP_GIB")]
    keep_gib: Option<String>,
    /// GiB to be free on an archive's file system, else the oldest recordings go; 0 for no matter what [default: 0].
    #[arg(long, global = true, value_name = "GIB", env = "STEADYCAST_FREE_GIB")]
    free_gib: Option<String>,
    /// Log format: auto, human or json [default: auto].
    #[arg(long, global = true, value_name = "FORMAT", env = "STEADYCAST_LOG")]
    log: Option<String>,
    /// Stream key: application/name=KEY, or application/*=KEY for all its streams. Repeat it or separate several by
    /// commas; added to those of the file.
    #[arg(long, global = true, value_name = "STREAM=KEY", env = "STEADYCAST_KEY", value_delimiter = ',')]
    key: Vec<String>,
    /// Offer fault injection on the health address. Never on a server that matters.
    #[arg(long, global = true, hide = true, env = "STEADYCAST_CHAOS")]
    chaos: bool,
}

impl Overrides {
    /// Field names and values, as given.
    pub fn fields(&self) -> Vec<(&'static str, String)> {
        let options = [
            ("rtmp", &self.rtmp),
            ("http", &self.http),
            ("health", &self.health),
            ("data", &self.data),
            ("runtime-dir", &self.runtime_dir),
            ("target-duration", &self.target_duration),
            ("window", &self.window),
            ("container", &self.container),
            ("grace", &self.grace),
            ("grace-unpublished", &self.grace_unpublished),
            ("slate", &self.slate),
            ("max-bitrate", &self.max_bitrate),
            ("drain", &self.drain),
            ("sync", &self.sync),
            ("record", &self.record),
            ("spool", &self.spool),
            ("keep-hours", &self.keep_hours),
            ("keep-gib", &self.keep_gib),
            ("free-gib", &self.free_gib),
            ("log", &self.log),
        ];
        let given = options.into_iter().filter_map(|(name, value)| value.clone().map(|value| (name, value)));
        let archives = self.archive.iter().map(|archive| ("archive", archive.clone()));
        let takeover = self.takeover.iter().map(|app| ("takeover", app.clone()));
        let keys = self.key.iter().map(|key| ("key", key.clone()));
        let chaos = self.chaos.then(|| ("chaos", "true".to_owned()));
        given.chain(archives).chain(takeover).chain(keys).chain(chaos).collect()
    }
}

impl Cli {
    /// The configuration in effect, or everything that is wrong with it.
    pub fn load(&self) -> Result<Config, Vec<Problem>> {
        load(self.config.as_deref(), &self.overrides.fields())
    }
}

/// Variables of the environment that look like options and are none: mistyped, or somebody else's, as Kubernetes makes them
/// for a service of this name.
pub fn unknown_variables(environment: impl Iterator<Item = OsString>) -> Vec<String> {
    let command = Cli::command();
    let is_option =
        |name: &str| command.get_arguments().any(|argument| argument.get_env().is_some_and(|env| env == name));
    let is_ours = |name: &str| is_option(name) || [parent::RESTARTS, parent::CHECK].contains(&name);
    let named = environment.filter_map(|name| name.into_string().ok());
    let mut unknown: Vec<_> = named.filter(|name| name.starts_with("STEADYCAST_") && !is_ours(name)).collect();
    unknown.sort();
    unknown
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        Cli::command().debug_assert();
    }

    #[test]
    fn variables_that_are_no_options_are_found() {
        let given =
            ["STEADYCAST_GRACE", "STEADYCAST_GRAZE", "STEADYCAST_CONFIG", parent::RESTARTS, parent::CHECK, "PATH"];
        assert_eq!(unknown_variables(given.map(OsString::from).into_iter()), ["STEADYCAST_GRAZE"]);
    }

    #[test]
    fn options_may_come_before_and_after_the_command() {
        let recording = Cli::try_parse_from(["steadycast", "--record", "supervise"]).expect("valid");
        assert!(recording.command == Some(Command::Supervise) && recording.load().expect("valid").record);
        for arguments in [["steadycast", "serve", "--grace", "5"], ["steadycast", "--grace", "5", "serve"]] {
            let cli = Cli::try_parse_from(arguments).expect("valid");
            assert_eq!(cli.load().expect("valid").grace.as_secs(), 5);
        }
    }
}
