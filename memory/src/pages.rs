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
