//! Encoders come and go; the URL stays.

use crate::harness::media::{CLIP, Clip};
use crate::harness::publisher::Publisher;
use crate::harness::server::Server;
use crate::harness::viewer::{Viewer, try_get};
use crate::harness::wait_for;

const SHORT: Clip = Clip { gop: 30, b_frames: 0, ..CLIP };

fn segments_reach(server: &Server, count: f64) {
    wait_for(&format!("{count} segments"), || {
        (server.metric("steadycast_stream_segments_published_total", "live/show") >= count).then_some(())
    });
}

fn playlist(server: &Server) -> m3u8_rs::MediaPlaylist {
    let text = try_get(&server.url("/live/show/0.m3u8")).expect("a playlist");
    m3u8_rs::parse_media_playlist(&text).expect("valid").1
}

#[test]
fn an_encoder_killed_and_started_again_within_grace_continues_the_session() {
    let server = Server::start(&["--grace", "20"]);
    let first = Publisher::looping(SHORT, &server.publish_url("show"));
    segments_reach(&server, 3.0);
    let viewer = Viewer::follow(server.url("/live/show/0.m3u8"));
    let before = session(&server);
    first.kill();
    wait_for("the loss is noticed", || (!server.logged("publisher gone").is_empty()).then_some(()));
    let second = Publisher::looping(SHORT, &server.publish_url("show"));
    segments_reach(&server, 6.0);
    let with_tag = playlist(&server);
    assert_eq!(with_tag.segments.iter().filter(|segment| segment.discontinuity).count(), 1);
    // Until the tag has left the window: its number is kept.
    wait_for("the tag leaves the window", || {
        playlist(&server).segments.iter().all(|segment| !segment.discontinuity).then_some(())
    });
    assert_eq!(playlist(&server).discontinuity_sequence, with_tag.discontinuity_sequence + 1);
    assert_eq!(session(&server), before, "the same session, published when it was");
    drop(second);
    let recording = viewer.stop();
    recording.assert_consecutive();
    assert_eq!((recording.discontinuities(), recording.ended), (1, false));
    assert_eq!(recording.target_durations.len(), 1);
}

#[test]
fn an_encoder_gone_beyond_grace_ends_the_playlist_once_and_a_new_session_follows() {
    let server = Server::start(&["--grace", "1"]);
    let first = Publisher::looping(SHORT, &server.publish_url("show"));
    segments_reach(&server, 3.0);
    let viewer = Viewer::follow(server.url("/live/show/0.m3u8"));
    let before = session(&server);
    first.kill();
    let recording = viewer.finish();
    recording.assert_consecutive();
    assert!(recording.ended);
    let ended = playlist(&server);
    assert!(ended.end_list);
    assert_eq!(server.logged("session ended").len(), 1);
    // The archive says so, too, and playlist and segments stay fetchable for late viewers.
    let archived = server.archived("show").join("0.m3u8");
    wait_for("the archived playlist ends", || {
        std::fs::read_to_string(&archived).ok().filter(|text| text.contains("#EXT-X-ENDLIST"))
    });
    let _second = Publisher::looping(SHORT, &server.publish_url("show"));
    let fresh =
        wait_for("the new session's playlist", || Some(playlist(&server)).filter(|playlist| !playlist.end_list));
    let last = ended.media_sequence + ended.segments.len() as u64 - 1;
    assert!(fresh.media_sequence > last, "{} after {last}", fresh.media_sequence);
    assert!(fresh.discontinuity_sequence > ended.discontinuity_sequence);
    assert_ne!(session(&server), before);
}

#[test]
fn a_second_encoder_is_refused_while_the_first_lives_and_does_it_no_harm() {
    let server = Server::start(&[]);
    let mut publisher = Publisher::looping(SHORT, &server.publish_url("show"));
    segments_reach(&server, 2.0);
    let viewer = Viewer::follow(server.url("/live/show/0.m3u8"));
    for _ in 0..5 {
        let intruder = Publisher::file(&SHORT.flv(), &server.publish_url("show"));
        assert!(!intruder.finish(), "it was let in");
    }
    assert_eq!(server.metric("steadycast_publish_refusals_total", "taken"), 5.0);
    assert!(!publisher.has_ended(), "it was told to leave");
    let recording = viewer.stop();
    recording.assert_consecutive();
    assert_eq!(recording.discontinuities(), 0);
}

#[test]
fn an_encoder_that_changes_its_picture_gets_a_new_initialization_after_a_discontinuity() {
    let server = Server::start(&[]);
    let first = Publisher::looping(SHORT, &server.publish_url("show"));
    segments_reach(&server, 2.0);
    let viewer = Viewer::follow(server.url("/live/show/0.m3u8"));
    first.kill();
    wait_for("the loss is noticed", || (!server.logged("publisher gone").is_empty()).then_some(()));
    let _second = Publisher::looping(Clip { width: 480, ..SHORT }, &server.publish_url("show"));
    segments_reach(&server, 6.0);
    let recording = viewer.stop();
    assert_eq!((recording.maps.len(), recording.discontinuities()), (2, 1));
}

/// Session id and published-at of the stream.
fn session(server: &Server) -> (String, i64) {
    let text = try_get(&server.url("/api/v1/streams")).expect("streams");
    let streams: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
    let stream = &streams["streams"][0];
    (stream["session"].as_str().expect("session").to_owned(), stream["published_at_ms"].as_i64().expect("time"))
}
