//! The parent: holds the listening sockets, starts the worker, and starts it again when it ends (invariant I9).
//!
//! While there is no worker, connections wait in the sockets' backlog: nobody is refused. It does nothing else, so that
//! there is little in it that can fail.

use crate::drain::EXIT_AT_ONCE;
use crate::run::Listeners;
use anyhow::Context;
use command_fds::{CommandFdExt, FdMapping};
use rustix::process::Signal;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{ExitCode, ExitStatus};
use std::time::Duration;
use supervisors::strategy::{Decision, Ending, History, Intensity, Restart};
use tokio::process::{Child, Command};
use tokio::signal::unix::{self, SignalKind, signal};
use tokio::time::{Instant, timeout_at};
use tracing::{error, info, warn};

/// A worker that ends this soon after the first start will not do better the next time: its directories are taken, say.
const FIRST_START: Duration = Duration::from_secs(2);
/// How long a worker may take to stop, beyond the time for which it serves viewers, before it is killed.
const STOP_WITHIN: Duration = Duration::from_secs(15);
/// Pause after a worker could not be started at all.
const NOT_STARTED_PAUSE: Duration = Duration::from_secs(1);
/// Descriptor of the first inherited socket (sd_listen_fds(3)).
const FIRST_FD: i32 = 3;
/// How often the worker was started again, for its metrics.
pub const RESTARTS: &str = "STEADYCAST_WORKER_RESTARTS";

/// What the worker's end leads to.
enum Next {
    RestartAfter(Duration),
    Exit(ExitCode),
}

struct Signals {
    terminate: unix::Signal,
    interrupt: unix::Signal,
    hangup: unix::Signal,
    upgrade: unix::Signal,
    /// How long a worker may take to stop.
    stop_within: Duration,
}

/// Runs workers until told to stop. Each may serve viewers for `drain` after that.
pub async fn run(listeners: Listeners, drain: Duration) -> anyhow::Result<ExitCode> {
    // Kept from the start: after an upgrade the file of that name is another one.
    let program = std::env::current_exe().context("the program's own path")?;
    let mut signals = Signals {
        terminate: signal(SignalKind::terminate())?,
        interrupt: signal(SignalKind::interrupt())?,
        hangup: signal(SignalKind::hangup())?,
        upgrade: signal(SignalKind::user_defined2())?,
        stop_within: drain + STOP_WITHIN,
    };
    // It always gets another try; how long that waits follows from how often it failed.
    let endless = Intensity { restarts: usize::MAX - 1, period: Duration::ZERO };
    let mut history = History::new(Restart::Permanent, endless, Instant::now());
    let mut restarts = 0;
    loop {
        let begun = Instant::now();
        history.started(begun);
        let watched = match start(&program, &listeners, restarts) {
            Ok(mut worker) => watch(&mut worker, &mut signals).await?,
            // The file is just being replaced, say, or there is no memory for a process: another try may find it.
            Err(error) if restarts > 0 => Watched::NotStarted(error),
            Err(error) => return Err(error),
        };
        let wait = match watched {
            Watched::Told(code) => return Ok(code),
            Watched::Upgrade => {
                info!("starting the worker again, from the file that is there now");
                // Meant, and no failure of anything: it is not counted.
                continue;
            }
            Watched::Ended(status) => match judge(status, restarts == 0 && begun.elapsed() < FIRST_START, &mut history)
            {
                Next::Exit(code) => return Ok(code),
                Next::RestartAfter(wait) => {
                    error!(%status, wait_ms = wait.as_millis() as u64, "the worker has ended, starting it again");
                    wait
                }
            },
            Watched::NotStarted(error) => {
                error!(error = %format!("{error:#}"), "the worker cannot be started, trying again");
                NOT_STARTED_PAUSE
            }
        };
        restarts += 1;
        tokio::select! {
            // The backoff, as supervisors have it between restarts of a child.
            () = tokio::time::sleep(wait) => {}
            _ = signals.terminate.recv() => return Ok(ExitCode::SUCCESS),
            _ = signals.interrupt.recv() => return Ok(ExitCode::SUCCESS),
        }
    }
}

/// What to do after a worker has ended by itself.
fn judge(status: ExitStatus, at_first_start: bool, history: &mut History) -> Next {
    // Another try does not mend a configuration. A worker that somebody stopped is started again: the parent was not told.
    let meant = status.code() == Some(i32::from(crate::EXIT_CONFIG));
    if meant || (at_first_start && status.code().is_some()) {
        return Next::Exit(exit_code(status));
    }
    match history.ended(Ending::Killed, Instant::now(), fastrand::f64()) {
        Decision::RestartAfter(wait) => Next::RestartAfter(wait),
        Decision::Leave | Decision::GiveUp => Next::Exit(ExitCode::FAILURE),
    }
}

fn exit_code(status: ExitStatus) -> ExitCode {
    status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from)
}

fn start(program: &PathBuf, listeners: &Listeners, restarts: u64) -> anyhow::Result<Child> {
    let sockets = [&listeners.rtmp, &listeners.http, &listeners.health];
    let mappings = sockets
        .into_iter()
        .zip(FIRST_FD..)
        .map(|(socket, child_fd)| anyhow::Ok(FdMapping { parent_fd: OwnedFd::from(socket.try_clone()?), child_fd }));
    let mut command = std::process::Command::new(program);
    command.args(std::env::args_os().skip(1)).env("LISTEN_FDS", sockets.len().to_string());
    // A service manager's watchdog is fed by who knows of progress: the worker.
    command.env_remove("LISTEN_PID").env_remove("WATCHDOG_PID").env(RESTARTS, restarts.to_string());
    command.fd_mappings(mappings.collect::<anyhow::Result<Vec<_>>>()?)?;
    let mut command = Command::from(command);
    command.kill_on_drop(true).spawn().with_context(|| program.display().to_string())
}

/// What a worker's life led to.
enum Watched {
    /// It ended by itself.
    Ended(ExitStatus),
    /// The parent was told to stop, and is to end with this.
    Told(ExitCode),
    /// The parent was told to start it again.
    Upgrade,
    /// There was none.
    NotStarted(anyhow::Error),
}

async fn watch(worker: &mut Child, signals: &mut Signals) -> anyhow::Result<Watched> {
    loop {
        tokio::select! {
            status = worker.wait() => return Ok(Watched::Ended(status?)),
            _ = signals.hangup.recv() => tell(worker, Signal::HUP),
            _ = signals.upgrade.recv() => return stop(worker, signals, Signal::USR2).await,
            _ = signals.terminate.recv() => return stop(worker, signals, Signal::TERM).await,
            _ = signals.interrupt.recv() => return stop(worker, signals, Signal::TERM).await,
        }
    }
}

/// Has it stop; kills it if that takes too long. Told to stop for good meanwhile, the parent obeys: at once, if it was
/// told that before.
async fn stop(worker: &mut Child, signals: &mut Signals, how: Signal) -> anyhow::Result<Watched> {
    tell(worker, how);
    let deadline = Instant::now() + signals.stop_within;
    let mut for_good = how == Signal::TERM;
    loop {
        tokio::select! {
            status = timeout_at(deadline, worker.wait()) => {
                let Ok(status) = status else { break };
                return Ok(if for_good { Watched::Told(exit_code(status?)) } else { Watched::Upgrade });
            }
            _ = signals.terminate.recv() => {}
            _ = signals.interrupt.recv() => {}
        }
        if std::mem::replace(&mut for_good, true) {
            worker.start_kill()?;
            worker.wait().await?;
            return Ok(Watched::Told(ExitCode::from(EXIT_AT_ONCE)));
        }
        // It is stopping already, and to tell it twice would cut that short.
    }
    warn!("the worker does not stop, killing it");
    worker.start_kill()?;
    worker.wait().await?;
    Ok(if for_good { Watched::Told(ExitCode::FAILURE) } else { Watched::Upgrade })
}

/// A worker that has just ended needs no signal.
fn tell(worker: &Child, signal: Signal) {
    let pid = worker.id().and_then(|pid| i32::try_from(pid).ok()).and_then(rustix::process::Pid::from_raw);
    let _ = pid.map(|pid| rustix::process::kill_process(pid, signal));
}

/// Called by a worker: it ends with its parent, however that ends.
pub fn die_with_parent() -> anyhow::Result<()> {
    let parent = rustix::process::getppid();
    rustix::process::set_parent_process_death_signal(Some(Signal::KILL))?;
    // It may have ended before the call.
    anyhow::ensure!(rustix::process::getppid() == parent, "the parent has ended");
    Ok(())
}
