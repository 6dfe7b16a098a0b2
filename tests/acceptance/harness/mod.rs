//! A small language for stories: `server`, `publisher`, `viewer`, and the media they exchange.

pub mod media;
pub mod publisher;
pub mod server;
pub mod viewer;
pub mod volume;

use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Runs a command to its end; fails with what it printed if it fails or takes longer than `limit`.
pub fn run(command: &mut Command, limit: Duration) -> Output {
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
    let deadline = Instant::now() + limit;
    let status = loop {
        if let Some(status) = child.try_wait().expect("child") {
            break status;
        }
        if Instant::now() > deadline {
            child.kill().expect("child");
            let said = String::from_utf8_lossy(&stderr.join().expect("reader")).into_owned();
            panic!("it did not end within {limit:?}: {shown}\n{said}");
        }
        std::thread::sleep(POLL);
    };
    let output = Output { status, stdout: stdout.join().expect("reader"), stderr: stderr.join().expect("reader") };
    assert!(output.status.success(), "{shown}\n{}", String::from_utf8_lossy(&output.stderr));
    output
}

/// How often something outside is looked at.
pub const POLL: Duration = Duration::from_millis(20);

/// Looks until there is something, or fails with a sentence.
pub fn wait_for<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < deadline, "{what}: not within {limit:?}");
        std::thread::sleep(POLL);
    }
}
