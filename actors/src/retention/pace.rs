//! How many recordings go for room at once: one, until it is seen that removing makes room. Where it does not, as with
//! snapshots that hold what was removed, or makes it later, more would go for nothing.

/// Recordings that go for room with a tick, at most.
const MAX_FOR_ROOM: usize = 64;
/// How many times as many may go when what went has made room.
const GROWTH: usize = 4;

/// Room that recordings are to make that went for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Promise {
    /// What was free before, bytes.
    pub free: u64,
    /// What they had, by their records, bytes.
    pub bytes: u64,
}

impl Promise {
    /// Half of it is there: streams that go on take some at once.
    fn is_kept(self, free: u64) -> bool {
        free > self.free && free - self.free >= self.bytes / 2
    }
}

/// How many may go in an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Pace {
    allowed: usize,
    promise: Option<Promise>,
    /// It has been kept.
    is_kept: bool,
}

impl Default for Pace {
    fn default() -> Self {
        Self { allowed: 1, promise: None, is_kept: false }
    }
}

impl Pace {
    /// How many may go now.
    pub fn allowed(&self) -> usize {
        self.allowed
    }

    /// Some went.
    pub fn promised(&mut self, promise: Promise) {
        (self.promise, self.is_kept) = (Some(promise), false);
    }

    /// So much is free now: streams that go on will have taken it by the next tick.
    pub fn noticed(&mut self, free: u64) {
        self.is_kept |= self.promise.is_some_and(|promise| promise.is_kept(free));
    }

    /// A tick after some went: their files are gone, or cannot go. Some file systems (ZFS, btrfs, XFS) make room a little
    /// later than files go.
    pub fn seen(&mut self, free: u64) {
        self.noticed(free);
        if self.promise.take().is_some() {
            self.allowed = if self.is_kept { (self.allowed * GROWTH).min(MAX_FOR_ROOM) } else { 1 };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Pace {
        /// So many may go.
        pub fn of(allowed: usize) -> Self {
            Self { allowed, ..Self::default() }
        }

        /// Without what was promised.
        pub fn told_nothing(self) -> Self {
            Self::of(self.allowed)
        }
    }

    #[test]
    fn more_go_only_after_what_went_has_made_room() {
        let mut pace = Pace::default();
        let mut after = |promise, free| {
            pace.promised(promise);
            pace.seen(free);
            pace.allowed()
        };
        let promise = Promise { free: 1000, bytes: 100 };
        assert_eq!([1100, 1060, 2000, 1050].map(|free| after(promise, free)), [4, 16, 64, 64]);
        assert_eq!(after(promise, 1049), 1, "less than half of it came");
        assert_eq!((after(promise, 1100), after(promise, 900)), (4, 1));
        assert_eq!(after(Promise { bytes: 0, ..promise }, 1000), 1, "a record that knows no bytes");
        pace.promised(promise);
        pace.noticed(1050);
        pace.seen(900);
        assert_eq!(pace.allowed(), 4, "what came was taken by the tick");
        pace.promised(promise);
        pace.seen(900);
        assert_eq!(pace.allowed(), 1, "that was the room of those before");
        pace.seen(5000);
        assert_eq!(pace.allowed(), 1, "nothing had gone");
    }
}
