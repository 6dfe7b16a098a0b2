//! Recordings of sessions that are over, as long as storage does not take them.

use super::{Msg, State};
use crate::events;
use crate::strategy::{MAX_BACKOFF, backoff};
use crate::tree::Environment;
use actors::recorder::{self, Recorder};
use ractor::{Actor, ActorRef};
use std::sync::Arc;
use storage::continuity::{MAX_LEFT, Record};
use storage::recording::RecordingId;
use storage::{LiveStream, Mount};
use tokio::time::{Duration, Instant};

/// Recorders that finish what others could not, at most: each holds its stream's last window and its spool.
const MAX_RECORDERS: usize = MAX_LEFT;
/// Sessions that have one or wait for one, at most: each holds as much.
const MAX_FINISHING: usize = 4 * MAX_RECORDERS;
/// How soon it is looked for a place again.
const PLACE_AGAIN: Duration = Duration::from_secs(5);
/// Recorders that go on for one that failed or hung; beyond that it is left until the archive is well again.
const MAX_FAILED: u32 = 5;
/// A recorder's first successor waits as long as if so many had failed: up to 0.6 s, then up to twice as long each time.
const FAILED_IN_A_ROW: u32 = 5;

/// A recording that is not complete although its stream's tree is gone.
#[derive(Debug)]
pub struct Unfinished {
    pub(super) stream: Arc<LiveStream>,
    /// Recorders that failed or hung over it.
    pub(super) failed: u32,
    /// When there is no more to be hoped for.
    pub(super) until: Instant,
    /// It is among those that have a recorder or wait for one.
    pub(super) is_accepted: bool,
}

impl Unfinished {
    /// Of a session that is over.
    pub fn new(stream: &Arc<LiveStream>) -> Self {
        Self { stream: stream.clone(), failed: 0, until: Instant::now() + recorder::FINISH_WITHIN, is_accepted: false }
    }
}

/// Whether there is something of a session that storage has not taken yet.
pub(super) fn is_unfinished(stream: &LiveStream) -> bool {
    stream.settings.record && stream.window.snapshot().has_playlist() && !stream.spool.is_finished()
}

/// Whether something is to be remembered of a session that is over: its mount may come back without all of it.
pub(super) fn is_left(stream: &LiveStream) -> bool {
    is_unfinished(stream) || stream.spool.was_lost()
}

impl State {
    /// Leaves an ended session to the next process, which tells what its recording lacks.
    pub(super) fn leave(&mut self, stream: &LiveStream) {
        let id = RecordingId::of(stream);
        self.environment.records.leave(&id);
        self.remember(id, stream.spool.is_finished());
    }

    /// What was left by those before.
    pub(super) fn remember_all(&mut self) {
        let mut left = self.environment.records.left().unwrap_or_default();
        left.sort_by_key(Record::over_at_ms);
        left.iter().for_each(|record| self.remember(record.id(), record.recorded));
    }

    /// Remembers that there is a record aside. Of too many those go first that are recorded.
    fn remember(&mut self, id: RecordingId, is_recorded: bool) {
        let Self { environment, left, .. } = self;
        left.retain(|(other, _)| *other != id);
        left.push_back((id, is_recorded));
        if left.len() > MAX_LEFT {
            let first = left.iter().position(|(_, is_recorded)| *is_recorded).unwrap_or(0);
            left.remove(first).iter().for_each(|(id, _)| environment.records.forget(id));
        }
    }

    /// Notes that a recording is complete, while the session is remembered: the next process would record it again. What
    /// is remembered of one that is not complete stays: the next process finishes it.
    pub(super) fn note_recorded(&mut self, stream: &Arc<LiveStream>) {
        let Environment { registry, records, .. } = &self.environment;
        if !stream.spool.is_finished() {
            return;
        }
        let (registry, id) = (registry.clone(), RecordingId::of(stream));
        match registry.get(&stream.name.to_string()) {
            Some(remembered) if Arc::ptr_eq(&remembered, stream) => {
                // Without it the recording is made again, of what the window still holds.
                let _ = records.write(&Record::of(stream, &stream.window.snapshot()));
            }
            // Its mount may come back with less.
            _ if stream.spool.was_lost() => {
                let _ = records.write_left(&Record::of(stream, &stream.window.snapshot()));
                self.remember(id, true);
            }
            _ => {
                records.forget(&id);
                self.left.retain(|(other, _)| *other != id);
            }
        }
        // Last: nobody is to find it remembered and neither recorded nor on its way.
        registry.finish_no_more(stream);
    }

    /// Leaves a recording as it is, until its archive is well again or the process starts.
    pub(super) fn give_up(&self, stream: &LiveStream) {
        self.environment.registry.finish_no_more(stream);
        events::recording_left(&stream.name.to_string());
    }

    /// Another recorder goes on where one has failed, after a while.
    pub(super) fn finish_again(&self, myself: &ActorRef<Msg>, unfinished: Unfinished) {
        let wait = backoff(FAILED_IN_A_ROW + unfinished.failed, MAX_BACKOFF, fastrand::f64());
        let again = Unfinished { failed: unfinished.failed + 1, ..unfinished };
        myself.send_after(wait, || Msg::Finish(again));
    }

    /// A session whose tree is gone, and whose recording is not complete, has a recorder of its own for the rest.
    pub(super) async fn finish_recording(&mut self, myself: &ActorRef<Msg>, mut unfinished: Unfinished) {
        let Unfinished { stream, failed, until, is_accepted } = &mut unfinished;
        if !is_unfinished(stream) {
            self.note_recorded(stream);
            // Also one that is not complete, and has nothing to be recorded.
            return self.environment.registry.finish_no_more(stream);
        }
        let (tree, id) = (self.trees.get(&stream.name), RecordingId::of(stream));
        let has_recorder = self.recorders.values().any(|(_, other)| RecordingId::of(&other.stream) == id);
        if has_recorder || tree.is_some_and(|tree| Arc::ptr_eq(&tree.stream, stream)) {
            return;
        }
        let registry = &self.environment.registry;
        let (is_full, now) = (self.recorders.len() == MAX_RECORDERS, Instant::now());
        let is_too_many = !*is_accepted && registry.finishing_besides(&id) >= MAX_FINISHING;
        if *failed > MAX_FAILED || is_full && (is_too_many || now >= *until) {
            return self.give_up(stream);
        }
        registry.finish_later(stream);
        *is_accepted = true;
        // It is not complete any more, if it was.
        self.left.iter_mut().filter(|(other, _)| *other == id).for_each(|(_, is_recorded)| *is_recorded = false);
        if is_full {
            return drop(myself.send_after(PLACE_AGAIN, || Msg::Finish(unfinished)));
        }
        let Mount { disk, recordings, .. } = self.environment.mounts.of(&stream.name).clone();
        let (vitals, last_until) = (self.environment.vitals.clone(), Some(*until));
        let args = recorder::Args { stream: stream.clone(), recordings, disk, vitals, last_until };
        match Recorder::spawn_linked(None, Recorder, args, myself.get_cell()).await {
            Ok((recorder, _)) => drop(self.recorders.insert(recorder.get_id(), (recorder.get_cell(), unfinished))),
            Err(_) => self.give_up(stream),
        }
    }
}
