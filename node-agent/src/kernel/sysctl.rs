//! Kernel settings under `/proc/sys/net`, in the network namespace of the calling thread.
//!
//! In a container `/proc/sys` is read-only, and nothing can be mounted over it. Its manifest mounts the
//! host's at [`MOUNTED`], which is preferred where it is there.
//!
//! Invariant: a setting that already has the value is not written, so a read-only
//! `/proc/sys` that is right already does no harm.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};

const OWN: &str = "/proc/sys/net";
/// Where a container has the host's `/proc/sys/net`. Whose settings it shows depends on who reads.
const MOUNTED: &str = "/host/proc/sys/net";

/// The directory of all settings.
fn root() -> &'static Path {
    let mounted = Path::new(MOUNTED);
    if mounted.is_dir() { mounted } else { Path::new(OWN) }
}

/// A setting that could not be read or written.
#[derive(Debug, thiserror::Error)]
#[error("can't set {} to {value}: {source}", path.display())]
pub struct SysctlError {
    path: PathBuf,
    value: String,
    source: io::Error,
}

/// Sets `/proc/sys/net/<key>`; the key's parts are separated by slashes.
pub fn set(key: &str, value: &str) -> Result<(), SysctlError> {
    let path = root().join(key);
    if fs::read_to_string(&path).is_ok_and(|now| now.trim() == value) {
        return Ok(());
    }
    fs::write(&path, value).map_err(|source| SysctlError { path, value: value.to_owned(), source })
}

/// As [`set`], but a kernel without the setting (IPv6 switched off) is fine.
pub fn set_if_present(key: &str, value: &str) -> Result<(), SysctlError> {
    match set(key, value) {
        Err(e) if e.source.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result,
    }
}

/// One setting, as it is and as it should be.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Setting {
    /// The setting's name; its parts are separated by slashes.
    pub key: String,
    /// What it is.
    pub was: String,
    /// What it should be.
    pub wanted: String,
}

impl Setting {
    fn wanting(key: String, wanted: &str) -> Option<Self> {
        let was = read(&key)?;
        (was != wanted).then(|| Self { key, was, wanted: wanted.to_owned() })
    }

    /// Sets it as it should be.
    pub fn apply(&self) -> Result<(), SysctlError> {
        set_if_present(&self.key, &self.wanted)
    }

    /// Sets it as it was, unless somebody has changed it since; whether it did.
    pub fn restore(&self) -> Result<bool, SysctlError> {
        // One that was right all along may have followed another that was restored before.
        if self.was != self.wanted && read(&self.key).as_deref() != Some(&self.wanted) {
            return Ok(false);
        }
        set_if_present(&self.key, &self.was).map(|()| true)
    }
}

/// What keeps the node from forwarding between its pods and the world, in the order
/// in which to set it; undone in reverse order, all is as it was.
pub fn obstacles_to_forwarding() -> Vec<Setting> {
    let mut settings = Vec::new();
    for family in ["ipv4", "ipv6"] {
        // What is set for all is set for each, so those that differ come first.
        let all = read(&format!("{family}/conf/all/forwarding"));
        for name in interfaces(family).filter(|_| all.as_deref() == Some("0")) {
            let key = format!("{family}/conf/{name}/forwarding");
            if read(&key).as_deref() == Some("1") {
                settings.push(Setting { key, was: "1".to_owned(), wanted: "1".to_owned() });
            }
        }
    }
    // An interface that takes its IPv6 routes from router advertisements goes on doing
    // so: with forwarding on, `accept_ra` 1 would mean no.
    for name in interfaces("ipv6") {
        if read(&format!("ipv6/conf/{name}/forwarding")).as_deref() == Some("0") {
            let key = format!("ipv6/conf/{name}/accept_ra");
            settings.extend(Setting::wanting(key, "2").filter(|setting| setting.was == "1"));
        }
    }
    settings.extend(Setting::wanting("ipv4/ip_forward".to_owned(), "1"));
    settings.extend(Setting::wanting("ipv6/conf/all/forwarding".to_owned(), "1"));
    settings
}

/// What makes the reverse path filter a matter of each interface alone: the kernel
/// takes the stricter of an interface's setting and that of `all`, so `all` is
/// lowered and every interface keeps what was in force on it.
pub fn obstacles_to_local_reverse_path_filter() -> Vec<Setting> {
    let Some(all) = read("ipv4/conf/all/rp_filter").filter(|all| all != "0") else { return Vec::new() };
    let mut settings: Vec<_> = interfaces("ipv4")
        .filter_map(|name| Setting::wanting(format!("ipv4/conf/{name}/rp_filter"), &all))
        .filter(|setting| setting.was < all)
        .collect();
    settings.extend(Setting::wanting("ipv4/conf/all/rp_filter".to_owned(), "0"));
    settings
}

/// Lets an interface of another's take packets from addresses that are reached by
/// other ways, as answers of Services are; they must still be reachable by some way.
pub fn loosen_reverse_path_filter(name: &str) -> Result<(), SysctlError> {
    let key = format!("ipv4/conf/{name}/rp_filter");
    if read(&key).as_deref() == Some("1") { set_if_present(&key, "2") } else { Ok(()) }
}

/// What every device of ours on the node needs: no reverse path filter, packets
/// from the node's own addresses accepted, and no IPv6 address that the kernel
/// makes up, nor routes from a pod's router advertisements.
pub fn prepare_own_device(name: &str) -> Result<(), SysctlError> {
    set(&format!("ipv4/conf/{name}/rp_filter"), "0")?;
    set(&format!("ipv4/conf/{name}/accept_local"), "1")?;
    set_if_present(&format!("ipv6/conf/{name}/disable_ipv6"), "0")?;
    set_if_present(&format!("ipv6/conf/{name}/accept_ra"), "0")?;
    set_if_present(&format!("ipv6/conf/{name}/addr_gen_mode"), "1")
}

/// What a pod's own interface needs before it is set up: IPv6 on, no waiting for
/// duplicate address detection, no routes from router advertisements.
pub fn prepare_pod_device(name: &str, ipv6: bool) -> Result<(), SysctlError> {
    if !ipv6 {
        return Ok(());
    }
    set("ipv6/conf/lo/disable_ipv6", "0")?;
    set(&format!("ipv6/conf/{name}/disable_ipv6"), "0")?;
    set(&format!("ipv6/conf/{name}/accept_ra"), "0")?;
    set(&format!("ipv6/conf/{name}/accept_dad"), "0")
}

/// Reads `/proc/sys/net/<key>`; `None` if the kernel has no such setting.
pub fn read(key: &str) -> Option<String> {
    Some(fs::read_to_string(root().join(key)).ok()?.trim().to_owned())
}

/// The names of interfaces that have settings.
fn interfaces(family: &str) -> impl Iterator<Item = String> {
    let entries = fs::read_dir(root().join(family).join("conf")).into_iter().flatten();
    let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    names.filter(|name| name != "all")
}
