//! The kernel programs' object: compiled, linked with BTF, and put where the agent's build finds it.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::{environment, report, toolchain::Toolchain};

/// The instruction set: version 3 has 32-bit arithmetic and came with Linux 5.1.
const CPU: &str = "v3";

/// Where the object is kept, for the agent to embed.
pub fn object() -> PathBuf {
    environment::target("bpf/fairlead.bpf.o")
}

/// The object with another layout of its tables, see [`OTHER_LAYOUT`].
pub fn other_object() -> PathBuf {
    environment::target("upgrade/fairlead.bpf.o")
}

/// The feature of programs and agent that changes the layout of several tables, for the test that versions
/// follow each other.
pub const OTHER_LAYOUT: &str = "layout-for-tests";

/// bpf-linker, which `setup` builds.
pub fn linker() -> PathBuf {
    environment::tools().join("bin/bpf-linker")
}

/// Builds the object. What is already built is left alone, down to its time stamp: the agent, which
/// embeds it, is then not built again either.
pub fn build() -> Result<()> {
    build_with(&[], &object())
}

/// Builds the object with another layout of its tables.
pub fn build_other_layout() -> Result<()> {
    build_with(&["--features", OTHER_LAYOUT], &other_object())
}

fn build_with(features: &[&str], object: &Path) -> Result<()> {
    let toolchain = Toolchain::find()?;
    let mut cargo = command(&toolchain, "build")?;
    report::run(cargo.arg("--release").args(features)).context("building the kernel programs")?;
    let built = environment::target(&format!("bpf-build/{}/release/fairlead-ebpf", crate::toolchain::TARGET));
    copy_if_changed(&built, object)
}

/// A cargo subcommand on the kernel programs, for the BPF target.
pub fn command(toolchain: &Toolchain, subcommand: &str) -> Result<Command> {
    let linker = linker();
    if !linker.is_file() {
        bail!("{} isn't there; `cargo xtask setup` builds it", linker.display());
    }
    let flags = [
        "-C".into(),
        format!("linker={}", linker.display()),
        "-C".into(),
        "link-arg=--btf".into(),
        "-C".into(),
        "debuginfo=2".into(),
        "-C".into(),
        format!("target-cpu={CPU}"),
    ];
    let mut cargo = toolchain.cargo();
    // Encoded, so that a path with spaces in it stays one flag.
    cargo.env("CARGO_ENCODED_RUSTFLAGS", flags.join("\x1f"));
    // Whatever somebody's own configuration says of release builds: for BPF only fully optimised code compiles.
    cargo.env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "3").env("CARGO_PROFILE_RELEASE_INCREMENTAL", "false");
    cargo.arg(subcommand).args(toolchain.target_arguments());
    cargo.args(["--quiet", "--package", "ebpf-programs", "--target-dir"]).arg(environment::target("bpf-build"));
    Ok(cargo)
}

/// Copies a file, unless it is there and the same.
pub fn copy_if_changed(from: &Path, to: &Path) -> Result<()> {
    let built = fs::read(from).with_context(|| format!("cannot read {}", from.display()))?;
    if fs::read(to).is_ok_and(|present| present == built) {
        return Ok(());
    }
    let directory = to.parent().context("the object lies in a directory")?;
    fs::create_dir_all(directory).with_context(|| format!("cannot make {}", directory.display()))?;
    // Renamed into place: a build that is interrupted here leaves the old object or the new one.
    let fresh = to.with_extension("new");
    fs::write(&fresh, built).with_context(|| format!("cannot write {}", fresh.display()))?;
    fs::rename(&fresh, to).with_context(|| format!("cannot write {}", to.display()))
}
