//! rtmp_listener: accepts encoders and caps the connections that do not publish yet.

use crate::authorizer::Authorizer;
use crate::door::{Ask, Farewell};
use crate::events;
use crate::fault::Fault;
use crate::session::{self, Session};
use crate::vitals::{Place, Vital, Vitals};
use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, DerivedActorRef, SupervisionEvent};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Duration, timeout};

/// Connections without a stream: each may hold a message's worth of memory.
pub const MAX_WITHOUT_STREAM: usize = 2048;
/// Of those, from one address: the others are for everybody else.
pub const MAX_WITHOUT_STREAM_PER_ADDRESS: usize = 512;
/// How long one handler waits for a connection; other messages wait no longer.
pub const ACCEPT_SLICE: Duration = Duration::from_millis(250);
/// Pause after a failed accept: with no descriptor left it would fail at once, again and again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Messages to the listener.
#[derive(Debug)]
pub enum Msg {
    /// Time to accept.
    Accept,
    /// A connection has been granted a stream and is that stream's child now.
    Left(ActorId),
    /// A connection makes no progress.
    Stuck(ActorId),
    /// No encoder is accepted any more: those that come wait for the next process.
    Close,
    /// Fails on purpose.
    Fail(Fault),
}

/// What a listener needs to start.
#[derive(Clone)]
pub struct Args {
    /// The socket; it outlives this actor.
    pub listener: Arc<TcpListener>,
    /// Who may publish.
    pub authorizer: Arc<dyn Authorizer>,
    /// Where sessions ask for streams.
    pub door: DerivedActorRef<Ask>,
    /// Most a publisher may send, bits per second.
    pub max_bitrate: u64,
    /// Where to register.
    pub vitals: Arc<Vitals>,
}

/// The actor.
#[derive(Debug, Default)]
pub struct RtmpListener;

impl Actor for RtmpListener {
    type Msg = Msg;
    type State = State;
    type Arguments = Args;

    async fn pre_start(&self, myself: ActorRef<Msg>, args: Args) -> Result<State, ActorProcessingErr> {
        myself.send_after(Duration::ZERO, || Msg::Accept);
        let vital = args.vitals.register("rtmp_listener", Place::Root, myself.get_id(), Some(ACCEPT_SLICE));
        Ok(State { args, without_stream: HashMap::new(), failing: false, closed: false, vital })
    }

    async fn handle(&self, myself: ActorRef<Msg>, msg: Msg, state: &mut State) -> Result<(), ActorProcessingErr> {
        match msg {
            Msg::Accept if state.closed => {
                // It stays, and shows that it lives: one that does not is replaced by one that accepts.
                let _busy = state.vital.enter("Accept");
                myself.send_after(ACCEPT_SLICE, || Msg::Accept);
            }
            Msg::Accept => {
                let _busy = state.vital.enter("Accept");
                let pause = state.accept(&myself).await;
                myself.send_after(pause, || Msg::Accept);
            }
            Msg::Left(id) => state.gone(id),
            Msg::Stuck(id) => state.stuck(id),
            Msg::Close => state.close(),
            Msg::Fail(fault) => {
                let _busy = state.vital.enter("Fail");
                fault.strike()?;
            }
        }
        Ok(())
    }

    /// Connections are temporary: whatever ended one, it is not restarted.
    async fn handle_supervisor_evt(
        &self,
        _: ActorRef<Msg>,
        event: SupervisionEvent,
        state: &mut State,
    ) -> Result<(), ActorProcessingErr> {
        match event {
            SupervisionEvent::ActorFailed(cell, error) => {
                events::connection_failed(&error.to_string());
                state.gone(cell.get_id());
            }
            SupervisionEvent::ActorTerminated(cell, _, _) => state.gone(cell.get_id()),
            SupervisionEvent::ActorStarted(_) | SupervisionEvent::ProcessGroupChanged(_) => {}
        }
        Ok(())
    }
}

/// The connections it still answers for.
pub struct State {
    args: Args,
    without_stream: HashMap<ActorId, (IpAddr, ActorRef<session::Msg>)>,
    failing: bool,
    closed: bool,
    vital: Arc<Vital>,
}

impl State {
    /// Accepts one connection if there is one; how long to wait before the next.
    async fn accept(&mut self, myself: &ActorRef<Msg>) -> Duration {
        match timeout(ACCEPT_SLICE, self.args.listener.accept()).await {
            Err(_) => Duration::ZERO,
            Ok(Ok((socket, peer))) => {
                self.failing = false;
                self.open(myself, socket, peer).await;
                Duration::ZERO
            }
            Ok(Err(error)) => {
                // Logged once, until accepting works again.
                if !std::mem::replace(&mut self.failing, true) {
                    events::accept_failed(&error);
                }
                ACCEPT_PAUSE
            }
        }
    }

    async fn open(&mut self, myself: &ActorRef<Msg>, socket: TcpStream, peer: SocketAddr) {
        if self.without_stream.len() >= MAX_WITHOUT_STREAM {
            return events::connection_refused(peer, "total");
        }
        if self.without_stream.values().filter(|(ip, _)| *ip == peer.ip()).count() >= MAX_WITHOUT_STREAM_PER_ADDRESS {
            return events::connection_refused(peer, "address");
        }
        let Args { authorizer, door, vitals, max_bitrate, .. } = self.args.clone();
        let listener = myself.clone();
        let args = session::Args { socket, peer, authorizer, door, listener, max_bitrate, vitals };
        match Session::spawn_linked(None, Session, args, myself.get_cell()).await {
            Ok((session, _)) => {
                self.without_stream.insert(session.get_id(), (peer.ip(), session));
                events::connections_without_stream(self.without_stream.len());
            }
            Err(error) => events::connection_failed(&error.to_string()),
        }
    }

    fn gone(&mut self, id: ActorId) {
        self.without_stream.remove(&id);
        events::connections_without_stream(self.without_stream.len());
    }

    /// It blocks a thread; the place it has is given to another.
    fn stuck(&mut self, id: ActorId) {
        self.args.vitals.replaced(id);
        if let Some((_, session)) = self.without_stream.remove(&id) {
            events::connection_stuck();
            session.kill();
        }
    }

    /// The process is being stopped.
    fn close(&mut self) {
        self.closed = true;
        for (_, session) in self.without_stream.values() {
            let _ = session.send_message(session::Msg::Leave(Farewell::Stopping));
        }
    }
}
