//! publisher_lock: who may publish a stream. One holder at a time, and never a dead one (invariant I5).

pub mod claims;

use crate::door::{Ask, Farewell, Grant};
use crate::fault::Fault;
use crate::steps::until_step;
use crate::vitals::{Place, Vital, Vitals};
use crate::{events, session};
use claims::{Claims, Decision, Graces, Heard, Leaving, Policy};
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, DerivedActorRef};
use std::sync::Arc;
use std::time::SystemTime;
use storage::live::{Publisher, Replaced, wall_ms};
use storage::{LiveStream, StreamName};
use tokio::task::AbortHandle;
use tokio::time::{Duration, Instant};

/// How often a holder that nobody disturbs is looked at, ...
const TICK_WHEN_HELD: Duration = Duration::from_secs(1);
/// ... how often while nobody holds the stream, ...
const TICK: Duration = Duration::from_millis(250);
/// ... and how often while an encoder waits for what comes of it.
const TICK_WHEN_ASKED: Duration = Duration::from_millis(50);
/// How long the last playlist of an ended session may take to reach the archive before its tree is closed.
const ARCHIVE_PATIENCE: Duration = Duration::from_secs(60);
/// The timeline begins here, milliseconds, so that no composition offset makes a time negative.
const TIMELINE_START_MS: i64 = 10_000;
/// Least distance between the last sample of an epoch and the first of the next, milliseconds.
const EPOCH_GAP_MS: i64 = 1_000;

/// Messages to the lock.
#[derive(Debug)]
pub enum Msg {
    /// A session asks to publish.
    Claim(Ask),
    /// The holder of this epoch has ended.
    HolderEnded(u64, Leaving),
    /// Sent once after each start: the session that lives, if one does, with its epoch.
    Holder(Option<(u64, ActorCell)>),
    /// Time to look at silence and grace.
    Tick,
    /// Fails on purpose.
    Fail(Fault),
}

/// What the supervisor must know.
#[derive(Debug, Clone)]
pub enum Notice {
    /// The stream was given to a session, which is to be linked in.
    Granted(u64, ActorCell),
    /// The session is over and its last playlist is published; the tree may be closed.
    Over(StreamName),
}

/// What a lock needs to start.
#[derive(Clone)]
pub struct Args {
    /// The stream.
    pub stream: Arc<LiveStream>,
    /// Whom to tell.
    pub notices: DerivedActorRef<Notice>,
    /// Where to register.
    pub vitals: Arc<Vitals>,
}

/// The actor.
#[derive(Debug, Default)]
pub struct PublisherLock;

impl Actor for PublisherLock {
    type Msg = Msg;
    type State = State;
    type Arguments = Args;

    async fn pre_start(&self, myself: ActorRef<Msg>, args: Args) -> Result<State, ActorProcessingErr> {
        let Args { stream, notices, vitals } = args;
        let (place, every) = (Place::Stream(stream.name.clone()), Some(TICK_WHEN_HELD));
        let vital = vitals.register("publisher_lock", place, myself.get_id(), every);
        let timer = myself.send_after(TICK, || Msg::Tick).abort_handle();
        Ok(State::new(stream, notices, timer, vital))
    }

    async fn handle(&self, myself: ActorRef<Msg>, msg: Msg, state: &mut State) -> Result<(), ActorProcessingErr> {
        let now = Instant::now();
        let _busy = state.vital.enter(msg.name());
        match msg {
            Msg::Claim(ask) => state.claim(&myself, ask, now)?,
            Msg::HolderEnded(epoch, leaving) => state.holder_ended(&myself, epoch, leaving, now)?,
            Msg::Holder(holder) => state.reconcile(&myself, holder, now)?,
            Msg::Tick => state.tick(&myself, now)?,
            Msg::Fail(fault) => fault.strike()?,
        }
        state.look_again(&myself);
        Ok(())
    }
}

impl Msg {
    fn name(&self) -> &'static str {
        match self {
            Msg::Claim(_) => "Claim",
            Msg::HolderEnded(..) => "HolderEnded",
            Msg::Holder(_) => "Holder",
            Msg::Tick => "Tick",
            Msg::Fail(_) => "Fail",
        }
    }
}

/// The lock's state. What must outlive it is in the stream: its publisher and the last epoch. Those who wait ask again.
pub struct State {
    stream: Arc<LiveStream>,
    notices: DerivedActorRef<Notice>,
    /// Its number: a lock that was replaced decides nothing.
    number: u64,
    claims: Claims<Ask>,
    holder: Option<(u64, ActorRef<session::Msg>)>,
    told_over: bool,
    archive_until: Option<Instant>,
    /// Of the next tick: there is one at a time.
    timer: AbortHandle,
    vital: Arc<Vital>,
}

impl State {
    fn new(stream: Arc<LiveStream>, notices: DerivedActorRef<Notice>, timer: AbortHandle, vital: Arc<Vital>) -> Self {
        let number = stream.next_lock();
        let settings = stream.settings;
        let policy = if settings.takeover { Policy::Takeover } else { Policy::Hold };
        let graces = Graces { unpublished: settings.grace_unpublished, lost: settings.grace };
        let claims = Claims::resuming(policy, graces, stream.publisher(), stream.epoch(), Instant::now());
        Self { stream, notices, number, claims, holder: None, told_over: false, archive_until: None, timer, vital }
    }

    /// Sets the next tick: soon while somebody waits.
    fn look_again(&mut self, myself: &ActorRef<Msg>) {
        let tick = match self.claims.publisher() {
            _ if self.claims.waiting() > 0 => TICK_WHEN_ASKED,
            Publisher::Held { .. } => TICK_WHEN_HELD,
            Publisher::Free | Publisher::Grace { .. } | Publisher::Ended => TICK,
        };
        self.timer.abort();
        self.timer = myself.send_after(until_step(tick), || Msg::Tick).abort_handle();
    }

    /// A session asks. The claim is atomic: one message at a time.
    fn claim(&mut self, myself: &ActorRef<Msg>, ask: Ask, now: Instant) -> Result<(), Replaced> {
        if self.holder.as_ref().is_some_and(|(_, holder)| holder.get_id() == ask.session.get_id()) {
            // It asked again before it had read that the stream is its own.
            return Ok(());
        }
        let (since, waiting) = (ask.since, self.claims.waiting());
        let decisions = self.claims.claim(ask, since, self.heard(now), now);
        if self.claims.waiting() > waiting {
            events::publish_held(&self.stream);
        }
        self.carry_out(myself, decisions, now)
    }

    fn holder_ended(
        &mut self,
        myself: &ActorRef<Msg>,
        epoch: u64,
        leaving: Leaving,
        now: Instant,
    ) -> Result<(), Replaced> {
        let decisions = self.claims.ended(epoch, leaving, now);
        self.carry_out(myself, decisions, now)
    }

    /// After a start: what the stream says and who lives must agree. A claim may have come first; what
    /// this lock granted itself, it knows better than the supervisor did when it sent this.
    fn reconcile(
        &mut self,
        myself: &ActorRef<Msg>,
        holder: Option<(u64, ActorCell)>,
        now: Instant,
    ) -> Result<(), Replaced> {
        if self.holder.is_some() {
            return Ok(());
        }
        let held = if let Publisher::Held { epoch, .. } = self.claims.publisher() { Some(epoch) } else { None };
        match (held, holder) {
            (Some(epoch), Some((alive, session))) if epoch == alive => self.holder = Some((alive, session.into())),
            (Some(epoch), _) => self.holder_ended(myself, epoch, Leaving::Lost, now)?,
            (None, Some((_, session))) => session.stop(Some("it does not hold the stream".to_owned())),
            (None, None) => {}
        }
        Ok(())
    }

    fn tick(&mut self, myself: &ActorRef<Msg>, now: Instant) -> Result<(), Replaced> {
        if let (Publisher::Held { epoch, .. }, true) = (self.claims.publisher(), self.stream.has_unpublished()) {
            // Told to the lock that had granted it, which is another one by now.
            self.holder_ended(myself, epoch, Leaving::Unpublished, now)?;
        }
        let decisions = self.claims.look(self.heard(now), now);
        self.carry_out(myself, decisions, now)?;
        if self.claims.publisher() == Publisher::Ended && !self.told_over && self.is_over(now) {
            self.told_over = true;
            self.notify(Notice::Over(self.stream.name.clone()));
        }
        Ok(())
    }

    /// Does what was decided; first of all it is said who publishes, so that a lock that was replaced does nothing.
    fn carry_out(
        &mut self,
        myself: &ActorRef<Msg>,
        decisions: Vec<Decision<Ask>>,
        now: Instant,
    ) -> Result<(), Replaced> {
        if decisions.is_empty() {
            return Ok(());
        }
        self.stream.decide(self.number, self.claims.publisher(), self.claims.epoch())?;
        for decision in decisions {
            match decision {
                Decision::Evict(epoch, reason) => self.evict(epoch, reason),
                Decision::Close(epoch, leaving) => self.close(epoch, leaving),
                Decision::Grant(ask, epoch) => self.grant(myself, &ask, epoch, now),
                Decision::Refuse(ask, denial) => ask.answer(Err(denial)),
                Decision::End => self.end(),
            }
        }
        Ok(())
    }

    fn grant(&mut self, myself: &ActorRef<Msg>, ask: &Ask, epoch: u64, now: Instant) {
        let age = i64::try_from(self.stream.age(now).as_millis()).unwrap_or(i64::MAX / 1_000_000);
        let after_last = self.stream.log.last_dts() / media::sample::TICKS_PER_MS + EPOCH_GAP_MS;
        let start_ms = (TIMELINE_START_MS + age).max(after_last);
        self.stream.log.open_epoch(epoch, wall_ms(SystemTime::now()) - start_ms, now);
        self.holder = Some((epoch, ask.session.clone()));
        // Told before the session is: it is linked in before it can publish anything.
        self.notify(Notice::Granted(epoch, ask.session.get_cell()));
        events::publisher_granted(&self.stream, epoch);
        ask.answer(Ok(Grant { stream: self.stream.clone(), epoch, start_ms, lock: myself.clone() }));
    }

    /// What the holder left is to be published.
    fn close(&mut self, epoch: u64, leaving: Leaving) {
        self.holder = None;
        self.stream.log.close_epoch(epoch);
        events::publisher_gone(&self.stream, epoch, leaving);
        let waits = matches!(self.claims.publisher(), Publisher::Grace { .. });
        if waits && self.stream.log.last_dts() == 0 && !self.stream.window.snapshot().has_playlist() {
            // It never sent anything that could be packaged: there is no show to wait for.
            self.claims.end();
            if self.stream.decide(self.number, Publisher::Ended, self.claims.epoch()).is_ok() {
                self.end();
            }
        }
    }

    fn end(&mut self) {
        self.stream.log.end();
        events::session_ended(&self.stream);
    }

    /// Whether nothing is left to do: the last playlist is published and archived, or storage had its time.
    fn is_over(&mut self, now: Instant) -> bool {
        let snapshot = self.stream.window.snapshot();
        let patience = *self.archive_until.get_or_insert(now + ARCHIVE_PATIENCE);
        let archived_version = self.stream.ledger.documents().map(|there| there.version);
        let archived = !snapshot.has_playlist() || archived_version == Some(snapshot.version);
        let recorded = !self.stream.settings.record || !snapshot.has_playlist() || self.stream.spool.is_finished();
        snapshot.ended && (archived && recorded || now >= patience)
    }

    /// Takes the stream from its holder, who is told why if it still listens.
    fn evict(&mut self, epoch: u64, reason: &'static str) {
        if let Some((_, session)) = self.holder.take() {
            let farewell = if reason == "takeover" { Farewell::TakenOver } else { Farewell::Silent };
            // One that has ended needs no farewell.
            let _ = session.send_message(session::Msg::Leave(farewell));
        }
        events::publisher_evicted(&self.stream, epoch, reason);
    }

    fn heard(&self, now: Instant) -> Heard {
        let (media, read) = self.stream.log.last_heard();
        Heard { media, read: read.unwrap_or(now) }
    }

    fn notify(&self, notice: Notice) {
        // A supervisor that is gone takes this actor with it.
        let _ = self.notices.send_message(notice);
    }
}
