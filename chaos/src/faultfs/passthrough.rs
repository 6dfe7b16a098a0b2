//! The file system itself.

use super::files::{Done, Shared, attributes, kind};
use super::rules::{Effect, Operation, Rules};
use fuser::{
    BsdFileFlags, Errno, FileAttr, FileHandle, FileType, Filesystem, FopenFlags, Generation, INodeNo, LockOwner,
    OpenFlags, RenameFlags, ReplyAttr, ReplyCreate, ReplyData, ReplyDirectory, ReplyEmpty, ReplyEntry, ReplyOpen,
    ReplyStatfs, ReplyWrite, Request, TimeOrNow, WriteFlags,
};
use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

/// The kernel asks again each time.
const NO_CACHE: Duration = Duration::ZERO;

/// Passes through to a directory.
#[derive(Debug, Clone)]
pub(super) struct Passthrough(Arc<Shared>);

impl Passthrough {
    pub fn of(source: &Path, rules: Arc<Rules>) -> io::Result<Self> {
        let source = source.canonicalize()?;
        Ok(Self(Arc::new(Shared::of(source, rules))))
    }

    /// Does `work` as the rules allow and answers with what came of it; on another thread if it has to wait.
    fn perform<T, R: Send + 'static>(
        &self,
        operation: Operation,
        path: Done<PathBuf>,
        reply: R,
        work: impl FnOnce(&Shared, &Path, bool) -> Done<T> + Send + 'static,
        answer: impl FnOnce(R, Done<T>) + Send + 'static,
    ) {
        let path = match path {
            Ok(path) => path,
            Err(error) => return answer(reply, Err(error)),
        };
        let shared = self.0.clone();
        match shared.rules.strike(operation, &path.to_string_lossy()) {
            None => answer(reply, work(&shared, &shared.at(&path), false)),
            Some(struck) => match struck.effect {
                Effect::Errno(code) => answer(reply, Err(Errno::from_i32(code))),
                Effect::ShortWrite => answer(reply, work(&shared, &shared.at(&path), true)),
                Effect::DelayMs(_) | Effect::Hang => {
                    std::thread::spawn(move || {
                        shared.rules.wait(struck);
                        answer(reply, work(&shared, &shared.at(&path), false));
                    });
                }
            },
        }
    }

    fn path(&self, inode: INodeNo) -> Done<PathBuf> {
        self.0.path(inode.0)
    }

    fn child(&self, parent: INodeNo, name: &OsStr) -> Done<PathBuf> {
        Ok(self.path(parent)?.join(name))
    }
}

fn attr(reply: ReplyAttr, done: Done<FileAttr>) {
    match done {
        Ok(attributes) => reply.attr(&NO_CACHE, &attributes),
        Err(error) => reply.error(error),
    }
}

fn entry(reply: ReplyEntry, done: Done<FileAttr>) {
    match done {
        Ok(attributes) => reply.entry(&NO_CACHE, &attributes, Generation(0)),
        Err(error) => reply.error(error),
    }
}

fn empty(reply: ReplyEmpty, done: Done<()>) {
    match done {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(error),
    }
}

impl Filesystem for Passthrough {
    fn lookup(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let name_of = name.to_owned();
        let work = move |shared: &Shared, path: &Path, _| shared.entry(parent.0, &name_of, path);
        self.perform(Operation::Lookup, self.child(parent, name), reply, work, entry);
    }

    fn getattr(&self, _: &Request, inode: INodeNo, _: Option<FileHandle>, reply: ReplyAttr) {
        let work = |_: &Shared, path: &Path, _| Ok(attributes(&fs::symlink_metadata(path)?));
        self.perform(Operation::Getattr, self.path(inode), reply, work, attr);
    }

    fn setattr(
        &self,
        _: &Request,
        inode: INodeNo,
        mode: Option<u32>,
        _: Option<u32>,
        _: Option<u32>,
        size: Option<u64>,
        _: Option<TimeOrNow>,
        _: Option<TimeOrNow>,
        _: Option<SystemTime>,
        handle: Option<FileHandle>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<SystemTime>,
        _: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let work = move |shared: &Shared, path: &Path, _| {
            if let Some(size) = size {
                match handle {
                    Some(handle) => shared.file(handle)?.set_len(size)?,
                    None => File::options().write(true).open(path)?.set_len(size)?,
                }
            }
            if let Some(mode) = mode {
                fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(mode))?;
            }
            Ok(attributes(&fs::symlink_metadata(path)?))
        };
        self.perform(Operation::Setattr, self.path(inode), reply, work, attr);
    }

    fn mkdir(&self, _: &Request, parent: INodeNo, name: &OsStr, _: u32, _: u32, reply: ReplyEntry) {
        let name_of = name.to_owned();
        let work = move |shared: &Shared, path: &Path, _| {
            fs::create_dir(path)?;
            shared.entry(parent.0, &name_of, path)
        };
        self.perform(Operation::Mkdir, self.child(parent, name), reply, work, entry);
    }

    fn unlink(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let work = |_: &Shared, path: &Path, _| Ok(fs::remove_file(path)?);
        self.perform(Operation::Unlink, self.child(parent, name), reply, work, empty);
    }

    fn rmdir(&self, _: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let work = |_: &Shared, path: &Path, _| Ok(fs::remove_dir(path)?);
        self.perform(Operation::Rmdir, self.child(parent, name), reply, work, empty);
    }

    fn rename(
        &self,
        _: &Request,
        parent: INodeNo,
        name: &OsStr,
        new_parent: INodeNo,
        new_name: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let (from, to) = (self.child(parent, name), self.child(new_parent, new_name));
        let (old, new) = ((parent.0, name.to_owned()), (new_parent.0, new_name.to_owned()));
        let work = move |shared: &Shared, path: &Path, _| {
            let to = shared.at(&to?);
            let flags_of = rustix::fs::RenameFlags::from_bits_retain(flags.bits());
            rustix::fs::renameat_with(rustix::fs::CWD, path, rustix::fs::CWD, &to, flags_of)
                .map_err(io::Error::from)?;
            let mut known = shared.known();
            for (at, name) in [(to, new), (path.to_owned(), old)] {
                // The old name has a file only if the two were exchanged.
                if let Ok(metadata) = fs::symlink_metadata(at) {
                    known.names.insert(metadata.ino(), name);
                }
            }
            Ok(())
        };
        self.perform(Operation::Rename, from, reply, work, empty);
    }

    fn open(&self, _: &Request, inode: INodeNo, flags: OpenFlags, reply: ReplyOpen) {
        let work = move |shared: &Shared, path: &Path, _| {
            let writes = flags.0 & rustix::fs::OFlags::ACCMODE.bits().cast_signed() != 0;
            let truncates = flags.0 & rustix::fs::OFlags::TRUNC.bits().cast_signed() != 0;
            Ok(shared.open(File::options().read(true).write(writes).truncate(truncates).open(path)?))
        };
        self.perform(Operation::Open, self.path(inode), reply, work, |reply, done| match done {
            Ok(handle) => reply.opened(handle, FopenFlags::FOPEN_DIRECT_IO),
            Err(error) => reply.error(error),
        });
    }

    fn create(&self, _: &Request, parent: INodeNo, name: &OsStr, mode: u32, _: u32, _: i32, reply: ReplyCreate) {
        let name_of = name.to_owned();
        let work = move |shared: &Shared, path: &Path, _| {
            let mut options = File::options();
            let file = options.read(true).write(true).create(true).truncate(true).mode(mode).open(path)?;
            Ok((shared.entry(parent.0, &name_of, path)?, shared.open(file)))
        };
        self.perform(Operation::Create, self.child(parent, name), reply, work, |reply, done| match done {
            Ok((attributes, handle)) => {
                reply.created(&NO_CACHE, &attributes, Generation(0), handle, FopenFlags::FOPEN_DIRECT_IO);
            }
            Err(error) => reply.error(error),
        });
    }

    fn read(
        &self,
        _: &Request,
        inode: INodeNo,
        handle: FileHandle,
        offset: u64,
        size: u32,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let work = move |shared: &Shared, _: &Path, _| {
            let mut bytes = vec![0; size as usize];
            let read = shared.file(handle)?.read_at(&mut bytes, offset)?;
            bytes.truncate(read);
            Ok(bytes)
        };
        self.perform(Operation::Read, self.path(inode), reply, work, |reply, done| match done {
            Ok(bytes) => reply.data(&bytes),
            Err(error) => reply.error(error),
        });
    }

    fn write(
        &self,
        _: &Request,
        inode: INodeNo,
        handle: FileHandle,
        offset: u64,
        data: &[u8],
        _: WriteFlags,
        _: OpenFlags,
        _: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let data = data.to_vec();
        let work = move |shared: &Shared, _: &Path, short: bool| {
            let taken = if short { data.len().div_ceil(2) } else { data.len() };
            shared.file(handle)?.write_all_at(&data[..taken], offset)?;
            Ok(taken as u32)
        };
        self.perform(Operation::Write, self.path(inode), reply, work, |reply, done| match done {
            Ok(written) => reply.written(written),
            Err(error) => reply.error(error),
        });
    }

    fn flush(&self, _: &Request, inode: INodeNo, _: FileHandle, _: LockOwner, reply: ReplyEmpty) {
        self.perform(Operation::Flush, self.path(inode), reply, |_: &Shared, _: &Path, _| Ok(()), empty);
    }

    fn fsync(&self, _: &Request, inode: INodeNo, handle: FileHandle, _: bool, reply: ReplyEmpty) {
        let work = move |shared: &Shared, _: &Path, _| Ok(shared.file(handle)?.sync_all()?);
        self.perform(Operation::Fsync, self.path(inode), reply, work, empty);
    }

    fn release(
        &self,
        _: &Request,
        _: INodeNo,
        handle: FileHandle,
        _: OpenFlags,
        _: Option<LockOwner>,
        _: bool,
        reply: ReplyEmpty,
    ) {
        self.0.known().files.remove(&handle.0);
        reply.ok();
    }

    fn readdir(&self, _: &Request, inode: INodeNo, _: FileHandle, offset: u64, reply: ReplyDirectory) {
        let work = move |_: &Shared, path: &Path, _| {
            let mut entries =
                vec![(inode.0, FileType::Directory, ".".into()), (inode.0, FileType::Directory, "..".into())];
            for entry in fs::read_dir(path)? {
                let entry = entry?;
                // Renamed or removed since it was listed.
                let Ok(metadata) = entry.metadata() else { continue };
                entries.push((metadata.ino(), kind(metadata.file_type()), entry.file_name()));
            }
            Ok(entries)
        };
        let skip = usize::try_from(offset).unwrap_or(usize::MAX);
        self.perform(
            Operation::Readdir,
            self.path(inode),
            reply,
            work,
            move |mut reply, done: Done<Vec<(u64, FileType, OsString)>>| match done {
                Ok(entries) => {
                    for (at, (inode, kind, name)) in entries.into_iter().enumerate().skip(skip) {
                        if reply.add(INodeNo(inode), at as u64 + 1, kind, name) {
                            break;
                        }
                    }
                    reply.ok();
                }
                Err(error) => reply.error(error),
            },
        );
    }

    fn statfs(&self, _: &Request, inode: INodeNo, reply: ReplyStatfs) {
        let work = |_: &Shared, path: &Path, _| Ok(rustix::fs::statvfs(path).map_err(io::Error::from)?);
        self.perform(Operation::Statfs, self.path(inode), reply, work, |reply, done| match done {
            Ok(s) => reply.statfs(
                s.f_blocks,
                s.f_bfree,
                s.f_bavail,
                s.f_files,
                s.f_ffree,
                u32::try_from(s.f_bsize).unwrap_or(4096),
                u32::try_from(s.f_namemax).unwrap_or(255),
                u32::try_from(s.f_frsize).unwrap_or(4096),
            ),
            Err(error) => reply.error(error),
        });
    }
}
