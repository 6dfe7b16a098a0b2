//! The parent: holds the listening sockets, starts the worker, and starts it again when it ends (invariant I9).
//!
//! While there is no worker, connections wait in the sockets' backlog: nobody is refused. It does nothing else, so that
//! there is little in it that can fail.

pub mod heart;
pub mod undead;

use crate::Config;
use crate::drain::EXIT_AT_ONCE;
use crate::run::Listeners;
use anyhow::Context;
use command_fds::{CommandFdExt, FdMapping};
use heart::Heart;
use rustix::process::Signal;
use std::future::Future;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::pin::{Pin, pin};
use std::process::{ExitCode, ExitStatus, Stdio};
use std::time::Duration;
use supervisors::strategy::{Decision, Ending, History, Intensity, Restart};
use tokio::process::{Child, Command};
use tokio::signal::unix::{self, SignalKind, signal};
use tokio::time::{Instant, timeout, timeout_at};
use tracing::{error, info, warn};

/// A worker that ends this soon after the first start will not do better the next time: its directories are taken, say.
const FIRST_START: Duration = Duration::from_secs(2);
/// How long a worker may take to stop, beyond the time for which it serves viewers, before it is killed.
const STOP_WITHIN: Duration = Duration::from_secs(15);
/// How long a worker that was killed may take to end: longer does one that storage keeps.
const KILLED_WITHIN: Duration = Duration::from_secs(3);
/// Pause after a worker could not be started at all.
const NOT_STARTED_PAUSE: Duration = Duration::from_secs(1);
/// Descriptor of the first inherited socket (sd_listen_fds(3)).
const FIRST_FD: i32 = 3;
/// How often the worker was started again, for its metrics.
pub const RESTARTS: &str = "STEADYCAST_WORKER_RESTARTS";
/// Has a program check its configuration, whatever command it was given.
pub const CHECK: &str = "STEADYCAST_CHECK_ONLY";
/// How long that may take.
const CHECK_WITHIN: Duration = Duration::from_secs(5);

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

/// What outlives workers.
struct Parent {
    /// Kept from the start: after an upgrade the file of that name is another one.
    program: PathBuf,
    listeners: Listeners,
    signals: Signals,
    history: History,
    /// How often a worker was started because the one before had ended.
    restarts: u64,
    /// A worker has been well: what fails after that is tried again for ever.
    was_well: bool,
}

/// Runs workers until told to stop.
pub async fn run(listeners: Listeners, config: &Config) -> anyhow::Result<ExitCode> {
    let signals = Signals {
        terminate: signal(SignalKind::terminate())?,
        interrupt: signal(SignalKind::interrupt())?,
        hangup: signal(SignalKind::hangup())?,
        upgrade: signal(SignalKind::user_defined2())?,
        stop_within: config.drain + STOP_WITHIN,
    };
    // It always gets another try; how long that waits follows from how often it failed.
    let endless = Intensity { restarts: usize::MAX - 1, period: Duration::ZERO };
    let history = History::new(Restart::Permanent, endless, Instant::now());
    let program = std::env::current_exe().context("the program's own path")?;
    Parent { program, listeners, signals, history, restarts: 0, was_well: false }.run().await
}

impl Parent {
    async fn run(mut self) -> anyhow::Result<ExitCode> {
        loop {
            let begun = Instant::now();
            self.history.started(begun);
            let watched = match start(&self.program, &self.listeners, self.restarts) {
                Ok((mut worker, heart)) => {
                    let watched = self.watch(&mut worker, heart).await?;
                    if let Some(pid) = worker.id() {
                        leave(pid);
                    }
                    watched
                }
                // The file is just being replaced, say, or there is no memory for a process: another try may find it.
                Err(error) if self.was_well => Watched::NotStarted(error),
                Err(error) => return Err(error),
            };
            self.was_well |= begun.elapsed() >= FIRST_START;
            let wait = match watched {
                Watched::Told(code) => return Ok(code),
                // Meant, and no failure of anything: it is not counted.
                Watched::Upgrade => {
                    self.was_well = true;
                    info!("starting the worker again, from the file that is there now");
                    continue;
                }
                Watched::Ended(status) => match judge(status, self.was_well, &mut self.history) {
                    Next::Exit(code) => return Ok(code),
                    Next::RestartAfter(wait) => {
                        error!(%status, wait_ms = wait.as_millis() as u64, "the worker has ended, starting it again");
                        wait
                    }
                },
                Watched::Undead => match again(&mut self.history) {
                    Next::Exit(code) => return Ok(code),
                    Next::RestartAfter(wait) => wait,
                },
                Watched::NotStarted(error) => {
                    error!(error = %format!("{error:#}"), "the worker cannot be started, trying again");
                    NOT_STARTED_PAUSE
                }
            };
            self.restarts += 1;
            tokio::select! {
                // The backoff, as supervisors have it between restarts of a child.
                () = tokio::time::sleep(wait) => {}
                _ = self.signals.terminate.recv() => return Ok(ExitCode::SUCCESS),
                _ = self.signals.interrupt.recv() => return Ok(ExitCode::SUCCESS),
            }
        }
    }

    async fn watch(&mut self, worker: &mut Child, mut heart: Heart) -> anyhow::Result<Watched> {
        let mut checking = None;
        let mut undead = pin!(undead::becomes(worker.id()));
        loop {
            tokio::select! {
                status = worker.wait() => return Ok(Watched::Ended(status?)),
                () = &mut undead => return Ok(Watched::Undead),
                () = heart.stops() => {
                    error!("the worker gives no sign of life, killing it");
                    worker.start_kill()?;
                }
                _ = self.signals.hangup.recv() => tell(worker, Signal::HUP),
                _ = self.signals.upgrade.recv(), if checking.is_none() => {
                    info!("upgrade: the program that is there now checks the configuration");
                    checking = Some(Box::pin(may_upgrade(self.program.clone())));
                }
                may = checked(checking.as_mut()) => {
                    checking = None;
                    if may {
                        return stop(worker, &mut self.signals, Signal::USR2).await;
                    }
                }
                _ = self.signals.terminate.recv() => return stop(worker, &mut self.signals, Signal::TERM).await,
                _ = self.signals.interrupt.recv() => return stop(worker, &mut self.signals, Signal::TERM).await,
            }
        }
    }
}

/// The outcome of a check, if there is one under way.
async fn checked(checking: Option<&mut Pin<Box<impl Future<Output = bool>>>>) -> bool {
    match checking {
        Some(checking) => checking.await,
        None => std::future::pending().await,
    }
}

/// Whether the program that is there now can make something of the configuration that is there now: the worker that runs
/// is not ended for one that would not start.
async fn may_upgrade(program: PathBuf) -> bool {
    let mut check = Command::new(program);
    check.args(std::env::args_os().skip(1)).env(CHECK, "1").kill_on_drop(true);
    check.stdin(Stdio::null()).stdout(Stdio::null());
    let checked = match check.spawn() {
        Ok(mut check) => timeout(CHECK_WITHIN, check.wait()).await.map_err(|_| "it does not end".to_owned()),
        Err(error) => Err(error.to_string()),
    };
    let problem = match checked {
        Ok(Ok(status)) if status.success() => return true,
        Ok(Ok(status)) => status.to_string(),
        Ok(Err(error)) => error.to_string(),
        Err(problem) => problem,
    };
    error!(problem, "no upgrade: the new program does not take the configuration; the worker goes on");
    false
}

/// What to do after a worker has ended by itself.
fn judge(status: ExitStatus, was_well: bool, history: &mut History) -> Next {
    // What does not start the first time does not start the next: a wrong configuration, directories that are in use. One
    // that was well is started again whatever has come of its configuration since, and whoever stopped it: the parent was
    // not told.
    if !was_well && status.code().is_some() {
        return Next::Exit(exit_code(status));
    }
    again(history)
}

/// Another try, after a while.
fn again(history: &mut History) -> Next {
    match history.ended(Ending::Killed, Instant::now(), fastrand::f64()) {
        Decision::RestartAfter(wait) => Next::RestartAfter(wait),
        Decision::Leave | Decision::GiveUp => Next::Exit(ExitCode::FAILURE),
    }
}

fn exit_code(status: ExitStatus) -> ExitCode {
    status.code().and_then(|code| u8::try_from(code).ok()).map_or(ExitCode::FAILURE, ExitCode::from)
}

fn start(program: &PathBuf, listeners: &Listeners, restarts: u64) -> anyhow::Result<(Child, Heart)> {
    let (heart, theirs) = Heart::of_worker()?;
    let sockets = [&listeners.rtmp, &listeners.http, &listeners.health];
    let sockets = sockets.into_iter().map(|socket| socket.try_clone().map(OwnedFd::from));
    let sockets: Vec<_> = sockets.chain([Ok(theirs.into())]).collect::<Result<_, _>>()?;
    let count = sockets.len();
    let mappings = sockets.into_iter().zip(FIRST_FD..).map(|(parent_fd, child_fd)| FdMapping { parent_fd, child_fd });
    let mut command = std::process::Command::new(program);
    command.args(std::env::args_os().skip(1)).env("LISTEN_FDS", count.to_string());
    command.env_remove("LISTEN_PID").env_remove("WATCHDOG_PID").env(RESTARTS, restarts.to_string());
    // A service manager's watchdog is fed by who knows of progress: the worker.
    command.fd_mappings(mappings.collect())?;
    // A terminal's signals are the parent's, which passes them on: a worker that heard of them twice would end at once.
    command.process_group(0);
    let mut command = Command::from(command);
    let worker = command.kill_on_drop(true).spawn().with_context(|| program.display().to_string())?;
    Ok((worker, heart))
}

/// What a worker's life led to.
enum Watched {
    /// It ended by itself.
    Ended(ExitStatus),
    /// The parent was told to stop, and is to end with this.
    Told(ExitCode),
    /// The parent was told to start it again.
    Upgrade,
    /// All of it has ended but threads that wait for storage.
    Undead,
    /// There was none.
    NotStarted(anyhow::Error),
}

/// Has it stop; kills it if that takes too long. Told to stop for good meanwhile, the parent obeys: at once, if it was
/// told that before.
async fn stop(worker: &mut Child, signals: &mut Signals, how: Signal) -> anyhow::Result<Watched> {
    tell(worker, how);
    let deadline = Instant::now() + signals.stop_within;
    let mut for_good = how == Signal::TERM;
    let mut undead = pin!(undead::becomes(worker.id()));
    loop {
        tokio::select! {
            () = &mut undead => return Ok(if for_good { Watched::Told(ExitCode::FAILURE) } else { Watched::Upgrade }),
            status = timeout_at(deadline, worker.wait()) => {
                let Ok(status) = status else { break };
                return Ok(if for_good { Watched::Told(exit_code(status?)) } else { Watched::Upgrade });
            }
            // It is being stopped for that.
            _ = signals.upgrade.recv() => continue,
            _ = signals.terminate.recv() => {}
            _ = signals.interrupt.recv() => {}
        }
        if std::mem::replace(&mut for_good, true) {
            kill(worker).await?;
            return Ok(Watched::Told(ExitCode::from(EXIT_AT_ONCE)));
        }
        // It is stopping already, and to tell it twice would cut that short.
    }
    warn!("the worker does not stop, killing it");
    kill(worker).await?;
    Ok(if for_good { Watched::Told(ExitCode::FAILURE) } else { Watched::Upgrade })
}

/// Goes on without a worker that does not end, and hangs up for it.
fn leave(pid: u32) {
    match undead::hang_up(pid) {
        Ok(connections) => {
            error!(pid, connections, "the worker does not end while storage hangs; it is not waited for")
        }
        Err(error) => error!(pid, %error, "the worker does not end while storage hangs, and keeps its connections"),
    }
}

/// Kills it, and waits for its end, unless storage keeps it from ending.
async fn kill(worker: &mut Child) -> anyhow::Result<()> {
    worker.start_kill()?;
    if let Ok(status) = timeout(KILLED_WITHIN, worker.wait()).await {
        status?;
    }
    Ok(())
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
