//! Benchmarks, run by `cargo xtask bench`.

use std::process::ExitCode;

use clap::Parser;
use tests::bench;

fn main() -> anyhow::Result<ExitCode> {
    Ok(if bench::run(&bench::Bench::parse())? { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
