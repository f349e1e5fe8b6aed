//! What must hold before any test is run: format, lints, purity.

use std::process::Command;

use anyhow::{Context, Result};

use crate::{bpf, build::OBJECT_VARIABLE, environment, report, setup, tidy, toolchain::Toolchain};

/// Runs every check; the first that fails ends it.
pub fn run() -> Result<()> {
    setup::run()?;
    step("format", environment::cargo().args(["fmt", "--all", "--check"]))?;
    tidy::run()?;
    bpf::build()?;
    let mut host = environment::cargo();
    host.env(OBJECT_VARIABLE, bpf::object());
    host.args(["clippy", "--quiet", "--workspace", "--exclude", "ebpf-programs", "--all-targets"]);
    step("clippy, host", &mut host)?;
    clippy_for_bpf()
}

/// Clippy on the kernel programs. Another compiler's clippy can't read this one's
/// `core` for BPF: where it has none of its own, the compiler's lints, denied in
/// the build, must do.
fn clippy_for_bpf() -> Result<()> {
    let toolchain = Toolchain::find()?;
    if !toolchain.has_clippy() {
        report::skipped("clippy, BPF", "the toolchain has none; rustc's own lints are denied in the build");
        return Ok(());
    }
    let mut clippy = bpf::command(&toolchain, "clippy")?;
    // The build's profile, so that what it compiled for the host is there already.
    clippy.arg("--release");
    // cargo finds its subcommands by PATH, where rustup's may come first.
    let path = std::env::var_os("PATH").unwrap_or_default();
    let path = std::iter::once(toolchain.bin().to_owned()).chain(std::env::split_paths(&path));
    clippy.env("PATH", std::env::join_paths(path)?);
    step("clippy, BPF", &mut clippy)
}

fn step(name: &str, command: &mut Command) -> Result<()> {
    report::run(command).with_context(|| name.to_owned())?;
    report::status("checked", name);
    Ok(())
}
