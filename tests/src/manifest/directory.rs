//! A directory of manifests, which agents read by `--source dir:PATH`.
//!
//! Invariant: a file is written beside its place and renamed into it, so no agent reads half of one.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
};

use serde_json::Value;

use crate::sandbox::make_directory;

/// The directory.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    /// Tests that share a cluster write at the same time.
    next: AtomicU32,
}

impl Directory {
    /// Makes it.
    ///
    /// # Panics
    /// If it can't be made.
    pub fn new(path: PathBuf) -> Self {
        make_directory(&path);
        Self { path, next: AtomicU32::new(0) }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Writes an object's manifest, in place of an earlier one of that object.
    #[track_caller]
    pub fn put(&self, object: &Value) {
        self.write(&Self::file_name(object), &object.to_string());
    }

    /// Writes any text as a file.
    ///
    /// # Panics
    /// If it can't be written.
    #[track_caller]
    pub fn write(&self, file: &str, text: &str) {
        let fresh = self.path.join(format!(".new-{}", self.next.fetch_add(1, Ordering::Relaxed)));
        let path = self.path.join(file);
        let written = fs::write(&fresh, text).and_then(|()| fs::rename(&fresh, &path));
        written.unwrap_or_else(|error| panic!("cannot write {}: {error}", path.display()));
    }

    /// Removes an object's manifest, if there is one.
    #[track_caller]
    pub fn delete(&self, object: &Value) {
        self.remove(&Self::file_name(object));
    }

    /// Removes a file, if it is there.
    pub fn remove(&self, file: &str) {
        // It may be gone with the cluster's directory.
        let _ = fs::remove_file(self.path.join(file));
    }

    fn file_name(object: &Value) -> String {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_lowercase();
        format!("{}.{}.json", text(&object["kind"]), text(&object["metadata"]["name"]))
    }
}
