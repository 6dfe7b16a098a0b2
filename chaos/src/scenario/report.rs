//! What came of scenarios: a page for people, and JSON of everything that was observed.

use super::judge::{Answers, Observed};
use crate::bench::machine;
use crate::broken::{Broken, sentences};
use crate::standstill::{self, Stood, Void};
use serde::{Deserialize, Serialize};
use std::fmt::Write;
use std::time::{Duration, SystemTime};

/// One stream and its fault.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Row {
    /// What was observed.
    pub observed: Observed,
    /// Promises that were broken.
    pub broken: Vec<Broken>,
}

/// What came of a scenario.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Outcome {
    /// Streams.
    pub rows: Vec<Row>,
    /// How health was answered, for each group of faults.
    pub answers: Vec<Answers>,
    /// What is told in words.
    pub told: Vec<Told>,
    /// How late the machine was; none if nobody looked.
    pub stood: Option<Stood>,
    /// Tries before, of which nothing could be judged.
    pub void: Vec<Void>,
    /// Parts that it was put together of and that were judged by themselves; zero if it is judged as a whole, ...
    pub parts: usize,
    /// ... and those of them that could not be judged.
    pub unjudged: usize,
}

/// What came of something that is no stream with a fault.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Told {
    /// For people.
    pub text: String,
    /// For machines.
    pub figures: serde_json::Value,
    /// Promises that were broken.
    pub broken: Vec<Broken>,
}

impl Outcome {
    /// What came of something that is played until it can be judged. What was judged in parts is not judged again.
    pub fn judged(patience: Duration, mut play: impl FnMut() -> anyhow::Result<Self>) -> Self {
        let in_parts = |outcome: &Self| outcome.stood.is_some();
        let broken = |outcome: &Self| if in_parts(outcome) { Vec::new() } else { outcome.broken() };
        let judged = standstill::judged(patience, || play().unwrap_or_else(|error| Self::failed(&error)), broken);
        if in_parts(&judged.came) {
            return judged.came;
        }
        Self { stood: judged.stood, void: judged.void, ..judged.came }
    }

    /// Of a scenario that could not be played to its end.
    pub fn failed(error: &anyhow::Error) -> Self {
        let (text, broken) = ("It could not be played to its end.".to_owned(), vec![format!("{error:#}").into()]);
        Self { told: vec![Told { text, figures: serde_json::Value::Null, broken }], ..Self::default() }
    }

    /// Whether it is not only that something was late on a machine that is to blame.
    pub fn could_be_judged(&self) -> bool {
        if self.parts > 0 {
            return self.unjudged == 0;
        }
        let broken = self.broken();
        broken.is_empty() || !broken.iter().all(Broken::is_late) || !self.stood.is_some_and(Stood::is_to_blame)
    }

    /// Adds what came of a part of it.
    pub fn add(&mut self, part: Self) {
        if part.stood.is_some() {
            self.parts += 1;
            self.unjudged += usize::from(!part.could_be_judged());
        }
        self.rows.extend(part.rows);
        self.answers.extend(part.answers);
        self.told.extend(part.told);
        self.void.extend(part.void);
        self.stood = self.stood.into_iter().chain(part.stood).reduce(Stood::max);
    }

    /// Promises that were broken, and where.
    pub fn broken(&self) -> Vec<Broken> {
        let rows = self.rows.iter().flat_map(|row| row.broken.iter().map(|broken| broken.at(&row.observed.fault)));
        let told = self.told.iter().flat_map(|told| told.broken.clone());
        rows.chain(self.answers.iter().flat_map(Answers::broken)).chain(told).collect()
    }
}

/// What came of a scenario, as it is told.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Section {
    /// The scenario.
    pub name: String,
    /// When it was over (RFC 3339).
    ended: String,
    /// Promises that were broken, in words.
    pub broken: Vec<String>,
    /// Whether it could be judged on that machine.
    pub judged: bool,
    /// For people.
    text: String,
    /// Everything that was observed, for machines.
    outcome: serde_json::Value,
}

impl Section {
    /// Of a scenario that has just been played.
    pub fn of(name: &str, what: &str, outcome: &Outcome) -> serde_json::Result<Self> {
        let ended = humantime::format_rfc3339_seconds(SystemTime::now()).to_string();
        let mut text = String::new();
        section(&mut text, name, &format!("{what}. Played until {ended}"), outcome);
        let stood = outcome.stood.map_or_else(|| "nobody could look how late the machine was".to_owned(), Stood::told);
        let of = |broken: &Broken| format!("{name}: {broken} (meanwhile: {stood})");
        let (broken, judged) = (outcome.broken().iter().map(of).collect(), outcome.could_be_judged());
        Ok(Self { name: name.to_owned(), ended, broken, judged, text, outcome: serde_json::to_value(outcome)? })
    }
}

/// A page for people.
pub fn markdown(sections: &[Section], seed: u64) -> String {
    let mut text = format!(
        "# Chaos report\n\nWritten by `make chaos`; `chaos matrix --anew --seed {seed}` repeats it. What is judged of a build is played once; what could not be, or was not played before an interruption, is played when it goes on. Machine: {}.\n\nThe real binary, publishers of 945 kbit/s whose every picture can be told from the others, and viewers that audit everything (RFC 8216, digests, timestamps, names and bytes that must not change), count pictures and keep the digest of every segment. A fault is judged kept if no picture is missing, repeated or damaged, no finding of the auditor, no wait for a new segment above 1.5 target durations and the generator's own lag, no publisher disconnected, session and published-at the same, the archive whole again within 10 s and 0.25 s for each segment of the backlog, and the recording byte for byte what viewers got, or a gap that the session's record tells.\n\n**Time is compressed** by running faults side by side: up to 16 at a time in one server, each on a mount (a FUSE file system) and a stream of its own, next to streams on healthy storage. How long each fault lasts is not shortened.\n\n**How late the machine itself is** is measured beside everything, by threads of a real-time priority: a host that keeps the processors for others makes everybody late. What seems late while it is late by more than 1 ms (99th percentile) or 100 ms (once), and nothing else is broken, is void, and played again, four times at most; it is said below. What is wrong is broken on any machine. Of how long an answer took, or an archive until it was whole, what the machine stood still in that very time is not counted.\n",
        machine::description()
    );
    sections.iter().for_each(|section| text.push_str(&section.text));
    text
}

/// Writing to a String cannot fail.
fn section(text: &mut String, name: &str, what: &str, outcome: &Outcome) {
    let _ = writeln!(text, "\n## {name}\n\n{what}.");
    for told in &outcome.told {
        let verdict = match &told.broken[..] {
            [] => "Every promise was kept.".to_owned(),
            broken => format!("**Broken**: {}.", sentences(broken)),
        };
        let _ = writeln!(text, "\n{} {verdict}", told.text);
    }
    standstill(text, outcome);
    if outcome.rows.is_empty() {
        return;
    }
    let kept = outcome.rows.iter().filter(|row| row.broken.is_empty()).count();
    let _ = writeln!(text, "\n{kept} of {} streams kept every promise.", outcome.rows.len());
    if let Some(worst) = outcome.answers.iter().max_by(|a, b| a.p99_ms.total_cmp(&b.p99_ms)) {
        let asked: usize = outcome.answers.iter().map(|answers| answers.asked).sum();
        let failed: usize = outcome.answers.iter().map(|answers| answers.failed).sum();
        let _ = writeln!(
            text,
            "`/healthz` and `/metrics` were asked {asked} times, {failed} times in vain; the slowest group's p99 was {:.1} ms, with standstill {:.1}.",
            worst.p99_ms, worst.raw_p99_ms
        );
    }
    let played: Vec<_> = outcome.rows.iter().filter_map(|row| row.observed.played.as_ref()).collect();
    if !played.is_empty() {
        let stalls: u64 = played.iter().map(|played| played.stalls).sum();
        let seconds: f64 = played.iter().map(|played| played.played_s).sum();
        let _ = writeln!(
            text,
            "hls.js played {} of the streams in Chromium, {seconds:.0} s all together, with {stalls} stalls.",
            played.len()
        );
    }
    let unmet: Vec<_> = outcome
        .rows
        .iter()
        .filter(|row| row.observed.struck == 0 && !row.observed.fault.starts_with("none"))
        .map(|row| row.observed.fault.as_str())
        .collect();
    if !unmet.is_empty() {
        let _ = writeln!(text, "\nNever met, because a running server does not ask for it: {}.", unmet.join("; "));
    }
    table(text, &outcome.rows);
}

/// How late the machine was, and what was void because of it.
fn standstill(text: &mut String, outcome: &Outcome) {
    if let Some(Stood { p99_ms, longest_ms }) = outcome.stood {
        let _ = writeln!(
            text,
            "\nMeanwhile the machine itself was late by {p99_ms} ms (99th percentile) and {longest_ms} ms at most."
        );
    }
    for Void { stood, broken } in &outcome.void {
        let _ = writeln!(
            text,
            "\nVoid and played again: the machine was late by {} ms (99th percentile) and {} ms at most; not judged: {}.",
            stood.p99_ms,
            stood.longest_ms,
            sentences(broken)
        );
    }
}

fn table(text: &mut String, rows: &[Row]) {
    text.push_str("\n| fault | struck | longest wait, s | pictures | missing | repeated | whole after, s | recorded | gaps | kept |\n|---|---|---|---|---|---|---|---|---|---|\n");
    let mut rows: Vec<_> = rows.iter().collect();
    rows.sort_by(|a, b| a.observed.fault.cmp(&b.observed.fault));
    for Row { observed, broken } in rows {
        let (same, gaps) = match &observed.recorded {
            Some(recorded) => (recorded.same.to_string(), recorded.gaps.to_string()),
            None => ("-".to_owned(), "-".to_owned()),
        };
        let _ = writeln!(
            text,
            "| {} | {} | {:.1} | {} | {} | {} | {} | {same} | {gaps} | {} |",
            observed.fault,
            observed.struck,
            observed.longest_wait,
            observed.order.pictures,
            observed.order.missing,
            observed.order.repeated,
            observed.healed_after.map_or_else(|| "never".to_owned(), |seconds| format!("{seconds:.1}")),
            if broken.is_empty() { "yes".to_owned() } else { format!("**no**: {}", sentences(broken)) },
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_judged_in_parts_is_not_judged_again() {
        let stood = Some(Stood { p99_ms: 500, longest_ms: 500 });
        let broken = vec![Broken::Late("a stall".to_owned())];
        let told = Told { text: String::new(), figures: serde_json::Value::Null, broken };
        let mut played = 0;
        let outcome = Outcome::judged(Duration::ZERO, || {
            played += 1;
            Ok(Outcome { told: vec![told.clone()], stood, ..Outcome::default() })
        });
        assert_eq!((outcome.broken().len(), outcome.stood, outcome.void.len(), played), (1, stood, 0, 1));
    }
}
