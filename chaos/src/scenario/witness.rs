//! Witness: what a viewer of one stream got, small enough to be kept, and whether every picture came once and in order.

use crate::audit::finding::Report;
use crate::audit::pictures::pictures;
use crate::audit::{self, Audit, Seen};
use crate::clip;
use anyhow::Context;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::mpsc::sync_channel;
use std::thread::JoinHandle;
use std::time::Duration;

/// Segments on their way from the auditor.
const MAX_QUEUED: usize = 8;

/// SHA-256.
pub type Sha = [u8; 32];

/// SHA-256 of a file.
pub fn sha(bytes: &[u8]) -> Sha {
    Sha256::digest(bytes).into()
}

/// The pictures of a clip by their digests.
#[derive(Debug)]
pub struct Pictures(HashMap<Sha, usize>);

impl Pictures {
    /// Of an FLV file in which no picture is there twice.
    pub fn of(flv: &[u8]) -> anyhow::Result<Self> {
        let pictures = clip::pictures(flv)?;
        let by_digest: HashMap<_, _> = pictures.iter().enumerate().map(|(n, picture)| (sha(picture), n)).collect();
        anyhow::ensure!(by_digest.len() == pictures.len(), "a picture is in the clip twice: they cannot be told apart");
        Ok(Self(by_digest))
    }
}

/// Pictures that are not where they should be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Order {
    /// Pictures seen.
    pub pictures: u64,
    /// Never seen although later ones were.
    pub missing: u64,
    /// Seen although they, or later ones, had been.
    pub repeated: u64,
    /// In no clip: damaged.
    pub unknown: u64,
    #[serde(skip)]
    next: Option<usize>,
}

impl Order {
    /// So many pictures, all of them right.
    #[cfg(test)]
    pub fn of(pictures: u64) -> Self {
        Self { pictures, ..Self::default() }
    }

    /// Takes the next picture.
    pub fn take(&mut self, picture: &[u8], known: &Pictures) {
        self.pictures += 1;
        let Some(number) = known.0.get(&sha(picture)).copied() else {
            self.unknown += 1;
            return;
        };
        let expected = self.next.unwrap_or(number);
        self.missing += number.saturating_sub(expected) as u64;
        self.repeated += u64::from(number < expected);
        self.next = Some(expected.max(number + 1));
    }
}

/// What was seen of a stream.
#[derive(Debug)]
pub struct Testimony {
    /// The auditor's report.
    pub report: Report,
    /// Digests of all segments by their URI.
    pub segments: BTreeMap<String, Sha>,
    /// Their pictures.
    pub order: Order,
}

/// A viewer at work.
pub struct Witness(JoinHandle<anyhow::Result<Testimony>>);

impl Witness {
    /// Follows a Media Playlist for a while.
    pub fn follow(url: String, duration: Duration, known: Arc<Pictures>) -> Self {
        Self(std::thread::spawn(move || {
            let (seen, fetched) = sync_channel::<Seen>(MAX_QUEUED);
            let auditing =
                std::thread::spawn(move || audit::run(&Audit { url, duration, expect_end: false, seen: Some(seen) }));
            let (mut segments, mut order) = (BTreeMap::new(), Order::default());
            for segment in fetched {
                // What cannot be read is among the auditor's findings.
                for picture in pictures(&segment.body, segment.map.as_deref()).unwrap_or_default() {
                    order.take(&picture, &known);
                }
                segments.insert(segment.uri, sha(&segment.body));
            }
            let reports = auditing.join().map_err(|_| anyhow::anyhow!("the auditor panicked"))??;
            let report = reports.into_iter().next().context("a report")?;
            Ok(Testimony { report, segments, order })
        }))
    }

    /// What it saw, at the end of its time.
    pub fn finish(self) -> anyhow::Result<Testimony> {
        self.0.join().map_err(|_| anyhow::anyhow!("a witness panicked"))?
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_missing_repeated_or_unknown_is_counted() {
        let known = Pictures((0u8..10).map(|n| (sha(&[n]), usize::from(n))).collect());
        let order = |pictures: &[u8]| {
            let mut order = Order::default();
            pictures.iter().for_each(|picture| order.take(&[*picture], &known));
            (order.missing, order.repeated, order.unknown)
        };
        assert_eq!(order(&[3, 4, 5, 6]), (0, 0, 0));
        assert_eq!(order(&[3, 4, 7, 8]), (2, 0, 0));
        assert_eq!(order(&[3, 4, 4, 5]), (0, 1, 0));
        assert_eq!(order(&[3, 4, 5, 3, 4, 5, 6]), (0, 3, 0));
        assert_eq!(order(&[3, 99, 4]), (0, 0, 1));
    }
}
