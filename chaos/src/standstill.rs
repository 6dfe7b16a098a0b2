//! Standstill: how late the machine itself runs what is due. On a shared one the host keeps its processors for others now
//! and then; nothing that runs on it can keep a promise about milliseconds then, nor show that it is broken.
//!
//! A thread on each processor, at a real-time priority (SCHED_FIFO), sleeps and notes how late it wakes up. Nothing that is
//! tested runs at such a priority: what keeps these threads waiting is not the server.

use crate::broken::Broken;
use anyhow::Context;
use rustix::thread::{CpuSet, gettid, sched_getaffinity, sched_setaffinity};
use serde::{Deserialize, Serialize};
use std::collections::VecDeque;
use std::process::{Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

/// Real-time priority (SCHED_FIFO) of the threads that look.
const LOOKING: u8 = 50;
/// How long each thread sleeps: 200 looks a second cost nothing that could be measured.
const SLEEP: Duration = Duration::from_millis(5);
/// Lateness is counted by the millisecond, up to this many; what is later counts as this late.
const BUCKETS: usize = 10_000;
/// Processors that are looked at, at most: the first ones of a large machine.
const MAX_PROCESSORS: usize = 64;
/// The longest lateness that is told from longer.
const LONGEST: Duration = Duration::from_millis(BUCKETS as u64);
/// A machine that is later than this in one of a hundred looks is not one to judge answers within 10 ms on, which take some
/// five wake-ups, ...
const MAX_P99_MS: usize = 1;
/// ... nor one that once was as late as this pictures that may not stand for 250 ms.
const MAX_LONGEST_MS: usize = 100;
/// How often something is played again of which nothing could be judged: a try takes a minute or two, as bad spells of a host do.
const MAX_REPEATS: usize = 4;
/// Before that the machine is to be punctual for so long.
const PUNCTUAL: Duration = Duration::from_secs(20);
/// How a program ends that found something late, and nothing wrong.
pub const LATE: i32 = 3;

/// Lateness from here on is a spell of standstill: longer than the kernel's own work on sockets, which the server causes, may
/// keep a real-time thread waiting (net.core.netdev_budget_usecs, 8 ms).
const SPELL: Duration = Duration::from_millis(10);
/// Spells that are remembered, the newest, eight megabytes: eleven minutes of two processors that do nothing else.
const MAX_SPELLS: usize = 1 << 18;

/// Spells in which a processor stood still, as all who look saw it, in the order in which they ended.
static SPELLS: Mutex<VecDeque<Spell>> = Mutex::new(VecDeque::new());

#[derive(Debug, Clone, Copy)]
struct Spell {
    from: Instant,
    to: Instant,
}

/// For how long of a time a processor stood still: what nobody who runs on this machine is to blame for. To be asked some
/// moments later, when those who look are awake again; zero if nobody looked.
pub fn within(from: Instant, to: Instant) -> Duration {
    stood_within(&spells(), from, to)
}

fn stood_within(spells: &VecDeque<Spell>, from: Instant, to: Instant) -> Duration {
    let first = spells.partition_point(|spell| spell.to < from);
    // A spell that began before `to` and ended long after it is further on, but not further than the longest.
    let near = spells.range(first..).take_while(|spell| spell.to <= to + LONGEST);
    let mut inside: Vec<_> = near.map(|spell| (spell.from.max(from), spell.to.min(to))).collect();
    inside.sort_unstable();
    let (mut stood, mut until) = (Duration::ZERO, from);
    for (begin, end) in inside {
        // Both processors may have stood still at once.
        stood += end.saturating_duration_since(begin.max(until));
        until = until.max(end);
    }
    stood
}

fn spells() -> MutexGuard<'static, VecDeque<Spell>> {
    SPELLS.lock().unwrap_or_else(PoisonError::into_inner)
}

fn remember(spell: Spell) {
    let mut spells = spells();
    if spells.len() >= MAX_SPELLS {
        spells.pop_front();
    }
    // Threads come by in about this order.
    let at = spells.iter().rposition(|before| before.to <= spell.to).map_or(0, |at| at + 1);
    spells.insert(at, spell);
}

/// How late the machine was.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stood {
    /// The 99th percentile, milliseconds.
    pub p99_ms: usize,
    /// The longest, milliseconds.
    pub longest_ms: usize,
}

/// A try of which nothing could be judged.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Void {
    /// How late the machine was.
    pub stood: Stood,
    /// What seemed to be broken.
    pub broken: Vec<Broken>,
}

impl Stood {
    /// Whether what seems to be broken may be the machine's doing.
    pub fn is_to_blame(self) -> bool {
        self.p99_ms > MAX_P99_MS || self.longest_ms > MAX_LONGEST_MS
    }

    /// For people.
    pub fn told(self) -> String {
        format!("machine late by {} ms, p99, and {} at most", self.p99_ms, self.longest_ms)
    }

    fn of(counts: &[u32]) -> Self {
        let all: u64 = counts.iter().map(|count| u64::from(*count)).sum();
        let mut seen = 0;
        let p99_ms = counts.iter().position(|count| {
            seen += u64::from(*count);
            seen * 100 >= all * 99
        });
        let longest_ms = counts.iter().rposition(|count| *count > 0);
        Self { p99_ms: p99_ms.unwrap_or_default(), longest_ms: longest_ms.unwrap_or_default() }
    }

    /// The worse of both.
    pub fn max(self, other: Self) -> Self {
        Self { p99_ms: self.p99_ms.max(other.p99_ms), longest_ms: self.longest_ms.max(other.longest_ms) }
    }
}

/// What came of something that was played until it could be judged.
#[derive(Debug)]
pub struct Judged<T> {
    /// What came of the try that counts.
    pub came: T,
    /// How late the machine was in it; none if nobody could look.
    pub stood: Option<Stood>,
    /// Tries before, of which nothing could be judged.
    pub void: Vec<Void>,
}

/// Plays something, and looks how late the machine is meanwhile. If nothing but what is late seems to be broken, on a
/// machine that is to blame, it is void, and played again, after a while without standstill if there is one within
/// `patience`; what seems to be broken in the last try is.
pub fn judged<T>(patience: Duration, mut play: impl FnMut() -> T, broken: impl Fn(&T) -> Vec<Broken>) -> Judged<T> {
    let watched = || {
        let watch = Watch::begin();
        (play(), watch.end())
    };
    settled(watched, broken, || wait_until_punctual(patience))
}

/// Runs a command, again if it ends with `LATE` on a machine that is to blame; how it ended in the try that counts.
pub fn run(patience: Duration, command: &mut Command) -> anyhow::Result<ExitStatus> {
    let shown = format!("{command:?}");
    let broken = |ended: &std::io::Result<ExitStatus>| match ended {
        Ok(ended) if ended.code() == Some(LATE) => vec![Broken::Late(format!("{shown} found something late"))],
        _ => Vec::new(),
    };
    judged(patience, || command.status(), broken).came.with_context(|| shown.clone())
}

/// What begins while the machine stands still may be void, too.
fn wait_until_punctual(patience: Duration) {
    let begun = Instant::now();
    while begun.elapsed() + PUNCTUAL <= patience {
        let watch = Watch::begin();
        // For so long it is watched.
        std::thread::sleep(PUNCTUAL);
        if !watch.end().is_some_and(Stood::is_to_blame) {
            break;
        }
    }
}

/// The try that counts, and those before it; `wait` before each but the first.
fn settled<T>(
    mut play: impl FnMut() -> (T, Option<Stood>),
    broken: impl Fn(&T) -> Vec<Broken>,
    mut wait: impl FnMut(),
) -> Judged<T> {
    let mut void = Vec::new();
    loop {
        let (came, stood) = play();
        let broken = broken(&came);
        let may_be_void = !broken.is_empty() && broken.iter().all(Broken::is_late);
        let to_blame = stood.filter(|stood| may_be_void && void.len() < MAX_REPEATS && stood.is_to_blame());
        let Some(stood) = to_blame else { return Judged { came, stood, void } };
        broken.iter().for_each(|broken| eprintln!("void, because the machine stood still: {broken}"));
        void.push(Void { stood, broken });
        wait();
    }
}

/// The threads that look.
struct Watch {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Option<Vec<u32>>>>,
}

impl Watch {
    fn begin() -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let processors = sched_getaffinity(None).ok();
        let ours = (0..MAX_PROCESSORS).filter(|n| processors.as_ref().is_some_and(|all| all.is_set(*n)));
        let thread = |processor| {
            let stop = stop.clone();
            std::thread::spawn(move || look(processor, &stop))
        };
        Self { threads: ours.map(thread).collect(), stop }
    }

    /// How late the processor was that was later; none if that could not be seen without the priority, which takes root.
    fn end(mut self) -> Option<Stood> {
        self.stop.store(true, Ordering::Relaxed);
        let threads = std::mem::take(&mut self.threads);
        let seen: Option<Vec<_>> = threads.into_iter().map(|thread| thread.join().ok().flatten()).collect();
        seen?.iter().map(|counts| Stood::of(counts)).reduce(Stood::max)
    }
}

/// Whatever becomes of what is watched, nobody looks for ever.
impl Drop for Watch {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

/// Gives this thread a real-time priority, which takes root: what it measures is how long others take, not how long it is
/// kept from looking. Whether it has it. Those who look whether the machine stands still come before it.
pub fn hurry() -> bool {
    in_real_time(LOOKING - 1)
}

fn in_real_time(priority: u8) -> bool {
    let this = gettid().as_raw_nonzero().to_string();
    let mut chrt = Command::new("chrt");
    chrt.args(["--fifo", "--pid", &priority.to_string(), &this]).stdout(Stdio::null()).stderr(Stdio::null());
    chrt.status().is_ok_and(|status| status.success())
}

/// How often this processor was how late.
fn look(processor: usize, stop: &AtomicBool) -> Option<Vec<u32>> {
    let mut only = CpuSet::new();
    only.set(processor);
    sched_setaffinity(None, &only).ok()?;
    if !in_real_time(LOOKING) {
        return None;
    }
    let mut counts = vec![0; BUCKETS];
    while !stop.load(Ordering::Relaxed) {
        let due = Instant::now() + SLEEP;
        // What is measured is how late it ends.
        std::thread::sleep(SLEEP);
        // Rounded up: what is later than a limit counts as later.
        let woke = Instant::now();
        let late = woke.saturating_duration_since(due);
        if late >= SPELL {
            remember(Spell { from: due, to: woke });
        }
        let late = usize::try_from(late.as_micros().div_ceil(1000)).unwrap_or(BUCKETS);
        counts[late.min(BUCKETS - 1)] += 1;
    }
    Some(counts)
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUIET: Stood = Stood { p99_ms: 1, longest_ms: 100 };
    const STILL: Stood = Stood { p99_ms: 2, longest_ms: 30 };

    #[test]
    fn the_percentile_and_the_longest_are_of_all_looks() {
        let mut counts = vec![0; BUCKETS];
        counts[0] = 985;
        (counts[7], counts[300]) = (14, 1);
        assert_eq!(Stood::of(&counts), Stood { p99_ms: 7, longest_ms: 300 });
    }

    #[test]
    fn only_what_is_late_on_a_machine_that_stands_still_is_void_and_not_for_ever() {
        let (late, wrong) = (Broken::Late("a stall".to_owned()), Broken::from("other bytes"));
        // What each try finds and how late the machine is, and what is broken after how many that are void.
        let cases = [
            (vec![(vec![], STILL)], vec![], 0),
            (vec![(vec![late.clone()], QUIET)], vec![late.clone()], 0),
            (vec![(vec![late.clone()], STILL), (vec![], STILL)], vec![], 1),
            (vec![(vec![late.clone()], Stood { longest_ms: 101, ..QUIET }), (vec![], QUIET)], vec![], 1),
            (vec![(vec![wrong.clone()], STILL)], vec![wrong.clone()], 0),
            (vec![(vec![late.clone(), wrong.clone()], STILL)], vec![late.clone(), wrong.clone()], 0),
            (vec![(vec![late.clone()], STILL), (vec![wrong.clone()], STILL)], vec![wrong], 1),
            (vec![(vec![late.clone()], STILL); 1 + MAX_REPEATS], vec![late], MAX_REPEATS),
        ];
        for (tries, broken, void) in cases {
            let mut left = tries.iter();
            let play = || {
                let (broken, stood) = left.next().expect("another try");
                (broken.clone(), Some(*stood))
            };
            let mut waits = 0;
            let judged = settled(play, Vec::clone, || waits += 1);
            assert_eq!((judged.came, judged.void.len(), waits), (broken, void, void), "{tries:?}");
            assert_eq!(left.len(), 0, "{tries:?}");
        }
    }

    #[test]
    fn only_what_stood_still_in_a_time_counts_and_once() {
        let begun = Instant::now();
        let at = |ms: u64| begun + Duration::from_millis(ms);
        // Two processors; in the order in which the spells ended.
        let spells: VecDeque<_> = [(0, 10), (20, 40), (30, 50), (100, 400), (410, 420)]
            .map(|(from, to)| Spell { from: at(from), to: at(to) })
            .into();
        let stood = |from, to| stood_within(&spells, at(from), at(to)).as_millis();
        assert_eq!([stood(12, 18), stood(5, 15), stood(15, 60), stood(35, 45)], [0, 5, 30, 10]);
        assert_eq!([stood(200, 300), stood(0, 1000), stood(405, 406)], [100, 10 + 30 + 300 + 10, 0]);
        assert_eq!(stood_within(&VecDeque::new(), at(0), at(9)), Duration::ZERO);
    }

    #[test]
    fn a_command_ends_as_it_did_and_is_not_run_for_ever() {
        let runs = tempfile::NamedTempFile::new().expect("a file");
        let script = |code: i32| format!("echo >>{}; exit {code}", runs.path().display());
        for code in [0, 1, LATE] {
            let ended = run(Duration::ZERO, Command::new("sh").args(["-c", &script(code)])).expect("it runs");
            assert_eq!(ended.code(), Some(code));
        }
        let lines = std::fs::read_to_string(runs.path()).expect("text").lines().count();
        // Only what was late may be run again, on a machine that stood still.
        assert!((3..=3 + MAX_REPEATS).contains(&lines), "{lines}");
        assert!(run(Duration::ZERO, &mut Command::new("/nothing")).is_err());
    }

    #[test]
    fn where_nobody_can_tell_how_late_the_machine_is_nothing_is_void() {
        let play = || (vec![Broken::Late("a stall".to_owned())], None);
        let judged = settled(play, Vec::clone, || panic!("it is not played again"));
        assert_eq!((judged.came.len(), judged.void.len()), (1, 0));
    }
}
