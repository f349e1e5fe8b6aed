//! What a test makes outside of its own memory: namespaces, a cgroup, mounts, a directory.
//!
//! Invariant: everything bears the sandbox's name, and the name bears the process's id. So tearing
//! down needs no list of what was made, and what a killed run left is recognised by the next.

mod command;
mod namespace;
mod reaper;
mod teardown;

use std::{
    fs,
    path::{Path, PathBuf},
    process,
    sync::atomic::{AtomicU32, Ordering},
};

use nix::mount::{MsFlags, mount};

pub use command::{output, run};
pub use namespace::Namespace;
pub(crate) use reaper::program;
pub use reaper::{abandon, reap};
pub use teardown::{end_cgroup, remove_kept};

/// What every name of ours begins with.
const PREFIX: &str = "flt";
/// Where the sandboxes' directories lie: a short path, since Unix sockets' are limited.
const DIRECTORY: &str = "/run/fairlead-test";
/// The file in a sandbox's directory that says that it outlives its process.
const KEPT: &str = "kept";

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A directory, a cgroup and namespaces under one name; dropping it removes them all, and ends the
/// processes in the cgroup.
#[derive(Debug)]
pub struct Sandbox {
    name: String,
}

impl Sandbox {
    /// Makes an empty one. Also removes what runs left that were killed together with their reaper.
    ///
    /// # Panics
    /// If this process isn't root.
    pub fn new() -> Self {
        assert!(nix::unistd::geteuid().is_root(), "network namespaces need root: `sudo -E cargo xtask test`");
        reaper::start();
        let name = format!("{}{}", owner_prefix(process::id()), NEXT.fetch_add(1, Ordering::Relaxed));
        let sandbox = Self { name };
        make_directory(&sandbox.directory());
        make_directory(&sandbox.cgroup());
        sandbox
    }

    /// A directory of its own.
    pub fn directory(&self) -> PathBuf {
        Path::new(DIRECTORY).join(&self.name)
    }

    /// A cgroup of its own, below the cgroup v2 mount.
    pub fn cgroup(&self) -> PathBuf {
        cgroup_mount().join(&self.name)
    }

    /// Lets it outlive this process, until `remove_kept`; dropping it still removes it.
    ///
    /// # Panics
    /// If its directory can't be written to.
    pub fn keep(&self) {
        let mark = self.directory().join(KEPT);
        fs::write(&mark, "").unwrap_or_else(|error| panic!("cannot write {}: {error}", mark.display()));
    }

    /// Makes a network namespace, with nothing but its loopback interface up.
    pub fn namespace(&self, name: &str) -> Namespace {
        Namespace::create(&format!("{}-{name}", self.name))
    }
}

impl Default for Sandbox {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        teardown::remove(&self.name);
    }
}

/// What the names of this process's sandboxes begin with.
fn owner_prefix(pid: u32) -> String {
    format!("{PREFIX}{pid}x")
}

/// Where the cgroup v2 hierarchy is mounted; beside version 1 it is not at the usual place.
///
/// # Panics
/// If it isn't mounted.
pub fn cgroup_mount() -> PathBuf {
    let mounts = fs::read_to_string("/proc/mounts").expect("/proc/mounts can be read");
    let mount = mounts.lines().find_map(|line| {
        let mut fields = line.split(' ').skip(1);
        let (path, kind) = (fields.next()?, fields.next()?);
        (kind == "cgroup2").then(|| PathBuf::from(path))
    });
    mount.expect("cgroup v2 is mounted: `mount -t cgroup2 none /sys/fs/cgroup/unified`")
}

/// Makes a directory and those above it.
///
/// # Panics
/// If it can't be made.
pub fn make_directory(path: &Path) {
    fs::create_dir_all(path).unwrap_or_else(|error| panic!("cannot make {}: {error}", path.display()));
}

/// Mounts a filesystem that needs no device. The sandbox it lies in unmounts it.
///
/// # Panics
/// If it can't be mounted.
pub fn mount_filesystem(kind: &str, path: &Path, options: Option<&str>) {
    mount(Some(kind), path, Some(kind), MsFlags::empty(), options)
        .unwrap_or_else(|error| panic!("cannot mount {kind} at {}: {error}", path.display()));
}
