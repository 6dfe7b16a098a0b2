//! Hostile peers end their own connection; nothing else notices.

use crate::harness::media::{CLIP, Clip};
use crate::harness::publisher::Publisher;
use crate::harness::server::Server;
use crate::harness::viewer::Viewer;
use crate::harness::{LIMIT, in_time, wait_for};
use chaos::rtmp_client::{Target, publish};
use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

/// How long the server may take to hang up on a hostile peer: well below the 15 s it gives a silent one.
const HANG_UP: Duration = Duration::from_secs(12);

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
    wait_for("it publishes", || (!server.logged("\"publishing\"").is_empty()).then_some(()));
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
    assert!(publisher.finish(), "the healthy encoder noticed");
    let recording = viewer.finish();
    recording.assert_consecutive();
    assert_eq!(recording.discontinuities(), 0);
    assert_eq!(server.metric("steadycast_actor_failures_total", ""), 0.0, "no actor failed, let alone the process");
    assert!(server.logged("\"ERROR\"").is_empty(), "{:?}", server.logged("\"ERROR\""));
}

#[test]
fn a_peer_that_never_publishes_is_hung_up_on() {
    let server = Server::start(&[]);
    in_time(|| {
        let mut silent = shake_hands(&server);
        silent.set_read_timeout(Some(LIMIT)).expect("option");
        let mut rest = Vec::new();
        let begun = Instant::now();
        silent.read_to_end(&mut rest).expect("hung up");
        let took = begun.elapsed().as_secs();
        assert!(took >= 14, "{took} s");
        (took >= 19).then(|| format!("it took {took} s")).into_iter().collect()
    });
}

/// A publisher of this test's own, which may send whatever bytes it likes.
fn publisher(server: &Server, name: &str) -> TcpStream {
    let target = Target::parse(&server.publish_url(name)).expect("valid");
    let socket = publish(&target).expect("accepted");
    socket.set_read_timeout(Some(HANG_UP)).expect("option");
    socket
}

/// A message of the publisher's message stream, whole: it has announced a chunk size.
fn whole(type_id: u8, timestamp: u32, payload: &[u8]) -> Vec<u8> {
    let mut bytes = vec![4, 0xFF, 0xFF, 0xFF];
    bytes.extend(&(payload.len() as u32).to_be_bytes()[1..]);
    bytes.push(type_id);
    bytes.extend(1u32.to_le_bytes());
    bytes.extend(timestamp.to_be_bytes());
    bytes.extend(payload);
    bytes
}

/// Sends until the server hangs up.
fn floods(mut socket: TcpStream, bytes: &[u8]) {
    let begun = Instant::now();
    while socket.write_all(bytes).is_ok() {
        assert!(begun.elapsed() < LIMIT, "the server takes it all");
    }
}

#[test]
fn floods_and_crowds_end_or_wait_each_for_a_counted_reason_and_a_healthy_stream_misses_nothing() {
    let server = Server::start(&["--max-bitrate", "8"]);
    let clip = Clip { seconds: 40, ..CLIP };
    let healthy = Publisher::file(&clip.flv(), &server.publish_url("show"));
    let viewer = Viewer::follow(server.url("/live/show/0.m3u8"));
    wait_for("it publishes", || (!server.logged("\"publishing\"").is_empty()).then_some(()));
    let ended = |reason: &str| server.metric("steadycast_connections_ended_total", &format!("\"{reason}\""));
    // Too much, and too many empty messages.
    floods(publisher(&server, "fat"), &whole(9, 0, &vec![0x27; 60_000]));
    assert_eq!(ended("bitrate"), 1.0);
    floods(publisher(&server, "chatty"), &whole(8, 0, &[]).repeat(1000));
    assert_eq!(ended("message_rate"), 1.0);
    // A thousand that connect and say nothing: some are closed at once, the others when they should have published.
    let crowd: Vec<_> = (0..1000).filter_map(|_| TcpStream::connect(server.rtmp).ok()).collect();
    wait_for("the address has its share", || {
        (server.metric("steadycast_connections_refused_total", "address") >= 400.0).then_some(())
    });
    // Those that send a byte now and then gain nothing by it, on HTTP either.
    let mut slow: Vec<_> = (0..50).filter_map(|_| TcpStream::connect(server.http).ok()).collect();
    slow.iter_mut().for_each(|socket| socket.write_all(b"GET /live/show/0.m3u8 HTTP/1.1\r\nX-Slow: ").expect("sent"));
    assert!(ureq::get(&server.url("/live/show/0.m3u8")).call().is_ok(), "a viewer is served beside them");
    wait_for("their time is over", || {
        (ended("publish_overdue") >= 500.0 && server.metric("steadycast_connections_without_stream", "") == 0.0)
            .then_some(())
    });
    drop(crowd);
    // Whoever comes then is let in.
    drop(publisher(&server, "after"));
    assert!(healthy.finish(), "the healthy encoder noticed something");
    wait_for("it has ended", || (server.logged("\"publisher gone").len() >= 2).then_some(()));
    let recording = viewer.stop();
    recording.assert_consecutive();
    assert_eq!(recording.discontinuities(), 0);
    assert_eq!(server.metric("steadycast_actor_failures_total", ""), 0.0);
    assert_eq!(server.metric("steadycast_actor_restarts_total", ""), 0.0);
}

#[test]
fn names_that_are_none_are_refused_and_clocks_and_texts_of_all_kinds_are_lived_with() {
    let server = Server::start(&[]);
    for name in ["..", "a/../b", "a%2fb", "a%00b", "a\0b", "a b", "ä", "", &"x".repeat(4096)] {
        let target = Target { name: name.to_owned(), ..Target::parse(&server.publish_url("x")).expect("valid") };
        assert!(publish(&target).is_err(), "{name:?} was accepted");
    }
    assert!(server.metric("steadycast_publish_refusals_total", "bad_name") >= 8.0);
    assert!(!server.archived("x").exists());
    let clip = Clip { b_frames: 0, gop: 15, ..CLIP }.flv();
    let tags = media::flv::file(&std::fs::read(clip).expect("clip").into()).expect("FLV");
    let id = |kind| if kind == media::TrackKind::Video { 9 } else { 8 };
    // What each sends for the timestamp of its tags: forwards, backwards, over the end of 32 bits, never.
    type Clock = fn(u32) -> u32;
    let clocks: [(&str, Clock); 4] = [
        ("forwards", |ms| if ms < 5000 { ms } else { ms + 3_600_000 }),
        ("backwards", |ms| if ms < 5000 { ms + 3_600_000 } else { ms }),
        ("wraps", |ms| ms.wrapping_add(u32::MAX - 5000)),
        ("stands", |_| 77),
    ];
    for (name, clock) in clocks {
        let mut socket = publisher(&server, name);
        let text = [&[2, 0, 10][..], b"onMetaData", &[12], &(1u32 << 20).to_be_bytes(), &vec![b'x'; 1 << 20]].concat();
        socket.write_all(&whole(18, 0, &text)).expect("sent");
        for tag in &tags {
            socket.write_all(&whole(id(tag.kind), clock(tag.timestamp), &tag.body)).expect("sent");
        }
        let path = format!("live/{name}");
        let published = || server.metric("steadycast_stream_segments_published_total", &path);
        if name == "stands" {
            // No time passes in it: it is taken, and ends with what it is.
            drop(socket);
            wait_for("it is gone", || {
                (server.metric("steadycast_stream_publisher_present", &path) == 0.0).then_some(())
            });
            continue;
        }
        // Three of them are from before the fifth second, at which a clock may jump.
        wait_for(&format!("segments of {name}"), || (published() >= 4.0).then_some(()));
        let discontinuities = server.metric("steadycast_stream_discontinuities_total", &path);
        assert_eq!(discontinuities, if name == "wraps" { 0.0 } else { 1.0 }, "{name}");
    }
    assert_eq!(server.metric("steadycast_actor_failures_total", ""), 0.0);
    assert_eq!(server.metric("steadycast_actor_restarts_total", ""), 0.0);
}
