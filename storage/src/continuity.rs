//! Continuity records: what viewers have seen, on tmpfs, so that a restart never reuses a name (invariant I3).
//!
//! Written before each swap of a window. The only file the live path touches.

use crate::live::{LiveStream, Publisher, Session, StreamSettings};
use crate::name::StreamName;
use crate::numbers::Numbers;
use crate::recording::RecordingId;
use crate::snapshot::{Adopted, File, Published, Snapshot, hex};
use crate::write::{self, Exchanged};
use bytes::Bytes;
use media::hls::ListedSegment;
use media::sample::TICKS_PER_MS;
use memory::Content;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use tokio::time::Instant;

/// Version of the record's format; another one is not read.
const FORMAT: u32 = 1;
/// Records beyond this are not ours, bytes: a window of a thousand segments fits.
const MAX_RECORD_BYTES: u64 = 1 << 20;
/// Extension of what is written aside, or was replaced.
const ASIDE: &str = "tmp";
/// Ended sessions that are remembered, at most, because storage has not taken their recordings: each is a file in memory,
/// and at the next start a window, and an actor. The oldest is forgotten first.
pub const MAX_LEFT: usize = 64;

/// What must be known to go on after a restart.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    format: u32,
    /// The stream.
    pub stream: StreamName,
    session: String,
    published_at_ms: i64,
    /// Last epoch given out.
    pub epoch: u64,
    /// Number of the next segment.
    pub next_sequence: u64,
    /// Discontinuities that have left the playlist.
    pub discontinuity_sequence: u64,
    target_duration: u32,
    independent: bool,
    /// The Multivariant Playlist, so that new viewers find the stream before its encoder is back.
    multivariant: String,
    /// The playlist has ended.
    pub ended: bool,
    /// So has its recording, if it has one: whoever adopts the session has nothing to add, even if it is gone.
    #[serde(default)]
    pub recorded: bool,
    /// Number of the session's first segment, if it is recorded: what its recording lacks is told from there on.
    #[serde(default)]
    first_sequence: Option<u64>,
    segments: Vec<SegmentRecord>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct SegmentRecord {
    sequence: u64,
    file: FileRecord,
    map: Option<FileRecord>,
    duration: i64,
    discontinuity: bool,
    program_date_time_ms: i64,
    gap: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
struct FileRecord {
    name: String,
    sha256: String,
}

impl FileRecord {
    fn of(file: &File) -> Self {
        Self { name: file.name.clone(), sha256: hex(&file.digest) }
    }

    /// The file, if what `read` finds has the right digest.
    fn restore(&self, read: &mut dyn FnMut(&str) -> Option<Bytes>) -> Option<File> {
        let bytes = read(&self.name)?;
        let digest: [u8; 32] = Sha256::digest(&bytes).into();
        (hex(&digest) == self.sha256).then(|| File { name: self.name.clone(), bytes: bytes.into(), digest })
    }
}

impl Record {
    /// The record of `stream` with `snapshot` about to be published.
    pub fn of(stream: &LiveStream, snapshot: &Snapshot) -> Self {
        let segments = snapshot.listed.iter().map(|segment| SegmentRecord {
            sequence: segment.sequence,
            file: FileRecord::of(&segment.file),
            map: segment.map.as_deref().map(FileRecord::of),
            duration: segment.listed.duration,
            discontinuity: segment.listed.discontinuity,
            program_date_time_ms: segment.listed.program_date_time_ms,
            gap: segment.listed.gap,
        });
        Self {
            format: FORMAT,
            stream: stream.name.clone(),
            session: stream.session.id.clone(),
            published_at_ms: stream.session.published_at_ms,
            epoch: stream.epoch(),
            next_sequence: snapshot.next_sequence,
            discontinuity_sequence: snapshot.discontinuity_sequence,
            target_duration: snapshot.target_duration,
            independent: snapshot.independent,
            multivariant: String::from_utf8_lossy(&snapshot.multivariant.bytes).into_owned(),
            ended: snapshot.ended,
            recorded: stream.spool.is_finished(),
            first_sequence: stream.settings.record.then(|| stream.spool.first()),
            segments: segments.collect(),
        }
    }

    /// Names of the files its window lists: initialization sections, without which nothing plays, and then segments,
    /// those first that were published last.
    pub fn file_names(&self) -> Vec<String> {
        let maps: BTreeSet<_> = self.segments.iter().filter_map(|segment| segment.map.as_ref()).collect();
        let segments = self.segments.iter().rev().map(|segment| &segment.file);
        maps.into_iter().chain(segments).map(|file| file.name.clone()).collect()
    }

    /// The recording of its session.
    pub fn id(&self) -> RecordingId {
        RecordingId { stream: self.stream.clone(), session: self.session.clone() }
    }

    /// Its stream as viewers saw it, with what `read` gives back of its files. One that had ended is shown for as long as
    /// any ended session, and then forgotten.
    pub fn restore(&self, read: &mut dyn FnMut(&str) -> Option<Bytes>, settings: &StreamSettings) -> Arc<LiveStream> {
        let (snapshot, settings) = (self.adopt(read), settings.of(&self.stream));
        let stream = LiveStream::new(self.stream.clone(), settings, self.session(), snapshot, self.epoch);
        let waiting = Publisher::Grace { until: Instant::now() + settings.grace };
        stream.set_publisher(if self.ended { Publisher::Ended } else { waiting });
        if let Some(first) = self.first_sequence {
            stream.spool.began_at(first);
        }
        if self.recorded {
            stream.spool.finish();
        }
        stream
    }

    /// The session to go on with.
    pub fn session(&self) -> Session {
        Session { id: self.session.clone(), published_at_ms: self.published_at_ms }
    }

    /// When what it lists was over, milliseconds since 1970; when it began, if it lists nothing.
    pub fn over_at_ms(&self) -> i64 {
        let end = |last: &SegmentRecord| last.program_date_time_ms + last.duration / TICKS_PER_MS;
        self.segments.last().map_or(self.published_at_ms, end)
    }

    /// Numbers of a window that comes after this one and lists nothing of it.
    pub fn numbers_after(&self) -> Numbers {
        let listed = self.segments.iter().filter(|segment| segment.discontinuity).count() as u64;
        Numbers { media_sequence: self.next_sequence, discontinuity_sequence: self.discontinuity_sequence + listed + 1 }
    }

    /// The window as viewers saw it. What `read` cannot give back is a gap (EXT-X-GAP).
    pub fn adopt(&self, read: &mut dyn FnMut(&str) -> Option<Bytes>) -> Snapshot {
        let mut maps: Vec<Option<Arc<File>>> = Vec::new();
        let listed = self.segments.iter().map(|record| {
            let map = record.map.as_ref().and_then(|map| {
                let known = maps.iter().flatten().find(|file| file.name == map.name).cloned();
                known.or_else(|| map.restore(read).map(Arc::new))
            });
            maps.push(map.clone());
            let playable = record.map.is_none() || map.is_some();
            let file = if record.gap || !playable { None } else { record.file.restore(read) };
            Arc::new(record.published(file, map))
        });
        Snapshot::adopted(Adopted {
            listed: listed.collect(),
            next_sequence: self.next_sequence,
            discontinuity_sequence: self.discontinuity_sequence,
            target_duration: self.target_duration,
            independent: self.independent,
            multivariant: self.multivariant.clone(),
            ended: self.ended,
        })
    }
}

impl SegmentRecord {
    fn published(&self, file: Option<File>, map: Option<Arc<File>>) -> Published {
        let listed = ListedSegment {
            uri: self.file.name.clone(),
            map: map.as_ref().map(|map| map.name.clone()),
            duration: self.duration,
            discontinuity: self.discontinuity,
            program_date_time_ms: self.program_date_time_ms,
            gap: file.is_none(),
        };
        let lost = || File { name: self.file.name.clone(), bytes: Content::default(), digest: [0; 32] };
        Published { sequence: self.sequence, listed, file: file.unwrap_or_else(lost), map }
    }
}

/// The runtime directory that holds the records.
#[derive(Debug, Clone)]
pub struct Records {
    directory: PathBuf,
}

impl Records {
    /// Records under `directory`, made if missing. Nobody else has it open.
    pub fn open(directory: &Path) -> io::Result<Self> {
        fs::create_dir_all(directory)?;
        for entry in fs::read_dir(directory)? {
            let path = entry?.path();
            if path.extension().is_some_and(|extension| extension == ASIDE) {
                // Of a process that was killed. One that stays is written into some time, or takes a little room.
                let _ = fs::remove_file(path);
            }
        }
        Ok(Self { directory: directory.to_owned() })
    }

    /// Whether they lie in memory. Elsewhere writing one may hang with a disk, and the live path with it.
    pub fn are_in_memory(&self) -> io::Result<bool> {
        // `linux/magic.h`: TMPFS_MAGIC, RAMFS_MAGIC.
        Ok(matches!(rustix::fs::statfs(&self.directory)?.f_type as i64, 0x0102_1994 | 0x8584_58F6))
    }

    /// Replaces a stream's record in one step.
    pub fn write(&self, record: &Record) -> io::Result<()> {
        let path = self.path(&record.stream);
        // A record that is behind would reuse names; without one the clock's media sequence numbers are ahead.
        replace(&path, record).inspect_err(|_| forget(&path))
    }

    /// Forgets a stream whose window is gone: the clock's media sequence numbers are ahead of it by now.
    pub fn remove(&self, stream: &StreamName) {
        forget(&self.path(stream));
    }

    /// Leaves the record of an ended session to the next process, aside: the next session of this name has one of its own.
    pub fn leave(&self, id: &RecordingId) {
        if self.read(&id.stream).is_some_and(|record| record.session == id.session) {
            // One that stays in place is overwritten some time: then what its recording lacks is not told.
            let path = self.path(&id.stream);
            let _ = fs::rename(&path, self.path_aside(id));
            // The one it replaced is of no use.
            let _ = fs::remove_file(path.with_extension(ASIDE));
        }
    }

    /// Leaves what is remembered of a session aside, as it is now. What was left before stays if that fails.
    pub fn write_left(&self, record: &Record) -> io::Result<()> {
        replace_left(&self.path_aside(&record.id()), record)
    }

    /// Forgets a session whose record was left aside.
    pub fn forget_left(&self, id: &RecordingId) {
        // A record that stays is only of no use.
        let _ = fs::remove_file(self.path_aside(id));
    }

    /// Forgets a session, wherever its record is; that of another one of this name stays.
    pub fn forget(&self, id: &RecordingId) {
        self.forget_left(id);
        if self.read(&id.stream).is_some_and(|record| record.session == id.session) {
            self.remove(&id.stream);
        }
    }

    /// All whole records that were left aside.
    pub fn left(&self) -> io::Result<Vec<Record>> {
        self.every(|name| name.matches('+').count() == 2)
    }

    /// The sessions whose records were left aside, by the names of the files.
    pub fn left_sessions(&self) -> io::Result<Vec<RecordingId>> {
        let mut sessions = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let name = entry?.file_name().to_string_lossy().into_owned();
            let id = name.strip_suffix(".json").filter(|name| name.matches('+').count() == 2);
            sessions.extend(id.and_then(|id| id.replace('+', "/").parse().ok()));
        }
        Ok(sessions)
    }

    /// The record that was left aside of a session.
    pub fn read_left(&self, id: &RecordingId) -> Option<Record> {
        read_record(&self.path_aside(id)).filter(|record| record.id() == *id)
    }

    /// The record of one stream, if there is a whole one.
    pub fn read(&self, stream: &StreamName) -> Option<Record> {
        read_record(&self.path(stream)).filter(|record| record.stream == *stream)
    }

    /// All whole records of streams. What cannot be read is left where it is.
    pub fn all(&self) -> io::Result<Vec<Record>> {
        self.every(|name| name.matches('+').count() == 1)
    }

    fn every(&self, is_wanted: fn(&str) -> bool) -> io::Result<Vec<Record>> {
        let mut records = Vec::new();
        for entry in fs::read_dir(&self.directory)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.ends_with(".json") && is_wanted(&name) {
                records.extend(read_record(&path));
            }
        }
        Ok(records)
    }

    /// Whether there is no record at all.
    pub fn is_empty(&self) -> bool {
        self.all().map_or(true, |records| records.is_empty())
    }

    fn path(&self, stream: &StreamName) -> PathBuf {
        // '+' is in no name, so two streams never share a file.
        self.directory.join(format!("{}+{}.json", stream.app(), stream.name()))
    }

    fn path_aside(&self, RecordingId { stream, session }: &RecordingId) -> PathBuf {
        self.directory.join(format!("{}+{}+{session}.json", stream.app(), stream.name()))
    }
}

/// Removes a record, and the one it replaced. One that stays is only of no use.
fn forget(path: &Path) {
    let _ = fs::remove_file(path);
    let _ = fs::remove_file(path.with_extension(ASIDE));
}

/// In one step; what was there stays if it fails. For the one writer of a stream's record.
///
/// What was replaced takes the place of the file that was written aside, and is written into the next time: that takes half
/// the time of making a file and removing one. It lies on tmpfs: on a disk a loss of power may leave an older one, or parts of two.
fn replace(path: &Path, record: &Record) -> io::Result<()> {
    let content = Content::from(Bytes::from(text_of(record)?));
    match put_in_place(path, &content) {
        // Whoever forgot the session before this one took what was written aside with it.
        Err(error) if error.kind() == io::ErrorKind::NotFound => put_in_place(path, &content),
        placed => placed,
    }
}

fn put_in_place(path: &Path, content: &Content) -> io::Result<()> {
    let aside = path.with_extension(ASIDE);
    let written = write::overwrite(&aside, content).or_else(|_| {
        // None was replaced yet, it is not ours alone, or there is no room for more.
        let _ = fs::remove_file(&aside);
        fs::write(&aside, content.to_bytes())
    });
    let placed = written.and_then(|()| match write::exchange(&aside, path)? {
        Exchanged::Both => Ok(()),
        Exchanged::NothingThere | Exchanged::Refused => fs::rename(&aside, path),
    });
    placed.inspect_err(|_| {
        // What of it was written takes room.
        let _ = fs::remove_file(&aside);
    })
}

/// In one step, by whoever comes, each with a file of his own: of two at once the last one's stays.
fn replace_left(path: &Path, record: &Record) -> io::Result<()> {
    static ASIDES: AtomicU64 = AtomicU64::new(0);
    let aside = path.with_extension(format!("{}.{ASIDE}", ASIDES.fetch_add(1, Ordering::Relaxed)));
    let text = text_of(record)?;
    fs::write(&aside, text).and_then(|()| fs::rename(&aside, path)).inspect_err(|_| {
        let _ = fs::remove_file(&aside);
    })
}

fn text_of(record: &Record) -> io::Result<Vec<u8>> {
    serde_json::to_vec(record).map_err(io::Error::other)
}

fn read_record(path: &Path) -> Option<Record> {
    if fs::metadata(path).ok()?.len() > MAX_RECORD_BYTES {
        return None;
    }
    let record: Record = serde_json::from_slice(&fs::read(path).ok()?).ok()?;
    (record.format == FORMAT).then_some(record)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::name::MAX_NAME_LEN;
    use crate::snapshot::tests::published_window;
    use std::collections::HashMap;

    #[test]
    fn a_window_is_adopted_as_it_was_and_what_is_lost_is_a_gap() {
        let (stream, snapshot) = published_window(9);
        let record = Record::of(&stream, &snapshot);
        let mut files: HashMap<String, Bytes> =
            snapshot.files().into_iter().map(|(name, file)| (name.to_owned(), file.bytes.to_bytes())).collect();
        let whole = record.adopt(&mut |name| files.get(name).cloned());
        assert_eq!(whole.media_playlist.bytes, snapshot.media_playlist.bytes);
        assert_eq!(whole.multivariant.bytes, snapshot.multivariant.bytes);
        assert!(!whole.multivariant.bytes.is_empty());
        assert_eq!(
            (whole.next_sequence, whole.discontinuity_sequence),
            (snapshot.next_sequence, snapshot.discontinuity_sequence)
        );
        let end = whole.next(Vec::new(), true, 6, None, tokio::time::Instant::now());
        assert!(end.ended && end.multivariant.bytes == snapshot.multivariant.bytes, "its end says what it was");
        let (torn, lost) = (snapshot.listed[1].file.name.clone(), snapshot.listed[2].file.name.clone());
        files.insert(torn.clone(), Bytes::from_static(b"torn"));
        files.remove(&lost);
        let partial = record.adopt(&mut |name| files.get(name).cloned());
        let gaps: Vec<_> = partial.listed.iter().filter(|s| s.listed.gap).map(|s| s.file.name.clone()).collect();
        assert_eq!(gaps, [torn.clone(), lost]);
        assert!(partial.is_lost(&torn) && !whole.is_lost(&torn));
        assert!(partial.file(&torn).is_none() && partial.files().keys().all(|name| **name != torn));
    }

    #[test]
    fn what_a_recording_lacks_is_told_from_the_beginning_of_its_session() {
        let (stream, snapshot) = published_window(9);
        let settings = StreamSettings { all: stream.settings, takeover: Arc::default() };
        let first = |first_sequence| {
            let record = Record { first_sequence, ..Record::of(&stream, &snapshot) };
            record.restore(&mut |_| None, &settings).spool.first()
        };
        let listed = snapshot.listed[0].sequence;
        assert!(listed > 1);
        assert_eq!((first(Some(1)), first(None)), (1, listed));
        assert_eq!(Record::of(&stream, &snapshot).first_sequence, None, "it is not recorded");
    }

    #[test]
    fn records_that_do_not_lie_in_memory_are_told_of() {
        let at = |path: &str| Records { directory: path.into() }.are_in_memory();
        assert_eq!(at("/dev/shm").ok(), Some(true));
        assert_eq!(at("/proc").ok(), Some(false));
        assert!(at("/nowhere").is_err());
    }

    #[test]
    fn a_record_is_read_back_and_a_torn_one_is_ignored() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let records = Records::open(directory.path()).expect("directory");
        let (stream, snapshot) = published_window(3);
        let record = Record::of(&stream, &snapshot);
        records.write(&record).expect("written");
        assert_eq!(records.read(&stream.name), Some(record.clone()));
        fs::write(directory.path().join("live+torn.json"), &serde_json::to_vec(&record).expect("json")[..40])
            .expect("written");
        assert_eq!(records.all().expect("listed"), [record]);
    }

    #[test]
    fn what_is_left_of_a_session_is_kept_aside_while_another_one_of_its_name_goes_on() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let records = Records::open(directory.path()).expect("directory");
        let (stream, snapshot) = published_window(3);
        let record = Record::of(&stream, &snapshot);
        let next = Record { session: "2b".to_owned(), ..record.clone() };
        records.write(&record).expect("written");
        records.leave(&record.id());
        records.write(&next).expect("written");
        records.leave(&record.id());
        assert_eq!(
            (records.all().expect("listed"), records.left().expect("listed")),
            (vec![next.clone()], vec![record.clone()])
        );
        assert_eq!(records.read(&record.stream), Some(next.clone()));
        records.forget(&record.id());
        assert_eq!((records.all().expect("listed"), records.left().expect("listed")), (vec![next.clone()], vec![]));
        records.forget(&next.id());
        assert!(records.is_empty());
        assert_eq!(
            record.over_at_ms(),
            snapshot.listed.last().map_or(0, |last| last.listed.program_date_time_ms + 2000)
        );
    }

    #[test]
    fn the_longest_names_fit_into_those_of_files() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let records = Records::open(directory.path()).expect("directory");
        let (stream, snapshot) = published_window(3);
        let (longest, session) = ("x".repeat(MAX_NAME_LEN), "f".repeat(16));
        let name = StreamName::new(&longest, &longest).expect("a name");
        let record = Record { stream: name, session, ..Record::of(&stream, &snapshot) };
        records.write(&record).expect("written");
        records.leave(&record.id());
        assert_eq!(records.left().expect("listed"), [record]);
    }

    #[test]
    fn what_was_left_of_a_session_stays_if_it_cannot_be_replaced() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let records = Records::open(directory.path()).expect("directory");
        let (stream, snapshot) = published_window(3);
        let record = Record { recorded: true, ..Record::of(&stream, &snapshot) };
        records.write_left(&record).expect("written");
        // Nothing can be written aside.
        let away = directory.path().with_extension("away");
        fs::rename(directory.path(), &away).expect("moved");
        assert!(records.write_left(&Record { recorded: false, ..record.clone() }).is_err());
        fs::rename(&away, directory.path()).expect("back");
        assert_eq!(records.read_left(&record.id()), Some(record));
    }

    #[test]
    fn what_a_record_replaced_goes_with_it_and_shorter_ones_are_read_back() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let records = Records::open(directory.path()).expect("directory");
        let (stream, snapshot) = published_window(3);
        let long = Record::of(&stream, &snapshot);
        let short = Record { segments: Vec::new(), ..long.clone() };
        let names = || {
            let entries = fs::read_dir(directory.path()).expect("listed");
            entries
                .map(|entry| entry.expect("an entry").file_name().into_string().expect("a name"))
                .collect::<BTreeSet<_>>()
        };
        for record in [&long, &long, &short, &long, &short, &short] {
            records.write(record).expect("written");
            assert_eq!(records.read(&stream.name).as_ref(), Some(record));
        }
        assert_eq!(names(), BTreeSet::from(["live+show.json".to_owned(), "live+show.tmp".to_owned()]));
        records.leave(&short.id());
        assert_eq!((names().len(), records.left().expect("listed")), (1, vec![short.clone()]));
        for _ in 0..2 {
            records.write(&long).expect("written");
            records.write_left(&short).expect("written");
        }
        assert_eq!(names().len(), 3);
        records.forget(&long.id());
        assert!(names().is_empty());
        // Of a process that was killed.
        fs::write(directory.path().join("live+show.tmp"), "").expect("written");
        Records::open(directory.path()).expect("directory");
        assert!(names().is_empty());
    }

    #[test]
    fn somebodys_copy_of_a_record_is_not_written_into() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let records = Records::open(directory.path()).expect("directory");
        let (stream, snapshot) = published_window(3);
        let record = Record::of(&stream, &snapshot);
        records.write(&record).expect("written");
        let copy = directory.path().join("copy");
        fs::hard_link(directory.path().join("live+show.json"), &copy).expect("linked");
        for next_sequence in 70..73 {
            let next = Record { next_sequence, ..record.clone() };
            records.write(&next).expect("written");
            assert_eq!(records.read(&stream.name), Some(next));
        }
        assert_eq!(read_record(&copy), Some(record));
    }

    #[test]
    fn a_record_that_cannot_be_replaced_is_removed() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let records = Records::open(directory.path()).expect("directory");
        let (stream, snapshot) = published_window(3);
        let record = Record::of(&stream, &snapshot);
        records.write(&record).expect("written");
        // A directory in the way of the file written aside.
        fs::create_dir(directory.path().join("live+show.tmp")).expect("directory");
        assert!(records.write(&record).is_err());
        assert_eq!(records.read(&stream.name), None);
    }
}
