//! watcher: looks whether the archive holds what it is believed to hold, and has it mended if not.

use crate::events;
use crate::fault::Fault;
use crate::vitals::{Place, Vital, Vitals};
use memory::Content;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use storage::disk::HUNG_AFTER;
use storage::hints::Listening;
use storage::recording::{RecordedSegment, RecordingId};
use storage::snapshot::{DIGESTS, MEDIA_PLAYLIST, MULTIVARIANT_PLAYLIST};
use storage::{Archive, LiveStream, Mount, Recordings, Registry};
use tokio::time::{Duration, Instant};

/// How often the directory is looked at: whole listings are cheap for a window's few files.
const CHECK: Duration = Duration::from_secs(5);
/// Every so many looks a segment is read back and compared with what is in memory. Reading costs storage as much as
/// writing does.
const SCRUB_EVERY: u64 = 4;
/// Every so many looks inotify is asked to watch the directory, whatever it watched before: a minute.
const WATCH_EVERY: u64 = 12;

/// Messages to the watcher.
#[derive(Debug)]
pub enum Msg {
    /// Time to look.
    Check,
    /// The directory may have gone.
    Hinted,
    /// What was believed when the look began, and what is there.
    Looked(u64, BTreeMap<String, u64>, io::Result<Look>),
    /// Fails on purpose.
    Fail(Fault),
}

/// What a look has found.
#[derive(Debug, Default)]
pub struct Look {
    /// Names and lengths.
    listed: BTreeMap<String, u64>,
    /// Files that hold other bytes than they should.
    spoilt: Vec<String>,
    /// So does the playlist, or the digests.
    documents_spoilt: bool,
}

/// What a watcher needs to start.
#[derive(Clone)]
pub struct Args {
    /// The stream.
    pub stream: Arc<LiveStream>,
    /// Where it is archived.
    pub mount: Mount,
    /// Who owns the stream's directory now.
    pub registry: Arc<Registry>,
    /// Where to register.
    pub vitals: Arc<Vitals>,
}

/// The actor.
#[derive(Debug, Default)]
pub struct Watcher;

impl Actor for Watcher {
    type Msg = Msg;
    type State = State;
    type Arguments = Args;

    async fn pre_start(&self, myself: ActorRef<Msg>, args: Args) -> Result<State, ActorProcessingErr> {
        myself.send_after(CHECK, || Msg::Check);
        let vital =
            args.vitals.register("watcher", Place::Stream(args.stream.name.clone()), myself.get_id(), Some(CHECK));
        let Args { stream, mount, registry, .. } = args;
        let hinted = Arc::new(AtomicBool::new(false));
        let (listener, pending) = (myself.clone(), hinted.clone());
        // Called by inotify's thread: it sends one message at a time, however much it is told.
        let hearer = move || {
            if !pending.swap(true, Ordering::AcqRel) {
                let _ = listener.send_message(Msg::Hinted);
            }
        };
        let listening = mount.hints.listen(mount.live_directory(&stream.name), Box::new(hearer));
        Ok(State {
            stream,
            mount,
            registry,
            ticket: 0,
            in_flight: None,
            looks: 0,
            hinted,
            is_watched: Arc::default(),
            _listening: listening,
            vital,
        })
    }

    async fn handle(&self, myself: ActorRef<Msg>, msg: Msg, state: &mut State) -> Result<(), ActorProcessingErr> {
        let _busy = state.vital.enter("handle");
        match msg {
            Msg::Check => {
                myself.send_after(CHECK, || Msg::Check);
                state.check(&myself, Instant::now());
            }
            Msg::Hinted => {
                state.hinted.store(false, Ordering::Release);
                state.check(&myself, Instant::now());
            }
            Msg::Looked(ticket, believed, result) => state.looked(ticket, &believed, result),
            Msg::Fail(fault) => fault.strike()?,
        }
        Ok(())
    }
}

/// One look at a time.
pub struct State {
    stream: Arc<LiveStream>,
    mount: Mount,
    registry: Arc<Registry>,
    ticket: u64,
    in_flight: Option<Instant>,
    looks: u64,
    /// A hint is on its way.
    hinted: Arc<AtomicBool>,
    /// inotify watches the directory, as far as is known.
    is_watched: Arc<AtomicBool>,
    _listening: Listening,
    vital: Arc<Vital>,
}

impl State {
    fn check(&mut self, myself: &ActorRef<Msg>, now: Instant) {
        let hung = self.in_flight.is_none_or(|since| now.saturating_duration_since(since) > 2 * HUNG_AFTER);
        let owner =
            self.registry.get(&self.stream.name.to_string()).is_some_and(|owner| Arc::ptr_eq(&owner, &self.stream));
        if !hung || !owner || self.stream.ledger.documents().is_none() {
            return;
        }
        self.ticket += 1;
        self.looks += 1;
        let scrub = self.looks.is_multiple_of(SCRUB_EVERY).then_some(self.looks / SCRUB_EVERY);
        let scrub = scrub.filter(|_| self.mount.disk.may_scrub(std::time::Instant::now()));
        let compare = scrub.filter(|_| self.mount.disk.may_scrub(std::time::Instant::now()));
        let watch = self.looks % WATCH_EVERY == 1 || !self.is_watched.load(Ordering::Relaxed);
        let (hints, directory) = (self.mount.hints.clone(), self.mount.live_directory(&self.stream.name));
        let (myself, ticket, stream) = (myself.clone(), self.ticket, self.stream.clone());
        let (is_watched, recordings) = (self.is_watched.clone(), self.mount.recordings.clone());
        let listing = self.mount.disk.submit(move |archive| {
            if watch {
                is_watched.store(hints.watch(&directory, std::time::Instant::now()), Ordering::Relaxed);
            }
            let believed = stream.ledger.files();
            let looked = look(archive, &stream, scrub);
            if stream.settings.record
                && let Err(error) = mend(&recordings, &stream, compare)
            {
                events::watch_failed(&stream, &error);
            }
            let _ = myself.send_message(Msg::Looked(ticket, believed, looked));
        });
        // A full queue is the archiver's trouble too; the next check comes anyway.
        self.in_flight = listing.is_ok().then_some(now);
    }

    fn looked(&mut self, ticket: u64, believed: &BTreeMap<String, u64>, result: io::Result<Look>) {
        if ticket != self.ticket {
            return;
        }
        self.in_flight = None;
        let look = match result {
            Ok(look) => look,
            Err(error) => return events::watch_failed(&self.stream, &error),
        };
        // What the archiver removed meanwhile is not missing.
        let still = self.stream.ledger.files();
        let believed: BTreeMap<_, _> =
            believed.iter().filter(|(name, _)| still.contains_key(*name)).map(|(n, l)| (n.clone(), *l)).collect();
        let damage = damage(&believed, &look);
        for name in &damage.files {
            self.stream.ledger.forget(name);
        }
        if damage.documents || !damage.files.is_empty() {
            // It may be another directory by now.
            self.is_watched.store(false, Ordering::Relaxed);
            self.stream.ledger.set_documents(None);
            events::archive_damaged(&self.stream, damage.files.len());
        }
    }
}

/// Looks at a stream's directory. `scrub` picks the segment that is read back.
fn look(archive: &dyn Archive, stream: &LiveStream, scrub: Option<u64>) -> io::Result<Look> {
    let listed = archive.list(&stream.name)?;
    let snapshot = stream.window.snapshot();
    let mut look = Look { listed, ..Look::default() };
    let held: Vec<_> =
        snapshot.listed.iter().map(|listed| &listed.file).filter(|file| stream.ledger.holds(&file.name)).collect();
    let picked = scrub.and_then(|number| held.get(usize::try_from(number).unwrap_or(0) % held.len().max(1)));
    if let Some(file) = picked
        && differs(archive, stream, &file.name, &file.bytes)?
    {
        look.spoilt.push(file.name.clone());
    }
    let is_current = || stream.ledger.documents().is_some_and(|there| there.version == snapshot.version);
    if is_current() {
        let differ = differs(archive, stream, MEDIA_PLAYLIST, &snapshot.media_playlist.content())?
            || differs(archive, stream, DIGESTS, &snapshot.digests.content())?;
        // Only if the archiver has not replaced them meanwhile.
        look.documents_spoilt = differ && is_current() && stream.window.snapshot().version == snapshot.version;
    }
    Ok(look)
}

/// Has what is recorded of the window mended: it is a second name of the files in the stream's directory, which are
/// written anew when they are spoilt. `compare` picks the one whose bytes are compared, and not its length only.
fn mend(recordings: &Recordings, stream: &LiveStream, compare: Option<u64>) -> io::Result<()> {
    let (id, listed) = (RecordingId::of(stream), &stream.window.snapshot().listed);
    let picked = compare.map(|number| usize::try_from(number).unwrap_or(0) % listed.len().max(1));
    for (number, listed) in listed.iter().enumerate() {
        let uri = RecordedSegment::of(listed, "").file.uri;
        if recordings.mend(&id, &uri, &listed.file.bytes, picked == Some(number))? {
            events::archive_damaged(stream, 1);
        }
    }
    Ok(())
}

/// Whether a file that is there holds other bytes. One that is missing is missing from the listing, too.
fn differs(archive: &dyn Archive, stream: &LiveStream, name: &str, expected: &Content) -> io::Result<bool> {
    match archive.read(&stream.name, name) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        found => Ok(found? != expected.to_bytes()),
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Damage {
    /// Files that are missing, have another length, or other bytes.
    files: Vec<String>,
    /// A playlist or the digests are missing, or have other bytes.
    documents: bool,
}

fn damage(believed: &BTreeMap<String, u64>, look: &Look) -> Damage {
    let is_damaged = |name: &String, length: &u64| look.listed.get(name) != Some(length) || look.spoilt.contains(name);
    let files = believed.iter().filter(|(name, length)| is_damaged(name, length)).map(|(name, _)| name.clone());
    let documents = [DIGESTS, MEDIA_PLAYLIST, MULTIVARIANT_PLAYLIST];
    let documents = documents.iter().any(|name| !look.listed.contains_key(*name));
    Damage { files: files.collect(), documents: documents || look.documents_spoilt }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(names: &[(&str, u64)]) -> BTreeMap<String, u64> {
        names.iter().map(|(name, length)| ((*name).to_owned(), *length)).collect()
    }

    #[test]
    fn what_is_missing_or_truncated_is_damage_and_what_is_new_is_not() {
        let believed = files(&[("a", 5), ("b", 5), ("c", 5)]);
        let documents = [(DIGESTS, 1), (MEDIA_PLAYLIST, 1), (MULTIVARIANT_PLAYLIST, 1)];
        let listed = files(&[&[("a", 5), ("b", 4), ("new", 9)][..], &documents].concat());
        let look = Look { listed, ..Look::default() };
        assert_eq!(damage(&believed, &look), Damage { files: vec!["b".into(), "c".into()], documents: false });
        let look = Look { spoilt: vec!["a".to_owned()], documents_spoilt: true, ..look };
        assert_eq!(damage(&believed, &look).files, ["a", "b", "c"]);
        assert!(damage(&believed, &look).documents);
        let listed = files(&[("a", 5), ("b", 5), ("c", 5)]);
        assert!(damage(&believed, &Look { listed, ..Look::default() }).documents);
    }
}
