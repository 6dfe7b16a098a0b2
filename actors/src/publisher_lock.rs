//! publisher_lock: who may publish a stream. One holder at a time, and never a dead one (invariant I5).

use crate::door::{Ask, Denial, Grant};
use crate::fault::Fault;
use crate::steps::until_step;
use crate::vitals::{Vital, Vitals};
use crate::{events, session};
use ractor::{Actor, ActorCell, ActorProcessingErr, ActorRef, DerivedActorRef};
use std::sync::Arc;
use std::time::SystemTime;
use storage::live::{Publisher, wall_ms};
use storage::{LiveStream, StreamName};
use tokio::time::{Duration, Instant};

/// A holder that sends no media for this long loses the stream to another encoder that asks.
pub const STALE_WHEN_ASKED: Duration = Duration::from_secs(3);
/// A holder that sends no media for this long loses the stream even if nobody asks.
pub const STALE: Duration = Duration::from_secs(15);
/// How often silence and grace are looked at.
const TICK: Duration = Duration::from_millis(250);
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
    /// The holder of this epoch has ended, however that came about.
    HolderEnded(u64),
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
        myself.send_after(TICK, || Msg::Tick);
        let vital = args.vitals.register(format!("publisher_lock {}", args.stream.name));
        Ok(State {
            stream: args.stream,
            notices: args.notices,
            holder: None,
            told_over: false,
            archive_until: None,
            vital,
        })
    }

    async fn handle(&self, myself: ActorRef<Msg>, msg: Msg, state: &mut State) -> Result<(), ActorProcessingErr> {
        let now = Instant::now();
        match msg {
            Msg::Claim(ask) => {
                let _busy = state.vital.enter("Claim");
                let answer = state.claim(&myself, ask.session.get_cell(), now, SystemTime::now());
                ask.answer(answer);
            }
            Msg::HolderEnded(epoch) => state.holder_ended(epoch, now),
            Msg::Holder(holder) => state.reconcile(holder, now),
            Msg::Tick => {
                let _busy = state.vital.enter("Tick");
                myself.send_after(until_step(TICK), || Msg::Tick);
                state.tick(now);
            }
            Msg::Fail(fault) => {
                let _busy = state.vital.enter("Fail");
                fault.strike()?;
            }
        }
        Ok(())
    }
}

/// The lock's state. What must outlive it is in the stream: its publisher and the last epoch.
pub struct State {
    stream: Arc<LiveStream>,
    notices: DerivedActorRef<Notice>,
    holder: Option<(u64, ActorCell)>,
    told_over: bool,
    archive_until: Option<Instant>,
    vital: Arc<Vital>,
}

impl State {
    /// Gives the stream to a session, or says why not. The claim is atomic: one message at a time.
    fn claim(
        &mut self,
        myself: &ActorRef<Msg>,
        session: ActorCell,
        now: Instant,
        wall: SystemTime,
    ) -> Result<Grant, Denial> {
        match self.stream.publisher() {
            Publisher::Free | Publisher::Grace { .. } => {}
            Publisher::Held { epoch, .. } if self.silence(now) >= STALE_WHEN_ASKED => self.evict(epoch, "stale", now),
            Publisher::Held { .. } => return Err(Denial::Taken),
            Publisher::Ended => return Err(Denial::Closing),
        }
        let epoch = self.stream.next_epoch();
        let age = i64::try_from(self.stream.age(now).as_millis()).unwrap_or(i64::MAX / 1_000_000);
        let after_last = self.stream.log.last_dts() / media::sample::TICKS_PER_MS + EPOCH_GAP_MS;
        let start_ms = (TIMELINE_START_MS + age).max(after_last);
        self.stream.log.open_epoch(epoch, wall_ms(wall) - start_ms, now);
        self.stream.set_publisher(Publisher::Held { epoch, since: now });
        self.holder = Some((epoch, session.clone()));
        // Told before the session is: it is linked in before it can publish anything.
        self.notify(Notice::Granted(epoch, session));
        events::publisher_granted(&self.stream, epoch);
        Ok(Grant { stream: self.stream.clone(), epoch, start_ms, lock: myself.clone() })
    }

    /// Starts the grace period, if the stream is still this epoch's.
    fn holder_ended(&mut self, epoch: u64, now: Instant) {
        if !matches!(self.stream.publisher(), Publisher::Held { epoch: held, .. } if held == epoch) {
            return;
        }
        self.holder = None;
        self.stream.log.close_epoch(epoch);
        self.stream.set_publisher(Publisher::Grace { until: now + self.stream.settings.grace });
        events::publisher_lost(&self.stream, epoch);
        if self.stream.log.last_dts() == 0 && !self.stream.window.snapshot().has_playlist() {
            // It never sent anything that could be packaged: there is no show to wait for.
            self.end();
        }
    }

    /// After a start: what the stream says and who lives must agree. A claim may have come first; what
    /// this lock granted itself, it knows better than the supervisor did when it sent this.
    fn reconcile(&mut self, holder: Option<(u64, ActorCell)>, now: Instant) {
        if self.holder.is_some() {
            return;
        }
        let held = if let Publisher::Held { epoch, .. } = self.stream.publisher() { Some(epoch) } else { None };
        match (held, holder) {
            (Some(epoch), Some((alive, session))) if epoch == alive => self.holder = Some((alive, session)),
            (Some(epoch), _) => self.holder_ended(epoch, now),
            (None, Some((_, session))) => session.stop(Some("it does not hold the stream".to_owned())),
            (None, None) => {}
        }
    }

    fn end(&mut self) {
        self.stream.log.end();
        self.stream.set_publisher(Publisher::Ended);
        events::session_ended(&self.stream);
    }

    fn tick(&mut self, now: Instant) {
        match self.stream.publisher() {
            Publisher::Free => {}
            Publisher::Held { epoch, .. } if self.silence(now) >= STALE => self.evict(epoch, "silent", now),
            Publisher::Held { .. } => {}
            Publisher::Grace { until } if now >= until => self.end(),
            Publisher::Grace { .. } => {}
            Publisher::Ended if !self.told_over && self.is_over(now) => {
                self.told_over = true;
                self.notify(Notice::Over(self.stream.name.clone()));
            }
            Publisher::Ended => {}
        }
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

    /// Takes the stream from a holder that sends nothing.
    fn evict(&mut self, epoch: u64, reason: &'static str, now: Instant) {
        if let Some((_, session)) = self.holder.take() {
            session.stop(Some(session::EVICTED.to_owned()));
        }
        events::publisher_evicted(&self.stream, epoch, reason);
        self.holder_ended(epoch, now);
    }

    fn silence(&self, now: Instant) -> Duration {
        self.stream.log.last_media().map_or(Duration::ZERO, |last| now.saturating_duration_since(last))
    }

    fn notify(&self, notice: Notice) {
        // A supervisor that is gone takes this actor with it.
        let _ = self.notices.send_message(notice);
    }
}
