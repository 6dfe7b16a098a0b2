//! What commands do, and what they end with.

use anyhow::Context;
use chaos::audit::finding::{Finding, Report};
use chaos::audit::{self, Audit};
use chaos::broken::Broken;
use chaos::faultfs::{Mount, Rule};
use chaos::frames;
use chaos::interrupted::{self, is_interrupted};
use chaos::load::{self, Load};
use chaos::standstill;
use chaos::viewers::Viewers;
use serde::Serialize;
use std::io::Write;
use std::path::Path;
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::time::Duration;

/// So long before the end of a load viewers end.
const LAST_LOOK: Duration = Duration::from_secs(1);
/// How soon a load that cannot begin, and a signal, is noticed.
const LOOK: Duration = Duration::from_millis(100);

/// Prints what came of it; what cannot be printed is an error.
fn print_json(value: &impl Serialize) -> anyhow::Result<()> {
    print(&format!("{}\n", serde_json::to_string_pretty(value)?))
}

pub fn print(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    out.write_all(text.as_bytes()).and_then(|()| out.flush()).context("standard output does not take what was measured")
}

fn counted(number: u64, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}

/// Publishers, and viewers if there are any; fails if a publisher was disconnected or a viewer met an error or a stall.
pub fn load_with(load: &Load, viewers: usize, play: Option<&str>) -> anyhow::Result<()> {
    anyhow::ensure!(
        viewers == 0 || play.is_some(),
        "--viewers needs --play, the URL of the Media Playlists they follow"
    );
    let (accepted, all_accepted) = sync_channel(1);
    let publishing = std::thread::spawn({
        let load = load.clone();
        move || load::run(&load, || _ = accepted.send(()))
    });
    // If they are not all accepted, the generator ends and says why.
    let watching =
        all_accepted.recv().ok().and(play).map(|play| Viewers::start(viewers, load.streams, play)).transpose()?;
    // The time that is measured, unless there is nothing to measure any more. Viewers end while there is still something to see.
    let is_over = || publishing.is_finished();
    interrupted::sleep_unless(load.duration.saturating_sub(LAST_LOOK), LOOK, is_over);
    let seen = watching.map(Viewers::stop);
    let report = publishing.join().map_err(|_| anyhow::anyhow!("the generator panicked"))??;
    print_json(&serde_json::json!({ "publishers": report, "viewers": seen }))?;
    anyhow::ensure!(!is_interrupted(), "interrupted: this is what was seen until then");
    let mut wrong = Vec::new();
    if report.disconnected > 0 {
        wrong.push(format!("{} disconnected", counted(report.disconnected as u64, "publisher")));
    }
    if let Some(seen) = seen {
        wrong.extend(seen.wrong());
    }
    anyhow::ensure!(wrong.is_empty(), "{}", wrong.join("; "));
    Ok(())
}

/// Audits playlists side by side; fails if anything was found, or one cannot be audited. That loses nothing of the others.
pub fn audit_all(urls: Vec<String>, seconds: u64, expect_end: bool) -> anyhow::Result<()> {
    interrupted::watch()?;
    let audits =
        urls.into_iter().map(|url| Audit { url, duration: Duration::from_secs(seconds), expect_end, seen: None });
    let audits: Vec<_> = audits.map(|audit| std::thread::spawn(move || audit::run(&audit))).collect();
    let (mut reports, mut failed) = (Vec::<Report>::new(), Vec::new());
    for audit in audits {
        match audit.join() {
            Ok(Ok(report)) => reports.extend(report),
            Ok(Err(error)) => failed.push(format!("{error:#}")),
            Err(_) => failed.push("an auditor panicked".to_owned()),
        }
    }
    print_json(&reports)?;
    // Nothing found where nothing was seen tells nothing.
    let unseen = reports.iter().filter(|report| report.segments == 0);
    failed.extend(unseen.map(|report| format!("no segment of {} was read", report.url)));
    let broken: Vec<_> = reports.iter().flat_map(|report| &report.findings).map(Finding::broken).collect();
    let found = broken.len();
    anyhow::ensure!(failed.is_empty(), "{}, and not audited: {}", counted(found as u64, "finding"), failed.join("; "));
    anyhow::ensure!(!is_interrupted(), "interrupted: {} until then", counted(found as u64, "finding"));
    // What never comes is not late.
    let stopped = reports.iter().any(|report| report.stopped);
    anyhow::ensure!(!stopped, "{}, and nothing new came any more", counted(found as u64, "finding"));
    if found > 0 && broken.iter().all(Broken::is_late) {
        eprintln!("{}, of nothing but segments that came late", counted(found as u64, "finding"));
        std::process::exit(standstill::LATE);
    }
    anyhow::ensure!(found == 0, "{}", counted(found as u64, "finding"));
    Ok(())
}

/// Runs a command until it can be judged, and ends as it did.
pub fn punctual(patience: Duration, command: &[String]) -> anyhow::Result<()> {
    let [program, arguments @ ..] = command else { anyhow::bail!("name the command behind `--`") };
    // It is told to end when we are ended.
    let mut command = std::process::Command::new("setpriv");
    let ended = standstill::run(patience, command.args(["--pdeathsig", "TERM", "--", program]).args(arguments))?;
    // One that was ended by a signal has no code.
    std::process::exit(ended.code().unwrap_or(1))
}

/// Steers a file system by lines of JSON until there are no more.
pub fn faultfs(source: &Path, point: &Path, seed: u64) -> anyhow::Result<()> {
    interrupted::watch()?;
    let mount = Mount::new(source, point, seed)?;
    let (read, lines) = sync_channel(0);
    // It is left where it waits for a line when a signal ends all.
    std::thread::spawn(move || std::io::stdin().lines().try_for_each(|line| read.send(line)));
    while !is_interrupted() {
        let line = match lines.recv_timeout(LOOK) {
            Ok(line) => line?,
            Err(RecvTimeoutError::Timeout) => continue,
            Err(RecvTimeoutError::Disconnected) => break,
        };
        match serde_json::from_str::<Vec<Rule>>(&line) {
            Ok(rules) => mount.rules().set(rules)?,
            Err(error) => eprintln!("not a JSON array of rules, those before stay in force: {error}"),
        }
        print(&format!("{}\n", serde_json::to_string(&mount.rules().counts())?))?;
    }
    Ok(())
}

/// Counts pictures; fails if there is anything to be said against it.
pub fn count(input: &str, seconds: Option<u32>, patience: Duration) -> anyhow::Result<()> {
    interrupted::watch()?;
    let counted = frames::count(input, seconds, patience)?;
    print_json(&counted)?;
    counted.verdict(seconds).map_err(anyhow::Error::msg)
}
