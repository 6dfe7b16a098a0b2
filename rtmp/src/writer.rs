//! What the server says: messages serialized into one output buffer.

use rml_rtmp::chunk_io::ChunkSerializer;
use rml_rtmp::messages::{MessagePayload, PeerBandwidthLimitType, RtmpMessage, UserControlEventType};
use rml_rtmp::rml_amf0::Amf0Value;
use rml_rtmp::time::RtmpTimestamp;
use std::collections::HashMap;

/// Chunk size for what we send. Answers are small; it saves headers and nothing else.
const CHUNK_SIZE: u32 = 4096;

/// Serializes answers in the order they are said.
pub(crate) struct Writer {
    serializer: ChunkSerializer,
    output: Vec<u8>,
}

impl Writer {
    pub fn new() -> Self {
        Self { serializer: ChunkSerializer::new(), output: Vec::new() }
    }

    /// Raw bytes, of the handshake.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.output.extend_from_slice(bytes);
    }

    /// Takes what is to be sent.
    pub fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.output)
    }

    /// Our window, the peer's bandwidth and our chunk size, said once after `connect`.
    pub fn announce(&mut self, window: u32) {
        self.send(RtmpMessage::WindowAcknowledgement { size: window }, 0);
        self.send(RtmpMessage::SetPeerBandwidth { size: window, limit_type: PeerBandwidthLimitType::Dynamic }, 0);
        if let Ok(packet) = self.serializer.set_max_chunk_size(CHUNK_SIZE, RtmpTimestamp::new(0)) {
            self.output.extend(packet.bytes);
        }
    }

    pub fn acknowledge(&mut self, total: u32) {
        self.send(RtmpMessage::Acknowledgement { sequence_number: total }, 0);
    }

    pub fn pong(&mut self, timestamp: u32) {
        self.control(UserControlEventType::PingResponse, None, Some(RtmpTimestamp::new(timestamp)));
    }

    pub fn stream_begin(&mut self, stream_id: u32) {
        self.control(UserControlEventType::StreamBegin, Some(stream_id), None);
    }

    /// `_result` or another answer to a transaction.
    pub fn answer(&mut self, name: &str, transaction: f64, object: Amf0Value, arguments: Vec<Amf0Value>) {
        let message = RtmpMessage::Amf0Command {
            command_name: name.to_owned(),
            transaction_id: transaction,
            command_object: object,
            additional_arguments: arguments,
        };
        self.send(message, 0);
    }

    /// `onStatus` (section 7.2.2), or its older sisters `onFCPublish` and `onFCUnpublish`.
    pub fn status(&mut self, command: &str, stream_id: u32, level: &str, code: &str, description: &str) {
        let message = RtmpMessage::Amf0Command {
            command_name: command.to_owned(),
            transaction_id: 0.0,
            command_object: Amf0Value::Null,
            additional_arguments: vec![info(level, code, description, [])],
        };
        self.send(message, stream_id);
    }

    fn control(&mut self, event_type: UserControlEventType, stream_id: Option<u32>, timestamp: Option<RtmpTimestamp>) {
        self.send(RtmpMessage::UserControl { event_type, stream_id, buffer_length: None, timestamp }, 0);
    }

    fn send(&mut self, message: RtmpMessage, stream_id: u32) {
        // Serializing fails only beyond 16 MiB or for strings beyond 64 kB, and what we say is short:
        // texts that quote a peer are cut by their callers.
        let packet = MessagePayload::from_rtmp_message(message, RtmpTimestamp::new(0), stream_id)
            .ok()
            .and_then(|payload| self.serializer.serialize(&payload, true, false).ok());
        if let Some(packet) = packet {
            self.output.extend(packet.bytes);
        }
    }
}

/// An information object.
pub(crate) fn info<const N: usize>(
    level: &str,
    code: &str,
    description: &str,
    more: [(&str, Amf0Value); N],
) -> Amf0Value {
    let mut properties = HashMap::from([
        ("level".to_owned(), text(level)),
        ("code".to_owned(), text(code)),
        ("description".to_owned(), text(description)),
    ]);
    properties.extend(more.map(|(key, value)| (key.to_owned(), value)));
    Amf0Value::Object(properties)
}

pub(crate) fn text(text: &str) -> Amf0Value {
    Amf0Value::Utf8String(text.to_owned())
}
