//! While the encoder is away something is shown, and the playlist keeps moving.

use crate::harness::media::{CLIP, Clip, ffmpeg};
use crate::harness::publisher::Publisher;
use crate::harness::server::Server;
use crate::harness::viewer::Viewer;
use crate::harness::wait_for;

const SHORT: Clip = Clip { gop: 30, b_frames: 0, ..CLIP };

/// An encoder is killed, away for so long that segments of a slate are published, and comes back.
fn away_and_back(options: &[&str]) {
    let server = Server::start(options);
    let first = Publisher::looping(SHORT, &server.publish_url("show"));
    let published = || server.metric("steadycast_stream_segments_published_total", "live/show");
    wait_for("segments", || (published() >= 3.0).then_some(()));
    let viewer = Viewer::follow(server.url("/live/show/0.m3u8"));
    first.kill();
    wait_for("a slate", || (server.metric("steadycast_stream_slate", "") == 1.0).then_some(()));
    let before = published();
    wait_for("segments of it", || (published() >= before + 3.0).then_some(()));
    let second = Publisher::looping(SHORT, &server.publish_url("show"));
    wait_for("the show", || (server.metric("steadycast_stream_slate", "") == 0.0).then_some(()));
    let back = published();
    wait_for("segments after it", || (published() >= back + 3.0).then_some(()));
    second.kill();
    let recording = viewer.stop();
    recording.assert_consecutive();
    assert_eq!((recording.discontinuities(), recording.ended), (2, false), "into the slate, and out of it");
    assert_eq!(recording.target_durations.len(), 1);
    // Whoever joins while it is shown sees pictures and hears silence: all of it decodes.
    let directory = tempfile::tempdir().expect("temporary directory");
    for stretch in recording.write_stretches(directory.path()) {
        let decoded = ffmpeg().args(["-xerror", "-i"]).arg(&stretch).args(["-f", "null", "-"]).status();
        assert!(decoded.expect("ffmpeg").success(), "{}", stretch.display());
    }
}

#[test]
fn the_last_picture_is_held_and_silence_is_heard_until_the_encoder_is_back() {
    away_and_back(&["--slate", "hold"]);
}

#[test]
fn the_same_in_transport_streams() {
    away_and_back(&["--slate", "hold", "--container", "mpegts"]);
}

#[test]
fn a_clip_stands_in_and_one_with_other_tracks_does_not() {
    let clip = Clip { width: 480, gop: 30, b_frames: 0, seconds: 4, ..CLIP }.flv();
    away_and_back(&["--slate", &clip.display().to_string()]);
    let video_only = clip.with_file_name("slate-video-only.flv");
    let made = ffmpeg().arg("-y").arg("-i").arg(&clip).args(["-an", "-c", "copy"]).arg(&video_only).status();
    assert!(made.expect("ffmpeg").success());
    let server = Server::start(&["--slate", &video_only.display().to_string()]);
    let encoder = Publisher::looping(SHORT, &server.publish_url("show"));
    wait_for("segments", || {
        (server.metric("steadycast_stream_segments_published_total", "live/show") >= 2.0).then_some(())
    });
    encoder.kill();
    wait_for("a slate", || (server.metric("steadycast_stream_slate", "") == 1.0).then_some(()));
    // The log is another channel than the metrics.
    wait_for("it is told", || (server.logged("has not the tracks of this stream").len() == 1).then_some(()));
}
