//! The kernel's settings that the node needs, and a note of what they were.
//!
//! Invariant: what a setting was is on disk before it is changed, and stays there
//! until `fairlead cleanup` has restored it. This module must not know why a setting
//! is needed.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::kernel::sysctl::{self, Setting, SysctlError};

const NOTED: &str = "sysctl.json";

/// Why settings can't be made or restored.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The kernel refuses.
    #[error(transparent)]
    Sysctl(#[from] SysctlError),
    /// The note can't be read or written.
    #[error("cannot {verb} {}: {source}", path.display())]
    Note {
        /// What was tried.
        verb: &'static str,
        /// The note.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
}

fn failed(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> SettingsError {
    move |source| SettingsError::Note { verb, path: path.to_owned(), source }
}

/// Lets the node forward, and each interface have a reverse path filter of its own.
pub fn prepare(run_dir: &Path) -> Result<(), SettingsError> {
    make(run_dir, &sysctl::obstacles_to_forwarding())?;
    make(run_dir, &sysctl::obstacles_to_local_reverse_path_filter())
}

fn make(run_dir: &Path, settings: &[Setting]) -> Result<(), SettingsError> {
    if settings.is_empty() {
        return Ok(());
    }
    let path = note(run_dir);
    let mut noted = load(&path)?;
    for setting in settings {
        // What an earlier agent found is what it was.
        if !noted.iter().any(|noted| noted.key == setting.key) {
            noted.push(setting.clone());
        }
    }
    let text = serde_json::to_vec_pretty(&noted).map_err(io::Error::other);
    let new = path.with_extension("new");
    let stored = text.and_then(|text| fs::write(&new, text)).and_then(|()| fs::rename(&new, &path));
    stored.map_err(failed("write", &path))?;
    Ok(settings.iter().try_for_each(Setting::apply)?)
}

/// Restores what is noted, unless somebody has changed it since, and says what that was.
/// In the network namespace of the calling thread.
pub fn restore(run_dir: &Path) -> Result<Vec<String>, SettingsError> {
    let mut restored = Vec::new();
    for setting in load(&note(run_dir))?.iter().rev() {
        if setting.restore()? && setting.was != setting.wanted {
            restored.push(format!("setting {} = {}", setting.key, setting.wanted));
        }
    }
    Ok(restored)
}

/// Where the note is.
pub fn note(run_dir: &Path) -> PathBuf {
    run_dir.join(NOTED)
}

fn load(path: &Path) -> Result<Vec<Setting>, SettingsError> {
    match fs::read(path) {
        Ok(text) => serde_json::from_slice(&text).map_err(io::Error::from).map_err(failed("read", path)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
        Err(error) => Err(failed("read", path)(error)),
    }
}
