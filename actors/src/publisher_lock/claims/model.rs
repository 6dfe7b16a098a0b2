//! The model: every interleaving of what encoders, actors and time do to a lock, with two encoders, a mailbox between
//! supervisor and lock, and steps of a second. `now` stands still; what lies behind grows older.

mod world;

use super::tests::{GRACES, SECOND, claims, heard};
use super::*;
use std::collections::HashSet;

/// From a live encoder's claim to its answer, seconds: until a holder is stale, and a step.
const ADMITTED_WITHIN: u64 = 4;
/// How often the lock may fail while somebody waits.
const MAX_FAILURES: u64 = 1;
/// Older than this is as old as this.
const OLD: Duration = Duration::from_secs(17);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Encoder {
    Idle,
    /// `attempt` tells its sessions apart; `deserves`: no live encoder has held the stream since it asked.
    Asking {
        since: Instant,
        attempt: u8,
        deserves: bool,
    },
    /// `alive`: it sends; else its connection is open and silent.
    Publishing {
        epoch: u64,
        alive: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Mail {
    Claim(u8, Instant),
    Ended(u64, Leaving),
    Holder(Option<u64>),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct World {
    /// None while it restarts.
    lock: Option<Claims<u8>>,
    /// What outlives the lock.
    publisher: Publisher,
    epoch: u64,
    /// The epoch whose samples are heard; zero if none.
    open: u64,
    heard: Heard,
    encoders: [Encoder; 2],
    /// The session that the supervisor knows of.
    linked: Option<u64>,
    mailbox: VecDeque<Mail>,
    /// Sockets are not read.
    stalled: bool,
    /// Seconds for which the stream is held by nobody.
    orphaned: u64,
    /// How often the lock has failed while somebody waits: each time costs them a second.
    failures: u64,
}

/// What a lock does wrong on purpose.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Bug {
    None,
    /// It grants a held stream without closing the holder's epoch.
    TwoHolders,
    /// It takes every holder for alive.
    NeverStale,
    /// It refuses at once, as most servers do.
    RefusesAtOnce,
    /// It does not hear that a holder has ended.
    DeafToEndings,
    /// It counts our own stall as the holder's silence.
    CountsOurStall,
}

struct Model {
    bug: Bug,
    may_stall: bool,
    /// Sessions an encoder may have waiting: a second one after it has hung up.
    attempts: u8,
    /// Messages that may be under way.
    mailbox: usize,
    now: Instant,
}

type Step = Result<World, String>;

impl Model {
    fn initial(&self) -> World {
        World {
            lock: Some(Claims { looked: self.now, awake: self.now - OLD, ..claims(Policy::Hold) }),
            publisher: Publisher::Free,
            epoch: 0,
            open: 0,
            heard: heard(self.now, self.now),
            encoders: [Encoder::Idle; 2],
            linked: None,
            mailbox: VecDeque::new(),
            stalled: false,
            orphaned: 0,
            failures: 0,
        }
    }

    /// Everything that may happen next.
    fn successors(&self, world: &World) -> Vec<Step> {
        let mut next = Vec::new();
        for n in 0..world.encoders.len() {
            self.encoder(world, n, &mut next);
        }
        if world.lock.is_some() && !world.mailbox.is_empty() {
            next.push(self.deliver(world.clone()));
        }
        match &world.lock {
            Some(_) if world.failures < MAX_FAILURES => {
                next.push(Ok(World { lock: None, failures: world.failures + 1, ..world.clone() }));
            }
            Some(_) => {}
            None if world.mailbox.len() < self.mailbox => {
                let mut restarted = world.clone();
                restarted.lock = Some(Claims::resuming(Policy::Hold, GRACES, world.publisher, world.epoch, self.now));
                // A mailbox goes with its actor; what the supervisor says first is who lives.
                restarted.mailbox = VecDeque::from([Mail::Holder(world.linked)]);
                next.push(Ok(restarted));
            }
            None => {}
        }
        if world.lock.is_some() && world.mailbox.is_empty() {
            next.push(self.second(world.clone()));
        }
        if self.may_stall {
            next.push(Ok(World { stalled: !world.stalled, ..world.clone() }));
        }
        if world.publisher == Publisher::Ended && world.mailbox.is_empty() {
            let lock = Some(Claims::resuming(Policy::Hold, GRACES, Publisher::Free, world.epoch, self.now));
            next.push(Ok(World { lock, publisher: Publisher::Free, ..world.clone() }));
        }
        next
    }

    fn encoder(&self, world: &World, n: usize, next: &mut Vec<Step>) {
        let room = world.mailbox.len() < self.mailbox;
        let mut with = |encoder: Encoder, mail: Option<Mail>| {
            let mut world = world.clone();
            world.encoders[n] = encoder;
            if let Some(Mail::Ended(epoch, _)) = mail {
                world.linked = world.linked.filter(|linked| *linked != epoch);
            }
            // A lock that restarts asks for the holder itself.
            world.mailbox.extend(mail.filter(|_| world.lock.is_some()));
            next.push(Ok(world));
        };
        match world.encoders[n] {
            Encoder::Idle if room => {
                for attempt in 0..self.attempts {
                    if !world.waits(asker(n, attempt)) {
                        let deserves = !world.has_live_holder();
                        let asking = Encoder::Asking { since: self.now, attempt, deserves };
                        with(asking, Some(Mail::Claim(asker(n, attempt), self.now)));
                    }
                }
            }
            Encoder::Asking { .. } => with(Encoder::Idle, None),
            Encoder::Publishing { epoch, alive } if room => {
                if alive {
                    with(Encoder::Publishing { epoch, alive: false }, None);
                    with(Encoder::Idle, Some(Mail::Ended(epoch, Leaving::Unpublished)));
                }
                with(Encoder::Idle, Some(Mail::Ended(epoch, Leaving::Lost)));
            }
            Encoder::Idle | Encoder::Publishing { .. } => {}
        }
    }

    fn deliver(&self, mut world: World) -> Step {
        let (Some(mail), Some(lock)) = (world.mailbox.pop_front(), &mut world.lock) else { return Ok(world) };
        let heard = world.heard;
        let decisions = match mail {
            Mail::Claim(..) | Mail::Ended(..) if self.bug == Bug::DeafToEndings && matches!(mail, Mail::Ended(..)) => {
                Vec::new()
            }
            Mail::Claim(asker, _)
                if self.bug == Bug::RefusesAtOnce && matches!(lock.publisher, Publisher::Held { .. }) =>
            {
                vec![Decision::Refuse(asker, Denial::Taken)]
            }
            Mail::Claim(asker, _) if self.bug == Bug::TwoHolders => vec![lock.grant(asker, self.now)],
            Mail::Claim(asker, since) => lock.claim(asker, since, heard, self.now),
            Mail::Ended(epoch, leaving) => lock.ended(epoch, leaving, self.now),
            Mail::Holder(alive) => match lock.publisher {
                Publisher::Held { epoch, .. } if alive != Some(epoch) => lock.ended(epoch, Leaving::Lost, self.now),
                Publisher::Held { .. } | Publisher::Free | Publisher::Grace { .. } | Publisher::Ended => Vec::new(),
            },
        };
        self.carry_out(world, decisions)
    }

    /// A second passes.
    fn second(&self, mut world: World) -> Step {
        world.age();
        for n in 0..2 {
            let Encoder::Publishing { epoch, alive } = world.encoders[n] else { continue };
            if epoch != world.open {
                // Its next samples are refused, or it was told: its session ends.
                world.encoders[n] = Encoder::Idle;
            } else if !world.stalled {
                world.heard.read = self.now;
                if alive {
                    world.heard.media = Some(self.now);
                }
            }
        }
        for n in 0..2 {
            let Encoder::Asking { since, attempt, .. } = world.encoders[n] else { continue };
            if self.now - since >= ANSWER_DEADLINE {
                world.encoders[n] = Encoder::Idle;
            } else if !world.waits(asker(n, attempt)) {
                world.mailbox.push_back(Mail::Claim(asker(n, attempt), since));
            }
        }
        if !world.encoders.iter().any(|encoder| matches!(encoder, Encoder::Asking { .. })) {
            world.failures = 0;
        }
        let held_by_nobody = matches!(world.publisher, Publisher::Held { epoch, .. } if !world.has_session(epoch));
        world.orphaned = if held_by_nobody { world.orphaned + 1 } else { 0 };
        let Some(lock) = &mut world.lock else { return Ok(world) };
        let heard = match self.bug {
            Bug::NeverStale => heard(self.now, self.now),
            Bug::CountsOurStall => Heard { read: self.now, ..world.heard },
            Bug::None | Bug::TwoHolders | Bug::RefusesAtOnce | Bug::DeafToEndings => world.heard,
        };
        let decisions = lock.look(heard, self.now);
        let world = self.carry_out(world, decisions)?;
        self.must_hold(&world)?;
        Ok(world)
    }

    fn carry_out(&self, mut world: World, decisions: Vec<Decision<u8>>) -> Step {
        for decision in decisions {
            match decision {
                Decision::Evict(epoch, reason) => {
                    let condemned = world.encoders.contains(&Encoder::Publishing { epoch, alive: true });
                    if condemned && reason != "unread" {
                        return Err(format!("a live encoder was evicted as {reason}"));
                    }
                    world.linked = world.linked.filter(|linked| *linked != epoch);
                }
                Decision::Close(epoch, _) => world.open = if world.open == epoch { 0 } else { world.open },
                Decision::Grant(who, epoch) => self.granted(&mut world, who, epoch)?,
                Decision::Refuse(who, denial) => {
                    let n = usize::from(who / 2);
                    if let Encoder::Asking { attempt, deserves, .. } = world.encoders[n]
                        && asker(n, attempt) == who
                    {
                        if deserves && denial == Denial::Taken {
                            return Err("an encoder was refused although no live one held the stream".to_owned());
                        }
                        world.encoders[n] = Encoder::Idle;
                    }
                }
                Decision::End => {}
            }
        }
        if let Some(lock) = &world.lock {
            (world.publisher, world.epoch) = (lock.publisher, lock.epoch);
        }
        world.rebase(self.now);
        Ok(world)
    }

    fn granted(&self, world: &mut World, who: u8, epoch: u64) -> Result<(), String> {
        let holder = |encoder: &Encoder| matches!(encoder, Encoder::Publishing { epoch, .. } if *epoch == world.open);
        if world.open != 0 && world.encoders.iter().any(holder) {
            return Err("two encoders hold the stream".to_owned());
        }
        if epoch <= world.epoch {
            return Err(format!("epoch {epoch} follows {}", world.epoch));
        }
        (world.epoch, world.open, world.heard) = (epoch, epoch, Heard { media: None, read: self.now });
        let n = usize::from(who / 2);
        let waits = matches!(world.encoders[n], Encoder::Asking { attempt, .. } if asker(n, attempt) == who);
        if waits {
            world.encoders[n] = Encoder::Publishing { epoch, alive: true };
            world.linked = Some(epoch);
            for encoder in &mut world.encoders {
                if let Encoder::Asking { deserves, .. } = encoder {
                    *deserves = false;
                }
            }
        } else {
            // It has hung up meanwhile: the supervisor finds it dead when it links it.
            world.linked = None;
            world.mailbox.push_back(Mail::Ended(epoch, Leaving::Lost));
        }
        Ok(())
    }

    /// What must be true after every second, whatever has happened.
    fn must_hold(&self, world: &World) -> Result<(), String> {
        let age = |instant: Instant| self.now.saturating_duration_since(instant).as_secs();
        for encoder in &world.encoders {
            if let Encoder::Asking { since, deserves: true, .. } = encoder
                && age(*since) > ADMITTED_WITHIN + world.failures
                && !self.may_stall
            {
                return Err(format!("a live encoder waits for {} s", age(*since)));
            }
        }
        match world.publisher {
            Publisher::Held { .. } if world.orphaned > 1 => {
                Err(format!("nobody holds it, and it is held, for {} s", world.orphaned))
            }
            Publisher::Held { since, .. }
                if age(world.heard.media.unwrap_or(since)) > STALE.as_secs() && !self.may_stall =>
            {
                Err("a silent holder keeps the stream".to_owned())
            }
            Publisher::Grace { until } if until < self.now => Err("grace does not end".to_owned()),
            Publisher::Held { .. } | Publisher::Grace { .. } | Publisher::Free | Publisher::Ended => Ok(()),
        }
    }

    /// Goes through all states that can be reached; how many there are, or the first that must not be.
    fn explore(&self) -> Result<usize, String> {
        let mut known = HashSet::from([self.initial()]);
        let mut open = vec![self.initial()];
        while let Some(world) = open.pop() {
            for next in self.successors(&world) {
                let next = next.map_err(|broken| format!("{broken}, after {world:#?}"))?;
                if known.insert(next.clone()) {
                    open.push(next);
                }
            }
        }
        Ok(known.len())
    }
}

/// A session of encoder `n`.
fn asker(n: usize, attempt: u8) -> u8 {
    2 * n as u8 + attempt
}

/// With stalls there are many times more states: of a smaller world then.
fn explore(bug: Bug, may_stall: bool) -> Result<usize, String> {
    let (attempts, mailbox) = if may_stall { (1, 2) } else { (2, 2) };
    let states = Model { bug, may_stall, attempts, mailbox, now: Instant::now() + 4 * OLD }.explore()?;
    println!("publisher lock: {states} states, with stalls: {may_stall}");
    Ok(states)
}

#[test]
fn in_no_reachable_state_are_there_two_holders_or_none_for_ever_or_a_live_encoder_that_is_kept_out() {
    let states = explore(Bug::None, false).unwrap_or_else(|broken| panic!("{broken}"));
    assert!(states > 100_000, "{states} states are not all of them");
}

#[test]
fn in_no_reachable_state_is_a_live_encoder_condemned_because_we_did_not_read() {
    let states = explore(Bug::None, true).unwrap_or_else(|broken| panic!("{broken}"));
    assert!(states > 100_000, "{states} states are not all of them");
}

#[test]
fn the_model_finds_every_lock_that_is_broken_on_purpose() {
    for (bug, may_stall, found) in [
        (Bug::TwoHolders, false, "two encoders hold"),
        (Bug::NeverStale, false, "was refused although"),
        (Bug::RefusesAtOnce, false, "was refused although"),
        (Bug::DeafToEndings, false, "nobody holds it"),
        (Bug::CountsOurStall, true, "evicted as stale"),
    ] {
        let broken = explore(bug, may_stall).expect_err("it is broken");
        assert!(broken.contains(found), "{bug:?}: {broken}");
    }
}
