//! View: the supervision tree as it is, for people and programs. Written by supervisors, read by anybody.

use crate::strategy::Ending;
use serde::Serialize;
use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// One child of a supervisor.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Node {
    /// Counts its starts since its supervisor started.
    pub generation: u64,
    /// Whether one runs.
    pub running: bool,
    /// How often it was started again, across restarts of its supervisor.
    pub restarts: u64,
    /// How the last one ended: the metric's `reason`.
    pub last_ending: Option<&'static str>,
}

#[derive(Debug, Default)]
struct Scope {
    /// Which supervisor writes it: counts those of this name.
    supervisor: u64,
    children: BTreeMap<&'static str, Node>,
}

/// All supervisors by name: `root`, and the streams. Bounded by them.
#[derive(Debug, Default)]
pub struct View(Mutex<BTreeMap<String, Scope>>);

/// One supervisor and its children.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Supervisor {
    /// Its name.
    pub name: String,
    /// How often it was started.
    pub generation: u64,
    /// Its children.
    pub children: BTreeMap<&'static str, Node>,
}

impl View {
    /// A supervisor starts; its number. Restarts of children are counted on from its predecessor's.
    pub fn begin(&self, name: &str) -> u64 {
        let mut scopes = self.lock();
        let scope = scopes.entry(name.to_owned()).or_default();
        scope.supervisor += 1;
        scope.children.values_mut().for_each(|node| node.running = false);
        scope.supervisor
    }

    /// A child has started.
    pub fn started(&self, name: &str, child: &'static str, generation: u64) {
        let mut scopes = self.lock();
        let Some(scope) = scopes.get_mut(name) else { return };
        let node = scope.children.entry(child).or_default();
        (node.generation, node.running) = (generation, true);
    }

    /// A child has ended, and will be started again.
    pub fn ended(&self, name: &str, child: &'static str, ending: Ending) {
        let mut scopes = self.lock();
        let Some(scope) = scopes.get_mut(name) else { return };
        let node = scope.children.entry(child).or_default();
        (node.running, node.last_ending) = (false, Some(ending.label()));
        node.restarts += 1;
    }

    /// The supervisor of this number will not come back; a successor of its name stays.
    pub fn forget(&self, name: &str, supervisor: u64) {
        let mut scopes = self.lock();
        if scopes.get(name).is_some_and(|scope| scope.supervisor == supervisor) {
            scopes.remove(name);
        }
    }

    /// All of it, the root first.
    pub fn all(&self) -> Vec<Supervisor> {
        let scopes = self.lock();
        let shown = scopes.iter().map(|(name, scope)| Supervisor {
            name: name.clone(),
            generation: scope.supervisor,
            children: scope.children.clone(),
        });
        let (root, streams): (Vec<_>, Vec<_>) = shown.partition(|supervisor| supervisor.name == "root");
        root.into_iter().chain(streams).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, Scope>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn restarts_are_counted_across_supervisors_and_a_late_farewell_removes_no_successor() {
        let view = View::default();
        let first = view.begin("live/show");
        view.started("live/show", "segmenter", 1);
        view.ended("live/show", "segmenter", Ending::Stuck);
        let second = view.begin("live/show");
        view.started("live/show", "segmenter", 1);
        view.forget("live/show", first);
        let [supervisor] = &view.all()[..] else { panic!("one") };
        let node = Node { generation: 1, running: true, restarts: 1, last_ending: Some("stuck") };
        assert_eq!((supervisor.generation, &supervisor.children["segmenter"]), (2, &node));
        view.forget("live/show", second);
        assert!(view.all().is_empty());
    }
}
