//! Undead processes: killed, but for threads that wait for storage in a way no signal ends. Such a process has no end until
//! storage answers, and does nothing any more; but it keeps its connections and its locks.

use rustix::fs::{major, minor};
use rustix::io::Errno;
use rustix::net::{Shutdown, getpeername, shutdown};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::time::Duration;
use tokio::time::sleep;

/// How often a worker is looked at. One that ends is a zombie for a moment, too, and none the next time.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// A descriptor for a thread (pidfd_open(2), PIDFD_THREAD, Linux 6.9): the first of an undead process has none any more.
const PIDFD_THREAD: PidfdFlags = PidfdFlags::from_bits_retain(0o200);

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
    state(&format!("/proc/{pid}")) == Some('Z')
}

fn state(directory: &str) -> Option<char> {
    let status = fs::read_to_string(format!("{directory}/stat")).ok()?;
    // The name before it, in parentheses, may hold anything.
    status.rsplit(')').next()?.trim_start().chars().next()
}

/// Hangs up for an undead process: whoever was connected to it would wait for it, and is to come back instead. How many.
pub fn hang_up(pid: u32) -> io::Result<usize> {
    let mut hung_up = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task"))? {
        let thread = thread?.path();
        let number = thread.file_name().and_then(|name| name.to_str()?.parse().ok()).and_then(Pid::from_raw);
        let Some(number) = number.filter(|_| !matches!(state(&thread.to_string_lossy()), Some('Z' | 'X') | None))
        else {
            continue;
        };
        let handle = pidfd_open(number, PIDFD_THREAD)?;
        for descriptor in fs::read_dir(thread.join("fd"))? {
            let descriptor = descriptor?;
            let is_socket =
                fs::read_link(descriptor.path()).is_ok_and(|to| to.to_string_lossy().starts_with("socket:"));
            let Some(descriptor) = descriptor.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            if !is_socket {
                continue;
            }
            let socket = pidfd_getfd(&handle, descriptor, PidfdGetfdFlags::empty())?;
            // Those that listen are the parent's, and have no peer.
            match getpeername(&socket).and_then(|_| shutdown(&socket, Shutdown::Both)) {
                Ok(()) => hung_up += 1,
                Err(Errno::NOTCONN) => {}
                Err(error) => return Err(error.into()),
            }
        }
        // All threads of a process have the same.
        break;
    }
    Ok(hung_up)
}

/// Whether an undead process holds the lock on a file.
pub fn holds(file: &File) -> bool {
    let Ok(metadata) = file.metadata() else { return false };
    let (device, inode) = (metadata.dev(), metadata.ino());
    let place = format!("{:02x}:{:02x}:{inode}", major(device), minor(device));
    let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
    locks.lines().any(|line| {
        // "1: FLOCK  ADVISORY  WRITE 4755 fe:00:1004 0 EOF" (proc_locks(5)).
        let fields: Vec<_> = line.split_whitespace().collect();
        matches!(fields[..], [_, "FLOCK", _, _, pid, at, ..] if at == place && pid.parse().is_ok_and(is_zombie))
    })
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
        child.wait().expect("waited for");
    }

    #[test]
    fn a_lock_that_is_held_by_a_process_that_lives_is_not_one_of_the_undead() {
        let file = tempfile::tempfile().expect("a file");
        file.try_lock().expect("free");
        assert!(!holds(&file));
    }
}
