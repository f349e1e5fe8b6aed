//! Tasks that run what the build made: tests, demo, benchmarks.

use std::{os::unix::process::CommandExt, process::Command};

use anyhow::{Context, Result};

use crate::{
    bpf,
    build::{self, OBJECT_VARIABLE, Profile},
    environment, report, setup,
};

/// Runs every test, or those whose names contain one of `filters`.
///
/// Tests that make network namespaces run one program after another (cargo does
/// that), so that none disturbs another's timing.
pub fn test(filters: &[String]) -> Result<()> {
    prepare()?;
    build::other_layout()?;
    let mut cargo = cargo_with_object("test");
    cargo.args(["--workspace", "--exclude", "ebpf-programs", "--no-fail-fast", "--"]).args(filters);
    report::run(&mut cargo).context("tests")
}

/// Shows a node at work.
pub fn demo(arguments: &[String]) -> Result<()> {
    prepare()?;
    run_binary("demo", false, arguments)
}

/// Measures, each case against its baseline.
pub fn bench(arguments: &[String]) -> Result<()> {
    prepare()?;
    run_binary("bench", true, arguments)
}

fn prepare() -> Result<()> {
    setup::run()?;
    build::agent(Profile::Release)
}

fn run_binary(name: &str, release: bool, arguments: &[String]) -> Result<()> {
    let mut cargo = cargo_with_object("build");
    cargo.args(["--quiet", "--package", "tests", "--bins"]);
    if release {
        cargo.arg("--release");
    }
    report::run(&mut cargo).with_context(|| format!("building {name}"))?;
    let directory = if release { "release" } else { "debug" };
    let mut binary = Command::new(environment::target(directory).join(name));
    binary.args(arguments).current_dir(environment::root());
    // In place of this process, so that whoever waits for us waits until it has cleaned up.
    let error = binary.exec();
    Err(error).with_context(|| format!("cannot start {name}"))
}

fn cargo_with_object(subcommand: &str) -> Command {
    let mut cargo = environment::cargo();
    cargo.arg(subcommand).env(OBJECT_VARIABLE, bpf::object());
    cargo
}
