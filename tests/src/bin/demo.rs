//! The demo, run by `cargo xtask demo`.

use std::process::ExitCode;

use clap::Parser;
use tests::demo;

fn main() -> ExitCode {
    demo::run(&demo::Demo::parse()).unwrap_or_else(|error| {
        eprintln!("{error:#}");
        ExitCode::FAILURE
    })
}
