//! streams: opens and closes stream trees and keeps what they share. Trees of different streams never meet.

mod unfinished;

use crate::children::{ending_of, fell};
use crate::events;
use crate::strategy::{Decision, Ending, History, Intensity, Restart};
use crate::stream::{self, StreamSupervisor};
use crate::tree::{BEAT, Environment, Strike};
use actors::steps::until_step;
use actors::vitals::Stuck;
use actors::{Ask, Denial, Place, Vital, task};
use ractor::{Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef, SupervisionEvent};
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::SystemTime;
use storage::continuity::Record;
use storage::live::{Publisher, clock_numbers, wall_ms};
use storage::recording::RecordingId;
use storage::{LiveStream, Session, Snapshot, StreamName};
use tokio::task::JoinHandle;
use tokio::time::{Duration, Instant};
pub use unfinished::Unfinished;
use unfinished::{is_left, is_unfinished};

/// A stream's tree is rebuilt as often as it takes, with a capped backoff.
const INTENSITY: Intensity = Intensity { restarts: 1000, period: Duration::from_secs(60) };
/// Pause before a tree that was rebuilt too often is rebuilt again.
const GIVEN_UP_PAUSE: Duration = Duration::from_secs(5);
/// How long the last playlist and segments of a session stay fetchable after its end.
const RETIRE_AFTER: Duration = Duration::from_secs(60);
/// When a request comes while a tree is rebuilt, it is tried again after this.
const ASK_AGAIN: Duration = Duration::from_millis(50);
/// How long a dead tree's state may take to be dropped before its successor starts anyway.
const DROP_DEADLINE: Duration = Duration::from_secs(1);

/// Messages to `streams`.
#[derive(Debug)]
pub enum Msg {
    /// A session asks for a stream.
    Ask(Ask),
    /// A tree is due to be built again.
    Rebuild(StreamName, u64),
    /// An ended session's window is due to go.
    Retire(Arc<LiveStream>),
    /// A child of a stream is to be hit on purpose.
    Strike(Strike),
    /// An actor of a stream's tree makes no progress.
    Stuck(Stuck),
    /// The process is being stopped: all encoders are to leave, and no stream is opened.
    Drain,
    /// Another recorder is to go on where one has failed.
    Finish(Unfinished),
    /// Time to show that it runs.
    Beat,
}

/// The actor.
#[derive(Debug, Default)]
pub struct Streams;

impl Actor for Streams {
    type Msg = Msg;
    type State = State;
    type Arguments = Environment;

    async fn pre_start(&self, myself: ActorRef<Msg>, environment: Environment) -> Result<State, ActorProcessingErr> {
        let vital = environment.vitals.register("streams", Place::Root, myself.get_id(), Some(BEAT));
        myself.send_after(until_step(BEAT), || Msg::Beat);
        let (trees, recorders, left) = (HashMap::new(), HashMap::new(), VecDeque::new());
        Ok(State { environment, trees, recorders, left, is_draining: false, vital })
    }

    /// Streams that live already are those of a predecessor, or of the process before this one.
    async fn post_start(&self, myself: ActorRef<Msg>, state: &mut State) -> Result<(), ActorProcessingErr> {
        let _busy = state.vital.enter("post_start");
        state.remember_all();
        for stream in state.environment.registry.all() {
            // One that has ended is closed by its lock, and retired, like any other.
            state.build(&myself, stream).await;
        }
        for stream in state.environment.registry.all_finishing() {
            let shown = state.environment.registry.get(&stream.name.to_string());
            // One that is shown has a tree again, which sees to its recording.
            if shown.is_none_or(|shown| !Arc::ptr_eq(&shown, &stream)) {
                state.leave(&stream);
                state.finish_recording(&myself, Unfinished::new(&stream)).await;
            }
        }
        Ok(())
    }

    async fn handle(&self, myself: ActorRef<Msg>, msg: Msg, state: &mut State) -> Result<(), ActorProcessingErr> {
        let _busy = state.vital.enter("handle");
        match msg {
            Msg::Ask(ask) => state.ask(&myself, ask).await,
            Msg::Rebuild(name, generation) => state.rebuild(&myself, &name, generation).await,
            Msg::Retire(stream) => state.retire(&stream),
            Msg::Strike(Strike { stream: Some(name), child, blow }) => {
                state.tell(&name, stream::Msg::Strike(child, blow))
            }
            Msg::Strike(Strike { stream: None, .. }) => {}
            Msg::Stuck(stuck) => state.stuck(&myself, &stuck).await,
            Msg::Drain => state.drain(),
            Msg::Finish(unfinished) => state.finish_recording(&myself, unfinished).await,
            Msg::Beat => drop(myself.send_after(until_step(BEAT), || Msg::Beat)),
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        myself: ActorRef<Msg>,
        event: SupervisionEvent,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        let _busy = state.vital.enter("supervision event");
        let Some((cell, ending, _)) = ending_of(event) else { return Ok(()) };
        match state.recorders.remove(&cell.get_id()) {
            Some((_, unfinished)) if ending != Ending::Stopped => state.finish_again(&myself, unfinished),
            Some((_, Unfinished { stream, .. })) if is_unfinished(&stream) => state.give_up(&stream),
            Some((_, unfinished)) => state.note_recorded(&unfinished.stream),
            None => state.tree_ended(&myself, cell.get_id(), ending).await,
        }
        Ok(())
    }
}

struct Tree {
    stream: Arc<LiveStream>,
    history: History,
    generation: u64,
    running: Option<(ActorRef<stream::Msg>, JoinHandle<()>)>,
}

/// Whether the session has ended and its last playlist is published: before that a new one would cut it short.
fn is_over(stream: &LiveStream) -> bool {
    stream.publisher() == Publisher::Ended && stream.window.snapshot().ended
}

/// The trees, by stream name.
pub struct State {
    environment: Environment,
    trees: HashMap<StreamName, Tree>,
    /// Recorders that have outlived their stream's tree.
    recorders: HashMap<ActorId, (ActorCell, Unfinished)>,
    /// Sessions that are left to the next process, as long as storage does not take their recordings, and whether it has.
    left: VecDeque<(RecordingId, bool)>,
    is_draining: bool,
    vital: Arc<Vital>,
}

impl State {
    async fn ask(&mut self, myself: &ActorRef<Msg>, ask: Ask) {
        if self.is_draining {
            return ask.answer(Err(Denial::Stopping));
        }
        if self.trees.get(&ask.stream).is_none_or(|tree| is_over(&tree.stream)) {
            let stream = self.open(&ask.stream);
            let registry = &self.environment.registry;
            let before = registry.get(&ask.stream.to_string()).filter(|before| is_left(before));
            // Before it loses its name: whoever finishes what nobody records is to leave it alone.
            if let Some(before) = &before {
                registry.finish_later(before);
            }
            if registry.insert(stream.clone()).is_err() {
                return ask.answer(Err(Denial::TooManyStreams));
            }
            // The new session's record takes the place of its own.
            before.iter().for_each(|before| self.leave(before));
            let closed = self.close(myself, &ask.stream).await;
            if let Some(before) = before.filter(|_| !closed) {
                self.finish_recording(myself, Unfinished::new(&before)).await;
            }
            self.build(myself, stream).await;
        }
        match self.trees.get(&ask.stream).and_then(|tree| tree.running.as_ref()) {
            Some((tree, _)) => drop(tree.send_message(stream::Msg::Ask(ask))),
            // Its tree is being rebuilt: the encoder is held until then, not sent away.
            None if Instant::now() < ask.deadline => drop(myself.send_after(ASK_AGAIN, || Msg::Ask(ask))),
            None => ask.answer(Err(Denial::NotOpened)),
        }
    }

    /// A new session. Its numbers go on from what viewers of this name have seen, in this process or before.
    fn open(&self, name: &StreamName) -> Arc<LiveStream> {
        let Environment { registry, records, settings, used, .. } = &self.environment;
        let wall = SystemTime::now();
        let session = Session::beginning_at(wall_ms(wall));
        if let Some(before) = registry.get(&name.to_string()) {
            let snapshot = before.window.snapshot().new_session(Instant::now());
            return LiveStream::new(name.clone(), settings.of(name), session, snapshot, before.epoch());
        }
        let record = records.read(name);
        let (numbers, epoch) = match &record {
            Some(record) => (record.numbers_after(), record.epoch),
            None => (clock_numbers(wall).above(*used), 0),
        };
        LiveStream::new(name.clone(), settings.of(name), session, Snapshot::starting_at(numbers), epoch)
    }

    async fn build(&mut self, myself: &ActorRef<Msg>, stream: Arc<LiveStream>) {
        let name = stream.name.clone();
        let history = History::new(Restart::Transient, INTENSITY, Instant::now());
        self.trees.insert(name.clone(), Tree { stream, history, generation: 0, running: None });
        self.rebuild(myself, &name, 0).await;
        events::streams(self.trees.len());
    }

    async fn rebuild(&mut self, myself: &ActorRef<Msg>, name: &StreamName, generation: u64) {
        let Some(tree) = self.trees.get_mut(name) else { return };
        if tree.generation != generation || tree.running.is_some() {
            return;
        }
        tree.generation += 1;
        let args = stream::Args { stream: tree.stream.clone(), environment: self.environment.clone() };
        match StreamSupervisor::spawn_linked(None, StreamSupervisor, args, myself.get_cell()).await {
            Ok(started) => {
                tree.history.started(Instant::now());
                tree.running = Some(started);
            }
            Err(_) => Box::pin(self.again(myself, name, Ending::NotStarted)).await,
        }
    }

    async fn tree_ended(&mut self, myself: &ActorRef<Msg>, id: ActorId, ending: Ending) {
        let is_it = |tree: &Tree| tree.running.as_ref().is_some_and(|(running, _)| running.get_id() == id);
        // A tree that was closed to make room for a new session is not in the table any more.
        let Some(name) = self.trees.iter().find(|(_, tree)| is_it(tree)).map(|(name, _)| name.clone()) else { return };
        self.again(myself, &name, ending).await;
    }

    async fn again(&mut self, myself: &ActorRef<Msg>, name: &StreamName, ending: Ending) {
        let Some(tree) = self.trees.get_mut(name) else { return };
        // A tree that is stuck is not waited for.
        let handle = tree.running.take().map(|(_, handle)| handle).filter(|_| ending != Ending::Stuck);
        match tree.history.ended(ending, Instant::now(), fastrand::f64()) {
            decision @ (Decision::RestartAfter(_) | Decision::GiveUp) => {
                // There is nobody above to give up to: a stream always gets another try.
                let wait = if let Decision::RestartAfter(wait) = decision { wait } else { GIVEN_UP_PAUSE };
                events::rebuilding(&name.to_string(), ending);
                let (myself, rebuild) = (myself.clone(), Msg::Rebuild(name.clone(), tree.generation));
                task::spawn(async move {
                    if let Some(handle) = handle {
                        let _ = tokio::time::timeout(DROP_DEADLINE, handle).await;
                    }
                    tokio::time::sleep(wait).await;
                    let _ = myself.send_message(rebuild);
                });
            }
            Decision::Leave => {
                let stream = tree.stream.clone();
                self.trees.remove(name);
                events::streams(self.trees.len());
                self.note_recorded(&stream);
                self.finish_recording(myself, Unfinished::new(&stream)).await;
                let shown = stream.window.snapshot().has_playlist();
                myself.send_after(if shown { RETIRE_AFTER } else { Duration::ZERO }, || Msg::Retire(stream));
            }
        }
    }

    /// Stops the tree of an ended session that a new one takes the place of; false if it has none any more.
    async fn close(&mut self, myself: &ActorRef<Msg>, name: &StreamName) -> bool {
        let Some(Tree { stream, running, .. }) = self.trees.remove(name) else { return false };
        if let Some((tree, _)) = running {
            tree.stop(Some("a new session begins".to_owned()));
        }
        self.finish_recording(myself, Unfinished::new(&stream)).await;
        true
    }

    /// The window of an ended session goes, and what is remembered of the name with it, but for the numbers: more
    /// discontinuities may have been in it than hours have passed.
    fn retire(&mut self, stream: &Arc<LiveStream>) {
        let shown = self.environment.registry.get(&stream.name.to_string());
        if !shown.is_some_and(|shown| Arc::ptr_eq(&shown, stream)) {
            return;
        }
        let used = Record::of(stream, &stream.window.snapshot()).numbers_after();
        self.environment.used = self.environment.used.or_higher(used);
        // By what is remembered the next process tells what is missing in a recording. Before it loses its name: whoever
        // finishes what nothing is known of is to find it.
        let is_left = is_left(stream);
        if is_left {
            self.leave(stream);
        }
        self.environment.registry.remove(stream);
        if !is_left {
            self.environment.records.forget(&RecordingId::of(stream));
        }
    }

    /// Somebody in a tree makes no progress: its supervisor sees to that, unless it is the one.
    async fn stuck(&mut self, myself: &ActorRef<Msg>, stuck: &Stuck) {
        let Place::Stream(name) = &stuck.place else { return };
        if let Some((recorder, unfinished)) = self.recorders.remove(&stuck.id) {
            fell(&recorder);
            self.environment.vitals.replaced(stuck.id);
            return self.finish_again(myself, unfinished);
        }
        // What is left of a tree that is gone has no place that could be taken.
        let Some(tree) = self.trees.get(name) else { return self.environment.vitals.replaced(stuck.id) };
        match &tree.running {
            Some((running, _)) if running.get_id() == stuck.id => {
                fell(&running.get_cell());
                self.environment.vitals.replaced(stuck.id);
                self.again(myself, name, Ending::Stuck).await;
            }
            Some((running, _)) => drop(running.send_message(stream::Msg::Stuck(stuck.id))),
            None => {}
        }
    }

    fn drain(&mut self) {
        self.is_draining = true;
        for (tree, _) in self.trees.values().filter_map(|tree| tree.running.as_ref()) {
            let _ = tree.send_message(stream::Msg::Drain);
        }
    }

    fn tell(&self, name: &StreamName, msg: stream::Msg) {
        if let Some((tree, _)) = self.trees.get(name).and_then(|tree| tree.running.as_ref()) {
            let _ = tree.send_message(msg);
        }
    }
}
