//! The log: human on a terminal, JSON otherwise, never in the way of what it tells of.

use crate::config::LogFormat;
use anyhow::Context;
use std::env;
use std::io::{IsTerminal, Write, stderr};
use std::sync::mpsc::sync_channel;
use std::thread;
use std::time::Duration;
use tracing::warn;
use tracing_appender::non_blocking::{ErrorCounter, NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;

/// Lines that may wait for a slow reader of the log; beyond them lines are dropped and counted.
const MAX_LINES: usize = 16_384;
/// ractor speaks of every actor at `info`.
const DEFAULT_FILTER: &str = "info,ractor=warn";

/// Keeps the log's thread alive, and counts what it had to drop.
pub struct Log {
    _guard: WorkerGuard,
    dropped: ErrorCounter,
}

impl Log {
    /// Counter of lines dropped.
    pub fn dropped_lines(&self) -> ErrorCounter {
        self.dropped.clone()
    }
}

/// How long the last words may take: standard error may block.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// Says something before the process ends at once; what the log still holds is lost then. By another thread: a reader
/// that does not read would keep us here.
pub fn last_words(text: String) {
    let (said, heard) = sync_channel(1);
    let speaker = move || {
        let _ = stderr().write_all(text.as_bytes());
        let _ = said.send(());
    };
    if thread::Builder::new().name("last-words".to_owned()).spawn(speaker).is_ok() {
        let _ = heard.recv_timeout(LAST_WORDS);
    }
}

/// What is logged, and what is wrong with RUST_LOG, which does not keep a show from starting.
pub fn filter() -> (EnvFilter, Option<String>) {
    let wanted = env::var(EnvFilter::DEFAULT_ENV).ok().filter(|wanted| !wanted.is_empty());
    let parsed = EnvFilter::try_new(wanted.as_deref().unwrap_or(DEFAULT_FILTER));
    let mistake = parsed.as_ref().err().map(|error| {
        format!("RUST_LOG is no filter of the log, and ignored: {error}; try info, debug, or storage=debug,info")
    });
    (parsed.unwrap_or_else(|_| EnvFilter::new(DEFAULT_FILTER)), mistake)
}

/// Starts logging to standard error. RUST_LOG filters.
pub fn start(format: LogFormat) -> anyhow::Result<Log> {
    let (writer, guard): (NonBlocking, WorkerGuard) =
        NonBlockingBuilder::default().buffered_lines_limit(MAX_LINES).lossy(true).finish(stderr());
    let dropped = writer.error_counter();
    let (filter, mistake) = filter();
    let human = match format {
        LogFormat::Auto => stderr().is_terminal(),
        LogFormat::Human => true,
        LogFormat::Json => false,
    };
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer).with_target(false);
    let installed = if human {
        builder.with_ansi(stderr().is_terminal()).compact().try_init()
    } else {
        builder.json().flatten_event(true).with_current_span(false).with_span_list(false).try_init()
    };
    installed.map_err(|error| anyhow::anyhow!("{error}")).context("log")?;
    if let Some(mistake) = mistake {
        warn!("{mistake}");
    }
    Ok(Log { _guard: guard, dropped })
}
