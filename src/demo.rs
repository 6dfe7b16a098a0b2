//! `steadycast demo`: publishes a built-in clip, over and over, by a real RTMP connection to this server.

use crate::config::Config;
use anyhow::{Context, bail};
use bytes::Bytes;
use rml_rtmp::handshake::{Handshake, HandshakeProcessResult, PeerType};
use rml_rtmp::sessions::{
    ClientSession, ClientSessionConfig, ClientSessionEvent, ClientSessionResult, PublishRequestType,
};
use rml_rtmp::time::RtmpTimestamp;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, SocketAddr, TcpStream};
use std::thread;
use std::time::{Duration, Instant};
use tracing::{info, warn};

/// The stream it publishes.
pub const STREAM: &str = "live/demo";
/// Made by `src/demo-clip.sh`.
const CLIP: &[u8] = include_bytes!("demo.flv");
/// Length of the clip, milliseconds: where the next round begins.
const CLIP_MS: u32 = 10_000;
/// Bytes of the FLV file header and its first back pointer.
const FLV_HEADER: usize = 13;
/// How long the server may take to answer.
const ANSWER_DEADLINE: Duration = Duration::from_secs(5);
/// Pause before the next try after a failure.
const RECONNECT: Duration = Duration::from_secs(1);

/// One FLV tag of the clip.
struct Tag {
    video: bool,
    timestamp: u32,
    /// Sequence headers are sent once.
    header: bool,
    body: Bytes,
}

/// Starts the publisher on a thread of its own.
pub fn start(rtmp: SocketAddr, config: &Config) -> anyhow::Result<()> {
    let tags = tags(CLIP).context("the built-in clip")?;
    let server = SocketAddr::from((Ipv4Addr::LOCALHOST, rtmp.port()));
    let mut name = STREAM.rsplit_once('/').map_or(STREAM, |(_, name)| name).to_owned();
    if !config.keys.is_empty() {
        let key = config.keys.get(STREAM).or_else(|| config.keys.get("live/*"));
        let key = key.context("keys are configured and none is for the demo; add --key live/demo=KEY")?;
        name = format!("{name}?key={key}");
    }
    let forever = move || {
        loop {
            if let Err(error) = publish(server, &name, &tags) {
                warn!(%error, "the demo's connection ended, reconnecting");
            }
            thread::sleep(RECONNECT);
        }
    };
    thread::Builder::new().name("demo".to_owned()).spawn(forever)?;
    Ok(())
}

fn tags(clip: &'static [u8]) -> anyhow::Result<Vec<Tag>> {
    let (mut rest, mut tags) = (clip.get(FLV_HEADER..).context("too short")?, Vec::new());
    while rest.len() > 11 {
        let length = u32::from_be_bytes([0, rest[1], rest[2], rest[3]]) as usize;
        let timestamp = u32::from_be_bytes([rest[7], rest[4], rest[5], rest[6]]);
        let body = rest.get(11..11 + length).context("cut short")?;
        // The end of the sequence is not the end of the show: the clip begins anew.
        let end_of_sequence = rest[0] == 9 && body.get(1) == Some(&2);
        if matches!(rest[0], 8 | 9) && !end_of_sequence && timestamp < CLIP_MS {
            let header = body.get(1) == Some(&0);
            tags.push(Tag { video: rest[0] == 9, timestamp, header, body: Bytes::from_static(body) });
        }
        rest = rest.get(11 + length + 4..).unwrap_or_default();
    }
    Ok(tags)
}

/// Publishes until something ends it.
fn publish(server: SocketAddr, name: &str, tags: &[Tag]) -> anyhow::Result<()> {
    let mut client = Client::connect(server)?;
    client.publish(name)?;
    info!(stream = STREAM, "demo is publishing");
    let begun = Instant::now();
    for round in 0u32.. {
        for tag in tags.iter().filter(|tag| round == 0 || !tag.header) {
            let timestamp = round.wrapping_mul(CLIP_MS).wrapping_add(tag.timestamp);
            let due = Duration::from_millis(u64::from(round) * u64::from(CLIP_MS) + u64::from(tag.timestamp));
            thread::sleep(due.saturating_sub(begun.elapsed()));
            client.send(tag, timestamp)?;
        }
        client.drain()?;
    }
    Ok(())
}

struct Client {
    socket: TcpStream,
    session: ClientSession,
}

impl Client {
    fn connect(server: SocketAddr) -> anyhow::Result<Self> {
        let mut socket = TcpStream::connect(server)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(ANSWER_DEADLINE))?;
        let mut handshake = Handshake::new(PeerType::Client);
        socket.write_all(&handshake.generate_outbound_p0_and_p1()?)?;
        let mut buffer = [0; 4096];
        let rest = loop {
            let length = socket.read(&mut buffer)?;
            if length == 0 {
                bail!("the server closed the connection during the handshake");
            }
            match handshake.process_bytes(&buffer[..length])? {
                HandshakeProcessResult::InProgress { response_bytes } => socket.write_all(&response_bytes)?,
                HandshakeProcessResult::Completed { response_bytes, remaining_bytes } => {
                    socket.write_all(&response_bytes)?;
                    break remaining_bytes;
                }
            }
        };
        let (session, first) = ClientSession::new(ClientSessionConfig::new())?;
        let mut client = Self { socket, session };
        client.write(first)?;
        let answers = client.session.handle_input(&rest)?;
        client.write(answers)?;
        Ok(client)
    }

    fn publish(&mut self, name: &str) -> anyhow::Result<()> {
        let app = STREAM.split_once('/').map_or(STREAM, |(app, _)| app).to_owned();
        let request = self.session.request_connection(app)?;
        self.write(vec![request])?;
        self.wait_for(|event| matches!(event, ClientSessionEvent::ConnectionRequestAccepted))?;
        let request = self.session.request_publishing(name.to_owned(), PublishRequestType::Live)?;
        self.write(vec![request])?;
        self.wait_for(|event| matches!(event, ClientSessionEvent::PublishRequestAccepted))
    }

    fn send(&mut self, tag: &Tag, timestamp: u32) -> anyhow::Result<()> {
        let timestamp = RtmpTimestamp::new(timestamp);
        let result = if tag.video {
            self.session.publish_video_data(tag.body.clone(), timestamp, false)?
        } else {
            self.session.publish_audio_data(tag.body.clone(), timestamp, false)?
        };
        self.write(vec![result]).map(drop)
    }

    fn wait_for(&mut self, wanted: impl Fn(&ClientSessionEvent) -> bool) -> anyhow::Result<()> {
        let deadline = Instant::now() + ANSWER_DEADLINE;
        while Instant::now() < deadline {
            if self.read()?.iter().any(&wanted) {
                return Ok(());
            }
        }
        bail!("the server did not answer")
    }

    /// Reads what the server said meanwhile, without waiting for more.
    fn drain(&mut self) -> anyhow::Result<()> {
        self.socket.set_nonblocking(true)?;
        let read = self.read();
        self.socket.set_nonblocking(false)?;
        match read {
            Err(error) if error.downcast_ref::<std::io::Error>().is_some_and(|e| e.kind() == ErrorKind::WouldBlock) => {
                Ok(())
            }
            read => read.map(drop),
        }
    }

    fn read(&mut self) -> anyhow::Result<Vec<ClientSessionEvent>> {
        let mut buffer = [0; 4096];
        let length = self.socket.read(&mut buffer)?;
        if length == 0 {
            bail!("the server closed the connection");
        }
        let results = self.session.handle_input(&buffer[..length])?;
        self.write(results)
    }

    /// Sends what is to be sent; the events among the results.
    fn write(&mut self, results: Vec<ClientSessionResult>) -> anyhow::Result<Vec<ClientSessionEvent>> {
        let mut events = Vec::new();
        for result in results {
            match result {
                ClientSessionResult::OutboundResponse(packet) => self.socket.write_all(&packet.bytes)?,
                ClientSessionResult::RaisedEvent(event) => events.push(event),
                ClientSessionResult::UnhandleableMessageReceived(_) => {}
            }
        }
        Ok(events)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_clip_is_small_and_loops_without_a_seam() {
        assert!(CLIP.len() < 1_000_000);
        let tags = tags(CLIP).expect("valid FLV");
        let frames = tags.iter().filter(|tag| tag.video && !tag.header).count();
        assert_eq!(frames as u32, CLIP_MS * 30 / 1000);
        assert!(tags.iter().all(|tag| tag.timestamp < CLIP_MS));
    }
}
