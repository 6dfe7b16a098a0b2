//! Hostile peers end their own connection; nothing else notices.

use crate::harness::media::{CLIP, Clip};
use crate::harness::publisher::Publisher;
use crate::harness::server::Server;
use crate::harness::viewer::Viewer;
use crate::harness::wait_for;
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::Duration;

/// How long the server may take to hang up on a hostile peer: well below the 15 s it gives a silent one.
const HANG_UP: Duration = Duration::from_secs(5);

/// A peer after its handshake (RTMP 1.0 section 5.2, the plain form).
fn shake_hands(server: &Server) -> TcpStream {
    let mut socket = TcpStream::connect(server.rtmp).expect("accepted");
    socket.set_read_timeout(Some(HANG_UP)).expect("option");
    let mut c0_c1 = vec![3u8];
    c0_c1.extend([0; 8]);
    c0_c1.extend([7; 1528]);
    socket.write_all(&c0_c1).expect("sent");
    let mut s0_s1_s2 = vec![0; 1 + 2 * 1536];
    socket.read_exact(&mut s0_s1_s2).expect("answered");
    socket.write_all(&s0_s1_s2[1..1537]).expect("sent");
    socket
}

/// A message in chunks of 128 bytes.
fn message(type_id: u8, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![3, 0, 0, 0];
    bytes.extend(&(payload.len() as u32).to_be_bytes()[1..]);
    bytes.push(type_id);
    bytes.extend([0; 4]);
    for (n, chunk) in payload.chunks(128).enumerate() {
        bytes.extend((n > 0).then_some(0xC3));
        bytes.extend(chunk);
    }
    bytes
}

/// Sends and waits for the server to hang up.
fn ends(server: &Server, bytes: &[u8]) {
    let mut socket = shake_hands(server);
    // It may hang up before it has read everything.
    let _ = socket.write_all(bytes);
    let mut rest = Vec::new();
    match socket.read_to_end(&mut rest) {
        Ok(_) => {}
        Err(error) if error.kind() == ErrorKind::ConnectionReset => {}
        Err(error) => panic!("the server did not hang up: {error}"),
    }
}

#[test]
fn hostile_input_ends_its_connection_and_a_healthy_stream_misses_nothing() {
    let server = Server::start(&["--grace", "1"]);
    let publisher = Publisher::file(&Clip { seconds: 12, ..CLIP }.flv(), &server.publish_url("show"));
    let viewer = Viewer::follow(server.url("/live/show/0.m3u8"));
    wait_for("it publishes", Duration::from_secs(10), || (!server.logged("\"publishing\"").is_empty()).then_some(()));
    let string = |text: &str| [&[2, 0, text.len() as u8][..], text.as_bytes()].concat();
    let nested = [string("connect"), vec![0; 9], [0x0A, 0, 0, 0, 1].repeat(100_000)].concat();
    let objects = [string("connect"), vec![0; 9], [3, 0, 1, b'a'].repeat(20_000)].concat();
    for hostile in [
        message(20, &nested),
        message(20, &objects),
        message(20, &string("createStream")),
        message(9, &[0x17; 300]),
        message(1, &[0, 0, 0, 0]),
        message(1, &[0xFF; 4]),
        message(1, &[1]),
        message(22, &[9; 40]),
        vec![0xC5; 10],
        (0..80u8)
            .flat_map(|n| [&[0, n][..], &[0, 0, 0, 0xFF, 0xFF, 0xFF, 9, 0, 0, 0, 0], &[0; 128]].concat())
            .collect(),
    ] {
        ends(&server, &hostile);
    }
    // Not RTMP at all, and nothing at all.
    let mut http = TcpStream::connect(server.rtmp).expect("accepted");
    http.write_all(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").expect("sent");
    let mut nothing = Vec::new();
    http.set_read_timeout(Some(HANG_UP)).expect("option");
    match http.read_to_end(&mut nothing) {
        Ok(length) => assert_eq!(length, 0),
        Err(error) => assert_eq!(error.kind(), ErrorKind::ConnectionReset),
    }
    assert!(publisher.finish(Duration::from_secs(30)), "the healthy encoder noticed");
    let recording = viewer.finish();
    recording.assert_consecutive();
    assert_eq!(recording.discontinuities(), 0);
    assert_eq!(server.metric("steadycast_actor_failures_total", ""), 0.0, "no actor failed, let alone the process");
    assert!(server.logged("\"ERROR\"").is_empty(), "{:?}", server.logged("\"ERROR\""));
}

#[test]
fn a_peer_that_never_publishes_is_hung_up_on() {
    let server = Server::start(&[]);
    let mut silent = shake_hands(&server);
    silent.set_read_timeout(Some(4 * HANG_UP)).expect("option");
    let mut rest = Vec::new();
    let begun = std::time::Instant::now();
    silent.read_to_end(&mut rest).expect("hung up");
    assert!((14..19).contains(&begun.elapsed().as_secs()), "{:?}", begun.elapsed());
}
