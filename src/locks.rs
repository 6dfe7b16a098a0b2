//! One process per archive and runtime directory.

use crate::Config;
use crate::parent::undead;
use std::fs::{File, TryLockError, create_dir_all, metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::{Duration, Instant};
use thiserror::Error;
use tracing::{error, info, warn};

/// Name of the lock file in a directory.
const LOCK: &str = ".lock";
/// How often it is looked whether the lock is still the directory's: one that is deleted and made again, or another
/// that is mounted in its place, has none.
const LOOK_EVERY: Duration = Duration::from_secs(5);

/// How long an archive may take to be locked, or a slate's clip to be read: storage that hangs must not keep the show from
/// starting.
pub const DEADLINE: Duration = Duration::from_secs(1);

/// Why a directory cannot be had.
#[derive(Debug, Error)]
pub enum LockError {
    /// Another process has it.
    #[error("{0} is in use by another steadycast; give this one another --{1}")]
    Taken(String, &'static str),
    /// A process has it that is dead but for storage that hangs.
    #[error("{0} is locked by a process that is dead but for storage that hangs; the lock is waited for")]
    Undead(String),
    /// It cannot be used at all.
    #[error("{0} cannot be used: {1}; give another --{2}")]
    Io(String, io::Error, &'static str),
}

/// Locks `directory` for as long as the file is kept. `option` is named in the error.
pub fn lock(directory: &Path, option: &'static str) -> Result<File, LockError> {
    let failed = |error| LockError::Io(directory.display().to_string(), error, option);
    create_dir_all(directory).map_err(failed)?;
    let file = File::options().create(true).truncate(false).write(true).open(directory.join(LOCK)).map_err(failed)?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) if undead::holds(&file) => {
            Err(LockError::Undead(directory.display().to_string()))
        }
        Err(TryLockError::WouldBlock) => Err(LockError::Taken(directory.display().to_string(), option)),
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
}

/// Keeps a directory locked, whatever becomes of it.
#[derive(Debug)]
pub struct Keeper {
    directory: PathBuf,
    option: &'static str,
    /// The lock, and what it is known by: a file on a mount that has gone tells no more.
    held: Option<(File, (u64, u64))>,
}

impl Keeper {
    /// Of a directory that is not locked yet.
    pub fn new(directory: &Path, option: &'static str) -> Self {
        Self { directory: directory.to_owned(), option, held: None }
    }

    /// Locks the directory that is there now, unless it is locked; whether it was not.
    pub fn look(&mut self) -> Result<bool, LockError> {
        if self.held.as_ref().is_some_and(|(_, identity)| is_at(*identity, &self.directory.join(LOCK))) {
            return Ok(false);
        }
        let file = lock(&self.directory, self.option)?;
        let metadata = file.metadata().map_err(|error| self.failed(error))?;
        self.held = Some((file, (metadata.dev(), metadata.ino())));
        Ok(true)
    }

    fn failed(&self, error: io::Error) -> LockError {
        LockError::Io(self.directory.display().to_string(), error, self.option)
    }

    /// Goes on looking for as long as the process lives. Storage that hangs keeps this thread waiting, and no other.
    pub fn keep(mut self) {
        let mut is_taken = false;
        loop {
            // The pace of the looks: there is no event for what happens on another machine's file system.
            thread::sleep(LOOK_EVERY);
            let looked = self.look();
            let was_taken = std::mem::replace(&mut is_taken, matches!(looked, Err(LockError::Taken(..))));
            match looked {
                Ok(true) => info!(directory = %self.directory.display(), "locked: the lock had gone, or was another's"),
                Err(error @ LockError::Taken(..)) if !was_taken => {
                    error!(%error, "two processes write into one directory")
                }
                // What fails is told by the storage's health, and tried again.
                Ok(false) | Err(_) => {}
            }
        }
    }
}

/// Locks the runtime directory for as long as the process lives.
pub fn lock_runtime(config: &Config) -> anyhow::Result<()> {
    let mut keeper = Keeper::new(&config.runtime_dir, "runtime-dir");
    match keeper.look() {
        Err(error @ LockError::Undead(_)) => warn!("{error}"),
        looked => drop(looked?),
    }
    thread::Builder::new().name("runtime-lock".to_owned()).spawn(|| keeper.keep())?;
    Ok(())
}

/// Locks the archives, all at once, for as long as the process lives: storage that fails or hangs does not keep the show
/// from going on; another process does.
pub fn lock_archives(config: &Config) -> anyhow::Result<()> {
    let mut locking = Vec::new();
    for (option, directory) in config.directories() {
        let (locked, lock) = sync_channel(1);
        let mut keeper = Keeper::new(directory, option);
        let work = move || {
            let _ = locked.send(keeper.look().map(drop));
            keeper.keep();
        };
        thread::Builder::new().name("archive-lock".to_owned()).spawn(work)?;
        locking.push((directory, lock));
    }
    let deadline = Instant::now() + DEADLINE;
    for (directory, lock) in locking {
        let wait = deadline.saturating_duration_since(Instant::now());
        let hung = || LockError::Io(directory.display().to_string(), io::ErrorKind::TimedOut.into(), "data");
        match lock.recv_timeout(wait).unwrap_or_else(|_| Err(hung())) {
            Ok(()) => {}
            Err(error @ LockError::Undead(_)) => warn!("{error}"),
            Err(error @ LockError::Taken(..)) => return Err(error.into()),
            Err(LockError::Io(path, error, _)) => {
                warn!(path, %error, "an archive cannot be locked; live goes on without it");
            }
        }
    }
    Ok(())
}

/// Whether the file at `path` is the one that is known by this; one that cannot be asked for has not been seen to go.
fn is_at(identity: (u64, u64), path: &Path) -> bool {
    match metadata(path) {
        Ok(there) => (there.dev(), there.ino()) == identity,
        Err(error) => error.kind() != io::ErrorKind::NotFound,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_that_is_deleted_is_locked_again_and_one_that_another_has_taken_is_not() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let data = directory.path().join("data");
        let mut keeper = Keeper::new(&data, "data");
        keeper.look().expect("free");
        assert!(matches!(lock(&data, "data"), Err(LockError::Taken(..))));
        std::fs::remove_dir_all(&data).expect("removed");
        let other = lock(&data, "data").expect("the new one is free");
        assert!(matches!(keeper.look(), Err(LockError::Taken(..))));
        drop(other);
        keeper.look().expect("free again");
        assert!(matches!(lock(&data, "data"), Err(LockError::Taken(..))));
        keeper.look().expect("held");
    }

    #[test]
    fn a_directory_is_one_process_s() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let held = lock(directory.path(), "data").expect("free");
        assert!(matches!(lock(directory.path(), "data"), Err(LockError::Taken(..))));
        drop(held);
        assert!(lock(directory.path(), "data").is_ok());
    }
}
