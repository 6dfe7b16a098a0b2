//! What HTTP says, beside the media itself.

use crate::harness::media::{CLIP, ffmpeg};
use crate::harness::publisher::Publisher;
use crate::harness::server::Server;
use crate::harness::viewer::{Viewer, try_get};
use crate::harness::{in_time, run, wait_for};
use std::collections::BTreeMap;
use std::process::Command;
use std::time::{Duration, Instant};

/// What is not waited for is answered within this long; what is, within three seconds.
const AT_ONCE: Duration = Duration::from_secs(1);

/// Status and headers, lower case, of a request made with curl: nothing is followed or decoded.
fn head(arguments: &[&str]) -> (u16, BTreeMap<String, String>) {
    let output = run(Command::new("curl").args(["-s", "-o", "/dev/null", "-D", "-"]).args(arguments));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let status = text.split(' ').nth(1).and_then(|status| status.parse().ok()).expect("status");
    let headers = text.lines().filter_map(|line| line.split_once(": "));
    (status, headers.map(|(name, value)| (name.to_lowercase(), value.trim().to_owned())).collect())
}

#[test]
fn headers_suit_players_caches_and_pages() {
    let server = Server::start(&[]);
    let _publisher = Publisher::looping(CLIP, &server.publish_url("show"));
    wait_for("a playlist", || try_get(&server.play_url("show")));
    let playlist = server.url("/live/show/0.m3u8");
    let (status, headers) = head(&[&playlist]);
    assert_eq!((status, headers["content-type"].as_str()), (200, "application/vnd.apple.mpegurl"));
    assert_eq!((headers["cache-control"].as_str(), headers["access-control-allow-origin"].as_str()), ("no-cache", "*"));
    let (status, compressed) = head(&["-H", "Accept-Encoding: gzip", &playlist]);
    assert_eq!(
        (status, compressed["content-encoding"].as_str(), compressed["vary"].as_str()),
        (200, "gzip", "Accept-Encoding")
    );
    let (status, options) = head(&["-X", "OPTIONS", &playlist]);
    assert_eq!((status, options["access-control-allow-headers"].as_str()), (204, "*"));
    let (status, redirect) = head(&[&server.url("/live/show.m3u8")]);
    assert_eq!((status, redirect["location"].as_str()), (307, "/live/show/index.m3u8"));
    let text = String::from_utf8(try_get(&playlist).expect("playlist")).expect("text");
    let newest = text.lines().rfind(|line| line.ends_with(".m4s")).expect("a segment");
    let segment = server.url(&format!("/live/show/{newest}"));
    let (status, headers) = head(&["-I", &segment]);
    assert_eq!(
        (status, headers["content-type"].as_str(), headers["accept-ranges"].as_str()),
        (200, "video/mp4", "bytes")
    );
    assert!(
        headers["cache-control"].contains("immutable")
            && headers["content-length"].parse::<u64>().is_ok_and(|length| length > 1000)
    );
    let (status, range) = head(&["-r", "0-99", &segment]);
    assert_eq!((status, range["content-length"].as_str()), (206, "100"));
    let (status, _) = head(&["-H", &format!("If-None-Match: {}", headers["etag"]), &segment]);
    assert_eq!(status, 304);
}

#[test]
fn a_name_that_was_never_live_is_an_immediate_404_with_a_sentence() {
    let server = Server::start(&[]);
    in_time(|| {
        let begun = Instant::now();
        let (status, _) = head(&[&server.play_url("nothing")]);
        assert_eq!(status, 404);
        let took = begun.elapsed();
        (took >= AT_ONCE).then(|| format!("it took {took:?}")).into_iter().collect()
    });
    let said = run(Command::new("curl").args(["-s", &server.play_url("nothing")])).stdout;
    assert!(String::from_utf8_lossy(&said).contains("no such stream is live"));
    for path in
        ["/live/../../etc/passwd", "/live/%2e%2e/index.m3u8", "/live/a%00b/index.m3u8", "/live/x.mp4", "/nothing"]
    {
        assert_eq!(head(&["--path-as-is", &server.url(path)]).0, 404, "{path}");
    }
}

#[test]
fn a_stream_that_is_starting_is_waited_for() {
    let server = Server::start(&[]);
    let _publisher = Publisher::looping(CLIP, &server.publish_url("show"));
    wait_for("it publishes", || (!server.logged("\"publishing\"").is_empty()).then_some(()));
    // Asked for before there is a segment: answered with the playlist once there is one.
    let (status, _) = head(&[&server.play_url("show")]);
    assert_eq!(status, 200);
}

#[test]
fn digests_name_everything_a_playlist_names_at_every_look() {
    let server = Server::start(&["--grace", "1"]);
    let publisher = Publisher::file(&CLIP.flv(), &server.publish_url("show"));
    let viewer = Viewer::follow(server.url("/live/show/0.m3u8"));
    wait_for("a playlist", || try_get(&server.play_url("show")));
    let mut looks = 0;
    while server.logged("publisher gone").is_empty() {
        let playlist = String::from_utf8(try_get(&server.url("/live/show/0.m3u8")).expect("playlist")).expect("text");
        let digests = try_get(&server.url("/live/show/segments-sha256.json")).expect("digests");
        let digests: BTreeMap<String, String> = serde_json::from_slice(&digests).expect("flat object");
        for name in playlist.lines().filter(|line| !line.starts_with('#')) {
            assert_eq!(digests.get(name).map(String::len), Some(64), "{name} in {digests:?}");
        }
        looks += 1;
    }
    assert!(looks > 50, "{looks}");
    publisher.finish();
    let digests = try_get(&server.url("/live/show/segments-sha256.json")).expect("digests");
    let digests: BTreeMap<String, String> = serde_json::from_slice(&digests).expect("flat object");
    let directory = tempfile::tempdir().expect("temporary directory");
    for segment in viewer.finish().segments.values().filter(|segment| digests.contains_key(&segment.uri)) {
        let file = directory.path().join(&segment.uri);
        std::fs::write(&file, &segment.bytes).expect("written");
        let sum = run(Command::new("sha256sum").arg(&file)).stdout;
        assert!(String::from_utf8_lossy(&sum).starts_with(&digests[&segment.uri]), "{}", segment.uri);
    }
}

#[test]
fn without_a_key_only_this_machine_publishes_and_with_one_only_who_has_it() {
    let server = Server::start(&["--key", "live/show=hunter2"]);
    let publish = |query: &str| Publisher::file(&CLIP.flv(), &format!("{}{query}", server.publish_url("show")));
    assert!(!publish("").finish());
    assert!(!publish("?key=wrong").finish());
    let _publisher = publish("?key=hunter2");
    wait_for("it publishes", || (!server.logged("\"publishing\"").is_empty()).then_some(()));
    assert_eq!(server.metric("steadycast_publish_refusals_total", "denied"), 2.0);
    assert!(server.logged("hunter2").is_empty(), "keys are never logged");
}

#[test]
fn a_codec_that_cannot_be_packaged_ends_the_publish_with_its_name() {
    let server = Server::start(&[]);
    let mut mp3 = ffmpeg();
    mp3.args(["-re", "-f", "lavfi", "-i", "sine=duration=20", "-c:a", "mp3", "-f", "flv", &server.publish_url("show")]);
    assert!(!Publisher::with(mp3.stderr(std::process::Stdio::null())).finish());
    let refused = server.logged("publish refused");
    assert!(refused.iter().any(|line| line.contains("MP3 audio")), "{refused:?}");
    // There was no show: nobody is made to wait for one.
    wait_for("it is forgotten", || (head(&[&server.play_url("show")]).0 == 404).then_some(()));
}

#[test]
fn health_and_metrics_are_answered_on_both_addresses() {
    let server = Server::start(&[]);
    for address in [server.http, server.health] {
        for path in ["/healthz", "/readyz", "/metrics"] {
            assert_eq!(head(&[&format!("http://{address}{path}")]).0, 200, "{address}{path}");
        }
    }
    assert!(server.pid() > 0);
}
