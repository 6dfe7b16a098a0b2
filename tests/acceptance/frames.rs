//! What a viewer sees, counted picture by picture.

use crate::harness::publisher::Publisher;
use crate::harness::server::Server;
use crate::harness::wait_for;
use chaos::frames;
use std::path::PathBuf;
use std::time::Duration;

const FPS: u32 = 30;
const SECONDS: u32 = 24;
/// How long nothing may be shown: longer than an encoder is away in these tests.
const PATIENCE: Duration = Duration::from_secs(60);

/// A clip of numbered pictures.
fn numbered(directory: &tempfile::TempDir, first: u32) -> PathBuf {
    let file = directory.path().join(format!("from-{first}.flv"));
    frames::make(&file, FPS, SECONDS, first).expect("ffmpeg");
    file
}

#[test]
fn every_picture_is_shown_once_and_in_order_while_actors_fail() {
    for container in ["cmaf", "mpegts"] {
        let directory = tempfile::tempdir().expect("temporary directory");
        let server = Server::start(&["--container", container, "--grace", "1"]);
        let publisher = Publisher::file(&numbered(&directory, 0), &server.publish_url("show"));
        let listed = |n: f64| {
            let published = || server.metric("steadycast_stream_segments_published_total", "live/show");
            wait_for("segments", || (published() >= n).then_some(()));
        };
        listed(1.0);
        let url = server.play_url("show");
        let counting = std::thread::spawn(move || frames::count(&url, None, PATIENCE).expect("played"));
        for (n, (child, blow)) in
            [("segmenter", "panic"), ("archiver", "kill"), ("segmenter", "error")].iter().enumerate()
        {
            listed(2.0 + 2.0 * n as f64);
            server.strike("show", child, blow);
        }
        assert!(publisher.finish(), "the encoder noticed something");
        let counted = counting.join().expect("counted");
        assert!(counted.is_whole(), "{container}: {counted:?}");
        assert_eq!((counted.first, counted.last), (Some(0), Some(FPS * SECONDS - 1)), "{container}");
    }
}

#[test]
fn a_reconnect_shows_nothing_twice_and_nothing_out_of_order() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let server = Server::start(&["--grace", "5"]);
    let (before, after) = (numbered(&directory, 0), numbered(&directory, 10_000));
    let publisher = Publisher::file(&before, &server.publish_url("show"));
    wait_for("segments", || {
        (server.metric("steadycast_stream_segments_published_total", "live/show") >= 3.0).then_some(())
    });
    let url = server.play_url("show");
    let counting = std::thread::spawn(move || frames::count(&url, None, PATIENCE).expect("played"));
    publisher.kill();
    let again = Publisher::file(&after, &server.publish_url("show"));
    assert!(again.finish(), "the encoder noticed something");
    let counted = counting.join().expect("counted");
    // What the killed encoder had not sent, and no more: up to the first picture of the next, and of the last group
    // of B-frames those that follow, in decode order, the picture they lean on.
    let ranges = &counted.missing_ranges;
    let (lost, reordered) = ranges.split_last().expect("something was not sent");
    assert_eq!(lost.1, 9_999, "{counted:?}");
    assert!(reordered.iter().all(|(from, to)| to - from < 2 && lost.0 - to <= 2), "{counted:?}");
    assert_eq!((counted.repeated.len(), counted.misordered.len(), counted.unreadable), (0, 0, 0), "{counted:?}");
    assert_eq!(counted.last, Some(10_000 + FPS * SECONDS - 1), "{counted:?}");
}
