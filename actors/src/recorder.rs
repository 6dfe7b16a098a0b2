//! recorder: keeps a session's segments for after the show, and makes a VOD of them at its end.
//!
//! It only plans, like the archiver; the work is done by the mount's disk threads. What storage does not take yet
//! waits in the stream's spool, and what the spool cannot hold is a gap in the recording.

use crate::events;
use crate::fault::Fault;
use crate::operations::{Answer, Operations, Turn};
use crate::steps::until_step;
use crate::vitals::{Vital, Vitals};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use std::io;
use std::sync::Arc;
use storage::LiveStream;
use storage::disk::{Busy, Disk};
use storage::recording::{RecordedSegment, RecordingId, SessionRecord};
use storage::recordings::Recordings;
use storage::spool::Waiting;
use tokio::time::{Duration, Instant};

/// How often the window is looked at: far more often than a segment leaves it.
const TICK: Duration = Duration::from_secs(1);
/// Segments recorded in one go, so that one stream's backlog does not keep a disk thread from the others.
const MAX_SEGMENTS: usize = 16;
/// Why a session ended that was not interrupted: its publisher was gone for longer than the grace period.
const PUBLISHER_GONE: &str = "publisher gone";

/// Messages to the recorder.
#[derive(Debug)]
pub enum Msg {
    /// Time to look at the window.
    Tick,
    /// What the recording ends with so far.
    Opened(u64, io::Result<Option<RecordedSegment>>),
    /// Segments up to this number are recorded.
    Recorded(u64, io::Result<u64>),
    /// The VOD is there.
    Finished(u64, io::Result<()>),
    /// Fails on purpose.
    Fail(Fault),
}

/// What a recorder needs to start.
#[derive(Clone)]
pub struct Args {
    /// The stream.
    pub stream: Arc<LiveStream>,
    /// Where recordings lie.
    pub recordings: Arc<Recordings>,
    /// Threads of the mount.
    pub disk: Arc<Disk>,
    /// Where to register.
    pub vitals: Arc<Vitals>,
}

/// The actor.
#[derive(Debug, Default)]
pub struct Recorder;

impl Actor for Recorder {
    type Msg = Msg;
    type State = State;
    type Arguments = Args;

    async fn pre_start(&self, myself: ActorRef<Msg>, args: Args) -> Result<State, ActorProcessingErr> {
        myself.send_after(Duration::ZERO, || Msg::Tick);
        let vital = args.vitals.register(format!("recorder {}", args.stream.name));
        let Args { stream, recordings, disk, .. } = args;
        Ok(State { stream, recordings, operations: Operations::on(disk), opened: false, vital })
    }

    async fn handle(&self, myself: ActorRef<Msg>, msg: Msg, state: &mut State) -> Result<(), ActorProcessingErr> {
        let now = Instant::now();
        let _busy = state.vital.enter("handle");
        match msg {
            Msg::Tick => {
                myself.send_after(until_step(TICK), || Msg::Tick);
                state.tick(&myself, now);
            }
            Msg::Opened(ticket, result) => {
                if let Some(last) = state.answered(ticket, result, now) {
                    state.stream.spool.opened(last.as_ref());
                    state.opened = true;
                    state.tick(&myself, now);
                }
            }
            Msg::Recorded(ticket, result) => {
                if let Some(sequence) = state.answered(ticket, result, now) {
                    state.operations.succeeded();
                    state.stream.spool.recorded(sequence);
                    // A backlog goes on at once.
                    state.tick(&myself, now);
                }
            }
            Msg::Finished(ticket, result) => {
                if state.answered(ticket, result, now).is_some() {
                    state.stream.spool.finish();
                    events::recorded(&state.stream);
                }
            }
            Msg::Fail(fault) => fault.strike()?,
        }
        Ok(())
    }
}

/// What is being done.
pub struct State {
    stream: Arc<LiveStream>,
    recordings: Arc<Recordings>,
    operations: Operations,
    opened: bool,
    vital: Arc<Vital>,
}

impl State {
    fn tick(&mut self, myself: &ActorRef<Msg>, now: Instant) {
        let snapshot = self.stream.window.snapshot();
        // Also while storage hangs: what is not noted in time is lost.
        self.stream.spool.note(&snapshot, self.stream.settings.spool_bytes);
        match self.operations.turn(now) {
            Turn::Begin if !self.stream.spool.is_finished() => {}
            Turn::Begin | Turn::Wait => return,
            Turn::GiveUp => {
                events::archive_operation_abandoned(&self.stream);
                return self.failed(now);
            }
        }
        let record = SessionRecord::of(&self.stream, &snapshot);
        let id = RecordingId::of(&self.stream);
        if !self.opened {
            return self.submit(myself, now, move |recordings| recordings.last(&id), Msg::Opened);
        }
        // What is in the live directory, or will be, is not written twice.
        let files = snapshot.files();
        let ready = |waiting: &Waiting| {
            let name = waiting.published.as_ref().map(|published| published.file.name.as_str());
            name.is_none_or(|name| self.stream.ledger.holds(name) || !files.contains_key(name))
        };
        let batch = self.stream.spool.batch(MAX_SEGMENTS, ready);
        let Some(last) = batch.last().map(|waiting| waiting.entry.sequence) else {
            if snapshot.ended && self.stream.spool.is_empty() {
                self.submit(myself, now, move |recordings| recordings.finish(record, PUBLISHER_GONE), Msg::Finished);
            }
            return;
        };
        let write = move |recordings: &Recordings| {
            recordings.describe(&record)?;
            record_all(recordings, &id, &batch).map(|()| last)
        };
        self.submit(myself, now, write, Msg::Recorded);
    }

    /// Runs an operation on a disk thread.
    fn submit<T: Send + 'static>(
        &mut self,
        myself: &ActorRef<Msg>,
        now: Instant,
        operation: impl FnOnce(&Recordings) -> io::Result<T> + Send + 'static,
        answer: impl FnOnce(u64, io::Result<T>) -> Msg + Send + 'static,
    ) {
        let recordings = self.recordings.clone();
        if let Err(Busy) = self.operations.begin(myself, now, move |_| operation(&recordings), answer) {
            self.failed(now);
        }
    }

    /// The result of the operation in flight; `None` if it failed or is not the one in flight.
    fn answered<T>(&mut self, ticket: u64, result: io::Result<T>, now: Instant) -> Option<T> {
        match self.operations.answered(ticket, result) {
            Answer::Done(value) => Some(value),
            Answer::Failed(error) => {
                events::recording_failed(&self.stream, &error);
                self.failed(now);
                None
            }
            Answer::Stale => None,
        }
    }

    fn failed(&mut self, now: Instant) {
        self.operations.failed(now, fastrand::f64());
        // After a failure nobody knows what was appended: look before appending again.
        self.opened = false;
    }
}

/// Files first, entries when they are durable: no entry names what a crash could take.
fn record_all(recordings: &Recordings, id: &RecordingId, batch: &[Waiting]) -> io::Result<()> {
    let mut written = false;
    for (recorded, file) in batch.iter().flat_map(Waiting::files) {
        written |= recordings.keep(id, recorded, file)?;
    }
    if written {
        recordings.sync()?;
    }
    let entries: Vec<_> = batch.iter().map(|waiting| waiting.entry.clone()).collect();
    recordings.append(id, &entries)
}
