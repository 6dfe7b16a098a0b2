//! Numbers of segments and discontinuities, which never go back for a stream name (invariant I3).

/// Numbers a window starts with.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Numbers {
    /// Number of the first segment.
    pub media_sequence: u64,
    /// Discontinuities before it.
    pub discontinuity_sequence: u64,
}

impl Numbers {
    /// These, or those after `others` if they are not above them already.
    pub fn above(self, others: Self) -> Self {
        Self {
            media_sequence: self.media_sequence.max(others.media_sequence.saturating_add(1)),
            discontinuity_sequence: self.discontinuity_sequence.max(others.discontinuity_sequence.saturating_add(1)),
        }
    }

    /// The higher one of each.
    pub fn or_higher(self, others: Self) -> Self {
        Self {
            media_sequence: self.media_sequence.max(others.media_sequence),
            discontinuity_sequence: self.discontinuity_sequence.max(others.discontinuity_sequence),
        }
    }
}
