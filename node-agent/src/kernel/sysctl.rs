//! Kernel settings under `/proc/sys/net`, in the network namespace of the calling thread.
//!
//! Invariant: a setting that already has the value is not written, so a read-only
//! `/proc/sys` that is right already does no harm.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

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
    let path = Path::new("/proc/sys/net").join(key);
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

/// Lets the node forward between its pods and the world, in both families.
///
/// An interface that takes its IPv6 routes from router advertisements goes on
/// doing so: with forwarding on, `accept_ra` 1 would mean no.
pub fn enable_forwarding() -> Result<(), SysctlError> {
    set("ipv4/ip_forward", "1")?;
    for name in interfaces("ipv6") {
        if read(&format!("ipv6/conf/{name}/accept_ra")).as_deref() == Some("1")
            && read(&format!("ipv6/conf/{name}/forwarding")).as_deref() == Some("0")
            && name != "all"
        {
            set_if_present(&format!("ipv6/conf/{name}/accept_ra"), "2")?;
        }
    }
    set_if_present("ipv6/conf/all/forwarding", "1")
}

/// Makes the reverse path filter a matter of each interface alone: the kernel
/// takes the stricter of an interface's setting and that of `all`, so `all` is
/// lowered and every interface keeps what was in force on it.
pub fn localize_reverse_path_filter() -> Result<(), SysctlError> {
    let Some(all) = read("ipv4/conf/all/rp_filter") else { return Ok(()) };
    if all == "0" {
        return Ok(());
    }
    for name in interfaces("ipv4") {
        let key = format!("ipv4/conf/{name}/rp_filter");
        if name != "all" && read(&key).is_some_and(|own| own < all) {
            set_if_present(&key, &all)?;
        }
    }
    set("ipv4/conf/all/rp_filter", "0")
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
    Some(fs::read_to_string(Path::new("/proc/sys/net").join(key)).ok()?.trim().to_owned())
}

/// The names under `conf`: interfaces, `all` and `default`.
fn interfaces(family: &str) -> Vec<String> {
    let entries = fs::read_dir(Path::new("/proc/sys/net").join(family).join("conf")).into_iter().flatten();
    entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect()
}
