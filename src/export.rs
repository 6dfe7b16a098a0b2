//! `steadycast export`: one MP4 file of a recording.

use crate::config::Config;
use anyhow::{Context, bail, ensure};
use std::path::{Path, PathBuf};
use storage::recording::{RecordingId, SessionRecord};
use storage::{Recordings, Signs};

/// Recordings named in an error.
const MAX_NAMED: usize = 20;
/// Directories of an archive whose files are the server's.
const OWN: [&str; 2] = ["live", "recordings"];

/// Exports the recording that `session` names, and says where to. One that has no end yet only if it may be `unfinished`.
pub fn run(config: &Config, session: &str, to: Option<PathBuf>, unfinished: bool) -> anyhow::Result<()> {
    let (recordings, record) = find(config, session)?;
    let id = record.id;
    ensure!(
        unfinished || record.ended_at_ms.is_some(),
        "{} goes on, or its recording is not finished; --unfinished exports what there is so far",
        named(&id)
    );
    let to = to.unwrap_or_else(|| PathBuf::from(format!("{}-{}.mp4", id.stream.name(), id.session)));
    ensure!(
        !is_in_an_archive(config, &to),
        "{} is in the archive, whose files are its own; name another",
        to.display()
    );
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
fn find(config: &Config, session: &str) -> anyhow::Result<(Recordings, SessionRecord)> {
    let mut found = Vec::new();
    let mut others = Vec::new();
    for (_, directory) in config.directories() {
        let recordings = Recordings::at(directory, Signs::default().into());
        let all = recordings.all().with_context(|| directory.display().to_string())?;
        for record in all {
            let whole = named(&record.id);
            if whole == session || record.id.session == session {
                found.push((Recordings::at(directory, Signs::default().into()), record));
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

/// Whether a file would be in a directory of the server's, or one of its own beside them, whose names begin with a dot. A
/// directory that is not there is none of them.
fn is_in_an_archive(config: &Config, file: &Path) -> bool {
    let directory = match file.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    let Ok(directory) = directory.canonicalize() else { return false };
    let is_hidden = file.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"."));
    let is_within = |part: PathBuf| part.canonicalize().is_ok_and(|part| directory.starts_with(part));
    let is_beside = |archive: &Path| is_hidden && archive.canonicalize().is_ok_and(|archive| archive == directory);
    let mut archives = config.directories();
    archives.any(|(_, archive)| is_beside(archive) || OWN.iter().any(|part| is_within(archive.join(part))))
}

fn list(found: &[(Recordings, SessionRecord)]) -> String {
    found.iter().map(|(_, record)| named(&record.id)).collect::<Vec<_>>().join(", ")
}

fn named(id: &RecordingId) -> String {
    format!("{}/{}", id.stream, id.session)
}
