//! Judge: which promises a stream has kept. Pure: it is given what was observed.

use super::browser::Played;
use super::late::Late;
use super::witness::{Order, Testimony};
use crate::audit::finding::Finding;
use crate::broken::Broken;
use serde::{Deserialize, Serialize};
use std::time::Duration;

/// Longest time without a new segment, in target durations.
const MAX_WAIT: f64 = 1.5;
/// How often the witness looks: so much later a segment may be seen than listed.
const LOOK: Duration = Duration::from_millis(250);
/// An archive is whole again this long after a fault, beside what its backlog takes.
const HEALED: Duration = Duration::from_secs(10);
/// What a segment of the backlog may take: writing, its part of a sync, its entry in the recording.
const PER_SEGMENT: Duration = Duration::from_millis(250);
/// `/healthz` and `/metrics` are answered within this, in 99 of 100 cases.
const MAX_ANSWER: Duration = Duration::from_millis(50);

/// What became of a recording.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recorded {
    /// Segments that are there with the bytes viewers got.
    pub same: usize,
    /// That are there with others.
    pub different: Vec<String>,
    /// That are listed and not there.
    pub absent: Vec<String>,
    /// Segments that viewers got and that are not listed.
    pub gaps: usize,
    /// Gaps in the session's record.
    pub told_gaps: usize,
    /// Everything that storage did not take fits what is held for it: there is no reason for a gap.
    pub fits: bool,
}

/// What was observed of one stream.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Observed {
    /// What happened to its storage.
    pub fault: String,
    /// Whether the fault is one that its operations can meet: only then must it have struck.
    pub must_strike: bool,
    /// Operations that met it.
    pub struck: u64,
    /// For how long it was in force, seconds.
    pub fault_seconds: f64,
    /// The auditor's findings.
    pub findings: Vec<Finding>,
    /// Longest time without a new segment, seconds.
    pub longest_wait: f64,
    /// Segments seen.
    pub segments: usize,
    /// EXT-X-TARGETDURATION, seconds.
    pub target_duration: f64,
    /// How late the generator was at worst, seconds.
    pub generator_lag: f64,
    /// Pictures.
    pub order: Order,
    /// The publisher was disconnected.
    pub disconnected: bool,
    /// The session, or its published-at, is another than before.
    pub session_changed: bool,
    /// Seconds after the fault until the archive was whole; none if it was not while somebody looked.
    pub healed_after: Option<f64>,
    /// How long that may take, seconds, with what the machine stood still meanwhile.
    pub heal_within: f64,
    /// How long it was looked at after the fault, seconds.
    pub looked_for: f64,
    /// The recording, where there is one to be compared.
    pub recorded: Option<Recorded>,
    /// What hls.js made of it, where it played.
    pub played: Option<Played>,
    /// A session on the same storage that began when the fault did.
    pub late: Option<Late>,
}

impl Observed {
    /// Nothing yet, of a stream whose storage nothing has happened to.
    pub fn undisturbed(fault: String, target: Duration) -> Self {
        Self {
            fault,
            must_strike: false,
            struck: 0,
            fault_seconds: 0.0,
            findings: Vec::new(),
            longest_wait: 0.0,
            segments: 0,
            target_duration: target.as_secs_f64(),
            generator_lag: 0.0,
            order: Order::default(),
            disconnected: false,
            session_changed: false,
            healed_after: Some(0.0),
            heal_within: HEALED.as_secs_f64(),
            looked_for: 0.0,
            recorded: None,
            played: None,
            late: None,
        }
    }

    /// Notes what a witness saw.
    pub fn saw(&mut self, testimony: Testimony) {
        self.longest_wait = testimony.report.longest_wait.as_secs_f64();
        self.findings = testimony.report.findings;
        self.segments = testimony.segments.len();
        self.order = testimony.order;
    }

    /// How long the archive may take to be whole again.
    pub fn heal_limit(fault: Duration, target: Duration) -> Duration {
        let backlog = fault.as_secs_f64() / target.as_secs_f64().max(1.0);
        HEALED + PER_SEGMENT.mul_f64(backlog)
    }

    /// Promises that were broken; none if all were kept.
    pub fn broken(&self) -> Vec<Broken> {
        let mut broken = Vec::new();
        let mut check = |kept: bool, sentence: Broken| {
            if !kept {
                broken.push(sentence);
            }
        };
        check(!self.must_strike || self.struck > 0, "the fault was never met: this proves nothing".into());
        check(self.segments > 0, "nothing was seen".into());
        // How long no segment came is judged below, with what the generator itself was late.
        for finding in self.findings.iter().filter(|finding| !finding.rule.is_late()) {
            check(false, finding.broken());
        }
        let limit = MAX_WAIT * self.target_duration + self.generator_lag + LOOK.as_secs_f64();
        check(
            self.longest_wait <= limit,
            Broken::Late(format!("no new segment for {:.1} s, allowed are {limit:.1}", self.longest_wait)),
        );
        let Order { pictures, missing, repeated, unknown, .. } = self.order;
        check(pictures > 0, "no picture was seen".into());
        check(
            missing + repeated + unknown == 0,
            format!("{missing} missing, {repeated} repeated, {unknown} damaged").into(),
        );
        check(!self.disconnected, "the publisher was disconnected".into());
        check(!self.session_changed, "the session or its published-at changed".into());
        let unhealed = "the archive was not whole again".to_owned();
        let (after, within) = (self.healed_after.unwrap_or_default(), self.heal_within);
        // It is looked at for as long as viewers watch: where the machine stood still for much of that nobody can tell late
        // from never.
        let may_be_late = self.looked_for < within;
        check(self.healed_after.is_some(), if may_be_late { Broken::Late(unhealed) } else { unhealed.into() });
        let sentence = format!("the archive was whole again after {after:.1} s, allowed are {within:.1}");
        check(after <= within, Broken::Late(sentence));
        if let Some(sentence) = self.played.as_ref().and_then(Played::broken) {
            check(false, sentence);
        }
        let fits = self.recorded.as_ref().is_none_or(|recorded| recorded.fits);
        for sentence in self.late.iter().flat_map(|late| late.broken(fits)) {
            check(false, sentence.into());
        }
        if let Some(recorded) = &self.recorded {
            check(recorded.different.is_empty(), format!("recorded with other bytes: {:?}", recorded.different).into());
            check(
                recorded.absent.is_empty(),
                format!("listed in the recording and not there: {:?}", recorded.absent).into(),
            );
            check(recorded.same > 0, "nothing of what viewers got is recorded".into());
            check(!recorded.fits || recorded.gaps == 0, format!("{} gaps without need", recorded.gaps).into());
            let (listed, told) = (recorded.gaps, recorded.told_gaps);
            check(
                listed <= told,
                format!("{listed} segments are missing and {told} are in the session's record").into(),
            );
        }
        broken
    }
}

/// How health was answered meanwhile.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Answers {
    /// Questions.
    pub asked: usize,
    /// That were not answered with 200.
    pub failed: usize,
    /// 99 of 100 answers came within this, milliseconds, less what the machine stood still meanwhile.
    pub p99_ms: f64,
    /// The same, with all of that.
    pub raw_p99_ms: f64,
}

impl Answers {
    /// Of these times, and how much of each the machine stood still; `failed` had none.
    pub fn of(times: &[(Duration, Duration)], failed: usize) -> Self {
        let p99_ms = |mut times: Vec<Duration>| {
            times.sort_unstable();
            let p99 = times.get((times.len() * 99).div_ceil(100).saturating_sub(1)).copied();
            p99.unwrap_or_default().as_secs_f64() * 1000.0
        };
        Self {
            asked: times.len() + failed,
            failed,
            p99_ms: p99_ms(times.iter().map(|(took, stood)| took.saturating_sub(*stood)).collect()),
            raw_p99_ms: p99_ms(times.iter().map(|(took, _)| *took).collect()),
        }
    }

    /// Promises that were broken.
    pub fn broken(&self) -> Vec<Broken> {
        let late = self.p99_ms > MAX_ANSWER.as_secs_f64() * 1000.0;
        let late =
            late.then(|| Broken::Late(format!("health and metrics were answered within {:.0} ms (p99)", self.p99_ms)));
        let failed = (self.failed > 0).then(|| format!("{} of {} questions failed", self.failed, self.asked).into());
        let silent = (self.asked == 0).then(|| "health and metrics were not asked for".into());
        late.into_iter().chain(failed).chain(silent).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::audit::finding::Rule;

    fn kept() -> Observed {
        Observed {
            fault: "write fails with EIO for 5 s".to_owned(),
            must_strike: true,
            struck: 7,
            fault_seconds: 5.0,
            findings: Vec::new(),
            longest_wait: 2.9,
            segments: 20,
            target_duration: 2.0,
            generator_lag: 0.1,
            order: Order::of(1200),
            disconnected: false,
            session_changed: false,
            healed_after: Some(3.0),
            heal_within: 10.0,
            looked_for: 14.0,
            recorded: Some(Recorded { same: 20, ..Recorded::default() }),
            late: None,
            played: Some(Played { played_s: 30.0, ..Played::default() }),
        }
    }

    #[test]
    fn every_promise_that_is_broken_is_found_and_none_that_is_kept() {
        assert_eq!(kept().broken(), []);
        let finding = Finding::new(Rule::Digest, "0-7.m4s", "");
        let recorded = |change: fn(&mut Recorded)| {
            let mut recorded = kept().recorded.expect("one");
            change(&mut recorded);
            Observed { recorded: Some(recorded), ..kept() }
        };
        let order = |change: fn(&mut Order)| {
            let mut order = kept().order;
            change(&mut order);
            Observed { order, ..kept() }
        };
        for (broken, part) in [
            (Observed { struck: 0, ..kept() }, "never met"),
            (Observed { segments: 0, ..kept() }, "nothing was seen"),
            (Observed { findings: vec![finding], ..kept() }, "Digest at 0-7.m4s"),
            (Observed { longest_wait: 3.5, ..kept() }, "no new segment for 3.5 s"),
            (order(|order| order.missing = 1), "1 missing"),
            (order(|order| order.repeated = 2), "2 repeated"),
            (order(|order| order.unknown = 3), "3 damaged"),
            (order(|order| order.pictures = 0), "no picture"),
            (Observed { disconnected: true, ..kept() }, "disconnected"),
            (Observed { session_changed: true, ..kept() }, "published-at"),
            (Observed { healed_after: None, ..kept() }, "not whole"),
            (Observed { healed_after: Some(10.1), ..kept() }, "whole again after 10.1 s"),
            (recorded(|recorded| recorded.different.push("a".to_owned())), "other bytes"),
            (recorded(|recorded| recorded.absent.push("a".to_owned())), "not there"),
            (recorded(|recorded| recorded.gaps = 1), "1 segments are missing and 0"),
            (recorded(|recorded| recorded.same = 0), "nothing of what"),
            (
                recorded(|recorded| (recorded.gaps, recorded.told_gaps, recorded.fits) = (2, 2, true)),
                "2 gaps without need",
            ),
            (
                Observed { played: Some(Played { stalls: 1, played_s: 30.0, ..Played::default() }), ..kept() },
                "stalled 1",
            ),
            (Observed { played: Some(Played::default()), ..kept() }, "hls.js"),
            (
                Observed {
                    late: Some(Late { disconnected: true, ended: true, segments: 9, gaps: 0, expected: 9 }),
                    ..kept()
                },
                "began meanwhile was disconnected",
            ),
        ] {
            let found = broken.broken();
            assert!(found.len() == 1 && found[0].to_string().contains(part), "{part}: {found:?}");
        }
        // That no segment came for more than 1.5 target durations is found by the auditor, too, who knows no generator.
        let finding = Finding::new(Rule::NoNewSegment, "playlist", "");
        let waited =
            |longest_wait, findings| Observed { longest_wait, findings, generator_lag: 0.5, ..kept() }.broken();
        assert_eq!(waited(3.4, vec![finding.clone()]), []);
        assert!(matches!(&waited(4.0, vec![finding])[..], [Broken::Late(_)]));
        let unhealed = |looked_for| Observed { healed_after: None, looked_for, ..kept() }.broken();
        assert_eq!([9.9, 10.0].map(|looked_for| unhealed(looked_for)[0].is_late()), [true, false]);
        assert!(kept().struck > 0 && Observed { struck: 0, must_strike: false, ..kept() }.broken().is_empty());
    }

    #[test]
    fn one_late_answer_in_a_hundred_is_allowed_and_two_are_not() {
        let answers = |late: usize, stood: u64| {
            let took = |n: usize| Duration::from_millis(if n < late { 400 } else { 2 });
            let times: Vec<_> = (0..100).map(|n| (took(n), Duration::from_millis(stood))).collect();
            Answers::of(&times, 0)
        };
        let broken = |late, stood| answers(late, stood).broken().len();
        assert_eq!([broken(0, 0), broken(1, 0), broken(2, 0), broken(2, 300), broken(2, 399)], [0, 0, 1, 1, 0]);
        assert_eq!((answers(2, 399).raw_p99_ms, answers(2, 399).p99_ms), (400.0, 1.0));
        assert_eq!(Answers::of(&[], 1).broken().len(), 1);
    }
}
