//! An RTMP client as far as an accepted `publish`; rml_rtmp's, because the server under test is not.

use crate::clip::CHUNK_SIZE;
use anyhow::{Context, bail};
use rml_rtmp::chunk_io::ChunkSerializer;
use rml_rtmp::handshake::{Handshake, HandshakeProcessResult, PeerType};
use rml_rtmp::sessions::{
    ClientSession, ClientSessionConfig, ClientSessionEvent, ClientSessionResult, PublishRequestType,
};
use rml_rtmp::time::RtmpTimestamp;
use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::time::{Duration, Instant};

/// How long a server may take to answer.
const ANSWER_DEADLINE: Duration = Duration::from_secs(20);
/// RTMP's port.
const DEFAULT_PORT: &str = ":1935";

/// The parts of `rtmp://host[:port]/application/name`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// Host and port.
    pub address: String,
    /// Application.
    pub app: String,
    /// Publishing name.
    pub name: String,
}

impl Target {
    /// Parses a URL.
    pub fn parse(url: &str) -> anyhow::Result<Self> {
        let rest = url.strip_prefix("rtmp://").context("the URL is to be rtmp://host[:port]/application/name")?;
        let [host, app, name] = rest.splitn(3, '/').collect::<Vec<_>>()[..] else { bail!("{url} names no stream") };
        let address = if host.contains(':') { host.to_owned() } else { format!("{host}{DEFAULT_PORT}") };
        Ok(Self { address, app: app.to_owned(), name: name.to_owned() })
    }

    /// The same with a number behind the name; a key stays what it is.
    pub fn numbered(&self, number: usize) -> Self {
        let query = self.name.find('?').unwrap_or(self.name.len());
        let (name, query) = self.name.split_at(query);
        Self { name: format!("{name}-{number}{query}"), ..self.clone() }
    }

    /// For messages.
    pub fn without_key(&self) -> String {
        let name = self.name.split('?').next().unwrap_or_default();
        format!("rtmp://{}/{}/{name}", self.address, self.app)
    }
}

/// Connects and publishes; the socket, on which chunks of [`CHUNK_SIZE`] may follow.
pub fn publish(target: &Target) -> anyhow::Result<TcpStream> {
    let address = target.address.to_socket_addrs()?.next().context("the host has no address")?;
    let mut socket = TcpStream::connect_timeout(&address, ANSWER_DEADLINE)?;
    socket.set_read_timeout(Some(ANSWER_DEADLINE))?;
    socket.set_nodelay(true)?;
    let rest = shake_hands(&mut socket)?;
    let (mut session, first) = ClientSession::new(ClientSessionConfig::new())?;
    send(&mut socket, first)?;
    send(&mut socket, session.handle_input(&rest)?)?;
    send(&mut socket, vec![session.request_connection(target.app.clone())?])?;
    wait_for(&mut socket, &mut session, &ClientSessionEvent::ConnectionRequestAccepted)?;
    send(&mut socket, vec![session.request_publishing(target.name.clone(), PublishRequestType::Live)?])?;
    wait_for(&mut socket, &mut session, &ClientSessionEvent::PublishRequestAccepted)?;
    let chunk_size = ChunkSerializer::new().set_max_chunk_size(CHUNK_SIZE, RtmpTimestamp::new(0));
    socket.write_all(&chunk_size.map_err(|error| anyhow::anyhow!("{error}"))?.bytes)?;
    Ok(socket)
}

/// Reads what there is. A wait with a deadline may be interrupted though no signal is handled (signal(7)): that tells nothing
/// of the server.
fn read(socket: &mut TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    loop {
        match socket.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                let text = format!("the server did not answer within {} s", ANSWER_DEADLINE.as_secs());
                return Err(io::Error::new(io::ErrorKind::TimedOut, text));
            }
            read => return read,
        }
    }
}

fn shake_hands(socket: &mut TcpStream) -> anyhow::Result<Vec<u8>> {
    let mut handshake = Handshake::new(PeerType::Client);
    socket.write_all(&handshake.generate_outbound_p0_and_p1()?)?;
    let mut buffer = [0; 4096];
    loop {
        let length = read(socket, &mut buffer)?;
        if length == 0 {
            bail!("the server closed the connection during the handshake");
        }
        match handshake.process_bytes(&buffer[..length])? {
            HandshakeProcessResult::InProgress { response_bytes } => socket.write_all(&response_bytes)?,
            HandshakeProcessResult::Completed { response_bytes, remaining_bytes } => {
                socket.write_all(&response_bytes)?;
                return Ok(remaining_bytes);
            }
        }
    }
}

fn wait_for(socket: &mut TcpStream, session: &mut ClientSession, wanted: &ClientSessionEvent) -> anyhow::Result<()> {
    let (deadline, mut buffer, mut answers) = (Instant::now() + ANSWER_DEADLINE, [0; 4096], Vec::new());
    while Instant::now() < deadline {
        let length = read(socket, &mut buffer)?;
        if length == 0 {
            bail!("the server closed the connection{}", last_words(&answers));
        }
        let events = send(socket, session.handle_input(&buffer[..length])?)?;
        if events.contains(wanted) {
            return Ok(());
        }
        // The last ones tell why it is refused.
        if !events.is_empty() {
            answers = events;
        }
    }
    bail!("the server did not answer within {} s", ANSWER_DEADLINE.as_secs())
}

/// What a server said before it closed the connection.
fn last_words(answers: &[ClientSessionEvent]) -> String {
    let word = |event: &ClientSessionEvent| match event {
        ClientSessionEvent::UnhandleableOnStatusCode { code } => code.clone(),
        event => format!("{event:?}"),
    };
    answers.last().map_or_else(String::new, |last| format!(" after it said {}", word(last)))
}

/// Sends what is to be sent; the events among the results.
fn send(socket: &mut TcpStream, results: Vec<ClientSessionResult>) -> anyhow::Result<Vec<ClientSessionEvent>> {
    let mut events = Vec::new();
    for result in results {
        match result {
            ClientSessionResult::OutboundResponse(packet) => socket.write_all(&packet.bytes)?,
            ClientSessionResult::RaisedEvent(event) => events.push(event),
            ClientSessionResult::UnhandleableMessageReceived(_) => {}
        }
    }
    Ok(events)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        let target = Target::parse("rtmp://host/live/show?key=x").expect("valid");
        assert_eq!(
            (target.address.as_str(), target.app.as_str(), target.name.as_str()),
            ("host:1935", "live", "show?key=x")
        );
        assert_eq!(target.numbered(3).name, "show-3?key=x");
        assert_eq!(Target::parse("rtmp://host/live/show").expect("valid").numbered(0).name, "show-0");
        assert!(Target::parse("http://host/live/show").is_err() && Target::parse("rtmp://host/live").is_err());
    }
}
