//! Whatever ends a run of scenarios, no process of it is left.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// How long a run may take until it has encoded its clip and started something, or is gone.
const DEADLINE: Duration = Duration::from_secs(180);
/// How often it is looked.
const POLL: Duration = Duration::from_millis(50);

/// Processes whose arguments name a directory.
fn processes_of(directory: &Path) -> usize {
    let name = directory.display().to_string();
    let all = fs::read_dir("/proc").expect("processes").flatten();
    let arguments = all.filter_map(|process| fs::read(process.path().join("cmdline")).ok());
    arguments.filter(|arguments| String::from_utf8_lossy(arguments).contains(&name)).count()
}

/// Whether a script is run.
fn runs(script: &Path) -> bool {
    let arguments = format!("/bin/sh\0{}\0", script.display());
    let all = fs::read_dir("/proc").expect("processes").flatten();
    let mut found = all.filter_map(|process| fs::read(process.path().join("cmdline")).ok());
    found.any(|found| found.starts_with(arguments.as_bytes()))
}

fn wait_until(what: &str, mut is: impl FnMut() -> bool) {
    let begun = Instant::now();
    while !is() {
        assert!(begun.elapsed() < DEADLINE, "{what}");
        // The pace of the looks: encoding takes both processors.
        std::thread::sleep(POLL);
    }
}

#[test]
fn what_a_run_left_that_was_killed_goes_with_the_next() {
    let mut ended = Command::new("true").spawn().expect("it starts");
    ended.wait().expect("it ends");
    let left = |number: u32| Path::new("/dev/shm").join(format!("chaos-test-{number}"));
    let (of_dead, of_living) = (left(ended.id()), left(std::process::id()));
    let table = format!("chaos_{}", ended.id());
    for directory in [&of_dead, &of_living] {
        fs::create_dir_all(directory.join("state")).expect("made");
    }
    let nft = |arguments: &[&str]| Command::new("nft").args(arguments).output().expect("nft: run `make tools`");
    assert!(nft(&["add", "table", "inet", &table]).status.success(), "this test needs root");
    let run = Command::new(env!("CARGO_BIN_EXE_chaos"))
        .args(["run", "no-such-scenario"])
        .current_dir("/")
        .output()
        .expect("it starts");
    assert!(!run.status.success());
    assert!(!of_dead.exists() && of_living.exists());
    fs::remove_dir_all(&of_living).expect("removed");
    assert!(!String::from_utf8_lossy(&nft(&["list", "tables"]).stdout).contains(&table));
}

#[test]
fn a_run_that_is_killed_leaves_no_process_behind() {
    let directory = tempfile::tempdir().expect("temporary directory");
    // In the server's place something that hears no signal but one, and never listens.
    let program = directory.path().join("server");
    fs::write(&program, "#!/bin/sh\ntrap '' TERM INT HUP\nwhile :; do sleep 1; done\n").expect("written");
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("executable");
    for signal in ["TERM", "KILL"] {
        let mut run = Command::new(env!("CARGO_BIN_EXE_chaos"));
        run.args(["run", "fight", "--program"]).arg(&program).arg("--directory").arg(directory.path());
        let mut run = run.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("it starts");
        wait_until("it starts its server", || {
            let ended = run.try_wait().expect("a child");
            assert!(ended.is_none(), "it ended by itself ({ended:?}): this test needs root");
            runs(&program)
        });
        let killed = Command::new("kill").args(["-s", signal, &run.id().to_string()]).status().expect("kill");
        assert!(killed.success());
        run.wait().expect("it ends");
        wait_until("all of it is gone", || processes_of(directory.path()) == 0);
    }
}
