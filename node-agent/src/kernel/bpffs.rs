//! The directory on bpffs in which everything of ours is pinned.
//!
//! ```text
//! <bpffs>/maps-<layout hash>/<TABLE>   tables, one directory a layout
//! <bpffs>/maps-<layout hash>/meanings  what they mean: a symbolic link to nowhere, whose target says it
//! <bpffs>/in-force                     a symbolic link to the tables of the programs that are attached
//! <bpffs>/programs-<tag>/<program>     programs, loaded over those very tables
//! <bpffs>/links/<hook>                 attachments
//! ```
//!
//! A restarted agent knows its pins by their place, its tables' layout and its
//! programs' code by their directories' names, and a bpffs that it mounted itself
//! by the mount's source, `fairlead`. This module must not know what the pinned
//! objects do.

use std::{
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use datapath::abi::layout_hash;
use nix::{
    mount::{MsFlags, mount, umount},
    sys::statfs::{BPF_FS_MAGIC, statfs},
};

/// The source that a bpffs mounted by us shows in `/proc/self/mountinfo`.
const MOUNT_SOURCE: &str = "fairlead";
const DEFAULT_MOUNT: &str = "/sys/fs/bpf";
const MAPS_PREFIX: &str = "maps-";
const PROGRAMS_PREFIX: &str = "programs-";
const LINKS: &str = "links";
const IN_FORCE: &str = "in-force";
const MEANINGS: &str = "meanings";
/// In a directory of tables that have been in force.
const SERVED: &str = "served";
/// What the name of tables of ours ends with that were in force before another version's.
const LEFT: &str = "-left";

/// Why the pin directory can't be used.
#[derive(Debug, thiserror::Error)]
pub enum BpffsError {
    /// Mounting was refused.
    #[error("cannot mount bpffs at {path}: {source}; it needs CAP_SYS_ADMIN and a kernel with CONFIG_BPF_SYSCALL")]
    Mount {
        /// The mount point.
        path: PathBuf,
        /// What the kernel said.
        source: nix::Error,
    },
    /// A directory or pin could not be made, read or removed.
    #[error("cannot {verb} {path}: {source}")]
    Access {
        /// What was tried.
        verb: &'static str,
        /// Where.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

fn access(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> BpffsError {
    move |source| BpffsError::Access { verb, path: path.to_owned(), source }
}

/// The pin directory.
#[derive(Clone, Debug)]
pub struct Bpffs {
    root: PathBuf,
}

impl Bpffs {
    /// The directory at `root`, made and mounted if need be.
    pub fn prepare(root: &Path) -> Result<Self, BpffsError> {
        if !on_bpffs(root) {
            let point = if root.starts_with(DEFAULT_MOUNT) { Path::new(DEFAULT_MOUNT) } else { root };
            fs::create_dir_all(point).map_err(access("make the directory", point))?;
            mount(Some(MOUNT_SOURCE), point, Some("bpf"), MsFlags::empty(), Some("mode=0700"))
                .map_err(|source| BpffsError::Mount { path: point.to_owned(), source })?;
        }
        let bpffs = Self { root: root.to_owned() };
        let links = bpffs.links();
        fs::create_dir_all(&links).map_err(access("make the directory", &links))?;
        Ok(bpffs)
    }

    /// The directory at `root` if it is there.
    pub fn existing(root: &Path) -> Option<Self> {
        (root.is_dir() && on_bpffs(root)).then(|| Self { root: root.to_owned() })
    }

    /// Where tables of this binary's layout are pinned.
    pub fn maps(&self) -> PathBuf {
        self.root.join(format!("{MAPS_PREFIX}{:016x}", layout_hash()))
    }

    /// Where links are pinned.
    pub fn links(&self) -> PathBuf {
        self.root.join(LINKS)
    }

    /// Where programs of this tag are pinned.
    pub fn programs(&self, tag: u64) -> PathBuf {
        self.root.join(format!("{PROGRAMS_PREFIX}{tag:016x}"))
    }

    /// Where programs are pinned until all of them are.
    pub fn unfinished_programs(&self) -> PathBuf {
        self.root.join(format!("{PROGRAMS_PREFIX}unfinished"))
    }

    /// The tables of other layouts, left by other versions, and ours from before those.
    pub fn foreign_maps(&self) -> Result<Vec<PathBuf>, BpffsError> {
        let ours = self.maps();
        Ok(entries(&self.root)?.into_iter().filter(|path| has_prefix(path, MAPS_PREFIX) && *path != ours).collect())
    }

    /// The tables of the programs that are attached, as far as an agent has said.
    pub fn in_force(&self) -> Option<PathBuf> {
        let target = fs::read_link(self.root.join(IN_FORCE)).ok()?;
        Some(self.root.join(target)).filter(|maps| maps.is_dir())
    }

    /// Says that ours are these tables from now on.
    pub fn set_in_force(&self) -> Result<(), BpffsError> {
        let (ours, place) = (self.maps(), self.root.join(IN_FORCE));
        link_to(SERVED, &ours.join(SERVED))?;
        if self.in_force().as_ref() == Some(&ours) {
            return Ok(());
        }
        let nascent = self.root.join(format!("{IN_FORCE}-next"));
        remove_file(&nascent)?;
        link_to(ours.file_name().and_then(|name| name.to_str()).unwrap_or_default(), &nascent)?;
        // In one step: there is always one that says so.
        fs::rename(&nascent, &place).map_err(access("replace", &place))
    }

    /// Makes the directory of our tables, if it isn't there, and says in it what they mean.
    pub fn make_maps(&self, meanings: &str) -> Result<(), BpffsError> {
        let ours = self.maps();
        fs::create_dir_all(&ours).map_err(access("make the directory", &ours))?;
        link_to(meanings, &ours.join(MEANINGS))
    }

    /// What the version that made these tables says that they mean.
    pub fn meanings(maps: &Path) -> Option<String> {
        Some(fs::read_link(maps.join(MEANINGS)).ok()?.to_str()?.to_owned())
    }

    /// Clears the way for tables of ours where another version's are in force: what was in force before them is
    /// put aside, and what never was is removed. So are pinned programs, which would keep them alive.
    pub fn begin_anew(&self) -> Result<(), BpffsError> {
        for dir in entries(&self.root)?.iter().filter(|path| has_prefix(path, PROGRAMS_PREFIX)) {
            remove_pins(dir)?;
        }
        let ours = self.maps();
        if !ours.is_dir() {
            return Ok(());
        }
        if fs::symlink_metadata(ours.join(SERVED)).is_err() {
            return remove_pins(&ours);
        }
        let left = self.root.join(format!("{MAPS_PREFIX}{:016x}{LEFT}", layout_hash()));
        if left.is_dir() {
            remove_pins(&left)?;
        }
        fs::rename(&ours, &left).map_err(access("put aside", &ours))
    }

    /// Removes the tables of other layouts and all programs but those pinned in
    /// `programs`. What still uses them keeps them alive.
    pub fn remove_others(&self, programs: &Path) -> Result<Vec<PathBuf>, BpffsError> {
        let ours = self.maps();
        let mut others = entries(&self.root)?;
        others.retain(|path| is_ours(path) && *path != ours && *path != programs && *path != self.links());
        others.iter().try_for_each(|dir| remove_pins(dir))?;
        Ok(others)
    }

    /// Removes everything below, the directory itself if nothing else is in it, and
    /// the mount if it is ours and empty. Says what was removed.
    pub fn remove(self) -> Result<Vec<String>, BpffsError> {
        let mut removed = Vec::new();
        for link in [IN_FORCE.to_owned(), format!("{IN_FORCE}-next")].map(|name| self.root.join(name)) {
            if remove_file(&link)? {
                removed.push(link.display().to_string());
            }
        }
        for dir in entries(&self.root)? {
            if is_ours(&dir) {
                remove_pins(&dir)?;
                removed.push(dir.display().to_string());
            }
        }
        let mounts = own_mounts();
        if !is_empty(&self.root)? {
            return Ok(removed);
        }
        if !mounts.contains(&self.root) && self.root != Path::new(DEFAULT_MOUNT) && fs::remove_dir(&self.root).is_ok() {
            removed.push(self.root.display().to_string());
        }
        for point in mounts {
            if self.root.starts_with(&point) && is_empty(&point)? {
                umount(&point).map_err(|errno| BpffsError::Access {
                    verb: "unmount",
                    path: point.clone(),
                    source: errno.into(),
                })?;
                removed.push(format!("mount {}", point.display()));
            }
        }
        Ok(removed)
    }
}

/// Whether nothing is there but what the kernel puts into every bpffs.
fn is_empty(dir: &Path) -> Result<bool, BpffsError> {
    let is_kernels = |path: &PathBuf| path.ends_with("maps.debug") || path.ends_with("progs.debug");
    Ok(entries(dir)?.iter().all(is_kernels))
}

/// A symbolic link to whatever `target` says, unless there is one.
fn link_to(target: &str, link: &Path) -> Result<(), BpffsError> {
    match symlink(target, link) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        result => result.map_err(access("make the link", link)),
    }
}

/// Removes a file; false if there is none.
fn remove_file(path: &Path) -> Result<bool, BpffsError> {
    match fs::remove_file(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        result => result.map(|()| true).map_err(access("remove", path)),
    }
}

/// Removes a directory of pins.
pub fn remove_pins(dir: &Path) -> Result<(), BpffsError> {
    for pin in entries(dir)? {
        fs::remove_file(&pin).map_err(access("remove", &pin))?;
    }
    fs::remove_dir(dir).map_err(access("remove", dir))
}

fn is_ours(path: &Path) -> bool {
    has_prefix(path, MAPS_PREFIX) || has_prefix(path, PROGRAMS_PREFIX) || path.ends_with(LINKS)
}

fn has_prefix(path: &Path, prefix: &str) -> bool {
    path.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with(prefix))
}

fn entries(dir: &Path) -> Result<Vec<PathBuf>, BpffsError> {
    let listing = fs::read_dir(dir).map_err(access("list", dir))?;
    listing.map(|entry| Ok(entry.map_err(access("list", dir))?.path())).collect()
}

/// Whether the path, or what is there of it, lies on a bpffs.
fn on_bpffs(path: &Path) -> bool {
    let there = path.ancestors().find(|ancestor| ancestor.exists());
    there.and_then(|there| statfs(there).ok()).is_some_and(|stat| stat.filesystem_type() == BPF_FS_MAGIC)
}

fn own_mounts() -> Vec<PathBuf> {
    let mountinfo = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    parse_own_mounts(&mountinfo)
}

/// Mount points of type bpf whose source is ours; proc(5) describes the fields.
fn parse_own_mounts(mountinfo: &str) -> Vec<PathBuf> {
    let ours = |line: &str| {
        let (mount, filesystem) = line.split_once(" - ")?;
        let mut filesystem = filesystem.split(' ');
        let is_ours = filesystem.next() == Some("bpf") && filesystem.next() == Some(MOUNT_SOURCE);
        is_ours.then(|| mount.split(' ').nth(4).map(|point| PathBuf::from(point.replace("\\040", " "))))?
    };
    mountinfo.lines().filter_map(ours).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_bpffs_that_we_mounted_is_ours() {
        let mountinfo = "\
36 25 0:31 / /sys/fs/bpf rw,nosuid shared:9 - bpf bpf rw,mode=700
81 25 0:52 / /tmp/a\\040b rw - bpf fairlead rw,mode=700
82 25 0:53 / /tmp/c rw - tmpfs fairlead rw";
        assert_eq!(parse_own_mounts(mountinfo), [PathBuf::from("/tmp/a b")]);
    }
}
