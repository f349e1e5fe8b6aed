//! `cargo xtask …`: sets up, builds, checks, tests and demonstrates Fairlead.
//!
//! Every subcommand is idempotent, reports on stderr, and leaves what it made below `target/`.
//! It must not know how Fairlead works: only how its parts are built and run.

mod bpf;
mod build;
mod check;
mod environment;
mod image;
mod linker;
mod packages;
mod programs;
mod report;
mod setup;
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
    /// Build a minimal OCI image around a static agent, at target/image
    Image {
        /// The image's name and tag
        #[arg(default_value = concat!("fairlead:", env!("CARGO_PKG_VERSION")))]
        name: String,
    },
    /// Check format, lints, and who knows what
    Check,
    /// Run every test, or those whose names contain one of FILTERS
    Test {
        /// Parts of tests' names
        filters: Vec<String>,
    },
    /// Bring up a node, serve sample manifests, send real traffic and show the result
    Demo {
        /// Given to the demo: --keep leaves the node up
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
    /// Measure, each case against its baseline in the same run
    Bench {
        /// Given to the benchmark: cases, --rounds N, --quick, --strict
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        arguments: Vec<String>,
    },
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().task {
        Task::Setup => setup::run(),
        Task::Check => check::run(),
        Task::Test { filters } => programs::test(&filters),
        Task::Image { name } => image::run(&name),
        Task::Demo { arguments } => programs::demo(&arguments),
        Task::Bench { arguments } => programs::bench(&arguments),
        Task::Build { debug } => setup::run()
            .and_then(|()| build::agent(if debug { build::Profile::Debug } else { build::Profile::Release })),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            report::failure(&error);
            ExitCode::FAILURE
        }
    }
}
