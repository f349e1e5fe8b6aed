//! Which compiler builds the kernel programs.
//!
//! Two routes lead to a `core` for the BPF target: a distribution's prebuilt one, or a nightly that
//! builds it from `rust-src`. It only finds out; `setup` installs.

use std::{
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::{environment, report};

/// The target that the kernel programs are built for.
pub const TARGET: &str = "bpfel-unknown-none";

/// The nightly that is known to work, if the developer has no other.
pub const NIGHTLY: &str = "nightly-2026-05-20";

/// A compiler that can build for the BPF target.
pub enum Toolchain {
    /// `/usr/bin/rustc` of the distribution, whose packages hold `core` for BPF.
    Distribution,
    /// A nightly of rustup's with `rust-src`: its `bin` directory.
    Nightly(PathBuf),
}

impl Toolchain {
    /// The toolchain that is there; the distribution's first, since it needs no build of `core`.
    pub fn find() -> Result<Self> {
        if distribution_has_core() {
            return Ok(Self::Distribution);
        }
        if let Some(bin) = [NIGHTLY, "nightly"].into_iter().find_map(nightly_with_source) {
            return Ok(Self::Nightly(bin));
        }
        bail!("no toolchain for {TARGET} is installed; `cargo xtask setup` installs one or says how")
    }

    /// Its cargo, ready for a subcommand on the BPF target; the caller adds flags for rustc.
    pub fn cargo(&self) -> Command {
        match self {
            Self::Distribution => {
                let mut cargo = environment::foreign("/usr/bin/cargo");
                cargo.env("CARGO", "/usr/bin/cargo").env("RUSTC", "/usr/bin/rustc");
                // aya-ebpf uses features of the compiler that aren't stable.
                cargo.env("RUSTC_BOOTSTRAP", "1");
                cargo
            }
            Self::Nightly(bin) => {
                let mut cargo = environment::foreign(bin.join("cargo"));
                cargo.env("RUSTC", bin.join("rustc"));
                cargo
            }
        }
    }

    /// The arguments by which cargo builds for the BPF target.
    pub fn target_arguments(&self) -> &'static [&'static str] {
        match self {
            Self::Distribution => &["--target", TARGET],
            Self::Nightly(_) => &["--target", TARGET, "-Z", "build-std=core"],
        }
    }

    /// The directory of its programs.
    pub fn bin(&self) -> &Path {
        match self {
            Self::Distribution => Path::new("/usr/bin"),
            Self::Nightly(bin) => bin,
        }
    }

    /// Whether it can lint.
    pub fn has_clippy(&self) -> bool {
        self.bin().join("clippy-driver").is_file() && self.bin().join("cargo-clippy").is_file()
    }

    /// The major version of its LLVM, which bpf-linker's must equal.
    pub fn llvm_major(&self) -> Result<u32> {
        let version = report::capture(environment::foreign(self.bin().join("rustc")).arg("-vV"))?;
        let llvm = version.lines().find_map(|line| line.strip_prefix("LLVM version: "));
        llvm.and_then(|llvm| llvm.split('.').next()?.parse().ok())
            .with_context(|| format!("{}/rustc doesn't say which LLVM it has", self.bin().display()))
    }

    /// What the status lines call it.
    pub fn describe(&self) -> String {
        match self {
            Self::Distribution => format!("/usr/bin/rustc, with the distribution's core for {TARGET}"),
            Self::Nightly(bin) => format!("{}/rustc, which builds core from rust-src", bin.display()),
        }
    }
}

fn distribution_has_core() -> bool {
    if !Path::new("/usr/bin/rustc").is_file() || !Path::new("/usr/bin/cargo").is_file() {
        return false;
    }
    let Ok(libraries) = std::fs::read_dir(format!("/usr/lib/rustlib/{TARGET}/lib")) else { return false };
    libraries.flatten().any(|file| file.file_name().to_string_lossy().starts_with("libcore"))
}

/// The `bin` directory of a rustup toolchain that has `rust-src`.
fn nightly_with_source(toolchain: &str) -> Option<PathBuf> {
    environment::which("rustup")?;
    let arguments = ["run", toolchain, "rustc", "--print", "sysroot"];
    let sysroot = report::capture(environment::foreign("rustup").args(arguments)).ok()?;
    let sysroot = Path::new(sysroot.trim());
    sysroot.join("lib/rustlib/src/rust/library/core").is_dir().then(|| sysroot.join("bin"))
}

/// Installs the nightly that is known to work.
pub fn install_nightly() -> Result<()> {
    let arguments = ["toolchain", "install", NIGHTLY, "--profile", "minimal", "--component", "rust-src,clippy"];
    report::run_quietly("rustup", NIGHTLY, environment::foreign("rustup").args(arguments))
}

/// Adds clippy to the nightly that `find` found.
pub fn add_clippy(bin: &Path) -> Result<()> {
    let sysroot = bin.parent().context("a toolchain's bin directory lies in its sysroot")?;
    let mut rustup = environment::foreign("rustup");
    rustup.args(["component", "add", "clippy", "--toolchain"]).arg(sysroot.file_name().unwrap_or_default());
    report::run_quietly("rustup", "clippy", &mut rustup)
}
