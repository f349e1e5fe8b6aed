//! The demo, run by `cargo xtask demo`.

use std::process::ExitCode;

use clap::Parser;
use tests::demo;

fn main() -> anyhow::Result<ExitCode> {
    demo::run(&demo::Demo::parse())
}
