//! recorder: keeps a session's segments for after the show, and makes a VOD of them at its end.
//!
//! It only plans, like the archiver; the work is done by the mount's disk threads. What storage does not take yet
//! waits in the stream's spool, and what the spool cannot hold is a gap in the recording.

use crate::events;
use crate::fault::Fault;
use crate::operations::{Answer, Operations, Turn};
use crate::steps::until_step;
use crate::vitals::{Place, Vital, Vitals};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use std::collections::BTreeSet;
use std::io;
use std::sync::Arc;
use storage::LiveStream;
use storage::disk::{Busy, Disk};
use storage::recording::{RecordedSegment, RecordingId, SessionRecord, gaps_between};
use storage::recordings::{End, Opened, Recordings, index_changed};
use storage::spool::Waiting;
use tokio::time::{Duration, Instant};

/// How often the window is looked at: far more often than a segment leaves it.
const TICK: Duration = Duration::from_secs(1);
/// Segments recorded in one go, so that one stream's backlog does not keep a disk thread from the others.
const MAX_SEGMENTS: usize = 16;
/// Entries recorded in one go, of which most are gaps then: a day of them at once, for each of many streams, would be
/// gigabytes.
const MAX_ENTRIES: usize = 1000;
/// How often the session's record is written while nothing in it changes but what it adds up to: it costs a sync.
const DESCRIBE: Duration = Duration::from_secs(60);
/// How long recorders that outlive their stream try to finish; what they leave is finished when the
/// archive is well again, or at the next start.
pub const FINISH_WITHIN: Duration = Duration::from_secs(600);
/// One that has just succeeded goes on for so long: what is still in memory would be lost with it.
const GOES_ON: Duration = Duration::from_secs(30);
/// Why a session ended that was not interrupted: its publisher was gone for longer than the grace period.
const PUBLISHER_GONE: &str = "publisher gone";

/// Messages to the recorder.
#[derive(Debug)]
pub enum Msg {
    /// Time to look at the window.
    Tick,
    /// What the recording ends with so far, and what is in it.
    Opened(u64, io::Result<Opened>),
    /// Files are there; whether some had to be written.
    Kept(u64, io::Result<bool>),
    /// They are durable.
    Synced(u64, io::Result<()>),
    /// And so are the entries that name them.
    Recorded(u64, io::Result<End>),
    /// The VOD is there, with so many gaps.
    Finished(u64, io::Result<u64>),
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
    /// The stream's tree is gone: nobody else writes for it, and the recorder ends when it has finished, or then.
    pub last_until: Option<Instant>,
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
        let vital =
            args.vitals.register("recorder", Place::Stream(args.stream.name.clone()), myself.get_id(), Some(TICK));
        let Args { stream, recordings, disk, last_until, .. } = args;
        Ok(State {
            stream,
            recordings,
            operations: Operations::on(disk),
            last_until,
            opened: None,
            described: None,
            batch: None,
            took: None,
            must_sync: false,
            vital,
        })
    }

    async fn handle(&self, myself: ActorRef<Msg>, msg: Msg, state: &mut State) -> Result<(), ActorProcessingErr> {
        let now = Instant::now();
        let _busy = state.vital.enter("handle");
        match msg {
            Msg::Tick => {
                myself.send_after(until_step(TICK), || Msg::Tick);
                state.tick(&myself, now);
            }
            Msg::Opened(ticket, result) => state.opened(&myself, ticket, result, now),
            Msg::Kept(ticket, result) => state.kept(&myself, ticket, result, now),
            Msg::Synced(ticket, result) => state.synced(&myself, ticket, result, now),
            Msg::Recorded(ticket, result) => state.recorded(&myself, ticket, result, now),
            Msg::Finished(ticket, result) => state.finished(ticket, result, now),
            Msg::Fail(fault) => fault.strike()?,
        }
        if state.has_nothing_left(now) {
            myself.stop(None);
        }
        Ok(())
    }
}

/// Segments on their way into the recording.
struct Batch {
    segments: Vec<Waiting>,
    /// What will be appended: gaps before them, and they.
    entries: Vec<RecordedSegment>,
}

/// What is being done.
pub struct State {
    stream: Arc<LiveStream>,
    recordings: Arc<Recordings>,
    operations: Operations,
    /// Until when it tries, if it outlives its stream.
    last_until: Option<Instant>,
    /// What the recording ends with, once that is known.
    opened: Option<Opened>,
    /// The record that was written last, and when.
    described: Option<(SessionRecord, Instant)>,
    batch: Option<Batch>,
    /// When storage took something last.
    took: Option<Instant>,
    /// What was written before a failure may not be durable, whatever the next look says.
    must_sync: bool,
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
        let id = RecordingId::of(&self.stream);
        let Some(Opened { last, totals, end, .. }) = &self.opened else {
            return self.open(myself, Opened::default(), now);
        };
        let record = SessionRecord::of(&self.stream, &snapshot, *totals);
        // What is in the live directory, or will be, is not written twice.
        let files = snapshot.files();
        let ready = |waiting: &Waiting| {
            let name = waiting.published.as_ref().map(|published| published.file.name.as_str());
            let is_live = |name| self.last_until.is_none() && files.contains_key(name);
            name.is_none_or(|name| self.stream.ledger.holds(name) || !is_live(name))
        };
        let segments = self.stream.spool.batch(MAX_SEGMENTS, ready);
        if segments.is_empty() {
            if snapshot.ended && self.stream.spool.is_empty() {
                let end = end.clone();
                self.finish(myself, record, end, now);
            }
            return;
        }
        let batch = Batch::of(last.as_ref(), self.stream.spool.first(), segments);
        let describe = self.is_news(&record, now).then(|| record.clone());
        if describe.is_some() {
            self.described = Some((record, now));
        }
        let files = batch.segments.clone();
        self.batch = Some(batch);
        let keep = move |recordings: &Recordings| {
            describe.map_or(Ok(()), |record| recordings.describe(&record))?;
            files
                .iter()
                .flat_map(Waiting::files)
                .try_fold(false, |written, (recorded, file)| Ok(written | recordings.keep(&id, recorded, file)?))
        };
        self.begin(myself, now, keep, Msg::Kept);
    }

    /// Looks what there is, some hours of it at once.
    fn open(&mut self, myself: &ActorRef<Msg>, before: Opened, now: Instant) {
        let id = RecordingId::of(&self.stream);
        self.begin(myself, now, move |recordings| recordings.open(&id, before), Msg::Opened);
    }

    /// Makes a VOD of what ends there.
    fn finish(&mut self, myself: &ActorRef<Msg>, record: SessionRecord, end: End, now: Instant) {
        if self.stream.spool.may_return(now) {
            // At the next tick it is looked again.
            self.opened = None;
            return;
        }
        let finish = move |recordings: &Recordings| {
            // Nothing was appended for a while: an index that was lost meanwhile is no end of a recording.
            if recordings.end(&record.id)? != end {
                return Err(index_changed());
            }
            recordings.finish(record, PUBLISHER_GONE)
        };
        self.begin(myself, now, finish, Msg::Finished);
    }

    /// Whether a record says something that the one written last does not, or it is time anyway.
    fn is_news(&self, record: &SessionRecord, now: Instant) -> bool {
        self.described.as_ref().is_none_or(|(before, at)| {
            now.saturating_duration_since(*at) >= DESCRIBE || !record.is_but_longer_than(before)
        })
    }

    fn opened(&mut self, myself: &ActorRef<Msg>, ticket: u64, result: io::Result<Opened>, now: Instant) {
        let Some(opened) = self.answered(ticket, result, now) else { return };
        if opened.more {
            return self.open(myself, opened, now);
        }
        let lost = self.stream.spool.opened(opened.last.as_ref(), &self.stream.window.snapshot());
        self.stream.spool.indexed(opened.totals.segments, now);
        if lost > 0 {
            events::index_lost(&self.stream, lost);
        }
        self.opened = Some(opened);
        self.tick(myself, now);
    }

    /// Files first, entries when they are durable: no entry names what a crash could take.
    fn kept(&mut self, myself: &ActorRef<Msg>, ticket: u64, result: io::Result<bool>, now: Instant) {
        let Some(written) = self.answered(ticket, result, now) else { return };
        if !written && !self.must_sync {
            return self.append(myself, now);
        }
        if let Err(Busy) = self.operations.sync(myself, now, Msg::Synced) {
            self.failed(now);
        }
    }

    fn synced(&mut self, myself: &ActorRef<Msg>, ticket: u64, result: io::Result<()>, now: Instant) {
        if self.answered(ticket, result, now).is_some() {
            self.must_sync = false;
            self.append(myself, now);
        }
    }

    fn append(&mut self, myself: &ActorRef<Msg>, now: Instant) {
        let (Some(batch), Some(opened)) = (&self.batch, &self.opened) else { return };
        let (id, entries, end) = (RecordingId::of(&self.stream), batch.entries.clone(), opened.end.clone());
        self.begin(myself, now, move |recordings| recordings.append(&id, &entries, &end), Msg::Recorded);
    }

    fn recorded(&mut self, myself: &ActorRef<Msg>, ticket: u64, result: io::Result<End>, now: Instant) {
        let Some(end) = self.answered(ticket, result, now) else { return };
        let (Some(Batch { segments, entries }), Some(opened)) = (self.batch.take(), &mut self.opened) else { return };
        opened.end = end;
        self.operations.succeeded();
        self.took = Some(now);
        let noticed: BTreeSet<_> = segments.iter().map(|waiting| waiting.entry.sequence).collect();
        let unnoticed = entries.iter().map(|entry| entry.sequence).filter(|sequence| !noticed.contains(sequence));
        self.stream.spool.add_gaps(unnoticed);
        if let Some(last) = entries.last() {
            self.stream.spool.recorded(last.sequence);
            (opened.last, opened.totals) = (Some(last.clone()), opened.totals.and(&entries));
            self.stream.spool.indexed(opened.totals.segments, now);
        }
        // A backlog goes on at once.
        self.tick(myself, now);
    }

    fn finished(&mut self, ticket: u64, result: io::Result<u64>, now: Instant) {
        if let Some(gaps) = self.answered(ticket, result, now) {
            self.stream.spool.finish_with(gaps);
            events::recorded(&self.stream, gaps);
        }
    }

    /// A recorder that outlives its stream ends when all is done, or nothing more is to be hoped for.
    fn has_nothing_left(&self, now: Instant) -> bool {
        let goes_on = self.took.is_some_and(|took| now.saturating_duration_since(took) < GOES_ON);
        self.last_until.is_some_and(|until| self.stream.spool.is_finished() || now >= until && !goes_on)
    }

    /// Runs an operation on a disk thread.
    fn begin<T: Send + 'static>(
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
        // After a failure nobody knows what was appended: look before appending again. Nor what is durable: the error
        // of a write-back is told once.
        (self.opened, self.described, self.batch) = (None, None, None);
        self.must_sync = true;
    }
}

impl Batch {
    /// Segments with gaps for those that are missing before them. Of many gaps it is the first, and no more segments.
    fn of(last: Option<&RecordedSegment>, first: u64, mut segments: Vec<Waiting>) -> Self {
        let mut entries: Vec<RecordedSegment> = Vec::new();
        for n in 0..segments.len() {
            let entry = &segments[n].entry;
            let room = MAX_ENTRIES.saturating_sub(entries.len());
            let gaps = gaps_between(entries.last().or(last), first, entry, room);
            let next = gaps.last().or(entries.last()).or(last).map_or(first, |before| before.sequence + 1);
            entries.extend(gaps);
            if next < entry.sequence {
                segments.truncate(n);
                break;
            }
            entries.push(entry.clone());
        }
        Self { segments, entries }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use storage::recording::RecordedFile;

    fn entry(sequence: u64) -> RecordedSegment {
        RecordedSegment {
            sequence,
            file: RecordedFile { uri: format!("2026112112/0-{sequence}.m4s"), sha256: String::new() },
            map: None,
            duration: 180_000,
            discontinuity: false,
            program_date_time_ms: 0,
            gap: false,
            bytes: 1,
        }
    }

    #[test]
    fn a_day_that_is_lost_becomes_gaps_in_many_goes_and_then_come_the_segments() {
        let waiting = || [2501, 2502].map(|sequence| Waiting { entry: entry(sequence), published: None }).to_vec();
        let (mut last, mut sequences, mut goes) = (None, Vec::new(), 0);
        while sequences.last() != Some(&2502) {
            let batch = Batch::of(last.as_ref(), 1, waiting());
            assert!(batch.entries.len() <= MAX_ENTRIES + 2 && (batch.segments.is_empty() || batch.segments.len() == 2));
            sequences.extend(batch.entries.iter().map(|entry| entry.sequence));
            last = batch.entries.last().cloned();
            goes += 1;
        }
        assert_eq!((goes, sequences), (3, (1..=2502).collect()));
    }
}
