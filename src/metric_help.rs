//! What each metric says, for `# HELP` lines.

/// Metrics by name.
const HELP: [(&str, &str); 71] = [
    ("steadycast_accept_errors_total", "Connections that could not be accepted, for want of descriptors or memory."),
    ("steadycast_actor_failures_total", "Sessions that failed; their encoders connect again."),
    ("steadycast_actor_restarts_total", "Actors that were started again by their supervisors."),
    (
        "steadycast_archive_damage_total",
        "Looks that found files of an archive missing or changed; they are written again.",
    ),
    ("steadycast_archive_errors_total", "Attempts to bring an archive up to date that failed."),
    ("steadycast_archive_operations_abandoned_total", "Operations on archives that did not come back in time."),
    ("steadycast_archive_updates_total", "Times an archive was brought up to date with its window."),
    ("steadycast_connections_ended_total", "RTMP connections that ended, by reason."),
    (
        "steadycast_connections_refused_total",
        "RTMP connections refused because there were too many, in all or of an address.",
    ),
    ("steadycast_connections_without_stream", "RTMP connections that do not publish yet."),
    ("steadycast_continuity_record_errors_total", "Continuity records that could not be written."),
    ("steadycast_http_connections", "Open HTTP connections, of viewers and of who asks for health."),
    (
        "steadycast_http_connections_refused_total",
        "HTTP connections refused because there were too many, in all or of an address.",
    ),
    ("steadycast_http_request_seconds", "Time to answer HTTP requests, waiting for what is not there yet included."),
    ("steadycast_http_requests_total", "HTTP requests by kind of file and class of status."),
    ("steadycast_log_lines_dropped_total", "Lines of the log that nobody read in time."),
    ("steadycast_publish_refusals_total", "Publishes refused, by reason."),
    ("steadycast_publisher_ends_total", "Publishers that left their streams: unpublished, or lost."),
    ("steadycast_publisher_evictions_total", "Publishers that lost their streams to others or by their silence."),
    ("steadycast_publishes_held_total", "Publishes held until it is known whether the holder lives."),
    ("steadycast_publishes_total", "Publishes accepted."),
    (
        "steadycast_recording_index_lost_total",
        "Segments that were in the index of a live recording and were not when it was opened again.",
    ),
    (
        "steadycast_recording_damage_total",
        "Files of recordings found changed while they were in memory, and written again.",
    ),
    ("steadycast_recording_errors_total", "Attempts to record that failed."),
    ("steadycast_recordings_finished_total", "Recordings that became a VOD."),
    (
        "steadycast_recordings_left_total",
        "Recordings left unfinished, because their last segments could not be written.",
    ),
    ("steadycast_recordings_removed_total", "Recordings removed by retention, by reason."),
    (
        "steadycast_retention_errors_total",
        "What a step of retention could not look at or remove, once for each kind, by errno.",
    ),
    ("steadycast_runtime_busy_seconds_total", "Time the threads of the actors' runtime were busy."),
    ("steadycast_runtime_threads", "Threads of the actors' runtime."),
    ("steadycast_samples_dropped_total", "Samples that were not published, by reason."),
    ("steadycast_sessions_adopted_total", "Sessions adopted from a process that ended."),
    ("steadycast_sessions_ended_total", "Sessions that ended."),
    ("steadycast_slates_total", "Slates that were begun."),
    ("steadycast_storage_breaker_open", "1 while an archive that hangs is left alone."),
    ("steadycast_storage_degraded", "1 while an archive is not healthy."),
    ("steadycast_storage_errors_total", "Operations on storage that failed, by kind and errno."),
    ("steadycast_storage_free_bytes", "Bytes free on the file system of an archive."),
    ("steadycast_storage_free_wanted_bytes", "Bytes that retention keeps free on each archive; 0 if it does not."),
    ("steadycast_storage_hung_operations", "Operations on storage that hang."),
    ("steadycast_storage_job_panics_total", "Jobs of disk threads that panicked."),
    ("steadycast_storage_operation_seconds", "Time operations on storage took, by kind."),
    ("steadycast_storage_size_bytes", "Size of the file system of an archive."),
    ("steadycast_storage_state", "1 for the state an archive is in."),
    ("steadycast_stream_archive_age_seconds", "Time since a segment of a stream last became durable."),
    ("steadycast_stream_discontinuities_total", "Discontinuities of a stream."),
    ("steadycast_stream_epoch", "Epoch of a stream: rises with each publisher."),
    ("steadycast_stream_forced_cuts_total", "Segments that ended without a random access point behind them."),
    (
        "steadycast_stream_held_bytes",
        "Bytes held for viewers: what can be fetched, and samples of segments that are not finished.",
    ),
    ("steadycast_stream_log_bytes", "Bytes of samples that are not in a segment yet."),
    ("steadycast_stream_next_media_sequence", "Media sequence number of the next segment."),
    ("steadycast_stream_publisher_present", "1 while a stream is being published."),
    ("steadycast_stream_rebuilds_total", "Trees of streams that were built again."),
    ("steadycast_stream_received_bytes_total", "Bytes received from the publishers of a stream."),
    ("steadycast_stream_recording_gaps_total", "Segments that are missing in the recording of a stream."),
    ("steadycast_stream_samples_dropped_total", "Samples of a stream that were not published."),
    ("steadycast_stream_seconds_since_segment", "Time since a stream's last new segment, or since its publisher came."),
    ("steadycast_stream_segment_bytes_total", "Bytes of all segments of a stream."),
    ("steadycast_stream_segments_published_total", "Segments of a stream."),
    ("steadycast_stream_slate", "1 while a slate is shown."),
    ("steadycast_stream_spool_bytes", "Bytes held for the recording of a stream until storage takes them."),
    ("steadycast_stream_spool_limit_bytes", "Bytes that may be held for it."),
    ("steadycast_stream_storage_errors_total", "Operations on storage that failed for a stream."),
    ("steadycast_stream_waiting", "1 while a stream's session waits for its publisher to come back."),
    ("steadycast_streams", "Streams there are."),
    ("steadycast_stuck_actors", "Actors that make no progress."),
    ("steadycast_supervisor_gave_up_total", "Children that failed so often that their supervisor gave up."),
    ("steadycast_watch_errors_total", "Looks at archives that failed."),
    ("steadycast_watch_hint_errors_total", "Errors of inotify; periodic looks go on without it."),
    ("steadycast_watch_hint_restarts_total", "Times inotify was set up again."),
    ("steadycast_worker_restarts_total", "Times the parent has started the worker again."),
];

/// What a metric says; nothing about one that is unknown.
pub fn of(name: &str) -> &'static str {
    HELP.iter().find(|(known, _)| *known == name).map_or("", |(_, help)| help)
}

/// Describes what crates count into the recorder.
pub fn describe() {
    for (name, help) in HELP {
        match name {
            _ if name.ends_with("_total") => metrics::describe_counter!(name, help),
            "steadycast_http_request_seconds" | "steadycast_storage_operation_seconds" => {
                metrics::describe_histogram!(name, help);
            }
            _ => metrics::describe_gauge!(name, help),
        }
    }
}
