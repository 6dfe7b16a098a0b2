//! A stock hls.js in Chromium, measured while faults strike.

use crate::broken::Broken;
use anyhow::Context;
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// Where the players are, and the script that measures them.
pub const PLAYERS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/acceptance/players");

/// What was measured.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Played {
    /// Times playback stood still for 250 ms.
    pub stalls: u64,
    /// For how long all together, milliseconds.
    pub stalled_ms: f64,
    /// Seconds played.
    pub played_s: f64,
    /// Pictures the browser had no time for; this machine's, not the server's.
    pub dropped_frames: u64,
    /// What hls.js complained of, apart from stalls.
    pub errors: Vec<serde_json::Value>,
    /// What it called a stall.
    pub stall_errors: Vec<serde_json::Value>,
}

impl Played {
    /// Promises that were broken.
    pub fn broken(&self) -> Option<Broken> {
        let Self { stalls, stalled_ms, errors, stall_errors, .. } = self;
        let sentence =
            format!("hls.js stalled {stalls} times ({stalled_ms:.0} ms), told of {stall_errors:?}, errors: {errors:?}");
        match (self.played_s > 0.0 && errors.is_empty(), *stalls == 0 && stall_errors.is_empty()) {
            (true, true) => None,
            (true, false) => Some(Broken::Late(sentence)),
            (false, _) => Some(sentence.into()),
        }
    }

    /// How many of its complaints ended the show.
    pub fn fatal(&self) -> usize {
        self.errors.iter().filter(|error| error["fatal"] == true).count()
    }
}

/// A browser at work. Dropped, it is closed.
pub struct Browser(Child);

impl Browser {
    /// Plays a Multivariant Playlist for a while.
    pub fn play(url: &str, time: Duration) -> anyhow::Result<Self> {
        let players = Path::new(PLAYERS);
        anyhow::ensure!(players.join("node_modules").exists(), "the players are missing: run `make tools`");
        let mut node = Command::new("node");
        node.current_dir(players).args(["play.mjs", "hls", url, &time.as_secs().to_string()]);
        let child = node.stdin(Stdio::null()).stdout(Stdio::piped()).spawn();
        child.map(Self).context("node: run `make tools`, which installs it")
    }

    /// What was measured, at the end of its time.
    pub fn finish(mut self) -> anyhow::Result<Played> {
        let stdout = self.0.stdout.take().context("its output")?;
        let text = std::io::read_to_string(stdout)?;
        serde_json::from_str(&text).with_context(|| format!("the player said {text:?}"))
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        // Told to end, it closes Chromium; killed, it would leave that behind.
        if matches!(self.0.try_wait(), Ok(None)) {
            let _ =
                rustix::process::kill_process(rustix::process::Pid::from_child(&self.0), rustix::process::Signal::TERM);
        }
        let _ = self.0.wait();
    }
}
