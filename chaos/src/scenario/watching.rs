//! A stock hls.js in Chromium watches while encoders and actors fail; the page is never loaded again.

use super::browser::{Browser, Played};
use super::report::{Outcome, Told};
use super::stage::start;
use super::{Setting, clip};
use crate::broken::Broken;
use crate::clip::Clip;
use crate::encoder::Encoder;
use crate::rtmp_client::Target;
use crate::server::{Server, get, wait_for};
use serde_json::json;
use std::sync::Arc;
use std::time::Duration;

/// From a stream's first sample until it is listed, at most.
const LISTED: Duration = Duration::from_secs(20);
/// A show that is well, before and after.
const AROUND: Duration = Duration::from_secs(12);
/// How long the encoder is away.
const AWAY: Duration = Duration::from_secs(10);
/// Between two failures of actors.
const PAUSE: Duration = Duration::from_secs(2);
/// Media that must be played in each second in which there is a show: what comes after a stall is not caught up with.
const LEAST_PLAYED: f64 = 0.8;

/// Plays through an encoder's absence, with a slate and without, and through the failure of every actor.
pub fn run(setting: &Setting) -> anyhow::Result<Outcome> {
    let clip = Arc::new(Clip::read(&clip(&setting.directory)?)?);
    let mut outcome = Outcome::default();
    for (slate, what) in [("off", "without a slate"), ("hold", "with a slate")] {
        let (server, _removed) = start(setting, "watching", &["--grace", "60", "--slate", slate])?;
        let text = format!("The encoder is killed, and comes back after {} s, {what}.", AWAY.as_secs());
        // Without a slate there is nothing to play for the time it is away.
        let without = if slate == "off" { AWAY } else { Duration::ZERO };
        outcome.told.push(watched(&server, &clip, &text, without, AROUND + AWAY + AROUND, |target, encoder| {
            drop(encoder);
            // It is away for so long.
            std::thread::sleep(AWAY);
            Encoder::publish(target, &clip)
        })?);
    }
    let (server, _removed) = start(setting, "watching", &["--grace", "60", "--record"])?;
    let actors = ["segmenter", "archiver", "recorder", "watcher", "publisher_lock"];
    let strikes: Vec<_> = actors.iter().flat_map(|actor| ["panic", "error", "kill"].map(|way| (*actor, way))).collect();
    let text = "Every actor of the tree but the session panics, errs and is killed, one after the other.";
    let time = AROUND + PAUSE * strikes.len() as u32 + AROUND;
    outcome.told.push(watched(&server, &clip, text, Duration::ZERO, time, |_, encoder| {
        for (actor, way) in strikes {
            let query = format!("stream=live/show&child={actor}&blow={way}");
            ureq::post(&server.health_url(&format!("/chaos/v1/strike?{query}"))).send_empty()?;
            // What a supervisor may restart in a minute is bounded: a blow in this time.
            std::thread::sleep(PAUSE);
        }
        Ok(encoder)
    })?);
    Ok(outcome)
}

/// Plays while something happens; `without`: for how long there is no show.
fn watched(
    server: &Server,
    clip: &Arc<Clip>,
    what: &str,
    without: Duration,
    time: Duration,
    happens: impl FnOnce(&Target, Encoder) -> anyhow::Result<Encoder>,
) -> anyhow::Result<Told> {
    let target = Target::parse(&server.publish_url("live/show"))?;
    let encoder = Encoder::publish(&target, clip)?;
    let url = server.url("/live/show/index.m3u8");
    wait_for(&url, LISTED, || get(&url).is_ok())?;
    let browser = Browser::play(&url, time)?;
    // A show that is well before: what is measured, and nothing that is waited for.
    std::thread::sleep(AROUND);
    let encoder = happens(&target, encoder)?;
    let played = browser.finish()?;
    drop(encoder);
    let Played { stalls, stalled_ms, played_s, .. } = &played;
    let expected = (time.saturating_sub(without)).as_secs_f64() * LEAST_PLAYED;
    let fatal = played.fatal();
    let mut broken: Vec<Broken> = Vec::new();
    broken.extend((fatal > 0).then(|| format!("{fatal} fatal errors: {:?}", played.errors).into()));
    let short = || Broken::Late(format!("{played_s:.0} s were played, expected are {expected:.0}"));
    broken.extend((*played_s == 0.0).then(|| "nothing was played".into()));
    broken.extend((*played_s < expected).then(short));
    broken.extend((without.is_zero() && *stalls > 0).then(|| Broken::Late(format!("{stalls} stalls"))));
    let text = format!(
        "{what} hls.js played {played_s:.0} s of {:.0}, with {stalls} stalls of {stalled_ms:.0} ms in all.",
        time.as_secs_f64()
    );
    Ok(Told { text, figures: json!({ "what": what, "played": played }), broken })
}
