//! Load: many publishers of one clip on one thread, each message sent when it is due.
//!
//! All send the same clip, so that what is measured is the server. How late the generator itself was is
//! part of the report: a server cannot be blamed for that.

use crate::clip::Clip;
use crate::interrupted::is_interrupted;
use crate::rtmp_client::{Target, publish};
use anyhow::{Context, ensure};
use serde::Serialize;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::time::{Duration, Instant};

/// How often it writes: as an encoder of 30 frames a second does.
const TICK: Duration = Duration::from_millis(33);
/// Publishers begin one after the other within this time, so that not all send a key frame at once.
const STAGGER: Duration = Duration::from_secs(2);
/// A round of ticks in which each publisher's acknowledgements are read once.
const READ_EVERY: usize = 32;

/// Where in the clip publishers begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begin {
    /// All at its beginning.
    Together,
    /// At key frames spread over it: shows of different people have their quiet scenes and their busy ones at different
    /// times, and what a server holds for all does not go up and down with one clip.
    Apart,
}

/// What to do.
#[derive(Debug, Clone)]
pub struct Load {
    /// Where to publish; names get a number appended.
    pub url: String,
    /// What to publish.
    pub clip: PathBuf,
    /// How many publishers.
    pub streams: usize,
    /// For how long.
    pub duration: Duration,
    /// Where they begin.
    pub begin: Begin,
}

/// What came of it.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Publishers that were accepted.
    pub streams: usize,
    /// Seconds from the first message to the last.
    pub seconds: f64,
    /// Bytes sent by all.
    pub bytes: u64,
    /// Publishers that the server disconnected.
    pub disconnected: usize,
    /// Longest time a message was sent after it was due because this generator was late, milliseconds.
    pub generator_lag_ms: u64,
    /// Longest time a message waited because the server did not read, milliseconds. What the system's buffers took did not wait.
    pub server_lag_ms: u64,
}

struct Publisher {
    socket: TcpStream,
    /// Messages handed to `unsent` so far, over all rounds.
    next: usize,
    unsent: Vec<u8>,
    unsent_since: Option<Instant>,
    /// When it began.
    offset: Duration,
    /// Where in the clip, milliseconds.
    from_ms: u64,
}

/// Publishes until the time is over; calls `started` when all are accepted.
pub fn run(load: &Load, started: impl FnOnce()) -> anyhow::Result<Report> {
    let clip = Clip::read(&load.clip)?;
    let mut publishers = connect(load, &clip)?;
    let streams = publishers.len();
    started();
    let (begun, mut lag, mut server_lag, mut bytes) = (Instant::now(), Duration::ZERO, Duration::ZERO, 0);
    for tick in 0.. {
        let due = TICK * tick as u32;
        std::thread::sleep(due.saturating_sub(begun.elapsed()));
        let now = begun.elapsed();
        if now >= load.duration || is_interrupted() {
            break;
        }
        lag = lag.max(now.saturating_sub(due));
        publishers.retain_mut(|publisher| {
            publisher.hand_over(&clip, now);
            let sent = publisher.send();
            server_lag = server_lag.max(publisher.unsent_since.map_or(Duration::ZERO, |since| since.elapsed()));
            bytes += *sent.as_ref().unwrap_or(&0);
            sent.is_ok() && (tick % READ_EVERY != 0 || publisher.drain().is_ok())
        });
    }
    Ok(Report {
        streams,
        seconds: begun.elapsed().as_secs_f64(),
        bytes,
        disconnected: streams - publishers.len(),
        generator_lag_ms: lag.as_millis() as u64,
        server_lag_ms: server_lag.as_millis() as u64,
    })
}

fn connect(load: &Load, clip: &Clip) -> anyhow::Result<Vec<Publisher>> {
    let base = Target::parse(&load.url)?;
    let spread = STAGGER / load.streams.max(1) as u32;
    let first = |n: usize| match load.begin {
        Begin::Together => 0,
        Begin::Apart => clip.key_frames[n * clip.key_frames.len() / load.streams],
    };
    let publisher = |n: usize| {
        ensure!(!is_interrupted(), "interrupted when {n} of {} published", load.streams);
        let target = base.numbered(n);
        let mut socket = publish(&target).with_context(|| format!("publisher {n}, to {}", target.without_key()))?;
        socket.write_all(&clip.headers)?;
        socket.set_nonblocking(true)?;
        let (offset, next) = (spread * n as u32, first(n));
        let from_ms = clip.due_ms(next);
        anyhow::Ok(Publisher { socket, next, unsent: Vec::new(), unsent_since: None, offset, from_ms })
    };
    (0..load.streams).map(publisher).collect()
}

impl Publisher {
    /// Takes what is due by now, unless it has not sent what was due before.
    fn hand_over(&mut self, clip: &Clip, now: Duration) {
        if !self.unsent.is_empty() {
            return;
        }
        let now = self.from_ms + now.saturating_sub(self.offset).as_millis() as u64;
        let from = self.next;
        while clip.due_ms(self.next) <= now {
            self.next += 1;
            if self.next.is_multiple_of(clip.len()) {
                break;
            }
        }
        if self.next > from {
            self.unsent.extend_from_slice(clip.bytes(from, self.next));
        }
    }

    /// Sends what the server takes; how much that was.
    fn send(&mut self) -> std::io::Result<u64> {
        if self.unsent.is_empty() {
            return Ok(0);
        }
        let written = match self.socket.write(&self.unsent) {
            Err(error) if error.kind() == ErrorKind::WouldBlock => 0,
            written => written?,
        };
        self.unsent.drain(..written);
        self.unsent_since =
            if self.unsent.is_empty() { None } else { self.unsent_since.or_else(|| Some(Instant::now())) };
        Ok(written as u64)
    }

    /// Reads and forgets acknowledgements.
    fn drain(&mut self) -> std::io::Result<()> {
        let mut buffer = [0; 4096];
        match self.socket.read(&mut buffer) {
            Ok(0) => Err(ErrorKind::ConnectionReset.into()),
            Ok(_) => Ok(()),
            Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error),
        }
    }
}
