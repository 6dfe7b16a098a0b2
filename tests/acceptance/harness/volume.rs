//! A file system of its own, on a loop device, that can be frozen: what waits for it then no signal ends.

use super::run;
use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::Command;
use tempfile::TempDir;

/// Bytes of the file that holds it: a show of some minutes.
const LENGTH: u64 = 128 << 20;

/// An ext4 file system.
pub struct Volume {
    directory: TempDir,
    /// Its root, by which it is found when something else is mounted in its place.
    root: Option<File>,
}

/// Lets those go on who wait, whatever becomes of the test: a process that waits does not end.
pub struct Frozen<'a>(&'a Volume);

impl Volume {
    pub fn mounted() -> Self {
        let mut volume = Self { directory: tempfile::tempdir().expect("temporary directory"), root: None };
        let image = volume.directory.path().join("image");
        File::create(&image).and_then(|file| file.set_len(LENGTH)).expect("an image");
        std::fs::create_dir(volume.path()).expect("a mount point");
        run(Command::new("mkfs.ext4").arg("-q").arg(&image));
        run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(volume.path()));
        volume.root = File::open(volume.path()).ok();
        volume
    }

    pub fn path(&self) -> PathBuf {
        self.directory.path().join("mount")
    }

    /// Has all who write wait.
    pub fn freeze(&self) -> Frozen<'_> {
        run(Command::new("fsfreeze").arg("-f").arg(self.path()));
        Frozen(self)
    }

    /// Mounts another file system, an empty one, in its place; this one stays as it is.
    pub fn replace(&self) {
        run(Command::new("umount").arg("-l").arg(self.path()));
        run(Command::new("mount").args(["-t", "tmpfs", "none"]).arg(self.path()));
    }
}

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        if let Some(root) = &self.0.root {
            let root = format!("/proc/{}/fd/{}", std::process::id(), root.as_raw_fd());
            let _ = Command::new("fsfreeze").args(["-u", &root]).output();
        }
    }
}

impl Drop for Volume {
    fn drop(&mut self) {
        self.root = None;
        let _ = Command::new("umount").arg("-l").arg(self.path()).output();
    }
}
