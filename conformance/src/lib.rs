//! The conformance cases: files that stand in `shared/conformance` beside the project, or in the
//! directory that FAIRLEAD_SHARED names.
//!
//! This crate must not know what cases are run against.

pub mod policy;

use std::{env, fs, path::PathBuf};

use serde::de::DeserializeOwned;

/// What kube-proxy makes of Services.
pub const PROXY_CASES: &str = "proxy-cases.yaml";

/// Reads a file of cases, whose text `change` may change before.
///
/// # Panics
/// If it can't be read, with what to do about that.
#[track_caller]
pub fn read<T: DeserializeOwned>(file: &str, change: impl FnOnce(String) -> String) -> T {
    let beside = || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../shared/conformance"));
    let path = env::var_os("FAIRLEAD_SHARED").map_or_else(beside, PathBuf::from).join(file);
    let yaml = fs::read_to_string(&path).unwrap_or_else(|error| {
        panic!(
            "{}: {error}; the cases stand in shared/conformance beside the project, or in the directory that \
             FAIRLEAD_SHARED names",
            path.display()
        )
    });
    serde_norway::from_str(&change(yaml)).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}
