//! A file system of its own, on a loop device, that can be frozen: what waits for it then no signal ends.

use super::run;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;
use tempfile::TempDir;

/// Bytes of the file that holds it: a show of some minutes.
const LENGTH: u64 = 128 << 20;
/// How long each step of its making may take.
const MADE_WITHIN: Duration = Duration::from_secs(20);

/// An ext4 file system.
pub struct Volume {
    directory: TempDir,
}

impl Volume {
    pub fn mounted() -> Self {
        let volume = Self { directory: tempfile::tempdir().expect("temporary directory") };
        let image = volume.directory.path().join("image");
        std::fs::File::create(&image).and_then(|file| file.set_len(LENGTH)).expect("an image");
        std::fs::create_dir(volume.path()).expect("a mount point");
        run(Command::new("mkfs.ext4").arg("-q").arg(&image), MADE_WITHIN);
        run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(volume.path()), MADE_WITHIN);
        volume
    }

    pub fn path(&self) -> PathBuf {
        self.directory.path().join("mount")
    }

    /// Has all who write wait.
    pub fn freeze(&self) {
        run(Command::new("fsfreeze").arg("-f").arg(self.path()), MADE_WITHIN);
    }

    pub fn thaw(&self) {
        run(Command::new("fsfreeze").arg("-u").arg(self.path()), MADE_WITHIN);
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        // A test that failed may have left it frozen, or mounted only in part.
        let undo =
            |program: &str, option: &str, path: &Path| drop(Command::new(program).arg(option).arg(path).output());
        undo("fsfreeze", "-u", &self.path());
        undo("umount", "-l", &self.path());
    }
}
