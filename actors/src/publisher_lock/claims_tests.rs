use super::*;
use std::collections::HashSet;

const GRACES: Graces = Graces { unpublished: Duration::from_secs(1), lost: Duration::from_secs(2) };
const SECOND: Duration = Duration::from_secs(1);

fn claims(policy: Policy) -> Claims<u8> {
    Claims::resuming(policy, GRACES, Publisher::Free, 0, Instant::now())
}

fn heard(media: Instant, read: Instant) -> Heard {
    Heard { media: Some(media), read }
}

#[test]
fn a_claim_waits_until_the_holder_is_heard_again_or_is_found_stale() {
    let start = Instant::now();
    let at = |ms| start + Duration::from_millis(ms);
    for (media_ms, expected) in [(1_400, Some(Decision::Refuse(2, Denial::Taken))), (1_200, None)] {
        let mut claims = claims(Policy::Hold);
        assert_eq!(claims.claim(1, at(0), heard(at(0), at(0)), at(0)), [Decision::Grant(1, 1)]);
        assert_eq!(claims.claim(2, at(1000), heard(at(900), at(1000)), at(1000)), []);
        assert_eq!(claims.claim(2, at(1000), heard(at(900), at(1000)), at(1100)), [], "it asks again");
        let decided = claims.look(heard(at(media_ms), at(1_500)), at(1_500));
        assert_eq!(decided.first(), expected.as_ref());
        if expected.is_none() {
            let decided = claims.look(heard(at(media_ms), at(4_200)), at(4_200));
            let closed = Decision::Close(1, Leaving::Lost);
            assert_eq!(decided, [Decision::Evict(1, "stale"), closed, Decision::Grant(2, 2)]);
        }
    }
}

#[test]
fn a_socket_that_we_do_not_read_condemns_nobody_before_it_is_nobody_s() {
    let start = Instant::now();
    let mut claims = claims(Policy::Hold);
    claims.claim(1, start, heard(start, start), start);
    claims.claim(2, start, heard(start, start), start);
    // For nine seconds this process did not get to read what the holder sent.
    assert_eq!(claims.look(heard(start, start), start + 9 * SECOND), []);
    assert_eq!(claims.look(heard(start, start + 3 * SECOND), start + 9 * SECOND)[0], Decision::Evict(1, "stale"));
    // Nobody reads it, and time passes: it is nobody's. A process that was stopped for as long condemns nobody.
    let unread = |steps: u32| {
        let mut claims = Claims::resuming(Policy::Hold, GRACES, Publisher::Free, 0, start);
        claims.claim(1, start, heard(start, start), start);
        let looks = (1..=steps).map(|step| claims.look(heard(start, start), start + STALE * step / steps));
        looks.flatten().next()
    };
    assert_eq!(unread(60), Some(Decision::Evict(1, "unread")));
    assert_eq!(unread(1), None);
}

#[test]
fn where_the_newest_wins_a_claim_takes_the_stream_at_once() {
    let now = Instant::now();
    let mut claims = claims(Policy::Takeover);
    claims.claim(1, now, heard(now, now), now);
    let taken = [Decision::Evict(1, "takeover"), Decision::Close(1, Leaving::Lost), Decision::Grant(2, 2)];
    assert_eq!(claims.claim(2, now, heard(now, now), now), taken);
}

#[test]
fn how_a_publisher_left_decides_how_long_its_session_waits_and_who_waits_goes_first() {
    let now = Instant::now();
    for (leaving, grace) in [(Leaving::Unpublished, GRACES.unpublished), (Leaving::Lost, GRACES.lost)] {
        let mut claims = claims(Policy::Hold);
        claims.claim(1, now, heard(now, now), now);
        assert_eq!(claims.ended(1, leaving, now), [Decision::Close(1, leaving)]);
        assert_eq!(claims.publisher(), Publisher::Grace { until: now + grace });
        assert_eq!(claims.look(heard(now, now), now + grace), [Decision::End]);
    }
    let mut claims = claims(Policy::Hold);
    claims.claim(1, now, heard(now, now), now);
    claims.claim(2, now, heard(now, now), now);
    assert_eq!(claims.ended(7, Leaving::Lost, now), [], "not the holder");
    let next = [Decision::Close(1, Leaving::Lost), Decision::Grant(2, 2)];
    assert_eq!(claims.ended(1, Leaving::Lost, now), next);
}

#[test]
fn more_claims_than_can_wait_are_refused_and_those_that_waited_too_long_are_forgotten() {
    let now = Instant::now();
    let mut claims = claims(Policy::Hold);
    claims.claim(0, now, heard(now, now), now);
    for asker in 1..=MAX_WAITING as u8 {
        assert_eq!(claims.claim(asker, now, heard(now, now), now), []);
    }
    let one_more = claims.claim(99, now, heard(now, now), now);
    assert_eq!(one_more, [Decision::Refuse(99, Denial::Taken)]);
    claims.look(heard(now, now), now + ANSWER_DEADLINE);
    assert_eq!(claims.waiting(), 0);
}

// The model: every interleaving of what encoders, actors and time do to a lock, with two encoders, a mailbox between
// supervisor and lock, and steps of a second. `now` stands still; what lies behind grows older.

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

impl World {
    fn waits(&self, asker: u8) -> bool {
        let in_lock = self.lock.as_ref().is_some_and(|lock| lock.waiting.iter().any(|waiting| waiting.asker == asker));
        in_lock || self.mailbox.iter().any(|mail| matches!(mail, Mail::Claim(who, _) if *who == asker))
    }

    fn has_live_holder(&self) -> bool {
        let open = self.open;
        self.encoders.iter().any(|e| matches!(e, Encoder::Publishing { epoch, alive: true } if *epoch == open))
    }

    fn has_session(&self, held: u64) -> bool {
        self.encoders.iter().any(|encoder| matches!(encoder, Encoder::Publishing { epoch, .. } if *epoch == held))
    }

    /// Everything is a second older.
    fn age(&mut self) {
        self.heard = Heard { media: self.heard.media.map(|media| media - SECOND), read: self.heard.read - SECOND };
        let aged = |publisher: Publisher| match publisher {
            Publisher::Grace { until } => Publisher::Grace { until: until - SECOND },
            Publisher::Held { epoch, since } => Publisher::Held { epoch, since: since - SECOND },
            Publisher::Free | Publisher::Ended => publisher,
        };
        self.publisher = aged(self.publisher);
        if let Some(lock) = &mut self.lock {
            (lock.looked, lock.awake) = (lock.looked - SECOND, lock.awake - SECOND);
            lock.publisher = aged(lock.publisher);
            lock.waiting.iter_mut().for_each(|waiting| waiting.since -= SECOND);
        }
        for encoder in &mut self.encoders {
            if let Encoder::Asking { since, .. } = encoder {
                *since -= SECOND;
            }
        }
    }

    /// The same situation is the same value: epochs count from the last one, and times that are old are equally old.
    fn rebase(&mut self, now: Instant) {
        const LAST: u64 = 4;
        let last = self.epoch;
        let behind = last.saturating_sub(LAST);
        let rebased = |epoch: u64| if epoch == 0 { 0 } else { epoch.saturating_sub(behind).max(1) };
        let held = |publisher: Publisher| match publisher {
            Publisher::Held { epoch, since } => {
                // How long it holds the stream matters only until it sends.
                let since = if self.heard.media.is_some() { now } else { since.max(now - OLD) };
                Publisher::Held { epoch: rebased(epoch), since }
            }
            Publisher::Free | Publisher::Grace { .. } | Publisher::Ended => publisher,
        };
        self.epoch = rebased(last);
        self.open = rebased(self.open);
        self.linked = self.linked.map(rebased);
        self.publisher = held(self.publisher);
        for encoder in &mut self.encoders {
            if let Encoder::Publishing { epoch, .. } = encoder {
                *epoch = rebased(*epoch);
            }
        }
        for mail in &mut self.mailbox {
            match mail {
                Mail::Ended(epoch, _) | Mail::Holder(Some(epoch)) => *epoch = rebased(*epoch),
                Mail::Claim(..) | Mail::Holder(None) => {}
            }
        }
        if let Some(lock) = &mut self.lock {
            (lock.epoch, lock.publisher) = (rebased(lock.epoch), held(lock.publisher));
            // It is always awake here, and has been for longer than that matters after as many seconds as count.
            (lock.looked, lock.awake) = (now, now - OLD);
        }
        let young = |instant: Instant| instant.max(now - OLD);
        self.heard = Heard { media: self.heard.media.map(young), read: young(self.heard.read) };
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
