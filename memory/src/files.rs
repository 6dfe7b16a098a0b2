//! Files: what viewers fetch, put together in pieces of whole pages.
//!
//! Segments come in all sizes, some hundred streams' at once, and are held for half a minute. Each has its own pages but for an
//! end that fills none: nothing else of one keeps memory of another.

use crate::Content;
use crate::pages::PAGE;
use bytes::Bytes;

/// All pieces of a file but the last have such lengths and, with the server's allocator, begin at such addresses: what direct
/// I/O demands of memory on devices with blocks of that many bytes.
pub const ALIGNMENT: usize = PAGE;
/// Bytes of a piece: few pieces for a file, and one length of memory for nearly all of what is held.
const PIECE: usize = 16 * PAGE;

/// A file being put together.
pub struct FileWriter {
    pieces: Vec<Bytes>,
    /// The piece that is not full, or nothing yet.
    open: Vec<u8>,
    length: usize,
}

impl FileWriter {
    /// Begins a file that will have about so many bytes.
    pub fn expecting(length: usize) -> Self {
        Self { pieces: Vec::with_capacity(length / PIECE + 2), open: Vec::with_capacity(length.min(PIECE)), length: 0 }
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
    #[inline]
    pub fn put(&mut self, bytes: &[u8]) {
        self.length += bytes.len();
        // There is room nearly always: what is put is most often a header, a packet's payload, or a sample.
        if bytes.len() <= self.open.capacity().min(PIECE) - self.open.len() {
            self.open.extend_from_slice(bytes);
        } else {
            self.put_across(bytes);
        }
    }

    /// Appends bytes for which there is no room in the open piece.
    fn put_across(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            if self.open.len() == PIECE {
                let full = std::mem::replace(&mut self.open, Vec::with_capacity(PIECE));
                self.pieces.push(full.into());
            } else if self.open.len() + bytes.len() > self.open.capacity() {
                // More than was expected.
                self.open.reserve_exact(PIECE - self.open.len());
            }
            let (now, later) = bytes.split_at((PIECE - self.open.len()).min(bytes.len()));
            self.open.extend_from_slice(now);
            bytes = later;
        }
    }

    /// The file.
    pub fn finish(mut self) -> Content {
        match self.open.len() {
            PIECE => self.pieces.push(self.open.into()),
            _ => self.pieces.extend(fitting(&self.open)),
        }
        self.pieces.into_iter().collect()
    }
}

/// Copies in memory that fits, in order: what fills pages, and what fills none.
fn fitting(bytes: &[u8]) -> [Bytes; 2] {
    let (whole, rest) = bytes.split_at(bytes.len() / PAGE * PAGE);
    [whole, rest].map(Bytes::copy_from_slice)
}

/// A copy of bytes as a file.
impl From<&[u8]> for Content {
    fn from(bytes: &[u8]) -> Self {
        let mut writer = FileWriter::expecting(bytes.len());
        writer.put(bytes);
        writer.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_file_is_what_was_put_in_whole_pages_and_one_end(
            length in 0_usize..5 * PIECE, step in 1_usize..50_000, expected in prop_oneof![Just(None), (0_usize..5 * PIECE).prop_map(Some)]
        ) {
            let bytes: Vec<u8> = (0..length).map(|n| (n / 100) as u8).collect();
            let mut writer = FileWriter::expecting(expected.unwrap_or(length));
            bytes.chunks(step).for_each(|chunk| writer.put(chunk));
            prop_assert_eq!((writer.len(), writer.is_empty()), (length, length == 0));
            let content = writer.finish();
            prop_assert_eq!((content.len(), content.to_bytes()), (length, Bytes::from(bytes)));
            let Some((last, others)) = content.pieces().split_last() else { return Ok(()) };
            prop_assert!(others.iter().all(|piece| piece.len().is_multiple_of(ALIGNMENT)));
            prop_assert!(last.len().is_multiple_of(ALIGNMENT) || last.len() < ALIGNMENT || others.is_empty());
            prop_assert!(content.pieces().len() <= length / PIECE + 2);
        }
    }
}
