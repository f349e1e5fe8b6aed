//! Places on this machine: as flags, as the agent uses them, and as the run
//! directory remembers them for `fairlead cleanup`.
//!
//! This module must not know what lies in these places.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use clap::Args;
use serde::{Deserialize, Serialize};

const REMEMBERED: &str = "agent.json";

/// Flags that name places. `fairlead cleanup` takes them as the agent does.
#[derive(Args, Clone, Debug)]
pub struct PathFlags {
    /// Sockets, IPAM state and lock
    #[arg(long, env = "FAIRLEAD_RUN_DIR", default_value = "/run/fairlead", value_name = "DIR",
          value_parser = parse_absolute)]
    pub run_dir: PathBuf,

    /// Where tables and attachments are pinned [default: /sys/fs/bpf/fairlead]
    #[arg(long, env = "FAIRLEAD_BPFFS", value_name = "DIR", value_parser = parse_absolute)]
    pub bpffs: Option<PathBuf>,

    /// Where the socket hooks are attached [default: the cgroup2 mount]
    #[arg(long, env = "FAIRLEAD_CGROUP", value_name = "DIR", value_parser = parse_absolute)]
    pub cgroup: Option<PathBuf>,

    /// Where 10-fairlead.conflist is put [default: /etc/cni/net.d]
    #[arg(long, env = "FAIRLEAD_CNI_CONF_DIR", value_name = "DIR", value_parser = parse_absolute)]
    pub cni_conf_dir: Option<PathBuf>,

    /// Where the CNI plugin is put [default: /opt/cni/bin]
    #[arg(long, env = "FAIRLEAD_CNI_BIN_DIR", value_name = "DIR", value_parser = parse_absolute)]
    pub cni_bin_dir: Option<PathBuf>,
}

/// Parses a path, relative ones from the working directory.
pub fn parse_absolute(text: &str) -> Result<PathBuf, String> {
    std::path::absolute(text).map_err(|error| error.to_string())
}

/// The places that an agent uses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Paths {
    /// Sockets, IPAM state and lock.
    pub run_dir: PathBuf,
    /// Pins.
    pub bpffs: PathBuf,
    /// The cgroup of the socket hooks; none: the root of the cgroup2 mount.
    pub cgroup: Option<PathBuf>,
    /// Where container runtimes look for network configuration.
    pub cni_conf_dir: PathBuf,
    /// Where container runtimes look for plugins.
    pub cni_bin_dir: PathBuf,
}

impl PathFlags {
    /// What is not given is as remembered, else the default.
    pub fn resolve(&self, remembered: Option<Paths>) -> Paths {
        let (bpffs, cgroup, conf, bin) = match remembered {
            Some(paths) => (Some(paths.bpffs), paths.cgroup, Some(paths.cni_conf_dir), Some(paths.cni_bin_dir)),
            None => (None, None, None, None),
        };
        let choose = |given: &Option<PathBuf>, remembered: Option<PathBuf>, default: &str| {
            given.clone().or(remembered).unwrap_or_else(|| default.into())
        };
        Paths {
            run_dir: self.run_dir.clone(),
            bpffs: choose(&self.bpffs, bpffs, "/sys/fs/bpf/fairlead"),
            cgroup: self.cgroup.clone().or(cgroup),
            cni_conf_dir: choose(&self.cni_conf_dir, conf, "/etc/cni/net.d"),
            cni_bin_dir: choose(&self.cni_bin_dir, bin, "/opt/cni/bin"),
        }
    }
}

impl Paths {
    /// Where the run directory remembers all this.
    pub fn remembered_at(run_dir: &Path) -> PathBuf {
        run_dir.join(REMEMBERED)
    }

    /// Remembers the places in the run directory, which must be there.
    pub fn remember(&self) -> io::Result<()> {
        let at = Self::remembered_at(&self.run_dir);
        let text = serde_json::to_vec_pretty(self).map_err(io::Error::other)?;
        let new = at.with_extension("json.new");
        fs::write(&new, text)?;
        fs::rename(&new, &at)
    }

    /// What an agent remembered in the run directory, if one did.
    pub fn remembered(run_dir: &Path) -> io::Result<Option<Self>> {
        match fs::read(Self::remembered_at(run_dir)) {
            Ok(text) => serde_json::from_slice(&text).map(Some).map_err(io::Error::other),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flags(run_dir: &Path) -> PathFlags {
        PathFlags { run_dir: run_dir.into(), bpffs: None, cgroup: None, cni_conf_dir: None, cni_bin_dir: None }
    }

    #[test]
    fn a_flag_beats_what_is_remembered_which_beats_the_default() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Paths::remembered(dir.path()).unwrap(), None);
        let agents =
            PathFlags { bpffs: Some("/b".into()), cgroup: Some("/c".into()), ..flags(dir.path()) }.resolve(None);
        assert_eq!(agents.cni_bin_dir, Path::new("/opt/cni/bin"));
        agents.remember().unwrap();
        let remembered = Paths::remembered(dir.path()).unwrap();
        assert_eq!(remembered.as_ref(), Some(&agents));
        let cleanup = PathFlags { bpffs: Some("/other".into()), ..flags(dir.path()) }.resolve(remembered);
        assert_eq!(cleanup, Paths { bpffs: "/other".into(), ..agents });
    }
}
