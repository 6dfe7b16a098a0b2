//! After the show: a session's recording is what was published, and says what is missing.

use crate::harness::media::{CLIP, Clip, assert_same_packets, packets};
use crate::harness::publisher::Publisher;
use crate::harness::server::Server;
use crate::harness::viewer::{Viewer, try_get};
use crate::harness::wait_for;
use chaos::faultfs::{Effect, Mount, Rule};
use rustix::io::Errno;
use serde_json::Value;
use sha2::{Digest, Sha256};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

fn recordings(server: &Server) -> Vec<Value> {
    let text = try_get(&server.url("/api/v1/recordings")).expect("recordings");
    let answer: Value = serde_json::from_slice(&text).expect("JSON");
    answer["recordings"].as_array().expect("a list").clone()
}

/// Waits for the one recording there is to be complete.
fn finished(server: &Server) -> Value {
    wait_for("the recording is finished", || {
        let all = recordings(server);
        assert!(all.len() <= 1, "{all:?}");
        all.into_iter().find(|recording| recording["state"] == "ended")
    })
}

fn number(recording: &Value, field: &str) -> u64 {
    recording[field].as_u64().unwrap_or_else(|| panic!("{field} of {recording}"))
}

/// A VOD as a player gets it.
struct Vod {
    playlist: m3u8_rs::MediaPlaylist,
    text: String,
    digests: Value,
    base: String,
}

impl Vod {
    fn of(server: &Server, recording: &Value) -> Self {
        let index = server.url(recording["playlist"].as_str().expect("a playlist"));
        assert!(String::from_utf8_lossy(&try_get(&index).expect("served")).contains("CODECS="));
        let base = index.rsplit_once('/').expect("URL").0.to_owned();
        let text = String::from_utf8(try_get(&format!("{base}/0.m3u8")).expect("served")).expect("text");
        let playlist = m3u8_rs::parse_media_playlist(text.as_bytes()).expect("valid").1;
        assert!(playlist.end_list && playlist.playlist_type == Some(m3u8_rs::MediaPlaylistType::Vod));
        let digests = try_get(&format!("{base}/segments-sha256.json")).expect("served");
        Self { playlist, text, digests: serde_json::from_slice(&digests).expect("JSON"), base }
    }

    /// A file of it, which has the digest that is listed for it.
    fn file(&self, uri: &str) -> Vec<u8> {
        let bytes = try_get(&format!("{}/{uri}", self.base)).unwrap_or_else(|| panic!("{uri} is listed and not there"));
        let name = uri.rsplit_once('/').expect("an hour").1;
        let digest: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(self.digests[name], digest, "{uri}");
        bytes
    }

    /// Segments with their URIs.
    fn segments(&self) -> Vec<(String, Vec<u8>)> {
        self.playlist.segments.iter().map(|segment| (segment.uri.clone(), self.file(&segment.uri))).collect()
    }

    /// All of it behind its initialization section, for other readers.
    fn write(&self, directory: &Path) -> PathBuf {
        let map = self.playlist.segments[0].map.as_ref();
        let file = directory.join(if map.is_some() { "vod.mp4" } else { "vod.ts" });
        let mut bytes = map.map(|map| self.file(&map.uri)).unwrap_or_default();
        self.segments().into_iter().for_each(|(_, segment)| bytes.extend(segment));
        std::fs::write(&file, bytes).expect("written");
        file
    }
}

/// Has one file made of a recording, by the API; what its `field` says then.
fn export(server: &Server, id: &str, field: &str) -> String {
    let url = format!("http://{}/api/v1/recordings/{id}/export", server.health);
    assert_eq!(ureq::post(&url).send_empty().expect("accepted").status().as_u16(), 202);
    wait_for("it is exported", || {
        let all = recordings(server);
        let recording = all.into_iter().find(|recording| recording["id"] == id)?;
        recording[field].as_str().map(str::to_owned)
    })
}

/// The same, once it has failed; the bytes.
fn exported(server: &Server, id: &str) -> Vec<u8> {
    let in_the_way = server.recorded(id, "recording.mp4");
    std::fs::create_dir(&in_the_way).expect("made");
    assert!(export(server, id, "movie_error").contains("no file"));
    std::fs::remove_dir(&in_the_way).expect("removed");
    let movie = export(server, id, "movie");
    let recording = recordings(server).into_iter().find(|recording| recording["id"] == id).expect("listed");
    assert!(recording["movie_error"].is_null(), "what failed before is said no more: {recording}");
    try_get(&server.url(&movie)).expect("served")
}

/// What ffmpeg complains of while it decodes all of a file.
fn decoding_errors(file: &Path) -> String {
    // With the file's own times: two pictures that lie about half-way between ticks of the frame rate, as RTMP's milliseconds
    // put them after a reconnect, would be rounded onto the same one.
    let times = ["-fps_mode", "passthrough", "-enc_time_base", "-1"];
    let mut ffmpeg = std::process::Command::new("ffmpeg");
    ffmpeg.args(["-v", "error", "-i"]).arg(file).args(times).args(["-f", "null", "-"]);
    let run = ffmpeg.output().expect("ffmpeg runs");
    String::from_utf8_lossy(&run.stderr).into_owned()
}

fn becomes_a_vod(container: &str) {
    let clip = Clip { seconds: 13, ..CLIP };
    let server = Server::start(&["--record", "--grace", "1", "--container", container]);
    let publisher = Publisher::file(&clip.flv(), &server.publish_url("show"));
    wait_for("it is listed while it is live", || {
        recordings(&server).first().filter(|recording| recording["state"] == "live").map(drop)
    });
    let directory = tempfile::tempdir().expect("temporary directory");
    let movie = directory.path().join("exported.mp4");
    let id = recordings(&server)[0]["id"].as_str().expect("an id").to_owned();
    let export = ["export", &id, "--to", movie.to_str().expect("UTF-8")];
    let refused = server.try_command(&export).expect_err("it goes on");
    assert!(refused.contains("--unfinished") && !movie.exists(), "{refused}");
    assert!(publisher.finish());
    let recording = finished(&server);
    let vod = Vod::of(&server, &recording);
    assert_eq!(number(&recording, "gaps"), 0);
    assert!(!vod.text.contains("DISCONTINUITY\n"), "{}", vod.text);
    assert_eq!(number(&recording, "segments"), vod.playlist.segments.len() as u64);
    assert_same_packets(&clip.flv(), &vod.write(directory.path()), &["v", "a"]);
    // As a player reads it, playlist and all.
    let played = packets(Path::new(&server.url(recording["playlist"].as_str().expect("a playlist"))), "v");
    assert_eq!(played.len(), packets(&clip.flv(), "v").len());
    let own = server.recorded(&id, "session.json");
    let refused = server.try_command(&["export", &id, "--to", own.to_str().expect("UTF-8")]).expect_err("the server's");
    assert!(refused.contains("in the archive"), "{refused}");
    server.command(&export);
    assert_same_packets(&clip.flv(), &movie, &["v", "a"]);
    assert_eq!(decoding_errors(&movie), "");
    let by_api = exported(&server, &id);
    assert!(std::fs::read(&movie).expect("written") == by_api, "both are the same file");
    let place = |name: &[u8]| by_api.windows(4).position(|window| window == name).expect("a box");
    assert!(place(b"moov") < place(b"mdat"), "it cannot be sought before it is there whole");
    // Removed from the health address only, and gone then.
    let path = format!("/api/v1/recordings/{id}");
    assert!(ureq::delete(&server.url(&path)).call().is_err(), "viewers remove nothing");
    let removed = ureq::delete(&format!("http://{}{path}", server.health)).call().expect("removed");
    assert_eq!(removed.status().as_u16(), 204);
    assert!(recordings(&server).is_empty());
    assert!(try_get(&format!("{}/0.m3u8", vod.base)).is_none());
}

#[test]
fn a_recorded_session_becomes_a_vod_with_every_packet() {
    becomes_a_vod("cmaf");
}

#[test]
fn a_recorded_session_in_mpeg_ts_becomes_a_vod_with_every_packet() {
    becomes_a_vod("mpegts");
}

#[test]
fn a_session_that_begins_at_once_leaves_the_recording_of_the_one_before_whole() {
    let clip = Clip { seconds: 7, ..CLIP };
    let server = Server::start(&["--record", "--grace", "0"]);
    let url = server.publish_url("show");
    assert!(Publisher::file(&clip.flv(), &url).finish());
    wait_for("the first session ends", || {
        try_get(&server.url("/live/show/0.m3u8")).filter(|text| String::from_utf8_lossy(text).contains("ENDLIST"))
    });
    assert!(Publisher::file(&clip.flv(), &url).finish());
    let both = wait_for("both recordings end", || {
        let all = recordings(&server);
        (all.len() == 2 && all.iter().all(|recording| recording["state"] == "ended")).then_some(all)
    });
    for recording in both {
        let directory = tempfile::tempdir().expect("temporary directory");
        assert_same_packets(&clip.flv(), &Vod::of(&server, &recording).write(directory.path()), &["v", "a"]);
    }
}

#[test]
fn what_was_removed_stays_removed_when_the_process_restarts() {
    let clip = Clip { seconds: 5, ..CLIP };
    let options = ["--record", "--grace", "0"];
    let server = Server::start(&options);
    assert!(Publisher::file(&clip.flv(), &server.publish_url("show")).finish());
    let id = finished(&server)["id"].as_str().expect("an id").to_owned();
    // Until its stream's tree is closed it is not noted that it is complete.
    wait_for("its tree is closed", || (server.metric("steadycast_streams", "") == 0.0).then_some(()));
    ureq::delete(&format!("http://{}/api/v1/recordings/{id}", server.health)).call().expect("removed");
    let server = server.kill_and_restart(&options);
    assert!(!server.logged("an ended session is shown a little longer").is_empty());
    // Another one begins, ends and is recorded meanwhile.
    assert!(Publisher::file(&clip.flv(), &server.publish_url("other")).finish());
    let other = finished(&server);
    assert!(other["id"].as_str().is_some_and(|id| id.starts_with("live/other/")), "{other}");
    assert_eq!(recordings(&server).len(), 1);
}

#[test]
fn what_is_truncated_in_the_live_directory_is_whole_in_the_recording_too() {
    let clip = Clip { seconds: 20, ..CLIP };
    let archive = tempfile::tempdir().expect("temporary directory");
    let data = archive.path().join("data");
    let server = Server::start_on(&data, &["--record", "--grace", "1"]);
    let publisher = Publisher::file(&clip.flv(), &server.publish_url("show"));
    let files = |directory: PathBuf| {
        let entries = std::fs::read_dir(directory).into_iter().flatten().flatten().map(|entry| entry.path());
        entries.filter(|path| path.extension().is_some_and(|extension| extension == "m4s")).collect::<Vec<_>>()
    };
    let recorded = || {
        let session = std::fs::read_dir(data.join("recordings/live/show")).ok()?.flatten().next()?.path();
        let hours = std::fs::read_dir(session).ok()?.flatten().map(|entry| entry.path());
        hours.flat_map(&files).next()
    };
    let kept = wait_for("a segment is recorded", recorded);
    let live = server.archived("show").join(kept.file_name().expect("a name"));
    let length = std::fs::metadata(&kept).expect("recorded").len();
    let inode = |path: &PathBuf| std::fs::metadata(path).expect("it is there").ino();
    assert_eq!(inode(&kept), inode(&live), "both are names of one file");
    let file = std::fs::File::options().write(true).open(&live).expect("it is in the window");
    file.set_len(10).expect("truncated");
    wait_for("both are whole again", || {
        let whole = |path: &PathBuf| std::fs::metadata(path).is_ok_and(|there| there.len() == length);
        (whole(&live) && whole(&kept)).then_some(())
    });
    assert!(publisher.finish());
    let vod = Vod::of(&server, &finished(&server));
    let directory = tempfile::tempdir().expect("temporary directory");
    assert_same_packets(&clip.flv(), &vod.write(directory.path()), &["v", "a"]);
}

#[test]
fn a_live_recording_that_is_deleted_comes_back_while_it_is_in_memory() {
    let clip = Clip { seconds: 20, ..CLIP };
    let archive = tempfile::tempdir().expect("temporary directory");
    let data = archive.path().join("data");
    let server = Server::start_on(&data, &["--record", "--grace", "1"]);
    let publisher = Publisher::file(&clip.flv(), &server.publish_url("show"));
    let recorded = || {
        let session = std::fs::read_dir(data.join("recordings/live/show")).ok()?.flatten().next()?.path();
        let hour = std::fs::read_dir(&session).ok()?.flatten().map(|entry| entry.path()).find(|path| path.is_dir())?;
        let index = std::fs::read_to_string(hour.join("segments.jsonl")).ok()?;
        (index.lines().count() >= 2).then_some((session, hour))
    };
    let (session, _) = wait_for("two segments are recorded", recorded);
    // Renamed first: the recorder writes into it meanwhile.
    let gone = archive.path().join("gone");
    std::fs::rename(session, &gone).expect("renamed");
    std::fs::remove_dir_all(gone).expect("removed");
    let (session, hour) = wait_for("they are recorded again", recorded);
    let first = std::fs::read_dir(&hour).expect("listed").flatten().map(|entry| entry.path());
    let first = first.filter(|path| path.extension().is_some_and(|extension| extension == "m4s")).min();
    let first = first.expect("a segment");
    std::fs::remove_file(&first).expect("removed");
    wait_for("a single file, too", || first.exists().then_some(()));
    assert!(session.join("session.json").exists());
    let told = || (server.metric("steadycast_recording_damage_total", "") >= 1.0).then_some(());
    wait_for("it is told of", told);
    assert!(publisher.finish());
    let recording = finished(&server);
    assert_eq!(number(&recording, "gaps"), 0);
    let directory = tempfile::tempdir().expect("temporary directory");
    assert_same_packets(&clip.flv(), &Vod::of(&server, &recording).write(directory.path()), &["v", "a"]);
}

#[test]
fn a_session_that_met_kill_9_and_a_reconnect_is_one_recording_and_what_viewers_got_is_in_it() {
    let clip = Clip { b_frames: 0, ..CLIP };
    let options = ["--record", "--grace", "20"];
    let server = Server::start(&options);
    let first = Publisher::looping(clip, &server.publish_url("show"));
    let viewer = Viewer::follow(server.url("/live/show/0.m3u8"));
    let begun = wait_for("something is recorded", || recordings(&server).first().cloned());
    let server = server.kill_and_restart(&options);
    drop(first);
    let second = Publisher::looping(clip, &server.publish_url("show"));
    wait_for("new segments", || {
        (server.metric("steadycast_stream_segments_published_total", "live/show") >= 3.0).then_some(())
    });
    second.kill();
    let seen = viewer.finish();
    let recording = finished(&server);
    assert_eq!((&recording["id"], &recording["published_at_ms"]), (&begun["id"], &begun["published_at_ms"]));
    assert_eq!(number(&recording, "epoch"), 2);
    let vod = Vod::of(&server, &recording);
    assert!(vod.playlist.segments.iter().any(|segment| segment.discontinuity));
    let recorded = vod.segments();
    for (uri, bytes) in &recorded {
        let name = uri.rsplit_once('/').expect("an hour").1;
        if let Some(seen) = seen.segments.values().find(|seen| seen.uri == name) {
            assert!(seen.bytes == *bytes, "{uri} is not what viewers got");
        }
    }
    assert!(recorded.len() >= 5, "{recording}");
    let is_recorded = |name: &str| recorded.iter().any(|(uri, _)| uri.ends_with(&format!("/{name}")));
    let missing = seen.segments.values().filter(|seen| !is_recorded(&seen.uri)).count() as u64;
    assert!(missing <= number(&recording, "gaps"), "{missing} segments are neither recorded nor gaps: {recording}");
    // In one file everything is there as well, at its time: the gap between the two publishers is no longer than it was.
    let directory = tempfile::tempdir().expect("temporary directory");
    let movie = directory.path().join("exported.mp4");
    std::fs::write(&movie, exported(&server, recording["id"].as_str().expect("an id"))).expect("written");
    let digests = |file: &Path| packets(file, "v").into_iter().map(|packet| packet.digest).collect::<Vec<_>>();
    assert_eq!(digests(&movie), digests(&vod.write(directory.path())));
    assert_eq!(decoding_errors(&movie), "");
}

#[test]
fn ten_faults_and_two_reconnects_are_one_recording_that_lacks_what_it_says_and_nothing_else() {
    let directories = [(); 2].map(|()| tempfile::tempdir().expect("temporary directory"));
    let [source, point] = directories.each_ref().map(tempfile::TempDir::path);
    let mount = Mount::new(source, point, 1).expect("faultfs");
    let rules = |rules| mount.rules().set(rules).expect("few");
    // Nothing is held for the recording beyond what viewers may still fetch.
    let server = Server::start_on(point, &["--record", "--spool", "0", "--window", "3", "--grace", "5"]);
    let url = server.publish_url("show");
    let mut publisher = Publisher::looping(CLIP, &url);
    let viewer = Viewer::follow(server.url("/live/show/0.m3u8"));
    wait_for("something is recorded", || recordings(&server).first().cloned());
    let struck = || mount.rules().counts().struck.values().sum::<u64>();
    for (number, errno) in [Errno::IO, Errno::NOSPC, Errno::ROFS].into_iter().cycle().take(9).enumerate() {
        let before = struck();
        rules(vec![Rule::always(None, Effect::Errno(errno.raw_os_error()))]);
        wait_for("a fault strikes", || (struck() > before).then_some(()));
        rules(Vec::new());
        if number == 2 || number == 5 {
            publisher.kill();
            publisher = Publisher::looping(CLIP, &url);
            let published = || server.metric("steadycast_stream_segments_published_total", "live/show");
            // What its predecessor left open may come first.
            let before = published();
            wait_for("it publishes", || (published() >= before + 2.0).then_some(()));
        }
    }
    rules(vec![Rule::always(None, Effect::Errno(Errno::IO.raw_os_error()))]);
    let gaps = || server.metric("steadycast_stream_recording_gaps_total", "live/show");
    wait_for("the recording lacks something", || (gaps() >= 2.0).then_some(()));
    rules(Vec::new());
    wait_for("it goes on", || {
        (server.metric("steadycast_stream_archive_age_seconds", "live/show") < 3.0).then_some(())
    });
    publisher.kill();
    let seen = viewer.finish();
    seen.assert_consecutive();
    assert_eq!(seen.discontinuities(), 2);
    let recording = finished(&server);
    assert_eq!(number(&recording, "epoch"), 3);
    assert!(number(&recording, "storage_errors") >= 10, "{recording}");
    let vod = Vod::of(&server, &recording);
    let gaps = number(&recording, "gaps");
    assert!(gaps >= 2, "{recording}");
    let there = vod.playlist.segments.len() as u64;
    assert_eq!(there + gaps, seen.segments.len() as u64, "every segment is there or a gap");
    for (uri, bytes) in vod.segments() {
        let name = uri.rsplit_once('/').expect("an hour").1;
        let seen = seen.segments.values().find(|seen| seen.uri == name).expect("viewers got it");
        assert!(seen.bytes == bytes, "{uri} is not what viewers got");
    }
    plays_to_its_end(&server, &recording, &vod);
}

/// A recording with gaps plays in ffmpeg and in Chromium, as a playlist and as one file.
fn plays_to_its_end(server: &Server, recording: &Value, vod: &Vod) {
    let directory = tempfile::tempdir().expect("temporary directory");
    let movie = directory.path().join("exported.mp4");
    std::fs::write(&movie, exported(server, recording["id"].as_str().expect("an id"))).expect("written");
    let digests = |file: &Path| packets(file, "v").into_iter().map(|packet| packet.digest).collect::<Vec<_>>();
    assert_eq!(digests(&movie), digests(&vod.write(directory.path())));
    assert_eq!(decoding_errors(&movie), "");
    let seconds = number(recording, "duration_ms") as f64 / 1000.0;
    let last = packets(&movie, "v").last().expect("pictures").pts_ms as f64 / 1000.0;
    assert!((last - seconds).abs() < 1.0, "{last} s of {seconds} s: gaps last as long in the file");
    for (player, path) in [("hls", "playlist"), ("file", "movie")] {
        let found = recordings(server).into_iter().find(|found| found["id"] == recording["id"]).expect("listed");
        let url = server.url(found[path].as_str().expect("a path"));
        let measured = crate::players::chromium_at(4.0, 30, player, &url);
        // The tracks do not end in the same moment: the last tenths of a second may not be played.
        let left =
            measured["duration"].as_f64().expect("a duration") - measured["current_time"].as_f64().expect("a time");
        assert!(left < 0.5, "{player}: {measured}");
        let fatal = |error: &Value| error["fatal"] == true;
        assert!(!measured["errors"].as_array().expect("errors").iter().any(fatal), "{player}: {measured}");
    }
}
