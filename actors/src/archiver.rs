//! archiver: makes the archive hold what the window says, again after every failure (invariant I4).
//!
//! It only plans; the work is done by the mount's disk threads, and comes back as a message.

mod commit;

use crate::events;
use crate::fault::Fault;
use crate::operations::{Answer, Operations, Turn};
use crate::steps::until_step;
use crate::task;
use crate::vitals::{Place, Vital, Vitals};
use commit::{Commit, Spares};
use memory::Content;
use ractor::{Actor, ActorProcessingErr, ActorRef};
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use storage::archive::{Aside, Documents};
use storage::disk::{Busy, Disk};
use storage::snapshot::{DIGESTS, MEDIA_PLAYLIST, MULTIVARIANT_PLAYLIST};
use storage::{Archive, LiveStream, Registry, Snapshot};
use tokio::time::{Duration, Instant, timeout};

/// How often window and archive are compared while they differ, beside whenever something is published: what is not
/// written when the process is killed is lost.
const TICK: Duration = Duration::from_secs(1);
/// And while they do not.
const IDLE: Duration = Duration::from_secs(2);
/// Files written in one go, so that one stream's backlog does not keep a disk thread from the others.
const MAX_FILES: usize = 16;

/// Messages to the archiver.
#[derive(Debug)]
pub enum Msg {
    /// Time to compare window and archive.
    Tick,
    /// What was left over from earlier is gone, and what is of use was found.
    Opened(u64, io::Result<BTreeMap<String, u64>>),
    /// Files are written aside.
    Written(u64, io::Result<Vec<Aside>>),
    /// They are durable.
    Synced(u64, io::Result<()>),
    /// They have their names, and so have playlists and digests; what those replaced.
    Committed(u64, io::Result<Spares>),
    /// Fails on purpose.
    Fail(Fault),
}

/// What an archiver needs to start.
#[derive(Clone)]
pub struct Args {
    /// The stream.
    pub stream: Arc<LiveStream>,
    /// Threads of the mount.
    pub disk: Arc<Disk>,
    /// Who owns the stream's directory now.
    pub registry: Arc<Registry>,
    /// Where to register.
    pub vitals: Arc<Vitals>,
}

/// The actor.
#[derive(Debug, Default)]
pub struct Archiver;

impl Actor for Archiver {
    type Msg = Msg;
    type State = State;
    type Arguments = Args;

    async fn pre_start(&self, myself: ActorRef<Msg>, args: Args) -> Result<State, ActorProcessingErr> {
        myself.send_after(Duration::ZERO, || Msg::Tick);
        let vital =
            args.vitals.register("archiver", Place::Stream(args.stream.name.clone()), myself.get_id(), Some(IDLE));
        let Args { stream, disk, registry, .. } = args;
        Ok(State {
            stream,
            operations: Operations::on(disk),
            registry,
            opened: false,
            abandoned: Fence::default(),
            plan: None,
            replicated: None,
            spares: Spares::default(),
            is_behind: false,
            vital,
        })
    }

    async fn handle(&self, myself: ActorRef<Msg>, msg: Msg, state: &mut State) -> Result<(), ActorProcessingErr> {
        let now = Instant::now();
        let _busy = state.vital.enter("handle");
        match msg {
            Msg::Tick => {
                state.tick(&myself, now);
                state.wait(myself);
            }
            Msg::Opened(ticket, result) => state.opened(&myself, ticket, result, now),
            Msg::Written(ticket, result) => state.written(&myself, ticket, result, now),
            Msg::Synced(ticket, result) => state.synced(&myself, ticket, result, now),
            Msg::Committed(ticket, result) => state.committed(&myself, ticket, result, now),
            Msg::Fail(fault) => fault.strike()?,
        }
        Ok(())
    }
}

/// What is to be done to make the archive a replica of a snapshot.
#[derive(Debug, Clone)]
pub struct Plan {
    /// Files to write: segments and initialization sections, oldest first.
    write: Vec<(String, Content)>,
    /// Playlists and digests, once no listed file is missing.
    documents: Option<(Documents, Vec<(&'static str, Content)>)>,
    /// Files to remove when the playlists no longer name them.
    remove: Vec<String>,
    /// These are the last playlists.
    ended: bool,
}

impl Plan {
    /// What differs between a window and what the archive holds.
    fn between(snapshot: &Snapshot, held: &BTreeMap<String, u64>, documents: Option<&Documents>) -> Option<Self> {
        let wanted = snapshot.files();
        let missing: Vec<_> = wanted.values().filter(|file| !held.contains_key(&file.name)).collect();
        let complete = missing.len() <= MAX_FILES;
        let write: Vec<_> =
            missing.iter().take(MAX_FILES).map(|file| (file.name.clone(), file.bytes.clone())).collect();
        let stale = documents.map(|there| there.version) != Some(snapshot.version) && snapshot.has_playlist();
        let remove: Vec<_> = held.keys().filter(|name| !wanted.contains_key(name.as_str())).cloned().collect();
        if write.is_empty() && !stale && remove.is_empty() {
            return None;
        }
        let due = complete && snapshot.has_playlist();
        let documents = due.then(|| Self::documents(snapshot, documents));
        Some(Self { write, remove: if complete { remove } else { Vec::new() }, documents, ended: snapshot.ended })
    }

    /// Digests before playlists: at no instant is a listed file without its digest (invariant I2).
    fn documents(snapshot: &Snapshot, there: Option<&Documents>) -> (Documents, Vec<(&'static str, Content)>) {
        let mut write =
            vec![(DIGESTS, snapshot.digests.content()), (MEDIA_PLAYLIST, snapshot.media_playlist.content())];
        let multivariant = snapshot.multivariant.etag.clone();
        if there.is_none_or(|there| there.multivariant != multivariant) {
            write.push((MULTIVARIANT_PLAYLIST, snapshot.multivariant.content()));
        }
        (Documents { version: snapshot.version, multivariant }, write)
    }
}

/// Tells operations that hang in a disk thread that they were given up: what they would still do is
/// another's by now. Falls when the actor ends, however it ends.
#[derive(Debug, Default)]
struct Fence(Arc<AtomicBool>);

impl Drop for Fence {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// What is being done, and what is known of the archive.
pub struct State {
    stream: Arc<LiveStream>,
    operations: Operations,
    registry: Arc<Registry>,
    opened: bool,
    abandoned: Fence,
    /// What is written aside and waits for its sync. Kept here and not with the sync, which may hang.
    plan: Option<(Plan, Vec<Aside>)>,
    /// Version of the snapshot that nothing is missing of.
    replicated: Option<u64>,
    spares: Spares,
    /// More files are to be written than were.
    is_behind: bool,
    vital: Arc<Vital>,
}

impl State {
    /// Has the next look come when something is published, or when it is time.
    fn wait(&self, myself: ActorRef<Msg>) {
        let (stream, version) = (self.stream.clone(), self.stream.window.snapshot().version);
        let time = until_step(if self.replicated == Some(version) { IDLE } else { TICK });
        task::spawn(async move {
            let _ = timeout(time, stream.window.newer_than(version)).await;
            let _ = myself.send_message(Msg::Tick);
        });
    }

    fn tick(&mut self, myself: &ActorRef<Msg>, now: Instant) {
        match self.operations.turn(now) {
            Turn::Begin => {}
            Turn::Wait => return,
            Turn::GiveUp => {
                events::archive_operation_abandoned(&self.stream);
                return self.failed(now);
            }
        }
        if !self.opened {
            return self.open(myself, now);
        }
        let (ledger, snapshot) = (&self.stream.ledger, self.stream.window.snapshot());
        let documents = ledger.documents();
        // Damage takes the documents from the ledger, a failure takes `replicated`.
        if self.replicated == Some(snapshot.version) && documents.is_some() {
            return;
        }
        match Plan::between(&snapshot, &ledger.files(), documents.as_ref()) {
            Some(plan) => self.write(myself, plan, now),
            None => self.replicated = Some(snapshot.version),
        }
    }

    /// Finds what the directory holds, and removes what the window does not name: leftovers of earlier
    /// sessions, of failed writes, and what expired while storage failed. That room may be just what is missing.
    fn open(&mut self, myself: &ActorRef<Msg>, now: Instant) {
        let snapshot = self.stream.window.snapshot();
        self.submit(
            myself,
            now,
            move |archive, stream| {
                let wanted = snapshot.files();
                // A gap's file may be there after all: it was only not read in time.
                let listed = |name: &String| snapshot.listed.iter().any(|segment| segment.file.name == *name);
                let (kept, leftovers): (BTreeMap<_, _>, BTreeMap<_, _>) =
                    archive.list(&stream.name)?.into_iter().partition(|(name, length)| {
                        wanted.get(name.as_str()).is_some_and(|file| file.bytes.len() as u64 == *length)
                    });
                let documents = [DIGESTS, MEDIA_PLAYLIST, MULTIVARIANT_PLAYLIST];
                for name in leftovers.keys().filter(|name| !documents.contains(&name.as_str()) && !listed(name)) {
                    archive.remove(&stream.name, name)?;
                }
                Ok(kept)
            },
            Msg::Opened,
        );
    }

    fn opened(&mut self, myself: &ActorRef<Msg>, ticket: u64, result: io::Result<BTreeMap<String, u64>>, now: Instant) {
        if let Some(held) = self.answered(ticket, result, now) {
            self.stream.ledger.replace(held);
            self.opened = true;
            self.tick(myself, now);
        }
    }

    fn write(&mut self, myself: &ActorRef<Msg>, plan: Plan, now: Instant) {
        let files = plan.write.clone();
        self.plan = Some((plan, Vec::new()));
        self.submit(
            myself,
            now,
            move |archive, stream| {
                files.iter().map(|(name, bytes)| archive.write_aside(&stream.name, name, bytes)).collect()
            },
            Msg::Written,
        );
    }

    fn written(&mut self, myself: &ActorRef<Msg>, ticket: u64, result: io::Result<Vec<Aside>>, now: Instant) {
        let Some(written) = self.answered(ticket, result, now) else { return };
        if let Some((_, asides)) = &mut self.plan {
            *asides = written;
        }
        if let Err(Busy) = self.operations.sync(myself, now, Msg::Synced) {
            self.failed(now);
        }
    }

    fn synced(&mut self, myself: &ActorRef<Msg>, ticket: u64, result: io::Result<()>, now: Instant) {
        if self.answered(ticket, result, now).is_none() {
            return;
        }
        let Some((plan, asides)) = self.plan.take() else { return };
        self.is_behind = plan.documents.is_none();
        let (abandoned, spares) = (self.abandoned.0.clone(), std::mem::take(&mut self.spares));
        self.submit(
            myself,
            now,
            move |archive, stream| Commit { archive, stream, plan: &plan, abandoned: &abandoned }.run(&asides, spares),
            Msg::Committed,
        );
    }

    fn committed(&mut self, myself: &ActorRef<Msg>, ticket: u64, result: io::Result<Spares>, now: Instant) {
        if let Some(spares) = self.answered(ticket, result, now) {
            self.spares = spares;
            self.operations.succeeded();
            // A backlog goes on at once.
            if self.is_behind {
                self.tick(myself, now);
            }
        }
    }

    /// Runs an operation on a disk thread, unless the directory has become another session's.
    fn submit<T: Send + 'static>(
        &mut self,
        myself: &ActorRef<Msg>,
        now: Instant,
        operation: impl FnOnce(&dyn Archive, &LiveStream) -> io::Result<T> + Send + 'static,
        answer: impl FnOnce(u64, io::Result<T>) -> Msg + Send + 'static,
    ) {
        let (stream, registry) = (self.stream.clone(), self.registry.clone());
        let operation = move |archive: &dyn Archive| {
            let owner = registry.get(&stream.name.to_string()).is_some_and(|owner| Arc::ptr_eq(&owner, &stream));
            if owner { operation(archive, &stream) } else { Err(io::Error::other("the stream has ended")) }
        };
        if let Err(Busy) = self.operations.begin(myself, now, operation, answer) {
            self.failed(now);
        }
    }

    /// The result of the operation in flight; `None` if it failed or is not the one in flight.
    fn answered<T>(&mut self, ticket: u64, result: io::Result<T>, now: Instant) -> Option<T> {
        match self.operations.answered(ticket, result) {
            Answer::Done(value) => Some(value),
            Answer::Failed(error) => {
                events::archive_failed(&self.stream, &error);
                self.failed(now);
                None
            }
            Answer::Stale => None,
        }
    }

    fn failed(&mut self, now: Instant) {
        self.operations.failed(now, fastrand::f64());
        self.plan = None;
        self.replicated = None;
        self.spares = Spares::default();
        // Nor whether playlists and digests are what they were.
        self.stream.ledger.set_documents(None);
        // After a failure nobody knows what is there: look before writing again.
        self.opened = false;
        self.abandoned = Fence::default();
    }
}
