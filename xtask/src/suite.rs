//! Every test there is.

use std::env;

use anyhow::{Context, Result, bail};

use crate::{bpf, build, environment, report, setup};

/// Sets up, builds, and runs the tests whose names contain `filter`.
pub fn run(filter: Option<&str>) -> Result<()> {
    setup::run()?;
    build::agent(build::Profile::Release)?;
    let mut cargo = environment::cargo();
    cargo.args(["test", "--target-dir"]).arg(environment::target("")).env(build::OBJECT_VARIABLE, bpf::object());
    let left_out = if environment::is_root() {
        cargo.arg("--workspace").args(["--exclude", "ebpf-programs"]);
        None
    } else if env::var_os("CI").is_some() {
        bail!("not root: in CI, the tests that need it fail rather than being left out");
    } else {
        cargo.args(["--package", "datapath", "--package", "node-agent", "--package", "xtask"]);
        Some("not root: the tests in network namespaces didn't run; `sudo -E cargo xtask test` runs them")
    };
    // Every failure is worth knowing, not only those of the first program.
    cargo.arg("--no-fail-fast").args(filter);
    report::run(&mut cargo).context("tests failed")?;
    match left_out {
        Some(reason) => report::skipped("passed", reason),
        None => report::status("passed", "every test"),
    }
    Ok(())
}
