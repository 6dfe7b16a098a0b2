//! The tree of one stream, one_for_one: publisher_lock, segmenter, archiver, watcher, the recorder
//! if sessions are recorded, the slate if there is to be one, and the session linked in.

use crate::children::{Children, Learned, Respawn, fell};
use crate::events;
use crate::spec::{ChildSpec, Restart};
use crate::strategy::{Ending, Intensity};
use crate::tree::{BEAT, Blow, Environment, strike};
use actors::door::Farewell;
use actors::publisher_lock::claims::Leaving;
use actors::publisher_lock::{Notice, PublisherLock};
use actors::steps::until_step;
use actors::{
    Ask, Denial, Place, Vital, Vitals, archiver, publisher_lock, recorder, segmenter, session, slate, watcher,
};
use ractor::{Actor, ActorCell, ActorId, ActorProcessingErr, ActorRef, ActorStatus, SupervisionEvent};
use std::sync::Arc;
use std::time::Duration;
use storage::{LiveStream, Mount};
use thiserror::Error;
use tokio::time::Instant;

/// Ten restarts of one child in a minute: more is a fault that restarting the child does not mend.
const INTENSITY: Intensity = Intensity { restarts: 10, period: Duration::from_secs(60) };
/// Longest wait before a restart of who is missed at once. No new segment is listed while the segmenter is away, and a
/// stream may go for half a target duration without one: as long as ten such waits take, half of their longest on an
/// average. Encoders wait for the lock, and viewers for the slate.
const MISSED_AFTER: Duration = Duration::from_millis(150);
/// When a request comes while the lock restarts, it is tried again after this.
const ASK_AGAIN: Duration = Duration::from_millis(50);

/// Messages to a stream's supervisor.
#[derive(Debug)]
pub enum Msg {
    /// A session asks for the stream.
    Ask(Ask),
    /// The publisher lock has decided something.
    Notice(Notice),
    /// The publisher lock has started.
    LockStarted(ActorRef<publisher_lock::Msg>),
    /// A child is due to be started again.
    Respawn(Respawn),
    /// A child is to be hit on purpose.
    Strike(String, Blow),
    /// A child makes no progress.
    Stuck(ActorId),
    /// The process is being stopped: the encoder is to leave.
    Drain,
    /// Time to show that it runs.
    Beat,
}

impl From<Notice> for Msg {
    fn from(notice: Notice) -> Self {
        Msg::Notice(notice)
    }
}

impl TryFrom<Msg> for Notice {
    type Error = Msg;

    fn try_from(msg: Msg) -> Result<Self, Msg> {
        if let Msg::Notice(notice) = msg { Ok(notice) } else { Err(msg) }
    }
}

/// A child fails too often; the whole tree is to be rebuilt.
#[derive(Debug, Error)]
#[error("{0} was restarted too often")]
pub struct GaveUp(pub &'static str);

/// What a stream's tree is built around.
#[derive(Clone)]
pub struct Args {
    /// The stream.
    pub stream: Arc<LiveStream>,
    /// The process.
    pub environment: Environment,
}

/// The actor.
#[derive(Debug, Default)]
pub struct StreamSupervisor;

impl Actor for StreamSupervisor {
    type Msg = Msg;
    type State = State;
    type Arguments = Args;

    async fn pre_start(&self, myself: ActorRef<Msg>, args: Args) -> Result<State, ActorProcessingErr> {
        let scope = (args.stream.name.to_string(), args.environment.view.clone());
        let (cell, again) = (myself.get_cell(), myself.clone());
        let respawn = move |respawn| drop(again.send_message(Msg::Respawn(respawn)));
        let children = Children::new(scope, cell, INTENSITY, specs(&args, &myself), respawn);
        let place = Place::Stream(args.stream.name.clone());
        let vitals = args.environment.vitals.clone();
        let vital = vitals.register("stream", place, myself.get_id(), Some(BEAT));
        myself.send_after(until_step(BEAT), || Msg::Beat);
        Ok(State { children, session: None, vitals, vital })
    }

    async fn post_start(&self, _: ActorRef<Msg>, state: &mut State) -> Result<(), ActorProcessingErr> {
        let _busy = state.vital.enter("post_start");
        Ok(state.children.start_all().await.map_err(GaveUp)?)
    }

    async fn handle(&self, myself: ActorRef<Msg>, msg: Msg, state: &mut State) -> Result<(), ActorProcessingErr> {
        let _busy = state.vital.enter("handle");
        match msg {
            Msg::Ask(ask) => state.ask(&myself, ask),
            Msg::Notice(Notice::Granted(epoch, session)) => state.link(&myself, epoch, session),
            Msg::Notice(Notice::Over(_)) => {
                state.children.over();
                myself.stop(Some("the session is over".to_owned()));
            }
            Msg::LockStarted(lock) => {
                let _ = lock.send_message(publisher_lock::Msg::Holder(state.session.clone()));
            }
            Msg::Respawn(again) => state.children.respawn(again).await.map_err(GaveUp)?,
            Msg::Strike(child, blow) => state.strike(&child, blow),
            Msg::Stuck(id) => state.stuck(id)?,
            Msg::Drain => state.drain(),
            Msg::Beat => drop(myself.send_after(until_step(BEAT), || Msg::Beat)),
        }
        Ok(())
    }

    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<Msg>,
        event: SupervisionEvent,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        let _busy = state.vital.enter("supervision event");
        match state.children.event(event) {
            Learned::Nothing => {}
            Learned::GiveUp(child) => return Err(Box::new(GaveUp(child))),
            Learned::Stranger(id, ending) => {
                if state.session.as_ref().is_some_and(|(_, session)| session.get_id() == id) {
                    events::session_ended(ending);
                    state.session_ended();
                }
            }
        }
        Ok(())
    }
}

/// The children, and the session that publishes.
pub struct State {
    children: Children,
    /// Temporary: never restarted, its end is the lock's business.
    session: Option<(u64, ActorCell)>,
    vitals: Arc<Vitals>,
    vital: Arc<Vital>,
}

/// The children of a stream, written once.
fn specs(args: &Args, myself: &ActorRef<Msg>) -> Vec<ChildSpec> {
    let Args { stream, environment } = args.clone();
    let Environment { registry, records, mounts, vitals, .. } = environment.clone();
    let mount = mounts.of(&stream.name).clone();
    let Mount { disk, recordings, .. } = mount.clone();
    let lock = publisher_lock::Args { stream: stream.clone(), notices: myself.get_derived(), vitals: vitals.clone() };
    let segmenter = segmenter::Args { stream: stream.clone(), records, vitals: vitals.clone() };
    let archiver = archiver::Args {
        stream: stream.clone(),
        disk: disk.clone(),
        registry: registry.clone(),
        vitals: vitals.clone(),
    };
    let recorder = stream.settings.record.then(|| recorder::Args {
        stream: stream.clone(),
        recordings,
        disk: disk.clone(),
        vitals: vitals.clone(),
        last_until: None,
    });
    let slate = stream.settings.slate.then(|| slate::Args {
        stream: stream.clone(),
        clip: environment.slate.clone(),
        vitals: vitals.clone(),
    });
    let slate = slate
        .map(|args| ChildSpec::new::<slate::Stand>("slate", Restart::Permanent, args, |_| {}).within(MISSED_AFTER));
    let watcher = watcher::Args { stream, mount, registry, vitals };
    let supervisor = myself.clone();
    let lock_started = move |lock: &ActorRef<_>| drop(supervisor.send_message(Msg::LockStarted(lock.clone())));
    let recorder =
        recorder.map(|args| ChildSpec::new::<recorder::Recorder>("recorder", Restart::Permanent, args, |_| {}));
    let children = [
        ChildSpec::new::<PublisherLock>("publisher_lock", Restart::Permanent, lock, lock_started).within(MISSED_AFTER),
        ChildSpec::new::<segmenter::Segmenter>("segmenter", Restart::Permanent, segmenter, |_| {}).within(MISSED_AFTER),
        ChildSpec::new::<archiver::Archiver>("archiver", Restart::Permanent, archiver, |_| {}),
        ChildSpec::new::<watcher::Watcher>("watcher", Restart::Permanent, watcher, |_| {}),
    ];
    children.into_iter().chain(recorder).chain(slate).collect()
}

impl State {
    fn ask(&self, myself: &ActorRef<Msg>, ask: Ask) {
        match self.children.get("publisher_lock") {
            Some(lock) => drop(lock.send_message(publisher_lock::Msg::Claim(ask))),
            None if Instant::now() < ask.deadline => drop(myself.send_after(ASK_AGAIN, || Msg::Ask(ask))),
            None => ask.answer(Err(Denial::NotOpened)),
        }
    }

    /// Makes the session a child. `link` does nothing for an actor that has ended, and says nothing.
    fn link(&mut self, myself: &ActorRef<Msg>, epoch: u64, session: ActorCell) {
        if self.session.as_ref().is_some_and(|(current, _)| *current > epoch) {
            // Granted by a lock that was stuck, after its successor had granted it to another.
            return session.stop(Some("it does not hold the stream".to_owned()));
        }
        session.link(myself.get_cell());
        let status = session.get_status();
        // One that was silent and is not noticed to have lost the stream would stay for ever.
        if let Some((_, replaced)) = self.session.replace((epoch, session)) {
            let replaced: ActorRef<session::Msg> = replaced.into();
            let _ = replaced.send_message(session::Msg::Leave(Farewell::Silent));
        }
        if matches!(status, ActorStatus::Stopping | ActorStatus::Stopped) {
            self.session_ended();
        }
    }

    fn session_ended(&mut self) {
        if let Some((epoch, _)) = self.session.take() {
            self.tell_lock(publisher_lock::Msg::HolderEnded(epoch, Leaving::Lost));
        }
    }

    /// A session cannot be replaced: its encoder connects again.
    fn stuck(&mut self, id: ActorId) -> Result<(), GaveUp> {
        if let Some((_, session)) = self.session.as_ref().filter(|(_, session)| session.get_id() == id) {
            fell(session);
            events::session_ended(Ending::Stuck);
            self.session_ended();
            self.vitals.replaced(id);
            return Ok(());
        }
        // One that is no longer in this tree has no place that could be taken.
        self.vitals.replaced(id);
        match self.children.replace(id) {
            Some(Learned::GiveUp(child)) => Err(GaveUp(child)),
            Some(Learned::Nothing | Learned::Stranger(..)) | None => Ok(()),
        }
    }

    fn drain(&self) {
        if let Some((_, session)) = &self.session {
            let session: ActorRef<session::Msg> = session.clone().into();
            let _ = session.send_message(session::Msg::Leave(Farewell::Stopping));
        }
    }

    /// A lock that is being restarted asks for the holder when it starts.
    fn tell_lock(&self, msg: publisher_lock::Msg) {
        if let Some(lock) = self.children.get("publisher_lock") {
            let _ = lock.send_message(msg);
        }
    }

    fn strike(&mut self, child: &str, blow: Blow) {
        match self.session.as_ref().filter(|_| child == "session") {
            Some((_, session)) => strike(session, child, blow),
            None => self.children.strike(child, blow),
        }
    }
}
