//! A monkey: faults of every kind at random, by a seed, for some minutes. Afterwards everything must be well again, and
//! nothing may ever have been what no fault excuses.

use super::chance::Chance;
use super::report::{Outcome, Told};
use super::stage::start_supervised;
use super::viewer::Viewer;
use super::{Setting, clip};
use crate::bench::machine::usage_of_tree;
use crate::broken::Broken;
use crate::clip::Clip;
use crate::encoder::Encoder;
use crate::faultfs::{Effect, Mount, Operation, Rule};
use crate::rtmp_client::Target;
use crate::server::{Server, wait_for};
use anyhow::Context;
use rustix::io::Errno;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// How long an encoder that is not told otherwise waits before it connects again.
const RETRY: Duration = Duration::from_millis(500);
/// Between two faults, at most.
const PAUSE: Duration = Duration::from_secs(2);
/// From the last fault until everything is well again.
const WELL: Duration = Duration::from_secs(60);
/// What is done to actors.
const BLOWS: [&str; 4] = ["panic", "error", "kill", "block"];
/// For how long a handler is blocked.
const BLOCK: Duration = Duration::from_secs(7);
/// How many streams are followed.
const VIEWERS: usize = 4;
/// An encoder whose place is not held by a live one is accepted within this; a restart of the worker included.
const ACCEPTED: Duration = Duration::from_secs(12);
/// One that is not within this is not late but refused: no machine stands still for so long.
const REFUSED: Duration = Duration::from_secs(36);
/// Memory is looked at this often, ...
const LOOK: Duration = Duration::from_secs(10);
/// ... and may grow by so much in an hour over the last third of the time.
const MAX_SLOPE_MIB: f64 = 2.0;

/// How long, how wide, and whether memory is judged.
#[derive(Debug, Clone, Copy)]
pub struct Plan {
    /// Minutes.
    pub minutes: u64,
    /// Streams.
    pub streams: usize,
    /// The worker is killed now and then; not where memory is judged.
    pub kills: bool,
}

/// What an encoder is told to do next.
const GO_ON: u64 = 0;
const DIE: u64 = 1;
const FREEZE: u64 = 2;

/// Encoders that die when they are told, and come back.
struct Herd {
    stop: Arc<AtomicBool>,
    orders: Vec<Arc<AtomicU64>>,
    late: Arc<Mutex<Vec<Broken>>>,
    threads: Vec<JoinHandle<()>>,
}

impl Herd {
    fn publish(server: &Server, clip: &Arc<Clip>, streams: usize) -> anyhow::Result<Self> {
        let mut herd = Self { stop: Arc::default(), orders: Vec::new(), late: Arc::default(), threads: Vec::new() };
        for number in 0..streams {
            let target = Target::parse(&server.publish_url(&format!("live/show-{number}")))?;
            let order = Arc::new(AtomicU64::new(GO_ON));
            herd.orders.push(order.clone());
            let (stop, late, clip) = (herd.stop.clone(), herd.late.clone(), clip.clone());
            herd.threads.push(std::thread::spawn(move || live(&target, &clip, &order, &stop, &late)));
        }
        Ok(herd)
    }

    fn stop(self) -> Vec<Broken> {
        self.stop.store(true, Ordering::Release);
        self.threads.into_iter().for_each(|thread| drop(thread.join()));
        std::mem::take(&mut *self.late.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// One encoder's lives. A frozen one stays connected until its successor has been accepted.
fn live(target: &Target, clip: &Arc<Clip>, order: &AtomicU64, stop: &AtomicBool, late: &Mutex<Vec<Broken>>) {
    let (mut encoder, mut away, mut frozen) = (None::<Encoder>, None::<Instant>, None::<Encoder>);
    while !stop.load(Ordering::Acquire) {
        // The pace at which it looks after itself.
        std::thread::sleep(RETRY);
        match order.swap(GO_ON, Ordering::AcqRel) {
            DIE => encoder = None,
            FREEZE => {
                if let Some(held) = encoder.take() {
                    held.freeze();
                    frozen = Some(held);
                }
            }
            _ => {}
        }
        if encoder.as_ref().is_some_and(|encoder| !encoder.is_lost()) {
            continue;
        }
        let since = *away.get_or_insert_with(Instant::now);
        let came = Encoder::publish(target, clip);
        if since.elapsed() > ACCEPTED {
            let (seconds, error) = (since.elapsed().as_secs_f64(), came.as_ref().err().map(ToString::to_string));
            let mut late = late.lock().unwrap_or_else(PoisonError::into_inner);
            let sentence = format!("{} was not accepted for {seconds:.0} s: {error:?}", target.name);
            late.push(if since.elapsed() > REFUSED { Broken::Wrong(sentence) } else { Broken::Late(sentence) });
        }
        if let Ok(next) = came {
            (encoder, away, frozen) = (Some(next), None, None);
        }
    }
    drop(frozen);
}

/// Runs it.
pub fn run(setting: &Setting, plan: Plan) -> anyhow::Result<Outcome> {
    let clip = Arc::new(Clip::read(&clip(&setting.directory)?)?);
    let directory = setting.directory.join(format!("monkey-mount-{}", crate::alone::number()));
    let [source, point] = ["source", "mount"].map(|name| directory.join(name));
    std::fs::create_dir_all(&source)?;
    std::fs::create_dir_all(&point)?;
    let mount = Mount::new(&source, &point, setting.seed)?;
    let archive = format!("live={}", point.display());
    let (server, _removed) = start_supervised(setting, "monkey", &["--grace", "60", "--archive", &archive])?;
    let herd = Herd::publish(&server, &clip, plan.streams)?;
    let url = |n: usize| server.url(&format!("/live/show-{n}/0.m3u8"));
    let viewers: Vec<_> = (0..VIEWERS.min(plan.streams)).map(|n| Viewer::start(url(n))).collect();
    wait_for("segments", WELL, || viewers.iter().all(|viewer| viewer.segments() >= 3))?;
    let mut came = Came::default();
    let begun = Instant::now();
    let mut chance = Chance::of(setting.seed);
    while begun.elapsed() < Duration::from_secs(60 * plan.minutes) {
        came.fault(&server, &mount, &herd, &mut chance, plan)?;
        // The pause is chance's, and what makes a minute hold so many faults.
        std::thread::sleep(PAUSE.mul_f64(chance.share()));
        mount.rules().set(Vec::new())?;
        came.weigh(&server, begun.elapsed())?;
    }
    let seen: Vec<_> = viewers.iter().map(Viewer::segments).collect();
    let well = wait_for("everything is well again", WELL, || {
        let moves = viewers.iter().zip(&seen).all(|(viewer, seen)| viewer.segments() >= seen + 5);
        let healthy = ureq::get(&server.health_url("/healthz")).call().is_ok();
        let present = server.metric("steadycast_stream_publisher_present", "").unwrap_or(0.0);
        moves && healthy && present as usize == plan.streams
    });
    came.broken.extend(well.err().map(|error| Broken::Wrong(error.to_string())));
    came.broken.extend(herd.stop().into_iter().take(5));
    came.count_workers(&server, plan)?;
    for viewer in viewers {
        let seen = viewer.stop();
        came.broken.extend(seen.broken);
        came.segments += seen.bytes.len();
        came.gaps += seen.gaps.len();
        came.discontinuities += seen.discontinuities;
    }
    drop(server);
    drop(mount);
    let _ = std::fs::remove_dir_all(directory);
    came.told(setting.seed, plan)
}

/// What came of it.
#[derive(Debug, Default)]
struct Came {
    faults: BTreeMap<&'static str, usize>,
    /// Seconds and MiB.
    memory: Vec<(f64, f64)>,
    segments: usize,
    gaps: usize,
    discontinuities: u64,
    /// When a thread was last blocked.
    blocked: Option<Instant>,
    broken: Vec<Broken>,
}

impl Came {
    /// One fault.
    fn fault(
        &mut self,
        server: &Server,
        mount: &Mount,
        herd: &Herd,
        chance: &mut Chance,
        plan: Plan,
    ) -> anyhow::Result<()> {
        const CHILDREN: [&str; 5] = ["segmenter", "archiver", "watcher", "publisher_lock", "session"];
        const SHARED: [&str; 3] = ["rtmp_listener", "storage_probe", "retention"];
        const OPERATIONS: [Operation; 6] = [
            Operation::Write,
            Operation::Create,
            Operation::Rename,
            Operation::Lookup,
            Operation::Open,
            Operation::Unlink,
        ];
        const ERRNOS: [Errno; 4] = [Errno::IO, Errno::NOSPC, Errno::ROFS, Errno::STALE];
        let stream = chance.below(plan.streams);
        let kind = match chance.below(if plan.kills { 20 } else { 19 }) {
            0..=6 => {
                let (child, blow) = (CHILDREN[chance.below(5)], self.blow(chance, plan));
                let time = BLOCK.as_millis();
                strike(server, &format!("stream=live/show-{stream}&child={child}&blow={blow}&milliseconds={time}"));
                "an actor of a stream"
            }
            7..=8 => {
                let (child, blow) = (SHARED[chance.below(3)], BLOWS[chance.below(3)]);
                strike(server, &format!("child={child}&blow={blow}"));
                "an actor that all share"
            }
            9..=12 => {
                herd.orders[stream].store(DIE, Ordering::Release);
                "an encoder killed"
            }
            13..=14 => {
                herd.orders[stream].store(FREEZE, Ordering::Release);
                "an encoder frozen"
            }
            15..=17 => {
                let errno = ERRNOS[chance.below(4)].raw_os_error();
                let rule = Rule::always(Some(OPERATIONS[chance.below(6)]), Effect::Errno(errno));
                mount.rules().set(vec![rule])?;
                "storage errors"
            }
            18 => {
                mount.rules().set(vec![Rule::always(None, Effect::Hang)])?;
                "storage hangs"
            }
            _ => {
                let worker: Pid = server.worker().context("the worker")?;
                kill_process(worker, Signal::KILL)?;
                "the worker killed"
            }
        };
        *self.faults.entry(kind).or_default() += 1;
        Ok(())
    }

    /// What is done to an actor of a stream.
    fn blow(&mut self, chance: &mut Chance, plan: Plan) -> &'static str {
        let blow = BLOWS[chance.below(BLOWS.len())];
        if blow != "block" {
            return blow;
        }
        // Where memory is judged, the runtime is not to be left without a thread.
        if !plan.kills && self.blocked.is_some_and(|at| at.elapsed() < BLOCK) {
            return "panic";
        }
        self.blocked = Some(Instant::now());
        blow
    }

    /// Whether the worker was started again for no other reason than a kill, or because it had no thread left: then it
    /// has said so.
    fn count_workers(&mut self, server: &Server, plan: Plan) -> anyhow::Result<()> {
        let restarts = server.metric("steadycast_worker_restarts_total", "")? as usize;
        let killed = self.faults.get("the worker killed").copied().unwrap_or(0);
        // Where memory is judged, one that begins anew would hide what it judges.
        let wedged = if plan.kills { server.logged("no progress, ending the process") } else { 0 };
        if restarts > killed + wedged {
            let sentence =
                format!("the worker was started again {restarts} times: {killed} kills, {wedged} last words");
            self.broken.push(sentence.into());
        }
        Ok(())
    }

    fn weigh(&mut self, server: &Server, since: Duration) -> anyhow::Result<()> {
        let now = since.as_secs_f64();
        if self.memory.last().is_none_or(|(last, _)| now - last >= LOOK.as_secs_f64()) {
            self.memory.push((now, (usage_of_tree(server.pid())?.resident >> 10) as f64 / 1024.0));
        }
        Ok(())
    }

    fn told(mut self, seed: u64, plan: Plan) -> anyhow::Result<Outcome> {
        let faults = self.faults.iter().map(|(kind, count)| format!("{kind} {count}")).collect::<Vec<_>>().join(", ");
        let from = self.memory.len() * 2 / 3;
        let slope = slope(&self.memory[from..]) * 3600.0;
        let (first, last) = (self.memory.first().map_or(0.0, |m| m.1), self.memory.last().map_or(0.0, |m| m.1));
        let mut text = format!(
            "Seed {seed}, {} streams, {} minutes, faults: {faults}. Afterwards every stream was published and moved, and health was well; {} segments were fetched again and again by {VIEWERS} viewers, with {} gaps and {} discontinuities, and none changed.",
            plan.streams, plan.minutes, self.segments, self.gaps, self.discontinuities
        );
        if !plan.kills {
            text.push_str(&format!(
                " Resident memory was {first:.0} MiB at the start and {last:.0} at the end; over the last third of the time its slope was {slope:.1} MiB an hour."
            ));
            if slope > MAX_SLOPE_MIB {
                self.broken.push(format!("memory grows by {slope:.1} MiB an hour").into());
            }
        }
        let figures =
            json!({ "faults": self.faults, "slope_mib_h": slope, "segments": self.segments, "gaps": self.gaps });
        Ok(Outcome { told: vec![Told { text, figures, broken: self.broken }], ..Outcome::default() })
    }
}

/// A worker that is just being started is not to be hit: then there is nobody to take the blow.
fn strike(server: &Server, query: &str) {
    let _ = ureq::post(&server.health_url(&format!("/chaos/v1/strike?{query}"))).send_empty();
}

/// Least squares: what `y` grows by with each `x`.
fn slope(points: &[(f64, f64)]) -> f64 {
    let n = points.len() as f64;
    let mean = |pick: fn(&(f64, f64)) -> f64| points.iter().map(pick).sum::<f64>() / n.max(1.0);
    let (x, y) = (mean(|point| point.0), mean(|point| point.1));
    let both: f64 = points.iter().map(|point| (point.0 - x) * (point.1 - y)).sum();
    let own: f64 = points.iter().map(|point| (point.0 - x).powi(2)).sum();
    if own > 0.0 { both / own } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_grows_steadily_has_that_slope_whatever_it_starts_from() {
        let points: Vec<_> = (0..10).map(|n| (f64::from(n), 100.0 + 0.5 * f64::from(n))).collect();
        assert!((slope(&points) - 0.5).abs() < 1e-9);
        assert_eq!(slope(&[]), 0.0);
    }
}
