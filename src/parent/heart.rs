//! Heart: the parent listens for signs of life of its worker, in the protocol of sd_notify(3), and passes them on.

use sd_notify::NotifyState;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::UnixDatagram;
use tokio::time::{Instant, sleep_until};

/// Name of the socket in the runtime directory.
const SOCKET: &str = ".parent";
/// How often a worker is to show that it makes progress, microseconds: it does so twice as often.
const EVERY_US: u32 = 4_000_000;
/// A worker that has shown it, and shows it no more for this long, is stopped, or stuck as a whole.
const SILENT: Duration = Duration::from_secs(10);
/// Longest message.
const MAX_MESSAGE: usize = 1024;

/// Where a worker's signs of life come in.
pub struct Heart {
    socket: UnixDatagram,
    path: PathBuf,
    heard: Option<Instant>,
}

impl Heart {
    /// Listens in this directory.
    pub fn listening(directory: &Path) -> io::Result<Self> {
        std::fs::create_dir_all(directory)?;
        let path = directory.join(SOCKET);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        Ok(Self { socket: UnixDatagram::bind(&path)?, path, heard: None })
    }

    /// What a worker's environment needs.
    pub fn environment(&self) -> [(&'static str, std::ffi::OsString); 2] {
        [("NOTIFY_SOCKET", self.path.clone().into()), ("WATCHDOG_USEC", EVERY_US.to_string().into())]
    }

    /// A new worker has not shown anything yet.
    pub fn begin(&mut self) {
        self.heard = None;
    }

    /// Returns when the worker has been silent for too long.
    pub async fn stops(&mut self) {
        let mut message = [0; MAX_MESSAGE];
        loop {
            let heard = self.heard;
            let silence = async {
                match heard {
                    Some(at) => sleep_until(at + SILENT).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                // What has come counts, however late this process itself was.
                biased;
                received = self.socket.recv(&mut message) => match received {
                    Ok(length) => {
                        self.heard = Some(Instant::now());
                        pass_on(&message[..length]);
                    }
                    // Nothing can be heard any more: nobody is killed for that.
                    Err(_) => return std::future::pending().await,
                },
                () = silence => {
                    self.heard = None;
                    return;
                }
            }
        }
    }
}

/// Tells our own service manager, if there is one: by a thread, for it may not read.
fn pass_on(message: &[u8]) {
    if std::env::var_os("NOTIFY_SOCKET").is_none() {
        return;
    }
    let text = String::from_utf8_lossy(message).into_owned();
    let states = [("READY=1", NotifyState::Ready), ("WATCHDOG=1", NotifyState::Watchdog)];
    for (_, state) in states.into_iter().filter(|(name, _)| text.lines().any(|line| line == *name)) {
        let _ = std::thread::Builder::new().name("service".to_owned()).spawn(move || drop(sd_notify::notify(&[state])));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_worker_that_was_heard_and_is_silent_has_stopped_and_one_that_never_spoke_has_not() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let mut heart = Heart::listening(directory.path()).expect("bound");
        let patience = SILENT * 10;
        assert!(tokio::time::timeout(patience, heart.stops()).await.is_err(), "it never spoke");
        let worker = std::os::unix::net::UnixDatagram::unbound().expect("socket");
        worker.send_to(b"WATCHDOG=1", &heart.path).expect("sent");
        let begun = Instant::now();
        heart.stops().await;
        assert!(begun.elapsed() >= SILENT);
        heart.begin();
        assert!(tokio::time::timeout(patience, heart.stops()).await.is_err());
    }
}
