//! Encoders: programs that publish.

use super::media::{Clip, ffmpeg};
use super::wait_for;
use std::path::Path;
use std::process::{Child, Command, Stdio};

/// A running encoder. Dropped, it is killed.
pub struct Publisher(Child);

impl Publisher {
    /// Debian's ffmpeg publishes a file once, in real time.
    pub fn file(file: &Path, url: &str) -> Self {
        Self::with(ffmpeg().arg("-re").arg("-i").arg(file).args(["-c", "copy", "-f", "flv", url]))
    }

    /// Debian's ffmpeg publishes a clip over and over.
    pub fn looping(clip: Clip, url: &str) -> Self {
        let file = clip.flv();
        Self::with(
            ffmpeg().args(["-re", "-stream_loop", "-1"]).arg("-i").arg(file).args(["-c", "copy", "-f", "flv", url]),
        )
    }

    /// Any program.
    pub fn with(command: &mut Command) -> Self {
        let shown = format!("{command:?}");
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).spawn();
        Self(child.unwrap_or_else(|error| panic!("{error}: install what `make tools` installs to run {shown}")))
    }

    /// Whether it has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        self.0.try_wait().expect("a child").is_some()
    }

    /// Kills it: the kernel closes its connection.
    pub fn kill(mut self) {
        self.0.kill().expect("running");
        self.0.wait().expect("killed");
    }

    /// Waits for its end; whether it ended well.
    pub fn finish(mut self) -> bool {
        wait_for("the encoder ends", || self.0.try_wait().expect("child")).success()
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
