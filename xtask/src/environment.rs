//! Where things are, and commands whose environment is clean.
//!
//! Invariant: a cargo started for another toolchain inherits nothing of the cargo that runs this
//! program, so that the two never rebuild each other's work.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

/// The workspace's root.
pub fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("xtask lies in the workspace's root")
}

/// A path below `target/`.
pub fn target(path: &str) -> PathBuf {
    root().join("target").join(path)
}

/// Where tools that are built from source are kept.
pub fn tools() -> PathBuf {
    target("tools")
}

/// The first executable of this name on PATH or in the system's own directories, which an ordinary
/// user's PATH leaves out.
pub fn which(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/local/sbin", "/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|directory| directory.join(name))
        .find(|candidate| candidate.is_file())
}

/// Whether this process may install packages and make network namespaces.
pub fn is_root() -> bool {
    // The owner of /proc/self is the effective user, which spares a call into libc.
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|metadata| metadata.uid() == 0)
}

/// The cargo that the developer called, on this workspace.
pub fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    strip_package_variables(&mut command);
    command.current_dir(root());
    command
}

/// A program of another toolchain: nothing of the calling cargo or rustup reaches it.
pub fn foreign(program: impl AsRef<Path>) -> Command {
    let mut command = Command::new(program.as_ref());
    strip_package_variables(&mut command);
    for variable in ["CARGO", "RUSTUP_TOOLCHAIN", "LD_LIBRARY_PATH", "CARGO_BUILD_TARGET", "CARGO_TARGET_DIR"] {
        command.env_remove(variable);
    }
    for (variable, _) in env::vars_os() {
        let name = variable.to_string_lossy();
        let flags = name.starts_with("RUSTC") || name.starts_with("RUSTFLAGS") || name.starts_with("CARGO_ENCODED");
        if flags || name.starts_with("CARGO_PROFILE_") || name.starts_with("CARGO_BUILD_RUST") {
            command.env_remove(&variable);
        }
    }
    command.current_dir(root());
    command
}

/// Removes what `cargo run` told this program about itself: a build script that reads one of these
/// would otherwise be run again at every change of caller.
fn strip_package_variables(command: &mut Command) {
    for (variable, _) in env::vars_os() {
        let name = variable.to_string_lossy();
        if ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CRATE_", "CARGO_PRIMARY_"]
            .iter()
            .any(|prefix| name.starts_with(prefix))
        {
            command.env_remove(&variable);
        }
    }
}
