//! Which backend serves a new connection.

use crate::{
    abi::{Addr, AffinityKey, AffinityValue, Backend, Be16, BlockRef, DropReason, FrontendValue},
    tables::Tables,
};

const NANOS_PER_SECOND: u64 = 1_000_000_000;

/// Where a client is, by which its traffic policy is chosen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// In the cluster: a pod or a node.
    Internal,
    /// Outside.
    External,
}

impl Scope {
    #[inline(always)]
    fn block(self, frontend: &FrontendValue) -> BlockRef {
        match self {
            Self::Internal => frontend.internal,
            Self::External => frontend.external,
        }
    }

    #[inline(always)]
    fn drops(self, frontend: &FrontendValue) -> bool {
        let bit = match self {
            Self::Internal => FrontendValue::DROP_INTERNAL,
            Self::External => FrontendValue::DROP_EXTERNAL,
        };
        frontend.flags & bit != 0
    }

    /// The flag of backends that a frontend may choose in this scope.
    #[inline(always)]
    const fn member_flag(self, frontend: &FrontendValue) -> u16 {
        let local = match self {
            Self::Internal => FrontendValue::INTERNAL_LOCAL,
            Self::External => FrontendValue::EXTERNAL_LOCAL,
        };
        if frontend.flags & local != 0 { Backend::IN_LOCAL } else { Backend::IN_CLUSTER }
    }
}

/// A backend as a flow remembers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Chosen {
    /// Its id.
    pub id: u32,
    /// The id's generation.
    pub generation: u32,
    /// Its address.
    pub addr: Addr,
    /// Its port.
    pub port: Be16,
}

/// Why a frontend serves nobody.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Tell the client at once.
    Reject,
    /// Say nothing.
    Drop(DropReason),
}

/// Chooses a backend for a new connection of `client` (its own address; `None`
/// where it can't be known, and then affinity is not kept).
///
/// # Errors
/// What to do with the client when there is no backend.
#[inline(never)]
pub fn select<T: Tables>(
    tables: &mut T,
    frontend: &FrontendValue,
    scope: Scope,
    client: Option<&Addr>,
) -> Result<Chosen, Refusal> {
    let block = scope.block(frontend);
    if block.len == 0 {
        return Err(if scope.drops(frontend) { Refusal::Drop(DropReason::NoLocalEndpoint) } else { Refusal::Reject });
    }
    let Some(client) = client.filter(|_| frontend.affinity_seconds != 0) else {
        return pick(tables, block);
    };
    let key = AffinityKey { client: *client, service: frontend.service };
    let now = tables.now();
    let chosen = match remembered(tables, frontend, scope, &key, now) {
        Some(chosen) => chosen,
        None => pick(tables, block)?,
    };
    let bound = AffinityValue { backend: chosen.id, generation: chosen.generation, last_used: now };
    tables.set_affinity(&key, &bound);
    Ok(chosen)
}

/// The backend that a client is bound to, if that still holds.
#[inline(always)]
fn remembered<T: Tables>(
    tables: &T,
    frontend: &FrontendValue,
    scope: Scope,
    key: &AffinityKey,
    now: u64,
) -> Option<Chosen> {
    let bound = *tables.affinity(key)?;
    let idle = now.saturating_sub(bound.last_used);
    if idle > u64::from(frontend.affinity_seconds) * NANOS_PER_SECOND {
        return None;
    }
    let backend = tables.backend(bound.backend)?;
    let holds = backend.generation == bound.generation
        && backend.service == frontend.service
        && backend.flags & scope.member_flag(frontend) != 0;
    holds.then_some(Chosen { id: bound.backend, generation: bound.generation, addr: backend.addr, port: backend.port })
}

/// A uniformly random backend of a block.
#[inline(always)]
fn pick<T: Tables>(tables: &mut T, block: BlockRef) -> Result<Chosen, Refusal> {
    let missing = Refusal::Drop(DropReason::BackendMissing);
    // The high half of the product: uniform to within len/2^32.
    let index = (u64::from(tables.random()) * u64::from(block.len)) >> 32;
    let id = tables.block_entry(block.base.wrapping_add(index as u32)).ok_or(missing)?;
    let backend = tables.backend(id).ok_or(missing)?;
    if backend.flags == 0 {
        return Err(missing);
    }
    Ok(Chosen { id, generation: backend.generation, addr: backend.addr, port: backend.port })
}
