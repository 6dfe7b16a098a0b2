//! segmenter: samples of the log become segments of the window. The only writer of a stream's window.
//!
//! It starts from what is published, so nothing is lost or repeated by a restart.

use crate::events;
use crate::fault::Fault;
use crate::vitals::{Place, Vital, Vitals};
use media::Packager;
use media::packager::Output;
use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef};
use std::io;
use std::sync::Arc;
use storage::continuity::{Record, Records};
use storage::snapshot::Resume;
use storage::window::NotPublished;
use storage::{LiveStream, Snapshot};
use tokio::time::{Duration, Instant, timeout};

/// How long one handler waits for samples; other messages wait no longer. Publishers are read in steps
/// (`encoder_socket`), so there is one wake-up for many samples, at any number of samples a second.
const WAIT_SLICE: Duration = Duration::from_secs(1);
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
        Ok(State::resuming(args, myself.get_id()))
    }

    async fn handle(&self, myself: ActorRef<Msg>, msg: Msg, state: &mut State) -> Result<(), ActorProcessingErr> {
        match msg {
            Msg::Pump => {
                let busy = state.vital.enter("Pump");
                let more = state.pump(Instant::now()).map_err(failure)?;
                drop(busy);
                if !more {
                    // Nothing came in this time: then there is nothing to read either.
                    let _ = timeout(WAIT_SLICE, state.stream.log.added()).await;
                }
                let _ = myself.send_message(Msg::Pump);
            }
            Msg::Fail(fault) => {
                let _busy = state.vital.enter("Fail");
                fault.strike()?;
            }
        }
        Ok(())
    }
}

/// How a segmenter fails that could not publish: behind one that hangs it is no bug of its own, and is tried for ever.
fn failure(error: NotPublished) -> ActorProcessingErr {
    match error {
        NotPublished::Superseded => Box::new(error),
        NotPublished::Busy => Box::new(io::Error::new(io::ErrorKind::WouldBlock, error)),
    }
}

/// A packager and its place in the log.
pub struct State {
    stream: Arc<LiveStream>,
    records: Records,
    packager: Packager,
    /// What it goes on from: if the window shows anything else by now, another one publishes.
    published: Arc<Snapshot>,
    /// The next log position to read.
    position: u64,
    /// A position that made predecessors fail, and how often.
    poison: Option<(u64, u32)>,
    vital: Arc<Vital>,
}

impl State {
    /// Goes on where the published window ends.
    pub fn resuming(args: Args, id: ActorId) -> Self {
        let stream = args.stream;
        let snapshot = stream.window.snapshot();
        let (packager, position) = match &snapshot.resume {
            Some(resume) => (resume.packager.clone(), resume.position),
            None => (snapshot.packager(stream.settings.packaging), 0),
        };
        let poison = stream.trial.failed_at().filter(|(_, failures)| *failures >= SKIP_AFTER);
        let place = Place::Stream(stream.name.clone());
        let vital = args.vitals.register("segmenter", place, id, Some(WAIT_SLICE));
        Self { stream, records: args.records, packager, published: snapshot, position, poison, vital }
    }

    /// Reads and packages a batch; whether there is more to read at once.
    pub fn pump(&mut self, now: Instant) -> Result<bool, NotPublished> {
        let read = self.stream.log.read(self.position, BATCH);
        if read.missed > 0 {
            events::samples_missed(&self.stream, read.missed);
        }
        let full = read.entries.len() >= BATCH;
        for (position, entry) in read.entries {
            self.stream.trial.begin(position);
            let skipped = self.poisoned(position);
            // Published even if nothing came of it: the next restart must begin behind it.
            let must_publish = skipped.is_some();
            let outputs = skipped.unwrap_or_else(|| self.packager.push(&entry));
            self.position = position + 1;
            if must_publish || !outputs.is_empty() {
                self.publish(outputs, now)?;
            }
        }
        self.stream.trial.done();
        events::packaged(&self.stream, self.packager.take_counts());
        Ok(full)
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
    fn publish(&mut self, outputs: Vec<Output>, now: Instant) -> Result<(), NotPublished> {
        let (mut segments, mut end) = (Vec::new(), false);
        for output in outputs {
            match output {
                Output::Segment(segment) => segments.push(segment),
                Output::End => end = true,
            }
        }
        let published = segments.clone();
        let resume = Resume { packager: self.packager.clone(), position: self.position };
        let before = self.published.clone();
        let next = before.next(segments, end, self.stream.settings.window, Some(resume), now);
        let record = Record::of(&self.stream, &next);
        self.published = self.stream.window.publish_after(&before, next, || {
            if let Err(error) = self.records.write(&record) {
                events::record_failed(&self.stream, &error);
            }
        })?;
        self.stream.log.release(self.position);
        let first = before.listed.is_empty();
        for (n, segment) in published.iter().enumerate() {
            events::segment_published(&self.stream, segment, n == 0 && first);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use bytes::Bytes;
    use media::{AacConfig, Container, Entry, Sample, TrackKind, packager::Settings};
    use storage::Numbers;
    use storage::StreamName;
    use storage::live::{LiveSettings, Session};
    use tempfile::TempDir;

    /// A stream with fifteen seconds of audio in its log, and what a segmenter of it needs.
    fn args() -> (TempDir, Args) {
        let directory = tempfile::tempdir().expect("temporary directory");
        let packaging = Settings { container: Container::Cmaf, target_duration: 2 };
        let settings = LiveSettings { packaging, ..LiveSettings::default() };
        let name = StreamName::new("live", "show").expect("valid name");
        let snapshot = Snapshot::starting_at(Numbers { media_sequence: 7, discontinuity_sequence: 7 });
        let stream = LiveStream::new(name, settings, Session::beginning_at(0), snapshot, 0);
        let now = Instant::now();
        stream.log.open_epoch(1, 0, now);
        let config = AacConfig::parse(Bytes::from_static(&[0x11, 0x90])).expect("valid");
        let sample = |n: i64| Sample {
            kind: TrackKind::Audio,
            dts: 900_000 + n * 1920,
            composition: 0,
            random_access: true,
            data: Bytes::from(format!("<{n}>")),
        };
        stream.log.append(1, [Entry::Audio(Arc::new(config))], now).expect("current epoch");
        stream.log.append(1, (0..700).map(|n| Entry::Sample(sample(n))), now).expect("current epoch");
        stream.log.close_epoch(1);
        let records = Records::open(directory.path()).expect("directory");
        (directory, Args { stream, records, vitals: Arc::default() })
    }

    fn published(args: &Args) -> String {
        let snapshot = args.stream.window.snapshot();
        let segments = snapshot.expired.iter().map(|expired| &expired.segment).chain(&snapshot.listed);
        segments.map(|segment| String::from_utf8_lossy(&segment.file.bytes.to_bytes()).into_owned()).collect()
    }

    /// A segmenter dies at `position`; its successor starts.
    fn dies_at(args: &Args, position: u64) -> State {
        args.stream.trial.begin(position);
        State::resuming(args.clone(), ActorId::Local(0))
    }

    #[test]
    fn a_position_that_fails_twice_is_skipped_and_the_rest_is_published_once() {
        for deaths in [1, 2, 3] {
            let (_directory, args) = args();
            let poison = 2 + 350;
            let mut segmenter = dies_at(&args, poison);
            for _ in 1..deaths {
                segmenter = dies_at(&args, poison);
            }
            while segmenter.pump(Instant::now()).expect("the only writer") {}
            let (text, skipped) = (published(&args), deaths >= 2);
            assert_eq!(text.contains("<350>"), !skipped, "{deaths} deaths");
            for n in [0, 1, 340, 360, 698, 699] {
                let expected = if deaths == 3 && n == 340 { 0 } else { 1 };
                assert_eq!(text.matches(&format!("<{n}>")).count(), expected, "sample {n} after {deaths} deaths");
            }
            let listed = &args.stream.window.snapshot().listed;
            assert_eq!(listed.iter().any(|segment| segment.listed.discontinuity), skipped);
        }
    }

    #[test]
    fn what_is_held_is_counted_once_until_nobody_needs_it() {
        let (_directory, args) = args();
        let mut segmenter = State::resuming(args.clone(), ActorId::Local(0));
        let payload = |mark: usize| format!("<{mark}>").len();
        let (came, mut saw_both) = ((0..700).map(payload).sum::<usize>(), false);
        loop {
            let more = segmenter.pump(Instant::now()).expect("the only writer");
            let (snapshot, text) = (args.stream.window.snapshot(), published(&args));
            let finished: usize = (0..700).filter(|n| text.contains(&format!("<{n}>"))).map(payload).sum();
            let documents = [&snapshot.media_playlist, &snapshot.multivariant, &snapshot.digests];
            let files: usize = snapshot.files().values().map(|file| file.bytes.len()).sum();
            let fetched = files + documents.iter().map(|document| document.bytes.len()).sum::<usize>();
            assert_eq!(snapshot.held_bytes() - fetched + args.stream.log.bytes(), came - finished);
            saw_both |= finished > 0 && finished < came;
            if !more {
                break;
            }
        }
        assert!(saw_both, "some were published, and some were not");
    }
}
