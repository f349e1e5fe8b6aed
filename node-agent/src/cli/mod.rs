//! The command line: `fairlead agent` and the commands that people and scripts use.
//!
//! This module must not know how a command does its work.

pub mod arguments;
pub mod cleanup;
pub mod monitor;
pub mod policy;
pub mod status;
pub mod version;

use std::io;

use serde::Serialize;

/// Prints a value as JSON, for scripts.
fn print_json(value: &impl Serialize) -> io::Result<()> {
    use io::Write;
    let mut out = io::stdout().lock();
    serde_json::to_writer_pretty(&mut out, value)?;
    writeln!(out)
}
