//! What is true in a world of the model, how it grows older, and what makes two of them the same.

use super::*;

impl World {
    pub(super) fn waits(&self, asker: u8) -> bool {
        let in_lock = self.lock.as_ref().is_some_and(|lock| lock.waiting.iter().any(|waiting| waiting.asker == asker));
        in_lock || self.mailbox.iter().any(|mail| matches!(mail, Mail::Claim(who, _) if *who == asker))
    }

    pub(super) fn has_live_holder(&self) -> bool {
        let open = self.open;
        self.encoders.iter().any(|e| matches!(e, Encoder::Publishing { epoch, alive: true } if *epoch == open))
    }

    pub(super) fn has_session(&self, held: u64) -> bool {
        self.encoders.iter().any(|encoder| matches!(encoder, Encoder::Publishing { epoch, .. } if *epoch == held))
    }

    /// Everything is a second older.
    pub(super) fn age(&mut self) {
        self.heard = Heard { media: self.heard.media.map(|media| media - SECOND), read: self.heard.read - SECOND };
        let aged = |publisher: Publisher| match publisher {
            Publisher::Grace { until } => Publisher::Grace { until: until - SECOND },
            Publisher::Held { epoch, since } => Publisher::Held { epoch, since: since - SECOND },
            Publisher::Free | Publisher::Ended => publisher,
        };
        self.publisher = aged(self.publisher);
        if let Some(lock) = &mut self.lock {
            (lock.looked, lock.awake) = (lock.looked - SECOND, lock.awake - SECOND);
            lock.publisher = aged(lock.publisher);
            lock.waiting.iter_mut().for_each(|waiting| waiting.since -= SECOND);
        }
        for encoder in &mut self.encoders {
            if let Encoder::Asking { since, .. } = encoder {
                *since -= SECOND;
            }
        }
    }

    /// The same situation is the same value: epochs count from the last one, and times that are old are equally old.
    pub(super) fn rebase(&mut self, now: Instant) {
        const LAST: u64 = 4;
        let last = self.epoch;
        let behind = last.saturating_sub(LAST);
        let rebased = |epoch: u64| if epoch == 0 { 0 } else { epoch.saturating_sub(behind).max(1) };
        let held = |publisher: Publisher| match publisher {
            Publisher::Held { epoch, since } => {
                // How long it holds the stream matters only until it sends.
                let since = if self.heard.media.is_some() { now } else { since.max(now - OLD) };
                Publisher::Held { epoch: rebased(epoch), since }
            }
            Publisher::Free | Publisher::Grace { .. } | Publisher::Ended => publisher,
        };
        self.epoch = rebased(last);
        self.open = rebased(self.open);
        self.linked = self.linked.map(rebased);
        self.publisher = held(self.publisher);
        for encoder in &mut self.encoders {
            if let Encoder::Publishing { epoch, .. } = encoder {
                *epoch = rebased(*epoch);
            }
        }
        for mail in &mut self.mailbox {
            match mail {
                Mail::Ended(epoch, _) | Mail::Holder(Some(epoch)) => *epoch = rebased(*epoch),
                Mail::Claim(..) | Mail::Holder(None) => {}
            }
        }
        if let Some(lock) = &mut self.lock {
            (lock.epoch, lock.publisher) = (rebased(lock.epoch), held(lock.publisher));
            // It is always awake here, and has been for longer than that matters after as many seconds as count.
            (lock.looked, lock.awake) = (now, now - OLD);
        }
        let young = |instant: Instant| instant.max(now - OLD);
        self.heard = Heard { media: self.heard.media.map(young), read: young(self.heard.read) };
    }
}
