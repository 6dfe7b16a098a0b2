//! Content: the bytes of a file, in pieces.

use bytes::Bytes;
use std::ops::Range;
use std::sync::Arc;

/// The bytes of a file, in order. A copy shares them.
#[derive(Debug, Clone, Default)]
pub struct Content {
    pieces: Arc<[Bytes]>,
    length: usize,
}

impl Content {
    /// How many bytes.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The bytes, piece by piece; no piece is empty.
    pub fn pieces(&self) -> &[Bytes] {
        &self.pieces
    }

    /// A part of it; what lies beyond the end is left out.
    pub fn slice(&self, range: Range<usize>) -> Self {
        let mut at = 0;
        let pieces = self.pieces.iter().map(|piece| {
            let within = |position: usize| position.saturating_sub(at).min(piece.len());
            let part = piece.slice(within(range.start)..within(range.end.max(range.start)));
            at += piece.len();
            part
        });
        pieces.collect()
    }

    /// The bytes in one piece: a copy if they are in several.
    pub fn to_bytes(&self) -> Bytes {
        match &*self.pieces {
            [piece] => piece.clone(),
            pieces => pieces.concat().into(),
        }
    }
}

impl FromIterator<Bytes> for Content {
    fn from_iter<T: IntoIterator<Item = Bytes>>(pieces: T) -> Self {
        let pieces: Arc<[Bytes]> = pieces.into_iter().filter(|piece| !piece.is_empty()).collect();
        Self { length: pieces.iter().map(Bytes::len).sum(), pieces }
    }
}

impl From<Bytes> for Content {
    fn from(bytes: Bytes) -> Self {
        Self::from_iter([bytes])
    }
}

impl PartialEq for Content {
    fn eq(&self, other: &Self) -> bool {
        self.length == other.length && self.pieces.iter().flatten().eq(other.pieces.iter().flatten())
    }
}

impl Eq for Content {}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_slice_is_what_slicing_the_whole_gives(lengths in proptest::collection::vec(0_usize..9, 0..6), a in 0_usize..60, b in 0_usize..60) {
            let pieces = lengths.iter().enumerate().map(|(n, length)| Bytes::from(vec![n as u8; *length]));
            let content: Content = pieces.collect();
            let whole = content.to_bytes();
            let (from, to) = (a.min(whole.len()), b.min(whole.len()).max(a.min(whole.len())));
            prop_assert_eq!(content.slice(a..b).to_bytes(), whole.slice(from..to));
        }
    }

    #[test]
    fn contents_are_equal_however_they_are_cut() {
        let [a, b]: [Content; 2] = [&["ab", "c"][..], &["a", "", "bc"]]
            .map(|cut| cut.iter().map(|piece| Bytes::from_static(piece.as_bytes())).collect());
        assert!(a == b && a != Content::from(Bytes::from_static(b"abd")) && !a.is_empty());
        assert!(Content::default().is_empty() && Content::default() == Content::from(Bytes::new()));
    }
}
