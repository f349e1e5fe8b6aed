//! The cgroup at which the socket hooks are attached.
//!
//! This module must not know which hooks there are.

use std::{
    fs::{self, File},
    io,
    os::{
        fd::{AsFd, BorrowedFd},
        unix::fs::MetadataExt,
    },
    path::{Path, PathBuf},
};

use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, fstatfs};

/// Why there is no cgroup to attach to.
#[derive(Debug, thiserror::Error)]
pub enum CgroupError {
    /// No cgroup v2 hierarchy is mounted.
    #[error(
        "no cgroup2 mount in /proc/self/mounts: mount one, name one with --cgroup, or do without socket hooks \
         with --socket-lb=false"
    )]
    NotMounted,
    /// The directory is something else.
    #[error("{0} is not in a cgroup2 hierarchy; --cgroup must name a directory of one")]
    NotCgroup2(PathBuf),
    /// It can't be opened.
    #[error("cannot open cgroup {path}: {source}")]
    Open {
        /// The directory.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
}

/// An open cgroup directory.
#[derive(Debug)]
pub struct Cgroup {
    dir: File,
    id: u64,
}

impl Cgroup {
    /// Opens the one named, else the root of the first cgroup2 hierarchy mounted.
    pub fn open(named: Option<&Path>) -> Result<Self, CgroupError> {
        let path = match named {
            Some(path) => path.to_owned(),
            None => {
                let mounts = fs::read_to_string("/proc/self/mounts").unwrap_or_default();
                first_cgroup2(&mounts).ok_or(CgroupError::NotMounted)?
            }
        };
        let open = |source| CgroupError::Open { path: path.clone(), source };
        let dir = File::open(&path).map_err(open)?;
        let kind = fstatfs(&dir).map_err(|errno| open(errno.into()))?.filesystem_type();
        if kind != CGROUP2_SUPER_MAGIC {
            return Err(CgroupError::NotCgroup2(path));
        }
        let id = dir.metadata().map_err(open)?.ino();
        Ok(Self { dir, id })
    }

    /// The kernel's id of the cgroup: its directory's inode number.
    pub fn id(&self) -> u64 {
        self.id
    }

    /// The directory's descriptor.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.dir.as_fd()
    }
}

fn first_cgroup2(mounts: &str) -> Option<PathBuf> {
    let fields = mounts.lines().map(|line| line.split(' ').collect::<Vec<_>>());
    let mut cgroup2 = fields.filter(|fields| fields.get(2) == Some(&"cgroup2"));
    cgroup2.next().map(|fields| PathBuf::from(fields[1].replace("\\040", " ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_cgroup2_mount_is_taken() {
        let check = |mounts, expected: Option<&str>| assert_eq!(first_cgroup2(mounts), expected.map(PathBuf::from));
        check("", None);
        check("cgroup /sys/fs/cgroup/cpu cgroup rw 0 0", None);
        let hybrid = "cgroup /sys/fs/cgroup/cpu cgroup rw 0 0\ncgroup2 /sys/fs/cgroup/unified cgroup2 rw 0 0\n";
        check(hybrid, Some("/sys/fs/cgroup/unified"));
        check("none /a\\040b cgroup2 rw 0 0\ncgroup2 /c cgroup2 rw 0 0", Some("/a b"));
    }
}
