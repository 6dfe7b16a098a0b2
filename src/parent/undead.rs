//! Undead processes: killed, but for threads that wait for storage in a way no signal ends. Such a process has no end until
//! storage answers, and does nothing any more; but it keeps its connections and its locks.

use rustix::net::sockopt::socket_domain;
use rustix::net::{AddressFamily, Shutdown, getpeername, shutdown};
use rustix::process::{Pid, PidfdFlags, PidfdGetfdFlags, pidfd_getfd, pidfd_open};
use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
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
            // One that cannot be had keeps nobody from hanging up for the others.
            let Ok(socket) = pidfd_getfd(&handle, descriptor, PidfdGetfdFlags::empty()) else { continue };
            if is_connection(&socket) && shutdown(&socket, Shutdown::Both).is_ok() {
                hung_up += 1;
            }
        }
        // All threads of a process have the same.
        break;
    }
    Ok(hung_up)
}

/// Whether this is a connection of its own. Its log and its heart are the parent's, too, and those that listen have no peer.
fn is_connection(socket: &OwnedFd) -> bool {
    let is_inet = matches!(socket_domain(socket), Ok(AddressFamily::INET | AddressFamily::INET6));
    is_inet && getpeername(socket).is_ok()
}

/// Whether an undead process holds the lock on a file.
pub fn holds(file: &File) -> bool {
    let Ok(metadata) = file.metadata() else { return false };
    // The device is another one than stat(2) tells on some file systems (subvolumes of btrfs).
    let inode = format!(":{}", metadata.ino());
    let locks = fs::read_to_string("/proc/locks").unwrap_or_default();
    locks.lines().any(|line| {
        // "1: FLOCK  ADVISORY  WRITE 4755 fe:00:1004 0 EOF" (proc_locks(5)).
        let fields: Vec<_> = line.split_whitespace().collect();
        matches!(fields[..], [_, "FLOCK", _, _, pid, at, ..] if at.ends_with(&inode) && pid.parse().is_ok_and(is_zombie))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{TcpListener, TcpStream};
    use std::os::unix::net::UnixStream;
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
    fn connections_are_hung_up_and_what_the_log_goes_to_is_not() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
        let mut encoder = TcpStream::connect(listener.local_addr().expect("bound")).expect("connected");
        let (accepted, _) = listener.accept().expect("accepted");
        let (log, mut reader) = UnixStream::pair().expect("a pair");
        let mut shared = log.try_clone().expect("another descriptor");
        let mut command = Command::new("sleep");
        let mut child = command.arg("60").stdin(OwnedFd::from(accepted)).stderr(OwnedFd::from(log)).spawn();
        let child = child.as_mut().expect("started");
        drop(command);
        let hung_up = hang_up(child.id());
        let heard = encoder.read(&mut [0]);
        let told = shared.write_all(b"x").and_then(|()| reader.read_exact(&mut [0]));
        child.kill().and_then(|()| child.wait()).expect("ended");
        assert_eq!((hung_up.expect("its own child"), heard.expect("its end")), (1, 0));
        told.expect("the log goes on");
    }

    #[test]
    fn a_lock_that_is_held_by_a_process_that_lives_is_not_one_of_the_undead() {
        let file = tempfile::tempfile().expect("a file");
        file.try_lock().expect("free");
        assert!(!holds(&file));
    }
}
