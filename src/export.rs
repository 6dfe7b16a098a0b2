//! `steadycast export`: one MP4 file of a recording.

use crate::config::Config;
use anyhow::{Context, bail, ensure};
use std::path::PathBuf;
use storage::recording::RecordingId;
use storage::{Recordings, Signs};

/// Recordings named in an error.
const MAX_NAMED: usize = 20;

/// Exports the recording that `session` names, and says where to.
pub fn run(config: &Config, session: &str, to: Option<PathBuf>) -> anyhow::Result<()> {
    let (recordings, id) = find(config, session)?;
    let to = to.unwrap_or_else(|| PathBuf::from(format!("{}-{}.mp4", id.stream.name(), id.session)));
    let exported = recordings
        .export(&id, &to)
        .with_context(|| format!("{} cannot be exported to {}", named(&id), to.display()))?;
    println!("{}: {} segments, {} bytes", to.display(), exported.segments, exported.bytes);
    if let Some(first) = exported.first_damaged {
        bail!("{} segments are missing or damaged and not in the file, the first is {first}", exported.damaged);
    }
    Ok(())
}

/// The one recording of that name, whole or by its session alone.
fn find(config: &Config, session: &str) -> anyhow::Result<(Recordings, RecordingId)> {
    let mut found = Vec::new();
    let mut others = Vec::new();
    for (_, directory) in config.directories() {
        let recordings = Recordings::at(directory, Signs::default().into());
        let all = recordings.all().with_context(|| directory.display().to_string())?;
        for id in all.into_iter().map(|record| record.id) {
            let whole = named(&id);
            if whole == session || id.session == session {
                found.push((Recordings::at(directory, Signs::default().into()), id));
            } else {
                others.push(whole);
            }
        }
    }
    ensure!(found.len() <= 1, "several recordings are of a session {session}; name one: {}", list(&found));
    others.truncate(MAX_NAMED);
    found.pop().with_context(|| match others.is_empty() {
        true => "there are no recordings here; is --data right?".to_owned(),
        false => format!("there is no recording {session}; there are: {}", others.join(", ")),
    })
}

fn list(found: &[(Recordings, RecordingId)]) -> String {
    found.iter().map(|(_, id)| named(id)).collect::<Vec<_>>().join(", ")
}

fn named(id: &RecordingId) -> String {
    format!("{}/{}", id.stream, id.session)
}
