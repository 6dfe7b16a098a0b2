//! Archive: the replica of windows on storage, behind a trait, and what it is known to hold.

use crate::name::StreamName;
use crate::numbers::Numbers;
use crate::snapshot::MEDIA_PLAYLIST;
use crate::write::{self, Direct, Exchanged};
use bytes::Bytes;
use memory::Content;
use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

/// Files listed in one directory at most: a window and its leftovers have far fewer.
const MAX_LISTED: usize = 10_000;
/// Bytes of a playlist that are read: one of a window is far shorter.
const MAX_PLAYLIST: u64 = 1 << 20;
/// Suffix of files that are being written.
const ASIDE: &str = ".tmp";

/// A file written aside and not committed yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Aside(u64);

impl Aside {
    /// The file written aside as number `number`.
    pub fn numbered(number: u64) -> Self {
        Self(number)
    }
}

/// Room on the file system of an archive, bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Room {
    /// Free for this process.
    pub free: u64,
    /// All there is.
    pub size: u64,
    /// The device it is on.
    pub device: u64,
}

impl Room {
    /// Of the file system that a directory is on.
    pub fn of(directory: &Path) -> io::Result<Self> {
        let room = rustix::fs::statvfs(directory)?;
        let device = fs::metadata(directory)?.dev();
        Ok(Self {
            device,
            free: room.f_bavail.saturating_mul(room.f_frsize),
            size: room.f_blocks.saturating_mul(room.f_frsize),
        })
    }
}

/// Storage for streams. Every call may block or fail; none is made on the live path.
pub trait Archive: Send + Sync + 'static {
    /// Writes a file under a temporary name of its own, which no other write has.
    fn write_aside(&self, stream: &StreamName, name: &str, bytes: &Content) -> io::Result<Aside>;
    /// Makes what was written aside durable, for all streams at once.
    fn sync(&self) -> io::Result<()>;
    /// Gives a file written aside its name.
    fn commit(&self, stream: &StreamName, name: &str, aside: Aside) -> io::Result<()>;
    /// Writes a file under the temporary name that [`Archive::exchange`] gave back.
    fn rewrite_aside(&self, stream: &StreamName, name: &str, aside: Aside, bytes: &Content) -> io::Result<()>;
    /// Gives a file written aside its name, like `commit`; the temporary name under which the file is that
    /// had the name before, where storage can do that.
    fn exchange(&self, stream: &StreamName, name: &str, aside: Aside) -> io::Result<Option<Aside>>;
    /// Removes a file written aside.
    fn discard(&self, stream: &StreamName, name: &str, aside: Aside) -> io::Result<()>;
    /// Removes a file; one that is not there is no error.
    fn remove(&self, stream: &StreamName, name: &str) -> io::Result<()>;
    /// Names and lengths of the files of a stream's live directory.
    fn list(&self, stream: &StreamName) -> io::Result<BTreeMap<String, u64>>;
    /// Their names alone, which costs storage far less.
    fn names(&self, stream: &StreamName) -> io::Result<BTreeSet<String>>;
    /// Reads a file.
    fn read(&self, stream: &StreamName, name: &str) -> io::Result<Bytes>;
    /// Reads what was last written aside for a file, by a process that ended before it could commit it. It may be half a
    /// file: who reads it knows its digest.
    fn read_aside(&self, stream: &StreamName, name: &str) -> io::Result<Bytes>;
    /// Highest media sequence number in the name of any stream's file, and highest number of discontinuities that
    /// any stream's playlist tells; zero where there is none.
    fn highest_numbers(&self) -> io::Result<Numbers>;
    /// Writes and removes a small file, to see whether storage answers.
    fn probe(&self) -> io::Result<()>;
    /// How much room there is.
    fn room(&self) -> io::Result<Room>;
}

/// A directory: `live/<application>/<name>/` holds the window of a stream.
#[derive(Debug)]
pub struct LocalDirectory {
    root: PathBuf,
    asides: AtomicU64,
    /// The file system cannot exchange two names (network file systems cannot).
    cannot_exchange: AtomicBool,
    direct: Direct,
}

impl LocalDirectory {
    /// An archive under `root`. Nothing is touched yet: storage may be away when the process starts.
    pub fn at(root: &Path) -> Self {
        let (asides, cannot_exchange) = (AtomicU64::new(0), AtomicBool::new(false));
        Self { root: root.to_owned(), asides, cannot_exchange, direct: Direct::default() }
    }

    /// Where the window of `stream` lies.
    pub fn live_directory(&self, stream: &StreamName) -> PathBuf {
        live_directory(&self.root, stream)
    }

    fn aside(&self, stream: &StreamName, name: &str, Aside(number): Aside) -> PathBuf {
        self.live_directory(stream).join(format!("{name}.{number}{ASIDE}"))
    }
}

/// Where the window of a stream lies in an archive.
pub fn live_directory(root: &Path, stream: &StreamName) -> PathBuf {
    root.join("live").join(stream.app()).join(stream.name())
}

impl Archive for LocalDirectory {
    fn write_aside(&self, stream: &StreamName, name: &str, bytes: &Content) -> io::Result<Aside> {
        let aside = Aside(self.asides.fetch_add(1, Ordering::Relaxed));
        let path = self.aside(stream, name, aside);
        let mut written = self.direct.create(&path, bytes);
        if written.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::NotFound) {
            fs::create_dir_all(self.live_directory(stream))?;
            written = self.direct.create(&path, bytes);
        }
        written.map(|()| aside).inspect_err(|_| {
            // Half a file is of no use, and on a full disk its room is.
            let _ = fs::remove_file(&path);
        })
    }

    fn sync(&self) -> io::Result<()> {
        let root = fs::File::open(&self.root)?;
        rustix::fs::syncfs(&root).map_err(io::Error::from)
    }

    fn commit(&self, stream: &StreamName, name: &str, aside: Aside) -> io::Result<()> {
        write::rename(&self.aside(stream, name, aside), &self.live_directory(stream).join(name))
    }

    fn rewrite_aside(&self, stream: &StreamName, name: &str, aside: Aside, bytes: &Content) -> io::Result<()> {
        let path = self.aside(stream, name, aside);
        match write::overwrite(&path, bytes) {
            Err(error) if error.kind() == io::ErrorKind::IsADirectory => {
                // It had the name of the file, and was exchanged with it.
                write::make_way(&path)?;
                self.direct.create(&path, bytes)
            }
            written => written,
        }
    }

    fn exchange(&self, stream: &StreamName, name: &str, aside: Aside) -> io::Result<Option<Aside>> {
        let (from, to) = (self.aside(stream, name, aside), self.live_directory(stream).join(name));
        let mut refused = false;
        if !self.cannot_exchange.load(Ordering::Relaxed) {
            match write::exchange(&from, &to)? {
                Exchanged::Both => return Ok(Some(aside)),
                Exchanged::NothingThere => {}
                Exchanged::Refused => refused = true,
            }
        }
        write::rename(&from, &to)?;
        if refused {
            self.cannot_exchange.store(true, Ordering::Relaxed);
        }
        Ok(None)
    }

    fn discard(&self, stream: &StreamName, name: &str, aside: Aside) -> io::Result<()> {
        let path = self.aside(stream, name, aside);
        match fs::remove_file(&path) {
            Err(error) if error.kind() == io::ErrorKind::IsADirectory => write::make_way(&path),
            removed => removed,
        }
    }

    fn remove(&self, stream: &StreamName, name: &str) -> io::Result<()> {
        match remove(&self.live_directory(stream).join(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            removed => removed,
        }
    }

    fn list(&self, stream: &StreamName) -> io::Result<BTreeMap<String, u64>> {
        let mut files = BTreeMap::new();
        let entries = match fs::read_dir(self.live_directory(stream)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(files),
            entries => entries?,
        };
        for entry in entries.take(MAX_LISTED) {
            let entry = entry?;
            // What is written aside is named and not measured: there may be many.
            let name = entry.file_name();
            if name.to_string_lossy().ends_with(ASIDE) {
                files.insert(name.to_string_lossy().into_owned(), 0);
                continue;
            }
            let length = match entry.metadata() {
                // Renamed or removed since it was listed.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                metadata => metadata?.len(),
            };
            if let Ok(name) = name.into_string() {
                files.insert(name, length);
            }
        }
        Ok(files)
    }

    fn names(&self, stream: &StreamName) -> io::Result<BTreeSet<String>> {
        let names = entries_of(&self.live_directory(stream))?.map(|entry| Ok(entry?.file_name().into_string().ok()));
        names.filter_map(Result::transpose).collect()
    }

    fn read(&self, stream: &StreamName, name: &str) -> io::Result<Bytes> {
        fs::read(self.live_directory(stream).join(name)).map(Bytes::from)
    }

    fn read_aside(&self, stream: &StreamName, name: &str) -> io::Result<Bytes> {
        let directory = self.live_directory(stream);
        let mut asides = Vec::new();
        for entry in fs::read_dir(&directory)?.take(MAX_LISTED) {
            let entry = entry?;
            let found = entry.file_name();
            let number =
                found.to_str().and_then(|found| found.strip_prefix(name)?.strip_prefix('.')?.strip_suffix(ASIDE));
            asides.extend(number.and_then(|number| number.parse::<u64>().ok()));
        }
        let last = asides.into_iter().max().ok_or(io::ErrorKind::NotFound)?;
        fs::read(self.aside(stream, name, Aside(last))).map(Bytes::from)
    }

    fn highest_numbers(&self) -> io::Result<Numbers> {
        let mut highest = Numbers::default();
        let apps = match fs::read_dir(self.root.join("live")) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(highest),
            apps => apps?,
        };
        for app in apps.take(MAX_LISTED) {
            for stream in entries_of(&app?.path())? {
                let stream = stream?.path();
                for file in entries_of(&stream)? {
                    let media_sequence = sequence_of(&file?.file_name().to_string_lossy()).unwrap_or(0);
                    highest = highest.or_higher(Numbers { media_sequence, ..Numbers::default() });
                }
                let discontinuity_sequence = match fs::File::open(stream.join(MEDIA_PLAYLIST)) {
                    Err(error) if is_no_directory(&error) => 0,
                    playlist => discontinuities_of(playlist?)?,
                };
                highest = highest.or_higher(Numbers { discontinuity_sequence, ..Numbers::default() });
            }
        }
        Ok(highest)
    }

    fn probe(&self) -> io::Result<()> {
        let path = self.root.join(".probe");
        fs::write(&path, b"steadycast")?;
        fs::remove_file(&path)
    }

    fn room(&self) -> io::Result<Room> {
        Room::of(&self.root)
    }
}

/// Removes a file. A directory of its name is somebody else's, and in nobody's way.
fn remove(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::IsADirectory => Ok(()),
        removed => removed,
    }
}

/// The number in a segment's name, such as `0-123.m4s`.
fn sequence_of(name: &str) -> Option<u64> {
    name.strip_prefix("0-")?.split_once('.')?.0.parse().ok()
}

/// Entries of a directory; none if it is a stray file, or has just gone.
fn entries_of(path: &Path) -> io::Result<impl Iterator<Item = io::Result<fs::DirEntry>> + use<>> {
    let entries = match fs::read_dir(path) {
        Err(error) if is_no_directory(&error) => None,
        entries => Some(entries?),
    };
    Ok(entries.into_iter().flatten().take(MAX_LISTED))
}

fn is_no_directory(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// Discontinuities that a playlist tells of, those that have left it included.
fn discontinuities_of(playlist: fs::File) -> io::Result<u64> {
    let mut text = String::new();
    // What is no playlist of ours tells of none.
    if let Err(error) = playlist.take(MAX_PLAYLIST).read_to_string(&mut text)
        && error.kind() != io::ErrorKind::InvalidData
    {
        return Err(error);
    }
    let left = text.lines().find_map(|line| line.strip_prefix("#EXT-X-DISCONTINUITY-SEQUENCE:")?.parse::<u32>().ok());
    Ok(u64::from(left.unwrap_or(0)) + text.lines().filter(|line| *line == "#EXT-X-DISCONTINUITY").count() as u64)
}

/// What a stream's live directory is believed to hold. The archiver adds, the watcher takes away.
#[derive(Debug, Default)]
pub struct Ledger {
    state: Mutex<LedgerState>,
}

#[derive(Debug, Default)]
struct LedgerState {
    /// When a file was last added.
    added: Option<Instant>,
    files: BTreeMap<String, u64>,
    documents: Option<Documents>,
}

/// Which playlists and digests the directory holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Documents {
    /// Version of the snapshot they are of.
    pub version: u64,
    /// Validator of the Multivariant Playlist, which seldom changes.
    pub multivariant: String,
}

impl Ledger {
    /// Files believed to be there, with their lengths.
    pub fn files(&self) -> BTreeMap<String, u64> {
        self.lock().files.clone()
    }

    /// When a segment last became durable.
    pub fn added(&self) -> Option<Instant> {
        self.lock().added
    }

    /// Whether a file is believed to be there.
    pub fn holds(&self, name: &str) -> bool {
        self.lock().files.contains_key(name)
    }

    /// Playlists and digests that are believed to be there.
    pub fn documents(&self) -> Option<Documents> {
        self.lock().documents.clone()
    }

    /// Notes what is there, whatever was believed before.
    pub fn replace(&self, files: BTreeMap<String, u64>) {
        self.lock().files = files;
    }

    /// Notes that a file is there.
    pub fn add(&self, name: &str, length: u64) {
        let mut state = self.lock();
        state.files.insert(name.to_owned(), length);
        state.added = Some(Instant::now());
    }

    /// Notes that a file is not there, or not what it should be.
    pub fn forget(&self, name: &str) {
        self.lock().files.remove(name);
    }

    /// Notes which playlists and digests are there, or (`None`) that they must be written again.
    pub fn set_documents(&self, documents: Option<Documents>) {
        self.lock().documents = documents;
    }

    fn lock(&self) -> MutexGuard<'_, LedgerState> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_appears_whole_and_only_when_committed() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let archive = LocalDirectory::at(directory.path());
        let stream = StreamName::new("live", "show").expect("valid name");
        let aside = archive.write_aside(&stream, "0-1.m4s", &Bytes::from_static(b"media").into()).expect("written");
        archive.sync().expect("synced");
        assert!(archive.read(&stream, "0-1.m4s").is_err());
        assert_eq!(archive.read_aside(&stream, "0-1.m4s").expect("written"), "media");
        assert!(archive.read_aside(&stream, "0-1").is_err());
        archive.commit(&stream, "0-1.m4s", aside).expect("committed");
        assert_eq!(archive.list(&stream).expect("listed"), BTreeMap::from([("0-1.m4s".to_owned(), 5)]));
        assert_eq!(archive.names(&stream).expect("listed"), BTreeSet::from(["0-1.m4s".to_owned()]));
        assert_eq!(
            archive.highest_numbers().expect("listed"),
            Numbers { media_sequence: 1, discontinuity_sequence: 0 }
        );
        fs::write(archive.root.join("live/stray"), "a stray file").expect("written");
        let told = "#EXTM3U\n#EXT-X-DISCONTINUITY-SEQUENCE:7\n#EXT-X-DISCONTINUITY\n#EXTINF:2,\n0-9.m4s\n";
        fs::write(archive.live_directory(&stream).join(MEDIA_PLAYLIST), told).expect("written");
        assert_eq!(
            archive.highest_numbers().expect("listed"),
            Numbers { media_sequence: 1, discontinuity_sequence: 8 }
        );
        archive.remove(&stream, MEDIA_PLAYLIST).expect("removed");
        // Documents change places with what they replace, from the second time on.
        let document = |text: &'static str| Content::from(Bytes::from_static(text.as_bytes()));
        let first = archive.write_aside(&stream, "0.m3u8", &document("first")).expect("written");
        assert_eq!(archive.exchange(&stream, "0.m3u8", first).expect("committed"), None);
        let second = archive.write_aside(&stream, "0.m3u8", &document("the second")).expect("written");
        if let Some(spare) = archive.exchange(&stream, "0.m3u8", second).expect("committed") {
            assert_eq!(archive.read(&stream, "0.m3u8").expect("read"), "the second");
            archive.rewrite_aside(&stream, "0.m3u8", spare, &document("third")).expect("written");
            assert_eq!(archive.read(&stream, "0.m3u8").expect("read"), "the second");
            archive.exchange(&stream, "0.m3u8", spare).expect("committed");
            assert_eq!(archive.read(&stream, "0.m3u8").expect("read"), "third");
            archive.remove(&stream, "0.m3u8.2.tmp").expect("removed");
        }
        archive.remove(&stream, "0.m3u8").expect("removed");
        archive.remove(&stream, "0-1.m4s").expect("removed");
        archive.remove(&stream, "0-1.m4s").expect("nothing to remove");
        assert!(archive.list(&stream).expect("listed").is_empty());
        archive.probe().expect("answers");
        let room = archive.room().expect("answers");
        assert!(room.size > room.free && room.free > 0, "{room:?}");
        assert!(LocalDirectory::at(Path::new("/nowhere")).room().is_err());
    }

    #[test]
    fn a_directory_that_has_the_name_of_a_file_is_in_nobodys_way() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let (archive, stream) =
            (LocalDirectory::at(directory.path()), StreamName::new("live", "show").expect("valid name"));
        let place = archive.live_directory(&stream);
        for name in ["0-1.m4s", "0.m3u8", "0.m3u8.9.tmp"] {
            fs::create_dir_all(place.join(name)).expect("made");
            fs::write(place.join(name).join("notes"), "somebody's").expect("written");
        }
        let bytes = Bytes::from_static(b"media");
        let aside = archive.write_aside(&stream, "0-1.m4s", &bytes.clone().into()).expect("written");
        archive.commit(&stream, "0-1.m4s", aside).expect("committed");
        assert_eq!(archive.read(&stream, "0-1.m4s").expect("a file"), bytes);
        let aside = archive.write_aside(&stream, "0.m3u8", &bytes.clone().into()).expect("written");
        let replaced = archive.exchange(&stream, "0.m3u8", aside).expect("exchanged");
        assert_eq!(archive.read(&stream, "0.m3u8").expect("a file"), bytes);
        if let Some(replaced) = replaced {
            archive.rewrite_aside(&stream, "0.m3u8", replaced, &bytes.clone().into()).expect("written");
            archive.discard(&stream, "0.m3u8", replaced).expect("a file");
        }
        archive.remove(&stream, "0.m3u8.9.tmp").expect("left alone");
        let notes = fs::read_dir(&place).expect("listed").flatten().filter(|found| found.path().join("notes").exists());
        let mut names: Vec<_> = notes.map(|found| found.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        assert_eq!(names.len(), 3, "nothing of somebody else's is gone: {names:?}");
        assert!(names[0].starts_with("0-1.m4s.") && names[0].ends_with(".directory"), "{names:?}");
    }
}
