//! Which operations fail, and how.

use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// Rules at once: a scenario has a few.
const MAX_RULES: usize = 256;
/// Odd, so that neighbouring seeds differ in more than their last bit (2^64 divided by the golden ratio).
const SPREAD: u64 = 0x9E37_79B9_7F4A_7C15;

/// What a file system is asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the names of the operations")]
pub enum Operation {
    Lookup,
    Getattr,
    Setattr,
    Open,
    Create,
    Read,
    Write,
    Fsync,
    Flush,
    Rename,
    Unlink,
    Mkdir,
    Rmdir,
    Readdir,
    Statfs,
}

impl Operation {
    /// All of them.
    pub const ALL: [Self; 15] = [
        Self::Lookup,
        Self::Getattr,
        Self::Setattr,
        Self::Open,
        Self::Create,
        Self::Read,
        Self::Write,
        Self::Fsync,
        Self::Flush,
        Self::Rename,
        Self::Unlink,
        Self::Mkdir,
        Self::Rmdir,
        Self::Readdir,
        Self::Statfs,
    ];
}

/// What happens to an operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Effect {
    /// It fails with this error number.
    Errno(i32),
    /// It is done this many milliseconds later.
    DelayMs(u64),
    /// It is done once it is released.
    Hang,
    /// A write takes only half of what it was given.
    ShortWrite,
}

/// One fault.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Rule {
    /// The operation; all of them without one.
    #[serde(default)]
    pub operation: Option<Operation>,
    /// What the path must contain, below the mount point.
    #[serde(default)]
    pub path: String,
    /// What happens.
    pub effect: Effect,
    /// How likely, 0 to 1.
    #[serde(default = "always")]
    pub probability: f64,
    /// How often at most.
    #[serde(default)]
    pub count: Option<u64>,
}

fn always() -> f64 {
    1.0
}

impl Rule {
    /// Every operation of a kind, or of all kinds, meets this.
    pub fn always(operation: Option<Operation>, effect: Effect) -> Self {
        Self { operation, path: String::new(), effect, probability: 1.0, count: None }
    }

    fn applies(&self, operation: Operation, path: &str) -> bool {
        self.operation.is_none_or(|wanted| wanted == operation)
            && path.contains(&self.path)
            && self.count != Some(0)
            && (self.effect != Effect::ShortWrite || operation == Operation::Write)
    }
}

/// A fault that an operation met.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Struck {
    /// What happens to it.
    pub effect: Effect,
    /// Releases so far: what hangs waits for the next one, also if that comes before it begins to wait.
    release: u64,
}

/// What was asked of the file system, and what became of it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Operations asked for.
    pub asked: BTreeMap<Operation, u64>,
    /// Operations that met a fault.
    pub struck: BTreeMap<Operation, u64>,
    /// Operations that hang now.
    pub hanging: u64,
}

#[derive(Debug, Default)]
struct State {
    rules: Vec<Rule>,
    counts: Counts,
    /// Rises when what hangs is released.
    release: u64,
    /// xorshift64 (Marsaglia 2003): chance that a seed repeats.
    chance: u64,
}

/// The rules in force, changed while the file system is mounted.
#[derive(Debug, Default)]
pub struct Rules {
    state: Mutex<State>,
    released: Condvar,
}

impl Rules {
    /// No faults; `seed` decides what probabilities do.
    pub fn seeded(seed: u64) -> Self {
        Self {
            state: Mutex::new(State { chance: seed.wrapping_mul(SPREAD) | 1, ..State::default() }),
            released: Condvar::new(),
        }
    }

    /// Puts these rules in force instead of those before, and releases what hangs.
    pub fn set(&self, rules: Vec<Rule>) -> io::Result<()> {
        if rules.len() > MAX_RULES {
            return Err(io::Error::other(format!("more than {MAX_RULES} rules")));
        }
        let mut state = self.lock();
        state.rules = rules;
        state.release += 1;
        self.released.notify_all();
        Ok(())
    }

    /// What happened so far.
    pub fn counts(&self) -> Counts {
        self.lock().counts.clone()
    }

    /// What is to happen to an operation; counts it.
    pub fn strike(&self, operation: Operation, path: &str) -> Option<Struck> {
        let mut state = self.lock();
        *state.counts.asked.entry(operation).or_default() += 1;
        let State { rules, chance, counts, .. } = &mut *state;
        let rule = rules.iter_mut().find(|rule| rule.applies(operation, path) && happens(rule.probability, chance))?;
        rule.count = rule.count.map(|left| left - 1);
        *counts.struck.entry(operation).or_default() += 1;
        Some(Struck { effect: rule.effect, release: state.release })
    }

    /// Waits as a fault demands.
    pub fn wait(&self, struck: Struck) {
        match struck.effect {
            Effect::DelayMs(ms) => std::thread::sleep(Duration::from_millis(ms)),
            Effect::Hang => {
                let mut state = self.lock();
                state.counts.hanging += 1;
                let waiting = self.released.wait_while(state, |state| state.release == struck.release);
                waiting.unwrap_or_else(PoisonError::into_inner).counts.hanging -= 1;
            }
            Effect::Errno(_) | Effect::ShortWrite => {}
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn happens(probability: f64, chance: &mut u64) -> bool {
    *chance ^= *chance << 13;
    *chance ^= *chance >> 7;
    *chance ^= *chance << 17;
    (*chance >> 11) as f64 / (1u64 << 53) as f64 <= probability
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    #[test]
    fn a_rule_strikes_its_operation_and_path_as_often_as_it_says() {
        let rules = Rules::seeded(1);
        let rule =
            Rule { path: "show".to_owned(), count: Some(2), ..Rule::always(Some(Operation::Write), Effect::Errno(5)) };
        rules.set(vec![rule]).expect("few");
        assert_eq!(rules.strike(Operation::Write, "/other/0-1.m4s"), None);
        assert_eq!(rules.strike(Operation::Create, "/show/0-1.m4s"), None);
        let strike = || rules.strike(Operation::Write, "/show/0-1.m4s").map(|struck| struck.effect);
        let struck: Vec<_> = (0..3).map(|_| strike()).collect();
        assert_eq!(struck, [Some(Effect::Errno(5)), Some(Effect::Errno(5)), None]);
        assert_eq!(rules.counts().asked, BTreeMap::from([(Operation::Create, 1), (Operation::Write, 4)]));
        assert_eq!(rules.counts().struck, BTreeMap::from([(Operation::Write, 2)]));
    }

    #[test]
    fn probabilities_are_kept_and_seeds_repeat() {
        let struck = |seed| {
            let rules = Rules::seeded(seed);
            rules.set(vec![Rule { probability: 0.25, ..Rule::always(None, Effect::Errno(5)) }]).expect("few");
            (0..4000).map(|_| rules.strike(Operation::Read, "/f").is_some()).collect::<Vec<_>>()
        };
        let share = struck(7).iter().filter(|struck| **struck).count() as f64 / 4000.0;
        assert!((0.2..0.3).contains(&share), "{share}");
        assert!(struck(7) == struck(7) && struck(7) != struck(8));
    }

    #[test]
    fn what_hangs_is_released_by_other_rules() {
        let rules = Arc::new(Rules::seeded(1));
        rules.set(vec![Rule::always(None, Effect::Hang)]).expect("few");
        let [early, late] = [(); 2].map(|()| rules.strike(Operation::Read, "/f").expect("struck"));
        let hanging = rules.clone();
        let thread = std::thread::spawn(move || hanging.wait(early));
        while rules.counts().hanging == 0 {
            std::thread::yield_now();
        }
        rules.set(Vec::new()).expect("none");
        thread.join().expect("released");
        rules.wait(late);
        assert_eq!(rules.counts().hanging, 0);
    }

    #[test]
    fn rules_are_read_from_json() {
        let rule: Rule = serde_json::from_str(r#"{"operation":"rename","effect":{"errno":5}}"#).expect("a rule");
        assert_eq!(rule, Rule::always(Some(Operation::Rename), Effect::Errno(5)));
        let rule: Rule =
            serde_json::from_str(r#"{"effect":"hang","path":".m3u8","probability":0.5,"count":3}"#).expect("a rule");
        assert_eq!((rule.effect, rule.count, rule.path.as_str()), (Effect::Hang, Some(3), ".m3u8"));
    }
}
