//! ffmpeg at work: what it says is heard, and it is not waited for for ever.

use super::note;
use crate::interrupted::is_interrupted;
use anyhow::{Context, anyhow, ensure};
use std::io::{BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::process::{Child, ChildStderr, Command, ExitStatus};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{RecvTimeoutError, SyncSender, sync_channel};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

/// Why a player was ended by a signal to us.
const INTERRUPTED: &str = "interrupted";
/// How often is looked whether a player still shows something.
const LOOK: Duration = Duration::from_millis(200);
/// What `setpriv` ends with if there is no such program.
const NOT_FOUND: i32 = 127;
/// What ffmpeg says when a segment, or a live playlist, is not there; it goes on, or takes it for the end.
const NOT_FETCHED: [&str; 2] = ["Failed to open segment", "Failed to reload playlist"];

/// What ffmpeg said.
#[derive(Debug, Default)]
pub struct Said {
    /// Errors.
    pub errors: Vec<String>,
    /// Segments and playlists that could not be fetched.
    pub not_fetched: u64,
    /// What was said of the first of them.
    pub not_fetched_lines: Vec<String>,
    /// Media that has been put out, microseconds.
    pub media_us: u64,
}

impl Said {
    /// A line that tells of progress, or a message, with its level where that was asked for.
    pub fn take(&mut self, line: String) {
        match line.split_once('=') {
            Some(("out_time_us", time)) => self.media_us = time.trim().parse().unwrap_or(self.media_us),
            Some((key, _)) if key.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') => {}
            _ if NOT_FETCHED.iter().any(|words| line.contains(words)) => {
                self.not_fetched += 1;
                note(&mut self.not_fetched_lines, line);
            }
            _ if line.contains("[warning]") => {}
            _ => note(&mut self.errors, line),
        }
    }
}

/// ffmpeg, in a group of its own: a terminal's signals are for us, who tell what came of it. It does not outlive us.
pub fn ffmpeg() -> Command {
    let mut ffmpeg = Command::new("setpriv");
    ffmpeg.args(["--pdeathsig", "KILL", "--", "ffmpeg"]).process_group(0);
    ffmpeg
}

/// How it ended, if it could be run.
pub fn ran(status: ExitStatus) -> anyhow::Result<ExitStatus> {
    ensure!(status.code() != Some(NOT_FOUND), "ffmpeg cannot be run: install it");
    Ok(status)
}

/// Reads what ffmpeg says until it ends: one that is not read waits.
pub fn listen(stderr: ChildStderr) -> JoinHandle<Said> {
    thread::spawn(move || {
        let mut said = Said::default();
        // What is not UTF-8, such as a file's name, is told all the same.
        let lines = BufReader::new(stderr).split(b'\n').map_while(Result::ok);
        lines.for_each(|line| said.take(String::from_utf8_lossy(&line).trim_end().to_owned()));
        said
    })
}

/// What was heard, once it has ended.
pub fn heard(listening: JoinHandle<Said>) -> anyhow::Result<Said> {
    listening.join().map_err(|_| anyhow!("who listened to ffmpeg panicked"))
}

/// A player whose pictures are read; it is ended when none comes for too long, or when we are interrupted.
pub struct Player {
    pictures: Arc<AtomicU64>,
    ended: SyncSender<()>,
    guard: JoinHandle<(Child, Option<String>)>,
}

impl Player {
    /// Guards `player` from now on; without a picture it is given so much time.
    pub fn guarded(mut player: Child, patience: Duration) -> Self {
        let (ended, until) = sync_channel(0);
        let pictures = Arc::new(AtomicU64::new(0));
        let counted = pictures.clone();
        let guard = thread::spawn(move || {
            let (mut last, mut since, mut why) = (0, Instant::now(), None);
            while until.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {
                let now = counted.load(Ordering::Relaxed);
                if now != last {
                    (last, since) = (now, Instant::now());
                }
                if is_interrupted() {
                    why = Some(INTERRUPTED.to_owned());
                } else if since.elapsed() >= patience {
                    why = Some(format!("no picture for {} s", patience.as_secs()));
                }
                if why.is_some() {
                    // One that has ended by itself meanwhile needs no end.
                    let _ = player.kill();
                    break;
                }
            }
            (player, why)
        });
        Self { pictures, ended, guard }
    }

    /// Reads pictures from what it puts out, until it ends.
    pub fn read(&self, mut output: impl Read, picture: &mut [u8], mut take: impl FnMut(&[u8])) {
        while output.read_exact(picture).is_ok() {
            self.pictures.fetch_add(1, Ordering::Relaxed);
            take(picture);
        }
    }

    /// How it ended, and why it was ended by us, if it was.
    pub fn wait(self) -> anyhow::Result<(ExitStatus, Option<String>)> {
        drop(self.ended);
        let (mut player, why) = self.guard.join().map_err(|_| anyhow!("who guarded ffmpeg panicked"))?;
        let status = player.wait().context("ffmpeg")?;
        // Who ends all processes of a service ends it, too, maybe before we do.
        let why = why.or_else(|| (is_interrupted() && !status.success()).then(|| INTERRUPTED.to_owned()));
        Ok((status, why))
    }
}

#[cfg(test)]
mod tests {
    use super::super::MAX_LISTED;
    use super::*;
    use std::process::Stdio;

    #[test]
    fn how_much_was_not_fetched_is_counted_beyond_what_is_listed() {
        let mut said = Said::default();
        (0..300).for_each(|n| said.take(format!("[hls @ 0x1] [warning] Failed to open segment {n} of playlist 0")));
        assert_eq!((said.not_fetched, said.not_fetched_lines.len()), (300, MAX_LISTED));
    }

    #[test]
    fn what_ffmpeg_says_is_progress_what_is_missing_or_an_error() {
        let mut said = Said::default();
        let lines = ["frame=30", "out_time_us=N/A", "out_time_us=1500000", "speed=   1x", "progress=end"];
        let messages = [
            "[hls @ 0x1] [warning] Failed to open segment 3 of playlist 0",
            "[hls @ 0x1] [warning] Failed to reload playlist 0",
            "[hls @ 0x1] [warning] a=b",
            "[error] it = broken",
        ];
        lines.into_iter().chain(messages).for_each(|line| said.take(line.to_owned()));
        assert_eq!(
            (said.media_us, said.not_fetched, &said.errors[..]),
            (1_500_000, 2, &["[error] it = broken".to_owned()][..])
        );
    }

    #[test]
    fn a_player_that_shows_nothing_is_ended_and_one_that_ends_is_not() {
        for (script, patience, why, pictures) in [
            ("printf 12345; exec sleep 1000", Duration::from_secs(5), Some("no picture for 5 s"), 2),
            ("printf 1234", Duration::from_secs(1000), None, 2),
        ] {
            let mut shell = Command::new("sh");
            let mut player = shell.args(["-c", script]).stdout(Stdio::piped()).spawn().expect("sh");
            let output = player.stdout.take().expect("a pipe");
            let player = Player::guarded(player, patience);
            let mut seen = 0;
            player.read(output, &mut [0; 2], |_| seen += 1);
            let (status, ended) = player.wait().expect("ended");
            assert_eq!((ended.as_deref(), status.success(), seen), (why, why.is_none(), pictures), "{script}");
        }
    }
}
