//! Pages: lengths of memory that serve everything that is held.
//!
//! What is held of media comes and goes, of some hundred streams at once: what one gives back is to be what another one needs.
//! So it lies in whole pages, few of them together. The server's allocator (jemalloc) has each such length in
//! memory of its own, which it puts together again and gives back to the system.

use bytes::Bytes;

/// Bytes of a page, on every processor we know of: where they are larger more is allocated, and nothing else changes.
pub const PAGE: usize = 4096;
/// Bytes up to which lengths the allocator has are a page apart.
pub const FINE: usize = 8 * PAGE;

/// Copies that fit, in order: of less than [`FINE`], and of what fills no page.
pub fn fitting(bytes: &[u8]) -> impl Iterator<Item = Bytes> {
    let (whole, rest) = bytes.split_at(bytes.len() / PAGE * PAGE);
    whole.chunks(FINE).chain([rest]).map(Bytes::copy_from_slice)
}
