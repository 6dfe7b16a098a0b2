//! What is known of the files that are passed through: their names, and those that are open.

use super::rules::Rules;
use fuser::{Errno, FileAttr, FileHandle, FileType, INodeNo};
use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::{self, File, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, UNIX_EPOCH};

/// Names and files it knows at once, of hostile programs, too.
const MAX_KNOWN: usize = 1 << 20;

/// What became of an operation: something to answer with, or an error number.
pub(super) type Done<T> = Result<T, Errno>;

/// What is known of names and open files.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// Parent and name of each inode but the root.
    pub names: HashMap<u64, (u64, OsString)>,
    pub files: HashMap<u64, Arc<File>>,
}

/// What all threads share.
#[derive(Debug)]
pub(super) struct Shared {
    source: PathBuf,
    pub rules: Arc<Rules>,
    known: Mutex<Known>,
    handles: AtomicU64,
}

impl Shared {
    pub fn of(source: PathBuf, rules: Arc<Rules>) -> Self {
        Self { source, rules, known: Mutex::default(), handles: AtomicU64::new(1) }
    }

    pub fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Where a path below the mount point lies.
    pub fn at(&self, path: &Path) -> PathBuf {
        self.source.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// The path of an inode below the mount point.
    pub fn path(&self, inode: u64) -> Done<PathBuf> {
        let known = self.known();
        let (mut names, mut at) = (Vec::new(), inode);
        while at != INodeNo::ROOT.0 {
            let (parent, name) = known.names.get(&at).ok_or(Errno::ESTALE)?;
            names.push(name.clone());
            at = *parent;
        }
        Ok(Path::new("/").join(names.iter().rev().collect::<PathBuf>()))
    }

    /// Attributes of a file that was looked up, which is known by its name from now on.
    pub fn entry(&self, parent: u64, name: &OsStr, path: &Path) -> Done<FileAttr> {
        let attributes = attributes(&fs::symlink_metadata(path)?);
        let mut known = self.known();
        if known.names.len() >= MAX_KNOWN {
            return Err(Errno::ENOMEM);
        }
        known.names.insert(attributes.ino.0, (parent, name.to_owned()));
        Ok(attributes)
    }

    pub fn open(&self, file: File) -> FileHandle {
        let handle = self.handles.fetch_add(1, Ordering::Relaxed);
        self.known().files.insert(handle, Arc::new(file));
        FileHandle(handle)
    }

    pub fn file(&self, handle: FileHandle) -> Done<Arc<File>> {
        self.known().files.get(&handle.0).cloned().ok_or(Errno::EBADF)
    }
}

/// A file's attributes as the kernel wants them.
pub(super) fn attributes(metadata: &Metadata) -> FileAttr {
    let time = |seconds: i64, nanos: i64| {
        UNIX_EPOCH + Duration::new(seconds.max(0).unsigned_abs(), u32::try_from(nanos).unwrap_or(0))
    };
    FileAttr {
        ino: INodeNo(metadata.ino()),
        size: metadata.size(),
        blocks: metadata.blocks(),
        atime: time(metadata.atime(), metadata.atime_nsec()),
        mtime: time(metadata.mtime(), metadata.mtime_nsec()),
        ctime: time(metadata.ctime(), metadata.ctime_nsec()),
        crtime: UNIX_EPOCH,
        kind: kind(metadata.file_type()),
        perm: (metadata.mode() & 0o7777) as u16,
        nlink: u32::try_from(metadata.nlink()).unwrap_or(u32::MAX),
        uid: metadata.uid(),
        gid: metadata.gid(),
        rdev: 0,
        blksize: 4096,
        flags: 0,
    }
}

/// Its kind.
pub(super) fn kind(kind: fs::FileType) -> FileType {
    if kind.is_dir() {
        FileType::Directory
    } else if kind.is_symlink() {
        FileType::Symlink
    } else {
        FileType::RegularFile
    }
}
