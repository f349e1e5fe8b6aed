//! The purity check: what the compiler can't say about who may know what.
//!
//! Each rule is a list of paths and of names that must not stand in the code below them. It must not
//! know what a name refers to: that a module is pure is to be seen without knowing its imports.

mod names;
mod rules;

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, bail};

use crate::{environment, report};
use rules::{Finding, LONG_FILE};

/// Checks every Rust file of the workspace.
pub fn run() -> Result<()> {
    let root = environment::root();
    let mut files = Vec::new();
    for directory in ["datapath", "ebpf-programs", "node-agent", "tests", "xtask"] {
        collect(&root.join(directory), &mut files)?;
    }
    let mut findings = Vec::new();
    for file in &files {
        let text = fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
        let path = file.strip_prefix(root).unwrap_or(file).to_string_lossy().into_owned();
        if text.lines().count() > LONG_FILE {
            report::skipped("long", format_args!("{path} has more than {LONG_FILE} lines"));
        }
        findings.extend(rules::check(&path, &text).with_context(|| path.clone())?);
    }
    for Finding { path, line, why } in &findings {
        report::error(format_args!("{path}:{line}: {why}"));
    }
    if !findings.is_empty() {
        bail!("{} places know what they must not", findings.len());
    }
    report::status("pure", format_args!("{} files", files.len()));
    Ok(())
}

fn collect(directory: &Path, files: &mut Vec<PathBuf>) -> Result<()> {
    let entries = fs::read_dir(directory).with_context(|| format!("cannot read {}", directory.display()))?;
    for entry in entries {
        let path = entry?.path();
        if path.is_dir() {
            collect(&path, files)?;
        } else if path.extension().is_some_and(|ending| ending == "rs") {
            files.push(path);
        }
    }
    Ok(())
}
