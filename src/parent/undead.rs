//! Undead workers: killed, but for threads that wait for storage in a way no signal ends. Such a process has no end until
//! storage answers, and is not waited for: it does nothing any more, but keeps its locks.

use std::fs;
use std::time::Duration;
use tokio::time::sleep;

/// Which of the workers before this one are undead, for the one that is started: process numbers.
pub const UNDEAD: &str = "STEADYCAST_UNDEAD";
/// How often a worker is looked at. One that ends is a zombie for a moment, too, and none the next time.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Undead workers that are told of: as many restarts while storage hangs.
const MAX_UNDEAD: usize = 64;

/// Returns when this process is undead. It is its parent who asks: the number is nobody else's before its end was heard.
pub async fn becomes(pid: Option<u32>) {
    let Some(pid) = pid else { return std::future::pending().await };
    let mut was_zombie = false;
    loop {
        // The pace of the looks: there is no event for it, only for the end of all threads.
        sleep(LOOK_EVERY).await;
        if std::mem::replace(&mut was_zombie, is_zombie(pid)) && was_zombie {
            return;
        }
    }
}

/// Whether the first thread of a process has ended, and the process has not.
pub fn is_zombie(pid: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The name before it, in parentheses, may hold anything.
    status.rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z'))
}

/// Adds one to those that still are.
pub fn note(undead: &mut Vec<u32>, pid: u32) {
    undead.retain(|pid| is_zombie(*pid));
    undead.push(pid);
    if undead.len() > MAX_UNDEAD {
        undead.remove(0);
    }
}

/// As the variable says it.
pub fn list(undead: &[u32]) -> String {
    undead.iter().map(u32::to_string).collect::<Vec<_>>().join(",")
}

/// Whether a worker before this one still is: what it had locked is locked.
pub fn is_before_us() -> bool {
    let listed = std::env::var(UNDEAD).unwrap_or_default();
    listed.split(',').filter_map(|pid| pid.parse().ok()).any(is_zombie)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_process_that_has_ended_and_was_not_waited_for_is_a_zombie_and_this_one_is_not() {
        let mut child = Command::new("true").spawn().expect("started");
        while !is_zombie(child.id()) {
            std::thread::yield_now();
        }
        assert!(!is_zombie(std::process::id()));
        let mut undead = Vec::new();
        note(&mut undead, child.id());
        assert_eq!(list(&undead), child.id().to_string());
        child.wait().expect("waited for");
        note(&mut undead, 1);
        assert_eq!(list(&undead), "1");
    }
}
