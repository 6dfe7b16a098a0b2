//! A fresh ext4 file system for each run, in a file on the disk: what one run created and removed makes the next
//! slower (ext4 passes over recently removed inodes when it creates files), whoever it was.

use anyhow::{Context, ensure};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Room for 1,500 streams, bytes; the file is sparse.
const SIZE: u64 = 24 << 30;

/// A mounted file system. Dropped, it is unmounted and removed.
#[derive(Debug)]
pub struct Volume {
    image: PathBuf,
    mount: PathBuf,
}

impl Volume {
    /// Makes and mounts one below `directory`. Needs root.
    pub fn fresh(directory: &Path) -> anyhow::Result<Self> {
        let (image, mount) = (directory.join("volume.img"), directory.join("volume"));
        std::fs::create_dir_all(&mount)?;
        let _ = Command::new("umount").arg("-q").arg(&mount).status();
        let is_mounted = Command::new("mountpoint").arg("-q").arg(&mount).status().context("mountpoint")?.success();
        ensure!(!is_mounted, "{} is still in use: end what uses it (`fuser -vm`), and unmount it", mount.display());
        let _ = std::fs::remove_file(&image);
        std::fs::File::create(&image)?.set_len(SIZE)?;
        run(Command::new("mkfs.ext4").args(["-q", "-E", "lazy_itable_init=0,lazy_journal_init=0"]).arg(&image))?;
        run(Command::new("mount").args(["-o", "loop"]).arg(&image).arg(&mount))?;
        Ok(Self { image, mount })
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.mount
    }
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let status = command.status().with_context(|| format!("{command:?}"))?;
    ensure!(status.success(), "{command:?}: {status}; the benchmarks need root, to mount a file system for each run");
    Ok(())
}

impl Drop for Volume {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-q").arg(&self.mount).status();
        let _ = std::fs::remove_file(&self.image);
    }
}
