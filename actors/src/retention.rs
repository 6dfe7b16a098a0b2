//! retention: removes recordings beyond what is to be kept, and the files of those that were removed.

use crate::events;
use crate::fault::Fault;
use crate::operations::{Answer, Operations, Turn};
use crate::vitals::{Vital, Vitals};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use std::io;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use storage::disk::Busy;
use storage::retention::Limits;
use storage::{Mount, Mounts, Recordings};
use tokio::time::{Duration, Instant};

/// How often archives are looked at.
const TICK: Duration = Duration::from_secs(30);

/// Messages to the retention actor.
#[derive(Debug)]
pub enum Msg {
    /// Time to look.
    Tick,
    /// A step is done in this archive; whether there are more.
    Stepped(usize, u64, io::Result<bool>),
    /// Fails on purpose.
    Fail(Fault),
}

/// What it needs to start.
#[derive(Clone)]
pub struct Args {
    /// All archives.
    pub mounts: Mounts,
    /// What is kept in each.
    pub limits: Limits,
    /// Where to register.
    pub vitals: Arc<Vitals>,
}

/// The actor.
#[derive(Debug, Default)]
pub struct Retention;

impl Actor for Retention {
    type Msg = Msg;
    type State = State;
    type Arguments = Args;

    async fn pre_start(&self, myself: ActorRef<Msg>, args: Args) -> Result<State, ActorProcessingErr> {
        myself.send_after(Duration::ZERO, || Msg::Tick);
        let archives = args.mounts.all().map(|mount| (mount.clone(), Operations::on(mount.disk.clone()))).collect();
        Ok(State { archives, limits: args.limits, vital: args.vitals.register("retention".to_owned()) })
    }

    async fn handle(&self, myself: ActorRef<Msg>, msg: Msg, state: &mut State) -> Result<(), ActorProcessingErr> {
        let _busy = state.vital.enter("handle");
        let now = Instant::now();
        match msg {
            Msg::Tick => {
                myself.send_after(TICK, || Msg::Tick);
                (0..state.archives.len()).for_each(|archive| state.step(&myself, archive, now));
            }
            Msg::Stepped(archive, ticket, result) => state.stepped(&myself, archive, ticket, result, now),
            Msg::Fail(fault) => fault.strike()?,
        }
        Ok(())
    }
}

/// One step at a time in each archive.
pub struct State {
    archives: Vec<(Mount, Operations)>,
    limits: Limits,
    vital: Arc<Vital>,
}

impl State {
    fn step(&mut self, myself: &ActorRef<Msg>, archive: usize, now: Instant) {
        let Some((mount, operations)) = self.archives.get_mut(archive) else { return };
        match operations.turn(now) {
            Turn::Begin => {}
            Turn::Wait => return,
            Turn::GiveUp => return operations.failed(now, fastrand::f64()),
        }
        let (recordings, limits) = (mount.recordings.clone(), self.limits);
        let answer = move |ticket, result| Msg::Stepped(archive, ticket, result);
        if let Err(Busy) = operations.begin(myself, now, move |_| step(&recordings, limits), answer) {
            operations.failed(now, fastrand::f64());
        }
    }

    fn stepped(&mut self, myself: &ActorRef<Msg>, archive: usize, ticket: u64, result: io::Result<bool>, now: Instant) {
        let Some((mount, operations)) = self.archives.get_mut(archive) else { return };
        match operations.answered(ticket, result) {
            Answer::Done(more) => {
                operations.succeeded();
                if more {
                    self.step(myself, archive, now);
                }
            }
            Answer::Failed(error) => {
                events::retention_failed(&mount.label, &error);
                operations.failed(now, fastrand::f64());
            }
            Answer::Stale => {}
        }
    }
}

/// A step that is short, however large recordings are: some files of one that was removed, or the removal of one.
/// Whether there is more to do.
fn step(recordings: &Recordings, limits: Limits) -> io::Result<bool> {
    if recordings.sweep()? {
        return Ok(true);
    }
    if limits.are_none() {
        return Ok(false);
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now_ms = i64::try_from(now.as_millis()).unwrap_or(i64::MAX);
    let exceeded = limits.exceeded(&recordings.all()?, recordings.free_bytes()?, now_ms);
    let Some((id, reason)) = exceeded.into_iter().next() else { return Ok(false) };
    recordings.remove(&id)?;
    events::recording_removed(&id, reason);
    Ok(true)
}
