//! Prometheus exporter: what the crates count, and what each stream is, rendered when asked.
//!
//! Per-stream series are rendered from the streams themselves: they go when the stream goes.

use crate::{metric_help, parent};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle};
use metrics_process::Collector;
use std::fmt::Write;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use storage::live::{Publisher, Stats};
use storage::{LiveStream, Registry};
use tokio::runtime::RuntimeMetrics;
use tokio::time::Instant;
use tracing_appender::non_blocking::ErrorCounter;

/// Buckets of request times, seconds: from a lookup in memory to the longest wait.
const REQUEST_BUCKETS: [f64; 10] = [0.0001, 0.0005, 0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 3.5];

/// Buckets of storage operations, seconds: from a rename in memory to one that is given up.
const STORAGE_BUCKETS: [f64; 10] = [0.0001, 0.001, 0.005, 0.02, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0];

/// One recorder a process: crates count into it from anywhere.
static HANDLE: OnceLock<PrometheusHandle> = OnceLock::new();

/// Renders metrics.
#[derive(Clone)]
pub struct Exporter {
    handle: PrometheusHandle,
    registry: Arc<Registry>,
    dropped_lines: ErrorCounter,
    /// How often a parent has started the worker again; none without a parent.
    restarts: Option<f64>,
    /// Memory, descriptors and processor time of the process.
    process: Collector,
    actors: RuntimeMetrics,
}

impl Exporter {
    /// Installs the recorder, the first time.
    pub fn install(
        registry: Arc<Registry>,
        dropped_lines: ErrorCounter,
        actors: RuntimeMetrics,
    ) -> anyhow::Result<Self> {
        let handle = match HANDLE.get() {
            Some(handle) => handle.clone(),
            None => {
                let requests = Matcher::Full("steadycast_http_request_seconds".to_owned());
                let operations = Matcher::Full("steadycast_storage_operation_seconds".to_owned());
                let recorder = PrometheusBuilder::new()
                    .set_buckets_for_metric(requests, &REQUEST_BUCKETS)?
                    .set_buckets_for_metric(operations, &STORAGE_BUCKETS)?
                    .build_recorder();
                let handle = recorder.handle();
                metrics::set_global_recorder(recorder)?;
                supervisors::events::register();
                actors::events::register();
                delivery::events::register();
                metric_help::describe();
                HANDLE.get_or_init(|| handle).clone()
            }
        };
        let restarts = std::env::var(parent::RESTARTS).ok().and_then(|restarts| restarts.parse().ok());
        let process = Collector::default();
        process.describe();
        Ok(Self { handle, registry, dropped_lines, restarts, process, actors })
    }

    /// Folds histograms; without it they would grow. Called every few seconds.
    pub fn upkeep(&self) {
        self.handle.run_upkeep();
    }

    /// The text Prometheus scrapes.
    pub fn render(&self) -> String {
        self.process.collect();
        let mut text = self.handle.render();
        let busy: f64 =
            (0..self.actors.num_workers()).map(|n| self.actors.worker_total_busy_duration(n).as_secs_f64()).sum();
        family(&mut text, "steadycast_runtime_busy_seconds_total", "counter", [(String::new(), busy)]);
        let threads = self.actors.num_workers() as f64;
        family(&mut text, "steadycast_runtime_threads", "gauge", [(String::new(), threads)]);
        family(
            &mut text,
            "steadycast_log_lines_dropped_total",
            "counter",
            [(String::new(), self.dropped_lines.dropped_lines() as f64)],
        );
        if let Some(restarts) = self.restarts {
            family(&mut text, "steadycast_worker_restarts_total", "counter", [(String::new(), restarts)]);
        }
        let streams = self.registry.all();
        let now = Instant::now();
        for (name, kind, value) in STREAM_FAMILIES {
            let lines = streams.iter().map(|stream| (format!("{{stream=\"{}\"}}", stream.name), value(stream, now)));
            family(&mut text, name, kind, lines);
        }
        text
    }
}

type StreamValue = fn(&LiveStream, Instant) -> f64;

/// Series of each stream, written once.
const STREAM_FAMILIES: [(&str, &str, StreamValue); 19] = [
    ("steadycast_stream_received_bytes_total", "counter", |stream, _| {
        count(&stream.stats, |stats| &stats.received_bytes)
    }),
    ("steadycast_stream_segments_published_total", "counter", |stream, _| {
        count(&stream.stats, |stats| &stats.segments)
    }),
    ("steadycast_stream_segment_bytes_total", "counter", |stream, _| {
        count(&stream.stats, |stats| &stats.segment_bytes)
    }),
    ("steadycast_stream_discontinuities_total", "counter", |stream, _| {
        count(&stream.stats, |stats| &stats.discontinuities)
    }),
    ("steadycast_stream_forced_cuts_total", "counter", |stream, _| count(&stream.stats, |stats| &stats.forced_cuts)),
    ("steadycast_stream_samples_dropped_total", "counter", |stream, _| {
        count(&stream.stats, |stats| &stats.samples_dropped)
    }),
    ("steadycast_stream_publisher_present", "gauge", |stream, _| {
        f64::from(u8::from(matches!(stream.publisher(), Publisher::Held { .. })))
    }),
    ("steadycast_stream_waiting", "gauge", |stream, _| {
        f64::from(u8::from(matches!(stream.publisher(), Publisher::Grace { .. })))
    }),
    ("steadycast_stream_slate", "gauge", |stream, _| f64::from(u8::from(stream.log.is_slate()))),
    ("steadycast_stream_epoch", "gauge", |stream, _| stream.epoch() as f64),
    ("steadycast_stream_next_media_sequence", "gauge", |stream, _| stream.window.snapshot().next_sequence as f64),
    ("steadycast_stream_log_bytes", "gauge", |stream, _| stream.log.bytes() as f64),
    ("steadycast_stream_held_bytes", "gauge", |stream, _| {
        (stream.window.snapshot().held_bytes() + stream.log.bytes()) as f64
    }),
    ("steadycast_stream_spool_limit_bytes", "gauge", |stream, _| stream.settings.spool_bytes as f64),
    ("steadycast_stream_archive_age_seconds", "gauge", |stream, now| {
        stream.ledger.added().map_or(0.0, |at| now.into_std().saturating_duration_since(at).as_secs_f64())
    }),
    ("steadycast_stream_storage_errors_total", "counter", |stream, _| {
        count(&stream.stats, |stats| &stats.storage_errors)
    }),
    ("steadycast_stream_spool_bytes", "gauge", |stream, _| stream.spool.bytes() as f64),
    ("steadycast_stream_recording_gaps_total", "counter", |stream, _| stream.spool.gaps() as f64),
    ("steadycast_stream_seconds_since_segment", "gauge", |stream, now| {
        // Since the publisher of now came, or the stream was opened, if no segment is later: it may never have had one.
        let published = stream.window.snapshot().published_at.map(|at| now.saturating_duration_since(at));
        let held = match stream.publisher() {
            Publisher::Held { since, .. } => Some(now.saturating_duration_since(since)),
            Publisher::Free | Publisher::Grace { .. } | Publisher::Ended => None,
        };
        published.into_iter().chain(held).min().unwrap_or_else(|| stream.age(now)).as_secs_f64()
    }),
];

fn count(stats: &Stats, pick: fn(&Stats) -> &AtomicU64) -> f64 {
    pick(stats).load(Ordering::Relaxed) as f64
}

/// One metric family. Writing to a String cannot fail.
fn family(text: &mut String, name: &str, kind: &str, lines: impl IntoIterator<Item = (String, f64)>) {
    let _ = writeln!(text, "# HELP {name} {}\n# TYPE {name} {kind}", metric_help::of(name));
    for (labels, value) in lines {
        let _ = writeln!(text, "{name}{labels} {value}");
    }
}
