//! Recordings on storage: `recordings/<application>/<name>/<session>/`, and below it a directory an hour.
//!
//! A segment that lies in the live directory becomes a second name of the same file: it is written once. Every call
//! may block or fail; none is made on the live path.

mod index;
mod list;
mod sweep;

use crate::archive::Room;
use crate::export::{ExportError, Exported};
use crate::name::StreamName;
use crate::recording::{RecordedFile, RecordedSegment, RecordingId, SessionRecord, entries, whole};
use crate::signs::{REMOVE, Signs};
use crate::snapshot::{DIGESTS, File, MEDIA_PLAYLIST, MULTIVARIANT_PLAYLIST};
use crate::write::{Direct, rename};
use bytes::Bytes;
use index::{ENTRIES, append_lines};
pub use index::{End, Opened, index_changed};
use memory::Content;
use std::fs;
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
pub use sweep::Swept;

/// Directory of all recordings in an archive.
pub const DIRECTORY: &str = "recordings";
/// The session's record.
const SESSION: &str = "session.json";
/// The whole recording as one file, once somebody has asked for it.
pub const MOVIE: &str = "recording.mp4";
/// Suffix of files that are being written.
const ASIDE: &str = ".tmp";
/// Extension of a recording that was removed, until its files are.
pub const REMOVED: &str = "removed";
/// Names looked at in one directory, at most: sessions of a stream, hours of a session. Ten years of hours.
const MAX_LISTED: usize = 100_000;
/// Records that are read at once to see whether they are finished, ...
const PAGE: usize = 20;
/// ... and how long that goes on at once: a disk thread has others to serve.
const LOOKED_FOR: Duration = Duration::from_secs(2);
/// Hours of an index that are read in one go: some 17 MB, in time on slow storage, too.
const MAX_HOURS: usize = 24;

/// All recordings of an archive.
#[derive(Debug)]
pub struct Recordings {
    root: PathBuf,
    asides: AtomicU64,
    direct: Direct,
    signs: Arc<Signs>,
}

impl Recordings {
    /// Recordings of the archive in `data`. Nothing is touched yet.
    pub fn at(data: &Path, signs: Arc<Signs>) -> Self {
        Self { root: data.to_owned(), asides: AtomicU64::new(0), direct: Direct::default(), signs }
    }

    fn directory(&self, id: &RecordingId) -> PathBuf {
        self.root.join(DIRECTORY).join(id.stream.app()).join(id.stream.name()).join(&id.session)
    }

    fn live_file(&self, stream: &StreamName, name: &str) -> PathBuf {
        self.root.join("live").join(stream.app()).join(stream.name()).join(name)
    }

    /// What a recording holds: where to go on. Some hours of it at once; `before` is what those before them hold, at first
    /// nothing.
    pub fn open(&self, id: &RecordingId, before: Opened) -> io::Result<Opened> {
        let (mut opened, mut hours) = (before, self.hours(id)?);
        hours.retain(|hour| *hour > opened.looked_at);
        for hour in hours.iter().take(MAX_HOURS) {
            if let Some(text) = self.index_of(id, hour)? {
                opened.add(hour, &text);
            }
            opened.looked_at.clone_from(hour);
        }
        opened.more = hours.len() > MAX_HOURS;
        Ok(opened)
    }

    /// Where the index of a recording ends.
    pub fn end(&self, id: &RecordingId) -> io::Result<End> {
        for hour in self.hours(id)?.into_iter().rev() {
            if let Some(length) = self.index_length(id, &hour)? {
                return Ok(End::new(hour, length));
            }
        }
        Ok(End::default())
    }

    /// Keeps a file. Whether its bytes had to be written, and are therefore not durable yet.
    pub fn keep(&self, id: &RecordingId, recorded: &RecordedFile, file: &File) -> io::Result<bool> {
        let path = self.directory(id).join(&recorded.uri);
        let length = file.bytes.len() as u64;
        if fs::metadata(&path).is_ok_and(|there| there.len() == length) {
            return Ok(false);
        }
        let live = self.live_file(&id.stream, &file.name);
        let whole = || fs::metadata(&live).is_ok_and(|there| there.len() == length);
        let mut linked = whole() && fs::hard_link(&live, &path).is_ok();
        if !linked && path.parent().is_some_and(|hour| !hour.exists()) {
            fs::create_dir_all(path.parent().unwrap_or(&self.root))?;
            linked = whole() && fs::hard_link(&live, &path).is_ok();
        }
        // Nothing there to link, or a file system without links, or something else of that name.
        if linked { Ok(false) } else { self.write(&path, &file.bytes).map(|()| true) }
    }

    /// Writes a file again that was kept and has another length by now, or, if they are to be compared, other bytes:
    /// it may be a second name of a file that somebody changed. One that is not there is, too, if it is recorded and not
    /// removed with the whole recording. Whether it had to be. Durable when it returns.
    pub fn mend(
        &self,
        id: &RecordingId,
        uri: &str,
        content: &Content,
        compare: bool,
        is_recorded: impl Fn() -> bool,
    ) -> io::Result<bool> {
        let path = self.directory(id).join(uri);
        let length = || match fs::metadata(&path) {
            Ok(there) => Ok(Some(there.len())),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(error),
        };
        let length = self.signs.wait("stat", length)?;
        if length.is_none() {
            if !is_recorded() {
                return Ok(false);
            }
            fs::create_dir_all(path.parent().unwrap_or(&self.root))?;
        }
        let is_right = length == Some(content.len() as u64)
            && (!compare || self.signs.wait("read", || fs::read(&path))? == content.to_bytes());
        if !is_right {
            self.write(&path, content)?;
            self.signs.wait("sync", || fs::File::open(&path)?.sync_data())?;
        }
        Ok(!is_right)
    }

    /// Appends entries, each to its hour; where the index ends then. One that did not end where it was told to is an error:
    /// somebody has changed it, or it is on another mount.
    pub fn append(&self, id: &RecordingId, all: &[RecordedSegment], after: &End) -> io::Result<End> {
        let hour_of = |entry: &RecordedSegment| entry.file.uri.split('/').next().unwrap_or_default().to_owned();
        let mut end = after.clone();
        for of_hour in all.chunk_by(|a, b| hour_of(a) == hour_of(b)) {
            let name = hour_of(&of_hour[0]);
            let expected = end.of(&name);
            // Of an hour that is over nothing else would tell that its index has gone.
            if expected == Some(0) && !end.is_none() && self.index_length(id, end.hour())? != Some(end.length()) {
                return Err(index_changed());
            }
            let hour = self.directory(id).join(&name);
            let length = self.signs.wait("append", || append_lines(&hour, of_hour, expected))?;
            end = End::new(name, length);
        }
        Ok(end)
    }

    /// Writes the record of a session that goes on. One that has ended is left as it is: whoever would change it was
    /// given up and has come back.
    pub fn describe(&self, record: &SessionRecord) -> io::Result<()> {
        let before = self.read(&record.id)?;
        if before.is_some_and(|before| before.ended_at_ms.is_some()) {
            return Ok(());
        }
        let directory = self.directory(&record.id);
        self.signs.wait("mkdir", || fs::create_dir_all(&directory))?;
        let record = self.with_earlier(record.clone())?;
        self.write_durably(&directory.join(SESSION), record.to_json())
    }

    /// What was known before: codecs, which are known when there is a publisher, where it began, and its movie.
    fn with_earlier(&self, mut record: SessionRecord) -> io::Result<SessionRecord> {
        if let Some(before) = self.read(&record.id)? {
            record.codecs = record.codecs.or(before.codecs);
            record.movie_bytes = record.movie_bytes.or(before.movie_bytes);
            record.first_sequence = before.first_sequence.into_iter().chain(record.first_sequence).min();
        }
        Ok(record)
    }

    /// Writes playlists and digests of a session that is over, and then its record. How many gaps are in it.
    pub fn finish(&self, record: SessionRecord, because: &str) -> io::Result<u64> {
        let directory = self.directory(&record.id);
        let record = self.with_earlier(record)?;
        let all = self.entries(&record)?;
        let record = record.ended(&all, because);
        let write = |name: &str, bytes: Vec<u8>| self.write_durably(&directory.join(name), bytes);
        write(DIGESTS, SessionRecord::digests(&all))?;
        write(MEDIA_PLAYLIST, record.playlist(&all).into_bytes())?;
        write(MULTIVARIANT_PLAYLIST, record.multivariant.clone().into_bytes())?;
        let gaps = record.gaps;
        // Its movie may have been made meanwhile.
        write(SESSION, self.with_earlier(record)?.to_json()).map(|()| gaps)
    }

    /// Finishes recordings of sessions that ended without it: the process ended, or storage was away. Looks at some after
    /// `after`; after which to go on, if there are more. `tried` is told of each.
    pub fn finish_interrupted(
        &self,
        mut after: Option<RecordingId>,
        is_live: impl Fn(&RecordingId) -> bool,
        mut tried: impl FnMut(&RecordingId, io::Result<()>),
    ) -> io::Result<Option<RecordingId>> {
        let begun = Instant::now();
        while begun.elapsed() < LOOKED_FOR {
            let page = self.page(after.as_ref(), PAGE)?;
            after = page.last().map(|last| last.id.clone()).filter(|_| page.len() == PAGE);
            for record in page.into_iter().filter(|record| record.ended_at_ms.is_none()) {
                // Its recorder may have finished it since it was read, or somebody removed it. One that cannot be finished
                // keeps nobody else from it.
                let still = self.read(&record.id).ok().flatten().filter(|record| record.ended_at_ms.is_none());
                if let Some(still) = still.filter(|_| !is_live(&record.id)) {
                    tried(&record.id, self.finish(still, "interrupted").map(drop));
                }
                if begun.elapsed() >= LOOKED_FOR {
                    return Ok(Some(record.id));
                }
            }
            if after.is_none() {
                break;
            }
        }
        Ok(after)
    }

    /// The record of a session; none if there is none.
    pub fn read(&self, id: &RecordingId) -> io::Result<Option<SessionRecord>> {
        match fs::read(self.directory(id).join(SESSION)) {
            Ok(text) => Ok(SessionRecord::parse(&text).filter(|record| record.id == *id)),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Removes a recording for everybody who asks. Its files are left to [`Recordings::sweep`].
    pub fn remove(&self, id: &RecordingId) -> io::Result<()> {
        let directory = self.directory(id);
        self.signs.wait(REMOVE, || fs::rename(&directory, directory.with_extension(REMOVED)))
    }

    /// How much room there is.
    pub fn room(&self) -> io::Result<Room> {
        self.signs.wait("statfs", || Room::of(&self.root))
    }

    /// All entries of a recording, in order, with gaps where some are missing.
    pub fn entries(&self, record: &SessionRecord) -> io::Result<Vec<RecordedSegment>> {
        let mut all = Vec::new();
        for hour in self.hours(&record.id)? {
            all.extend(self.entries_of(&record.id, &hour)?);
        }
        Ok(whole(all, record.first_sequence))
    }

    /// A file of a recording.
    pub fn file(&self, id: &RecordingId, uri: &str) -> io::Result<Bytes> {
        fs::read(self.directory(id).join(uri)).map(Bytes::from)
    }

    /// Makes the MP4 file of a recording that is over, and notes in its record that it is there.
    pub fn keep_movie(&self, id: &RecordingId) -> Result<Exported, ExportError> {
        let exported = self.export(id, &self.directory(id).join(MOVIE))?;
        let mut record = self.read(id)?.ok_or(ExportError::Absent)?;
        record.movie_bytes = Some(exported.bytes);
        self.write_durably(&self.directory(id).join(SESSION), record.to_json())?;
        Ok(exported)
    }

    fn hours(&self, id: &RecordingId) -> io::Result<Vec<String>> {
        let names = names(&self.directory(id))?;
        Ok(names
            .into_iter()
            .filter(|name| name.len() == 10 && name.bytes().all(|byte| byte.is_ascii_digit()))
            .collect())
    }

    fn entries_of(&self, id: &RecordingId, hour: &str) -> io::Result<Vec<RecordedSegment>> {
        Ok(self.index_of(id, hour)?.map_or(Vec::new(), |text| entries(&String::from_utf8_lossy(&text))))
    }

    fn index_of(&self, id: &RecordingId, hour: &str) -> io::Result<Option<Vec<u8>>> {
        match fs::read(self.directory(id).join(hour).join(ENTRIES)) {
            Ok(text) => Ok(Some(text)),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn index_length(&self, id: &RecordingId, hour: &str) -> io::Result<Option<u64>> {
        match fs::metadata(self.directory(id).join(hour).join(ENTRIES)) {
            Ok(there) => Ok(Some(there.len()).filter(|_| there.is_file())),
            Err(error) if is_absent(&error) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// A small file that is there whole or not at all, also after a power cut.
    fn write_durably(&self, path: &Path, bytes: Vec<u8>) -> io::Result<()> {
        let mut aside = path.as_os_str().to_owned();
        aside.push(format!(".{}{ASIDE}", self.asides.fetch_add(1, Ordering::Relaxed)));
        let write = || {
            let mut file = fs::File::create(&aside)?;
            file.write_all(&bytes)?;
            file.sync_data()?;
            rename(Path::new(&aside), path)
        };
        self.signs.wait("write", write).inspect_err(|_| {
            // Half a file is of no use, and on a full disk its room is.
            let _ = fs::remove_file(&aside);
        })
    }

    /// A file that is there whole or not at all.
    fn write(&self, path: &Path, content: &Content) -> io::Result<()> {
        let mut aside = path.as_os_str().to_owned();
        aside.push(format!(".{}{ASIDE}", self.asides.fetch_add(1, Ordering::Relaxed)));
        let write = || self.direct.create(Path::new(&aside), content).and_then(|()| rename(Path::new(&aside), path));
        self.signs.wait("write", write).inspect_err(|_| {
            // Half a file is of no use, and on a full disk its room is.
            let _ = fs::remove_file(&aside);
        })
    }
}

/// Names in a directory, in order; none if there is no such directory.
fn names(directory: &Path) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    match fs::read_dir(directory) {
        Err(error) if is_absent(&error) => {}
        entries => {
            for entry in entries?.take(MAX_LISTED) {
                names.extend(entry?.file_name().into_string().ok());
            }
        }
    }
    names.sort_unstable();
    Ok(names)
}

/// Applications in a directory of recordings. What else lies there, as `lost+found` may, is not ours to look into.
fn apps(root: &Path) -> io::Result<Vec<String>> {
    Ok(names(root)?.into_iter().filter(|app| StreamName::new(app, "a").is_ok()).collect())
}

/// Streams in an application's directory, which may be a mount of its own: what else lies there is not ours either.
fn streams(root: &Path, app: &str) -> io::Result<Vec<String>> {
    Ok(names(&root.join(app))?.into_iter().filter(|name| StreamName::new(app, name).is_ok()).collect())
}

/// Something else may be in its place.
fn is_absent(error: &io::Error) -> bool {
    matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory | ErrorKind::IsADirectory)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recording::tests::record;

    fn recordings() -> (tempfile::TempDir, Recordings) {
        let directory = tempfile::tempdir().expect("temporary directory");
        let recordings = Recordings::at(directory.path(), Signs::default().into());
        (directory, recordings)
    }

    #[test]
    fn a_page_goes_on_where_the_one_before_ended_whatever_is_between() {
        let (directory, recordings) = recordings();
        let mut ids = Vec::new();
        for id in ["a/show/2", "a-b/show/1", "a/show/1", "a/other/3", "b/show/10", "b/show/9"] {
            let id: RecordingId = id.parse().expect("an id");
            let mut record = record();
            record.id = id.clone();
            recordings.describe(&record).expect("written");
            ids.push(id);
        }
        for stray in ["a/show/no session", "a/show/4", "stray"] {
            fs::create_dir_all(directory.path().join(DIRECTORY).join(stray)).expect("made");
        }
        ids.sort();
        let mut seen = Vec::new();
        loop {
            let page = recordings.page(seen.last(), 2).expect("listed");
            assert!(page.len() <= 2);
            if page.is_empty() {
                break;
            }
            seen.extend(page.into_iter().map(|record| record.id));
        }
        assert_eq!(seen, ids);
        let gone: RecordingId = "a/show/15".parse().expect("an id");
        assert_eq!(recordings.page(Some(&gone), 1).expect("listed")[0].id, "a/show/2".parse().expect("an id"));
        assert_eq!(recordings.all().expect("listed").len(), ids.len());
        let away = Recordings::at(&directory.path().join("away"), Signs::default().into());
        assert!(away.all().is_err(), "an archive that is away is not one without recordings");
    }

    #[test]
    fn what_was_kept_and_is_spoilt_is_written_again_and_what_is_not_there_is_not() {
        let (directory, recordings) = recordings();
        let (id, uri): (RecordingId, _) = ("live/show/1".parse().expect("an id"), "2026112112/0-1.m4s");
        let content = Content::from(&b"the segment"[..]);
        let mend = |compare| recordings.mend(&id, uri, &content, compare, || false).expect("it answers");
        assert!(!mend(true), "nothing is recorded yet");
        let path = directory.path().join("recordings/live/show/1").join(uri);
        fs::create_dir_all(path.parent().expect("an hour")).expect("made");
        fs::write(&path, "the seg").expect("written");
        assert!(mend(false) && !mend(true));
        fs::write(&path, "THE SEGMENT").expect("written");
        assert!(!mend(false) && mend(true));
        assert_eq!(fs::read(&path).expect("read"), b"the segment");
        fs::remove_dir_all(directory.path().join("recordings/live")).expect("removed");
        assert!(!mend(false), "somebody may have removed the whole recording");
        assert!(recordings.mend(&id, uri, &content, false, || true).expect("it answers"));
        assert_eq!(fs::read(&path).expect("read"), b"the segment");
    }

    fn gap(hour: &str, sequence: u64) -> RecordedSegment {
        RecordedSegment {
            sequence,
            file: RecordedFile { uri: format!("{hour}/0-{sequence}"), sha256: String::new() },
            map: None,
            duration: 90_000,
            discontinuity: false,
            program_date_time_ms: 0,
            gap: true,
            bytes: 0,
        }
    }

    #[test]
    fn an_index_that_is_not_what_it_was_is_not_appended_to() {
        let (_directory, recordings) = recordings();
        let mut record = record();
        record.first_sequence = Some(1);
        let id = &record.id;
        let append = |hour, sequence, after: &End| recordings.append(id, &[gap(hour, sequence)], after);
        let (noon, later) = ("2026112112", "2026112113");
        let opened = || recordings.open(id, Opened::default()).expect("opened").end;
        let nothing = opened();
        let first = append(noon, 1, &nothing).expect("appended");
        assert!(append(noon, 2, &nothing).is_err(), "it was away when it was opened");
        let second = append(noon, 2, &first).expect("appended");
        assert!(append(noon, 3, &first).is_err(), "somebody else has appended");
        assert!(opened() == second && recordings.end(id).expect("told") == second);
        let index = recordings.directory(id).join(noon).join(ENTRIES);
        fs::remove_file(&index).expect("removed");
        for hour in [noon, later] {
            assert_eq!(append(hour, 3, &second).map_err(|error| error.kind()), Err(ErrorKind::NotFound));
        }
        let third = append(later, 3, &opened()).expect("it was looked at");
        assert_eq!(recordings.end(id).expect("told"), third);
        let sequences: Vec<_> =
            recordings.entries(&record).expect("read").into_iter().map(|entry| entry.sequence).collect();
        assert_eq!(sequences, [1, 2, 3], "what was lost is a gap");
    }

    #[test]
    fn an_index_of_many_days_is_read_in_many_goes() {
        let (_directory, recordings) = recordings();
        let id: RecordingId = "live/show/1".parse().expect("an id");
        let hours: Vec<_> = (0..5 * MAX_HOURS as u64 / 2).map(|n| (n, format!("20261121{n:02}"))).collect();
        for (n, hour) in &hours {
            recordings.append(&id, &[gap(hour, *n)], &End::default()).expect("appended");
        }
        let (mut opened, mut goes) = (Opened::default(), 0);
        while goes == 0 || opened.more {
            opened = recordings.open(&id, opened).expect("opened");
            goes += 1;
        }
        assert_eq!((goes, opened.totals.gaps), (3, hours.len() as u64));
        assert!(
            opened.end == recordings.end(&id).expect("told") && opened.last.is_some_and(|last| last.sequence == 59)
        );
    }
}
