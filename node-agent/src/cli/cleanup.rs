//! `fairlead cleanup`: removes all that Fairlead made on this node, and nothing else.
//!
//! Each thing is recognised as ours by what its module says of it. The order is
//! that of an agent's start reversed: first no new pods, then no more packets,
//! then the tables. What is gone already is fine, so it can be run again.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use tokio::runtime::Builder;

use super::{
    arguments::{CleanupArguments, Format},
    print_json,
};
use crate::{
    agent::{
        install::{self, InstallError},
        lock::{LockError, RunDirLock},
        paths::Remembered,
        settings::{self, SettingsError},
    },
    api::socket_path,
    cni::store::{Store, StoreError},
    kernel::{
        bpffs::{Bpffs, BpffsError},
        links::{LinkError, Links},
        netlink::{HOST_DEVICE, Netlink, NetlinkError, OVERLAY_DEVICE},
        netns::{self, NetnsError},
    },
};

/// Why something was left.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each says what its cause says")]
pub enum CleanupError {
    #[error(transparent)]
    Lock(#[from] LockError),
    #[error(transparent)]
    Install(#[from] InstallError),
    #[error(transparent)]
    Bpffs(#[from] BpffsError),
    #[error(transparent)]
    Link(#[from] LinkError),
    #[error(transparent)]
    Netns(#[from] NetnsError),
    #[error(transparent)]
    Netlink(#[from] NetlinkError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error("cannot read {path}: {source}; remove it and give all path flags that the agent had")]
    Forgotten { path: PathBuf, source: io::Error },
    #[error("cannot {verb} {path}: {source}")]
    File { verb: &'static str, path: PathBuf, source: io::Error },
    #[error("cannot print: {0}")]
    Print(#[from] io::Error),
}

/// Removes everything and says what it was.
pub fn run(arguments: &CleanupArguments) -> Result<(), CleanupError> {
    let run_dir = &arguments.paths.run_dir;
    let remembered = Remembered::load(run_dir)
        .map_err(|source| CleanupError::Forgotten { path: Remembered::file(run_dir), source })?;
    let paths = arguments.paths.resolve(remembered.as_ref().map(|remembered| remembered.paths.clone()));
    let netns_cookie = remembered.as_ref().map_or(0, |remembered| remembered.netns_cookie);
    // What an agent made, and what the lock is about to make.
    let made = Remembered::survey(paths.clone(), netns_cookie, remembered);
    let were_there: Vec<PathBuf> = made.made.iter().filter(|dir| dir.exists()).cloned().collect();
    let lock = RunDirLock::take(run_dir)?;

    let mut removed: Vec<String> = Vec::new();
    removed.extend(install::uninstall(&paths)?.iter().map(|path| path.display().to_string()));
    match netns_cookie == 0 || netns_cookie == netns::current_cookie()? {
        true => removed.extend(remove_devices(run_dir)?),
        // Run from elsewhere; what is gone has taken its interfaces with it.
        false => {
            if let Some(netns) = netns::find(netns_cookie) {
                removed.extend(netns.run(|| remove_devices(run_dir))??);
            }
        }
    }
    if let Some(bpffs) = Bpffs::existing(&paths.bpffs) {
        if bpffs.links().is_dir() {
            let links = Links::new(bpffs.links(), None).prune(|_| false)?;
            removed.extend(links.iter().map(|hook| format!("program at {hook}")));
        }
        removed.extend(bpffs.remove()?);
    }
    removed.extend(remove_files(run_dir, lock)?);
    let dirs = made.remove_made().into_iter().filter(|dir| were_there.contains(dir));
    removed.extend(dirs.map(|dir| dir.display().to_string()));

    match arguments.output {
        Format::Json => print_json(&serde_json::json!({ "removed": removed }))?,
        Format::Table if removed.is_empty() => anstream::println!("nothing of Fairlead's is here"),
        Format::Table => removed.iter().for_each(|what| anstream::println!("removed {what}")),
    }
    Ok(())
}

fn file(verb: &'static str, path: &Path) -> impl FnOnce(io::Error) -> CleanupError {
    move |source| CleanupError::File { verb, path: path.to_owned(), source }
}

/// Pods' interfaces that the run directory knows, the node's own devices, routes, and
/// settings of the kernel, which become what they were.
fn remove_devices(run_dir: &Path) -> Result<Vec<String>, CleanupError> {
    let runtime = Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let netlink = Netlink::open()?;
        let mut removed = Vec::new();
        for pod in Store::new(run_dir).load()?.attachments {
            let is_ours = netlink.link(&pod.host_ifname).await?.is_some_and(|link| link.index == pod.host_ifindex);
            if is_ours && netlink.delete_link(&pod.host_ifname).await? {
                removed.push(format!("interface {}", pod.host_ifname));
            }
        }
        for route in netlink.our_routes().await? {
            if netlink.delete_route(&route).await? {
                removed.push(format!("route to {route}"));
            }
        }
        for network in netlink.unreachable().await? {
            if netlink.delete_unreachable(&network).await? {
                removed.push(format!("unreachable route to {network}"));
            }
        }
        if netlink.delete_host_device().await? {
            removed.push(format!("interface {HOST_DEVICE}"));
        }
        if netlink.delete_overlay().await? {
            removed.push(format!("interface {OVERLAY_DEVICE}"));
        }
        removed.extend(settings::restore(run_dir)?);
        Ok(removed)
    })
}

/// The files that an agent makes in its run directory.
fn remove_files(run_dir: &Path, lock: RunDirLock) -> Result<Vec<String>, CleanupError> {
    let mut removed = Vec::new();
    let store = Store::new(run_dir);
    let note = settings::note(run_dir);
    for path in [store.path().to_owned(), note, Remembered::file(run_dir), socket_path(run_dir)] {
        match fs::remove_file(&path) {
            Ok(()) => removed.push(path.display().to_string()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(file("remove", &path)(error)),
        }
    }
    lock.remove(run_dir).map_err(file("remove the lock in", run_dir))?;
    Ok(removed)
}
