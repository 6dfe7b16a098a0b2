//! segmenter: samples of the log become segments of the window. The only writer of a stream's window.
//!
//! It starts from what is published, so nothing is lost or repeated by a restart.

use crate::events;
use crate::fault::Fault;
use crate::vitals::{Vital, Vitals};
use media::Packager;
use media::packager::Output;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use std::sync::Arc;
use storage::LiveStream;
use storage::continuity::{Record, Records};
use storage::snapshot::Resume;
use tokio::time::{Duration, Instant};

/// How often the log is read. One wake-up for many samples, at any number of samples a second.
const PUMP: Duration = Duration::from_millis(40);
/// Entries taken at once, so that one message's work stays short.
const BATCH: usize = 512;
/// Failures at one position after which the samples around it are skipped.
const SKIP_AFTER: u32 = 2;
/// Failures at one position after which what is open is dropped, too.
const ABANDON_AFTER: u32 = 3;

/// Messages to the segmenter.
#[derive(Debug)]
pub enum Msg {
    /// Time to read the log.
    Pump,
    /// Fails on purpose.
    Fail(Fault),
}

/// What a segmenter needs to start.
#[derive(Clone)]
pub struct Args {
    /// The stream.
    pub stream: Arc<LiveStream>,
    /// Where continuity records go.
    pub records: Records,
    /// Where to register.
    pub vitals: Arc<Vitals>,
}

/// The actor.
#[derive(Debug, Default)]
pub struct Segmenter;

impl Actor for Segmenter {
    type Msg = Msg;
    type State = State;
    type Arguments = Args;

    async fn pre_start(&self, myself: ActorRef<Msg>, args: Args) -> Result<State, ActorProcessingErr> {
        myself.send_after(Duration::ZERO, || Msg::Pump);
        Ok(State::resuming(args))
    }

    async fn handle(&self, myself: ActorRef<Msg>, msg: Msg, state: &mut State) -> Result<(), ActorProcessingErr> {
        match msg {
            Msg::Pump => {
                let _busy = state.vital.enter("Pump");
                let more = state.pump(Instant::now());
                myself.send_after(if more { Duration::ZERO } else { PUMP }, || Msg::Pump);
            }
            Msg::Fail(fault) => {
                let _busy = state.vital.enter("Fail");
                fault.strike()?;
            }
        }
        Ok(())
    }
}

/// A packager and its place in the log.
pub struct State {
    stream: Arc<LiveStream>,
    records: Records,
    packager: Packager,
    /// The next log position to read.
    position: u64,
    /// A position that made predecessors fail, and how often.
    poison: Option<(u64, u32)>,
    vital: Arc<Vital>,
}

impl State {
    /// Goes on where the published window ends.
    pub fn resuming(args: Args) -> Self {
        let stream = args.stream;
        let snapshot = stream.window.snapshot();
        let (packager, position) = match &snapshot.resume {
            Some(resume) => (resume.packager.clone(), resume.position),
            None => (snapshot.packager(stream.settings.packaging), 0),
        };
        let poison = stream.trial.failed_at().filter(|(_, failures)| *failures >= SKIP_AFTER);
        let vital = args.vitals.register(format!("segmenter {}", stream.name));
        Self { stream, records: args.records, packager, position, poison, vital }
    }

    /// Reads and packages a batch; whether there is more to read at once.
    pub fn pump(&mut self, now: Instant) -> bool {
        let read = self.stream.log.read(self.position, BATCH);
        if read.missed > 0 {
            events::samples_missed(&self.stream, read.missed);
        }
        let full = read.entries.len() >= BATCH;
        for (position, entry) in read.entries {
            self.stream.trial.begin(position);
            let outputs = self.poisoned(position).unwrap_or_else(|| self.packager.push(&entry));
            self.position = position + 1;
            if !outputs.is_empty() {
                self.publish(outputs, now);
            }
        }
        self.stream.trial.done();
        events::packaged(&self.stream, self.packager.take_counts());
        full
    }

    /// For the position that made predecessors fail: what is finished without it.
    fn poisoned(&mut self, position: u64) -> Option<Vec<Output>> {
        let (poison, failures) = self.poison?;
        if position < poison {
            return None;
        }
        self.poison = None;
        if position > poison {
            return None;
        }
        events::sample_skipped(&self.stream, position, failures);
        let mut outputs = Vec::new();
        if failures >= ABANDON_AFTER {
            self.packager.abandon();
        } else {
            self.packager.interrupt(&mut outputs);
        }
        Some(outputs)
    }

    /// Swaps the window: the record first, so that a restart knows every name viewers may have seen.
    fn publish(&mut self, outputs: Vec<Output>, now: Instant) {
        let (mut segments, mut end) = (Vec::new(), false);
        for output in outputs {
            match output {
                Output::Segment(segment) => segments.push(segment),
                Output::End => end = true,
            }
        }
        for segment in &segments {
            events::segment_published(&self.stream, segment);
        }
        let resume = Resume { packager: self.packager.clone(), position: self.position };
        let next = self.stream.window.snapshot().next(segments, end, self.stream.settings.window, Some(resume), now);
        if let Err(error) = self.records.write(&Record::of(&self.stream, &next)) {
            events::record_failed(&self.stream, &error);
        }
        self.stream.window.publish(next);
        self.stream.log.release(self.position);
    }
}
