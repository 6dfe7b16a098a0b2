//! Real players play.

use crate::harness::media::{CLIP, Clip, ffmpeg};
use crate::harness::publisher::Publisher;
use crate::harness::server::Server;
use crate::harness::{LIMIT, in_time, run, wait_for};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::mpsc::sync_channel;

/// A player shows something by then, milliseconds: it has three segments to load, from this machine.
const FIRST_FRAME_MS: f64 = 3000.0;
/// How long players are watched, seconds.
const WATCH: u32 = 20;
/// Where players find the show.
const PLAYLIST: &str = "/live/show/index.m3u8";

/// A server with a long clip on `live/show`, whose first segments are there.
fn show(options: &[&str]) -> (Server, Publisher) {
    let server = Server::start(options);
    let clip = Clip { seconds: 90, fps: 25, gop: 25, ..CLIP };
    let publisher = Publisher::file(&clip.flv(), &server.publish_url("show"));
    wait_for("three segments", || {
        (server.metric("steadycast_stream_segments_published_total", "live/show") >= 3.0).then_some(())
    });
    (server, publisher)
}

/// Plays in Chromium for a while; what was measured.
fn chromium(player: &str, url: &str) -> serde_json::Value {
    chromium_for(WATCH, player, url)
}

fn chromium_for(seconds: u32, player: &str, url: &str) -> serde_json::Value {
    chromium_at(1.0, seconds, player, url)
}

/// Plays at a multiple of the usual speed, to the end if there is one by then.
pub fn chromium_at(rate: f64, seconds: u32, player: &str, url: &str) -> serde_json::Value {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/acceptance/players");
    assert!(directory.join("node_modules").exists(), "the players are missing: run `make tools`");
    let mut node = Command::new("node");
    node.current_dir(directory).args(["play.mjs", player, url, &seconds.to_string()]).env("RATE", rate.to_string());
    let output = run(&mut node);
    serde_json::from_slice(&output.stdout).expect("one JSON object")
}

/// Plays a show of its own for a while: without an error, without a stall, and shows what it should. The clip ends: told again,
/// it begins again.
fn plays(player: &str, options: &[&str], path: &str) {
    in_time(|| {
        let (server, _publisher) = show(options);
        let measured = chromium(player, &server.url(path));
        let number = |name: &str| measured[name].as_f64().unwrap_or(f64::NAN);
        assert!(measured["errors"].as_array().is_some_and(Vec::is_empty), "{measured}");
        assert_eq!(number("width"), 320.0, "{measured}");
        let watched = f64::from(WATCH) - number("first_frame_ms") / 1000.0;
        if player == "page" {
            assert!(measured["console_errors"].as_array().is_some_and(Vec::is_empty), "{measured}");
        }
        let in_time = number("stalls") == 0.0
            && measured["stall_errors"].as_array().is_some_and(Vec::is_empty)
            && number("first_frame_ms") < FIRST_FRAME_MS
            && number("played_s") > watched - 1.0
            && number("frames") > 25.0 * (watched - 2.0);
        if in_time { Vec::new() } else { vec![measured.to_string()] }
    });
}

#[test]
fn hls_js_and_shaka_play_cmaf_in_chromium() {
    plays("hls", &["--container", "cmaf"], PLAYLIST);
    plays("shaka", &["--container", "cmaf"], PLAYLIST);
}

#[test]
fn hls_js_and_shaka_play_mpeg_ts_in_chromium() {
    plays("hls", &["--container", "mpegts"], PLAYLIST);
    plays("shaka", &["--container", "mpegts"], PLAYLIST);
}

#[test]
fn the_watch_page_plays() {
    plays("page", &[], "/watch/live/show");
}

#[test]
fn the_watch_page_recovers_by_itself_when_the_process_is_killed_and_comes_back() {
    let (server, publisher) = show(&[]);
    let url = server.url("/watch/live/show");
    let watching = std::thread::spawn(move || chromium_for(45, "page", &url));
    // It plays when it asks for segments one after the other.
    let segments = |server: &Server| server.metric("steadycast_http_requests_total", "kind=\"segment\"");
    wait_for("the page plays", || (segments(&server) >= 6.0).then_some(()));
    let server = server.kill_and_restart(&[]);
    drop(publisher);
    let clip = Clip { seconds: 90, fps: 25, gop: 25, ..CLIP };
    let _publisher = Publisher::file(&clip.flv(), &server.publish_url("show"));
    let measured = watching.join().expect("watched");
    assert_eq!(measured["moving_at_end"], true, "{measured}");
    assert!(segments(&server) >= 3.0, "segments of the new process were played");
}

#[test]
fn ffprobe_and_ffmpeg_play_both_containers() {
    for container in ["cmaf", "mpegts"] {
        let (server, _publisher) = show(&["--container", container]);
        let mut probe = Command::new("ffprobe");
        probe.args([
            "-v",
            "error",
            "-show_entries",
            "stream=codec_name,width",
            "-of",
            "csv=p=0",
            &server.play_url("show"),
        ]);
        let output = run(&mut probe);
        let streams = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(streams.contains("h264,320") && streams.contains("aac"), "{container}: {streams}");
        // Decodes five seconds; any complaint of a demuxer or decoder fails it.
        let mut decode = ffmpeg();
        decode.args(["-xerror", "-i", &server.play_url("show"), "-t", "5", "-f", "null", "-"]);
        let output = run(&mut decode);
        assert!(output.stderr.is_empty(), "{container}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

#[test]
fn gstreamer_hlsdemux_plays_both_containers() {
    for (container, demux) in [("mpegts", "tsdemux"), ("cmaf", "qtdemux")] {
        let (server, _publisher) = show(&["--container", container]);
        let pipeline = format!(
            "souphttpsrc location={} ! hlsdemux ! {demux} ! h264parse ! avdec_h264 ! fakesink silent=false sync=false",
            server.play_url("show")
        );
        let mut gstreamer = Command::new("gst-launch-1.0");
        let mut player =
            gstreamer.arg("-v").args(pipeline.split(' ')).stdout(Stdio::piped()).spawn().expect("GStreamer");
        // hlsdemux never ends a live stream by itself: count a hundred decoded frames, then end it.
        let lines = BufReader::new(player.stdout.take().expect("piped")).lines().map_while(Result::ok);
        let (counted, frames) = sync_channel(1);
        std::thread::spawn(move || {
            counted.send(lines.filter(|line| line.contains("last-message = chain")).take(100).count())
        });
        let counted = frames.recv_timeout(LIMIT);
        player.kill().expect("running");
        player.wait().expect("killed");
        assert_eq!(counted, Ok(100), "{container}");
    }
}

#[test]
fn the_archive_alone_plays_from_a_static_web_server() {
    for container in ["cmaf", "mpegts"] {
        let (server, publisher) = show(&["--container", container]);
        let directory = server.archived("show");
        wait_for("the archive has a playlist", || directory.join("0.m3u8").exists().then_some(()));
        // The server and its encoder are gone: what plays is the archive.
        drop(publisher);
        let copy = tempfile::tempdir().expect("temporary directory");
        run(Command::new("cp").arg("-r").arg(&directory).arg(copy.path()));
        drop(server);
        let port = static_server_port();
        let mut web = Command::new("python3");
        web.args(["-m", "http.server", "--bind", "127.0.0.1", &port.to_string()]).current_dir(copy.path().join("show"));
        let _web = Publisher::with(web.stderr(Stdio::null()));
        let url = format!("http://127.0.0.1:{port}/index.m3u8");
        wait_for("the web server answers", || ureq::get(&url).call().ok());
        let mut decode = ffmpeg();
        // A playlist without ENDLIST that nobody extends: three seconds are there for sure.
        decode.args(["-xerror", "-live_start_index", "0", "-i", &url, "-t", "3", "-f", "null", "-"]);
        run(&mut decode);
    }
}

/// A port nobody listens on.
fn static_server_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").and_then(|socket| socket.local_addr()).expect("a free port").port()
}

#[test]
fn the_page_shows_the_supervision_tree_and_restarts_as_they_happen() {
    let (server, _publisher) = show(&[]);
    let mut page = Command::new("node")
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/acceptance/players"))
        .args(["tree.mjs", &server.url("/"), "live/show segmenter"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .expect("node: `make tools` installs it");
    let mut lines = BufReader::new(page.stdout.take().expect("piped")).lines();
    let mut line = || lines.next().expect("a line").expect("text");
    assert_eq!(line(), "1 0 - quiet");
    server.strike("show", "segmenter", "panic");
    assert_eq!(line(), "2 1 failed fresh");
    // Told to end, it closes Chromium; killed, it would leave that behind.
    rustix::process::kill_process(rustix::process::Pid::from_child(&page), rustix::process::Signal::TERM)
        .expect("running");
    page.wait().expect("ended");
}
