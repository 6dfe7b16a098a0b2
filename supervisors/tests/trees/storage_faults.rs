//! Storage fails; viewers get what they would have got, and the archive heals.

use crate::harness::{Tree, packaged, published, wait_for};
use bytes::Bytes;
use memory::Content;
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicI32, Ordering};
use std::time::Duration;
use storage::Numbers;
use storage::archive::{Aside, LocalDirectory, Room};
use storage::{Archive, StreamName};

/// The errno that stands for a write that does not come back.
const HANGS: i32 = -1;

/// A directory whose writes fail with an errno, or hang, while one is set.
struct Failing {
    directory: LocalDirectory,
    errno: AtomicI32,
}

impl Failing {
    fn at(path: &Path) -> Arc<Self> {
        Arc::new(Self { directory: LocalDirectory::at(path), errno: AtomicI32::new(0) })
    }

    fn fails(&self) -> io::Result<()> {
        while self.errno.load(Ordering::Relaxed) == HANGS {
            std::thread::sleep(Duration::from_millis(5));
        }
        let errno = self.errno.load(Ordering::Relaxed);
        if errno == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(errno)) }
    }
}

impl Archive for Failing {
    /// Fails after the write: what was written is left behind.
    fn write_aside(&self, stream: &StreamName, name: &str, bytes: &Content) -> io::Result<Aside> {
        let aside = self.directory.write_aside(stream, name, bytes)?;
        self.fails().map(|()| aside)
    }

    fn sync(&self) -> io::Result<()> {
        self.directory.sync()
    }

    fn commit(&self, stream: &StreamName, name: &str, aside: Aside) -> io::Result<()> {
        self.fails().and_then(|()| self.directory.commit(stream, name, aside))
    }

    fn rewrite_aside(&self, stream: &StreamName, name: &str, aside: Aside, bytes: &Content) -> io::Result<()> {
        self.fails().and_then(|()| self.directory.rewrite_aside(stream, name, aside, bytes))
    }

    fn exchange(&self, stream: &StreamName, name: &str, aside: Aside) -> io::Result<Option<Aside>> {
        self.fails().and_then(|()| self.directory.exchange(stream, name, aside))
    }

    fn discard(&self, stream: &StreamName, name: &str, aside: Aside) -> io::Result<()> {
        self.directory.discard(stream, name, aside)
    }

    fn remove(&self, stream: &StreamName, name: &str) -> io::Result<()> {
        self.directory.remove(stream, name)
    }

    fn list(&self, stream: &StreamName) -> io::Result<BTreeMap<String, u64>> {
        self.directory.list(stream)
    }

    fn names(&self, stream: &StreamName) -> io::Result<BTreeSet<String>> {
        self.directory.names(stream)
    }

    fn read(&self, stream: &StreamName, name: &str) -> io::Result<Bytes> {
        self.directory.read(stream, name)
    }

    fn read_aside(&self, stream: &StreamName, name: &str) -> io::Result<Bytes> {
        self.directory.read_aside(stream, name)
    }

    fn highest_numbers(&self) -> io::Result<Numbers> {
        self.directory.highest_numbers()
    }

    fn probe(&self) -> io::Result<()> {
        self.fails().and_then(|()| self.directory.probe())
    }

    fn room(&self) -> io::Result<Room> {
        self.directory.room()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn writes_that_fail_or_hang_touch_no_viewer_and_the_archive_is_whole_afterwards() {
    const EIO: i32 = 5;
    const ENOSPC: i32 = 28;
    for errno in [EIO, ENOSPC, HANGS] {
        let directory = tempfile::tempdir().expect("temporary directory");
        let archive = Failing::at(&directory.path().join("data"));
        let tree = Tree::start_on(directory, archive.clone()).await;
        let mut show = tree.publish("show").await;
        let stream = tree.stream("show");
        show.send(300);
        wait_for("something is archived", || stream.ledger.documents()).await;
        archive.errno.store(errno, Ordering::Relaxed);
        show.send(usize::MAX >> 1);
        show.session.stop(None);
        let held = || matches!(stream.publisher(), storage::Publisher::Held { .. });
        wait_for("the loss is noticed", || (!held()).then_some(())).await;
        packaged(&stream).await;
        assert_eq!(published(&stream), show.undisturbed(), "errno {errno}");
        // The fault has struck: something was written and not committed.
        let asides = |of: fn(&str) -> bool| {
            let listed = archive.list(&stream.name).expect("listed").into_keys();
            listed.filter(|name| name.ends_with(".tmp") && of(name)).count()
        };
        let leftovers = || asides(|name| name.starts_with("0-"));
        wait_for("an operation is struck", || (leftovers() > 0).then_some(())).await;
        archive.errno.store(0, Ordering::Relaxed);
        let snapshot = stream.window.snapshot();
        wait_for("the archive heals", || {
            (stream.ledger.documents().map(|there| there.version) == Some(snapshot.version)).then_some(())
        })
        .await;
        for (name, file) in snapshot.files() {
            assert_eq!(archive.read(&stream.name, name).expect("archived"), file.bytes.to_bytes(), "{name}");
        }
        assert_eq!(leftovers(), 0, "errno {errno}");
        // What playlists and digests replaced is kept, to write later ones into: three each of the plan of this snapshot; and if
        // it hung and did not fail, of the one that was struck and of one that came through before it.
        let plans = if errno == HANGS { 3 } else { 1 };
        assert!(asides(|name| !name.starts_with("0-")) <= 3 * plans, "errno {errno}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_that_change_on_disk_are_written_again_though_nothing_else_tells_of_it() {
    let directory = tempfile::tempdir().expect("temporary directory");
    let data = directory.path().join("data");
    let tree = Tree::start_on(directory, Arc::new(LocalDirectory::at(&data))).await;
    let mut show = tree.publish("show").await;
    let stream = tree.stream("show");
    show.send(300);
    // From here on nothing is published that would hide what is mended.
    show.session.stop(None);
    let held = || matches!(stream.publisher(), storage::Publisher::Held { .. });
    wait_for("the loss is noticed", || (!held()).then_some(())).await;
    packaged(&stream).await;
    let snapshot = stream.window.snapshot();
    let version = || stream.ledger.documents().map(|there| there.version);
    wait_for("it is archived", || (version() == Some(snapshot.version)).then_some(())).await;
    // In place, and as long as before: as a disk does that loses bits.
    let spoil = |name: &str| {
        let path = data.join("live/live/show").join(name);
        let mut bytes = std::fs::read(&path).expect("archived");
        let middle = bytes.len() / 2;
        bytes[middle] ^= 1;
        std::fs::write(&path, &bytes).expect("written");
    };
    let is_mended = |name: &str, bytes: &Content| {
        std::fs::read(data.join("live/live/show").join(name)).is_ok_and(|there| there == bytes.to_bytes())
    };
    spoil("0.m3u8");
    let playlist = snapshot.media_playlist.content();
    wait_for("the playlist is mended", || is_mended("0.m3u8", &playlist).then_some(())).await;
    let segments: Vec<_> = snapshot.listed.iter().map(|listed| &listed.file).collect();
    segments.iter().for_each(|file| spoil(&file.name));
    // One is read back every 20 s.
    wait_for("a segment is mended", || segments.iter().find(|file| is_mended(&file.name, &file.bytes))).await;
}
