//! Network namespaces: opening, telling apart and working inside them.
//!
//! Invariant: no thread but those made here ever changes its namespace, so the
//! caller is never left in another one.

use std::{
    collections::HashSet,
    fs::{self, File, OpenOptions},
    io,
    os::{
        fd::{AsFd, AsRawFd, BorrowedFd},
        unix::fs::{MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    thread,
};

use nix::{
    sched::{CloneFlags, setns},
    sys::statfs::{NSFS_MAGIC, fstatfs},
};

/// An open network namespace; it lives at least as long as this.
#[derive(Debug)]
pub struct Netns {
    file: File,
    path: PathBuf,
}

/// What went wrong with a namespace.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// The path can't be opened.
    #[error("can't open the network namespace {}: {source}", path.display())]
    Open {
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The path is of something else.
    #[error("{} is not a network namespace", .0.display())]
    NotANetns(PathBuf),
    /// It can't be entered.
    #[error("can't enter the network namespace {}: {source}", path.display())]
    Enter {
        /// The path.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A thread for it can't be had, or died.
    #[error("can't run a thread in the network namespace {}: {reason}", path.display())]
    Thread {
        /// The path.
        path: PathBuf,
        /// Why.
        reason: String,
    },
    /// The kernel doesn't tell the namespace's cookie.
    #[error("can't read the network namespace's cookie (SO_NETNS_COOKIE, Linux 5.14): {0}")]
    Cookie(#[source] io::Error),
}

impl Netns {
    /// Opens a namespace by path, such as `/run/netns/x` or `/proc/1/ns/net`.
    pub fn open(path: &Path) -> Result<Self, NetnsError> {
        let open = OpenOptions::new().read(true).custom_flags(libc::O_NONBLOCK).open(path); // a FIFO would block
        let file = open.map_err(|source| NetnsError::Open { path: path.to_owned(), source })?;
        let is_nsfs = fstatfs(&file).is_ok_and(|fs| fs.filesystem_type() == NSFS_MAGIC);
        if !is_nsfs || namespace_type(&file) != Some(libc::CLONE_NEWNET) {
            return Err(NetnsError::NotANetns(path.to_owned()));
        }
        Ok(Self { file, path: path.to_owned() })
    }

    /// The calling thread's namespace.
    pub fn current() -> Result<Self, NetnsError> {
        Self::open(Path::new("/proc/thread-self/ns/net"))
    }

    /// Whether both are the same namespace.
    pub fn is_same(&self, other: &Self) -> bool {
        let identity = |file: &File| file.metadata().map(|m| (m.dev(), m.ino())).ok();
        identity(&self.file).is_some() && identity(&self.file) == identity(&other.file)
    }

    /// Runs `work` on a thread of its own inside the namespace and waits for it.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, NetnsError> {
        let failed = |reason: String| NetnsError::Thread { path: self.path.clone(), reason };
        thread::scope(|scope| {
            let enter = || setns(&self.file, CloneFlags::CLONE_NEWNET);
            let inside = move || enter().map(|()| work());
            let thread = thread::Builder::new()
                .name("netns".to_owned())
                .spawn_scoped(scope, inside)
                .map_err(|e| failed(e.to_string()))?;
            match thread.join() {
                Ok(Ok(result)) => Ok(result),
                Ok(Err(errno)) => Err(NetnsError::Enter { path: self.path.clone(), source: errno.into() }),
                Err(_) => Err(failed("it panicked".to_owned())),
            }
        })
    }

    /// The namespace's cookie: unique until the next boot, and what programs see.
    pub fn cookie(&self) -> Result<u64, NetnsError> {
        self.run(current_cookie)?
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

/// The cookie of the calling thread's network namespace.
pub fn current_cookie() -> Result<u64, NetnsError> {
    // Any socket knows its namespace's cookie; a Unix one needs nothing else.
    let socket = std::os::unix::net::UnixDatagram::unbound().map_err(NetnsError::Cookie)?;
    let mut cookie = 0u64;
    let mut length = size_of::<u64>() as libc::socklen_t;
    // SAFETY: the socket is open; `cookie` and `length` are writable and outlive
    // the call, and `length` says how large `cookie` is.
    let result = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result == 0 { Ok(cookie) } else { Err(NetnsError::Cookie(io::Error::last_os_error())) }
}

/// The namespace with this cookie, if it has a name in `/run/netns` or a process in it.
pub fn find(cookie: u64) -> Option<Netns> {
    let names = |dir: &str| fs::read_dir(dir).into_iter().flatten().flatten().map(|entry| entry.path());
    let processes = names("/proc").map(|process| process.join("ns/net"));
    let mut seen = HashSet::new();
    let mut candidates = names("/run/netns").chain(processes).filter_map(|path| Netns::open(&path).ok());
    candidates.find(|netns| {
        // Many processes share one.
        let is_new = netns.file.metadata().is_ok_and(|file| seen.insert(file.ino()));
        is_new && netns.cookie().is_ok_and(|found| found == cookie)
    })
}

/// Which kind of namespace a file on nsfs is.
fn namespace_type(file: &File) -> Option<i32> {
    // SAFETY: NS_GET_NSTYPE takes no argument and only reads.
    let kind = unsafe { libc::ioctl(file.as_raw_fd(), libc::NS_GET_NSTYPE) };
    (kind >= 0).then_some(kind)
}
