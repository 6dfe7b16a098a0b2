//! watcher: looks whether the archive holds what it is believed to hold, and has it mended if not.

use crate::events;
use crate::fault::Fault;
use crate::vitals::{Vital, Vitals};
use ractor::{Actor, ActorProcessingErr, ActorRef};
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use storage::disk::{Disk, HUNG_AFTER};
use storage::snapshot::{DIGESTS, MEDIA_PLAYLIST, MULTIVARIANT_PLAYLIST};
use storage::{LiveStream, Registry};
use tokio::time::{Duration, Instant};

/// How often the directory is looked at: whole listings are cheap for a window's few files.
const CHECK: Duration = Duration::from_secs(5);

/// Messages to the watcher.
#[derive(Debug)]
pub enum Msg {
    /// Time to look.
    Check,
    /// What was believed when the look began, and what is there.
    Listed(u64, BTreeMap<String, u64>, io::Result<BTreeMap<String, u64>>),
    /// Fails on purpose.
    Fail(Fault),
}

/// What a watcher needs to start.
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
pub struct Watcher;

impl Actor for Watcher {
    type Msg = Msg;
    type State = State;
    type Arguments = Args;

    async fn pre_start(&self, myself: ActorRef<Msg>, args: Args) -> Result<State, ActorProcessingErr> {
        myself.send_after(CHECK, || Msg::Check);
        let vital = args.vitals.register(format!("watcher {}", args.stream.name));
        let Args { stream, disk, registry, .. } = args;
        Ok(State { stream, disk, registry, ticket: 0, in_flight: None, vital })
    }

    async fn handle(&self, myself: ActorRef<Msg>, msg: Msg, state: &mut State) -> Result<(), ActorProcessingErr> {
        let _busy = state.vital.enter("handle");
        match msg {
            Msg::Check => {
                myself.send_after(CHECK, || Msg::Check);
                state.check(&myself, Instant::now());
            }
            Msg::Listed(ticket, believed, result) => state.listed(ticket, &believed, result),
            Msg::Fail(fault) => fault.strike()?,
        }
        Ok(())
    }
}

/// One look at a time.
pub struct State {
    stream: Arc<LiveStream>,
    disk: Arc<Disk>,
    registry: Arc<Registry>,
    ticket: u64,
    in_flight: Option<Instant>,
    vital: Arc<Vital>,
}

impl State {
    fn check(&mut self, myself: &ActorRef<Msg>, now: Instant) {
        let hung = self.in_flight.is_none_or(|since| now.saturating_duration_since(since) > 2 * HUNG_AFTER);
        let owner =
            self.registry.get(&self.stream.name.to_string()).is_some_and(|owner| Arc::ptr_eq(&owner, &self.stream));
        if !hung || !owner || self.stream.ledger.documents().is_none() {
            return;
        }
        self.ticket += 1;
        let (myself, ticket, stream) = (myself.clone(), self.ticket, self.stream.clone());
        let listing = self.disk.submit(move |archive| {
            let believed = stream.ledger.files();
            let listed = archive.list(&stream.name);
            let _ = myself.send_message(Msg::Listed(ticket, believed, listed));
        });
        // A full queue is the archiver's trouble too; the next check comes anyway.
        self.in_flight = listing.is_ok().then_some(now);
    }

    fn listed(&mut self, ticket: u64, believed: &BTreeMap<String, u64>, result: io::Result<BTreeMap<String, u64>>) {
        if ticket != self.ticket {
            return;
        }
        self.in_flight = None;
        let listed = match result {
            Ok(listed) => listed,
            Err(error) => return events::watch_failed(&self.stream, &error),
        };
        // What the archiver removed meanwhile is not missing.
        let still = self.stream.ledger.files();
        let believed: BTreeMap<_, _> =
            believed.iter().filter(|(name, _)| still.contains_key(*name)).map(|(n, l)| (n.clone(), *l)).collect();
        let damage = damage(&believed, &listed);
        for name in &damage.files {
            self.stream.ledger.forget(name);
        }
        if damage.documents || !damage.files.is_empty() {
            self.stream.ledger.set_documents(None);
            events::archive_damaged(&self.stream, damage.files.len());
        }
    }
}

#[derive(Debug, PartialEq, Eq)]
struct Damage {
    /// Files that are missing or have another length.
    files: Vec<String>,
    /// A playlist or the digests are missing.
    documents: bool,
}

fn damage(believed: &BTreeMap<String, u64>, listed: &BTreeMap<String, u64>) -> Damage {
    let files =
        believed.iter().filter(|(name, length)| listed.get(*name) != Some(*length)).map(|(name, _)| name.clone());
    let documents = [DIGESTS, MEDIA_PLAYLIST, MULTIVARIANT_PLAYLIST];
    Damage { files: files.collect(), documents: documents.iter().any(|name| !listed.contains_key(*name)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(names: &[(&str, u64)]) -> BTreeMap<String, u64> {
        names.iter().map(|(name, length)| ((*name).to_owned(), *length)).collect()
    }

    #[test]
    fn what_is_missing_or_truncated_is_damage_and_what_is_new_is_not() {
        let believed = files(&[("a", 5), ("b", 5), ("c", 5)]);
        let documents = [(DIGESTS, 1), (MEDIA_PLAYLIST, 1), (MULTIVARIANT_PLAYLIST, 1)];
        let listed = files(&[&[("a", 5), ("b", 4), ("new", 9)][..], &documents].concat());
        assert_eq!(damage(&believed, &listed), Damage { files: vec!["b".into(), "c".into()], documents: false });
        assert!(damage(&believed, &files(&[("a", 5), ("b", 5), ("c", 5)])).documents);
    }
}
