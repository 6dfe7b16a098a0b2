//! The worker process is killed, upgraded and wedged; its parent and the others go on.

use super::browser::{Browser, Played};
use super::chance::Chance;
use super::report::{Outcome, Told};
use super::stage::start_supervised;
use super::viewer::{Seen, Viewer};
use super::{Setting, clip};
use crate::broken::Broken;
use crate::clip::Clip;
use crate::encoder::Encoder;
use crate::rtmp_client::Target;
use crate::server::{Server, wait_for};
use anyhow::Context;
use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// From a stream's first sample until it is listed, at most.
const LISTED: Duration = Duration::from_secs(40);
/// From a kill to the first playlist that is answered.
const ANSWERED: Duration = Duration::from_secs(1);
/// From the moment when nothing makes progress until health says so, ...
const TOLD: Duration = Duration::from_secs(5);
/// ... and until another worker runs.
const REPLACED: Duration = Duration::from_secs(8);
/// Viewers that follow streams all the time.
const VIEWERS: usize = 4;
/// How often they, and others that wait for something, look.
const POLL: Duration = Duration::from_millis(20);
/// How long an encoder waits before it connects again: none waits less.
const RETRY: Duration = Duration::from_millis(100);
/// New segments that may be of before the end of a worker: one that was being listed, and what a drain closes.
const OF_BEFORE: usize = 2;
/// From one end of the worker to the next, at most.
const PAUSE: Duration = Duration::from_secs(12);

/// Encoders that come back whenever their server is gone.
struct Fleet {
    stop: Arc<AtomicBool>,
    failures: Arc<Mutex<Vec<String>>>,
    returns: Arc<AtomicUsize>,
    threads: Vec<JoinHandle<()>>,
}

impl Fleet {
    fn publish(server: &Server, clip: &Arc<Clip>, streams: usize) -> anyhow::Result<Self> {
        let (stop, failures, returns) = (Arc::new(AtomicBool::default()), Arc::default(), Arc::default());
        let mut fleet = Self { stop, failures, returns, threads: Vec::new() };
        for number in 0..streams {
            let target = Target::parse(&server.publish_url(&format!("live/show-{number}")))?;
            let first = Encoder::publish(&target, clip)?;
            let (stop, failures, returns, clip) =
                (fleet.stop.clone(), fleet.failures.clone(), fleet.returns.clone(), clip.clone());
            fleet.threads.push(std::thread::spawn(move || {
                let mut encoder = Some(first);
                while !stop.load(Ordering::Acquire) {
                    // The pace at which an encoder looks after its connection.
                    std::thread::sleep(RETRY);
                    if encoder.as_ref().is_some_and(|encoder| !encoder.is_lost()) {
                        continue;
                    }
                    returns.fetch_add(1, Ordering::Relaxed);
                    match Encoder::publish(&target, &clip) {
                        Ok(next) => encoder = Some(next),
                        Err(error) => {
                            let mut failures: std::sync::MutexGuard<'_, Vec<String>> =
                                failures.lock().unwrap_or_else(PoisonError::into_inner);
                            failures.push(format!("{} was not accepted: {error:#}", target.name));
                            encoder = None;
                        }
                    }
                }
            }));
        }
        Ok(fleet)
    }

    /// How often they came back, and what went wrong.
    fn stop(self) -> (usize, Vec<String>) {
        self.stop.store(true, Ordering::Release);
        self.threads.into_iter().for_each(|thread| drop(thread.join()));
        (
            self.returns.load(Ordering::Relaxed),
            std::mem::take(&mut *self.failures.lock().unwrap_or_else(PoisonError::into_inner)),
        )
    }
}

/// Somebody who asks for playlists without pause: what was not answered with 200 or 503, and when the last 200 came.
struct Knocking {
    stop: Arc<AtomicBool>,
    answered: Arc<Mutex<Option<Instant>>>,
    thread: JoinHandle<Vec<String>>,
}

impl Knocking {
    fn at(server: &Server, streams: usize) -> Self {
        let (stop, answered) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(None)));
        let (stopped, at) = (stop.clone(), answered.clone());
        let base = server.url("/live/show-");
        let thread = std::thread::spawn(move || {
            let (mut wrong, mut n) = (Vec::new(), 0);
            while !stopped.load(Ordering::Relaxed) {
                n += 1;
                match ureq::get(&format!("{base}{}/0.m3u8", n % streams)).call() {
                    Ok(_) => *at.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now()),
                    // A viewer comes back after this.
                    Err(ureq::Error::StatusCode(503)) => {}
                    // An answer that was under way when the process was killed: its client asks again.
                    Err(ureq::Error::Io(error)) if error.kind() != std::io::ErrorKind::ConnectionRefused => {}
                    Err(ureq::Error::Protocol(_)) => {}
                    Err(error) => wrong.push(error.to_string()),
                }
                // The pace of the questions.
                std::thread::sleep(POLL);
            }
            wrong
        });
        Self { stop, answered, thread }
    }

    fn last(&self) -> Option<Instant> {
        *self.answered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn stop(self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_else(|_| vec!["it panicked".to_owned()])
    }
}

/// What came of the ends of a worker.
#[derive(Debug, Default)]
struct Ends {
    /// From a kill to the first answer.
    longest: Duration,
    gaps: usize,
    broken: Vec<Broken>,
}

/// The worker of so many streams is killed a few times, and upgraded once; `browser`: hls.js plays meanwhile.
pub fn kill(setting: &Setting, streams: usize, kills: usize, browser: bool) -> anyhow::Result<Outcome> {
    let clip = Arc::new(Clip::read(&clip(&setting.directory)?)?);
    let (server, _removed) = start_supervised(setting, "worker", &["--grace", "30"])?;
    let fleet = Fleet::publish(&server, &clip, streams)?;
    let viewers: Vec<_> =
        (0..VIEWERS.min(streams)).map(|n| Viewer::start(server.url(&format!("/live/show-{n}/0.m3u8")))).collect();
    wait_for("segments", LISTED, || viewers.iter().all(|viewer| viewer.segments() >= 3))?;
    let knocking = Knocking::at(&server, streams);
    let time = PAUSE * (kills as u32 + 2);
    let browser = browser.then(|| Browser::play(&server.url("/live/show-0/index.m3u8"), time)).transpose()?;
    let (mut chance, mut ends) = (Chance::of(setting.seed), Ends::default());
    for number in 0..=kills {
        // The moment is chance's, and far enough from the one before that every stream is back.
        std::thread::sleep(PAUSE.mul_f64(0.8 + 0.2 * chance.share()));
        ends.end_worker(&server, &viewers, &knocking, number == kills)?;
    }
    ends.broken.extend(knocking.stop().into_iter().take(5).map(Broken::from));
    let played = browser.map(Browser::finish).transpose()?;
    let (returns, failures) = fleet.stop();
    ends.broken.extend(failures.into_iter().take(5).map(Broken::from));
    if returns != streams * (kills + 1) {
        let sentence = format!("{streams} encoders came back {returns} times after {} ends of the worker", kills + 1);
        ends.broken.push(sentence.into());
    }
    for viewer in viewers {
        ends.saw(viewer.stop(), kills as u64 + 1);
    }
    let mut text = format!(
        "{streams} live streams under `steadycast supervise`; the worker was killed with -9 {kills} times and upgraded once (SIGUSR2). The first playlist was answered {:.2} s after a kill at most; no request was refused or answered with 404; {returns} times an encoder came back, each accepted at its first try; one discontinuity each time, {} gaps for {VIEWERS} viewers.",
        ends.longest.as_secs_f64(),
        ends.gaps,
    );
    if let Some(played) = &played {
        text.push_str(&ends.played(played));
    }
    let figures = json!({ "streams": streams, "kills": kills, "longest_s": ends.longest.as_secs_f64(), "returns": returns, "gaps": ends.gaps, "played": played });
    Ok(Outcome { told: vec![Told { text, figures, broken: ends.broken }], ..Outcome::default() })
}

impl Ends {
    fn end_worker(
        &mut self,
        server: &Server,
        viewers: &[Viewer],
        knocking: &Knocking,
        upgrade: bool,
    ) -> anyhow::Result<()> {
        let before = server.worker().context("the worker")?;
        let seen: Vec<_> = viewers.iter().map(Viewer::segments).collect();
        let struck = Instant::now();
        if upgrade {
            let parent = Pid::from_raw(i32::try_from(server.pid())?).context("the parent")?;
            kill_process(parent, Signal::USR2)?;
        } else {
            kill_process(before, Signal::KILL)?;
        }
        wait_for("another worker", LISTED, || server.worker().is_some_and(|worker| worker != before))?;
        let gone = Instant::now();
        wait_for("a playlist", LISTED, || knocking.last().is_some_and(|last| last > gone))?;
        let answered = knocking.last().map_or(LISTED, |last| last - struck);
        if !upgrade {
            self.longest = self.longest.max(answered);
            let late = answered > ANSWERED;
            let sentence = || format!("the first playlist came after {:.2} s", answered.as_secs_f64());
            self.broken.extend(late.then(|| Broken::Late(sentence())));
        }
        wait_for("new segments", LISTED, || {
            viewers.iter().zip(&seen).all(|(viewer, seen)| viewer.segments() > seen + OF_BEFORE)
        })?;
        Ok(())
    }

    fn saw(&mut self, seen: Seen, ends: u64) {
        self.broken.extend(seen.broken);
        self.gaps += seen.gaps.len();
        if seen.discontinuities != ends {
            let sentence = format!("{} discontinuities after {ends} ends of the worker", seen.discontinuities);
            self.broken.push(sentence.into());
        }
    }

    fn played(&mut self, played: &Played) -> String {
        let fatal = played.fatal();
        if fatal > 0 || played.played_s == 0.0 {
            self.broken.push(format!("hls.js met {fatal} fatal errors: {:?}", played.errors).into());
        }
        let Played { played_s, stalls, stalled_ms, .. } = played;
        format!(
            " Stock hls.js played {played_s:.0} s without a reload, with {stalls} stalls of {stalled_ms:.0} ms in all."
        )
    }
}

/// All threads of the actors' runtime are blocked: health says so, and the parent starts another worker.
pub fn wedge(setting: &Setting) -> anyhow::Result<Outcome> {
    let clip = Arc::new(Clip::read(&clip(&setting.directory)?)?);
    let (server, _removed) = start_supervised(setting, "wedge", &["--grace", "30"])?;
    let fleet = Fleet::publish(&server, &clip, 1)?;
    let viewer = Viewer::start(server.url("/live/show-0/0.m3u8"));
    wait_for("segments", LISTED, || viewer.segments() >= 3)?;
    let before = server.worker().context("the worker")?;
    let wedged = Instant::now();
    for query in [
        "child=storage_probe",
        "child=retention",
        "child=rtmp_listener",
        "stream=live/show-0&child=watcher",
        "stream=live/show-0&child=archiver",
        "stream=live/show-0&child=segmenter",
    ] {
        let url = server.health_url(&format!("/chaos/v1/strike?{query}&blow=block&milliseconds=600000"));
        // The last ones find nobody who would take them further.
        let _ = ureq::post(&url).send_empty();
    }
    let health = server.health_url("/healthz");
    let told =
        wait_for("health to say so", LISTED, || matches!(ureq::get(&health).call(), Err(ureq::Error::StatusCode(503))));
    let told = told.map(|_| wedged.elapsed())?;
    wait_for("another worker", LISTED, || server.worker().is_some_and(|worker| worker != before))?;
    let replaced = wedged.elapsed();
    let seen = viewer.segments();
    wait_for("segments again", LISTED, || viewer.segments() >= seen + 2)?;
    let mut broken = viewer.stop().broken;
    broken.extend(fleet.stop().1.into_iter().map(Broken::from));
    broken.extend((told > TOLD).then(|| Broken::Late(format!("health said so after {:.1} s", told.as_secs_f64()))));
    let late = || Broken::Late(format!("replaced after {:.1} s", replaced.as_secs_f64()));
    broken.extend((replaced > REPLACED).then(late));
    let words = server.logged("no progress, ending the process");
    broken.extend((words != 1).then(|| format!("{words} last words").into()));
    let text = format!(
        "Every thread of the actors' runtime was blocked for ten minutes: `/healthz` said so after {:.1} s, another worker ran after {:.1} s, and the show went on.",
        told.as_secs_f64(),
        replaced.as_secs_f64()
    );
    let figures = json!({ "told_s": told.as_secs_f64(), "replaced_s": replaced.as_secs_f64() });
    Ok(Outcome { told: vec![Told { text, figures, broken }], ..Outcome::default() })
}
