//! Network namespaces for tests: made without a name, gone with the last handle.

use std::{fs::File, os::fd::AsRawFd, path::PathBuf, thread};

use nix::sched::{CloneFlags, unshare};
use node_agent::kernel::{
    netlink::{Netlink, NetlinkError},
    netns::Netns,
};

/// Whether network namespaces can be made. In CI they must be.
pub fn privileged() -> bool {
    if nix::unistd::geteuid().is_root() {
        return true;
    }
    assert!(std::env::var("CI").is_err(), "these tests make network namespaces: CI must run them as root");
    eprintln!("skipped: making network namespaces takes root");
    false
}

/// A network namespace that lives as long as this; its path can be opened by
/// anyone in this process.
pub struct Namespace {
    file: File,
    pub path: PathBuf,
}

impl Namespace {
    pub fn new() -> Self {
        let make = || {
            unshare(CloneFlags::CLONE_NEWNET).expect("a network namespace can be made");
            File::open("/proc/thread-self/ns/net").unwrap()
        };
        let file = thread::spawn(make).join().unwrap();
        let path = format!("/proc/{}/fd/{}", std::process::id(), file.as_raw_fd()).into();
        Self { file, path }
    }

    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        assert!(self.file.metadata().is_ok());
        Netns::open(&self.path).unwrap().run(work).unwrap()
    }

    pub fn netlink<T: Send>(&self, work: impl AsyncFnOnce(Netlink) -> Result<T, NetlinkError> + Send) -> T {
        self.run(|| {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async { work(Netlink::open().unwrap()).await.unwrap() })
        })
    }
}
