//! Export: one MP4 file of a recording, without encoding anything again.

use crate::recording::{RecordedSegment, RecordingId};
use crate::recordings::Recordings;
use crate::snapshot::hex;
use bytes::Bytes;
use media::movie::{Movie, MovieError, payload};
use media::read::{Read, Unreadable, fragments, transport_stream};
use sha2::{Digest, Sha256};
use std::fs::File;
use std::io::{self, BufWriter, Write};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Bytes written at once.
const BUFFER: usize = 1 << 20;

/// Why there is no file.
#[derive(Debug, Error)]
pub enum ExportError {
    /// There is no such recording.
    #[error("there is no such recording")]
    Absent,
    /// It cannot be put into one.
    #[error(transparent)]
    Movie(#[from] MovieError),
    /// Storage failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// What was exported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exported {
    /// Length of the file, bytes.
    pub bytes: u64,
    /// Segments in it.
    pub segments: usize,
    /// Segments whose files are missing or damaged: what was in them is not in the file.
    pub damaged: usize,
    /// The first of them.
    pub first_damaged: Option<String>,
}

impl Recordings {
    /// Writes a recording, as far as it goes, into one MP4 file, which is there whole or not at all.
    pub fn export(&self, id: &RecordingId, file: &Path) -> Result<Exported, ExportError> {
        let record = self.read(id)?.ok_or(ExportError::Absent)?;
        let entries = self.entries(&record)?;
        let mut movie = Movie::default();
        let mut reader = Reader { recordings: self, id, map: None };
        let (mut whole, mut first_damaged, mut damaged) = (Vec::new(), None, 0);
        let (mut at, mut before): (i64, Option<&RecordedSegment>) = (0, None);
        for entry in &entries {
            let read = if entry.gap { None } else { Some(reader.read(entry)) };
            match read {
                Some(Ok(read)) => {
                    let continues = !entry.discontinuity && before.is_some_and(|before| before.map == entry.map);
                    movie.add(&read, at, continues)?;
                    whole.push(entry);
                    before = Some(entry);
                }
                // Storage that fails is tried again another time; a hole that it made would stay.
                Some(Err(Damage::Io(error))) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
                Some(Err(_)) => {
                    (before, damaged) = (None, damaged + 1);
                    first_damaged.get_or_insert_with(|| entry.file.uri.clone());
                }
                None => before = None,
            }
            at += entry.duration;
        }
        let segments = whole.len();
        let bytes = write_whole(file, &movie.head()?, |out| {
            whole.iter().try_for_each(|entry| {
                let read = reader.read(entry).map_err(io::Error::other)?;
                payload(&read).try_for_each(|data| out.write_all(data))
            })
        })?;
        Ok(Exported { bytes, segments, damaged, first_damaged })
    }
}

/// Why a segment cannot be read.
#[derive(Debug, Error)]
enum Damage {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Unreadable(#[from] Unreadable),
    #[error("its digest is another")]
    Digest,
}

/// Reads segments, each initialization section once for all that follow it.
struct Reader<'a> {
    recordings: &'a Recordings,
    id: &'a RecordingId,
    map: Option<(String, Bytes)>,
}

impl Reader<'_> {
    fn read(&mut self, entry: &RecordedSegment) -> Result<Read, Damage> {
        let segment = self.recordings.file(self.id, &entry.file.uri)?;
        if hex(&Sha256::digest(&segment)) != entry.file.sha256 {
            return Err(Damage::Digest);
        }
        let Some(map) = &entry.map else { return Ok(transport_stream(&segment)?) };
        let known = self.map.take().filter(|(uri, _)| *uri == map.uri);
        let known = match known {
            Some(known) => known,
            None => (map.uri.clone(), self.recordings.file(self.id, &map.uri)?),
        };
        let read = fragments(&known.1, &segment);
        self.map = Some(known);
        Ok(read?)
    }
}

/// Writes a file aside and gives it its name when it is durable; its length. What has the name and is no file, such as a
/// device or a link, stays.
fn write_whole(path: &Path, head: &[u8], body: impl FnOnce(&mut BufWriter<File>) -> io::Result<()>) -> io::Result<u64> {
    if std::fs::symlink_metadata(path).is_ok_and(|there| !there.is_file()) {
        return Err(io::Error::new(io::ErrorKind::AlreadyExists, "something is there that is no file"));
    }
    let mut aside = path.as_os_str().to_owned();
    aside.push(format!(".{}.tmp", std::process::id()));
    let aside = PathBuf::from(aside);
    let write = || {
        let mut out = BufWriter::with_capacity(BUFFER, File::create_new(&aside)?);
        out.write_all(head)?;
        body(&mut out)?;
        let file = out.into_inner().map_err(|error| error.into_error())?;
        file.sync_all()?;
        let length = file.metadata()?.len();
        std::fs::rename(&aside, path).map(|()| length)
    };
    write().inspect_err(|_| {
        // Half a file is of no use, and on a full disk its room is.
        let _ = std::fs::remove_file(&aside);
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_the_name_and_is_no_file_stays_and_a_file_is_replaced() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let [link, file] = ["link", "file"].map(|name| directory.path().join(name));
        std::os::unix::fs::symlink("/dev/null", &link).expect("made");
        let written = write_whole(&link, b"head", |_| Ok(()));
        assert_eq!(written.map_err(|error| error.kind()), Err(io::ErrorKind::AlreadyExists));
        assert!(std::fs::read_link(&link).is_ok());
        for text in [&b"one"[..], b"another"] {
            assert_eq!(write_whole(&file, text, |out| out.write_all(b" body")).ok(), Some(text.len() as u64 + 5));
        }
        assert_eq!(std::fs::read(&file).expect("written"), b"another body");
        assert!(write_whole(&file, b"", |_| Err(io::Error::other("no"))).is_err());
        assert_eq!(std::fs::read_dir(directory.path()).expect("listed").count(), 2, "nothing is left aside");
    }
}
