//! What a request costs a server: wrk asks, the server's processor time is counted.

use super::contender::Contender;
use super::ingest::Setting;
use super::machine::usage_of_tree;
use crate::load::{self, Begin, Load};
use anyhow::{Context, bail, ensure};
use serde::Serialize;
use std::process::Command;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

/// How long each kind of request is asked for.
const ASKING: Duration = Duration::from_secs(8);
/// How long a publisher may take to have a full window.
const PATIENCE: Duration = Duration::from_secs(30);
/// How often the playlist is looked at until it is full: so exactly it is known when the first segment was listed.
const POLL: Duration = Duration::from_millis(50);
/// Connections of wrk's one thread.
const CONNECTIONS: &str = "64";

/// Processor time a request, microseconds.
#[derive(Debug, Clone, Serialize)]
pub struct Web {
    /// Who.
    pub contender: String,
    /// Bytes of the segment.
    pub segment_bytes: usize,
    /// For the segment.
    pub segment_us: f64,
    /// Requests a second for it.
    pub segments_per_second: f64,
    /// For the live playlist.
    pub playlist_us: f64,
    /// Requests a second for it.
    pub playlists_per_second: f64,
    /// Seconds from the first sample until a segment was listed.
    pub first_segment: f64,
}

/// Measures with one publisher live.
pub fn measure(setting: Setting<'_>, contender: Contender) -> anyhow::Result<Web> {
    let server = contender.start(setting.program, setting.directory)?;
    let duration = 2 * ASKING + PATIENCE + Duration::from_secs(5);
    let load = Load {
        url: server.publish_url("web"),
        clip: setting.clip.to_owned(),
        streams: 1,
        duration,
        begin: Begin::Together,
    };
    let (started, starts) = sync_channel(1);
    // Ends by itself when the server does: nothing below waits for it.
    std::thread::spawn(move || load::run(&load, || _ = started.send(())));
    starts.recv().context("the publisher was not accepted")?;
    let playlist = server.playlist_url("web-0");
    let (begun, mut first_segment) = (Instant::now(), None);
    let newest = loop {
        let text = ureq::get(&playlist).call().ok().and_then(|mut response| response.body_mut().read_to_string().ok());
        let uris: Vec<String> = text
            .iter()
            .flat_map(|text| text.lines())
            .filter(|line| !line.starts_with('#'))
            .map(str::to_owned)
            .collect();
        if !uris.is_empty() {
            first_segment.get_or_insert(begun.elapsed().as_secs_f64());
        }
        if uris.len() >= 5 {
            break uris[uris.len() - 1].clone();
        }
        ensure!(begun.elapsed() < PATIENCE, "{contender}: no full playlist at {playlist}");
        std::thread::sleep(POLL);
    };
    let directory = playlist.rsplit_once('/').map_or("", |(directory, _)| directory);
    let segment = format!("{directory}/{newest}");
    let segment_bytes = ureq::get(&segment).call()?.body_mut().with_config().limit(64 << 20).read_to_vec()?.len();
    let (segment_us, segments_per_second) = ask(server.pid(), &segment)?;
    let (playlist_us, playlists_per_second) = ask(server.pid(), &playlist)?;
    let (contender, first_segment) = (contender.to_string(), first_segment.unwrap_or_default());
    Ok(Web {
        contender,
        segment_bytes,
        segment_us,
        segments_per_second,
        playlist_us,
        playlists_per_second,
        first_segment,
    })
}

/// Microseconds of the server for a request, and requests a second.
fn ask(pid: u32, url: &str) -> anyhow::Result<(f64, f64)> {
    let before = usage_of_tree(pid)?;
    let seconds = format!("-d{}s", ASKING.as_secs());
    let output = Command::new("wrk").args(["-t1", "-c", CONNECTIONS, &seconds, url]).output();
    let output = output.context("wrk is missing: run `make bench`, which installs it")?;
    let after = usage_of_tree(pid)?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if text.contains("Non-2xx") || text.contains("Socket errors") {
        bail!("{url} was not always answered: {text}");
    }
    let requests = text.lines().find_map(|line| line.trim().split_once(" requests in ")?.0.parse::<f64>().ok());
    let requests = requests.filter(|requests| *requests > 0.0).with_context(|| format!("wrk said: {text}"))?;
    Ok(((after.cpu - before.cpu).as_secs_f64() * 1e6 / requests, requests / ASKING.as_secs_f64()))
}
