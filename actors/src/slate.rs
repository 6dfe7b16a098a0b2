//! slate: shows something while the encoder is away, so that the playlist keeps moving.
//!
//! It writes to the sample log like a publisher, and needs no epoch: nobody else is heard then. What it shows are the last
//! picture and silence, or a clip; a publisher that comes back takes over at its first random access point.

use crate::events;
use crate::fault::Fault;
use crate::steps::until_step;
use crate::vitals::{Place, Vital, Vitals};
use bytes::Bytes;
use media::read::{Read, fragments, transport_stream};
use media::sample::TICKS_PER_MS;
pub use media::slate::Clip;
use media::slate::Slate;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use std::sync::Arc;
use std::time::SystemTime;
use storage::live::{Publisher, wall_ms};
use storage::snapshot::Published;
use storage::{LiveStream, Snapshot};
use tokio::time::{Duration, Instant};

/// How often it writes.
const TICK: Duration = Duration::from_millis(500);
/// How long an encoder may be away before it is stood in for: one that comes back at once needs no slate.
const AFTER: Duration = Duration::from_secs(2);
/// A slate that is further behind than this does not catch up.
const BEHIND: Duration = Duration::from_secs(5);
/// From the last sample to the slate's first on the timeline, milliseconds.
const GAP_MS: i64 = 1_000;
/// Segments that are looked through for a picture, from the last one back.
const MAX_SEGMENTS: usize = 8;

/// Messages to a slate.
#[derive(Debug)]
pub enum Msg {
    /// Time to write.
    Tick,
    /// Fails on purpose.
    Fail(Fault),
}

/// What a slate needs to start.
#[derive(Clone)]
pub struct Args {
    /// The stream.
    pub stream: Arc<LiveStream>,
    /// What is shown; without one the last picture.
    pub clip: Option<Arc<Clip>>,
    /// Where to register.
    pub vitals: Arc<Vitals>,
}

/// The actor.
#[derive(Debug, Default)]
pub struct Stand;

impl Actor for Stand {
    type Msg = Msg;
    type State = State;
    type Arguments = Args;

    async fn pre_start(&self, myself: ActorRef<Msg>, args: Args) -> Result<State, ActorProcessingErr> {
        myself.send_after(TICK, || Msg::Tick);
        let place = Place::Stream(args.stream.name.clone());
        let vital = args.vitals.register("slate", place, myself.get_id(), Some(TICK));
        Ok(State { stream: args.stream, clip: args.clip, away: None, shown: None, warned: false, vital })
    }

    async fn handle(&self, myself: ActorRef<Msg>, msg: Msg, state: &mut State) -> Result<(), ActorProcessingErr> {
        let _busy = state.vital.enter("handle");
        match msg {
            Msg::Tick => {
                myself.send_after(until_step(TICK), || Msg::Tick);
                state.tick(Instant::now());
            }
            Msg::Fail(fault) => fault.strike()?,
        }
        Ok(())
    }
}

/// What is shown, and since when nobody publishes.
pub struct State {
    stream: Arc<LiveStream>,
    clip: Option<Arc<Clip>>,
    away: Option<Instant>,
    shown: Option<Shown>,
    warned: bool,
    vital: Arc<Vital>,
}

/// A slate under way.
struct Shown {
    slate: Slate,
    /// Its number: another one may have taken its place while this actor was stuck.
    number: u64,
    since: Instant,
    written: Instant,
}

impl State {
    fn tick(&mut self, now: Instant) {
        if self.shown.is_some() {
            return self.write(now);
        }
        if !matches!(self.stream.publisher(), Publisher::Grace { .. }) {
            self.away = None;
            return;
        }
        let away = *self.away.get_or_insert(now);
        if now.saturating_duration_since(away) >= AFTER {
            self.begin(away, now);
        }
    }

    /// It begins when the encoder left: a whole segment of it is there at once, and no player has run dry meanwhile.
    fn begin(&mut self, away: Instant, now: Instant) {
        let last_ms = self.stream.log.last_dts() / TICKS_PER_MS;
        let start_ms = (last_ms + GAP_MS).max(millis(self.stream.age(away)));
        let Some(slate) = self.choose(start_ms * TICKS_PER_MS) else { return };
        let passed = millis(now.saturating_duration_since(away));
        let wall_ms_at_zero = wall_ms(SystemTime::now()) - passed - start_ms;
        if let Some(number) = self.stream.log.begin_slate(wall_ms_at_zero, slate.configurations()) {
            events::slate_begun(&self.stream);
            self.shown = Some(Shown { slate, number, since: away, written: now });
            self.write(now);
        }
    }

    fn write(&mut self, now: Instant) {
        let Some(Shown { slate, number, since, written }) = &mut self.shown else { return };
        if now.saturating_duration_since(std::mem::replace(written, now)) > BEHIND {
            // The process did not run. What nobody could have seen is not made up for: it begins anew.
            self.shown = None;
            self.away = Some(now);
            return;
        }
        let passed = millis(now.saturating_duration_since(*since));
        let samples = slate.until((slate.start_ms() + passed) * TICKS_PER_MS);
        if !self.stream.log.append_slate(*number, samples) {
            self.shown = None;
            events::slate_over(&self.stream);
        }
    }

    /// The clip, if it fits; else the last picture there is.
    fn choose(&mut self, start: i64) -> Option<Slate> {
        let snapshot = self.stream.window.snapshot();
        let last = last_segment(&snapshot)?;
        match &self.clip {
            Some(clip) if clip.fits(&last.tracks) => return Some(Slate::of(clip, start)),
            Some(_) if !std::mem::replace(&mut self.warned, true) => events::slate_unfit(&self.stream),
            Some(_) | None => {}
        }
        Slate::held(&last, start)
    }
}

/// Milliseconds; no process lives as long as the bound.
fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX / 1000)
}

/// The last segment in which decoding can start.
fn last_segment(snapshot: &Snapshot) -> Option<Read> {
    let read = |segment: &Arc<Published>| read_segment(segment);
    let starts = |read: &Read| read.tracks.video.is_none() || read.samples.iter().any(is_start);
    snapshot.listed.iter().rev().filter(|segment| !segment.listed.gap).take(MAX_SEGMENTS).filter_map(read).find(starts)
}

fn is_start(sample: &media::Sample) -> bool {
    sample.kind == media::TrackKind::Video && sample.random_access
}

fn read_segment(segment: &Published) -> Option<Read> {
    let bytes: Bytes = segment.file.bytes.to_bytes();
    // What we wrote can be read; if not, there is no slate, and the show waits as it would without one.
    match &segment.map {
        Some(map) => fragments(&map.bytes.to_bytes(), &bytes).ok(),
        None => transport_stream(&bytes).ok(),
    }
}
