//! The eBPF programs: embedded at build time, loaded over the pinned tables.
//!
//! Invariant: a program that is loaded uses the tables in the directory that was
//! given, and no others. This module must not know where programs are attached.

use std::{
    collections::BTreeMap,
    fs,
    hash::{DefaultHasher, Hash, Hasher},
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Path, PathBuf},
};

use aya::{EbpfError, EbpfLoader, programs::ProgramError};
use datapath::abi::LAYOUT;
use tracing::debug;

use super::{
    bpffs::{Bpffs, BpffsError, remove_pins},
    map::{CheckedMap, MapError},
    socket_memory,
    sys::{self, TcxSide},
};

static OBJECT: &[u8] = aya::include_bytes_aligned!(env!("FAIRLEAD_EBPF_OBJECT"));

/// Why the programs can't be loaded.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// We may not load programs.
    #[error(
        "the kernel does not let this process load eBPF programs: run it as root, or with CAP_BPF, CAP_PERFMON, \
         CAP_NET_ADMIN and CAP_SYS_ADMIN"
    )]
    Permission,
    /// The object as a whole was refused.
    #[error("cannot load the eBPF object: {0}")]
    Object(#[source] Box<EbpfError>),
    /// A program was refused.
    #[error(
        "the kernel refuses eBPF program {name}: {}; this kernel is {kernel}, {NEEDED} is needed",
        summary(&source.to_string())
    )]
    Program {
        /// The program's name.
        name: &'static str,
        /// What the verifier said.
        source: Box<ProgramError>,
        /// `uname -r`.
        kernel: String,
    },
    /// The object was built from other sources than the agent.
    #[error("the embedded eBPF object has no program {0}; run `cargo xtask build`")]
    Missing(&'static str),
    /// The kernel can't attach to interfaces as we need it.
    #[error("this kernel ({0}) has no tcx; {NEEDED} built with CONFIG_NET_XGRESS is needed")]
    NoTcx(String),
    /// A pinned table is not what it should be.
    #[error(transparent)]
    Table(#[from] MapError),
    /// The kernel has no memory of sockets.
    #[error("cannot make the table {}: {source}; this kernel is {kernel}, {NEEDED} is needed", socket_memory::NAME)]
    SocketMemory {
        /// What it said.
        source: io::Error,
        /// `uname -r`.
        kernel: String,
    },
    /// They can't be kept for the next agent.
    #[error("cannot pin the eBPF programs in {dir}: {source}")]
    Pin {
        /// Where.
        dir: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// What an earlier agent pinned can't be removed.
    #[error(transparent)]
    Bpffs(#[from] BpffsError),
}

const NEEDED: &str = "Linux 6.6 or newer";

/// A system call that a program of ours stands in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[expect(missing_docs, reason = "the names are the kernel's names of the hooks")]
pub enum SocketHook {
    Connect4,
    Connect6,
    Sendmsg4,
    Sendmsg6,
    Recvmsg4,
    Recvmsg6,
    Getpeername4,
    Getpeername6,
    SockRelease,
}

impl SocketHook {
    /// Every one.
    pub const ALL: [Self; 9] = [
        Self::Connect4,
        Self::Connect6,
        Self::Sendmsg4,
        Self::Sendmsg6,
        Self::Recvmsg4,
        Self::Recvmsg6,
        Self::Getpeername4,
        Self::Getpeername6,
        Self::SockRelease,
    ];

    /// Its program's name in the object.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Connect4 => "connect4",
            Self::Connect6 => "connect6",
            Self::Sendmsg4 => "sendmsg4",
            Self::Sendmsg6 => "sendmsg6",
            Self::Recvmsg4 => "recvmsg4",
            Self::Recvmsg6 => "recvmsg6",
            Self::Getpeername4 => "getpeername4",
            Self::Getpeername6 => "getpeername6",
            Self::SockRelease => "sock_release",
        }
    }
}

/// Each program of the object.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Program {
    /// For a system call.
    Socket(SocketHook),
    /// What leaves a pod.
    FromPod,
    /// The same where its traffic is shaped by others.
    FromShapedPod,
    /// The same of a pod that some policy selects.
    FromJudgedPod,
    /// The same where both is so.
    FromJudgedShapedPod,
    /// The same while the pod is held.
    FromHeldPod,
    /// What enters a pod.
    ToPod,
    /// What enters a pod that another CNI plugin wired.
    ToForeignPod,
    /// The node's own packets for Services.
    FromHost,
    /// What the node sends to itself.
    FromHostLoopback,
    /// What comes in by an uplink.
    FromNetwork,
    /// The same, before the kernel makes a socket buffer of it.
    FromWire,
    /// The same where the driver can't run it.
    FromWireGeneric,
    /// What comes in by the overlay.
    FromOverlay,
    /// What leaves by an uplink.
    ToNetwork,
    /// What leaves by the overlay.
    ToOverlay,
    /// No packet's: it writes to pods' entries for us.
    ChangePod,
}

impl Program {
    /// The programs that are always needed.
    const INTERFACE: [Self; 14] = [
        Self::FromPod,
        Self::FromShapedPod,
        Self::FromJudgedPod,
        Self::FromJudgedShapedPod,
        Self::FromHeldPod,
        Self::ToPod,
        Self::ToForeignPod,
        Self::FromHost,
        Self::FromHostLoopback,
        Self::FromNetwork,
        Self::FromOverlay,
        Self::ToNetwork,
        Self::ToOverlay,
        Self::ChangePod,
    ];

    /// Its name in the object.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Socket(hook) => hook.name(),
            Self::FromPod => "from_pod",
            Self::FromShapedPod => "from_shaped_pod",
            Self::FromJudgedPod => "from_judged_pod",
            Self::FromJudgedShapedPod => "from_judged_shaped_pod",
            Self::FromHeldPod => "from_held_pod",
            Self::ToPod => "to_pod",
            Self::ToForeignPod => "to_foreign_pod",
            Self::FromHost => "from_host",
            Self::FromHostLoopback => "from_host_loopback",
            Self::FromNetwork => "from_network",
            Self::FromWire => "from_wire",
            Self::FromWireGeneric => "from_wire_generic",
            Self::FromOverlay => "from_overlay",
            Self::ToNetwork => "to_network",
            Self::ToOverlay => "to_overlay",
            Self::ChangePod => "change_pod",
        }
    }
}

/// Loaded programs.
#[derive(Debug)]
pub struct Programs {
    fds: BTreeMap<Program, OwnedFd>,
    dir: PathBuf,
}

impl Programs {
    /// The programs for interfaces, and `also` those (for sockets, for XDP), over the
    /// pinned tables; tables that aren't there are made.
    ///
    /// The verifier takes a second or more over them, in which no pod can be wired, so
    /// those that an agent of this very build has pinned over the same tables are used again.
    pub fn open(bpffs: &Bpffs, also: &[Program]) -> Result<Self, LoadError> {
        let wanted: Vec<_> = also.iter().copied().chain(Program::INTERFACE).collect();
        let maps = bpffs.maps();
        if let Ok(tag) = tag(&maps) {
            let dir = bpffs.programs(tag);
            let open = |program: &Program| sys::open_pin(&dir.join(program.name())).map(|fd| (*program, fd));
            if let Ok(fds) = wanted.iter().map(open).collect() {
                return Ok(Self { fds, dir });
            }
        }
        let fds = load(&maps, &wanted)?;
        probe_tcx(fds[&Program::FromPod].as_fd())?;
        let dir = bpffs.programs(tag(&maps)?);
        pin(&fds, &dir, &bpffs.unfinished_programs())?;
        Ok(Self { fds, dir })
    }

    /// Where they are pinned.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Whether the kernel has compiled them to machine code, as far as it says; else it interprets them.
    pub fn are_compiled(&self) -> io::Result<bool> {
        self.fds.values().next().map_or(Ok(true), |program| sys::is_compiled(program.as_fd()))
    }

    /// Whether a program is loaded.
    pub fn has(&self, program: Program) -> bool {
        self.fds.contains_key(&program)
    }

    /// A program's descriptor.
    ///
    /// # Panics
    /// If it is a socket hook's or for XDP, and wasn't asked for.
    pub fn fd(&self, program: Program) -> BorrowedFd<'_> {
        self.fds[&program].as_fd()
    }
}

/// Tells programs of this build over these tables from all others.
fn tag(maps: &Path) -> Result<u64, MapError> {
    let mut hash = DefaultHasher::new();
    OBJECT.hash(&mut hash);
    for layout in LAYOUT {
        CheckedMap::open(maps, layout.name)?.id().hash(&mut hash);
    }
    Ok(hash.finish())
}

fn load(maps: &Path, wanted: &[Program]) -> Result<BTreeMap<Program, OwnedFd>, LoadError> {
    for layout in LAYOUT {
        // aya takes whatever is pinned under the name.
        if maps.join(layout.name).exists() {
            CheckedMap::open(maps, layout.name)?;
        }
    }
    socket_memory::make(&maps.join(socket_memory::NAME)).map_err(|source| match source.raw_os_error() {
        Some(libc::EPERM) => LoadError::Permission,
        _ => LoadError::SocketMemory { source, kernel: kernel_release() },
    })?;
    let mut loader = EbpfLoader::new();
    // The object has no relocations against the kernel's types.
    loader.btf(None);
    for layout in LAYOUT {
        loader.map_pin_path(layout.name, maps.join(layout.name));
    }
    let mut object = loader.load(OBJECT).map_err(|error| match denied(&error) {
        true => LoadError::Permission,
        false => LoadError::Object(Box::new(error)),
    })?;
    let mut fds = BTreeMap::new();
    for name in wanted {
        let program = object.program_mut(name.name()).ok_or(LoadError::Missing(name.name()))?;
        fds.insert(*name, load_one(program).map_err(|source| refused(*name, source))?);
    }
    Ok(fds)
}

/// Pins all of them or none: an agent that dies halfway leaves nothing that the next one trusts.
fn pin(fds: &BTreeMap<Program, OwnedFd>, dir: &Path, unfinished: &Path) -> Result<(), LoadError> {
    for leftover in [dir, unfinished] {
        if leftover.exists() {
            remove_pins(leftover)?;
        }
    }
    let pinned = fs::create_dir(unfinished).and_then(|()| {
        fds.iter().try_for_each(|(program, fd)| sys::pin(fd.as_fd(), &unfinished.join(program.name())))?;
        fs::rename(unfinished, dir)
    });
    pinned.map_err(|source| LoadError::Pin { dir: dir.to_owned(), source })
}

/// An interface that can't be there is refused with ENODEV by a kernel that has tcx (6.6,
/// commit e420bed02507) and with EINVAL by others.
fn probe_tcx(program: BorrowedFd<'_>) -> Result<(), LoadError> {
    match sys::link_tcx(program, i32::MAX as u32, TcxSide::Ingress) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => Err(LoadError::NoTcx(kernel_release())),
        _ => Ok(()),
    }
}

fn load_one(program: &mut aya::programs::Program) -> Result<OwnedFd, ProgramError> {
    use aya::programs::Program as Aya;
    match program {
        Aya::SchedClassifier(program) => program.load()?,
        Aya::Xdp(program) => program.load()?,
        Aya::CgroupSockAddr(program) => program.load()?,
        Aya::CgroupSock(program) => program.load()?,
        _ => return Err(ProgramError::UnexpectedProgramType),
    }
    program.fd()?.as_fd().try_clone_to_owned().map_err(ProgramError::IOError)
}

fn refused(name: Program, source: ProgramError) -> LoadError {
    if denied(&source) {
        return LoadError::Permission;
    }
    debug!(program = name.name(), "{source}");
    LoadError::Program { name: name.name(), source: Box::new(source), kernel: kernel_release() }
}

/// The end of what the verifier said, in one line: the thousands before it say how it came there.
fn summary(text: &str) -> String {
    const LINES: usize = 3;
    let statistics = ["verification time", "stack depth", "processed"];
    let lines: Vec<_> = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let said = lines.iter().rposition(|line| statistics.iter().any(|begin| line.starts_with(begin)));
    let telling = |line: &&&str| !statistics.iter().any(|begin| line.starts_with(begin));
    let end: Vec<_> = lines[..said.unwrap_or(lines.len())].iter().rev().filter(telling).take(LINES).copied().collect();
    end.into_iter().rev().collect::<Vec<_>>().join("; ")
}

/// Whether the kernel said EPERM somewhere down the chain of causes.
fn denied(error: &(dyn std::error::Error + 'static)) -> bool {
    let causes = std::iter::successors(Some(error), |error| error.source());
    let mut io = causes.filter_map(|error| error.downcast_ref::<io::Error>());
    io.any(|error| error.raw_os_error() == Some(libc::EPERM))
}

/// Whether the kernel describes its types.
pub fn has_btf() -> bool {
    Path::new("/sys/kernel/btf/vmlinux").exists()
}

/// `uname -r`.
pub fn kernel_release() -> String {
    nix::sys::utsname::uname().map_or_else(|_| "unknown".into(), |name| name.release().to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_told_in_one_line() {
        let log = "the BPF_PROG_LOAD syscall failed. Verifier output: func#0 @0\n0: (bf) r6 = r1\n2401: (16) if w9 == 0x0\n\
                   2402: (05) goto pc+75\n2478: (67) r7 <<= 32\nR7 !read_ok\nverification time 173935 usec\n\
                   stack depth 104+88\nprocessed 30663 insns (limit 1000000)\n: Permission denied (os error 13)";
        assert_eq!(summary(log), "2402: (05) goto pc+75; 2478: (67) r7 <<= 32; R7 !read_ok");
        assert_eq!(summary("Invalid argument (os error 22)"), "Invalid argument (os error 22)");
        assert_eq!(summary(""), "");
    }
}
