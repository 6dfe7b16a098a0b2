//! What the archiver has written aside gets its names.

use super::Plan;
use crate::events;
use memory::Content;
use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use storage::archive::Aside;
use storage::{Archive, LiveStream};
use tokio::time::{Duration, Instant};

/// A playlist that was replaced may still be read, by a web server or a copy: its file is not written into before this.
const READ_BY_THEN: Duration = Duration::from_secs(10);
/// Replaced files kept of each document: one for each tick until the first may be used again, and some.
const MAX_SPARES: usize = 32;

/// Replaced files for which there is new room at once.
const A_FEW: usize = 4;

/// Files that documents replaced, and since when they are replaced, oldest first. Later documents are written
/// into them, because creating and removing files costs file systems far more than writing does; but not before
/// whoever reads the archive has read them. After a failure they are left to who may still write.
#[derive(Debug, Default)]
pub struct Spares(BTreeMap<&'static str, VecDeque<(Instant, Aside)>>);

impl Spares {
    /// Removes them all: nothing is replaced any more.
    pub fn discard(self, archive: &dyn Archive, stream: &LiveStream) -> io::Result<()> {
        let mut all =
            self.0.into_iter().flat_map(|(name, spares)| spares.into_iter().map(move |(_, spare)| (name, spare)));
        all.try_for_each(|(name, spare)| archive.discard(&stream.name, name, spare))
    }

    /// A file that may be written into.
    fn take(&mut self, name: &str, now: Instant) -> Option<Aside> {
        let spares = self.0.get_mut(name)?;
        let (since, _) = spares.front()?;
        if now.saturating_duration_since(*since) < READ_BY_THEN {
            return None;
        }
        spares.pop_front().map(|(_, spare)| spare)
    }

    /// Keeps a file that was just replaced; the one to give up if they are too many.
    fn give(&mut self, name: &'static str, spare: Aside, now: Instant) -> Option<Aside> {
        let spares = self.0.entry(name).or_default();
        if spares.len() == spares.capacity() {
            // Their number hardly changes: twice the room would stay empty, with every stream.
            spares.reserve_exact(A_FEW);
        }
        spares.push_back((now, spare));
        if spares.len() > MAX_SPARES { spares.pop_front().map(|(_, spare)| spare) } else { None }
    }
}

/// A plan on its way to its names.
pub(super) struct Commit<'a> {
    pub archive: &'a dyn Archive,
    pub stream: &'a LiveStream,
    pub plan: &'a Plan,
    pub abandoned: &'a AtomicBool,
}

impl Commit<'_> {
    /// Segments, then digests, then playlists, then what is no longer named; the ledger follows each step.
    pub fn run(self, asides: &[Aside], mut spares: Spares) -> io::Result<Spares> {
        let Self { archive, stream, plan, .. } = self;
        for ((name, bytes), aside) in plan.write.iter().zip(asides) {
            self.still_ours()?;
            archive.commit(&stream.name, name, *aside)?;
            stream.ledger.add(name, bytes.len() as u64);
        }
        for (name, bytes) in plan.documents.iter().flat_map(|(_, write)| write) {
            self.document(name, bytes, &mut spares)?;
        }
        self.still_ours()?;
        if plan.ended && plan.documents.is_some() {
            std::mem::take(&mut spares).discard(archive, stream)?;
        }
        if let Some((documents, _)) = &plan.documents {
            stream.ledger.set_documents(Some(documents.clone()));
            events::archive_current(stream);
        }
        for name in &plan.remove {
            // Forgotten first: what goes and is believed to be there is damage to the watcher.
            stream.ledger.forget(name);
            archive.remove(&stream.name, name)?;
        }
        Ok(spares)
    }

    fn document(&self, name: &'static str, bytes: &Content, spares: &mut Spares) -> io::Result<()> {
        let (archive, stream, now) = (self.archive, &self.stream.name, Instant::now());
        let aside = match spares.take(name, now) {
            Some(spare) => archive.rewrite_aside(stream, name, spare, bytes).map(|()| spare)?,
            None => archive.write_aside(stream, name, bytes)?,
        };
        self.still_ours()?;
        let replaced = archive.exchange(stream, name, aside)?;
        match replaced.and_then(|replaced| spares.give(name, replaced, now)) {
            Some(too_many) => archive.discard(stream, name, too_many),
            None => Ok(()),
        }
    }

    fn still_ours(&self) -> io::Result<()> {
        if self.abandoned.load(Ordering::Acquire) { Err(io::Error::other("given up")) } else { Ok(()) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use storage::snapshot::{DIGESTS, MEDIA_PLAYLIST};

    #[test]
    fn a_file_that_was_just_replaced_is_not_written_into_before_its_readers_are_done() {
        let (mut spares, now) = (Spares::default(), Instant::now());
        assert_eq!(spares.give(MEDIA_PLAYLIST, Aside::numbered(1), now), None);
        assert_eq!(spares.give(MEDIA_PLAYLIST, Aside::numbered(2), now + READ_BY_THEN), None);
        assert_eq!(spares.take(MEDIA_PLAYLIST, now + READ_BY_THEN / 2), None);
        assert_eq!(spares.take(DIGESTS, now + READ_BY_THEN), None, "each document has its own");
        assert_eq!(spares.take(MEDIA_PLAYLIST, now + READ_BY_THEN), Some(Aside::numbered(1)));
        assert_eq!(spares.take(MEDIA_PLAYLIST, now + READ_BY_THEN), None);
    }

    #[test]
    fn replaced_files_that_are_too_many_are_given_up_oldest_first() {
        let (mut spares, now) = (Spares::default(), Instant::now());
        for n in 0..MAX_SPARES as u64 {
            assert_eq!(spares.give(DIGESTS, Aside::numbered(n), now), None);
        }
        assert_eq!(spares.give(DIGESTS, Aside::numbered(99), now), Some(Aside::numbered(0)));
    }
}
