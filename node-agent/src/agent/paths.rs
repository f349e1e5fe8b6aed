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

/// What an agent leaves behind for `fairlead cleanup`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Remembered {
    /// Its places.
    pub paths: Paths,
    /// The cookie of the network namespace in which it ran; 0: not known.
    #[serde(default)]
    pub netns_cookie: u64,
    /// Directories that weren't there before it, outermost first.
    #[serde(default)]
    pub made: Vec<PathBuf>,
}

impl Remembered {
    /// Where the run directory remembers all this.
    pub fn file(run_dir: &Path) -> PathBuf {
        run_dir.join(REMEMBERED)
    }

    /// What an agent remembered in the run directory, if one did.
    pub fn load(run_dir: &Path) -> io::Result<Option<Self>> {
        match fs::read(Self::file(run_dir)) {
            Ok(text) => serde_json::from_slice(&text).map(Some).map_err(io::Error::other),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// What there is to remember of these places, before anything is made in them.
    pub fn survey(paths: Paths, netns_cookie: u64, earlier: Option<Self>) -> Self {
        let mut made = earlier.map(|earlier| earlier.made).unwrap_or_default();
        for dir in [&paths.run_dir, &paths.bpffs, &paths.cni_conf_dir, &paths.cni_bin_dir] {
            let missing: Vec<_> = dir.ancestors().take_while(|dir| !dir.exists()).map(Path::to_owned).collect();
            for dir in missing.into_iter().rev() {
                if !made.contains(&dir) {
                    made.push(dir);
                }
            }
        }
        Self { paths, netns_cookie, made }
    }

    /// Remembers it in the run directory, which must be there.
    pub fn store(&self) -> io::Result<()> {
        let at = Self::file(&self.paths.run_dir);
        let text = serde_json::to_vec_pretty(self).map_err(io::Error::other)?;
        let new = at.with_extension("json.new");
        fs::write(&new, text)?;
        fs::rename(&new, &at)
    }

    /// Removes the directories that were made, as far as they are empty. Says which.
    pub fn remove_made(&self) -> Vec<PathBuf> {
        self.made.iter().rev().filter(|dir| fs::remove_dir(dir).is_ok()).cloned().collect()
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
        assert_eq!(Remembered::load(dir.path()).unwrap(), None);
        let agents =
            PathFlags { bpffs: Some("/b".into()), cgroup: Some("/c".into()), ..flags(dir.path()) }.resolve(None);
        assert_eq!(agents.cni_bin_dir, Path::new("/opt/cni/bin"));
        let remembered = Remembered::survey(agents.clone(), 7, None);
        remembered.store().unwrap();
        assert_eq!(Remembered::load(dir.path()).unwrap().as_ref(), Some(&remembered));
        let cleanup = PathFlags { bpffs: Some("/other".into()), ..flags(dir.path()) }.resolve(Some(agents.clone()));
        assert_eq!(cleanup, Paths { bpffs: "/other".into(), ..agents });
    }

    #[test]
    fn only_directories_that_were_made_are_removed() {
        let dir = tempfile::tempdir().unwrap();
        let at = |path: &str| dir.path().join(path);
        fs::create_dir(at("there")).unwrap();
        let paths = Paths {
            run_dir: at("run/a"),
            bpffs: at("there"),
            cgroup: None,
            cni_conf_dir: at("there/conf"),
            cni_bin_dir: at("run/bin"),
        };
        let first = Remembered::survey(paths.clone(), 7, None);
        for made in [&paths.run_dir, &paths.cni_conf_dir, &paths.cni_bin_dir] {
            fs::create_dir_all(made).unwrap();
        }
        let second = Remembered::survey(paths.clone(), 7, Some(first.clone()));
        assert_eq!(second, first, "a restart finds them there, and remembers whose they are");
        fs::write(at("run/bin/other"), "").unwrap();
        assert_eq!(second.remove_made(), [paths.cni_conf_dir, paths.run_dir]);
        assert!(at("there").is_dir() && at("run/bin/other").is_file());
    }
}
