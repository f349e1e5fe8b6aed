//! bpf-linker, built from source against the LLVM of the compiler whose output it links.

use std::{env, ffi::OsString, fs, path::PathBuf, process::Command};

use anyhow::{Context, Result};

use crate::{bpf, environment, report};

const VERSION: &str = "0.13.0";

/// Whether it is there, runs, and has this major version of LLVM.
pub fn is_installed(llvm: u32) -> bool {
    let runs = report::capture(Command::new(bpf::linker()).arg("--version"));
    let features = fs::read_to_string(environment::tools().join(".crates2.json")).unwrap_or_default();
    runs.is_ok_and(|version| version.trim().ends_with(VERSION)) && features.contains(&format!("\"llvm-{llvm}\""))
}

/// What the status lines call it.
pub fn describe(llvm: u32) -> String {
    format!("target/tools/bin/bpf-linker {VERSION}, with LLVM {llvm}")
}

/// The Debian packages that it is built with.
pub fn packages(llvm: u32) -> Vec<String> {
    let llvm = [format!("llvm-{llvm}-dev"), format!("libpolly-{llvm}-dev")];
    let others = ["zlib1g-dev", "libzstd-dev", "libxml2-dev"].map(str::to_owned);
    llvm.into_iter().chain(others).collect()
}

/// Whether LLVM's headers and libraries are there.
pub fn llvm_is_installed(llvm: u32) -> bool {
    prefix(llvm).join("bin/llvm-config").exists() && prefix(llvm).join("lib/libPolly.a").exists()
}

/// Builds it: a minute or two, once.
pub fn install(llvm: u32) -> Result<()> {
    let prefix = prefix(llvm);
    let library = prefix.join("lib").display().to_string();
    let mut path = OsString::from(prefix.join("bin"));
    path.push(":");
    path.push(env::var_os("PATH").unwrap_or_default());

    let build = environment::tools().join("build");
    let mut cargo = environment::cargo();
    cargo.args(["install", "bpf-linker", "--version", VERSION, "--no-default-features"]);
    cargo.arg("--features").arg(format!("llvm-{llvm}")).arg("--root").arg(environment::tools());
    cargo.env("LLVM_PREFIX", &prefix).env("PATH", path).env("CARGO_TARGET_DIR", &build);
    // LLVM's directory is neither the linker's nor the loader's by default.
    let flags = ["-L", &library, "-C", &format!("link-arg=-Wl,-rpath,{library}")].join("\x1f");
    cargo.env("CARGO_ENCODED_RUSTFLAGS", flags);
    report::run_quietly("building", &describe(llvm), &mut cargo)?;
    fs::remove_dir_all(&build).with_context(|| format!("cannot remove {}", build.display()))
}

fn prefix(llvm: u32) -> PathBuf {
    PathBuf::from(format!("/usr/lib/llvm-{llvm}"))
}
