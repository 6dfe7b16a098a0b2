//! Alone: scenarios run among processes and mounts of their own. Whatever ends the program, a signal that nobody can
//! catch too, ends and unmounts all of them.

use anyhow::Context;
use std::ffi::OsString;
use std::process::{Command, ExitStatus};
use std::{env, process};

/// Tells the program that it is alone, and the number of the one that began it.
const ALONE: &str = "CHAOS_ALONE";
/// What runs it: dies with its parent; has processes and mounts of its own, which the kernel ends with the first of them.
const RUN_BY: [&str; 10] =
    ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc", "--"];

/// Runs this program, with its arguments, alone, and waits for it; none if it is that.
pub fn run_alone() -> anyhow::Result<Option<ExitStatus>> {
    if env::var_os(ALONE).is_some() {
        return Ok(None);
    }
    let arguments: Vec<OsString> = env::args_os().skip(1).collect();
    let mut command = Command::new(RUN_BY[0]);
    command.args(&RUN_BY[1..]).arg(env::current_exe()?).args(arguments).env(ALONE, process::id().to_string());
    command.status().map(Some).context("setpriv and unshare are needed: they are in util-linux")
}

/// A number for names that no other run has.
pub fn number() -> u32 {
    env::var(ALONE).ok().and_then(|number| number.parse().ok()).unwrap_or_else(process::id)
}
