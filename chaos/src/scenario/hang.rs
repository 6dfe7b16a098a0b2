//! Storage hangs for minutes while sessions are recorded: memory grows to the spools' bound and no further.

use super::report::{Outcome, Told};
use super::{Setting, clip};
use crate::bench::machine::usage_of_tree;
use crate::broken::Broken;
use crate::faultfs::{Effect, Mount, Rule};
use crate::load::{self, Begin, Load};
use crate::server::{Server, wait_for};
use std::time::{Duration, Instant};

/// Streams.
const STREAMS: usize = 50;
/// What each may hold for its recording, MiB.
const SPOOL_MIB: usize = 8;
/// The show before the fault: windows are full, and what expires does.
const BEFORE: Duration = Duration::from_secs(45);
/// Until every spool is full at 945 kbit/s, and memory has settled.
const FILLED: Duration = Duration::from_secs(110);
/// How often memory is looked at.
const LOOK: Duration = Duration::from_secs(5);
/// What memory may be above the spools' bound: what the allocator holds back, and windows that breathe.
const SLACK_MIB: u64 = 64;
/// What it may grow by once spools are full: windows that breathe.
const FLAT_MIB: u64 = 24;
/// From the end of the fault until storage is well again.
const HEALED: Duration = Duration::from_secs(60);

/// Hangs for so long.
pub fn run(setting: &Setting, hang: Duration) -> anyhow::Result<Outcome> {
    let directory = setting.directory.join(format!("hang-{}", crate::alone::number()));
    let [source, point] = ["source", "mount"].map(|name| directory.join(name));
    std::fs::create_dir_all(&source)?;
    std::fs::create_dir_all(&point)?;
    let runtime = crate::alone::memory("hang");
    let spool = SPOOL_MIB.to_string();
    let mount = Mount::new(&source, &point, setting.seed)?;
    let options = ["--record", "--spool", &spool, "--runtime-dir", &runtime, "--data"].map(str::to_owned);
    let options: Vec<_> = options.into_iter().chain([point.display().to_string()]).collect();
    let server = Server::start(&setting.program, &options)?;
    let duration = BEFORE + hang + HEALED;
    let load = Load {
        url: server.publish_url("live/show"),
        clip: clip(&setting.directory)?,
        streams: STREAMS,
        duration,
        begin: Begin::Together,
    };
    let publishing = std::thread::spawn(move || load::run(&load, || ()));
    // Memory is compared with that of a server whose windows are full, which takes this long.
    std::thread::sleep(BEFORE);
    let resident = || anyhow::Ok(usage_of_tree(server.pid())?.resident >> 20);
    let before = resident()?;
    mount.rules().set(vec![Rule::always(None, Effect::Hang)])?;
    let (begun, mut looks) = (Instant::now(), Vec::new());
    while begun.elapsed() < hang {
        // The pace of the looks.
        std::thread::sleep(LOOK);
        looks.push((begun.elapsed(), resident()?));
    }
    let spooled = server.metric("steadycast_stream_spool_bytes", "")? as u64 >> 20;
    mount.rules().set(Vec::new())?;
    let healed = wait_for("storage is well again", HEALED, || {
        server.metric("steadycast_storage_degraded", "").is_ok_and(|degraded| degraded == 0.0)
    });
    let published = publishing.join().map_err(|_| anyhow::anyhow!("the generator panicked"))??;
    let stuck = server.logged("stuck, another one takes its place");
    drop(server);
    drop(mount);
    for directory in [directory, runtime.into()] {
        let _ = std::fs::remove_dir_all(directory);
    }
    let seen =
        Seen { hang, before, looks, spooled, disconnected: published.disconnected, healed: healed.is_ok(), stuck };
    Ok(Outcome { told: vec![seen.told()], ..Outcome::default() })
}

/// What was seen.
struct Seen {
    hang: Duration,
    /// Resident memory before, MiB.
    before: u64,
    /// And meanwhile.
    looks: Vec<(Duration, u64)>,
    /// In spools at the end, MiB.
    spooled: u64,
    disconnected: usize,
    healed: bool,
    /// Actors that were found stuck: none may wait for storage.
    stuck: usize,
}

impl Seen {
    fn told(self) -> Told {
        let Self { hang, before, looks, spooled, disconnected, healed, stuck } = self;
        let peak = looks.iter().map(|(_, mib)| *mib).max().unwrap_or(0);
        let full: Vec<u64> = looks.iter().filter(|(at, _)| *at >= FILLED).map(|(_, mib)| *mib).collect();
        let growth = full.last().copied().unwrap_or(0).saturating_sub(full.first().copied().unwrap_or(0));
        let bound = before + (STREAMS * SPOOL_MIB) as u64 + SLACK_MIB;
        let mut broken = Vec::new();
        let mut check = |kept: bool, sentence: Broken| {
            if !kept {
                broken.push(sentence);
            }
        };
        check(peak <= bound, format!("memory reached {peak} MiB, the bound is {bound}").into());
        check(growth <= FLAT_MIB, format!("memory grew by {growth} MiB after spools were full").into());
        check(full.len() > 1, "the hang was over before spools were full: this proves nothing".into());
        let filled = (STREAMS * SPOOL_MIB) as u64 * 9 / 10;
        check(
            spooled >= filled,
            format!("spools held {spooled} MiB at the end, which proves nothing: {filled} were expected").into(),
        );
        check(disconnected == 0, format!("{disconnected} publishers were disconnected").into());
        check(stuck == 0, Broken::Late(format!("{stuck} actors were stuck")));
        check(healed, "storage did not become well again".into());
        let text = format!(
            "{STREAMS} streams of 945 kbit/s were recorded with a spool of {SPOOL_MIB} MiB each while every storage operation hung for {} s. Resident memory was {before} MiB before, {peak} MiB at most (the bound is what there was, the spools, and {SLACK_MIB} MiB), and grew by {growth} MiB from {} s on, when spools were full; they held {spooled} MiB at the end. Publishers disconnected: {}.",
            hang.as_secs(),
            FILLED.as_secs(),
            disconnected,
        );
        let figures = serde_json::json!({ "before_mib": before, "peak_mib": peak, "growth_mib": growth, "looks": looks
        .iter()
        .map(|(at, mib)| (at.as_secs(), *mib))
        .collect::<Vec<_>>() });
        Told { text, figures, broken }
    }
}
