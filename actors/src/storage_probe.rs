//! storage_probe: is each archive healthy, slow, failing, hung or full? Its questions are those that open and close a
//! mount's breaker; it also has disk threads replaced that hang.

use crate::events;
use crate::fault::Fault;
use crate::interrupted::{Finisher, Left, Scope};
use crate::vitals::{Place, Vital, Vitals};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use std::io;
use std::sync::Arc;
use storage::disk::{ASK_AGAIN, DiskState};
use storage::signs::Health;
use storage::{Mount, Mounts, Room};
use tokio::time::{Duration, Instant};

/// How often the threads are looked at.
const TICK: Duration = Duration::from_secs(1);
/// How often a file is written to see whether storage answers.
const PROBE: Duration = Duration::from_secs(3);
/// How often recordings that were left are looked for, ...
const FINISH_AGAIN: Duration = Duration::from_secs(60);
/// ... twice as long after each time that some could not be finished, up to this: trying makes the archive look ill.
const LONGEST_WAIT: Duration = Duration::from_secs(3600);
/// An answer that takes longer is slow.
const SLOW: Duration = Duration::from_secs(1);

/// Messages to the probe.
#[derive(Debug)]
pub enum Msg {
    /// Time to look.
    Tick,
    /// The probe of this mount that was begun then has ended; whether it answers, and how much room there is.
    Probed(usize, Instant, io::Result<()>, io::Result<Room>),
    /// Fails on purpose.
    Fail(Fault),
}

/// What a probe needs to start.
#[derive(Clone)]
pub struct Args {
    /// All archives.
    pub mounts: Mounts,
    /// What is known of recordings that are interrupted.
    pub left: Left,
    /// Where to register.
    pub vitals: Arc<Vitals>,
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
        let vital = args.vitals.register("storage_probe", Place::Root, myself.get_id(), Some(TICK));
        let now = Instant::now();
        let Args { mounts, left, .. } = args;
        let of_this = mounts.clone();
        let finisher = |mount: &Mount| Finisher::new(mount.clone(), of_this.clone(), left.clone());
        let probed = mounts.all().map(|mount| Probed::new(mount.clone(), finisher(mount), now)).collect();
        Ok(State { probed, vital })
    }

    async fn handle(&self, myself: ActorRef<Msg>, msg: Msg, state: &mut State) -> Result<(), ActorProcessingErr> {
        let _busy = state.vital.enter("handle");
        match msg {
            Msg::Tick => {
                myself.send_after(TICK, || Msg::Tick);
                state.tick(&myself, Instant::now());
            }
            Msg::Probed(mount, begun, answer, room) => state.probed(mount, begun, answer, room, Instant::now()),
            Msg::Fail(fault) => fault.strike()?,
        }
        Ok(())
    }
}

/// What is known of each mount.
pub struct State {
    probed: Vec<Probed>,
    vital: Arc<Vital>,
}

impl State {
    fn tick(&mut self, myself: &ActorRef<Msg>, now: Instant) {
        for (number, probed) in self.probed.iter_mut().enumerate() {
            let myself = myself.clone();
            probed.tick(now, move |answer, room| drop(myself.send_message(Msg::Probed(number, now, answer, room))));
        }
    }

    fn probed(&mut self, mount: usize, begun: Instant, answer: io::Result<()>, room: io::Result<Room>, now: Instant) {
        if let Some(probed) = self.probed.get_mut(mount) {
            probed.answered(begun, answer, room, now);
        }
    }
}

/// One mount: its last probe, and what follows from it.
struct Probed {
    mount: Mount,
    begun: Option<Instant>,
    due: Instant,
    last: Result<Duration, ()>,
    /// How much room there was last, and where.
    room: Option<Room>,
    finisher: Finisher,
    /// Recordings may be interrupted: the process is new, or the mount was ill, or is another one.
    is_due: bool,
    /// It has hung since somebody knew where it is.
    was_hung: bool,
    pace: Pace,
}

/// When interrupted recordings are looked for.
#[derive(Debug, Clone, Copy)]
struct Pace {
    /// When those are looked for of which something is remembered.
    remembered: Instant,
    /// When the archive is looked through again, and how often some recordings in it could not be finished.
    all: Instant,
    failed: u32,
}

impl Pace {
    fn from(now: Instant) -> Self {
        Self { remembered: now, all: now, failed: 0 }
    }

    /// What it is time for. Recordings that cannot be finished wait, however often the archive becomes well, and nobody
    /// waits for them. `is_due`: there may be interrupted ones; `is_left`: the last look through all has left some.
    fn next(&mut self, is_due: bool, is_left: bool, now: Instant) -> Option<Scope> {
        let due = if is_left { now >= self.all } else { is_due };
        if !due && now < self.remembered {
            return None;
        }
        self.remembered = now + FINISH_AGAIN;
        if !due {
            return Some(Scope::Remembered);
        }
        self.failed = if is_left { self.failed.saturating_add(1) } else { 0 };
        self.all = now + FINISH_AGAIN.saturating_mul(2_u32.saturating_pow(self.failed)).min(LONGEST_WAIT);
        Some(Scope::All)
    }
}

impl Probed {
    fn new(mount: Mount, finisher: Finisher, now: Instant) -> Self {
        let last = Ok(Duration::ZERO);
        Self {
            mount,
            begun: None,
            due: now,
            last,
            room: None,
            finisher,
            is_due: true,
            was_hung: false,
            pace: Pace::from(now),
        }
    }

    fn tick(&mut self, now: Instant, answer: impl FnOnce(io::Result<()>, io::Result<Room>) + Send + 'static) {
        let std_now = std::time::Instant::now();
        let threads = self.mount.disk.check(std_now);
        if self.begun.is_some_and(|begun| now.saturating_duration_since(begun) >= ASK_AGAIN) {
            self.begun = None;
        }
        if self.begun.is_none() && now >= self.due {
            let probe = self.mount.disk.probe(move |archive| answer(archive.probe(), archive.room()));
            self.begun = probe.is_ok().then_some(now);
        }
        let waiting = self.begun.map_or(Duration::ZERO, |begun| now.saturating_duration_since(begun));
        let seen = Seen {
            threads,
            is_open: self.mount.disk.is_open(),
            waiting,
            last: self.last,
            full: self.mount.signs.is_full(std_now),
            failing: self.mount.signs.is_failing(std_now),
        };
        let health = judge(seen);
        let before = self.mount.signs.set_health(health);
        if health != before {
            events::storage_health(&self.mount, before, health);
        }
        events::storage_gauges(&self.mount, health, threads);
        self.was_hung |= health == Health::Hung;
        self.is_due |= matches!(health, Health::Failing | Health::Hung | Health::Full);
        if health == Health::Healthy {
            self.finish(now);
        }
    }

    /// Has interrupted recordings finished, where there are any.
    fn finish(&mut self, now: Instant) {
        if self.room.is_none() || self.finisher.is_busy() {
            // Nothing is known of it, and what is asked may hang; or it is being done.
            return;
        }
        match self.pace.next(self.is_due, self.finisher.is_left(), now) {
            Some(Scope::All) => self.is_due &= !self.finisher.begin(),
            Some(Scope::Remembered) => drop(self.finisher.begin_left()),
            None => {}
        }
    }

    fn answered(&mut self, begun: Instant, answer: io::Result<()>, room: io::Result<Room>, now: Instant) {
        if self.begun != Some(begun) {
            // It was given up, and another one is being asked.
            return;
        }
        self.begun = None;
        self.due = now + PROBE;
        // A disk that is full still tells how much room there is.
        let told = room.as_ref().ok().copied();
        events::storage_room(&self.mount, told);
        if let Some(room) = told {
            let before = self.room.replace(room);
            let other = before.filter(|before| before.device != room.device);
            if let Some(before) = other {
                events::storage_replaced(&self.mount, before, room);
            }
            // Where it hung before it was known, what answers now may be something else.
            if other.is_some() || before.is_none() && self.was_hung {
                self.mount.disk.replaced();
                // What was begun there may have been interrupted when it went, and a pass over it may hang for ever.
                (self.is_due, self.pace, self.finisher) = (true, Pace::from(now), self.finisher.afresh());
            }
            self.was_hung = false;
        }
        let answered = answer.and(room.map(drop));
        self.last = answered.map(|()| now.saturating_duration_since(begun)).map_err(|_| ());
    }
}

/// What was seen of a mount.
#[derive(Debug, Clone, Copy)]
struct Seen {
    threads: DiskState,
    /// The breaker is open.
    is_open: bool,
    /// How long the probe has been waiting.
    waiting: Duration,
    last: Result<Duration, ()>,
    full: bool,
    failing: bool,
}

fn judge(seen: Seen) -> Health {
    if seen.threads.hung > 0 || seen.is_open {
        Health::Hung
    } else if seen.failing || (seen.last.is_err() && !seen.full) {
        Health::Failing
    } else if seen.full {
        Health::Full
    } else if seen.waiting.max(seen.last.unwrap_or_default()) > SLOW {
        Health::Slow
    } else {
        Health::Healthy
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::sync_channel;
    use storage::Registry;
    use storage::continuity::Records;
    use storage::disk::{HUNG_AFTER, SyncPolicy};
    use storage::live::{LiveSettings, StreamSettings};

    #[test]
    fn what_hung_before_anybody_knew_where_it_is_may_have_been_replaced_when_it_answers() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let mount = Mount::start("*", directory.path(), SyncPolicy::Never).expect("threads");
        let records = Records::open(&directory.path().join("state")).expect("a directory");
        let settings = StreamSettings { all: LiveSettings::default(), takeover: Arc::default() };
        let registry = Registry::settling_until(Instant::now());
        let left = Left { registry, records, settings, returned: Arc::new(|_| ()) };
        let finisher = Finisher::new(mount.clone(), Mounts::only(mount.clone()), left);
        let (release, gate) = sync_channel::<()>(0);
        mount.disk.submit(move |_| gate.recv().unwrap_or_default()).expect("room");
        let hung = || mount.disk.check(std::time::Instant::now() + HUNG_AFTER + Duration::from_secs(1)).hung;
        while hung() == 0 {
            std::thread::yield_now();
        }
        let now = Instant::now();
        for (was_hung, hung_then) in [(false, 1), (true, 0)] {
            let probed = Probed::new(mount.clone(), finisher.clone(), now);
            let mut probed = Probed { begun: Some(now), was_hung, is_due: false, ..probed };
            probed.answered(now, Ok(()), Room::of(directory.path()), now);
            assert_eq!((hung(), probed.is_due, probed.was_hung), (hung_then, was_hung, false));
        }
        drop(release);
    }

    #[test]
    fn what_cannot_be_finished_waits_longer_each_time_and_nobody_waits_for_it() {
        let begun = Instant::now();
        let mut pace = Pace::from(begun);
        assert_eq!(pace.next(true, false, begun), Some(Scope::All));
        assert_eq!(
            pace.next(true, false, begun + Duration::from_secs(1)),
            Some(Scope::All),
            "it has become well again"
        );
        let (mut all, mut looks) = (vec![0], 0);
        for second in 2..4 * 3600 {
            match pace.next(true, true, begun + Duration::from_secs(second)) {
                Some(Scope::All) => all.push(second),
                Some(Scope::Remembered) => looks += 1,
                None => {}
            }
        }
        let waits: Vec<_> = all.windows(2).map(|pair| (pair[1] - pair[0]) / 60).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 32, 60, 60]);
        assert!(looks + all.len() > 4 * 60 - 5, "every minute: {looks}");
        assert_eq!(pace.next(false, false, begun + Duration::from_secs(4 * 3600)), None);
    }

    #[test]
    fn the_worst_sign_decides() {
        let quick = Ok(Duration::from_millis(3));
        let well = Seen {
            threads: DiskState::default(),
            is_open: false,
            waiting: Duration::ZERO,
            last: quick,
            full: false,
            failing: false,
        };
        assert_eq!(judge(well), Health::Healthy);
        assert_eq!(judge(Seen { waiting: Duration::from_secs(2), ..well }), Health::Slow);
        assert_eq!(judge(Seen { is_open: true, ..well }), Health::Hung);
        assert_eq!(judge(Seen { last: Err(()), ..well }), Health::Failing);
        assert_eq!(judge(Seen { last: Err(()), full: true, ..well }), Health::Full);
        assert_eq!(judge(Seen { full: true, failing: true, ..well }), Health::Failing);
        let threads = DiskState { hung: 1, ..well.threads };
        assert_eq!(judge(Seen { threads, full: true, ..well }), Health::Hung);
    }
}
