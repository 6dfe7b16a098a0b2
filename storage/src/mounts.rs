//! Mounts: where streams are archived, by application. Each has threads of its own, so that trouble of one is
//! nobody else's (invariant I10).

use crate::archive::{Archive, LocalDirectory, live_directory};
use crate::disk::{Disk, SyncPolicy};
use crate::hints::Hints;
use crate::metered::Metered;
use crate::name::StreamName;
use crate::recordings::Recordings;
use crate::signs::Signs;
use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// Label of the archive of every application that has none of its own; no application has this name.
const DEFAULT: &str = "*";

/// One archive.
#[derive(Clone)]
pub struct Mount {
    /// Value of metrics' `archive` label: the application, or `*`.
    pub label: Arc<str>,
    /// Its directory.
    pub directory: PathBuf,
    /// Its threads.
    pub disk: Arc<Disk>,
    /// Its recordings.
    pub recordings: Arc<Recordings>,
    /// How it has been lately.
    pub signs: Arc<Signs>,
    /// What inotify tells of it.
    pub hints: Arc<Hints>,
}

impl Mount {
    /// Starts the threads of the archive in `directory`.
    pub fn start(label: &str, directory: &Path, policy: SyncPolicy) -> io::Result<Self> {
        Self::of(label, directory, Arc::new(LocalDirectory::at(directory)), policy)
    }

    /// Starts the threads of an archive that is kept by other means.
    pub fn of(label: &str, directory: &Path, archive: Arc<dyn Archive>, policy: SyncPolicy) -> io::Result<Self> {
        let signs = Arc::new(Signs::default());
        let disk = Disk::start(Arc::new(Metered::new(archive, signs.clone())), policy)?;
        let recordings = Arc::new(Recordings::at(directory, signs.clone()));
        let hints = Arc::default();
        Ok(Self { label: label.into(), directory: directory.to_owned(), disk, recordings, signs, hints })
    }
}

impl Mount {
    /// Where the window of a stream lies.
    pub fn live_directory(&self, stream: &StreamName) -> PathBuf {
        live_directory(&self.directory, stream)
    }
}

/// All archives.
#[derive(Clone)]
pub struct Mounts {
    default: Mount,
    by_app: Arc<BTreeMap<String, Mount>>,
}

impl Mounts {
    /// One archive for everything.
    pub fn only(mount: Mount) -> Self {
        Self { default: mount, by_app: Arc::default() }
    }

    /// Starts the archive of all applications, and those that some have of their own.
    pub fn start(default: &Path, by_app: &BTreeMap<String, PathBuf>, policy: SyncPolicy) -> io::Result<Self> {
        let start = |(app, directory): (&String, &PathBuf)| {
            Mount::start(app, directory, policy).map(|mount| (app.clone(), mount))
        };
        let by_app = by_app.iter().map(start).collect::<io::Result<_>>()?;
        Ok(Self { default: Mount::start(DEFAULT, default, policy)?, by_app: Arc::new(by_app) })
    }

    /// Where a stream is archived.
    pub fn of(&self, stream: &StreamName) -> &Mount {
        self.by_app.get(stream.app()).unwrap_or(&self.default)
    }

    /// All of them, that of all other applications first.
    pub fn all(&self) -> impl Iterator<Item = &Mount> {
        std::iter::once(&self.default).chain(self.by_app.values())
    }

    /// The archive of all applications that have none of their own.
    pub fn default(&self) -> &Mount {
        &self.default
    }

    /// Applications that have one of their own.
    pub fn by_app(&self) -> impl Iterator<Item = (&str, &Mount)> {
        self.by_app.iter().map(|(app, mount)| (app.as_str(), mount))
    }
}
