//! Server session: handshake, commands and media of one peer, without I/O.
//!
//! The caller feeds bytes with [`ServerSession::receive`], acts on the [`Event`]s and sends what
//! [`ServerSession::take_output`] gives. The answer to `publish` is the caller's and may come later:
//! until then nothing more is read, so that a peer cannot fill memory while it waits.

use crate::aggregate;
use crate::amf0::{self, Amf0Error, Value};
use crate::chunk::{ChunkError, ChunkReader, Message};
use crate::command::{Command, Connect, split_query};
use crate::event::{Event, PublishRequest, Refusal};
use crate::writer::{Writer, info};
use bytes::Bytes;
use rml_rtmp::handshake::{Handshake, HandshakeProcessResult, PeerType};
use rml_rtmp::rml_amf0::Amf0Value;
use thiserror::Error;

/// Acknowledgement window until the peer names its own, bytes.
const DEFAULT_WINDOW: u32 = 2_500_000;
/// Message streams one connection may create. Encoders create one.
pub const MAX_MESSAGE_STREAMS: u32 = 8;
/// Largest message, once a publish is accepted: what its length field can say, bytes.
const MAX_MESSAGE: usize = 0xFF_FFFF;
/// Characters of a peer's text that we quote back.
const MAX_QUOTED: usize = 200;

/// Why a connection must end; always the peer's mistake.
#[derive(Debug, Error)]
pub enum SessionError {
    /// The handshake is not RTMP's.
    #[error("handshake: {0}")]
    Handshake(String),
    /// Chunk stream violation.
    #[error(transparent)]
    Chunk(#[from] ChunkError),
    /// Malformed command or data.
    #[error(transparent)]
    Amf0(#[from] Amf0Error),
    /// A command or media before `connect`, or media before an accepted `publish`.
    #[error("{0} came before {1}")]
    OutOfOrder(&'static str, &'static str),
    /// More message streams than [`MAX_MESSAGE_STREAMS`].
    #[error("more than {MAX_MESSAGE_STREAMS} message streams")]
    TooManyMessageStreams,
    /// A message whose parts do not fit its length.
    #[error("aggregate message is malformed")]
    Aggregate,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Connecting,
    Connected,
    /// A `publish` on this message stream waits for the caller.
    Asking(u32),
    Publishing(u32),
    /// Refused or ended: what follows is read and ignored until the connection closes.
    Over,
}

/// The server's side of one RTMP connection.
pub struct ServerSession {
    handshake: Option<Box<Handshake>>,
    chunks: ChunkReader,
    writer: Writer,
    phase: Phase,
    connect: Connect,
    message_streams: u32,
    received: u32,
    acknowledged: u32,
    window: u32,
    /// Messages since they were last asked for.
    messages: u64,
}

impl Default for ServerSession {
    fn default() -> Self {
        Self {
            handshake: Some(Box::new(Handshake::new(PeerType::Server))),
            chunks: ChunkReader::default(),
            writer: Writer::new(),
            phase: Phase::Connecting,
            connect: Connect::default(),
            message_streams: 0,
            received: 0,
            acknowledged: 0,
            window: DEFAULT_WINDOW,
            messages: 0,
        }
    }
}

impl ServerSession {
    /// A session whose peer has shaken hands already: for tests and fuzzing, where that is beside the point.
    pub fn after_handshake() -> Self {
        Self { handshake: None, ..Self::default() }
    }

    /// Reads `input`, appending events, whose media are parts of it; the number of bytes used.
    ///
    /// Bytes that were not used must come first in the next call. While a `publish` waits for its
    /// answer nothing is used.
    pub fn receive(&mut self, input: &Bytes, events: &mut Vec<Event>) -> Result<usize, SessionError> {
        let mut rest = input.clone();
        if self.handshake.is_some() {
            let Some(remaining) = self.shake_hands(&rest)? else { return Ok(input.len()) };
            rest = input.slice(input.len() - remaining..);
        }
        while !matches!(self.phase, Phase::Asking(_)) {
            let before = rest.len();
            let message = self.chunks.next(&mut rest)?;
            self.count_received(before - rest.len());
            let Some(message) = message else { break };
            self.messages += 1;
            self.message(message, events)?;
        }
        Ok(input.len() - rest.len())
    }

    /// How many messages came since the last call, of whatever type.
    pub fn take_messages(&mut self) -> u64 {
        std::mem::take(&mut self.messages)
    }

    /// Bytes to be sent to the peer, in order.
    pub fn take_output(&mut self) -> Vec<u8> {
        self.writer.take()
    }

    /// Grants the waiting `publish`.
    pub fn accept(&mut self) {
        if let Phase::Asking(stream) = self.phase {
            self.phase = Phase::Publishing(stream);
            self.chunks.set_max_message(MAX_MESSAGE);
            self.writer.stream_begin(stream);
            self.writer.status("onStatus", stream, "status", "NetStream.Publish.Start", "the show is on");
        }
    }

    /// Refuses the waiting `publish`, or ends an accepted one, with a reason for a human.
    pub fn refuse(&mut self, refusal: Refusal, reason: &str) {
        let code = match refusal {
            Refusal::BadName => "NetStream.Publish.BadName",
            Refusal::Denied => "NetStream.Publish.Denied",
        };
        if let Phase::Asking(stream) | Phase::Publishing(stream) = self.phase {
            self.writer.status("onStatus", stream, "error", code, reason);
        }
        self.phase = Phase::Over;
    }

    /// Ends an accepted `publish`, or one that waits, from our side; no fault of the peer's.
    pub fn finish(&mut self, reason: &str) {
        if let Phase::Asking(stream) | Phase::Publishing(stream) = self.phase {
            self.writer.status("onStatus", stream, "status", "NetStream.Unpublish.Success", reason);
        }
        self.phase = Phase::Over;
    }

    /// Bytes left after the handshake, once it is complete.
    fn shake_hands(&mut self, input: &[u8]) -> Result<Option<usize>, SessionError> {
        let Some(handshake) = &mut self.handshake else { return Ok(Some(input.len())) };
        match handshake.process_bytes(input).map_err(|error| SessionError::Handshake(error.to_string()))? {
            HandshakeProcessResult::InProgress { response_bytes } => {
                self.writer.raw(&response_bytes);
                Ok(None)
            }
            HandshakeProcessResult::Completed { response_bytes, remaining_bytes } => {
                self.writer.raw(&response_bytes);
                self.handshake = None;
                Ok(Some(remaining_bytes.len()))
            }
        }
    }

    /// Acknowledges by running total (RTMP 1.0 section 5.4.3), each half window: some encoders stop at a whole one.
    fn count_received(&mut self, bytes: usize) {
        // A read buffer is far below 4 GiB; the total wraps as the field does.
        self.received = self.received.wrapping_add(bytes as u32);
        if self.received.wrapping_sub(self.acknowledged) >= self.window / 2 && self.phase != Phase::Connecting {
            self.acknowledged = self.received;
            self.writer.acknowledge(self.received);
        }
    }

    fn message(&mut self, message: Message, events: &mut Vec<Event>) -> Result<(), SessionError> {
        match message.type_id {
            4 => self.user_control(&message.payload),
            5 => self.set_window(&message.payload),
            8 => self.media(message.timestamp, message.payload, false, events)?,
            9 => self.media(message.timestamp, message.payload, true, events)?,
            15 => self.data(message.payload.get(1..).unwrap_or_default(), events),
            18 => self.data(&message.payload, events),
            17 => self.command(message.stream_id, message.payload.get(1..).unwrap_or_default(), events)?,
            20 => self.command(message.stream_id, &message.payload, events)?,
            22 => self.aggregate(&message, events)?,
            // Acknowledgements, shared objects and what is not defined need no answer.
            _ => {}
        }
        Ok(())
    }

    fn user_control(&mut self, payload: &[u8]) {
        if let [0, 6, a, b, c, d, ..] = *payload {
            self.writer.pong(u32::from_be_bytes([a, b, c, d]));
        }
    }

    fn set_window(&mut self, payload: &[u8]) {
        if let [a, b, c, d, ..] = *payload {
            // A window of zero would ask for an acknowledgement of every byte.
            self.window = u32::from_be_bytes([a, b, c, d]).max(4096);
        }
    }

    fn media(
        &mut self,
        timestamp: u32,
        payload: Bytes,
        video: bool,
        events: &mut Vec<Event>,
    ) -> Result<(), SessionError> {
        match self.phase {
            Phase::Publishing(_) if video => events.push(Event::Video { timestamp, payload }),
            Phase::Publishing(_) => events.push(Event::Audio { timestamp, payload }),
            Phase::Over => {}
            Phase::Connecting | Phase::Connected | Phase::Asking(_) => {
                return Err(SessionError::OutOfOrder("media", "an accepted publish"));
            }
        }
        Ok(())
    }

    fn data(&mut self, payload: &[u8], events: &mut Vec<Event>) {
        if !matches!(self.phase, Phase::Publishing(_)) {
            return;
        }
        // Data we cannot read is data we do not need.
        let Ok(values) = amf0::read(payload) else { return };
        let mut values = values.into_iter().peekable();
        values.next_if(|value| value.as_str() == Some("@setDataFrame"));
        if values.next().as_ref().and_then(Value::as_str) == Some("onMetaData") {
            events.extend(values.next().map(Event::Metadata));
        }
    }

    fn aggregate(&mut self, message: &Message, events: &mut Vec<Event>) -> Result<(), SessionError> {
        for part in aggregate::split(message).ok_or(SessionError::Aggregate)? {
            match part.type_id {
                8 => self.media(part.timestamp, part.payload, false, events)?,
                9 => self.media(part.timestamp, part.payload, true, events)?,
                18 => self.data(&part.payload, events),
                _ => {}
            }
        }
        Ok(())
    }

    fn command(&mut self, stream_id: u32, payload: &[u8], events: &mut Vec<Event>) -> Result<(), SessionError> {
        let Some(command) = Command::read(payload)? else { return Ok(()) };
        if self.phase == Phase::Connecting && command.name != "connect" {
            return Err(SessionError::OutOfOrder("a command", "connect"));
        }
        match command.name.as_str() {
            "connect" => self.connect(&command, events),
            "createStream" => self.create_stream(&command)?,
            "publish" => self.publish(stream_id, &command, events),
            "FCPublish" => self.fc_publish(&command),
            "FCUnpublish" | "deleteStream" | "closeStream" => self.unpublish(&command, events),
            "play" | "play2" => {
                let reason = "playing over RTMP is not served here; play the stream's HLS URL";
                self.writer.status("onStatus", stream_id, "error", "NetStream.Play.Failed", reason);
            }
            // releaseStream, _checkbw and whatever else: a null result lets the peer go on.
            _ if command.transaction != 0.0 => self.result(command.transaction, Amf0Value::Null),
            _ => {}
        }
        Ok(())
    }

    fn connect(&mut self, command: &Command, events: &mut Vec<Event>) {
        self.connect = Connect::read(&command.object);
        if self.connect.app.is_empty() {
            let reason = "the application is missing: publish to rtmp://host/application/name";
            let rejected = info("error", "NetConnection.Connect.Rejected", reason, []);
            self.writer.answer("_error", command.transaction, Amf0Value::Null, vec![rejected]);
            self.phase = Phase::Over;
            return events.push(Event::Rejected);
        }
        if self.phase == Phase::Connecting {
            self.phase = Phase::Connected;
            self.writer.announce(DEFAULT_WINDOW);
        }
        let (properties, granted) = self.connect.answer();
        self.writer.answer("_result", command.transaction, properties, vec![granted]);
    }

    fn create_stream(&mut self, command: &Command) -> Result<(), SessionError> {
        if self.message_streams == MAX_MESSAGE_STREAMS {
            return Err(SessionError::TooManyMessageStreams);
        }
        self.message_streams += 1;
        self.result(command.transaction, Amf0Value::Number(f64::from(self.message_streams)));
        Ok(())
    }

    /// `publish` (section 7.2.2.6). Its type (live, record, append, or none) does not matter here: all mean live.
    fn publish(&mut self, stream_id: u32, command: &Command, events: &mut Vec<Event>) {
        if self.phase != Phase::Connected {
            let reason = "this connection has published already; open another one";
            self.writer.status("onStatus", stream_id, "error", "NetStream.Publish.BadName", reason);
            return;
        }
        let (name, mut parameters) = split_query(command.text().unwrap_or_default());
        parameters.extend(self.connect.parameters.iter().cloned());
        self.phase = Phase::Asking(stream_id);
        events.push(Event::Publish(PublishRequest {
            app: self.connect.app.clone(),
            name: name.to_owned(),
            parameters,
            tc_url: self.connect.tc_url.clone(),
        }));
    }

    fn fc_publish(&mut self, command: &Command) {
        let name: String = split_query(command.text().unwrap_or_default()).0.chars().take(MAX_QUOTED).collect();
        self.writer.status("onFCPublish", 0, "status", "NetStream.Publish.Start", &name);
        self.result(command.transaction, Amf0Value::Null);
    }

    fn unpublish(&mut self, command: &Command, events: &mut Vec<Event>) {
        if command.name == "FCUnpublish" {
            self.writer.status("onFCUnpublish", 0, "status", "NetStream.Unpublish.Success", "");
            self.result(command.transaction, Amf0Value::Null);
        }
        if let Phase::Publishing(stream) = self.phase {
            self.writer.status(
                "onStatus",
                stream,
                "status",
                "NetStream.Unpublish.Success",
                "the publication has ended",
            );
            self.phase = Phase::Over;
            events.push(Event::Unpublish);
        }
    }

    fn result(&mut self, transaction: f64, value: Amf0Value) {
        if transaction != 0.0 {
            self.writer.answer("_result", transaction, Amf0Value::Null, vec![value]);
        }
    }
}

#[cfg(test)]
#[path = "session_tests.rs"]
mod tests;
