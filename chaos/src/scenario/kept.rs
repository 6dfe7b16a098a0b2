//! Kept: what came of scenarios in which every promise was kept. A run of all of them takes more than an hour; one that was
//! interrupted, or met a machine on which nothing could be judged, goes on from there. Another program or another seed
//! begins anew.

use super::Setting;
use super::report::Section;
use anyhow::Context;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use std::fs;
use std::path::PathBuf;

/// Sections of runs with the same program, the same instruments and the same seed.
pub struct Kept {
    directory: PathBuf,
    of: String,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    of: String,
    section: Section,
}

impl Kept {
    /// Those of this setting.
    pub fn of(setting: &Setting) -> anyhow::Result<Self> {
        let mut digest = Sha256::new();
        for program in [&setting.program, &std::env::current_exe()?] {
            digest.update(fs::read(program).with_context(|| program.display().to_string())?);
        }
        digest.update(setting.seed.to_le_bytes());
        let of = digest.finalize().iter().map(|byte| format!("{byte:02x}")).collect();
        let directory = setting.directory.join("kept");
        fs::create_dir_all(&directory)?;
        Ok(Self { directory, of })
    }

    /// That of a scenario.
    pub fn find(&self, name: &str) -> Option<Section> {
        let text = fs::read(self.path(name)).ok()?;
        // One that cannot be read is played again.
        let entry: Entry = serde_json::from_slice(&text).ok()?;
        (entry.of == self.of).then_some(entry.section)
    }

    /// Keeps a section, unless a promise was broken.
    pub fn keep(&self, section: &Section) -> anyhow::Result<()> {
        if section.broken > 0 {
            return Ok(());
        }
        let entry = Entry { of: self.of.clone(), section: section.clone() };
        // Written aside: half an entry would be none, but a name that is there is whole.
        let aside = self.path(&section.name).with_extension("tmp");
        fs::write(&aside, serde_json::to_vec(&entry)?)?;
        Ok(fs::rename(aside, self.path(&section.name))?)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.json"))
    }
}

#[cfg(test)]
mod tests {
    use super::super::report::Outcome;
    use super::*;
    use std::time::Duration;

    #[test]
    fn what_was_kept_is_found_again_with_the_same_program_and_seed_only() {
        let directory = tempfile::tempdir().expect("temporary directory");
        let program = directory.path().join("program");
        fs::write(&program, "one").expect("written");
        let setting = Setting { program, directory: directory.path().to_owned(), seed: 1, patience: Duration::ZERO };
        let kept = |setting: &Setting| Kept::of(setting).expect("a directory");
        let section = Section::of("flap", "an encoder", &Outcome::default()).expect("JSON");
        kept(&setting).keep(&section).expect("written");
        assert_eq!(kept(&setting).find("flap").map(|section| section.name), Some("flap".to_owned()));
        assert!(kept(&setting).find("fight").is_none());
        assert!(kept(&Setting { seed: 2, ..setting.clone() }).find("flap").is_none());
        let broken = Outcome::failed(&anyhow::anyhow!("broken"));
        kept(&setting).keep(&Section::of("fight", "many", &broken).expect("JSON")).expect("not written");
        assert!(kept(&setting).find("fight").is_none());
        fs::write(&setting.program, "another").expect("written");
        assert!(kept(&setting).find("flap").is_none());
    }
}
