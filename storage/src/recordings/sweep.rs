//! Sweeping: files of recordings that were removed go in short steps, however many they are.

use super::{DIRECTORY, REMOVED, Recordings, apps, names, streams};
use crate::signs::REMOVE;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Files that are tried to be removed in one go: a few seconds of a slow network file system.
const MAX_TRIED: usize = 1000;
/// Files of one recording that cannot be removed before another one is tried: one reason is likely that of all. After so many
/// recordings one file of each is tried: those behind nine hundred that cannot be removed have no turn.
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
    /// Why a directory cannot be read.
    pub unreadable: Option<io::Error>,
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
        for app in apps(&root)? {
            for name in swept.or_none(streams(&root, &app)) {
                let (stream, live) = (root.join(&app).join(&name), self.root.join("live").join(&app).join(&name));
                for session in swept.or_none(names(&stream)) {
                    let directory = stream.join(session);
                    if directory.extension().is_none_or(|extension| extension != REMOVED) {
                        continue;
                    }
                    self.sweep_one(&directory, &live, &mut tries, &mut swept);
                    if swept.more || tries == 0 {
                        return Ok(swept);
                    }
                }
            }
        }
        Ok(swept)
    }

    fn sweep_one(&self, directory: &Path, live: &Path, tries: &mut usize, swept: &mut Swept) {
        let Ok(there) = fs::symlink_metadata(directory) else { return };
        let failures = if swept.stuck < MAX_UNREMOVABLE { MAX_UNREMOVABLE } else { 1 };
        let mut budget = Budget { tries: *tries, failures, removed: 0 };
        let result = self.signs.wait(REMOVE, || {
            if there.is_dir() {
                sweep(directory, live, &mut budget)
            } else {
                budget.remove(|| fs::remove_file(directory))
            }
        });
        // The last of its stream takes the stream's directory with it; one that is not empty stays.
        let _ = directory.parent().filter(|_| result.is_ok()).map(fs::remove_dir);
        *tries = budget.tries;
        swept.more = budget.removed > 0;
        if let (Err(error), false) = (result, swept.more) {
            swept.stuck += 1;
            swept.error = Some(error);
        }
    }
}

impl Swept {
    /// What is listed; nothing of a directory that cannot be read, which keeps no other.
    fn or_none(&mut self, listed: io::Result<Vec<String>>) -> Vec<String> {
        listed.map_err(|error| self.unreadable = Some(error)).unwrap_or_default()
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
fn sweep(directory: &Path, live: &Path, budget: &mut Budget) -> io::Result<()> {
    let mut failed = Ok(());
    for entry in fs::read_dir(directory).inspect_err(|_| budget.failures = budget.failures.saturating_sub(1))? {
        let entry = entry?;
        if budget.is_spent() {
            return failed;
        }
        let removed = if entry.file_type()?.is_dir() {
            sweep(&entry.path(), live, budget)
        } else {
            budget.remove(|| remove(&entry.path(), live))
        };
        failed = failed.and(removed);
    }
    // Some of it may be left for the next time.
    if failed.is_ok() && !budget.is_spent() { budget.remove(|| fs::remove_dir(directory)) } else { failed }
}

/// Removes a file, and its other name in the directory of the window: while it has that it takes its room. What is removed
/// is of a session that is over.
fn remove(file: &Path, live: &Path) -> io::Result<()> {
    let twin = file.file_name().map(|name| live.join(name)).filter(|twin| is_same(file, twin));
    twin.map_or(Ok(()), fs::remove_file)?;
    fs::remove_file(file)
}

fn is_same(file: &Path, other: &Path) -> bool {
    let identity = |path: &Path| fs::symlink_metadata(path).ok().map(|there| (there.dev(), there.ino()));
    identity(file).is_some_and(|file| Some(file) == identity(other))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::signs::Signs;

    #[test]
    fn a_file_takes_its_other_name_with_it_and_the_last_recording_its_stream_s_directory() {
        let root = tempfile::tempdir().expect("temporary directory");
        let recordings = Recordings::at(root.path(), Signs::default().into());
        let (hour, live) =
            (root.path().join("recordings/live/show/1.removed/2026112112"), root.path().join("live/live/show"));
        [&hour, &live].into_iter().for_each(|directory| fs::create_dir_all(directory).expect("made"));
        for name in ["0-1.m4s", "0-2.m4s"] {
            fs::write(hour.join(name), "media").expect("written");
        }
        fs::hard_link(hour.join("0-1.m4s"), live.join("0-1.m4s")).expect("linked");
        fs::write(live.join("0-2.m4s"), "another").expect("written");
        let foreign = root.path().join("recordings/live/lost+found/1.removed");
        fs::create_dir_all(&foreign).expect("made");
        assert!(recordings.sweep().expect("it works").more);
        assert!(!recordings.sweep().expect("it works").more);
        assert_eq!(names(&live).expect("listed"), ["0-2.m4s"]);
        assert_eq!(names(&root.path().join("recordings/live")).expect("listed"), ["lost+found"]);
        assert!(foreign.exists(), "what is no stream's is not looked into");
    }

    #[test]
    fn a_directory_that_cannot_be_read_keeps_no_other() {
        let root = tempfile::tempdir().expect("temporary directory");
        let recordings = Recordings::at(root.path(), Signs::default().into());
        let [unreadable, removed] =
            ["a/show", "live/show/1.removed"].map(|name| root.path().join("recordings").join(name));
        fs::create_dir_all(&removed).expect("made");
        fs::create_dir_all(unreadable.parent().expect("a parent")).expect("made");
        // Whoever asks: it leads to itself.
        std::os::unix::fs::symlink(&unreadable, &unreadable).expect("linked");
        let told = |swept: Swept| (swept.more, swept.stuck, swept.unreadable.is_some());
        assert_eq!(told(recordings.sweep().expect("swept")), (true, 0, true));
        assert!(!removed.exists());
        assert_eq!(told(recordings.sweep().expect("swept")), (false, 0, true), "it is told");
        let (records, unreadable) = recordings.readable().expect("listed");
        assert!(records.is_empty() && unreadable.is_some() && recordings.all().is_err());
        let away = Recordings::at(&root.path().join("away"), Signs::default().into());
        assert!(away.readable().is_err(), "an archive that is away is not one without recordings");
    }
}
