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

/// How often the names in the directory are looked at.
const CHECK: Duration = Duration::from_secs(5);
/// Every so many looks files are measured, too, and playlists read back; and at the next one if a look found something wrong.
const MEASURE_EVERY: u64 = 2;
/// Every so many looks a segment is read back and compared with what is in memory. Reading costs storage as much as
/// writing does.
const SCRUB_EVERY: u64 = 4;
// Only a look that measures reads a segment back.
const _: () = assert!(SCRUB_EVERY.is_multiple_of(MEASURE_EVERY));
/// Every so many looks inotify is asked to watch the directory, whatever it watched before: a minute.
const WATCH_EVERY: u64 = 12;

/// Recorded files that are written again in one look, each with a sync: more would keep a disk thread for too long. The
/// next look goes on.
const MAX_MENDED: usize = 8;

/// Messages to the watcher.
#[derive(Debug)]
pub enum Msg {
    /// Time to look.
    Check,
    /// The directory may have gone.
    Hinted,
    /// What was believed when the look began, and what is there.
    Looked(u64, BTreeMap<String, u64>, io::Result<Look>),
    /// The look is over, and what is recorded has been looked at, too.
    Done(u64),
    /// Fails on purpose.
    Fail(Fault),
}

/// What a look has found.
#[derive(Debug, Default)]
pub struct Look {
    /// Names and lengths.
    listed: BTreeMap<String, u64>,
    /// The segment that was read back.
    compared: Option<String>,
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
            is_suspect: true,
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
            Msg::Done(ticket) if ticket == state.ticket => state.in_flight = None,
            Msg::Done(_) => {}
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
    /// The last look found damage, failed, or has not answered.
    is_suspect: bool,
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
        // What is recorded of it is read back, too, and its initialization section.
        let files = if self.stream.settings.record { 3 } else { 1 };
        let scrub = scrub.filter(|_| self.mount.disk.may_scrub(files, std::time::Instant::now()));
        let watch = self.looks % WATCH_EVERY == 1 || !self.is_watched.load(Ordering::Relaxed);
        let (hints, directory) = (self.mount.hints.clone(), self.mount.live_directory(&self.stream.name));
        let measure = measures(self.looks, std::mem::replace(&mut self.is_suspect, true));
        let (myself, ticket, stream) = (myself.clone(), self.ticket, self.stream.clone());
        let (is_watched, recordings) = (self.is_watched.clone(), self.mount.recordings.clone());
        let listing = self.mount.disk.submit(move |archive| {
            if watch {
                is_watched.store(hints.watch(&directory, std::time::Instant::now()), Ordering::Relaxed);
            }
            let believed = stream.ledger.files();
            let looked = if measure { look(archive, &stream, scrub) } else { glance(archive, &stream, &believed) };
            let compared = looked.as_ref().ok().and_then(|look| look.compared.clone());
            let _ = myself.send_message(Msg::Looked(ticket, believed, looked));
            if stream.settings.record {
                let (files, result) = mend(&recordings, &stream, compared.as_deref());
                events::recording_mended(&stream, files, result);
            }
            let _ = myself.send_message(Msg::Done(ticket));
        });
        // A full queue is the archiver's trouble too; the next check comes anyway.
        self.in_flight = listing.is_ok().then_some(now);
    }

    fn looked(&mut self, ticket: u64, believed: &BTreeMap<String, u64>, result: io::Result<Look>) {
        if ticket != self.ticket {
            return;
        }
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
        self.is_suspect = damage.documents || !damage.files.is_empty();
        if self.is_suspect {
            // It may be another directory by now.
            self.is_watched.store(false, Ordering::Relaxed);
            self.stream.ledger.set_documents(None);
            events::archive_damaged(&self.stream, damage.files.len());
        }
    }
}

/// Whether a look measures files and reads playlists back.
fn measures(look: u64, is_suspect: bool) -> bool {
    is_suspect || look.is_multiple_of(MEASURE_EVERY)
}

/// Looks which names are there: what has one is as long as it is believed to be.
fn glance(archive: &dyn Archive, stream: &LiveStream, believed: &BTreeMap<String, u64>) -> io::Result<Look> {
    let names = archive.names(&stream.name)?.into_iter();
    let with_length = |name: String| {
        let length = believed.get(&name).copied().unwrap_or(0);
        (name, length)
    };
    Ok(Look { listed: names.map(with_length).collect(), ..Look::default() })
}

/// Looks at a stream's directory. `scrub` picks the segment that is read back.
fn look(archive: &dyn Archive, stream: &LiveStream, scrub: Option<u64>) -> io::Result<Look> {
    let listed = archive.list(&stream.name)?;
    let snapshot = stream.window.snapshot();
    let mut look = Look { listed, ..Look::default() };
    let held: Vec<_> =
        snapshot.listed.iter().map(|listed| &listed.file).filter(|file| stream.ledger.holds(&file.name)).collect();
    let picked = scrub.and_then(|number| held.get(usize::try_from(number).unwrap_or(0) % held.len().max(1)));
    look.compared = picked.map(|file| file.name.clone());
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

/// Has what is recorded of the window mended: it may be a second name of the files in the stream's directory, which are
/// written anew when they are spoilt. The bytes of `compared` are compared, of others the lengths. How many were spoilt,
/// and the first error: one file that cannot be read does not keep the others from being looked at.
fn mend(recordings: &Recordings, stream: &LiveStream, compared: Option<&str>) -> (usize, io::Result<()>) {
    let (id, snapshot) = (RecordingId::of(stream), stream.window.snapshot());
    let (mut mended, mut failed) = (0, Ok(()));
    let mut mend = |sequence, uri: &str, content: &Content, compare| {
        if mended == MAX_MENDED {
            return;
        }
        match recordings.mend(&id, uri, content, compare, || stream.spool.is_recorded(sequence)) {
            Ok(spoilt) => mended += usize::from(spoilt),
            Err(error) if failed.is_ok() => failed = Err(error),
            Err(_) => {}
        }
    };
    let expired = snapshot.expired.iter().map(|expired| &expired.segment);
    // A gap has no bytes here, and may have some there.
    for segment in expired.chain(&snapshot.listed).filter(|segment| !segment.listed.gap) {
        let uri = RecordedSegment::of(segment, "").file.uri;
        let compare = compared == Some(&*segment.file.name);
        mend(segment.sequence, &uri, &segment.file.bytes, compare);
    }
    let newest = snapshot.listed.last().and_then(|newest| Some((newest.sequence, newest.map.as_deref()?)));
    if let Some((recorded, (sequence, file))) = stream.spool.map().zip(newest)
        && recorded.uri.rsplit('/').next() == Some(&*file.name)
    {
        mend(sequence, &recorded.uri, &file.bytes, compared.is_some());
    }
    (mended, failed)
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
    use bytes::Bytes;
    use media::packager::{Output, Settings};
    use media::{AacConfig, Container, Entry, Packager, Sample, TrackKind};
    use storage::archive::LocalDirectory;
    use storage::continuity::Record;
    use storage::live::{LiveSettings, Session};
    use storage::{Numbers, Snapshot, StreamName};

    fn files(names: &[(&str, u64)]) -> BTreeMap<String, u64> {
        names.iter().map(|(name, length)| ((*name).to_owned(), *length)).collect()
    }

    /// A stream with a window of audio.
    fn stream() -> Arc<LiveStream> {
        let packaging = Settings { container: Container::Cmaf, target_duration: 2 };
        let config = AacConfig::parse(Bytes::from_static(&[0x11, 0x90])).expect("valid");
        let sample = |n: i64| Sample {
            kind: TrackKind::Audio,
            dts: n * 1920,
            composition: 0,
            random_access: true,
            data: Bytes::from(format!("<{n}>")),
        };
        let before = [Entry::Epoch { epoch: 1, wall_ms_at_zero: 0 }, Entry::Audio(Arc::new(config))];
        let entries = before.into_iter().chain((0..400).map(|n| Entry::Sample(sample(n))));
        let mut packager = Packager::new(packaging);
        let outputs = entries.flat_map(|entry| packager.push(&entry));
        let segments =
            outputs.filter_map(|output| if let Output::Segment(segment) = output { Some(segment) } else { None });
        let snapshot = Snapshot::starting_at(Numbers::default());
        let snapshot = snapshot.next(segments.collect(), false, 6, None, Instant::now());
        let settings = LiveSettings { packaging, record: true, ..LiveSettings::default() };
        let name = StreamName::new("live", "show").expect("valid name");
        LiveStream::new(name, settings, Session::beginning_at(0), snapshot, 1)
    }

    #[test]
    fn a_recording_is_mended_from_the_window_and_not_from_the_gaps_of_one_that_was_adopted() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let recordings = Recordings::at(directory.path(), storage::Signs::default().into());
        let stream = stream();
        let snapshot = stream.window.snapshot();
        let segment = snapshot.listed.first().expect("a segment");
        let session = directory.path().join("recordings/live/show").join(&stream.session.id);
        let path = session.join(RecordedSegment::of(segment, "").file.uri);
        std::fs::create_dir_all(path.parent().expect("an hour")).expect("made");
        let whole = segment.file.bytes.to_bytes();
        std::fs::write(&path, &whole[..9]).expect("written");
        assert!(matches!(mend(&recordings, &stream, None), (1, Ok(()))));
        assert!(std::fs::read(&path).expect("recorded") == whole);
        // A process that has lost the bytes has nothing to mend with.
        let record = Record::of(&stream, &snapshot);
        let adopted = record.adopt(&mut |_| None);
        assert!(adopted.listed[0].listed.gap);
        let adopted = LiveStream::new(stream.name.clone(), stream.settings, record.session(), adopted, 1);
        assert!(matches!(mend(&recordings, &adopted, Some(&segment.file.name)), (0, Ok(()))));
        assert!(std::fs::read(&path).expect("recorded") == whole);
    }

    #[test]
    fn a_glance_sees_what_is_missing_and_a_look_what_is_truncated_too() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let (archive, stream) = (LocalDirectory::at(directory.path()), stream());
        let documents = [DIGESTS, MEDIA_PLAYLIST, MULTIVARIANT_PLAYLIST].map(|name| (name, 1));
        let believed = files(&[&[("a", 5), ("b", 5), ("c", 5)][..], &documents].concat());
        std::fs::create_dir_all(archive.live_directory(&stream.name)).expect("made");
        for (name, length) in [("a", 5), ("b", 4), ("new", 9)].iter().chain(&documents) {
            let file = std::fs::File::create(archive.live_directory(&stream.name).join(name)).expect("created");
            file.set_len(*length).expect("as long as that");
        }
        let found = |look: io::Result<Look>| damage(&believed, &look.expect("looked")).files;
        assert_eq!(found(glance(&archive, &stream, &believed)), ["c"]);
        assert_eq!(found(look(&archive, &stream, None)), ["b", "c"]);
    }

    #[test]
    fn looks_measure_in_turns_and_when_something_was_wrong() {
        assert_eq!([1, 2, 3, 4].map(|look| measures(look, false)), [false, true, false, true]);
        assert!(measures(1, true));
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
