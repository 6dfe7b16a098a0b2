//! guard: a thread of the operating system that watches over the runtimes. It shares nothing with them but signs of life,
//! has stuck actors replaced, tells the service manager that there is progress while there is, and ends a process that
//! makes none, so that whoever started it starts it again.

use crate::health::{Health, Told, Wedged};
use crate::logging;
use crate::parent::heart::EVERY;
use metrics::gauge;
use ractor::{ActorId, ActorRef};
use sd_notify::NotifyState;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fs;
use std::os::unix::net::UnixDatagram;
use std::sync::atomic::Ordering;
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};
use supervisors::root;
use tracing::error;

/// How often it looks: a fifth of the shortest time after which something is stuck.
const LOOK: Duration = Duration::from_millis(200);
/// A look that comes later than this says that the process itself did not run: it was stopped, or the machine slept.
const SLEPT: Duration = Duration::from_secs(1);
/// A report of which nothing came is made again after this.
const TELL_AGAIN: Duration = Duration::from_secs(5);
/// Handlers that have run for this long are told of when the process ends.
const INSIDE: Duration = Duration::from_secs(1);
/// Threads that are told of when the process ends.
const MAX_THREADS: usize = 64;

/// Watches until the process is about to end by itself.
pub fn start(health: Health, root: ActorRef<root::Msg>, parent: Option<UnixDatagram>) -> std::io::Result<()> {
    let (looked, reported) = (Instant::now(), HashMap::new());
    let mut guard =
        Guard { health, root, looked, reported, service: Service::of_environment()?, parent, told_parent: None };
    guard.service.ready();
    guard.tell_parent(looked);
    let forever = move || {
        while !guard.health.ending.load(Ordering::Relaxed) {
            // The pace of the looks.
            thread::sleep(LOOK);
            if let Some(wedged) = guard.look(Instant::now()) {
                end(&wedged, &guard.health);
            }
        }
    };
    thread::Builder::new().name("guard".to_owned()).spawn(forever)?;
    Ok(())
}

struct Guard {
    health: Health,
    root: ActorRef<root::Msg>,
    looked: Instant,
    /// Stuck actors that were reported, and when. As many as there are.
    reported: HashMap<ActorId, Instant>,
    service: Service,
    parent: Option<UnixDatagram>,
    told_parent: Option<Instant>,
}

impl Guard {
    fn look(&mut self, now: Instant) -> Option<Wedged> {
        if now.saturating_duration_since(std::mem::replace(&mut self.looked, now)) > SLEPT {
            self.health.woke(now);
        }
        let stuck = self.health.stuck(now);
        gauge!("steadycast_stuck_actors").set(stuck.len() as f64);
        let wedged = self.health.wedged(&stuck, now);
        self.reported.retain(|id, _| stuck.iter().any(|stuck| stuck.id == *id));
        for stuck in stuck.into_iter().filter(|stuck| !stuck.is_replaced) {
            // Said once. Told again where nothing came of it: who replaces it may have been replaced himself.
            match self.reported.entry(stuck.id) {
                Entry::Occupied(told) if now.saturating_duration_since(*told.get()) < TELL_AGAIN => continue,
                Entry::Occupied(mut told) => drop(told.insert(now)),
                Entry::Vacant(first) => {
                    first.insert(now);
                    let seconds = stuck.time.as_secs_f64();
                    error!(actor = %stuck, message = stuck.message, seconds, "stuck, another one takes its place");
                }
            }
            // A root that is gone ends the process by itself.
            let _ = self.root.send_message(root::Msg::Stuck(stuck));
        }
        if wedged.is_none() {
            self.service.alive(now);
            self.tell_parent(now);
        }
        wedged
    }
}

impl Guard {
    /// The socket does not block: what a parent does not read is not missed.
    fn tell_parent(&mut self, now: Instant) {
        let Some(parent) = &self.parent else { return };
        if self.told_parent.is_none_or(|told| now.saturating_duration_since(told) >= EVERY) {
            self.told_parent = Some(now);
            let _ = parent.send(b"1");
        }
    }
}

/// The service manager (sd_notify(3)), if one wants to hear of us. Told by a thread of its own: one that does not read
/// would keep us from looking.
struct Service {
    every: Option<Duration>,
    told: Option<Instant>,
    speaker: SyncSender<NotifyState<'static>>,
}

impl Service {
    fn of_environment() -> std::io::Result<Self> {
        // What is not said while it does not read need not be said later.
        let (speaker, said) = sync_channel(1);
        let speak = move || said.into_iter().for_each(|state| drop(sd_notify::notify(&[state])));
        thread::Builder::new().name("service".to_owned()).spawn(speak)?;
        // Half the time after which the service manager acts, as sd_watchdog_enabled(3) has it.
        Ok(Self { every: sd_notify::watchdog_enabled().map(|time| time / 2), told: None, speaker })
    }

    /// Without a service manager nobody hears it, and nothing is wrong.
    fn ready(&self) {
        let _ = self.speaker.try_send(NotifyState::Ready);
    }

    fn alive(&mut self, now: Instant) {
        let Some(every) = self.every else { return };
        if self.told.is_none_or(|told| now.saturating_duration_since(told) >= every) {
            self.told = Some(now);
            let _ = self.speaker.try_send(NotifyState::Watchdog);
        }
    }
}

/// Says where it hangs, and ends the process: there is nothing in it that could be relied upon to stop.
fn end(wedged: &Wedged, health: &Health) -> ! {
    logging::last_words(last_words(wedged, health));
    std::process::exit(i32::from(crate::EXIT_STUCK));
}

/// One line of JSON, like the log's.
fn last_words(wedged: &Wedged, health: &Health) -> String {
    let reason = match wedged {
        Wedged::Runtime(name) => format!("the {name} runtime runs nothing"),
        Wedged::Threads(blocked) => format!("{blocked} threads of the actors' runtime are blocked"),
        Wedged::Root => "the root of the supervision tree is stuck".to_owned(),
    };
    let inside = health.vitals.inside(INSIDE, Instant::now());
    let words = serde_json::json!({
        "level": "ERROR",
        "message": "no progress, ending the process for its parent to start it again",
        "reason": reason,
        "stuck": inside.iter().map(Told::of).collect::<Vec<_>>(),
        "threads": threads(),
    });
    format!("{words}\n")
}

/// Names of our threads, their states, and where in the kernel they wait (proc(5)).
fn threads() -> Vec<serde_json::Value> {
    let Ok(tasks) = fs::read_dir("/proc/self/task") else { return Vec::new() };
    let read = |path: std::path::PathBuf| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let told = tasks.flatten().take(MAX_THREADS).map(|task| {
        let stat = read(task.path().join("stat"));
        // The state follows the name, which is in parentheses and may hold anything.
        let state = stat.rsplit_once(") ").and_then(|(_, rest)| rest.chars().next()).unwrap_or('?');
        serde_json::json!({
            "name": read(task.path().join("comm")),
            "state": state.to_string(),
            "wchan": read(task.path().join("wchan")),
        })
    });
    told.collect()
}
