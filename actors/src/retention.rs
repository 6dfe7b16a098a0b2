//! retention: removes recordings beyond what is to be kept, and the files of those that were removed.

mod pace;
mod trouble;

use crate::events;
use crate::fault::Fault;
use crate::operations::{Answer, Operations, Turn};
use crate::vitals::{Place, Vital, Vitals};
use pace::{Pace, Promise};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use std::collections::HashMap;
use std::io::{self, ErrorKind};
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};
use storage::disk::Busy;
use storage::recording::{RecordingId, SessionRecord};
use storage::retention::{Fate, Limits, Reason};
use storage::{Archive, Mount, Mounts, Recordings};
use tokio::time::{Duration, Instant};
use trouble::{Failed, Told, What};

/// How often archives are looked at.
const TICK: Duration = Duration::from_secs(30);

/// Recordings that are removed in a step, at most: their records are all read for it, and their files go afterwards.
const MAX_REMOVED: usize = 100;
/// How long recordings are removed in a step, or found to be protected, of which there may be many: it must not look like
/// storage that hangs.
const REMOVED_FOR: Duration = Duration::from_secs(5);
/// How long a step may take before another one is begun: it reads the records of all recordings, and on slow storage there
/// may be tens of thousands. On storage that was replaced while it hung, retention goes on after that.
const PATIENCE: Duration = Duration::from_secs(600);
/// Recordings of an application, which may be a mount of its own, that cannot be removed for another reason than that
/// somebody protects them, at most, before no more of it are tried; and removed ones whose files cannot be, before no more
/// go to make room: of more it is storage that removes nothing.
const MAX_STUCK: usize = 8;

/// Messages to the retention actor.
#[derive(Debug)]
pub enum Msg {
    /// Time to look.
    Tick,
    /// A step is done in this archive.
    Stepped(usize, u64, io::Result<Step>),
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
        let archives = args.mounts.all().map(|mount| Kept {
            mount: mount.clone(),
            operations: Operations::patient(mount.disk.clone(), PATIENCE),
            device: None,
            pace: Pace::default(),
            told: Told::default(),
        });
        Ok(State {
            archives: archives.collect(),
            limits: args.limits,
            tick: 0,
            vital: args.vitals.register("retention", Place::Root, myself.get_id(), Some(TICK)),
        })
    }

    async fn handle(&self, myself: ActorRef<Msg>, msg: Msg, state: &mut State) -> Result<(), ActorProcessingErr> {
        let _busy = state.vital.enter("handle");
        let now = Instant::now();
        match msg {
            Msg::Tick => state.tick(&myself, now),
            Msg::Stepped(archive, ticket, result) => state.stepped(&myself, archive, ticket, result, now),
            Msg::Fail(fault) => fault.strike()?,
        }
        Ok(())
    }
}

/// An archive.
struct Kept {
    mount: Mount,
    /// One step at a time.
    operations: Operations,
    /// The device it is on, as far as is known.
    device: Option<u64>,
    /// How many go for room.
    pace: Pace,
    /// What cannot be done.
    told: Told,
}

/// A step of a tick: others may go for room.
#[derive(Debug, Clone, Copy)]
pub struct Visit {
    pace: Pace,
    /// What is missing on a device is missing once.
    its_turn: bool,
    /// How many, whatever the pace.
    most: usize,
}

impl Visit {
    /// Files have just gone, of which the room may come back later.
    fn slowly(self) -> Self {
        Self { most: 1, ..self }
    }

    fn for_room(&self) -> usize {
        if self.its_turn { self.pace.allowed().min(self.most) } else { 0 }
    }
}

/// What came of a step.
#[derive(Debug)]
pub enum Step {
    /// Files were removed, and there may be more of them. Afterwards one may go for room if it is a tick's.
    Swept(Option<Visit>),
    /// There was no file to sweep, and recordings were looked at.
    Looked(Looked),
}

/// What came of a step that had no file to sweep.
#[derive(Debug, Default)]
pub struct Looked {
    /// Some went: their files are there still.
    more: bool,
    /// The device of the archive, and the bytes that are free on it.
    room: Option<(u64, u64)>,
    /// How many may go for room after this, if it was looked at with a tick.
    pace: Option<Pace>,
    /// Some went for room.
    promise: Option<Promise>,
    failed: Failed,
    /// What could not be removed is gone.
    is_gone: bool,
}

/// What it knows.
pub struct State {
    archives: Vec<Kept>,
    limits: Limits,
    /// Ticks so far.
    tick: usize,
    vital: Arc<Vital>,
}

impl State {
    /// A step in each archive.
    fn tick(&mut self, myself: &ActorRef<Msg>, now: Instant) {
        myself.send_after(TICK, || Msg::Tick);
        self.tick += 1;
        for archive in 0..self.archives.len() {
            let (pace, its_turn) = (self.archives[archive].pace, self.is_its_turn(archive));
            self.step(myself, archive, Some(Visit { pace, its_turn, most: usize::MAX }), now);
        }
    }

    fn is_its_turn(&self, archive: usize) -> bool {
        let devices: Vec<_> = self.archives.iter().map(|kept| kept.device).collect();
        is_its_turn(&devices, archive, self.tick)
    }

    /// Without a `visit` nothing goes for room: what was removed for it makes it now or later, which the next tick sees.
    fn step(&mut self, myself: &ActorRef<Msg>, archive: usize, visit: Option<Visit>, now: Instant) {
        let Some(Kept { mount, operations, told, pace, .. }) = self.archives.get_mut(archive) else { return };
        match operations.turn(now) {
            Turn::Begin => {}
            Turn::Wait => return,
            Turn::GiveUp => {
                // What it may have removed, nobody tells.
                *pace = Pace::default();
                told.fails(&mount.label, What::Archive, &ErrorKind::TimedOut.into());
                return operations.failed(now, fastrand::f64());
            }
        }
        let (recordings, limits, failing) = (mount.recordings.clone(), self.limits, told.recording().cloned());
        let given_up = operations.given_up();
        let work = move |_: &dyn Archive| step(&recordings, limits, visit, failing.as_ref(), &given_up);
        let answer = move |ticket, result| Msg::Stepped(archive, ticket, result);
        if let Err(Busy) = operations.begin(myself, now, work, answer) {
            operations.failed(now, fastrand::f64());
        }
    }

    fn stepped(&mut self, myself: &ActorRef<Msg>, archive: usize, ticket: u64, result: io::Result<Step>, now: Instant) {
        let Some(kept) = self.archives.get_mut(archive) else { return };
        match kept.operations.answered(ticket, result) {
            Answer::Done(step) => {
                kept.operations.succeeded();
                if let ControlFlow::Continue(visit) = kept.note(step) {
                    // Sweeping may have taken many ticks.
                    let its_turn = self.is_its_turn(archive);
                    self.step(myself, archive, visit.map(|visit| Visit { its_turn, ..visit }), now);
                }
            }
            Answer::Failed(error) => {
                kept.told.fails(&kept.mount.label, What::Archive, &error);
                kept.operations.failed(now, fastrand::f64());
            }
            Answer::Stale => {}
        }
    }
}

/// Whether recordings may go for room with this tick: of archives on one device one after the other makes room. Not where the
/// device is not known yet: it may be that of others.
fn is_its_turn(devices: &[Option<u64>], archive: usize, tick: usize) -> bool {
    let device = devices[archive];
    let beside: Vec<_> = (0..devices.len()).filter(|other| devices[*other] == device).collect();
    device.is_some() && beside[tick % beside.len()] == archive
}

impl Kept {
    /// Whether there is more to do at once, and whether others may go for room then.
    fn note(&mut self, step: Step) -> ControlFlow<(), Option<Visit>> {
        let Looked { more, room, pace, promise, failed, is_gone } = match step {
            Step::Swept(visit) => return ControlFlow::Continue(visit),
            Step::Looked(looked) => looked,
        };
        self.pace = pace.unwrap_or(self.pace);
        if let Some((device, free)) = room {
            self.device = Some(device);
            self.pace.noticed(free);
        }
        if let Some(promise) = promise {
            self.pace.promised(promise);
        }
        self.told.note(&self.mount.label, failed, is_gone);
        if more { ControlFlow::Continue(None) } else { ControlFlow::Break(()) }
    }
}

/// A step that is short, however large recordings are: some files of those that were removed, or the removal of some.
/// Whether the recording that was `failing` is gone is looked at, too.
fn step(
    recordings: &Recordings,
    limits: Limits,
    visit: Option<Visit>,
    failing: Option<&RecordingId>,
    given_up: &AtomicBool,
) -> io::Result<Step> {
    let swept = recordings.sweep()?;
    if swept.more {
        return Ok(Step::Swept(visit.map(Visit::slowly)));
    }
    let failed = Failed { files: swept.error, archive: swept.unreadable, ..Failed::default() };
    // One that cannot be read is still there, and keeps no other.
    let is_gone = failing.is_some_and(|id| recordings.read(id).is_ok_and(|record| record.is_none()));
    let looked = Looked { failed, is_gone, ..Looked::default() };
    if limits.are_none() {
        return Ok(Step::Looked(looked));
    }
    let room = recordings.room()?;
    let mut visit = visit;
    if let Some(visit) = &mut visit {
        visit.pace.seen(room.free);
    }
    let for_room = visit.map_or(0, |visit| visit.for_room());
    let looked = Looked { room: Some((room.device, room.free)), pace: visit.map(|visit| visit.pace), ..looked };
    // More than there is can never be free: that is a mistake, and no reason to remove everything.
    let is_possible = limits.free.is_none_or(|wanted| wanted < room.size);
    if !is_possible {
        events::retention_impossible(room.size);
    }
    // One that cannot be removed does not keep the others for ever; where none can, removing more makes no room.
    let may_make_room = is_possible && for_room > 0 && swept.stuck < MAX_STUCK;
    let limits = Limits { free: limits.free.filter(|wanted| may_make_room && room.free < *wanted), ..limits };
    if limits.are_none() {
        // Without reading the record of each.
        return Ok(Step::Looked(looked));
    }
    let (records, unreadable) = recordings.readable()?;
    let now_ms = i64::try_from(SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_millis());
    // Reading all of them may have taken long.
    let free = recordings.room()?.free;
    let begun = Instant::now();
    let is_late = || begun.elapsed() >= REMOVED_FOR;
    let look = Look { now_ms: now_ms.unwrap_or(i64::MAX), free, for_room, given_up, is_late: &is_late };
    let mut looked = remove_exceeding(&records, limits, &look, looked, |id| recordings.remove(id));
    looked.failed.archive = looked.failed.archive.or(unreadable);
    Ok(Step::Looked(looked))
}

/// When and how recordings are looked at.
struct Look<'a> {
    now_ms: i64,
    /// Bytes.
    free: u64,
    /// How many may go for room.
    for_room: usize,
    /// Another step may be under way: what there is and what is free is not what it was, but the age of recordings is.
    given_up: &'a AtomicBool,
    /// It takes too long.
    is_late: &'a dyn Fn() -> bool,
}

/// Removes recordings beyond the limits for everybody who asks; their files are still there.
fn remove_exceeding(
    records: &[SessionRecord],
    limits: Limits,
    look: &Look<'_>,
    mut looked: Looked,
    remove: impl Fn(&RecordingId) -> io::Result<()>,
) -> Looked {
    let (mut tried, mut removed, mut for_room) = (0, 0, 0);
    let mut promised = 0_u64;
    let mut stuck = HashMap::<String, usize>::new();
    limits.enforce(records, look.free, look.now_ms, |record, reason| {
        let (id, is_for_room) = (&record.id, reason == Reason::Free);
        let is_late = tried > 0 && (look.is_late)();
        let is_void = reason != Reason::Age && look.given_up.load(Ordering::Acquire);
        if is_late || is_void || removed == MAX_REMOVED || is_for_room && for_room == look.for_room {
            return ControlFlow::Break(());
        }
        if stuck.get(id.stream.app()).is_some_and(|stuck| *stuck == MAX_STUCK) {
            return ControlFlow::Continue(Fate::Untried);
        }
        tried += 1;
        match remove(id) {
            Ok(()) => {
                events::recording_removed(id, reason);
                looked.more = true;
                promised = record.size().saturating_add(promised);
            }
            // Somebody else removed it since its record was read.
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => {
                if error.kind() != ErrorKind::PermissionDenied {
                    *stuck.entry(id.stream.app().to_owned()).or_default() += 1;
                }
                looked.failed.add(id, error);
                return ControlFlow::Continue(Fate::Stays);
            }
        }
        removed += 1;
        for_room += usize::from(is_for_room);
        ControlFlow::Continue(Fate::Gone)
    });
    looked.promise = (for_room > 0 && looked.more).then_some(Promise { free: look.free, bytes: promised });
    looked
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::{Cell, RefCell};
    use std::path::Path;
    use storage::{Signs, StreamName};

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
        let more = |limits| match at(&recordings, limits, visit(1), None) {
            Step::Swept(_) => true,
            Step::Looked(looked) => looked.more,
        };
        assert!(!more(Limits::default()), "without limits nothing goes");
        let limits = Limits { bytes: Some(10_000), ..Limits::default() };
        assert!(more(limits));
        let left: Vec<_> = recordings.all().expect("listed").into_iter().map(|record| record.id.session).collect();
        assert_eq!(left, ["a2", "a3"], "for everybody who asks it is gone at once");
        let mut steps = 0;
        while more(limits) {
            steps += 1;
        }
        assert!((3..=5).contains(&steps), "{steps} steps for 2500 files");
        let names = std::fs::read_dir(directory.path().join("recordings/live/show")).expect("listed");
        assert_eq!(names.count(), 2);
        let more_than_there_is = Limits { free: Some(u64::MAX), ..Limits::default() };
        assert!(!more(more_than_there_is), "a mistake removes nothing");
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
        let records = recordings.all().expect("listed");
        let looked = remove_exceeding(&records, limits, &look(0), Looked::default(), |id| recordings.remove(id));
        assert_eq!(looked.failed.recording.map(|(id, _)| id), Some(records[0].id.clone()), "it is told which");
        rest(&recordings, limits, None);
        let is_gone = |n: usize| match at(&recordings, limits, None, Some(&records[n].id)) {
            Step::Looked(looked) => looked.is_gone,
            Step::Swept(_) => panic!("there is nothing to sweep"),
        };
        assert!(!is_gone(0), "within its limits it is protected still");
        assert!(is_gone(1));
        let left: Vec<_> = recordings.all().expect("listed").into_iter().map(|record| record.id.session).collect();
        assert_eq!(left, ["a1", "a4"], "it takes 5000 of the 10000 bytes");
        let record = show.join("a1/session.json");
        std::fs::remove_file(&record).expect("removed");
        std::os::unix::fs::symlink(&record, &record).expect("linked");
        assert!(!is_gone(0), "one that cannot be read ends no step");
    }

    fn at(recordings: &Recordings, limits: Limits, visit: Option<Visit>, failing: Option<&RecordingId>) -> Step {
        step(recordings, limits, visit, failing, &AtomicBool::new(false)).expect("looked through")
    }

    /// Steps until there is nothing to do; what came of the last.
    fn rest(recordings: &Recordings, limits: Limits, mut visit: Option<Visit>) -> Looked {
        loop {
            visit = match at(recordings, limits, visit, None) {
                Step::Swept(visit) => visit,
                Step::Looked(looked) if looked.more => None,
                Step::Looked(looked) => return looked,
            };
        }
    }

    /// A tick at which so many may go for room.
    fn visit(for_room: usize) -> Option<Visit> {
        Some(Visit { pace: Pace::of(for_room), its_turn: true, most: usize::MAX })
    }

    fn look(for_room: usize) -> Look<'static> {
        static NOT: AtomicBool = AtomicBool::new(false);
        Look { now_ms: i64::MAX, free: 0, for_room, given_up: &NOT, is_late: &|| false }
    }

    /// Recordings of 5000 bytes, and those that were removed of them when limits were enforced, two for room at most.
    fn enforced(
        names: &[(&str, &str)],
        limits: Limits,
        answer: impl Fn(&RecordingId) -> io::Result<()>,
    ) -> Vec<String> {
        let directory = tempfile::tempdir().expect("temporary directory");
        let recordings = Recordings::at(directory.path(), Signs::default().into());
        recorded(directory.path(), "a1", Some(1), 1);
        let like = recordings.all().expect("listed").pop().expect("a record");
        let record = |((app, session), at): (&(&str, &str), i64)| {
            let mut record = like.clone();
            record.id = RecordingId::new(StreamName::new(app, "show").expect("a name"), session).expect("an id");
            record.ended_at_ms = Some(at);
            record
        };
        let records: Vec<_> = names.iter().zip(1..).map(record).collect();
        let gone = RefCell::new(Vec::new());
        // Whether it says that something failed is another test's matter.
        let _ = remove_exceeding(&records, limits, &look(2), Looked::default(), |id| {
            answer(id).inspect(|()| gone.borrow_mut().push(format!("{}/{}", id.stream.app(), id.session)))
        });
        gone.into_inner()
    }

    fn named(count: usize) -> Vec<String> {
        (0..count).map(|n| format!("{n:x}")).collect()
    }

    #[test]
    fn however_many_recordings_are_protected_others_go() {
        let sessions = named(3 * MAX_REMOVED);
        let all: Vec<_> = sessions.iter().map(|session| ("live", session.as_str())).collect();
        let limits = Limits { age: Some(Duration::from_secs(1)), ..Limits::default() };
        let (last, _) = sessions.split_last().expect("some");
        let gone =
            enforced(
                &all,
                limits,
                |id| {
                    if id.session == *last { Ok(()) } else { Err(ErrorKind::PermissionDenied.into()) }
                },
            );
        assert_eq!(gone, [format!("live/{last}")]);
        assert_eq!(enforced(&all, limits, |_| Ok(())).len(), MAX_REMOVED, "in one step");
    }

    #[test]
    fn an_application_that_cannot_be_written_keeps_no_other_from_its_limits() {
        let sessions = named(2 * MAX_STUCK);
        let of = |app| sessions.iter().map(move |session| (app, session.as_str()));
        let all: Vec<_> = of("old").chain(of("live")).collect();
        let came = |limits| {
            let tried = Cell::new(0);
            let gone = enforced(&all, limits, |id| {
                if id.stream.app() == "live" {
                    return Ok(());
                }
                tried.set(tried.get() + 1);
                Err(ErrorKind::ReadOnlyFilesystem.into())
            });
            (tried.get(), gone.len())
        };
        let limits = Limits { age: Some(Duration::from_secs(1)), ..Limits::default() };
        assert_eq!(came(limits), (MAX_STUCK, sessions.len()));
        // Twelve have to go. What of the old ones was not tried is in nobody's way.
        let limits = Limits { bytes: Some((all.len() as u64 - 12) * 5000), ..Limits::default() };
        assert_eq!(came(limits), (MAX_STUCK, 12 - (sessions.len() - MAX_STUCK)));
    }

    #[test]
    fn one_that_somebody_else_removed_meanwhile_takes_no_other_with_it() {
        let all = [("live", "a1"), ("live", "a2"), ("live", "a3")];
        let absent = |id: &RecordingId| if id.session == "a1" { Err(ErrorKind::NotFound.into()) } else { Ok(()) };
        let limits = Limits { bytes: Some(10_000), ..Limits::default() };
        assert_eq!(enforced(&all, limits, absent), [""; 0]);
        let limits = Limits { free: Some(5000), ..Limits::default() };
        assert_eq!(enforced(&all, limits, absent), [""; 0]);
        assert_eq!(enforced(&all, limits, |_| Ok(())), ["live/a1"], "as many as make the room");
        let limits = Limits { free: Some(100_000), ..Limits::default() };
        assert_eq!(enforced(&all, limits, |_| Ok(())), ["live/a1", "live/a2"], "no more than may");
    }

    #[test]
    fn what_went_for_room_promises_it_and_of_a_step_that_was_given_up_only_what_is_too_old_goes() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let recordings = Recordings::at(directory.path(), Signs::default().into());
        ["a1", "a2"].iter().zip(1..).for_each(|(session, at)| recorded(directory.path(), session, Some(at), 1));
        let records = recordings.all().expect("listed");
        let came = |limits, look: &Look<'_>, kind: Option<ErrorKind>| {
            let remove = |_: &RecordingId| kind.map_or(Ok(()), |kind| Err(kind.into()));
            let looked = remove_exceeding(&records, limits, look, Looked::default(), remove);
            (looked.more, looked.promise)
        };
        let limits = Limits { free: Some(100_000), ..Limits::default() };
        assert_eq!(came(limits, &look(2), None), (true, Some(Promise { free: 0, bytes: 10_000 })));
        assert_eq!(came(limits, &look(2), Some(ErrorKind::NotFound)), (false, None), "somebody else did");
        let given_up = Look { given_up: &AtomicBool::new(true), ..look(2) };
        assert_eq!(came(limits, &given_up, None), (false, None), "another step does");
        let limits = Limits { bytes: Some(0), ..Limits::default() };
        assert_eq!((came(limits, &look(2), None), came(limits, &given_up, None)), ((true, None), (false, None)));
        let limits = Limits { age: Some(Duration::from_secs(1)), ..Limits::default() };
        assert_eq!((came(limits, &look(2), None), came(limits, &given_up, None)), ((true, None), (true, None)));
    }

    #[test]
    fn a_step_that_takes_too_long_ends_after_one_that_was_tried() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let recordings = Recordings::at(directory.path(), Signs::default().into());
        ["a1", "a2"].iter().zip(1..).for_each(|(session, at)| recorded(directory.path(), session, Some(at), 1));
        let (records, tried) = (recordings.all().expect("listed"), Cell::new(0));
        let limits = Limits { age: Some(Duration::from_secs(1)), ..Limits::default() };
        let look = Look { is_late: &|| tried.get() > 0, ..look(0) };
        remove_exceeding(&records, limits, &look, Looked::default(), |_| {
            tried.set(tried.get() + 1);
            Err(ErrorKind::PermissionDenied.into())
        });
        assert_eq!(tried.get(), 1);
    }

    #[test]
    fn archives_on_one_device_take_turns_and_one_that_is_not_known_yet_waits() {
        let devices = [Some(1), Some(2), None, Some(1), Some(1)];
        let turns =
            |tick| (0..devices.len()).filter(|archive| is_its_turn(&devices, *archive, tick)).collect::<Vec<_>>();
        assert_eq!([0, 1, 2, 3].map(turns), [[0, 1], [1, 3], [1, 4], [0, 1]]);
    }

    #[test]
    fn a_directory_that_cannot_be_read_keeps_no_recording_and_is_told() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let recordings = Recordings::at(directory.path(), Signs::default().into());
        recorded(directory.path(), "a1", Some(1), 1);
        // Whoever asks: it leads to itself.
        let unreadable = directory.path().join("recordings/live/aside");
        std::os::unix::fs::symlink(&unreadable, &unreadable).expect("linked");
        let looked = rest(&recordings, Limits { age: Some(Duration::from_secs(1)), ..Limits::default() }, None);
        assert!(!directory.path().join("recordings/live/show").exists());
        assert!(looked.failed.archive.is_some() && looked.failed.files.is_none());
    }

    #[test]
    fn the_room_that_was_made_is_looked_at_with_the_next_tick() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let recordings = Recordings::at(directory.path(), Signs::default().into());
        ["a1", "a2"].iter().zip(1..).for_each(|(session, at)| recorded(directory.path(), session, Some(at), 1));
        let limits = Limits { free: Some(recordings.room().expect("told").size - 1), ..Limits::default() };
        let Step::Looked(looked) = at(&recordings, limits, visit(1), None) else { panic!("there is nothing to sweep") };
        let (pace, promise) = (looked.pace.expect("a tick's"), looked.promise.expect("one went"));
        let mut pace = pace;
        pace.promised(promise);
        let looked = rest(&recordings, limits, Some(Visit { pace, its_turn: false, most: usize::MAX }));
        // How much is free now is others' doing, too.
        assert!([Pace::of(1), Pace::of(4)].contains(&looked.pace.expect("a tick's").told_nothing()), "{looked:?}");
        assert_ne!(looked.pace, Some(pace), "it was judged");
        assert_eq!(recordings.all().expect("listed").len(), 1, "it was another archive's turn");
    }

    #[test]
    fn a_tick_that_finds_files_to_sweep_makes_room_all_the_same_but_slowly() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let recordings = Recordings::at(directory.path(), Signs::default().into());
        ["a1", "a2", "a3"].iter().zip(1..).for_each(|(session, at)| recorded(directory.path(), session, Some(at), 1));
        let show = directory.path().join("recordings/live/show");
        std::fs::rename(show.join("a1"), show.join("a1.removed")).expect("renamed");
        let limits = Limits { free: Some(recordings.room().expect("told").size - 1), ..Limits::default() };
        rest(&recordings, limits, visit(64));
        assert!(!show.join("a2").exists() && show.join("a3").exists());
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
        let rest = |visit| rest(&recordings, limits, visit);
        assert!(rest(None).room.is_some() && show.join("a2").exists(), "room is looked at with a tick");
        assert!(!show.join("a1.removed").exists(), "the next one is swept");
        assert!(!show.join("00.removed").is_symlink() && elsewhere.path().join("0-1.m4s").exists());
        assert!(
            rest(visit(1)).room.is_some() && !show.join("a2").exists() && show.join("a3").exists(),
            "as many as may"
        );
        stick(MAX_STUCK);
        assert!(rest(visit(1)).failed.files.is_some(), "it is told");
        assert!(show.join("a3").exists(), "removing it would make no room");
    }
}
