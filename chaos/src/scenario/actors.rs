//! Every actor of a stream's tree fails, in every way, while it publishes.

use super::chance::Chance;
use super::judge::Observed;
use super::report::{Outcome, Row, Told};
use super::stage::start;
use super::viewer::Viewer;
use super::witness::{Pictures, Witness};
use super::{Setting, clip};
use crate::broken::Broken;
use crate::clip::Clip;
use crate::encoder::Encoder;
use crate::load::{self, Begin, Load};
use crate::rtmp_client::Target;
use crate::server::{Server, get, wait_for};
use serde_json::json;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Actors of a stream's tree that must be able to fail without a trace.
const CHILDREN: [&str; 5] = ["segmenter", "archiver", "recorder", "watcher", "publisher_lock"];
/// Actors that all streams share; `streams` is not among them: with it go all sessions.
const SHARED: [&str; 3] = ["rtmp_listener", "storage_probe", "retention"];
/// Ways to end an actor at once.
const WAYS: [&str; 3] = ["panic", "error", "kill"];
/// How often each is dealt.
const TIMES: usize = 3;
/// It is killed, and does not start a few times; ...
const STILLBORN: &str = "stillborn";
/// ... so often, as restarts in a minute must not be too many.
const TIMES_STILLBORN: usize = 2;
/// Starts that fail then.
const FAILED_STARTS: u64 = 3;
/// For how long a handler blocks its thread: longer than it takes to be replaced.
const BLOCK: Duration = Duration::from_secs(8);
/// From a stream's first sample until it is listed, at most.
const LISTED: Duration = Duration::from_secs(30);
/// The show before the first blow, and after the last one.
const AROUND: Duration = Duration::from_secs(6);
/// Between two blows on one stream, at most.
const SPREAD: Duration = Duration::from_secs(3);
/// Target duration of the server's segments.
const TARGET: Duration = Duration::from_secs(2);
/// From the failure of a session to its encoder's next acceptance.
const ACCEPTED: Duration = Duration::from_secs(1);
/// The same, where the session blocks its thread: until it is found stuck.
const ACCEPTED_STUCK: Duration = Duration::from_secs(7);

/// Deals every blow: those that end an actor at once to all of them, blocks one after the other.
pub fn run(setting: &Setting) -> anyhow::Result<Outcome> {
    let mut outcome = at_once(setting)?;
    outcome.add(blocked(setting)?);
    outcome.add(sessions(setting)?);
    Ok(outcome)
}

/// A part of it that is over soon.
pub fn short(setting: &Setting) -> anyhow::Result<Outcome> {
    let mut blows = ["segmenter", "publisher_lock"].map(|child| (child.to_owned(), vec!["panic", "kill"])).to_vec();
    blows.push(("segmenter".to_owned(), vec![STILLBORN]));
    let mut outcome = play(setting, &blows, Duration::from_secs(4), |server| deal(server, setting.seed, &blows))?;
    outcome.add(sessions(setting)?);
    Ok(outcome)
}

fn at_once(setting: &Setting) -> anyhow::Result<Outcome> {
    let blows: Vec<_> = CHILDREN
        .iter()
        .flat_map(|child| {
            let stillborn = ((*child).to_owned(), vec![STILLBORN; TIMES_STILLBORN]);
            WAYS.map(|way| ((*child).to_owned(), vec![way; TIMES])).into_iter().chain([stillborn])
        })
        .chain([("none".to_owned(), Vec::new())])
        .collect();
    let time = SPREAD * TIMES as u32;
    play(setting, &blows, time, |server| deal(server, setting.seed, &blows))
}

/// One block after the other: each takes a thread of the runtime, of which there are few.
fn blocked(setting: &Setting) -> anyhow::Result<Outcome> {
    let blows: Vec<_> = CHILDREN.iter().map(|child| ((*child).to_owned(), vec!["block"])).collect();
    let time = (BLOCK + Duration::from_secs(1)) * CHILDREN.len() as u32;
    play(setting, &blows, time, |server| {
        for (number, (child, _)) in blows.iter().enumerate() {
            strike(server, Some(number), child, "block")?;
            // Until it has blocked for its time, and is gone.
            std::thread::sleep(BLOCK + Duration::from_secs(1));
        }
        Ok(())
    })
}

/// Strikes all streams, each with its own blows, in an order that a seed decides; and what they share.
fn deal(server: &Server, seed: u64, blows: &[(String, Vec<&str>)]) -> anyhow::Result<()> {
    let mut chance = Chance::of(seed);
    let rounds = blows.iter().map(|(_, ways)| ways.len()).max().unwrap_or(0);
    for round in 0..rounds {
        let begun = Instant::now();
        let mut order: Vec<_> = (0..blows.len()).collect();
        chance.shuffle(&mut order);
        for number in order {
            let (child, ways) = &blows[number];
            if let Some(way) = ways.get(round) {
                strike(server, Some(number), child, way)?;
            }
            // The moments are chance's.
            std::thread::sleep((SPREAD / blows.len() as u32).mul_f64(chance.share()));
        }
        for child in SHARED {
            strike(server, None, child, WAYS[round % WAYS.len()])?;
        }
        if round == 0 {
            strike(server, None, SHARED[0], STILLBORN)?;
        }
        // A supervisor that restarts one child too often rebuilds its tree: no more than a blow in this time.
        std::thread::sleep(SPREAD.saturating_sub(begun.elapsed()));
    }
    Ok(())
}

fn strike(server: &Server, stream: Option<usize>, child: &str, blow: &str) -> anyhow::Result<()> {
    let stream = stream.map_or(String::new(), |number| format!("stream=live/show-{number}&"));
    let query = format!("{stream}child={child}&blow={blow}&milliseconds={}&times={FAILED_STARTS}", BLOCK.as_millis());
    ureq::post(&server.health_url(&format!("/chaos/v1/strike?{query}"))).send_empty()?;
    Ok(())
}

/// A stream for each blow, with a witness, while `deal` strikes.
fn play(
    setting: &Setting,
    blows: &[(String, Vec<&str>)],
    time: Duration,
    deal: impl FnOnce(&Server) -> anyhow::Result<()>,
) -> anyhow::Result<Outcome> {
    let clip = clip(&setting.directory)?;
    let known = Arc::new(Pictures::of(&std::fs::read(&clip)?)?);
    let (server, _removed) = start(setting, "actors", &["--record", "--grace", "5"])?;
    let watched = AROUND + time + AROUND;
    let (url, streams, duration) = (server.publish_url("live/show"), blows.len(), LISTED + watched);
    let load = Load { url, clip, streams, duration, begin: Begin::Together };
    let publishing = std::thread::spawn(move || load::run(&load, || ()));
    let playlist = |number: usize| server.url(&format!("/live/show-{number}/0.m3u8"));
    for number in 0..streams {
        let url = playlist(number);
        wait_for(&url, LISTED, || get(&url).is_ok())?;
    }
    let witnesses: Vec<_> =
        (0..streams).map(|number| Witness::follow(playlist(number), watched, known.clone())).collect();
    // A show that is well before: what is measured, and nothing that is waited for.
    std::thread::sleep(AROUND);
    let restarts = |child: &str| server.metric("steadycast_actor_restarts_total", &format!("actor=\"{child}\""));
    let before = blows.iter().map(|(child, _)| restarts(child)).collect::<anyhow::Result<Vec<_>>>()?;
    deal(&server)?;
    let testimonies = witnesses.into_iter().map(Witness::finish).collect::<anyhow::Result<Vec<_>>>()?;
    let mut rows = Vec::new();
    for ((number, (child, ways)), testimony) in blows.iter().enumerate().zip(testimonies) {
        let way = ways.first().map_or(String::new(), |way| format!(": {way} x {}", ways.len()));
        let mut observed = Observed::undisturbed(format!("{child}{way}"), TARGET);
        // Counted for all streams together: at least as many as this one's.
        observed.struck = (restarts(child)? - before[number]) as u64;
        observed.must_strike = !ways.is_empty();
        observed.saw(testimony);
        rows.push(Row { broken: observed.broken(), observed });
    }
    drop(server);
    let report = publishing.join().map_err(|_| anyhow::anyhow!("the generator panicked"))??;
    let lag = report.generator_lag_ms as f64 / 1000.0;
    for row in &mut rows {
        row.observed.generator_lag = lag;
        row.broken = row.observed.broken();
    }
    Ok(Outcome { rows, ..Outcome::default() })
}

/// The session itself fails: its encoder loses its connection, and is accepted at once when it comes back.
fn sessions(setting: &Setting) -> anyhow::Result<Outcome> {
    let clip = Arc::new(Clip::read(&clip(&setting.directory)?)?);
    let (server, _removed) = start(setting, "sessions", &["--grace", "30"])?;
    let mut outcome = Outcome::default();
    for (number, way) in WAYS.iter().chain(&["block"]).enumerate() {
        let target = Target::parse(&server.publish_url(&format!("live/show-{number}")))?;
        let encoder = Encoder::publish(&target, &clip)?;
        let viewer = Viewer::start(server.url(&format!("/live/show-{number}/0.m3u8")));
        wait_for("segments", LISTED, || viewer.segments() >= 3)?;
        let struck = Instant::now();
        strike(&server, Some(number), "session", way)?;
        // One that blocks keeps its socket: its encoder is one that notices nothing, and another one asks.
        if *way != "block" {
            wait_for("the loss", LISTED, || encoder.is_lost())?;
        }
        let lost = struck.elapsed();
        let next = Encoder::publish(&target, &clip)?;
        let seen = viewer.segments();
        wait_for("segments again", LISTED, || viewer.segments() >= seen + 3)?;
        let seen = viewer.stop();
        let limit = if *way == "block" { ACCEPTED_STUCK } else { ACCEPTED };
        let mut broken = seen.broken;
        let late = || Broken::Late(format!("accepted after {:.1} s", next.took.as_secs_f64()));
        broken.extend((next.took > limit).then(late));
        let discontinuities = seen.discontinuities;
        broken.extend((discontinuities != 1).then(|| format!("{discontinuities} discontinuities").into()));
        let text = format!(
            "session: {way}. Its encoder was told after {:.2} s, and accepted {:.2} s after it asked again; {} segments, {discontinuities} discontinuity.",
            lost.as_secs_f64(),
            next.took.as_secs_f64(),
            seen.bytes.len()
        );
        let figures =
            json!({ "session": way, "accepted_s": next.took.as_secs_f64(), "discontinuities": discontinuities });
        outcome.told.push(Told { text, figures, broken });
    }
    Ok(outcome)
}
