//! Where a scenario plays: a server of its own, and directories that go with it.

use super::Setting;
use crate::server::Server;
use std::path::PathBuf;

/// Removes a directory when everything in it has ended.
pub struct Removed(pub PathBuf);

impl Drop for Removed {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// Options for an archive and a runtime directory of a scenario's own, and the directories.
pub fn directories(setting: &Setting, name: &str) -> (Vec<String>, [Removed; 2]) {
    let directory = setting.directory.join(format!("{name}-{}", crate::alone::number()));
    let runtime = PathBuf::from(crate::alone::memory(name));
    let options =
        ["--data", &directory.join("data").display().to_string(), "--runtime-dir", &runtime.display().to_string()];
    (options.map(str::to_owned).to_vec(), [Removed(directory), Removed(runtime)])
}

/// Starts a server with these options beside.
pub fn start(setting: &Setting, name: &str, more: &[&str]) -> anyhow::Result<(Server, [Removed; 2])> {
    let (mut options, removed) = directories(setting, name);
    options.extend(more.iter().map(|&option| option.to_owned()));
    Ok((Server::start(&setting.program, &options)?, removed))
}

/// The same under a parent, which starts it again whenever it ends.
pub fn start_supervised(setting: &Setting, name: &str, more: &[&str]) -> anyhow::Result<(Server, [Removed; 2])> {
    let (mut options, removed) = directories(setting, name);
    options.extend(more.iter().map(|&option| option.to_owned()));
    Ok((Server::start_supervised(&setting.program, &options)?, removed))
}
