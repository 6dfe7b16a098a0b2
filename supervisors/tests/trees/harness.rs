//! A tree, sessions that are no sockets, and media to feed them.

use actors::publisher_lock::claims::ANSWER_DEADLINE;
use actors::{Ask, Denial, Grant, session};
use bytes::Bytes;
use media::{Container, Entry, Intake, Packager, packager::Output, packager::Settings};
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, Message};
use std::sync::Arc;
use storage::Numbers;
use storage::archive::LocalDirectory;
use storage::continuity::Records;
use storage::disk::SyncPolicy;
use storage::live::{LiveSettings, StreamSettings};
use storage::{Archive, LiveStream, Mount, Mounts, Registry, StreamName};
use supervisors::streams::{self, Streams};
use supervisors::tree::Environment;
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::time::{Duration, Instant, sleep};

pub const GRACE: Duration = Duration::from_secs(30);
/// Ten seconds of 30 frames a second with a key frame each second, and audio.
const CLIP: &[u8] = include_bytes!("../../../src/demo.flv");

pub const PACKAGING: Settings = Settings { container: Container::Cmaf, target_duration: 2 };

/// The `streams` actor and what its trees are built around.
pub struct Tree {
    pub environment: Environment,
    pub streams: ActorRef<streams::Msg>,
    pub directory: TempDir,
}

impl Tree {
    pub async fn start() -> Self {
        let directory = tempfile::tempdir().expect("temporary directory");
        let archive = LocalDirectory::at(&directory.path().join("data"));
        Self::start_on(directory, Arc::new(archive)).await
    }

    /// Sessions are recorded, and end as soon as their publishers are gone.
    pub async fn start_recording() -> Self {
        let directory = tempfile::tempdir().expect("temporary directory");
        let archive = LocalDirectory::at(directory.path());
        let mut environment = environment(&directory, Arc::new(archive));
        let all = &mut environment.settings.all;
        (all.record, all.grace, all.grace_unpublished) = (true, Duration::ZERO, Duration::ZERO);
        Self::start_in(directory, environment).await
    }

    pub async fn start_on(directory: TempDir, archive: Arc<dyn Archive>) -> Self {
        let environment = environment(&directory, archive);
        Self::start_in(directory, environment).await
    }

    async fn start_in(directory: TempDir, environment: Environment) -> Self {
        let (streams, _) = Actor::spawn(None, Streams, environment.clone()).await.expect("it starts");
        Self { environment, streams, directory }
    }

    /// Another process in its place, which has adopted nothing.
    pub async fn succeeded(self) -> Self {
        let Self { environment, streams, directory } = self;
        streams.stop_and_wait(None, None).await.expect("it ends");
        let registry = Registry::settling_until(Instant::now());
        Self::start_in(directory, Environment { registry, ..environment }).await
    }

    /// A session asks for a stream; its answer.
    pub async fn ask(&self, name: &str) -> (ActorRef<session::Msg>, Result<Grant, Denial>) {
        let (session, mut answers) = fake_session().await;
        self.streams.send_message(streams::Msg::Ask(ask(name, &session))).expect("alive");
        (session, answers.recv().await.expect("answered"))
    }

    /// A session asks for a stream whose holder goes on sending; its answer.
    pub async fn ask_beside(&self, name: &str, holder: &mut Show) -> Result<Grant, Denial> {
        let (session, mut answers) = fake_session().await;
        self.streams.send_message(streams::Msg::Ask(ask(name, &session))).expect("alive");
        loop {
            holder.send(1);
            tokio::select! {
                answer = answers.recv() => {
                    let answer = answer.expect("answered");
                    if answer.is_err() {
                        // One that is refused hangs up.
                        session.stop_and_wait(None, None).await.expect("it ends");
                    }
                    return answer;
                }
                // The holder's pace.
                () = sleep(Duration::from_millis(20)) => {}
            }
        }
    }

    /// A session that is granted the stream and has begun to send.
    pub async fn publish(&self, name: &str) -> Show {
        let (session, answer) = self.ask(name).await;
        let mut show = Show::new(session, answer.expect("granted"));
        show.send(8);
        show
    }

    pub fn stream(&self, name: &str) -> Arc<LiveStream> {
        self.environment.registry.get(&format!("live/{name}")).expect("open")
    }

    /// Supervisors of streams.
    pub fn supervisors(&self) -> Vec<ActorCell> {
        self.streams.get_cell().get_children()
    }

    /// The running child of the only stream that takes messages of this type.
    pub async fn child<M: Message>(&self) -> ActorCell {
        wait_for("the child runs", || {
            let children = self.supervisors().into_iter().flat_map(|supervisor| supervisor.get_children());
            children.into_iter().find(|child| child.is_message_type_of::<M>() == Some(true))
        })
        .await
    }

    /// The next generation of a child.
    pub async fn successor<M: Message>(&self, of: &ActorCell) -> ActorCell {
        wait_for("it is restarted", || {
            let children = self.supervisors().into_iter().flat_map(|supervisor| supervisor.get_children());
            children
                .into_iter()
                .find(|child| child.is_message_type_of::<M>() == Some(true) && child.get_id() != of.get_id())
        })
        .await
    }
}

fn environment(directory: &TempDir, archive: Arc<dyn Archive>) -> Environment {
    Environment {
        registry: Registry::settling_until(Instant::now()),
        records: Records::open(&directory.path().join("run")).expect("directory"),
        retention: storage::retention::Limits::default(),
        mounts: Mounts::only(Mount::of("default", directory.path(), archive, SyncPolicy::Never).expect("threads")),
        vitals: Arc::default(),
        slate: None,
        view: Arc::default(),
        settings: StreamSettings {
            all: LiveSettings { packaging: PACKAGING, grace: GRACE, ..LiveSettings::default() },
            takeover: Arc::default(),
        },
        used: Numbers::default(),
    }
}

pub fn ask(name: &str, session: &ActorRef<session::Msg>) -> Ask {
    let stream = StreamName::new("live", name).expect("valid name");
    {
        let since = Instant::now();
        Ask { stream, session: session.clone(), since, deadline: since + ANSWER_DEADLINE }
    }
}

/// Takes a session's messages and does nothing but fail when told to.
pub struct FakeSession;

impl Actor for FakeSession {
    type Msg = session::Msg;
    type State = mpsc::Sender<Result<Grant, Denial>>;
    type Arguments = Self::State;

    async fn pre_start(&self, _: ActorRef<Self::Msg>, answers: Self::State) -> Result<Self::State, ActorProcessingErr> {
        Ok(answers)
    }

    async fn handle(
        &self,
        myself: ActorRef<Self::Msg>,
        msg: Self::Msg,
        answers: &mut Self::State,
    ) -> Result<(), ActorProcessingErr> {
        match msg {
            session::Msg::Answer(answer) => drop(answers.try_send(answer)),
            session::Msg::Fail(fault) => fault.strike()?,
            session::Msg::Pump
            | session::Msg::AskAgain
            | session::Msg::AnswerOverdue
            | session::Msg::PublishOverdue => {}
            session::Msg::Leave(_) => myself.stop(None),
        }
        Ok(())
    }
}

pub async fn fake_session() -> (ActorRef<session::Msg>, mpsc::Receiver<Result<Grant, Denial>>) {
    let (answers, received) = mpsc::channel(4);
    let (session, _) = Actor::spawn(None, FakeSession, answers).await.expect("it starts");
    (session, received)
}

/// A publication: what was sent so far, and what remains to be sent.
pub struct Show {
    pub session: ActorRef<session::Msg>,
    pub grant: Grant,
    pub sent: Vec<Entry>,
    intake: Intake,
    rest: &'static [u8],
}

impl Show {
    pub fn new(session: ActorRef<session::Msg>, grant: Grant) -> Self {
        Self { session, intake: Intake::starting_at(grant.start_ms), grant, sent: Vec::new(), rest: &CLIP[13..] }
    }

    /// Sends the next tags of the clip; fewer at its end.
    pub fn send(&mut self, tags: usize) {
        let mut entries = Vec::new();
        for _ in 0..tags {
            let Some(header) = self.rest.get(..11) else { break };
            let length = u32::from_be_bytes([0, header[1], header[2], header[3]]) as usize;
            let timestamp = u32::from_be_bytes([header[7], header[4], header[5], header[6]]);
            let body = Bytes::from_static(&self.rest[11..11 + length]);
            self.rest = &self.rest[11 + length + 4..];
            match header[0] {
                9 => self.intake.video(timestamp, &body, &mut entries).expect("valid"),
                8 => self.intake.audio(timestamp, &body, &mut entries).expect("valid"),
                _ => {}
            }
        }
        self.sent.extend(entries.iter().cloned());
        self.grant.stream.log.append(self.grant.epoch, entries, Instant::now()).expect("it holds the stream");
    }

    /// Files of the segments an undisturbed packager makes of what was sent, once the publisher is gone.
    pub fn undisturbed(&self) -> Vec<Bytes> {
        let mut packager = Packager::new(PACKAGING);
        let epoch = Entry::Epoch { epoch: self.grant.epoch, wall_ms_at_zero: 0 };
        let entries = [epoch].into_iter().chain(self.sent.iter().cloned()).chain([Entry::EpochEnd]);
        let outputs = entries.flat_map(|entry| packager.push(&entry));
        outputs
            .filter_map(
                |output| if let Output::Segment(segment) = output { Some(segment.bytes.to_bytes()) } else { None },
            )
            .collect()
    }
}

/// Everything published and still fetchable, oldest first.
pub fn published(stream: &LiveStream) -> Vec<Bytes> {
    let snapshot = stream.window.snapshot();
    let expired = snapshot.expired.iter().map(|expired| &expired.segment);
    expired.chain(&snapshot.listed).map(|segment| segment.file.bytes.to_bytes()).collect()
}

/// Waits until the segmenter has read everything the log holds.
pub async fn packaged(stream: &LiveStream) {
    wait_for("everything is packaged", || {
        let resume = stream.window.snapshot().resume.as_ref().map(|resume| resume.position);
        (resume == Some(stream.log.head())).then_some(())
    })
    .await;
}

/// Looks until there is something. With paused time the looking makes it pass.
pub async fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>) -> T {
    for _ in 0..6000 {
        if let Some(found) = look() {
            return found;
        }
        sleep(Duration::from_millis(5)).await;
    }
    panic!("{what}: not within 30 s");
}
