//! Adoption: sessions that were live when the process before this one ended go on (invariant I6).

use std::collections::HashMap;
use std::io;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};
use storage::Numbers;
use storage::continuity::{Record, Records};
use storage::live::{LiveSettings, Publisher};
use storage::{LiveStream, Mount, Mounts, Registry};
use supervisors::events;

/// How long the archive may take to give back what viewers have seen; what is late is a gap.
const READ_DEADLINE: Duration = Duration::from_secs(1);

/// Puts every session that viewers may still be watching into the registry.
pub fn adopt(records: &Records, mounts: &Mounts, registry: &Registry, settings: LiveSettings) -> io::Result<()> {
    let deadline = Instant::now() + READ_DEADLINE;
    // All are asked for before any is waited for: the disk's threads share the work and the deadline.
    let reads: Vec<_> = records.all()?.into_iter().map(|record| (read_files(&record, mounts), record)).collect();
    for (read, record) in reads {
        let wait = deadline.saturating_duration_since(Instant::now());
        let mut files = read.and_then(|files| files.recv_timeout(wait).ok()).unwrap_or_default();
        let snapshot = record.adopt(&mut |name| files.remove(name));
        let (segments, gaps) =
            (snapshot.listed.len(), snapshot.listed.iter().filter(|segment| segment.listed.gap).count());
        let stream = LiveStream::new(record.stream.clone(), settings, record.session(), snapshot, record.epoch);
        // One that had ended is shown for as long as any ended session, and then forgotten.
        let waiting = Publisher::Grace { until: tokio::time::Instant::now() + settings.grace };
        stream.set_publisher(if record.ended { Publisher::Ended } else { waiting });
        events::adopted(&stream.name.to_string(), &stream.session.id, segments, gaps);
        if registry.insert(stream).is_err() {
            break;
        }
    }
    Ok(())
}

/// Files by name, once they are read.
type Files = Receiver<HashMap<String, bytes::Bytes>>;

/// Has what the archive holds of a record's files read on a disk thread; none if that is too busy.
fn read_files(record: &Record, mounts: &Mounts) -> Option<Files> {
    let (found, files) = sync_channel(1);
    let (stream, names) = (record.stream.clone(), record.file_names());
    let submitted = mounts.of(&record.stream).disk.submit(move |archive| {
        let read = names.into_iter().filter_map(|name| archive.read(&stream, &name).ok().map(|bytes| (name, bytes)));
        let _ = found.send(read.collect());
    });
    submitted.ok().map(|()| files)
}

/// The highest numbers in the archives, which those from the clock must exceed; none if one does not answer.
pub fn highest_numbers(mounts: &Mounts) -> Option<Numbers> {
    let deadline = Instant::now() + READ_DEADLINE;
    let asked: Vec<_> = mounts.all().map(ask_highest).collect();
    asked.into_iter().try_fold(Numbers::default(), |highest, asked| {
        let wait = deadline.saturating_duration_since(Instant::now());
        asked?.recv_timeout(wait).ok().flatten().map(|found| highest.or_higher(found))
    })
}

fn ask_highest(mount: &Mount) -> Option<Receiver<Option<Numbers>>> {
    let (found, highest) = sync_channel(1);
    let submitted = mount.disk.submit(move |archive| {
        let _ = found.send(archive.highest_numbers().ok());
    });
    submitted.ok().map(|()| highest)
}
