//! A small language for stories: `server`, `publisher`, `viewer`, and the media they exchange.

pub mod media;
pub mod publisher;
pub mod server;
pub mod viewer;
pub mod volume;

use chaos::broken::Broken;
use chaos::standstill;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// How long anything may take of which no time is promised: longer than every clip, and so long that a machine which is
/// busy with other things gets there, too. It bounds a test that would never end.
pub const LIMIT: Duration = Duration::from_secs(180);

/// Runs a command to its end; fails with what it printed if it fails or does not end.
pub fn run(command: &mut Command) -> Output {
    let shown = format!("{command:?}");
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap_or_else(|error| panic!("{error}: install what `make tools` installs to run {shown}"));
    let (stdout, stderr) = (child.stdout.take().expect("piped"), child.stderr.take().expect("piped"));
    let read = |mut pipe: Box<dyn std::io::Read + Send>| {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            pipe.read_to_end(&mut bytes).expect("pipe");
            bytes
        })
    };
    let (stdout, stderr) = (read(Box::new(stdout)), read(Box::new(stderr)));
    let deadline = Instant::now() + LIMIT;
    let status = loop {
        if let Some(status) = child.try_wait().expect("child") {
            break status;
        }
        if Instant::now() > deadline {
            child.kill().expect("child");
            let said = String::from_utf8_lossy(&stderr.join().expect("reader")).into_owned();
            panic!("it did not end within {LIMIT:?}: {shown}\n{said}");
        }
        std::thread::sleep(POLL);
    };
    let output = Output { status, stdout: stdout.join().expect("reader"), stderr: stderr.join().expect("reader") };
    assert!(output.status.success(), "{shown}\n{}", String::from_utf8_lossy(&output.stderr));
    output
}

/// How long a machine that stands still is waited for.
const PATIENCE: Duration = Duration::from_secs(40);

/// Tells a story in which nothing may be late, and tells it again where something was while the machine stood still
/// (docs/decisions/0017). It tells what was late, in sentences, and asserts itself what is wrong: nobody looks at a try that is
/// told again.
pub fn in_time(mut story: impl FnMut() -> Vec<String>) {
    let late = |late: &Vec<String>| late.iter().cloned().map(Broken::Late).collect();
    let judged = standstill::judged(PATIENCE, &mut story, late);
    assert!(judged.came.is_empty(), "{:?}; how late the machine was: {:?}", judged.came, judged.stood);
}

/// How often something outside is looked at.
pub const POLL: Duration = Duration::from_millis(20);

/// Looks until there is something, or fails with a sentence.
pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LIMIT;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}: not within {LIMIT:?}");
        std::thread::sleep(POLL);
    }
}
