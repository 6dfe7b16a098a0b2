//! `faultfs`: a FUSE file system that passes everything through to a directory, and fails as it is told to while it is
//! mounted.
//!
//! Operations that wait do so on threads of their own: one that hangs does not keep others from being answered.
//! The kernel's caches are off, so that each look at a file is a look at this file system.

mod files;
mod passthrough;
mod rules;

pub use rules::{Counts, Effect, Operation, Rule, Rules, Struck};

use anyhow::Context;
use fuser::{BackgroundSession, Config, MountOption, SessionACL};
use passthrough::Passthrough;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Threads that answer the kernel.
const THREADS: usize = 4;

/// A mounted file system. Dropped, what hangs is released and it is unmounted.
pub struct Mount {
    session: Option<BackgroundSession>,
    rules: Arc<Rules>,
    point: PathBuf,
}

impl Mount {
    /// Mounts `source` at `point`, without faults; needs root and /dev/fuse.
    pub fn new(source: &Path, point: &Path, seed: u64) -> anyhow::Result<Self> {
        anyhow::ensure!(Path::new("/dev/fuse").exists(), "there is no /dev/fuse: load the module `fuse`");
        for directory in [source, point] {
            anyhow::ensure!(directory.is_dir(), "{} is no directory", directory.display());
        }
        let rules = Arc::new(Rules::seeded(seed));
        let mut config = Config::default();
        config.mount_options = vec![MountOption::FSName("faultfs".to_owned()), MountOption::DefaultPermissions];
        config.acl = SessionACL::All;
        config.n_threads = Some(THREADS);
        config.clone_fd = true;
        let session = fuser::spawn_mount(Passthrough::of(source, rules.clone())?, point, &config)
            .with_context(|| format!("faultfs at {}: mounting needs root", point.display()))?;
        Ok(Self { session: Some(session), rules, point: point.to_owned() })
    }

    /// The faults in force.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// Where it is mounted.
    pub fn point(&self) -> &Path {
        &self.point
    }
}

impl Drop for Mount {
    fn drop(&mut self) {
        let _ = self.rules.set(Vec::new());
        // Files may still be open: then the kernel takes it away once they are closed.
        if rustix::mount::unmount(&self.point, rustix::mount::UnmountFlags::DETACH).is_err() {
            eprintln!("faultfs at {} is still mounted", self.point.display());
        }
        drop(self.session.take());
    }
}
