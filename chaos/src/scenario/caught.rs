//! A promise is broken on purpose in the real binary: a judge that does not notice is worth nothing.

use super::judge::Observed;
use super::report::{Outcome, Told};
use super::witness::{Pictures, Witness};
use super::{Setting, clip};
use crate::broken::sentences;
use crate::load::{self, Begin, Load};
use crate::server::{Server, get, wait_for};
use std::sync::Arc;
use std::time::Duration;

/// The show before the blow, and all of it.
const BEFORE: Duration = Duration::from_secs(4);
const WATCHED: Duration = Duration::from_secs(18);
/// How long the live path waits each time, milliseconds: a handler that took longer would be replaced, ...
const BLOCK_MS: u64 = 850;
/// ... and how often: three target durations in all.
const BLOCKS: u64 = 7;
const LISTED: Duration = Duration::from_secs(20);
const TARGET: Duration = Duration::from_secs(2);

/// Blocks a segmenter again and again, as slow writes would.
pub fn run(setting: &Setting) -> anyhow::Result<Outcome> {
    let directory = setting.directory.join(format!("caught-{}", crate::alone::number()));
    let runtime = crate::alone::memory("caught");
    let data = directory.join("data").display().to_string();
    let server = Server::start(&setting.program, &["--data", &data, "--runtime-dir", &runtime].map(str::to_owned))?;
    let clip = clip(&setting.directory)?;
    let known = Arc::new(Pictures::of(&std::fs::read(&clip)?)?);
    let load = Load {
        url: server.publish_url("live/show"),
        clip,
        streams: 1,
        duration: LISTED + WATCHED,
        begin: Begin::Together,
    };
    let publishing = std::thread::spawn(move || load::run(&load, || ()));
    let url = server.url("/live/show-0/0.m3u8");
    wait_for(&url, LISTED, || get(&url).is_ok())?;
    let witness = Witness::follow(url, WATCHED, known);
    // A show that is well before: what is measured, and nothing that is waited for.
    std::thread::sleep(BEFORE);
    let blow = format!("/chaos/v1/strike?stream=live/show-0&child=segmenter&blow=block&milliseconds={BLOCK_MS}");
    for _ in 0..BLOCKS {
        ureq::post(&server.health_url(&blow)).send_empty()?;
    }
    let mut observed = Observed::undisturbed("the segmenter is blocked".to_owned(), TARGET);
    observed.saw(witness.finish()?);
    drop(server);
    // Its server is gone: it ends when its time is over, and what it says is of no interest.
    drop(publishing);
    for directory in [directory, runtime.into()] {
        let _ = std::fs::remove_dir_all(directory);
    }
    let found = observed.broken();
    let noticed = found.iter().any(|broken| broken.to_string().contains("no new segment"));
    let text = format!(
        "The segmenter was blocked {BLOCKS} times for {BLOCK_MS} ms. The judge found: {}.",
        if found.is_empty() { "nothing".to_owned() } else { sentences(&found) }
    );
    let broken = if noticed { Vec::new() } else { vec!["the judge did not notice".into()] };
    Ok(Outcome { told: vec![Told { text, figures: serde_json::to_value(&observed)?, broken }], ..Outcome::default() })
}
