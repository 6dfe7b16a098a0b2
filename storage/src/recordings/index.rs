//! The index of a recording: for each hour a file of entries, one line each, that is only appended to.

use crate::recording::{RecordedSegment, Totals, entries, lines};
use crate::write::make_way;
use std::cmp::Ordering;
use std::fs;
use std::io::{self, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::Path;

/// Entries of an hour's segments.
pub const ENTRIES: &str = "segments.jsonl";
/// The error where somebody has deleted or cut an index, or it is on another mount.
pub fn index_changed() -> io::Error {
    io::Error::new(ErrorKind::NotFound, "its index is not what it was; it is looked at again")
}

/// What a recording holds when it is opened: where to go on.
#[derive(Debug, Default)]
pub struct Opened {
    /// The last entry, if it has any.
    pub last: Option<RecordedSegment>,
    /// What all add up to.
    pub totals: Totals,
    /// Where they end.
    pub end: End,
    /// There are later hours that have not been looked at.
    pub more: bool,
    /// The last hour that has.
    pub(super) looked_at: String,
}

impl Opened {
    /// Adds the index of an hour.
    pub(super) fn add(&mut self, hour: &str, text: &[u8]) {
        let mut entries = entries(&String::from_utf8_lossy(text));
        self.totals = self.totals.and(&entries);
        self.last = entries.pop().or(self.last.take());
        self.end = End::new(hour.to_owned(), text.len() as u64);
    }
}

/// Where the index ends: in the file of this hour, after so many bytes. Without any entry in no hour.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct End {
    hour: String,
    length: u64,
}

impl End {
    /// In this hour, after so many bytes.
    pub(super) fn new(hour: String, length: u64) -> Self {
        Self { hour, length }
    }

    /// Whether there is no entry.
    pub(super) fn is_none(&self) -> bool {
        self.hour.is_empty()
    }

    /// The hour of the last entry.
    pub(super) fn hour(&self) -> &str {
        &self.hour
    }

    /// How long the file of that hour is, bytes.
    pub(super) fn length(&self) -> u64 {
        self.length
    }

    /// How long the file of this hour is to be; nobody knows that of an earlier one.
    pub(super) fn of(&self, hour: &str) -> Option<u64> {
        match hour.cmp(&self.hour) {
            Ordering::Less => None,
            Ordering::Equal => Some(self.length),
            Ordering::Greater => Some(0),
        }
    }
}

/// Appends entries to those of their hour, which are to be so many bytes if that is known; how many there are then.
pub fn append_lines(hour: &Path, of_hour: &[RecordedSegment], expected: Option<u64>) -> io::Result<u64> {
    // A gap may be all there is of an hour.
    fs::create_dir_all(hour)?;
    let (path, options) = (hour.join(ENTRIES), fs::File::options().read(true).append(true).create(true).clone());
    let mut file = match options.open(&path) {
        Err(error) if error.kind() == ErrorKind::IsADirectory => {
            make_way(&path)?;
            options.open(&path)?
        }
        opened => opened?,
    };
    let there = file.metadata()?.len();
    if expected.is_some_and(|expected| expected != there) {
        return Err(index_changed());
    }
    let mut text = lines(of_hour);
    if is_torn(&mut file)? {
        text.insert(0, b'\n');
    }
    file.write_all(&text)?;
    Ok(there + text.len() as u64)
}

/// Whether the last line of a file was not written to its end.
fn is_torn(file: &mut fs::File) -> io::Result<bool> {
    if file.seek(SeekFrom::End(0))? == 0 {
        return Ok(false);
    }
    file.seek(SeekFrom::End(-1))?;
    let mut last = [0];
    file.read_exact(&mut last)?;
    Ok(last != *b"\n")
}
