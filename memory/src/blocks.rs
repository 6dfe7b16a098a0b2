//! A queue in blocks.

use std::collections::VecDeque;

/// Bytes of a block, at most: a quarter of a second of ordinary media's samples. One of the allocator's lengths.
const BLOCK: usize = 1536;

/// Blocks for which there is room though they are gone.
const ROOM: usize = 64;

/// A queue that asks for memory block by block, and gives it back so: what is in it is never moved to make room. Not bounded: who has
/// one bounds it.
#[derive(Debug)]
pub struct Blocks<T> {
    /// None of them is empty.
    blocks: VecDeque<VecDeque<T>>,
    length: usize,
}

impl<T> Default for Blocks<T> {
    fn default() -> Self {
        Self { blocks: VecDeque::new(), length: 0 }
    }
}

impl<T> Blocks<T> {
    /// How many there are.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Adds one at the end.
    pub fn push(&mut self, value: T) {
        self.length += 1;
        match self.blocks.back_mut() {
            Some(last) if last.len() < last.capacity() => last.push_back(value),
            _ => {
                let mut block = VecDeque::with_capacity((BLOCK / size_of::<T>().max(1)).max(1));
                block.push_back(value);
                self.blocks.push_back(block);
            }
        }
    }

    /// Takes the first.
    pub fn pop(&mut self) -> Option<T> {
        let first = self.blocks.front_mut()?;
        let value = first.pop_front();
        if first.is_empty() {
            self.blocks.pop_front();
            if self.blocks.capacity() > 4 * self.blocks.len() + ROOM {
                // After a burst.
                self.blocks.shrink_to(2 * self.blocks.len());
            }
        }
        self.length -= 1;
        value
    }

    /// All but so many at the front, in order.
    pub fn from(&self, mut skip: usize) -> impl Iterator<Item = &T> {
        self.blocks.iter().flat_map(move |block| {
            let here = skip.min(block.len());
            skip -= here;
            block.range(here..)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn it_is_a_queue(
            steps in prop::collection::vec((0_usize..50, 0_usize..50), 0..40), skip in 0_usize..600
        ) {
            let (mut blocks, mut queue, mut next) = (Blocks::default(), VecDeque::new(), 0_u128);
            for (pushed, popped) in steps {
                for _ in 0..pushed {
                    blocks.push(next);
                    queue.push_back(next);
                    next += 1;
                }
                for _ in 0..popped {
                    prop_assert_eq!(blocks.pop(), queue.pop_front());
                }
                prop_assert_eq!((blocks.len(), blocks.is_empty()), (queue.len(), queue.is_empty()));
            }
            prop_assert!(blocks.from(skip).eq(queue.iter().skip(skip)));
            let fitting = BLOCK / size_of::<u128>();
            prop_assert!(blocks.blocks.len() <= queue.len() / fitting + 2, "{} blocks of {}", blocks.blocks.len(), queue.len());
            prop_assert!(blocks.blocks.iter().all(|block| !block.is_empty() && block.capacity() == fitting));
        }
    }
    #[test]
    fn a_burst_leaves_little_room() {
        let mut blocks = Blocks::default();
        (0..100_000_u64).for_each(|n| blocks.push(n));
        assert!(blocks.blocks.capacity() > 4 * ROOM);
        (0..99_999).for_each(|n| assert_eq!(blocks.pop(), Some(n)));
        assert!(blocks.blocks.capacity() <= ROOM + 4);
    }
}
