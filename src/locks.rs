//! One process per archive and runtime directory.

use std::fs::{File, TryLockError, create_dir_all};
use std::io;
use std::path::Path;
use thiserror::Error;

/// Name of the lock file in a directory.
const LOCK: &str = ".lock";

/// Why a directory cannot be had.
#[derive(Debug, Error)]
pub enum LockError {
    /// Another process has it.
    #[error("{0} is in use by another steadycast; give this one another --{1}")]
    Taken(String, &'static str),
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
        Err(TryLockError::WouldBlock) => Err(LockError::Taken(directory.display().to_string(), option)),
        Err(TryLockError::Error(error)) => Err(failed(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_is_one_process_s() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let held = lock(directory.path(), "data").expect("free");
        assert!(matches!(lock(directory.path(), "data"), Err(LockError::Taken(..))));
        drop(held);
        assert!(lock(directory.path(), "data").is_ok());
    }
}
