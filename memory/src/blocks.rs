//! Blocks: memory of one size for small samples, used again.
//!
//! The samples of an open segment come and go together, in all sizes. From an allocator that leaves holes behind.
//! Here the small ones a publisher sent, sound above all, lie in blocks of its own, one after the other; a block of which
//! nothing is needed any more is the next one to be filled, by this publisher or another.

use crate::Large;
use bytes::{Bytes, BytesMut};
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Bytes of a block. Of each publisher's one is not full, one holds the last of a segment that is finished, and each
/// ends in what was too small for the next sample; smaller blocks cost more notes, a hundred bytes each.
const BLOCK: usize = 4 << 10;
/// Samples longer than this are [`Large`]: pictures of a few kB would leave half of each block empty.
pub const MAX_WHOLE: usize = 1 << 10;
/// Blocks with samples in them that one owner may have: 96 MiB, as much as a sample log holds. A publisher whose
/// samples leave most of each block empty could pin more; the rest of them has memory that fits.
const MAX_SAMPLE_BLOCKS: usize = if cfg!(test) { 1 << 10 } else { 24 << 10 };
/// Unused blocks that are kept for whoever needs one next, besides one in [`SPARE_SHARE`] of all: a quarter of a megabyte.
const LEAST_SPARE: usize = 64;
/// Segments are finished at different moments: what one gives back others need.
const SPARE_SHARE: usize = 8;

/// Blocks that nobody uses.
static SPARE: Mutex<Spare> = Mutex::new(Spare { blocks: Vec::new(), made: 0 });

#[derive(Debug)]
struct Spare {
    blocks: Vec<BytesMut>,
    /// Blocks there are, whoever has them.
    made: usize,
}

impl Spare {
    fn max(&self) -> usize {
        LEAST_SPARE + self.made / SPARE_SHARE
    }

    /// Takes away what there are too many of; each that goes lowers the bound, too. They are dropped without the lock.
    fn too_many(&mut self) -> Vec<BytesMut> {
        let mut gone = Vec::new();
        while self.blocks.len() > self.max() {
            gone.extend(self.blocks.pop());
            self.made = self.made.saturating_sub(1);
        }
        gone
    }
}

/// The blocks that one publisher's connection fills.
#[derive(Debug, Default)]
pub struct Blocks {
    /// The one being filled.
    current: Option<BytesMut>,
    /// Those that are full: handles by which they are taken back once nobody needs what is in them.
    full: VecDeque<BytesMut>,
}

impl Blocks {
    /// A copy of a sample, in one piece.
    pub fn hold(&mut self, bytes: &[u8]) -> Bytes {
        if bytes.len() > MAX_WHOLE {
            let mut large = Large::with_capacity(bytes.len());
            large.put(bytes);
            return large.freeze();
        }
        if self.current.as_ref().is_none_or(|block| room(block) < bytes.len()) {
            self.give_back();
            if self.full.len() >= MAX_SAMPLE_BLOCKS {
                return Bytes::copy_from_slice(bytes);
            }
        }
        let block = self.with_room(bytes.len());
        block.extend_from_slice(bytes);
        block.split().freeze()
    }

    /// Gives back what nobody needs, so that others need not wait for it until more is held. Looked for everywhere:
    /// whoever keeps an old sample for long holds up its own block only.
    pub fn give_back(&mut self) {
        let mut free = Vec::new();
        self.full.retain_mut(|block| {
            let reclaimed = block.try_reclaim(BLOCK);
            if reclaimed {
                free.push(std::mem::take(block));
            }
            !reclaimed
        });
        let mut spare = spare();
        spare.blocks.append(&mut free);
        let too_many = spare.too_many();
        drop(spare);
        drop(too_many);
    }

    /// A block with at least this much room.
    fn with_room(&mut self, wanted: usize) -> &mut BytesMut {
        if let Some(full) = self.current.take_if(|block| room(block) < wanted) {
            self.full.push_back(full);
        }
        self.current.get_or_insert_with(|| {
            let mut spare = spare();
            let used_before = spare.blocks.pop();
            spare.made += usize::from(used_before.is_none());
            drop(spare);
            used_before.unwrap_or_else(|| BytesMut::with_capacity(BLOCK))
        })
    }
}

impl Drop for Blocks {
    fn drop(&mut self) {
        self.give_back();
        // The memory of the others goes with what is in them.
        let mut spare = spare();
        spare.made = spare.made.saturating_sub(self.full.len() + usize::from(self.current.is_some()));
        let too_many = spare.too_many();
        drop(spare);
        drop(too_many);
    }
}

/// Bytes that fit into what is left of a block.
fn room(block: &BytesMut) -> usize {
    block.capacity() - block.len()
}

/// Critical sections only move blocks; a panic in one cannot leave them half moved.
fn spare() -> MutexGuard<'static, Spare> {
    SPARE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_held_is_what_was_given_while_blocks_are_used_again(
            samples in proptest::collection::vec((0_usize..2 * MAX_WHOLE, any::<u8>()), 1..200),
            window in 0_usize..30
        ) {
            let mut blocks = Blocks::default();
            let mut held = VecDeque::new();
            for (length, filling) in samples {
                let sample = blocks.hold(&vec![filling; length]);
                prop_assert_eq!(sample.len(), length);
                held.push_back((sample, length, filling));
                while held.len() > window {
                    held.pop_front();
                }
                blocks.give_back();
                for (sample, length, filling) in &held {
                    prop_assert!(*sample == vec![*filling; *length]);
                }
            }
        }
    }

    #[test]
    fn who_keeps_a_sample_holds_up_its_block_only() {
        let mut blocks = Blocks::default();
        let kept = blocks.hold(&[7; MAX_WHOLE]);
        for _ in 0..100 {
            drop(blocks.hold(&[0; MAX_WHOLE - 9]));
            blocks.give_back();
        }
        assert!(blocks.full.len() <= 2, "{} blocks", blocks.full.len());
        assert!(kept == vec![7; MAX_WHOLE]);
    }

    #[test]
    fn samples_that_leave_blocks_empty_pin_a_bounded_number_of_them() {
        let mut blocks = Blocks::default();
        let mut kept = Vec::new();
        for _ in 0..MAX_SAMPLE_BLOCKS + 100 {
            (0..BLOCK / MAX_WHOLE).for_each(|_| drop(blocks.hold(&[0; MAX_WHOLE - 8])));
            kept.push(blocks.hold(&[1; 9]));
        }
        assert!(blocks.full.len() <= MAX_SAMPLE_BLOCKS, "{}", blocks.full.len());
        assert!(kept.iter().all(|sample| sample == &[1; 9][..]));
    }

    #[test]
    fn spare_blocks_are_bounded() {
        let mut blocks = Blocks::default();
        let count = 3 * LEAST_SPARE * BLOCK / MAX_WHOLE;
        let held: Vec<Bytes> = (0..count).map(|_| blocks.hold(&[0; MAX_WHOLE])).collect();
        drop(held);
        drop(blocks.hold(&[0; MAX_WHOLE]));
        blocks.give_back();
        assert!(blocks.full.len() <= 1, "{} blocks", blocks.full.len());
        let spare = spare();
        assert!(spare.blocks.len() <= spare.max(), "{spare:?}");
    }
}
