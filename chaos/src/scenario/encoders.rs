//! Encoders die in every way they do, and come back; two fight for a key; one comes and goes.

use super::asking::Asking;
use super::judge::Answers;
use super::report::{Outcome, Told};
use super::stage::start;
use super::witness::{Pictures, Witness};
use super::{Setting, clip};
use crate::audit::finding::Finding;
use crate::bench::machine::usage_of_tree;
use crate::broken::Broken;
use crate::clip::Clip;
use crate::encoder::Encoder;
use crate::rtmp_client::Target;
use crate::server::{Server, get, wait_for};
use anyhow::Context;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

/// Encoders that die at the same time.
const SIDE_BY_SIDE: usize = 25;
/// From the publish of an encoder whose predecessor is dead to its acceptance, in 99 of 100 tries.
const ADMITTED: Duration = Duration::from_millis(3500);
/// From a stream's first sample until it is listed, at most.
const LISTED: Duration = Duration::from_secs(20);
/// Those that try to take a stream from its holder, at a time: as many as may wait for one, so that each is held.
const FIGHTERS: usize = 8;
/// The API's 99th percentile while encoders come and go.
const MAX_API: Duration = Duration::from_millis(10);
/// Resident memory after they came and went, beyond what it was before.
const MAX_GROWTH_MIB: u64 = 5;

/// How an encoder dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Death {
    Killed,
    Frozen,
    OnlyAcknowledges,
    CutOff,
}

impl Death {
    const ALL: [Self; 4] = [Self::Killed, Self::Frozen, Self::OnlyAcknowledges, Self::CutOff];

    fn label(self) -> &'static str {
        match self {
            Death::Killed => "killed (the kernel sends FIN)",
            Death::Frozen => "frozen (its connection stays open)",
            Death::OnlyAcknowledges => "sends acknowledgements and no media",
            Death::CutOff => "cut off without FIN (packet filter)",
        }
    }
}

/// Encoders die, and others ask for their streams at once; so many tries for each way to die.
pub fn deaths(setting: &Setting, tries: usize) -> anyhow::Result<Outcome> {
    let clip = Arc::new(Clip::read(&clip(&setting.directory)?)?);
    let mut outcome = Outcome::default();
    for death in Death::ALL {
        let (server, _removed) = start(setting, "deaths", &[])?;
        let mut broken: Vec<Broken> = Vec::new();
        let mut times = Vec::new();
        while times.len() + broken.len() < tries {
            let count = SIDE_BY_SIDE.min(tries - times.len() - broken.len());
            for came in die_and_return(&server, &clip, death, count)? {
                match came {
                    Ok(time) => times.push(time),
                    Err(error) => broken.push(format!("{}: {error:#}", death.label()).into()),
                }
            }
        }
        times.sort_unstable();
        let p99 = times.get(times.len() * 99 / 100).or(times.last()).copied().unwrap_or_default();
        if p99 > ADMITTED {
            let sentence = format!("{}: the 99th percentile is {:.1} s", death.label(), p99.as_secs_f64());
            broken.push(Broken::Late(sentence));
        }
        let (median, longest) = (times.get(times.len() / 2), times.last());
        let seconds = |time: Option<&Duration>| time.copied().unwrap_or_default().as_secs_f64();
        let text = format!(
            "The old encoder: {}. Of {tries} that asked for its stream at once, {} were accepted, after {:.2} s in the middle, {:.2} s at the 99th percentile, {:.2} s at most (3.5 s are promised, and no refusal).",
            death.label(),
            times.len(),
            seconds(median),
            p99.as_secs_f64(),
            seconds(longest),
        );
        let figures = json!({ "tries": tries, "accepted": times.len(), "p99_s": p99.as_secs_f64() });
        outcome.told.push(Told { text, figures, broken });
    }
    Ok(outcome)
}

/// From the publish of each second encoder to its acceptance.
fn die_and_return(
    server: &Server,
    clip: &Arc<Clip>,
    death: Death,
    count: usize,
) -> anyhow::Result<Vec<anyhow::Result<Duration>>> {
    static ROUND: AtomicUsize = AtomicUsize::new(0);
    let round = ROUND.fetch_add(1, Ordering::Relaxed);
    let target = |n: usize| Target::parse(&server.publish_url(&format!("live/show{round}-{n}")));
    let targets = (0..count).map(target).collect::<anyhow::Result<Vec<_>>>()?;
    let first = targets.iter().map(|target| Encoder::publish(target, clip)).collect::<anyhow::Result<Vec<_>>>()?;
    let last = server.url(&format!("/{}/{}/0.m3u8", targets[count - 1].app, targets[count - 1].name));
    wait_for("the shows are listed", LISTED, || get(&last).is_ok())?;
    let before = sessions(server)?;
    let filter = match death {
        Death::CutOff => Some(Filter::cutting(first.iter().map(|encoder| encoder.port))?),
        Death::Killed | Death::Frozen | Death::OnlyAcknowledges => None,
    };
    let returning: Vec<_> = targets
        .iter()
        .zip(first)
        .map(|(target, first)| {
            let (target, clip) = (target.clone(), clip.clone());
            std::thread::spawn(move || {
                let kept = match death {
                    Death::Killed | Death::CutOff => {
                        drop(first);
                        None
                    }
                    Death::Frozen => {
                        first.freeze();
                        Some(first)
                    }
                    Death::OnlyAcknowledges => {
                        first.only_acknowledge();
                        Some(first)
                    }
                };
                let second = Encoder::publish(&target, &clip)?;
                drop(kept);
                anyhow::Ok((second.took, second))
            })
        })
        .collect();
    let mut came = Vec::new();
    for returned in returning {
        came.push(returned.join().map_err(|_| anyhow::anyhow!("an encoder panicked"))?);
    }
    let after = sessions(server)?;
    drop(filter);
    let same = targets.iter().all(|target| {
        let name = format!("{}/{}", target.app, target.name);
        before.contains_key(&name) && before.get(&name) == after.get(&name)
    });
    anyhow::ensure!(same, "{}: a session is another than before", death.label());
    Ok(came.into_iter().map(|came| came.map(|(took, _encoder)| took)).collect())
}

fn sessions(server: &Server) -> anyhow::Result<BTreeMap<String, String>> {
    let answer: Value = serde_json::from_slice(&get(&server.url("/api/v1/streams"))?)?;
    let streams = answer["streams"].as_array().context("streams")?;
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    Ok(streams.iter().map(|stream| (text(&stream["name"]), text(&stream["session"]))).collect())
}

/// A packet filter that drops everything from and to some ports of this machine. Dropped, it is removed.
struct Filter(String);

impl Filter {
    fn cutting(ports: impl Iterator<Item = u16>) -> anyhow::Result<Self> {
        let table = crate::alone::filter();
        let ports = ports.map(|port| port.to_string()).collect::<Vec<_>>().join(", ");
        let rules = format!(
            "table inet {table} {{\nset cut {{ type inet_service; elements = {{ {ports} }}; }}\nchain input {{\ntype filter hook input priority 0;\ntcp sport @cut drop\ntcp dport @cut drop\n}}\n}}\n"
        );
        let mut nft =
            Command::new("nft").args(["-f", "-"]).stdin(Stdio::piped()).spawn().context("nft: run `make tools`")?;
        nft.stdin.take().context("its input")?.write_all(rules.as_bytes())?;
        anyhow::ensure!(nft.wait()?.success(), "the packet filter could not be set; this needs root");
        Ok(Self(table))
    }
}

impl Drop for Filter {
    fn drop(&mut self) {
        let _ = Command::new("nft").args(["delete", "table", "inet", &self.0]).status();
    }
}

/// So many try to take the stream of a healthy encoder.
pub fn fight(setting: &Setting, attempts: usize) -> anyhow::Result<Outcome> {
    let file = clip(&setting.directory)?;
    let (known, clip) = (Arc::new(Pictures::of(&std::fs::read(&file)?)?), Arc::new(Clip::read(&file)?));
    let (server, _removed) = start(setting, "fight", &[])?;
    let target = Target::parse(&server.publish_url("live/show"))?;
    let holder = Encoder::publish(&target, &clip)?;
    let url = server.url("/live/show/0.m3u8");
    wait_for(&url, LISTED, || get(&url).is_ok())?;
    // As long as a round of the clip lasts at most, so that no picture comes twice.
    let watched =
        Duration::from_secs(attempts as u64 / FIGHTERS as u64).clamp(Duration::from_secs(10), Duration::from_secs(100));
    let witness = Witness::follow(url, watched, known);
    let left = Arc::new(AtomicUsize::new(attempts));
    let begun = Instant::now();
    let fighters: Vec<_> = (0..FIGHTERS)
        .map(|_| {
            let (left, target, clip) = (left.clone(), target.clone(), clip.clone());
            std::thread::spawn(move || {
                let mut won = 0;
                while left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1)).is_ok() {
                    won += usize::from(Encoder::publish(&target, &clip).is_ok());
                }
                won
            })
        })
        .collect();
    let won: usize = fighters.into_iter().map(|fighter| fighter.join().unwrap_or(1)).sum();
    let took = begun.elapsed();
    let testimony = witness.finish()?;
    let mut broken: Vec<Broken> = Vec::new();
    let mut check = |kept: bool, sentence: String| broken.extend((!kept).then(|| sentence.into()));
    check(won == 0, format!("{won} of {attempts} took the stream from an encoder that sends"));
    check(!holder.is_lost(), "the holder lost its connection".to_owned());
    let order = testimony.order;
    check(order.pictures > 0 && order.missing + order.repeated + order.unknown == 0, format!("{order:?}"));
    broken.extend(testimony.report.findings.iter().map(Finding::broken));
    let text = format!(
        "{attempts} attempts to publish on the key of a healthy encoder, {FIGHTERS} at a time, in {:.0} s: all refused; of its {} pictures {} are missing and {} repeated.",
        took.as_secs_f64(),
        order.pictures,
        order.missing,
        order.repeated
    );
    let figures = json!({ "attempts": attempts, "won": won, "pictures": order.pictures, "missing": order.missing });
    Ok(Outcome { told: vec![Told { text, figures, broken }], ..Outcome::default() })
}

/// An encoder is killed and comes back, again and again.
pub fn flap(setting: &Setting, cycles: usize, within: Duration) -> anyhow::Result<Outcome> {
    let clip = Arc::new(Clip::read(&clip(&setting.directory)?)?);
    let (server, _removed) = start(setting, "flap", &[])?;
    let target = Target::parse(&server.publish_url("live/show"))?;
    let descriptors = || std::fs::read_dir(format!("/proc/{}/fd", server.pid())).map_or(0, Iterator::count);
    let resident = || anyhow::Ok(usage_of_tree(server.pid())?.resident >> 20);
    // Compared are two moments in which the window is full of ordinary segments.
    let settled = |before: u64| {
        wait_for("a full window", 3 * LISTED, || {
            server.metric("steadycast_stream_segments_published_total", "live/show").unwrap_or(0.0) as u64 > before + 12
        })
    };
    let holder = Encoder::publish(&target, &clip)?;
    settled(0)?;
    let (fds, memory) = (descriptors(), resident()?);
    drop(holder);
    let asking = Asking::start(&server);
    let (begun, mut refused, mut longest) = (Instant::now(), Vec::new(), Duration::ZERO);
    for cycle in 0..cycles {
        match Encoder::publish(&target, &clip) {
            Ok(encoder) => {
                longest = longest.max(encoder.took);
                let next = within.mul_f64((cycle + 1) as f64 / cycles as f64);
                // It publishes until its next death is due.
                std::thread::sleep(next.saturating_sub(begun.elapsed()));
            }
            Err(error) => refused.push(format!("cycle {cycle}: {error:#}")),
        }
    }
    let took = begun.elapsed();
    let answers = asking.stop();
    let holder = Encoder::publish(&target, &clip)?;
    let published = server.metric("steadycast_stream_segments_published_total", "live/show")? as u64;
    settled(published)?;
    let (fds_after, memory_after) = (descriptors(), resident()?);
    let mut broken: Vec<Broken> = refused.into_iter().map(Broken::from).collect();
    let mut check = |kept: bool, sentence: Broken| broken.extend((!kept).then_some(sentence));
    check(took <= within + Duration::from_secs(10), Broken::Late(format!("it took {:.0} s", took.as_secs_f64())));
    check(fds_after <= fds + 1, format!("{fds} descriptors before, {fds_after} after").into());
    check(memory_after <= memory + MAX_GROWTH_MIB, format!("{memory} MiB before, {memory_after} after").into());
    check(
        answers.p99_ms <= MAX_API.as_secs_f64() * 1000.0,
        Broken::Late(format!("health and metrics: p99 {:.1} ms", answers.p99_ms)),
    );
    check(answers.failed == 0, format!("{} of {} questions failed", answers.failed, answers.asked).into());
    drop(holder);
    let Answers { asked, p99_ms, raw_p99_ms, .. } = answers;
    let text = format!(
        "{cycles} times an encoder was killed and came back, in {:.0} s: none refused, accepted after {:.2} s at most; `/healthz` and `/metrics` were asked {asked} times with a p99 of {p99_ms:.1} ms ({raw_p99_ms:.1} with standstill of the machine); descriptors {fds} before and {fds_after} after, resident memory {memory} and {memory_after} MiB.",
        took.as_secs_f64(),
        longest.as_secs_f64(),
    );
    let figures = json!({ "cycles": cycles, "longest_s": longest.as_secs_f64(), "p99_ms": p99_ms, "memory_mib": [memory, memory_after] });
    Ok(Outcome { told: vec![Told { text, figures, broken }], ..Outcome::default() })
}
