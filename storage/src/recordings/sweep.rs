//! Sweeping: files of recordings that were removed go in short steps, however many they are.

use super::{DIRECTORY, REMOVED, Recordings, names};
use std::fs;
use std::io;
use std::path::Path;

/// Files that are tried to be removed in one go: a few seconds of a slow network file system.
const MAX_TRIED: usize = 1000;
/// Files of one recording that cannot be removed before another one is tried: one reason is likely that of all.
const MAX_UNREMOVABLE: usize = 8;

/// What came of a sweep.
#[derive(Debug, Default)]
pub struct Swept {
    /// Something was removed, and there may be more.
    pub more: bool,
    /// Removed recordings of which nothing can be removed.
    pub stuck: usize,
    /// Why, of the last of them.
    pub error: Option<io::Error>,
}

/// What may still be tried.
struct Budget {
    tries: usize,
    failures: usize,
    removed: usize,
}

impl Recordings {
    /// Removes some files of recordings that were removed. What cannot be removed does not keep the others.
    pub fn sweep(&self) -> io::Result<Swept> {
        let (mut swept, mut tries) = (Swept::default(), MAX_TRIED);
        let root = self.root.join(DIRECTORY);
        for app in names(&root)? {
            for name in names(&root.join(&app))? {
                for session in names(&root.join(&app).join(&name))? {
                    let directory = root.join(&app).join(&name).join(session);
                    if directory.extension().is_none_or(|extension| extension != REMOVED) {
                        continue;
                    }
                    self.sweep_one(&directory, &mut tries, &mut swept);
                    if swept.more || tries == 0 {
                        return Ok(swept);
                    }
                }
            }
        }
        Ok(swept)
    }

    fn sweep_one(&self, directory: &Path, tries: &mut usize, swept: &mut Swept) {
        let Ok(there) = fs::symlink_metadata(directory) else { return };
        let mut budget = Budget { tries: *tries, failures: MAX_UNREMOVABLE, removed: 0 };
        let result = self.signs.wait("remove", || {
            if there.is_dir() { sweep(directory, &mut budget) } else { budget.remove(|| fs::remove_file(directory)) }
        });
        *tries = budget.tries;
        swept.more = budget.removed > 0;
        if let (Err(error), false) = (result, swept.more) {
            swept.stuck += 1;
            swept.error = Some(error);
        }
    }
}

impl Budget {
    fn is_spent(&self) -> bool {
        self.tries == 0 || self.failures == 0
    }

    fn remove(&mut self, remove: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
        self.tries -= 1;
        let removed = remove();
        match removed {
            Ok(()) => self.removed += 1,
            Err(_) => self.failures -= 1,
        }
        removed
    }
}

/// Removes what is in a directory, as far as the budget goes, and then the directory. The first error.
fn sweep(directory: &Path, budget: &mut Budget) -> io::Result<()> {
    let mut failed = Ok(());
    for entry in fs::read_dir(directory).inspect_err(|_| budget.failures = budget.failures.saturating_sub(1))? {
        let entry = entry?;
        if budget.is_spent() {
            return failed;
        }
        let removed = if entry.file_type()?.is_dir() {
            sweep(&entry.path(), budget)
        } else {
            budget.remove(|| fs::remove_file(entry.path()))
        };
        failed = failed.and(removed);
    }
    // Some of it may be left for the next time.
    if failed.is_ok() && !budget.is_spent() { budget.remove(|| fs::remove_dir(directory)) } else { failed }
}
