//! Pages: memory for segments, that fits to the page and is used again.
//!
//! A segment is held for half a minute and then goes as a whole. Allocators round such sizes up by an eighth,
//! and pages that come from the kernel have to be cleared first; the pages of a segment that has gone need neither.

use bytes::Bytes;
use memmap2::{MmapMut, MmapOptions};
use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Segments from this size on get pages of their own, bytes: below it, what rounding wastes is small.
const MIN_MAPPED: usize = 32 << 10;
/// Bytes of mappings that are kept for the next segments, for all streams together: what a few hundred
/// streams give back in a second.
const MAX_SPARE: usize = 8 << 20;
/// Larger mappings are not kept, bytes: one stream with large segments must not drive out those of all others.
const MAX_KEPT: usize = MAX_SPARE / 8;
/// A spare mapping is used for what leaves at most this part of it empty.
const MAX_WASTE: usize = 64;
/// Bytes of a page on every machine we know; on others the rounding is only less exact.
const PAGE: usize = 4096;

static SPARE: Mutex<Spare> = Mutex::new(Spare { maps: VecDeque::new(), bytes: 0 });

#[derive(Debug)]
struct Spare {
    /// Those given back last come first: they may still be in a cache.
    maps: VecDeque<MmapMut>,
    bytes: usize,
}

impl Spare {
    /// The first mapping that fits.
    fn take(&mut self, length: usize) -> Option<MmapMut> {
        let most = length.next_multiple_of(PAGE) + length / MAX_WASTE;
        let at = self.maps.iter().position(|map| (length..=most).contains(&map.len()))?;
        let map = self.maps.remove(at)?;
        self.bytes -= map.len();
        Some(map)
    }

    /// Keeps a mapping; those that are too many now, to be unmapped when nobody waits for it.
    fn give(&mut self, map: MmapMut) -> Vec<MmapMut> {
        if map.len() > MAX_KEPT {
            return vec![map];
        }
        self.bytes += map.len();
        self.maps.push_front(map);
        let mut evicted = Vec::new();
        while self.bytes > MAX_SPARE {
            let Some(oldest) = self.maps.pop_back() else { break };
            self.bytes -= oldest.len();
            evicted.push(oldest);
        }
        evicted
    }
}

/// A mapping that goes back to the others when nobody needs its bytes any more.
struct Lent {
    map: Option<MmapMut>,
    length: usize,
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        self.map.as_deref().map_or(&[], |map| &map[..self.length])
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if let Some(map) = self.map.take() {
            let evicted = spare().give(map);
            drop(evicted);
        }
    }
}

/// A copy of `bytes` in memory that wastes nothing.
pub(crate) fn hold(bytes: &[u8]) -> Bytes {
    if bytes.len() < MIN_MAPPED {
        return Bytes::copy_from_slice(bytes);
    }
    let spare = spare().take(bytes.len());
    let length = bytes.len().next_multiple_of(PAGE);
    let map = spare.map_or_else(|| MmapOptions::new().len(length).populate().map_anon(), Ok);
    // No room for one more mapping: ordinary memory may still be there.
    let Ok(mut map) = map else { return Bytes::copy_from_slice(bytes) };
    map[..bytes.len()].copy_from_slice(bytes);
    Bytes::from_owner(Lent { map: Some(map), length: bytes.len() })
}

/// Critical sections only move mappings; a panic in one cannot leave them half changed.
fn spare() -> MutexGuard<'static, Spare> {
    SPARE.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(length: usize) -> MmapMut {
        MmapOptions::new().len(length).map_anon().expect("memory")
    }

    #[test]
    fn what_is_held_is_what_was_given_whatever_its_memory_held_before() {
        for length in [0, 1, MIN_MAPPED - 1, MIN_MAPPED, MIN_MAPPED + 1, 10 * PAGE, 1 << 20] {
            for filling in [0xAA, 0x55] {
                let bytes = vec![filling; length];
                assert_eq!(hold(&bytes), bytes);
            }
        }
    }

    #[test]
    fn a_spare_mapping_serves_what_nearly_fills_it_and_nothing_else() {
        let mut spare = Spare { maps: VecDeque::new(), bytes: 0 };
        assert!(spare.give(map(100 * PAGE)).is_empty());
        assert!(spare.take(100 * PAGE + 1).is_none(), "too small");
        assert!(spare.take(90 * PAGE).is_none(), "a tenth would be wasted");
        assert_eq!(spare.take(99 * PAGE + 1).map(|map| map.len()), Some(100 * PAGE));
        assert!(spare.take(99 * PAGE + 1).is_none(), "it is taken");
        assert_eq!(spare.bytes, 0);
    }

    #[test]
    fn the_oldest_spare_mappings_go_when_there_are_too_many() {
        let mut spare = Spare { maps: VecDeque::new(), bytes: 0 };
        for n in 0..100 {
            spare.give(map((50 + n) * PAGE));
        }
        let large = map(MAX_KEPT + PAGE);
        assert_eq!(spare.give(large).iter().map(|map| map.len()).collect::<Vec<_>>(), [MAX_KEPT + PAGE]);
        assert!(spare.bytes <= MAX_SPARE);
        assert_eq!(spare.bytes, spare.maps.iter().map(|map| map.len()).sum::<usize>());
        assert!(spare.take(149 * PAGE).is_some() && spare.take(50 * PAGE).is_none());
    }
}
