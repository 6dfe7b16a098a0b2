//! A signal ends a measurement with what it saw.

use serde_json::Value;
use std::io::{BufRead, BufReader, Write};
use std::net::TcpListener;
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

/// How long an instrument may take to ask its first questions.
const DEADLINE: Duration = Duration::from_secs(60);
/// A playlist whose segment is not there.
const PLAYLIST: &str = "#EXTM3U\n#EXT-X-TARGETDURATION:2\n#EXTINF:2,\nmissing.ts\n";

/// An origin that answers, or keeps who asks waiting; its address, and a word for each request.
fn origin(answers: bool) -> (String, Receiver<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("address").to_string();
    let (asked, requests) = sync_channel(1000);
    std::thread::spawn(move || {
        let mut waiting = Vec::new();
        for connection in listener.incoming().flatten() {
            let (mut reader, mut line, mut header) = (BufReader::new(connection), String::new(), String::new());
            if reader.read_line(&mut line).is_err() {
                continue;
            }
            while reader.read_line(&mut header).is_ok_and(|length| length > 2) {
                header.clear();
            }
            let (status, body) = if line.contains(".m3u8") { (200, PLAYLIST) } else { (404, "") };
            let mut connection = reader.into_inner();
            if answers {
                let length = body.len();
                let head = format!("HTTP/1.1 {status} X\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n");
                // Who was interrupted reads no answer.
                let _ = connection.write_all(head.as_bytes()).and_then(|()| connection.write_all(body.as_bytes()));
            } else {
                waiting.push(connection);
            }
            if asked.send(()).is_err() {
                break;
            }
        }
    });
    (address, requests)
}

fn started(arguments: &[&str]) -> Child {
    let mut chaos = Command::new(env!("CARGO_BIN_EXE_chaos"));
    chaos.args(arguments).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0).spawn().expect("chaos")
}

/// Sends a signal to a process, or to the group of one as a terminal does.
fn send(signal: &str, to: &str) {
    let status = Command::new("kill").args([signal, "--", to]).status().expect("kill");
    assert!(status.success(), "{signal} to {to}");
}

/// Two signals at once, as `timeout` sends them, are one request.
fn interrupted(mut child: Child, signal: &str) -> Output {
    let pid = child.id().to_string();
    assert_eq!(child.try_wait().expect("a child"), None, "it has ended by itself");
    send(signal, &pid);
    // It may have ended by now, and is waited for below.
    send(signal, &format!("-{pid}"));
    child.wait_with_output().expect("ended")
}

fn asked(requests: &Receiver<()>, times: usize) {
    (0..times).for_each(|_| requests.recv_timeout(DEADLINE).expect("a request"));
}

#[test]
fn an_audit_that_is_interrupted_reports() {
    let (address, requests) = origin(true);
    let url = format!("http://{address}/live.m3u8");
    let audit = started(&["audit", &url, "--seconds", "3600"]);
    asked(&requests, 10);
    let output = interrupted(audit, "-INT");
    let (report, said): (Value, _) =
        (serde_json::from_slice(&output.stdout).expect("JSON"), String::from_utf8_lossy(&output.stderr));
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(report[0]["findings"].to_string().contains("404"), "{report}");
    assert!(said.contains("no segment of http://") && said.contains("findings"), "{said}");
}

#[test]
fn who_is_told_to_end_again_ends_without_a_report() {
    let (address, requests) = origin(false);
    let mut audit = started(&["audit", &format!("http://{address}/live.m3u8"), "--seconds", "3600"]);
    asked(&requests, 1);
    let pid = audit.id().to_string();
    // It waits for an answer, and for longer than signals are taken for one.
    while audit.try_wait().expect("a child").is_none() {
        send("-TERM", &pid);
        std::thread::yield_now();
    }
    let output = audit.wait_with_output().expect("ended");
    assert_eq!((output.status.signal(), output.stdout), (Some(15), vec![]), "{:?}", output.status);
}

#[test]
fn a_count_that_is_interrupted_tells_what_it_counted() {
    for (signal, arguments) in [("-TERM", &[][..]), ("-INT", &["--seconds", "5"])] {
        let (address, requests) = origin(false);
        let url = format!("http://{address}/live.m3u8");
        let count = started(&[&["count", &url], arguments].concat());
        asked(&requests, 1);
        let output = interrupted(count, signal);
        let counted: Value = serde_json::from_slice(&output.stdout).expect("JSON");
        assert_eq!((output.status.code(), &counted["cut_short"]), (Some(1), &Value::from("interrupted")), "{counted}");
    }
}

#[test]
fn a_count_that_is_shown_nothing_gives_up() {
    let (address, requests) = origin(false);
    let count = started(&["count", &format!("http://{address}/live.m3u8"), "--patience", "1"]);
    let output = count.wait_with_output().expect("ended");
    let said = String::from_utf8_lossy(&output.stderr);
    drop(requests);
    assert!(output.status.code() == Some(1) && said.contains("no picture for 1 s"), "{said}");
}

#[test]
fn a_file_of_numbered_pictures_that_is_interrupted_leaves_nothing() {
    let directory = std::env::temp_dir().join(format!("interrupted-{}", std::process::id()));
    std::fs::create_dir_all(&directory).expect("directory");
    let (file, part) = (directory.join("long.flv"), directory.join("long.flv.part"));
    let making = started(&["numbered", file.to_str().expect("a name"), "--seconds", "20000"]);
    let begun = Instant::now();
    while !part.exists() {
        assert!(begun.elapsed() < DEADLINE, "it has not begun");
        std::thread::yield_now();
    }
    let output = interrupted(making, "-TERM");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.code() == Some(1) && said.contains("interrupted"), "{said}");
    assert!(std::fs::read_dir(&directory).expect("readable").next().is_none(), "something is left");
    std::fs::remove_dir(&directory).expect("removed");
}

#[test]
fn a_load_that_cannot_begin_says_so_at_once() {
    for (url, clip, why) in
        [("nonsense", "none.flv", "none.flv"), ("rtmp://127.0.0.1:9/live/x", "clip.flv", "rtmp://127.0.0.1:9/live/x-0")]
    {
        let clip = Path::new(env!("CARGO_TARGET_TMPDIR")).join(clip);
        if !clip.ends_with("none.flv") {
            chaos::frames::make(&clip, 30, 1, 0).expect("made");
        }
        let begun = Instant::now();
        let clip = clip.to_str().expect("a name");
        let load =
            started(&["load", url, "--clip", clip, "--seconds", "300", "--viewers", "1", "--play", "http://a/{}"]);
        let output = load.wait_with_output().expect("ended");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(1) && said.contains(why), "{said}");
        assert!(begun.elapsed() < DEADLINE, "it waited for its time to go by");
    }
}

#[test]
fn a_file_system_with_faults_is_unmounted_when_a_signal_ends_it() {
    let directory = std::env::temp_dir().join(format!("unmounted-{}", std::process::id()));
    let point = directory.join("mnt");
    std::fs::create_dir_all(directory.join("src")).expect("directory");
    std::fs::create_dir_all(&point).expect("directory");
    let name = |path: &Path| path.to_str().expect("a name").to_owned();
    let mut chaos = Command::new(env!("CARGO_BIN_EXE_chaos"));
    chaos.args(["faultfs", &name(&directory.join("src")), &name(&point)]).process_group(0);
    let mut mounted = chaos.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("chaos");
    let mut input = mounted.stdin.take().expect("a pipe");
    input.write_all(b"[]\n").expect("written");
    let mut counts = String::new();
    BufReader::new(mounted.stdout.as_mut().expect("a pipe")).read_line(&mut counts).expect("it is mounted");
    let is_mounted = || std::fs::read_to_string("/proc/mounts").expect("mounts").contains(&name(&point));
    assert!(is_mounted(), "{counts}");
    let output = interrupted(mounted, "-TERM");
    assert!(output.status.success() && !is_mounted(), "{}", String::from_utf8_lossy(&output.stderr));
    drop(input);
    std::fs::remove_dir_all(&directory).expect("removed");
}
