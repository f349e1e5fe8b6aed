//! Attachments: each a link that is pinned, so that it outlives the agent.
//!
//! A restarted agent knows an attachment as its own by the pin's name, which
//! says the hook, and by the target that the kernel has for it: an interface's
//! index or a cgroup's id. Another target, or none, means that the pin is stale.
//!
//! Invariant: a program is put in another's place by updating the link; there is
//! no moment without one. This module must not know what the programs do.

use std::{
    fmt, fs, io,
    os::fd::{AsFd, BorrowedFd},
    path::{Path, PathBuf},
};

use aya_obj::generated::bpf_attach_type;

use super::{
    cgroup::Cgroup,
    programs::SocketHook,
    sys::{self, LinkTarget, TcxSide},
};

/// Why an attachment could not be made or removed.
#[derive(Debug, thiserror::Error)]
#[error("cannot {verb} {hook}: {source}")]
pub struct LinkError {
    verb: &'static str,
    hook: String,
    source: io::Error,
}

impl LinkError {
    /// The interface isn't there any more.
    pub fn is_gone(&self) -> bool {
        matches!(self.source.raw_os_error(), Some(libc::ENODEV | libc::ENOLINK))
    }
}

fn error(verb: &'static str, hook: impl fmt::Display) -> impl FnOnce(io::Error) -> LinkError {
    let hook = hook.to_string();
    move |source| LinkError { verb, hook, source }
}

/// A place where a program can be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Hook {
    /// A system call of the cgroup's processes.
    Socket(SocketHook),
    /// Packets that an interface receives.
    Ingress(u32),
    /// Packets that an interface sends.
    Egress(u32),
    /// Packets that an interface receives, in its driver.
    DriverXdp(u32),
    /// Packets that an interface receives, by XDP in the network stack.
    GenericXdp(u32),
}

/// The pin's name. Interfaces by index: bpffs takes no dots, which their names may have.
impl fmt::Display for Hook {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Socket(hook) => write!(f, "cgroup-{}", hook.name()),
            Self::Ingress(ifindex) => write!(f, "tcx-{ifindex}-ingress"),
            Self::Egress(ifindex) => write!(f, "tcx-{ifindex}-egress"),
            Self::DriverXdp(ifindex) => write!(f, "xdp-{ifindex}-native"),
            Self::GenericXdp(ifindex) => write!(f, "xdp-{ifindex}-generic"),
        }
    }
}

impl Hook {
    fn parse(pin: &str) -> Option<Self> {
        if let Some(name) = pin.strip_prefix("cgroup-") {
            return SocketHook::ALL.into_iter().find(|hook| hook.name() == name).map(Self::Socket);
        }
        let (kind, rest) = pin.split_once('-')?;
        let (ifindex, side) = rest.split_once('-')?;
        let ifindex = ifindex.parse().ok()?;
        match (kind, side) {
            ("tcx", "ingress") => Some(Self::Ingress(ifindex)),
            ("tcx", "egress") => Some(Self::Egress(ifindex)),
            ("xdp", "native") => Some(Self::DriverXdp(ifindex)),
            ("xdp", "generic") => Some(Self::GenericXdp(ifindex)),
            _ => None,
        }
    }

    /// The interface, if it is one's.
    pub fn ifindex(self) -> Option<u32> {
        match self {
            Self::Socket(_) => None,
            Self::Ingress(ifindex) | Self::Egress(ifindex) | Self::DriverXdp(ifindex) | Self::GenericXdp(ifindex) => {
                Some(ifindex)
            }
        }
    }

    /// Whether it is tc's.
    pub fn is_tcx(self) -> bool {
        matches!(self, Self::Ingress(_) | Self::Egress(_))
    }

    /// Whether it is XDP's.
    pub fn is_xdp(self) -> bool {
        matches!(self, Self::DriverXdp(_) | Self::GenericXdp(_))
    }

    /// The hook that must be empty for this one to be taken: an interface has XDP in one mode.
    fn rival(self) -> Option<Self> {
        match self {
            Self::DriverXdp(ifindex) => Some(Self::GenericXdp(ifindex)),
            Self::GenericXdp(ifindex) => Some(Self::DriverXdp(ifindex)),
            _ => None,
        }
    }

    fn target(self, cgroup: Option<&Cgroup>) -> Option<LinkTarget> {
        match self {
            Self::Socket(_) => cgroup.map(|cgroup| LinkTarget::Cgroup { id: cgroup.id() }),
            Self::Ingress(ifindex) | Self::Egress(ifindex) => Some(LinkTarget::Tcx { ifindex }),
            Self::DriverXdp(ifindex) | Self::GenericXdp(ifindex) => Some(LinkTarget::Xdp { ifindex }),
        }
    }
}

/// The attachments pinned in one directory.
#[derive(Debug)]
pub struct Links {
    dir: PathBuf,
    cgroup: Option<Cgroup>,
}

impl Links {
    /// Those pinned in `dir`; socket hooks are attached to `cgroup`.
    pub fn new(dir: PathBuf, cgroup: Option<Cgroup>) -> Self {
        Self { dir, cgroup }
    }

    /// Sees to it that `program` is at the hook, in the place of whatever program of ours was there.
    pub fn attach(&self, hook: Hook, program: BorrowedFd<'_>) -> Result<(), LinkError> {
        if self.replace(hook, program)? {
            return Ok(());
        }
        let pin = self.pin(hook);
        if let Ok(link) = sys::open_pin(&pin) {
            // A cgroup or interface that we no longer use; if it is still there our program must leave it.
            let _ = sys::link_detach(link.as_fd());
            fs::remove_file(&pin).map_err(error("remove the stale pin of", hook))?;
        }
        if let Some(rival) = hook.rival() {
            self.detach(rival)?;
        }
        let link = match hook {
            Hook::Socket(socket) => {
                let cgroup = self.cgroup.as_ref().ok_or_else(|| io::Error::from_raw_os_error(libc::ENOENT));
                cgroup.and_then(|cgroup| sys::link_cgroup(program, cgroup.fd(), attach_type(socket)))
            }
            Hook::Ingress(ifindex) => sys::link_tcx(program, ifindex, TcxSide::Ingress),
            Hook::Egress(ifindex) => sys::link_tcx(program, ifindex, TcxSide::Egress),
            Hook::DriverXdp(ifindex) => sys::link_xdp(program, ifindex, true),
            Hook::GenericXdp(ifindex) => sys::link_xdp(program, ifindex, false),
        };
        let link = link.map_err(error("attach to", hook))?;
        sys::pin(link.as_fd(), &pin).map_err(error("pin the link of", hook))
    }

    /// Puts `program` in the place of the one that is at the hook; false: no program of ours is there.
    pub fn replace(&self, hook: Hook, program: BorrowedFd<'_>) -> Result<bool, LinkError> {
        let Ok(link) = sys::open_pin(&self.pin(hook)) else { return Ok(false) };
        let target = sys::link_target(link.as_fd()).map_err(error("inspect", hook))?;
        if Some(target) != hook.target(self.cgroup.as_ref()) {
            return Ok(false);
        }
        sys::link_update(link.as_fd(), program).map_err(error("replace the program at", hook))?;
        Ok(true)
    }

    /// Takes our program off a hook; nothing happens if there is none.
    pub fn detach(&self, hook: Hook) -> Result<(), LinkError> {
        remove(&self.pin(hook)).map_err(error("detach from", hook))
    }

    /// Every hook that has a pin.
    pub fn pinned(&self) -> Result<Vec<Hook>, LinkError> {
        let listing = fs::read_dir(&self.dir).and_then(Iterator::collect::<Result<Vec<_>, _>>);
        let listing = listing.map_err(error("list", self.dir.display()))?;
        let mut hooks: Vec<_> = listing.iter().filter_map(|e| Hook::parse(e.file_name().to_str()?)).collect();
        hooks.sort_unstable();
        Ok(hooks)
    }

    /// Whether a program of ours really is at the hook.
    pub fn is_attached(&self, hook: Hook) -> bool {
        match sys::open_pin(&self.pin(hook)).and_then(|link| sys::link_target(link.as_fd())) {
            Ok(LinkTarget::Tcx { ifindex } | LinkTarget::Xdp { ifindex }) => ifindex != 0,
            Ok(LinkTarget::Cgroup { id }) => id != 0,
            _ => false,
        }
    }

    /// Detaches all but what is to be kept, among it pins whose interface is gone.
    pub fn prune(&self, keep: impl Fn(Hook) -> bool) -> Result<Vec<Hook>, LinkError> {
        let mut pruned = self.pinned()?;
        pruned.retain(|hook| !keep(*hook));
        for hook in &pruned {
            self.detach(*hook)?;
        }
        Ok(pruned)
    }

    fn pin(&self, hook: Hook) -> PathBuf {
        self.dir.join(hook.to_string())
    }
}

/// Detaches and unpins; whoever else holds the link's descriptor can't keep the program there.
fn remove(pin: &Path) -> io::Result<()> {
    match sys::open_pin(pin) {
        Ok(link) => {
            // Fails only if the target is gone, and then there is nothing to detach from.
            let _ = sys::link_detach(link.as_fd());
            fs::remove_file(pin)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
    }
}

fn attach_type(hook: SocketHook) -> bpf_attach_type {
    use bpf_attach_type::*;
    match hook {
        SocketHook::Connect4 => BPF_CGROUP_INET4_CONNECT,
        SocketHook::Connect6 => BPF_CGROUP_INET6_CONNECT,
        SocketHook::Sendmsg4 => BPF_CGROUP_UDP4_SENDMSG,
        SocketHook::Sendmsg6 => BPF_CGROUP_UDP6_SENDMSG,
        SocketHook::Recvmsg4 => BPF_CGROUP_UDP4_RECVMSG,
        SocketHook::Recvmsg6 => BPF_CGROUP_UDP6_RECVMSG,
        SocketHook::Getpeername4 => BPF_CGROUP_INET4_GETPEERNAME,
        SocketHook::Getpeername6 => BPF_CGROUP_INET6_GETPEERNAME,
        SocketHook::SockRelease => BPF_CGROUP_INET_SOCK_RELEASE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hook_is_known_by_its_pin() {
        let sockets = SocketHook::ALL.map(Hook::Socket);
        let interfaces = [Hook::Ingress(7), Hook::Egress(u32::MAX), Hook::DriverXdp(7), Hook::GenericXdp(7)];
        for hook in sockets.into_iter().chain(interfaces) {
            assert_eq!(Hook::parse(&hook.to_string()), Some(hook));
        }
        for foreign in [
            "",
            "cgroup-",
            "cgroup-from_pod",
            "tcx-",
            "tcx-7",
            "tcx-x-ingress",
            "tcx-7-both",
            "xdp-7-ingress",
            "tcx-7-native",
        ] {
            assert_eq!(Hook::parse(foreign), None, "{foreign}");
        }
    }
}
