//! Blocks: memory of one size for samples and segments, used again.
//!
//! The samples of an open segment come and go together, and so does each segment, in all sizes. From an allocator
//! that leaves holes behind, or pages that the kernel must clear anew. Here what a stream holds lies in blocks, one
//! thing after the other; a block of which nothing is needed any more is the next one to be filled, by this stream
//! or another.

use crate::Content;
use bytes::{Buf, Bytes, BytesMut};
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Segments begin at such addresses, and so do all their pieces: what direct I/O demands of memory, and of the
/// lengths of all pieces but the last, on devices with blocks of 512 bytes.
pub const ALIGNMENT: usize = 512;
/// Bytes of a block: whoever fills blocks has up to two that are not full, each loses what aligns it, and costs a
/// hundred bytes of notes. Of 16 to 56 KiB this takes least at a megabit per second.
const BLOCK: usize = (32 << 10) - ALIGNMENT;
/// Bytes allocated for a block.
const ALLOCATED: usize = BLOCK + ALIGNMENT;
/// Samples longer than this have memory of their own: they do not fit into a block.
pub const MAX_WHOLE: usize = BLOCK;
/// Blocks one owner remembers for use again: 512 MB, several of the largest segments. What is held beyond that
/// is freed like any other memory.
const MAX_BLOCKS: usize = 16 << 10;
/// Blocks with samples in them that one owner may have: 96 MiB, as much as a sample log holds. A publisher whose
/// samples leave most of each block empty could pin more; the rest of them has memory that fits.
const MAX_SAMPLE_BLOCKS: usize = 3 << 10;
/// Blocks kept for whoever needs one next, for all owners together: 2 MB, what a hundred streams need
/// between the moments at which others give theirs back.
const MAX_SPARE: usize = 64;

/// Blocks that nobody uses.
static SPARE: Mutex<Vec<BytesMut>> = Mutex::new(Vec::new());

/// The blocks that one owner fills: a publisher's connection, a stream's packager.
#[derive(Debug, Default)]
pub struct Blocks {
    /// The one being filled.
    current: Option<BytesMut>,
    /// Those that are full: handles by which they are taken back once nobody needs what is in them.
    full: VecDeque<BytesMut>,
}

/// A copy starts with blocks of its own: two owners must not fill the same one.
impl Clone for Blocks {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl Blocks {
    /// A copy of a segment, in as many pieces as it needs blocks, aligned.
    pub fn hold(&mut self, mut bytes: &[u8]) -> Content {
        let mut pieces = Vec::with_capacity(bytes.len() / BLOCK + 2);
        self.give_back();
        self.current.iter_mut().for_each(align);
        while !bytes.is_empty() {
            let block = self.with_room(1);
            let (now, later) = bytes.split_at(room(block).min(bytes.len()));
            block.extend_from_slice(now);
            pieces.push(block.split().freeze());
            bytes = later;
        }
        pieces.into_iter().collect()
    }

    /// A copy of a sample, in one piece.
    pub fn hold_whole(&mut self, bytes: &[u8]) -> Bytes {
        if bytes.len() > MAX_WHOLE {
            return Bytes::copy_from_slice(bytes);
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
    /// whoever keeps an old segment for long holds up its own blocks only.
    pub fn give_back(&mut self) {
        let mut free = Vec::new();
        self.full.retain_mut(|block| {
            let reclaimed = block.try_reclaim(ALLOCATED);
            if reclaimed {
                free.push(std::mem::take(block));
            }
            !reclaimed
        });
        let mut spare = spare();
        let room = MAX_SPARE.saturating_sub(spare.len());
        let too_many = free.split_off(room.min(free.len()));
        spare.append(&mut free);
        drop(spare);
        drop(too_many);
    }

    /// A block with at least this much room.
    fn with_room(&mut self, wanted: usize) -> &mut BytesMut {
        if let Some(full) = self.current.take_if(|block| room(block) < wanted) {
            self.full.push_back(full);
            if self.full.len() > MAX_BLOCKS {
                self.full.pop_front();
            }
        }
        self.current.get_or_insert_with(|| {
            let used_before = spare().pop();
            let mut block = used_before.unwrap_or_else(|| BytesMut::with_capacity(ALLOCATED));
            align(&mut block);
            block
        })
    }
}

/// Bytes that fit into what is left of a block and end at an aligned address.
fn room(block: &BytesMut) -> usize {
    let end = block.as_ptr().addr() + block.capacity();
    (end / ALIGNMENT * ALIGNMENT).saturating_sub(block.as_ptr().addr())
}

/// Has the next byte lie at an aligned address.
fn align(block: &mut BytesMut) {
    let over = block.as_ptr().addr() % ALIGNMENT;
    if over > 0 {
        let skipped = (ALIGNMENT - over).min(block.capacity());
        block.resize(skipped, 0);
        block.advance(skipped);
    }
}

/// Critical sections only move blocks; a panic in one cannot leave them half moved.
fn spare() -> MutexGuard<'static, Vec<BytesMut>> {
    SPARE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn what_is_held_is_what_was_given_while_blocks_are_used_again(
            files in proptest::collection::vec((0_usize..3 * BLOCK, any::<u8>(), any::<bool>()), 1..40),
            window in 0_usize..6
        ) {
            let mut blocks = Blocks::default();
            let mut held = VecDeque::new();
            for (length, filling, whole) in files {
                let bytes = vec![filling; length];
                let content = if whole { blocks.hold_whole(&bytes).into() } else { blocks.hold(&bytes) };
                prop_assert_eq!(content.len(), length);
                held.push_back((content, length, filling));
                while held.len() > window {
                    held.pop_front();
                }
                blocks.give_back();
                for (content, length, filling) in &held {
                    prop_assert!(content.to_bytes() == vec![*filling; *length]);
                }
            }
        }

        #[test]
        fn segments_lie_as_direct_io_demands(lengths in proptest::collection::vec(1_usize..5 * BLOCK, 1..20)) {
            let mut blocks = Blocks::default();
            for length in lengths {
                let content = blocks.hold(&vec![0; length]);
                let (last, others) = content.pieces().split_last().expect("pieces");
                prop_assert!(last.as_ptr().addr().is_multiple_of(ALIGNMENT));
                for piece in others {
                    prop_assert!(piece.as_ptr().addr().is_multiple_of(ALIGNMENT));
                    prop_assert!(piece.len().is_multiple_of(ALIGNMENT));
                }
                blocks.hold_whole(&vec![0; length % 999]);
            }
        }
    }

    #[test]
    fn a_window_that_slides_holds_no_more_blocks_than_it_needs() {
        let (mut blocks, mut window) = (Blocks::default(), VecDeque::new());
        for n in 0..200 {
            window.push_back(blocks.hold(&vec![0; BLOCK / 2 + n * 10]));
            if window.len() > 10 {
                window.pop_front();
            }
            blocks.give_back();
        }
        assert!(blocks.full.len() <= 12, "{} blocks", blocks.full.len());
    }

    #[test]
    fn who_keeps_a_segment_holds_up_its_blocks_only() {
        let mut blocks = Blocks::default();
        let kept = blocks.hold(&vec![7; BLOCK]);
        for _ in 0..100 {
            drop(blocks.hold(&vec![0; 3 * BLOCK]));
            blocks.give_back();
        }
        assert!(blocks.full.len() <= 3, "{} blocks", blocks.full.len());
        assert!(kept.to_bytes() == vec![7; BLOCK]);
    }

    #[test]
    fn samples_that_leave_blocks_empty_pin_a_bounded_number_of_them() {
        let mut blocks = Blocks::default();
        let mut kept = Vec::new();
        for _ in 0..MAX_SAMPLE_BLOCKS + 100 {
            drop(blocks.hold_whole(&[0; MAX_WHOLE - 8]));
            kept.push(blocks.hold_whole(&[1; 9]));
        }
        assert!(blocks.full.len() <= MAX_SAMPLE_BLOCKS, "{}", blocks.full.len());
        assert!(kept.iter().all(|sample| sample == &[1; 9][..]));
    }

    #[test]
    fn spare_blocks_are_bounded() {
        let mut blocks = Blocks::default();
        drop(blocks.hold(&vec![0; 3 * MAX_SPARE * BLOCK]));
        blocks.give_back();
        assert!(blocks.full.is_empty());
        assert!(spare().len() <= MAX_SPARE);
    }
}
