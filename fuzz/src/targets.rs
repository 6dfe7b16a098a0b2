//! One function for each parser of network input. None may panic, whatever the bytes.

use bytes::{Buf, Bytes};
use media::packager::Settings;
use media::{AacConfig, AvcConfig, Container, Entry, Intake, Packager};
use rtmp::{ChunkReader, Event, ServerSession, amf0};

/// A fuzz target.
pub type Target = fn(&[u8]);

/// All targets, by the names of their corpora.
pub const TARGETS: [(&str, Target); 6] = [
    ("chunk_reader", chunk_reader),
    ("amf0_reader", amf0_reader),
    ("server_session", server_session),
    ("handshake", handshake),
    ("codec_configs", codec_configs),
    ("intake", intake),
];

/// Chunks, cut where the first byte says.
pub fn chunk_reader(data: &[u8]) {
    let Some((&cut, data)) = data.split_first() else { return };
    let (mut reader, mut kept) = (ChunkReader::default(), Vec::new());
    for piece in data.chunks(usize::from(cut) + 1) {
        kept.extend_from_slice(piece);
        let mut rest = Bytes::copy_from_slice(&kept);
        loop {
            match reader.next(&mut rest) {
                Ok(Some(_)) => {}
                Ok(None) => break,
                Err(_) => return,
            }
        }
        kept = rest.to_vec();
    }
}

/// AMF0 values.
pub fn amf0_reader(data: &[u8]) {
    let _ = amf0::read(data);
}

/// Everything a peer may send after its handshake; publishing is always granted.
pub fn server_session(data: &[u8]) {
    let mut session = ServerSession::after_handshake();
    let mut rest = Bytes::copy_from_slice(data);
    for _ in 0..64 {
        let mut events = Vec::new();
        let Ok(used) = session.receive(&rest, &mut events) else { return };
        rest.advance(used);
        if !events.iter().any(|event| matches!(event, Event::Publish(_))) {
            break;
        }
        session.accept();
    }
    session.take_output();
}

/// Everything a peer may send first.
pub fn handshake(data: &[u8]) {
    let _ = ServerSession::default().receive(&Bytes::copy_from_slice(data), &mut Vec::new());
}

/// Decoder configurations.
pub fn codec_configs(data: &[u8]) {
    let data = Bytes::copy_from_slice(data);
    if let Ok(config) = AvcConfig::parse(data.clone()) {
        config.codec_string();
        config.nal_units(&data).count();
    }
    if let Ok(config) = AacConfig::parse(data.clone()) {
        config.codec_string();
        let _ = config.adts_header(data.len());
    }
}

/// Media messages of a publisher, all the way into segments of both containers. Each message is a
/// byte for its kind, two for its step in time, one for its length, and its body.
pub fn intake(data: &[u8]) {
    let (mut intake, mut entries, mut timestamp) = (Intake::starting_at(10_000), Vec::new(), 0u32);
    entries.push(Entry::Epoch { epoch: 1, wall_ms_at_zero: 0 });
    let mut rest = data;
    while let [kind, high, low, length, body @ ..] = rest {
        let length = usize::from(*length).min(body.len());
        let message = Bytes::copy_from_slice(&body[..length]);
        rest = &body[length..];
        timestamp = timestamp.wrapping_add(u32::from(u16::from_be_bytes([*high, *low])) << (kind >> 4));
        let taken = match kind & 1 {
            0 => intake.video(timestamp, &message, &mut entries),
            _ => intake.audio(timestamp, &message, &mut entries),
        };
        if taken.is_err() {
            break;
        }
    }
    entries.extend([Entry::EpochEnd, Entry::End]);
    for container in [Container::Cmaf, Container::MpegTs] {
        let mut packager = Packager::new(Settings { container, target_duration: 2 });
        for entry in &entries {
            packager.push(entry);
        }
    }
}
