//! Retention: which recordings have to go. Pure; the time and the room there is are given.

use crate::recording::SessionRecord;
use std::ops::ControlFlow;
use std::time::Duration;

/// How much is kept; what is not set is not limited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Limits {
    /// A recording goes this long after its end.
    pub age: Option<Duration>,
    /// Bytes of all recordings of an archive.
    pub bytes: Option<u64>,
    /// Bytes that are to be free on an archive's file system.
    pub free: Option<u64>,
}

/// Why a recording goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reason {
    /// It is too old.
    Age,
    /// All together are too large.
    Size,
    /// There is too little room.
    Free,
}

impl Reason {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Age, Self::Size, Self::Free];

    /// Value of the metric's `reason` label.
    pub fn label(self) -> &'static str {
        match self {
            Reason::Age => "age",
            Reason::Size => "size",
            Reason::Free => "free",
        }
    }
}

/// What came of a recording that has to go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// It went.
    Gone,
    /// It did not, and takes its room: others go instead.
    Stays,
    /// It was not tried, because nothing can be removed where it is: what is elsewhere does not go instead.
    Untried,
}

impl Limits {
    /// Whether nothing is limited.
    pub fn are_none(&self) -> bool {
        *self == Self::default()
    }

    /// Has the recordings removed that have to go, oldest first, until `remove` breaks off. One without an end is live, or will be given its end when its
    /// archive is well; it counts and does not go.
    pub fn enforce(
        &self,
        records: &[SessionRecord],
        free: u64,
        now_ms: i64,
        mut remove: impl FnMut(&SessionRecord, Reason) -> ControlFlow<(), Fate>,
    ) {
        let mut ended: Vec<_> = records.iter().filter_map(|record| Some((record.ended_at_ms?, record))).collect();
        ended.sort_by_key(|(at, record)| (*at, &record.id));
        let (mut total, mut free) = (records.iter().map(SessionRecord::size).fold(0, u64::saturating_add), free);
        for (ended_at_ms, record) in ended {
            let age = Duration::from_millis(now_ms.saturating_sub(ended_at_ms).max(0).unsigned_abs());
            let reason = if self.age.is_some_and(|limit| age > limit) {
                Reason::Age
            } else if self.bytes.is_some_and(|limit| total > limit) {
                Reason::Size
            } else if self.free.is_some_and(|limit| free < limit) {
                Reason::Free
            } else {
                // Those that follow ended later.
                break;
            };
            let ControlFlow::Continue(fate) = remove(record, reason) else { break };
            if fate != Fate::Stays {
                total = total.saturating_sub(record.size());
            }
            if fate == Fate::Gone {
                free = free.saturating_add(record.size());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::recording::tests::record;

    const HOUR_MS: i64 = 3_600_000;
    const GIB: u64 = 1 << 30;

    /// Four recordings of one GiB that ended an hour after each other, and one that goes on.
    fn records() -> Vec<SessionRecord> {
        let ended = |n: u8| {
            let mut record = record();
            record.id.session = format!("{n:x}");
            record.bytes = GIB;
            record.ended_at_ms = Some(i64::from(n) * HOUR_MS);
            record
        };
        let mut live = ended(9);
        live.ended_at_ms = None;
        // In no order, as directories are.
        vec![ended(3), live, ended(1), ended(4), ended(2)]
    }

    fn gone(limits: Limits, free: u64) -> Vec<(String, Reason)> {
        let mut gone = Vec::new();
        limits.enforce(&records(), free, 5 * HOUR_MS, |record, reason| {
            gone.push((record.id.session.clone(), reason));
            ControlFlow::Continue(Fate::Gone)
        });
        gone
    }

    #[test]
    fn the_oldest_go_first_and_what_is_live_never() {
        let (limits, of) = (Limits::default(), |sessions: &[&str], reason| {
            sessions.iter().map(|session| ((*session).to_owned(), reason)).collect::<Vec<_>>()
        });
        assert_eq!(gone(limits, 0), []);
        let age = Some(Duration::from_secs(2 * 3600));
        assert_eq!(gone(Limits { age, ..limits }, 0), of(&["1", "2"], Reason::Age));
        assert_eq!(gone(Limits { bytes: Some(5 * GIB), ..limits }, 0), []);
        assert_eq!(gone(Limits { bytes: Some(3 * GIB), ..limits }, 0), of(&["1", "2"], Reason::Size));
        // The live one counts, too: no more than all the others can go for it.
        assert_eq!(gone(Limits { bytes: Some(0), ..limits }, 0), of(&["1", "2", "3", "4"], Reason::Size));
        assert_eq!(gone(Limits { free: Some(3 * GIB), ..limits }, 2 * GIB), of(&["1"], Reason::Free));
        // The first cannot be removed: it takes its room, and another one goes.
        let tried = |first: Fate| {
            let (mut tried, two_gone) = (Vec::new(), Limits { bytes: Some(3 * GIB), ..limits });
            two_gone.enforce(&records(), 0, 5 * HOUR_MS, |record, _| {
                tried.push(record.id.session.clone());
                ControlFlow::Continue(if record.id.session == "1" { first } else { Fate::Gone })
            });
            tried
        };
        assert_eq!(tried(Fate::Stays), ["1", "2", "3"]);
        assert_eq!(tried(Fate::Untried), ["1", "2"], "nothing goes instead");
        let all = Limits { age, bytes: Some(3 * GIB), free: Some(GIB) };
        assert_eq!(gone(all, 0), of(&["1", "2"], Reason::Age));
    }
}
