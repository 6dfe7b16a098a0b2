//! session: one encoder's connection, from handshake to end. It writes to the sample log itself.
//!
//! It starts under `rtmp_listener` and is linked into its stream's tree when it is granted the stream.
//! The socket is read inside the handler in short slices: a panic while parsing ends this actor and no
//! other, and killing it closes the socket.

mod asking;
mod meter;

use crate::authorizer::Authorizer;
use crate::door::{Ask, Denial, Farewell, Grant};
use crate::encoder_socket::EncoderSocket;
use crate::events;
use crate::fault::Fault;
use crate::publisher_lock::claims::Leaving;
use crate::vitals::{Place, Vital, Vitals};
use crate::{publisher_lock, rtmp_listener};
use bytes::{Bytes, BytesMut};
use media::{Entry, Intake, pack};
use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, DerivedActorRef};
use rtmp::{Event, Refusal, ServerSession};
use std::cell::Cell;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use storage::StreamName;
use tokio::net::TcpStream;
use tokio::time::{Duration, Instant, timeout};

use asking::ASK_AGAIN;
use meter::Meter;

/// From accept to an accepted publish: encoders take well under a second.
pub const PUBLISH_DEADLINE: Duration = Duration::from_secs(15);
/// How long one handler waits for bytes, and other messages with it; once it publishes that is a step (`encoder_socket`).
const READ_SLICE: Duration = Duration::from_millis(250);
/// How long a peer may leave our few answers unread: less than an actor may take.
const WRITE_DEADLINE: Duration = Duration::from_secs(3);
/// How long a refused peer may take to read why and hang up.
const LINGER: Duration = Duration::from_secs(2);
/// Messages before a publish is accepted: encoders send about ten.
const MAX_OPENING_MESSAGES: u64 = 500;
/// Bytes read at once. One buffer a thread: a connection keeps what it could not use yet, and copies of the media in it.
const READ_BUFFER: usize = 128 << 10;

thread_local! {
    static BUFFER: Cell<BytesMut> = Cell::default();
}

/// Messages to a session.
#[derive(Debug)]
pub enum Msg {
    /// Time to read the socket.
    Pump,
    /// The stream's answer to our request to publish.
    Answer(Result<Grant, Denial>),
    /// The answer to request number `n` is overdue.
    AnswerOverdue,
    /// Time to ask again, while there is no answer.
    AskAgain,
    /// It is to end its publication, and tell its peer why.
    Leave(Farewell),
    /// It should be publishing by now.
    PublishOverdue,
    /// Fails on purpose.
    Fail(Fault),
}

/// What a session needs to start. It is never restarted: its socket ends with it.
pub struct Args {
    /// The accepted connection.
    pub socket: TcpStream,
    /// The peer.
    pub peer: SocketAddr,
    /// Who may publish.
    pub authorizer: Arc<dyn Authorizer>,
    /// Where to ask for a stream.
    pub door: DerivedActorRef<Ask>,
    /// Whom to tell that this is no longer a connection without a stream.
    pub listener: ActorRef<rtmp_listener::Msg>,
    /// Most it may send, bits per second.
    pub max_bitrate: u64,
    /// Where to register.
    pub vitals: Arc<Vitals>,
}

/// The actor.
#[derive(Debug, Default)]
pub struct Session;

impl Actor for Session {
    type Msg = Msg;
    type State = State;
    type Arguments = Args;

    async fn pre_start(&self, myself: ActorRef<Msg>, args: Args) -> Result<State, ActorProcessingErr> {
        myself.send_after(PUBLISH_DEADLINE, || Msg::PublishOverdue);
        myself.send_after(Duration::ZERO, || Msg::Pump);
        Ok(State::new(args, myself.get_id()))
    }

    async fn handle(&self, myself: ActorRef<Msg>, msg: Msg, state: &mut State) -> Result<(), ActorProcessingErr> {
        let outcome = match msg {
            Msg::Pump => {
                let _busy = state.vital.enter("Pump");
                state.pump(&myself).await
            }
            Msg::Answer(answer) => {
                let _busy = state.vital.enter("Answer");
                state.answered(&myself, answer).await
            }
            Msg::AskAgain => state.ask_again(&myself).await,
            Msg::Leave(farewell) => state.leave(farewell).await,
            Msg::AnswerOverdue => state.answer_overdue().await,
            Msg::PublishOverdue => state.publish_overdue(),
            Msg::Fail(fault) => {
                let _busy = state.vital.enter("Fail");
                fault.strike()?;
                Ok(())
            }
        };
        // A peer's mistake stops its actor; only our own fail it, and those panic.
        if let Err(end) = outcome {
            events::connection_ended(state.peer, &state.asked, end.reason, &end.text);
            myself.stop(Some(end.text));
        } else if state.wants_to_read {
            state.wants_to_read = false;
            let _ = myself.send_message(Msg::Pump);
        }
        Ok(())
    }
}

/// Why a connection ends: for metrics, and for the log.
#[derive(Debug)]
struct End {
    reason: &'static str,
    text: String,
}

impl End {
    fn new(reason: &'static str, text: impl Into<String>) -> Self {
        Self { reason, text: text.into() }
    }

    fn io(error: io::Error) -> Self {
        Self::new("io", error.to_string())
    }
}

/// What was read, and the mistake that followed it.
type Parsed = (Vec<Event>, Option<End>);

/// A place among the connections without a stream, given back however this actor ends: once it is
/// linked into its stream's tree the listener hears nothing of it any more.
struct Waiting {
    listener: ActorRef<rtmp_listener::Msg>,
    id: ActorId,
}

impl Waiting {
    fn left(&self) {
        // A listener that is restarting counts anew.
        let _ = self.listener.send_message(rtmp_listener::Msg::Left(self.id));
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.left();
    }
}

enum Phase {
    /// Not publishing yet.
    Opening,
    /// A publish waits for its answer; nothing is read.
    Asking(StreamName, Instant),
    /// Publishing.
    Publishing(Publishing),
    /// Refused: told so, and that nothing more is said; reads until the peer hangs up.
    Refused(Instant),
    /// The publisher ended its publication and is about to hang up. Some take it for an error if we do first.
    Ended(Instant),
}

struct Publishing {
    grant: Grant,
    intake: Intake,
    entries: Vec<Entry>,
    meter: Meter,
}

/// A connection and how far it is.
pub struct State {
    socket: EncoderSocket,
    peer: SocketAddr,
    authorizer: Arc<dyn Authorizer>,
    door: DerivedActorRef<Ask>,
    waiting: Waiting,
    protocol: ServerSession,
    /// Bytes read and not used yet, less than [`READ_BUFFER`].
    tail: Vec<u8>,
    /// Events of the last read.
    usual: usize,
    phase: Phase,
    /// What it asked to publish, for the log.
    asked: String,
    wants_to_read: bool,
    opening_messages: u64,
    max_bitrate: u64,
    vital: Arc<Vital>,
}

impl State {
    fn new(args: Args, id: ActorId) -> Self {
        let Args { socket, peer, authorizer, door, listener, max_bitrate, vitals } = args;
        Self {
            socket: EncoderSocket::new(socket),
            peer,
            authorizer,
            door,
            waiting: Waiting { listener, id },
            protocol: ServerSession::default(),
            tail: Vec::new(),
            usual: 0,
            phase: Phase::Opening,
            asked: String::new(),
            wants_to_read: false,
            opening_messages: 0,
            max_bitrate,
            vital: vitals.register("session", Place::Connection(peer), id, Some(ASK_AGAIN)),
        }
    }

    /// Waits a slice for bytes, reads once, acts on what came.
    async fn pump(&mut self, myself: &ActorRef<Msg>) -> Result<(), End> {
        if let Phase::Refused(until) | Phase::Ended(until) = self.phase
            && Instant::now() >= until
        {
            return Err(End::new("closed", "closed"));
        }
        if self.socket.ready(READ_SLICE).await.map_err(End::io)? {
            self.read_and_act(myself).await?;
            if matches!(self.phase, Phase::Publishing(_)) {
                // Its end is behind what it had sent: not noticed before the next step otherwise, and whoever comes in its
                // place would wait for that.
                self.read_and_act(myself).await?;
            }
        }
        self.flush().await?;
        self.wants_to_read = !matches!(self.phase, Phase::Asking(..));
        Ok(())
    }

    async fn read_and_act(&mut self, myself: &ActorRef<Msg>) -> Result<(), End> {
        let mut buffer = BUFFER.take();
        if buffer.is_empty() {
            buffer = BytesMut::zeroed(READ_BUFFER);
        }
        let read = self.read(&mut buffer);
        let whole = buffer.freeze();
        let acted = match read {
            Ok(length) => self.parse_and_act(myself, whole.slice(..length)).await,
            Err(end) => Err(end),
        };
        // The next one's. Who holds a part of it holds all of it.
        debug_assert!(whole.is_unique(), "something of a read was not copied");
        if let Ok(buffer) = whole.try_into_mut() {
            BUFFER.set(buffer);
        }
        acted
    }

    async fn parse_and_act(&mut self, myself: &ActorRef<Msg>, bytes: Bytes) -> Result<(), End> {
        let (events, failed) = if bytes.is_empty() { (Vec::new(), None) } else { self.parse(&bytes) };
        self.act(myself, events).await?;
        failed.map_or(Ok(()), Err)
    }

    /// Reads what is there behind the bytes kept from before; how many there are then, none if nothing came.
    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, End> {
        let kept = self.tail.len();
        buffer[..kept].copy_from_slice(&self.tail);
        match self.socket.try_read(&mut buffer[kept..]) {
            Ok(0) => Err(End::new("closed", "the peer closed the connection")),
            Ok(length) => Ok(kept + length),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(0),
            Err(error) => Err(End::io(error)),
        }
    }

    /// What came before a mistake counts; the mistake ends the connection afterwards.
    fn parse(&mut self, bytes: &Bytes) -> Parsed {
        let new = bytes.len() - self.tail.len();
        // About as many as the last time.
        let mut events = Vec::with_capacity(self.usual);
        let failed = match self.protocol.receive(bytes, &mut events) {
            Ok(used) => {
                self.tail = bytes[used..].to_vec();
                None
            }
            Err(error) => Some(End::new("protocol", error.to_string())),
        };
        self.usual = events.len();
        let messages = self.protocol.take_messages();
        let Phase::Publishing(Publishing { grant, meter, .. }) = &mut self.phase else {
            self.opening_messages += messages;
            let chatters = self.opening_messages > MAX_OPENING_MESSAGES && matches!(self.phase, Phase::Opening);
            let text = "it sends message after message and does not publish";
            return (events, failed.or(chatters.then(|| End::new("message_rate", text))));
        };
        grant.stream.stats.received_bytes.fetch_add(new as u64, Ordering::Relaxed);
        let excess = meter.count(new, messages, Instant::now());
        (events, failed.or(excess.map(|excess| End::new(excess.label(), excess.to_string()))))
    }

    async fn act(&mut self, myself: &ActorRef<Msg>, events: Vec<Event>) -> Result<(), End> {
        if let Phase::Publishing(Publishing { entries, .. }) = &mut self.phase {
            entries.reserve(events.len());
        }
        for event in events {
            match event {
                Event::Publish(request) => self.ask(myself, &request),
                Event::Rejected => self.end(Phase::Refused, Leaving::Lost),
                Event::Unpublish => self.end(Phase::Ended, Leaving::Unpublished),
                Event::Metadata(_) => {}
                Event::Video { .. } | Event::Audio { .. } => self.media(&event),
            }
        }
        self.append()
    }

    /// A codec we cannot package ends the publication with a reason that names it.
    fn media(&mut self, event: &Event) {
        let Phase::Publishing(publishing) = &mut self.phase else { return };
        let Publishing { intake, entries, .. } = publishing;
        let taken = match event {
            Event::Video { timestamp, payload } => intake.video(*timestamp, payload, entries),
            Event::Audio { timestamp, payload } => intake.audio(*timestamp, payload, entries),
            Event::Publish(_) | Event::Unpublish | Event::Rejected | Event::Metadata(_) => Ok(()),
        };
        if let Err(error) = taken {
            self.refuse(Refusal::Denied, "codec", &error.to_string());
        }
    }

    /// Hands over what one read gave: one lock of the log for all of it.
    fn append(&mut self) -> Result<(), End> {
        let Phase::Publishing(Publishing { grant, entries, .. }) = &mut self.phase else { return Ok(()) };
        if entries.is_empty() {
            // What came was no media: the room for it is not kept.
            *entries = Vec::new();
            grant.stream.log.looked(grant.epoch, Instant::now());
            return Ok(());
        }
        pack(entries);
        // The list goes with them: it would be empty until the next read, with every publisher.
        let appended = grant.stream.log.append(grant.epoch, std::mem::take(entries), Instant::now());
        appended.map_err(|fenced| End::new("fenced", fenced.to_string()))
    }

    fn refuse(&mut self, refusal: Refusal, label: &'static str, reason: &str) {
        events::publish_refused(self.peer, &self.asked, label, reason);
        self.protocol.refuse(refusal, reason);
        self.end(Phase::Refused, Leaving::Lost);
    }

    fn end(&mut self, phase: fn(Instant) -> Phase, leaving: Leaving) {
        // What came before the end is part of the show.
        let _ = self.append();
        // The stream is free from now on, however long this connection lingers.
        if let Phase::Publishing(Publishing { grant, .. }) = &self.phase {
            if leaving == Leaving::Unpublished {
                grant.stream.unpublish(grant.epoch);
            }
            let _ = grant.lock.send_message(publisher_lock::Msg::HolderEnded(grant.epoch, leaving));
        }
        self.phase = phase(Instant::now() + LINGER);
    }

    /// Sends what the protocol has to say; after a refusal also that there is no more.
    async fn flush(&mut self) -> Result<(), End> {
        let output = self.protocol.take_output();
        if !output.is_empty() {
            let written = timeout(WRITE_DEADLINE, self.socket.write_all(&output)).await;
            written.map_err(|_| End::new("does_not_read", "the peer does not read"))?.map_err(End::io)?;
        }
        if matches!(self.phase, Phase::Refused(_)) {
            self.socket.shutdown().await;
        }
        Ok(())
    }
}
