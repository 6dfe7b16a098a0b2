//! Adoption: sessions that were live when the process before this one ended go on (invariant I6).

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::time::{Duration, Instant};
use storage::continuity::{Record, Records};
use storage::disk::Disk;
use storage::live::{LiveSettings, Publisher};
use storage::{LiveStream, Registry};
use supervisors::events;

/// How long the archive may take to give back what viewers have seen; what is late is a gap.
const READ_DEADLINE: Duration = Duration::from_secs(1);

/// Puts every session that had not ended into the registry, waiting for its publisher.
pub fn adopt(records: &Records, disk: &Disk, registry: &Registry, settings: LiveSettings) -> io::Result<()> {
    let deadline = Instant::now() + READ_DEADLINE;
    for record in records.all()?.into_iter().filter(|record| !record.ended) {
        let mut files = read_files(&record, disk, deadline);
        let snapshot = record.adopt(&mut |name| files.remove(name));
        let (segments, gaps) =
            (snapshot.listed.len(), snapshot.listed.iter().filter(|segment| segment.listed.gap).count());
        let stream = LiveStream::new(record.stream.clone(), settings, record.session(), snapshot, record.epoch);
        stream.set_publisher(Publisher::Grace { until: tokio::time::Instant::now() + settings.grace });
        events::adopted(&stream.name.to_string(), &stream.session.id, segments, gaps);
        if registry.insert(stream).is_err() {
            break;
        }
    }
    Ok(())
}

/// What the archive holds of a record's files, read on a disk thread.
fn read_files(record: &Record, disk: &Disk, deadline: Instant) -> HashMap<String, bytes::Bytes> {
    let (found, files) = sync_channel(1);
    let (stream, names) = (record.stream.clone(), record.file_names());
    let submitted = disk.submit(move |archive| {
        let read = names.into_iter().filter_map(|name| archive.read(&stream, &name).ok().map(|bytes| (name, bytes)));
        let _ = found.send(read.collect());
    });
    let wait = deadline.saturating_duration_since(Instant::now());
    if submitted.is_err() { HashMap::new() } else { files.recv_timeout(wait).unwrap_or_default() }
}

/// The highest number in the archive, which numbers from the clock must exceed; none if it does not answer.
pub fn highest_sequence(disk: &Arc<Disk>) -> Option<u64> {
    let (found, highest) = sync_channel(1);
    let submitted = disk.submit(move |archive| {
        let _ = found.send(archive.highest_sequence().ok());
    });
    submitted.ok()?;
    highest.recv_timeout(READ_DEADLINE).ok().flatten()
}
