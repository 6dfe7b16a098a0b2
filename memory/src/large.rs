//! Large: memory for what is too long for a block of samples, used again.
//!
//! Pictures come in all sizes, and are held until their segment is finished. An allocator that is asked for such pieces
//! by many publishers, and given them back some seconds later, keeps holes between them. Here they have lengths of a few
//! dozen classes, and go to the next who needs one of about that length.

use bytes::Bytes;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// The shortest capacity, bytes.
const SHORTEST: usize = 1 << 10;
/// Capacities from one to the next that is twice as long: rounding up costs a sixteenth on average.
const STEPS: usize = 8;
/// Up to 1.9 MiB, which key frames of some ten Mbit/s fit into. What is longer has memory of its own.
const CLASSES: usize = 11 * STEPS;
/// Memory is used for something that is so many classes shorter, at most: pictures of one scene are not equally long.
const SHORTER: usize = 2;
/// Bytes of unused memory that are kept, besides one in [`SPARE_SHARE`] of all.
const LEAST_SPARE: usize = 512 << 10;
/// Publishers whose pictures are cut at the same moments give them back at the same moments: so much comes and goes.
const SPARE_SHARE: usize = 8;

static POOL: Mutex<Pool> = Mutex::new(Pool::new());

/// Memory that nobody uses.
struct Pool {
    /// By class.
    spare: [Vec<Vec<u8>>; CLASSES],
    /// Bytes in it.
    bytes: usize,
    /// Bytes there are, whoever has them.
    made: usize,
    /// The class that gives something up next, if there is too much.
    next: usize,
}

impl Pool {
    const fn new() -> Self {
        Self { spare: [const { Vec::new() }; CLASSES], bytes: 0, made: 0, next: 0 }
    }

    fn max(&self) -> usize {
        LEAST_SPARE + self.made / SPARE_SHARE
    }

    /// The shortest that fits, and its class.
    fn take(&mut self, class: usize) -> Option<(Vec<u8>, usize)> {
        let last = (class + SHORTER).min(CLASSES - 1);
        let taken = (class..=last).find_map(|class| Some((self.spare[class].pop()?, class)));
        self.bytes -= taken.as_ref().map_or(0, |(memory, _)| memory.capacity());
        taken
    }

    /// Takes back what is not needed; what there is too much of. All classes give up something in turn: one of which
    /// nothing is needed any more would keep the others from theirs.
    fn give_back(&mut self, memory: Vec<u8>, class: usize) -> Vec<Vec<u8>> {
        self.bytes += memory.capacity();
        self.spare[class].push(memory);
        let mut gone = Vec::new();
        while self.bytes > self.max() {
            let given_up = self.spare[self.next].pop();
            self.next = (self.next + 1) % CLASSES;
            if let Some(memory) = given_up {
                self.bytes -= memory.capacity();
                self.made -= memory.capacity();
                gone.push(memory);
            }
        }
        gone
    }
}

/// Bytes in memory of a class.
const fn capacity_of(class: usize) -> usize {
    let twice = SHORTEST << (class / STEPS);
    twice + twice / STEPS * (class % STEPS)
}

/// The first class that so many bytes fit into.
fn class_for(length: usize) -> Option<usize> {
    // Those below are shorter, for certain.
    let octave = (length.max(SHORTEST) / SHORTEST).ilog2() as usize;
    (octave * STEPS..CLASSES).find(|class| capacity_of(*class) >= length)
}

/// Bytes that are put together, and then held in one piece.
#[derive(Debug, Default)]
pub struct Large {
    memory: Vec<u8>,
    /// Its memory comes from the pool, and goes there.
    class: Option<usize>,
}

impl Large {
    /// Room for so many bytes, at least.
    pub fn with_capacity(length: usize) -> Self {
        let Some(class) = class_for(length) else { return Self { memory: Vec::with_capacity(length), class: None } };
        // Without the lock where the kernel may have to be asked.
        let used_before = pool().take(class);
        let (memory, class) = used_before.unwrap_or_else(|| {
            let memory = Vec::with_capacity(capacity_of(class));
            pool().made += memory.capacity();
            (memory, class)
        });
        Self { memory, class: Some(class) }
    }

    /// Bytes there is room for all together.
    pub fn capacity(&self) -> usize {
        self.memory.capacity()
    }

    /// Bytes so far.
    pub fn len(&self) -> usize {
        self.memory.len()
    }

    /// Whether there are none so far.
    pub fn is_empty(&self) -> bool {
        self.memory.is_empty()
    }

    /// Makes room for so many bytes all together.
    pub fn grow(&mut self, length: usize) {
        if length > self.capacity() {
            let mut larger = Self::with_capacity(length);
            larger.memory.extend_from_slice(&self.memory);
            *self = larger;
        }
    }

    /// Appends bytes.
    pub fn put(&mut self, bytes: &[u8]) {
        self.grow(self.len() + bytes.len());
        self.memory.extend_from_slice(bytes);
    }

    /// The bytes, for as long as somebody holds them.
    pub fn freeze(self) -> Bytes {
        Bytes::from_owner(self)
    }
}

impl AsRef<[u8]> for Large {
    fn as_ref(&self) -> &[u8] {
        &self.memory
    }
}

impl Drop for Large {
    fn drop(&mut self) {
        let Some(class) = self.class else { return };
        let mut memory = std::mem::take(&mut self.memory);
        memory.clear();
        let gone = pool().give_back(memory, class);
        // Without the lock.
        drop(gone);
    }
}

/// Critical sections only move memory; a panic in one cannot leave it half moved.
fn pool() -> MutexGuard<'static, Pool> {
    POOL.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::VecDeque;

    proptest! {
        #[test]
        fn what_is_held_is_what_was_put_while_memory_is_used_again(
            parts in proptest::collection::vec((proptest::collection::vec(0_usize..50_000, 0..4), any::<u8>()), 1..40),
            window in 0_usize..9
        ) {
            let mut held = VecDeque::new();
            for (lengths, filling) in parts {
                let mut large = Large::with_capacity(lengths.first().copied().unwrap_or(0));
                lengths.iter().for_each(|length| large.put(&vec![filling; *length]));
                held.push_back((large.freeze(), lengths.iter().sum::<usize>(), filling));
                while held.len() > window {
                    held.pop_front();
                }
                for (bytes, length, filling) in &held {
                    prop_assert!(*bytes == vec![*filling; *length]);
                }
            }
        }
    }

    proptest! {
        #[test]
        fn what_there_is_is_held_or_spare_and_what_is_spare_is_bounded(
            steps in proptest::collection::vec((0_usize..CLASSES, any::<bool>()), 1..200)
        ) {
            let (mut pool, mut held) = (Pool::new(), VecDeque::new());
            let check = |pool: &Pool, held: &VecDeque<(Vec<u8>, usize)>| {
                let spare: usize = pool.spare.iter().flatten().map(Vec::capacity).sum();
                let used: usize = held.iter().map(|(memory, _)| memory.capacity()).sum();
                let is_of_its_class = held.iter().all(|(memory, class)| memory.capacity() == capacity_of(*class));
                (pool.bytes == spare && pool.made == spare + used && pool.bytes <= pool.max(), is_of_its_class)
            };
            for (class, takes) in steps {
                if takes || held.is_empty() {
                    let taken = pool.take(class).unwrap_or_else(|| {
                        pool.made += capacity_of(class);
                        (Vec::with_capacity(capacity_of(class)), class)
                    });
                    prop_assert!((class..=class + SHORTER).contains(&taken.1));
                    held.push_back(taken);
                } else if let Some((memory, class)) = held.pop_front() {
                    pool.give_back(memory, class);
                }
                prop_assert_eq!(check(&pool, &held), (true, true));
            }
            for (memory, class) in held.drain(..) {
                pool.give_back(memory, class);
            }
            prop_assert!(pool.made <= LEAST_SPARE + LEAST_SPARE / (SPARE_SHARE - 1) + SPARE_SHARE, "{}", pool.made);
        }
    }

    #[test]
    fn lengths_have_the_shortest_memory_that_they_fit_into() {
        for class in 0..CLASSES {
            assert_eq!(class_for(capacity_of(class)), Some(class));
            assert_eq!(class_for(capacity_of(class) + 1), Some(class + 1).filter(|next| *next < CLASSES));
        }
        assert_eq!((class_for(0), capacity_of(CLASSES - 1)), (Some(0), (2 << 20) - (128 << 10)));
        assert_eq!(Large::with_capacity(2 << 20).class, None);
    }
}
