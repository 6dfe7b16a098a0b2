//! retention: removes recordings beyond what is to be kept, and the files of those that were removed.

use crate::events;
use crate::fault::Fault;
use crate::operations::{Answer, Operations, Turn};
use crate::vitals::{Place, Vital, Vitals};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use std::io::{self, ErrorKind};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};
use storage::disk::Busy;
use storage::retention::{Limits, Reason};
use storage::{Mount, Mounts, Recordings, Room};
use tokio::time::{Duration, Instant};

/// How often archives are looked at.
const TICK: Duration = Duration::from_secs(30);

/// Recordings that are tried in a step, at most: their records are all read for it, and their files go afterwards.
const MAX_REMOVED: usize = 100;
/// Recordings that cannot be removed for another reason than that somebody protects them, at most, before no more are tried;
/// and removed ones whose files cannot be, before no more go to make room: of more it is storage that removes nothing.
const MAX_STUCK: usize = 8;

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
        events::free_wanted(args.limits.free.unwrap_or(0));
        let archives = args.mounts.all().map(|mount| (mount.clone(), Operations::on(mount.disk.clone()))).collect();
        Ok(State {
            archives,
            limits: args.limits,
            vital: args.vitals.register("retention", Place::Root, myself.get_id(), Some(TICK)),
        })
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

/// A step that is short, however large recordings are: some files of one that was removed, or the removal of some.
/// Whether there is more to do.
fn step(recordings: &Recordings, limits: Limits) -> io::Result<bool> {
    let swept = recordings.sweep()?;
    if swept.more {
        return Ok(true);
    }
    // One that cannot be removed does not keep the others for ever; where none can, removing more makes no room.
    let makes_room = swept.stuck < MAX_STUCK;
    let stuck = swept.error.map_or(Ok(false), Err);
    if limits.are_none() {
        return stuck;
    }
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let now_ms = i64::try_from(now.as_millis()).unwrap_or(i64::MAX);
    let Room { free, size, .. } = recordings.room()?;
    // More than there is can never be free: that is a mistake, and no reason to remove everything.
    let is_possible = limits.free.is_none_or(|wanted| wanted < size);
    if !is_possible {
        events::retention_impossible(size);
    }
    let limits = Limits { free: limits.free.filter(|_| is_possible && makes_room), ..limits };
    let removed = remove_exceeding(recordings, limits, free, now_ms);
    stuck.and(removed)
}

/// Removes recordings beyond the limits for everybody who asks. Whether any: their files are still there.
fn remove_exceeding(recordings: &Recordings, limits: Limits, free: u64, now_ms: i64) -> io::Result<bool> {
    let (mut tried, mut removed, mut stuck, mut failed) = (0, 0, 0, Ok(()));
    limits.enforce(&recordings.all()?, free, now_ms, |id, reason| {
        let is_for_room = reason == Reason::Free;
        if tried == MAX_REMOVED || is_for_room && removed > 0 {
            // What the others leave is looked at first.
            return ControlFlow::Break(());
        }
        tried += 1;
        if let Err(error) = recordings.remove(id) {
            // An operator may protect many.
            stuck += usize::from(error.kind() != ErrorKind::PermissionDenied);
            failed = Err(error);
            return if stuck == MAX_STUCK { ControlFlow::Break(()) } else { ControlFlow::Continue(false) };
        }
        events::recording_removed(id, reason);
        if is_for_room {
            // Room may come back later than files go: what there is then is looked at with the next tick, one at a time.
            return ControlFlow::Break(());
        }
        removed += 1;
        ControlFlow::Continue(true)
    });
    failed.map(|()| removed > 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;
    use storage::Signs;

    fn recorded(root: &Path, session: &str, ended_at_ms: Option<i64>, files: usize) {
        let directory = root.join("recordings/live/show").join(session);
        let hour = directory.join("2026112112");
        std::fs::create_dir_all(&hour).expect("directories");
        for n in 0..files {
            std::fs::write(hour.join(format!("0-{n}.m4s")), "media").expect("written");
        }
        let ended = ended_at_ms.map_or("null".to_owned(), |ended| ended.to_string());
        let record = format!(
            r#"{{"format":1,"stream":["live","show"],"session":"{session}","published_at_ms":1,"ended_at_ms":{ended},
            "ended_because":null,"epoch":1,"codecs":null,"target_duration":2,"independent_segments":true,
            "multivariant":"","segments":{files},"gaps":0,"bytes":5000,"duration_ms":1}}"#
        );
        std::fs::write(directory.join("session.json"), record).expect("written");
    }

    #[test]
    fn a_large_recording_goes_in_short_steps_and_what_is_live_or_young_enough_stays() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let recordings = Recordings::at(directory.path(), Signs::default().into());
        recorded(directory.path(), "a1", Some(1000), 2500);
        recorded(directory.path(), "a2", Some(2000), 3);
        recorded(directory.path(), "a3", None, 3);
        assert_eq!(recordings.all().expect("listed").len(), 3);
        assert_eq!(step(&recordings, Limits::default()).ok(), Some(false), "without limits nothing goes");
        let limits = Limits { bytes: Some(10_000), ..Limits::default() };
        assert_eq!(step(&recordings, limits).ok(), Some(true));
        let left: Vec<_> = recordings.all().expect("listed").into_iter().map(|record| record.id.session).collect();
        assert_eq!(left, ["a2", "a3"], "for everybody who asks it is gone at once");
        let mut steps = 0;
        while step(&recordings, limits).expect("it works") {
            steps += 1;
        }
        assert!((3..=5).contains(&steps), "{steps} steps for 2500 files");
        let names = std::fs::read_dir(directory.path().join("recordings/live/show")).expect("listed");
        assert_eq!(names.count(), 2);
        let more_than_there_is = Limits { free: Some(u64::MAX), ..Limits::default() };
        assert_eq!(step(&recordings, more_than_there_is).ok(), Some(false), "a mistake removes nothing");
        assert_eq!(recordings.all().expect("listed").len(), 2);
    }

    #[test]
    fn a_recording_that_cannot_be_removed_keeps_its_room_and_no_other() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let recordings = Recordings::at(directory.path(), Signs::default().into());
        ["a1", "a2", "a3", "a4"]
            .iter()
            .zip(1..)
            .for_each(|(session, at)| recorded(directory.path(), session, Some(at), 1));
        let show = directory.path().join("recordings/live/show");
        // A file of the name that it would get is in the way.
        std::fs::write(show.join("a1.removed"), "").expect("written");
        let limits = Limits { bytes: Some(10_000), ..Limits::default() };
        assert!(remove_exceeding(&recordings, limits, 0, 0).is_err(), "it is told");
        let left: Vec<_> = recordings.all().expect("listed").into_iter().map(|record| record.id.session).collect();
        assert_eq!(left, ["a1", "a4"], "the protected one takes 5000 of the 10000 bytes");
    }

    #[test]
    fn where_files_cannot_be_removed_no_recording_goes_for_room_and_others_are_swept() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let recordings = Recordings::at(directory.path(), Signs::default().into());
        ["a1", "a2", "a3"].iter().zip(1..).for_each(|(session, at)| recorded(directory.path(), session, Some(at), 2));
        let show = directory.path().join("recordings/live/show");
        std::fs::rename(show.join("a1"), show.join("a1.removed")).expect("renamed");
        std::fs::write(show.join("stray.removed"), "").expect("written");
        // Of one that is a link the link goes, and not what it leads to.
        let elsewhere = tempfile::tempdir().expect("temporary directory");
        std::fs::write(elsewhere.path().join("0-1.m4s"), "media").expect("written");
        std::os::unix::fs::symlink(elsewhere.path(), show.join("00.removed")).expect("linked");
        // Two paths, each of which has a name, make one that is too long for one: whoever asks cannot remove it.
        let deep = |root: &Path| {
            let path = (0..9).fold(root.to_owned(), |path, _| path.join("d".repeat(250)));
            std::fs::create_dir_all(&path).expect("made");
            path
        };
        let stick = |n: usize| {
            let (stuck, other) = (show.join(format!("0{n}.removed")), directory.path().join("other"));
            deep(&other);
            std::fs::rename(&other, deep(&stuck).join("other")).expect("moved");
        };
        (1..MAX_STUCK).for_each(stick);
        let size = recordings.room().expect("told").size;
        let limits = Limits { free: Some(size - 1), ..Limits::default() };
        while step(&recordings, limits).is_ok_and(|more| more) {}
        assert!(!show.join("a1.removed").exists(), "the next one is swept");
        assert!(!show.join("00.removed").is_symlink() && elsewhere.path().join("0-1.m4s").exists());
        assert!(!show.join("a2").exists() && show.join("a3").exists(), "one goes at a time");
        stick(MAX_STUCK);
        while step(&recordings, limits).is_ok_and(|more| more) {}
        assert!(step(&recordings, limits).is_err(), "it is told");
        assert!(show.join("a3").exists(), "removing it would make no room");
    }
}
