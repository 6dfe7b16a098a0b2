//! Lists of recordings: page by page, or all.

use super::{DIRECTORY, Recordings, apps, names, streams};
use crate::disk;
use crate::name::StreamName;
use crate::recording::{RecordingId, SessionRecord};
use std::fs;
use std::io::{self, ErrorKind};

impl Recordings {
    /// Records of all sessions, by stream and session. What cannot be read as one is left out.
    pub fn all(&self) -> io::Result<Vec<SessionRecord>> {
        self.page(None, usize::MAX)
    }

    /// Records of all sessions as far as directories can be read, and why one cannot be.
    pub fn readable(&self) -> io::Result<(Vec<SessionRecord>, Option<io::Error>)> {
        let mut unreadable = None;
        let records = self.list(None, usize::MAX, |error| {
            unreadable = Some(error);
            Ok(())
        });
        Ok((records?, unreadable))
    }

    /// The next records after a recording's, in order, `limit` at most. No others are read, only names.
    pub fn page(&self, after: Option<&RecordingId>, limit: usize) -> io::Result<Vec<SessionRecord>> {
        self.list(after, limit, Err)
    }

    /// The same; what becomes of directories that cannot be read is asked.
    fn list(
        &self,
        after: Option<&RecordingId>,
        limit: usize,
        mut unreadable: impl FnMut(io::Error) -> io::Result<()>,
    ) -> io::Result<Vec<SessionRecord>> {
        let mut or_none = |listed: io::Result<_>| listed.or_else(|error| unreadable(error).map(|()| Vec::new()));
        let mut records = Vec::new();
        // An archive that is away is not one without recordings.
        if !fs::metadata(&self.root)?.is_dir() {
            return Err(ErrorKind::NotADirectory.into());
        }
        let root = self.root.join(DIRECTORY);
        for app in apps(&root)? {
            if after.is_some_and(|after| *app < *after.stream.app()) {
                continue;
            }
            for name in or_none(streams(&root, &app))? {
                let Ok(stream) = StreamName::new(&app, &name) else { continue };
                if after.is_some_and(|after| stream < after.stream) {
                    continue;
                }
                let sessions = or_none(names(&root.join(&app).join(&name)))?;
                let ids = sessions.iter().filter_map(|session| RecordingId::new(stream.clone(), session));
                for id in ids.filter(|id| after.is_none_or(|after| id > after)) {
                    if records.len() >= limit {
                        return Ok(records);
                    }
                    disk::goes_on();
                    // One that cannot be read now keeps nobody from the others; it is among the errors that are counted.
                    records.extend(self.signs.wait("read", || self.read(&id)).ok().flatten());
                }
            }
        }
        Ok(records)
    }
}
