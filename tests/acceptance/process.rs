//! The process is told to stop, or makes no progress: it says so, and loses nothing.

use crate::harness::media::{CLIP, Clip, packets};
use crate::harness::publisher::Publisher;
use crate::harness::server::Server;
use crate::harness::viewer::{Viewer, try_get};
use crate::harness::{in_time, wait_for};
use rustix::process::Signal;
use std::os::unix::net::UnixDatagram;
use std::time::{Duration, Instant};

const SHORT: Clip = Clip { gop: 30, b_frames: 0, ..CLIP };
/// What its segments are long.
const SEGMENT_SECONDS: f64 = 2.0;

fn segments_reach(server: &Server, count: f64) {
    wait_for(&format!("{count} segments"), || {
        (server.metric("steadycast_stream_segments_published_total", "live/show") >= count).then_some(())
    });
}

#[test]
fn a_process_that_is_told_to_stop_publishes_what_it_has_and_its_successor_goes_on() {
    // Longer than an actor may take that is not run: who has nothing to do any more is not stuck.
    let server = Server::start(&["--drain", "7"]);
    let clip = Clip { seconds: 30, ..SHORT }.flv();
    let mut publisher = Some(Publisher::file(&clip, &server.publish_url("show")));
    segments_reach(&server, 3.0);
    let viewer = Viewer::follow(server.url("/live/show/0.m3u8"));
    // Half a segment lies open when it is told.
    let received = || server.metric("steadycast_stream_received_bytes_total", "live/show");
    let published = || server.metric("steadycast_stream_segments_published_total", "live/show");
    let bytes = || server.metric("steadycast_stream_segment_bytes_total", "live/show");
    // All are as long: what was received, in segments, when so many were listed afterwards.
    let listed = wait_for("half of the next one", || {
        let received = received();
        let listed = published();
        (received >= bytes() * (1.0 + 0.5 / listed)).then_some(listed)
    });
    let told = Instant::now();
    server.tell(Signal::TERM);
    let readiness = format!("http://{}/readyz", server.health);
    wait_for("it is not ready", || {
        matches!(ureq::get(&readiness).call(), Err(ureq::Error::StatusCode(503))).then_some(())
    });
    assert!(!publisher.take().expect("one").finish(), "its encoder is told to leave");
    // A viewer is served all the time that was asked for.
    let archived = server.archived("show").join("0.m3u8");
    let served = try_get(&server.url("/live/show/0.m3u8")).expect("viewers are served");
    let recording = viewer.stop();
    let log = server.log();
    let (status, directory) = server.exit_keeping();
    assert!(status.success(), "{status}");
    assert!(!log.lock().expect("log").iter().any(|line| line.contains("stuck")), "somebody was found stuck");
    assert!((7.0..20.0).contains(&told.elapsed().as_secs_f64()), "{:?}", told.elapsed());
    assert_eq!(std::fs::read(archived).expect("archived"), served, "the archive has what viewers were told last");
    // What was sent until then was published: the clip from its beginning, up to a sample of each track that waited for
    // its successor, and what lay in the socket.
    let files = tempfile::tempdir().expect("temporary directory");
    let (got, sent) = (packets(&recording.write(files.path()), "v"), packets(&clip, "v"));
    let first = sent.iter().position(|packet| packet.digest == got[0].digest).expect("of the clip");
    assert!(got.iter().zip(&sent[first..]).all(|(got, sent)| got.digest == sent.digest), "something is missing");
    let seconds = (first + got.len()) as f64 / f64::from(SHORT.fps);
    let listed = listed * SEGMENT_SECONDS;
    assert!(
        seconds > listed + 0.5,
        "{seconds} s of the show were published, {listed} before: what lay open is missing"
    );
    let again = Server::start_again(directory, &[]);
    let _publisher = Publisher::looping(SHORT, &again.publish_url("show"));
    segments_reach(&again, 2.0);
    let listed = String::from_utf8(try_get(&again.url("/live/show/0.m3u8")).expect("listed")).expect("text");
    assert_eq!(listed.matches("#EXT-X-DISCONTINUITY\n").count(), 1, "{listed}");
    assert_eq!(again.logged("session adopted").len(), 1);
}

#[test]
fn a_terminal_tells_the_parent_alone_and_the_worker_drains() {
    let server = Server::supervised(&["--drain", "1"]);
    let worker = wait_for("there is a worker", || server.worker());
    let group = |pid| rustix::process::getpgid(Some(pid)).expect("it runs");
    assert_eq!(group(worker), worker, "it would hear of a Ctrl-C twice");
    server.tell_group(Signal::INT);
    let log = server.log();
    assert_eq!(server.exit().code(), Some(0));
    let log = log.lock().expect("log").join("\n");
    assert!(log.contains("draining") && !log.contains("told twice"), "{log}");
}

#[test]
fn told_twice_it_ends_at_once() {
    in_time(|| {
        let server = Server::start(&["--drain", "60"]);
        let told = Instant::now();
        server.tell(Signal::INT);
        wait_for("it drains", || (!server.logged("draining").is_empty()).then_some(()));
        server.tell(Signal::INT);
        assert_eq!(server.exit().code(), Some(130));
        let took = told.elapsed();
        (took >= Duration::from_secs(5)).then(|| format!("it took {took:?}")).into_iter().collect()
    });
}

#[test]
fn the_service_manager_hears_of_progress_while_there_is_and_the_process_ends_when_there_is_none() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let path = directory.path().join("notify");
    let socket = UnixDatagram::bind(&path).expect("bound");
    socket.set_read_timeout(Some(Duration::from_secs(5))).expect("option");
    let environment = [("NOTIFY_SOCKET", path.display().to_string()), ("WATCHDOG_USEC", "1000000".to_owned())];
    let server = Server::start_with_environment(&environment, &[]);
    let hear = |limit: Duration| {
        socket.set_read_timeout(Some(limit)).expect("option");
        let mut buffer = [0; 256];
        socket.recv(&mut buffer).ok().map(|length| String::from_utf8_lossy(&buffer[..length]).trim().to_owned())
    };
    let first: Vec<_> = (0..3).filter_map(|_| hear(Duration::from_secs(3))).collect();
    assert_eq!(first, ["READY=1", "WATCHDOG=1", "WATCHDOG=1"]);
    let publisher = Publisher::looping(SHORT, &server.publish_url("show"));
    segments_reach(&server, 2.0);
    for child in ["watcher", "archiver", "publisher_lock", "segmenter"] {
        server.strike("show", child, "block&milliseconds=600000");
    }
    wait_for("health says so", || {
        let health = ureq::get(&format!("http://{}/healthz", server.health)).call();
        matches!(health, Err(ureq::Error::StatusCode(503))).then_some(())
    });
    let log = server.log();
    assert_eq!(server.exit().code(), Some(70));
    let words =
        wait_for("last words", || log.lock().expect("log").iter().find(|line| line.contains("no progress")).cloned());
    let words: serde_json::Value = serde_json::from_str(&words).expect("JSON");
    assert!(words["stuck"].as_array().is_some_and(|stuck| stuck.len() >= 3), "{words}");
    assert!(words["threads"].as_array().is_some_and(|threads| threads.iter().any(|t| t["name"] == "guard")), "{words}");
    drop(publisher);
}

#[test]
fn where_the_newest_wins_a_second_encoder_takes_over_and_how_one_left_decides_how_long_it_is_waited_for() {
    let server = Server::start(&["--takeover", "live", "--grace", "60", "--grace-unpublished", "1"]);
    let first = Publisher::looping(SHORT, &server.publish_url("show"));
    segments_reach(&server, 2.0);
    let second = Publisher::file(&Clip { seconds: 8, ..SHORT }.flv(), &server.publish_url("show"));
    assert!(!first.finish(), "the first one is told to leave");
    assert_eq!(server.metric("steadycast_publisher_evictions_total", "takeover"), 1.0);
    // It ends its publication itself; one that is lost would be waited for.
    assert!(second.finish());
    wait_for("the session ends", || (!server.logged("session ended").is_empty()).then_some(()));
    let third = Publisher::looping(SHORT, &server.publish_url("other"));
    wait_for("it publishes", || (server.logged("\"publishing\"").len() == 3).then_some(()));
    // A session that has shown nothing is not waited for.
    wait_for("it is shown", || try_get(&server.url("/live/other/0.m3u8")));
    third.kill();
    wait_for("it is lost", || (server.logged("\"lost\"").len() == 2).then_some(()));
    assert_eq!(server.logged("session ended").len(), 1);
}
