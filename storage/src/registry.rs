//! The registry of all streams.

use crate::live::LiveStream;
use crate::recording::RecordingId;
use arc_swap::ArcSwap;
use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use thiserror::Error;
use tokio::sync::watch;
use tokio::time::Instant;

/// Streams one process serves: each costs at least its window, so memory ends before this does.
pub const MAX_STREAMS: usize = 4096;

/// More than [`MAX_STREAMS`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
#[error("this server carries {MAX_STREAMS} streams already")]
pub struct TooManyStreams;

type Streams = HashMap<Arc<str>, Arc<LiveStream>>;

/// All streams by name: read by anybody without waiting, changed by the `streams` actor.
#[derive(Debug)]
pub struct Registry {
    streams: ArcSwap<Streams>,
    /// Serializes changes; readers never see it.
    writer: Mutex<()>,
    changes: watch::Sender<u64>,
    /// Sessions that have lost their name, and whose recordings wait for storage.
    finishing: Mutex<HashMap<RecordingId, Arc<LiveStream>>>,
    /// Until when names that are not known yet may still turn out to be live.
    settling_until: Instant,
}

impl Registry {
    /// An empty registry; unknown names are given until `settling_until` to appear.
    pub fn settling_until(settling_until: Instant) -> Arc<Self> {
        let (streams, writer, finishing) = (ArcSwap::default(), Mutex::default(), Mutex::default());
        Arc::new(Self { streams, writer, changes: watch::Sender::new(0), finishing, settling_until })
    }

    /// The stream called `application/name`.
    pub fn get(&self, path: &str) -> Option<Arc<LiveStream>> {
        self.streams.load().get(path).cloned()
    }

    /// All streams, in no order.
    pub fn all(&self) -> Vec<Arc<LiveStream>> {
        self.streams.load().values().cloned().collect()
    }

    /// Whether unknown names may still appear because the process is new.
    pub fn is_settling(&self, now: Instant) -> bool {
        now < self.settling_until
    }

    /// Adds a stream, replacing one of the same name.
    pub fn insert(&self, stream: Arc<LiveStream>) -> Result<(), TooManyStreams> {
        let path: Arc<str> = stream.name.to_string().into();
        self.change(|streams| {
            if streams.len() >= MAX_STREAMS && !streams.contains_key(&path) {
                return Err(TooManyStreams);
            }
            streams.insert(path, stream);
            Ok(())
        })
    }

    /// Removes `stream`, unless another one has its name by now.
    pub fn remove(&self, stream: &Arc<LiveStream>) {
        let path = stream.name.to_string();
        self.change(|streams| {
            if streams.get(path.as_str()).is_some_and(|current| Arc::ptr_eq(current, stream)) {
                streams.remove(path.as_str());
            }
        });
    }

    /// Says that a recording waits for storage, whoever has the name of its stream by now; false if it does already.
    /// `streams` bounds them.
    pub fn finish_later(&self, stream: &Arc<LiveStream>) -> bool {
        let mut finishing = self.finishing();
        let is_new = !finishing.contains_key(&RecordingId::of(stream));
        if is_new {
            finishing.insert(RecordingId::of(stream), stream.clone());
        }
        is_new
    }

    /// Says that a recording is complete, or given up.
    pub fn finish_no_more(&self, stream: &LiveStream) {
        self.finishing().remove(&RecordingId::of(stream));
    }

    /// The sessions whose recordings wait for storage.
    pub fn all_finishing(&self) -> Vec<Arc<LiveStream>> {
        self.finishing().values().cloned().collect()
    }

    /// How many there are besides one.
    pub fn finishing_besides(&self, id: &RecordingId) -> usize {
        let finishing = self.finishing();
        finishing.len() - usize::from(finishing.contains_key(id))
    }

    /// Whether a recording waits for storage, without its stream.
    pub fn is_finishing(&self, id: &RecordingId) -> bool {
        self.finishing().contains_key(id)
    }

    /// Whether a recorder may still write to it: the session goes on, or its last segments are on their way.
    pub fn is_recording(&self, id: &RecordingId) -> bool {
        let stream = self.get(&id.stream.to_string());
        let is_recorded = |stream: Arc<LiveStream>| stream.session.id == id.session && !stream.spool.is_finished();
        self.is_finishing(id) || stream.is_some_and(is_recorded)
    }

    /// Critical sections only look up and change the table.
    fn finishing(&self) -> MutexGuard<'_, HashMap<RecordingId, Arc<LiveStream>>> {
        self.finishing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the stream called `path`. The caller sets the deadline.
    pub async fn wait_for(&self, path: &str) -> Arc<LiveStream> {
        let mut changes = self.changes.subscribe();
        loop {
            if let Some(stream) = self.get(path) {
                return stream;
            }
            // The sender lives as long as `self`: this cannot fail.
            let _ = changes.changed().await;
        }
    }

    fn change<T>(&self, change: impl FnOnce(&mut Streams) -> T) -> T {
        let _writer = self.writer.lock().unwrap_or_else(PoisonError::into_inner);
        let mut streams = (**self.streams.load()).clone();
        let result = change(&mut streams);
        self.streams.store(Arc::new(streams));
        self.changes.send_modify(|changes| *changes += 1);
        result
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::live::{LiveSettings, Session};
    use crate::name::StreamName;
    use crate::snapshot::Snapshot;

    fn stream(name: &str) -> Arc<LiveStream> {
        let settings = LiveSettings::default();
        let name = StreamName::new("live", name).expect("valid name");
        LiveStream::new(name, settings, Session::beginning_at(1), Snapshot::default(), 0)
    }

    #[test]
    fn a_stream_that_was_replaced_does_not_remove_its_successor() {
        let registry = Registry::settling_until(Instant::now());
        let (old, new) = (stream("show"), stream("show"));
        registry.insert(old.clone()).expect("room");
        registry.insert(new.clone()).expect("room");
        registry.remove(&old);
        assert!(registry.get("live/show").is_some_and(|current| Arc::ptr_eq(&current, &new)));
    }
}
