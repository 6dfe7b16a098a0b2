use super::*;
use crate::writer::text;
use proptest::prelude::*;
use rml_rtmp::chunk_io::ChunkSerializer;
use rml_rtmp::handshake::{Handshake, HandshakeProcessResult, PeerType};
use rml_rtmp::messages::{MessagePayload, RtmpMessage};
use rml_rtmp::rml_amf0::{self, Amf0Value};
use rml_rtmp::sessions::{
    ClientSession, ClientSessionConfig, ClientSessionEvent, ClientSessionResult, PublishRequestType,
};
use rml_rtmp::time::RtmpTimestamp;

/// A session after its handshake, and a serializer for what its peer says.
struct Peer {
    session: ServerSession,
    serializer: ChunkSerializer,
}

impl Peer {
    fn new() -> Self {
        Self { session: ServerSession::after_handshake(), serializer: ChunkSerializer::new() }
    }

    fn connected() -> Self {
        let mut peer = Self::new();
        peer.command("connect", 1.0, object(&[("app", "live?token=t")]), vec![]).expect("connect");
        peer.session.take_output();
        peer
    }

    fn publishing() -> Self {
        let mut peer = Self::connected();
        peer.command("publish", 0.0, Amf0Value::Null, vec![text("show")]).expect("publish");
        peer.session.accept();
        peer.session.take_output();
        peer
    }

    fn command(
        &mut self,
        name: &str,
        transaction: f64,
        object: Amf0Value,
        arguments: Vec<Amf0Value>,
    ) -> Result<Vec<Event>, SessionError> {
        let mut values = vec![text(name), Amf0Value::Number(transaction), object];
        values.extend(arguments);
        self.message(20, rml_amf0::serialize(&values).expect("serializable"))
    }

    fn message(&mut self, type_id: u8, data: Vec<u8>) -> Result<Vec<Event>, SessionError> {
        let payload =
            MessagePayload { timestamp: RtmpTimestamp::new(1000), type_id, message_stream_id: 1, data: data.into() };
        let packet = self.serializer.serialize(&payload, true, false).expect("serializable");
        let mut events = Vec::new();
        self.session.receive(&packet.bytes.into(), &mut events)?;
        Ok(events)
    }

    /// Everything the server said, decoded.
    fn heard(&mut self) -> Vec<RtmpMessage> {
        let mut rest = self.session.take_output().into();
        let mut reader = ChunkReader::default();
        let mut messages = Vec::new();
        while let Some(message) = reader.next(&mut rest).expect("valid chunks") {
            let payload = MessagePayload {
                timestamp: RtmpTimestamp::new(message.timestamp),
                type_id: message.type_id,
                message_stream_id: message.stream_id,
                data: message.payload,
            };
            messages.push(payload.to_rtmp_message().expect("valid message"));
        }
        messages
    }

    fn heard_text(&mut self) -> String {
        format!("{:?}", self.heard())
    }
}

fn shaken_session() -> ServerSession {
    let mut session = ServerSession::default();
    let mut client = Handshake::new(PeerType::Client);
    let mut to_server = client.generate_outbound_p0_and_p1().expect("handshake");
    for _ in 0..4 {
        session.receive(&to_server.into(), &mut Vec::new()).expect("handshake");
        let to_client = session.take_output();
        match client.process_bytes(&to_client).expect("handshake") {
            HandshakeProcessResult::InProgress { response_bytes } => to_server = response_bytes,
            HandshakeProcessResult::Completed { response_bytes, .. } => {
                session.receive(&response_bytes.into(), &mut Vec::new()).expect("handshake");
                break;
            }
        }
    }
    assert!(session.handshake.is_none());
    session
}

fn object(properties: &[(&str, &str)]) -> Amf0Value {
    Amf0Value::Object(properties.iter().map(|(key, value)| ((*key).to_owned(), text(value))).collect())
}

#[test]
fn queries_are_taken_off_application_and_name() {
    let mut peer = Peer::connected();
    let events =
        peer.command("publish", 0.0, Amf0Value::Null, vec![text("show?key=a%20b"), text("LIVE")]).expect("publish");
    let Event::Publish(request) = &events[0] else { panic!("{events:?}") };
    assert_eq!((request.app.as_str(), request.name.as_str()), ("live", "show"));
    let parameters = [("key".to_owned(), "a b".to_owned()), ("token".to_owned(), "t".to_owned())];
    assert_eq!(request.parameters, parameters);
}

#[test]
fn nothing_is_read_until_publish_is_answered() {
    let mut peer = Peer::connected();
    peer.command("publish", 0.0, Amf0Value::Null, vec![text("show")]).expect("publish");
    let mut events = Vec::new();
    assert_eq!(peer.session.receive(&Bytes::from_static(&[4, 0, 0, 0]), &mut events).expect("waiting"), 0);
    peer.session.accept();
    assert!(peer.heard_text().contains("NetStream.Publish.Start"));
    assert_eq!(peer.session.receive(&Bytes::from_static(&[4, 0, 0, 0]), &mut events).expect("read"), 0);
}

#[test]
fn a_refusal_says_why_and_silences_the_peer() {
    let mut peer = Peer::connected();
    peer.command("publish", 0.0, Amf0Value::Null, vec![text("show")]).expect("publish");
    peer.session.refuse(Refusal::BadName, "taken by another encoder");
    let heard = peer.heard_text();
    assert!(heard.contains("NetStream.Publish.BadName") && heard.contains("taken by another encoder"), "{heard}");
    assert_eq!(peer.message(9, vec![0x17, 1]).expect("ignored"), []);
}

#[test]
fn the_acknowledgement_is_the_running_total() {
    let mut peer = Peer::publishing();
    peer.message(5, 10_000u32.to_be_bytes().to_vec()).expect("window");
    let mut totals = Vec::new();
    for _ in 0..20 {
        peer.message(9, vec![0x17; 1000]).expect("media");
        for message in peer.heard() {
            if let RtmpMessage::Acknowledgement { sequence_number } = message {
                totals.push(sequence_number);
            }
        }
    }
    assert!(totals.len() >= 3 && totals.windows(2).all(|pair| pair[1] - pair[0] >= 5000), "{totals:?}");
}

#[test]
fn a_connect_without_an_application_is_rejected_with_a_reason() {
    let mut peer = Peer::new();
    let events = peer.command("connect", 1.0, object(&[("app", "/")]), vec![]).expect("answered");
    assert_eq!(events, [Event::Rejected]);
    let heard = peer.heard_text();
    assert!(heard.contains("NetConnection.Connect.Rejected") && heard.contains("application is missing"), "{heard}");
}

#[test]
fn pings_are_answered() {
    let mut peer = Peer::connected();
    peer.message(4, vec![0, 6, 0, 0, 0, 42]).expect("ping");
    assert!(peer.heard_text().contains("PingResponse"));
}

#[test]
fn codecs_are_announced_only_to_peers_that_ask_and_only_what_we_package() {
    let mut peer = Peer::new();
    let codecs = Amf0Value::StrictArray(["hvc1", "avc1", "Opus"].iter().map(|codec| text(codec)).collect());
    let connect = Amf0Value::Object([("app".to_owned(), text("live")), ("fourCcList".to_owned(), codecs)].into());
    peer.command("connect", 1.0, connect, vec![]).expect("connect");
    let heard = peer.heard_text();
    assert!(heard.contains("avc1") && !heard.contains("hvc1") && !heard.contains("Opus"), "{heard}");
    let mut plain = Peer::new();
    plain.command("connect", 1.0, object(&[("app", "live")]), vec![]).expect("connect");
    assert!(!plain.heard_text().contains("fourCcList"));
}

#[test]
fn commands_and_data_wrapped_for_amf3_are_read() {
    let mut peer = Peer::connected();
    let values = vec![text("publish"), Amf0Value::Number(0.0), Amf0Value::Null, text("show")];
    let wrapped = [vec![0], rml_amf0::serialize(&values).expect("serializable")].concat();
    assert!(matches!(peer.message(17, wrapped).expect("publish")[..], [Event::Publish(_)]));
    peer.session.accept();
    let values = vec![text("onMetaData"), object(&[("encoder", "x")])];
    let wrapped = [vec![0], rml_amf0::serialize(&values).expect("serializable")].concat();
    assert!(matches!(peer.message(15, wrapped).expect("data")[..], [Event::Metadata(_)]));
}

#[test]
fn metadata_is_read_with_and_without_set_data_frame_and_other_data_is_ignored() {
    let mut peer = Peer::publishing();
    for (values, expected) in [
        (vec![text("@setDataFrame"), text("onMetaData"), object(&[("encoder", "x")])], 1),
        (vec![text("onMetaData"), object(&[("encoder", "x")])], 1),
        (vec![text("@setDataFrame")], 0),
        (vec![text("onCuePoint"), object(&[])], 0),
        (vec![], 0),
    ] {
        let events = peer.message(18, rml_amf0::serialize(&values).expect("serializable")).expect("data");
        assert_eq!(events.len(), expected, "{values:?}");
    }
}

#[test]
fn aggregates_are_split_and_their_timestamps_follow_the_message() {
    let tag = |kind: u8, timestamp: u32, body: &[u8]| {
        let mut bytes = vec![kind];
        bytes.extend(&(body.len() as u32).to_be_bytes()[1..]);
        bytes.extend(&timestamp.to_be_bytes()[1..]);
        bytes.extend([0; 4]);
        bytes.extend(body);
        bytes.extend((body.len() as u32 + 11).to_be_bytes());
        bytes
    };
    let mut peer = Peer::publishing();
    let events = peer.message(22, [tag(9, 500, &[1, 2]), tag(8, 540, &[3])].concat()).expect("aggregate");
    let expected = [
        Event::Video { timestamp: 1000, payload: Bytes::from_static(&[1, 2]) },
        Event::Audio { timestamp: 1040, payload: Bytes::from_static(&[3]) },
    ];
    assert_eq!(events, expected);
    assert!(matches!(peer.message(22, tag(9, 0, &[0; 9])[..12].to_vec()), Err(SessionError::Aggregate)));
}

#[test]
fn a_publication_ends_once() {
    let mut peer = Peer::publishing();
    assert_eq!(peer.command("FCUnpublish", 5.0, Amf0Value::Null, vec![text("show")]).expect("end"), [Event::Unpublish]);
    assert_eq!(peer.command("deleteStream", 6.0, Amf0Value::Null, vec![]).expect("end"), []);
}

#[test]
fn what_comes_out_of_order_ends_the_connection() {
    assert!(matches!(Peer::new().message(9, vec![0x17, 1]), Err(SessionError::OutOfOrder(..))));
    assert!(matches!(Peer::connected().message(8, vec![0xAF, 1]), Err(SessionError::OutOfOrder(..))));
    let early = Peer::new().command("createStream", 2.0, Amf0Value::Null, vec![]);
    assert!(matches!(early, Err(SessionError::OutOfOrder(..))));
    let mut peer = Peer::connected();
    let flood = (0..20).try_for_each(|n| peer.command("createStream", f64::from(n), Amf0Value::Null, vec![]).map(drop));
    assert!(matches!(flood, Err(SessionError::TooManyMessageStreams)));
}

#[test]
fn truncated_and_nested_commands_are_survived() {
    let mut peer = Peer::connected();
    for bytes in [vec![], vec![2, 0, 9, b'F', b'C', b'P', b'u', b'b', b'l', b'i', b's', b'h'], vec![5]] {
        peer.message(20, bytes).expect("ignored or answered");
    }
    let nested = [vec![2, 0, 1, b'x', 0], vec![0; 8], [0x0A, 0, 0, 0, 1].repeat(9000)].concat();
    assert!(matches!(peer.message(20, nested), Err(SessionError::Amf0(Amf0Error::TooDeep))));
}

#[test]
fn the_client_of_rml_rtmp_publishes() {
    let mut session = shaken_session();
    let (mut client, first) = ClientSession::new(ClientSessionConfig::new()).expect("client");
    let mut to_server: Vec<u8> = outbound(first).0;
    to_server.extend(outbound(vec![client.request_connection("live".to_owned()).expect("connect")]).0);
    let (mut events, mut published) = (Vec::new(), false);
    for _ in 0..10 {
        let used = session.receive(&Bytes::copy_from_slice(&to_server), &mut events).expect("valid");
        to_server.drain(..used);
        if matches!(events.last(), Some(Event::Publish(_))) {
            session.accept();
        }
        let (reply, raised) = outbound(client.handle_input(&session.take_output()).expect("valid"));
        to_server.extend(reply);
        for event in raised {
            match event {
                ClientSessionEvent::ConnectionRequestAccepted => {
                    let request =
                        client.request_publishing("show".to_owned(), PublishRequestType::Live).expect("publish");
                    to_server.extend(outbound(vec![request]).0);
                }
                ClientSessionEvent::PublishRequestAccepted => published = true,
                _ => {}
            }
        }
    }
    assert!(published);
}

fn outbound(results: Vec<ClientSessionResult>) -> (Vec<u8>, Vec<ClientSessionEvent>) {
    let (mut bytes, mut events) = (Vec::new(), Vec::new());
    for result in results {
        match result {
            ClientSessionResult::OutboundResponse(packet) => bytes.extend(packet.bytes),
            ClientSessionResult::RaisedEvent(event) => events.push(event),
            ClientSessionResult::UnhandleableMessageReceived(_) => {}
        }
    }
    (bytes, events)
}

proptest! {
    #[test]
    fn random_messages_never_panic(messages in prop::collection::vec((0u8..24, prop::collection::vec(any::<u8>(), 0..200)), 0..20)) {
        let mut peer = Peer::publishing();
        for (type_id, data) in messages {
            if peer.message(type_id, data).is_err() {
                break;
            }
        }
    }

    #[test]
    fn random_bytes_never_panic(bytes in prop::collection::vec(any::<u8>(), 0..4000)) {
        let _ = ServerSession::default().receive(&Bytes::copy_from_slice(&bytes), &mut Vec::new());
        let _ = shaken_session().receive(&bytes.into(), &mut Vec::new());
    }
}
