//! root: the supervisor of everything in the worker, one_for_one.

use crate::children::{Children, Learned, Respawn};
use crate::spec::{ChildSpec, Restart};
use crate::strategy::Intensity;
use crate::stream::GaveUp;
use crate::streams::{self, Streams, Unfinished};
use crate::tree::{BEAT, Environment, Strike};
use crate::watchdog::{Pulse, Watchdog};
use actors::interrupted::Left;
use actors::retention::{self, Retention};
use actors::rtmp_listener::{self, RtmpListener};
use actors::steps::until_step;
use actors::storage_probe::{self, StorageProbe};
use actors::vitals::Stuck;
use actors::{Ask, Authorizer, Denial, Place, Vital, Vitals};
use ractor::{Actor, ActorProcessingErr, ActorRef, SupervisionEvent};
use std::sync::Arc;
use std::time::Duration;
use storage::LiveStream;
use tokio::net::TcpListener;

/// More than this and the process is ended for its parent to start anew.
const INTENSITY: Intensity = Intensity { restarts: 20, period: Duration::from_secs(60) };

/// How long the listener may be inside an accept when it is told to close.
const CLOSED_AFTER: Duration = rtmp_listener::ACCEPT_SLICE.saturating_mul(2);

/// Messages to the root.
#[derive(Debug)]
pub enum Msg {
    /// A session asks for a stream; passed on to whichever generation of `streams` runs.
    Ask(Ask),
    /// A child is due to be started again.
    Respawn(Respawn),
    /// An actor is to be hit on purpose.
    Strike(Strike),
    /// An actor makes no progress.
    Stuck(Stuck),
    /// The process is being stopped: encoders are to leave, and no others are accepted.
    Drain,
    /// What was left of an ended session is to be recorded now.
    Returned(Arc<LiveStream>),
    /// No encoder is accepted any more: those that are there may leave.
    Closed,
    /// Time to show that it runs.
    Beat,
}

impl From<Ask> for Msg {
    fn from(ask: Ask) -> Self {
        Msg::Ask(ask)
    }
}

impl TryFrom<Msg> for Ask {
    type Error = Msg;

    fn try_from(msg: Msg) -> Result<Self, Msg> {
        if let Msg::Ask(ask) = msg { Ok(ask) } else { Err(msg) }
    }
}

/// What the whole tree is built around.
#[derive(Clone)]
pub struct Args {
    /// The process.
    pub environment: Environment,
    /// Where encoders connect.
    pub rtmp: Arc<TcpListener>,
    /// Who may publish.
    pub authorizer: Arc<dyn Authorizer>,
    /// Most a publisher may send, bits per second.
    pub max_bitrate: u64,
    /// The heartbeat of the actors' runtime.
    pub pulse: Arc<Pulse>,
}

/// The actor.
#[derive(Debug, Default)]
pub struct Root;

impl Actor for Root {
    type Msg = Msg;
    type State = State;
    type Arguments = Args;

    async fn pre_start(&self, myself: ActorRef<Msg>, args: Args) -> Result<State, ActorProcessingErr> {
        let (cell, again) = (myself.get_cell(), myself.clone());
        let respawn = move |respawn| drop(again.send_message(Msg::Respawn(respawn)));
        let scope = ("root".to_owned(), args.environment.view.clone());
        let vitals = args.environment.vitals.clone();
        let vital = vitals.register("root", Place::Root, myself.get_id(), Some(BEAT));
        myself.send_after(until_step(BEAT), || Msg::Beat);
        Ok(State { children: Children::new(scope, cell, INTENSITY, specs(args, &myself), respawn), vitals, vital })
    }

    async fn post_start(&self, _: ActorRef<Msg>, state: &mut State) -> Result<(), ActorProcessingErr> {
        let _busy = state.vital.enter("post_start");
        Ok(state.children.start_all().await.map_err(GaveUp)?)
    }

    async fn handle(&self, myself: ActorRef<Msg>, msg: Msg, state: &mut State) -> Result<(), ActorProcessingErr> {
        let _busy = state.vital.enter("handle");
        match msg {
            Msg::Ask(ask) => state.ask(ask),
            Msg::Respawn(again) => state.children.respawn(again).await.map_err(GaveUp)?,
            Msg::Strike(blow) => state.strike(blow),
            Msg::Stuck(stuck) => state.stuck(stuck)?,
            Msg::Drain => state.drain(&myself),
            Msg::Returned(stream) => state.tell_streams(streams::Msg::Finish(Unfinished::new(&stream))),
            Msg::Closed => state.tell_streams(streams::Msg::Drain),
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
            Learned::Nothing | Learned::Stranger(..) => Ok(()),
            Learned::GiveUp(child) => Err(Box::new(GaveUp(child))),
        }
    }
}

/// The children.
pub struct State {
    children: Children,
    vitals: Arc<Vitals>,
    vital: Arc<Vital>,
}

/// The children of the root, written once. `streams` first: sessions ask it.
fn specs(args: Args, myself: &ActorRef<Msg>) -> Vec<ChildSpec> {
    let Args { environment, rtmp, authorizer, max_bitrate, pulse } = args;
    let (vitals, again) = (environment.vitals.clone(), myself.clone());
    // A message that gets lost while `streams` is started is in the registry.
    let returned = Arc::new(move |stream| drop(again.send_message(Msg::Returned(stream))));
    let left = Left {
        registry: environment.registry.clone(),
        records: environment.records.clone(),
        settings: environment.settings.clone(),
        returned,
    };
    let probe = storage_probe::Args { mounts: environment.mounts.clone(), left, vitals: vitals.clone() };
    let retention =
        retention::Args { mounts: environment.mounts.clone(), limits: environment.retention, vitals: vitals.clone() };
    let listener = rtmp_listener::Args { listener: rtmp, authorizer, door: myself.get_derived(), max_bitrate, vitals };
    vec![
        ChildSpec::new::<Streams>("streams", Restart::Permanent, environment, |_| {}),
        ChildSpec::new::<StorageProbe>("storage_probe", Restart::Permanent, probe, |_| {}),
        ChildSpec::new::<Retention>("retention", Restart::Permanent, retention, |_| {}),
        ChildSpec::new::<Watchdog>("watchdog", Restart::Permanent, pulse, |_| {}),
        ChildSpec::new::<RtmpListener>("rtmp_listener", Restart::Permanent, listener, |_| {}),
    ]
}

impl State {
    fn ask(&self, ask: Ask) {
        match self.children.get("streams") {
            Some(streams) => drop(streams.send_message(streams::Msg::Ask(ask))),
            None => ask.answer(Err(Denial::NotOpened)),
        }
    }

    fn tell_streams(&self, msg: streams::Msg) {
        if let Some(streams) = self.children.get("streams") {
            let _ = streams.send_message(msg);
        }
    }

    fn strike(&mut self, blow: Strike) {
        if blow.stream.is_some() {
            self.tell_streams(streams::Msg::Strike(blow));
        } else {
            self.children.strike(&blow.child, blow.blow);
        }
    }

    /// Each supervisor replaces its own.
    fn stuck(&mut self, stuck: Stuck) -> Result<(), GaveUp> {
        match stuck.place {
            Place::Root => {
                self.vitals.replaced(stuck.id);
                if let Some(Learned::GiveUp(child)) = self.children.replace(stuck.id) {
                    return Err(GaveUp(child));
                }
            }
            Place::Stream(_) => self.tell_streams(streams::Msg::Stuck(stuck)),
            Place::Connection(_) => self.tell_listener(rtmp_listener::Msg::Stuck(stuck.id)),
        }
        Ok(())
    }

    /// First the door: an encoder that is told to leave comes back at once, and is to meet the next process.
    fn drain(&self, myself: &ActorRef<Msg>) {
        self.tell_listener(rtmp_listener::Msg::Close);
        myself.send_after(CLOSED_AFTER, || Msg::Closed);
    }

    fn tell_listener(&self, msg: rtmp_listener::Msg) {
        if let Some(listener) = self.children.get("rtmp_listener") {
            let _ = listener.send_message(msg);
        }
    }
}
