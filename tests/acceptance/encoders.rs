//! Real encoders publish; what they sent is what is delivered.

use crate::harness::media::{CLIP, assert_same_packets, assert_same_payloads};
use crate::harness::publisher::Publisher;
use crate::harness::server::Server;
use crate::harness::viewer::Viewer;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Publishes a clip with an encoder; the files of what was sent and of what was delivered.
fn deliver(encoder: impl FnOnce(&Path, &str) -> Command) -> (PathBuf, tempfile::TempDir, PathBuf) {
    let server = Server::start(&["--grace", "1"]);
    let sent = CLIP.flv();
    let viewer = Viewer::follow(server.url("/live/show/0.m3u8"));
    let publisher = Publisher::with(&mut encoder(&sent, &server.publish_url("show")));
    assert!(publisher.finish(), "the encoder ended with an error");
    let recording = viewer.finish();
    recording.assert_consecutive();
    let directory = tempfile::tempdir().expect("temporary directory");
    let delivered = recording.write(directory.path());
    (sent, directory, delivered)
}

fn tool(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools").join(name);
    assert!(path.exists(), "{} is missing: run `make tools`", path.display());
    path
}

#[test]
fn ffmpeg_of_debian() {
    let (sent, _directory, delivered) = deliver(|file, url| publish_with(Path::new("ffmpeg"), file, url));
    assert_same_packets(&sent, &delivered, &["v", "a"]);
}

#[test]
fn ffmpeg_7_or_later() {
    let ffmpeg = tool("ffmpeg7");
    let version = crate::harness::run(Command::new(&ffmpeg).arg("-version")).stdout;
    let version = String::from_utf8_lossy(&version).into_owned();
    let major = version
        .split_whitespace()
        .nth(2)
        .and_then(|version| version.trim_start_matches('n').split('.').next()?.parse::<u32>().ok());
    assert!(major.is_some_and(|major| major >= 7), "{version}");
    let (sent, _directory, delivered) = deliver(|file, url| publish_with(&ffmpeg, file, url));
    assert_same_packets(&sent, &delivered, &["v", "a"]);
}

#[test]
fn gstreamer_rtmpsink() {
    let (sent, _directory, delivered) =
        deliver(|file, url| gstreamer(file, &["rtmpsink", &format!("location={url} live=1")]));
    assert_same_payloads(&sent, &delivered, &["v", "a"]);
}

#[test]
fn gstreamer_rtmp2sink() {
    let (sent, _directory, delivered) =
        deliver(|file, url| gstreamer(file, &["rtmp2sink", &format!("location={url}")]));
    assert_same_payloads(&sent, &delivered, &["v", "a"]);
}

#[test]
fn librtmp() {
    let (sent, _directory, delivered) = deliver(|file, url| {
        let mut command = Command::new("python3");
        command.arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/acceptance/librtmp.py")).arg(file).arg(url);
        command
    });
    assert_same_packets(&sent, &delivered, &["v", "a"]);
}

fn publish_with(ffmpeg: &Path, file: &Path, url: &str) -> Command {
    let mut command = Command::new(ffmpeg);
    command.args(["-v", "error", "-nostdin", "-re", "-i"]).arg(file).args(["-c", "copy", "-f", "flv", url]);
    command
}

/// Demuxes the clip and muxes it again, in real time.
fn gstreamer(file: &Path, sink: &[&str]) -> Command {
    let mut command = Command::new("gst-launch-1.0");
    command.args(["-q", "-e", "filesrc"]).arg(format!("location={}", file.display()));
    command
        .args("! flvdemux name=in in.video ! queue ! h264parse ! out. in.audio ! queue ! aacparse ! out.".split(' '));
    command.args("flvmux name=out streamable=true ! queue !".split(' ')).args(sink);
    command.arg("sync=true");
    command
}
