//! Storage fails in a real file system; viewers see nothing of it, and the archive heals.

use crate::harness::media::{CLIP, Clip, assert_same_packets};
use crate::harness::publisher::Publisher;
use crate::harness::server::Server;
use crate::harness::viewer::{Viewer, try_get};
use crate::harness::volume::Volume;
use crate::harness::{POLL, in_time, wait_for};
use chaos::faultfs::{Effect, Mount, Operation, Rule};
use rustix::io::Errno;
use rustix::process::{Pid, Signal};
use std::path::Path;
use std::time::{Duration, Instant};

/// Longest time without a new segment while storage fails: one and a half target durations, which are 2 s here,
/// and a second that a busy machine may add to an encoder's pace.
const MAX_WAIT: Duration = Duration::from_secs(4);
/// A fault lasts until it has struck this often.
const STRIKES: u64 = 2;
/// Health and metrics are answered within this long.
const ANSWERED: Duration = Duration::from_secs(1);
/// Without it that takes the periodic check's five seconds, the longest backoff, and a write.
const MENDED: Duration = Duration::from_secs(15);
/// Where inotify tells of what goes it is written again within this long; without, in the worst case after five seconds.
const NOTICED: Duration = Duration::from_secs(4);
/// Longer than a storage operation may take before its thread is given up.
const HANGS: Duration = Duration::from_secs(12);

/// Releases what hangs before the server is waited for: a process inside a hung operation does not end.
struct Release<'a>(&'a Mount);

impl Drop for Release<'_> {
    fn drop(&mut self) {
        let _ = self.0.rules().set(Vec::new());
    }
}

/// Publishes a clip into an archive on a file system to which something happens, and is told if it is late; what viewers
/// got is what was sent.
fn shaken(container: &str, clip: Clip, happens: impl Fn(&Server, &Mount, &Path) -> Vec<String>) {
    in_time(|| shaken_once(container, clip, &happens));
}

fn shaken_once(container: &str, clip: Clip, happens: impl Fn(&Server, &Mount, &Path) -> Vec<String>) -> Vec<String> {
    let directories = [(); 2].map(|()| tempfile::tempdir().expect("temporary directory"));
    let [source, point] = directories.each_ref().map(tempfile::TempDir::path);
    let mount = Mount::new(source, point, 1).expect("faultfs");
    let server = Server::start_on(point, &["--grace", "1", "--container", container]);
    let released = Release(&mount);
    let publisher = Publisher::file(&clip.flv(), &server.publish_url("show"));
    let viewer = Viewer::follow(server.url("/live/show/0.m3u8"));
    archived(&server, source);
    let late = happens(&server, &mount, source);
    archived(&server, source);
    assert!(publisher.finish(), "the encoder noticed something");
    let recording = viewer.finish();
    recording.assert_consecutive();
    assert_eq!(recording.discontinuities(), 0);
    let directory = tempfile::tempdir().expect("temporary directory");
    assert_same_packets(&clip.flv(), &recording.write(directory.path()), &["v", "a"]);
    drop(released);
    [late, recording.later_than(MAX_WAIT)].concat()
}

/// Waits until the archive has what viewers can fetch: the playlist, and every file it names.
fn archived(server: &Server, source: &Path) {
    let directory = source.join("live/live/show");
    wait_for("the archive is a replica", || {
        let served = try_get(&server.url("/live/show/0.m3u8"))?;
        let kept = std::fs::read(directory.join("0.m3u8")).ok()?;
        let same = |name: &str| {
            try_get(&server.url(&format!("/live/show/{name}"))) == std::fs::read(directory.join(name)).ok()
        };
        let text = String::from_utf8_lossy(&served).into_owned();
        let names: Vec<_> = text.lines().filter(|line| !line.is_empty() && !line.starts_with('#')).collect();
        (served == kept && !names.is_empty() && names.iter().all(|name| same(name))).then_some(())
    });
}

#[test]
fn errors_of_a_real_file_system_touch_no_viewer_and_the_archive_heals() {
    let clip = Clip { seconds: 75, ..CLIP };
    shaken("cmaf", clip, |server, mount, source| {
        for (operation, errno) in [
            (Operation::Create, Errno::IO),
            (Operation::Write, Errno::NOSPC),
            (Operation::Rename, Errno::ROFS),
            (Operation::Lookup, Errno::STALE),
            (Operation::Getattr, Errno::ACCESS),
            (Operation::Readdir, Errno::IO),
            (Operation::Unlink, Errno::MFILE),
        ] {
            strike(mount, Rule::always(Some(operation), Effect::Errno(errno.raw_os_error())));
            mount.rules().set(Vec::new()).expect("none");
            archived(server, source);
        }
        // Everything at once, and writes that take half of what they are given.
        strike(mount, Rule::always(None, Effect::Errno(Errno::IO.raw_os_error())));
        strike(mount, Rule::always(None, Effect::ShortWrite));
        mount.rules().set(Vec::new()).expect("none");
        Vec::new()
    });
}

/// Has a fault strike a few times.
fn strike(mount: &Mount, rule: Rule) {
    let struck = || mount.rules().counts().struck.values().sum::<u64>();
    let before = struck();
    let shown = format!("{rule:?}");
    mount.rules().set(vec![rule]).expect("few");
    wait_for(&shown, || (struck() >= before + STRIKES).then_some(()));
}

#[test]
fn a_file_system_that_hangs_touches_no_viewer_and_the_archive_heals() {
    let clip = Clip { seconds: 60, ..CLIP };
    shaken("mpegts", clip, |server, mount, _| {
        mount.rules().set(vec![Rule::always(None, Effect::Hang)]).expect("few");
        wait_for("something hangs", || (mount.rules().counts().hanging > 0).then_some(()));
        let since = Instant::now();
        let mut slowest = Duration::ZERO;
        while since.elapsed() < HANGS {
            let asked = Instant::now();
            let health = format!("http://{}/healthz", server.health);
            assert!(try_get(&health).is_some() && try_get(&server.url("/metrics")).is_some());
            slowest = slowest.max(asked.elapsed());
            // Asked at intervals, so that asking is not what makes it slow.
            std::thread::sleep(POLL);
        }
        assert!(server.metric("steadycast_storage_degraded", "") > 0.0, "nobody was told");
        mount.rules().set(Vec::new()).expect("none");
        wait_for("storage is well again", || (server.metric("steadycast_storage_degraded", "") == 0.0).then_some(()));
        let late = slowest >= ANSWERED;
        late.then(|| format!("health and metrics were answered after {slowest:?}")).into_iter().collect()
    });
}

#[test]
fn a_file_system_that_hangs_for_good_is_replaced_by_another_one_that_is_mounted_in_its_place() {
    in_time(frozen_and_replaced);
}

/// A file system hangs for good, and another one is mounted; what was late.
fn frozen_and_replaced() -> Vec<String> {
    let volume = Volume::mounted();
    let data = volume.path().join("data");
    let server = Server::start_on(&data, &["--grace", "1"]);
    let publisher = Publisher::looping(CLIP, &server.publish_url("show"));
    let viewer = Viewer::follow(server.url("/live/show/0.m3u8"));
    archived(&server, &data);
    let frozen = volume.freeze();
    wait_for("it is told of", || (server.metric("steadycast_storage_state", "hung") > 0.0).then_some(()));
    volume.replace();
    // The question that hangs is given up after a minute, and nobody asks the old file system again.
    wait_for("it is well", || (server.metric("steadycast_storage_state", "healthy") > 0.0).then_some(()));
    archived(&server, &data);
    let process = Pid::from_raw(server.pid() as i32).expect("a process");
    assert!(Server::has_uninterruptible_thread(process), "the old one still hangs");
    drop(publisher);
    let recording = viewer.finish();
    recording.assert_consecutive();
    assert_eq!(recording.discontinuities(), 0);
    drop(frozen);
    server.tell(Signal::TERM);
    assert!(server.exit().success());
    recording.later_than(MAX_WAIT)
}

#[test]
fn a_directory_that_is_deleted_is_made_again() {
    let clip = Clip { seconds: 30, ..CLIP };
    shaken("cmaf", clip, |server, _, source| {
        // Renamed first: the archiver writes into it meanwhile.
        std::fs::rename(source.join("live"), source.join("gone")).expect("renamed");
        std::fs::remove_dir_all(source.join("gone")).expect("removed");
        archived(server, source);
        Vec::new()
    });
}

/// Removes a segment from the archive; it is there again. Whether that was late.
fn removed_and_mended(server: &Server) -> Vec<String> {
    let directory = server.archived("show");
    let is_segment = |path: &Path| path.extension().is_some_and(|extension| extension == "m4s");
    let newest = || {
        let listed = std::fs::read_dir(&directory).ok()?.flatten().map(|entry| entry.path());
        listed.filter(|path| is_segment(path)).max()
    };
    let removed = wait_for("a segment is archived", newest);
    let begun = Instant::now();
    std::fs::remove_file(&removed).expect("removed");
    wait_for("it is mended", || removed.exists().then_some(()));
    let took = begun.elapsed();
    (took >= MENDED).then(|| format!("it was mended after {took:?}")).into_iter().collect()
}

#[test]
fn a_directory_that_goes_is_noticed_at_once_where_inotify_tells_of_it() {
    in_time(gone_three_times);
}

/// A directory goes three times; whether that was noticed late.
fn gone_three_times() -> Vec<String> {
    let server = Server::start(&[]);
    let _publisher = Publisher::looping(CLIP, &server.publish_url("show"));
    wait_for("inotify watches", || hint_thread(&server));
    let directory = server.archived("show");
    // Without a hint it takes five seconds in the worst case, and 2.5 on average, before it is written again.
    let mut slowest = Duration::ZERO;
    for _ in 0..3 {
        wait_for("it is archived", || directory.join("0.m3u8").exists().then_some(()));
        let begun = Instant::now();
        std::fs::rename(&directory, directory.with_extension("gone")).expect("renamed");
        std::fs::remove_dir_all(directory.with_extension("gone")).expect("removed");
        wait_for("it is mended", || directory.join("0.m3u8").exists().then_some(()));
        slowest = slowest.max(begun.elapsed());
    }
    (slowest >= NOTICED).then(|| format!("it took {slowest:?}")).into_iter().collect()
}

/// The thread that inotify is read by.
fn hint_thread(server: &Server) -> Option<String> {
    let tasks = std::fs::read_dir(format!("/proc/{}/task", server.pid())).ok()?.flatten();
    let is_it = |task: &std::fs::DirEntry| {
        std::fs::read_to_string(task.path().join("comm")).is_ok_and(|name| name.starts_with("notify-rs"))
    };
    tasks.into_iter().find(is_it).map(|task| task.file_name().to_string_lossy().into_owned())
}

#[test]
fn inotify_that_has_no_watches_left_is_missed_by_nobody() {
    in_time(no_watches_left);
}

/// inotify has no watches; what was late.
fn no_watches_left() -> Vec<String> {
    let errors = ["-e", "trace=inotify_add_watch", "-e", "inject=inotify_add_watch:error=ENOSPC"];
    let server = Server::start_traced(&errors, &[]);
    let _publisher = Publisher::looping(CLIP, &server.publish_url("show"));
    let viewer = Viewer::follow(server.url("/live/show/0.m3u8"));
    let refused = || server.metric("steadycast_watch_hint_errors_total", "kind=\"watch\"");
    wait_for("watches are refused", || (refused() > 0.0).then_some(()));
    let late = removed_and_mended(&server);
    viewer.stop().assert_consecutive();
    late
}

#[test]
fn inotify_that_cannot_be_read_takes_no_core_and_is_missed_by_nobody() {
    in_time(inotify_fails);
}

/// Reads of inotify fail; what was late.
fn inotify_fails() -> Vec<String> {
    let server = Server::start(&[]);
    let _publisher = Publisher::looping(CLIP, &server.publish_url("show"));
    let viewer = Viewer::follow(server.url("/live/show/0.m3u8"));
    let thread = wait_for("inotify is read", || hint_thread(&server));
    let errors = ["-o", "/dev/null", "-e", "trace=read", "-e", "inject=read:error=EIO"];
    let mut strace = std::process::Command::new("strace");
    let _strace = Publisher::with(strace.args(errors).args(["-p", &thread]).stderr(std::process::Stdio::null()));
    // Something to be read: a directory beside the stream's comes and goes until strace is there to spoil it.
    let beside = server.archived("beside");
    let ended = || server.metric("steadycast_watch_hint_restarts_total", "");
    wait_for("its thread is ended", || {
        std::fs::create_dir_all(&beside).and_then(|()| std::fs::remove_dir(&beside)).expect("made and removed");
        (ended() == 1.0).then_some(())
    });
    wait_for("its thread is gone", || hint_thread(&server).is_none().then_some(()));
    let late = removed_and_mended(&server);
    let seen = viewer.stop();
    seen.assert_consecutive();
    [late, seen.later_than(MAX_WAIT)].concat()
}
