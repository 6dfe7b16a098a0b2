//! Files: what viewers fetch, put together in blocks that follow each other from file to file and stream to stream.
//!
//! Segments come in all sizes and go in about the order in which they came, whichever stream they are of. In memory
//! allocated for each the kernel would have pages to clear, or an allocator holes to keep. Here one lies behind the
//! other; a block goes back to be filled anew as soon as nobody needs anything in it.

use crate::Content;
use bytes::{Buf, Bytes, BytesMut};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Files in blocks begin at such addresses, and so do all their pieces: what direct I/O demands of memory, and of the
/// lengths of all pieces but the last, on devices with blocks of 512 bytes.
pub const ALIGNMENT: usize = 512;
/// Bytes allocated for a block. What aligns it costs the less the larger it is; what is left of the files before and after
/// in the blocks at a file's ends, and goes a little later than it, the more.
const BLOCK: usize = (32 << 10) - 64;
/// Files that are expected to be shorter have memory of their own: in a block they could keep a lot of it from being
/// used again. A longer one keeps its neighbours in two blocks at most, four times its size.
const OWN_MEMORY_BELOW: usize = 16 << 10;
/// Unused blocks that are kept, besides one in [`SPARE_SHARE`] of all: 1 MB.
const LEAST_SPARE: usize = 32;
/// What streams hold goes up and down with their pictures. As much as it does for many of them is kept in blocks: given
/// back to the allocator, they would be cut into small pieces, and others taken from the system soon after.
const SPARE_SHARE: usize = 64;
/// Blocks that are filled in part and wait for the next file: one for each thread that puts files together at once.
/// More than that are not filled further.
const MAX_OPEN: usize = 8;

static POOL: Mutex<Pool> = Mutex::new(Pool { open: Vec::new(), spare: Vec::new(), made: 0 });

/// Blocks that nobody fills at present.
struct Pool {
    open: Vec<Filling>,
    spare: Vec<BytesMut>,
    /// Blocks there are, whoever has them.
    made: usize,
}

impl Pool {
    fn max_spare(&self) -> usize {
        LEAST_SPARE + self.made / SPARE_SHARE
    }
}

/// A block as those see it who hold something in it. It ends with the last of them.
#[derive(Default)]
struct Block {
    /// The handle by which it is taken back, once it is full.
    full: Mutex<BytesMut>,
}

impl Block {
    /// Its memory, if it was closed and nobody holds anything in it.
    fn emptied(&mut self) -> Option<BytesMut> {
        let mut handle = std::mem::take(self.full.get_mut().unwrap_or_else(PoisonError::into_inner));
        handle.try_reclaim(BLOCK).then_some(handle)
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        let emptied = self.emptied();
        let mut pool = pool();
        match emptied {
            Some(memory) => pool.spare.push(memory),
            // It was not closed: its memory goes with it.
            None => pool.made = pool.made.saturating_sub(1),
        }
        while pool.spare.len() > pool.max_spare() {
            pool.spare.pop();
            pool.made = pool.made.saturating_sub(1);
        }
    }
}

/// A part of a block. The bytes go first, so that whoever is the last to leave a block leaves it empty.
struct Piece {
    bytes: Bytes,
    _block: Arc<Block>,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

/// A block and what of it is not filled yet.
struct Filling {
    block: Arc<Block>,
    rest: BytesMut,
}

impl Filling {
    fn next() -> Self {
        let mut pool = pool();
        if let Some(open) = pool.open.pop() {
            return open;
        }
        let used_before = pool.spare.pop();
        pool.made += usize::from(used_before.is_none());
        drop(pool);
        Self { block: Arc::default(), rest: used_before.unwrap_or_else(|| BytesMut::with_capacity(BLOCK)) }
    }

    /// Bytes that fit and end at an aligned address.
    fn room(&self) -> usize {
        let end = self.rest.as_ptr().addr() + self.rest.capacity();
        (end / ALIGNMENT * ALIGNMENT).saturating_sub(self.rest.as_ptr().addr())
    }

    /// Has the next byte lie at an aligned address.
    fn align(&mut self) {
        let over = self.rest.as_ptr().addr() % ALIGNMENT;
        if over > 0 {
            let skipped = (ALIGNMENT - over).min(self.rest.capacity());
            self.rest.resize(skipped, 0);
            self.rest.advance(skipped);
        }
    }

    /// What was written since the last piece.
    fn piece(&mut self) -> Bytes {
        Bytes::from_owner(Piece { bytes: self.rest.split().freeze(), _block: self.block.clone() })
    }

    /// Leaves the block to those who hold something in it.
    fn close(self) {
        *self.block.full.lock().unwrap_or_else(PoisonError::into_inner) = self.rest;
    }
}

/// A file being put together.
pub struct FileWriter {
    at: Place,
    pieces: Vec<Bytes>,
    length: usize,
}

enum Place {
    Own(Vec<u8>),
    Blocks(Filling),
}

impl FileWriter {
    /// Begins a file that will have about so many bytes.
    pub fn expecting(length: usize) -> Self {
        if length < OWN_MEMORY_BELOW {
            return Self { at: Place::Own(Vec::with_capacity(length)), pieces: Vec::new(), length: 0 };
        }
        let mut filling = Filling::next();
        filling.align();
        Self { at: Place::Blocks(filling), pieces: Vec::with_capacity(length / BLOCK + 2), length: 0 }
    }

    /// Bytes so far.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether there are none so far.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// Appends bytes.
    pub fn put(&mut self, mut bytes: &[u8]) {
        self.length += bytes.len();
        let filling = match &mut self.at {
            Place::Own(own) => return own.extend_from_slice(bytes),
            Place::Blocks(filling) => filling,
        };
        while !bytes.is_empty() {
            // `room` counts from where the block ends; what is not a piece yet is part of it.
            let room = filling.room().saturating_sub(filling.rest.len());
            let (now, later) = bytes.split_at(room.min(bytes.len()));
            filling.rest.extend_from_slice(now);
            bytes = later;
            if !bytes.is_empty() {
                self.pieces.extend(Some(filling.piece()).filter(|piece| !piece.is_empty()));
                let mut next = Filling::next();
                next.align();
                std::mem::replace(filling, next).close();
            }
        }
    }

    /// The file.
    pub fn finish(mut self) -> Content {
        match self.at {
            Place::Own(own) => Bytes::from(own.into_boxed_slice()).into(),
            Place::Blocks(mut filling) => {
                self.pieces.push(filling.piece());
                let mut pool = pool();
                if pool.open.len() < MAX_OPEN {
                    pool.open.push(filling);
                } else {
                    drop(pool);
                    filling.close();
                }
                self.pieces.into_iter().collect()
            }
        }
    }
}

/// A copy of bytes as a file.
impl From<&[u8]> for Content {
    fn from(bytes: &[u8]) -> Self {
        let mut writer = FileWriter::expecting(bytes.len());
        writer.put(bytes);
        writer.finish()
    }
}

/// Critical sections only move blocks; a panic in one cannot leave them half moved.
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
        fn a_file_is_what_was_put_while_blocks_are_used_again(
            files in proptest::collection::vec((0_usize..3 * BLOCK, any::<u8>(), 1_usize..50_000, any::<bool>()), 1..12),
            window in 0_usize..5
        ) {
            let mut held: VecDeque<(Content, Vec<u8>)> = VecDeque::new();
            for (length, filling, step, expected) in files {
                let bytes: Vec<u8> = (0..length).map(|n| filling.wrapping_add((n / 100) as u8)).collect();
                let mut writer = FileWriter::expecting(if expected { length } else { OWN_MEMORY_BELOW });
                bytes.chunks(step).for_each(|chunk| writer.put(chunk));
                let content = writer.finish();
                prop_assert_eq!(content.len(), length);
                held.push_back((content, bytes));
                while held.len() > window {
                    held.pop_front();
                }
                for (content, bytes) in &held {
                    prop_assert!(content.to_bytes() == bytes);
                }
            }
        }

        #[test]
        fn files_lie_as_direct_io_demands(lengths in proptest::collection::vec(OWN_MEMORY_BELOW..5 * BLOCK, 1..20)) {
            for length in lengths {
                let content = Content::from(&vec![0; length][..]);
                let (last, others) = content.pieces().split_last().expect("pieces");
                prop_assert!(last.as_ptr().addr().is_multiple_of(ALIGNMENT));
                for piece in others {
                    prop_assert!(piece.as_ptr().addr().is_multiple_of(ALIGNMENT));
                    prop_assert!(piece.len().is_multiple_of(ALIGNMENT));
                }
            }
        }
    }

    #[test]
    fn a_block_is_empty_when_nothing_in_it_is_held() {
        let mut filling = Filling { block: Arc::default(), rest: BytesMut::with_capacity(BLOCK) };
        let block = Arc::downgrade(&filling.block);
        let [first, second] = [1, 2].map(|n| {
            filling.align();
            filling.rest.extend_from_slice(&[n; 1000]);
            filling.piece()
        });
        filling.close();
        let part = first.slice(10..20);
        drop((first, second));
        assert!(block.upgrade().is_some() && part == [1; 10][..]);
        drop(part);
        assert!(block.upgrade().is_none());
    }

    #[test]
    fn an_empty_block_has_all_of_its_memory_again() {
        let mut filling = Filling { block: Arc::default(), rest: BytesMut::with_capacity(BLOCK) };
        let block = filling.block.clone();
        filling.rest.resize(5000, 1);
        drop(filling.piece());
        filling.close();
        let memory = Arc::into_inner(block).and_then(|mut block| block.emptied()).expect("its memory");
        assert!(memory.is_empty() && memory.capacity() >= BLOCK);
    }

    #[test]
    fn threads_that_put_files_together_at_once_do_not_meet() {
        std::thread::scope(|scope| {
            for n in 0..4_u8 {
                scope.spawn(move || {
                    let mut held = VecDeque::new();
                    for round in 0..200_usize {
                        held.push_back(Content::from(&vec![n; OWN_MEMORY_BELOW + 977 * round][..]));
                        held.drain(..held.len().saturating_sub(5));
                        let alike = held.iter().flat_map(Content::pieces).flatten().all(|byte| *byte == n);
                        assert!(alike, "thread {n}, round {round}");
                    }
                });
            }
        });
        let pool = pool();
        assert!(pool.open.len() <= MAX_OPEN && pool.spare.len() <= pool.max_spare());
    }
}
