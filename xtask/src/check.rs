//! Everything that can be said about the code without running it: format, lints, purity.

use anyhow::{Context, Result};

use crate::{bpf, build, environment, report, tidy, toolchain, toolchain::Toolchain};

/// Checks the workspace; every check is made even if an earlier one fails.
pub fn run() -> Result<()> {
    let results =
        [("format", format()), ("purity", tidy::run()), ("clippy", clippy_host()), ("clippy for BPF", clippy_bpf())];
    let mut failed = Vec::new();
    for (name, result) in results {
        if let Err(error) = result {
            report::failure(&error);
            failed.push(name);
        }
    }
    anyhow::ensure!(failed.is_empty(), "checks that failed: {}", failed.join(", "));
    report::status("checked", "format, purity, clippy");
    Ok(())
}

fn format() -> Result<()> {
    report::run(environment::cargo().args(["fmt", "--all", "--check"])).context("`cargo fmt --all` mends this")
}

fn clippy_host() -> Result<()> {
    // The agent embeds the kernel programs, so even a look at it needs them built.
    bpf::build()?;
    let mut cargo = environment::cargo();
    cargo.args(["clippy", "--quiet", "--all-targets", "--target-dir"]).arg(environment::target(""));
    report::run(cargo.env(build::OBJECT_VARIABLE, bpf::object()))
}

/// Clippy must be of the compiler that has `core` for BPF, and may be missing where that is not ours
/// to install.
fn clippy_bpf() -> Result<()> {
    let toolchain = Toolchain::find()?;
    if !toolchain.bin().join("clippy-driver").is_file() {
        let bin = toolchain.bin().display();
        report::skipped("left out", format_args!("clippy for {}: none in {bin}", toolchain::TARGET));
        return Ok(());
    }
    report::run(&mut bpf::clippy(&toolchain)?)
}
