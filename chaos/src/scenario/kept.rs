//! Kept: what came of scenarios that could be judged. A run of all of them takes more than an hour; one that was interrupted,
//! or met a machine on which something could not be judged, goes on from there. What was judged stays so, broken promises
//! too: nothing is tried until it goes well. Another program, other instruments, another machine or seed begin anew.

use super::Setting;
use super::browser::PLAYERS;
use super::report::{Outcome, Section};
use crate::bench::machine;
use anyhow::Context;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs;
use std::path::{Path, PathBuf};

/// What decides besides programs how a scenario goes: the script that plays in Chromium, and the players it plays with.
const READ_WHEN_RUN: [&str; 2] = ["play.mjs", "package-lock.json"];

/// Sections of runs alike, and parts of those that are not whole yet.
#[derive(Debug)]
pub struct Kept {
    directory: PathBuf,
    of: String,
}

#[derive(Serialize, Deserialize)]
struct Entry<T> {
    of: String,
    section: T,
}

impl Kept {
    /// Those of this setting.
    pub fn of(setting: &Setting) -> anyhow::Result<Self> {
        let mut digest = Sha256::new();
        for program in [&setting.program, &std::env::current_exe()?] {
            digest.update(fs::read(program).with_context(|| program.display().to_string())?);
        }
        for file in READ_WHEN_RUN {
            // Without players nothing is played in Chromium.
            digest.update(fs::read(Path::new(PLAYERS).join(file)).unwrap_or_default());
        }
        digest.update(machine::description());
        digest.update(setting.seed.to_le_bytes());
        let of = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        let directory = setting.directory.join("kept");
        fs::create_dir_all(&directory)?;
        Ok(Self { directory, of })
    }

    /// That of a scenario.
    pub fn find(&self, name: &str) -> Option<Section> {
        self.read(name)
    }

    /// What came of a part of a scenario.
    pub fn find_part(&self, name: &str) -> Option<Outcome> {
        self.read(name)
    }

    fn read<T: DeserializeOwned>(&self, name: &str) -> Option<T> {
        let text = fs::read(self.path(name)).ok()?;
        // One that cannot be read is played again.
        let entry: Entry<T> = serde_json::from_slice(&text).ok()?;
        (entry.of == self.of).then_some(entry.section)
    }

    /// Forgets all.
    pub fn clear(&self) -> std::io::Result<()> {
        fs::remove_dir_all(&self.directory)?;
        fs::create_dir_all(&self.directory)
    }

    /// Keeps a section, if it could be judged.
    pub fn keep(&self, section: &Section) -> anyhow::Result<()> {
        if section.judged { self.write(&section.name, section) } else { Ok(()) }
    }

    /// Keeps what came of a part, if it could be judged.
    pub fn keep_part(&self, name: &str, part: &Outcome) -> anyhow::Result<()> {
        if part.could_be_judged() { self.write(name, part) } else { Ok(()) }
    }

    fn write<T: Serialize>(&self, name: &str, section: &T) -> anyhow::Result<()> {
        let entry = Entry { of: self.of.clone(), section };
        // Written aside: half an entry would be none, but a name that is there is whole.
        let aside = self.path(name).with_extension("tmp");
        fs::write(&aside, serde_json::to_vec(&entry)?)?;
        Ok(fs::rename(aside, self.path(name))?)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.json"))
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::{Outcome, Told};
    use super::*;
    use crate::broken::Broken;
    use crate::standstill::Stood;
    use std::time::Duration;

    #[test]
    fn what_was_kept_is_found_again_with_the_same_program_and_seed_only() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let program = directory.path().join("program");
        fs::write(&program, "one").expect("written");
        let directory_of = directory.path().to_owned();
        let setting = Setting { program, directory: directory_of, seed: 1, patience: Duration::ZERO, kept: None };
        let kept = |setting: &Setting| Kept::of(setting).expect("a directory");
        let section = Section::of("flap", "an encoder", &Outcome::default()).expect("JSON");
        kept(&setting).keep(&section).expect("written");
        assert_eq!(kept(&setting).find("flap").map(|section| section.name), Some("flap".to_owned()));
        assert!(kept(&setting).find("fight").is_none());
        assert!(kept(&Setting { seed: 2, ..setting.clone() }).find("flap").is_none());
        // What was judged stays, and what could not be is played again.
        let stood = Some(Stood { p99_ms: 500, longest_ms: 500 });
        let told = |broken| Told { text: String::new(), figures: serde_json::Value::Null, broken: vec![broken] };
        let outcome = |broken| Outcome { told: vec![told(broken)], stood, ..Outcome::default() };
        let late = Section::of("fight", "many", &outcome(Broken::Late("a stall".to_owned()))).expect("JSON");
        kept(&setting).keep(&late).expect("not written");
        assert!(kept(&setting).find("fight").is_none());
        let wrong = Section::of("fight", "many", &outcome(Broken::Wrong("a picture".to_owned()))).expect("JSON");
        kept(&setting).keep(&wrong).expect("written");
        assert_eq!(kept(&setting).find("fight").map(|section| section.broken.len()), Some(1));
        // So it is with a part; one that was late on a machine that was not to blame is broken whatever others meet.
        let part = |stood| Outcome { stood, ..outcome(Broken::Late("a stall".to_owned())) };
        kept(&setting).keep_part("cmaf.1", &part(stood)).expect("not written");
        assert!(kept(&setting).find_part("cmaf.1").is_none());
        kept(&setting).keep_part("cmaf.1", &part(Some(Stood::default()))).expect("written");
        let mut whole = kept(&setting).find_part("cmaf.1").expect("it was judged");
        assert!(!whole.broken()[0].is_late());
        let mut parts = Outcome::default();
        parts.add(std::mem::take(&mut whole));
        parts.add(Outcome { stood, ..Outcome::default() });
        assert!(parts.could_be_judged() && parts.broken().len() == 1);
        parts.add(part(stood));
        assert!(!parts.could_be_judged());
        kept(&setting).clear().expect("removed");
        assert!(kept(&setting).find("fight").is_none() && kept(&setting).find("flap").is_none());
        kept(&setting).keep(&section).expect("written");
        fs::write(&setting.program, "another").expect("written");
        assert!(kept(&setting).find("flap").is_none());
    }
}
