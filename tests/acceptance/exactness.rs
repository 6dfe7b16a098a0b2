//! What was published is what is delivered, packet for packet.

use crate::harness::media::{CLIP, Clip, assert_same_packets};
use crate::harness::publisher::Publisher;
use crate::harness::server::Server;
use crate::harness::viewer::Viewer;
use crate::harness::{in_time, wait_for};
use std::time::Duration;

const MINUTE: Clip = Clip { seconds: 60, b_frames: 2, ..CLIP };

/// Publishes a clip once, with something happening meanwhile: viewers get what was published.
fn exact(clip: Clip, options: &[&str], kinds: &[&str], meanwhile: impl Fn(&Server)) {
    in_time(|| {
        let server = Server::start(&[&["--grace", "1"], options].concat());
        let publisher = Publisher::file(&clip.flv(), &server.publish_url("show"));
        let viewer = Viewer::follow(server.url("/live/show/0.m3u8"));
        meanwhile(&server);
        assert!(publisher.finish(), "the encoder noticed something");
        let recording = viewer.finish();
        recording.assert_consecutive();
        assert_eq!(recording.discontinuities(), 0);
        let directory = tempfile::tempdir().expect("temporary directory");
        assert_same_packets(&clip.flv(), &recording.write(directory.path()), kinds);
        recording.later_than(Duration::from_secs(2 * recording.target_durations[0]))
    });
}

#[test]
fn cmaf_delivers_every_packet_with_its_timing() {
    exact(MINUTE, &["--container", "cmaf"], &["v", "a"], |_| {});
}

#[test]
fn mpeg_ts_delivers_every_packet_with_its_timing() {
    exact(MINUTE, &["--container", "mpegts"], &["v", "a"], |_| {});
}

#[test]
fn cmaf_loses_and_repeats_nothing_while_the_segmenter_fails_five_times() {
    segmenter_fails_five_times("cmaf");
}

#[test]
fn mpeg_ts_loses_and_repeats_nothing_while_the_segmenter_fails_five_times() {
    segmenter_fails_five_times("mpegts");
}

fn segmenter_fails_five_times(container: &str) {
    exact(MINUTE, &["--container", container], &["v", "a"], |server| {
        let published = || server.metric("steadycast_stream_segments_published_total", "live/show");
        for (n, blow) in ["panic", "error", "kill", "panic", "kill"].into_iter().enumerate() {
            // Spread over the minute: the next one comes when the one before is overcome.
            wait_for("segments go on", || (published() >= 3.0 + 4.0 * n as f64).then_some(()));
            server.strike("show", "segmenter", blow);
            wait_for("the restart is counted", || {
                (server.metric("steadycast_actor_restarts_total", "actor=\"segmenter\"") >= 1.0 + n as f64)
                    .then_some(())
            });
        }
    });
}

#[test]
fn audio_alone_and_video_alone_are_delivered_whole() {
    let audio = Clip { video: false, sample_rate: 44100, ..CLIP };
    exact(audio, &[], &["a"], |_| {});
    let video = Clip { audio: false, fps: 25, gop: 50, b_frames: 0, ..CLIP };
    exact(video, &["--container", "mpegts"], &["v"], |_| {});
}

#[test]
fn gops_longer_and_shorter_than_the_target_are_delivered_whole() {
    exact(Clip { seconds: 16, gop: 120, ..CLIP }, &[], &["v", "a"], |_| {});
    exact(Clip { gop: 15, fps: 60, ..CLIP }, &[], &["v", "a"], |_| {});
}
