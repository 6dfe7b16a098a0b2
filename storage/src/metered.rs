//! An archive whose operations are timed, and leave signs.

use crate::archive::{Archive, Aside, Room};
use crate::name::StreamName;
use crate::numbers::Numbers;
use crate::signs::{PROBE, Signs};
use bytes::Bytes;
use memory::Content;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

/// Wraps an archive.
pub struct Metered {
    archive: Arc<dyn Archive>,
    signs: Arc<Signs>,
}

impl Metered {
    /// Notes how `archive` does in `signs`.
    pub fn new(archive: Arc<dyn Archive>, signs: Arc<Signs>) -> Self {
        Self { archive, signs }
    }
}

impl Archive for Metered {
    fn write_aside(&self, stream: &StreamName, name: &str, bytes: &Content) -> io::Result<Aside> {
        self.signs.wait("write", || self.archive.write_aside(stream, name, bytes))
    }

    fn sync(&self) -> io::Result<()> {
        self.signs.wait("sync", || self.archive.sync())
    }

    fn commit(&self, stream: &StreamName, name: &str, aside: Aside) -> io::Result<()> {
        self.signs.wait("rename", || self.archive.commit(stream, name, aside))
    }

    fn rewrite_aside(&self, stream: &StreamName, name: &str, aside: Aside, bytes: &Content) -> io::Result<()> {
        self.signs.wait("write", || self.archive.rewrite_aside(stream, name, aside, bytes))
    }

    fn exchange(&self, stream: &StreamName, name: &str, aside: Aside) -> io::Result<Option<Aside>> {
        self.signs.wait("rename", || self.archive.exchange(stream, name, aside))
    }

    fn discard(&self, stream: &StreamName, name: &str, aside: Aside) -> io::Result<()> {
        self.signs.wait("remove", || self.archive.discard(stream, name, aside))
    }

    fn remove(&self, stream: &StreamName, name: &str) -> io::Result<()> {
        self.signs.wait("remove", || self.archive.remove(stream, name))
    }

    fn list(&self, stream: &StreamName) -> io::Result<BTreeMap<String, u64>> {
        self.signs.wait("list", || self.archive.list(stream))
    }

    fn names(&self, stream: &StreamName) -> io::Result<BTreeSet<String>> {
        self.signs.wait("list", || self.archive.names(stream))
    }

    fn read(&self, stream: &StreamName, name: &str) -> io::Result<Bytes> {
        self.signs.wait("read", || self.archive.read(stream, name))
    }

    fn read_aside(&self, stream: &StreamName, name: &str) -> io::Result<Bytes> {
        self.signs.wait("read", || self.archive.read_aside(stream, name))
    }

    fn highest_numbers(&self) -> io::Result<Numbers> {
        self.signs.wait("list", || self.archive.highest_numbers())
    }

    fn probe(&self) -> io::Result<()> {
        self.signs.wait(PROBE, || self.archive.probe())
    }

    fn room(&self) -> io::Result<Room> {
        self.signs.wait("statfs", || self.archive.room())
    }
}
