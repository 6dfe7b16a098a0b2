//! Children: a supervisor's table of running children, one_for_one.
//!
//! A dead child is awaited before its successor starts: ractor reports a failure before it drops the
//! dead child's state, and two generations must not hold the same things.

use crate::events;
use crate::spec::{ChildSpec, Started};
use crate::strategy::{Decision, Ending, History, Intensity};
use crate::tree::{Blow, strike};
use crate::view::View;
use actors::task;
use ractor::{ActorCell, ActorId, SupervisionEvent};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

/// How long a dead child's state may take to be dropped before its successor starts anyway.
const DROP_DEADLINE: Duration = Duration::from_secs(1);

/// A child may be started again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Respawn {
    index: usize,
    generation: u64,
}

/// What a supervisor learns from a supervision event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Learned {
    /// Nothing it must act on.
    Nothing,
    /// An actor that is not in the table ended.
    Stranger(ActorId, Ending),
    /// A child fails too often: the supervisor must fail.
    GiveUp(&'static str),
}

struct Child {
    spec: ChildSpec,
    history: History,
    running: Option<Started>,
    generation: u64,
    /// How many more times it does not start, on purpose.
    stillborn: u32,
}

/// The children of one supervisor. `scope` names it in logs.
pub struct Children {
    scope: String,
    view: Arc<View>,
    /// Its number among supervisors of this name.
    number: u64,
    supervisor: ActorCell,
    children: Vec<Child>,
    respawn: Arc<dyn Fn(Respawn) + Send + Sync>,
}

impl Children {
    /// A table of children, none started yet. `respawn` sends the message that comes back to [`Children::respawn`].
    pub fn new(
        (scope, view): (String, Arc<View>),
        supervisor: ActorCell,
        intensity: Intensity,
        specs: Vec<ChildSpec>,
        respawn: impl Fn(Respawn) + Send + Sync + 'static,
    ) -> Self {
        let now = Instant::now();
        let child = |spec: ChildSpec| Child {
            history: History::new(spec.restart, intensity, now).putting_off(spec.longest_wait),
            spec,
            running: None,
            generation: 0,
            stillborn: 0,
        };
        let number = view.begin(&scope);
        let children = specs.into_iter().map(child).collect();
        Self { scope, view, number, supervisor, children, respawn: Arc::new(respawn) }
    }

    /// The supervisor is to end for good: nobody of its name follows.
    pub fn over(&self) {
        self.view.forget(&self.scope, self.number);
    }

    /// Starts all children. One that does not start is tried again like one that failed.
    pub async fn start_all(&mut self) -> Result<(), &'static str> {
        for index in 0..self.children.len() {
            self.start(index).await?;
        }
        Ok(())
    }

    /// Starts a child again, unless that has happened already.
    pub async fn respawn(&mut self, again: Respawn) -> Result<(), &'static str> {
        let child = &self.children[again.index];
        if child.generation != again.generation || child.running.is_some() {
            return Ok(());
        }
        self.start(again.index).await
    }

    /// Takes a supervision event; what the supervisor must do about it.
    pub fn event(&mut self, event: SupervisionEvent) -> Learned {
        let Some((cell, ending, reason)) = ending_of(event) else { return Learned::Nothing };
        let is_child =
            |child: &Child| child.running.as_ref().is_some_and(|(running, _)| running.get_id() == cell.get_id());
        match self.children.iter().position(is_child) {
            Some(index) => self.ended(index, ending, &reason),
            None => Learned::Stranger(cell.get_id(), ending),
        }
    }

    /// Takes a child that makes no progress out of the table, and starts another in its place. It is killed as soon as it
    /// returns from what it is in; whatever it does until then, it is fenced. None if it is no child of this supervisor.
    pub fn replace(&mut self, id: ActorId) -> Option<Learned> {
        let is_it = |child: &Child| child.running.as_ref().is_some_and(|(running, _)| running.get_id() == id);
        let index = self.children.iter().position(is_it)?;
        // Its handle would be waited for.
        if let Some((cell, _)) = self.children[index].running.take() {
            fell(&cell);
        }
        Some(self.ended(index, Ending::Stuck, "it makes no progress"))
    }

    /// The running child called `name`.
    pub fn get(&self, name: &str) -> Option<&ActorCell> {
        let child = self.children.iter().find(|child| child.spec.name == name)?;
        child.running.as_ref().map(|(cell, _)| cell)
    }

    /// Hits a child on purpose.
    pub fn strike(&mut self, name: &str, blow: Blow) {
        let Some(child) = self.children.iter_mut().find(|child| child.spec.name == name) else { return };
        if let Blow::Stillborn(times) = blow {
            child.stillborn = times;
        }
        if let Some((cell, _)) = &child.running {
            strike(cell, name, blow);
        }
    }

    async fn start(&mut self, index: usize) -> Result<(), &'static str> {
        let child = &mut self.children[index];
        child.generation += 1;
        let started = if child.stillborn > 0 {
            child.stillborn -= 1;
            Err("it was not to start".to_owned())
        } else {
            (child.spec.start)(self.supervisor.clone()).await.map_err(|error| error.to_string())
        };
        match started {
            Ok(started) => {
                child.history.started(Instant::now());
                child.running = Some(started);
                self.view.started(&self.scope, child.spec.name, child.generation);
                Ok(())
            }
            // Never `?` on a spawn in a supervisor: it would take the healthy children with it.
            Err(error) => match self.ended(index, Ending::NotStarted, &error) {
                Learned::GiveUp(name) => Err(name),
                Learned::Nothing | Learned::Stranger(..) => Ok(()),
            },
        }
    }

    fn ended(&mut self, index: usize, ending: Ending, reason: &str) -> Learned {
        let child = &mut self.children[index];
        let handle = child.running.take().map(|(_, handle)| handle);
        match child.history.ended(ending, Instant::now(), fastrand::f64()) {
            Decision::Leave => Learned::Nothing,
            Decision::GiveUp => {
                events::gave_up(&self.scope, child.spec.name, reason);
                Learned::GiveUp(child.spec.name)
            }
            Decision::RestartAfter(wait) => {
                self.view.ended(&self.scope, child.spec.name, ending);
                events::restarting(&self.scope, child.spec.name, child.generation, ending, reason);
                let again = Respawn { index, generation: child.generation };
                let respawn = self.respawn.clone();
                task::spawn(wait_then(handle, wait, move || respawn(again)));
                Learned::Nothing
            }
        }
    }
}

/// Who ended, how, and why; none if the event is of no ending. Every supervisor classifies here.
pub fn ending_of(event: SupervisionEvent) -> Option<(ActorCell, Ending, String)> {
    match event {
        SupervisionEvent::ActorFailed(cell, error) => {
            let io = error.downcast_ref::<std::io::Error>().is_some();
            Some((cell, if io { Ending::FailedIo } else { Ending::Failed }, error.to_string()))
        }
        SupervisionEvent::ActorTerminated(cell, state, reason) => {
            let ending = match (&state, reason.as_deref()) {
                (None, _) | (_, Some("killed" | "actor_task_cancelled")) => Ending::Killed,
                (Some(_), _) => Ending::Stopped,
            };
            Some((cell, ending, reason.unwrap_or_default()))
        }
        SupervisionEvent::ActorStarted(_) | SupervisionEvent::ProcessGroupChanged(_) => None,
    }
}

/// Kills an actor that does not listen, and all below it, who would not hear of it.
pub fn fell(cell: &ActorCell) {
    cell.kill();
    cell.get_children().iter().for_each(fell);
}

/// Waits for the dead child's state to be dropped, then for the backoff.
async fn wait_then(handle: Option<JoinHandle<()>>, wait: Duration, then: impl FnOnce()) {
    if let Some(handle) = handle {
        // A child that cannot be dropped in time is stuck; its successor must not wait for it.
        let _ = tokio::time::timeout(DROP_DEADLINE, handle).await;
    }
    sleep(wait).await;
    then();
}
