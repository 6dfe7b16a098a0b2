//! drain: a process that was told to stop lets what is under way come to its end, within bounds.

use crate::health::Health;
use crate::logging;
use ractor::ActorRef;
use std::sync::atomic::Ordering;
use storage::live::Publisher;
use storage::{LiveStream, Registry};
use supervisors::root;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::{Duration, Instant, sleep, sleep_until, timeout};
use tracing::{info, warn};

/// How long publishers may take to leave, and what they sent to be published.
const PUBLISH_WITHIN: Duration = Duration::from_secs(3);
/// How long the archive may take to hold the last segments: it is rebuilt from the record and what it holds at the start.
const ARCHIVE_WITHIN: Duration = Duration::from_secs(2);
/// How often it is looked whether that is so.
const LOOK: Duration = Duration::from_millis(20);
/// Exit code of a process that was told twice.
pub const EXIT_AT_ONCE: u8 = 130;

/// How a process is told to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// For good: SIGTERM or SIGINT. Viewers are served for a while.
    Terminate,
    /// To make room for its successor: SIGUSR2. Viewers wait for that one.
    Upgrade,
}

/// Waits for a signal that says so.
pub async fn stop_signal() -> Stop {
    let (Ok(mut terminate), Ok(mut interrupt), Ok(mut upgrade)) =
        (signal(SignalKind::terminate()), signal(SignalKind::interrupt()), signal(SignalKind::user_defined2()))
    else {
        // Without handlers the default action ends the process, which is what is asked for.
        return std::future::pending().await;
    };
    tokio::select! {
        _ = terminate.recv() => Stop::Terminate,
        _ = interrupt.recv() => Stop::Terminate,
        _ = upgrade.recv() => Stop::Upgrade,
    }
}

/// Has encoders leave, publishes and archives what they sent, and serves viewers for `serve` in all.
pub async fn drain(root: &ActorRef<root::Msg>, registry: &Registry, health: &Health, serve: Duration) {
    let begun = Instant::now();
    health.draining.store(true, Ordering::Relaxed);
    // Without a service manager nobody hears it; one that does not read keeps only this thread.
    let stopping = || drop(sd_notify::notify(&[sd_notify::NotifyState::Stopping]));
    let _ = std::thread::Builder::new().name("service".to_owned()).spawn(stopping);
    info!(serve_s = serve.as_secs(), "draining: no encoder is accepted any more, told again it ends at once");
    let drained = async {
        if root.send_message(root::Msg::Drain).is_ok() {
            wait(PUBLISH_WITHIN, "published", registry, is_published).await;
            wait(ARCHIVE_WITHIN, "archived", registry, is_archived).await;
        }
        sleep_until(begun + serve).await;
    };
    tokio::select! {
        () = drained => {}
        _ = stop_signal() => {
            logging::last_words("steadycast: told twice, ending at once\n".to_owned());
            std::process::exit(i32::from(EXIT_AT_ONCE));
        }
    }
}

async fn wait(limit: Duration, what: &'static str, registry: &Registry, is_done: fn(&LiveStream) -> bool) {
    let all = async {
        while !registry.all().iter().all(|stream| is_done(stream)) {
            // The pace of the looks: what decides is the condition, and the limit.
            sleep(LOOK).await;
        }
    };
    if timeout(limit, all).await.is_err() {
        let late = registry.all().iter().filter(|stream| !is_done(stream)).count();
        warn!(streams = late, what, "stopping without");
    }
}

/// Nobody publishes, and what was sent is in the window.
fn is_published(stream: &LiveStream) -> bool {
    let is_held = matches!(stream.publisher(), Publisher::Held { .. });
    let snapshot = stream.window.snapshot();
    let position = snapshot.resume.as_ref().map_or(0, |resume| resume.position);
    // Without samples in the log there is nothing to publish.
    !is_held && (position >= stream.log.head() || stream.log.bytes() == 0)
}

fn is_archived(stream: &LiveStream) -> bool {
    let snapshot = stream.window.snapshot();
    !snapshot.has_playlist() || stream.ledger.documents().map(|there| there.version) == Some(snapshot.version)
}
