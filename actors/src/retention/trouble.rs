//! What retention cannot do, told when it begins and when it is over.

use crate::events;
use std::fmt;
use std::io::{self, ErrorKind};
use std::mem::discriminant;
use storage::recording::RecordingId;

/// What cannot be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum What {
    /// The removal of a recording.
    Recording(RecordingId),
    /// The removal of files of recordings that were removed.
    Files,
    /// Looking through an archive.
    Archive,
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            What::Recording(id) => write!(f, "recording {}/{}", id.stream, id.session),
            What::Files => f.write_str("files of removed recordings"),
            What::Archive => f.write_str("what the archive holds"),
        }
    }
}

/// What of an archive could not be done in a step.
#[derive(Debug, Default)]
pub struct Failed {
    /// The oldest that somebody has to mend; if there is none, the oldest that somebody protects.
    pub recording: Option<(RecordingId, io::Error)>,
    /// One of the errors.
    pub files: Option<io::Error>,
    /// One of the errors.
    pub archive: Option<io::Error>,
}

impl Failed {
    /// A recording cannot be removed.
    pub fn add(&mut self, id: &RecordingId, error: io::Error) {
        let is_protection = |error: &io::Error| error.kind() == ErrorKind::PermissionDenied;
        match &self.recording {
            Some((_, before)) if !is_protection(before) || is_protection(&error) => {}
            Some(_) | None => self.recording = Some((id.clone(), error)),
        }
    }
}

/// What was told of an archive and is not over.
#[derive(Debug, Default)]
pub struct Told(Vec<(What, ErrorKind)>);

impl Told {
    /// The recording that was told.
    pub fn recording(&self) -> Option<&RecordingId> {
        self.0.iter().find_map(|(what, _)| if let What::Recording(id) = what { Some(id) } else { None })
    }

    /// What a step found that had no file to sweep, and whether the recording that was told `is_gone`. How many lines were
    /// told.
    pub fn note(&mut self, archive: &str, failed: Failed, is_gone: bool) -> usize {
        let Failed { recording, files, archive: looking } = failed;
        let mut lines = usize::from(is_gone && self.over(archive, |what| matches!(what, What::Recording(_))));
        if let Some((id, error)) = recording {
            lines += usize::from(self.fails(archive, What::Recording(id), &error));
        }
        for (what, error) in [(What::Files, files), (What::Archive, looking)] {
            lines += usize::from(match error {
                Some(error) => self.fails(archive, what, &error),
                None => self.over(archive, |told| *told == what),
            });
        }
        lines
    }

    /// Something fails; whether that is told: it was not yet, and of its kind nothing that is worse was. One of each kind is
    /// remembered.
    pub fn fails(&mut self, archive: &str, what: What, error: &io::Error) -> bool {
        events::retention_failed(error);
        let failing = (what, error.kind());
        let was_worse = |told: &(What, ErrorKind)| {
            told.0 != failing.0 && told.1 != ErrorKind::PermissionDenied && failing.1 == ErrorKind::PermissionDenied
        };
        let of_its_kind = |told: &&(What, ErrorKind)| discriminant(&told.0) == discriminant(&failing.0);
        if self.0.iter().find(of_its_kind).is_some_and(|told| *told == failing || was_worse(told)) {
            return false;
        }
        events::retention_stuck(archive, &failing.0, error);
        self.0.retain(|(told, _)| discriminant(told) != discriminant(&failing.0));
        self.0.push(failing);
        true
    }

    fn over(&mut self, archive: &str, is_over: impl Fn(&What) -> bool) -> bool {
        let Some(at) = self.0.iter().position(|(what, _)| is_over(what)) else { return false };
        let (what, _) = self.0.swap_remove(at);
        events::retention_goes_on(archive, &what);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UNWRITABLE: ErrorKind = ErrorKind::ReadOnlyFilesystem;
    const PROTECTED: ErrorKind = ErrorKind::PermissionDenied;

    fn id(session: &str) -> RecordingId {
        format!("live/show/{session}").parse().expect("an id")
    }

    fn recording(session: &str, kind: ErrorKind) -> Failed {
        Failed { recording: Some((id(session), kind.into())), ..Failed::default() }
    }

    #[test]
    fn what_somebody_has_to_mend_is_told_before_what_somebody_protects() {
        let told = |kinds: [ErrorKind; 3]| {
            let mut failed = Failed::default();
            ["a", "b", "c"].iter().zip(kinds).for_each(|(session, kind)| failed.add(&id(session), kind.into()));
            failed.recording.map(|(id, _)| id.session)
        };
        assert_eq!(told([PROTECTED, UNWRITABLE, UNWRITABLE]), Some("b".to_owned()));
        assert_eq!(told([UNWRITABLE, PROTECTED, UNWRITABLE]), Some("a".to_owned()));
        assert_eq!(told([PROTECTED; 3]), Some("a".to_owned()));
    }

    #[test]
    fn what_fails_is_told_once_until_it_is_over_whatever_else_fails() {
        let mut told = Told::default();
        let files = |kind: ErrorKind| Failed { files: Some(kind.into()), ..Failed::default() };
        assert_eq!(told.note("*", Failed::default(), false), 0);
        assert_eq!((told.note("*", recording("a", PROTECTED), false), told.recording()), (1, Some(&id("a"))));
        for _ in 0..3 {
            assert!(!told.fails("*", What::Recording(id("a")), &PROTECTED.into()));
        }
        assert_eq!(told.note("*", files(UNWRITABLE), false), 1, "one is within its limits now, and there still");
        assert_eq!(told.note("*", Failed { files: Some(UNWRITABLE.into()), ..recording("a", PROTECTED) }, false), 0);
        assert!(told.fails("*", What::Archive, &ErrorKind::TimedOut.into()));
        assert_eq!(told.note("*", recording("a", PROTECTED), false), 2, "files and archive are over");
        assert_eq!(told.note("*", recording("b", PROTECTED), true), 2, "one is gone, the next is there");
        assert_eq!((told.note("*", recording("b", UNWRITABLE), false), told.recording()), (1, Some(&id("b"))));
        assert_eq!(told.note("*", recording("c", PROTECTED), false), 0, "one that has to be mended is there still");
        assert_eq!(told.note("*", recording("b", UNWRITABLE), false), 0);
        assert_eq!((told.note("*", Failed::default(), true), told.recording()), (1, None));
    }
}
