//! What came of scenarios: a page for people, and JSON of everything that was observed.

use super::judge::{Answers, Observed};
use super::kills::Kills;
use crate::bench::machine;
use serde::Serialize;
use std::fmt::Write;

/// One stream and its fault.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// What was observed.
    pub observed: Observed,
    /// Promises that were broken.
    pub broken: Vec<String>,
}

/// What came of a scenario.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Outcome {
    /// Streams.
    pub rows: Vec<Row>,
    /// How health was answered, for each group of faults.
    pub answers: Vec<Answers>,
    /// Of a process that was killed.
    pub kills: Option<Kills>,
}

impl Outcome {
    /// Adds what came of a part of it.
    pub fn add(&mut self, part: Self) {
        self.rows.extend(part.rows);
        self.answers.extend(part.answers);
    }

    /// Promises that were broken, and where.
    pub fn broken(&self) -> Vec<String> {
        let rows = self
            .rows
            .iter()
            .flat_map(|row| row.broken.iter().map(|broken| format!("{}: {broken}", row.observed.fault)));
        let kills = self.kills.iter().flat_map(|kills| kills.broken.clone());
        rows.chain(self.answers.iter().flat_map(Answers::broken)).chain(kills).collect()
    }
}

/// Everything, for machines.
pub fn json(outcomes: &[(&str, &str, Outcome)]) -> serde_json::Result<String> {
    let named: Vec<_> = outcomes
        .iter()
        .map(|(name, what, outcome)| serde_json::json!({ "name": name, "what": what, "outcome": outcome }))
        .collect();
    serde_json::to_string_pretty(&named)
}

/// A page for people.
pub fn markdown(outcomes: &[(&str, &str, Outcome)], seed: u64) -> String {
    let mut text = format!(
        "# Chaos report\n\nWritten by `make chaos`; run it again to repeat it (seed {seed}). Machine: {}.\n\nThe real binary, publishers of 945 kbit/s whose every picture can be told from the others, and viewers that audit everything (RFC 8216, digests, timestamps, names and bytes that must not change), count pictures and keep the digest of every segment. A fault is judged kept if no picture is missing, repeated or damaged, no finding of the auditor, no wait for a new segment above 1.5 target durations and the generator's own lag, no publisher disconnected, session and published-at the same, the archive whole again within 10 s and 0.25 s for each segment of the backlog, and the recording byte for byte what viewers got, or a gap that the session's record tells.\n\n**Time is compressed** by running faults side by side: up to 16 at a time in one server, each on a mount (a FUSE file system) and a stream of its own, next to streams on healthy storage. How long each fault lasts is not shortened.\n",
        machine::description()
    );
    for (name, what, outcome) in outcomes {
        section(&mut text, name, what, outcome);
    }
    text
}

fn killed(text: &mut String, name: &str, what: &str, kills: &Kills) {
    let _ = writeln!(
        text,
        "\n## {name}\n\n{what}.\n\nKilled {} times, {} of them while something lay written aside. Viewers saw {} segments, {} gaps (published, and not on storage yet when the process was killed) and {} discontinuities; the longest time from a kill to the next new segment was {:.1} s, the encoder's own start included. {} segments are in the one recording with the bytes that viewers got.",
        kills.kills,
        kills.while_writing,
        kills.segments,
        kills.gaps,
        kills.discontinuities,
        kills.longest_recovery,
        kills.recorded,
    );
    let verdict = match &kills.broken[..] {
        [] => "Every promise was kept: nothing torn was served or listed, no name or number had other bytes than before, the session went on.".to_owned(),
        broken => format!("**Broken**: {}", broken.join("; ")),
    };
    let _ = writeln!(text, "\n{verdict}");
}

/// Writing to a String cannot fail.
fn section(text: &mut String, name: &str, what: &str, outcome: &Outcome) {
    if let Some(kills) = &outcome.kills {
        return killed(text, name, what, kills);
    }
    let kept = outcome.rows.iter().filter(|row| row.broken.is_empty()).count();
    let _ = writeln!(text, "\n## {name}\n\n{what}.\n\n{kept} of {} streams kept every promise.", outcome.rows.len());
    if let Some(worst) = outcome.answers.iter().max_by(|a, b| a.p99_ms.total_cmp(&b.p99_ms)) {
        let asked: usize = outcome.answers.iter().map(|answers| answers.asked).sum();
        let failed: usize = outcome.answers.iter().map(|answers| answers.failed).sum();
        let _ = writeln!(
            text,
            "`/healthz` and `/metrics` were asked {asked} times, {failed} times in vain; the slowest group's p99 was {:.1} ms.",
            worst.p99_ms
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
    text.push_str("\n| fault | struck | longest wait, s | pictures | missing | repeated | whole after, s | recorded | gaps | kept |\n|---|---|---|---|---|---|---|---|---|---|\n");
    let mut rows: Vec<_> = outcome.rows.iter().collect();
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
            if broken.is_empty() { "yes".to_owned() } else { format!("**no**: {}", broken.join("; ")) },
        );
    }
}
