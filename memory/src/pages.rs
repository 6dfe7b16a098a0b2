//! Pages: lengths of memory that serve everything that is held.
//!
//! What is held of media comes and goes, of some hundred streams at once: what one gives back is to be what another one needs.
//! So it lies in whole pages, few of them together. The server's allocator (jemalloc) has each such length in
//! memory of its own, which it puts together again and gives back to the system.

/// Bytes of a page. Where the system's are larger these are parts of them, and nothing else changes.
pub const PAGE: usize = 4096;
/// Bytes that lie together at most, of what is not a piece of a file: up to here every version of the allocator has lengths that are
/// a page apart.
pub const MAX_PACKED: usize = 8 * PAGE;

/// Bytes the server's allocator takes for so many that lie together, 16 and more: there are four lengths from each power of two to
/// the next, and from four pages on every number of pages.
pub const fn taken(bytes: usize) -> usize {
    const LEAST: usize = 16;
    const IN_PAGES: usize = 4 * PAGE - PAGE / 2;
    let step = match bytes {
        0..=LEAST => LEAST,
        _ if bytes > IN_PAGES => PAGE,
        _ => {
            let step = (1 << (bytes - 1).ilog2()) / 4;
            if step < LEAST { LEAST } else { step }
        }
    };
    bytes.next_multiple_of(step)
}

#[cfg(test)]
mod tests {
    use super::taken;

    #[test]
    fn there_are_four_lengths_between_powers_of_two_and_then_one_for_each_page() {
        let lengths = [1, 16, 17, 64, 65, 80, 81, 128, 129, 1000, 1025, 4097, 14_336, 14_337, 20_481, 65_536];
        let expected = [16, 16, 32, 64, 80, 80, 96, 128, 160, 1024, 1280, 5120, 14_336, 16_384, 24_576, 65_536];
        assert_eq!(lengths.map(taken), expected);
    }
}
