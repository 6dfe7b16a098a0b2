//! Extents: how long playlists were. A segment that leaves stays for its own duration and that of the longest one which
//! listed it (RFC 8216 section 6.2.2), and that may have been an early one, with longer segments before it.

/// A playlist that was published.
#[derive(Debug, Clone, Copy)]
struct Extent {
    /// The newest number in it.
    newest: u64,
    /// How long it was.
    ticks: i64,
}

/// Playlists that named something which is still listed: no more than segments are.
#[derive(Debug, Clone, Default)]
pub struct Extents(Vec<Extent>);

impl Extents {
    /// Adds the playlist that names these numbers.
    pub(crate) fn note(&mut self, oldest: u64, newest: u64, ticks: i64) {
        self.0.retain(|extent| extent.newest >= oldest);
        // One that names nothing new is no longer than the one before.
        if self.0.last().is_none_or(|before| before.newest != newest) {
            self.0.push(Extent { newest, ticks });
        }
    }

    /// The longest that named a segment which is listed, ticks.
    pub(crate) fn longest_naming(&self, sequence: u64) -> Option<i64> {
        self.0.iter().filter(|extent| extent.newest >= sequence).map(|extent| extent.ticks).max()
    }

    /// How many there are.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }
}
