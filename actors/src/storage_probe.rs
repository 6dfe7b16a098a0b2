//! storage_probe: is the archive healthy, slow, failing or hung? Also replaces disk threads that hang.

use crate::events;
use crate::fault::Fault;
use crate::vitals::{Vital, Vitals};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use std::io;
use std::sync::Arc;
use storage::disk::{Disk, DiskState};
use tokio::time::{Duration, Instant};

/// How often the threads are looked at.
const TICK: Duration = Duration::from_secs(1);
/// How often a file is written to see whether storage answers.
const PROBE: Duration = Duration::from_secs(5);
/// An answer that takes longer is slow.
const SLOW: Duration = Duration::from_secs(1);

/// Messages to the probe.
#[derive(Debug)]
pub enum Msg {
    /// Time to look.
    Tick,
    /// The probe begun then has ended.
    Probed(Instant, io::Result<()>),
    /// Fails on purpose.
    Fail(Fault),
}

/// What a probe needs to start.
#[derive(Clone)]
pub struct Args {
    /// Threads of the mount.
    pub disk: Arc<Disk>,
    /// Where to register.
    pub vitals: Arc<Vitals>,
}

/// How storage is doing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Health {
    /// It answers.
    #[default]
    Healthy,
    /// It answers late.
    Slow,
    /// It answers with errors.
    Failing,
    /// It does not answer.
    Hung,
}

/// The actor.
#[derive(Debug, Default)]
pub struct StorageProbe;

impl Actor for StorageProbe {
    type Msg = Msg;
    type State = State;
    type Arguments = Args;

    async fn pre_start(&self, myself: ActorRef<Msg>, args: Args) -> Result<State, ActorProcessingErr> {
        myself.send_after(Duration::ZERO, || Msg::Tick);
        let vital = args.vitals.register("storage_probe".to_owned());
        Ok(State {
            disk: args.disk,
            begun: None,
            due: Instant::now(),
            last: Ok(Duration::ZERO),
            health: Health::Healthy,
            vital,
        })
    }

    async fn handle(&self, myself: ActorRef<Msg>, msg: Msg, state: &mut State) -> Result<(), ActorProcessingErr> {
        let _busy = state.vital.enter("handle");
        match msg {
            Msg::Tick => {
                myself.send_after(TICK, || Msg::Tick);
                state.tick(&myself, Instant::now());
            }
            Msg::Probed(begun, result) => state.probed(begun, result, Instant::now()),
            Msg::Fail(fault) => fault.strike()?,
        }
        Ok(())
    }
}

/// The last probe, and what follows from it.
pub struct State {
    disk: Arc<Disk>,
    begun: Option<Instant>,
    due: Instant,
    last: Result<Duration, ()>,
    health: Health,
    vital: Arc<Vital>,
}

impl State {
    fn tick(&mut self, myself: &ActorRef<Msg>, now: Instant) {
        let threads = self.disk.check(std::time::Instant::now());
        if self.begun.is_none() && now >= self.due {
            let myself = myself.clone();
            let probe = self.disk.submit(move |archive| {
                let _ = myself.send_message(Msg::Probed(now, archive.probe()));
            });
            self.begun = probe.is_ok().then_some(now);
        }
        let waiting = self.begun.map_or(Duration::ZERO, |begun| now.saturating_duration_since(begun));
        let health = judge(threads, waiting, self.last);
        if health != self.health {
            events::storage_health(self.health, health);
            self.health = health;
        }
        events::storage_gauges(health, threads);
    }

    fn probed(&mut self, begun: Instant, result: io::Result<()>, now: Instant) {
        self.begun = None;
        self.due = now + PROBE;
        self.last = result.map(|()| now.saturating_duration_since(begun)).map_err(|_| ());
    }
}

fn judge(threads: DiskState, waiting: Duration, last: Result<Duration, ()>) -> Health {
    if threads.hung > 0 {
        Health::Hung
    } else if last.is_err() {
        Health::Failing
    } else if waiting.max(last.unwrap_or_default()) > SLOW {
        Health::Slow
    } else {
        Health::Healthy
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_worst_sign_decides() {
        let fine = DiskState::default();
        let quick = Ok(Duration::from_millis(3));
        assert_eq!(judge(fine, Duration::ZERO, quick), Health::Healthy);
        assert_eq!(judge(fine, Duration::from_secs(2), quick), Health::Slow);
        assert_eq!(judge(fine, Duration::ZERO, Err(())), Health::Failing);
        assert_eq!(judge(DiskState { hung: 1, ..fine }, Duration::ZERO, quick), Health::Hung);
    }
}
