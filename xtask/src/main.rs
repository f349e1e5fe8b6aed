//! `cargo xtask …`: sets up, builds, checks, tests and demonstrates Fairlead.
//!
//! Every subcommand is idempotent, reports on stderr, and leaves what it made below `target/`.
//! It must not know how Fairlead works: only how its parts are built and run.

mod bpf;
mod build;
mod check;
mod environment;
mod linker;
mod packages;
mod report;
mod setup;
mod suite;
mod tidy;
mod toolchain;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "cargo xtask", about = "Set up, build, check, test and demonstrate Fairlead", version)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Subcommand)]
enum Task {
    /// Find or install the toolchain for the kernel programs and the tools that tests use
    Setup,
    /// Build the kernel programs, then the agent around them, at target/release/fairlead
    Build {
        /// The agent without optimisation, at target/debug/fairlead
        #[arg(long)]
        debug: bool,
    },
    /// Check format, lints and purity
    Check,
    /// Set up, build, and run the tests
    Test {
        /// Only tests whose names contain this
        filter: Option<String>,
    },
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().task {
        Task::Setup => setup::run(),
        Task::Build { debug } => build::agent(if debug { build::Profile::Debug } else { build::Profile::Release }),
        Task::Check => check::run(),
        Task::Test { filter } => suite::run(filter.as_deref()),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report::failure(&error);
            ExitCode::FAILURE
        }
    }
}
