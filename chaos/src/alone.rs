//! Alone: scenarios run among processes and mounts of their own. Whatever ends the program, a signal that nobody can
//! catch too, ends and unmounts all of them. What else it may leave, its packet filter and its directories in
//! memory, goes with the next run.

use anyhow::Context;
use std::ffi::OsString;
use std::path::Path;
use std::process::{Command, ExitStatus, Stdio};
use std::{env, fs, process};

/// Tells the program that it is alone, and the number of the one that began it.
const ALONE: &str = "CHAOS_ALONE";
/// What runs it: dies with its parent; has processes and mounts of its own, which the kernel ends with the first of them.
const RUN_BY: [&str; 10] =
    ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--"];

/// What is named after a run, and outlives one that is killed: its packet filter, and its directory in memory.
const FILTER: &str = "chaos_";
const DIRECTORY: &str = "chaos-";
/// Where directories in memory are.
const MEMORY: &str = "/dev/shm";

/// Runs this program, with its arguments, alone, and waits for it; none if it is that.
pub fn run_alone() -> anyhow::Result<Option<ExitStatus>> {
    if env::var_os(ALONE).is_some() {
        return Ok(None);
    }
    remove_what_was_left();
    let arguments: Vec<OsString> = env::args_os().skip(1).collect();
    let mut command = Command::new(RUN_BY[0]);
    command.args(&RUN_BY[1..]).arg(env::current_exe()?).args(arguments).env(ALONE, process::id().to_string());
    command.status().map(Some).context("setpriv and unshare are needed: they are in util-linux")
}

/// Of runs that have ended. What cannot be removed is in nobody's way but of who used those ports, and that memory.
fn remove_what_was_left() {
    let has_ended = |number: &&str| number.parse::<u32>().is_ok_and(|n| !Path::new(&format!("/proc/{n}")).exists());
    let tables = Command::new("nft").args(["list", "tables", "inet"]).stderr(Stdio::null()).output();
    let tables = tables.map(|listed| String::from_utf8_lossy(&listed.stdout).into_owned()).unwrap_or_default();
    for number in tables.split_whitespace().filter_map(|word| word.strip_prefix(FILTER)).filter(has_ended) {
        let _ = Command::new("nft").args(["delete", "table", "inet", &format!("{FILTER}{number}")]).status();
    }
    for entry in fs::read_dir(MEMORY).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let ours = name.to_str().filter(|name| name.starts_with(DIRECTORY));
        if ours.and_then(|name| name.rsplit('-').next()).as_ref().is_some_and(has_ended) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// The name of this run's packet filter.
pub fn filter() -> String {
    format!("{FILTER}{}", number())
}

/// A directory in memory of this run.
pub fn memory(name: &str) -> String {
    format!("{MEMORY}/{DIRECTORY}{name}-{}", number())
}

/// A number for names that no other run has.
pub fn number() -> u32 {
    env::var(ALONE).ok().and_then(|number| number.parse().ok()).unwrap_or_else(process::id)
}
