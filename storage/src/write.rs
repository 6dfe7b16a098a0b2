//! Writing files past the page cache, where the file system allows it (`O_DIRECT`), and giving them their names.
//!
//! A segment is in memory already, for viewers; a second copy in the kernel's cache is memory cleared, copied
//! into and written back later for nobody. And an error of storage is then the answer to the write that met it,
//! not to some later sync.

use bytes::Bytes;
use memory::{ALIGNMENT, Content};
use rustix::fs::{CWD, OFlags, RenameFlags, fcntl_getfl, fcntl_setfl, renameat_with};
use rustix::io::Errno;
use std::fs::{self, File};
use std::io::{self, IoSlice, Write};
use std::ops::Range;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

/// Smaller files are written the ordinary way: what a copy costs is less than waiting for a device.
const MIN_DIRECT: usize = 64 << 10;
/// Direct writes end at a multiple of this, bytes: a block of usual file systems. What comes after then lies in a
/// page of its own, which need not be read first.
const FILE_BLOCK: usize = 4096;
// So that a piece that is not aligned, which only the last one may be, lies beyond them.
const _: () = assert!(ALIGNMENT.is_multiple_of(FILE_BLOCK));

/// Suffix of directories that had the name of a file.
const IN_THE_WAY: &str = ".directory";

/// Whether the page cache may be passed by: not once a file system has refused it.
#[derive(Debug, Default)]
pub struct Direct {
    refused: AtomicBool,
}

impl Direct {
    /// Creates a file, or empties the one that is there, and writes `content` into it.
    pub fn create(&self, path: &Path, content: &Content) -> io::Result<()> {
        if !self.suits(content) {
            return write_all(&File::create(path)?, &mut slices(content, 0..content.len()));
        }
        let file = match open_direct(path) {
            Err(error) if is_refusal(&error) => {
                self.refused.store(true, Ordering::Relaxed);
                return write_all(&File::create(path)?, &mut slices(content, 0..content.len()));
            }
            opened => opened?,
        };
        // What lies beyond the last whole block of the file system goes the ordinary way.
        let blocks = content.len() / FILE_BLOCK * FILE_BLOCK;
        let mut whole = slices(content, 0..blocks);
        let (slices_of_whole, mut left) = (whole.len(), &mut whole[..]);
        let written = write_slices(&file, &mut left);
        fcntl_setfl(&file, fcntl_getfl(&file)? - OFlags::DIRECT)?;
        match written {
            Err(error) if is_refusal(&error) => {
                // A write that was cut short where no block ends is refused for that, in the middle of a file.
                let nothing_written = left.len() == slices_of_whole;
                self.refused.fetch_or(nothing_written, Ordering::Relaxed);
                write_all(&file, left)?;
            }
            written => written?,
        }
        write_all(&file, &mut slices(content, blocks..content.len()))
    }

    /// Whether the file is large and lies in memory as devices demand.
    fn suits(&self, content: &Content) -> bool {
        let Some((last, but_last)) = content.pieces().split_last() else { return false };
        let is_aligned = |piece: &Bytes| piece.as_ptr().addr().is_multiple_of(ALIGNMENT);
        content.len() >= MIN_DIRECT
            && !self.refused.load(Ordering::Relaxed)
            && but_last.iter().all(|piece| is_aligned(piece) && piece.len().is_multiple_of(ALIGNMENT))
            // One that is shorter than a block goes the ordinary way.
            && (is_aligned(last) || last.len() < FILE_BLOCK)
    }
}

fn open_direct(path: &Path) -> io::Result<File> {
    let flags = i32::try_from(OFlags::DIRECT.bits()).unwrap_or(0);
    File::options().write(true).create(true).truncate(true).custom_flags(flags).open(path)
}

/// What file systems and devices answer that cannot, or want larger blocks.
fn is_refusal(error: &io::Error) -> bool {
    let refusals = [Errno::INVAL, Errno::OPNOTSUPP].map(Errno::raw_os_error);
    error.raw_os_error().is_some_and(|code| refusals.contains(&code))
}

/// Writes a file's contents over those of one that was replaced. Refused if that is a link, or has another name: it may be
/// somebody's copy.
pub fn overwrite(path: &Path, content: &Content) -> io::Result<()> {
    let no_link = i32::try_from(OFlags::NOFOLLOW.bits()).unwrap_or(0);
    let file = File::options().write(true).custom_flags(no_link).open(path)?;
    let before = file.metadata()?;
    if before.nlink() != 1 {
        return Err(io::Error::other("the file has another name"));
    }
    write_all(&file, &mut slices(content, 0..content.len()))?;
    // In this order nothing is freed only to be allocated again.
    if before.len() > content.len() as u64 { file.set_len(content.len() as u64) } else { Ok(()) }
}

/// What became of an exchange of two names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exchanged {
    /// Each file has the other's name.
    Both,
    /// Nothing has the name yet.
    NothingThere,
    /// The file system cannot, or whoever confines this process does not know the call.
    Refused,
}

/// Has a file and one that may be there change names (`RENAME_EXCHANGE`).
pub fn exchange(from: &Path, to: &Path) -> io::Result<Exchanged> {
    match renameat_with(CWD, from, CWD, to, RenameFlags::EXCHANGE) {
        Ok(()) => Ok(Exchanged::Both),
        Err(Errno::NOENT) => Ok(Exchanged::NothingThere),
        Err(Errno::INVAL | Errno::NOSYS | Errno::OPNOTSUPP | Errno::PERM) => Ok(Exchanged::Refused),
        Err(error) => Err(error.into()),
    }
}

/// What of the content's pieces lies within `range`.
fn slices(content: &Content, range: Range<usize>) -> Vec<IoSlice<'_>> {
    let mut at = 0;
    let slices = content.pieces().iter().map(|piece| {
        let within = |position: usize| position.saturating_sub(at).min(piece.len());
        let slice = IoSlice::new(&piece[within(range.start)..within(range.end)]);
        at += piece.len();
        slice
    });
    slices.filter(|slice| !slice.is_empty()).collect()
}

fn write_all(file: &File, mut slices: &mut [IoSlice<'_>]) -> io::Result<()> {
    write_slices(file, &mut slices)
}

/// Writes with as few calls as the system allows; `left` is what was not written.
fn write_slices(mut file: &File, left: &mut &mut [IoSlice<'_>]) -> io::Result<()> {
    // Empty slices at the front would look like a file that takes nothing.
    IoSlice::advance_slices(left, 0);
    while !left.is_empty() {
        match file.write_vectored(left) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => IoSlice::advance_slices(left, written),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Gives a file its name. A directory that has it is moved out of the way: somebody made it, and may want it.
pub fn rename(from: &Path, to: &Path) -> io::Result<()> {
    match fs::rename(from, to) {
        Err(error) if error.kind() == io::ErrorKind::IsADirectory => {
            make_way(to)?;
            fs::rename(from, to)
        }
        renamed => renamed,
    }
}

/// Moves a directory out of the way of a file.
pub fn make_way(path: &Path) -> io::Result<()> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis();
    let mut away = path.as_os_str().to_owned();
    away.push(format!(".{now}{IN_THE_WAY}"));
    fs::rename(path, away)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// The server's: segments lie in its memory as direct I/O demands.
    #[global_allocator]
    static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

    fn pattern(length: usize) -> Vec<u8> {
        (0..length).map(|n| (n * 7 + n / 251) as u8).collect()
    }

    #[test]
    fn files_hold_what_was_written_whatever_their_length_and_however_they_lie_in_memory() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let direct = Direct::default();
        for length in [0, 1, 511, 512, MIN_DIRECT - 1, MIN_DIRECT, MIN_DIRECT + 1, 100_001, 236_000, 245_760, 1 << 20] {
            let (path, expected) = (directory.path().join("file"), pattern(length));
            let aligned = Content::from(&expected[..]);
            let shifted: Content = aligned.slice(1..length).pieces().iter().cloned().collect();
            let refused_before = direct.refused.load(Ordering::Relaxed);
            assert!(
                !refused_before,
                "no direct I/O in {}: set TMPDIR to a file system that has it",
                directory.path().display()
            );
            for content in [aligned, shifted, Content::from(Bytes::from(expected.clone()))] {
                direct.create(&path, &content).expect("written");
                assert!(std::fs::read(&path).expect("read") == content.to_bytes(), "{length} bytes");
            }
        }
    }

    proptest! {
        #[test]
        fn segments_lie_as_devices_demand(length in MIN_DIRECT..500_000) {
            prop_assert!(Direct::default().suits(&Content::from(&pattern(length)[..])));
        }

        #[test]
        fn slices_of_a_range_are_what_slicing_the_content_gives(length in 0_usize..300_000, a in 0_usize..300_000, b in 0_usize..300_000) {
            let content = Content::from(&pattern(length)[..]);
            let range = a.min(b).min(length)..a.max(b).min(length);
            let slices = slices(&content, range.clone());
            prop_assert!(slices.iter().flat_map(|slice| slice.iter()).eq(content.slice(range).to_bytes().iter()));
        }
    }

    #[test]
    fn a_file_system_that_refuses_is_not_asked_again_and_loses_nothing() {
        let (direct, content) = (Direct::default(), Content::from(&pattern(300_000)[..]));
        // It takes no such flag, and no segment either.
        direct.create(Path::new("/proc/self/oom_score_adj"), &content).expect_err("no file for segments");
        assert!(!direct.suits(&content), "it is asked no more");
        let directory = tempfile::tempdir().expect("temporary directory");
        direct.create(&directory.path().join("file"), &content).expect("written");
        assert!(std::fs::read(directory.path().join("file")).expect("read") == content.to_bytes());
    }
}
