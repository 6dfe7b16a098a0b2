//! Adoption: sessions that were live when the process before this one ended go on (invariant I6).

use bytes::Bytes;
use std::cmp::Reverse;
use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};
use storage::Numbers;
use storage::continuity::{MAX_LEFT, Record, Records};
use storage::live::StreamSettings;
use storage::{LiveStream, Mount, Mounts, Registry};
use supervisors::events;

/// How long the archive may take to give back what viewers have seen; what is late is a gap.
const READ_DEADLINE: Duration = Duration::from_secs(1);

/// Sessions that had ended, at most, which are shown a little longer: each is a window in memory.
const MAX_ENDED: usize = 256;

/// Puts every session that viewers may still be watching into the registry. The highest numbers of those that are not
/// shown any more, and whose recordings are only to be finished.
pub fn adopt(
    remembered: &Records,
    mounts: &Mounts,
    registry: &Registry,
    settings: &StreamSettings,
) -> io::Result<Numbers> {
    let deadline = Instant::now() + READ_DEADLINE;
    let (mut records, mut left) = (remembered.all()?, remembered.left()?);
    // What is live comes first. Sessions that had ended and whose recordings lack something follow, the latest first.
    records.sort_by_key(|record| (record.ended, Reverse(record.over_at_ms())));
    left.sort_by_key(|record| Reverse(record.over_at_ms()));
    let live = records.iter().filter(|record| !record.ended).count();
    let kept = if settings.all.record { MAX_LEFT } else { 0 };
    let too_many = records.split_off(records.len().min(live + MAX_ENDED)).into_iter();
    let mut used = Numbers::default();
    // Of those that were recorded something is remembered for the time when their mount is back.
    let (mut recorded, mut left): (Vec<_>, Vec<_>) = left.into_iter().partition(|record| record.recorded);
    let too_many = too_many.chain(recorded.split_off(recorded.len().min(kept)));
    for forgotten in too_many.chain(left.split_off(left.len().min(kept))) {
        used = used.or_higher(forgotten.numbers_after());
        remembered.forget(&forgotten.id());
    }
    for kept in &recorded {
        used = used.or_higher(kept.numbers_after());
    }
    // All are asked for before any is waited for: the disk's threads share the work and the deadline.
    let ask = |record: Record| (read_files(&record, mounts), record);
    let (records, left): (Vec<_>, Vec<_>) =
        (records.into_iter().map(ask).collect(), left.into_iter().map(ask).collect());
    for (read, record) in records {
        let stream = adopted(&record, gathered(read, deadline), settings);
        let name = stream.name.to_string();
        if record.ended {
            events::adopted_ended(&name, &stream.session.id);
        } else {
            let listed = &stream.window.snapshot().listed;
            let gaps = listed.iter().filter(|segment| segment.listed.gap).count();
            events::adopted(&name, &stream.session.id, listed.len(), gaps);
        }
        if registry.insert(stream).is_err() {
            break;
        }
    }
    for (read, record) in left {
        registry.finish_later(&adopted(&record, gathered(read, deadline), settings));
        used = used.or_higher(record.numbers_after());
    }
    Ok(used)
}

/// A stream as it was remembered, with what was read of its files.
fn adopted(record: &Record, mut files: HashMap<String, Bytes>, settings: &StreamSettings) -> Arc<LiveStream> {
    record.restore(&mut |name| files.remove(name), settings)
}

/// Files with their names, as they are read.
type Files = Receiver<(String, Bytes)>;

/// What was read by then; none of it if the disk was too busy.
fn gathered(read: Option<Files>, deadline: Instant) -> HashMap<String, Bytes> {
    let mut files = HashMap::new();
    while let Some((name, bytes)) =
        read.as_ref().and_then(|read| read.recv_timeout(deadline.saturating_duration_since(Instant::now())).ok())
    {
        files.insert(name, bytes);
    }
    files
}

/// Has what the archive holds of a record's files read on a disk thread, the newest first: those viewers have yet to
/// fetch. None if that is too busy.
fn read_files(record: &Record, mounts: &Mounts) -> Option<Files> {
    let (stream, names) = (record.stream.clone(), record.file_names());
    let (found, files) = sync_channel(names.len());
    let submitted = mounts.of(&record.stream).disk.submit(move |archive| {
        for name in names {
            // What was written and has no name yet counts: adoption checks the digest of everything.
            let read = archive.read(&stream, &name).or_else(|_| archive.read_aside(&stream, &name));
            if let Ok(bytes) = read
                && found.send((name, bytes)).is_err()
            {
                return;
            }
        }
    });
    submitted.ok().map(|()| files)
}

/// The highest numbers in the archives, which those from the clock must exceed, and whether all have answered: one that
/// does not keeps nobody from what the others say.
pub fn highest_numbers(mounts: &Mounts) -> (Numbers, bool) {
    let deadline = Instant::now() + READ_DEADLINE;
    let asked: Vec<_> = mounts.all().map(ask_highest).collect();
    asked.into_iter().fold((Numbers::default(), true), |(highest, all), asked| {
        let wait = deadline.saturating_duration_since(Instant::now());
        match asked.and_then(|asked| asked.recv_timeout(wait).ok().flatten()) {
            Some(found) => (highest.or_higher(found), all),
            None => (highest, false),
        }
    })
}

fn ask_highest(mount: &Mount) -> Option<Receiver<Option<Numbers>>> {
    let (found, highest) = sync_channel(1);
    let submitted = mount.disk.submit(move |archive| {
        let _ = found.send(archive.highest_numbers().ok());
    });
    submitted.ok().map(|()| highest)
}
