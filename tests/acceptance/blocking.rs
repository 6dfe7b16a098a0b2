//! Threads of the live path never wait for storage, nor sleep: their system calls are looked at, one by one.

use crate::harness::media::{CLIP, Clip};
use crate::harness::publisher::Publisher;
use crate::harness::server::Server;
use crate::harness::viewer::{Viewer, try_get};
use crate::harness::wait_for;
use std::path::Path;

/// System calls that wait for storage, or for time. `futex` and `epoll_wait` are how idle threads wait.
const BLOCKING: &str = "trace=openat,open,creat,newfstatat,statx,access,faccessat2,unlink,unlinkat,rename,renameat,renameat2,\
                        mkdir,mkdirat,rmdir,link,linkat,getdents64,fsync,fdatasync,syncfs,sync_file_range,ftruncate,fallocate,\
                        pwrite64,pwritev,pwritev2,pread64,preadv,preadv2,flock,statfs,fstatfs,nanosleep,clock_nanosleep,wait4";
/// And those that do if what they read or write is a file of the archive; most are of sockets.
const OF_FILES: &str = "read,write,readv,writev,sendfile,copy_file_range";
/// Threads of the live path: of the actors, and of who answers viewers. Threads of these runtimes that may block have the
/// same name: nothing here makes any.
const LIVE: [&str; 2] = ["<actors>", "<delivery>"];

/// What threads of the live path did that may block. What is in memory does not: the directory of continuity records, and
/// the kernel's own files.
fn blocking_calls(trace: &Path, in_memory: &Path, archive: &Path) -> Vec<String> {
    let text = std::fs::read_to_string(trace).expect("strace writes");
    // It or something in it, as an argument, or as what a descriptor is of.
    let names = |path: &str| ["\"{}/", "\"{}\"", "<{}/", "<{}>"].map(|name| name.replace("{}", path));
    let in_memory = [&*in_memory.to_string_lossy(), "/proc", "/sys"].map(names).concat();
    let is_live = |line: &&str| {
        LIVE.iter().any(|thread| line.contains(thread)) && !line.contains("resumed>") && !line.contains("+++")
    };
    let archived = format!("<{}/", archive.display());
    let is_of_file = |line: &str| OF_FILES.split(',').any(|call| line.contains(&format!("> {call}(")));
    let blocks = |line: &&str| {
        !in_memory.iter().any(|path| line.contains(path)) && (!is_of_file(line) || line.contains(&archived))
    };
    text.lines().filter(is_live).filter(blocks).map(str::to_owned).collect()
}

#[test]
fn no_thread_of_the_live_path_waits_for_storage_or_sleeps_and_one_that_does_is_found() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let trace = directory.path().join("trace");
    let calls = format!("{BLOCKING},{OF_FILES}");
    let strace = ["-Y", "-y", "-e", &calls, "-e", "signal=none", "-o", trace.to_str().expect("UTF-8")];
    let server = Server::start_traced(&strace, &["--record", "--grace", "1", "--slate", "hold"]);
    let clip = Clip { seconds: 12, ..CLIP };
    let publisher = Publisher::file(&clip.flv(), &server.publish_url("show"));
    let viewer = Viewer::follow(server.url("/live/show/0.m3u8"));
    wait_for("it is archived", || server.archived("show").join("0.m3u8").exists().then_some(()));
    try_get(&server.url("/metrics")).expect("answered");
    try_get(&server.url("/live/show/segments-sha256.json")).expect("answered");
    // Without any there would be nothing to judge.
    let storage = |text: &str| text.lines().any(|line| line.contains("<disk>") && line.contains("rename"));
    assert!(storage(&std::fs::read_to_string(&trace).expect("strace writes")), "who waits for storage is traced");
    assert!(publisher.finish());
    viewer.finish();
    let (run, data) = (server.runtime_directory(), server.archived("show"));
    let data = data.ancestors().nth(3).expect("the archive");
    let written = |line: &str| line.contains("<disk>") && line.contains("write") && line.contains("0.m3u8");
    let text = std::fs::read_to_string(&trace).expect("strace writes");
    assert!(text.lines().any(written), "so are writes");
    LIVE.iter().for_each(|thread| assert!(text.contains(thread), "{thread} is the name of no thread"));
    assert_eq!(blocking_calls(&trace, &run, data), Vec::<String>::new());
    // The check finds what it is made for.
    let again = Publisher::file(&clip.flv(), &server.publish_url("show"));
    wait_for("it is live again", || (server.metric("steadycast_stream_publisher_present", "") > 0.0).then_some(()));
    server.strike("show", "archiver", "block&milliseconds=50");
    wait_for("a handler that sleeps is found", || (!blocking_calls(&trace, &run, data).is_empty()).then_some(()));
    drop(again);
}
