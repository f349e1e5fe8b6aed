//! The kernel's half, brought up: pins, tables, programs, and what is attached where.
//!
//! Invariant: programs and tables that are in use stay so until what replaces
//! them is loaded and filled. This module must not know what the tables say.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    time::Duration,
};

use tracing::info;

use super::paths::Paths;
use crate::kernel::{
    bpffs::{Bpffs, BpffsError},
    cgroup::{Cgroup, CgroupError},
    connections::Connections,
    event_tables::EventTables,
    heritage::{Heritage, HeritageError},
    links::{Hook, LinkError, Links},
    map::MapError,
    node_tables::NodeTables,
    pod_tables::PodTables,
    policy_tables::PolicyTables,
    programs::{LoadError, Program, Programs, SocketHook},
    service_tables::{KernelServiceTables, ServiceTableError},
    table_stats::TableStats,
};

/// Why the kernel's half can't be brought up.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each says what its cause says")]
pub enum DataplaneError {
    #[error(transparent)]
    Bpffs(#[from] BpffsError),
    #[error(transparent)]
    Heritage(#[from] HeritageError),
    #[error(transparent)]
    Cgroup(#[from] CgroupError),
    #[error(transparent)]
    Load(#[from] LoadError),
    #[error(transparent)]
    Map(#[from] MapError),
    #[error(transparent)]
    Services(#[from] ServiceTableError),
}

/// Why programs could not take the places of another version's.
#[derive(Debug, thiserror::Error)]
#[expect(missing_docs, reason = "each says what its cause says")]
pub enum ChangeOverError {
    #[error(transparent)]
    Heritage(#[from] HeritageError),
    #[error(transparent)]
    Bpffs(#[from] BpffsError),
    #[error(transparent)]
    Link(#[from] LinkError),
}

/// For how long no connection begins at most while programs are replaced: what takes longer is broken off.
const HOLD: Duration = Duration::from_secs(1);

/// Loaded programs and their attachments.
#[derive(Debug)]
pub struct Dataplane {
    bpffs: Bpffs,
    programs: Programs,
    links: Links,
    socket_lb: bool,
    /// What other versions left that is still in use.
    heritage: Option<Heritage>,
}

/// Open tables.
pub struct Tables {
    /// Frontends, blocks and backends.
    pub services: KernelServiceTables,
    /// Local pods.
    pub pods: PodTables,
    /// Policies.
    pub policies: PolicyTables,
    /// The node.
    pub node: NodeTables,
    /// Counts over all of them.
    pub stats: TableStats,
    /// How many connections each backend has.
    pub connections: Connections,
    /// What the programs tell.
    pub events: EventTables,
}

impl Dataplane {
    /// Loads the programs, with `wire` for XDP, over the pinned tables, which are made
    /// where there are none, and hold then what another version's held. Attaches nothing.
    pub fn open(paths: &Paths, socket_lb: bool, wire: Option<Program>) -> Result<(Self, Tables), DataplaneError> {
        let cgroup = if socket_lb { Some(Cgroup::open(paths.cgroup.as_deref())?) } else { None };
        let bpffs = Bpffs::prepare(&paths.bpffs)?;
        let mut heritage = Heritage::claim(&bpffs)?;
        let maps = bpffs.maps();
        let sockets = SocketHook::ALL.into_iter().filter(|_| socket_lb).map(Program::Socket);
        let programs = Programs::open(&bpffs, &sockets.chain(wire).collect::<Vec<_>>())?;
        let links = Links::new(bpffs.links(), cgroup);
        if let Some(heritage) = &mut heritage {
            heritage.carry_all(&maps)?;
        }
        let tables = Tables {
            services: KernelServiceTables::open(&maps)?,
            pods: PodTables::open(&maps, programs.fd(Program::ChangePod))?,
            policies: PolicyTables::open(&maps)?,
            node: NodeTables::open(&maps)?,
            stats: TableStats::open(&maps)?,
            connections: Connections::open(&maps)?,
            events: EventTables::open(&maps)?,
        };
        Ok((Self { bpffs, programs, links, socket_lb, heritage }, tables))
    }

    /// The programs.
    pub fn programs(&self) -> &Programs {
        &self.programs
    }

    /// Where the tables are pinned.
    pub fn maps(&self) -> PathBuf {
        self.bpffs.maps()
    }

    /// Whether what is attached uses tables of another layout, so that programs
    /// may be replaced only once ours are filled.
    pub fn takes_over(&self) -> bool {
        self.heritage.is_some()
    }

    /// Puts our programs in the places of another version's, all within a moment, with nothing lost that
    /// was noted in its tables meanwhile. `wanted` are those for interfaces; ours are filled.
    ///
    /// Interrupted after any step, this version and the other each find what they need: what a directory of
    /// tables lacks, another still has.
    pub fn change_over(&mut self, wanted: &BTreeMap<Hook, Program>) -> Result<(), ChangeOverError> {
        let Some(mut heritage) = self.heritage.take() else { return Ok(self.bpffs.set_in_force()?) };
        heritage.hold(HOLD)?;
        let changed = self.change_places(&mut heritage, wanted);
        let released = heritage.hold(Duration::ZERO);
        self.heritage = Some(heritage);
        changed.and(released.map_err(Into::into))
    }

    fn change_places(&self, heritage: &mut Heritage, wanted: &BTreeMap<Hook, Program>) -> Result<(), ChangeOverError> {
        heritage.carry_news(false)?;
        self.bpffs.set_in_force()?;
        let mut result = Ok(());
        for hook in self.links.pinned()? {
            let program = match hook {
                Hook::Socket(socket) => Some(Program::Socket(socket)),
                Hook::DriverXdp(_) => Some(Program::FromWire),
                Hook::GenericXdp(_) => Some(Program::FromWireGeneric),
                Hook::Ingress(_) | Hook::Egress(_) => wanted.get(&hook).copied(),
            };
            // What isn't wanted is taken off afterwards.
            let Some(program) = program.filter(|program| self.programs.has(*program)) else { continue };
            match self.links.replace(hook, self.programs.fd(program)) {
                Err(error) if !error.is_gone() => result = Err(error.into()),
                _ => {}
            }
        }
        heritage.carry_news(true)?;
        result
    }

    /// Sees to it that a program is at a hook.
    pub fn attach(&self, hook: Hook, program: Program) -> Result<(), LinkError> {
        self.links.attach(hook, self.programs.fd(program))
    }

    /// Sees to it that programs are at the hooks of interfaces that come and go: of those
    /// that have gone the next look will know. `replace` those that are there already, as
    /// an earlier agent's.
    pub fn attach_present(
        &self,
        hooks: impl IntoIterator<Item = (Hook, Program)>,
        replace: bool,
    ) -> Result<(), LinkError> {
        for (hook, program) in hooks {
            if !replace && self.is_attached(hook) {
                continue;
            }
            match self.attach(hook, program) {
                Err(error) if error.is_gone() => {}
                result => result?,
            }
        }
        Ok(())
    }

    /// Takes whatever program of ours off a hook.
    pub fn detach(&self, hook: Hook) -> Result<(), LinkError> {
        self.links.detach(hook)
    }

    /// Attaches the socket hooks, or takes those of an earlier agent off if they're not wanted.
    pub fn attach_socket_hooks(&self) -> Result<(), LinkError> {
        for hook in SocketHook::ALL {
            match self.socket_lb {
                true => self.attach(Hook::Socket(hook), Program::Socket(hook))?,
                false => self.detach(Hook::Socket(hook))?,
            }
        }
        Ok(())
    }

    /// Hooks at which a program of ours really is.
    pub fn attached(&self) -> Result<Vec<Hook>, LinkError> {
        Ok(self.links.pinned()?.into_iter().filter(|hook| self.is_attached(*hook)).collect())
    }

    /// Whether a program of ours really is at the hook.
    pub fn is_attached(&self, hook: Hook) -> bool {
        self.links.is_attached(hook)
    }

    /// Takes our tc programs off every interface but these, and forgets those that are gone.
    pub fn prune_interfaces(&self, wanted: &BTreeSet<Hook>) -> Result<(), LinkError> {
        self.prune(|hook| !hook.is_tcx() || wanted.contains(&hook))
    }

    /// Takes our XDP program off every interface but these, and forgets those that are gone.
    pub fn prune_xdp(&self, wanted: &BTreeSet<Hook>) -> Result<(), LinkError> {
        self.prune(|hook| !hook.is_xdp() || wanted.contains(&hook))
    }

    fn prune(&self, keep: impl Fn(Hook) -> bool) -> Result<(), LinkError> {
        let pruned = self.links.prune(keep)?;
        for hook in pruned {
            info!(%hook, "nothing of ours is needed there any more");
        }
        Ok(())
    }

    /// Removes programs and tables of other versions, which nothing uses any more.
    pub fn remove_others(&mut self) -> Result<(), BpffsError> {
        for dir in self.bpffs.remove_others(self.programs.dir())? {
            info!(pins = %dir.display(), "removed what another version left");
        }
        self.heritage = None;
        Ok(())
    }
}
