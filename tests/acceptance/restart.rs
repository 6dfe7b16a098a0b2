//! The process is killed; the session goes on.

use crate::harness::media::{CLIP, Clip};
use crate::harness::publisher::Publisher;
use crate::harness::server::Server;
use crate::harness::viewer::{Recording, Viewer, try_get};
use crate::harness::volume::Volume;
use crate::harness::{in_time, wait_for};
use rustix::process::{Signal, kill_process};
use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

/// Longest wait for a playlist while a worker is started: what the parent waits, and the start, in a debug build.
const ANSWERED: Duration = Duration::from_secs(3);

#[test]
fn after_kill_9_the_same_session_goes_on_with_rising_numbers_and_no_name_is_reused() {
    let clip = Clip { b_frames: 0, ..CLIP };
    let server = Server::start(&["--grace", "20"]);
    let publisher = Publisher::looping(clip, &server.publish_url("show"));
    let archived = server.archived("show");
    wait_for("the archive holds segments", || {
        let playlist = std::fs::read_to_string(archived.join("0.m3u8")).ok()?;
        (playlist.matches(".m4s").count() >= 3).then_some(())
    });
    let viewer = Viewer::follow(server.url("/live/show/0.m3u8"));
    wait_for("the viewer sees segments", || try_get(&server.play_url("show")));
    let server = server.kill_and_restart(&["--grace", "20"]);
    drop(publisher);
    // What viewers had seen is served again at once; what the archive did not have yet is a gap.
    let adopted = try_get(&server.url("/live/show/0.m3u8")).expect("adopted playlist");
    assert!(!String::from_utf8_lossy(&adopted).contains("ENDLIST"));
    assert_eq!(server.logged("session adopted").len(), 1);
    let multivariant = try_get(&server.play_url("show")).expect("multivariant playlist");
    assert!(String::from_utf8_lossy(&multivariant).contains("CODECS="), "new viewers find the stream at once");
    let _publisher = Publisher::looping(clip, &server.publish_url("show"));
    wait_for("new segments", || {
        (server.metric("steadycast_stream_segments_published_total", "live/show") >= 3.0).then_some(())
    });
    let recording: Recording = viewer.stop();
    recording.assert_consecutive();
    assert_eq!(recording.discontinuities(), 1);
    assert_eq!(recording.target_durations.len(), 1);
    assert!(recording.maps.len() >= 2 && !recording.ended);
}

#[test]
fn a_session_that_had_ended_is_shown_after_a_restart_and_ends_no_second_time() {
    let server = Server::start(&["--grace", "1"]);
    let publisher = Publisher::file(&CLIP.flv(), &server.publish_url("show"));
    let playlist = |server: &Server| {
        try_get(&server.url("/live/show/0.m3u8")).map(|text| String::from_utf8_lossy(&text).into_owned())
    };
    assert!(publisher.finish());
    let archived = server.archived("show").join("0.m3u8");
    let ended = wait_for("the playlist ends, on disk too", || {
        let text = playlist(&server).filter(|text| text.contains("#EXT-X-ENDLIST"))?;
        (std::fs::read_to_string(&archived).ok()? == text).then_some(text)
    });
    let server = server.kill_and_restart(&["--grace", "1"]);
    assert_eq!(playlist(&server), Some(ended));
    assert!(server.logged("session ended").is_empty(), "it ended before");
}

/// Asks for a playlist over and over: what was not answered as it should be, and the longest wait for an answer.
fn impatient(url: String, stop: Arc<AtomicBool>) -> (Vec<String>, Duration) {
    let (mut wrong, mut longest) = (Vec::new(), Duration::ZERO);
    while !stop.load(Ordering::Relaxed) {
        let asked = Instant::now();
        match ureq::get(&url).call() {
            Ok(_) => longest = longest.max(asked.elapsed()),
            // Killed while it answered: nobody can help that, and every player asks again.
            Err(ureq::Error::Io(error)) if error.kind() != ErrorKind::ConnectionRefused => {}
            Err(error) => wrong.push(error.to_string()),
        }
    }
    (wrong, longest)
}

#[test]
fn under_a_parent_nobody_is_refused_while_the_worker_is_killed_or_replaced() {
    in_time(kills_and_an_upgrade);
}

/// A worker is killed three times and replaced once; what was late.
fn kills_and_an_upgrade() -> Vec<String> {
    let server = Server::supervised(&["--grace", "20"]);
    let published = || server.metric("steadycast_stream_segments_published_total", "live/show");
    let mut publisher = Publisher::looping(CLIP, &server.publish_url("show"));
    wait_for("segments", || (published() >= 3.0).then_some(()));
    let stop = Arc::new(AtomicBool::new(false));
    let (url, stopped) = (server.url("/live/show/0.m3u8"), stop.clone());
    let viewer = Viewer::follow(url.clone());
    let asking = std::thread::spawn(move || impatient(url, stopped));
    for restarts in 1..=4 {
        let worker = server.worker().expect("a worker");
        match restarts {
            // An upgrade, which is no failure.
            4 => server.tell(Signal::USR2),
            _ => kill_process(worker, Signal::KILL).expect("it runs"),
        }
        wait_for("another worker", || server.worker().filter(|other| *other != worker));
        // The encoder connects while the worker starts: it waits, too.
        drop(publisher);
        publisher = Publisher::looping(CLIP, &server.publish_url("show"));
        // By the second one the viewer has long seen the first.
        wait_for("it publishes", || (published() >= 2.0).then_some(()));
        assert_eq!(
            server.metric("steadycast_worker_restarts_total", ""),
            f64::from(restarts.min(3)),
            "an upgrade is none"
        );
    }
    stop.store(true, Ordering::Relaxed);
    let (wrong, longest) = asking.join().expect("it asks");
    assert!(wrong.is_empty(), "{wrong:?}");
    let seen = viewer.stop();
    seen.assert_consecutive();
    assert_eq!(seen.discontinuities(), 4);
    let worker = server.worker().expect("a worker");
    server.tell(Signal::TERM);
    assert!(server.exit().success());
    assert!(!std::path::Path::new(&format!("/proc/{}", worker.as_raw_nonzero())).exists(), "the worker outlived it");
    (longest >= ANSWERED).then(|| format!("a playlist took {longest:?}")).into_iter().collect()
}

#[test]
fn a_worker_that_is_killed_while_storage_hangs_is_replaced_although_storage_does_not_let_it_end() {
    let volume = Volume::mounted();
    let server = Server::supervised_on(&volume.path().join("data"), &["--grace", "20"]);
    let published = || server.metric("steadycast_stream_segments_published_total", "live/show");
    let mut publisher = Publisher::looping(CLIP, &server.publish_url("show"));
    wait_for("segments", || (published() >= 3.0).then_some(()));
    let worker = server.worker().expect("a worker");
    let frozen = volume.freeze();
    // A thread that writes waits uninterruptibly, too: one that hangs does not answer for ten seconds.
    wait_for("it hangs", || (server.metric("steadycast_storage_hung_operations", "") >= 1.0).then_some(()));
    assert!(Server::has_uninterruptible_thread(worker));
    kill_process(worker, Signal::KILL).expect("it runs");
    wait_for("another worker", || server.worker().filter(|other| *other != worker));
    // Nobody hangs up for the dead worker but its parent.
    wait_for("the encoder hears of it", || publisher.has_ended().then_some(()));
    let _publisher = Publisher::looping(CLIP, &server.publish_url("show"));
    wait_for("it publishes", || (published() >= 2.0).then_some(()));
    let directory = format!("/proc/{}", worker.as_raw_nonzero());
    assert!(std::path::Path::new(&directory).exists(), "storage still hangs");
    let archived = || std::fs::read_to_string(server.archived("show").join("0.m3u8")).ok();
    drop(frozen);
    let live = || try_get(&server.url("/live/show/0.m3u8"));
    wait_for("the archive is the window's again", || {
        archived().filter(|text| Some(text.as_bytes()) == live().as_deref()).map(drop)
    });
    wait_for("the dead one is gone", || (!std::path::Path::new(&directory).exists()).then_some(()));
    server.tell(Signal::TERM);
    assert!(server.exit().success());
}

#[test]
fn the_allocator_is_built_as_memory_was_measured_with() {
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_steadycast"))
        .arg("--version")
        .env("_RJEM_MALLOC_CONF", "stats_print:true")
        .output()
        .expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    for option in [
        "narenas: 1",
        "tcache_max: 1024",
        "dirty_decay_ms: 500",
        "muzzy_decay_ms: 0",
        "process_madvise_max_batch: 128",
        "cache_oblivious: false",
        "disable_large_size_classes: true",
    ] {
        assert!(
            said.contains(&format!("opt.{option}")) || said.contains(&format!("config.{option}")),
            "{option}: {said}"
        );
    }
}

#[test]
fn one_process_has_an_archive() {
    let server = Server::start(&[]);
    let data = server.archived("show").ancestors().nth(3).expect("data directory").to_owned();
    let output = std::process::Command::new(env!("CARGO_BIN_EXE_steadycast"))
        .args(["--rtmp", "127.0.0.1:0", "--http", "127.0.0.1:0", "--health", "127.0.0.1:0"])
        .arg("--data")
        .arg(&data)
        .arg("--runtime-dir")
        .arg(data.join("other"))
        .output()
        .expect("it runs");
    assert!(!output.status.success());
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(said.contains("in use by another steadycast") && said.contains("--data"), "{said}");
}

#[test]
fn a_parent_keeps_the_show_on_whatever_becomes_of_its_configuration_and_ends_a_worker_that_is_frozen() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let file = directory.path().join("steadycast.toml");
    let configure = |text: &str| std::fs::write(&file, text).expect("written");
    configure("grace = 20\n");
    let server = Server::supervised(&["--config", &file.display().to_string()]);
    let served = || ureq::get(&server.url("/healthz")).call().is_ok_and(|answer| answer.status() == 200);
    // One that cannot come up may end while somebody waits for an answer, and the next one gives it.
    let other_than = |worker| {
        let serves = |found: &_| Some(*found) != worker && served() && server.worker() == Some(*found);
        wait_for("another worker", || server.worker().filter(serves))
    };
    let first = server.worker();
    // It has been well for as long as counts.
    wait_for("a worker that is well", || {
        (server.metric("process_start_time_seconds", "") > 0.0 && uptime(first) > 2.5).then_some(())
    });
    // A configuration that is none: no upgrade, and no end of the worker that runs.
    configure("gracee = 20\n");
    server.tell(rustix::process::Signal::USR2);
    wait_for("no upgrade", || (!server.logged("no upgrade").is_empty()).then_some(()));
    assert!(server.worker() == first && served());
    // Its worker is killed, and cannot come back with that; then it can.
    rustix::process::kill_process(first.expect("a worker"), rustix::process::Signal::KILL).expect("it runs");
    wait_for("it is tried", || (server.logged("the worker has ended").len() >= 2).then_some(()));
    configure("grace = 20\n");
    let second = other_than(first);
    // One that is frozen cannot end itself.
    rustix::process::kill_process(second, rustix::process::Signal::STOP).expect("it runs");
    other_than(Some(second));
    assert_eq!(server.logged("gives no sign of life").len(), 1);
}

/// Seconds since a process was started.
fn uptime(process: Option<rustix::process::Pid>) -> f64 {
    let pid = process.map_or(0, rustix::process::Pid::as_raw_pid);
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // Field 22 of proc(5), counted from behind the name: ticks of a hundredth second since the machine was started.
    let ticks = stat.rsplit_once(") ").and_then(|(_, rest)| rest.split(' ').nth(19)?.parse::<f64>().ok());
    let now = std::fs::read_to_string("/proc/uptime").unwrap_or_default();
    let now = now.split(' ').next().and_then(|now| now.parse::<f64>().ok()).unwrap_or(0.0);
    ticks.map_or(0.0, |ticks| now - ticks / 100.0)
}
