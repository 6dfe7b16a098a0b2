//! What actors log and count. Metric names live here and nowhere else.

use crate::publisher_lock::claims::Leaving;
use media::packager::Counts;
use media::{Segment, TICKS_PER_SECOND};
use metrics::{counter, gauge};
use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Once;
use std::sync::atomic::Ordering::Relaxed;
use storage::disk::DiskState;
use storage::events::errno;
use storage::recording::RecordingId;
use storage::retention::Reason;
use storage::signs::Health;
use storage::{LiveStream, Mount, Room};
use tracing::{debug, error, info, warn};

/// Lets counters begin at zero: who asks for an increase misses the first one of a series that was not there.
pub fn register() {
    let by_reason: [(&'static str, &[&'static str]); 5] = [
        ("steadycast_publisher_evictions_total", &["stale", "silent", "unread", "takeover"]),
        (
            "steadycast_publish_refusals_total",
            &[
                "taken",
                "closing",
                "too_many_streams",
                "not_opened",
                "stopping",
                "bad_name",
                "denied",
                "codec",
                "overdue",
            ],
        ),
        ("steadycast_connections_refused_total", &["total", "address"]),
        ("steadycast_publisher_ends_total", &["unpublished", "lost"]),
        (
            "steadycast_connections_ended_total",
            &[
                "closed",
                "io",
                "protocol",
                "publish_overdue",
                "bitrate",
                "message_rate",
                "fenced",
                "does_not_read",
                "late_answer",
                "told_to_leave",
            ],
        ),
    ];
    for (name, reasons) in by_reason {
        reasons.iter().for_each(|reason| counter!(name, "reason" => *reason).increment(0));
    }
    for name in [
        "steadycast_publishes_total",
        "steadycast_publishes_held_total",
        "steadycast_sessions_ended_total",
        "steadycast_slates_total",
        "steadycast_accept_errors_total",
        "steadycast_archive_damage_total",
        "steadycast_archive_operations_abandoned_total",
        "steadycast_recording_damage_total",
        "steadycast_recording_index_lost_total",
        "steadycast_recordings_finished_total",
    ] {
        counter!(name).increment(0);
    }
    for reason in Reason::ALL {
        counter!("steadycast_recordings_removed_total", "reason" => reason.label()).increment(0);
    }
}

/// A session was given a stream.
pub fn publisher_granted(stream: &LiveStream, epoch: u64) {
    counter!("steadycast_publishes_total").increment(1);
    info!(stream = %stream.name, session = %stream.session.id, epoch, "publishing");
}

/// A publisher is gone; its session waits.
pub fn publisher_gone(stream: &LiveStream, epoch: u64, leaving: Leaving) {
    let (left, grace) = match leaving {
        Leaving::Unpublished => ("unpublished", stream.settings.grace_unpublished),
        Leaving::Lost => ("lost", stream.settings.grace),
    };
    counter!("steadycast_publisher_ends_total", "reason" => left).increment(1);
    info!(stream = %stream.name, epoch, left, grace_s = grace.as_secs(), "publisher gone, session waits");
}

/// An encoder asks for a stream that is held; it waits until it is known whether the holder lives.
pub fn publish_held(stream: &LiveStream) {
    counter!("steadycast_publishes_held_total").increment(1);
    debug!(stream = %stream.name, "another encoder asks for the stream");
}

/// A publisher lost its stream.
pub fn publisher_evicted(stream: &LiveStream, epoch: u64, reason: &'static str) {
    counter!("steadycast_publisher_evictions_total", "reason" => reason).increment(1);
    warn!(stream = %stream.name, epoch, reason, "publisher evicted");
}

/// The publisher is away, and something else is shown.
pub fn slate_begun(stream: &LiveStream) {
    counter!("steadycast_slates_total").increment(1);
    info!(stream = %stream.name, "slate begun");
}

/// A publisher is back, or the session is over.
pub fn slate_over(stream: &LiveStream) {
    info!(stream = %stream.name, "slate over");
}

/// The configured clip has other tracks than the stream.
pub fn slate_unfit(stream: &LiveStream) {
    warn!(stream = %stream.name, "the slate's clip has not the tracks of this stream: its last picture is shown instead");
}

/// A session is over.
pub fn session_ended(stream: &LiveStream) {
    counter!("steadycast_sessions_ended_total").increment(1);
    info!(stream = %stream.name, session = %stream.session.id, "session ended");
}

/// An encoder was told why it cannot publish.
pub fn publish_refused(peer: SocketAddr, stream: &str, label: &'static str, reason: &str) {
    counter!("steadycast_publish_refusals_total", "reason" => label).increment(1);
    warn!(%peer, stream, reason, "publish refused");
}

/// A connection ended.
pub fn connection_ended(peer: SocketAddr, stream: &str, reason: &'static str, end: &str) {
    counter!("steadycast_connections_ended_total", "reason" => reason).increment(1);
    // What its user must know who sees nothing but a connection that breaks.
    if matches!(reason, "bitrate" | "message_rate" | "protocol") && !stream.is_empty() {
        warn!(%peer, stream, end, "publisher ended");
    }
    debug!(%peer, stream, end, "connection ended");
}

/// A connection failed: a bug of ours that cost this encoder its connection.
pub fn connection_failed(reason: &str) {
    counter!("steadycast_actor_failures_total", "actor" => "session", "reason" => "failed").increment(1);
    error!(reason, "connection failed");
}

/// A connection blocks its thread; it is ended when it returns.
pub fn connection_stuck() {
    counter!("steadycast_actor_failures_total", "actor" => "session", "reason" => "stuck").increment(1);
    error!("a connection is stuck");
}

/// A connection was closed because too many have no stream yet.
pub fn connection_refused(peer: SocketAddr, reason: &'static str) {
    counter!("steadycast_connections_refused_total", "reason" => reason).increment(1);
    debug!(%peer, reason, "connection refused: too many without a stream");
}

/// Accepting failed.
pub fn accept_failed(error: &io::Error) {
    counter!("steadycast_accept_errors_total").increment(1);
    error!(%error, "accepting RTMP connections fails");
}

/// How many connections have no stream yet.
pub fn connections_without_stream(count: usize) {
    gauge!("steadycast_connections_without_stream").set(count as f64);
}

/// A segment is about to be published.
/// `first`: the playlist lists nothing before it.
pub fn segment_published(stream: &LiveStream, segment: &Segment, first: bool) {
    stream.stats.segments.fetch_add(1, Relaxed);
    stream.stats.segment_bytes.fetch_add(segment.bytes.len() as u64, Relaxed);
    stream.stats.discontinuities.fetch_add(u64::from(segment.discontinuity && !first), Relaxed);
    let seconds = segment.duration as f64 / TICKS_PER_SECOND as f64;
    debug!(stream = %stream.name, seconds, bytes = segment.bytes.len(), "segment published");
}

/// What the packager had to do to go on.
pub fn packaged(stream: &LiveStream, counts: Counts) {
    if counts.forced_cuts > 0 && stream.stats.forced_cuts.fetch_add(counts.forced_cuts, Relaxed) == 0 {
        warn!(stream = %stream.name, "a GOP exceeds the target duration: segments are cut inside it; set a shorter key frame interval");
    }
    if counts.undecodable > 0 {
        if stream.stats.samples_dropped.load(Relaxed) == 0 {
            warn!(stream = %stream.name, "media that cannot be decoded is dropped: it came before its sequence header or the first key frame");
        }
        dropped(stream, "undecodable", counts.undecodable);
    }
}

/// A segmenter was too slow and lost samples.
pub fn samples_missed(stream: &LiveStream, missed: u64) {
    dropped(stream, "missed", missed);
    error!(stream = %stream.name, missed, "samples lost: the segmenter is too slow");
}

fn dropped(stream: &LiveStream, reason: &'static str, samples: u64) {
    stream.stats.samples_dropped.fetch_add(samples, Relaxed);
    counter!("steadycast_samples_dropped_total", "reason" => reason).increment(samples);
}

/// A sample that made segmenters fail is skipped.
pub fn sample_skipped(stream: &LiveStream, position: u64, failures: u32) {
    dropped(stream, "poison", 1);
    warn!(stream = %stream.name, position, failures, "skipped a sample that made the segmenter fail");
}

/// A continuity record could not be written.
pub fn record_failed(stream: &LiveStream, error: &io::Error) {
    counter!("steadycast_continuity_record_errors_total").increment(1);
    warn!(stream = %stream.name, %error, "continuity record not written; a restart now would number from the clock");
}

/// The archive holds what the window says.
pub fn archive_current(stream: &LiveStream) {
    counter!("steadycast_archive_updates_total").increment(1);
    debug!(stream = %stream.name, "archive is current");
}

/// An archive operation failed and will be tried again.
pub fn archive_failed(stream: &LiveStream, error: &io::Error) {
    stream.stats.storage_errors.fetch_add(1, Relaxed);
    counter!("steadycast_archive_errors_total", "errno" => errno(error)).increment(1);
    debug!(stream = %stream.name, %error, "archive operation failed");
}

/// A session's recording is complete.
pub fn recorded(stream: &LiveStream, gaps: u64) {
    counter!("steadycast_recordings_finished_total").increment(1);
    info!(stream = %stream.name, session = stream.session.id, gaps, "recording finished");
}

/// An operation on a recording failed; it is tried again.
pub fn recording_failed(stream: &LiveStream, error: &io::Error) {
    stream.stats.storage_errors.fetch_add(1, Relaxed);
    counter!("steadycast_recording_errors_total", "errno" => errno(error)).increment(1);
    debug!(stream = %stream.name, %error, "recording failed, trying again");
}

/// A recording went, to make room or because of its age.
pub fn recording_removed(id: &RecordingId, reason: Reason) {
    counter!("steadycast_recordings_removed_total", "reason" => reason.label()).increment(1);
    info!(stream = %id.stream, session = id.session, reason = reason.label(), "recording removed");
}

/// More room is to be free than there is.
pub fn retention_impossible(all: u64) {
    static TOLD: Once = Once::new();
    TOLD.call_once(|| warn!(file_system_bytes = all, "free-gib is more than the file system has; it is ignored"));
}

/// Recordings could not be looked through or removed; it is tried again.
pub fn retention_failed(error: &io::Error) {
    counter!("steadycast_retention_errors_total", "errno" => errno(error)).increment(1);
}

/// It is something else than before.
pub fn retention_stuck(archive: &str, what: &dyn fmt::Display, error: &io::Error) {
    warn!(archive, %what, %error, "what should go cannot be removed, trying again");
}

/// It is gone, or can be.
pub fn retention_goes_on(archive: &str, what: &dyn fmt::Display) {
    info!(archive, %what, "what could not be removed is gone, or can be");
}

/// An archive operation did not come back.
pub fn archive_operation_abandoned(stream: &LiveStream) {
    stream.stats.storage_errors.fetch_add(1, Relaxed);
    counter!("steadycast_archive_operations_abandoned_total").increment(1);
    debug!(stream = %stream.name, "archive operation abandoned");
}

/// The archive was not what it should be; it is being mended.
pub fn archive_damaged(stream: &LiveStream, files: usize) {
    counter!("steadycast_archive_damage_total").increment(1);
    warn!(stream = %stream.name, files, "archive differs from the window, writing again");
}

/// The archive could not be looked at.
pub fn watch_failed(stream: &LiveStream, error: &io::Error) {
    counter!("steadycast_watch_errors_total", "errno" => errno(error)).increment(1);
    debug!(stream = %stream.name, %error, "archive could not be listed");
}

/// So many segments were recorded, and are in the recording's index no more.
pub fn index_lost(stream: &LiveStream, segments: u64) {
    counter!("steadycast_recording_index_lost_total").increment(segments);
    warn!(
        stream = %stream.name,
        segments,
        "the index of a recording is not what it was: what is in memory is listed again, the rest is a gap"
    );
}

/// How many files of a recording were found changed, and written again, and what failed meanwhile.
pub fn recording_mended(stream: &LiveStream, files: usize, result: io::Result<()>) {
    if files > 0 {
        counter!("steadycast_recording_damage_total").increment(files as u64);
        warn!(stream = %stream.name, files, "a recording differed from the window; it is mended");
    }
    if let Err(error) = result {
        recording_failed(stream, &error);
    }
}

/// Storage health changed.
pub fn storage_health(mount: &Mount, before: Health, now: Health) {
    let (archive, directory) = (&*mount.label, mount.directory.display());
    let (before_label, now_label) = (before.label(), now.label());
    match (before, now) {
        (_, Health::Healthy) => info!(archive, %directory, before = before_label, "storage is healthy again"),
        (Health::Healthy, _) => {
            let last = mount.signs.last_error(std::time::Instant::now()).unwrap_or_default();
            warn!(archive, %directory, now = now_label, last, "storage is degraded; live goes on from memory");
        }
        // One line when it degrades and one when it heals; what is between is for who looks closer.
        (_, _) => debug!(archive, before = before_label, now = now_label, "storage is degraded in another way"),
    }
}

/// Bytes that retention keeps free.
pub fn free_wanted(bytes: u64) {
    gauge!("steadycast_storage_free_wanted_bytes").set(bytes as f64);
}

/// How much room an archive has, with each probe that is answered; no number where it does not say.
pub fn storage_room(mount: &Mount, room: Option<Room>) {
    let (free, size) = room.map_or((f64::NAN, f64::NAN), |room| (room.free as f64, room.size as f64));
    gauge!("steadycast_storage_free_bytes", "archive" => mount.label.to_string()).set(free);
    gauge!("steadycast_storage_size_bytes", "archive" => mount.label.to_string()).set(size);
}

/// Another file system is where an archive was: a mount that was lost, or came back.
pub fn storage_replaced(mount: &Mount, before: Room, now: Room) {
    let (archive, directory) = (&*mount.label, mount.directory.display());
    let (bytes_before, bytes) = (before.size, now.size);
    warn!(archive, %directory, bytes_before, bytes, "an archive is on another file system now; is its mount lost?");
}

/// The recording of a session that had ended without it is finished.
pub fn interrupted_finished(id: &RecordingId) {
    info!(stream = %id.stream, session = id.session, "recording finished of a session that had been interrupted");
}

/// It is not, because of this.
pub fn interrupted_failed(id: &RecordingId, error: &io::Error) {
    let (stream, session) = (&id.stream, &id.session);
    warn!(%stream, session, %error, "the recording of an interrupted session cannot be finished; it is tried again");
}

/// They are not, because of this.
pub fn interrupted_left(archive: &str, error: &str) {
    warn!(archive, error, "interrupted recordings cannot be finished; it is tried again while the archive is well");
}

/// Storage gauges, once a second.
pub fn storage_gauges(mount: &Mount, health: Health, threads: DiskState) {
    let archive = || mount.label.to_string();
    for state in Health::ALL {
        let is_in = f64::from(u8::from(state == health));
        gauge!("steadycast_storage_state", "archive" => archive(), "state" => state.label()).set(is_in);
    }
    let degraded = f64::from(u8::from(health != Health::Healthy));
    gauge!("steadycast_storage_degraded", "archive" => archive()).set(degraded);
    gauge!("steadycast_storage_hung_operations", "archive" => archive()).set(threads.hung as f64);
    let is_open = f64::from(u8::from(mount.disk.is_open()));
    gauge!("steadycast_storage_breaker_open", "archive" => archive()).set(is_open);
}
