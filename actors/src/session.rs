//! session: one encoder's connection, from handshake to end. It writes to the sample log itself.
//!
//! It starts under `rtmp_listener` and is linked into its stream's tree when it is granted the stream.
//! The socket is read inside the handler in short slices: a panic while parsing ends this actor and no
//! other, and killing it closes the socket.

use crate::authorizer::{Authorizer, Verdict};
use crate::door::{Ask, Denial, Grant};
use crate::encoder_socket::{EncoderSocket, STEP};
use crate::events;
use crate::fault::Fault;
use crate::vitals::{Vital, Vitals};
use crate::{publisher_lock, rtmp_listener};
use media::{Entry, Intake};
use ractor::{Actor, ActorId, ActorProcessingErr, ActorRef, DerivedActorRef};
use rtmp::{Event, PublishRequest, Refusal, ServerSession};
use std::cell::RefCell;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use storage::StreamName;
use tokio::net::TcpStream;
use tokio::time::{Duration, Instant, timeout};

/// Stop reason of a holder that lost its stream to silence.
pub const EVICTED: &str = "evicted: it sent no media";
/// From accept to an accepted publish: encoders take well under a second.
pub const PUBLISH_DEADLINE: Duration = Duration::from_secs(15);
/// How long a publish may wait for its answer.
const ANSWER_DEADLINE: Duration = Duration::from_secs(5);
/// How long one handler waits for bytes; other messages wait no longer.
const READ_SLICE: Duration = Duration::from_millis(250);
/// A stream that is taken is asked for again after this: a holder that has hung up is noticed two steps of reading later,
/// one for what it had sent and one for its end, and an encoder that comes back is not refused for its own past.
const SECOND_LOOK: Duration = STEP.saturating_mul(2).saturating_add(Duration::from_millis(50));
/// How long a peer may leave our few answers unread.
const WRITE_DEADLINE: Duration = Duration::from_secs(5);
/// How long a refused peer may take to read why and hang up.
const LINGER: Duration = Duration::from_secs(2);
/// Bytes read at once. One buffer a thread: a connection keeps only what it could not use yet.
const READ_BUFFER: usize = 128 << 10;

/// Characters of a peer's text that go into the log.
const MAX_LOGGED: usize = 200;

thread_local! {
    static BUFFER: RefCell<Vec<u8>> = RefCell::new(vec![0; READ_BUFFER]);
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
    /// Time to ask a second time for a stream that was taken.
    AskAgain,
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
            events::connection_ended(state.peer, state.asked.clone(), &end);
            myself.stop(Some(end));
        } else if state.wants_to_read {
            state.wants_to_read = false;
            let _ = myself.send_message(Msg::Pump);
        }
        Ok(())
    }
}

/// Why a connection ends, for the log.
type End = String;
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
    Asking,
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
    phase: Phase,
    /// What it asked to publish, for the log.
    asked: String,
    /// What to ask for again if it is taken at first.
    second_ask: Option<StreamName>,
    wants_to_read: bool,
    vital: Arc<Vital>,
}

impl State {
    fn new(args: Args, id: ActorId) -> Self {
        let Args { socket, peer, authorizer, door, listener, vitals } = args;
        Self {
            socket: EncoderSocket::new(socket),
            peer,
            authorizer,
            door,
            waiting: Waiting { listener, id },
            protocol: ServerSession::default(),
            tail: Vec::new(),
            phase: Phase::Opening,
            asked: String::new(),
            second_ask: None,
            wants_to_read: false,
            vital: vitals.register(format!("session {peer}")),
        }
    }

    /// Waits a slice for bytes, reads once, acts on what came.
    async fn pump(&mut self, myself: &ActorRef<Msg>) -> Result<(), End> {
        if let Phase::Refused(until) | Phase::Ended(until) = self.phase
            && Instant::now() >= until
        {
            return Err("closed".to_owned());
        }
        if self.socket.ready(READ_SLICE).await.map_err(|error| error.to_string())? {
            let (events, failed) = self.read()?;
            self.act(myself, events).await?;
            failed.map_or(Ok(()), Err)?;
        }
        self.flush().await?;
        self.wants_to_read = !matches!(self.phase, Phase::Asking);
        Ok(())
    }

    /// Reads what is there behind the bytes kept from before, and parses it.
    fn read(&mut self) -> Result<Parsed, End> {
        BUFFER.with_borrow_mut(|buffer| {
            let kept = self.tail.len();
            buffer[..kept].copy_from_slice(&self.tail);
            match self.socket.try_read(&mut buffer[kept..]) {
                Ok(0) => Err("the peer closed the connection".to_owned()),
                Ok(length) => Ok(self.parse(&buffer[..kept + length])),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok((Vec::new(), None)),
                Err(error) => Err(error.to_string()),
            }
        })
    }

    /// What came before a mistake counts; the mistake ends the connection afterwards.
    fn parse(&mut self, bytes: &[u8]) -> Parsed {
        if let Phase::Publishing(publishing) = &self.phase {
            publishing
                .grant
                .stream
                .stats
                .received_bytes
                .fetch_add((bytes.len() - self.tail.len()) as u64, Ordering::Relaxed);
        }
        let mut events = Vec::new();
        match self.protocol.receive(bytes, &mut events) {
            Ok(used) => {
                self.tail = bytes[used..].to_vec();
                (events, None)
            }
            Err(error) => (events, Some(error.to_string())),
        }
    }

    async fn act(&mut self, myself: &ActorRef<Msg>, events: Vec<Event>) -> Result<(), End> {
        for event in events {
            match event {
                Event::Publish(request) => self.ask(myself, &request),
                Event::Rejected => self.end(Phase::Refused),
                Event::Unpublish => self.end(Phase::Ended),
                Event::Metadata(_) => {}
                Event::Video { .. } | Event::Audio { .. } => self.media(&event),
            }
        }
        self.append()
    }

    /// Asks for the stream, or refuses at once what can never be granted.
    fn ask(&mut self, myself: &ActorRef<Msg>, request: &PublishRequest) {
        self.asked = format!("{}/{}", request.app, request.name).chars().take(MAX_LOGGED).collect();
        let name = match StreamName::new(&request.app, &request.name) {
            Ok(name) => name,
            Err(error) => return self.refuse(Refusal::BadName, "bad_name", &error.to_string()),
        };
        if let Verdict::Denied(reason) = self.authorizer.authorize(&name, &request.parameters, self.peer) {
            return self.refuse(Refusal::Denied, "denied", &reason);
        }
        self.phase = Phase::Asking;
        self.second_ask = Some(name.clone());
        self.send_ask(myself, name);
        myself.send_after(ANSWER_DEADLINE, || Msg::AnswerOverdue);
    }

    fn send_ask(&mut self, myself: &ActorRef<Msg>, stream: StreamName) {
        let ask = Ask { stream, session: myself.clone(), deadline: Instant::now() + ANSWER_DEADLINE };
        if self.door.send_message(ask).is_err() {
            self.refuse(Refusal::BadName, Denial::NotOpened.label(), &Denial::NotOpened.to_string());
        }
    }

    async fn answered(&mut self, myself: &ActorRef<Msg>, answer: Result<Grant, Denial>) -> Result<(), End> {
        if !matches!(self.phase, Phase::Asking) {
            return Err("the answer to its publish came too late".to_owned());
        }
        match answer {
            Ok(grant) => {
                self.protocol.accept();
                self.waiting.left();
                self.socket.read_in_step().map_err(|error| error.to_string())?;
                let intake = Intake::starting_at(grant.start_ms);
                self.phase = Phase::Publishing(Publishing { grant, intake, entries: Vec::new() });
                let kept = std::mem::take(&mut self.tail);
                let (events, failed) = self.parse(&kept);
                self.act(myself, events).await?;
                failed.map_or(Ok(()), Err)?;
            }
            Err(Denial::Taken) if self.second_ask.is_some() => {
                myself.send_after(SECOND_LOOK, || Msg::AskAgain);
                return Ok(());
            }
            Err(denial) => self.refuse(Refusal::BadName, denial.label(), &denial.to_string()),
        }
        self.flush().await?;
        self.wants_to_read = true;
        Ok(())
    }

    async fn ask_again(&mut self, myself: &ActorRef<Msg>) -> Result<(), End> {
        let Some(name) = self.second_ask.take().filter(|_| matches!(self.phase, Phase::Asking)) else { return Ok(()) };
        self.send_ask(myself, name);
        self.wants_to_read = !matches!(self.phase, Phase::Asking);
        self.flush().await
    }

    async fn answer_overdue(&mut self) -> Result<(), End> {
        if matches!(self.phase, Phase::Asking) {
            self.refuse(Refusal::BadName, "overdue", "the server is busy; try again in a second");
            self.flush().await?;
            self.wants_to_read = true;
        }
        Ok(())
    }

    fn publish_overdue(&self) -> Result<(), End> {
        match self.phase {
            Phase::Opening => Err(format!("it did not publish within {} s", PUBLISH_DEADLINE.as_secs())),
            Phase::Asking | Phase::Publishing(_) | Phase::Refused(_) | Phase::Ended(_) => Ok(()),
        }
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
            return Ok(());
        }
        grant.stream.log.append(grant.epoch, entries.drain(..), Instant::now()).map_err(|fenced| fenced.to_string())
    }

    fn refuse(&mut self, refusal: Refusal, label: &'static str, reason: &str) {
        events::publish_refused(self.peer, &self.asked, label, reason);
        self.protocol.refuse(refusal, reason);
        self.end(Phase::Refused);
    }

    fn end(&mut self, phase: fn(Instant) -> Phase) {
        // What came before the end is part of the show.
        let _ = self.append();
        // The stream is free from now on, however long this connection lingers.
        if let Phase::Publishing(Publishing { grant, .. }) = &self.phase {
            let _ = grant.lock.send_message(publisher_lock::Msg::HolderEnded(grant.epoch));
        }
        self.phase = phase(Instant::now() + LINGER);
    }

    /// Sends what the protocol has to say; after a refusal also that there is no more.
    async fn flush(&mut self) -> Result<(), End> {
        let output = self.protocol.take_output();
        if !output.is_empty() {
            let written = timeout(WRITE_DEADLINE, self.socket.write_all(&output)).await;
            written.map_err(|_| "the peer does not read".to_owned())?.map_err(|error| error.to_string())?;
        }
        if matches!(self.phase, Phase::Refused(_)) {
            self.socket.shutdown().await;
        }
        Ok(())
    }
}
