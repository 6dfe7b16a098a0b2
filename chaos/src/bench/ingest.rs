//! What publishing costs a server: processor time and memory per stream.

use super::contender::{Contender, Running};
use super::machine::{Cores, Usage, usage_of_tree};
use crate::load::{self, Begin, Load};
use anyhow::{Context, bail};
use serde::Serialize;
use std::path::Path;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};

/// From the first sample until what is measured is steady: two GOPs are gathered, the window is filled, and
/// segments that left it expire, which takes half a minute with segments of two seconds.
pub const WARM_UP: Duration = Duration::from_secs(40);
/// A machine busier than this distorts what it measures.
const MAX_BUSY: f64 = 0.8;
/// How often memory is looked at after the time was measured: it breathes with segments that come and go.
const LOOKS: u32 = 10;
/// From look to look: half a segment, so that looks do not meet all segments at one age.
const LOOK: Duration = Duration::from_secs(1);
/// How long memory is looked at.
pub const LOOKING: Duration = LOOK.saturating_mul(LOOKS);
/// Void runs in a row after which the machine is not fit for it.
const MAX_VOID: usize = 5;

/// One run.
#[derive(Debug, Clone, Serialize)]
pub struct Ingest {
    /// Who.
    pub contender: String,
    /// Publishers.
    pub streams: usize,
    /// Milliseconds of processor time for one second of one stream.
    pub cpu_ms: f64,
    /// Resident memory of the process tree before the first publisher, bytes.
    pub resident_before: u64,
    /// And at the end of the run.
    pub resident: u64,
    /// Bytes of media that must be held: playlists' segments, expired ones, open ones. None if the server does not say.
    pub held: Option<u64>,
    /// Times its threads waited, for one second of one stream.
    pub waits: f64,
    /// Part of the time in which the machine's cores were busy.
    pub busy: f64,
    /// How late the generator was at worst.
    pub generator_lag_ms: u64,
    /// How long the server at worst left bytes unread.
    pub server_lag_ms: u64,
    /// Publishers it disconnected.
    pub disconnected: usize,
    /// Runs repeated because the machine was too busy.
    pub void: usize,
}

/// Where and what to measure.
#[derive(Debug, Clone, Copy)]
pub struct Setting<'a> {
    /// Our binary.
    pub program: &'a Path,
    /// Directory for the archives.
    pub directory: &'a Path,
    /// What is published.
    pub clip: &'a Path,
    /// How long each run measures.
    pub window: Duration,
}

/// Measures until a run is not void.
pub fn measure(setting: Setting<'_>, contender: Contender, streams: usize) -> anyhow::Result<Ingest> {
    for void in 0..MAX_VOID {
        let ingest =
            measure_once(setting, contender, streams).with_context(|| format!("{contender}, {streams} streams"))?;
        if ingest.busy <= MAX_BUSY {
            return Ok(Ingest { void, ..ingest });
        }
        eprintln!(
            "void: the machine was {:.0} % busy ({contender}, {streams} streams: {:.2} ms)",
            ingest.busy * 100.0,
            ingest.cpu_ms
        );
    }
    bail!("{contender}, {streams} streams: the machine was busier than {:.0} % in {MAX_VOID} runs", MAX_BUSY * 100.0)
}

fn measure_once(setting: Setting<'_>, contender: Contender, streams: usize) -> anyhow::Result<Ingest> {
    let server = contender.start(setting.program, setting.directory)?;
    let before = usage_of_tree(server.pid())?;
    let load = Load {
        url: server.publish_url("load"),
        clip: setting.clip.to_owned(),
        streams,
        duration: WARM_UP + setting.window + LOOK * LOOKS + Duration::from_secs(5),
        begin: Begin::Apart,
    };
    let (started, starts) = sync_channel(1);
    let generator = std::thread::spawn(move || load::run(&load, || _ = started.send(())));
    if starts.recv().is_err() {
        generator.join().map_err(|_| anyhow::anyhow!("the generator panicked"))??;
        bail!("the generator ended before it began");
    }
    std::thread::sleep(WARM_UP);
    let (from, usage, cores) = (Instant::now(), usage_of_tree(server.pid())?, Cores::now()?);
    std::thread::sleep(setting.window);
    let (after, busy, seconds) =
        (usage_of_tree(server.pid())?, Cores::now()?.busy_since(cores), from.elapsed().as_secs_f64());
    let (resident, held) = memory(contender, &server)?;
    anyhow::ensure!(!generator.is_finished(), "the publishers ended while memory was looked at");
    let report = generator.join().map_err(|_| anyhow::anyhow!("the generator panicked"))??;
    let per = |value: f64| value / seconds / streams as f64;
    let Usage { cpu, waits, .. } = after;
    Ok(Ingest {
        contender: contender.to_string(),
        streams,
        cpu_ms: per((cpu - usage.cpu).as_secs_f64() * 1000.0),
        resident_before: before.resident,
        resident,
        held,
        waits: per((waits - usage.waits) as f64),
        busy,
        generator_lag_ms: report.generator_lag_ms,
        server_lag_ms: report.server_lag_ms,
        disconnected: report.disconnected,
        void: 0,
    })
}

/// Resident bytes, and those that are held for viewers, in the mean of some looks.
fn memory(contender: Contender, server: &Running) -> anyhow::Result<(u64, Option<u64>)> {
    let (mut resident, mut held) = (0, None);
    for _ in 0..LOOKS {
        // The looks are spread over time on purpose: what is measured goes on meanwhile.
        std::thread::sleep(LOOK);
        resident += usage_of_tree(server.pid())?.resident;
        held = held_bytes(contender, server)?.map(|bytes| bytes + held.unwrap_or(0));
    }
    Ok((resident / u64::from(LOOKS), held.map(|sum| sum / u64::from(LOOKS))))
}

/// What our server says it holds for viewers: `steadycast_stream_held_bytes`.
fn held_bytes(contender: Contender, server: &Running) -> anyhow::Result<Option<u64>> {
    if contender == Contender::NginxRtmp {
        return Ok(None);
    }
    let metrics =
        ureq::get(&server.url("/metrics")).call()?.body_mut().with_config().limit(64 << 20).read_to_string()?;
    let values = metrics.lines().filter(|line| line.starts_with("steadycast_stream_held_bytes{"));
    let sum: f64 = values.filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok()).sum();
    anyhow::ensure!(sum > 0.0, "/metrics does not say how much is held");
    Ok(Some(sum as u64))
}
