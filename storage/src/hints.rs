//! Hints: inotify tells of directories that go, so that a watcher looks at once and not at its next check.
//!
//! Directories of streams are watched from above: inside them something comes and goes with every segment, and a build
//! that was told of that took 8 % more processor time to publish (decision 13).
//!
//! A hint only, by the crate `notify`: it misses what other machines do on network file systems and what is mounted
//! over a directory, and it can fail for good. Truth is the watcher's own check. One thread a mount; one whose reads
//! fail over and over is ended, because it would take a core for ever.

use crate::events;
use notify::event::{ModifyKind, RenameMode};
use notify::{Config, Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher};
use std::collections::HashMap;
use std::fmt;
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};
use std::time::{Duration, Instant};

/// Errors within [`ERRORS_WITHIN`] after which a thread is ended.
const MAX_ERRORS: u32 = 10;
const ERRORS_WITHIN: Duration = Duration::from_secs(1);
/// How long there are no hints after that.
const REST: Duration = Duration::from_secs(60);

/// Told that its directory may have gone.
pub type Hearer = Box<dyn Fn() + Send>;

/// The hints of one mount.
#[derive(Default)]
pub struct Hints {
    watcher: Mutex<Option<RecommendedWatcher>>,
    heard: Arc<Mutex<Heard>>,
}

#[derive(Default)]
struct Heard {
    /// By directory.
    hearers: HashMap<PathBuf, (u64, Hearer)>,
    next: u64,
    errors: u32,
    errors_since: Option<Instant>,
    /// The thread was ended then.
    ended: Option<Instant>,
}

impl fmt::Debug for Hints {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Hints").finish_non_exhaustive()
    }
}

/// As long as it lives, its hearer is told.
pub struct Listening {
    heard: Arc<Mutex<Heard>>,
    directory: PathBuf,
    number: u64,
}

impl Drop for Listening {
    fn drop(&mut self) {
        let mut heard = locked(&self.heard);
        // A successor may listen to the same directory by now.
        if heard.hearers.get(&self.directory).is_some_and(|(number, _)| *number == self.number) {
            heard.hearers.remove(&self.directory);
        }
    }
}

impl Hints {
    /// Has `hearer` told of `directory`, once what is above it is watched. Never waits for storage.
    pub fn listen(&self, directory: PathBuf, hearer: Hearer) -> Listening {
        let mut heard = locked(&self.heard);
        heard.next += 1;
        let number = heard.next;
        heard.hearers.insert(directory.clone(), (number, hearer));
        Listening { heard: self.heard.clone(), directory, number }
    }

    /// Watches what is above a directory; also again, if it is another one by now. May wait for storage; who comes meanwhile does not,
    /// because that may take for ever. False if there are no hints for the time being.
    pub fn watch(&self, directory: &Path, now: Instant) -> bool {
        let mut watcher = match self.watcher.try_lock() {
            Ok(watcher) => watcher,
            // A watcher whose thread ends just now panics in who asks it: it is taken away below.
            Err(TryLockError::Poisoned(poisoned)) => poisoned.into_inner(),
            Err(TryLockError::WouldBlock) => return false,
        };
        let ended = locked(&self.heard).ended;
        if let Some(ended) = ended {
            // Its thread is gone, and to drop it panics because of that. A few hundred bytes stay behind.
            let _ = ManuallyDrop::new(watcher.take());
            if now.saturating_duration_since(ended) < REST {
                return false;
            }
            locked(&self.heard).ended = None;
        }
        let watching = match &mut *watcher {
            Some(watcher) => watcher,
            none => match start(self.heard.clone()) {
                Ok(started) => none.insert(started),
                Err(error) => return refused(&error),
            },
        };
        let above = directory.parent().unwrap_or(directory);
        watching.watch(above, RecursiveMode::NonRecursive).map_or_else(|error| refused(&error), |()| true)
    }
}

fn refused(error: &notify::Error) -> bool {
    events::hints_refused(error);
    false
}

fn start(heard: Arc<Mutex<Heard>>) -> notify::Result<RecommendedWatcher> {
    let told = move |result: notify::Result<Event>| {
        let ended = {
            let mut heard = locked(&heard);
            match result {
                Ok(event) => heard.told(&event),
                Err(error) => heard.failed(&error, Instant::now()),
            }
            heard.ended.is_some()
        };
        if ended {
            // The only way to end its thread, which would call this again for ever; no message, because no bug.
            std::panic::resume_unwind(Box::new("inotify cannot be read"));
        }
    };
    RecommendedWatcher::new(told, Config::default())
}

impl Heard {
    fn told(&self, event: &Event) {
        if event.need_rescan() || event.paths.is_empty() {
            self.hearers.values().for_each(|(_, hearer)| hearer());
        }
        // Everything is told of, openings for reading, too; what matters is what is not there any more.
        let goes = matches!(event.kind, EventKind::Remove(_) | EventKind::Modify(ModifyKind::Name(RenameMode::From)));
        for path in event.paths.iter().filter(|_| goes) {
            // What is above many may have gone, and they with it.
            let below = self.hearers.iter().filter(|(directory, _)| directory.starts_with(path));
            below.for_each(|(_, (_, hearer))| hearer());
        }
    }

    fn failed(&mut self, error: &notify::Error, now: Instant) {
        if self.errors_since.is_none_or(|since| now.saturating_duration_since(since) > ERRORS_WITHIN) {
            (self.errors_since, self.errors) = (Some(now), 0);
        }
        self.errors += 1;
        events::hints_failed(error);
        if self.errors >= MAX_ERRORS {
            self.ended = Some(now);
            events::hints_ended(REST);
        }
    }
}

/// Critical sections leave the state whole at every step.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use notify::ErrorKind;
    use std::io;
    use std::sync::mpsc::{Receiver, sync_channel};

    const SOON: Duration = Duration::from_secs(10);

    fn listened(hints: &Hints, directory: &Path) -> (Listening, Receiver<()>) {
        let (told, hears) = sync_channel(16);
        let hearer = move || {
            let _ = told.try_send(());
        };
        (hints.listen(directory.to_owned(), Box::new(hearer)), hears)
    }

    #[test]
    fn a_directory_that_goes_is_told_of_and_what_goes_on_inside_is_not() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let [stream, other] = ["app/show", "app/other"].map(|name| directory.path().join(name));
        std::fs::create_dir_all(&stream).expect("made");
        std::fs::create_dir_all(&other).expect("made");
        let hints = Hints::default();
        let (_listening, hears) = listened(&hints, &stream);
        let (_others, others_hear) = listened(&hints, &other);
        assert!(hints.watch(&stream, Instant::now()));
        std::fs::write(stream.join("0-1.m4s"), "media").expect("written");
        std::fs::remove_file(stream.join("0-1.m4s")).expect("removed");
        std::fs::remove_dir(&stream).expect("removed");
        assert_eq!(hears.recv_timeout(SOON), Ok(()));
        assert!(hears.try_recv().is_err(), "told once, not of the file");
        assert!(others_hear.try_recv().is_err(), "another stream's directory is its own");
        // With what is above it everything goes.
        std::fs::remove_dir_all(directory.path().join("app")).expect("removed");
        assert_eq!(others_hear.recv_timeout(SOON), Ok(()));
    }

    #[test]
    fn who_listens_no_more_is_told_no_more_and_a_successor_is() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let (hints, stream) = (Hints::default(), directory.path().join("show"));
        std::fs::create_dir(&stream).expect("made");
        let (first, _) = listened(&hints, &stream);
        let (_second, hears) = listened(&hints, &stream);
        drop(first);
        assert!(hints.watch(&stream, Instant::now()));
        std::fs::remove_dir(&stream).expect("removed");
        assert_eq!(hears.recv_timeout(SOON), Ok(()));
    }

    #[test]
    fn a_directory_that_is_not_there_is_refused_and_nothing_worse() {
        let hints = Hints::default();
        assert!(!hints.watch(Path::new("/nonexistent/steadycast"), Instant::now()));
    }

    #[test]
    fn a_thread_whose_reads_fail_over_and_over_is_ended_and_begun_again_after_a_rest() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let (hints, now) = (Hints::default(), Instant::now());
        assert!(hints.watch(directory.path(), now));
        let error = || notify::Error::new(ErrorKind::Io(io::ErrorKind::Other.into()));
        for n in 0..2 * MAX_ERRORS {
            // One a second is survived.
            locked(&hints.heard).failed(&error(), now + 2 * ERRORS_WITHIN * n);
        }
        assert!(hints.watch(directory.path(), now));
        for _ in 0..MAX_ERRORS {
            locked(&hints.heard).failed(&error(), now + 100 * ERRORS_WITHIN);
        }
        assert!(!hints.watch(directory.path(), now + 100 * ERRORS_WITHIN));
        assert!(hints.watch(directory.path(), now + 100 * ERRORS_WITHIN + REST));
    }
}
