//! Late streams: sessions that begin when storage begins to fail. Directories are to be made and records to be
//! written then; their encoders must not notice, and in the end their recordings are whole.

use crate::load::{self, Begin, Load};
use crate::server::Server;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use std::thread::JoinHandle;
use std::time::Duration;

/// From its `publish` to the fault: its first segment ends after two seconds, and its directories are made then.
pub const LEAD: Duration = Duration::from_millis(1200);

/// Segments of its clip are as long as its GOPs.
const SEGMENT: Duration = Duration::from_secs(2);
/// The first is waited for, and the last may be short.
const NOT_COUNTED: u64 = 2;

/// What became of one.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Late {
    /// Its encoder was disconnected.
    pub disconnected: bool,
    /// Its recording has ended.
    pub ended: bool,
    /// Segments in it.
    pub segments: u64,
    /// Segments that are missing in it.
    pub gaps: u64,
    /// Segments that it should have, with gaps, at least.
    pub expected: u64,
}

/// The late stream of a mount.
pub fn stream(number: usize) -> String {
    format!("fault{number}/late-0")
}

/// Publishes it.
pub fn publish(
    server: &Server,
    number: usize,
    clip: &Path,
    duration: Duration,
) -> JoinHandle<anyhow::Result<load::Report>> {
    let url = server.publish_url(&format!("fault{number}/late"));
    let load = Load { url, clip: clip.to_owned(), streams: 1, duration, begin: Begin::Together };
    std::thread::spawn(move || load::run(&load, || ()))
}

impl Late {
    /// What its generator and the list of recordings say. One that is not listed has nothing in it.
    pub fn of(
        number: usize,
        report: &anyhow::Result<load::Report>,
        recordings: &BTreeMap<String, Value>,
        time: Duration,
    ) -> Self {
        let recording = recordings.get(&stream(number));
        let count = |field: &str| recording.and_then(|recording| recording[field].as_u64()).unwrap_or(0);
        Self {
            disconnected: report.as_ref().map_or(true, |report| report.disconnected > 0),
            ended: recording.is_some_and(|recording| recording["state"] == "ended"),
            segments: count("segments"),
            gaps: count("gaps"),
            expected: (time.as_secs() / SEGMENT.as_secs()).saturating_sub(NOT_COUNTED),
        }
    }

    /// Promises that were broken. Where nothing was to be lost there is no reason for a gap.
    pub fn broken(&self, fits: bool) -> Vec<String> {
        let told = self.segments + self.gaps;
        let sentences = [
            self.disconnected.then(|| "the encoder of a session that began meanwhile was disconnected".to_owned()),
            (!self.ended).then(|| "the recording of a session that began meanwhile did not end".to_owned()),
            (self.segments == 0).then(|| "nothing of a session that began meanwhile is recorded".to_owned()),
            (fits && told < self.expected).then(|| {
                format!("{told} of {} segments are recorded of a session that began meanwhile", self.expected)
            }),
            (fits && self.gaps > 0).then(|| format!("{} gaps in a session that began meanwhile", self.gaps)),
        ];
        sentences.into_iter().flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_broken_promise_is_told() {
        let kept = Late { disconnected: false, ended: true, segments: 9, gaps: 0, expected: 9 };
        assert!(kept.broken(true).is_empty());
        let gaps = Late { gaps: 1, ..kept.clone() };
        assert!(gaps.broken(false).is_empty() && gaps.broken(true).len() == 1);
        // Refused, and not in the list.
        let refused = Late::of(0, &Err(anyhow::anyhow!("refused")), &BTreeMap::new(), Duration::from_secs(20));
        assert_eq!(refused.broken(true).len(), 4, "{refused:?}");
        let short = Late { segments: 8, ..kept.clone() };
        assert!(short.broken(false).is_empty() && short.broken(true).len() == 1);
        for broken in [
            Late { disconnected: true, ..kept.clone() },
            Late { ended: false, ..kept.clone() },
            Late { segments: 0, expected: 0, ..kept },
        ] {
            assert_eq!(broken.broken(true).len(), 1, "{broken:?}");
        }
    }
}
