//! Removing a sandbox, of which only the name is known.
//!
//! It never fails: what can't be removed is left for the next run, which tries again.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
    thread,
    time::{Duration, Instant},
};

use nix::mount::{MntFlags, umount2};

use super::{DIRECTORY, KEPT, PREFIX, cgroup_mount, namespace::NAMESPACES};

/// How long processes may take to be gone once they are killed.
const PATIENCE: Duration = Duration::from_secs(5);

/// The names of all sandboxes of which anything is left.
pub(super) fn names() -> BTreeSet<String> {
    let directories = [PathBuf::from(DIRECTORY), cgroup_mount(), PathBuf::from(NAMESPACES)];
    let entries = directories.iter().filter_map(|directory| fs::read_dir(directory).ok()).flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter_map(|name| owner(&name).map(|_| name.split('-').next().unwrap_or_default().to_owned())).collect()
}

/// The process that made a sandbox; none if the name isn't a sandbox's.
pub(super) fn owner(name: &str) -> Option<u32> {
    let (pid, number) = name.strip_prefix(PREFIX)?.split_once('x')?;
    number.chars().next().filter(char::is_ascii_digit)?;
    pid.parse().ok()
}

/// Whether a process with this id exists.
pub(super) fn is_alive(pid: u32) -> bool {
    Path::new("/proc").join(pid.to_string()).exists()
}

/// Whether a sandbox is to outlive its process.
pub(super) fn is_kept(name: &str) -> bool {
    Path::new(DIRECTORY).join(name).join(KEPT).exists()
}

/// Removes the sandboxes that were kept, whoever made them; gives their names.
pub fn remove_kept() -> Vec<String> {
    let kept: Vec<_> = names().into_iter().filter(|name| is_kept(name)).collect();
    for name in &kept {
        remove(name);
    }
    kept
}

/// Removes a sandbox: processes first, since they hold the rest.
pub(super) fn remove(name: &str) {
    let cgroup = cgroup_mount().join(name);
    kill(&cgroup);
    for mount in mounts_below(&Path::new(DIRECTORY).join(name)) {
        let _ = umount2(&mount, MntFlags::MNT_DETACH);
    }
    for namespace in namespaces(name) {
        // Not heard either: two threads of a process that ends may both be at it.
        let _ = Command::new("ip").args(["netns", "delete", &namespace]).output();
    }
    remove_cgroups(&cgroup);
    let _ = fs::remove_dir_all(Path::new(DIRECTORY).join(name));
    // Gone with the last sandbox; until then this fails.
    let _ = fs::remove_dir(DIRECTORY);
}

/// Ends every process in a cgroup, waits until they are gone, and removes it.
pub fn end_cgroup(cgroup: &Path) {
    kill(cgroup);
    remove_cgroups(cgroup);
}

fn kill(cgroup: &Path) {
    if fs::write(cgroup.join("cgroup.kill"), "1").is_err() {
        return;
    }
    let end = Instant::now() + PATIENCE;
    let populated = || fs::read_to_string(cgroup.join("cgroup.events")).is_ok_and(|text| text.contains("populated 1"));
    while populated() && Instant::now() < end {
        thread::sleep(Duration::from_millis(2));
    }
}

/// The mounts below a directory, the innermost first.
fn mounts_below(directory: &Path) -> Vec<PathBuf> {
    let mounts = fs::read_to_string("/proc/mounts").unwrap_or_default();
    let paths = mounts.lines().filter_map(|line| line.split(' ').nth(1)).map(PathBuf::from);
    let mut below: Vec<_> = paths.filter(|path| path.starts_with(directory)).collect();
    below.reverse();
    below
}

fn namespaces(sandbox: &str) -> Vec<String> {
    let entries = fs::read_dir(NAMESPACES).into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    names.filter(|name| name.split('-').next() == Some(sandbox)).collect()
}

/// A cgroup can be removed only once those below it are.
fn remove_cgroups(cgroup: &Path) {
    for entry in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove_cgroups(&entry.path());
        }
    }
    let _ = fs::remove_dir(cgroup);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_names_are_ours() {
        let cases = [
            ("flt12x0", Some(12)),
            ("flt12x3-node-a", Some(12)),
            ("flt12", None),
            ("fltx1", None),
            ("flt12xy", None),
            ("fltab1x1", None),
            ("flannel", None),
        ];
        for (name, expected) in cases {
            assert_eq!(owner(name), expected, "{name}");
        }
    }
}
