//! The command line: `fairlead agent` and the commands that people and scripts use.
//!
//! This module must not know how a command does its work.

pub mod arguments;
pub mod ask;
pub mod cleanup;
pub mod endpoint;
pub mod flow;
pub mod monitor;
pub mod policy;
pub mod service;
pub mod status;
mod table;
pub mod version;
pub mod why;

use std::io;

use serde::Serialize;

/// Prints a value as JSON, for scripts.
fn print_json(value: &impl Serialize) -> io::Result<()> {
    use io::Write;
    // Standard output alone would write line by line.
    let mut out = io::BufWriter::new(io::stdout().lock());
    serde_json::to_writer_pretty(&mut out, value)?;
    writeln!(out)?;
    out.flush()
}

/// Standard output in large pieces, without colours where they don't belong; to be flushed.
fn terminal() -> io::BufWriter<anstream::AutoStream<io::StdoutLock<'static>>> {
    io::BufWriter::new(anstream::stdout().lock())
}
