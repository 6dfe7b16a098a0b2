//! Hints: inotify tells of files and directories that go, so that a watcher looks at once and not at its next check.
//!
//! A hint only, by the crate `notify`: it misses what other machines do on network file systems and what is mounted
//! over a directory, and it can fail for good. Truth is the watcher's own check. One thread a mount; one whose reads
//! fail over and over is ended, because it would take a core for ever.

use crate::events;
use notify::event::EventKindMask;
use notify::{Config, Event, RecommendedWatcher, RecursiveMode, Watcher};
use std::collections::HashMap;
use std::fmt;
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// Errors within [`ERRORS_WITHIN`] after which a thread is ended.
const MAX_ERRORS: u32 = 10;
const ERRORS_WITHIN: Duration = Duration::from_secs(1);
/// How long there are no hints after that.
const REST: Duration = Duration::from_secs(60);

/// Told the name of a file that went; nothing, if it may be anything.
pub type Hearer = Box<dyn Fn(Option<&str>) + Send>;

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
    /// Directories nobody listens to any more.
    left: Vec<PathBuf>,
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
            let directory = std::mem::take(&mut self.directory);
            heard.left.push(directory);
        }
    }
}

impl Hints {
    /// Has `hearer` told of `directory`, once that is watched. Never waits for storage.
    pub fn listen(&self, directory: PathBuf, hearer: Hearer) -> Listening {
        let mut heard = locked(&self.heard);
        heard.next += 1;
        let number = heard.next;
        heard.hearers.insert(directory.clone(), (number, hearer));
        Listening { heard: self.heard.clone(), directory, number }
    }

    /// Watches a directory; also again, if it is another one by now. May wait for storage; who comes meanwhile does not,
    /// because that may take for ever. False if there are no hints for the time being.
    pub fn watch(&self, directory: &Path, now: Instant) -> bool {
        let Ok(mut watcher) = self.watcher.try_lock() else { return false };
        let (left, ended) = {
            let mut heard = locked(&self.heard);
            (std::mem::take(&mut heard.left), heard.ended)
        };
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
        for directory in left {
            // What is gone is not watched any more.
            let _ = watching.unwatch(&directory);
        }
        watching.watch(directory, RecursiveMode::NonRecursive).map_or_else(|error| refused(&error), |()| true)
    }
}

fn refused(error: &notify::Error) -> bool {
    events::hints_refused(error);
    false
}

fn start(heard: Arc<Mutex<Heard>>) -> notify::Result<RecommendedWatcher> {
    let config = Config::default().with_event_kinds(EventKindMask::REMOVE);
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
    RecommendedWatcher::new(told, config)
}

impl Heard {
    fn told(&self, event: &Event) {
        if event.need_rescan() || event.paths.is_empty() {
            self.hearers.values().for_each(|(_, hearer)| hearer(None));
        }
        for path in &event.paths {
            if let Some((_, hearer)) = self.hearers.get(path) {
                hearer(None);
            }
            let of = path.parent().and_then(|directory| self.hearers.get(directory));
            if let Some((_, hearer)) = of {
                hearer(path.file_name().and_then(|name| name.to_str()));
            }
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

    fn listened(hints: &Hints, directory: &Path) -> (Listening, Receiver<Option<String>>) {
        let (told, hears) = sync_channel(16);
        let hearer = move |name: Option<&str>| {
            let _ = told.try_send(name.map(str::to_owned));
        };
        (hints.listen(directory.to_owned(), Box::new(hearer)), hears)
    }

    #[test]
    fn what_goes_is_told_of_and_what_comes_is_not() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let stream = directory.path().join("show");
        std::fs::create_dir(&stream).expect("made");
        let hints = Hints::default();
        let (_listening, hears) = listened(&hints, &stream);
        assert!(hints.watch(&stream, Instant::now()));
        std::fs::write(stream.join("0-1.m4s"), "media").expect("written");
        std::fs::remove_file(stream.join("0-1.m4s")).expect("removed");
        assert_eq!(hears.recv_timeout(SOON), Ok(Some("0-1.m4s".to_owned())));
        std::fs::remove_dir(&stream).expect("removed");
        assert_eq!(hears.recv_timeout(SOON), Ok(None));
        // Made again it is another directory, and watched when asked for.
        std::fs::create_dir(&stream).expect("made");
        assert!(hints.watch(&stream, Instant::now()));
        std::fs::write(stream.join("0-2.m4s"), "media").expect("written");
        std::fs::remove_file(stream.join("0-2.m4s")).expect("removed");
        let told: Vec<_> = std::iter::from_fn(|| hears.recv_timeout(SOON).ok()).take(1).collect();
        assert!(told.contains(&Some("0-2.m4s".to_owned())) || told == [None], "{told:?}");
    }

    #[test]
    fn who_listens_no_more_is_told_no_more_and_a_successor_is() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let hints = Hints::default();
        let (first, _) = listened(&hints, directory.path());
        let (_second, hears) = listened(&hints, directory.path());
        drop(first);
        assert!(hints.watch(directory.path(), Instant::now()));
        std::fs::write(directory.path().join("a"), "").expect("written");
        std::fs::remove_file(directory.path().join("a")).expect("removed");
        assert_eq!(hears.recv_timeout(SOON), Ok(Some("a".to_owned())));
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
